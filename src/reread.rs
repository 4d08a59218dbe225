//! Files that are read again when they have changed, and at SIGHUP. They are read whole or not at all: while they change from look
//! to look somebody is writing them, and what cannot be read leaves everything as it was.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tokio::signal::unix::{SignalKind, signal};

/// By which a file is known to be another one.
type Stamp = Option<(SystemTime, u64, u64)>;

fn stamp(paths: &[PathBuf]) -> Vec<Stamp> {
    let of = |path: &PathBuf| {
        let known = fs::metadata(path).ok()?;
        Some((known.modified().ok()?, known.len(), known.ino()))
    };
    paths.iter().map(of).collect()
}

/// Looks after files for as long as the process runs. `paths`: the first one names the others, if there are any. `within`: so
/// soon a change counts. `read`: off this thread, since a file system may hang. `take`: whether anything is other than before.
pub async fn keep<T: Send + 'static>(
    paths: impl Fn() -> Vec<PathBuf>,
    within: Duration,
    read: impl Fn() -> Result<T, String> + Clone + Send + 'static,
    mut take: impl FnMut(T) -> bool,
) {
    let mut hangup = signal(SignalKind::hangup()).ok();
    // Of what was read before this nobody knows when: the first look reads.
    let (mut known, mut last) = (None, Some(stamp(&paths())));
    // Seen by one look, and settled by the next.
    let look = within / 2;
    loop {
        let asked = async {
            match &mut hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        let asked = tokio::time::timeout(look, asked).await.is_ok();
        let (paths, read) = (paths(), read.clone());
        let file = paths.first().map(|path| path.display().to_string()).unwrap_or_default();
        let (before, settled) = (known.take(), last.take());
        let looked = tokio::task::spawn_blocking(move || {
            let now = Some(stamp(&paths));
            let is_settled = now == settled;
            let read = (asked || is_settled && now != before).then(read);
            (if read.is_some() { now.clone() } else { before }, now, read)
        });
        let Ok(looked) = looked.await else { return };
        let read;
        (known, last, read) = looked;
        match read {
            Some(Ok(found)) => {
                let has_changed = take(found);
                if has_changed || asked {
                    tracing::info!(file, "read again");
                }
            }
            Some(Err(fault)) => tracing::error!(file, fault, "this file cannot be read; all stays as it was"),
            None => {}
        }
    }
}
