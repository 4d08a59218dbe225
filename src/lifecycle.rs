//! The phases of the process: Starting → Ready → Draining → Stopped. Others subscribe; only `main` moves them on.

use tokio::sync::watch;

/// Where the process stands. The order is the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not yet serving.
    Starting,
    /// Serving.
    Ready,
    /// No new sessions; what is under way is finished or handed over.
    Draining,
    /// Nothing is served any more.
    Stopped,
}

/// The current phase, for all threads.
#[derive(Debug)]
pub struct Lifecycle {
    phase: watch::Sender<Phase>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self { phase: watch::Sender::new(Phase::Starting) }
    }
}

impl Lifecycle {
    /// Where the process stands now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Moves on; never back.
    pub fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let moves = *phase < to;
            if moves {
                *phase = to;
                tracing::info!(phase = ?to, "lifecycle");
            }
            moves
        });
    }

    /// To be told of every change.
    pub fn subscribe(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_only_move_forward() {
        let lifecycle = Lifecycle::default();
        let watcher = lifecycle.subscribe();
        lifecycle.advance(Phase::Draining);
        lifecycle.advance(Phase::Ready);
        assert_eq!(lifecycle.phase(), Phase::Draining);
        assert_eq!(*watcher.borrow(), Phase::Draining);
    }
}
