//! The event logs of a session, one a stream, and who shows them. EVT-1 to EVT-9, OWN-7, OWN-8
//!
//! A session has as many streams as its transport makes; each operation here names the one it is about. The owner
//! appends; whoever shows a stream reads it, whichever process that is.

use std::{borrow::Cow, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    binding::Binding,
    head::HeadChange,
    types::{Attachment, Fence, Owner, StoreResult},
};
use crate::protocol::{session_id::SessionId, stream_key::StreamKey};

/// See module documentation. All operations are safe to repeat after any error.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Appends events and answers requests.
    async fn append(&self, append: Append) -> StoreResult<Appended>;

    /// Reads up to `max_events` events of a log, or as many as first reach `max_bytes` (at least one), after `after`. Of
    /// events of other streams than `view` only the place is told. `None`: no such session.
    async fn read_page(
        &self,
        session: SessionId,
        stream: &str,
        view: StreamKey,
        after: u64,
        max_events: usize,
        max_bytes: usize,
    ) -> StoreResult<Option<Page>>;

    /// Makes an attachment the holder of its stream.
    async fn attach(&self, attach: Attach) -> StoreResult<Attached>;

    /// Ends an attachment; does nothing if another holds the stream by now (OWN-8). `true` if it was the holder.
    async fn detach(&self, session: SessionId, stream: &str, attachment_id: u64) -> StoreResult<bool>;
}

/// An event to append.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// `Some(id_key)`: this is the answer to that pending request. It is appended only if the request is pending, and
    /// the request is then answered in the same step (REQ-2).
    pub answers: Option<Arc<str>>,
    /// The client's stream that is to show it.
    pub view: StreamKey,
    /// The JSON-RPC message.
    pub body: Bytes,
    /// What changes in the session's head if the event is appended.
    pub changes: Vec<HeadChange>,
}

impl NewEvent {
    /// The answer to a pending request.
    pub fn answer(id_key: Arc<str>, body: Bytes) -> Self {
        Self { answers: Some(id_key), view: StreamKey::Main, body, changes: Vec::new() }
    }

    /// A notification or a request of the server.
    pub fn message(body: Bytes) -> Self {
        Self { answers: None, view: StreamKey::Main, body, changes: Vec::new() }
    }

    /// Shown by this stream.
    pub fn on(mut self, view: StreamKey) -> Self {
        self.view = view;
        self
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
    /// As in [`Accept::acked`](super::Accept::acked).
    pub acked: u64,
    /// The last sequence of this stream that the owner knows; see [`Accepted::Older`](super::Accepted::Older).
    pub known: u64,
    /// What is kept.
    pub limits: LogLimits,
}

/// Answer of [`super::EventLog::append`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// One item an event: its sequence (contiguous per stream, EVT-1), or `None` when its request was not pending
    /// (answered before, or never asked) and so nothing was appended. If another process holds the stream's
    /// attachment it has been woken.
    Done {
        /// See above.
        seqs: Vec<Option<u64>>,
        /// Of these, answers to requests whose streams somebody shows who has the word of it: this process by the store's
        /// record, or another one that was woken.
        shown: Vec<u64>,
    },
    /// See [`Accepted::NotFound`](super::Accepted::NotFound).
    NotFound,
    /// See [`Accepted::Fenced`](super::Accepted::Fenced).
    Fenced,
    /// See [`Accepted::Older`](super::Accepted::Older).
    Older,
}

/// An event of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedEvent {
    /// Position in the log, from 1.
    pub seq: u64,
    /// The JSON-RPC message; `None`: it is of another stream.
    pub body: Option<Bytes>,
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
    /// Events of this very stream may be kept no more up to here (0: none is missing). All streams of a session share its log.
    pub gone: u64,
    /// The session's epoch.
    pub epoch: u32,
    /// Attachment id that holds the stream now, if any.
    pub holder: Option<u64>,
}

/// A client stream is opened: last writer wins, the former holder is woken so that it sees itself superseded.
#[derive(Clone, Debug)]
pub struct Attach {
    /// The session.
    pub session: SessionId,
    /// The stream and process and attachment id.
    pub attachment: Attachment,
    /// Who asks; `None`: who shows the stream already. SEC-1
    pub by: Option<Binding>,
}

/// Answer of [`super::EventLog::attach`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attached {
    /// The attachment is the stream's holder now. If the owner is another process it has been woken.
    Attached(AttachedTo),
    /// See [`Accepted::NotFound`](super::Accepted::NotFound).
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
    /// Listeners of the owner's wake-up (>= 1 when the caller is the owner); 0 as in [`Accepted::Queued`](super::Accepted::Queued).
    pub listeners: u64,
    /// How many attachments this stream has had, this one included.
    pub attach_count: u64,
}
