//! What the index of this instance lacks, since the node that has it was away: written with a renewal of the lease.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

/// Sessions that the index of this instance lacks.
#[derive(Default)]
pub(super) struct Missing(Mutex<HashSet<String>>);

/// So many are remembered; those beyond are found by their clients only.
const MOST_MISSING: usize = 100_000;

impl Missing {
    pub(super) fn note(&self, session: String) {
        let mut missing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if missing.len() < MOST_MISSING {
            missing.insert(session);
        }
    }

    /// All of them, which are then forgotten.
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }

    pub(super) fn put_back(&self, sessions: Vec<String>) {
        sessions.into_iter().for_each(|session| self.note(session));
    }
}
