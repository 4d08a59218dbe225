//! Who has shown by a message that a cookie has not misled it ([`Proofs`]).

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use crate::protocol::session_id::SessionId;

/// Attachments (session and count) found by a cookie, whose clients have shown by a message who they are: nothing more is to
/// be asked of their messages. A hint: one that is forgotten costs a question to the store.
#[derive(Debug, Default)]
pub struct Proofs {
    known: Mutex<HashSet<(SessionId, u64)>>,
}

/// Attachments remembered in [`Proofs`].
const MAX_PROOFS: usize = 4096;

impl Proofs {
    pub(super) fn has(&self, session: SessionId, attach_count: u64) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&(session, attach_count))
    }

    pub(super) fn add(&self, session: SessionId, attach_count: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_PROOFS {
            known.clear();
        }
        known.insert((session, attach_count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_one_for_its_attachment_and_there_is_a_bound_to_them() {
        let proofs = Proofs::default();
        let (one, other) = (SessionId::random(), SessionId::random());
        proofs.add(one, 3);
        assert!(proofs.has(one, 3));
        assert!(!proofs.has(one, 4) && !proofs.has(other, 3));
        for count in 0..2 * MAX_PROOFS as u64 {
            proofs.add(other, count);
        }
        assert!(proofs.known.lock().unwrap().len() <= MAX_PROOFS);
    }
}
