//! What a server can be told at its start, and the bounds it keeps when nothing is told.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

/// The name the server gives itself in `serverInfo`.
pub const SERVER_NAME: &str = "mcp-server-v6";

/// The port when none is chosen.
pub const DEFAULT_PORT: u16 = 8071;

/// How long a stream may be silent: below the 300 s after which stock clients give up, and below the 30-60 s of common
/// proxies.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(15);

/// The largest body of a POST: twice the 4 MiB that must pass, so that JSON escapes do not count against them.
const DEFAULT_BODY_LIMIT: usize = 8 << 20;

/// Messages waiting for one stream. Small, because each may be megabytes; senders wait for room.
const DEFAULT_QUEUE_CAPACITY: usize = 32;

/// Calls of one session that run, or wait for room in its queue, at a time: more than any client pipelines.
const DEFAULT_MAX_RUNNING_CALLS: usize = 256;

/// How long `ask_client` waits for the client: a person may have to approve the request.
const DEFAULT_ASK_DEADLINE: Duration = Duration::from_secs(60);

/// Settings of one server. [`Default`] is what the binary runs with when called without arguments, except that it
/// leaves signals alone.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Address to listen on. Loopback by default: the server authenticates nobody.
    pub address: IpAddr,
    /// TCP port to listen on; 0 lets the system choose one.
    pub port: u16,
    /// Also offer the drill tools (`wait`, `increment`, `counts`, `ask_client`, `payload`, `echo`).
    pub drill_tools: bool,
    /// Append the key of each `increment` to this file, one a line. Several servers may share one file.
    pub counts_file: Option<PathBuf>,
    /// Interval of the comments that keep an idle stream alive; above zero.
    pub heartbeat: Duration,
    /// Threads that serve connections; at least 1.
    pub workers: usize,
    /// Install handlers for SIGTERM, SIGINT and SIGQUIT. Off when embedded: the host process owns its signals.
    pub handle_signals: bool,
    /// Largest body of a POST, bytes; more is answered with 413.
    pub body_limit: usize,
    /// Messages that may wait for one stream; at least 1.
    pub queue_capacity: usize,
    /// Tool calls of one session that may run at a time; more are refused with a JSON-RPC error.
    pub max_running_calls: usize,
    /// How long `ask_client` waits for the client's answer.
    pub ask_deadline: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: DEFAULT_PORT,
            drill_tools: false,
            counts_file: None,
            heartbeat: DEFAULT_HEARTBEAT,
            workers: 1,
            handle_signals: false,
            body_limit: DEFAULT_BODY_LIMIT,
            queue_capacity: DEFAULT_QUEUE_CAPACITY,
            max_running_calls: DEFAULT_MAX_RUNNING_CALLS,
            ask_deadline: DEFAULT_ASK_DEADLINE,
        }
    }
}

impl ServerOptions {
    /// Refuses options that could only fail later, and less clearly.
    pub(crate) fn check(&self) -> io::Result<()> {
        let complaint = if self.workers == 0 {
            "workers must be at least 1"
        } else if self.heartbeat.is_zero() {
            "heartbeat must be above zero"
        } else if self.queue_capacity == 0 {
            "queue_capacity must be at least 1"
        } else {
            return Ok(());
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, complaint))
    }
}
