//! What Redis costs: looked up once, by the store.

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntGauge, Registry};

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
        let shown: [Box<dyn prometheus::core::Collector>; 3] =
            [Box::new(family.clone()), Box::new(round_trip.clone()), Box::new(queued.clone())];
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
