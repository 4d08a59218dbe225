//! What this process knows of owners that it has suspected to be gone, and which sessions it looks after ([`Suspects`]): the
//! memory of the [judge](super::ownership), without its decisions.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::protocol::session_id::SessionId;

/// Dead processes that are remembered. Each is one restart of an instance; all are forgotten beyond it, and proven again.
const MAX_DEAD: usize = 1024;

/// What this process knows of owners that it has suspected, and which sessions it looks after.
#[derive(Debug, Default)]
pub struct Suspects {
    /// Incarnations that are proven dead. None comes back.
    dead: Mutex<HashSet<Arc<str>>>,
    /// Incarnations of which operators have been told that they are gone.
    told: Mutex<HashSet<Arc<str>>>,
    /// When an owner's address was tried last, and whether it refused. Held while one is tried.
    pub(super) probes: tokio::sync::Mutex<HashMap<Arc<str>, (Instant, bool)>>,
    /// Sessions that are looked after; `true`: asked for again meanwhile.
    looked_after: Mutex<HashMap<SessionId, bool>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `false`: it was there.
fn insert(known: &Mutex<HashSet<Arc<str>>>, incarnation: &Arc<str>) -> bool {
    let mut known = lock(known);
    if known.len() >= MAX_DEAD {
        known.clear();
    }
    known.insert(Arc::clone(incarnation))
}

impl Suspects {
    /// That process has ended.
    pub(super) fn knows_dead(&self, incarnation: &str) -> bool {
        lock(&self.dead).contains(incarnation)
    }

    /// It has, and none comes back.
    pub(super) fn remember_dead(&self, incarnation: &Arc<str>) {
        insert(&self.dead, incarnation);
    }

    /// Nobody has told of its end yet; now somebody does.
    pub(super) fn is_news(&self, incarnation: &Arc<str>) -> bool {
        insert(&self.told, incarnation)
    }

    /// This session is looked after from now on, unless there are `limit` of them.
    pub(super) fn begin(&self, session: SessionId, limit: usize) -> Begun {
        let mut looked_after = lock(&self.looked_after);
        let room = looked_after.len() < limit;
        match looked_after.entry(session) {
            Entry::Occupied(mut entry) => {
                entry.insert(true);
                Begun::ByAnother
            }
            Entry::Vacant(entry) if room => {
                entry.insert(false);
                Begun::ByCaller
            }
            Entry::Vacant(_) => Begun::TooMany,
        }
    }

    /// Nobody has asked for it since the last look; then it is not looked after any more.
    pub(super) fn is_over(&self, session: SessionId) -> bool {
        let mut looked_after = lock(&self.looked_after);
        let again = looked_after.get_mut(&session).is_some_and(std::mem::take);
        if !again {
            looked_after.remove(&session);
        }
        !again
    }

    /// Whoever looked after it has gone.
    pub(super) fn leave(&self, session: SessionId) {
        lock(&self.looked_after).remove(&session);
    }
}

/// Who looks after a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// The caller does from now on.
    ByCaller,
    /// Somebody does already, and will look once more.
    ByAnother,
    /// Nobody can.
    TooMany,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_looked_after_by_one_at_a_time_who_looks_again_when_asked() {
        let (suspects, session) = (Suspects::default(), SessionId::random());
        assert_eq!(suspects.begin(session, 1), Begun::ByCaller);
        assert_eq!(suspects.begin(SessionId::random(), 1), Begun::TooMany);
        assert_eq!(suspects.begin(session, 1), Begun::ByAnother);
        assert!(!suspects.is_over(session), "somebody has asked meanwhile");
        assert!(suspects.is_over(session));
        assert_eq!(suspects.begin(session, 1), Begun::ByCaller);
        suspects.leave(session);
        assert_eq!(suspects.begin(session, 1), Begun::ByCaller);
    }

    #[test]
    fn so_many_dead_are_remembered() {
        let suspects = Suspects::default();
        for number in 0..=MAX_DEAD {
            suspects.remember_dead(&number.to_string().into());
        }
        assert!(suspects.knows_dead(&MAX_DEAD.to_string()));
        assert!(!suspects.knows_dead("0"));
    }
}
