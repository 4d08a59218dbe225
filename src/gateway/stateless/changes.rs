//! The router's own streams of changes: a server of which results are kept is listened to, so that they are let go when it says that
//! they have changed, also if no client listens. One for each endpoint and process, for as long as something of its service is
//! kept.

use std::{pin::pin, rc::Rc, sync::Arc, time::Instant};

use bytes::Bytes;
use serde_json::json;
use tokio::time::timeout;

use super::{
    cache::staled,
    told::{Reading, Told},
};
use crate::{
    backoff::Backoff,
    gateway::shared::Gateway,
    lifecycle::Phase,
    protocol::{
        jsonrpc::{Head, IdKey},
        modern::{self, ACKNOWLEDGED, META_CAPABILITIES, META_CLIENT, META_VERSION},
    },
    upstream::{Endpoint, Service, choice::Era, credential::Who, notice::LinkLimits, question::Question},
};

/// Id of the router's own request: JSON text.
const OWN_ID: &str = "\"mcp-router-changes\"";

/// A result of this endpoint is kept: listens to it from now on, unless that is done already.
pub(super) fn listen(gateway: &Rc<Gateway>, service: &Arc<Service>, endpoint: &Arc<Endpoint>) {
    if gateway.env.settings.stateless.listen_again.is_zero() {
        return;
    }
    let Some(held) = Held::take(gateway, endpoint.number) else { return };
    let (service, endpoint) = (Arc::clone(service), Arc::clone(endpoint));
    let gateway = Rc::clone(gateway);
    actix_rt::spawn(async move {
        let mut phase = gateway.cluster.lifecycle.subscribe();
        tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase >= Phase::Draining) => {}
            () = keep(&held, &service, &endpoint) => {}
            () = endpoint.gone() => {}
        }
    });
}

/// This endpoint is listened to by one thread of the process.
struct Held {
    gateway: Rc<Gateway>,
    endpoint: usize,
}

impl Held {
    fn take(gateway: &Rc<Gateway>, endpoint: usize) -> Option<Self> {
        let is_free = gateway.shared.stateless.listened_to().insert(endpoint);
        is_free.then(|| Self { gateway: Rc::clone(gateway), endpoint })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gateway.shared.stateless.listened_to().remove(&self.endpoint);
    }
}

/// Why a stream has ended.
enum Ended {
    /// The server has none.
    Refused,
    /// It broke, or was not to be had.
    Broken,
    /// Nothing is kept any more.
    Idle,
}

async fn keep(held: &Held, service: &Arc<Service>, endpoint: &Arc<Endpoint>) {
    let gateway = &held.gateway;
    let (settings, again) = (&gateway.env.settings.upstream, gateway.env.settings.stateless.listen_again);
    let mut pauses = Backoff::new(settings.backoff_min.min(again), again);
    let mut has_lost = false;
    loop {
        let begun = Instant::now();
        match stream(gateway, service, endpoint, &mut has_lost).await {
            Ended::Idle => return,
            Ended::Refused => tokio::time::sleep(again).await,
            Ended::Broken => {
                has_lost = true;
                if begun.elapsed() >= again {
                    pauses.reset();
                }
                tokio::time::sleep(pauses.pause()).await;
            }
        }
        if !gateway.shared.stateless.cache.has_any_of(&service.name, Instant::now()) {
            return;
        }
    }
}

/// One stream, to its end. `has_lost`: there was one before, after which nobody has told what has changed.
async fn stream(gateway: &Rc<Gateway>, service: &Arc<Service>, endpoint: &Arc<Endpoint>, has_lost: &mut bool) -> Ended {
    if gateway.member.lines.era(endpoint).await != Some(Era::Modern) {
        return Ended::Broken;
    }
    let body = request();
    let asked = Question { method: modern::LISTEN, name: None, params: &[], body: &body, place: None };
    let Ok(replied) = gateway.member.lines.ask(endpoint, Who::Itself, asked).await else { return Ended::Broken };
    let limits = LinkLimits::from(&gateway.env.settings.upstream);
    let dropped = gateway.env.metrics.dropped.clone();
    let mut reading = Reading::new(replied.reply, limits, IdKey::from_stored(OWN_ID), dropped);
    let patience = gateway.env.settings.upstream.request_timeout;
    match timeout(patience, reading.next()).await {
        Ok(Ok(Told::Notification(first))) if says(&first, ACKNOWLEDGED) => {}
        Ok(Ok(Told::Response { .. } | Told::Nameless(_))) => return Ended::Refused,
        Ok(Ok(Told::Notification(_)) | Err(_)) | Err(_) => return Ended::Broken,
    }
    if std::mem::take(has_lost) {
        forget_lists(gateway, service);
    }
    let again = gateway.env.settings.stateless.listen_again;
    loop {
        let mut next = pin!(reading.next());
        let told = loop {
            match timeout(again, &mut next).await {
                Ok(told) => break told,
                Err(_) if gateway.shared.stateless.cache.has_any_of(&service.name, Instant::now()) => {}
                Err(_) => return Ended::Idle,
            }
        };
        match told {
            Ok(Told::Notification(said)) => heard(gateway, service, &said),
            Ok(Told::Response { .. } | Told::Nameless(_)) | Err(_) => return Ended::Broken,
        }
    }
}

fn says(message: &[u8], method: &str) -> bool {
    Head::parse(message).is_ok_and(|head| head.method() == Some(method))
}

fn request() -> Bytes {
    let meta = json!({
        META_VERSION: modern::VERSION,
        META_CAPABILITIES: {},
        META_CLIENT: { "name": "mcp-router", "version": env!("CARGO_PKG_VERSION") },
    });
    let wanted = r#"{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}"#;
    let params = format!(r#"{{"notifications":{wanted},"_meta":{meta}}}"#);
    format!(r#"{{"jsonrpc":"2.0","id":{OWN_ID},"method":"{}","params":{params}}}"#, modern::LISTEN).into()
}

/// A server of this service has said this.
pub(super) fn heard(gateway: &Gateway, service: &Service, notification: &[u8]) {
    let Ok(head) = Head::parse(notification) else { return };
    forget(gateway, service, head.method().unwrap_or_default());
}

fn forget_lists(gateway: &Gateway, service: &Service) {
    for list in ["tools", "prompts", "resources"] {
        forget(gateway, service, &format!("notifications/{list}/list_changed"));
    }
}

fn forget(gateway: &Gateway, service: &Service, said: &str) {
    if said == "notifications/tools/list_changed" {
        service.tools.forget();
    }
    let (cache, stale) = (&gateway.shared.stateless.cache, staled(said));
    if cache.is_on() && !stale.is_empty() {
        let gone = cache.forget(|key| key.service == service.name && stale.contains(&key.method.as_str()));
        gateway.env.metrics.stateless_cache.with_label_values(&["stale"]).inc_by(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routers_own_request_says_all_that_a_request_says() {
        let body = request();
        let head = Head::parse(&body).unwrap();
        assert_eq!((head.method(), head.id_text()), (Some(modern::LISTEN), Some(OWN_ID)));
        let said = modern::meta::Said::of(head.params).unwrap();
        assert!(said.complete().is_ok() && said.notifications.is_some());
    }
}
