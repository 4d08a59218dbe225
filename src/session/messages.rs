//! What a [`SessionActor`](super::actor::SessionActor) is told and asked, and what it replies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::prelude::*;
use bytes::Bytes;

use super::attachment::Attachment;
use crate::{
    protocol::{jsonrpc::Said, post_id::PostId},
    settings::RedisSettings,
    store::{Binding, Owner, StoreError, StoreResult},
    traces::Place,
};

/// A POST of the client, parsed once.
#[derive(Debug)]
pub struct Posted {
    /// The message.
    pub body: Bytes,
    /// What it says.
    pub said: Said,
    /// Who has sent it. SEC-1
    pub by: Binding,
    /// Service that the URL names.
    pub service: Option<Arc<str>>,
    /// Identity of the POST.
    pub post_id: PostId,
    /// It carried `MCP-Protocol-Version`.
    pub versioned: bool,
    /// Which, where it must be the one that was agreed on (Streamable HTTP).
    pub version: Option<&'static str>,
    /// It is a request whose answer goes to a stream of its own, on the connection by which it came (Streamable HTTP).
    pub own_stream: bool,
    /// Where it stands in a trace.
    pub place: Option<Place>,
    /// What is known of the tries to journal it.
    pub tries: Tries,
}

/// The tries to journal a POST, at whatever owner: what became of those that have failed.
#[derive(Debug, Default)]
pub struct Tries(AtomicBool);

impl Posted {
    /// A try has failed.
    pub fn failed(&self, error: &StoreError) {
        if error.may_be_done() {
            self.is_lost();
        }
    }

    /// Nobody will hear what became of a try.
    pub fn is_lost(&self) {
        self.tries.0.store(true, Ordering::Relaxed);
    }

    /// Some try has failed, and may have been done, or may yet be.
    pub fn is_in_doubt(&self) -> bool {
        self.tries.0.load(Ordering::Relaxed)
    }

    /// How long the one who posted waits for the store. One who would be told that nobody knows waits longer, if he waits on a
    /// stream of his own, and holds nobody up.
    pub fn patience(&self, redis: &RedisSettings) -> Duration {
        if self.own_stream && self.is_in_doubt() { redis.wait.max(redis.doubt_wait) } else { redis.wait }
    }
}

/// A POST of the client arrived on this process. Effect: journaled, then forwarded in order. Reply: what to answer.
#[derive(Debug, Message)]
#[rtype(result = "Result<Delivered, DeliverError>")]
pub struct Deliver(pub Arc<Posted>);

/// The message is journaled (REQ-1): answer 202, or show the stream of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// Journaled now.
    Accepted(Option<AnswerStream>),
    /// Journaled before; nothing happened (REQ-6).
    Duplicate(Option<AnswerStream>),
}

/// The stream of a request ([`Posted::own_stream`]), for the connection that is to show it.
#[derive(Debug, Clone)]
pub struct AnswerStream {
    /// Its mailbox, which the owner fills already if it is in this process.
    pub attachment: Arc<Attachment>,
    /// The session's epoch.
    pub epoch: u32,
    /// Nothing in the log up to here is for it.
    pub from: u64,
    /// The store knows who shows it: its owner is elsewhere.
    pub is_registered: bool,
}

impl PartialEq for AnswerStream {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.attachment, &other.attachment)
    }
}

impl Eq for AnswerStream {}

impl Delivered {
    /// The stream of its answer.
    pub fn into_stream(self) -> Option<AnswerStream> {
        let (Self::Accepted(stream) | Self::Duplicate(stream)) = self;
        stream
    }
}

/// Why a message was not journaled (or is not known to be).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliverError {
    /// This process does not own the session (any more): take the way by the store.
    NotOwner,
    /// The session is gone: 404.
    Gone,
    /// The store does not know the session; the actor finds out whether it is over or was lost. Ask again soon.
    Vanished,
    /// The URL names another service: 404.
    WrongService,
    /// Client and server have agreed on another protocol version than the POST names: 400.
    OtherVersion,
    /// A request without an answer has this id and another body: 400.
    IdInUse,
    /// A cap is reached: 503.
    TooMany,
    /// The cap in bytes is reached: 503.
    TooManyBytes,
    /// The requests of this process hold too much together: 503.
    InstanceFull,
    /// The store does not answer, or refuses: 503. The message was not journaled, and will not be.
    StoreUnavailable,
    /// The store has not answered: 503. The message may have been journaled, or may yet be.
    InDoubt,
}

/// "Look at the store": the inbox or the attachments may have changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Look;

/// A client stream of this session was opened on this process; it is the holder in the store already.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AttachLocal {
    /// The stream.
    pub attachment: Arc<Attachment>,
}

/// A client stream of this process has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Detached {
    /// Its attachment id.
    pub attachment: u64,
}

/// The registry's periodic look: time for idle work. Reply: what the registry should do about the session.
#[derive(Debug, Message)]
#[rtype(result = "Upkeep")]
pub struct Tick;

/// Reply to [`Tick`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upkeep {
    /// In use: its life in the store should be extended.
    Touch,
    /// Nothing.
    Leave,
    /// Nobody needs it any more: delete it.
    Purge,
}

/// This process has as many sessions as it may: go, if no client is there and nothing is under way; the record stays in the
/// store. Reply: whether the session has gone.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct MakeRoom;

/// The process is draining: hand the session over as soon as nothing is in flight. Reply at once; the actor stops later.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Drain {
    /// Hand over now, whatever is in flight.
    pub now: bool,
}

/// For tests and the admin surface.
#[derive(Debug, Message)]
#[rtype(result = "Snapshot")]
pub struct TakeSnapshot;

/// What an owner knows of a session beyond the store.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Snapshot {
    /// Generation of its ownership.
    pub generation: u64,
    /// `idle`, `opening`, `handshake`, `open`.
    pub link: &'static str,
    /// URL of the endpoint.
    pub endpoint: Option<String>,
    /// Requests in flight.
    pub in_flight: usize,
    /// Requests of the server that the client has not answered.
    pub server_requests: usize,
    /// Last appended sequence.
    pub last_seq: u64,
    /// The client's stream is on this process.
    pub attached: bool,
}

/// Asks the judge of owners whether the process is gone that has a client's stream on record. Reply: whether it is;
/// `false` also when that cannot be told yet.
#[derive(Debug, Message)]
#[rtype(result = "StoreResult<bool>")]
pub struct IsGone {
    /// Its incarnation, which is all that is on record of it.
    pub holder: Arc<str>,
    /// The owner of the session, who mostly is the same process.
    pub owner: Option<Owner>,
}
