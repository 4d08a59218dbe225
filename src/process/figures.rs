//! Metrics of what stands elsewhere anyway, looked at when they are asked for: servers, phase, lease, queues.

use std::sync::{Arc, Weak, atomic::Ordering};

use prometheus::{
    GaugeVec, IntGauge, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{
    cluster::Cluster,
    lifecycle::Phase,
    telemetry::writer,
    traces::Tracer,
    upstream::{Endpoint, breaker::BreakerState},
};

/// See the module's text.
pub(super) struct Figures {
    cluster: Weak<Cluster>,
    build: IntGaugeVec,
    phase: IntGaugeVec,
    lease_age: GaugeVec,
    instances: IntGauge,
    /// Without a row where there is no Redis.
    redis_up: IntGaugeVec,
    log_queue: IntGauge,
    trace_queue: IntGauge,
    stream_queue: IntGauge,
    up: IntGaugeVec,
    breaker: IntGaugeVec,
    sessions: IntGaugeVec,
    in_flight: IntGaugeVec,
    list: IntGaugeVec,
    leaving: IntGaugeVec,
    check_took: GaugeVec,
}

const ENDPOINT: [&str; 2] = ["service", "endpoint"];

impl Figures {
    /// Of this process, which is not kept alive by it.
    pub(super) fn new(cluster: &Arc<Cluster>) -> Self {
        let valid = "names are constant and valid";
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect(valid);
        let ints =
            |name: &str, help: &str, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels).expect(valid);
        let floats =
            |name: &str, help: &str, labels: &[&str]| GaugeVec::new(Opts::new(name, help), labels).expect(valid);
        Self {
            cluster: Arc::downgrade(cluster),
            build: ints("mcp_router_build_info", "What runs here; always 1", &["version", "store", "build"]),
            phase: ints("mcp_router_phase", "1 for the phase of the process", &["phase"]),
            lease_age: floats("mcp_router_lease_age_seconds", "Since the lease was renewed", &[]),
            instances: gauge("mcp_router_instances", "Instances with a lease when they were last looked for"),
            redis_up: ints("mcp_router_redis_up", "Redis answers, and takes writes", &[]),
            log_queue: gauge("mcp_router_log_queue_lines", "Log lines that wait to be written"),
            trace_queue: gauge("mcp_router_trace_queue_spans", "Spans that wait to be sent"),
            stream_queue: gauge("mcp_router_stream_queue_bytes", "Bytes of events that wait for their clients to read"),
            up: ints("mcp_router_upstream_up", "1: the server is in use", &ENDPOINT),
            breaker: ints(
                "mcp_router_upstream_breaker",
                "1 for the state of the server's circuit breaker",
                &["service", "endpoint", "state"],
            ),
            sessions: ints("mcp_router_upstream_sessions", "Sessions of this process with the server", &ENDPOINT),
            in_flight: ints("mcp_router_upstream_in_flight", "POSTs to the server under way", &ENDPOINT),
            list: ints(
                "mcp_router_upstreams_info",
                "The list of upstreams, by a hash that is the same at all instances with the same list; always 1",
                &["generation"],
            ),
            leaving: ints(
                "mcp_router_upstream_leaving",
                "Servers that the list has no more and at which something goes on",
                &["service"],
            ),
            check_took: floats(
                "mcp_router_upstream_check_duration_seconds",
                "How long the server's last health check took that worked",
                &ENDPOINT,
            ),
        }
    }

    fn all(&self) -> [&dyn Collector; 15] {
        [
            &self.build,
            &self.phase,
            &self.lease_age,
            &self.instances,
            &self.redis_up,
            &self.log_queue,
            &self.trace_queue,
            &self.stream_queue,
            &self.up,
            &self.breaker,
            &self.sessions,
            &self.in_flight,
            &self.list,
            &self.leaving,
            &self.check_took,
        ]
    }

    fn look(&self, cluster: &Cluster) {
        let env = &cluster.env;
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        self.build.with_label_values(&[env!("CARGO_PKG_VERSION"), env.store.kind(), build]).set(1);
        let now = cluster.lifecycle.phase();
        for (phase, name) in Phase::ALL {
            self.phase.with_label_values(&[name]).set(i64::from(phase == now));
        }
        self.lease_age.with_label_values::<&str>(&[]).set(env.lease.age().as_secs_f64());
        self.instances.set(count(env.neighbours.count()));
        if env.settings.redis.url.is_some() {
            let is_up = env.metrics.redis.answers.get() == 1 && env.store.refusal().is_none();
            self.redis_up.with_label_values::<&str>(&[]).set(i64::from(is_up));
        }
        self.log_queue.set(i64::try_from(writer::waiting()).unwrap_or(i64::MAX));
        self.trace_queue.set(count(env.traces.as_ref().map_or(0, Tracer::waiting)));
        let waiting = env.directory.all_attachments().iter().map(|attachment| attachment.queued_bytes()).sum();
        self.stream_queue.set(count(waiting));
        // Servers may come and go.
        self.up.reset();
        self.breaker.reset();
        self.sessions.reset();
        self.in_flight.reset();
        self.check_took.reset();
        self.list.reset();
        self.leaving.reset();
        self.list.with_label_values(&[&cluster.pool.generation()]).set(1);
        for service in cluster.pool.services().values() {
            self.leaving.with_label_values(&[&service.name]).set(count(service.leaving().len()));
            service.endpoints().iter().for_each(|endpoint| self.look_at(endpoint));
        }
    }

    fn look_at(&self, endpoint: &Endpoint) {
        // Its number in its service: where it is, only operators are told.
        let (service, number, state) =
            (endpoint.service.as_str(), (endpoint.position() + 1).to_string(), endpoint.state());
        let labels = [service, number.as_str()];
        self.up.with_label_values(&labels).set(i64::from(state == BreakerState::Closed));
        for (other, name) in BreakerState::ALL {
            self.breaker.with_label_values(&[service, number.as_str(), name]).set(i64::from(state == other));
        }
        self.sessions.with_label_values(&labels).set(count(endpoint.sessions.load(Ordering::Relaxed)));
        self.in_flight.with_label_values(&labels).set(count(endpoint.in_flight.load(Ordering::Relaxed)));
        if let Some(took) = endpoint.check_took() {
            self.check_took.with_label_values(&labels).set(took.as_secs_f64());
        }
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Collector for Figures {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(|metric| metric.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(cluster) = self.cluster.upgrade() else { return Vec::new() };
        self.look(&cluster);
        self.all().into_iter().flat_map(|metric| metric.collect()).collect()
    }
}
