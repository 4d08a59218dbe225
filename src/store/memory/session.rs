//! One session in memory: every operation as one step on plain values.
//!
//! No locks, no wake-ups, no clock of its own; the caller holds the lock and does the waking.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::stream::Stream;
use crate::{
    protocol::{post_id::PostId, session_id::SessionId},
    store::{
        Accept, Accepted, Append, Attachment, Claim, ClientMessage, Continuation, Fence, Handed, HeadChange, Hint,
        Holder, InboxEntry, NewEvent, NewSession, Owner, Ownership, PendingRequest, Rehydration, Restored, Rewrite,
        SessionHead,
    },
};

/// How many POSTs are remembered (REQ-6): far more than nginx can have tries on their way at once.
const SEEN_POSTS: usize = 256;

/// See module documentation.
pub(super) struct Session {
    pub(super) owner: Owner,
    pub(super) generation: u64,
    pub(super) epoch: u32,
    ttl: Duration,
    expires: Instant,
    pub(super) service: String,
    transport: String,
    pub(super) principal: String,
    client: String,
    created_ms: u64,
    last_active_ms: u64,
    continuation: Continuation,
    doubted: Option<u64>,
    rebind: Option<u64>,
    in_seq: u64,
    in_claimed: u64,
    inbox: Inbox,
    requests: HashMap<Arc<str>, Request, RandomState>,
    seen: HashMap<PostId, u64, RandomState>,
    seen_order: VecDeque<PostId>,
    /// Bytes of bodies in `inbox` and `requests`: never less than there are. Only [`Session::accept`] adds, and counts
    /// before it refuses.
    held: usize,
    last_append: Option<(u64, Vec<Option<u64>>)>,
    /// By name. Most sessions have one.
    streams: Vec<(String, Stream)>,
}

/// Entries in the order of their sequences. Few at a time: a queue that is searched costs less than a map.
#[derive(Default)]
struct Inbox(VecDeque<InboxEntry>);

impl Inbox {
    /// Sequences rise.
    fn push(&mut self, entry: InboxEntry) {
        self.0.push_back(entry);
    }

    fn after(&self, seq: u64) -> impl Iterator<Item = &InboxEntry> {
        self.0.range(self.0.partition_point(|entry| entry.seq <= seq)..)
    }

    fn get(&self, seq: u64) -> Option<&InboxEntry> {
        self.0.binary_search_by_key(&seq, |entry| entry.seq).ok().map(|at| &self.0[at])
    }

    fn remove(&mut self, seq: u64) -> Option<InboxEntry> {
        self.0.binary_search_by_key(&seq, |entry| entry.seq).ok().and_then(|at| self.0.remove(at))
    }

    fn pop_until(&mut self, seq: u64) -> Option<InboxEntry> {
        if self.0.front()?.seq > seq {
            return None;
        }
        self.0.pop_front()
    }
}

/// A request without an answer. Its body is here or, until it is marked forwarded, in the inbox.
struct Request {
    seq: u64,
    forwarded: Option<Bytes>,
}

/// Why nothing was appended.
pub(super) enum NotAppended {
    /// The append's number is below the last one's: neither a retry nor a new one.
    OldOp,
    /// See [`crate::store::Accepted::Older`]. This store never goes back in time.
    Older,
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
            principal: new.principal,
            client: new.client,
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

    pub(super) fn touch(&mut self, ttl: Duration, now: Instant, now_ms: u64) {
        self.ttl = ttl;
        self.expires = now + ttl;
        self.last_active_ms = now_ms;
    }

    /// OWN-1: all three must match. A released session has no owner, so nobody can show its fence.
    pub(super) fn fenced(&self, fence: &Fence) -> bool {
        self.owner.incarnation.is_empty() || !self.is_of(fence)
    }

    /// Also when nobody owns it.
    pub(super) fn is_of(&self, fence: &Fence) -> bool {
        self.owner.incarnation == fence.incarnation && self.generation == fence.generation && self.epoch == fence.epoch
    }

    /// `listeners` of a queued message is 1 for the owner and 0 for others: the caller does the waking.
    pub(super) fn accept(&mut self, accept: Accept) -> Accepted {
        if accept.service.is_some_and(|service| service != self.service) {
            return Accepted::WrongService;
        }
        let by_owner = accept.fence.is_some();
        if accept.fence.is_some_and(|fence| self.fenced(&fence)) {
            return Accepted::Fenced;
        }
        if by_owner && accept.known > self.in_claimed {
            return Accepted::Older;
        }
        let pending = match &accept.message {
            ClientMessage::Request { id_key } => self.requests.get(id_key),
            _ => None,
        };
        let other = pending.is_some_and(|request| !self.is_request(request, &accept.body));
        let pending = pending.map(|request| request.seq);
        // Nobody can repeat the others: this store never leaves its caller without an answer.
        let given = accept.post_id.is_given();
        let seen = given.then(|| self.seen.get(&accept.post_id).copied()).flatten();
        if other && seen.is_none() {
            return Accepted::IdInUse;
        }
        if let Some(seq) = seen.or(pending) {
            return Accepted::Duplicate { seq, claimed: seq <= self.in_claimed };
        }
        let direct = by_owner && accept.forward_now && self.in_claimed == self.in_seq;
        let is_request = matches!(accept.message, ClientMessage::Request { .. });
        let unclaimed = self.in_seq - self.in_claimed;
        if is_request && self.requests.len() >= accept.max_pending || !direct && unclaimed >= accept.max_inbox as u64 {
            return Accepted::TooManyPending;
        }
        let size = accept.body.len();
        if self.held + size > accept.max_bytes {
            self.held = self.held_bytes();
            if self.held + size > accept.max_bytes {
                return Accepted::TooManyBytes;
            }
        }
        self.held += size;

        self.in_seq += 1;
        let seq = self.in_seq;
        if given {
            self.remember(accept.post_id, seq);
        }
        if direct {
            self.in_claimed = seq;
        }
        if let ClientMessage::Request { id_key } = &accept.message {
            let forwarded = direct.then(|| accept.body.clone());
            self.requests.insert(id_key.clone(), Request { seq, forwarded });
        }
        if let ClientMessage::Cancel { id_key } = &accept.message
            && let Some(request) = self.requests.get(id_key)
        {
            self.continuation.cancelled.insert(id_key.as_ref().to_owned(), request.seq);
        }
        if !(is_request && direct) {
            self.inbox.push(InboxEntry { seq, message: accept.message, body: accept.body });
        }
        self.continuation.apply(&accept.changes);
        if by_owner {
            self.acknowledge(accept.acked);
        }
        if direct {
            return Accepted::Forward { seq };
        }
        let (owner, generation) = (self.owner.clone(), self.generation);
        Accepted::Queued { seq, owner, generation, listeners: u64::from(by_owner) }
    }

    fn held_bytes(&self) -> usize {
        let forwarded = self.requests.values().filter_map(|request| request.forwarded.as_ref());
        forwarded.map(Bytes::len).sum::<usize>() + self.inbox.0.iter().map(|entry| entry.body.len()).sum::<usize>()
    }

    /// Whether a pending request is the one with this body. That of a restored one is lost: nobody can tell.
    fn is_request(&self, pending: &Request, body: &Bytes) -> bool {
        let waiting = || self.inbox.get(pending.seq).map(|entry| &entry.body);
        pending.forwarded.as_ref().or_else(waiting).is_none_or(|known| known.is_empty() || known == body)
    }

    fn remember(&mut self, post_id: PostId, seq: u64) {
        if self.seen_order.len() >= SEEN_POSTS
            && let Some(oldest) = self.seen_order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.seen.insert(post_id, seq);
        self.seen_order.push_back(post_id);
    }

    pub(super) fn forget_post(&mut self, post_id: PostId) -> bool {
        self.seen_order.retain(|seen| *seen != post_id);
        self.seen.remove(&post_id).is_some()
    }

    fn last_event(&self, stream: &str) -> u64 {
        self.stream(stream).map_or(0, |stream| stream.last_seq)
    }

    /// Than what the owner has seen.
    pub(super) fn is_older(&self, claim: &Claim) -> bool {
        let (stream, known) = &claim.known_event;
        claim.known > self.in_claimed || *known > self.last_event(stream)
    }

    /// The fence has been checked.
    pub(super) fn claim(&mut self, claim: &Claim) -> Handed {
        self.acknowledge(claim.acked);
        let mut handed = Handed { after: self.in_claimed, ..Handed::default() };
        if let Some(from) = claim.missing_from.filter(|from| *from <= self.in_claimed) {
            handed.after = from - 1;
            handed.entries = self.claimed_from(from);
            // Marked forwarded before it was claimed: its turn comes.
            handed.entries.retain(|entry| entry.seq <= self.in_claimed);
        }
        let new = self.claim_new(claim.max_entries);
        handed.entries.extend(new);
        (handed.upto, handed.last) = (self.in_claimed, self.in_seq);
        handed.more = self.in_claimed < self.in_seq;
        if let Some(after) = claim.urgent_after {
            let is_urgent = |entry: &&InboxEntry| entry.message.is_urgent();
            let beyond = self.inbox.after(self.in_claimed.max(after));
            handed.urgent = beyond.filter(is_urgent).cloned().collect();
        }
        handed
    }

    /// What counts as claimed and has neither been acked nor answered.
    fn claimed_from(&self, from: u64) -> Vec<InboxEntry> {
        let waiting = self.inbox.after(from - 1).take_while(|entry| entry.seq <= self.in_claimed).cloned();
        let forwarded = self.requests.iter().filter_map(|(id_key, request)| {
            let body = request.forwarded.clone().filter(|_| request.seq >= from)?;
            let message = ClientMessage::Request { id_key: id_key.clone() };
            Some(InboxEntry { seq: request.seq, message, body })
        });
        let mut entries: Vec<InboxEntry> = waiting.chain(forwarded).collect();
        entries.sort_unstable_by_key(|entry| entry.seq);
        entries
    }

    fn claim_new(&mut self, max: usize) -> Vec<InboxEntry> {
        if max == 0 {
            return Vec::new();
        }
        let entries: Vec<InboxEntry> = self.inbox.after(self.in_claimed).take(max).cloned().collect();
        // What was answered before it was claimed has left holes, also behind the last entry.
        self.in_claimed = match entries.last() {
            Some(last) if entries.len() == max => last.seq,
            _ => self.in_seq,
        };
        for entry in &entries {
            if let ClientMessage::Request { id_key } = &entry.message {
                self.mark_forwarded(id_key);
            }
        }
        entries
    }

    /// Moves the body of a pending request from the inbox to the request table.
    pub(super) fn mark_forwarded(&mut self, id_key: &str) {
        if let Some(request) = self.requests.get_mut(id_key)
            && request.forwarded.is_none()
        {
            request.forwarded = Some(self.inbox.remove(request.seq).map(|entry| entry.body).unwrap_or_default());
        }
    }

    /// Takes a pending request off the table, and out of the inbox if it is still there; and its mark of a cancel.
    pub(super) fn forget(&mut self, id_key: &str, seq: u64) {
        if self.continuation.cancelled.get(id_key) == Some(&seq) {
            self.continuation.cancelled.remove(id_key);
        }
        if self.requests.get(id_key).is_none_or(|request| request.seq != seq) {
            return;
        }
        if let Some(request) = self.requests.remove(id_key)
            && request.forwarded.is_none()
        {
            self.inbox.remove(request.seq);
        }
    }

    /// Drops what has reached the upstream. After an adoption that may be a request which nobody has marked forwarded
    /// yet; that it was must not be forgotten (REQ-3).
    fn acknowledge(&mut self, acked: u64) {
        let acked = acked.min(self.in_claimed);
        while let Some(entry) = self.inbox.pop_until(acked) {
            if let ClientMessage::Request { id_key } = &entry.message
                && let Some(request) = self.requests.get_mut(id_key)
                && request.seq == entry.seq
            {
                request.forwarded = Some(entry.body);
            }
        }
    }

    /// The sequences, as in [`crate::store::Appended::Done`]. The fence has been checked.
    pub(super) fn append(&mut self, append: Append, now: Instant) -> Result<Vec<Option<u64>>, NotAppended> {
        match &self.last_append {
            Some((op, results)) if *op == append.op => return Ok(results.clone()),
            Some((op, _)) if *op > append.op => return Err(NotAppended::OldOp),
            _ => {}
        }
        if append.known > self.last_event(&append.stream) {
            return Err(NotAppended::Older);
        }
        let results: Vec<_> = append.events.iter().map(|event| self.append_one(&append.stream, event, now)).collect();
        if let Some(sent) = append.sent {
            self.stream_or_new(&append.stream).sent = Some(sent);
        }
        if let Some(stream) = self.stream_mut(&append.stream) {
            stream.trim(&append.limits, now);
        }
        self.acknowledge(append.acked);
        self.last_append = Some((append.op, results.clone()));
        Ok(results)
    }

    fn append_one(&mut self, stream: &str, event: &NewEvent, now: Instant) -> Option<u64> {
        if let Some(id_key) = &event.answers {
            let request = self.requests.remove(id_key)?;
            // Answered without having been forwarded: nobody must forward it any more.
            self.inbox.remove(request.seq);
        }
        self.continuation.apply(&event.changes);
        Some(self.stream_or_new(stream).push(event.body.clone(), now))
    }

    pub(super) fn stream(&self, name: &str) -> Option<&Stream> {
        self.streams.iter().find(|(other, _)| other == name).map(|(_, stream)| stream)
    }

    pub(super) fn stream_mut(&mut self, name: &str) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|(other, _)| other == name).map(|(_, stream)| stream)
    }

    pub(super) fn stream_or_new(&mut self, name: &str) -> &mut Stream {
        let at = self.streams.iter().position(|(other, _)| other == name).unwrap_or_else(|| {
            self.streams.push((name.to_owned(), Stream::default()));
            self.streams.len() - 1
        });
        &mut self.streams[at].1
    }

    pub(super) fn change(&mut self, changes: &[HeadChange]) {
        self.continuation.apply(changes);
    }

    pub(super) fn hint(&mut self, hint: &Hint) {
        match hint {
            Hint::Doubted(count) => self.doubted = *count,
            Hint::Rebind(nonce) => self.rebind = Some(*nonce),
            Hint::Sent { stream, sent } => self.stream_or_new(stream).sent = Some(*sent),
        }
    }

    pub(super) fn pending_ids(&self) -> Vec<Arc<str>> {
        self.requests.keys().cloned().collect()
    }

    pub(super) fn pending(&self) -> Vec<PendingRequest> {
        let body = |request: &Request| {
            request.forwarded.clone().or_else(|| self.inbox.get(request.seq).map(|entry| entry.body.clone()))
        };
        let mut requests: Vec<_> = self
            .requests
            .iter()
            .map(|(id_key, request)| PendingRequest {
                seq: request.seq,
                id_key: id_key.clone(),
                forwarded: request.forwarded.is_some(),
                body: body(request).unwrap_or_default(),
            })
            .collect();
        requests.sort_unstable_by_key(|request| request.seq);
        requests
    }

    /// The compare has been made.
    pub(super) fn adopt(&mut self, session: SessionId, new_owner: &Owner) -> Rehydration {
        self.owner = new_owner.clone();
        self.generation += 1;
        self.in_claimed = self.in_seq;
        self.last_append = None;
        Rehydration {
            head: self.head(),
            fence: Fence {
                session,
                epoch: self.epoch,
                generation: self.generation,
                incarnation: new_owner.incarnation.clone(),
            },
            inbox: self.inbox.after(0).cloned().collect(),
            pending: self.pending(),
        }
    }

    pub(super) fn detach(&mut self, stream: &str, attachment_id: u64) -> bool {
        let in_seq = self.in_seq;
        let Some(stream) = self.stream_mut(stream) else { return false };
        let was_held = stream.holder.take_if(|holder| holder.id == attachment_id).is_some();
        if was_held {
            // What the client sends from now on it sends without a stream.
            stream.left_at = Some(in_seq);
        }
        was_held
    }

    /// Begins anew; see the trait. The former owner.
    pub(super) fn renew(&mut self, epoch: u32) -> Owner {
        self.continuation = Continuation::default();
        (self.doubted, self.rebind) = (None, None);
        let former = std::mem::replace(&mut self.owner, Owner { instance_id: "".into(), incarnation: "".into() });
        self.generation += 1;
        self.epoch = epoch;
        self.in_claimed = self.in_seq;
        self.inbox = Inbox::default();
        self.requests.clear();
        self.seen.clear();
        self.seen_order.clear();
        self.held = 0;
        self.last_append = None;
        self.streams.iter_mut().for_each(|(_, stream)| stream.renew());
        former
    }

    /// Writes it again; see the trait. The fence has been checked. Requests of which nobody knows whether they ran.
    pub(super) fn rewrite(&mut self, rewrite: Rewrite) -> Vec<Arc<str>> {
        // Beginning with what counts as claimed, and may never have reached the owner.
        let mut unclaimed = self.claimed_from(rewrite.next);
        unclaimed.extend(self.inbox.after(self.in_claimed).cloned());
        let (stay, unclear) = rewrite.decide(&unclaimed);
        let Restored { in_seq: base, continuation, pending, generation } = rewrite.restored;
        (self.owner, self.generation) = (rewrite.owner, generation);
        self.epoch = rewrite.epoch;
        (self.in_seq, self.in_claimed) = (base, base);
        self.inbox = Inbox::default();
        self.last_append = None;
        self.continuation = continuation;
        (self.doubted, self.rebind) = (None, None);
        for (_, stream) in &mut self.streams {
            stream.renew();
            stream.holder = None;
        }
        let lost = |seq| Request { seq, forwarded: Some(Bytes::new()) };
        self.requests = pending.into_iter().map(|(id_key, seq)| (id_key.into(), lost(seq))).collect();
        self.requests.extend(unclear.iter().map(|id_key| (Arc::clone(id_key), lost(base))));
        for mut entry in unclaimed.into_iter().filter(|entry| stay.contains(&entry.seq)) {
            self.in_seq += 1;
            entry.seq = self.in_seq;
            if let ClientMessage::Request { id_key } = &entry.message {
                self.requests.insert(Arc::clone(id_key), Request { seq: entry.seq, forwarded: None });
            }
            self.inbox.push(entry);
        }
        self.held = self.held_bytes();
        unclear
    }

    pub(super) fn release(&mut self) {
        self.owner = Owner { instance_id: "".into(), incarnation: "".into() };
        self.last_append = None;
    }

    pub(super) fn attachments(&self) -> Vec<Attachment> {
        let held = self.streams.iter().filter_map(|(name, stream)| {
            let Holder { incarnation, id } = stream.holder.clone()?;
            Some(Attachment { stream: name.clone(), incarnation, id })
        });
        held.collect()
    }

    /// Processes that hold a stream, each once.
    pub(super) fn holders(&self) -> Vec<Arc<str>> {
        let mut holders: Vec<_> = self.attachments().into_iter().map(|attachment| attachment.incarnation).collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    pub(super) fn head(&self) -> SessionHead {
        let (owner, generation, epoch) = (self.owner.clone(), self.generation, self.epoch);
        SessionHead {
            ownership: Some(Ownership { owner, generation, epoch }),
            service: self.service.clone(),
            transport: self.transport.clone(),
            principal: self.principal.clone(),
            client: self.client.clone(),
            created_ms: self.created_ms,
            last_active_ms: self.last_active_ms,
            ttl_ms: self.ttl.as_millis() as u64,
            in_seq: self.in_seq,
            in_claimed: self.in_claimed,
            continuation: self.continuation.clone(),
            doubted: self.doubted,
            rebind: self.rebind,
            streams: self.streams.iter().map(|(name, stream)| (name.clone(), stream.head())).collect(),
        }
    }
}
