//! The last minute of calls, for people who look now: how many a second, how many of them failed, how long they took. Made
//! of the same counters that Prometheus reads, by whoever takes a sample once in a while; no call does anything for it.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::calls::{LONG, ServiceMetrics, Totals};

/// Samples kept.
const SAMPLES: usize = 60;

/// What was between two samples.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    /// Calls a second.
    pub calls: f64,
    /// Those of them that did not end with a result.
    pub failed: f64,
    /// Half of them were faster, as far as the buckets tell; 0: there was none.
    pub p50: Duration,
    /// One of a hundred was slower.
    pub p99: Duration,
}

/// See the module's text.
#[derive(Debug)]
pub struct Recent {
    last: Option<(Instant, Totals)>,
    samples: VecDeque<Sample>,
}

impl Default for Recent {
    fn default() -> Self {
        Self { last: None, samples: VecDeque::with_capacity(SAMPLES) }
    }
}

impl Recent {
    /// What there was since the last time. The oldest sample first.
    pub fn sample<'a>(
        &mut self,
        now: Instant,
        services: impl Iterator<Item = &'a Arc<ServiceMetrics>>,
    ) -> impl Iterator<Item = &Sample> {
        let totals = services.map(|service| service.totals()).fold(Totals::default(), Totals::plus);
        if let Some((before, known)) = self.last.replace((now, totals)) {
            if self.samples.len() == SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back(between(known, totals, now.saturating_duration_since(before)));
        }
        self.samples.iter()
    }
}

impl Totals {
    fn plus(self, other: Self) -> Self {
        let mut took = self.took;
        took.iter_mut().zip(other.took).for_each(|(sum, more)| *sum += more);
        Self { calls: self.calls + other.calls, failed: self.failed + other.failed, took }
    }
}

fn between(before: Totals, after: Totals, time: Duration) -> Sample {
    let seconds = time.as_secs_f64().max(0.001);
    let mut took = after.took;
    took.iter_mut().zip(before.took).for_each(|(count, before)| *count = count.saturating_sub(before));
    Sample {
        calls: after.calls.saturating_sub(before.calls) as f64 / seconds,
        failed: after.failed.saturating_sub(before.failed) as f64 / seconds,
        p50: quantile(&took, 0.5),
        p99: quantile(&took, 0.99),
    }
}

/// Within a bucket as if they were spread evenly, which is how Prometheus sees it, too.
fn quantile(took: &[u64; LONG.len() + 1], part: f64) -> Duration {
    let count: u64 = took.iter().sum();
    let wanted = count as f64 * part;
    let (mut seen, mut from) = (0.0, 0.0);
    for (here, upto) in took.iter().zip(LONG) {
        if *here > 0 && seen + *here as f64 >= wanted {
            return Duration::from_secs_f64(from + (upto - from) * (wanted - seen) / *here as f64);
        }
        seen += *here as f64;
        from = upto;
    }
    Duration::from_secs_f64(if count == 0 { 0.0 } else { from })
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::metrics::calls::{Families, Method, Outcome, Took};

    #[test]
    fn a_sample_is_what_was_since_the_last_one() {
        let service = Arc::new(Families::new(&Registry::new()).service("s"));
        let took = |millis| Took { whole: Duration::from_millis(millis), ..Took::default() };
        let call = Method::of("tools/call");
        service.ended(call, Outcome::Ok, took(2000));
        let (mut recent, begin) = (Recent::default(), Instant::now());
        assert_eq!(recent.sample(begin, [&service].into_iter()).count(), 0);
        (0..99).for_each(|_| service.ended(call, Outcome::Ok, took(2)));
        service.ended(call, Outcome::Unknown, took(700));
        let after = begin + Duration::from_secs(2);
        let samples: Vec<Sample> = recent.sample(after, [&service].into_iter()).copied().collect();
        let [sample] = samples[..] else { panic!("{samples:?}") };
        assert!((sample.calls - 50.0).abs() < 1e-9 && (sample.failed - 0.5).abs() < 1e-9, "{sample:?}");
        assert!(sample.p50 > Duration::from_millis(1) && sample.p50 < Duration::from_micros(2500), "{sample:?}");
        assert!(sample.p99 <= Duration::from_micros(2500), "{sample:?}");
        for second in 3..100 {
            assert!(
                recent.sample(begin + Duration::from_secs(second), [&service].into_iter()).count() <= SAMPLES,
                "{second}"
            );
        }
    }

    #[test]
    fn what_is_slower_than_all_bounds_is_told_as_the_highest() {
        let mut took = [0; LONG.len() + 1];
        assert_eq!(quantile(&took, 0.99), Duration::ZERO);
        took[LONG.len()] = 3;
        assert_eq!(quantile(&took, 0.5), Duration::from_secs(300));
    }
}
