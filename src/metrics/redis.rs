//! What Redis costs: looked up once, by the store.

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::calls::SHORT;

/// Operations that have a row of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A message into the journal.
    Accept,
    /// Messages out of it, for their owner.
    Claim,
    /// Events into a log.
    Append,
    /// Events out of it.
    ReadPage,
    /// A stream's holder.
    Attach,
    /// A session changes hands.
    Adopt,
    /// The lease of this process.
    Lease,
    /// All others.
    Other,
}

const OPERATIONS: [&str; 8] = ["accept", "claim", "append", "read_page", "attach", "adopt", "lease", "other"];

/// Words of a node of a Redis Cluster, and their labels.
const REDIRECTIONS: [(&str, &str); 5] = [
    ("MOVED", "moved"),
    ("ASK", "ask"),
    ("TRYAGAIN", "tryagain"),
    ("CLUSTERDOWN", "clusterdown"),
    ("READONLY", "readonly"),
];

/// See the module's text. Clones count the same.
#[derive(Debug, Clone)]
pub struct RedisMetrics {
    operations: Box<[Histogram]>,
    /// One exchange with Redis, with all the operations that share it.
    pub round_trip: Histogram,
    /// The last exchange was one.
    pub answers: IntGauge,
    /// Operations that wait for their turn.
    pub queued: IntGauge,
    /// Pipelines of which too few replicas had what was written.
    pub too_few_copies: IntCounter,
    redirections: Box<[IntCounter]>,
}

impl RedisMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let times = |name: &str, help: &str| HistogramOpts::new(name, help).buckets(SHORT.to_vec());
        let family = HistogramVec::new(
            times("mcp_router_redis_duration_seconds", "Operations in Redis, with the wait for their turn"),
            &["operation"],
        );
        let family = family.expect("names are constant and valid");
        let round_trip = times("mcp_router_redis_round_trip_seconds", "Exchanges with Redis");
        let round_trip = Histogram::with_opts(round_trip).expect("names are constant and valid");
        let queued = IntGauge::new("mcp_router_redis_queue_operations", "Operations that wait for their turn");
        let queued = queued.expect("names are constant and valid");
        let redirections = IntCounterVec::new(
            Opts::new("mcp_router_redis_redirections_total", "Commands that a node of a Redis Cluster had sent again"),
            &["answer"],
        );
        let redirections = redirections.expect("names are constant and valid");
        let too_few_copies = IntCounter::new(
            "mcp_router_redis_copies_missing_total",
            "Exchanges with Redis after which too few replicas had it",
        );
        let too_few_copies = too_few_copies.expect("names are constant and valid");
        let shown: [Box<dyn prometheus::core::Collector>; 5] = [
            Box::new(too_few_copies.clone()),
            Box::new(family.clone()),
            Box::new(round_trip.clone()),
            Box::new(queued.clone()),
            Box::new(redirections.clone()),
        ];
        for shown in shown {
            registry.register(shown).expect("each name is registered once");
        }
        // Shown by the process, together with what it knows of refusals.
        let answers = IntGauge::new("mcp_router_redis_answers", "The last exchange with Redis was one");
        Self {
            operations: OPERATIONS.iter().map(|operation| family.with_label_values(&[*operation])).collect(),
            round_trip,
            answers: answers.expect("names are constant and valid"),
            queued,
            too_few_copies,
            redirections: REDIRECTIONS.iter().map(|(_, label)| redirections.with_label_values(&[*label])).collect(),
        }
    }

    /// A command was not executed, and the node said where or when it would be.
    pub fn redirected(&self, word: &str) {
        if let Some(at) = REDIRECTIONS.iter().position(|(known, _)| *known == word) {
            self.redirections[at].inc();
        }
    }

    /// How long operations of this kind take.
    pub fn operation(&self, operation: Operation) -> &Histogram {
        &self.operations[operation as usize]
    }
}

impl Default for RedisMetrics {
    /// Shown nowhere.
    fn default() -> Self {
        Self::new(&Registry::new())
    }
}
