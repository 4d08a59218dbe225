//! The inner sessions of this process that wait for a call or work on one: plain state, of all threads.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OnceCell, oneshot};

use crate::{protocol::session_id::SessionId, store::Binding};

/// What tells inner sessions apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Service, principal, scopes and rules.
    whose: [String; 4],
    /// What its client can be asked (JSON text).
    pub capabilities: String,
    /// Level of logs (JSON text).
    pub level: Option<String>,
    /// It works on one call at a time.
    alone: bool,
    /// What is on record, or what a client shows again, may lead to it.
    is_led_to: bool,
}

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Calls that end with their clients.
    Calls,
    /// Calls that are on record, one at a time.
    Recorded,
    /// Changes that one client listens to.
    Listening,
}

impl Kind {
    /// `capabilities`, `level`: JSON texts.
    pub fn new(service: &str, by: &Binding, capabilities: String, level: Option<String>, is_for: Use) -> Self {
        let is_asked = capabilities != "{}";
        let alone = is_for != Use::Calls || is_asked || level.is_some();
        // Who is asked comes back by what it was given with the question.
        let is_led_to = is_for == Use::Recorded || is_asked;
        let whose = [service, by.principal(), by.scopes(), by.rules()].map(str::to_owned);
        Self { whose, capabilities, level, alone, is_led_to }
    }

    /// What is on record, or what a client shows again, may lead to it: not to be ended with the process that has opened it.
    pub fn is_led_to(&self) -> bool {
        self.is_led_to
    }

    /// It works on one call at a time.
    pub fn is_alone(&self) -> bool {
        self.alone
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Pool {
    kept: Mutex<HashMap<Kind, Vec<Arc<Entry>>>>,
    count: Arc<AtomicUsize>,
    /// Sessions whose calls wait for their clients here; dropped when one comes back.
    waiting: Mutex<HashMap<SessionId, oneshot::Sender<()>>>,
}

/// One session.
#[derive(Debug)]
pub struct Entry {
    /// Set once it is initialised: its name, and what its server told (JSON text).
    pub opened: OnceCell<(SessionId, Arc<str>)>,
    /// It could not be opened.
    pub has_failed: AtomicBool,
    calls: AtomicUsize,
    used: Mutex<Instant>,
    _place: Place,
}

/// Counts until it is dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let place = Self(Arc::clone(count));
        (count.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Entry {
    fn new(place: Place, calls: usize) -> Arc<Self> {
        let (calls, used) = (AtomicUsize::new(calls), Mutex::new(Instant::now()));
        Arc::new(Self { opened: OnceCell::new(), has_failed: AtomicBool::new(false), calls, used, _place: place })
    }

    /// One of its calls has ended.
    pub fn is_over(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.calls.fetch_sub(1, Ordering::AcqRel);
    }

    /// Nobody has used it for so long. `None`: it works.
    pub fn idle_for(&self) -> Option<Duration> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        (self.calls.load(Ordering::Acquire) == 0).then_some(used)
    }
}

impl Pool {
    fn kept(&self) -> MutexGuard<'_, HashMap<Kind, Vec<Arc<Entry>>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are of this process.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// It is given to nobody any more.
    pub fn remove(&self, kind: &Kind, entry: &Arc<Entry>) {
        remove_from(&mut self.kept(), kind, entry);
    }

    /// It is given to calls again.
    pub fn put_back(&self, kind: &Kind, entry: &Arc<Entry>) {
        let mut kept = self.kept();
        let entries = kept.entry(kind.clone()).or_default();
        if !entries.iter().any(|other| Arc::ptr_eq(other, entry)) {
            entries.push(Arc::clone(entry));
        }
    }

    /// It is given to nobody any more, unless it works. `false`: it does.
    pub fn remove_idle(&self, kind: &Kind, entry: &Arc<Entry>) -> bool {
        let mut kept = self.kept();
        let is_free = entry.idle_for().is_some();
        if is_free {
            remove_from(&mut kept, kind, entry);
        }
        is_free
    }

    /// All that wait for a call, which are given to nobody any more; and those that work on one.
    pub fn part(&self) -> (Vec<SessionId>, HashSet<SessionId>) {
        let mut kept = self.kept();
        let (mut idle, mut at_work) = (Vec::new(), HashSet::new());
        for entries in kept.values_mut() {
            entries.retain(|entry| {
                let session = entry.opened.get().map(|(session, _)| *session);
                let works = entry.idle_for().is_none();
                if works {
                    at_work.extend(session)
                } else {
                    idle.extend(session)
                }
                works
            });
        }
        kept.retain(|_, entries| !entries.is_empty());
        (idle, at_work)
    }

    /// The one that nobody has used for the longest time, which is given to nobody any more. `None`: all work.
    pub fn remove_longest_idle(&self) -> Option<Arc<Entry>> {
        let mut kept = self.kept();
        let all = kept.iter().flat_map(|(kind, entries)| entries.iter().map(move |entry| (kind, entry)));
        let idle = all.filter_map(|(kind, entry)| Some((entry.idle_for()?, kind, entry)));
        let (_, kind, entry) = idle.max_by_key(|(idle, ..)| *idle)?;
        let (kind, entry) = (kind.clone(), Arc::clone(entry));
        remove_from(&mut kept, &kind, &entry);
        Some(entry)
    }

    /// One that may take one more call, which counts already; and whether it is new. `calls`: so many at once in one.
    /// `most`: sessions. `None`: there are so many.
    pub fn choose(&self, kind: &Kind, calls: usize, most: usize) -> Option<(Arc<Entry>, bool)> {
        let limit = if kind.alone { 1 } else { calls };
        let mut kept = self.kept();
        let under_way = |entry: &&Arc<Entry>| entry.calls.load(Ordering::Acquire);
        let entries = kept.get(kind).into_iter().flatten();
        if let Some(entry) = entries.min_by_key(under_way).filter(|entry| under_way(entry) < limit) {
            entry.calls.fetch_add(1, Ordering::AcqRel);
            return Some((Arc::clone(entry), false));
        }
        let entry = Entry::new(Place::take(&self.count, most)?, 1);
        kept.entry(kind.clone()).or_default().push(Arc::clone(&entry));
        Some((entry, true))
    }
}

impl Pool {
    /// The call in this session waits for its client. What is returned comes to its end when the client is back.
    pub fn waits(&self, session: SessionId) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(session, sender);
        receiver
    }

    /// It is back.
    pub fn goes_on(&self, session: &SessionId) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(session);
    }
}

fn remove_from(kept: &mut HashMap<Kind, Vec<Arc<Entry>>>, kind: &Kind, entry: &Arc<Entry>) {
    if let Some(entries) = kept.get_mut(kind) {
        entries.retain(|other| !Arc::ptr_eq(other, entry));
        if entries.is_empty() {
            kept.remove(kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(capabilities: &str, level: Option<&str>) -> Kind {
        Kind::new("s", &Binding::default(), capabilities.to_owned(), level.map(str::to_owned), Use::Calls)
    }

    #[test]
    fn calls_share_a_session_unless_something_is_asked_or_logged_in_it() {
        let pool = Pool::default();
        let plain = kind("{}", None);
        let (one, is_new) = pool.choose(&plain, 2, 10).unwrap();
        assert!(is_new);
        let (same, is_new) = pool.choose(&plain, 2, 10).unwrap();
        assert!(!is_new && Arc::ptr_eq(&one, &same));
        let (third, is_new) = pool.choose(&plain, 2, 10).unwrap();
        assert!(is_new && !Arc::ptr_eq(&one, &third));
        for alone in [kind(r#"{"elicitation":{}}"#, None), kind("{}", Some("\"info\""))] {
            let (one, _) = pool.choose(&alone, 2, 10).unwrap();
            let (other, is_new) = pool.choose(&alone, 2, 10).unwrap();
            assert!(is_new && !Arc::ptr_eq(&one, &other));
            one.is_over();
            assert!(Arc::ptr_eq(&one, &pool.choose(&alone, 2, 10).unwrap().0), "it works no more");
        }
    }

    #[test]
    fn nobody_gets_the_session_of_another_principal_or_level() {
        let pool = Pool::default();
        let of = |principal: &str, level: Option<&str>| {
            Kind::new("s", &Binding::new(principal, []), "{}".to_owned(), level.map(str::to_owned), Use::Calls)
        };
        let kinds = [of("p", None), of("q", None), of("p", Some("\"info\"")), of("p", Some("\"debug\""))];
        assert!(kinds.iter().all(|kind| pool.choose(kind, 9, 10).unwrap().1));
        assert!(kinds.iter().all(|kind| !pool.choose(kind, 9, 10).is_some_and(|(_, is_new)| is_new) || kind.alone));
    }

    #[test]
    fn at_the_end_those_part_that_wait_and_those_stay_that_work() {
        let pool = Pool::default();
        let (waits, works) = (kind("{}", None), kind(r#"{"roots":{}}"#, None));
        let sessions = [&waits, &works].map(|kind| {
            let session = SessionId::random();
            pool.choose(kind, 1, 10).unwrap().0.opened.set((session, "".into())).unwrap();
            session
        });
        pool.kept()[&waits][0].is_over();
        assert_eq!(pool.part(), (vec![sessions[0]], HashSet::from([sessions[1]])));
        pool.kept()[&works][0].is_over();
        assert_eq!(pool.part(), (vec![sessions[1]], HashSet::new()));
        assert!(pool.part().0.is_empty() && pool.count() == 0);
    }

    #[test]
    fn a_session_is_led_to_by_records_and_by_what_clients_are_asked() {
        let of =
            |capabilities: &str, is_for| Kind::new("s", &Binding::default(), capabilities.to_owned(), None, is_for);
        for (capabilities, is_for, expected) in [
            ("{}", Use::Calls, (false, false)),
            ("{}", Use::Listening, (true, false)),
            ("{}", Use::Recorded, (true, true)),
            (r#"{"roots":{}}"#, Use::Calls, (true, true)),
        ] {
            let kind = of(capabilities, is_for);
            assert_eq!((kind.is_alone(), kind.is_led_to()), expected, "{capabilities} {is_for:?}");
        }
    }

    #[test]
    fn there_are_no_more_than_may_be_and_each_end_makes_room() {
        let pool = Pool::default();
        let alone = kind(r#"{"roots":{}}"#, None);
        let (one, _) = pool.choose(&alone, 1, 2).unwrap();
        let (other, _) = pool.choose(&alone, 1, 2).unwrap();
        assert!(pool.choose(&alone, 1, 2).is_none() && pool.count() == 2);
        assert!(!pool.remove_idle(&alone, &one), "it works");
        pool.remove(&alone, &one);
        assert!(pool.choose(&alone, 1, 2).is_none(), "it still works for its call");
        drop(one);
        assert_eq!(pool.count(), 1);
        other.is_over();
        assert!(pool.remove_idle(&alone, &other));
        drop(other);
        assert_eq!(pool.count(), 0);
        let (one, _) = pool.choose(&alone, 1, 1).unwrap();
        assert!(pool.remove_longest_idle().is_none(), "it works");
        one.is_over();
        drop(one);
        let other = kind(r#"{"sampling":{}}"#, None);
        assert!(pool.choose(&other, 1, 1).is_none(), "there are so many");
        assert!(pool.remove_longest_idle().is_some() && pool.choose(&other, 1, 1).is_some(), "what waits makes room");
        pool.kept().clear();
        let (one, _) = pool.choose(&alone, 1, 1).unwrap();
        pool.remove(&alone, &one);
        one.is_over();
        pool.put_back(&alone, &one);
        assert!(!pool.choose(&alone, 1, 1).unwrap().1, "what was put back waits for a call");
    }
}
