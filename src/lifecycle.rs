//! The phases of the process: Starting → Ready → Draining → Stopped. Others subscribe; only `main` moves them on.
//!
//! Also what must run for as long as the process serves ([`Vital`]): when it has ended, by a panic or otherwise, the process
//! ends, too, so that a supervisor starts it again and others take over. Half of it alive would look well and serve nobody.

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

impl Phase {
    /// All of them, by the names under which they are shown.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Starting, "starting"),
        (Self::Ready, "ready"),
        (Self::Draining, "draining"),
        (Self::Stopped, "stopped"),
    ];
}

/// The current phase, for all threads. Clones are the same.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    phase: watch::Sender<Phase>,
    /// The first vital part that has ended.
    failed: watch::Sender<Option<&'static str>>,
}

/// Held by a task or an actor that the process cannot do without; its end while the process serves is the process's end.
#[derive(Debug)]
#[must_use = "dropped, it ends the process"]
pub struct Vital {
    lifecycle: Lifecycle,
    what: &'static str,
}

impl Vital {
    /// The part has done its work.
    pub fn done(mut self) {
        // Clones of nothing: nobody is told.
        self.lifecycle = Lifecycle::default();
    }
}

impl Drop for Vital {
    fn drop(&mut self) {
        // A process that goes down lets everything go.
        if self.lifecycle.phase() < Phase::Draining {
            let what = self.what;
            self.lifecycle.failed.send_if_modified(|failed| failed.is_none() && failed.replace(what).is_none());
        }
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self { phase: watch::Sender::new(Phase::Starting), failed: watch::Sender::new(None) }
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
                match to {
                    // Said with the address, as the last line of a start.
                    Phase::Ready => tracing::debug!(phase = ?to, "lifecycle"),
                    _ => tracing::info!(phase = ?to, "lifecycle"),
                }
            }
            moves
        });
    }

    /// For a part of the process, of this name, that must live as long as it serves.
    pub fn vital(&self, what: &'static str) -> Vital {
        Vital { lifecycle: self.clone(), what }
    }

    /// Returns, when a vital part has ended, its name.
    pub async fn failed(&self) -> &'static str {
        let mut failed = self.failed.subscribe();
        loop {
            if let Some(what) = *failed.borrow_and_update() {
                return what;
            }
            // The sender is here.
            if failed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
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

    #[tokio::test]
    async fn the_end_of_a_vital_part_is_told_unless_the_process_goes_down() {
        let lifecycle = Lifecycle::default();
        let (lease, wakes) = (lifecycle.vital("lease"), lifecycle.vital("wake-ups"));
        lifecycle.advance(Phase::Ready);
        let panicked = tokio::spawn(async move {
            let _vital = lease;
            panic!("on purpose");
        });
        assert!(panicked.await.is_err());
        drop(wakes);
        assert_eq!(lifecycle.failed().await, "lease", "the first one");

        let lifecycle = Lifecycle::default();
        let vital = lifecycle.vital("lease");
        lifecycle.advance(Phase::Draining);
        drop(vital);
        assert!(lifecycle.failed.borrow().is_none());
    }
}
