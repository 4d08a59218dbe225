//! The sessions of each client: whose streams are shown, by whom, and whose have ended.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    protocol::session_id::SessionId,
    store::{LISTED_EACH, LISTED_PROCESSES, Listed},
};

/// See the module's text.
#[derive(Default)]
pub(super) struct Clients {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    clients: HashMap<String, Client>,
    /// Clients that were new since those whose time is over were last looked for.
    new: usize,
}

struct Client {
    shown: BTreeMap<SessionId, Arc<str>>,
    left: BTreeMap<SessionId, Instant>,
    expires: Instant,
}

impl Inner {
    fn client(&mut self, key: &str, ttl: Duration) -> &mut Client {
        let now = Instant::now();
        if !self.clients.contains_key(key) {
            // MEM-4: a search for so many new ones that each of them pays for a few.
            self.new += 1;
            if self.new > 8 + self.clients.len() / 4 {
                self.new = 0;
                self.clients.retain(|_, client| client.expires > now);
            }
        }
        let client = self.clients.entry(key.to_owned()).or_insert_with(|| Client {
            shown: BTreeMap::new(),
            left: BTreeMap::new(),
            expires: now,
        });
        if client.expires <= now {
            client.shown.clear();
            client.left.clear();
        }
        client.expires = now + ttl;
        client
    }
}

impl Clients {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn shown(&self, key: &str, session: SessionId, incarnation: &str, ttl: Duration) {
        let mut inner = self.inner();
        let client = inner.client(key, ttl);
        client.left.remove(&session);
        client.shown.insert(session, incarnation.into());
    }

    pub(super) fn left(&self, key: &str, session: SessionId, incarnation: Option<&str>, ttl: Duration) {
        let mut inner = self.inner();
        let client = inner.client(key, ttl);
        let shown_by = client.shown.get(&session);
        if incarnation.is_some_and(|incarnation| shown_by.is_none_or(|shown_by| **shown_by != *incarnation)) {
            return;
        }
        let now = Instant::now();
        client.left.retain(|_, at| now.duration_since(*at) <= ttl);
        client.shown.remove(&session);
        client.left.insert(session, now);
    }

    pub(super) fn forgotten(&self, key: &str, session: SessionId) {
        let mut inner = self.inner();
        let Some(client) = inner.clients.get_mut(key) else { return };
        client.shown.remove(&session);
        client.left.remove(&session);
        if client.shown.is_empty() && client.left.is_empty() {
            inner.clients.remove(key);
        }
    }

    pub(super) fn listed(&self, key: &str, age: Duration) -> Listed {
        let inner = self.inner();
        let now = Instant::now();
        let Some(client) = inner.clients.get(key).filter(|client| client.expires > now) else {
            return Listed::default();
        };
        let mut by_process: BTreeMap<Arc<str>, Vec<SessionId>> = BTreeMap::new();
        for (session, incarnation) in &client.shown {
            let of_process = by_process.entry(Arc::clone(incarnation)).or_default();
            if of_process.len() < LISTED_EACH {
                of_process.push(*session);
            }
        }
        let shown = by_process
            .into_iter()
            .take(LISTED_PROCESSES)
            .flat_map(|(incarnation, sessions)| {
                sessions.into_iter().map(move |session| (Arc::clone(&incarnation), session))
            })
            .collect();
        let since = |at: &Instant| now.duration_since(*at);
        let mut left: Vec<(SessionId, Duration)> =
            client.left.iter().map(|(session, at)| (*session, since(at))).filter(|(_, ago)| *ago <= age).collect();
        left.sort_by_key(|(_, ago)| *ago);
        left.truncate(LISTED_EACH);
        Listed { shown, left }
    }
}
