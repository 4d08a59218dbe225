//! Client streams that wait for the answer to a ping-rebind ([`Rebinds`]). The answer may come to any instance, which wakes
//! the one that asked; so the registry tells them, and the gateway asks.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::oneshot;

use crate::protocol::session_id::SessionId;

/// Client streams whose session is being asked for: nonce → where the answer goes. Bounded by the streams that may be
/// open and by [`MCP_REBIND_TIMEOUT`](crate::settings::defaults::MCP_REBIND_TIMEOUT).
#[derive(Debug, Default)]
pub struct Rebinds {
    waiting: Mutex<HashMap<u64, oneshot::Sender<SessionId>>>,
    /// How often in a row clients of a kind were asked in vain.
    in_vain: Mutex<HashMap<Arc<str>, u32>>,
}

/// Kinds of clients of which it is remembered that they were asked in vain.
const MAX_KINDS: usize = 1024;

/// Second half of the id by which an instance tells another that a client has answered for a session that is gone; the
/// first is the nonce. Session ids are random.
const GONE: u64 = 0x676f_6e65_676f_6e65;

impl Rebinds {
    /// A stream asks.
    pub fn register(&self) -> (u64, oneshot::Receiver<SessionId>) {
        let (sender, receiver) = oneshot::channel();
        let nonce = fastrand::u64(..);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(nonce, sender);
        (nonce, receiver)
    }

    /// The client has answered at the endpoint of `session`. `false`: nobody waits (here).
    pub fn complete(&self, nonce: u64, session: SessionId) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&nonce);
        waiting.is_some_and(|waiting| waiting.send(session).is_ok())
    }

    /// A client of this kind was asked in vain: how often in a row by now.
    pub fn in_vain(&self, client: &Arc<str>) -> u32 {
        let mut in_vain = self.in_vain.lock().unwrap_or_else(PoisonError::into_inner);
        if in_vain.len() >= MAX_KINDS && !in_vain.contains_key(client) {
            in_vain.clear();
        }
        let count = in_vain.entry(Arc::clone(client)).or_default();
        *count += 1;
        *count
    }

    /// Clients of this kind answer.
    pub fn answers(&self, client: &Arc<str>) {
        self.in_vain.lock().unwrap_or_else(PoisonError::into_inner).remove(client);
    }

    /// By which an instance tells the one that asked that the session which the client named is gone.
    pub fn word_of_gone(nonce: u64) -> Option<SessionId> {
        format!("{nonce:016x}{GONE:016x}").parse().ok()
    }

    /// `word` is such a word: the stream that waits is told. `false`: it is a session's id.
    pub fn gone(&self, word: SessionId) -> bool {
        let text = word.reveal();
        let (nonce, gone) = text.split_at(16);
        if u64::from_str_radix(gone, 16) != Ok(GONE) {
            return false;
        }
        if let Ok(nonce) = u64::from_str_radix(nonce, 16) {
            self.forget(nonce);
        }
        true
    }

    /// The stream gives up.
    pub fn forget(&self, nonce: u64) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&nonce);
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_hears_once_which_session_its_client_means() {
        let (rebinds, session) = (Rebinds::default(), SessionId::random());
        let (nonce, answered) = rebinds.register();
        assert!(!rebinds.complete(nonce.wrapping_add(1), session), "nobody waits there");
        assert!(rebinds.complete(nonce, session));
        assert!(!rebinds.complete(nonce, session));
        assert_eq!(answered.await, Ok(session));
        assert!(rebinds.is_empty());
        let (nonce, answered) = rebinds.register();
        drop(answered);
        assert!(!rebinds.complete(nonce, session), "the stream is gone");
    }

    #[test]
    fn silence_is_counted_by_kind_of_client_until_one_answers() {
        let rebinds = Rebinds::default();
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        assert_eq!([rebinds.in_vain(&one), rebinds.in_vain(&one), rebinds.in_vain(&other)], [1, 2, 1]);
        rebinds.answers(&one);
        assert_eq!([rebinds.in_vain(&one), rebinds.in_vain(&other)], [1, 2]);
        for kind in 0..2 * MAX_KINDS {
            rebinds.in_vain(&kind.to_string().into());
        }
        assert!(rebinds.in_vain.lock().unwrap().len() <= MAX_KINDS);
    }
}
