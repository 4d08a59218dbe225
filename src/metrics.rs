//! Counters and gauges, in the Prometheus text format under `/actuator/prometheus`.
//!
//! Every drop is counted with its reason; `mcp_router_invariant_violations_total{id}` counts broken guarantees by the
//! number they have in `docs/guarantees.md` and stays 0. No label ever holds a session id (SEC-2).

use prometheus::{Encoder as _, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

use crate::telemetry::writer::DROPPED;

/// All metrics of one process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// POSTs of clients by outcome.
    pub accepted: AcceptedCounters,
    /// Events appended to logs.
    pub appended: IntCounter,
    /// Answers sent to clients by the router itself, by reason.
    pub router_errors: IntCounterVec,
    /// Messages that were not passed on, by reason.
    pub dropped: IntCounterVec,
    /// Connections that were closed unread, by reason.
    pub connections_refused: IntCounterVec,
    /// Requests of nobody that is known, by reason.
    pub unauthorized: IntCounterVec,
    /// Lines of the audit log that could not be written.
    pub audit_lost: IntCounter,
    /// Store operations that failed, by kind (`unavailable`, `not_done`, `full`, `overloaded`, `corrupt`).
    pub store_errors: IntCounterVec,
    /// Sessions taken over from another process, by cause.
    pub adoptions: IntCounterVec,
    /// Sessions written again after the store had lost them.
    pub restored: IntCounter,
    /// Sessions given up because another process owns them by now.
    pub fenced: IntCounter,
    /// Sessions ended because what the store has of them makes no sense.
    pub corrupt: IntCounter,
    /// Client streams resumed, by how the session was found.
    pub resumed: IntCounterVec,
    /// Cursors that could not be served, by reason (EVT-6).
    pub resume_failed: IntCounterVec,
    /// Upstream links opened, lost or failed.
    pub upstream_links: IntCounterVec,
    /// Clients without a mark that were asked who they are, by what came of it.
    pub rebinds: IntCounterVec,
    /// Sessions let go to make room for new ones.
    pub made_room: IntCounter,
    /// Upstream sessions initialised by the router itself, for clients that came back without a handshake.
    pub handshakes_assumed: IntCounter,
    /// Answers that went out on the main stream, because nobody came back for them.
    pub moved_answers: IntCounter,
    /// Requests whose clients were told that nobody knows what became of them.
    pub disowned: IntCounter,
    /// Broken guarantees by id.
    pub violations: IntCounterVec,
    /// Sessions this process owns.
    pub sessions: IntGauge,
    /// Client streams open on this process.
    pub streams: IntGauge,
    /// Bytes of requests without an answer, of the sessions of this process.
    pub held: IntGauge,
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
    fn new(by_outcome: &IntCounterVec) -> Self {
        let of = |outcome: &str| by_outcome.with_label_values(&[outcome]);
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
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label]).expect("names are constant and valid");
            registry.register(Box::new(counters.clone())).expect("each name is registered once");
            counters
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
        let metrics = Self {
            accepted: AcceptedCounters::new(&counters(
                "mcp_router_accepted_total",
                "Client messages by outcome",
                "outcome",
            )),
            appended: counter("mcp_router_events_appended_total", "Events appended to stream logs"),
            router_errors: counters("mcp_router_errors_total", "JSON-RPC errors made by the router", "reason"),
            dropped: counters("mcp_router_dropped_total", "Messages not passed on", "reason"),
            connections_refused: counters(
                "mcp_router_connections_refused_total",
                "Connections closed unread",
                "reason",
            ),
            unauthorized: counters("mcp_router_unauthorized_total", "Requests of nobody that is known", "reason"),
            audit_lost: counter("mcp_router_audit_lost_total", "Lines of the audit log that could not be written"),
            store_errors: counters("mcp_router_store_errors_total", "Failed store operations", "kind"),
            adoptions: counters("mcp_router_adoptions_total", "Sessions taken over", "cause"),
            restored: counter("mcp_router_restored_total", "Sessions written again after the store lost them"),
            fenced: counter("mcp_router_fenced_total", "Sessions given up to a newer owner"),
            corrupt: counter("mcp_router_corrupt_total", "Sessions ended because their stored data makes no sense"),
            resumed: counters("mcp_router_resumed_total", "Client streams resumed", "by"),
            resume_failed: counters("mcp_router_resume_failed_total", "Cursors that could not be served", "reason"),
            upstream_links: counters("mcp_router_upstream_links_total", "Upstream links by event", "event"),
            rebinds: counters("mcp_router_rebinds_total", "Clients asked by ping who they are", "outcome"),
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
            violations: counters("mcp_router_invariant_violations_total", "Broken guarantees; stays 0", "id"),
            sessions: gauge("mcp_router_sessions", "Sessions owned by this process"),
            streams: gauge("mcp_router_streams", "Client streams open on this process"),
            held: gauge("mcp_router_held_bytes", "Bytes of requests without an answer"),
            registry,
        };
        metrics.registry.register(Box::new(DROPPED.clone())).expect("each name is registered once");
        // Rows exist from the start, so that "stays 0" can be seen: of what a process can see to be broken.
        for id in ["EVT-1", "EVT-2", "EVT-5"] {
            metrics.violations.with_label_values(&[id]).inc_by(0);
        }
        metrics
    }

    /// Counts a broken guarantee and says so in the log, where it is found also when this process is gone.
    pub fn violated(&self, id: &'static str) {
        self.violations.with_label_values(&[id]).inc();
        tracing::error!(guarantee = id, "a guarantee is broken");
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
