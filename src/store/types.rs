//! What the operations of a [`SessionStore`](super::SessionStore) take and give.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;

use super::head::{Continuation, HeadChange, SessionHead};
use crate::protocol::{post_id::PostId, session_id::SessionId};

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

/// What the owner still knows of a session that the store has lost. Its logs are lost: the epoch is a new one, so that
/// cursors of the old life are recognised (EVT-6).
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Generation of the ownership; stays.
    pub generation: u64,
    /// Last sequence of the inbox; stays, all of it claimed.
    pub in_seq: u64,
    /// What it has put on record.
    pub continuation: Continuation,
    /// Requests in flight: (canonical id, sequence). Their bodies are lost, so that an adopter cannot repeat them.
    pub pending: Vec<(String, u64)>,
}

/// Answer of [`super::SessionStore::create`].
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
        id_key: Arc<str>,
    },
    /// No id.
    Notification,
    /// `notifications/cancelled`: a notification that gives up a request of the client. Its journaling marks that request
    /// in the same step, if it has no answer ([`Continuation::cancelled`]), so that whoever owns the session later knows it. REQ-4
    Cancel {
        /// Canonical JSON text of the request's id.
        id_key: Arc<str>,
    },
    /// Answers a request of the server.
    Response,
}

impl ClientMessage {
    /// It is about what the server works on now, and of no use to a later upstream session: see [`Claim::urgent_after`].
    pub fn is_urgent(&self) -> bool {
        matches!(self, Self::Response | Self::Cancel { .. })
    }
}

/// One POST of the client, to be journaled.
#[derive(Clone, Debug)]
pub struct Accept {
    /// The session that the URL names.
    pub session: SessionId,
    /// The service that the URL names, if it does.
    pub service: Option<String>,
    /// Identity of the POST (`X-Request-ID`, equal over nginx's tries; else made by the router). REQ-6.
    pub post_id: PostId,
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
    /// Owner only: the last sequence of which it knows that it counts as claimed; see [`Accepted::Older`].
    pub known: u64,
    /// What changes in the session's head in the same step (only if the message is journaled).
    pub changes: Vec<HeadChange>,
    /// Cap on requests without an answer; one more is `TooManyPending`.
    pub max_pending: usize,
    /// Cap on unclaimed inbox entries; one more is `TooManyPending`.
    pub max_inbox: usize,
    /// Cap on the bytes of bodies that wait for the upstream or for an answer, this one included; one more is
    /// `TooManyBytes`.
    pub max_bytes: usize,
}

/// Answer of [`super::SessionStore::accept`].
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
        /// How many listeners the wake-up had (always >= 1 when the caller is owner). 0: the owner may be gone; or it lives, and
        /// its subscription is away.
        listeners: u64,
    },
    /// This POST (`X-Request-ID`) or this very request, which is pending, was journaled before; nothing was written (REQ-6).
    Duplicate {
        /// Position of the first one.
        seq: u64,
        /// The owner has claimed it already (it is marked forwarded).
        claimed: bool,
    },
    /// A pending request with another body has this id; nothing was written.
    IdInUse,
    /// A cap is reached; nothing was written.
    TooManyPending,
    /// The cap in bytes is reached; nothing was written.
    TooManyBytes,
    /// The session lives, but under another service than the URL names.
    WrongService,
    /// No such session (expired, closed, never existed).
    NotFound,
    /// `fence` is not the session's: the caller is not the owner any more.
    Fenced,
    /// The fence holds, but the owner has seen more than there is (`known`): the store has come back with older data. Nothing
    /// was done. [`super::SessionStore::rewrite`]
    Older,
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
///
/// A reply may be lost, and a journaling may be executed when its caller has long given it up: then entries count as
/// claimed that the owner has never seen. It sees it by the numbers, and asks for them by `missing_from`.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Proof of ownership.
    pub fence: Fence,
    /// As in [`Accept::acked`].
    pub acked: u64,
    /// As in [`Accept::known`].
    pub known: u64,
    /// The last sequence of a stream that the owner knows.
    pub known_event: (Cow<'static, str>, u64),
    /// At most so many entries; 0 looks without taking.
    pub max_entries: usize,
    /// The lowest sequence that the owner has not seen, when it may have missed some that count as claimed: those from here
    /// on that have not been acked or answered are handed out again, before any new one.
    pub missing_from: Option<u64>,
    /// What must not wait for the next owner is handed out, too, past the requests before it, if its sequence is greater:
    /// answers to the server and cancels. It is not claimed, and stays in the inbox. For an owner that drains. DRN-2
    pub urgent_after: Option<u64>,
}

impl Claim {
    /// Takes up to `max_entries` new entries.
    pub fn new(fence: Fence, acked: u64, max_entries: usize) -> Self {
        Self {
            fence,
            acked,
            known: 0,
            known_event: (Cow::Borrowed(""), 0),
            max_entries,
            missing_from: None,
            urgent_after: None,
        }
    }
}

/// What a [`Claim`] has handed out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// The entries, in order: those that were missing, then new ones.
    pub entries: Vec<InboxEntry>,
    /// Of the sequences after this one and up to `upto` nothing will ever come but these entries.
    pub after: u64,
    /// The last one that counts as claimed and was looked at.
    pub upto: u64,
    /// There are more: claim again.
    pub more: bool,
    /// Not claimed, see [`Claim::urgent_after`].
    pub urgent: Vec<InboxEntry>,
    /// Sequence of the last entry ever journaled.
    pub last: u64,
}

/// Answer of [`super::SessionStore::claim`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The entries after the last claimed one, in order, and what else was asked for.
    Entries {
        /// The entries.
        handed: Handed,
        /// Who holds the client streams now: (stream, incarnation, attachment id).
        attachments: Vec<Attachment>,
    },
    /// See [`Accepted::NotFound`].
    NotFound,
    /// See [`Accepted::Fenced`].
    Fenced,
    /// See [`Accepted::Older`].
    Older,
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
    pub answers: Option<Arc<str>>,
    /// The JSON-RPC message.
    pub body: Bytes,
    /// What changes in the session's head if the event is appended.
    pub changes: Vec<HeadChange>,
}

impl NewEvent {
    /// The answer to a pending request.
    pub fn answer(id_key: Arc<str>, body: Bytes) -> Self {
        Self { answers: Some(id_key), body, changes: Vec::new() }
    }

    /// A notification or a request of the server.
    pub fn message(body: Bytes) -> Self {
        Self { answers: None, body, changes: Vec::new() }
    }

    /// Changes the session's head in the same step.
    pub fn changing(mut self, change: HeadChange) -> Self {
        self.changes.push(change);
        self
    }
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
    pub stream: Cow<'static, str>,
    /// Number of this append within the generation, rising from 1. The same number again (a retry after a broken
    /// connection) writes nothing and returns the first answer.
    pub op: u64,
    /// The events, in order; not empty.
    pub events: Arc<[NewEvent]>,
    /// How far the client's connection had come on this stream, if that is to be kept ([`super::StreamHead::sent`]).
    pub sent: Option<u64>,
    /// As in [`Accept::acked`].
    pub acked: u64,
    /// The last sequence of this stream that the owner knows; see [`Accepted::Older`].
    pub known: u64,
    /// What is kept.
    pub limits: LogLimits,
}

/// Answer of [`super::SessionStore::append`].
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
    /// See [`Accepted::Older`].
    Older,
}

/// A client stream is opened: last writer wins, the former holder is woken so that it sees itself superseded.
#[derive(Clone, Debug)]
pub struct Attach {
    /// The session.
    pub session: SessionId,
    /// The stream and process and attachment id.
    pub attachment: Attachment,
}

/// Answer of [`super::SessionStore::attach`].
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
    /// Listeners of the owner's wake-up (>= 1 when the caller is the owner); 0 as in [`Accepted::Queued`].
    pub listeners: u64,
    /// How many attachments this stream has had, this one included.
    pub attach_count: u64,
}

/// The sessions of one client, as [`super::SessionStore::client_sessions`] lists them. Hints: a session may be gone, or be
/// shown by somebody else by now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Whose streams are shown: by which process (a few of each one's), and the session.
    pub shown: Vec<(Arc<str>, SessionId)>,
    /// Whose streams have ended: the session, and how long ago; newest first, the first few.
    pub left: Vec<(SessionId, Duration)>,
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
    pub id_key: Arc<str>,
    /// Marked forwarded (else it is still in the inbox).
    pub forwarded: bool,
    /// The request, as it came.
    pub body: Bytes,
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
    /// [`super::SessionStore::mark_forwarded`]).
    pub inbox: Vec<InboxEntry>,
    /// Requests without an answer, by `seq`.
    pub pending: Vec<PendingRequest>,
}

/// Answer of [`super::SessionStore::adopt`].
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
    /// Which process it is, for those on its machine ([`ProcessId`](crate::cluster::process::ProcessId)); empty when it
    /// cannot tell, or is older than the field.
    pub process: String,
}

/// Answer of [`super::SessionStore::lease_acquire`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAcquired {
    /// The instance id is ours.
    Acquired,
    /// Another live process has this instance id (OWN-11).
    HeldBy(InstanceInfo),
}

/// Answer of [`super::SessionStore::lease_renew`].
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
    /// The store cannot be used as it is configured: no right, wrong password, too old, no Redis at all. Nothing was
    /// written, and trying again does not help until a person has done something.
    #[error("the session store cannot be used: {0}")]
    Unusable(String),
    /// The router's own queue to the store is full. Nothing was written.
    #[error("too many operations are waiting for the session store")]
    Overloaded,
    /// An answer that makes no sense: a key of the wrong type, a field that is no number.
    #[error("the session store answered nonsense: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// What went wrong, without what kind of error it is.
    pub fn reason(&self) -> String {
        match self {
            Self::Unavailable(text) | Self::Full(text) | Self::Unusable(text) | Self::Corrupt(text) => text.clone(),
            Self::Overloaded => self.to_string(),
        }
    }
}

/// Result of a store operation.
pub type StoreResult<T> = Result<T, StoreError>;
