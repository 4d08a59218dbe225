//! Answers that nobody shows: each was logged for the stream of its request while no connection showed that, and waits for
//! its client to come back to it. After a while it goes out on the session's main stream instead (docs/guarantees.md, EVT-8:
//! some clients never come back to the stream of a request, and take its answer there), and then on no other.
//!
//! Owns what waits, and which answers have gone. It has no clock: the actor plans the end of each wait.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::streams::StreamKey;
use crate::store::HeadChange;

/// Answers at most that wait, and that are known to have gone to the main stream. A client that has left more than this behind
/// unheard is gone, and finds the others in the log if it is not.
const MOST: usize = 64;

/// Bytes at most of answers that wait; a larger one waits alone. MEM-2
const MOST_BYTES: usize = 1 << 20;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Unheard {
    waiting: VecDeque<(StreamKey, Bytes)>,
    /// Streams of requests whose answers have gone to the main stream; the numbers rise.
    moved: BTreeSet<u64>,
}

impl Unheard {
    /// As an adopter finds it.
    pub fn inherit(moved: BTreeSet<u64>) -> Self {
        Self { moved, ..Self::default() }
    }

    /// For a session that is written again.
    pub fn moved(&self) -> &BTreeSet<u64> {
        &self.moved
    }

    /// This answer was logged, and nobody shows its stream. `true`: it waits from now on.
    pub fn logged(&mut self, stream: StreamKey, answer: Bytes) -> bool {
        let held: usize = self.waiting.iter().map(|(_, answer)| answer.len()).sum();
        let has_room = self.waiting.is_empty() || (self.waiting.len() < MOST && held + answer.len() <= MOST_BYTES);
        if !has_room {
            return false;
        }
        self.waiting.push_back((stream, answer));
        true
    }

    /// A connection shows the stream now, of whichever process.
    pub fn heard(&mut self, stream: StreamKey) {
        self.waiting.retain(|(other, _)| *other != stream);
    }

    /// Its time is over. `Some`: it is to go out on the main stream, with what an heir must know.
    pub fn is_late(&mut self, stream: StreamKey) -> Option<(Bytes, Vec<HeadChange>)> {
        let at = self.waiting.iter().position(|(other, _)| *other == stream)?;
        let (stream, answer) = self.waiting.remove(at)?;
        let StreamKey::Request(seq) = stream else { return None };
        let mut changes = vec![HeadChange::Moved { seq }];
        self.moved.insert(seq);
        while self.moved.len() > MOST {
            changes.extend(self.moved.pop_first().map(|seq| HeadChange::MovedLongAgo { seq }));
        }
        Some((answer, changes))
    }

    /// Nobody waits any more; gives back what that has taken.
    pub fn shrink(&mut self) {
        self.waiting.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Bytes {
        Bytes::from_static(b"{}")
    }

    fn stream(seq: u64) -> StreamKey {
        StreamKey::Request(seq)
    }

    /// EVT-8
    #[test]
    fn an_answer_goes_to_the_main_stream_only_when_nobody_has_come_for_it() {
        let mut unheard = Unheard::default();
        assert!(unheard.logged(stream(1), answer()) && unheard.logged(stream(2), answer()));
        unheard.heard(stream(1));
        assert_eq!(unheard.is_late(stream(1)), None);
        assert_eq!(unheard.is_late(stream(2)), Some((answer(), vec![HeadChange::Moved { seq: 2 }])));
        assert_eq!(unheard.is_late(stream(2)), None, "once");
        assert_eq!(unheard.moved().iter().copied().collect::<Vec<_>>(), [2]);
    }

    /// MEM-2
    #[test]
    fn both_lists_are_bounded() {
        let mut unheard = Unheard::default();
        for seq in 1..=2 * MOST as u64 {
            assert!(unheard.logged(stream(seq), answer()));
            let (_, changes) = unheard.is_late(stream(seq)).unwrap();
            assert_eq!(changes.len(), if seq > MOST as u64 { 2 } else { 1 });
        }
        assert_eq!(unheard.moved().len(), MOST);
        let mut large = Unheard::default();
        let of = |bytes: usize| Bytes::from(vec![b' '; bytes]);
        assert!(large.logged(stream(1), of(2 * MOST_BYTES)), "alone");
        assert!(!large.logged(stream(2), of(1)));
        large.heard(stream(1));
        assert!(large.logged(stream(2), of(MOST_BYTES)) && !large.logged(stream(3), of(1)));
        assert_eq!((1..=2 * MOST as u64).filter(|seq| unheard.logged(stream(*seq), answer())).count(), MOST);
    }
}
