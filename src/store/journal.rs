//! The journal of a session: what its client has sent, until it has reached the server and has its answer. REQ-1 to REQ-6
//!
//! Any instance journals; the owner claims what others have journaled.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    binding::Binding,
    head::HeadChange,
    types::{Attachment, Fence, Fenceable, Owner, StoreResult},
};
use crate::protocol::{post_id::PostId, session_id::SessionId};

/// See module documentation. All operations are safe to repeat after any error.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Journals one message of the client. Checks, in order: session exists, and answers to who asks; service; version; fence
    /// (if given); `post_id`
    /// seen; JSON-RPC id pending; caps. Direct forwarding happens only if `forward_now`, the fence holds and every
    /// earlier entry is claimed; otherwise the entry waits in the inbox. Without a fence the owner is woken.
    /// A directly forwarded notification or response stays in the inbox until acked, so that an adopter finds it.
    async fn accept(&self, accept: Accept) -> StoreResult<Accepted>;

    /// Hands the owner the next inbox entries; requests among them are marked forwarded and leave the inbox
    /// (their body moves to the request table). What it has handed out before, and every direct forwarding, is handed out
    /// again on demand ([`Claim::missing_from`]) until it is acked or answered: a reply may be lost.
    async fn claim(&self, claim: Claim) -> StoreResult<Claimed>;

    /// Marks requests forwarded (again) that an adopter got in [`Rehydration`](super::Rehydration): by id, must be pending. Their inbox
    /// entries are dropped.
    async fn mark_forwarded(&self, fence: &Fence, id_keys: &[String]) -> StoreResult<Fenceable>;

    /// Requests without an answer, by `seq`.
    async fn pending(&self, session: SessionId) -> StoreResult<Vec<PendingRequest>>;

    /// Canonical ids of the requests without an answer, in no order.
    async fn pending_ids(&self, session: SessionId) -> StoreResult<Vec<Arc<str>>>;

    /// Takes requests (canonical id, sequence) off the request table without an answer, and their marks of a cancel. What is
    /// not pending with this very sequence is left alone: the id may have been used again.
    async fn forget_requests(&self, fence: &Fence, requests: &[(String, u64)]) -> StoreResult<Fenceable>;

    /// Forgets a POST: its name belongs to the next one that bears it. For names that are not of one POST alone, once
    /// their sender has its answer (REQ-6). `false`: it was not known.
    async fn forget_post(&self, session: SessionId, post_id: PostId) -> StoreResult<bool>;

    /// The client of this POST, a request, was told an error, because nobody knew whether it was journaled. If it was not, it never will be
    /// ([`Accepted::Disowned`]); if it waits for its owner, it is taken away; else its answer goes out on no stream any
    /// more, as one that has gone out on the main stream ([`Continuation::moved`](super::Continuation::moved)), unless
    /// the same request is posted again while it is pending. REQ-2
    async fn disown(&self, session: SessionId, post_id: PostId, id_key: &str) -> StoreResult<Disowned>;
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
    /// in the same step, if it has no answer ([`Continuation::cancelled`](super::Continuation::cancelled)), so that whoever
    /// owns the session later knows it. REQ-4
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
    /// Who asks. What it may do more than who asked before, the session's next user must be allowed, too. SEC-1
    pub by: Binding,
    /// The service that the URL names, if it does.
    pub service: Option<String>,
    /// The protocol version that the POST names, to be compared with [`Continuation::version`](super::Continuation::version). An
    /// owner compares by itself.
    pub version: Option<&'static str>,
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
    /// Who shows the stream of this request from now on: process and attachment. Also if it was journaled before.
    pub shown_by: Option<(Arc<str>, u64)>,
    /// Cap on requests without an answer; one more is `TooManyPending`.
    pub max_pending: usize,
    /// Cap on unclaimed inbox entries; one more is `TooManyPending`.
    pub max_inbox: usize,
    /// Cap on the bytes of bodies that wait for the upstream or for an answer, this one included; one more is
    /// `TooManyBytes`.
    pub max_bytes: usize,
}

/// Where the stream of a request begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownFrom {
    /// The session's epoch.
    pub epoch: u32,
    /// Last sequence of the event log: nothing up to here is about a request that is new.
    pub last_event: u64,
}

/// Answer of [`super::Journal::accept`].
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
        /// To whoever shows its answer ([`Accept::shown_by`]).
        shown: Option<ShownFrom>,
    },
    /// This POST (`X-Request-ID`) or this very request, which is pending, was journaled before; nothing was written (REQ-6).
    Duplicate {
        /// Position of the first one.
        seq: u64,
        /// The owner has claimed it already (it is marked forwarded).
        claimed: bool,
        /// To whoever shows its answer ([`Accept::shown_by`]).
        shown: Option<ShownFrom>,
    },
    /// A pending request with another body has this id; nothing was written.
    IdInUse,
    /// A cap is reached; nothing was written.
    TooManyPending,
    /// The cap in bytes is reached; nothing was written.
    TooManyBytes,
    /// The session lives, and does not answer to who asks ([`Accept::by`]). To him it does not exist.
    Stranger,
    /// The session lives, but under another service than the URL names.
    WrongService,
    /// Client and server have agreed on another protocol version than the POST names.
    OtherVersion,
    /// [`Journal::disown`] came before this try of the POST; nothing was written.
    Disowned,
    /// No such session (expired, closed, never existed).
    NotFound,
    /// `fence` is not the session's: the caller is not the owner any more.
    Fenced,
    /// The fence holds, but the owner has seen more than there is (`known`): the store has come back with older data. Nothing
    /// was done. [`super::Sessions::rewrite`]
    Older,
}

/// Answer of [`Journal::disown`]: what becomes of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disowned {
    /// There is no such session any more.
    NotFound,
    /// It has not run and never will.
    Never,
    /// It runs or has run, and its answer goes out on no stream.
    Silenced,
    /// Another POST has asked for the same request since, and is answered. Nothing was done.
    Shared,
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
    /// See [`Continuation::traces`](super::Continuation::traces).
    pub traces: BTreeMap<String, String>,
}

/// Answer of [`super::Journal::claim`].
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
