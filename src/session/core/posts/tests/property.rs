//! Messages and links in every order: nothing is lost, nothing runs twice that must not, everything ends.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::session::core::recovery::{self, Fate, MAX_ATTEMPTS};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Call { repeatable: bool },
    Note,
    LinkBound,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Acknowledged,
    Answered,
    NotSent,
    SessionGone,
    Refused,
    NotNow,
    Failed,
    Broken,
    Late,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Take(Kind),
    Send,
    End(prop::sample::Index, End),
    Cancel(prop::sample::Index),
    LoseLink,
    Pass(u16),
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => any::<bool>().prop_map(|repeatable| Kind::Call { repeatable }),
        2 => Just(Kind::Note),
        1 => Just(Kind::LinkBound)
    ]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        6 => Just(End::Acknowledged),
        4 => Just(End::Answered),
        1 => Just(End::NotSent),
        1 => Just(End::SessionGone),
        1 => Just(End::Refused),
        1 => Just(End::NotNow),
        1 => Just(End::Failed),
        2 => Just(End::Broken),
        1 => Just(End::Late),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => kind().prop_map(Step::Take),
        6 => Just(Step::Send),
        6 => (any::<prop::sample::Index>(), end()).prop_map(|(at, end)| Step::End(at, end)),
        1 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        1 => Just(Step::LoseLink),
        2 => (0u16..2000).prop_map(Step::Pass),
    ]
}

/// The session's shell and its server, as far as they matter here.
struct Run {
    world: World,
    kinds: BTreeMap<u64, Kind>,
    last: u64,
    /// Calls that must not run again: sequences that a server may have seen.
    may_have_run: HashSet<u64>,
    /// How often a server may have begun with each call.
    attempts: BTreeMap<u64, u32>,
    /// Of notifications: where they may have arrived.
    arrived: HashSet<(u64, u64)>,
}

impl Run {
    fn new() -> Self {
        Self {
            world: World::new(),
            kinds: BTreeMap::new(),
            last: 0,
            may_have_run: HashSet::new(),
            attempts: BTreeMap::new(),
            arrived: HashSet::new(),
        }
    }

    fn is_repeatable(&self, seq: u64) -> bool {
        self.kinds[&seq] == Kind::Call { repeatable: true }
    }

    fn take(&mut self, kind: Kind) {
        self.last += 1;
        self.kinds.insert(self.last, kind);
        match kind {
            Kind::Call { .. } => self.world.request(self.last),
            Kind::Note => self.world.posts.queue(self.last, note(None)),
            Kind::LinkBound => self.world.posts.queue(self.last, note(Some(self.world.moment.link))),
        }
    }

    fn send(&mut self) {
        let Some((number, seq)) = self.world.send() else { return };
        let (link, post) = (self.world.moment.link, &self.world.posts.under_way[&number]);
        assert!(post.outbound.only_on.is_none_or(|only| only == link), "it was for a session that is gone");
        if post.outbound.id.is_none() {
            assert!(self.arrived.insert((link, seq)), "REQ-6: a notification goes up twice on one link");
            return;
        }
        if !self.may_have_run.insert(seq) {
            assert!(self.is_repeatable(seq), "REQ-3: it may have had its effect");
        }
        let attempts = self.attempts.entry(seq).or_insert(0);
        *attempts += 1;
        assert!(*attempts <= MAX_ATTEMPTS, "it wanders");
    }

    fn end(&mut self, number: u64, end: End) {
        let (seq, link, id) = {
            let post = &self.world.posts.under_way[&number];
            (post.seq, post.link, post.outbound.id.clone())
        };
        let carried = id.clone().filter(|id| self.world.posts.carries(number, id));
        let error = match end {
            End::Acknowledged => {
                self.world.hear();
                self.world.acknowledge(number);
                return;
            }
            End::Answered => {
                self.world.hear();
                // What comes by an older link is not listened to.
                if let Some(id) = carried.filter(|_| link == self.world.moment.link) {
                    assert!(self.world.posts.answered(&id).is_some());
                }
                return;
            }
            End::NotSent => PostError::NotSent(String::new()),
            End::SessionGone => PostError::SessionGone,
            End::Refused => PostError::Refused(400),
            End::NotNow => PostError::NotNow { status: 503, retry_after: None },
            End::Failed => PostError::Failed(500),
            End::Broken => PostError::Unknown(String::new()),
            End::Late => PostError::Late(POST_LIMIT),
        };
        if matches!(end, End::NotSent | End::SessionGone | End::NotNow) {
            // The server has not executed it.
            self.arrived.remove(&(link, seq));
            if carried.is_some() {
                self.may_have_run.remove(&seq);
                self.attempts.entry(seq).and_modify(|attempts| *attempts -= 1);
            }
        }
        match self.world.fail(number, &error) {
            Failed::Nothing | Failed::Dropped | Failed::Again { ends_link: false, .. } => {}
            Failed::Refused(id) => assert!(self.world.posts.end_request(&id).is_some()),
            Failed::NotNow(outbound) => {
                let pause = Duration::from_millis(50);
                let not_now = self.world.posts.not_now(seq, outbound, pause, LIMIT, self.world.moment);
                if let NotNow::TooLate(id) = not_now {
                    assert!(self.world.posts.end_request(&id).is_some());
                }
            }
            Failed::Unclear { id, body, .. } => {
                let repeatable = self.is_repeatable(seq);
                if let Settled::Unknown(id) = self.world.posts.settle(number, seq, id, body, repeatable) {
                    assert!(self.world.posts.end_request(&id).is_some());
                }
            }
            Failed::Again { ends_link: true, .. } => self.relink(),
        }
    }

    /// The link is lost, and there is another: what was open meets its fate, as after a death of the server.
    fn relink(&mut self) {
        self.world.moment.link += 1;
        self.world.posts.link_lost(self.world.moment.link);
        self.world.moment.link += 1;
        self.world.hear();
        self.world.posts.new_link(self.world.moment.link);
        for (id, progress) in self.world.posts.requests().in_order() {
            let request = self.world.posts.requests_mut().get_mut(&id).unwrap();
            let (seq, attempts, cancelled) = (request.seq, request.attempts, request.cancelled.is_some());
            if self.world.posts.is_queued(seq) {
                continue;
            }
            if cancelled {
                self.world.posts.forget_request(&id);
                continue;
            }
            match recovery::fate(progress, self.is_repeatable(seq), attempts) {
                Fate::Forward => {
                    self.world.posts.requests_mut().get_mut(&id).unwrap().progress = Progress::NotSent;
                    self.world.posts.queue(seq, Outbound { body: call(seq), id: Some(id), only_on: None });
                }
                Fate::OutcomeUnknown => assert!(self.world.posts.end_request(&id).is_some()),
            }
        }
    }

    fn check(&self) {
        let posts = &self.world.posts;
        let acked = posts.acked(self.last + 1);
        // Requests stand in the store's request table until they are answered.
        for (seq, _) in posts.to_send.iter().filter(|(_, outbound)| outbound.id.is_none()) {
            assert!(acked < *seq, "REQ-1: the store may forget {seq}, which has not gone up");
        }
        for post in posts.under_way.values() {
            if post.outbound.id.is_none() {
                assert!(acked < post.seq, "REQ-1: the store may forget {}, which is not acknowledged", post.seq);
                assert!(!posts.is_queued(post.seq), "it is in two places");
            }
        }
        for (id, request) in posts.requests.iter() {
            let is_carried = posts.under_way.keys().any(|number| posts.carries(*number, id));
            assert!(!(posts.is_queued(request.seq) && request.progress == Progress::MaybeSent && is_carried));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// REQ-1, REQ-3, REQ-5: whatever becomes of POSTs and links, nothing that must not run twice goes up twice, nothing goes
    /// to a session that it is not for, the store keeps what has not arrived, and with a server that is well everything ends.
    #[test]
    fn every_message_ends_and_none_is_repeated_that_must_not_be(steps in prop::collection::vec(step(), 0..80)) {
        let mut run = Run::new();
        for step in steps {
            match step {
                Step::Take(kind) => run.take(kind),
                Step::Send => if !run.world.posts.next_waits() { run.send(); },
                Step::End(at, end) => {
                    let numbers: Vec<u64> = run.world.posts.under_way.keys().copied().collect();
                    if !numbers.is_empty() {
                        run.end(*at.get(&numbers), end);
                    }
                }
                Step::Cancel(at) => {
                    let open = run.world.posts.requests().in_order();
                    if !open.is_empty() {
                        let (id, _) = at.get(&open);
                        if run.world.posts.cancel(id, run.world.moment.now) == Cancelled::NeverSent {
                            run.world.posts.forget_request(id);
                        }
                    }
                }
                Step::LoseLink => run.relink(),
                Step::Pass(millis) => {
                    run.world.pass(Duration::from_millis(u64::from(millis)));
                    run.world.posts.waited(USUAL, run.world.moment);
                }
            }
            run.check();
        }
        run.world.pass(LIMIT);
        run.relink();
        for _ in 0..2 * run.last {
            if !run.world.posts.next_waits() {
                run.send();
            }
            let numbers: Vec<u64> = run.world.posts.under_way.keys().copied().collect();
            for number in numbers {
                run.end(number, End::Answered);
                run.end(number, End::Acknowledged);
            }
        }
        for (id, _) in run.world.posts.requests().in_order() {
            prop_assert!(run.world.posts.requests().get(&id).is_some_and(|request| request.cancelled.is_some()));
            run.world.posts.forget_request(&id);
        }
        prop_assert!(run.world.posts.are_settled() && run.world.posts.under_way.is_empty());
        prop_assert_eq!(run.world.posts.acked(run.last + 1), run.last, "nothing is left in the inbox");
    }
}
