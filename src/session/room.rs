//! Room for sessions: who makes room when there is none left, and how many one client may have.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{handle::SessionHandle, messages::MakeRoom};

/// Sessions asked to make room for one new one: those that are asked first have nearly always nothing under way.
const ATTEMPTS: usize = 8;

/// What a client is counted by: hashes of its address and of what it shows as its authorization.
pub type GuestKeys = Vec<Arc<str>>;

/// The sessions of this process whose clients are gone, by how long they have been alone.
#[derive(Debug, Default)]
pub struct Lonely {
    inner: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    waiting: BTreeMap<u64, (SessionHandle, GuestKeys)>,
}

impl Lonely {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session is alone from now on. Its place in the queue.
    pub fn enter(&self, session: SessionHandle, guest: GuestKeys) -> u64 {
        let mut queue = self.queue();
        queue.next += 1;
        let place = queue.next;
        queue.waiting.insert(place, (session, guest));
        place
    }

    /// It is not any more.
    pub fn leave(&self, place: u64) {
        self.queue().waiting.remove(&place);
    }

    /// Nobody could make room.
    pub fn is_empty(&self) -> bool {
        self.queue().waiting.is_empty()
    }

    /// Takes the one that has been alone longest, of any client or of this one.
    fn take(&self, of: Option<&str>) -> Option<SessionHandle> {
        let mut queue = self.queue();
        let place = match of {
            None => *queue.waiting.first_key_value()?.0,
            Some(key) => *queue.waiting.iter().find(|(_, (_, guest))| guest.iter().any(|of| **of == *key))?.0,
        };
        queue.waiting.remove(&place).map(|(session, _)| session)
    }

    /// Lets the session go that has been alone longest (of the client with this key, if one is given). `false`: there is
    /// none.
    pub async fn make_room(&self, of: Option<&str>) -> bool {
        for _ in 0..ATTEMPTS {
            let Some(session) = self.take(of) else { return false };
            // One that has ended meanwhile has made room.
            if session.send(MakeRoom).await.unwrap_or(true) {
                return true;
            }
        }
        false
    }
}

/// Sessions of each client.
#[derive(Debug, Default)]
pub struct Guests {
    counts: Mutex<HashMap<Arc<str>, usize>>,
}

/// One session of a client; counts until it is dropped.
#[derive(Debug)]
pub struct Guest {
    guests: Arc<Guests>,
    keys: GuestKeys,
}

impl Guests {
    fn counts(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more session of the client with these keys.
    ///
    /// # Errors
    /// The key of which there are `limit` already (0: no limit).
    pub fn admit(self: &Arc<Self>, keys: GuestKeys, limit: usize) -> Result<Guest, Arc<str>> {
        let mut counts = self.counts();
        let full = keys.iter().find(|key| limit > 0 && counts.get(*key).is_some_and(|count| *count >= limit));
        if let Some(full) = full {
            return Err(Arc::clone(full));
        }
        for key in &keys {
            *counts.entry(Arc::clone(key)).or_default() += 1;
        }
        Ok(Guest { guests: Arc::clone(self), keys })
    }
}

impl Guest {
    /// By which it is counted.
    pub fn keys(&self) -> GuestKeys {
        self.keys.clone()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.guests.counts();
        for key in &self.keys {
            if let Some(count) = counts.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_no_more_sessions_than_the_limit_and_gets_each_place_back() {
        let guests = Arc::new(Guests::default());
        let keys = |address: &str, credential: &str| vec![Arc::from(address), Arc::from(credential)];
        let one = guests.admit(keys("a", "x"), 2).unwrap();
        let _two = guests.admit(keys("b", "x"), 2).unwrap();
        assert_eq!(&*guests.admit(keys("c", "x"), 2).unwrap_err(), "x");
        let _three = guests.admit(keys("a", "y"), 2).unwrap();
        assert_eq!(&*guests.admit(keys("a", "z"), 2).unwrap_err(), "a");
        assert!(guests.admit(keys("a", "x"), 0).is_ok(), "no limit");
        drop(one);
        assert!(guests.admit(keys("a", "x"), 2).is_ok());
        drop((_two, _three));
        assert!(guests.counts().is_empty());
    }
}
