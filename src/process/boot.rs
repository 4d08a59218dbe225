//! One router process from settings to exit code: store → lease → wake-ups → HTTP → drain.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use actix::{AsyncContext as _, Context, Recipient};
use actix_web::dev::ServerHandle;
use futures_util::future::join_all;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use url::Url;

use super::{
    certificates::{Certificates, Kept},
    drain::{any_signal, shut_down, wait_for_end},
    fatal::Fatal,
    figures::Figures,
    listen::{BACKLOG, bind, raise_file_limit, serve},
    supervisor, upstreams,
};
use crate::{
    audit::Audit,
    backoff::Backoff,
    cluster::{
        Cluster,
        dataset::{Dataset, fresh_dataset_id},
        lease::LeaseClock,
        limiter::RateLimiter,
        messages::AreYouThere,
        ownership,
        process::{ProcessId, Word},
        rebinds::Rebinds,
        registry::{Registry, WAKE_CAPACITY, instance_info},
        suspects::Suspects,
        sweep::Sightings,
        turns::TakeTurn,
    },
    gateway::Shared,
    http::principal::Authority,
    incidents::{Incident, Incidents},
    lifecycle::{Lifecycle, Phase},
    metrics::Metrics,
    policy::Policy,
    protocol::session_id::SessionId,
    reread,
    session::{
        calls::Calls,
        directory::Directory,
        env::{Env, Neighbours},
        farewell::Farewells,
        messages::IsGone,
        room::Lonely,
    },
    settings::{CredentialsFile, PolicyFile, RedisUrl, Settings, Watched},
    store::{
        LeaseAcquired, Owner, SessionStore, StoreError, StoreResult,
        memory::MemoryStore,
        redis::{RedisConfig, RedisStore, SentinelConfig, TlsConfig},
    },
    telemetry,
    traces::Tracer,
    upstream::Pool,
    watchdog,
};

/// Name of the service that is served when none is configured.
const BUILT_IN_SERVICE: &str = "mcp-server-v6";

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
    let metrics = Metrics::new();
    let store = open_store(&settings, &metrics).await?;
    let (attention, attended) = mpsc::channel(WAKE_CAPACITY);
    let neighbours = watch::Sender::default();
    let certificates = Certificates::read(&settings)?;
    let context = Context::new();
    let neighbours_seen = Neighbours::new(neighbours.subscribe());
    let (traces, exporter) = Tracer::new(&settings.traces, &settings.session.instance_id, &metrics).unzip();
    let judge = context.address().recipient();
    let env = Arc::new(make_env(settings, store, metrics, traces, attention, neighbours_seen, judge)?);
    let cluster = Arc::new(make_cluster(&env, address, certificates.upstream.as_ref(), context.address().recipient()));
    env.metrics.show(Figures::new(&cluster));
    if let Some(exporter) = exporter {
        let more = env.settings.traces.certificate.as_ref();
        let tls = exporter.is_secure().then(|| cluster.pool.trust_more(more));
        actix_rt::spawn(exporter.run(tls));
    }
    let candidate = fresh_dataset_id();
    let dataset = patiently(&env, || env.store.dataset(&candidate)).await?;
    // Long ago: nothing was lost when we start.
    env.dataset.begin(&dataset, Instant::now() - env.settings.session.lease);
    acquire_lease(&cluster).await?;
    env.incidents.note(Incident::new("joined"));
    let wakes = patiently(&env, || env.store.subscribe(&env.me.incarnation, WAKE_CAPACITY)).await?;
    let registry = Registry::launch(context, Arc::clone(&cluster), Sightings::new(neighbours), wakes, attended);

    // Two that start at the same time may both be bound; one can listen.
    socket.listen(BACKLOG).map_err(|source| Fatal::listen(address, source))?;
    // Before anybody comes: what is found by names is looked for.
    upstreams::keep(&cluster).await;
    let authority = Authority::new(&cluster.env.settings);
    let shared = Arc::new(Shared::new(&cluster.env.settings.limits, &cluster.env.settings.stateless));
    let listener = TcpListener::from(socket);
    let server = serve(&cluster, &shared, listener, files, authority.as_ref(), certificates.server.as_ref())?;
    certificates.keep(cluster.env.settings.auth.reload);
    keep_policy(&cluster);
    keep_credentials(&cluster);
    let counted = Arc::clone(&env);
    actix_rt::spawn(
        async move { counted.calls.keep_up(&*counted.store, |error| counted.count_store_error(error)).await },
    );
    let told = Arc::clone(&env);
    actix_rt::spawn(async move { reopen_logs(&told).await });
    if let Some(authority) = authority {
        let (pool, ca_file) = (Arc::clone(&cluster.pool), cluster.env.settings.upstream.ca_file.clone());
        actix_rt::spawn(async move { authority.keep_up(|| pool.trust(ca_file.as_ref())).await });
    }
    let handle = server.handle();
    let lifecycle = &cluster.lifecycle;
    let vital = lifecycle.vital("the HTTP server");
    let serving = actix_rt::spawn(async move {
        let _vital = vital;
        server.await
    });
    // Not before: a start may wait long for Redis or an old lease, has limits of its own, and holds no client yet.
    let guarded = actix_rt::spawn({
        let (cluster, vital) = (Arc::clone(&cluster), lifecycle.vital("the keeper of the watchdog"));
        async move {
            let pulse = async || pulse(&cluster).await;
            watchdog::keep_guard(&cluster.env.settings, &cluster.lifecycle, pulse).await;
            vital.done();
        }
    });
    let signs = actix_rt::spawn({
        let cluster = Arc::clone(&cluster);
        async move { supervisor::give_signs_of_life(async || pulse(&cluster).await).await }
    });
    lifecycle.advance(Phase::Ready);
    supervisor::is_ready(&format!("serving {} at {address}", cluster.pool.names()));
    let services = cluster.pool.services();
    let name = services.keys().next().map_or("", String::as_str);
    let scheme = if certificates.server.is_some() { "https" } else { "http" };
    tracing::info!(
        %address, instance = %env.me.instance_id, store = env.store.kind(), services = cluster.pool.names(),
        "mcp-router is ready: {scheme}://{address}/mcp/{name} (Streamable HTTP), {scheme}://{address}/sse/{name} (HTTP+SSE)"
    );
    tokio::select! {
        () = wait_for_end(lifecycle) => {}
        what = lifecycle.failed() => return Err(Fatal::Part { what }),
    }
    supervisor::is_stopping();
    // A second signal does not wait.
    tokio::select! {
        () = shut_down(&cluster, &registry, &shared, &handle) => {}
        () = any_signal() => tracing::warn!("second signal: exiting now, the journal hands over what is open"),
    }
    signs.abort();
    serving.abort();
    lifecycle.advance(Phase::Stopped);
    // The guard is gone before this process: nothing that follows can look like a hang to it.
    let _ = guarded.await;
    Ok(())
}

/// Opens the files of logs anew whenever somebody has moved them away and says so. Also without such files: a SIGHUP that nobody
/// takes would end the process.
async fn reopen_logs(env: &Env) {
    let (Ok(mut hangup), Ok(mut user)) = (signal(SignalKind::hangup()), signal(SignalKind::user_defined1())) else {
        return;
    };
    loop {
        tokio::select! {
            _ = hangup.recv() => {}
            _ = user.recv() => {}
        }
        telemetry::reopen();
        if let Some(audit) = &env.audit {
            audit.reopen();
        }
        tracing::info!("the files of logs are opened anew");
    }
}

/// The rules may change while the process runs.
fn keep_policy(cluster: &Arc<Cluster>) {
    let auth = &cluster.env.settings.auth;
    let Some(file) = auth.policy.clone() else { return };
    let (env, look) = (Arc::clone(&cluster.env), auth.reload);
    actix_rt::spawn(async move {
        let path = file.path().to_owned();
        let take = |file: PolicyFile| {
            let Some(policy) = &env.policy else { return false };
            policy.replace(&file)
        };
        reread::keep(|| vec![path.clone()], look, move || file.read_again(), take).await;
    });
}

/// So may what servers are shown.
fn keep_credentials(cluster: &Arc<Cluster>) {
    let settings = &cluster.env.settings;
    let Some(file) = settings.upstream.credentials.clone() else { return };
    let known = cluster.pool.services();
    for (name, _) in file.services().iter().filter(|(name, _)| !known.contains_key(name)) {
        tracing::warn!(name, "MCP_UPSTREAM_CREDENTIALS_FILE has a credential for a service that there is not");
    }
    if known.values().any(|service| service.credentials.are_of_users()) && !settings.auth.by.by_tokens() {
        tracing::warn!(
            "as_user in MCP_UPSTREAM_CREDENTIALS_FILE exchanges clients' tokens, and MCP_AUTH asks for none"
        );
    }
    let (pool, within) = (Arc::clone(&cluster.pool), settings.auth.reload);
    actix_rt::spawn(async move {
        let paths = Mutex::new(file.paths());
        let known = || paths.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let take = |file: CredentialsFile| {
            *paths.lock().unwrap_or_else(PoisonError::into_inner) = file.paths();
            pool.show(&file)
        };
        reread::keep(known, within, move || file.read_again(), take).await;
    });
}

/// Returns when each worker thread has run something that was asked of it just now: client streams and sessions live there,
/// and one thread that hangs holds its share of them while all others look well. It does not return while one hangs,
/// and then there are no beats.
async fn pulse(cluster: &Cluster) {
    // A thread that has ended cannot answer, and holds nothing.
    join_all(cluster.hosts().into_iter().map(|host| async move { host.there.send(AreYouThere).await })).await;
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
    settings.upstream.services.push(crate::settings::UpstreamService {
        name: BUILT_IN_SERVICE.to_owned(),
        endpoints: vec![url.into()],
        sources: Vec::new(),
    });
    let handle = server.handle();
    actix_rt::spawn(server.into_server());
    Ok(handle)
}

/// How the store is reached.
pub(super) fn redis_config(settings: &Settings, url: &RedisUrl, metrics: &Metrics) -> RedisConfig {
    let redis = &settings.redis;
    let (watched, spread) = (url.watched(), url.spread());
    let node = watched.map(|watched| &watched.node).or(spread.map(|spread| &spread.node));
    let sentinel =
        |watched: &Watched| SentinelConfig { sentinels: watched.sentinels.clone(), name: watched.name.clone() };
    RedisConfig {
        sentinel: watched.map(sentinel),
        cluster: spread.map(|spread| spread.nodes.clone()).unwrap_or_default(),
        tls: TlsConfig {
            issuers: redis.ca_file.as_ref().map(|file| file.expose().to_vec()),
            own: redis
                .cert_file
                .as_ref()
                .zip(redis.key_file.as_ref())
                .map(|(certificate, key)| (certificate.expose().to_vec(), key.expose().to_vec())),
        },
        prefix: settings.session.redis_prefix.clone(),
        pool_size: redis.pool_size,
        timeout: redis.timeout,
        batch: redis.batch,
        queue: redis.queue,
        copies: redis.copies,
        pulse: settings.session.lease_renew,
        metrics: metrics.redis.clone(),
        ..RedisConfig::new(node.map_or(url.expose(), String::as_str))
    }
}

async fn open_store(settings: &Settings, metrics: &Metrics) -> Result<Arc<dyn SessionStore>, Fatal> {
    let redis = &settings.redis;
    let Some(url) = &redis.url else {
        tracing::info!("REDIS_URL is not set: sessions are kept in memory, for this one instance");
        return Ok(Arc::new(MemoryStore::new()));
    };
    let config = redis_config(settings, url, metrics);
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

fn make_env(
    settings: Settings,
    store: Arc<dyn SessionStore>,
    metrics: Metrics,
    traces: Option<Tracer>,
    attention: mpsc::Sender<SessionId>,
    neighbours: Neighbours,
    judge: Recipient<IsGone>,
) -> Result<Env, Fatal> {
    let me = Owner {
        instance_id: settings.session.instance_id.as_str().into(),
        incarnation: uuid::Uuid::new_v4().simple().to_string().into(),
    };
    let room = if settings.ui.is_on { settings.ui.incidents } else { 0 };
    let incidents = Incidents::new(&me.instance_id, &me.incarnation, room, &metrics.incidents_lost);
    Ok(Env {
        audit: open_audit(&settings, &metrics)?,
        traces,
        policy: settings.auth.policy.as_ref().map(Policy::new),
        calls: Arc::new(Calls::new(&settings, &me.incarnation)),
        settings: Arc::new(settings),
        store,
        me,
        directory: Directory::default(),
        metrics,
        incidents,
        lonely: Lonely::default(),
        farewells: Farewells::default(),
        lease: LeaseClock::default(),
        dataset: Dataset::default(),
        neighbours,
        judge,
        attention,
    })
}

fn open_audit(settings: &Settings, metrics: &Metrics) -> Result<Option<Audit>, Fatal> {
    let Some(path) = &settings.log.audit else { return Ok(None) };
    let audit = Audit::start(path, &settings.session.instance_id, settings.log.audit_queue, &metrics.audit_lost);
    let path = || path.display().to_string();
    audit.map(Some).map_err(|source| Fatal::AuditLog { path: path(), source })
}

/// All services and their servers.
pub(super) fn make_pool(settings: &Settings, metrics: &Metrics, own: Option<&Kept>) -> Pool {
    let upstream = &settings.upstream;
    let services = upstream.services.iter().map(|service| (service.name.clone(), service.endpoints.clone()));
    let (spoken, pauses) = ((upstream.transport, upstream.era), (upstream.backoff_min, upstream.backoff_max));
    let pool = Pool::new(services, metrics, spoken, upstream.breaker_failures, pauses.0, pauses.1);
    let pool = pool.shown_as(own.map(|kept| Arc::clone(&kept.own)));
    if let Some(file) = &upstream.credentials {
        pool.show(file);
    }
    pool
}

fn make_cluster(env: &Arc<Env>, address: SocketAddr, own: Option<&Kept>, turns: Recipient<TakeTurn>) -> Cluster {
    let upstream = &env.settings.upstream;
    let pool = make_pool(&env.settings, &env.metrics, own);
    // The system's certificates are read now: later it would hold up the thread that needs them first.
    let _ = pool.tls(upstream.ca_file.as_ref());
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Cluster {
        env: Arc::clone(env),
        process: ProcessId::of_this_process(),
        address: address.to_string(),
        started_ms: u64::try_from(started.as_millis()).unwrap_or(0),
        pool: Arc::new(pool),
        lifecycle: Lifecycle::default(),
        turns,
        pace: RateLimiter::new(env.settings.session.adopt_rate),
        suspects: Suspects::default(),
        rebinds: Rebinds::default(),
        hosts: Mutex::default(),
    }
}

/// Repeats a store operation of the start for as long as the start may wait.
async fn patiently<T, F, Fut>(env: &Env, mut operation: F) -> Result<T, Fatal>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = StoreResult<T>>,
{
    let redis = &env.settings.redis;
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
            Err(error) => env.count_store_error(&error),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// OWN-11. A process that was killed leaves its lease behind: its end is waited for.
async fn acquire_lease(cluster: &Cluster) -> Result<(), Fatal> {
    let env = &cluster.env;
    let lease = env.settings.session.lease;
    let patience = Instant::now() + lease + lease / 2;
    let redis = &env.settings.redis;
    let deadline = Instant::now() + redis.start_timeout;
    let mut told = false;
    loop {
        let asked = Instant::now();
        match env.store.lease_acquire(&instance_info(cluster), lease).await {
            Ok(LeaseAcquired::Acquired) => {
                env.lease.renewed(asked, lease, env.settings.session.lease_renew, true);
                return Ok(());
            }
            // Killed a moment ago, on this machine: nobody renews its lease any more.
            Ok(LeaseAcquired::HeldBy(other)) if ownership::word_on(cluster, &other) == Word::Dead => {
                match env.store.lease_release(&other.owner).await {
                    Ok(()) => continue,
                    Err(error) => env.count_store_error(&error),
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
            Err(error) => env.count_store_error(&error),
        }
        tokio::time::sleep((lease / 10).max(Duration::from_millis(10))).await;
    }
}
