//! What a session holds of its client's messages in memory: plain containers, which decide nothing.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::store::InboxEntry;

/// Entries in the order of their sequences. Few at a time: a queue that is searched costs less than a map.
#[derive(Default)]
pub(super) struct Inbox(VecDeque<InboxEntry>);

impl Inbox {
    /// Sequences rise.
    pub(super) fn push(&mut self, entry: InboxEntry) {
        self.0.push_back(entry);
    }

    pub(super) fn after(&self, seq: u64) -> impl Iterator<Item = &InboxEntry> {
        self.0.range(self.0.partition_point(|entry| entry.seq <= seq)..)
    }

    pub(super) fn get(&self, seq: u64) -> Option<&InboxEntry> {
        self.0.binary_search_by_key(&seq, |entry| entry.seq).ok().map(|at| &self.0[at])
    }

    pub(super) fn remove(&mut self, seq: u64) -> Option<InboxEntry> {
        self.0.binary_search_by_key(&seq, |entry| entry.seq).ok().and_then(|at| self.0.remove(at))
    }

    pub(super) fn pop_until(&mut self, seq: u64) -> Option<InboxEntry> {
        if self.0.front()?.seq > seq {
            return None;
        }
        self.0.pop_front()
    }
}

/// A request without an answer. Its body is here or, until it is marked forwarded, in the inbox.
pub(super) struct Request {
    pub(super) seq: u64,
    pub(super) forwarded: Option<Bytes>,
}
