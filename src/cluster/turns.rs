//! One adoption or creation of a session at a time in this process ([`Turns`]).

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use crate::protocol::session_id::SessionId;

/// The sessions that are being adopted or created by this process. One adoption of a session at a time: a stream and a POST that
/// meet the same dead owner would otherwise adopt it one after the other, the second from this very process, and leave
/// it with two actors.
#[derive(Debug, Default)]
pub struct Turns {
    taken: Mutex<HashSet<SessionId>>,
}

impl Turns {
    /// `None`: somebody has it.
    pub fn take(&self, session: SessionId) -> Option<Turn<'_>> {
        let is_free = self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(session);
        // Not `then_some`: a turn that is made and thrown away would end the other one's.
        is_free.then(|| Turn { turns: self, session })
    }
}

/// Held while a session is being adopted, or created.
#[derive(Debug)]
pub struct Turn<'a> {
    turns: &'a Turns,
    session: SessionId,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OWN-4
    #[test]
    fn who_does_not_get_the_turn_does_not_end_it() {
        let (turns, session) = (Turns::default(), SessionId::random());
        let turn = turns.take(session);
        assert!(turn.is_some());
        assert!(turns.take(session).is_none());
        assert!(turns.take(session).is_none(), "also when it was asked for before");
        assert!(turns.take(SessionId::random()).is_some(), "another session's is another one");
        drop(turn);
        assert!(turns.take(session).is_some());
    }
}
