//! What a worker thread's [`Host`](super::host::Host) is told and asked, and where ([`HostAddr`]).

use actix::prelude::*;

use crate::{protocol::session_id::SessionId, store::Owner};

/// Adopts a session from the owner that had it with this generation and is gone. Reply: whether this process owns it
/// now.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct AdoptHere {
    /// The session.
    pub session: SessionId,
    /// Who owns it according to the store.
    pub owner: Owner,
    /// Generation of that ownership.
    pub generation: u64,
    /// The session's service.
    pub service: String,
    /// Label of the metric.
    pub cause: &'static str,
}

/// Asks whether the thread runs. The reply is the whole effect.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AreYouThere;

/// A worker thread's host.
#[derive(Debug, Clone)]
pub struct HostAddr {
    /// For adoptions.
    pub adopt: Recipient<AdoptHere>,
    /// For the question whether it runs.
    pub there: Recipient<AreYouThere>,
}
