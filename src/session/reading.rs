//! What is read of an upstream session beside its own stream, and what of it an heir goes on with: plain types.

use bytes::Bytes;

use super::core::cursors::Cursors;
use crate::{
    protocol::jsonrpc::IdKey,
    store::Continuation,
    upstream::{LinkHandle, Reply, Via, resumption::Resumption},
};

/// A request that still waits for an answer, and the POST that carries it.
#[derive(Debug)]
pub(super) struct Carried {
    /// Number of the POST.
    pub(super) number: u64,
    /// Sequence of the message.
    pub(super) seq: u64,
    pub(super) id: IdKey,
    pub(super) body: Bytes,
}

/// The answer to a POST, as far as it has been read.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) reply: Reply,
    /// The link on which it was posted.
    pub(super) link: u64,
    pub(super) carried: Option<Carried>,
    pub(super) until: tokio::time::Instant,
    pub(super) attempts: Resumption,
    /// It was asked for by itself, and goes on behind the response.
    pub(super) is_resumed: bool,
}

/// What a session has of the streams of its upstream session.
#[derive(Debug, Default)]
pub(super) struct Streamed {
    /// Shows the upstream session's own stream.
    pub(super) listener: Option<LinkHandle>,
    /// How far they have been read.
    pub(super) cursors: Cursors,
    /// A timer will write what is due of these.
    pub(super) cursors_timer: bool,
    /// By what the message has come that is being handled.
    pub(super) arriving: Option<Via>,
    /// An upstream session of the former owner that this one can go on with.
    pub(super) kept: Option<Kept>,
}

impl Streamed {
    /// As an adopter finds it. `is_begun`: there has been a handshake.
    pub(super) fn inherit(found: &mut Continuation, is_begun: bool) -> Self {
        let cursors = Cursors::inherit(found);
        Self { cursors, kept: Kept::of(found).filter(|_| is_begun), ..Self::default() }
    }
}

/// An upstream session that its owner has left, as it stands on record.
#[derive(Debug)]
pub(super) struct Kept {
    /// As [`Uplink::stored`](crate::upstream::Uplink::stored).
    pub(super) session: String,
    /// The URL of its endpoint, as it is shown.
    pub(super) endpoint: String,
    /// Requests that are resumed once messages flow.
    pub(super) resumed: Vec<Carried>,
}

impl Kept {
    pub(super) fn of(found: &Continuation) -> Option<Self> {
        let (session, endpoint) = found.upstream_session.clone().zip(found.endpoint.clone())?;
        Some(Self { session, endpoint, resumed: Vec::new() })
    }
}
