//! What the threads of this process keep together for requests of this era ([`Kept`]).

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{cache::Cache, results::Results, seal::Seal};
use crate::settings::StatelessSettings;

/// See the module's text.
#[derive(Debug)]
pub struct Kept {
    /// Results that may be kept.
    pub(crate) cache: Cache,
    /// What is kept of calls that are on record.
    pub(crate) results: Results,
    /// Endpoints that this process listens to, by their numbers.
    listened_to: Mutex<HashSet<usize>>,
    /// What servers say they are, by service.
    discovered: Mutex<HashMap<String, Discovered>>,
    /// By the secret that the store has, as long as it holds these data.
    seal: Mutex<Option<(Arc<str>, Seal)>>,
}

/// What the servers of a service say they are.
#[derive(Debug, Clone)]
pub(crate) struct Discovered {
    /// The result of `server/discover`: JSON text.
    pub(crate) result: Arc<str>,
    /// When it was asked for.
    pub(crate) at: Instant,
}

impl Kept {
    /// Nothing yet.
    pub fn new(settings: &StatelessSettings) -> Self {
        let (discovered, seal) = (Mutex::default(), Mutex::default());
        let (results, listened_to) = (Results::default(), Mutex::default());
        Self { cache: Cache::new(settings.cache), results, listened_to, discovered, seal }
    }

    pub(crate) fn listened_to(&self) -> MutexGuard<'_, HashSet<usize>> {
        self.listened_to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn discovered(&self, service: &str) -> Option<Discovered> {
        self.discovered.lock().unwrap_or_else(PoisonError::into_inner).get(service).cloned()
    }

    pub(crate) fn discover(&self, service: &str, discovered: Discovered) {
        self.discovered.lock().unwrap_or_else(PoisonError::into_inner).insert(service.to_owned(), discovered);
    }

    /// By the secret of these data of the store, if it is known.
    pub(crate) fn seal(&self, dataset: &str) -> Option<Seal> {
        let seal = self.seal.lock().unwrap_or_else(PoisonError::into_inner);
        seal.as_ref().filter(|(of, _)| **of == *dataset).map(|(_, seal)| seal.clone())
    }

    pub(crate) fn keep_seal(&self, dataset: Arc<str>, seal: Seal) {
        *self.seal.lock().unwrap_or_else(PoisonError::into_inner) = Some((dataset, seal));
    }
}
