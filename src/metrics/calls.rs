//! Calls of one service: how many, how they ended, and how long each part of them took. Looked up once for a service; a call
//! takes no lock.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, core::Metric as _,
};

use super::openmetrics::Exemplars;
use crate::protocol::trace_context::TraceContext;

/// Methods that have a row of their own; clients can name any other, and none of those becomes a label.
pub const METHODS: [&str; 21] = [
    "initialize",
    "ping",
    "tools/list",
    "tools/call",
    "prompts/list",
    "prompts/get",
    "resources/list",
    "resources/read",
    "resources/templates/list",
    "resources/subscribe",
    "resources/unsubscribe",
    "completion/complete",
    "logging/setLevel",
    "tasks/list",
    "tasks/get",
    "tasks/result",
    "tasks/update",
    "tasks/cancel",
    "server/discover",
    "subscriptions/listen",
    OTHER,
];

const OTHER: &str = "other";

/// A method as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method(u8);

impl Method {
    /// The row of this method.
    pub fn of(name: &str) -> Self {
        let at = METHODS.iter().position(|known| *known == name).unwrap_or(METHODS.len() - 1);
        Self(u8::try_from(at).unwrap_or_default())
    }

    /// The label of its row.
    pub fn name(self) -> &'static str {
        METHODS[usize::from(self.0)]
    }

    /// Of a request that nobody can read any more.
    pub fn unknown() -> Self {
        Self::of(OTHER)
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With a result.
    Ok,
    /// With an error of its server.
    Error,
    /// With an error of the router: it was not executed.
    Refused,
    /// With an error of the router: whether it was executed is not known (REQ-3).
    Unknown,
    /// Its client gave it up before it was answered.
    Cancelled,
}

const OUTCOMES: [&str; 5] = ["ok", "error", "refused", "unknown", "cancelled"];

/// How long a call took, part by part. The parts add up to `whole`, but for what was not measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Took {
    /// From the router's first step for it until its answer could go out.
    pub whole: Duration,
    /// In the server, if it got that far: from the router's POST until its answer was there.
    pub upstream: Option<Duration>,
    /// Waiting for the session store.
    pub store: Duration,
}

/// The families, by service.
#[derive(Debug, Clone)]
pub(super) struct Families {
    calls: IntCounterVec,
    whole: HistogramVec,
    upstream: HistogramVec,
    store: HistogramVec,
    own: HistogramVec,
}

/// See the module's text.
#[derive(Debug)]
pub struct ServiceMetrics {
    calls: Box<[[IntCounter; OUTCOMES.len()]]>,
    whole: Histogram,
    upstream: Histogram,
    store: Histogram,
    own: Histogram,
    exemplars: Exemplars<{ LONG.len() + 1 }>,
}

/// The family of whole calls.
pub(super) const WHOLE: &str = "mcp_router_call_duration_seconds";

/// From a millisecond up to `MCP_UPSTREAM_REQUEST_TIMEOUT` as it is shipped.
pub(super) const LONG: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0];

/// Calls since a process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) calls: u64,
    /// Those that did not end with a result.
    pub(super) failed: u64,
    /// By how long they took, each bucket by itself; the last one is beyond all bounds.
    pub(super) took: [u64; LONG.len() + 1],
}

/// For what is over in a moment, unless something is wrong.
pub(super) const SHORT: [f64; 13] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

impl Families {
    pub(super) fn new(registry: &Registry) -> Self {
        let calls = Opts::new("mcp_router_calls_total", "Requests of clients by service, method and how they ended");
        let calls = IntCounterVec::new(calls, &["service", "method", "outcome"]).expect("names are constant and valid");
        registry.register(Box::new(calls.clone())).expect("each name is registered once");
        let times = |name: &str, help: &str, buckets: &[f64]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let family = HistogramVec::new(opts, &["service"]).expect("names are constant and valid");
            registry.register(Box::new(family.clone())).expect("each name is registered once");
            family
        };
        Self {
            calls,
            whole: times(WHOLE, "Calls from their arrival to their answer", &LONG),
            upstream: times("mcp_router_upstream_duration_seconds", "The part of calls that their server took", &LONG),
            store: times("mcp_router_store_duration_seconds", "The part of calls that waited for the store", &SHORT),
            own: times("mcp_router_own_duration_seconds", "The part of calls that the router itself took", &SHORT),
        }
    }

    pub(super) fn service(&self, name: &str) -> ServiceMetrics {
        let row = |method: &str| OUTCOMES.map(|outcome| self.calls.with_label_values(&[name, method, outcome]));
        ServiceMetrics {
            calls: METHODS.iter().map(|method| row(method)).collect(),
            whole: self.whole.with_label_values(&[name]),
            upstream: self.upstream.with_label_values(&[name]),
            store: self.store.with_label_values(&[name]),
            own: self.own.with_label_values(&[name]),
            exemplars: Exemplars::default(),
        }
    }
}

impl ServiceMetrics {
    /// A call that ended so, and took so long.
    pub fn ended(&self, method: Method, outcome: Outcome, took: Took) {
        self.count(method, outcome);
        self.whole.observe(took.whole.as_secs_f64());
        if let Some(upstream) = took.upstream {
            self.upstream.observe(upstream.as_secs_f64());
            self.store.observe(took.store.as_secs_f64());
            self.own.observe(took.whole.saturating_sub(upstream + took.store).as_secs_f64());
        }
    }

    /// A call that took so long altogether belongs to this trace, which is recorded.
    pub fn is_of_trace(&self, whole: Duration, of: &TraceContext) {
        self.exemplars.note(&LONG, whole.as_secs_f64(), of);
    }

    pub(super) fn exemplars(&self) -> Vec<Option<String>> {
        self.exemplars.written()
    }

    /// All calls since the process began.
    pub(super) fn totals(&self) -> Totals {
        let of = |outcome: Outcome| self.calls.iter().map(|row| row[outcome as usize].get()).sum::<u64>();
        let failed = [Outcome::Error, Outcome::Refused, Outcome::Unknown].map(of).iter().sum();
        let mut totals =
            Totals { calls: of(Outcome::Ok) + of(Outcome::Cancelled) + failed, failed, ..Totals::default() };
        let metric = self.whole.metric();
        let histogram = metric.get_histogram();
        let mut below = 0;
        // Each counts what is in those before it, too; the last one, without a bound, is not among them.
        for (took, bucket) in totals.took.iter_mut().zip(histogram.get_bucket()) {
            *took = bucket.cumulative_count().saturating_sub(below);
            below = bucket.cumulative_count();
        }
        totals.took[LONG.len()] = histogram.get_sample_count().saturating_sub(below);
        totals
    }

    /// A call that ended so, of which no time is to be told.
    pub fn count(&self, method: Method, outcome: Outcome) {
        self.calls[usize::from(method.0)][outcome as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_counted_once_and_its_parts_add_up() {
        let registry = Registry::new();
        let service = Families::new(&registry).service("s");
        let millis = Duration::from_millis;
        let took = Took { whole: millis(100), upstream: Some(millis(70)), store: millis(20) };
        service.ended(Method::of("tools/call"), Outcome::Ok, took);
        service.ended(Method::of("no/such/method"), Outcome::Refused, Took { upstream: None, ..took });
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            r#"mcp_router_calls_total{method="tools/call",outcome="ok",service="s"} 1"#,
            r#"mcp_router_calls_total{method="other",outcome="refused",service="s"} 1"#,
            r#"mcp_router_calls_total{method="ping",outcome="unknown",service="s"} 0"#,
            r#"mcp_router_call_duration_seconds_count{service="s"} 2"#,
            r#"mcp_router_upstream_duration_seconds_sum{service="s"} 0.07"#,
            r#"mcp_router_store_duration_seconds_sum{service="s"} 0.02"#,
            r#"mcp_router_own_duration_seconds_sum{service="s"} 0.01"#,
            r#"mcp_router_own_duration_seconds_count{service="s"} 1"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        assert!(!text.contains("no/such/method"), "{text}");
    }
}
