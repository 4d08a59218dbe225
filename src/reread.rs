//! A file that is read again when it has changed, and at SIGHUP. It is read whole or not at all: while it changes from look to
//! look somebody is writing it, and what cannot be read leaves everything as it was.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::signal::unix::{SignalKind, signal};

/// By which a file is known to be another one.
type Stamp = Option<(SystemTime, u64, u64)>;

fn stamp(path: &Path) -> Stamp {
    let known = fs::metadata(path).ok()?;
    Some((known.modified().ok()?, known.len(), known.ino()))
}

/// Looks after the file for as long as the process runs. `look`: how often. `read`: off this thread, since a file system may
/// hang. `take`: whether anything is other than before.
pub async fn keep<T: Send + 'static>(
    path: &Path,
    look: Duration,
    read: impl Fn() -> Result<T, String> + Clone + Send + 'static,
    mut take: impl FnMut(T) -> bool,
) {
    let mut hangup = signal(SignalKind::hangup()).ok();
    // Of what was read before this nobody knows when: the first look reads.
    let (mut known, mut last): (Stamp, Stamp) = (None, stamp(path));
    loop {
        let asked = async {
            match &mut hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        let asked = tokio::time::timeout(look, asked).await.is_ok();
        let (path, read, before): (PathBuf, _, _) = (path.to_owned(), read.clone(), known);
        let file = path.display().to_string();
        let looked = tokio::task::spawn_blocking(move || {
            let now = stamp(&path);
            let is_settled = now == last;
            (now, (asked || is_settled && now != before).then(read))
        });
        let Ok((now, read)) = looked.await else { return };
        last = now;
        if read.is_some() {
            known = now;
        }
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
