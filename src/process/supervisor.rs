//! What systemd is told of this process (`sd_notify(3)`): that it serves, that it goes down, and that it lives. Without systemd
//! nothing is told.

use std::time::Duration;

use sd_notify::NotifyState;

/// Signs of life in the time after which systemd takes the process for dead.
const SIGNS: u32 = 3;

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// It serves.
pub(super) fn is_ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It goes down.
pub(super) fn is_stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Gives signs of life for as long as it runs, where systemd wants them (`WatchdogSec=`). `pulse`: returns when all that must
/// run has shown that it does; there is no sign before.
pub(super) async fn give_signs_of_life(pulse: impl AsyncFn()) {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| !period.is_zero()) else { return };
    loop {
        pulse().await;
        tell(&[NotifyState::Watchdog]);
        tokio::time::sleep((period / SIGNS).max(Duration::from_millis(1))).await;
    }
}
