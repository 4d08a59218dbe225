//! What a server can be told at its start, and the bounds it keeps when nothing is told.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use crate::streams::Limits;

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

/// Reconnection time that streams tell: short, since a client that waits for an answer waits so much longer.
pub const DEFAULT_RETRY: Duration = Duration::from_secs(1);

/// How long a Streamable HTTP session may be left alone: longer than any pause between two connections, and not so long
/// that sessions of clients that never say good-bye pile up.
pub const DEFAULT_SESSION_IDLE: Duration = Duration::from_secs(600);

/// Events kept of one stream: more than a client misses in a break.
pub const DEFAULT_STORED_EVENTS: usize = 1000;

/// Bytes of the events kept of one session: twice the largest message.
const DEFAULT_STORED_BYTES: usize = 32 << 20;

/// Streams that are over, kept of one session: more than a client has requests under way at the moment of a break.
const DEFAULT_STORED_STREAMS: usize = 64;

/// Streamable HTTP sessions at a time: some hundred megabytes of them.
const DEFAULT_MAX_SESSIONS: usize = 1 << 16;

/// How requests are answered over Streamable HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Answers {
    /// As JSON what is ready at once, as an event stream what takes its time
    #[default]
    Auto,
    /// As JSON always; what a call has to say before its answer goes to the GET stream
    Json,
    /// As an event stream always, as the TypeScript and Python SDKs do by default
    Stream,
}

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
    /// How requests are answered over Streamable HTTP.
    pub answers: Answers,
    /// Give ids to events and keep them, so that a stream can be resumed. Off, an answer whose connection broke is lost.
    pub event_store: bool,
    /// Begin each stream with a priming event, also for clients of revisions before 2025-11-25, which do not expect one.
    pub prime_always: bool,
    /// Refuse the GET of a stream that another connection shows with 409, as the stock SDKs do, instead of taking it over.
    pub refuse_second_stream: bool,
    /// Show the session's own stream. Off, its GET is answered with 405.
    pub get_stream: bool,
    /// Reconnection time that priming events tell.
    pub retry: Duration,
    /// How long a Streamable HTTP session may be left alone before it ends.
    pub session_idle: Duration,
    /// Streamable HTTP sessions at a time; more are refused with 503.
    pub max_sessions: usize,
    /// Events kept of one stream; at least 1.
    pub stored_events: usize,
    /// Bytes of the events kept of one session; the newest event of a stream is kept whatever its size.
    pub stored_bytes: usize,
    /// Streams that are over, kept of one session.
    pub stored_streams: usize,
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
            answers: Answers::default(),
            event_store: true,
            prime_always: false,
            refuse_second_stream: false,
            get_stream: true,
            retry: DEFAULT_RETRY,
            session_idle: DEFAULT_SESSION_IDLE,
            max_sessions: DEFAULT_MAX_SESSIONS,
            stored_events: DEFAULT_STORED_EVENTS,
            stored_bytes: DEFAULT_STORED_BYTES,
            stored_streams: DEFAULT_STORED_STREAMS,
        }
    }
}

impl ServerOptions {
    /// What one Streamable HTTP session may hold.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            keeps: self.event_store,
            unread: self.queue_capacity,
            events: self.stored_events,
            bytes: self.stored_bytes,
            streams: self.stored_streams,
        }
    }

    /// Refuses options that could only fail later, and less clearly.
    pub(crate) fn check(&self) -> io::Result<()> {
        let complaint = if self.workers == 0 {
            "workers must be at least 1"
        } else if self.heartbeat.is_zero() {
            "heartbeat must be above zero"
        } else if self.queue_capacity == 0 {
            "queue_capacity must be at least 1"
        } else if self.stored_events == 0 {
            "stored_events must be at least 1"
        } else {
            return Ok(());
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, complaint))
    }
}
