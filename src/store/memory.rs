//! The embedded store: sessions in the memory of one process.
//!
//! Role: the default when no Redis is configured, and the model that the Redis store is tested against. Owns all
//! sessions, in shards by id, so that threads rarely wait for each other. Several routers of one process (in tests)
//! may share it.
//!
//! Never: awaits while it holds a lock. Survives nothing.

mod clients;
mod leases;
mod session;
mod shard;
mod stream;
mod wakes;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use tokio::sync::mpsc;

use self::{
    clients::Clients,
    leases::Leases,
    session::{NotAppended, Session},
    shard::Shard,
    wakes::Wakes,
};
use crate::{
    protocol::{post_id::PostId, session_id::SessionId},
    store::{
        Accept, Accepted, Adopted, Append, Appended, Attach, Attached, AttachedTo, Claim, Claimed, Created, Fence,
        Fenceable, HeadChange, Hint, Holder, InstanceInfo, LeaseAcquired, LeaseRenewed, Listed, NewSession, Owner,
        Page, PendingRequest, Rewrite, Rewritten, SessionHead, SessionStore, StoreError, StoreResult, Wake,
    },
};

/// Enough that a dozen threads rarely meet in one.
const SHARDS: usize = 64;

/// Longer lives are cut to this, so that no time overflows.
const MAX_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// See module documentation.
pub struct MemoryStore {
    shards: Vec<Mutex<Shard>>,
    leases: Leases,
    wakes: Wakes,
    clients: Clients,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            leases: Leases::default(),
            wakes: Wakes::default(),
            clients: Clients::default(),
        }
    }

    fn shard(&self, session: &SessionId) -> MutexGuard<'_, Shard> {
        let shard = usize::from(session.shard_byte()) % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step on a session; `None` if it does not exist.
    fn with<R>(&self, session: &SessionId, step: impl FnOnce(&mut Session) -> R) -> Option<R> {
        let mut shard = self.shard(session);
        let entry = shard.sessions.get_mut(session)?;
        if entry.expired(Instant::now()) {
            shard.sessions.remove(session);
            return None;
        }
        Some(step(entry))
    }

    /// One step of the owner.
    fn as_owner<R>(&self, fence: &Fence, step: impl FnOnce(&mut Session) -> R) -> Owned<R> {
        let outcome = self.with(&fence.session, |session| (!session.fenced(fence)).then(|| step(session)));
        match outcome {
            None => Owned::NotFound,
            Some(None) => Owned::Fenced,
            Some(Some(result)) => Owned::Done(result),
        }
    }

    /// The living sessions of one shard after the other.
    fn each_session(&self, mut visit: impl FnMut(&SessionId, &Session)) {
        let now = Instant::now();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.sessions.iter().filter(|(_, session)| !session.expired(now)).for_each(|(id, s)| visit(id, s));
        }
    }
}

/// What became of an owner's step.
enum Owned<R> {
    Done(R),
    NotFound,
    Fenced,
}

impl Owned<()> {
    fn fenceable(self) -> Fenceable {
        match self {
            Self::Done(()) => Fenceable::Done,
            Self::NotFound => Fenceable::NotFound,
            Self::Fenced => Fenceable::Fenced,
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[async_trait]
impl SessionStore for MemoryStore {
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

    async fn append(&self, append: Append) -> StoreResult<Appended> {
        let fence = append.fence.clone();
        let appended = self.as_owner(&fence, |session| {
            let holder = session.stream(&append.stream).and_then(|stream| stream.holder.clone());
            (session.append(append, Instant::now()), holder)
        });
        Ok(match appended {
            Owned::Done((Ok(results), holder)) => {
                if let Some(Holder { incarnation: holder, .. }) = holder
                    && holder != fence.incarnation
                    && results.iter().any(Option::is_some)
                {
                    self.wakes.wake(&holder, fence.session);
                }
                Appended::Done(results)
            }
            Owned::Done((Err(NotAppended::OldOp), _)) => {
                return Err(StoreError::Corrupt("an append with a number below the last one's".to_owned()));
            }
            Owned::Done((Err(NotAppended::Older), _)) => Appended::Older,
            Owned::NotFound => Appended::NotFound,
            Owned::Fenced => Appended::Fenced,
        })
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

    async fn hint(&self, session: SessionId, hint: &Hint) -> StoreResult<bool> {
        Ok(self.with(&session, |session| session.hint(hint)).is_some())
    }

    async fn update(&self, fence: &Fence, changes: &[HeadChange]) -> StoreResult<Fenceable> {
        Ok(self.as_owner(fence, |session| session.change(changes)).fenceable())
    }

    async fn read_page(
        &self,
        session: SessionId,
        stream: &str,
        after: u64,
        max_events: usize,
        max_bytes: usize,
    ) -> StoreResult<Option<Page>> {
        Ok(self.with(&session, |session| match session.stream(stream) {
            Some(stream) => stream.page(session.epoch, after, max_events, max_bytes),
            None => Page { events: Vec::new(), last_seq: 0, first_seq: 1, epoch: session.epoch, holder: None },
        }))
    }

    async fn attach(&self, attach: Attach) -> StoreResult<Attached> {
        let Attach { session: id, attachment } = attach;
        let caller = attachment.incarnation.clone();
        let attached = self.with(&id, |session| {
            let stream = session.stream_or_new(&attachment.stream);
            let holder = Holder { incarnation: attachment.incarnation, id: attachment.id };
            // The same attachment again is a repeated call.
            let mut former = None;
            if stream.holder.as_ref() != Some(&holder) {
                former = stream.holder.replace(holder);
                stream.attach_count += 1;
            }
            let attach_count = stream.attach_count;
            let joined = AttachedTo {
                owner: session.owner.clone(),
                generation: session.generation,
                epoch: session.epoch,
                service: session.service.clone(),
                principal: session.principal.clone(),
                listeners: u64::from(session.owner.incarnation == caller),
                attach_count,
            };
            (joined, former)
        });
        let Some((mut joined, former)) = attached else { return Ok(Attached::NotFound) };
        let owner = joined.owner.incarnation.clone();
        if owner != caller {
            joined.listeners = self.wakes.wake(&owner, id);
        }
        // The owner of another process has just been woken.
        if let Some(Holder { incarnation: former, .. }) = former
            && (former != owner || owner == caller)
        {
            self.wakes.wake(&former, id);
        }
        Ok(Attached::Attached(joined))
    }

    async fn detach(&self, session: SessionId, stream: &str, attachment_id: u64) -> StoreResult<bool> {
        // OWN-8: only the attachment that holds the stream can end it.
        let ended = self.with(&session, |session| session.detach(stream, attachment_id));
        Ok(ended.unwrap_or(false))
    }

    async fn client_shown(
        &self,
        client: &str,
        session: SessionId,
        incarnation: &str,
        ttl: Duration,
    ) -> StoreResult<()> {
        self.clients.shown(client, session, incarnation, ttl.min(MAX_TTL));
        Ok(())
    }

    async fn client_left(
        &self,
        client: &str,
        session: SessionId,
        incarnation: Option<&str>,
        ttl: Duration,
    ) -> StoreResult<()> {
        self.clients.left(client, session, incarnation, ttl.min(MAX_TTL));
        Ok(())
    }

    async fn client_forgotten(&self, client: &str, session: SessionId) -> StoreResult<()> {
        self.clients.forgotten(client, session);
        Ok(())
    }

    async fn client_sessions(&self, client: &str, age: Duration) -> StoreResult<Listed> {
        Ok(self.clients.listed(client, age))
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

    async fn touch(&self, sessions: &[SessionId], ttl: Duration) -> StoreResult<Vec<SessionId>> {
        let (now, ttl) = (Instant::now(), ttl.min(MAX_TTL));
        let gone = |id: &&SessionId| self.with(id, |session| session.touch(ttl, now, now_ms())).is_none();
        Ok(sessions.iter().filter(gone).copied().collect())
    }

    async fn purge(&self, session: SessionId) -> StoreResult<bool> {
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

    async fn owned_by(&self, instance_id: &str) -> StoreResult<Vec<SessionId>> {
        let mut owned = Vec::new();
        self.each_session(|id, session| {
            if *session.owner.instance_id == *instance_id {
                owned.push(*id);
            }
        });
        Ok(owned)
    }

    async fn lease_acquire(&self, info: &InstanceInfo, ttl: Duration) -> StoreResult<LeaseAcquired> {
        Ok(self.leases.acquire(info, ttl.min(MAX_TTL)))
    }

    async fn lease_renew(&self, info: &InstanceInfo, ttl: Duration) -> StoreResult<LeaseRenewed> {
        Ok(self.leases.renew(info, ttl.min(MAX_TTL)))
    }

    async fn lease_release(&self, owner: &Owner) -> StoreResult<()> {
        self.leases.release(owner);
        Ok(())
    }

    async fn leases_left(&self) -> StoreResult<Vec<Duration>> {
        Ok(self.leases.left())
    }

    async fn has_given_up(&self, owner: &Owner) -> StoreResult<bool> {
        Ok(self.leases.was_given_up_by(owner))
    }

    async fn instances(&self) -> StoreResult<Vec<InstanceInfo>> {
        Ok(self.leases.instances())
    }

    async fn lease_holder(&self, instance_id: &str) -> StoreResult<Option<InstanceInfo>> {
        Ok(self.leases.holder(instance_id))
    }

    async fn known_instances(&self) -> StoreResult<Vec<String>> {
        Ok(self.leases.known())
    }

    async fn forget_instance(&self, instance_id: &str) -> StoreResult<()> {
        self.leases.forget(instance_id);
        Ok(())
    }

    async fn dataset(&self, _candidate: &str) -> StoreResult<String> {
        // It lives and dies with the process.
        Ok("memory".to_owned())
    }

    async fn wake(&self, incarnation: &str, session: SessionId) -> StoreResult<u64> {
        Ok(self.wakes.wake(incarnation, session))
    }

    async fn subscribe(&self, incarnation: &str, capacity: usize) -> StoreResult<mpsc::Receiver<Wake>> {
        Ok(self.wakes.subscribe(incarnation, capacity))
    }

    async fn ping(&self) -> StoreResult<()> {
        Ok(())
    }

    fn kind(&self) -> &'static str {
        "memory"
    }
}
