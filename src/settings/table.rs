//! Every setting of the router, once: variable, default, unit, field, parser, and the reason. One file a group.
//!
//! The flag of a setting is its variable in kebab case (`SERVER_PORT` is `--server-port`). An empty default means
//! unset. The text above a row is the documentation of the field *and* what `--help` prints.

mod auth;
mod discovery;
mod inner;
mod lifecycle;
mod limits;
mod log;
mod redis;
mod security;
mod server;
mod session;
mod stateless;
mod stream;
mod traces;
mod ui;
mod upstream;

use std::ffi::OsString;

use super::{
    help_text::{ABOUT, AFTER_HELP},
    row::{self, Row},
    source::Reader,
};

settings! {
    /// Where the router listens, and how much it takes on.
    server: ServerSettings, ServerFlags;
    /// Sessions: identity of this instance, lifetimes, and the lease that tells the others it lives.
    session: SessionSettings, SessionFlags;
    /// The shared store.
    redis: RedisSettings, RedisFlags;
    /// The MCP servers behind the router.
    upstream: UpstreamSettings, UpstreamFlags;
    /// Servers that are found by names.
    discovery: DiscoverySettings, DiscoveryFlags;
    /// Requests of 2026-07-28, which have no session.
    stateless: StatelessSettings, StatelessFlags;
    /// Streams towards clients: heartbeats, what is kept for a resume, and how much may be under way.
    stream: StreamSettings, StreamFlags;
    /// How much the router takes on before it says no.
    limits: LimitSettings, LimitFlags;
    /// Sessions of the gateway's own, for clients that have none.
    inner: InnerSettings, InnerFlags;
    /// Who may talk to the router.
    security: SecuritySettings, SecurityFlags;
    /// How clients show who they are. A session answers to nobody but the principal that opened it.
    auth: AuthSettings, AuthFlags;
    /// What is logged, to standard error or to a file.
    log: LogSettings, LogFlags;
    /// Traces: whether and where spans are sent, by the names that OpenTelemetry has for all programs.
    traces: TraceSettings, TraceFlags;
    /// How the router ends, and what ends it when it hangs.
    lifecycle: LifecycleSettings, LifecycleFlags;
    /// The dashboard, and what instances tell for it.
    ui: UiSettings, UiFlags;
}

#[cfg(test)]
mod tests;
