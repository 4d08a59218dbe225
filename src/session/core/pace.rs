//! How fast messages go up on the present link: how long one waits for the acknowledgement of the one before it, and how
//! long a server is left alone that wants to be. REQ-5

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The server acknowledges when the work is done: waiting for it keeps no order.
    acknowledges_late: bool,
    /// The server wants to be left alone until then.
    not_before: Option<Instant>,
    /// Messages that it did not take, by sequence: how often, and since when.
    refused: BTreeMap<u64, (u32, Instant)>,
}

impl Pace {
    /// How long a message waits for the acknowledgement of the one before it. `usual`: of a server that acknowledges at
    /// once. One that does not has had the message long before: a tenth covers the way there.
    pub(super) fn patience(&self, usual: Duration) -> Duration {
        if self.acknowledges_late { usual / 10 } else { usual }
    }

    pub(super) fn acknowledged_late(&mut self) {
        self.acknowledges_late = true;
    }

    /// While its request was not answered yet.
    pub(super) fn acknowledged_early(&mut self) {
        self.acknowledges_late = false;
    }

    /// A message needs no further try.
    pub(super) fn taken(&mut self, seq: u64) {
        self.refused.remove(&seq);
    }

    /// Nothing is under way.
    pub(super) fn shrink(&mut self) {
        self.refused = BTreeMap::new();
    }

    /// Another server session: what the one before said is nothing to it.
    pub(super) fn forget_link(&mut self) {
        (self.acknowledges_late, self.not_before) = (false, None);
    }

    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.not_before.is_some_and(|at| now < at)
    }

    pub(super) fn pause_until(&mut self, at: Instant) {
        self.not_before = self.not_before.max(Some(at));
    }

    /// How often the server did not take this one.
    pub(super) fn refusals(&self, seq: u64) -> u32 {
        self.refused.get(&seq).map_or(0, |(refusals, _)| *refusals)
    }

    /// It did not take this one again. Since when that is so.
    pub(super) fn not_taken(&mut self, seq: u64, now: Instant) -> Instant {
        let (refusals, since) = self.refused.entry(seq).or_insert((0, now));
        *refusals = refusals.saturating_add(1);
        *since
    }
}
