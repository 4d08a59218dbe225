//! `subscriptions/listen`: a stream of changes that lasts as long as its client wants it. When its server breaks it, another
//! one is asked in its place, and what may have been missed in between counts as changed. An instance that goes down ends it with
//! its response, by which its client knows that nothing is wrong.

use std::{rc::Rc, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    asked::{NotServed, Outcome},
    passing::Passing,
    told::{Reading, Told},
};
use crate::{
    backoff::Backoff,
    gateway::{call::NotAnswered, shared::Gateway},
    lifecycle::Phase,
    protocol::{
        by_name::{ByName, by_name},
        jsonrpc::{self, Head},
        modern::{ACKNOWLEDGED, META_SUBSCRIPTION, result},
    },
    upstream::{Endpoint, actor::CallError},
};

/// See the module's text.
pub(super) async fn answer(passing: Passing) -> Result<Outcome, NotServed> {
    match open(&passing).await? {
        Opened::Refused { status, body } => Ok(Outcome::Whole { status, body }),
        Opened::Stream { endpoint, reading, acknowledged } => {
            let honoured = Honoured::of(&acknowledged);
            let listening = Listening { passing, endpoint, reading, honoured, waiting: vec![acknowledged] };
            let messages = stream::unfold(Some(listening), |listening| async move {
                let mut listening = listening?;
                match listening.next().await {
                    Ok((body, false)) => Some((Ok(body), Some(listening))),
                    Ok((response, true)) => Some((Ok(response), None)),
                    Err(error) => Some((Err(error), None)),
                }
            });
            Ok(Outcome::Stream(messages.boxed_local()))
        }
    }
}

enum Opened {
    /// It is answered already.
    Refused { status: u16, body: Bytes },
    /// With its first message.
    Stream { endpoint: Arc<Endpoint>, reading: Box<Reading>, acknowledged: Bytes },
}

async fn open(passing: &Passing) -> Result<Opened, NotServed> {
    let limit = passing.settings().request_timeout;
    let until = tokio::time::Instant::now() + limit;
    let (endpoint, mut reading, status) = passing.ask(until, limit).await?;
    let first = tokio::time::timeout_at(until, reading.next()).await.unwrap_or(Err(CallError::TimedOut(limit)));
    match first.map_err(NotAnswered::Upstream)? {
        Told::Notification(first) => {
            // Nothing else may come first.
            let acknowledged = passing.listened(first).ok_or(NotAnswered::Upstream(CallError::Nonsense))?;
            Ok(Opened::Stream { endpoint, reading: Box::new(reading), acknowledged })
        }
        Told::Response { body, success } => {
            passing.counted.answered(success);
            Ok(Opened::Refused { status, body })
        }
        Told::Nameless(error) => {
            passing.is_of_another_era(&endpoint, status).await?;
            Ok(Opened::Refused { status, body: passing.failed(&error) })
        }
    }
}

struct Listening {
    passing: Passing,
    endpoint: Arc<Endpoint>,
    reading: Box<Reading>,
    honoured: Honoured,
    /// To be told first, the last one first.
    waiting: Vec<Bytes>,
}

impl Listening {
    /// The next message, and whether it is the response.
    async fn next(&mut self) -> Result<(Bytes, bool), NotServed> {
        let gateway = Rc::clone(&self.passing.gateway);
        loop {
            if let Some(waiting) = self.waiting.pop() {
                return Ok((waiting, false));
            }
            let told = tokio::select! {
                biased;
                () = goes_down(&gateway) => return Ok((self.over(), true)),
                told = self.reading.next_of(&self.endpoint) => told,
            };
            match told {
                Ok(Told::Notification(body)) => {
                    self.passing.heard(&body);
                    if let Some(body) = self.passing.listened(body) {
                        return Ok((body, false));
                    }
                }
                Ok(Told::Response { body, success }) => {
                    self.passing.counted.answered(success);
                    return Ok((body, true));
                }
                Ok(Told::Nameless(error)) => return Ok((self.passing.failed(&error), true)),
                Err(error) => {
                    tracing::debug!(service = self.passing.service.name, endpoint = %self.endpoint.url, %error, "a stream of changes broke");
                    tokio::select! {
                        biased;
                        () = goes_down(&gateway) => return Ok((self.over(), true)),
                        again = self.again(error) => again?,
                    }
                }
            }
        }
    }

    /// Another server in the place of the one that is lost, for as long as that is worth while.
    async fn again(&mut self, lost: CallError) -> Result<(), NotServed> {
        let settings = self.passing.settings();
        let (min, max) = (settings.backoff_min, settings.backoff_max);
        let until = Instant::now() + self.passing.gateway.env.settings.stateless.listen_patience;
        let mut pauses = Backoff::new(min, max);
        while Instant::now() < until {
            if let Ok(Opened::Stream { endpoint, reading, acknowledged }) = open(&self.passing).await {
                (self.endpoint, self.reading) = (endpoint, reading);
                let id = self.passing.id.as_json();
                self.waiting = self.honoured.with(&Honoured::of(&acknowledged)).changes(id);
                // Nobody has heard it here either.
                self.waiting.iter().for_each(|change| self.passing.heard(change));
                return Ok(());
            }
            tokio::time::sleep(pauses.pause()).await;
        }
        Err(self.passing.lost(NotAnswered::Upstream(lost)))
    }

    fn over(&self) -> Bytes {
        self.passing.counted.answered(true);
        let id = self.passing.id.as_json();
        let result = format!(r#"{{"resultType":"{}","_meta":{{"{META_SUBSCRIPTION}":{id}}}}}"#, result::COMPLETE);
        jsonrpc::result_response(id, &result)
    }
}

/// This instance goes down.
async fn goes_down(gateway: &Gateway) {
    // Its sender lives as long as the process.
    let _ = gateway.cluster.lifecycle.subscribe().wait_for(|phase| *phase >= Phase::Draining).await;
}

/// What a server has agreed to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Honoured {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    resource_subscriptions: Vec<String>,
}

impl Honoured {
    fn of(acknowledged: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Params {
            #[serde(default)]
            notifications: Option<ByName<Honoured>>,
        }
        let head = Head::parse(acknowledged).ok().filter(|head| head.method() == Some(ACKNOWLEDGED));
        let params = head.and_then(|head| by_name::<Params>(head.params?.get()));
        params.and_then(|params| params.notifications).map(|ByName(honoured)| honoured).unwrap_or_default()
    }

    /// What both have agreed to.
    fn with(&self, other: &Self) -> Self {
        let both = |uri: &&String| other.resource_subscriptions.contains(uri);
        Self {
            tools_list_changed: self.tools_list_changed && other.tools_list_changed,
            prompts_list_changed: self.prompts_list_changed && other.prompts_list_changed,
            resources_list_changed: self.resources_list_changed && other.resources_list_changed,
            resource_subscriptions: self.resource_subscriptions.iter().filter(both).cloned().collect(),
        }
    }

    /// All of it has changed, on the stream of the request of this id.
    fn changes(&self, id: &str) -> Vec<Bytes> {
        let change = |method: &str, uri: Option<&String>| {
            let uri = uri.map(|uri| format!(r#","uri":{}"#, Value::from(uri.as_str()))).unwrap_or_default();
            let params = format!(r#"{{"_meta":{{"{META_SUBSCRIPTION}":{id}}}{uri}}}"#);
            Bytes::from(format!(r#"{{"jsonrpc":"2.0","method":{},"params":{params}}}"#, json!(method)))
        };
        let lists = [
            (self.tools_list_changed, "notifications/tools/list_changed"),
            (self.prompts_list_changed, "notifications/prompts/list_changed"),
            (self.resources_list_changed, "notifications/resources/list_changed"),
        ];
        let lists = lists.into_iter().filter(|(is, _)| *is).map(|(_, method)| change(method, None));
        let updated = |uri| change("notifications/resources/updated", Some(uri));
        lists.chain(self.resource_subscriptions.iter().map(updated)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_missed_counts_as_changed_and_nothing_that_was_not_agreed_to() {
        let acknowledged = br#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourceSubscriptions":["a:\"","b:"]}}}"#;
        let honoured = Honoured::of(acknowledged);
        let less =
            Honoured { prompts_list_changed: false, resource_subscriptions: vec!["a:\"".into()], ..honoured.clone() };
        let changes = honoured.with(&less).changes("7");
        let told: Vec<Value> = changes.iter().map(|change| serde_json::from_slice(change).unwrap()).collect();
        let meta = json!({ META_SUBSCRIPTION: 7 });
        assert_eq!(
            told,
            [
                json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": { "_meta": meta } }),
                json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": { "_meta": meta, "uri": "a:\"" } }),
            ]
        );
        assert_eq!(Honoured::of(br#"{"jsonrpc":"2.0","method":"notifications/progress"}"#), Honoured::default());
    }
}
