//! So many per second, with a burst of one second's worth: governor's bucket (GCRA), whose state is one atomic. Whoever asks
//! is refused, or waits in line.

use std::num::NonZeroU32;

use governor::{
    Quota,
    clock::{Clock, DefaultClock, ReasonablyRealtime},
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};

/// See the module's text. A rate of 0 means no limit.
#[derive(Debug)]
pub struct RateLimiter<C: Clock = DefaultClock> {
    /// Held by the first in line, who alone looks at the clock.
    line: tokio::sync::Mutex<()>,
    bucket: Option<governor::RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>>,
}

impl RateLimiter {
    /// Starts with a full bucket.
    pub fn new(per_second: u32) -> Self {
        Self::with_clock(per_second, DefaultClock::default())
    }
}

impl<C: Clock> RateLimiter<C> {
    fn with_clock(per_second: u32, clock: C) -> Self {
        let quota = NonZeroU32::new(per_second).map(Quota::per_second);
        Self {
            line: tokio::sync::Mutex::default(),
            bucket: quota.map(|quota| governor::RateLimiter::direct_with_clock(quota, clock)),
        }
    }

    /// Takes one token as soon as there is one, in the order of asking. Who gives up, which is to drop this, leaves the line
    /// and has taken none.
    pub async fn acquire(&self)
    where
        C: ReasonablyRealtime,
    {
        let Some(bucket) = &self.bucket else { return };
        let _first = self.line.lock().await;
        // Not `until_ready`, which keeps a thread of its own for its timers.
        while let Err(not_yet) = bucket.check() {
            tokio::time::sleep(not_yet.wait_time_from(bucket.clock().now())).await;
        }
    }

    /// Takes one token if there is one.
    pub fn try_acquire(&self) -> bool {
        self.bucket.as_ref().is_none_or(|bucket| bucket.check().is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    /// STM-1
    #[tokio::test]
    async fn who_gives_up_leaves_the_line_and_takes_nothing() {
        let limiter = RateLimiter::new(1);
        limiter.acquire().await;
        for _ in 0..100 {
            // Polled once, so that it stands in line, and dropped.
            assert!(futures_util::poll!(std::pin::pin!(limiter.acquire())).is_pending());
        }
        assert!(limiter.line.try_lock().is_ok(), "nobody stands there");
        let (mut first, mut second) = (Box::pin(limiter.acquire()), Box::pin(limiter.acquire()));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert!(futures_util::poll!(&mut second).is_pending());
        assert!(limiter.line.try_lock().is_err(), "the second is the first now");
    }

    #[test]
    fn no_more_than_the_rate_passes() {
        let clock = FakeRelativeClock::default();
        let limiter = RateLimiter::with_clock(10, clock.clone());
        assert_eq!((0..100).filter(|_| limiter.try_acquire()).count(), 10);
        clock.advance(Duration::from_millis(500));
        assert_eq!((0..100).filter(|_| limiter.try_acquire()).count(), 5);
        clock.advance(Duration::from_secs(60));
        assert_eq!((0..100).filter(|_| limiter.try_acquire()).count(), 10, "one second's worth, however long it was");
        let unlimited = RateLimiter::new(0);
        assert!((0..10_000).all(|_| unlimited.try_acquire()));
    }
}
