//! Waiting for what must come: asked for until it has, and given up after [`PATIENCE`] with a name for what did not come.
//! Nothing here sleeps in the hope that something has happened.

use std::{future::Future, time::Duration};

/// More than anything here takes on a busy machine; a test that waits longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks of [`eventually`].
const LOOK: Duration = Duration::from_millis(10);

/// Awaits `future`, but not for ever.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Asks again and again until `probe` says yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut probe: impl FnMut() -> F) {
    soon(what, async {
        while !probe().await {
            tokio::time::sleep(LOOK).await;
        }
    })
    .await;
}

/// As [`eventually`], for a probe that says what it has found.
pub async fn eventually_some<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    soon(what, async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
    })
    .await
}

/// The seed of a randomised test: `TEST_SEED` repeats one, else a new one; printed either way.
pub fn seed() -> u64 {
    let seed = std::env::var("TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("TEST_SEED={seed}");
    seed
}
