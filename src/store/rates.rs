//! How often principals may ask, and how many of their calls may be under way, counted by all instances together.

use std::{sync::Arc, time::Duration};

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

/// Whether there may be one more call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// Yes; it counts from now on.
    New,
    /// It counts already.
    Already,
    /// No: there are as many as may be.
    Full,
}

/// See module documentation. `principal`: [`Binding::principal`](super::Binding::principal).
#[async_trait]
pub trait Rates: Send + Sync {
    /// One more request. What was counted twice, because an answer was lost, is counted twice.
    async fn pace(&self, principal: &str, rate: Rate) -> StoreResult<Paced>;

    /// One more call, unless there are `limit`. It is over after `life`, unless somebody keeps it until then.
    async fn enter(&self, principal: &str, call: &str, limit: usize, life: Duration) -> StoreResult<Entered>;

    /// These calls are under way, known or not, for `life` from now on.
    async fn keep_calls(&self, principal: &str, calls: &[Arc<str>], life: Duration) -> StoreResult<()>;

    /// These calls are over.
    async fn leave(&self, principal: &str, calls: &[Arc<str>]) -> StoreResult<()>;
}
