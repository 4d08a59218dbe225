//! A token bucket: so many per second, with a burst of one second's worth.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// See the module's text. A rate of 0 means no limit.
#[derive(Debug)]
pub struct RateLimiter {
    per_second: u32,
    state: Mutex<(f64, Instant)>,
}

impl RateLimiter {
    /// Starts with a full bucket.
    pub fn new(per_second: u32) -> Self {
        Self { per_second, state: Mutex::new((f64::from(per_second), Instant::now())) }
    }

    /// Takes one token if there is one.
    pub fn try_acquire(&self) -> bool {
        self.try_acquire_at(Instant::now())
    }

    fn try_acquire_at(&self, now: Instant) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let rate = f64::from(self.per_second);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.saturating_duration_since(state.1).as_secs_f64();
        *state = ((state.0 + elapsed * rate).min(rate), now);
        let granted = state.0 >= 1.0;
        if granted {
            state.0 -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_more_than_the_rate_passes() {
        let limiter = RateLimiter::new(10);
        let start = Instant::now();
        assert_eq!((0..100).filter(|_| limiter.try_acquire_at(start)).count(), 10);
        let later = start + Duration::from_millis(500);
        assert_eq!((0..100).filter(|_| limiter.try_acquire_at(later)).count(), 5);
        assert!(RateLimiter::new(0).try_acquire());
    }
}
