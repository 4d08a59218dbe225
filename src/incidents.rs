//! What has happened to this process and its sessions that operators want to see as it happens: adoptions, deaths of
//! instances, drains, servers that fail. Kept here until the next publication ([`Incidents::take`]), which hands them to all
//! instances; no call waits for it, and no id of a session is whole in it (SEC-2).

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::IntCounter;
use serde::Serialize;

/// Incidents in one publication: a storm of adoptions must not become one of bytes.
const TOGETHER: usize = 64;

/// One of them. What is empty or 0 is not told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Incident {
    /// `adopted`, `served`, `joined`, `draining`, `drained`, `gone`, `drain_asked`, `server_down`, `server_up`,
    /// `session_deleted`, `lost` (incidents that had no room here).
    pub what: &'static str,
    /// Handle of the session that it is about.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub session: String,
    /// Service that it is about.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// Instance that it is about: the owner before, or who is gone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// Beginning of that process's incarnation: several may tell of one death.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub process: String,
    /// Why, in a word.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub cause: &'static str,
    /// Server that it is about, by its number in its service.
    #[serde(skip_serializing_if = "is_nothing")]
    pub endpoint: u64,
    /// Generation of the ownership.
    #[serde(skip_serializing_if = "is_nothing")]
    pub generation: u64,
    /// Requests without an answer that were found.
    #[serde(skip_serializing_if = "is_nothing")]
    pub pending: u64,
    /// How long it took, in microseconds.
    #[serde(skip_serializing_if = "is_nothing")]
    pub took_us: u64,
    /// How many there were.
    #[serde(skip_serializing_if = "is_nothing")]
    pub count: u64,
}

/// One as it is published.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    /// Equal only for one that is published twice.
    id: String,
    /// When, in milliseconds since the Unix epoch, by this machine's clock.
    at_ms: u64,
    /// Who tells it.
    instance: String,
    #[serde(flatten)]
    incident: Incident,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_nothing(number: &u64) -> bool {
    *number == 0
}

impl Incident {
    /// Nothing is known of it yet but what it is.
    pub fn new(what: &'static str) -> Self {
        Self { what, ..Self::default() }
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Incidents {
    instance: String,
    incarnation: String,
    /// 0: none are kept.
    room: usize,
    lost: IntCounter,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    incidents: VecDeque<Told>,
    /// Number of the last one.
    last: u64,
    /// Had no room since the last publication.
    lost: u64,
}

impl Incidents {
    /// Of this process. `room`: so many may wait to be published; 0 keeps none. `lost`: counts those beyond it.
    pub fn new(instance: &str, incarnation: &str, room: usize, lost: &IntCounter) -> Self {
        let (instance, incarnation) = (instance.to_owned(), incarnation.chars().take(8).collect());
        Self { instance, incarnation, room, lost: lost.clone(), waiting: Mutex::default() }
    }

    /// It happens now.
    pub fn note(&self, incident: Incident) {
        if self.room == 0 {
            return;
        }
        let mut waiting = self.lock();
        if waiting.incidents.len() >= self.room {
            waiting.lost += 1;
            self.lost.inc();
            return;
        }
        self.push(&mut waiting, incident);
    }

    /// The next ones to be published, as JSON, oldest first. What cannot be published is lost.
    pub fn take(&self) -> Vec<String> {
        let mut waiting = self.lock();
        let count = std::mem::take(&mut waiting.lost);
        if count > 0 {
            self.push(&mut waiting, Incident { count, ..Incident::new("lost") });
        }
        let next = waiting.incidents.len().min(TOGETHER);
        waiting.incidents.drain(..next).filter_map(|incident| serde_json::to_string(&incident).ok()).collect()
    }

    /// Nothing waits to be published.
    pub fn is_empty(&self) -> bool {
        self.lock().incidents.is_empty()
    }

    /// So many could not be published.
    pub fn lost(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.lock().lost += count;
        self.lost.inc_by(count);
    }

    fn push(&self, waiting: &mut Waiting, incident: Incident) {
        waiting.last += 1;
        let id = format!("{}-{}", self.incarnation, waiting.last);
        waiting.incidents.push_back(Told { id, at_ms: now_ms(), instance: self.instance.clone(), incident });
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_counted_and_told() {
        let counter = IntCounter::new("lost", "lost").unwrap();
        let incidents = Incidents::new("router-1", "0123456789abcdef", 2, &counter);
        for generation in 1..=5 {
            incidents.note(Incident { generation, ..Incident::new("adopted") });
        }
        let told = incidents.take().join("\n");
        assert_eq!(counter.get(), 3);
        assert!(told.contains(r#""id":"01234567-2""#) && told.contains(r#""generation":2"#), "{told}");
        assert!(told.contains(r#""what":"lost""#) && told.contains(r#""count":3"#), "{told}");
        assert!(!told.contains("service"), "{told}");
        assert!(incidents.take().is_empty());
    }

    #[test]
    fn a_storm_is_published_bit_by_bit() {
        let counter = IntCounter::new("lost", "lost").unwrap();
        let incidents = Incidents::new("router-1", "0123456789abcdef", 1000, &counter);
        (0..TOGETHER + 1).for_each(|_| incidents.note(Incident::new("adopted")));
        assert_eq!((incidents.take().len(), incidents.take().len()), (TOGETHER, 1));
        let none = Incidents::new("router-1", "0123456789abcdef", 0, &counter);
        none.note(Incident::new("adopted"));
        assert!(none.take().is_empty() && counter.get() == 0);
    }
}
