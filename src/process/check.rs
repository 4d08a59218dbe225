//! `mcp-router check [FLAG…]`: what a start with these settings would find, without starting: the settings, the address, Redis and
//! its clock, the instances that share it, and the servers. For whoever is called at night.
//!
//! Changes nothing but what any start tries in Redis, too (the rights of its user, on keys that it deletes again). Never:
//! takes a lease, or listens.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::Display,
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Deserialize;

use super::{
    boot::{make_pool, redis_config},
    certificates::Certificates,
    fatal::EXIT_UNAVAILABLE,
    listen::{bind, raise_file_limit},
};
use crate::{
    discovery::Finder,
    lifecycle::Lifecycle,
    metrics::Metrics,
    settings::{self, Settings},
    store::{
        Instances as _, StoreError,
        redis::{ClusterState, RedisStore},
    },
    upstream::{
        Endpoint, Pool,
        actor::{Initialized, UpstreamActor},
        call::flatten,
        credential::Who,
        transport::http::line::Line,
    },
};

/// Beyond this, times in logs of instances mislead whoever reads them side by side. Leases go by the clock of Redis alone.
const CLOCK_LIMIT: Duration = Duration::from_secs(2);

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Ok,
    /// A start goes on.
    Warning,
    Failed,
}

/// What has been found, told line by line.
#[derive(Debug, Default)]
struct Findings {
    failed: usize,
}

impl Findings {
    fn tell(&mut self, mark: Mark, what: &str, text: impl Display) {
        let shown = match mark {
            Mark::Ok => "ok  ",
            Mark::Warning => "warn",
            Mark::Failed => "FAIL",
        };
        self.failed += usize::from(mark == Mark::Failed);
        // Whoever reads only the first lines has gone by now.
        let _ = writeln!(io::stdout(), "{shown}  {what:<10} {text}");
    }
}

/// Does it if it is asked for. `args`: without the name of the program.
pub fn asked_for(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter();
    if args.next()? != "check" {
        return None;
    }
    let settings = match settings::load_of(std::iter::once("mcp-router check".into()).chain(args)) {
        Ok(settings) => settings,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            return Some(ExitCode::from(&error));
        }
    };
    let failed = actix_rt::System::new().block_on(check(&settings));
    Some(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNAVAILABLE) })
}

async fn check(settings: &Settings) -> usize {
    let mut findings = Findings::default();
    findings.tell(Mark::Ok, "settings", format_args!("instance {}", settings.session.instance_id));
    for warning in &settings.warnings {
        findings.tell(Mark::Warning, "settings", warning);
    }
    check_address(settings, &mut findings);
    check_files(settings, &mut findings);
    check_redis(settings, &mut findings).await;
    check_servers(settings, &mut findings).await;
    findings.failed
}

fn check_address(settings: &Settings, findings: &mut Findings) {
    let address = SocketAddr::new(settings.server.address, settings.server.port);
    match bind(address) {
        // Two may be bound; one can listen.
        Ok(socket) => match socket.listen(1) {
            Ok(()) => findings.tell(Mark::Ok, "address", format_args!("{address} is free")),
            Err(error) => findings.tell(Mark::Warning, "address", in_use(address, &error)),
        },
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            findings.tell(Mark::Warning, "address", in_use(address, &error));
        }
        Err(error) => findings.tell(Mark::Failed, "address", format_args!("{address}: {error}")),
    }
}

fn in_use(address: SocketAddr, error: &io::Error) -> String {
    format!("{address}: {error}; if that is this instance itself, it runs")
}

fn check_files(settings: &Settings, findings: &mut Findings) {
    let (files, sessions) = (raise_file_limit(settings.limits.max_sessions), settings.limits.max_sessions);
    let is_enough = usize::try_from(files).is_ok_and(|files| files / 2 >= sessions);
    let mark = if is_enough { Mark::Ok } else { Mark::Warning };
    findings.tell(mark, "files", format_args!("{files} may be open; {sessions} sessions need two each"));
}

async fn check_redis(settings: &Settings, findings: &mut Findings) {
    let Some(url) = &settings.redis.url else {
        return findings.tell(
            Mark::Warning,
            "redis",
            "REDIS_URL is not set: one instance, and a restart loses its sessions",
        );
    };
    let begun = Instant::now();
    let connected = async {
        let store = RedisStore::connect(redis_config(settings, url, &Metrics::new())).await?;
        let connected = begun.elapsed();
        let asked = Instant::now();
        let clock = store.clock().await?;
        let round_trip = asked.elapsed();
        Ok::<_, StoreError>((store.instances().await?, connected, round_trip, clock, store.cluster_state().await?))
    };
    let (instances, connected, round_trip, clock, cluster) = match connected.await {
        Ok(found) => found,
        Err(error) => return findings.tell(Mark::Failed, "redis", format_args!("{url}: {error}")),
    };
    let milliseconds = |duration: Duration| format!("{:.1} ms", duration.as_secs_f64() * 1e3);
    findings.tell(
        Mark::Ok,
        "redis",
        format_args!(
            "{url}: connected in {}, answers in {}, grants every right that is needed",
            milliseconds(connected),
            milliseconds(round_trip)
        ),
    );
    if let Some(state) = cluster {
        tell_cluster(&state, findings);
    }
    let own = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let apart = own.abs_diff(clock);
    let mark = if apart > CLOCK_LIMIT { Mark::Warning } else { Mark::Ok };
    findings.tell(mark, "clock", format_args!("{} from that of Redis", milliseconds(apart)));
    for instance in &instances {
        let is_this = *instance.owner.instance_id == *settings.session.instance_id;
        let text = format!(
            "{} at {}, version {}, {} sessions{}",
            instance.owner.instance_id,
            instance.address,
            instance.version,
            instance.sessions,
            if is_this { "; a second process of this id does not start" } else { "" }
        );
        findings.tell(if is_this { Mark::Warning } else { Mark::Ok }, "instance", text);
    }
}

fn tell_cluster(state: &ClusterState, findings: &mut Findings) {
    let ClusterState { is_up, slots, primaries, away, without_replica, unbounded } = state;
    let mark = if *is_up && *slots == ClusterState::SLOTS && *away == 0 { Mark::Ok } else { Mark::Failed };
    findings.tell(
        mark,
        "cluster",
        format_args!(
            "{slots} of {} slots served by {primaries} primaries, {away} of which do not answer",
            ClusterState::SLOTS
        ),
    );
    if *without_replica > 0 {
        findings.tell(
            Mark::Warning,
            "cluster",
            format_args!("{without_replica} primaries have no replica: when one dies its sessions wait for it"),
        );
    }
    if *unbounded > 0 {
        findings.tell(
            Mark::Warning,
            "cluster",
            format_args!(
                "{unbounded} primaries take writes that no replica has: set min-replicas-to-write 1 and \
                 min-replicas-max-lag 10, or REDIS_COPIES=1"
            ),
        );
    }
}

async fn check_servers(settings: &Settings, findings: &mut Findings) {
    if settings.upstream.services.is_empty() {
        return findings.tell(
            Mark::Warning,
            "server",
            "MCP_UPSTREAMS is not set: the built-in mcp-server-v6, for trying out",
        );
    }
    let certificates = match Certificates::read(settings) {
        Ok(certificates) => certificates,
        Err(error) => return findings.tell(Mark::Failed, "certificate", error),
    };
    let own = certificates.upstream;
    let (pool, lifecycle) = (make_pool(settings, &Metrics::new(), own.as_ref()), Lifecycle::default());
    let mut listed = BTreeMap::new();
    for service in &settings.upstream.services {
        let mut servers = service.endpoints.clone();
        for source in &service.sources {
            let tls = || pool.client_tls(settings.upstream.ca_file.as_ref());
            let found = match Finder::new(source, &settings.discovery, tls) {
                Ok(mut finder) => finder.find().await.0,
                Err(fault) => Err(fault),
            };
            match found {
                Ok(found) => {
                    findings.tell(Mark::Ok, "name", format_args!("{} {source}: {} servers", service.name, found.len()));
                    servers.extend(found);
                }
                Err(fault) => findings.tell(Mark::Failed, "name", format_args!("{} {source}: {fault}", service.name)),
            }
        }
        listed.insert(service.name.clone(), servers);
    }
    pool.replace(&listed);
    let services = pool.services();
    for endpoint in services.values().flat_map(|service| service.endpoints().to_vec()) {
        let what = format!("{} {}", endpoint.service, endpoint.url);
        match greet(&pool, &endpoint, settings, &lifecycle).await {
            Ok((greeting, took)) => findings.tell(
                Mark::Ok,
                "server",
                format_args!(
                    "{what}: {} {}, MCP {}, initialized in {:.1} ms",
                    greeting.server.name,
                    greeting.server.version,
                    greeting.version,
                    took.as_secs_f64() * 1e3
                ),
            ),
            Err(error) => findings.tell(Mark::Failed, "server", format_args!("{what}: {error}")),
        }
    }
}

/// What a server says of itself.
#[derive(Debug, Deserialize)]
struct Greeting {
    #[serde(rename = "protocolVersion")]
    version: String,
    #[serde(rename = "serverInfo")]
    server: ServerInfo,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ServerInfo {
    name: String,
    version: String,
}

/// Begins a session with it, as a health check does, and ends it.
async fn greet(
    pool: &Pool,
    endpoint: &Arc<Endpoint>,
    settings: &Settings,
    lifecycle: &Lifecycle,
) -> Result<(Greeting, Duration), String> {
    let upstream = &settings.upstream;
    let for_tokens = upstream.credentials.is_some().then(|| pool.trust(upstream.ca_file.as_ref()));
    let config = Line::config(pool.tls(upstream.ca_file.as_ref()), (for_tokens, upstream.token_timeout));
    let line = Line::new(Arc::clone(endpoint), upstream, &config).in_name_of(Who::Itself);
    let vital = lifecycle.vital("a check");
    let actor = UpstreamActor::launch(line, upstream.clone(), Metrics::new(), false, vital);
    let begun = Instant::now();
    let asked = tokio::time::timeout(upstream.health_timeout, actor.send(Initialized)).await;
    let answer = match asked {
        Ok(answer) => flatten(answer).map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("no answer to initialize within {:?}", upstream.health_timeout)),
    };
    #[derive(Deserialize)]
    struct Answer {
        result: Greeting,
    }
    let answer: Answer =
        serde_json::from_slice(&answer).map_err(|error| format!("its answer to initialize: {error}"))?;
    Ok((answer.result, begun.elapsed()))
}
