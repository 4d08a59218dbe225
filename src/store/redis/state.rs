//! How a Redis Cluster is, for whoever looks before a start.

use redis::Value;

use super::{RedisStore, keys::SLOTS, reply::told};
use crate::store::StoreResult;

/// See module documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterState {
    /// Each primary that answers says that the cluster is up.
    pub is_up: bool,
    /// Slots that are served, by the primary that knows of the fewest.
    pub slots: u16,
    /// Primaries, and how many of them do not answer.
    pub primaries: usize,
    /// See above.
    pub away: usize,
    /// Those without a replica: when they die their sessions wait for them.
    pub without_replica: usize,
    /// Those that take writes which no replica has (`min-replicas-to-write` is 0).
    pub unbounded: usize,
}

impl ClusterState {
    /// All slots there are.
    pub const SLOTS: u16 = SLOTS;
}

impl RedisStore {
    /// `None`: it is none.
    ///
    /// # Errors
    /// None of its primaries answers.
    pub async fn cluster_state(&self) -> StoreResult<Option<ClusterState>> {
        let topology = &self.link.topology;
        if !topology.is_cluster() {
            return Ok(None);
        }
        let places = topology.places();
        let mut state = ClusterState { is_up: true, slots: SLOTS, primaries: places.len(), ..ClusterState::default() };
        let mut questions = redis::pipe();
        questions.cmd("CLUSTER").arg("INFO").cmd("INFO").arg("replication");
        let mut failure = None;
        for place in places {
            let answers = match self.link.ask(place, &questions).await {
                Ok(answers) => answers,
                Err(error) => {
                    state.away += 1;
                    failure = Some(error);
                    continue;
                }
            };
            let mut texts = answers.into_iter().map(|answer| match answer {
                Value::BulkString(text) => String::from_utf8_lossy(&text).into_owned(),
                // A right that is missing: it is not told.
                _ => String::new(),
            });
            let (cluster, replication) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
            state.is_up &= told(&cluster, "cluster_state") == Some("ok");
            let slots = told(&cluster, "cluster_slots_ok").and_then(|slots| slots.parse().ok());
            state.slots = state.slots.min(slots.unwrap_or(0));
            state.without_replica += usize::from(told(&replication, "connected_slaves") == Some("0"));
            // It is told only where such a number is set.
            let is_bounded = replication.is_empty() || told(&replication, "min_slaves_good_slaves").is_some();
            state.unbounded += usize::from(!is_bounded);
        }
        match failure {
            Some(error) if state.away == state.primaries => Err(error),
            _ => Ok(Some(state)),
        }
    }
}
