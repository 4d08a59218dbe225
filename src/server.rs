//! One router process from settings to exit code: store → lease → wake-ups → HTTP → drain.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicUsize},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use actix_web::{HttpServer, dev::ServerHandle, middleware::Condition, web};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use url::Url;

use crate::{
    app::{App, Worker},
    backoff::Backoff,
    cluster::{
        dataset::{Dataset, fresh_dataset_id},
        lease::LeaseClock,
        ownership::{self, Judge},
        process::{ProcessId, Word},
    },
    gateway::{doubt::Proofs, rebind::Rebinds, under_way::Calls},
    http::{
        self,
        connections::{Connections, TooMany, refuse},
    },
    lifecycle::{Lifecycle, Phase},
    metrics::Metrics,
    protocol::session_id::SessionId,
    registry::{
        actor::{DrainAll, Registry, WAKE_CAPACITY, instance_info},
        adopt::Turns,
        limiter::RateLimiter,
        sweep::Sightings,
    },
    session::{
        attachment::End,
        directory::Directory,
        env::{Env, Neighbours},
        room::Lonely,
    },
    settings::Settings,
    store::{
        LeaseAcquired, Owner, SessionStore, StoreError, StoreResult,
        memory::MemoryStore,
        redis::{RedisConfig, RedisStore},
    },
    upstream::Pool,
    watchdog,
};

/// A needed service does not answer, or does not let itself be used (sysexits `EX_UNAVAILABLE`).
pub const EXIT_UNAVAILABLE: u8 = 69;
/// A part of the process has ended by itself: a bug (`EX_SOFTWARE`).
pub const EXIT_SOFTWARE: u8 = 70;
/// The operating system refuses: the port is taken (`EX_OSERR`).
pub const EXIT_OS: u8 = 71;
/// The deployment is configured wrongly: the instance id is in use (`EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;

/// Name of the service that is served when none is configured.
const BUILT_IN_SERVICE: &str = "mcp-server-v6";

/// Connections that may wait for `accept`: a reconnect storm must not meet a closed door.
const BACKLOG: i32 = 4096;

/// Open files besides the streams of sessions: connections of POSTs, to Redis, the log.
const OTHER_FILES: u64 = 1000;

/// How often the drain looks whether sessions have finished.
const DRAIN_STEP: Duration = Duration::from_millis(50);

/// Why the process cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The port is taken.
    #[error(
        "cannot listen on {address}: {source}. See who has the port with: ss -ltnp 'sport = :{}' (or lsof -i :{0}), \
         or choose another by SERVER_PORT", address.port()
    )]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The address is another machine's.
    #[error(
        "cannot listen on {address}: this machine has no address {}. SERVER_ADDRESS is the address of one of its own \
         interfaces (see ip addr), 127.0.0.1 for this machine only, or 0.0.0.0 for all of them", address.ip()
    )]
    ForeignAddress {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The port is for privileged processes.
    #[error(
        "cannot listen on {address}: the system does not allow it (ports below 1024 are for privileged processes). \
         Choose another by SERVER_PORT, and let nginx listen on the low one"
    )]
    NotAllowed {
        /// What was asked for.
        address: SocketAddr,
    },
    /// Redis does not answer.
    #[error(
        "Redis at {url} does not answer for {waited:?}: {source}. Check REDIS_URL, or unset it for one instance with an embedded store"
    )]
    Redis {
        /// Without its password.
        url: String,
        /// How long was waited.
        waited: Duration,
        /// The last failure.
        source: StoreError,
    },
    /// Redis does not let itself be used, and waiting does not change that.
    #[error("Redis at {url} cannot be used: {reason}")]
    RedisUnusable {
        /// Without its password.
        url: String,
        /// Why, and what to do.
        reason: String,
    },
    /// OWN-11.
    #[error(
        "instance id {id:?} is in use by a running router at {address} (started {started}); \
         give each instance its own MCP_SESSION_INSTANCE_ID"
    )]
    InstanceId {
        /// The id.
        id: String,
        /// Where the other listens.
        address: String,
        /// When it started.
        started: String,
    },
    /// The HTTP server failed.
    #[error("the HTTP server failed: {0}")]
    Http(#[from] std::io::Error),
    /// A part that the process cannot do without has ended. Nothing is drained: who should do it may be what is missing, and
    /// other instances adopt the sessions as after a crash.
    #[error(
        "{what} has ended: this process cannot go on, and must be started again (its supervisor does). This is a bug; the lines before tell more"
    )]
    Part {
        /// Which.
        what: &'static str,
    },
}

impl Fatal {
    fn listen(address: SocketAddr, source: std::io::Error) -> Self {
        match source.kind() {
            ErrorKind::AddrNotAvailable => Self::ForeignAddress { address },
            ErrorKind::PermissionDenied => Self::NotAllowed { address },
            _ => Self::Listen { address, source },
        }
    }

    /// The exit code that says it to scripts.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Listen { .. } | Self::ForeignAddress { .. } | Self::NotAllowed { .. } | Self::Http(_) => EXIT_OS,
            Self::Redis { .. } | Self::RedisUnusable { .. } => EXIT_UNAVAILABLE,
            Self::InstanceId { .. } => EXIT_CONFIG,
            Self::Part { .. } => EXIT_SOFTWARE,
        })
    }
}

/// Runs until a signal ends it. Must be called inside an actix system.
///
/// # Errors
/// [`Fatal`], before anything was served.
pub async fn run(mut settings: Settings) -> Result<(), Fatal> {
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    // First of all: a taken port is the most common mistake, and nothing else should be touched then.
    let wanted = SocketAddr::new(settings.server.address, settings.server.port);
    let socket = bind(wanted).map_err(|source| Fatal::listen(wanted, source))?;
    let address = socket.local_addr().ok().and_then(|bound| bound.as_socket()).unwrap_or(wanted);
    settings.set_bound_port(address.port());
    let files = raise_file_limit(settings.limits.max_sessions);

    let _built_in = if settings.upstream.services.is_empty() { Some(start_built_in(&mut settings)?) } else { None };
    let store = open_store(&settings).await?;
    let (attention, attended) = mpsc::channel(WAKE_CAPACITY);
    let app = Arc::new(build_app(settings, store, address, attention));
    let candidate = fresh_dataset_id();
    let dataset = patiently(&app, || app.store.dataset(&candidate)).await?;
    // Long ago: nothing was lost when we start.
    app.dataset.begin(&dataset, Instant::now() - app.settings.session.lease);
    acquire_lease(&app).await?;
    let wakes = patiently(&app, || app.store.subscribe(&app.me.incarnation, WAKE_CAPACITY)).await?;
    let registry = Registry::launch(Arc::clone(&app), wakes, attended);
    let _ = app.registry.set(registry);

    // Two that start at the same time may both be bound; one can listen.
    socket.listen(BACKLOG).map_err(|source| Fatal::listen(address, source))?;
    let server = serve(&app, TcpListener::from(socket), files)?;
    let handle = server.handle();
    let vital = app.lifecycle.vital("the HTTP server");
    let serving = actix_rt::spawn(async move {
        let _vital = vital;
        server.await
    });
    // Not before: a start may wait long for Redis or an old lease, has limits of its own, and holds no client yet.
    let guarded = actix_rt::spawn({
        let (app, vital) = (Arc::clone(&app), app.lifecycle.vital("the keeper of the watchdog"));
        async move {
            watchdog::keep_guard(app).await;
            vital.done();
        }
    });
    app.lifecycle.advance(Phase::Ready);
    tracing::info!(
        %address, instance = %app.me.instance_id, store = app.store.kind(), services = app.pool.names(),
        "mcp-router is ready: http://{address}/sse/{}",
        app.pool.services().next().map_or("", |service| service.name.as_str())
    );
    tokio::select! {
        () = wait_for_end(&app) => {}
        what = app.lifecycle.failed() => return Err(Fatal::Part { what }),
    }
    // A second signal does not wait.
    tokio::select! {
        () = shut_down(&app, &handle) => {}
        () = any_signal() => tracing::warn!("second signal: exiting now, the journal hands over what is open"),
    }
    serving.abort();
    app.lifecycle.advance(Phase::Stopped);
    // The guard is gone before this process: nothing that follows can look like a hang to it.
    let _ = guarded.await;
    Ok(())
}

fn bind(address: SocketAddr) -> std::io::Result<Socket> {
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
fn raise_file_limit(max_sessions: usize) -> u64 {
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

/// `cargo run` alone must work: without upstreams there is one in this process.
fn start_built_in(settings: &mut Settings) -> Result<ServerHandle, Fatal> {
    let options = mcp_server_v6::ServerOptions { port: 0, ..Default::default() };
    let server = mcp_server_v6::bind(options)?;
    let address = server.addr();
    tracing::info!(
        "MCP_UPSTREAMS is not set: serving a built-in {BUILT_IN_SERVICE} at http://{address}/sse. \
         Set MCP_UPSTREAMS=name=http://host:port/sse to route to your own servers"
    );
    let url = Url::parse(&format!("http://{address}/sse")).expect("a socket address makes a valid URL");
    settings
        .upstream
        .services
        .push(crate::settings::UpstreamService { name: BUILT_IN_SERVICE.to_owned(), endpoints: vec![url.into()] });
    let handle = server.handle();
    actix_rt::spawn(server.into_server());
    Ok(handle)
}

async fn open_store(settings: &Settings) -> Result<Arc<dyn SessionStore>, Fatal> {
    let redis = &settings.redis;
    let Some(url) = &redis.url else {
        tracing::info!("REDIS_URL is not set: sessions are kept in memory, for this one instance");
        return Ok(Arc::new(MemoryStore::new()));
    };
    let config = RedisConfig {
        prefix: settings.session.redis_prefix.clone(),
        pool_size: redis.pool_size,
        timeout: redis.timeout,
        batch: redis.batch,
        queue: redis.queue,
        ..RedisConfig::new(url.expose())
    };
    let start = Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let connected = async {
            let store = RedisStore::connect(config.clone()).await?;
            store.ping().await?;
            Ok::<_, StoreError>(store)
        };
        match connected.await {
            Ok(store) => return Ok(Arc::new(store)),
            Err(StoreError::Unusable(reason)) => return Err(Fatal::RedisUnusable { url: url.to_string(), reason }),
            Err(source) if start.elapsed() >= redis.start_timeout => {
                return Err(Fatal::Redis { url: url.to_string(), waited: redis.start_timeout, source });
            }
            Err(error) => tracing::warn!(redis = %url, %error, "Redis does not answer, trying again"),
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

fn build_app(
    settings: Settings,
    store: Arc<dyn SessionStore>,
    address: SocketAddr,
    attention: mpsc::Sender<SessionId>,
) -> App {
    let me = Owner {
        instance_id: settings.session.instance_id.as_str().into(),
        incarnation: uuid::Uuid::new_v4().simple().to_string().into(),
    };
    let upstream = &settings.upstream;
    let services = upstream.services.iter().map(|service| (service.name.clone(), service.endpoints.clone()));
    let pool = Pool::new(services, upstream.breaker_failures, upstream.backoff_min, upstream.backoff_max);
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let neighbours = watch::Sender::default();
    App {
        address: address.to_string(),
        started_ms: u64::try_from(started.as_millis()).unwrap_or(0),
        pool,
        lifecycle: Lifecycle::default(),
        rebinds: Rebinds::default(),
        guests: Arc::default(),
        proofs: Proofs::default(),
        adopting: Turns::default(),
        judge: Judge::default(),
        process: ProcessId::of_this_process(),
        adoptions: RateLimiter::new(settings.session.adopt_rate),
        openings: RateLimiter::new(settings.limits.new_session_rate),
        rest_in_flight: AtomicUsize::new(0),
        rest_calls: Calls::default(),
        workers_started: AtomicUsize::new(0),
        hosts: Mutex::default(),
        registry: OnceLock::new(),
        env: Arc::new(Env {
            settings: Arc::new(settings),
            store,
            me,
            directory: Directory::default(),
            metrics: Metrics::new(),
            lonely: Lonely::default(),
            lease: LeaseClock::default(),
            dataset: Dataset::default(),
            neighbours: Neighbours::new(neighbours.subscribe()),
            attention,
        }),
        sightings: Sightings::new(neighbours),
    }
}

/// Repeats a store operation of the start for as long as the start may wait.
async fn patiently<T, F, Fut>(app: &App, mut operation: F) -> Result<T, Fatal>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = StoreResult<T>>,
{
    let redis = &app.settings.redis;
    let deadline = Instant::now() + redis.start_timeout;
    loop {
        match operation().await {
            Ok(done) => return Ok(done),
            Err(StoreError::Unusable(reason)) => {
                let url = redis.url.as_ref().map(ToString::to_string).unwrap_or_default();
                return Err(Fatal::RedisUnusable { url, reason });
            }
            Err(source) if Instant::now() >= deadline => {
                let url = redis.url.as_ref().map(ToString::to_string).unwrap_or_default();
                return Err(Fatal::Redis { url, waited: redis.start_timeout, source });
            }
            Err(error) => app.count_store_error(&error),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// OWN-11. A process that was killed leaves its lease behind: its end is waited for.
async fn acquire_lease(app: &App) -> Result<(), Fatal> {
    let lease = app.settings.session.lease;
    let patience = Instant::now() + lease + lease / 2;
    let redis = &app.settings.redis;
    let deadline = Instant::now() + redis.start_timeout;
    let mut told = false;
    loop {
        let asked = Instant::now();
        match app.store.lease_acquire(&instance_info(app), lease).await {
            Ok(LeaseAcquired::Acquired) => {
                app.lease.renewed(asked, lease, app.settings.session.lease_renew, true);
                return Ok(());
            }
            // Killed a moment ago, on this machine: nobody renews its lease any more.
            Ok(LeaseAcquired::HeldBy(other)) if ownership::word_on(app, &other) == Word::Dead => {
                match app.store.lease_release(&other.owner).await {
                    Ok(()) => continue,
                    Err(error) => app.count_store_error(&error),
                }
            }
            Ok(LeaseAcquired::HeldBy(other)) if Instant::now() >= patience => {
                let started = UNIX_EPOCH + Duration::from_millis(other.started_ms);
                return Err(Fatal::InstanceId {
                    id: other.owner.instance_id.to_string(),
                    address: other.address,
                    started: humantime::format_rfc3339_seconds(started).to_string(),
                });
            }
            Ok(LeaseAcquired::HeldBy(_)) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!("the lease of this instance id is still held; waiting for it to run out");
                }
            }
            Err(source) if Instant::now() >= deadline => {
                let url = redis.url.as_ref().map(ToString::to_string).unwrap_or_default();
                return Err(Fatal::Redis { url, waited: redis.start_timeout, source });
            }
            Err(error) => app.count_store_error(&error),
        }
        tokio::time::sleep((lease / 10).max(Duration::from_millis(10))).await;
    }
}

fn serve(app: &Arc<App>, listener: TcpListener, files: u64) -> Result<actix_web::dev::Server, Fatal> {
    let settings = &app.settings;
    let workers = match settings.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let flush = settings.stream.client_flush_timeout;
    let trusted = settings.security.trusted_proxies.clone();
    let connections = Connections::new(settings.server.max_connections_per_address, files, trusted);
    let refused = app.metrics.connections_refused.with_label_values(&["too_many_of_an_address"]);
    let factory = {
        let app = Arc::clone(app);
        move || {
            let worker = Worker::start(Arc::clone(&app));
            let (base, pool) = (app.settings.server.base_path.clone(), Arc::clone(&app));
            actix_web::App::new()
                .app_data(web::Data::new(worker))
                // A span for each request costs more than a small request: only for those who look.
                .wrap(Condition::new(
                    tracing::enabled!(tracing::Level::DEBUG),
                    tracing_actix_web::TracingLogger::<http::MaskedSpans>::new(),
                ))
                .configure(|config| {
                    http::configure(config, &base, pool.pool.services().map(|service| service.name.as_str()));
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
        .on_connect(move |connection, kept| {
            if let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() {
                kept.insert(connections.open());
                match stream.peer_addr().map(|peer| connections.admit(peer.ip())) {
                    // Kept as long as the connection.
                    Ok(Ok(Some(admitted))) => drop(kept.insert(admitted)),
                    Ok(Err(TooMany)) => {
                        refused.inc();
                        refuse(stream);
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
        .disable_signals()
        .listen(listener)?
        .run();
    Ok(server)
}

async fn wait_for_end(app: &App) {
    let mut phase = app.lifecycle.subscribe();
    tokio::select! {
        () = any_signal() => {}
        // The registry ends the process when its instance id was taken.
        _ = phase.wait_for(|phase| *phase >= Phase::Draining) => {}
    }
}

async fn any_signal() {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM"),
                _ = interrupt.recv() => tracing::info!("SIGINT"),
            }
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signals cannot be received");
            std::future::pending::<()>().await;
        }
    }
}

/// DRN-3: ends within `SHUTDOWN_TIMEOUT`, whatever is open.
async fn shut_down(app: &Arc<App>, handle: &ServerHandle) {
    let limit = app.settings.lifecycle.shutdown_timeout;
    if tokio::time::timeout(limit.mul_f64(0.9), drain(app, handle)).await.is_err() {
        tracing::warn!(?limit, "draining took too long; the journal hands over what is open");
    }
    app.lifecycle.advance(Phase::Stopped);
}

async fn drain(app: &Arc<App>, handle: &ServerHandle) {
    app.lifecycle.advance(Phase::Draining);
    let settings = &app.settings.lifecycle;
    let deadline = Instant::now() + settings.drain_deadline;
    let per_step = (f64::from(settings.drain_streams_per_second) * DRAIN_STEP.as_secs_f64()).ceil() as usize;
    let Some(registry) = app.registry.get() else { return };
    loop {
        let now = Instant::now() >= deadline;
        // The registry lives as long as the process.
        let owned = registry.send(DrainAll { now }).await.unwrap_or(0);
        // A stream goes when its session is in other hands (or nobody's): its client will find it there.
        let attachments = app.directory.all_attachments();
        let free = attachments.iter().filter(|held| app.directory.session(&held.session).is_none());
        for attachment in free.take(per_step) {
            attachment.end(End::Abort("draining"));
        }
        if owned == 0 && attachments.is_empty() {
            break;
        }
        tokio::time::sleep(DRAIN_STEP).await;
    }
    if let Err(error) = app.store.lease_release(&app.me).await {
        app.count_store_error(&error);
    }
    // Nothing is under way any more; idle connections need no patience.
    let _ = tokio::time::timeout(Duration::from_secs(1), handle.stop(false)).await;
    tracing::info!("drained");
}
