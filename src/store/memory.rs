//! The embedded store: sessions in the memory of one process.
//!
//! Role: the default when no Redis is configured, and the model that the Redis store is tested against. Owns all
//! sessions, in shards by id, so that threads rarely wait for each other. Several routers of one process (in tests)
//! may share it.
//!
//! Never: awaits while it holds a lock. Survives nothing.

mod calls;
mod client_lists;
mod clients;
mod event_log;
mod inbox;
mod instances;
mod journal;
mod leases;
mod operators;
mod rates;
mod session;
mod sessions;
mod shard;
mod stream;
mod subjects;
mod wake_ups;
mod wakes;

use std::{
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;

use self::{clients::Clients, leases::Leases, session::Session, shard::Shard, wakes::Wakes};
use crate::{
    protocol::session_id::SessionId,
    store::{Fence, Fenceable, SessionStore, StoreResult},
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
    due: rates::Due,
    calls: calls::Records,
    board: operators::Board,
    secret: OnceLock<String>,
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
            due: rates::Due::default(),
            calls: calls::Records::default(),
            board: operators::Board::default(),
            secret: OnceLock::new(),
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
    async fn ping(&self) -> StoreResult<()> {
        Ok(())
    }

    fn kind(&self) -> &'static str {
        "memory"
    }
}
