//! REST calls under way, so that a caller's `notifications/cancelled` finds its own call and nobody else's.
//!
//! A REST caller has no session: its cancel is another request, which may come over another connection and to another
//! worker thread. It is taken for the caller's when everything by which a caller can be told agrees, and when there is
//! exactly one such call; else it is dropped. Calls of other instances are not known here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use actix_web::{
    HttpRequest,
    http::header::{self, HeaderName},
};
use ipnet::IpNet;
use tokio::sync::watch;

use super::forwarded;

/// Headers by which two callers behind one address can be told apart.
static TELLING: [HeaderName; 5] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::USER_AGENT,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("mcp-session-id"),
];

/// Whose call, to which service, of which id: never logged.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key(Vec<u8>);

impl Key {
    fn new(request: &HttpRequest, trusted: &[IpNet], service: &str, id: &str) -> Self {
        let address = forwarded::client_address(request, trusted).map(|address| address.to_string());
        let mut key = Vec::with_capacity(192);
        let mut add = |part: &[u8]| {
            // With their lengths, so that no two callers have the same text.
            key.extend_from_slice(&part.len().to_le_bytes());
            key.extend_from_slice(part);
        };
        add(service.as_bytes());
        add(id.as_bytes());
        add(address.unwrap_or_default().as_bytes());
        for name in &TELLING {
            for value in request.headers().get_all(name) {
                add(name.as_str().as_bytes());
                add(value.as_bytes());
            }
        }
        Self(key)
    }
}

/// See the module's text.
#[derive(Default)]
pub struct Calls {
    under_way: Mutex<HashMap<Key, Vec<Arc<watch::Sender<bool>>>>>,
}

/// A call that is known as long as this lives; the watchers see it go.
pub(super) struct Known<'a> {
    calls: &'a Calls,
    key: Key,
    given_up: Arc<watch::Sender<bool>>,
}

/// What became of a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cancelled {
    /// Passed on to the one call that it can mean.
    One,
    /// No call of this caller has the id, or several.
    Unclear,
}

impl Calls {
    /// `id`: by which ids are compared ([`IdKey::key`](crate::protocol::jsonrpc::IdKey::key)); so it is in [`Self::cancel`].
    pub(super) fn register(&self, request: &HttpRequest, trusted: &[IpNet], service: &str, id: &str) -> Known<'_> {
        self.insert(Key::new(request, trusted, service, id))
    }

    fn insert(&self, key: Key) -> Known<'_> {
        let given_up = Arc::new(watch::Sender::new(false));
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.entry(key.clone()).or_default().push(Arc::clone(&given_up));
        Known { calls: self, key, given_up }
    }

    pub(super) fn cancel(&self, request: &HttpRequest, trusted: &[IpNet], service: &str, id: &str) -> Cancelled {
        self.cancel_key(&Key::new(request, trusted, service, id))
    }

    fn cancel_key(&self, key: &Key) -> Cancelled {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        match under_way.get(key).map(Vec::as_slice) {
            Some([one]) => {
                one.send_replace(true);
                Cancelled::One
            }
            _ => Cancelled::Unclear,
        }
    }
}

impl Known<'_> {
    /// Changes when the caller cancels the call, closes when the call is over.
    pub(super) fn given_up(&self) -> watch::Receiver<bool> {
        self.given_up.subscribe()
    }
}

impl Drop for Known<'_> {
    fn drop(&mut self) {
        let mut under_way = self.calls.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(calls) = under_way.get_mut(&self.key) {
            calls.retain(|call| !Arc::ptr_eq(call, &self.given_up));
            if calls.is_empty() {
                under_way.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_cancel_finds_the_one_call_that_it_can_mean() {
        let calls = Calls::default();
        let key = |service: &str, id: &str, address: &str, header: (&'static str, &'static str)| {
            let peer = format!("{address}:4711").parse().unwrap();
            let request = TestRequest::default().peer_addr(peer).insert_header(header).to_http_request();
            Key::new(&request, &[], service, id)
        };
        let plain = ("accept", "*/*");
        let known = calls.insert(key("s", "1", "192.0.2.1", plain));
        for other in [
            key("s", "2", "192.0.2.1", plain),
            key("s", "\"1\"", "192.0.2.1", plain),
            key("t", "1", "192.0.2.1", plain),
            key("s", "1", "192.0.2.2", plain),
            key("s", "1", "192.0.2.1", ("authorization", "Bearer x")),
            key("s", "1", "192.0.2.1", ("cookie", "a=b")),
            key("s", "1", "192.0.2.1", ("x-api-key", "k")),
        ] {
            assert_eq!(calls.cancel_key(&other), Cancelled::Unclear);
        }
        let watched = known.given_up();
        assert!(!watched.has_changed().unwrap());
        assert_eq!(calls.cancel_key(&key("s", "1", "192.0.2.1", plain)), Cancelled::One);
        assert!(*watched.borrow());

        let second = calls.insert(key("s", "1", "192.0.2.1", plain));
        assert_eq!(calls.cancel_key(&key("s", "1", "192.0.2.1", plain)), Cancelled::Unclear, "one of two");
        drop(known);
        assert!(watched.has_changed().is_err(), "it is over");
        assert_eq!(calls.cancel_key(&key("s", "1", "192.0.2.1", plain)), Cancelled::One);
        drop(second);
        assert!(calls.under_way.lock().unwrap().is_empty(), "nothing is left of it");
    }
}
