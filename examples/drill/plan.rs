//! What all sessions of a run have in common: how they speak, and what they have patience for.

use std::time::Duration;

use testkit::connection::Target;

/// How clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// HTTP+SSE (2024-11-05).
    Sse,
    /// Streamable HTTP (2025-11-25).
    Streamable,
    /// Every other session each.
    Mixed,
    /// Without sessions (2026-07-28): see `stateless`.
    Stateless,
}

/// How a client comes back after its stream has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Reconnect {
    /// Without a pause.
    AtOnce,
    /// After the time that the server has told by `retry:`, as an `EventSource` and the SDKs do.
    Retry,
    /// Every other session at once.
    Mixed,
}

/// What all sessions have in common.
#[derive(Debug)]
pub struct Plan {
    /// How clients speak.
    pub transport: Transport,
    /// Where an HTTP+SSE client opens its stream.
    pub sse: Target,
    /// Where a Streamable HTTP client sends everything.
    pub mcp: Target,
    /// In each key and text, so that runs on one cluster do not meet.
    pub run: String,
    /// Calls of a session side by side.
    pub calls: usize,
    /// Longest pause between two calls.
    pub think: Duration,
    /// A call without an answer for longer makes the client open its stream anew.
    pub silence: Duration,
    /// A GET without an answer for longer is tried again.
    pub open_limit: Duration,
    /// A call without an answer for longer is lost.
    pub patience: Duration,
    /// Probes of all sessions together, a second.
    pub probe_rate: f64,
    /// See there. None: a client of HTTP+SSE at once, one of Streamable HTTP after the time that it was told.
    pub reconnect: Option<Reconnect>,
    /// Each session comes from an address of its own.
    pub spread: bool,
    /// Seed of all that is random.
    pub seed: u64,
}

impl Plan {
    /// Whether a session speaks Streamable HTTP.
    pub fn is_streamable(&self, session: usize) -> bool {
        match self.transport {
            Transport::Sse | Transport::Stateless => false,
            Transport::Streamable => true,
            Transport::Mixed => session % 2 == 1,
        }
    }

    /// Whether a session comes back without a pause.
    pub fn comes_back_at_once(&self, session: usize) -> bool {
        match self.reconnect {
            Some(Reconnect::AtOnce) => true,
            Some(Reconnect::Retry) => false,
            // Of each transport half.
            Some(Reconnect::Mixed) => (session / 2).is_multiple_of(2),
            None => !self.is_streamable(session),
        }
    }
}
