//! Sessions as a whole, in memory: life, head and owner.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    MAX_TTL, MemoryStore,
    inbox::{Inbox, Request},
    now_ms,
    session::Session,
};
use crate::{
    protocol::session_id::SessionId,
    store::{
        Adopted, Binding, ClientMessage, Continuation, Created, Fence, Fenceable, HeadChange, Hint, NewSession, Owner,
        Ownership, Rehydration, Restored, Rewrite, Rewritten, SessionHead, Sessions, StoreResult,
    },
};

impl Session {
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

    pub(super) fn touch(&mut self, ttl: Duration, now: Instant, now_ms: u64) {
        self.ttl = ttl;
        self.expires = now + ttl;
        self.last_active_ms = now_ms;
    }

    pub(super) fn head(&self) -> SessionHead {
        let (owner, generation, epoch) = (self.owner.clone(), self.generation, self.epoch);
        SessionHead {
            ownership: Some(Ownership { owner, generation, epoch }),
            service: self.service.clone(),
            transport: self.transport.clone(),
            binding: self.binding.clone(),
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

#[async_trait]
impl Sessions for MemoryStore {
    async fn create(&self, mut new: NewSession) -> StoreResult<Created> {
        let id = new.session;
        let now = Instant::now();
        new.ttl = new.ttl.min(MAX_TTL);
        let mut shard = self.shard(&id);
        shard.sweep(now);
        if shard.sessions.get(&id).is_some_and(|session| !session.expired(now)) {
            return Ok(Created::AlreadyExists);
        }
        shard.sessions.insert(id, Session::new(new, now, now_ms()));
        Ok(Created::Created)
    }

    async fn load(&self, session: SessionId) -> StoreResult<Option<SessionHead>> {
        Ok(self.with(&session, |session| session.head()))
    }

    async fn list(&self, limit: usize) -> StoreResult<Vec<(SessionId, SessionHead)>> {
        let mut listed = Vec::new();
        self.each_session(|id, session| {
            if listed.len() < limit {
                listed.push((*id, session.head()));
            }
        });
        Ok(listed)
    }

    async fn find(&self, digits: &str, limit: usize) -> StoreResult<Vec<(SessionId, SessionHead)>> {
        let mut found = Vec::new();
        self.each_session(|id, session| {
            if found.len() < limit && id.reveal_bytes().starts_with(digits.as_bytes()) {
                found.push((*id, session.head()));
            }
        });
        Ok(found)
    }

    async fn update(&self, fence: &Fence, changes: &[HeadChange]) -> StoreResult<Fenceable> {
        Ok(self.as_owner(fence, |session| session.change(changes)).fenceable())
    }

    async fn hint(&self, session: SessionId, hint: &Hint) -> StoreResult<bool> {
        Ok(self.with(&session, |session| session.hint(hint)).is_some())
    }

    async fn adopt(
        &self,
        session: SessionId,
        from: &Owner,
        from_generation: u64,
        new_owner: &Owner,
    ) -> StoreResult<Adopted> {
        let adopted = self.with(&session, |entry| {
            if entry.owner != *from || entry.generation != from_generation {
                return Adopted::Lost { owner: entry.owner.clone(), generation: entry.generation };
            }
            // OWN-4. A session that was released has no owner, and so none with a lease.
            let itself = from.incarnation == new_owner.incarnation;
            if !itself && self.leases.holder(&from.instance_id).is_some_and(|held| held.owner == *from) {
                return Adopted::OwnerLives;
            }
            Adopted::Adopted(Box::new(entry.adopt(session, new_owner)))
        });
        if matches!(adopted, Some(Adopted::Adopted(_))) && from.incarnation != new_owner.incarnation {
            self.wakes.wake(&from.incarnation, session);
        }
        Ok(adopted.unwrap_or(Adopted::NotFound))
    }

    async fn release(&self, fence: &Fence) -> StoreResult<Fenceable> {
        let mut holders = Vec::new();
        let released = self.as_owner(fence, |session| {
            holders = session.holders();
            session.release();
        });
        for holder in holders.into_iter().filter(|holder| *holder != fence.incarnation) {
            self.wakes.wake(&holder, fence.session);
        }
        Ok(released.fenceable())
    }

    async fn renew(&self, session: SessionId, epoch: u32) -> StoreResult<bool> {
        let former = self.with(&session, |session| session.renew(epoch));
        if let Some(owner) = &former {
            self.wakes.wake(&owner.incarnation, session);
        }
        Ok(former.is_some())
    }

    async fn rewrite(&self, rewrite: Rewrite) -> StoreResult<Rewritten> {
        let id = rewrite.fence.session;
        let mut holders = Vec::new();
        let rewritten = self.with(&id, |session| {
            let incarnation = Arc::clone(&rewrite.owner.incarnation);
            let generation = rewrite.restored.generation;
            let again = Fence { session: id, epoch: rewrite.epoch, generation, incarnation };
            if session.is_of(&again) {
                return Rewritten::Done(Vec::new());
            }
            if !session.is_of(&rewrite.fence) {
                return Rewritten::Fenced;
            }
            holders = session.holders();
            Rewritten::Done(session.rewrite(rewrite))
        });
        for holder in holders {
            self.wakes.wake(&holder, id);
        }
        Ok(rewritten.unwrap_or(Rewritten::NotFound))
    }

    async fn touch(&self, sessions: &[SessionId], ttl: Duration) -> StoreResult<Vec<SessionId>> {
        let (now, ttl) = (Instant::now(), ttl.min(MAX_TTL));
        let gone = |id: &&SessionId| self.with(id, |session| session.touch(ttl, now, now_ms())).is_none();
        Ok(sessions.iter().filter(gone).copied().collect())
    }

    async fn purge(&self, session: SessionId, by: Option<&Binding>) -> StoreResult<bool> {
        if by.is_some_and(|by| self.with(&session, |entry| !entry.binding.admits(by)) == Some(true)) {
            return Ok(false);
        }
        let Some(purged) = self.shard(&session).sessions.remove(&session) else { return Ok(false) };
        if purged.expired(Instant::now()) {
            return Ok(false);
        }
        let mut concerned = purged.holders();
        concerned.retain(|holder| *holder != purged.owner.incarnation);
        concerned.push(purged.owner.incarnation);
        for incarnation in concerned {
            self.wakes.wake(&incarnation, session);
        }
        Ok(true)
    }

    async fn dataset(&self, _candidate: &str) -> StoreResult<String> {
        // It lives and dies with the process.
        Ok("memory".to_owned())
    }

    async fn secret(&self, candidate: &str) -> StoreResult<String> {
        Ok(self.secret.get_or_init(|| candidate.to_owned()).clone())
    }
}
