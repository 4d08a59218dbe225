//! How far the streams of a Streamable upstream session have been read, and what of that is on record: an heir asks the
//! server for what follows (`Last-Event-ID`). REQ-3
//!
//! What is on record must never be ahead of the log: the id of an event goes on record in one step with the event. Only the
//! first id of a stream may be written by itself, before there was anything to append: that of a priming event. Ids of two
//! streams may be the same, and say nothing of each other.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    store::{Continuation, HeadChange},
    upstream::Via,
};

/// See the module's text.
#[derive(Debug, Default)]
pub struct Cursors {
    main: Option<Arc<str>>,
    main_is_news: bool,
    main_is_on_record: bool,
    /// What is on record of it is of another upstream session.
    main_is_moot: bool,
    /// By the sequence of the request.
    posts: BTreeMap<u64, OfPost>,
    /// On record, and of requests that are over.
    moot: Vec<Arc<str>>,
}

#[derive(Debug)]
struct OfPost {
    /// The request's name in the store.
    key: Arc<str>,
    cursor: Arc<str>,
    is_news: bool,
    is_on_record: bool,
    /// To be written by itself, though it is on record.
    is_due: bool,
}

impl Cursors {
    /// The session's own stream has been read up to here. `true`: to be written by itself soon ([`Self::due`]).
    pub fn main_at(&mut self, cursor: Arc<str>) -> bool {
        (self.main, self.main_is_news) = (Some(cursor), true);
        !self.main_is_on_record
    }

    /// The answer to the POST of the request at `seq`, which the store knows by `key`, has been read up to here. `true`: to be
    /// written by itself soon ([`Self::due`]).
    pub fn post_at(&mut self, seq: u64, key: &Arc<str>, cursor: Arc<str>) -> bool {
        match self.posts.get_mut(&seq) {
            Some(of) => {
                (of.cursor, of.is_news) = (cursor, true);
                !of.is_on_record
            }
            None => {
                let key = Arc::clone(key);
                let of = OfPost { key, cursor, is_news: true, is_on_record: false, is_due: false };
                self.posts.insert(seq, of);
                true
            }
        }
    }

    /// The request at `seq` can be gone on with by this (MCP 2026-07-28). `with_next`: once the event that follows is in the log;
    /// else that is to be written by itself soon ([`Self::due`]), which is what `true` says.
    pub fn post_waits(&mut self, seq: u64, key: &Arc<str>, state: Arc<str>, with_next: bool) -> bool {
        self.post_at(seq, key, state);
        if let Some(of) = self.posts.get_mut(&seq).filter(|_| !with_next) {
            of.is_due = true;
        }
        !with_next
    }

    /// An event that has come by this is to be appended: what goes on record with it.
    pub fn ride(&mut self, via: Via) -> Option<HeadChange> {
        match via {
            Via::Stream => self.take_main(),
            Via::Post(seq) => self.posts.get_mut(&seq).and_then(|of| of.take(seq)),
        }
    }

    fn take_main(&mut self) -> Option<HeadChange> {
        let cursor = self.main.as_ref().filter(|_| std::mem::take(&mut self.main_is_news))?;
        (self.main_is_on_record, self.main_is_moot) = (true, false);
        Some(HeadChange::UpstreamCursor(Some(cursor.to_string())))
    }

    /// What is to be written by itself: the first ids of streams, if nothing has been appended for them yet.
    pub fn due(&mut self) -> Vec<HeadChange> {
        let mut due = Vec::new();
        if !self.main_is_on_record {
            due.extend(self.take_main());
        }
        if std::mem::take(&mut self.main_is_moot) {
            due.push(HeadChange::UpstreamCursor(None));
        }
        // What a later request of the same id has written, or is about to, stays.
        let moot = std::mem::take(&mut self.moot).into_iter();
        let moot = moot.filter(|key| !self.posts.values().any(|of| of.key == *key));
        due.extend(moot.map(|id_key| HeadChange::NotResumable { id_key }));
        let fresh = self.posts.iter_mut().filter(|(_, of)| !of.is_on_record || of.is_due);
        due.extend(fresh.filter_map(|(seq, of)| of.take(*seq)));
        due
    }

    /// Something is to be written by itself.
    pub fn is_due(&self) -> bool {
        let main = (self.main_is_news && !self.main_is_on_record) || self.main_is_moot;
        main || !self.moot.is_empty() || self.posts.values().any(|of| of.is_news && (!of.is_on_record || of.is_due))
    }

    /// The request that the store knows by this is answered: what goes off the record with its answer.
    pub fn answered(&mut self, key: &str) -> Option<HeadChange> {
        let of = self.forget(key)?;
        of.is_on_record.then_some(HeadChange::NotResumable { id_key: of.key })
    }

    /// That request is over without an answer.
    pub fn given_up(&mut self, key: &str) {
        let forgotten = self.forget(key).filter(|of| of.is_on_record);
        self.moot.extend(forgotten.map(|of| of.key));
    }

    fn forget(&mut self, key: &str) -> Option<OfPost> {
        // A handful at most: those whose answers are streams.
        let seq = *self.posts.iter().find(|(_, of)| &*of.key == key)?.0;
        self.posts.remove(&seq)
    }

    /// Behind what the session's own stream is to be resumed.
    pub fn main(&self) -> Option<&Arc<str>> {
        self.main.as_ref()
    }

    /// The upstream session is given up: what is on record of it goes off ([`Self::due`]).
    pub fn restart(&mut self) {
        let Self { main_is_on_record, main_is_moot, posts, mut moot, .. } = std::mem::take(self);
        moot.extend(posts.into_values().filter(|of| of.is_on_record).map(|of| of.key));
        (self.main_is_moot, self.moot) = (main_is_moot || main_is_on_record, moot);
    }

    /// As an adopter finds them.
    pub fn inherit(found: &mut Continuation) -> Self {
        let main = found.upstream_cursor.take();
        let of = |(key, at): (String, String)| {
            let (seq, cursor) = at.split_once(' ')?;
            let (key, cursor) = (key.into(), cursor.into());
            let of = OfPost { key, cursor, is_news: false, is_on_record: true, is_due: false };
            Some((seq.parse().ok()?, of))
        };
        Self {
            main_is_on_record: main.is_some(),
            main: main.map(Into::into),
            main_is_news: false,
            main_is_moot: false,
            posts: std::mem::take(&mut found.resumable).into_iter().filter_map(of).collect(),
            moot: Vec::new(),
        }
    }

    /// Behind what the answer to the request at `seq` is to be resumed.
    pub fn of_post(&self, seq: u64) -> Option<&Arc<str>> {
        self.posts.get(&seq).map(|of| &of.cursor)
    }

    /// As an heir needs it, for a session that is written again: only what had been on record before.
    pub fn put(&self, record: &mut Continuation) {
        record.upstream_cursor = self.main.as_ref().filter(|_| self.main_is_on_record).map(|id| id.to_string());
        let posts = self.posts.iter().filter(|(_, of)| of.is_on_record);
        record.resumable = posts.map(|(seq, of)| (of.key.to_string(), format!("{seq} {}", of.cursor))).collect();
    }
}

impl OfPost {
    fn take(&mut self, seq: u64) -> Option<HeadChange> {
        self.is_due = false;
        if !std::mem::take(&mut self.is_news) {
            return None;
        }
        self.is_on_record = true;
        Some(HeadChange::Resumable { id_key: Arc::clone(&self.key), at: format!("{seq} {}", self.cursor) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn key(seq: u64) -> Arc<str> {
        format!("key-{seq}").into()
    }

    #[test]
    fn the_id_of_a_priming_event_is_written_by_itself_and_later_ones_with_their_events() {
        let mut cursors = Cursors::default();
        assert!(cursors.post_at(7, &key(7), "a".into()) && cursors.is_due());
        let written = |cursor: &str| HeadChange::Resumable { id_key: key(7), at: format!("7 {cursor}") };
        assert_eq!(cursors.due(), [written("a")]);
        assert!(!cursors.is_due() && cursors.due().is_empty());
        assert!(!cursors.post_at(7, &key(7), "b".into()), "its event brings it there");
        assert!(cursors.due().is_empty());
        assert_eq!(cursors.ride(Via::Post(7)), Some(written("b")));
        assert_eq!(cursors.ride(Via::Post(7)), None, "once");
        assert_eq!(cursors.answered("key-7"), Some(HeadChange::NotResumable { id_key: key(7) }));
        assert_eq!(cursors.answered("key-7"), None);
        assert_eq!(cursors.of_post(7), None);
    }

    /// What an heir goes on with a request by that waits for its client: with each question, and with each answer by itself.
    #[test]
    fn what_a_request_waits_for_is_written_with_the_question_and_then_by_itself() {
        let written = |state: &str| HeadChange::Resumable { id_key: key(7), at: format!("7 {state}") };
        let mut cursors = Cursors::default();
        assert!(!cursors.post_waits(7, &key(7), "a b".into(), true));
        assert_eq!(cursors.ride(Via::Post(7)), Some(written("a b")));
        assert!(cursors.post_waits(7, &key(7), "c".into(), false) && cursors.is_due());
        assert_eq!(cursors.due(), [written("c")]);
        assert!(!cursors.is_due());
        assert_eq!(cursors.answered("key-7"), Some(HeadChange::NotResumable { id_key: key(7) }));
        assert_eq!(cursors.of_post(7), None, "it runs again");
    }

    #[test]
    fn what_is_answered_at_once_is_never_written() {
        let mut cursors = Cursors::default();
        cursors.post_at(1, &key(1), "a".into());
        assert_eq!(cursors.answered("key-1"), None);
        assert!(!cursors.is_due());
    }

    #[test]
    fn what_is_on_record_of_a_request_that_is_given_up_goes() {
        let mut cursors = Cursors::default();
        cursors.post_at(1, &key(1), "a".into());
        cursors.due();
        cursors.given_up("key-1");
        assert!(cursors.is_due());
        assert_eq!(cursors.due(), [HeadChange::NotResumable { id_key: key(1) }]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Main,
        Post(u64),
        Event(u64),
        MainEvent,
        Due,
        Answered(u64),
        GivenUp(u64),
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => Just(Step::Main),
            4 => (1..4u64).prop_map(Step::Post),
            3 => (1..4u64).prop_map(Step::Event),
            1 => Just(Step::MainEvent),
            2 => Just(Step::Due),
            1 => (1..4u64).prop_map(Step::Answered),
            1 => (1..4u64).prop_map(Step::GivenUp),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever comes: nothing is on record that was not seen, a stream's later ids only with its events, and in the end
        /// what is left on record is what this one believes to be.
        #[test]
        fn the_record_is_never_ahead_of_the_log(steps in prop::collection::vec(step(), 0..60)) {
            let (mut cursors, mut record) = (Cursors::default(), Continuation::default());
            let (mut count, mut written) = (0, BTreeSet::new());
            for step in steps {
                count += 1;
                let id: Arc<str> = count.to_string().into();
                let changes: Vec<HeadChange> = match &step {
                    Step::Main => { cursors.main_at(id); Vec::new() }
                    Step::Post(seq) => { cursors.post_at(*seq, &key(*seq), id); Vec::new() }
                    Step::Event(seq) => cursors.ride(Via::Post(*seq)).into_iter().collect(),
                    Step::MainEvent => cursors.ride(Via::Stream).into_iter().collect(),
                    Step::Due => cursors.due(),
                    Step::Answered(seq) => cursors.answered(&key(*seq)).into_iter().collect(),
                    Step::GivenUp(seq) => { cursors.given_up(&key(*seq)); Vec::new() }
                    Step::Restart => { cursors.restart(); Vec::new() }
                };
                for change in &changes {
                    if let HeadChange::Resumable { id_key, .. } = change {
                        let is_first = written.insert(Arc::clone(id_key));
                        prop_assert!(is_first || !matches!(step, Step::Due), "a later id by itself");
                    }
                }
                match step {
                    Step::Answered(seq) | Step::GivenUp(seq) => drop(written.remove(&key(seq))),
                    Step::Restart => written.clear(),
                    _ => {}
                }
                record.apply(&changes);
            }
            record.apply(&cursors.due());
            let mut believed = Continuation::default();
            cursors.put(&mut believed);
            let mut again = Continuation::default();
            Cursors::inherit(&mut believed.clone()).put(&mut again);
            prop_assert_eq!(&again, &believed, "an heir finds the same");
            prop_assert_eq!(believed.resumable.keys().collect::<Vec<_>>(), record.resumable.keys().collect::<Vec<_>>());
            prop_assert_eq!(believed.upstream_cursor.is_some(), record.upstream_cursor.is_some());
        }
    }
}
