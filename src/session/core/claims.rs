//! What the owner asks the store for next, and when: entries that others have journaled, what was missed, what is urgent
//! while it drains. REQ-1, DRN-2
//!
//! One claim is under way at a time. As long as there is a hole in the [`Order`], somebody asks for it; and after each
//! journaling or claim without an answer it is looked a few times whether anything is missing at the end, where no hole is
//! seen. Checked with `order` in `tests/model_inbox.rs`.

use std::time::{Duration, Instant};

use super::{order::Order, pause::Pause};

/// Inbox entries claimed at a time.
pub const CLAIM_BATCH: usize = 64;

/// When a claim is made again that has met a session in the middle of being restored; and how long a hole may be the
/// doing of replies that are on their way.
pub const SOON: Duration = Duration::from_millis(20);
/// When one is made that the store could not answer: this, then twice as long, and so on up to `LATEST`.
pub const LATER: Duration = Duration::from_secs(1);
/// The longest such pause: what was accepted while Redis hung waits no longer when it goes on.
const LATEST: Duration = Duration::from_secs(2);

/// How often it is looked for what a journaling without an answer has left, at pauses that double from [`LATER`]: for half
/// a minute, longer than the kernel's and Redis's buffers usually keep what was sent before a fault.
pub const LOOKS_AFTER_DOUBT: u32 = 5;

/// What follows a claim that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Nothing,
    /// More waits, and needs a link first.
    Link,
    /// Another claim, at once.
    Claim,
}

/// See the module's text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Claims {
    under_way: bool,
    again: bool,
    more_waits: bool,
    /// Looks for what was missed that are to be made even if nothing seems to be missing.
    looks_left: u32,
    /// Claims without an answer, one after the other.
    failures: u32,
    /// While draining: what is urgent was taken from the inbox up to here.
    urgent_seen: u64,
    /// When a claim is planned for.
    planned: Option<Instant>,
}

impl Claims {
    /// One is under way.
    pub fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// The last claim left entries in the inbox.
    pub fn more_waits(&self) -> bool {
        self.more_waits
    }

    /// Sequences that may be on their way here.
    pub fn may_bring(&self) -> usize {
        if self.under_way { CLAIM_BATCH } else { 0 }
    }

    /// Somebody says that there is something to claim. `true`: a claim is to be made; else one follows the one under way.
    pub fn begin(&mut self) -> bool {
        let begins = !self.under_way;
        (self.under_way, self.again) = (true, !begins);
        begins
    }

    /// From where on a claim asks for what was missed.
    pub fn missing_from<M>(&self, order: &Order<M>) -> Option<u64> {
        order.missing_from(self.in_doubt())
    }

    /// Something was claimed, perhaps, of which nothing was heard.
    pub fn in_doubt(&self) -> bool {
        self.looks_left > 0
    }

    /// What is urgent was seen up to here.
    pub fn urgent_seen(&self) -> u64 {
        self.urgent_seen
    }

    /// It was handed out up to here.
    pub fn saw_urgent(&mut self, last: u64) {
        self.urgent_seen = self.urgent_seen.max(last);
    }

    /// The claim under way has ended, however.
    pub fn ended(&mut self) {
        self.under_way = false;
    }

    /// It was answered. `looked`: it asked for what was missed. After how long to look again, if this was one of the looks
    /// after a doubt and not the last.
    pub fn answered(&mut self, looked: bool) -> Option<Pause> {
        self.failures = 0;
        if !looked || self.looks_left == 0 {
            return None;
        }
        self.looks_left -= 1;
        let looks = LOOKS_AFTER_DOUBT.saturating_sub(self.looks_left);
        (self.looks_left > 0).then_some(Pause::After((LATER, Duration::MAX), looks))
    }

    /// The answer has been taken note of. `more`: entries are left in the inbox; `is_open`: there is a link; `has_room`: more
    /// may be taken.
    pub fn next(&mut self, more: bool, is_open: bool, has_room: bool) -> Next {
        self.more_waits = more;
        if more && !is_open {
            Next::Link
        } else if (more && has_room) || self.again {
            Next::Claim
        } else {
            Next::Nothing
        }
    }

    /// The store could not answer. After how long to claim again.
    pub fn failed(&mut self) -> Pause {
        // What the lost reply held counts as claimed.
        self.looks_left = self.looks_left.max(1);
        let pause = Pause::After((LATER, LATEST), self.failures);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// A journaling has ended without an answer: the store may have executed it, or may yet do so. Looks so many times.
    pub fn doubt(&mut self, looks: u32) {
        self.looks_left = looks;
    }

    /// As long as something is known to be missing, somebody asks for it: after this time. `accepting`: messages that are
    /// being journaled; replies that are on their way close most holes.
    pub fn hole_pause<M>(&self, order: &Order<M>, accepting: usize) -> Option<Duration> {
        let asks = !order.is_even() && !self.under_way;
        asks.then_some(if accepting == 0 { Duration::ZERO } else { SOON })
    }

    /// Plans a claim; at most one is planned, the earlier one. `true`: a timer is to be set, and the former one is of no use.
    pub fn plan(&mut self, at: Instant) -> bool {
        if self.planned.is_some_and(|planned| planned <= at) {
            return false;
        }
        self.planned = Some(at);
        true
    }

    /// The planned one is due.
    pub fn is_due(&mut self) {
        self.planned = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_claim_at_a_time_and_none_is_forgotten() {
        let mut claims = Claims::default();
        assert!(claims.begin());
        assert!(!claims.begin(), "one is under way");
        claims.ended();
        assert_eq!(claims.next(false, true, true), Next::Claim, "the one that was wanted meanwhile");
        assert!(claims.begin());
        claims.ended();
        assert_eq!(claims.next(false, true, true), Next::Nothing);
    }

    /// MEM-2
    #[test]
    fn more_is_claimed_only_with_a_link_and_room() {
        for (more, is_open, has_room, expected) in [
            (false, true, true, Next::Nothing),
            (true, true, true, Next::Claim),
            (true, true, false, Next::Nothing),
            (true, false, false, Next::Link),
            (false, false, false, Next::Nothing),
        ] {
            let mut claims = Claims::default();
            assert!(claims.begin());
            claims.ended();
            assert_eq!(claims.next(more, is_open, has_room), expected, "{more} {is_open} {has_room}");
            assert_eq!(claims.more_waits(), more);
        }
    }

    /// REQ-1
    #[test]
    fn after_a_doubt_it_is_looked_at_growing_pauses_for_half_a_minute() {
        let mut claims = Claims::default();
        let order = Order::<u64>::new(4);
        assert_eq!(claims.missing_from(&order), None);
        claims.doubt(LOOKS_AFTER_DOUBT);
        assert_eq!(claims.missing_from(&order), Some(4));
        assert_eq!(claims.answered(false), None, "it did not ask");
        let pauses: Vec<_> = std::iter::from_fn(|| claims.answered(true)).collect();
        assert_eq!(pauses, [1, 2, 3, 4].map(|looks| Pause::After((LATER, Duration::MAX), looks)));
        assert_eq!(claims.missing_from(&order), None);
    }

    /// REQ-1
    #[test]
    fn a_claim_without_an_answer_is_made_again_and_asks_for_what_the_answer_held() {
        let mut claims = Claims::default();
        let order = Order::<u64>::new(4);
        let after = |failures| Pause::After((LATER, LATEST), failures);
        assert_eq!([claims.failed(), claims.failed(), claims.failed()], [after(0), after(1), after(2)]);
        assert_eq!(claims.missing_from(&order), Some(4));
        assert_eq!(claims.answered(true), None);
        assert_eq!((claims.missing_from(&order), claims.failed()), (None, after(0)), "from the beginning");
    }

    #[test]
    fn a_hole_is_asked_for_unless_somebody_asks_already() {
        let (mut claims, mut order) = (Claims::default(), Order::<u64>::new(1));
        assert_eq!(claims.hole_pause(&order, 0), None);
        order.taken(1);
        assert_eq!(claims.hole_pause(&order, 0), Some(Duration::ZERO));
        assert_eq!(claims.hole_pause(&order, 1), Some(SOON), "a reply may be on its way");
        assert!(claims.begin());
        assert_eq!(claims.hole_pause(&order, 0), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whenever claims are planned and whenever they are due, one timer runs at a time and fires no later than the
        /// earliest plan since the last.
        #[test]
        fn the_earliest_plan_stands(steps in prop::collection::vec(prop_oneof![3 => (0u64..100).prop_map(Some), 1 => Just(None)], 0..50)) {
            let start = Instant::now();
            let mut claims = Claims::default();
            let (mut timer, mut earliest) = (None, None);
            for step in steps {
                match step {
                    Some(millis) => {
                        let at = start + Duration::from_millis(millis);
                        if claims.plan(at) {
                            timer = Some(at);
                        }
                        earliest = Some(earliest.map_or(at, |earliest: Instant| earliest.min(at)));
                    }
                    None => {
                        claims.is_due();
                        (timer, earliest) = (None, None);
                    }
                }
                prop_assert_eq!(timer, earliest);
            }
        }
    }
}
