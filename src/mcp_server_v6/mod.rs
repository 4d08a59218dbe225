//! `mcp-server-v6`: the reference MCP server, over the 2024-11-05 HTTP+SSE transport.
//!
//! Role: an upstream that behaves as the specification says and, with its drill tools, one whose every side effect can
//! be counted, so that tests can prove what a router did to it. [`bind`] is the only entrance; the binary of the same
//! name and a router that runs the server inside its own process both come through it.
//!
//! A session is its stream: it begins with `GET /sse` and is gone, running tool calls included, when that connection
//! drops. There is no task per session; what a session owns hangs on the response body (see `sessions`).
//!
//! Never: no TLS, no sessions that outlive a connection, no state on disk but the optional counts file.

mod counters;
mod dispatch;
mod guard;
mod http;
mod initialize;
mod persons;
mod pieces;
mod prompts;
mod resources;
mod rpc;
mod session;
mod sessions;
mod tools;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    App, HttpServer,
    dev::{Server, ServerHandle},
    middleware::from_fn,
    web,
};
use serde_json::value::RawValue;

use self::{counters::Counters, persons::Persons, sessions::Sessions};

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

/// Idle keep-alive of POST connections. Longer than HTTP clients keep an idle connection in their pools, so that it is
/// the client that closes: a server that closes first races with the next request.
const IDLE_CONNECTION: Duration = Duration::from_secs(90);

/// Accepted but unserved connections, for load tests that connect thousands of clients at once.
const LISTEN_BACKLOG: u32 = 4096;

/// Open connections per worker. The limit on file descriptors is meant to be the one that bites.
const MAX_CONNECTIONS: usize = 1 << 20;

/// What SIGTERM leaves to requests in flight before every open stream is cut, seconds.
const STOP_WITHIN_SECONDS: u64 = 1;

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

/// A server whose socket is bound and listening. It serves once [`RunningServer::into_server`] is awaited or spawned;
/// connections made before wait in the listen queue.
#[must_use = "the server serves only while its future is polled"]
pub struct RunningServer {
    addr: SocketAddr,
    server: Server,
}

impl RunningServer {
    /// The address the socket is bound to, with the real port where 0 was asked for.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops the server from elsewhere. `stop(false)` cuts every open stream at once, without a last chunk.
    /// `stop(true)` waits for open streams for one second first.
    pub fn handle(&self) -> ServerHandle {
        self.server.handle()
    }

    /// The server's future. It ends when the server was stopped; dropping it stops the server and cuts every stream.
    pub fn into_server(self) -> Server {
        self.server
    }
}

/// What the workers share: the data of the process and its sessions.
struct ServerState {
    options: ServerOptions,
    started: Instant,
    /// The answer to `tools/list`. It never changes, so it is written once.
    tools: Box<RawValue>,
    persons: Persons,
    counters: Counters,
    sessions: Arc<Sessions>,
}

/// Binds the socket and prepares the server. Its future must be polled inside a Tokio runtime or an Actix system.
///
/// # Errors
/// The address cannot be bound (`AddrInUse` if the port is taken), the counts file cannot be opened, or an option is
/// out of its range (`InvalidInput`).
pub fn bind(options: ServerOptions) -> io::Result<RunningServer> {
    check(&options)?;
    let counters = match &options.counts_file {
        Some(path) => Counters::appending_to(path)?,
        None => Counters::in_memory(),
    };
    let tools = serde_json::value::to_raw_value(&tools::list(options.drill_tools))?;
    let state = web::Data::from(Arc::new(ServerState {
        started: Instant::now(),
        tools,
        persons: Persons::generated(),
        counters,
        sessions: Arc::default(),
        options: options.clone(),
    }));

    let body_limit = web::PayloadConfig::new(options.body_limit);
    let mut server = HttpServer::new(move || {
        App::new()
            .wrap(from_fn(guard::loopback_names_only))
            .app_data(state.clone())
            .app_data(body_limit.clone())
            .configure(http::routes)
    })
    .workers(options.workers)
    .backlog(LISTEN_BACKLOG)
    .max_connections(MAX_CONNECTIONS)
    .keep_alive(IDLE_CONNECTION)
    .shutdown_timeout(STOP_WITHIN_SECONDS)
    .tcp_nodelay(true)
    // A client that closes its side is gone. With half-closed connections allowed a session would live on until the
    // next write fails.
    .h1_allow_half_closed(false);
    if !options.handle_signals {
        server = server.disable_signals();
    }
    let server = server.bind((options.address, options.port))?;
    let addr = *server.addrs().first().ok_or_else(|| io::Error::other("the server is bound to no address"))?;
    Ok(RunningServer { addr, server: server.run() })
}

/// Refuses options that could only fail later, and less clearly.
fn check(options: &ServerOptions) -> io::Result<()> {
    let complaint = if options.workers == 0 {
        "workers must be at least 1"
    } else if options.heartbeat.is_zero() {
        "heartbeat must be above zero"
    } else if options.queue_capacity == 0 {
        "queue_capacity must be at least 1"
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, complaint))
}
