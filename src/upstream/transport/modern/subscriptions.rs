//! What a client wants to hear of: the lists that its server says may change, and the resources that it has subscribed to. Pure
//! but for the waiting.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::handshake::Offers;
use crate::{
    protocol::{
        by_name::{ByName, by_name},
        jsonrpc, modern,
    },
    upstream::notice::LinkEvent,
};

/// What the client wants to hear of.
#[derive(Debug)]
pub(super) struct Subscriptions {
    offers: Cell<Offers>,
    uris: RefCell<BTreeSet<String>>,
    /// Raised with each change of them.
    pub(super) wanted: watch::Sender<u64>,
    /// What the server has acknowledged last. `None`: nobody asks it.
    pub(super) heard: watch::Sender<Option<Heard>>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    /// Which state of what is wanted.
    pub(super) wanted: u64,
    pub(super) uris: BTreeSet<String>,
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self {
            offers: Cell::default(),
            uris: RefCell::default(),
            wanted: watch::Sender::new(0),
            heard: watch::Sender::new(None),
        }
    }
}

impl Subscriptions {
    pub(super) fn offers(&self, offers: Offers) {
        self.offers.set(offers);
    }

    /// Waits until the server has acknowledged it, if it is asked already: what changes from then on is told.
    ///
    /// # Errors
    /// An error object (JSON text).
    pub(super) async fn subscribe(&self, uri: Option<String>, patience: Duration) -> Result<(), String> {
        let Some(uri) = uri else {
            return Err(
                json!({ "code": modern::refusal::INVALID_PARAMS, "message": "no uri of a resource" }).to_string()
            );
        };
        if !self.uris.borrow_mut().insert(uri.clone()) {
            return Ok(());
        }
        self.wanted.send_modify(|wanted| *wanted += 1);
        let wanted = *self.wanted.borrow();
        let mut heard = self.heard.subscribe();
        let acknowledged = heard.wait_for(|heard| heard.as_ref().is_none_or(|heard| heard.wanted >= wanted));
        let is_heard = match tokio::time::timeout(patience, acknowledged).await {
            // Nobody asks yet: whoever does asks for this, too.
            Ok(Ok(heard)) => heard.as_ref().is_none_or(|heard| heard.uris.contains(&uri)),
            Ok(Err(_)) | Err(_) => false,
        };
        if is_heard {
            return Ok(());
        }
        self.unsubscribe(Some(&uri));
        let why = "the server does not tell of changes of this resource";
        Err(json!({ "code": jsonrpc::METHOD_NOT_FOUND, "message": why, "data": { "uri": uri } }).to_string())
    }

    pub(super) fn unsubscribe(&self, uri: Option<&str>) {
        if uri.is_some_and(|uri| self.uris.borrow_mut().remove(uri)) {
            self.wanted.send_modify(|wanted| *wanted += 1);
        }
    }

    /// As a server is asked for it; `None`: there is nothing to hear of.
    pub(super) fn filter(&self) -> Option<Value> {
        let Offers { tools, prompts, resources } = self.offers.get();
        let mut filter = json!({});
        for (name, is_offered) in
            [("toolsListChanged", tools), ("promptsListChanged", prompts), ("resourcesListChanged", resources)]
        {
            if is_offered {
                filter[name] = Value::Bool(true);
            }
        }
        let uris = self.uris.borrow();
        if !uris.is_empty() {
            filter["resourceSubscriptions"] = uris.iter().map(String::as_str).collect();
        }
        filter.as_object().is_some_and(|filter| !filter.is_empty()).then_some(filter)
    }

    /// What may have been missed while nobody listened.
    pub(super) fn missed(&self) -> Vec<LinkEvent> {
        let Offers { tools, prompts, resources } = self.offers.get();
        let lists = [("tools", tools), ("prompts", prompts), ("resources", resources)];
        let lists = lists.into_iter().filter(|(_, is_offered)| *is_offered);
        let lists =
            lists.map(|(list, _)| json!({ "jsonrpc": "2.0", "method": format!("notifications/{list}/list_changed") }));
        let uris = self.uris.borrow();
        let updated = uris.iter().map(
            |uri| json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": { "uri": uri } }),
        );
        lists.chain(updated).map(|note| LinkEvent::Message(note.to_string().into())).collect()
    }
}

/// The resources of which an acknowledgement says that they are told of.
pub(super) fn honoured(params: &str) -> BTreeSet<String> {
    #[derive(Deserialize)]
    struct Acknowledged {
        notifications: ByName<Honoured>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Honoured {
        #[serde(default)]
        resource_subscriptions: BTreeSet<String>,
    }
    by_name::<Acknowledged>(params).map(|said| said.notifications.0.resource_subscriptions).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_what_is_offered_and_subscribed() {
        let subscriptions = Subscriptions::default();
        assert_eq!(subscriptions.filter(), None);
        subscriptions.offers(Offers { tools: true, ..Offers::default() });
        subscriptions.uris.borrow_mut().insert("a:b".to_owned());
        assert_eq!(subscriptions.filter(), Some(json!({ "toolsListChanged": true, "resourceSubscriptions": ["a:b"] })));
        assert_eq!(subscriptions.missed().len(), 2);
        assert_eq!(honoured(r#"{"notifications":{"resourceSubscriptions":["a:b"]}}"#), ["a:b".to_owned()].into());
        assert!(honoured(r#"{"notifications":{}}"#).is_empty() && honoured("{}").is_empty());
    }

    #[tokio::test]
    async fn a_subscription_waits_for_the_server_only_where_that_is_asked() {
        let subscriptions = Subscriptions::default();
        let subscribe = |uri: &str| subscriptions.subscribe(Some(uri.to_owned()), Duration::from_millis(1));
        assert_eq!(subscribe("a").await, Ok(()), "nobody asks yet");
        let heard =
            |wanted, uris: &[&str]| Some(Heard { wanted, uris: uris.iter().map(|uri| (*uri).to_owned()).collect() });
        subscriptions.heard.send_replace(heard(1, &["a"]));
        assert!(subscribe("b").await.is_err(), "no word of the server in time");
        subscriptions.heard.send_replace(heard(u64::MAX, &[]));
        assert!(subscribe("c").await.unwrap_err().contains("-32601"), "it has no such streams");
        assert_eq!(subscribe("a").await, Ok(()), "again");
        assert!(subscriptions.subscribe(None, Duration::ZERO).await.is_err());
    }
}
