//! Pauses between tries: they double from one bound to another, and lie between half of that and all of it, so that many
//! who have met the same failure do not come back in step (STM-2).
//!
//! The pauses and the loop are backon's. This file says what backon is to do here: which part of a pause is chance, that
//! an attempt which took long was a pause already, and, for those who plan a timer of their own instead of waiting in a
//! loop (an actor, a breaker, a task that also listens for its end), the pause after so many failures. It never sleeps
//! outside [`retry`], which ends when its future is dropped.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBuilder, Retryable as _};

/// The first pause and the longest.
pub type Bounds = (Duration, Duration);

/// For operations of the store that failed and somebody waits for.
pub const STORE_PAUSES: Bounds = (Duration::from_millis(20), Duration::from_secs(1));

/// [`STORE_PAUSES`] for one who plans his own timers.
pub const STORE_BACKOFF: Backoff = Backoff::new(STORE_PAUSES.0, STORE_PAUSES.1);

/// After so many doublings a nanosecond has become centuries.
const MOST_DOUBLINGS: u32 = 64;

/// The pauses of one who tries again and again.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    bounds: Bounds,
    failures: u32,
}

impl Backoff {
    /// The first pause and the longest.
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { bounds: (min, max), failures: 0 }
    }

    /// The pause after another failure.
    pub fn pause(&mut self) -> Duration {
        let pause = pause_after(self.bounds, self.failures);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// What is left of that pause after an attempt that began at `begun`, as in [`retry`].
    pub fn pause_since(&mut self, begun: Instant) -> Duration {
        self.pause().saturating_sub(begun.elapsed())
    }

    /// It has worked: the next failure is a first one.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The pause after a failure that came after so many others.
pub fn pause_after(bounds: Bounds, failures: u32) -> Duration {
    let mut pauses = pauses(bounds).build();
    pauses.nth(failures.min(MOST_DOUBLINGS) as usize).expect("the number of pauses is not bounded")
}

/// Between half of `pause` and all of it.
pub fn jittered(pause: Duration) -> Duration {
    pause_after((pause, pause), 0)
}

/// Repeats `operation` until it works, or `may_repeat` says no to its error, which is then the result. Without a time
/// limit but the caller's.
///
/// Against somebody who hangs, the attempt itself was a pause, and another one behind it would only be missing when he
/// goes on: a pause counts from the beginning of the attempt.
///
/// # Errors
/// Those of `operation`.
pub async fn retry<T, E, F, Fut>(bounds: Bounds, mut operation: F, may_repeat: impl FnMut(&E) -> bool) -> Result<T, E>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let begun = Cell::new(Instant::now());
    let attempt = || {
        begun.set(Instant::now());
        operation()
    };
    let rest = |_: &E, pause: Option<Duration>| pause.map(|pause| pause.saturating_sub(begun.get().elapsed()));
    attempt.retry(pauses(bounds)).when(may_repeat).adjust(rest).await
}

/// backon adds up to as much again by chance: what it begins with is half of the pause. Bounds in the wrong order are both
/// the first.
fn pauses((min, max): Bounds) -> ExponentialBuilder {
    let (min, max) = (min / 2, max.max(min) / 2);
    ExponentialBuilder::new().with_jitter().without_max_times().with_min_delay(min).with_max_delay(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(10);
    const MAX: Duration = Duration::from_millis(100);
    /// backon reckons with 24 bits.
    const ROUNDING: Duration = Duration::from_nanos(50);

    /// STM-2
    #[test]
    fn pauses_double_up_to_a_cap_and_start_again() {
        let mut backoff = Backoff::new(MIN, MAX);
        for full in [10, 20, 40, 80, 100, 100] {
            let pause = backoff.pause();
            let full = Duration::from_millis(full);
            assert!(pause + ROUNDING >= full / 2 && pause <= full + ROUNDING, "{pause:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= MIN + ROUNDING);
    }

    #[test]
    fn many_who_failed_together_do_not_come_back_in_step() {
        let pauses: Vec<Duration> = (0..100).map(|_| jittered(MAX)).collect();
        assert!(pauses.iter().all(|pause| (MAX / 2..=MAX).contains(pause)), "{pauses:?}");
        let spread = pauses.iter().max().unwrap().saturating_sub(*pauses.iter().min().unwrap());
        assert!(spread > MAX / 4, "{spread:?}");
    }

    #[tokio::test]
    async fn an_operation_is_repeated_until_it_works_or_must_not_be() {
        let mut tries = 0;
        let operation = || {
            tries += 1;
            std::future::ready(if tries < 4 { Err(tries) } else { Ok("done") })
        };
        let soon = (Duration::from_millis(1), Duration::from_millis(2));
        assert_eq!(retry(soon, operation, |_| true).await, Ok("done"));
        let mut tries = 0;
        let operation = || {
            tries += 1;
            std::future::ready(Err::<(), _>(tries))
        };
        assert_eq!(retry(soon, operation, |failure| *failure < 3).await, Err(3));
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
        for failures in [64, u32::MAX] {
            assert!((MAX / 2..=MAX).contains(&pause_after((MIN, MAX), failures)));
        }
        assert!(pause_after((MIN, Duration::MAX), u32::MAX) > Duration::from_secs(1 << 50));
        assert!((MAX / 2..=MAX).contains(&pause_after((MAX, MIN), 0)), "bounds in the wrong order");
    }
}
