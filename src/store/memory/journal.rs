//! The journal in memory: inbox, request table, and the names of POSTs.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{MemoryStore, Owned, inbox::Request, session::Session};
use crate::{
    protocol::{
        post_id::PostId,
        session_id::SessionId,
        stream_key::{MAIN_STREAM, StreamKey},
    },
    store::{
        Accept, Accepted, Claim, Claimed, ClientMessage, Disowned, Fence, Fenceable, Handed, Holder, InboxEntry,
        Journal, PendingRequest, ShownFrom, StoreResult,
    },
};

/// How many POSTs are remembered (REQ-6): far more than nginx can have tries on their way at once.
const SEEN_POSTS: usize = 256;

impl Session {
    /// `listeners` of a queued message is 1 for the owner and 0 for others: the caller does the waking.
    pub(super) fn accept(&mut self, accept: Accept) -> Accepted {
        if !self.binding.admits(&accept.by) {
            return Accepted::Stranger;
        }
        if accept.service.is_some_and(|service| service != self.service) {
            return Accepted::WrongService;
        }
        if self.continuation.has_other_version(accept.version) {
            return Accepted::OtherVersion;
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
        if seen == Some(None) {
            return Accepted::Disowned;
        }
        let seen = seen.flatten();
        let (epoch, last_event) = (self.epoch, self.last_event(MAIN_STREAM));
        let shown_by = accept.shown_by.map(|(incarnation, id)| Holder { incarnation, id });
        if let Some(seq) = seen.or(pending) {
            let shown = shown_by.as_ref().map(|_| ShownFrom { epoch, last_event: 0 });
            if given && seen.is_none() {
                self.remember(accept.post_id, Some(seq));
            }
            if pending == Some(seq) {
                // Somebody waits for its answer again.
                self.continuation.moved.remove(&seq);
            }
            if by_owner {
                // Whoever showed an earlier try: the owner, which does so now, is not on record for it.
                self.is_over(StreamKey::Request(seq));
            }
            if let Some(holder) = shown_by {
                self.show(StreamKey::Request(seq), holder);
            }
            return Accepted::Duplicate { seq, claimed: seq <= self.in_claimed, shown };
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
            self.remember(accept.post_id, Some(seq));
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
        if self.binding != accept.by {
            // From now on no weaker credential is enough. SEC-1
            self.binding = accept.by;
        }
        if by_owner {
            self.acknowledge(accept.acked);
        }
        if direct {
            return Accepted::Forward { seq };
        }
        let shown = shown_by.as_ref().map(|_| ShownFrom { epoch, last_event });
        if let Some(holder) = shown_by {
            self.show(StreamKey::Request(seq), holder);
        }
        let (owner, generation) = (self.owner.clone(), self.generation);
        Accepted::Queued { seq, owner, generation, listeners: u64::from(by_owner), shown }
    }

    pub(super) fn held_bytes(&self) -> usize {
        let forwarded = self.requests.values().filter_map(|request| request.forwarded.as_ref());
        forwarded.map(Bytes::len).sum::<usize>() + self.inbox.after(0).map(|entry| entry.body.len()).sum::<usize>()
    }

    /// Whether a pending request is the one with this body. That of a restored one is lost: nobody can tell.
    pub(super) fn is_request(&self, pending: &Request, body: &Bytes) -> bool {
        let waiting = || self.inbox.get(pending.seq).map(|entry| &entry.body);
        pending.forwarded.as_ref().or_else(waiting).is_none_or(|known| known.is_empty() || known == body)
    }

    pub(super) fn remember(&mut self, post_id: PostId, seq: Option<u64>) {
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

    pub(super) fn disown(&mut self, post_id: PostId, id_key: &str) -> Disowned {
        let Some(Some(seq)) = self.seen.get(&post_id).copied() else {
            if !self.seen.contains_key(&post_id) {
                self.remember(post_id, None);
            }
            return Disowned::Never;
        };
        if self.seen.iter().any(|(other, of)| *of == Some(seq) && *other != post_id) {
            return Disowned::Shared;
        }
        self.is_over(StreamKey::Request(seq));
        let waits = |request: &Request| request.seq == seq && request.forwarded.is_none();
        if self.requests.get(id_key).is_some_and(waits) {
            self.forget(id_key, seq);
            return Disowned::Never;
        }
        self.continuation.moved.insert(seq);
        Disowned::Silenced
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
        handed.traces.clone_from(&self.continuation.traces);
        if let Some(after) = claim.urgent_after {
            let is_urgent = |entry: &&InboxEntry| entry.message.is_urgent();
            let beyond = self.inbox.after(self.in_claimed.max(after));
            handed.urgent = beyond.filter(is_urgent).cloned().collect();
        }
        handed
    }

    /// What counts as claimed and has neither been acked nor answered.
    pub(super) fn claimed_from(&self, from: u64) -> Vec<InboxEntry> {
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

    pub(super) fn claim_new(&mut self, max: usize) -> Vec<InboxEntry> {
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
        self.continuation.traces.remove(id_key);
        if let Some(request) = self.requests.remove(id_key)
            && request.forwarded.is_none()
        {
            self.inbox.remove(request.seq);
        }
    }

    /// Drops what has reached the upstream. After an adoption that may be a request which nobody has marked forwarded
    /// yet; that it was must not be forgotten (REQ-3).
    pub(super) fn acknowledge(&mut self, acked: u64) {
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
}

#[async_trait]
impl Journal for MemoryStore {
    async fn accept(&self, accept: Accept) -> StoreResult<Accepted> {
        let (id, by_owner) = (accept.session, accept.fence.is_some());
        let mut accepted = self.with(&id, |session| session.accept(accept)).unwrap_or(Accepted::NotFound);
        if let Accepted::Queued { owner, listeners, .. } = &mut accepted
            && !by_owner
        {
            *listeners = self.wakes.wake(&owner.incarnation, id);
        }
        Ok(accepted)
    }

    async fn claim(&self, claim: Claim) -> StoreResult<Claimed> {
        let claimed = self.as_owner(&claim.fence, |session| {
            (!session.is_older(&claim)).then(|| (session.claim(&claim), session.attachments()))
        });
        Ok(match claimed {
            Owned::Done(Some((handed, attachments))) => Claimed::Entries { handed, attachments },
            Owned::Done(None) => Claimed::Older,
            Owned::NotFound => Claimed::NotFound,
            Owned::Fenced => Claimed::Fenced,
        })
    }

    async fn mark_forwarded(&self, fence: &Fence, id_keys: &[String]) -> StoreResult<Fenceable> {
        let marked = self.as_owner(fence, |session| id_keys.iter().for_each(|id_key| session.mark_forwarded(id_key)));
        Ok(marked.fenceable())
    }

    async fn pending(&self, session: SessionId) -> StoreResult<Vec<PendingRequest>> {
        Ok(self.with(&session, |session| session.pending()).unwrap_or_default())
    }

    async fn pending_ids(&self, session: SessionId) -> StoreResult<Vec<Arc<str>>> {
        Ok(self.with(&session, |session| session.pending_ids()).unwrap_or_default())
    }

    async fn forget_requests(&self, fence: &Fence, requests: &[(String, u64)]) -> StoreResult<Fenceable> {
        let forgotten = self.as_owner(fence, |session| {
            requests.iter().for_each(|(id_key, seq)| session.forget(id_key, *seq));
        });
        Ok(forgotten.fenceable())
    }

    async fn forget_post(&self, session: SessionId, post_id: PostId) -> StoreResult<bool> {
        Ok(self.with(&session, |session| session.forget_post(post_id)).unwrap_or(false))
    }

    async fn disown(&self, session: SessionId, post_id: PostId, id_key: &str) -> StoreResult<Disowned> {
        Ok(self.with(&session, |session| session.disown(post_id, id_key)).unwrap_or(Disowned::NotFound))
    }
}
