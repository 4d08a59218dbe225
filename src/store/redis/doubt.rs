//! Claims whose answer was lost.
//!
//! A claim hands entries out, so that simply asking again would skip what the lost answer held. Each claim has a name;
//! after a lost answer the next claim of that session has the same name, and the script hands the same out again.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::protocol::session_id::SessionId;

/// Sessions in doubt at most. Beyond it all are forgotten: their owners find what they miss when they adopt again.
const MAX_DOUBTS: usize = 100_000;

/// See module documentation.
#[derive(Default)]
pub(super) struct Doubts {
    names: Mutex<HashMap<SessionId, u64>>,
}

/// One claim on its way. Dropped without [`Doubt::settle`] (an error, or the caller went away) it leaves its name
/// behind.
pub(super) struct Doubt<'a> {
    doubts: &'a Doubts,
    session: SessionId,
    name: u64,
    settled: bool,
}

impl Doubts {
    pub(super) fn begin(&self, session: SessionId) -> Doubt<'_> {
        let former = self.names.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
        Doubt { doubts: self, session, name: former.unwrap_or_else(|| fastrand::u64(..)), settled: false }
    }
}

impl Doubt<'_> {
    pub(super) fn name(&self) -> u64 {
        self.name
    }

    /// The answer has come.
    pub(super) fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.settled {
            let mut names = self.doubts.names.lock().unwrap_or_else(PoisonError::into_inner);
            if names.len() >= MAX_DOUBTS {
                names.clear();
            }
            names.insert(self.session, self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_keeps_its_name_until_it_is_answered() {
        let (doubts, session) = (Doubts::default(), SessionId::random());
        let first = doubts.begin(session);
        let name = first.name();
        drop(first);
        let again = doubts.begin(session);
        assert_eq!(again.name(), name);
        again.settle();
        assert_ne!(doubts.begin(session).name(), name);
    }
}
