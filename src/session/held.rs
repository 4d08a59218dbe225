//! What the requests without an answer hold in the store, of all sessions of this process together (MEM-5).
//!
//! Each session has a bound of its own, which the store keeps exactly. This one is for many sessions at once: a sum that
//! each request in flight adds itself to, and that falls when it is gone, however that comes about.

use prometheus::IntGauge;

/// Requests up to this size go on when the process holds too much: clients that do usual things are not to blame, and with
/// the bound on their number they cannot hold much.
const SMALL: usize = 64 << 10;

/// The part of one request; given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    sum: IntGauge,
    bytes: i64,
}

impl Held {
    /// Adds a request of this size.
    pub fn new(sum: &IntGauge, bytes: usize) -> Self {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        sum.add(bytes);
        Self { sum: sum.clone(), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.sum.sub(self.bytes);
    }
}

/// Another request of this size may be taken, while `sum` bytes are held.
pub fn has_room(sum: i64, limit: usize, bytes: usize) -> bool {
    bytes <= SMALL || usize::try_from(sum).unwrap_or(0).saturating_add(bytes) <= limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_request_needs_room_and_gives_it_back() {
        let sum = IntGauge::new("held", "in a test").unwrap();
        let limit = 1 << 20;
        assert!(has_room(sum.get(), limit, limit));
        let held = [Held::new(&sum, 700 << 10), Held::new(&sum, 200 << 10)];
        for (kib, room) in [(1, true), (64, true), (65, true), (124, true), (125, false), (1024, false)] {
            assert_eq!(has_room(sum.get(), limit, kib << 10), room, "{kib}");
        }
        drop(held);
        assert_eq!(sum.get(), 0);
    }
}
