//! Pauses between tries: they double from one bound to another, and lie between half of that and all of it, so that many
//! who have met the same failure do not come back in step (STM-2).

use std::time::{Duration, Instant};

/// The pauses of one who tries again and again.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    bounds: (Duration, Duration),
    failures: u32,
}

impl Backoff {
    /// The first pause and the longest.
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { bounds: (min, max), failures: 0 }
    }

    /// The pause after another failure.
    pub fn pause(&mut self) -> Duration {
        let pause = jittered(doubled(self.bounds, self.failures));
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// What is left of the pause after a failed attempt that began at `begun`: against somebody who hangs, the attempt itself
    /// was a pause, and another one behind it would only be missing when he goes on.
    pub fn pause_since(&mut self, begun: Instant) -> Duration {
        self.pause().saturating_sub(begun.elapsed())
    }

    /// It has worked: the next failure is a first one.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// For operations of the store that failed and somebody waits for.
pub const STORE_BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));

/// The longest pause after so many earlier failures, between the bounds.
pub fn doubled((min, max): (Duration, Duration), failures: u32) -> Duration {
    min.saturating_mul(2_u32.saturating_pow(failures)).min(max.max(min))
}

/// Between half of `pause` and all of it.
pub fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(10);
    const MAX: Duration = Duration::from_millis(100);

    /// STM-2
    #[test]
    fn pauses_double_up_to_a_cap_and_start_again() {
        let mut backoff = Backoff::new(MIN, MAX);
        for full in [10, 20, 40, 80, 100, 100] {
            let pause = backoff.pause();
            let full = Duration::from_millis(full);
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= MIN);
    }

    #[test]
    fn an_attempt_that_took_long_was_a_pause_already() {
        let mut backoff = Backoff::new(MIN, MAX);
        let long_ago = Instant::now().checked_sub(MAX).unwrap();
        assert_eq!(backoff.pause_since(long_ago), Duration::ZERO);
        assert!(Backoff::new(MAX, MAX).pause_since(Instant::now()) > MAX / 4);
    }

    #[test]
    fn no_number_of_failures_is_too_many() {
        assert_eq!(doubled((MIN, MAX), u32::MAX), MAX);
        assert_eq!(doubled((MAX, MIN), 0), MAX, "bounds in the wrong order");
    }
}
