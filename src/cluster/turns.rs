//! One adoption or creation of a session at a time in this process ([`Turns`]): plain state of the
//! [registry](super::registry), which gives turns out by message.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::protocol::session_id::SessionId;

/// Who waits for its turn, by session that is being adopted or created. A stream and a POST that meet the same dead owner
/// would otherwise adopt it one after the other, the second from this very process, and leave it with two actors.
#[derive(Debug, Default)]
pub struct Turns {
    taken: HashMap<SessionId, VecDeque<oneshot::Sender<Turn>>>,
}

/// Asks for the turn to adopt or create this session. Reply: the turn, when it has come.
#[derive(Debug, Message)]
#[rtype(result = "Turn")]
pub struct TakeTurn {
    /// The session.
    pub session: SessionId,
}

/// A turn is over.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct EndTurn {
    /// The session.
    pub session: SessionId,
}

/// Held while a session is being adopted, or created; its end is the next one's turn.
#[derive(Debug)]
pub struct Turn {
    session: SessionId,
    end: Recipient<EndTurn>,
}

impl Turn {
    /// That ends by telling `end`.
    pub(super) fn new(session: SessionId, end: Recipient<EndTurn>) -> Self {
        Self { session, end }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        #[expect(
            clippy::disallowed_methods,
            reason = "there are no more of these than turns, and one that a full mailbox refuses would keep the session \
                      from being adopted here for ever"
        )]
        self.end.do_send(EndTurn { session: self.session });
    }
}

impl Turns {
    /// `None`: it is the caller's turn. Else the turn comes this way, unless the caller has gone by then.
    pub fn take(&mut self, session: SessionId) -> Option<oneshot::Receiver<Turn>> {
        match self.taken.entry(session) {
            Entry::Vacant(entry) => {
                entry.insert(VecDeque::new());
                None
            }
            Entry::Occupied(mut entry) => {
                let (sender, receiver) = oneshot::channel();
                entry.get_mut().push_back(sender);
                Some(receiver)
            }
        }
    }

    /// A turn is over. Who is next, if there is somebody.
    pub fn end(&mut self, session: SessionId) -> Option<oneshot::Sender<Turn>> {
        let waiting = self.taken.get_mut(&session)?;
        while let Some(next) = waiting.pop_front() {
            if !next.is_closed() {
                return Some(next);
            }
        }
        self.taken.remove(&session);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OWN-4
    #[test]
    fn one_has_the_turn_and_the_others_get_it_in_order() {
        let (mut turns, session) = (Turns::default(), SessionId::random());
        assert!(turns.take(session).is_none());
        let (first, gone, last) = (turns.take(session).unwrap(), turns.take(session).unwrap(), turns.take(session));
        assert!(turns.take(SessionId::random()).is_none(), "another session's is another one");
        drop(gone);
        let next = turns.end(session).unwrap();
        drop(first);
        assert!(next.is_closed(), "the first of those that wait");
        let next = turns.end(session).unwrap();
        drop(last);
        assert!(next.is_closed(), "who has gone is passed over");
        assert!(turns.end(session).is_none());
        assert!(turns.take(session).is_none(), "nobody has it any more");
    }
}
