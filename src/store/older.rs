//! What an owner needs to write a session again after the store has come back with older data, or without it. docs/decisions/0010

use std::{collections::VecDeque, sync::Arc};

use xxhash_rust::xxh3::xxh3_64;

use super::{
    head::Continuation,
    journal::{ClientMessage, InboxEntry},
    types::{Fence, Owner},
};

/// What the last entries were that an owner has been handed: by sequence and body, the same after a loss of data. Bounded.
#[derive(Clone, Debug, Default)]
pub struct HandedLately {
    /// Sequence, and XXH3 of the body.
    entries: VecDeque<(u64, u64)>,
    /// Of the sequences up to here some are not known any more.
    forgotten: u64,
}

/// What is known of an entry that older data have as unclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The owner has handled it.
    Handled,
    /// The owner has never seen it.
    New,
    /// One or the other.
    Unclear,
}

impl HandedLately {
    /// More than are usually journaled by other instances for one session in the second that Redis may lose.
    const MOST: usize = 128;

    /// The owner has been handed this entry.
    pub fn note(&mut self, entry: &InboxEntry) {
        if self.entries.len() >= Self::MOST
            && let Some((oldest, _)) = self.entries.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest);
        }
        self.entries.push_back((entry.seq, xxh3_64(&entry.body)));
    }

    /// What is known of this one.
    pub fn knows(&self, entry: &InboxEntry) -> Known {
        if self.entries.contains(&(entry.seq, xxh3_64(&entry.body))) {
            Known::Handled
        } else if entry.seq > self.forgotten {
            Known::New
        } else {
            Known::Unclear
        }
    }

    /// The numbers begin anew.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What the owner still knows of a session that the store has lost. Its logs are lost: the epoch is a new one, so that
/// cursors of the old life are recognised (EVT-6).
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Generation of the ownership; stays.
    pub generation: u64,
    /// Last sequence of the inbox; stays, all of it claimed.
    pub in_seq: u64,
    /// What it has put on record.
    pub continuation: Continuation,
    /// Requests in flight: (canonical id, sequence). Their bodies are lost, so that an adopter cannot repeat them.
    pub pending: Vec<(String, u64)>,
}

/// The owner writes a session again whose data in the store are older than what it has seen (`Older`).
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// What the older data must show; they may be from before this owner's time.
    pub fence: Fence,
    /// The owner.
    pub owner: Owner,
    /// The epoch of its new life.
    pub epoch: u32,
    /// The lowest sequence that the owner has not handled: what counts as claimed from here on it may never have seen.
    pub next: u64,
    /// What the owner knows.
    pub restored: Restored,
    /// By which what it has never seen is told from the rest.
    pub handed: HandedLately,
}

impl Rewrite {
    /// Of the entries of the older data that are unclaimed, or not handled: the sequences of those that stay, and the requests of which nobody knows
    /// whether they ran.
    pub fn decide(&self, unclaimed: &[InboxEntry]) -> (Vec<u64>, Vec<Arc<str>>) {
        let (mut stay, mut unclear) = (Vec::new(), Vec::new());
        for entry in unclaimed {
            let id = match &entry.message {
                ClientMessage::Request { id_key } => Some(id_key),
                _ => None,
            };
            // One of this id is under way: the client has sent it again.
            if id.is_some_and(|id| self.restored.pending.iter().any(|(pending, _)| **pending == **id)) {
                continue;
            }
            match (self.handed.knows(entry), id) {
                (Known::New, _) => stay.push(entry.seq),
                (Known::Unclear, Some(id)) => unclear.push(Arc::clone(id)),
                (Known::Handled, _) | (Known::Unclear, None) => {}
            }
        }
        (stay, unclear)
    }
}

/// Answer of [`super::Sessions::rewrite`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewritten {
    /// The session has its new life. Requests that are pending in it and of which nobody knows whether they ran.
    Done(Vec<Arc<str>>),
    /// See [`super::Accepted::NotFound`].
    NotFound,
    /// See [`super::Accepted::Fenced`].
    Fenced,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_handed_is_known_by_number_and_body_and_no_longer_than_there_is_room() {
        let entry =
            |seq, body: &'static str| InboxEntry { seq, message: ClientMessage::Notification, body: body.into() };
        let mut handed = HandedLately::default();
        assert_eq!(handed.knows(&entry(1, "a")), Known::New);
        handed.note(&entry(1, "a"));
        for (seq, body, expected) in [(1, "a", Known::Handled), (1, "b", Known::New), (2, "a", Known::New)] {
            assert_eq!(handed.knows(&entry(seq, body)), expected, "{seq} {body}");
        }
        for seq in 2..=130 {
            handed.note(&entry(seq, "x"));
        }
        for (seq, body, expected) in [(1, "a", Known::Unclear), (2, "y", Known::Unclear), (3, "x", Known::Handled)] {
            assert_eq!(handed.knows(&entry(seq, body)), expected, "{seq} {body}");
        }
        assert_eq!(handed.knows(&entry(131, "x")), Known::New);
    }
}
