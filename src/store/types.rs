//! What all roles of a store share: who writes, who shows a stream, and what can go wrong.

use std::sync::Arc;

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

/// Answer of an owner's write that has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenceable {
    /// Written.
    Done,
    /// See [`super::Accepted::NotFound`].
    NotFound,
    /// See [`super::Accepted::Fenced`].
    Fenced,
}

/// Why the store did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It was handed to the store, and there is no answer: the connection broke, or a time-out. Whether the write happened, or
    /// will yet, is unknown; every operation may be repeated as it is.
    #[error("the session store does not answer: {0}")]
    Unavailable(String),
    /// It was not handed to the store (no connection in time, no turn in time), or the store cannot serve now and says so.
    /// Nothing was written, and nothing will be; the operation may be repeated.
    #[error("the session store cannot be used now: {0}")]
    NotDone(String),
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
    /// The write may have been done, or may yet be.
    pub fn may_be_done(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Corrupt(_) => true,
            Self::NotDone(_) | Self::Full(_) | Self::Unusable(_) | Self::Overloaded => false,
        }
    }

    /// What went wrong, without what kind of error it is.
    pub fn reason(&self) -> String {
        match self {
            Self::Unavailable(text)
            | Self::NotDone(text)
            | Self::Full(text)
            | Self::Unusable(text)
            | Self::Corrupt(text) => text.clone(),
            Self::Overloaded => self.to_string(),
        }
    }
}

/// Result of a store operation.
pub type StoreResult<T> = Result<T, StoreError>;
