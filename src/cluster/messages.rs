//! What a worker thread's [`Host`](super::host::Host) and the [`Registry`](super::registry::Registry) are told and asked, and
//! where ([`HostAddr`], [`RegistryAddr`]).

use actix::prelude::*;

use super::turns::TakeTurn;
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

/// Asks to be one of the adoptions that this process makes in a second (`MCP_ADOPT_RATE`). The reply, when there is room, is
/// the whole effect. STM-1
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AwaitRoom;

/// The registry, for those who adopt and create sessions.
#[derive(Debug, Clone)]
pub struct RegistryAddr {
    /// For the turn of a session.
    pub turn: Recipient<TakeTurn>,
    /// For the pace of adoptions.
    pub room: Recipient<AwaitRoom>,
}
