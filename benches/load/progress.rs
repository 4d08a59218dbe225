//! How far a run is, as a bar on a terminal; elsewhere there is none.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::AbortHandle;

/// How often it moves.
const STEP: Duration = Duration::from_millis(500);

/// A bar that is there until this is dropped.
pub struct Progress {
    bar: ProgressBar,
    moves: AbortHandle,
}

/// Over so long a time.
pub fn over(what: &'static str, length: Duration) -> Progress {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let bar = ProgressBar::new(millis(length)).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg:16} {bar:40} {eta} left") {
        bar.set_style(style);
    }
    let (moved, begun) = (bar.clone(), Instant::now());
    let moves = tokio::task::spawn_local(async move {
        while !moved.is_hidden() {
            moved.set_position(millis(begun.elapsed()));
            tokio::time::sleep(STEP).await;
        }
    });
    Progress { bar, moves: moves.abort_handle() }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.moves.abort();
        self.bar.finish_and_clear();
    }
}
