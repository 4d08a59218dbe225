//! A pause before something is tried again, with its part of chance still to be drawn.

use std::time::Duration;

use crate::{
    backoff::{Bounds, pause_after},
    settings::UpstreamSettings,
};

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

/// Pause before a message is sent again that the upstream did not take for the time being.
pub fn pause_before_retry(settings: &UpstreamSettings, asked: Option<Duration>, refusals: u32) -> Duration {
    match asked {
        Some(asked) => asked.clamp(settings.backoff_min, settings.retry_after_max.max(settings.backoff_min)),
        None => pause_after((settings.backoff_min, settings.backoff_max), refusals),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

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

    #[test]
    fn a_pause_is_what_the_server_asks_for_within_bounds() {
        let pairs = [
            ("MCP_UPSTREAM_BACKOFF_MIN", "100ms"),
            ("MCP_UPSTREAM_BACKOFF_MAX", "1s"),
            ("MCP_UPSTREAM_RETRY_AFTER_MAX", "5s"),
        ];
        let settings = Settings::from_pairs(pairs).unwrap().upstream;
        for (asked, refusals, from, to) in [
            (Some(0), 0, 100, 100),
            (Some(3000), 7, 3000, 3000),
            (Some(3_600_000), 0, 5000, 5000),
            (None, 0, 50, 100),
            (None, 2, 200, 400),
            (None, 20, 500, 1000),
        ] {
            let pause = pause_before_retry(&settings, asked.map(Duration::from_millis), refusals).as_millis();
            assert!((from..=to).contains(&pause), "{asked:?} {refusals}: {pause}");
        }
    }
}
