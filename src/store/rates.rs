//! How often principals may ask, counted by all instances together.

use std::time::Duration;

use async_trait::async_trait;

use super::types::StoreResult;

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Between two requests, in the long run.
    pub between: Duration,
    /// So many may come at once after a pause; at least one.
    pub burst: u32,
}

/// Whether there may be one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paced {
    /// Yes; it counts.
    Now,
    /// After so long. It does not count.
    After(Duration),
}

/// See module documentation. What was counted twice, because an answer was lost, is counted twice.
#[async_trait]
pub trait Rates: Send + Sync {
    /// One more request of `principal` ([`Binding::principal`](super::Binding::principal)).
    async fn pace(&self, principal: &str, rate: Rate) -> StoreResult<Paced>;
}
