//! This process's lease as it knows it, on its own clock: until when no other process believes it dead, and what the store
//! has granted to it within one unbroken lease. Pure: the [registry](super::registry) renews it, sessions ask it before
//! they forward anything. `tests/model.rs` checks [`may_forward`] in every order of events. OWN-2, OWN-4

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// The lease of this process as it knows it, on its own clock (any unit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Since when it has held without a break.
    pub since: u64,
    /// Until when it holds, unless it is renewed.
    pub until: u64,
}

/// Whether an owner may send to its upstream. `confirmed`: when it asked for what the store then granted to it as the
/// owner. OWN-2
pub fn may_forward(now: u64, lease: Lease, confirmed: u64) -> bool {
    // Within one unbroken lease nobody adopts. After a break, a lease that holds again says that the process is back,
    // not that its sessions are still its own.
    now < lease.until && confirmed > lease.since
}

/// The time until which the lease is known to hold, on this process's own clock.
#[derive(Debug)]
pub struct LeaseClock {
    origin: Instant,
    /// Milliseconds after `origin`.
    until: AtomicU64,
    /// Since when it has held without a break, milliseconds after `origin`.
    since: AtomicU64,
    /// When it was asked for last, and since when without a gap in which another's may have run out.
    asked: AtomicU64,
    steady: AtomicU64,
}

impl Default for LeaseClock {
    fn default() -> Self {
        let never = || AtomicU64::new(0);
        Self { origin: Instant::now(), until: never(), since: never(), asked: never(), steady: never() }
    }
}

impl LeaseClock {
    /// The store granted `lease` to a request that was sent at `asked`: counted from the asking, so that the store never
    /// ends it before we do. `pace`: how often all instances ask. `unbroken`: the store still had it; else it may have been
    /// missing until this moment.
    pub fn renewed(&self, asked: Instant, lease: Duration, pace: Duration, unbroken: bool) {
        let asked = self.millis_at(asked);
        let lapsed = asked > self.until.load(Ordering::Acquire);
        let before = self.asked.swap(asked, Ordering::AcqRel);
        if !unbroken || lapsed || is_gap(Duration::from_millis(asked.saturating_sub(before)), lease, pace) {
            self.steady.store(self.millis_at(Instant::now()), Ordering::Release);
        }
        if !unbroken {
            self.since.store(self.millis_at(Instant::now()), Ordering::Release);
        } else if lapsed {
            self.since.store(asked, Ordering::Release);
        }
        let lease = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        self.until.store(asked.saturating_add(lease), Ordering::Release);
    }

    fn millis_at(&self, at: Instant) -> u64 {
        // At least 1: 0 is "never".
        u64::try_from(at.duration_since(self.origin).as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// How long ago the renewal was asked for that counts.
    pub fn age(&self) -> Duration {
        let asked = self.asked.load(Ordering::Acquire);
        Duration::from_millis(self.millis_at(Instant::now()).saturating_sub(asked))
    }

    /// No other process believes this one dead.
    pub fn holds(&self) -> bool {
        self.millis_at(Instant::now()) < self.until.load(Ordering::Acquire)
    }

    /// OWN-2: what the store granted to a question asked at `confirmed` still holds.
    pub fn covers(&self, confirmed: Instant) -> bool {
        // `until` before `since`: they are written in the other order.
        let until = self.until.load(Ordering::Acquire);
        let lease = Lease { since: self.since.load(Ordering::Acquire), until };
        may_forward(self.millis_at(Instant::now()), lease, self.millis_at(confirmed))
    }

    /// The lease was renewed without a gap for at least `period`.
    pub fn steady_for(&self, period: Duration) -> bool {
        let steady = self.steady.load(Ordering::Acquire);
        let held = self.millis_at(Instant::now()).saturating_sub(steady);
        self.holds() && steady > 0 && u128::from(held) >= period.as_millis()
    }
}

/// So long has passed between two renewals that, if it was the store's fault, the lease of an instance which renews at
/// the same pace may have run out meanwhile. Its owner is given time to renew it.
fn is_gap(between: Duration, lease: Duration, pace: Duration) -> bool {
    between >= lease.saturating_sub(pace).max(pace.mul_f64(1.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(60);

    /// OWN-2
    #[test]
    fn an_ownership_from_before_a_break_of_the_lease_does_not_count() {
        let clock = LeaseClock::default();
        let tick = || {
            std::thread::sleep(Duration::from_millis(2));
            Instant::now()
        };
        let too_early = tick();
        assert!(!clock.covers(too_early), "there is no lease");
        let renewed = |asked, unbroken| clock.renewed(asked, LEASE, LEASE / 3, unbroken);
        renewed(tick(), true);
        assert!(!clock.covers(too_early));
        let first = tick();
        assert!(clock.covers(first));
        // In time, and the store still had it.
        renewed(tick(), true);
        assert!(clock.covers(first));
        // In time, but the store had it no more.
        let asked = tick();
        renewed(asked, false);
        assert!(!clock.covers(first));
        assert!(!clock.covers(asked), "nor what was asked for while it was missing");
        assert!(clock.covers(tick()));
    }

    #[test]
    fn only_an_owner_confirmed_within_an_unbroken_lease_forwards() {
        let lease = Lease { since: 100, until: 200 };
        for (now, confirmed, expected) in [
            (150, 101, true),
            (199, 150, true),
            // The lease is over.
            (200, 150, false),
            // Confirmed only before the break.
            (150, 99, false),
            // At the same tick: before or after it, nobody knows.
            (150, 100, false),
        ] {
            assert_eq!(may_forward(now, lease, confirmed), expected, "at {now}, confirmed at {confirmed}");
        }
        assert!(!may_forward(1, Lease { since: 0, until: 0 }, 1), "there is no lease yet");
    }

    /// OWN-4: a store that was away for so long that others may have lost their leases.
    #[test]
    fn a_gap_between_two_renewals_is_one_in_which_anothers_lease_may_have_run_out() {
        let millis = Duration::from_millis;
        for (between, lease, pace, expected) in [
            (1000, 3000, 1000, false),
            (1900, 3000, 1000, false),
            (2000, 3000, 1000, true),
            (2999, 3000, 1000, true),
            // As seldom as is allowed: the usual pace is no gap.
            (1500, 3000, 1500, false),
            (2250, 3000, 1500, true),
        ] {
            assert_eq!(is_gap(millis(between), millis(lease), millis(pace)), expected, "{between} {lease} {pace}");
        }
    }
}
