//! Counters, times and gauges, in the Prometheus text format under `/actuator/prometheus`.
//!
//! Every drop is counted with its reason; `mcp_router_invariant_violations_total{id}` counts broken guarantees by the
//! number they have in `docs/guarantees.md` and stays 0. No label ever holds a session id (SEC-2), nor anything else that a
//! client can choose: labels have few values, all of which are known at the start, and each row is there from then on with
//! 0.
//!
//! | file | what stands there |
//! |---|---|
//! | `rows` | counters by a reason |
//! | `calls` | calls of a service: how many, how they ended, how long each part took |
//! | `redis` | what Redis costs |
//! | `recent` | the last minute of calls, for people |
//! | `openmetrics` | the other text format, with exemplars |
//! | `process` | memory, files and CPU |

mod calls;
mod openmetrics;
mod process;
mod recent;
mod redis;
mod rows;

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntGauge, Registry, TextEncoder, core::Collector,
};

use self::{calls::Families, process::Process};
pub use self::{
    calls::{METHODS, Method, Outcome, ServiceMetrics, Took},
    openmetrics::MEDIA_TYPE as OPEN_METRICS,
    recent::{Recent, Sample},
    redis::{Operation, RedisMetrics},
    rows::Rows,
};
use crate::telemetry::{PANICS, writer::DROPPED};

/// Recovery takes milliseconds where somebody waits, and as long as nobody does otherwise.
const RECOVERY: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0, 300.0];

/// Reasons of errors that the router makes.
const ERRORS: &[&str] = &[
    "answer_not_utf8",
    "answer_too_large",
    "broken_answer",
    "cancelled",
    "draining",
    "header_mismatch",
    "id_in_use",
    "instance_full",
    "invalid_params",
    "missing_capability",
    "missing_meta",
    "other_version",
    "outcome_unknown",
    "policy",
    "stateless",
    "store_unavailable",
    "timeout",
    "too_many",
    "too_many_bytes",
    "too_many_server_requests",
    "too_often",
    "tool_list",
    "unknown_method",
    "unknown_session",
    "unsupported_version",
    "too_many_calls",
    "upstream_busy",
    "upstream_lost",
    "upstream_refused",
    "upstream_timeout",
    "upstream_unavailable",
    "upstream_unreachable",
];

/// Reasons for which a message goes nowhere.
const DROPS: &[&str] = &[
    "answer_to_dead_upstream",
    "answer_to_nothing",
    "cancel_of_nothing",
    "cancel_to_dead_upstream",
    "input_never_came",
    "look_after",
    "not_disowned",
    "notification_of_nothing",
    "policy",
    "repeated_question",
    "results_full",
    "second_answer",
    "slow_client",
    "upstream_answer_without_id",
    "upstream_down",
    "upstream_nonsense",
    "upstream_refused",
    "upstream_too_large",
    "upstream_unknown_answer",
];

/// Why nobody knows who asks.
const UNAUTHORIZED: &[&str] =
    &["ambiguous", "bad_token", "insufficient_scope", "no_credential", "no_issuer", "unknown_key", "unknown_signer"];

/// Why a client does not get what follows its cursor.
const RESUME_FAILED: &[&str] = &["cursor_foreign", "cursor_unknown", "epoch", "events_expired", "session_gone"];

/// Guarantees that a process can see to be broken.
const VIOLATIONS: &[&str] = &["EVT-1", "EVT-2", "EVT-5"];

/// All metrics of one process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    services: Arc<RwLock<HashMap<String, Arc<ServiceMetrics>>>>,
    /// What Redis costs.
    pub redis: RedisMetrics,
    /// From an adoption to the first stream of the session that is served here, or its first answer.
    pub recovery: Histogram,
    /// POSTs of clients by outcome.
    pub accepted: AcceptedCounters,
    /// Events appended to logs.
    pub appended: IntCounter,
    /// Bytes of messages that were journaled.
    pub accepted_bytes: IntCounter,
    /// Bytes of events appended to logs.
    pub appended_bytes: IntCounter,
    /// Events sent again, or for the first time, from the log to a client that came back.
    pub replayed: IntCounter,
    /// Answers sent to clients by the router itself, by reason.
    pub router_errors: Rows,
    /// Messages that were not passed on, by reason.
    pub dropped: Rows,
    /// Connections that were closed unread, by reason.
    pub connections_refused: Rows,
    /// Requests of nobody that is known, by reason.
    pub unauthorized: Rows,
    /// Lines of the audit log that could not be written.
    pub audit_lost: IntCounter,
    /// Incidents that had no room, or that the store did not take.
    pub incidents_lost: IntCounter,
    /// Spans that their receiver has taken.
    pub spans_exported: IntCounter,
    /// Spans that nobody will see, by reason.
    pub spans_dropped: Rows,
    /// Store operations that failed, by kind (`unavailable`, `not_done`, `full`, `overloaded`, `corrupt`).
    pub store_errors: Rows,
    /// Sessions taken over from another process, by cause.
    pub adoptions: Rows,
    /// Sessions written again after the store had lost them.
    pub restored: IntCounter,
    /// Sessions given up because another process owns them by now.
    pub fenced: IntCounter,
    /// Sessions ended because what the store has of them makes no sense.
    pub corrupt: IntCounter,
    /// Client streams resumed, by how the session was found.
    pub resumed: Rows,
    /// Cursors that could not be served, by reason (EVT-6).
    pub resume_failed: Rows,
    /// Upstream links opened, lost or failed.
    pub upstream_links: Rows,
    /// The list of services and servers.
    pub upstreams: ListMetrics,
    /// Tokens towards servers, by what came of them.
    pub upstream_tokens: Rows,
    /// Clients without a mark that were asked who they are, by what came of it.
    pub rebinds: Rows,
    /// Sessions let go to make room for new ones.
    pub made_room: IntCounter,
    /// Upstream sessions initialised by the router itself, for clients that came back without a handshake.
    pub handshakes_assumed: IntCounter,
    /// Answers that went out on the main stream, because nobody came back for them.
    pub moved_answers: IntCounter,
    /// Calls with an idempotency key, by what came of the key.
    pub keyed_calls: Rows,
    /// Calls that have become tasks, and what their clients asked of them.
    pub tasks: Rows,
    /// Requests whose clients were told that nobody knows what became of them.
    pub disowned: IntCounter,
    /// Results of 2026-07-28 that were kept when they were asked for (`hit`), those that were not (`miss`), and those that their
    /// servers called stale.
    pub stateless_cache: Rows,
    /// Requests of 2026-07-28 under way on this process.
    pub stateless: IntGauge,
    /// Broken guarantees by id.
    pub violations: Rows,
    /// Sessions this process owns.
    pub sessions: IntGauge,
    /// Client streams open on this process.
    pub streams: IntGauge,
    /// Bytes of requests without an answer, of the sessions of this process.
    pub held: IntGauge,
    /// Connections of clients and proxies.
    pub connections: IntGauge,
}

/// See [`Metrics::upstreams`].
#[derive(Debug, Clone)]
pub struct ListMetrics {
    /// New lists: `taken`, or `refused` as a whole for a fault in them.
    pub reloads: Rows,
    /// The file had no fault when it was read last.
    pub file_is_valid: IntGauge,
    /// Looks for servers by names: `found`, or `failed`, by which nothing changes.
    pub looks: Rows,
    /// Names whose last look has failed.
    pub failing: IntGauge,
}

/// One counter an outcome, looked up once: these are counted for every message.
#[derive(Debug, Clone)]
pub struct AcceptedCounters {
    /// Forwarded in the step that journaled it.
    pub forwarded: IntCounter,
    /// Journaled, to be claimed by the owner.
    pub queued: IntCounter,
    /// Journaled before.
    pub duplicate: IntCounter,
    /// Not journaled.
    pub refused: IntCounter,
}

impl AcceptedCounters {
    fn new(by_outcome: &Rows) -> Self {
        let of = |outcome: &str| by_outcome.with_label_values(&[outcome]).clone();
        Self { forwarded: of("forwarded"), queued: of("queued"), duplicate: of("duplicate"), refused: of("refused") }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers everything.
    pub fn new() -> Self {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, label: &str, values: &[&'static str]| {
            Rows::new(&registry, name, help, label, values)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("names are constant and valid");
            registry.register(Box::new(counter.clone())).expect("each name is registered once");
            counter
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("names are constant and valid");
            registry.register(Box::new(gauge.clone())).expect("each name is registered once");
            gauge
        };
        let recovery = HistogramOpts::new(
            "mcp_router_recovery_duration_seconds",
            "From an adoption to the first stream or answer of the session",
        );
        let recovery = Histogram::with_opts(recovery.buckets(RECOVERY.to_vec())).expect("names are constant and valid");
        registry.register(Box::new(recovery.clone())).expect("each name is registered once");
        let metrics = Self {
            families: Families::new(&registry),
            services: Arc::default(),
            redis: RedisMetrics::new(&registry),
            recovery,
            accepted: AcceptedCounters::new(&counters(
                "mcp_router_accepted_total",
                "Client messages by outcome",
                "outcome",
                &["forwarded", "queued", "duplicate", "refused"],
            )),
            accepted_bytes: counter("mcp_router_accepted_bytes_total", "Bytes of journaled messages"),
            appended_bytes: counter("mcp_router_events_appended_bytes_total", "Bytes of events in stream logs"),
            replayed: counter("mcp_router_events_replayed_total", "Events from the log for clients that came back"),
            appended: counter("mcp_router_events_appended_total", "Events appended to stream logs"),
            router_errors: counters("mcp_router_errors_total", "JSON-RPC errors made by the router", "reason", ERRORS),
            dropped: counters("mcp_router_dropped_total", "Messages not passed on", "reason", DROPS),
            connections_refused: counters(
                "mcp_router_connections_refused_total",
                "Connections closed unread",
                "reason",
                &["too_many_of_an_address"],
            ),
            unauthorized: counters(
                "mcp_router_unauthorized_total",
                "Requests of nobody that is known",
                "reason",
                UNAUTHORIZED,
            ),
            audit_lost: counter("mcp_router_audit_lost_total", "Lines of the audit log that could not be written"),
            incidents_lost: counter("mcp_router_incidents_lost_total", "Incidents that the dashboard does not show"),
            spans_exported: counter("mcp_router_trace_spans_exported_total", "Spans that their receiver has taken"),
            spans_dropped: counters(
                "mcp_router_trace_spans_dropped_total",
                "Spans that could not be sent",
                "reason",
                &["queue_full", "not_sent", "rejected"],
            ),
            store_errors: counters(
                "mcp_router_store_errors_total",
                "Failed store operations",
                "kind",
                &["unavailable", "not_done", "full", "unusable", "overloaded", "corrupt"],
            ),
            adoptions: counters(
                "mcp_router_adoptions_total",
                "Sessions taken over",
                "cause",
                &["attach", "again", "create", "post", "sweep", "task"],
            ),
            restored: counter("mcp_router_restored_total", "Sessions written again after the store lost them"),
            fenced: counter("mcp_router_fenced_total", "Sessions given up to a newer owner"),
            corrupt: counter("mcp_router_corrupt_total", "Sessions ended because their stored data makes no sense"),
            resumed: counters(
                "mcp_router_resumed_total",
                "Client streams resumed",
                "by",
                &["last_event_id", "session_id", "cookie", "ping_rebind", "edge"],
            ),
            resume_failed: counters(
                "mcp_router_resume_failed_total",
                "Cursors that could not be served",
                "reason",
                RESUME_FAILED,
            ),
            upstream_links: counters(
                "mcp_router_upstream_links_total",
                "Upstream links by event",
                "event",
                &["opened", "lost", "gave_up", "resumed", "rested"],
            ),
            upstream_tokens: counters(
                "mcp_router_upstream_tokens_total",
                "Tokens towards servers: had, failed, or refused by the server",
                "event",
                &["had", "failed", "refused"],
            ),
            upstreams: ListMetrics {
                reloads: counters(
                    "mcp_router_upstreams_reloads_total",
                    "New lists of upstreams, by what came of them",
                    "outcome",
                    &["taken", "refused"],
                ),
                file_is_valid: gauge(
                    "mcp_router_upstreams_file_valid",
                    "1: the file of upstreams was right when it was read last, or there is none",
                ),
                looks: counters(
                    "mcp_router_discovery_looks_total",
                    "Looks for servers by names, by what came of them",
                    "outcome",
                    &["found", "failed"],
                ),
                failing: gauge("mcp_router_discovery_failing", "Names whose servers could not be found the last time"),
            },
            rebinds: counters(
                "mcp_router_rebinds_total",
                "Clients asked by ping who they are",
                "outcome",
                &["cookie", "answered", "gone", "ended", "silence", "renewed"],
            ),
            made_room: counter("mcp_router_made_room_total", "Sessions let go to make room for new ones"),
            handshakes_assumed: counter(
                "mcp_router_handshakes_assumed_total",
                "Handshakes by the router for clients that sent none",
            ),
            moved_answers: counter(
                "mcp_router_moved_answers_total",
                "Answers that went out on the GET stream, because nobody came back to the stream of their request.",
            ),
            disowned: counter(
                "mcp_router_disowned_total",
                "Requests whose clients were told that their outcome is unknown, since the store did not answer.",
            ),
            keyed_calls: counters(
                "mcp_router_keyed_calls_total",
                "Calls with an idempotency key, by what came of the key",
                "outcome",
                &["first", "joined", "replayed", "other_request"],
            ),
            tasks: counters(
                "mcp_router_tasks_total",
                "Tasks created, and what was asked of them",
                "event",
                &["created", "get", "update", "cancel"],
            ),
            violations: counters(
                "mcp_router_invariant_violations_total",
                "Broken guarantees; stays 0",
                "id",
                VIOLATIONS,
            ),
            stateless_cache: counters(
                "mcp_router_stateless_cache_total",
                "Requests of 2026-07-28 for results that may be kept, and results that their servers called stale",
                "outcome",
                &["hit", "miss", "stale"],
            ),
            stateless: gauge("mcp_router_stateless_requests", "Requests of 2026-07-28 under way"),
            sessions: gauge("mcp_router_sessions", "Sessions owned by this process"),
            streams: gauge("mcp_router_streams", "Client streams open on this process"),
            held: gauge("mcp_router_held_bytes", "Bytes of requests without an answer"),
            connections: gauge("mcp_router_connections", "Open connections of clients and proxies"),
            registry,
        };
        metrics.show(DROPPED.clone());
        metrics.show(PANICS.clone());
        metrics.show(Process::new());
        metrics
    }

    /// Shows this, too. Its names must be new.
    pub fn show(&self, what: impl Collector + 'static) {
        self.registry.register(Box::new(what)).expect("each name is registered once");
    }

    /// Those of a service, all of whose rows are there from now on. To be kept: it is looked up under a lock.
    pub fn service(&self, name: &str) -> Arc<ServiceMetrics> {
        let mut services = self.services.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = services.get(name) {
            return Arc::clone(known);
        }
        let service = Arc::new(self.families.service(name));
        services.insert(name.to_owned(), Arc::clone(&service));
        service
    }

    /// Counts a broken guarantee and says so in the log, where it is found also when this process is gone.
    pub fn violated(&self, id: &'static str) {
        self.violations.with_label_values(&[id]).inc();
        tracing::error!(guarantee = id, "a guarantee is broken");
    }

    /// The OpenMetrics text, with exemplars.
    pub fn render_open(&self) -> String {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        let exemplars = services.iter().map(|(name, service)| ((calls::WHOLE, name.clone()), service.exemplars()));
        openmetrics::render(&self.registry.gather(), &exemplars.collect())
    }

    /// The Prometheus text.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }
}
