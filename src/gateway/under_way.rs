//! Calls without a session under way, so that a caller's `notifications/cancelled` finds its own call and nobody else's.
//!
//! Such a caller's cancel is another request, which may come over another connection and to another gateway thread. It is
//! taken for the caller's when everything by which a caller can be told agrees, and when there is exactly one such call;
//! else it is dropped. Calls of other instances are not known here.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// Whose call, to which service, of which id: never logged.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CallKey(Vec<u8>);

/// It holds what callers authorize themselves with.
impl std::fmt::Debug for CallKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CallKey(..)")
    }
}

impl CallKey {
    /// `id`: by which ids are compared ([`IdKey::key`](crate::protocol::jsonrpc::IdKey::key)). `marks`: by which two callers
    /// behind one address can be told apart, name and value, in an order that is always the same.
    pub fn new<'a>(
        service: &str,
        id: &str,
        address: Option<IpAddr>,
        marks: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Self {
        let mut key = Vec::with_capacity(192);
        let mut add = |part: &[u8]| {
            // With their lengths, so that no two callers have the same text.
            key.extend_from_slice(&part.len().to_le_bytes());
            key.extend_from_slice(part);
        };
        add(service.as_bytes());
        add(id.as_bytes());
        add(address.map(|address| address.to_string()).unwrap_or_default().as_bytes());
        for (name, value) in marks {
            add(name.as_bytes());
            add(value);
        }
        Self(key)
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Calls {
    under_way: Mutex<HashMap<CallKey, Vec<Arc<watch::Sender<bool>>>>>,
}

/// A call that is known as long as this lives; the watchers see it go.
pub struct Known<'a> {
    calls: &'a Calls,
    key: CallKey,
    given_up: Arc<watch::Sender<bool>>,
}

/// What became of a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// Passed on to the one call that it can mean.
    One,
    /// No call of this caller has the id, or several.
    Unclear,
}

impl Calls {
    /// A call begins.
    pub fn register(&self, key: CallKey) -> Known<'_> {
        let given_up = Arc::new(watch::Sender::new(false));
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.entry(key.clone()).or_default().push(Arc::clone(&given_up));
        Known { calls: self, key, given_up }
    }

    /// The caller of the one call that has this key gives it up.
    pub fn cancel(&self, key: &CallKey) -> Cancelled {
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
    pub fn given_up(&self) -> watch::Receiver<bool> {
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
    use super::*;

    #[test]
    fn a_cancel_finds_the_one_call_that_it_can_mean() {
        let calls = Calls::default();
        let key = |service: &str, id: &str, address: &str, (name, value): (&str, &str)| {
            CallKey::new(service, id, address.parse().ok(), std::iter::once((name, value.as_bytes())))
        };
        let plain = ("user-agent", "a");
        let known = calls.register(key("s", "1", "192.0.2.1", plain));
        for other in [
            key("s", "2", "192.0.2.1", plain),
            key("s", "\"1\"", "192.0.2.1", plain),
            key("t", "1", "192.0.2.1", plain),
            key("s", "1", "192.0.2.2", plain),
            key("s", "1", "192.0.2.1", ("authorization", "Bearer x")),
            key("s", "1", "192.0.2.1", ("cookie", "a=b")),
            key("s", "1", "192.0.2.1", ("user-agent", "b")),
            key("s", "1", "unknown", plain),
            key("s1", "", "192.0.2.1", plain),
        ] {
            assert_eq!(calls.cancel(&other), Cancelled::Unclear);
        }
        let watched = known.given_up();
        assert!(!watched.has_changed().unwrap());
        assert_eq!(calls.cancel(&key("s", "1", "192.0.2.1", plain)), Cancelled::One);
        assert!(*watched.borrow());

        let second = calls.register(key("s", "1", "192.0.2.1", plain));
        assert_eq!(calls.cancel(&key("s", "1", "192.0.2.1", plain)), Cancelled::Unclear, "one of two");
        drop(known);
        assert!(watched.has_changed().is_err(), "it is over");
        assert_eq!(calls.cancel(&key("s", "1", "192.0.2.1", plain)), Cancelled::One);
        drop(second);
        assert!(calls.under_way.lock().unwrap().is_empty(), "nothing is left of it");
    }
}
