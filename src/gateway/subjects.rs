//! What this process has kept last of what the clients of sessions have shown ([`super::subject`]), by hash.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::protocol::session_id::SessionId;

/// Sessions that are known; of a forgotten one the store is told once more.
const KNOWN_MAX: usize = 10_000;

/// After so long it is told again: it may have lost it.
const AGAIN: Duration = Duration::from_secs(60);

pub type Hash = [u8; 32];

/// See the module's text.
#[derive(Debug, Default)]
pub struct Subjects(Mutex<HashMap<SessionId, (Hash, Instant)>>);

impl Subjects {
    /// The store has been told this, not long ago.
    pub fn has(&self, session: &SessionId, hash: &Hash) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(session).is_some_and(|(kept, at)| kept == hash && at.elapsed() < AGAIN)
    }

    /// It has been told this now.
    pub fn note(&self, session: SessionId, hash: Hash) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.retain(|_, (_, at)| at.elapsed() < AGAIN);
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
        }
        known.insert(session, (hash, Instant::now()));
    }
}
