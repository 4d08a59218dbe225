//! [`Operators`] in memory.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;

use super::{MAX_TTL, MemoryStore};
use crate::store::{ASKED_ABOUT, Heard, Operators, Owner, Publication, Published, StoreResult};

/// What is shown.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<Shown>);

#[derive(Debug, Default)]
struct Shown {
    /// By instance id, and until when.
    instances: BTreeMap<String, (Published, Instant)>,
    /// Newest first.
    incidents: VecDeque<String>,
    /// Handles, and until when; who asked last first.
    about: Vec<(String, Instant)>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Operators for MemoryStore {
    async fn publish(&self, publication: Publication<'_>) -> StoreResult<Heard> {
        let Publication { owner, figures, known: said, life, incidents, keep } = publication;
        let mut shown = self.board.lock();
        let known = shown.instances.get(&*owner.instance_id);
        let is_asked_to_drain =
            known.is_some_and(|(known, _)| known.owner.incarnation == owner.incarnation && known.is_asked_to_drain);
        let published = Published {
            owner: owner.clone(),
            figures: figures.into_owned(),
            known: said.into_owned(),
            is_asked_to_drain,
        };
        shown.instances.insert(owner.instance_id.to_string(), (published, Instant::now() + life.min(MAX_TTL)));
        for incident in incidents {
            shown.incidents.push_front(incident.clone());
        }
        shown.incidents.truncate(keep);
        let now = Instant::now();
        shown.about.retain(|(_, until)| *until > now);
        let about = shown.about.iter().map(|(session, _)| session.clone()).collect();
        Ok(Heard { drain: is_asked_to_drain, about })
    }

    async fn ask_about(&self, session: &str, life: Duration) -> StoreResult<()> {
        let mut shown = self.board.lock();
        shown.about.retain(|(known, _)| known != session);
        shown.about.insert(0, (session.to_owned(), Instant::now() + life.min(MAX_TTL)));
        shown.about.truncate(ASKED_ABOUT);
        Ok(())
    }

    async fn published(&self) -> StoreResult<Vec<Published>> {
        let mut shown = self.board.lock();
        let now = Instant::now();
        shown.instances.retain(|_, (_, until)| *until > now);
        Ok(shown.instances.values().map(|(published, _)| published.clone()).collect())
    }

    async fn incidents(&self, limit: usize) -> StoreResult<Vec<String>> {
        Ok(self.board.lock().incidents.iter().take(limit).cloned().collect())
    }

    async fn ask_to_drain(&self, owner: &Owner) -> StoreResult<bool> {
        let mut shown = self.board.lock();
        let now = Instant::now();
        match shown.instances.get_mut(&*owner.instance_id) {
            Some((published, until)) if published.owner == *owner && *until > now => {
                published.is_asked_to_drain = true;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}
