//! The circuit breaker of one endpoint: a pure state machine, driven by the caller's clock.
//!
//! Closed → (several failures in a row) → open for a growing, jittered time → half-open: one attempt is let through; its
//! success closes the breaker, its failure opens it again for longer. STM-2.

use std::time::{Duration, Instant};

use crate::backoff::pause_after;

/// A service without one healthy endpoint is asked for a sign of life so often at most: soon enough that nobody notices
/// the difference to a server that is there, and nothing to one that is not.
pub(super) const LAST_RESORT_PAUSE: Duration = Duration::from_millis(100);

/// What the breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// Nothing until its time is over.
    Open,
    /// One attempt.
    HalfOpen,
}

impl BreakerState {
    /// All of them, by the names under which they are shown.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Closed, "closed"), (Self::Open, "open"), (Self::HalfOpen, "half_open")];
}

/// See the module's text.
#[derive(Debug)]
pub struct Breaker {
    threshold: u32,
    backoff_min: Duration,
    backoff_max: Duration,
    failures: u32,
    open_until: Option<Instant>,
    /// When the half-open attempt was handed out; a lost one is handed out again after `backoff_max`.
    probe_since: Option<Instant>,
    failed_at: Option<Instant>,
}

impl Breaker {
    /// `threshold`: failures in a row that open it (at least 1).
    pub fn new(threshold: u32, backoff_min: Duration, backoff_max: Duration) -> Self {
        Self {
            threshold: threshold.max(1),
            backoff_min,
            backoff_max,
            failures: 0,
            open_until: None,
            probe_since: None,
            failed_at: None,
        }
    }

    /// Where it stands at `now`.
    pub fn state(&self, now: Instant) -> BreakerState {
        match self.open_until {
            None => BreakerState::Closed,
            Some(until) if now < until => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// May one attempt be made at `now`?
    pub fn try_acquire(&mut self, now: Instant) -> bool {
        match self.state(now) {
            BreakerState::Closed => true,
            BreakerState::Open => false,
            BreakerState::HalfOpen => self.take_probe(now),
        }
    }

    /// May one attempt be made at `now` although the breaker is open, because every other one is, too? To wait then
    /// helps nobody.
    pub fn try_last_resort(&mut self, now: Instant) -> bool {
        let is_due = self.failed_at.is_none_or(|at| now.duration_since(at) >= LAST_RESORT_PAUSE);
        is_due && self.take_probe(now)
    }

    fn take_probe(&mut self, now: Instant) -> bool {
        let taken = self.probe_since.is_some_and(|since| now.duration_since(since) < self.backoff_max);
        if !taken {
            self.probe_since = Some(now);
        }
        !taken
    }

    /// An attempt worked.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.open_until = None;
        self.probe_since = None;
        self.failed_at = None;
    }

    /// An attempt failed at `now`.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.probe_since = None;
        self.failed_at = Some(now);
        if self.failures >= self.threshold {
            let pause = pause_after((self.backoff_min, self.backoff_max), self.failures - self.threshold);
            self.open_until = Some(now + pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_breaker_opens_after_failures_and_lets_one_probe_through() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(10));
        let mut breaker = Breaker::new(3, min, max);
        let now = Instant::now();
        breaker.failed(now);
        breaker.failed(now);
        assert_eq!(breaker.state(now), BreakerState::Closed);
        breaker.failed(now);
        assert_eq!(breaker.state(now), BreakerState::Open);
        assert!(!breaker.try_acquire(now));
        let later = now + min;
        assert_eq!(breaker.state(later), BreakerState::HalfOpen);
        assert!(breaker.try_acquire(later));
        assert!(!breaker.try_acquire(later), "only one probe at a time");
        breaker.failed(later);
        assert!(!breaker.try_acquire(later));
        breaker.succeeded();
        assert_eq!(breaker.state(later), BreakerState::Closed);
    }

    #[test]
    fn an_open_breaker_lets_one_attempt_through_where_nothing_else_is_left() {
        let mut breaker = Breaker::new(1, Duration::from_secs(3600), Duration::from_secs(3600));
        let now = Instant::now();
        breaker.failed(now);
        assert!(!breaker.try_last_resort(now), "it has just failed");
        let later = now + LAST_RESORT_PAUSE;
        assert!(!breaker.try_acquire(later));
        assert!(breaker.try_last_resort(later));
        assert!(!breaker.try_last_resort(later), "one at a time");
        breaker.failed(later);
        assert!(!breaker.try_last_resort(later));
        assert!(breaker.try_last_resort(later + LAST_RESORT_PAUSE));
        breaker.succeeded();
        assert_eq!(breaker.state(later), BreakerState::Closed);
    }

    #[test]
    fn the_wait_grows_and_is_capped() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut breaker = Breaker::new(1, min, max);
        let now = Instant::now();
        for _ in 0..100 {
            breaker.failed(now);
        }
        assert_eq!(breaker.state(now + max), BreakerState::HalfOpen);
        assert_eq!(breaker.state(now + max.mul_f64(0.49)), BreakerState::Open);
    }
}
