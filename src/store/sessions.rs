//! Sessions as a whole: their life, their head, and who owns them. OWN-1 to OWN-6

use std::time::Duration;

use async_trait::async_trait;

use super::{
    binding::Binding,
    head::{HeadChange, Hint, SessionHead},
    journal::{InboxEntry, PendingRequest},
    older::{Restored, Rewrite, Rewritten},
    types::{Fence, Fenceable, Owner, StoreResult},
};
use crate::protocol::session_id::SessionId;

/// See module documentation. All operations are safe to repeat after any error.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Creates a session.
    async fn create(&self, new: NewSession) -> StoreResult<Created>;

    /// The session's head.
    async fn load(&self, session: SessionId) -> StoreResult<Option<SessionHead>>;

    /// Up to `limit` sessions, in no order (Redis: `SCAN`, never `KEYS`).
    async fn list(&self, limit: usize) -> StoreResult<Vec<(SessionId, SessionHead)>>;

    /// Up to `limit` sessions whose ids begin with these hex digits, by a look at all keys (`SCAN`): for operators.
    async fn find(&self, digits: &str, limit: usize) -> StoreResult<Vec<(SessionId, SessionHead)>>;

    /// Changes the session's head, as owner. Nothing to change: says whether the fence holds.
    async fn update(&self, fence: &Fence, changes: &[HeadChange]) -> StoreResult<Fenceable>;

    /// Notes something without proof of ownership. `false`: no session.
    async fn hint(&self, session: SessionId, hint: &Hint) -> StoreResult<bool>;

    /// Compare-and-set of the owner: succeeds only if owner and generation are still `from`, and if that owner has no
    /// living lease (OWN-4). Raises the generation. A session without an owner (released) has an owner whose names are
    /// empty. An owner may adopt from itself, whatever its lease. The lease is looked at just before, which is not one step with
    /// the rest; who is replaced is woken.
    async fn adopt(
        &self,
        session: SessionId,
        from: &Owner,
        from_generation: u64,
        new_owner: &Owner,
    ) -> StoreResult<Adopted>;

    /// Gives the session up without an heir: owner and incarnation become empty, the generation stays.
    async fn release(&self, fence: &Fence) -> StoreResult<Fenceable>;

    /// Begins the session anew for another client: the next epoch, no owner, and nothing of what was before but its service,
    /// its client and who holds its streams. Wakes the owner it had. `false`: no such session.
    async fn renew(&self, session: SessionId, epoch: u32) -> StoreResult<bool>;

    /// Writes a session again whose data are older than what its owner has seen ([`Accepted::Older`](super::Accepted::Older)):
    /// under the next epoch,
    /// with what the owner knows, and with those unclaimed messages which the owner has never seen, under new numbers. What
    /// else was there is deleted, but for the names of POSTs; whoever shows a stream of it is woken. The caller must know
    /// that its ownership is the later one. The same call again says `Done` again.
    async fn rewrite(&self, rewrite: Rewrite) -> StoreResult<Rewritten>;

    /// Extends the life of sessions to `ttl` from now (all their keys) and sets `last_active_ms`. Grouped.
    /// Returns those that do not exist any more.
    async fn touch(&self, sessions: &[SessionId], ttl: Duration) -> StoreResult<Vec<SessionId>>;

    /// Deletes a session with all its keys and wakes its owner and holders. `true` if it existed. `by`: who asks, if it is
    /// not the router itself; for a stranger it does not exist. SEC-1
    async fn purge(&self, session: SessionId, by: Option<&Binding>) -> StoreResult<bool>;

    /// The id of the data that the store holds. When there is none (first start, or all data was lost) `candidate`
    /// becomes it. A changed id tells that sessions were lost and not merely expired.
    async fn dataset(&self, candidate: &str) -> StoreResult<String>;

    /// The secret that all instances share, by which they know what one of them has given a client to show again. When there
    /// is none `candidate` becomes it.
    async fn secret(&self, candidate: &str) -> StoreResult<String>;
}

/// A session to be created. The creator is its owner, generation is 1, all sequences start at 0.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Fresh random id.
    pub session: SessionId,
    /// Fresh random epoch.
    pub epoch: u32,
    /// The service this session talks to.
    pub service: String,
    /// `sse` for the 2024-11-05 transport.
    pub transport: String,
    /// To whom it answers. SEC-1
    pub binding: Binding,
    /// What the client shows of itself, in the caller's words, without secrets; empty when unknown.
    pub client: String,
    /// The creating process.
    pub owner: Owner,
    /// The stream that exists from the start and its attachment: (stream name, attachment id).
    pub attachment: Option<(String, u64)>,
    /// How long the session lives without a touch.
    pub ttl: Duration,
    /// `Some` when a living owner writes a session again that the store has lost.
    pub restored: Option<Restored>,
}

/// Answer of [`super::Sessions::create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The session exists now.
    Created,
    /// The id is taken (not reachable with random ids; never overwritten).
    AlreadyExists,
}

/// What an adopter needs to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehydration {
    /// The session after the adoption.
    pub head: SessionHead,
    /// The new fence.
    pub fence: Fence,
    /// What was in the inbox: unclaimed entries, and claimed notifications and responses that were never acked, in
    /// order. All of it counts as claimed by the adopter now (requests among it are marked forwarded only by a later
    /// [`super::Journal::mark_forwarded`]).
    pub inbox: Vec<InboxEntry>,
    /// Requests without an answer, by `seq`.
    pub pending: Vec<PendingRequest>,
}

/// Answer of [`super::Sessions::adopt`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// The caller owns the session (OWN-4: exactly one of many callers gets this).
    Adopted(Box<Rehydration>),
    /// Somebody else was faster, or the owner is not the one the caller named.
    Lost {
        /// Who owns it now.
        owner: Owner,
        /// Generation of that ownership.
        generation: u64,
    },
    /// The owner is the one that the caller named, and has a living lease: it is not replaced (OWN-4). Not for an owner
    /// that adopts from itself.
    OwnerLives,
    /// See [`Accepted::NotFound`](super::Accepted::NotFound).
    NotFound,
}
