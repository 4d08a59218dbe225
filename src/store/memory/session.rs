//! One session in memory: plain values; each role of the store has its steps on them in its own file.
//!
//! No locks, no wake-ups, no clock of its own; the caller holds the lock and does the waking.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::{
    inbox::{Inbox, Request},
    stream::Stream,
};
use crate::{
    protocol::post_id::PostId,
    store::{Binding, Continuation, Fence, Holder, NewSession, Owner, Restored},
};

/// See module documentation.
pub(super) struct Session {
    pub(super) owner: Owner,
    pub(super) generation: u64,
    pub(super) epoch: u32,
    pub(super) ttl: Duration,
    pub(super) expires: Instant,
    pub(super) service: String,
    pub(super) transport: String,
    pub(super) binding: Binding,
    pub(super) client: String,
    pub(super) subject: Option<Box<str>>,
    pub(super) created_ms: u64,
    pub(super) last_active_ms: u64,
    pub(super) continuation: Continuation,
    pub(super) doubted: Option<u64>,
    pub(super) rebind: Option<u64>,
    pub(super) in_seq: u64,
    pub(super) in_claimed: u64,
    pub(super) inbox: Inbox,
    pub(super) requests: HashMap<Arc<str>, Request, RandomState>,
    /// Which message each was; `None`: none, and it must not become one ([`crate::store::Journal::disown`]).
    pub(super) seen: HashMap<PostId, Option<u64>, RandomState>,
    pub(super) seen_order: VecDeque<PostId>,
    /// Bytes of bodies in `inbox` and `requests`: never less than there are. Only [`Session::accept`] adds, and counts
    /// before it refuses.
    pub(super) held: usize,
    pub(super) last_append: Option<(u64, Vec<Option<u64>>)>,
    /// By name. Most sessions have one.
    pub(super) streams: Vec<(String, Stream)>,
}

impl Session {
    pub(super) fn new(new: NewSession, now: Instant, now_ms: u64) -> Self {
        let mut streams = Vec::new();
        if let Some((stream, id)) = new.attachment {
            streams.push((stream, Stream::attached(Holder { incarnation: new.owner.incarnation.clone(), id })));
        }
        let restored = new.restored.unwrap_or_else(|| Restored { generation: 1, ..Restored::default() });
        let requests = restored
            .pending
            .into_iter()
            .map(|(id_key, seq)| (id_key.into(), Request { seq, forwarded: Some(Bytes::new()) }))
            .collect();
        Self {
            owner: new.owner,
            generation: restored.generation,
            epoch: new.epoch,
            ttl: new.ttl,
            expires: now + new.ttl,
            service: new.service,
            transport: new.transport,
            binding: new.binding,
            client: new.client,
            subject: None,
            created_ms: now_ms,
            last_active_ms: now_ms,
            continuation: restored.continuation,
            doubted: None,
            rebind: None,
            in_seq: restored.in_seq,
            in_claimed: restored.in_seq,
            inbox: Inbox::default(),
            requests,
            seen: HashMap::default(),
            seen_order: VecDeque::new(),
            held: 0,
            last_append: None,
            streams,
        }
    }

    pub(super) fn expired(&self, now: Instant) -> bool {
        self.expires <= now
    }

    /// OWN-1: all three must match. A released session has no owner, so nobody can show its fence.
    pub(super) fn fenced(&self, fence: &Fence) -> bool {
        self.owner.incarnation.is_empty() || !self.is_of(fence)
    }

    /// Also when nobody owns it.
    pub(super) fn is_of(&self, fence: &Fence) -> bool {
        self.owner.incarnation == fence.incarnation && self.generation == fence.generation && self.epoch == fence.epoch
    }
}
