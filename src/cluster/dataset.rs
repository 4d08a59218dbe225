//! Which data the store holds, by the id that it was given when it was empty: a store that comes back under another id has
//! lost everything, and the owners write their sessions again. Knows the store, and nothing of sessions.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::store::{SessionStore, StoreResult};

/// See the module's text.
#[derive(Debug)]
pub struct Dataset {
    /// Its id, and since when.
    known: Mutex<(Arc<str>, Instant)>,
}

impl Default for Dataset {
    fn default() -> Self {
        Self { known: Mutex::new(("".into(), Instant::now())) }
    }
}

impl Dataset {
    fn known(&self) -> MutexGuard<'_, (Arc<str>, Instant)> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id as it was last heard.
    pub fn id(&self) -> Arc<str> {
        Arc::clone(&self.known().0)
    }

    /// What a process found at its start, `since` when it takes it to have been so.
    pub fn begin(&self, id: &str, since: Instant) {
        *self.known() = (id.into(), since);
    }

    /// The store holds other data now: it came back without its own.
    pub fn remember(&self, id: &str) {
        let mut known = self.known();
        if *known.0 != *id {
            tracing::error!("the session store has lost its data; this instance writes the sessions it owns again");
            *known = (id.into(), Instant::now());
        }
    }

    /// Asks the store.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn ask(&self, store: &dyn SessionStore) -> StoreResult<()> {
        let id = store.dataset(&fresh_dataset_id()).await?;
        self.remember(&id);
        Ok(())
    }

    /// It has changed, no longer ago than that.
    pub fn changed_within(&self, period: Duration) -> bool {
        self.known().1.elapsed() < period
    }
}

/// A candidate for the id of a store's data. Never the same twice: an old id on new data would hide the loss.
pub fn fresh_dataset_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_data_is_a_loss() {
        let (dataset, hour) = (Dataset::default(), Duration::from_secs(3600));
        dataset.begin("one", Instant::now() - 2 * hour);
        dataset.remember("one");
        assert!(!dataset.changed_within(hour));
        dataset.remember("two");
        assert!(dataset.changed_within(hour));
        assert_eq!(&*dataset.id(), "two");
    }
}
