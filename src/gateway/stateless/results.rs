//! How much of the store the results take that this process has put there for who asks again ([`Results`]): plain state. It
//! counts what it has written itself, until its time is over; what an instance has written that was started anew is not known
//! any more.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Results(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Until when, and how many bytes. All live equally long, so the first is the next to go.
    each: VecDeque<(Instant, usize)>,
    bytes: usize,
}

impl Results {
    fn living(&self, now: Instant) -> MutexGuard<'_, Kept> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((until, bytes)) = kept.each.front().copied()
            && until <= now
        {
            kept.each.pop_front();
            kept.bytes -= bytes;
        }
        kept
    }

    /// One more, for so long.
    pub(crate) fn add(&self, bytes: usize, keep: Duration, now: Instant) {
        let mut kept = self.living(now);
        let Some(until) = now.checked_add(keep) else { return };
        kept.each.push_back((until, bytes));
        kept.bytes += bytes;
    }

    /// There may be one more: fewer bytes are kept than `limit`.
    pub(crate) fn has_room(&self, limit: usize, now: Instant) -> bool {
        self.living(now).bytes < limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_again_when_what_is_kept_has_had_its_time() {
        let (results, now, keep) = (Results::default(), Instant::now(), Duration::from_secs(10));
        assert!(results.has_room(1, now));
        results.add(600, keep, now);
        assert!(results.has_room(1000, now));
        results.add(600, keep, now + Duration::from_secs(5));
        assert!(!results.has_room(1000, now + Duration::from_secs(9)));
        assert!(results.has_room(1000, now + keep), "the first one's time is over");
        assert!(results.has_room(1, now + 2 * keep));
        assert!(!results.has_room(0, now + 2 * keep));
    }
}
