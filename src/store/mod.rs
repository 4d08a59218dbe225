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

pub mod memory;
pub mod redis;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::protocol::session_id::SessionId;

/// What an owner shows with every write. The store refuses the write (`Fenced`) unless all three still match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The session written to.
    pub session: SessionId,
    /// Random at creation of the session: a session made again after data loss is not the same life.
    pub epoch: u32,
    /// Raised by one at every adoption; 1 at creation.
    pub generation: u64,
    /// The process that owns the session.
    pub incarnation: Arc<str>,
}

/// The process that owns a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Configured instance id, e.g. `router-instance-1`.
    pub instance_id: Arc<str>,
    /// Random id of one process start.
    pub incarnation: Arc<str>,
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
    /// Hash of the principal that opened it; empty when anonymous.
    pub principal: String,
    /// The creating process.
    pub owner: Owner,
    /// The stream that exists from the start and its attachment: (stream name, attachment id).
    pub attachment: Option<(String, u64)>,
    /// How long the session lives without a touch.
    pub ttl: Duration,
    /// `Some` when a living owner writes a session again that the store has lost.
    pub restored: Option<Restored>,
}

/// What the owner still knows of a session that the store has lost. Its logs are lost: the epoch is a new one, so that
/// cursors of the old life are recognised (EVT-6).
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Generation of the ownership; stays.
    pub generation: u64,
    /// Last sequence of the inbox; stays, all of it claimed.
    pub in_seq: u64,
    /// Session fields that were `set`.
    pub fields: Vec<(String, String)>,
    /// Requests in flight: (canonical id, sequence). Their bodies are lost, so that an adopter cannot repeat them.
    pub pending: Vec<(String, u64)>,
}

/// Answer of [`SessionStore::create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The session exists now.
    Created,
    /// The id is taken (not reachable with random ids; never overwritten).
    AlreadyExists,
}

/// Which of the three kinds of JSON-RPC message the client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// Wants an answer; `id_key` is the canonical JSON text of its id (`1`, `"a"`).
    Request {
        /// Canonical JSON text of the id.
        id_key: String,
    },
    /// No id.
    Notification,
    /// Answers a request of the server.
    Response,
}

/// One POST of the client, to be journaled.
#[derive(Clone, Debug)]
pub struct Accept {
    /// The session that the URL names.
    pub session: SessionId,
    /// The service that the URL names, if it does.
    pub service: Option<String>,
    /// Identity of the POST (`X-Request-ID`, equal over nginx's tries; else made by the router). REQ-6.
    pub request_id: String,
    /// Kind and id.
    pub message: ClientMessage,
    /// The message, as it came.
    pub body: Bytes,
    /// `Some` when the caller believes that it is the owner. Wrong belief: `Fenced`, nothing written.
    pub fence: Option<Fence>,
    /// Owner only: its upstream link is open and it has nothing queued, so the message may be marked forwarded in the
    /// same step.
    pub forward_now: bool,
    /// Owner only: inbox entries up to this sequence have reached the upstream (0: nothing new). They are dropped.
    pub acked: u64,
    /// Session fields to set in the same step (only if the message is journaled).
    pub set: Vec<(String, String)>,
    /// Session fields to delete in the same step (only if the message is journaled).
    pub delete: Vec<String>,
    /// Cap on requests without an answer; one more is `TooManyPending`.
    pub max_pending: usize,
    /// Cap on unclaimed inbox entries; one more is `TooManyPending`.
    pub max_inbox: usize,
}

/// Answer of [`SessionStore::accept`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Journaled and marked forwarded; the calling owner sends it to the upstream now, in order of `seq` (REQ-5).
    Forward {
        /// Position in the session's inbox order, from 1.
        seq: u64,
    },
    /// Journaled; the owner must claim it. If the caller is not the owner it has been woken.
    Queued {
        /// Position in the session's inbox order, from 1.
        seq: u64,
        /// Who owns the session.
        owner: Owner,
        /// Generation of that ownership.
        generation: u64,
        /// How many listeners the wake-up had. 0: the owner's process is gone (always >= 1 when the caller is owner).
        listeners: u64,
    },
    /// This POST (`X-Request-ID`) or this pending JSON-RPC id was journaled before; nothing was written (REQ-6).
    Duplicate {
        /// Position of the first one.
        seq: u64,
        /// The owner has claimed it already (it is marked forwarded).
        claimed: bool,
    },
    /// A cap is reached; nothing was written.
    TooManyPending,
    /// The session lives, but under another service than the URL names.
    WrongService,
    /// No such session (expired, closed, never existed).
    NotFound,
    /// `fence` is not the session's: the caller is not the owner any more.
    Fenced,
}

/// One message of the client on its way to the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxEntry {
    /// Position in the session's inbox order.
    pub seq: u64,
    /// Kind and id.
    pub message: ClientMessage,
    /// The message, as it came.
    pub body: Bytes,
}

/// The owner asks for the next inbox entries and thereby marks the requests among them forwarded.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Proof of ownership.
    pub fence: Fence,
    /// As in [`Accept::acked`].
    pub acked: u64,
    /// At most so many entries; 0 looks without taking.
    pub max_entries: usize,
}

/// Answer of [`SessionStore::claim`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The entries after the last claimed one, in order.
    Entries {
        /// The entries.
        entries: Vec<InboxEntry>,
        /// There are more: claim again.
        more: bool,
        /// Who holds the client streams now: (stream, incarnation, attachment id).
        attachments: Vec<Attachment>,
    },
    /// See [`Accepted::NotFound`].
    NotFound,
    /// See [`Accepted::Fenced`].
    Fenced,
}

/// An open client stream, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The stream it shows.
    pub stream: String,
    /// The process that holds the connection.
    pub incarnation: Arc<str>,
    /// Random id of the attachment.
    pub id: u64,
}

/// An event to append.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// `Some(id_key)`: this is the answer to that pending request. It is appended only if the request is pending, and
    /// the request is then answered in the same step (REQ-2).
    pub answers: Option<String>,
    /// The JSON-RPC message.
    pub body: Bytes,
    /// Session fields to set if the event is appended.
    pub set: Vec<(String, String)>,
    /// Session fields to delete if the event is appended.
    pub delete: Vec<String>,
}

/// How much of a stream's log is kept. The newest event is always kept, whatever its size.
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    /// Events older than this may go.
    pub max_age: Duration,
    /// At most so many events.
    pub max_events: usize,
    /// At most so many bytes of bodies.
    pub max_bytes: usize,
}

/// The owner appends events to one stream.
#[derive(Clone, Debug)]
pub struct Append {
    /// Proof of ownership.
    pub fence: Fence,
    /// The stream.
    pub stream: String,
    /// Number of this append within the generation, rising from 1. The same number again (a retry after a broken
    /// connection) writes nothing and returns the first answer.
    pub op: u64,
    /// The events, in order; not empty.
    pub events: Vec<NewEvent>,
    /// As in [`Accept::acked`].
    pub acked: u64,
    /// What is kept.
    pub limits: LogLimits,
}

/// Answer of [`SessionStore::append`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// One item an event: its sequence (contiguous per stream, EVT-1), or `None` when its request was not pending
    /// (answered before, or never asked) and so nothing was appended. If another process holds the stream's
    /// attachment it has been woken.
    Done(Vec<Option<u64>>),
    /// See [`Accepted::NotFound`].
    NotFound,
    /// See [`Accepted::Fenced`].
    Fenced,
}

/// A client stream is opened: last writer wins, the former holder is woken so that it sees itself superseded.
#[derive(Clone, Debug)]
pub struct Attach {
    /// The session.
    pub session: SessionId,
    /// The stream and process and attachment id.
    pub attachment: Attachment,
}

/// Answer of [`SessionStore::attach`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attached {
    /// The attachment is the stream's holder now. If the owner is another process it has been woken.
    Attached(AttachedTo),
    /// See [`Accepted::NotFound`].
    NotFound,
}

/// The session an attachment has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedTo {
    /// Who owns the session.
    pub owner: Owner,
    /// Generation of that ownership.
    pub generation: u64,
    /// The session's epoch.
    pub epoch: u32,
    /// The session's service.
    pub service: String,
    /// Principal hash it was opened with.
    pub principal: String,
    /// Listeners of the owner's wake-up (>= 1 when the caller is the owner); 0: the owner's process is gone.
    pub listeners: u64,
    /// How many attachments this stream has had, this one included.
    pub attach_count: u64,
}

/// An event of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedEvent {
    /// Position in the stream, from 1.
    pub seq: u64,
    /// The JSON-RPC message.
    pub body: Bytes,
}

/// A page of a stream's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Events after the cursor as they stand in the log, in order; the reader checks that they are contiguous (EVT-5).
    pub events: Vec<LoggedEvent>,
    /// Sequence of the newest event ever appended to the stream (0: none).
    pub last_seq: u64,
    /// Sequence of the oldest event still kept (`last_seq + 1` when none is).
    pub first_seq: u64,
    /// The session's epoch.
    pub epoch: u32,
    /// Attachment id that holds the stream now, if any.
    pub holder: Option<u64>,
}

/// A request without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRequest {
    /// Position in the session's inbox order.
    pub seq: u64,
    /// Canonical JSON text of its id.
    pub id_key: String,
    /// Marked forwarded (else it is still in the inbox).
    pub forwarded: bool,
    /// The request, as it came.
    pub body: Bytes,
}

/// Everything the store knows of a session but its bodies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionRecord {
    /// All fields of the session's hash, e.g. `service`, `owner`, `incarnation`, `generation`, `epoch`, `created_ms`,
    /// `last_active_ms`, and what the session layer has put there by `set`.
    pub fields: std::collections::BTreeMap<String, String>,
}

/// What an adopter needs to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehydration {
    /// The session's fields after the adoption.
    pub record: SessionRecord,
    /// The new fence.
    pub fence: Fence,
    /// What was in the inbox: unclaimed entries, and claimed notifications and responses that were never acked, in
    /// order. All of it counts as claimed by the adopter now (requests among it are marked forwarded only by a later
    /// [`SessionStore::mark_forwarded`]).
    pub inbox: Vec<InboxEntry>,
    /// Requests without an answer, by `seq`.
    pub pending: Vec<PendingRequest>,
    /// Last sequence of each stream.
    pub streams: Vec<(String, u64)>,
    /// Who holds the client streams.
    pub attachments: Vec<Attachment>,
}

/// Answer of [`SessionStore::adopt`].
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
    /// See [`Accepted::NotFound`].
    NotFound,
}

/// Answer of an owner's write that has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenceable {
    /// Written.
    Done,
    /// See [`Accepted::NotFound`].
    NotFound,
    /// See [`Accepted::Fenced`].
    Fenced,
}

/// One running instance, as its lease tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceInfo {
    /// Who.
    pub owner: Owner,
    /// `host:port` it listens on.
    pub address: String,
    /// Version of the program.
    pub version: String,
    /// Start, milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// Sessions it owns.
    pub sessions: u64,
}

/// Answer of [`SessionStore::lease_acquire`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAcquired {
    /// The instance id is ours.
    Acquired,
    /// Another live process has this instance id (OWN-11).
    HeldBy(InstanceInfo),
}

/// Answer of [`SessionStore::lease_renew`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseRenewed {
    /// Still ours.
    Renewed,
    /// It had run out and nobody else has it; it is ours again.
    Reacquired,
    /// Another process has it now.
    Lost,
}

/// "Look at this session." Carries no truth of its own: a lost wake-up costs delay, never data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something about this session changed: its inbox, its attachments, or a log we show.
    Session(SessionId),
    /// Wake-ups may have been lost (the subscription was made again): look at everything.
    All,
}

/// Why the store did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No answer: connection refused or broken, time-out. Whether the write happened is unknown; every operation may
    /// be repeated as it is.
    #[error("the session store does not answer: {0}")]
    Unavailable(String),
    /// The store refused for lack of room (`maxmemory`). Nothing was written.
    #[error("the session store is full: {0}")]
    Full(String),
    /// The router's own queue to the store is full. Nothing was written.
    #[error("too many operations are waiting for the session store")]
    Overloaded,
    /// An answer that makes no sense: a key of the wrong type, a field that is no number.
    #[error("the session store answered nonsense: {0}")]
    Corrupt(String),
}

/// Result of a store operation.
pub type StoreResult<T> = Result<T, StoreError>;

/// The store. All operations are safe to repeat after [`StoreError::Unavailable`].
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Creates a session.
    async fn create(&self, new: NewSession) -> StoreResult<Created>;

    /// Journals one message of the client. Checks, in order: session exists; service; fence (if given); `request_id`
    /// seen; JSON-RPC id pending; caps. Direct forwarding happens only if `forward_now`, the fence holds and every
    /// earlier entry is claimed; otherwise the entry waits in the inbox. Without a fence the owner is woken.
    /// A directly forwarded notification or response stays in the inbox until acked, so that an adopter finds it.
    async fn accept(&self, accept: Accept) -> StoreResult<Accepted>;

    /// Hands the owner the next inbox entries; requests among them are marked forwarded and leave the inbox
    /// (their body moves to the request table).
    async fn claim(&self, claim: Claim) -> StoreResult<Claimed>;

    /// Marks requests forwarded (again) that an adopter got in [`Rehydration`]: by id, must be pending. Their inbox
    /// entries are dropped.
    async fn mark_forwarded(&self, fence: &Fence, id_keys: &[String]) -> StoreResult<Fenceable>;

    /// Appends events and answers requests.
    async fn append(&self, append: Append) -> StoreResult<Appended>;

    /// Requests without an answer, by `seq`.
    async fn pending(&self, session: SessionId) -> StoreResult<Vec<PendingRequest>>;

    /// Takes requests off the request table without an answer (cancelled ones): ids that are not pending are ignored.
    async fn forget_requests(&self, fence: &Fence, id_keys: &[String]) -> StoreResult<Fenceable>;

    /// Sets one field without proof of ownership: for hints between instances, never for truth. `false`: no session.
    async fn hint(&self, session: SessionId, field: &str, value: &str) -> StoreResult<bool>;

    /// Sets and deletes session fields, as owner.
    async fn update(&self, fence: &Fence, set: &[(String, String)], delete: &[String]) -> StoreResult<Fenceable>;

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

    /// Compare-and-set of the owner: succeeds only if owner incarnation and generation are still `from`. Raises the
    /// generation. An entry with no owner (released) has incarnation `""`.
    async fn adopt(
        &self,
        session: SessionId,
        from_incarnation: &str,
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

    /// The session's fields.
    async fn load(&self, session: SessionId) -> StoreResult<Option<SessionRecord>>;

    /// Up to `limit` sessions with their fields, in no order (Redis: `SCAN`, never `KEYS`).
    async fn list(&self, limit: usize) -> StoreResult<Vec<(SessionId, SessionRecord)>>;

    /// Ids of the sessions that an instance's index names (some may be gone).
    async fn owned_by(&self, instance_id: &str) -> StoreResult<Vec<SessionId>>;

    /// Takes the instance id for this process for `ttl` (the server's clock).
    async fn lease_acquire(&self, info: &InstanceInfo, ttl: Duration) -> StoreResult<LeaseAcquired>;

    /// Renews the lease and the figures in it.
    async fn lease_renew(&self, info: &InstanceInfo, ttl: Duration) -> StoreResult<LeaseRenewed>;

    /// Gives the lease up if it is ours.
    async fn lease_release(&self, owner: &Owner) -> StoreResult<()>;

    /// The process whose living lease has this instance id.
    async fn lease_holder(&self, instance_id: &str) -> StoreResult<Option<Owner>>;

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

    /// `memory` or `redis`.
    fn kind(&self) -> &'static str;
}
