//! Keys that this deployment has given out, by their hashes, from a file that may change while the router runs.
//!
//! Keys are long and random (`mcp-router key` makes them), so that a plain hash keeps them as well as a slow one would, and
//! costs a flood of wrong ones nothing. They are found by hash: how long that takes tells nothing of a key.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::{
    gateway::principal::{Kind, Principal},
    reread,
    settings::{KeyFile, KeyHash},
};

type Holders = HashMap<KeyHash, Principal>;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Keys {
    file: KeyFile,
    look: Duration,
    table: Arc<Table>,
}

#[derive(Debug)]
struct Table {
    holders: RwLock<Holders>,
    /// Changes when the table has.
    changed: watch::Sender<()>,
}

/// A key that was good when it was shown.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    table: Arc<Table>,
    hash: KeyHash,
}

fn holders(file: &KeyFile) -> Holders {
    file.keys().iter().map(|(name, hash)| (*hash, Principal::new(Kind::Key, "", name, []))).collect()
}

impl Keys {
    /// `look`: how often the file is looked at.
    pub(super) fn new(file: KeyFile, look: Duration) -> Self {
        let table = Arc::new(Table { holders: RwLock::new(holders(&file)), changed: watch::Sender::new(()) });
        Self { file, look, table }
    }

    /// Who has this key.
    pub(super) fn holder(&self, key: &str) -> Option<(Principal, Watched)> {
        let hash: KeyHash = Sha256::digest(key).into();
        let holder = self.table.holder(&hash)?;
        Some((holder, Watched { table: Arc::clone(&self.table), hash }))
    }

    /// Reads the file again whenever it has changed, and at SIGHUP.
    pub(super) async fn keep_up(&self) {
        let file = self.file.clone();
        let read = move || file.read_again();
        let paths = || vec![self.file.path().to_owned()];
        reread::keep(paths, self.look, read, |file| self.table.replace(holders(&file))).await;
    }
}

impl Table {
    fn holder(&self, hash: &KeyHash) -> Option<Principal> {
        self.holders.read().unwrap_or_else(PoisonError::into_inner).get(hash).cloned()
    }

    /// Whether anything is other than it was.
    fn replace(&self, holders: Holders) -> bool {
        let before = std::mem::replace(&mut *self.holders.write().unwrap_or_else(PoisonError::into_inner), holders);
        let now = self.holders.read().unwrap_or_else(PoisonError::into_inner);
        let has_changed = *now != before;
        drop(now);
        if has_changed {
            self.changed.send_replace(());
        }
        has_changed
    }
}

impl Watched {
    /// Returns when the key is none any more, or is somebody else's.
    pub(super) async fn gone(self) {
        let mut changed = self.table.changed.subscribe();
        let Some(holder) = self.table.holder(&self.hash) else { return };
        while changed.changed().await.is_ok() {
            if self.table.holder(&self.hash).as_ref() != Some(&holder) {
                return;
            }
        }
    }
}
