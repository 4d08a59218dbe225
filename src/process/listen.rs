//! The HTTP server: its socket, its worker threads, and what is set on each connection.

use std::{
    net::{Shutdown, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::{
    HttpServer,
    http::header,
    middleware::{Condition, DefaultHeaders},
    rt::net::TcpStream,
    web,
};
use socket2::{Domain, SockRef, Socket, Type};

use super::{certificates::Kept, fatal::Fatal, node::Node};
use crate::{
    cluster::Cluster,
    gateway::Shared,
    http::{
        self,
        connections::{Connections, TooMany, refuse},
        principal::Authority,
    },
};

/// Connections that may wait for `accept`: a reconnect storm must not meet a closed door.
pub(super) const BACKLOG: i32 = 4096;

/// Open files besides the streams of sessions: connections of POSTs, to Redis, the log.
const OTHER_FILES: u64 = 1000;

/// Takes the address, without listening on it.
pub(super) fn bind(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A restart must not wait for the last connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Fails when somebody listens there. We do not listen yet: until we serve, connections must be refused, so that the
    // proxy in front passes this instance over instead of waiting for it.
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Raises the limit of open files as far as it goes, and says so when that is not enough for the sessions that there may
/// be: each has a stream to its client and one to its upstream. Returns the limit.
pub(super) fn raise_file_limit(max_sessions: usize) -> u64 {
    let wanted = u64::try_from(max_sessions).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(OTHER_FILES);
    match rlimit::increase_nofile_limit(u64::MAX) {
        // A little less than the most that there may be is no news: nearly nobody has so many sessions.
        Ok(limit) if limit < wanted / 2 => {
            let enough_for = limit.saturating_sub(OTHER_FILES) / 2;
            tracing::warn!(
                limit,
                max_sessions,
                "the open files that are allowed are enough for about {enough_for} sessions; \
                 raise the limit to {wanted} (ulimit -n, LimitNOFILE) or lower MCP_MAX_SESSIONS"
            );
            limit
        }
        Ok(limit) => {
            tracing::debug!(limit, "open files");
            limit
        }
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            wanted
        }
    }
}

/// Starts the worker threads.
pub(super) fn serve(
    cluster: &Arc<Cluster>,
    shared: &Arc<Shared>,
    listener: TcpListener,
    files: u64,
    authority: Option<&Arc<Authority>>,
    certificate: Option<&Kept>,
) -> Result<actix_web::dev::Server, Fatal> {
    let (settings, metrics) = (&cluster.env.settings, &cluster.env.metrics);
    let workers = match settings.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let flush = settings.stream.client_flush_timeout;
    let trusted = settings.security.trusted_proxies.clone();
    let connections =
        Connections::new(settings.server.max_connections_per_address, files, trusted, metrics.connections.clone());
    let refused = metrics.connections_refused.with_label_values(&["too_many_of_an_address"]).clone();
    let is_first = Arc::new(AtomicBool::new(true));
    let factory = {
        let (cluster, shared, authority) = (Arc::clone(cluster), Arc::clone(shared), authority.cloned());
        move || {
            let checks_health = is_first.swap(false, Ordering::Relaxed);
            let node = Node::start(&cluster, &shared, checks_health);
            let base = cluster.env.settings.server.base_path.clone();
            actix_web::App::new()
                .app_data(web::Data::new(node))
                // What is said is as it says it is, and for nobody else; whoever knows better says so.
                .wrap(
                    DefaultHeaders::new()
                        .add((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
                        .add((header::CACHE_CONTROL, "no-store")),
                )
                // A span for each request costs more than a small request: only for those who look.
                .wrap(Condition::new(
                    tracing::enabled!(tracing::Level::DEBUG),
                    tracing_actix_web::TracingLogger::<http::MaskedSpans>::new(),
                ))
                .configure(|config| {
                    let services = cluster.pool.services();
                    let has_dashboard = cluster.env.settings.ui.is_on;
                    let names = services.keys().map(String::as_str);
                    http::configure(config, &base, authority.as_ref(), has_dashboard, names);
                })
        }
    };
    let server = HttpServer::new(factory)
        .workers(workers)
        .max_connections(settings.server.max_connections)
        .keep_alive(Duration::from_secs(75))
        // A client that closes its side is gone: its stream ends at once and not at the next heartbeat.
        .h1_allow_half_closed(false)
        .client_request_timeout(settings.server.header_timeout)
        // As for the head of a request: a sender that says nothing holds a connection for nothing.
        .tls_handshake_timeout(settings.server.header_timeout)
        .on_connect(move |connection, kept| {
            let by_tls = connection.downcast_ref::<TlsStream<TcpStream>>().map(|tls| tls.get_ref().0);
            if let Some(stream) = by_tls.or_else(|| connection.downcast_ref::<TcpStream>()) {
                kept.insert(connections.open());
                match stream.peer_addr().map(|peer| connections.admit(peer.ip())) {
                    // Kept as long as the connection.
                    Ok(Ok(Some(admitted))) => drop(kept.insert(admitted)),
                    Ok(Err(TooMany)) => {
                        refused.inc();
                        match by_tls {
                            // Nothing can be said to it that it would understand.
                            Some(stream) => drop(SockRef::from(stream).shutdown(Shutdown::Both)),
                            None => refuse(stream),
                        }
                    }
                    // Gone already, or not counted.
                    Ok(Ok(None)) | Err(_) => {}
                }
                let socket = SockRef::from(stream);
                // MEM-3: the kernel ends a connection whose client takes nothing for so long.
                let limited = socket.set_tcp_user_timeout(Some(flush)).and_then(|()| socket.set_tcp_nodelay(true));
                if let Err(error) = limited {
                    tracing::debug!(%error, "socket options");
                }
            }
        })
        .disable_signals();
    let server = match certificate {
        Some(certificate) => server.listen_rustls_0_23(listener, certificate.server_config())?,
        None => server.listen(listener)?,
    };
    Ok(server.run())
}
