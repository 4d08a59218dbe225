//! When a stream of Streamable HTTP is asked for again: each stream that ended or could not be opened is followed by a pause,
//! and so many attempts in a row that bring nothing are the last. Pure; time comes in.

use std::time::Duration;

use crate::{
    backoff::{Bounds, pause_after},
    settings::UpstreamSettings,
};

/// A stream that was open so long has worked, whatever came by it: servers and proxies end quiet ones.
const WORKED: Duration = Duration::from_secs(5);

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Resumption {
    bounds: Bounds,
    limit: u32,
    /// Attempts in a row that have brought nothing.
    vain: u32,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Ask for the stream again after this pause.
    After(Duration),
    /// That was the last attempt.
    Never,
}

impl Resumption {
    /// As it is set.
    pub fn new(settings: &UpstreamSettings) -> Self {
        let bounds = (settings.backoff_min, settings.backoff_max);
        Self { bounds, limit: settings.resume_attempts, vain: 0 }
    }

    /// Something has come by the stream.
    pub fn worked(&mut self) {
        self.vain = 0;
    }

    /// It was open for so long, and has ended.
    pub fn ended(&mut self, open_for: Duration) {
        if open_for >= WORKED {
            self.worked();
        }
    }

    /// What now. `retry`: how long the server wants to be left alone, which is never shortened (MCP 2025-11-25).
    pub fn next(&mut self, retry: Option<Duration>) -> Again {
        if self.vain >= self.limit { Again::Never } else { Again::After(self.pause(retry)) }
    }

    /// The same, without an end.
    pub fn pause(&mut self, retry: Option<Duration>) -> Duration {
        let pause = pause_after(self.bounds, self.vain);
        self.vain = self.vain.saturating_add(1);
        retry.unwrap_or_default().max(pause)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::settings::Settings;

    fn resumption() -> Resumption {
        let pairs = [
            ("MCP_UPSTREAM_BACKOFF_MIN", "100ms"),
            ("MCP_UPSTREAM_BACKOFF_MAX", "1s"),
            ("MCP_UPSTREAM_RESUME_ATTEMPTS", "3"),
        ];
        Resumption::new(&Settings::from_pairs(pairs).unwrap().upstream)
    }

    #[test]
    fn attempts_that_bring_nothing_have_an_end_and_those_that_bring_something_have_none() {
        let mut resumption = resumption();
        for _ in 0..3 {
            assert!(matches!(resumption.next(None), Again::After(_)));
        }
        assert_eq!(resumption.next(None), Again::Never);
        resumption.ended(Duration::from_secs(1));
        assert_eq!(resumption.next(None), Again::Never, "it came to nothing at once");
        resumption.ended(WORKED);
        assert!(matches!(resumption.next(None), Again::After(_)));
        for _ in 0..10 {
            resumption.worked();
            assert!(matches!(resumption.next(None), Again::After(_)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The server's word is kept, no pause is longer than both, and no more attempts in a row bring nothing than are
        /// allowed.
        #[test]
        fn no_pause_is_shorter_than_the_server_asks_for(steps in prop::collection::vec((0u64..5000, any::<bool>()), 0..40)) {
            let mut resumption = resumption();
            let mut vain = 0;
            for (retry, works) in steps {
                if works {
                    resumption.worked();
                    vain = 0;
                }
                let retry = Duration::from_millis(retry);
                match resumption.next(Some(retry)) {
                    Again::After(pause) => {
                        vain += 1;
                        prop_assert!(vain <= 3 && pause >= retry);
                        prop_assert!(pause <= retry.max(Duration::from_millis(1001)), "{:?}", pause);
                    }
                    Again::Never => prop_assert_eq!(vain, 3),
                }
            }
        }
    }
}
