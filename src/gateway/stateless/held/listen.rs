//! `subscriptions/listen` at a server of sessions: a session of its own for each, whose main stream says what changes.

use std::rc::Rc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::begun;
use crate::{
    gateway::{
        inner::{Failed, Kind, Lent, Reading, Said as Heard, Use, pool},
        shared::Gateway,
        stateless::asked::{Asked, NotServed, Outcome},
    },
    protocol::{
        jsonrpc::{self, Head},
        mcp,
        modern::{ACKNOWLEDGED, META_SUBSCRIPTION, meta::with_meta, refusal::Refusal},
    },
};

const UPDATED: &str = "notifications/resources/updated";

/// What a client asks to hear of.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    resource_subscriptions: Vec<String>,
}

impl Filter {
    /// Of these, what a server can say that has told this of itself (result of `initialize`, JSON text).
    fn of_server(mut self, told: &str) -> Self {
        let told: Value = serde_json::from_str(told).unwrap_or_default();
        let says = |list: &str, what: &str| told["capabilities"][list][what] == true;
        self.tools_list_changed &= says("tools", "listChanged");
        self.prompts_list_changed &= says("prompts", "listChanged");
        self.resources_list_changed &= says("resources", "listChanged");
        if !says("resources", "subscribe") {
            self.resource_subscriptions.clear();
        }
        self
    }

    /// The client asked for this notification.
    fn wants(&self, method: &str) -> bool {
        match method {
            "notifications/tools/list_changed" => self.tools_list_changed,
            "notifications/prompts/list_changed" => self.prompts_list_changed,
            "notifications/resources/list_changed" => self.resources_list_changed,
            // Nothing else is subscribed to in this session; of what is within a resource its server may tell under a longer name.
            UPDATED => !self.resource_subscriptions.is_empty(),
            _ => false,
        }
    }

    fn said(&self) -> Value {
        let mut said = Map::new();
        for (name, is_asked) in [
            ("toolsListChanged", self.tools_list_changed),
            ("promptsListChanged", self.prompts_list_changed),
            ("resourcesListChanged", self.resources_list_changed),
        ] {
            if is_asked {
                said.insert(name.to_owned(), true.into());
            }
        }
        if !self.resource_subscriptions.is_empty() {
            said.insert("resourceSubscriptions".to_owned(), json!(self.resource_subscriptions));
        }
        said.into()
    }
}

/// The session of a stream of changes, which is nobody else's. Dropped, it ends, also when its client leaves before it is told
/// anything.
struct Own(Lent);

impl Own {
    fn of(lent: Lent) -> Self {
        lent.apart();
        Self(lent)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A stream of changes.
struct Listening {
    /// `None`: it is over.
    own: Option<Own>,
    reading: Reading,
    filter: Filter,
    /// Of the request, JSON text.
    id: String,
}

/// The stream.
pub(super) async fn answer(gateway: &Rc<Gateway>, asked: &Asked<'_>) -> Result<Outcome, NotServed> {
    let wanted = asked.said.notifications.map(|wanted| wanted.get()).unwrap_or("{}");
    let filter: Filter = serde_json::from_str(wanted).map_err(|_| Refusal::Params("notifications cannot be read"))?;
    if !asked.takes_events {
        return Err(Refusal::Params("a stream of changes is for a client that takes text/event-stream").into());
    }
    let kind = Kind::new(&asked.service.name, asked.by, "{}".to_owned(), None, Use::Listening);
    let begun = async |filter: Filter| -> Result<Listening, Failed> {
        let own = Own::of(pool::lend(gateway, asked.service, asked.by, &kind).await?);
        let mut filter = filter.of_server(&own.0.told);
        let reading = own.0.inner.read_main().await?;
        let mut subscribed = Vec::new();
        for uri in std::mem::take(&mut filter.resource_subscriptions) {
            let params = json!({ "uri": uri }).to_string();
            let answer = own.0.inner.answer(mcp::SUBSCRIBE, &params).await?;
            // What it does not take is not promised.
            if Head::parse(&answer).is_ok_and(|head| head.result.is_some()) {
                subscribed.push(uri);
            }
        }
        filter.resource_subscriptions = subscribed;
        Ok(Listening { own: Some(own), reading, filter, id: asked.id.as_json().to_owned() })
    };
    let listening = match begun(filter).await {
        Ok(listening) => listening,
        Err(error) => {
            let caller = begun::caller(asked);
            return begun::not_begun(&caller, error);
        }
    };
    let first = listening.acknowledged();
    let rest = stream::unfold(listening, |listening| listening.next());
    Ok(Outcome::Stream(stream::once(async move { first }).chain(rest).map(Ok).boxed_local()))
}

impl Listening {
    fn meta(&self) -> String {
        format!(r#""_meta":{{"{META_SUBSCRIPTION}":{}}}"#, self.id)
    }

    fn acknowledged(&self) -> Bytes {
        let (meta, said) = (self.meta(), self.filter.said());
        let params = format!(r#"{{{meta},"notifications":{said}}}"#);
        format!(r#"{{"jsonrpc":"2.0","method":"{ACKNOWLEDGED}","params":{params}}}"#).into()
    }

    /// The next message; the last one is the response.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        self.own.as_ref()?;
        loop {
            match self.reading.next().await {
                Ok(Heard::Notification { method, body }) if self.filter.wants(&method) => {
                    let id = self.id.as_str();
                    if let Some(told) = with_meta(&body, |_| true, &[(META_SUBSCRIPTION, id)]) {
                        return Some((told, self));
                    }
                }
                Ok(Heard::Question { id, method, .. }) => {
                    if let Some(Own(lent)) = &self.own {
                        // The server waits until it gives up.
                        let _ = lent.inner.refuse(&id, &method).await;
                    }
                }
                Ok(Heard::Notification { .. } | Heard::Answer { .. } | Heard::Beat) => {}
                // What has changed since nobody knows: the client listens again, and fetches anew what it needs.
                Err(_) => {
                    let result = format!(r#"{{"resultType":"complete",{}}}"#, self.meta());
                    let response = jsonrpc::result_response(&self.id, &result);
                    self.own = None;
                    return Some((response, self));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Filter {
        serde_json::from_str(text).unwrap()
    }

    const ALL: &str = r#"{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":false,"resourceSubscriptions":["a:1"],"taskIds":["t"]}"#;

    #[test]
    fn a_client_is_promised_what_its_server_can_tell() {
        let told = r#"{"capabilities":{"tools":{"listChanged":true},"prompts":{},"resources":{"subscribe":true}}}"#;
        let honoured = filter(ALL).of_server(told);
        assert_eq!(honoured.said(), json!({ "toolsListChanged": true, "resourceSubscriptions": ["a:1"] }));
        assert_eq!(filter(ALL).of_server("{}").said(), json!({}));
    }

    #[test]
    fn a_client_hears_of_what_it_has_asked_for_and_of_nothing_else() {
        let asked = filter(ALL);
        for (method, expected) in [
            ("notifications/tools/list_changed", true),
            ("notifications/resources/list_changed", false),
            ("notifications/message", false),
            (UPDATED, true),
        ] {
            assert_eq!(asked.wants(method), expected, "{method}");
        }
        assert!(!Filter::default().wants(UPDATED));
    }
}
