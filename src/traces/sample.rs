//! Which traces are recorded. By the trace id alone, so that all instances of a deployment decide the same of one.

use crate::settings::{self, TraceSettings};

/// See the module's text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sampler {
    asks_parent: bool,
    /// Of 2^56, by the last seven bytes of the id, which are the random ones (W3C Trace Context Level 2).
    part: u64,
}

const WHOLE: u64 = 1 << 56;

impl Sampler {
    pub(super) fn new(settings: &TraceSettings) -> Self {
        let part = match settings.sampler.sampler {
            settings::Sampler::AlwaysOn => WHOLE,
            settings::Sampler::AlwaysOff => 0,
            // 2^56 is exact.
            settings::Sampler::Ratio => (settings.ratio * WHOLE as f64) as u64,
        };
        Self { asks_parent: settings.sampler.asks_parent, part }
    }

    /// `parent`: whether its caller records it.
    pub(super) fn records(&self, trace_id: &[u8; 16], parent: Option<bool>) -> bool {
        match parent.filter(|_| self.asks_parent) {
            Some(is_recorded) => is_recorded,
            None => trace_id[9..].iter().fold(0, |number, byte| number << 8 | u64::from(*byte)) >= WHOLE - self.part,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn sampler(name: &str, ratio: &str) -> Sampler {
        let pairs = [("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", ratio)];
        Sampler::new(&Settings::from_pairs(pairs).unwrap().traces)
    }

    #[test]
    fn a_caller_is_asked_first_where_that_is_set() {
        let id = [0x80; 16];
        for (name, root, recorded, unrecorded) in [
            ("always_on", true, true, true),
            ("always_off", false, false, false),
            ("parentbased_always_on", true, true, false),
            ("parentbased_always_off", false, true, false),
        ] {
            let sampler = sampler(name, "1");
            assert_eq!(sampler.records(&id, None), root, "{name}");
            assert_eq!(sampler.records(&id, Some(true)), recorded, "{name}");
            assert_eq!(sampler.records(&id, Some(false)), unrecorded, "{name}");
        }
    }

    #[test]
    fn a_ratio_is_kept_by_ids_whatever_the_rest_of_them_is() {
        let sampler = sampler("traceidratio", "0.25");
        let recorded = (0..=255_u8).filter(|byte| {
            let mut id = [0; 16];
            id[9] = *byte;
            sampler.records(&id, None)
        });
        assert_eq!(recorded.count(), 64);
        for (ratio, expected) in [("0", false), ("1", true)] {
            for id in [[0; 16], [0xff; 16]] {
                assert_eq!(self::sampler("traceidratio", ratio).records(&id, Some(!expected)), expected);
            }
        }
    }
}
