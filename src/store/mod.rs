//! The session store: the one place where the truth about sessions stands.
//!
//! Role: [`SessionStore`] is what the rest of the router knows of persistence. Two implementations pass the same
//! contract tests (`tests/store_contract.rs`): [`memory`] (embedded, one instance) and [`redis`] (shared by many).
//! Every operation is one atomic step; there is no operation whose half can be seen.
//!
//! Words (see `docs/redis-model.md`): the *owner* of a session is the one process that talks to its upstream, named by
//! instance id and *incarnation* (random per process start). `generation` rises at every change of owner and, with
//! `epoch` (random at creation) and incarnation, is the [`Fence`] that every owner write carries (OWN-1).
//! The *inbox* holds what the client sent; the *request table* the requests without an answer; each *stream* is an
//! event log towards the client.
//!
//! Never: this module does not know HTTP, MCP methods or actors.

mod head;
pub mod memory;
mod older;
pub mod redis;
mod types;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::mpsc;

pub use self::{
    head::{Continuation, HeadChange, Hint, Holder, Initialized, Ownership, SessionHead, StreamHead},
    older::*,
    types::*,
};
use crate::protocol::{post_id::PostId, session_id::SessionId};

/// Sessions listed for each process that shows some of a client's: enough to find one that is true.
pub const LISTED_EACH: usize = 16;

/// Processes looked at in the list of one client.
pub const LISTED_PROCESSES: usize = 64;

/// The store. All operations are safe to repeat after [`StoreError::Unavailable`].
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Creates a session.
    async fn create(&self, new: NewSession) -> StoreResult<Created>;

    /// Journals one message of the client. Checks, in order: session exists; service; fence (if given); `post_id`
    /// seen; JSON-RPC id pending; caps. Direct forwarding happens only if `forward_now`, the fence holds and every
    /// earlier entry is claimed; otherwise the entry waits in the inbox. Without a fence the owner is woken.
    /// A directly forwarded notification or response stays in the inbox until acked, so that an adopter finds it.
    async fn accept(&self, accept: Accept) -> StoreResult<Accepted>;

    /// Hands the owner the next inbox entries; requests among them are marked forwarded and leave the inbox
    /// (their body moves to the request table). What it has handed out before, and every direct forwarding, is handed out
    /// again on demand ([`Claim::missing_from`]) until it is acked or answered: a reply may be lost.
    async fn claim(&self, claim: Claim) -> StoreResult<Claimed>;

    /// Marks requests forwarded (again) that an adopter got in [`Rehydration`]: by id, must be pending. Their inbox
    /// entries are dropped.
    async fn mark_forwarded(&self, fence: &Fence, id_keys: &[String]) -> StoreResult<Fenceable>;

    /// Appends events and answers requests.
    async fn append(&self, append: Append) -> StoreResult<Appended>;

    /// Requests without an answer, by `seq`.
    async fn pending(&self, session: SessionId) -> StoreResult<Vec<PendingRequest>>;

    /// Takes requests (canonical id, sequence) off the request table without an answer, and their marks of a cancel. What is
    /// not pending with this very sequence is left alone: the id may have been used again.
    async fn forget_requests(&self, fence: &Fence, requests: &[(String, u64)]) -> StoreResult<Fenceable>;

    /// Forgets a POST: its name belongs to the next one that bears it. For names that are not of one POST alone, once
    /// their sender has its answer (REQ-6). `false`: it was not known.
    async fn forget_post(&self, session: SessionId, post_id: PostId) -> StoreResult<bool>;

    /// Canonical ids of the requests without an answer, in no order.
    async fn pending_ids(&self, session: SessionId) -> StoreResult<Vec<Arc<str>>>;

    /// Notes something without proof of ownership. `false`: no session.
    async fn hint(&self, session: SessionId, hint: &Hint) -> StoreResult<bool>;

    /// Changes the session's head, as owner. Nothing to change: says whether the fence holds.
    async fn update(&self, fence: &Fence, changes: &[HeadChange]) -> StoreResult<Fenceable>;

    /// Reads up to `max_events` events, or as many as first reach `max_bytes` (at least one), after `after`.
    /// `None`: no such session.
    async fn read_page(
        &self,
        session: SessionId,
        stream: &str,
        after: u64,
        max_events: usize,
        max_bytes: usize,
    ) -> StoreResult<Option<Page>>;

    /// Makes an attachment the holder of its stream.
    async fn attach(&self, attach: Attach) -> StoreResult<Attached>;

    /// Ends an attachment; does nothing if another holds the stream by now (OWN-8). `true` if it was the holder.
    async fn detach(&self, session: SessionId, stream: &str, attachment_id: u64) -> StoreResult<bool>;

    /// Lists the stream of a session as shown by a process, under the client's key; every list of the key lives `ttl` from
    /// now.
    async fn client_shown(&self, client: &str, session: SessionId, incarnation: &str, ttl: Duration)
    -> StoreResult<()>;

    /// Lists it as left, if `incarnation` is the one that showed it (`None`: whoever did). Those that were left longer than
    /// `ttl` ago leave the list.
    async fn client_left(
        &self,
        client: &str,
        session: SessionId,
        incarnation: Option<&str>,
        ttl: Duration,
    ) -> StoreResult<()>;

    /// Takes a session off the lists of its client.
    async fn client_forgotten(&self, client: &str, session: SessionId) -> StoreResult<()>;

    /// What is listed under the client's key: up to [`LISTED_EACH`] sessions for each process that shows some, and as many
    /// of those left at most `age` ago.
    async fn client_sessions(&self, client: &str, age: Duration) -> StoreResult<Listed>;

    /// Begins the session anew for another client: the next epoch, no owner, and nothing of what was before but its service,
    /// its client and who holds its streams. Wakes the owner it had. `false`: no such session.
    async fn renew(&self, session: SessionId, epoch: u32) -> StoreResult<bool>;

    /// Writes a session again whose data are older than what its owner has seen ([`Accepted::Older`]): under the next epoch,
    /// with what the owner knows, and with those unclaimed messages which the owner has never seen, under new numbers. What
    /// else was there is deleted, but for the names of POSTs; whoever shows a stream of it is woken. The caller must know
    /// that its ownership is the later one. The same call again says `Done` again.
    async fn rewrite(&self, rewrite: Rewrite) -> StoreResult<Rewritten>;

    /// Compare-and-set of the owner: succeeds only if owner and generation are still `from`, and if that owner has no
    /// living lease (OWN-4). Raises the generation. A session without an owner (released) has an owner whose names are
    /// empty. An owner may adopt from itself, whatever its lease.
    async fn adopt(
        &self,
        session: SessionId,
        from: &Owner,
        from_generation: u64,
        new_owner: &Owner,
    ) -> StoreResult<Adopted>;

    /// Gives the session up without an heir: owner and incarnation become empty, the generation stays.
    async fn release(&self, fence: &Fence) -> StoreResult<Fenceable>;

    /// Extends the life of sessions to `ttl` from now (all their keys) and sets `last_active_ms`. Grouped.
    /// Returns those that do not exist any more.
    async fn touch(&self, sessions: &[SessionId], ttl: Duration) -> StoreResult<Vec<SessionId>>;

    /// Deletes a session with all its keys and wakes its owner and holders. `true` if it existed.
    async fn purge(&self, session: SessionId) -> StoreResult<bool>;

    /// The session's head.
    async fn load(&self, session: SessionId) -> StoreResult<Option<SessionHead>>;

    /// Up to `limit` sessions, in no order (Redis: `SCAN`, never `KEYS`).
    async fn list(&self, limit: usize) -> StoreResult<Vec<(SessionId, SessionHead)>>;

    /// Up to `limit` sessions whose ids begin with these hex digits, by a look at all keys (`SCAN`): for operators.
    async fn find(&self, digits: &str, limit: usize) -> StoreResult<Vec<(SessionId, SessionHead)>>;

    /// Ids of the sessions that an instance's index names (some may be gone).
    async fn owned_by(&self, instance_id: &str) -> StoreResult<Vec<SessionId>>;

    /// Takes the instance id for this process for `ttl` (the server's clock).
    async fn lease_acquire(&self, info: &InstanceInfo, ttl: Duration) -> StoreResult<LeaseAcquired>;

    /// Renews the lease and the figures in it.
    async fn lease_renew(&self, info: &InstanceInfo, ttl: Duration) -> StoreResult<LeaseRenewed>;

    /// Gives the lease up if it is this process's. Also by another, which has a proof that this process is dead.
    async fn lease_release(&self, owner: &Owner) -> StoreResult<()>;

    /// This process has given its lease up, or another has for it; nobody else with its instance id has since. `false`
    /// says nothing: a lease may have run out.
    async fn has_given_up(&self, owner: &Owner) -> StoreResult<bool>;

    /// The living lease of this instance id.
    async fn lease_holder(&self, instance_id: &str) -> StoreResult<Option<InstanceInfo>>;

    /// How long each living lease still holds.
    async fn leases_left(&self) -> StoreResult<Vec<Duration>>;

    /// All instances: those with a living lease. One that has just come may be missing: [`Self::lease_holder`] decides
    /// who is gone.
    async fn instances(&self) -> StoreResult<Vec<InstanceInfo>>;

    /// Known instance ids, dead ones included.
    async fn known_instances(&self) -> StoreResult<Vec<String>>;

    /// Forgets a dead instance's id and index (only if it has no living lease).
    async fn forget_instance(&self, instance_id: &str) -> StoreResult<()>;

    /// Wakes a process about a session; returns the number of listeners.
    async fn wake(&self, incarnation: &str, session: SessionId) -> StoreResult<u64>;

    /// The id of the data that the store holds. When there is none (first start, or all data was lost) `candidate`
    /// becomes it. A changed id tells that sessions were lost and not merely expired.
    async fn dataset(&self, candidate: &str) -> StoreResult<String>;

    /// Subscribes to the wake-ups of one process. The store reconnects by itself and then says [`Wake::All`].
    /// Called once per process; when the (bounded) channel is full a wake-up is replaced by a later [`Wake::All`].
    async fn subscribe(&self, incarnation: &str, capacity: usize) -> StoreResult<mpsc::Receiver<Wake>>;

    /// One round trip.
    async fn ping(&self) -> StoreResult<()>;

    /// Why the store refuses writes now, in words for people, as far as it is known; known anew with each renewal of the
    /// lease.
    fn refusal(&self) -> Option<String> {
        None
    }

    /// `memory` or `redis`.
    fn kind(&self) -> &'static str;
}
