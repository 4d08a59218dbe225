//! `mcp-server-v6`: the reference MCP server, over HTTP+SSE (2024-11-05) and Streamable HTTP (2025-03-26 to 2025-11-25).
//!
//! Role: an upstream that behaves as the specification says and, with its drill tools, one whose every side effect can
//! be counted, so that tests can prove what a router did to it. [`bind`] is the only entrance; the binary of the same
//! name and a router that runs the server inside its own process both come through it.
//!
//! An HTTP+SSE session is its stream: it begins with `GET /sse` and is gone, running tool calls included, when that
//! connection drops. There is no task per session; what a session owns hangs on the response body (see `sessions`). A
//! Streamable HTTP session outlives its connections, and so do its running calls and, with the event store, what they
//! have said (see `streams`). Both have the same methods and tools: messages enter by `dispatch` and leave by `outlet`.
//!
//! Never: no TLS, no state on disk but the optional counts file.

#![forbid(unsafe_code)]

mod counters;
mod dispatch;
mod event_id;
mod guard;
mod http;
mod initialize;
mod options;
mod outlet;
mod persons;
mod pieces;
mod prompts;
mod resources;
mod rpc;
mod session;
mod session_id;
mod sessions;
mod state;
mod stream_body;
mod streamable;
mod streams;
mod system;
mod tools;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    App, HttpServer,
    dev::{Server, ServerHandle},
    middleware::from_fn,
    web,
};

pub use self::options::{
    Answers, DEFAULT_HEARTBEAT, DEFAULT_PORT, DEFAULT_RETRY, DEFAULT_SESSION_IDLE, DEFAULT_STORED_EVENTS, SERVER_NAME,
    ServerOptions,
};
use self::{counters::Counters, persons::Persons, state::ServerState};

/// Idle keep-alive of POST connections. Longer than HTTP clients keep an idle connection in their pools, so that it is
/// the client that closes: a server that closes first races with the next request.
const IDLE_CONNECTION: Duration = Duration::from_secs(90);

/// Accepted but unserved connections, for load tests that connect thousands of clients at once.
const LISTEN_BACKLOG: u32 = 4096;

/// Open connections per worker. The limit on file descriptors is meant to be the one that bites.
const MAX_CONNECTIONS: usize = 1 << 20;

/// What SIGTERM leaves to requests in flight before every open stream is cut, seconds.
const STOP_WITHIN_SECONDS: u64 = 1;

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

/// Binds the socket and prepares the server. Its future must be polled inside a Tokio runtime or an Actix system.
///
/// # Errors
/// The address cannot be bound (`AddrInUse` if the port is taken), the counts file cannot be opened, or an option is
/// out of its range (`InvalidInput`).
pub fn bind(options: ServerOptions) -> io::Result<RunningServer> {
    options.check()?;
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
