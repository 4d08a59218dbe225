//! The life of one session as a model, checked in every order in which its steps can happen: accept, forward, append,
//! adopt, pause, resume, crash. REQ-2, REQ-3, EVT-1, OWN-1, OWN-2. Who may adopt it is the model in `model/ownership.rs`.
//!
//! The store's steps are those of the `SessionStore` contract, each atomic. What an owner decides by itself it decides
//! with the functions that the router uses ([`recovery`]). The reply of a store step is handled in the same model step:
//! a crash or a pause between the two differs in nothing from one right after.
//!
//! For each protection there is a model without it, which must break: a check that cannot fail proves nothing.

#![allow(clippy::unwrap_used)]

#[path = "model/ownership.rs"]
mod ownership;

use std::{collections::BTreeSet, fmt::Debug, hash::Hash};

use mcp_router::{
    cluster::lease,
    session::core::recovery::{self, Fate, Progress},
};
use stateright::{Checker, HasDiscoveries, Model, Property};

/// The client's requests, in the order in which it posts them: may it run twice?
const REQUESTS: [bool; 3] = [false, true, false];

const ANSWERED_ONCE: &str = "REQ-2: no request has two answers";
const ANSWERED: &str = "REQ-2: when nothing more happens, every accepted request is answered";
const EXECUTED_ONCE: &str = "REQ-3: what must not be repeated runs at most once";
const TOLD_TRULY: &str = "REQ-3: a request whose result is told has run";
const CONTIGUOUS: &str = "EVT-1: the log has no gap and no double";
const NO_OLD_WRITE: &str = "OWN-1: no write of an older generation takes effect";
const NO_OLD_FORWARD: &str = "OWN-2: an owner that has been replaced forwards nothing";

/// What a sound model comes to: without it, it would prove nothing.
const REACHED: [&str; 3] = [
    "the outcome of a request that ran is told to be unknown",
    "a request that may be repeated runs twice and is answered once",
    "a session is adopted twice",
];

/// How much may happen, and which protections are in place.
#[derive(Debug, Clone)]
struct Session {
    owners: usize,
    requests: usize,
    crashes: u8,
    pauses: u8,
    link_losses: u8,
    /// The store refuses writes of older generations.
    fence: bool,
    /// A request is marked forwarded before it is sent, not after.
    mark_first: bool,
    /// An owner forwards only while its lease holds.
    lease_check: bool,
    /// After a lease that had run out, an owner forwards only when the store has confirmed its ownership.
    confirm: bool,
    /// The adopter takes the session in the same step in which it sees the lease's end.
    adopts_at_once: bool,
}

impl Session {
    /// All protections in place.
    fn sound(owners: usize, requests: usize) -> Self {
        Self {
            owners,
            requests,
            crashes: 1,
            pauses: 1,
            link_losses: 0,
            fence: true,
            mark_first: true,
            lease_check: true,
            confirm: true,
            adopts_at_once: true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    store: Store,
    owners: Vec<Process>,
    /// Requests that the client has posted.
    posted: usize,
    /// How often the upstream has run each request: the side effects.
    runs: Vec<u8>,
    crashes: u8,
    pauses: u8,
    link_losses: u8,
    /// An older generation has written.
    old_write: bool,
    /// An owner that had been replaced has sent something to its upstream.
    old_forward: bool,
}

/// What the store has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Store {
    owner: usize,
    generation: u8,
    /// Requests without an answer: marked forwarded?
    pending: Vec<Option<bool>>,
    /// Requests of the inbox that no owner has claimed.
    inbox: BTreeSet<usize>,
    log: Vec<Event>,
    last_seq: u8,
    /// Whose lease lives.
    leases: Vec<bool>,
}

/// An answer in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Event {
    seq: u8,
    request: usize,
    is_result: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Life {
    Running,
    Paused,
    Dead,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Process {
    life: Life,
    /// Its own clock: moves on when its lease runs out.
    clock: u64,
    lease: lease::Lease,
    owns: Option<Owning>,
    /// It has seen that the lease of this generation's owner is over.
    saw_gone: Option<u8>,
}

/// What an instance believes that owns the session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Owning {
    generation: u8,
    /// When the store has last confirmed it, on the process's own clock.
    confirmed: u64,
    link_open: bool,
    open: Vec<Option<Open>>,
    to_send: BTreeSet<usize>,
    /// Requests to be answered "outcome unknown".
    unknown: BTreeSet<usize>,
    /// Sent, and not yet marked (only without `mark_first`).
    unmarked: BTreeSet<usize>,
}

/// A request that an owner has in its hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Open {
    progress: Progress,
    attempts: u32,
    /// The living link's upstream session works on it.
    running: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// The client posts its next request at this instance.
    Accept(usize),
    /// The owner takes what waits in the inbox.
    Claim(usize),
    /// The owner sends its next request to the upstream, which runs it.
    Forward(usize),
    /// The owner marks forwarded what it has sent (only without `mark_first`).
    MarkLate(usize),
    /// The upstream's result arrives and is appended.
    AppendResult(usize, usize),
    /// "Outcome unknown" is appended.
    AppendUnknown(usize, usize),
    /// This instance sees that the owner's lease is over (only without `adopts_at_once`).
    SeeGone(usize),
    /// This instance takes the session over.
    Adopt(usize),
    /// The owner has a new link: it marks and sorts what was open.
    Recover(usize),
    /// The owner's upstream session ends, and its endpoint lives or has a substitute.
    LoseLink(usize),
    /// The owner asks the store whether it still is.
    Confirm(usize),
    /// The lease runs out by the instance's own clock.
    LeaseEndsHere(usize),
    /// The lease runs out in the store: never before the instance's own clock says so.
    LeaseEnds(usize),
    Renew(usize),
    Crash(usize),
    Pause(usize),
    Resume(usize),
}

impl Action {
    /// Something that goes wrong, or (a resumption) that need never happen.
    fn is_optional(self) -> bool {
        matches!(self, Self::Crash(_) | Self::Pause(_) | Self::Resume(_) | Self::LoseLink(_))
    }
}

impl Process {
    fn idle(lease: bool) -> Self {
        Self {
            life: Life::Running,
            clock: 1,
            lease: lease::Lease { since: 0, until: if lease { 2 } else { 0 } },
            owns: None,
            saw_gone: None,
        }
    }

    fn lease_holds(&self) -> bool {
        self.clock < self.lease.until
    }
}

impl Owning {
    fn new(generation: u8, confirmed: u64, requests: usize) -> Self {
        Self {
            generation,
            confirmed,
            link_open: true,
            open: vec![None; requests],
            to_send: BTreeSet::new(),
            unknown: BTreeSet::new(),
            unmarked: BTreeSet::new(),
        }
    }

    fn take(&mut self, request: usize) {
        self.open[request] = Some(Open { progress: Progress::NotSent, attempts: 0, running: false });
        self.to_send.insert(request);
    }
}

impl State {
    /// What every write of an owner goes through. `None`: refused; the instance gives the session up (OWN-3).
    fn write_as(&mut self, model: &Session, who: usize) -> Option<()> {
        let process = &mut self.owners[who];
        let owning = process.owns.as_mut().unwrap();
        let is_old = owning.generation != self.store.generation;
        if is_old && model.fence {
            process.owns = None;
            return None;
        }
        self.old_write |= is_old;
        owning.confirmed = process.clock;
        Some(())
    }

    fn append(&mut self, who: usize, request: usize, is_result: bool) {
        let owning = self.owners[who].owns.as_mut().unwrap();
        owning.open[request] = None;
        owning.unknown.remove(&request);
        owning.unmarked.remove(&request);
        if self.store.pending[request].take().is_some() {
            self.store.inbox.remove(&request);
            self.store.last_seq += 1;
            self.store.log.push(Event { seq: self.store.last_seq, request, is_result });
        }
    }

    fn recover(&mut self, model: &Session, who: usize) {
        let process = &mut self.owners[who];
        let owning = process.owns.as_mut().unwrap();
        owning.link_open = true;
        for (request, &repeatable) in REQUESTS.iter().enumerate().take(model.requests) {
            let Some(open) = &mut owning.open[request] else { continue };
            if owning.to_send.contains(&request) || owning.unknown.contains(&request) {
                continue;
            }
            if open.progress == Progress::Accepted && model.mark_first {
                self.store.pending[request] = self.store.pending[request].map(|_| true);
            }
            match recovery::fate(open.progress, repeatable, open.attempts) {
                Fate::Forward => {
                    open.progress = Progress::NotSent;
                    owning.to_send.insert(request);
                }
                Fate::OutcomeUnknown => {
                    owning.unknown.insert(request);
                }
            }
        }
    }

    fn adopt(&mut self, model: &Session, who: usize) {
        self.store.owner = who;
        self.store.generation += 1;
        self.store.inbox.clear();
        let process = &mut self.owners[who];
        process.saw_gone = None;
        let mut owning = Owning::new(self.store.generation, process.clock, model.requests);
        owning.link_open = false;
        for (request, pending) in self.store.pending.iter().enumerate() {
            owning.open[request] = pending.map(|forwarded| Open {
                progress: Progress::on_record(forwarded),
                attempts: u32::from(forwarded),
                running: false,
            });
        }
        process.owns = Some(owning);
    }

    fn forward(&mut self, model: &Session, who: usize) {
        let owning = self.owners[who].owns.as_mut().unwrap();
        let request = owning.to_send.pop_first().unwrap();
        let open = owning.open[request].as_mut().unwrap();
        *open = Open { progress: Progress::MaybeSent, attempts: open.attempts + 1, running: true };
        if !model.mark_first {
            owning.unmarked.insert(request);
        }
        self.old_forward |= owning.generation != self.store.generation;
        self.runs[request] += 1;
    }

    fn accept(&mut self, model: &Session, who: usize) {
        let request = self.posted;
        if self.owners[who].owns.is_some() && self.write_as(model, who).is_none() {
            // Not written: the client's POST is taken again, now by the way of those who are not the owner.
            return;
        }
        self.posted += 1;
        let everything_claimed = self.store.inbox.is_empty();
        match &mut self.owners[who].owns {
            Some(owning) if owning.link_open && everything_claimed => {
                self.store.pending[request] = Some(model.mark_first);
                owning.take(request);
            }
            _ => {
                self.store.pending[request] = Some(false);
                self.store.inbox.insert(request);
            }
        }
    }

    fn claim(&mut self, model: &Session, who: usize) {
        if self.write_as(model, who).is_none() {
            return;
        }
        for request in std::mem::take(&mut self.store.inbox) {
            if model.mark_first {
                self.store.pending[request] = Some(true);
            }
            self.owners[who].owns.as_mut().unwrap().take(request);
        }
    }

    /// The owner's process is dead, or its lease is over.
    fn owner_is_gone(&self) -> bool {
        self.owners[self.store.owner].life == Life::Dead || !self.store.leases[self.store.owner]
    }
}

impl Model for Session {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut owners = vec![Process::idle(true); self.owners];
        owners[0].owns = Some(Owning::new(1, 1, self.requests));
        let store = Store {
            owner: 0,
            generation: 1,
            pending: vec![None; self.requests],
            inbox: BTreeSet::new(),
            log: Vec::new(),
            last_seq: 0,
            leases: vec![true; self.owners],
        };
        vec![State {
            store,
            owners,
            posted: 0,
            runs: vec![0; self.requests],
            crashes: 0,
            pauses: 0,
            link_losses: 0,
            old_write: false,
            old_forward: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (who, process) in state.owners.iter().enumerate() {
            match process.life {
                Life::Dead => continue,
                Life::Paused => {
                    actions.push(Action::Resume(who));
                    if process.lease_holds() {
                        actions.push(Action::LeaseEndsHere(who));
                    } else if state.store.leases[who] {
                        actions.push(Action::LeaseEnds(who));
                    }
                    continue;
                }
                Life::Running => {}
            }
            if state.posted < self.requests {
                actions.push(Action::Accept(who));
            }
            if !process.lease_holds() {
                actions.push(Action::Renew(who));
            }
            if usize::from(state.crashes) < usize::from(self.crashes).min(self.owners - 1) {
                actions.push(Action::Crash(who));
            }
            if state.pauses < self.pauses {
                actions.push(Action::Pause(who));
            }
            let Some(owning) = &process.owns else {
                let may_judge = process.lease_holds() && state.store.owner != who;
                if self.adopts_at_once {
                    if may_judge && state.owner_is_gone() {
                        actions.push(Action::Adopt(who));
                    }
                } else if process.saw_gone == Some(state.store.generation) {
                    actions.push(Action::Adopt(who));
                } else if may_judge && state.owner_is_gone() {
                    actions.push(Action::SeeGone(who));
                }
                continue;
            };
            let is_confirmed = !self.confirm || owning.confirmed > process.lease.since;
            if !owning.link_open {
                actions.push(Action::Recover(who));
            } else if !state.store.inbox.is_empty() {
                actions.push(Action::Claim(who));
            }
            if !is_confirmed || owning.generation != state.store.generation {
                actions.push(Action::Confirm(who));
            }
            let confirmed = if self.confirm { owning.confirmed } else { process.clock };
            let may_forward = !self.lease_check || lease::may_forward(process.clock, process.lease, confirmed);
            if owning.link_open && may_forward && !owning.to_send.is_empty() {
                actions.push(Action::Forward(who));
            }
            if !owning.unmarked.is_empty() {
                actions.push(Action::MarkLate(who));
            }
            for (request, open) in owning.open.iter().enumerate() {
                if owning.unknown.contains(&request) {
                    actions.push(Action::AppendUnknown(who, request));
                } else if open.is_some_and(|open| open.running) {
                    actions.push(Action::AppendResult(who, request));
                }
            }
            if owning.link_open && state.link_losses < self.link_losses {
                actions.push(Action::LoseLink(who));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Accept(who) => state.accept(self, who),
            Action::Claim(who) => state.claim(self, who),
            Action::Forward(who) => state.forward(self, who),
            Action::MarkLate(who) => {
                if state.write_as(self, who).is_some() {
                    let unmarked = std::mem::take(&mut state.owners[who].owns.as_mut().unwrap().unmarked);
                    for request in unmarked {
                        state.store.pending[request] = state.store.pending[request].map(|_| true);
                    }
                }
            }
            Action::AppendResult(who, request) | Action::AppendUnknown(who, request) => {
                if state.write_as(self, who).is_some() {
                    state.append(who, request, matches!(action, Action::AppendResult(..)));
                }
            }
            Action::SeeGone(who) => state.owners[who].saw_gone = Some(state.store.generation),
            Action::Adopt(who) => state.adopt(self, who),
            Action::Recover(who) => {
                if state.write_as(self, who).is_some() {
                    state.recover(self, who);
                }
            }
            Action::LoseLink(who) => {
                state.link_losses += 1;
                let owning = state.owners[who].owns.as_mut().unwrap();
                owning.link_open = false;
                owning.open.iter_mut().flatten().for_each(|open| open.running = false);
            }
            Action::Confirm(who) => {
                state.write_as(self, who);
            }
            Action::LeaseEndsHere(who) => state.owners[who].clock += 1,
            Action::LeaseEnds(who) => state.store.leases[who] = false,
            Action::Renew(who) => {
                let process = &mut state.owners[who];
                let since = process.clock;
                process.clock += 1;
                process.lease = lease::Lease { since, until: process.clock + 1 };
                state.store.leases[who] = true;
            }
            Action::Crash(who) => {
                state.crashes += 1;
                state.owners[who] = Process { life: Life::Dead, ..Process::idle(false) };
                state.store.leases[who] = false;
            }
            Action::Pause(who) => {
                state.pauses += 1;
                state.owners[who].life = Life::Paused;
            }
            Action::Resume(who) => state.owners[who].life = Life::Running,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ANSWERED_ONCE, |_, state: &State| {
                let answered: BTreeSet<usize> = state.store.log.iter().map(|event| event.request).collect();
                answered.len() == state.store.log.len()
            }),
            Property::always(ANSWERED, |model: &Self, state: &State| {
                let someone_runs = state.owners.iter().any(|process| process.life == Life::Running);
                let all_answered = state.store.log.len() == state.posted;
                if all_answered || !someone_runs {
                    return true;
                }
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.into_iter().all(Action::is_optional)
            }),
            Property::always(EXECUTED_ONCE, |_, state: &State| {
                state.runs.iter().zip(REQUESTS).all(|(runs, repeatable)| repeatable || *runs <= 1)
            }),
            Property::always(TOLD_TRULY, |_, state: &State| {
                state.store.log.iter().all(|event| !event.is_result || state.runs[event.request] > 0)
            }),
            Property::always(CONTIGUOUS, |_, state: &State| {
                (1..).zip(&state.store.log).all(|(expected, event)| event.seq == expected)
            }),
            Property::always(NO_OLD_WRITE, |_, state: &State| !state.old_write),
            Property::always(NO_OLD_FORWARD, |_, state: &State| !state.old_forward),
            Property::sometimes(REACHED[0], |_, state: &State| {
                state.store.log.iter().any(|event| !event.is_result && state.runs[event.request] == 1)
            }),
            Property::sometimes(REACHED[1], |_, state: &State| {
                state.store.log.iter().any(|event| event.is_result && state.runs[event.request] == 2)
            }),
            Property::sometimes(REACHED[2], |_, state: &State| state.store.generation == 3),
        ]
    }
}

/// Names of the properties that do not hold, and of what was reached.
fn discovered<M>(name: &str, model: M, until: HasDiscoveries) -> BTreeSet<&'static str>
where
    M: Model<Action: Clone + Debug + PartialEq, State: Clone + Debug + Hash + PartialEq + Send + Sync>
        + Send
        + Sync
        + 'static,
{
    let started = std::time::Instant::now();
    let checked = model.checker().threads(2).finish_when(until).spawn_bfs().join();
    println!(
        "{name}: {} states, {} of them distinct, depth {}, {:.1?}",
        checked.state_count(),
        checked.unique_state_count(),
        checked.max_depth(),
        started.elapsed()
    );
    let discoveries = checked.discoveries();
    for (property, path) in &discoveries {
        println!("  {property}: {:?}", path.clone().into_actions());
    }
    discoveries.into_keys().collect()
}

/// Nothing is broken, and all that is to be `reached` is.
fn assert_sound<M>(name: &str, model: M, reached: BTreeSet<&'static str>)
where
    M: Model<Action: Clone + Debug + PartialEq, State: Clone + Debug + Hash + PartialEq + Send + Sync>
        + Send
        + Sync
        + 'static,
{
    let found = discovered(name, model, HasDiscoveries::AnyFailures);
    assert_eq!(found, reached, "{name}: nothing is broken, and everything is reached");
}

fn assert_breaks<M>(name: &str, model: M, property: &'static str)
where
    M: Model<Action: Clone + Debug + PartialEq, State: Clone + Debug + Hash + PartialEq + Send + Sync>
        + Send
        + Sync
        + 'static,
{
    let broken = discovered(name, model, HasDiscoveries::AllOf(BTreeSet::from([property])));
    assert!(broken.contains(property), "{name}: the model cannot see the fault");
}

/// REQ-2, REQ-3, EVT-1, OWN-1, OWN-2: two instances, and everything that may go wrong.
#[test]
fn two_owners_keep_every_promise() {
    let model = Session { pauses: 2, link_losses: 1, ..Session::sound(2, 2) };
    assert_sound("2 owners, 2 requests, 1 crash, 2 pauses, 1 lost link", model, BTreeSet::from(REACHED));
}

/// REQ-2, REQ-3, EVT-1, OWN-1, OWN-2: an adopter may die or hang too.
#[test]
fn three_owners_keep_every_promise() {
    let model = Session { link_losses: 1, ..Session::sound(3, 3) };
    assert_sound("3 owners, 3 requests, 1 crash, 1 pause, 1 lost link", model, BTreeSet::from(REACHED));
}

/// REQ-2, REQ-3: two deaths, one after the other or at once.
#[test]
fn two_crashes_of_three_owners_break_nothing() {
    let model = Session { crashes: 2, pauses: 0, ..Session::sound(3, 3) };
    assert_sound("3 owners, 3 requests, 2 crashes", model, BTreeSet::from(REACHED));
}

/// OWN-1, negative control.
#[test]
fn without_the_fence_an_old_generation_writes() {
    assert_breaks("no fence", Session { fence: false, ..Session::sound(2, 1) }, NO_OLD_WRITE);
}

/// REQ-3, negative control.
#[test]
fn marked_after_it_was_sent_a_request_runs_twice() {
    assert_breaks("marked late", Session { mark_first: false, ..Session::sound(2, 1) }, EXECUTED_ONCE);
}

/// OWN-2, negative control.
#[test]
fn without_the_lease_check_a_replaced_owner_forwards() {
    assert_breaks("no lease check", Session { lease_check: false, ..Session::sound(2, 1) }, NO_OLD_FORWARD);
}

/// OWN-2, negative control: a lease that holds again is no proof that nobody has adopted the session meanwhile.
#[test]
fn a_renewed_lease_alone_lets_a_replaced_owner_forward() {
    assert_breaks("no confirmation", Session { confirm: false, ..Session::sound(2, 1) }, NO_OLD_FORWARD);
}

/// What is not guaranteed, and what holds all the same: an adopter sees the end of a lease and takes the session a moment
/// later. An owner that comes back in this very moment may forward once more. It marked the request forwarded before, so
/// that the adopter does not: REQ-3 does not hang on the lease.
#[test]
fn without_any_lease_nothing_runs_twice() {
    let late = Session { adopts_at_once: false, ..Session::sound(2, 1) };
    assert_breaks("adopts late", late, NO_OLD_FORWARD);
    let all = [ANSWERED_ONCE, ANSWERED, EXECUTED_ONCE, TOLD_TRULY, CONTIGUOUS, NO_OLD_WRITE];
    for (name, model) in [
        ("adopts late, 2 requests", Session { adopts_at_once: false, ..Session::sound(2, 2) }),
        ("no lease check, 2 requests", Session { lease_check: false, ..Session::sound(2, 2) }),
    ] {
        let broken = discovered(name, model, HasDiscoveries::AnyOf(BTreeSet::from(all)));
        assert_eq!(broken.into_iter().filter(|property| all.contains(property)).count(), 0);
    }
}
