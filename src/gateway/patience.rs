//! Store operations that a client waits for. Only the gateway repeats them; what nobody waits for has its own pace.

use std::time::{Duration, Instant};

use super::shared::Gateway;
use crate::{
    backoff::{self, STORE_PAUSES},
    store::StoreError,
};

/// How often it is looked whether a session has been written again after a loss of data.
pub(super) const LOST_DATA_PAUSE: Duration = Duration::from_millis(50);

/// The store has not done it within `MCP_REDIS_WAIT`, or cannot. It may have been done all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session store does not answer")]
pub struct StoreUnavailable;

/// Repeats a store operation for as long as a client may wait for the store. DUR-2
pub(super) async fn patiently<T, F, Fut>(gateway: &Gateway, operation: F) -> Result<T, StoreUnavailable>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let wait = gateway.env.settings.redis.wait;
    for_as_long_as(gateway, |_| wait, operation).await
}

/// As [`patiently`], for a time that may hang on what has gone wrong.
pub(super) async fn for_as_long_as<T, F, Fut>(
    gateway: &Gateway,
    patience: impl Fn(&StoreError) -> Duration,
    operation: F,
) -> Result<T, StoreUnavailable>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let patience = |error: &StoreError| {
        gateway.env.count_store_error(error);
        patience(error)
    };
    within(patience, operation).await
}

async fn within<T, F, Fut>(patience: impl Fn(&StoreError) -> Duration, operation: F) -> Result<T, StoreUnavailable>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let begun = Instant::now();
    let may_repeat = |error: &StoreError| {
        // What makes no sense makes none the next time either.
        begun.elapsed() < patience(error) && !matches!(error, StoreError::Corrupt(_))
    };
    backoff::retry(STORE_PAUSES, operation, may_repeat).await.map_err(|_| StoreUnavailable)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// DUR-2
    #[tokio::test]
    async fn what_fails_is_tried_again_and_what_makes_no_sense_is_not() {
        let long = Duration::from_secs(60);
        let (tries, failures) = (Cell::new(0), Cell::new(0));
        let counting = |limit| {
            let failures = &failures;
            move |_: &StoreError| {
                failures.set(failures.get() + 1);
                limit
            }
        };
        let third_works = || {
            tries.set(tries.get() + 1);
            let tried = tries.get();
            async move { if tried < 3 { Err(StoreError::Overloaded) } else { Ok(tried) } }
        };
        assert_eq!(within(counting(long), third_works).await, Ok(3));
        assert_eq!(failures.get(), 2);
        let corrupt = || async { Err::<(), _>(StoreError::Corrupt("x".into())) };
        assert_eq!(within(counting(long), corrupt).await, Err(StoreUnavailable));
        assert_eq!(failures.get(), 3);
        let never = || async { Err::<(), _>(StoreError::Overloaded) };
        assert_eq!(within(counting(Duration::ZERO), never).await, Err(StoreUnavailable));
        assert_eq!(failures.get(), 4, "once, however little time there is");
    }
}
