//! The order in which journaled messages are handled, and the holes in it: pure, the same for the actor and for
//! `tests/model_inbox.rs`. REQ-1, REQ-5
//!
//! The store numbers the messages of a session without a gap, and says which of them count as claimed by the owner. Most
//! reach the owner in the reply to the very step that claimed them. A reply may be lost, though, and a journaling may be
//! executed when its caller has long given it up: then a sequence is taken that the owner has not been told of. It is
//! *seen* as soon as the store says anything about a later one, or that it counts as claimed: a [`hole`](Order::hole).
//! The owner then asks for what it has missed, and what the store does not have at a sequence that is taken will never
//! come: answered, or forgotten.

use std::collections::BTreeMap;

/// See the module's text. `M` is a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Order<M> {
    /// The lowest sequence that was not handled.
    next: u64,
    /// Known here, behind a hole.
    waiting: BTreeMap<u64, M>,
    /// The highest sequence of which the store has said that it counts as claimed.
    claimed: u64,
    /// Up to here nothing will come any more but what waits here.
    settled: u64,
}

impl<M> Order<M> {
    /// Everything before `next` was handled.
    pub fn new(next: u64) -> Self {
        Self { next, waiting: BTreeMap::new(), claimed: next - 1, settled: next - 1 }
    }

    /// The lowest sequence that was not handled.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The highest sequence that is known to be taken.
    pub fn last(&self) -> u64 {
        self.claimed.max(self.next - 1)
    }

    /// Nothing waits, and nothing is known to be missing.
    pub fn is_even(&self) -> bool {
        self.hole().is_none()
    }

    /// The first sequence that may have been missed, if there is one: everything that is ready must have been taken. It is
    /// closed by [`Order::told`] with `after` below it.
    pub fn hole(&self) -> Option<u64> {
        (self.claimed >= self.next).then_some(self.next)
    }

    /// From where on the next claim asks again. `in_doubt`: something was claimed, perhaps, of which nothing was heard.
    pub fn missing_from(&self, in_doubt: bool) -> Option<u64> {
        (in_doubt || !self.is_even()).then_some(self.next)
    }

    /// A message counts as claimed, and here it is. It is given back if it is the next one: then [`Order::pop`] has what
    /// has waited for it. What was seen before is not seen again.
    #[must_use]
    pub fn came(&mut self, seq: u64, message: M) -> Option<M> {
        self.claimed = self.claimed.max(seq);
        if seq == self.next {
            self.next += 1;
            return Some(message);
        }
        self.wait(seq, message);
        None
    }

    /// A message counts as claimed, and is not here.
    pub fn taken(&mut self, seq: u64) {
        self.claimed = self.claimed.max(seq);
    }

    /// The store has said that of the sequences after `after` and up to `upto`, which all count as claimed, nothing will
    /// ever come but `entries`. [`Order::pop`] has what is ready.
    pub fn told(&mut self, after: u64, upto: u64, entries: impl IntoIterator<Item = (u64, M)>) {
        for (seq, message) in entries {
            self.wait(seq, message);
        }
        self.claimed = self.claimed.max(upto);
        // With something unknown before it, it says nothing of that.
        if after < self.next {
            self.settled = self.settled.max(upto);
        }
    }

    /// The next message that can be handled, with its sequence.
    pub fn pop(&mut self) -> Option<(u64, M)> {
        if self.next <= self.settled && !self.waiting.contains_key(&self.next) {
            let first = self.waiting.keys().next().copied().unwrap_or(u64::MAX);
            self.next = first.min(self.settled + 1);
        }
        let message = self.waiting.remove(&self.next)?;
        self.next += 1;
        Some((self.next - 1, message))
    }

    /// What waits behind a hole.
    pub fn waiting(&self) -> impl Iterator<Item = (u64, &M)> {
        self.waiting.iter().map(|(seq, message)| (*seq, message))
    }

    /// The numbers begin anew after `last`. What has waited, in order.
    pub fn restart(&mut self, last: u64) -> BTreeMap<u64, M> {
        std::mem::replace(self, Self::new(last + 1)).waiting
    }

    /// Gives back what the last burst has left.
    pub fn shrink(&mut self) {
        if self.waiting.is_empty() {
            self.waiting = BTreeMap::new();
        }
    }

    fn wait(&mut self, seq: u64, message: M) {
        if seq >= self.next {
            self.waiting.entry(seq).or_insert(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ready(order: &mut Order<u64>) -> Vec<u64> {
        std::iter::from_fn(|| order.pop()).map(|(seq, _)| seq).collect()
    }

    /// REQ-5
    #[test]
    fn what_comes_early_waits_for_what_is_before_it() {
        let mut order = Order::new(1);
        assert_eq!(order.came(2, 2), None);
        assert_eq!(order.hole(), Some(1));
        assert!(ready(&mut order).is_empty());
        assert_eq!(order.came(1, 1), Some(1));
        assert_eq!(ready(&mut order), [2]);
        assert!(order.is_even());
        assert_eq!(order.came(1, 1), None, "it was seen");
        assert!(order.is_even() && ready(&mut order).is_empty());
    }

    /// REQ-1: one row for each thing that the store can say of a hole.
    #[test]
    fn a_hole_is_closed_only_by_the_word_of_the_store_on_it() {
        for (what, after, upto, entries, handled, hole) in [
            ("the message that was missed", 0, 3, vec![1, 2], vec![1, 2, 3], None),
            ("there was one, and it is gone", 0, 3, vec![], vec![3], None),
            ("the last one was missed, too", 0, 4, vec![1, 4], vec![1, 3, 4], None),
            ("a part, since there were too many", 0, 1, vec![1], vec![1], Some(2)),
            ("only of what came later", 3, 5, vec![4, 5], vec![], Some(1)),
            ("nothing that was claimed", 0, 0, vec![], vec![], Some(1)),
        ] {
            let mut order = Order::new(1);
            assert_eq!(order.came(3, 3), None);
            order.told(after, upto, entries.into_iter().map(|seq| (seq, seq)));
            assert_eq!((ready(&mut order), order.hole()), (handled, hole), "{what}");
        }
    }

    /// REQ-1: nothing came after it that would wait.
    #[test]
    fn a_message_at_the_end_that_was_missed_is_a_hole_too() {
        let mut order = Order::<u64>::new(5);
        order.taken(5);
        assert_eq!((order.hole(), order.last()), (Some(5), 5));
        order.told(5, 5, []);
        assert_eq!(order.hole(), Some(5), "a claim of nothing new says nothing of it");
        order.told(4, 5, [(5, 5)]);
        assert_eq!((ready(&mut order), order.hole()), (vec![5], None));
    }

    #[test]
    fn numbers_that_begin_anew_leave_nothing_behind() {
        let mut order = Order::new(1);
        assert_eq!(order.came(3, 3), None);
        assert_eq!(order.restart(7).into_keys().collect::<Vec<_>>(), [3]);
        assert_eq!(order.came(8, 8), Some(8));
        assert!(order.is_even());
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A message is journaled and claimed at once; the reply is lost, or comes after so many others.
        Direct { lost: bool, late: usize },
        /// One is journaled by another instance.
        Queue,
        /// The owner claims so many; the reply is lost, or comes late.
        Claim { max: u64, lost: bool, late: usize },
        /// A claimed one that the owner has handled is answered; others cannot be.
        Answer(u64),
        /// The owner asks for what it misses, if it does.
        Look,
    }

    #[derive(Debug, Clone)]
    enum Reply {
        Came(u64),
        Told(u64, u64, Vec<u64>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (any::<bool>(), 0usize..4).prop_map(|(lost, late)| Step::Direct { lost, late }),
            3 => Just(Step::Queue),
            3 => (1u64..4, any::<bool>(), 0usize..4).prop_map(|(max, lost, late)| Step::Claim { max, lost, late }),
            2 => (1u64..20).prop_map(Step::Answer),
            2 => Just(Step::Look),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// REQ-1, REQ-5: whatever is lost and whatever comes late, each message is handled once and in order, and after one
        /// look without a fault nothing is left out.
        #[test]
        fn every_message_is_handled_once_and_in_order(steps in prop::collection::vec(step(), 0..60)) {
            let mut order = Order::new(1);
            let (mut last, mut claimed) = (0u64, 0u64);
            let mut answered = std::collections::BTreeSet::new();
            let mut on_the_way: Vec<(usize, Reply)> = Vec::new();
            let mut handled: Vec<u64> = Vec::new();
            let look = |order: &Order<u64>, claimed: u64, answered: &std::collections::BTreeSet<u64>| {
                let from = order.next();
                (from - 1, claimed, (from..=claimed).filter(|seq| !answered.contains(seq)).collect::<Vec<_>>())
            };
            for step in steps {
                match step {
                    Step::Direct { lost, late } if claimed == last => {
                        last += 1;
                        claimed = last;
                        if !lost { on_the_way.push((late, Reply::Came(last))); }
                    }
                    Step::Direct { .. } | Step::Queue => last += 1,
                    Step::Claim { max, lost, late } => {
                        let (after, upto) = (claimed, last.min(claimed + max));
                        claimed = upto;
                        if !lost { on_the_way.push((late, Reply::Told(after, upto, (after + 1..=upto).collect()))); }
                    }
                    Step::Answer(seq) => if handled.contains(&seq) { answered.insert(seq); },
                    Step::Look => if order.hole().is_some() {
                        let (after, upto, entries) = look(&order, claimed, &answered);
                        on_the_way.push((0, Reply::Told(after, upto, entries)));
                    },
                }
                let mut later = Vec::new();
                for (late, reply) in on_the_way {
                    if late > 0 {
                        later.push((late - 1, reply));
                        continue;
                    }
                    match reply {
                        Reply::Came(seq) => handled.extend(order.came(seq, seq)),
                        Reply::Told(after, upto, entries) => {
                            order.told(after, upto, entries.into_iter().map(|seq| (seq, seq)));
                        }
                    }
                    handled.extend(ready(&mut order));
                }
                on_the_way = later;
            }
            let (after, upto, entries) = look(&order, claimed, &answered);
            order.told(after, upto, entries.into_iter().map(|seq| (seq, seq)));
            handled.extend(ready(&mut order));
            prop_assert_eq!(handled, (1..=claimed).collect::<Vec<_>>());
            prop_assert!(order.is_even());
        }
    }
}
