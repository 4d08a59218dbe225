//! The one field that stands for those which every message changes ([`Hot`], `lua/hot.lua`).

use std::fmt;

use super::continuation::HeadChange;

/// See the module's text. All that the owner has been told is claimed, and nothing is in the inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Hot {
    pub(in crate::store) generation: u64,
    pub(in crate::store) epoch: u32,
    /// Sequence of the last message of the client.
    pub(in crate::store) in_seq: u64,
    /// Bytes that its messages hold, at most.
    pub(in crate::store) held: u64,
    /// Requests without an answer.
    pub(in crate::store) pending: u64,
    /// Sequence of the newest event.
    pub(in crate::store) seq: u64,
    /// Of the oldest one that is kept.
    pub(in crate::store) first: u64,
    /// Bytes of those that are kept.
    pub(in crate::store) bytes: u64,
    /// See `StreamHead`.
    pub(in crate::store) gone: u64,
    /// Number of the last append.
    pub(in crate::store) op: u64,
    /// Sequence of the first event that it wrote.
    pub(in crate::store) from: u64,
}

impl Hot {
    pub(in crate::store) fn read(text: &str) -> Option<Self> {
        let mut numbers = text.split(' ').map(|number| number.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        let hot = Self {
            generation: next()?,
            epoch: next()?.try_into().ok()?,
            in_seq: next()?,
            held: next()?,
            pending: next()?,
            seq: next()?,
            first: next()?,
            bytes: next()?,
            gone: next()?,
            op: next()?,
            from: next()?,
        };
        numbers.next().is_none().then_some(hot)
    }
}

impl fmt::Display for Hot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, epoch, in_seq, held, pending, seq, first, bytes, gone, op, from } = self;
        write!(f, "{generation} {epoch} {in_seq} {held} {pending} {seq} {first} {bytes} {gone} {op} {from}")
    }
}

/// Only if it is not there yet, the event that it comes with is appended.
pub(in crate::store) fn is_moved(change: &HeadChange) -> bool {
    matches!(change, HeadChange::Moved { .. })
}
