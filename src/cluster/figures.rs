//! What this process tells of itself to operators, at whichever instance they look: once in `MCP_UI_PUBLISH`, in some KiB,
//! together with what has happened since. They may ask it to drain in the same place.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::Cluster;
use crate::{
    audit,
    incidents::Incident,
    lifecycle::Phase,
    metrics::{Recent, Sample},
    store::{Publication, StoreResult},
    upstream::{Endpoint, breaker::BreakerState},
};

/// How long what a process has told is kept when it says no more: long enough to see what it was.
const LIFE: Duration = Duration::from_secs(600);

/// Servers that are told of, of one service: more would make the record of an instance large, and nobody reads them.
const ENDPOINTS: usize = 64;
/// Services that are told of.
const SERVICES: usize = 32;
/// Lines of the audit log that are told of a session that somebody asks about, the newest.
const KNOWN: usize = 50;
/// Longest text about an error, in characters.
const ERROR: usize = 120;

/// What is remembered from one time to the next.
#[derive(Debug, Default)]
pub struct Figures {
    recent: Recent,
    /// Exchanges with Redis and the seconds that they took.
    exchanges: (u64, f64),
    /// Servers that were out of use, by service and number.
    down: Vec<(String, usize)>,
    /// Sessions that somebody asks about.
    about: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    at_ms: u64,
    every_ms: u64,
    phase: &'static str,
    sessions: i64,
    streams: i64,
    connections: i64,
    stateless: i64,
    held_bytes: i64,
    lease_age_ms: u64,
    store: Store,
    /// Calls a second, those that failed, microseconds of p50 and p99; the oldest first.
    rates: Vec<[f64; 4]>,
    services: Vec<Service<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Store {
    is_up: bool,
    error: Option<String>,
    round_trip_us: u64,
}

#[derive(Debug, Serialize)]
struct Service<'a> {
    name: &'a str,
    endpoints: Vec<Server>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Server {
    url: String,
    state: &'static str,
    sessions: usize,
    in_flight: usize,
    check_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Tells it, and does what was asked for.
///
/// # Errors
/// As of the store; incidents that it did not take are lost.
pub async fn publish(cluster: &Arc<Cluster>, figures: &mut Figures) -> StoreResult<()> {
    let env = &cluster.env;
    let text = figures.tell(cluster);
    let known = known_of(cluster, std::mem::take(&mut figures.about)).await;
    let incidents = env.incidents.take();
    let publication = Publication {
        owner: &env.me,
        figures: Cow::Owned(text),
        known: Cow::Owned(known),
        life: LIFE,
        incidents: &incidents,
        keep: env.settings.ui.incidents,
    };
    match env.store.publish(publication).await {
        Ok(heard) => {
            figures.about = heard.about;
            if heard.drain && cluster.lifecycle.phase() < Phase::Draining {
                tracing::info!("an operator has asked this instance to drain");
                cluster.lifecycle.advance(Phase::Draining);
            }
            Ok(())
        }
        Err(error) => {
            env.incidents.lost(incidents.len());
            Err(error)
        }
    }
}

/// What this process knows of a session that somebody asks about.
#[derive(Debug, Default, Serialize)]
struct Known {
    /// Up to here events were handed to the client's connection, by stream: of those that this process shows.
    sent: BTreeMap<String, u64>,
    /// The last lines of the audit log about it.
    lines: Vec<Value>,
}

/// By the handles of sessions, as JSON; empty where there is nothing.
async fn known_of(cluster: &Cluster, sessions: Vec<String>) -> String {
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    if sessions.is_empty() {
        return String::new();
    }
    for attachment in cluster.env.directory.all_attachments() {
        let handle = attachment.session.handle();
        if sessions.contains(&handle) {
            known.entry(handle).or_default().sent.insert(attachment.key.name().into_owned(), attachment.sent());
        }
    }
    if let Some(path) = cluster.env.settings.log.audit.clone() {
        let read = move || {
            let about = |session: String| (audit::tail::about(&path, &session, KNOWN), session);
            sessions.into_iter().map(about).collect::<Vec<_>>()
        };
        for (lines, session) in actix_rt::task::spawn_blocking(read).await.unwrap_or_default() {
            if !lines.is_empty() {
                known.entry(session).or_default().lines = lines;
            }
        }
    }
    if known.is_empty() { String::new() } else { serde_json::to_string(&known).unwrap_or_default() }
}

impl Figures {
    fn tell(&mut self, cluster: &Cluster) -> String {
        let (env, metrics) = (&cluster.env, &cluster.env.metrics);
        let phase = cluster.lifecycle.phase();
        self.look_at_servers(cluster);
        let now = Instant::now().into_std();
        let services = cluster.pool.services();
        let rates = self.recent.sample(now, services.values().map(|service| &service.metrics)).map(row).collect();
        let told = Told {
            at_ms: now_ms(),
            every_ms: millis(env.settings.ui.publish),
            phase: Phase::ALL.iter().find(|(other, _)| *other == phase).map_or("", |(_, name)| name),
            sessions: metrics.sessions.get(),
            streams: metrics.streams.get(),
            connections: metrics.connections.get(),
            stateless: metrics.stateless.get(),
            held_bytes: metrics.held.get(),
            lease_age_ms: millis(env.lease.age()),
            store: self.store(cluster),
            rates,
            services: services
                .values()
                .filter(|service| service.is_listed())
                .take(SERVICES)
                .map(|service| Service {
                    name: &service.name,
                    endpoints: service.endpoints().iter().take(ENDPOINTS).map(|endpoint| server(endpoint)).collect(),
                })
                .collect(),
        };
        serde_json::to_string(&told).unwrap_or_default()
    }

    fn store(&mut self, cluster: &Cluster) -> Store {
        let redis = &cluster.env.metrics.redis;
        let now = (redis.round_trip.get_sample_count(), redis.round_trip.get_sample_sum());
        let (count, took) = (now.0.saturating_sub(self.exchanges.0), now.1 - self.exchanges.1);
        self.exchanges = now;
        let error = cluster.env.store.refusal();
        let answers = cluster.env.settings.redis.url.is_none() || redis.answers.get() == 1;
        let round_trip_us = if count == 0 { 0 } else { (took / count as f64 * 1e6) as u64 };
        Store { is_up: answers && error.is_none(), error, round_trip_us }
    }

    /// Notes servers that are out of use since the last time, and those that are back.
    fn look_at_servers(&mut self, cluster: &Cluster) {
        let mut down = Vec::new();
        for service in cluster.pool.services().values() {
            for endpoint in service.endpoints().iter().filter(|endpoint| endpoint.state() != BreakerState::Closed) {
                down.push((service.name.clone(), endpoint.position() + 1));
            }
        }
        let incidents = &cluster.env.incidents;
        let note = |what, (service, number): &(String, usize)| {
            let endpoint = u64::try_from(*number).unwrap_or_default();
            incidents.note(Incident { service: service.clone(), endpoint, ..Incident::new(what) });
        };
        down.iter().filter(|server| !self.down.contains(server)).for_each(|server| note("server_down", server));
        self.down.iter().filter(|server| !down.contains(server)).for_each(|server| note("server_up", server));
        self.down = down;
    }
}

fn server(endpoint: &Endpoint) -> Server {
    use std::sync::atomic::Ordering::Relaxed;
    let state = endpoint.state();
    Server {
        url: endpoint.url.to_string(),
        state: BreakerState::ALL.iter().find(|(other, _)| *other == state).map_or("", |(_, name)| name),
        sessions: endpoint.sessions.load(Relaxed),
        in_flight: endpoint.in_flight.load(Relaxed),
        check_us: endpoint.check_took().map_or(0, |took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        error: endpoint.last_error().map(|error| error.chars().take(ERROR).collect()),
    }
}

/// With no more digits than anybody reads.
fn row(sample: &Sample) -> [f64; 4] {
    let short = |number: f64| (number * 10.0).round() / 10.0;
    [short(sample.calls), short(sample.failed), sample.p50.as_micros() as f64, sample.p99.as_micros() as f64]
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn now_ms() -> u64 {
    millis(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default())
}
