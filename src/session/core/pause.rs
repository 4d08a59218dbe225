//! A pause before something is tried again, with its part of chance still to be drawn.

use std::time::Duration;

use crate::backoff::{Bounds, pause_after};

/// See the module's text. Many who have met the same failure draw different ones, and do not come back in step (STM-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Any, up to this.
    Within(Duration),
    /// [`pause_after`] so many failures.
    After(Bounds, u32),
}

impl Pause {
    /// Draws one.
    pub fn draw(self) -> Duration {
        match self {
            Self::Within(most) => most.mul_f64(fastrand::f64()),
            Self::After(bounds, failures) => pause_after(bounds, failures),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// STM-2
    #[test]
    fn pauses_that_are_drawn_lie_within_their_bounds_and_differ() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        for (pause, from, to) in [
            (Pause::Within(max), Duration::ZERO, max),
            (Pause::After((min, max), 0), min / 2, min),
            (Pause::After((min, max), 9), max / 2, max),
        ] {
            // What backon reckons with is rounded.
            let near = Duration::from_micros(1);
            let drawn: Vec<Duration> = (0..100).map(|_| pause.draw()).collect();
            assert!(drawn.iter().all(|drawn| (from..=to + near).contains(&(*drawn + near))), "{pause:?}: {drawn:?}");
            assert!(drawn.iter().max() > drawn.iter().min(), "{pause:?}");
        }
    }
}
