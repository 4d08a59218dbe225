//! Who owns the session, in every order of events: subscriptions that are lost while their process lives, owners that die,
//! hang or leave, a store that comes back without its leases, answers of the store that are lost. OWN-4, OWN-9
//!
//! What an owner does with a message is the other model's; here it has *had* it. The steps are those of
//! `cluster/look_after`, `cluster/sweep` and the operation `adopt`, which is two: a look at the owner's lease, and the
//! compare-and-set. Each is atomic; what a process has read it may act on much later. Who is gone is decided by the function that the router uses ([`verdict`]).

use std::collections::BTreeSet;

use mcp_router::cluster::ownership::{Evidence, LeaseSeen, Proof, Verdict, verdict};
use stateright::{Model, Property};

use super::{assert_breaks, assert_sound};

const LIVING_STAYS: &str =
    "OWN-4: an owner that lives, and had its lease when that was looked at last, is not replaced";
const ALL_HAD: &str = "OWN-9: when nothing more happens, the owner has had every message";

const REACHED: [&str; 4] = [
    "a message that nobody heard of is had by the owner that was deaf",
    "a dead owner is replaced before its lease is over",
    "an owner on record adopts from itself",
    "a session is adopted twice",
];

/// How much may happen, and which protections are in place.
#[derive(Debug, Clone)]
pub struct Ownership {
    processes: usize,
    messages: u8,
    crashes: u8,
    pauses: u8,
    /// An owner lets its session go and ends.
    leaves: u8,
    /// A subscription is cut.
    cuts: u8,
    /// All leases are lost, and with them all subscriptions: the store was away.
    lost_leases: u8,
    /// The answer to an adoption is lost, or an actor breaks.
    lost_actors: u8,
    /// The processes see each other's death.
    proof: bool,
    /// A missing listener is only a suspicion.
    judge: bool,
    /// An adopter looks at the lease just before the compare-and-set.
    lease_in_adopt: bool,
    /// Who is replaced is woken.
    tells_the_former: bool,
    /// A missing lease means something only to one whose own has held for a while.
    steady: bool,
    /// The owner on record without an actor adopts again.
    adopts_from_itself: bool,
}

impl Ownership {
    /// All protections in place, and no faults.
    fn sound(processes: usize, messages: u8) -> Self {
        Self {
            processes,
            messages,
            crashes: 0,
            pauses: 0,
            leaves: 0,
            cuts: 0,
            lost_leases: 0,
            lost_actors: 0,
            proof: true,
            judge: true,
            lease_in_adopt: true,
            tells_the_former: true,
            steady: true,
            adopts_from_itself: true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// What the store has of the session. `None`: released.
    owner: Option<usize>,
    generation: u8,
    posted: u8,
    had: u8,
    processes: Vec<Process>,
    /// The process that shows the client's stream.
    shown: usize,
    crashes: u8,
    pauses: u8,
    leaves: u8,
    cuts: u8,
    lost_leases: u8,
    lost_actors: u8,
    replaced_living: bool,
    reached: BTreeSet<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Life {
    Running,
    Paused,
    Dead,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Process {
    life: Life,
    /// Its lease, in the store.
    lease: bool,
    /// The lease has run out while it hung, and was not renewed since.
    lapsed: bool,
    /// It has renewed its lease for long enough without a gap to judge others by theirs.
    steady: bool,
    hears: bool,
    /// Generation that its actor of the session believes in.
    actor: Option<u8>,
    /// The actor is to look at the store.
    awake: bool,
    /// It looks after the session.
    suspects: bool,
    /// It has found this owner of this generation gone.
    judged: Option<(Option<usize>, u8)>,
    /// It has looked at the lease of that owner, which had none; whether that owner had hung past it.
    looked: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A message is journaled by this process, and the owner is woken.
    Post(usize),
    /// The actor takes what waits in the store.
    Claim(usize),
    /// The process looks after the session: wakes the owner, or judges it.
    Look(usize),
    /// It has seen that the owner's lease is missing, and that something waits.
    Sweep(usize),
    /// It finds that it is the owner on record, without an actor.
    FindOwn(usize),
    Adopt(usize),
    /// It looks at the owner's lease before that.
    LookAtLease(usize),
    /// The store adopts, and the adopter does not get the answer.
    AdoptUnheard(usize),
    Subscribe(usize),
    Renew(usize),
    BecomeSteady(usize),
    /// The lease of a dead or hung process runs out.
    LeaseEnds(usize),
    /// The client has lost its stream, and opens it here.
    ComeBack(usize),
    Cut(usize),
    LoseLeases,
    BreakActor(usize),
    Crash(usize),
    Pause(usize),
    Resume(usize),
    Leave(usize),
}

impl Action {
    /// Something that goes wrong, or need never happen.
    fn is_optional(self) -> bool {
        matches!(
            self,
            Self::AdoptUnheard(_)
                | Self::Cut(_)
                | Self::LoseLeases
                | Self::BreakActor(_)
                | Self::Crash(_)
                | Self::Pause(_)
                | Self::Resume(_)
                | Self::Leave(_)
        )
    }
}

impl State {
    /// Whether anybody listened.
    fn wake(&mut self, owner: usize) -> bool {
        let owner = &mut self.processes[owner];
        let hears = owner.hears && owner.life != Life::Dead;
        // It can do something only with an actor.
        owner.awake |= hears && owner.actor.is_some();
        // Without one it looks after the session, if it runs.
        owner.suspects |= hears && owner.actor.is_none();
        hears
    }

    fn post(&mut self, who: usize) {
        self.posted += 1;
        self.knock(who);
    }

    /// Something of the client has come to this process: the owner is to look.
    fn knock(&mut self, who: usize) {
        let is_mine = self.owner == Some(who) && self.processes[who].actor.is_some();
        let is_woken = self.owner.is_some_and(|owner| owner != who && self.wake(owner));
        self.processes[who].awake |= is_mine;
        self.processes[who].suspects |= !is_mine && !is_woken;
    }

    fn is_gone(&self, model: &Ownership, who: usize, owner: usize) -> bool {
        if !model.judge {
            return true;
        }
        let (me, other) = (&self.processes[who], &self.processes[owner]);
        let lease = if other.lease { LeaseSeen::Its } else { LeaseSeen::Missing };
        let proof = (model.proof && other.life == Life::Dead).then_some(Proof::Ended);
        let may_judge = me.lease && (me.steady || !model.steady);
        verdict(Evidence::Other { lease, proof, may_judge }) == Verdict::Gone
    }

    /// What [`Action::Look`] comes to; `None`: nothing yet.
    fn look(&self, model: &Ownership, who: usize) -> Option<Self> {
        let mut state = self.clone();
        if state.processes[who].actor.is_some() {
            state.processes[who].awake = true;
            state.processes[who].suspects = false;
            return Some(state);
        }
        let judged = (state.owner, state.generation);
        match state.owner {
            // It is alive: it is me.
            Some(owner) if owner == who && !model.adopts_from_itself => state.processes[who].suspects = false,
            Some(owner) if owner != who => {
                if state.wake(owner) {
                    state.processes[who].suspects = false;
                } else if state.is_gone(model, who, owner) {
                    if model.judge && state.processes[owner].life == Life::Dead && state.processes[owner].lease {
                        state.processes[owner].lease = false;
                        state.reached.insert(1);
                    }
                    (state.processes[who].judged, state.processes[who].looked) = (Some(judged), None);
                } else {
                    return None;
                }
            }
            _ => (state.processes[who].judged, state.processes[who].looked) = (Some(judged), None),
        }
        Some(state)
    }

    fn look_at_lease(&mut self, model: &Ownership, who: usize) {
        let Some((from, _)) = self.processes[who].judged else { return };
        let another = from.filter(|from| *from != who).map(|from| &self.processes[from]);
        let lives = model.lease_in_adopt && another.is_some_and(|from| from.lease);
        let looked = another.is_some_and(|from| from.lapsed);
        let process = &mut self.processes[who];
        (process.judged, process.looked) = if lives { (None, None) } else { (process.judged, Some(looked)) };
    }

    fn adopt(&mut self, model: &Ownership, who: usize, is_heard: bool) {
        let had_lapsed = self.processes[who].looked.take();
        let Some((from, generation)) = self.processes[who].judged.take() else { return };
        if self.owner != from || self.generation != generation {
            return;
        }
        if let Some(from) = from.filter(|from| *from != who) {
            self.replaced_living |= self.processes[from].life != Life::Dead && had_lapsed == Some(false);
        } else if from.is_some() {
            self.reached.insert(2);
        }
        if let Some(from) = from.filter(|from| *from != who && model.tells_the_former) {
            self.wake(from);
        }
        self.owner = Some(who);
        self.generation += 1;
        if self.generation == 3 {
            self.reached.insert(3);
        }
        // The whole inbox is handed over; an adopter that does not get it gets it when it adopts again.
        self.processes[who].suspects = true;
        if is_heard {
            self.had = self.posted;
            self.processes[who].actor = Some(self.generation);
        }
    }

    fn claim(&mut self, who: usize) {
        let process = &mut self.processes[who];
        process.awake = false;
        if process.actor == Some(self.generation) && self.owner == Some(who) {
            self.had = self.posted;
        } else {
            // Fenced (OWN-3). Who has the session may have let it go by now.
            process.actor = None;
            process.suspects |= self.shown == who || self.had < self.posted;
        }
    }

    fn end(&mut self, who: usize) {
        let lease = self.processes[who].lease;
        self.processes[who] = Process {
            life: Life::Dead,
            lease,
            lapsed: false,
            steady: false,
            hears: false,
            actor: None,
            awake: false,
            suspects: false,
            judged: None,
            looked: None,
        };
    }
}

impl Model for Ownership {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let process = Process {
            life: Life::Running,
            lease: true,
            lapsed: false,
            steady: true,
            hears: true,
            actor: None,
            awake: false,
            suspects: false,
            judged: None,
            looked: None,
        };
        let mut processes = vec![process; self.processes];
        processes[0].actor = Some(1);
        vec![State {
            owner: Some(0),
            generation: 1,
            posted: 0,
            had: 0,
            processes,
            shown: 0,
            crashes: 0,
            pauses: 0,
            leaves: 0,
            cuts: 0,
            lost_leases: 0,
            lost_actors: 0,
            replaced_living: false,
            reached: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let running = state.processes.iter().filter(|process| process.life == Life::Running).count();
        for (who, process) in state.processes.iter().enumerate() {
            match process.life {
                Life::Dead => {
                    if process.lease {
                        actions.push(Action::LeaseEnds(who));
                    }
                    continue;
                }
                Life::Paused => {
                    actions.push(Action::Resume(who));
                    if process.lease {
                        actions.push(Action::LeaseEnds(who));
                    }
                    continue;
                }
                Life::Running => {}
            }
            if state.posted < self.messages {
                actions.push(Action::Post(who));
            }
            if state.processes[state.shown].life != Life::Running {
                actions.push(Action::ComeBack(who));
            }
            if process.actor.is_some() && process.awake {
                actions.push(Action::Claim(who));
            }
            if process.suspects && process.judged.is_none() && state.look(self, who).is_some() {
                actions.push(Action::Look(who));
            }
            let is_idle = process.actor.is_none() && process.judged.is_none();
            let waits = state.had < state.posted;
            if let Some(owner) = state.owner.filter(|owner| *owner != who)
                && is_idle
                && waits
                && !state.processes[owner].lease
                && state.is_gone(self, who, owner)
            {
                actions.push(Action::Sweep(who));
            }
            if self.adopts_from_itself && state.owner == Some(who) && is_idle && !process.suspects {
                actions.push(Action::FindOwn(who));
            }
            if process.judged.is_some() && process.looked.is_none() {
                actions.push(Action::LookAtLease(who));
            }
            if process.looked.is_some() {
                actions.push(Action::Adopt(who));
                if state.lost_actors < self.lost_actors {
                    actions.push(Action::AdoptUnheard(who));
                }
            }
            if !process.hears {
                actions.push(Action::Subscribe(who));
            }
            if !process.lease {
                actions.push(Action::Renew(who));
            }
            // A lease's time is enough for everybody that runs to renew its own.
            let all_have_renewed = state.processes.iter().all(|process| process.life != Life::Running || process.lease);
            if !process.steady && process.lease && all_have_renewed {
                actions.push(Action::BecomeSteady(who));
            }
            if process.hears && state.cuts < self.cuts {
                actions.push(Action::Cut(who));
            }
            if process.actor == Some(state.generation) && state.lost_actors < self.lost_actors {
                actions.push(Action::BreakActor(who));
            }
            if running > 1 && state.crashes < self.crashes {
                actions.push(Action::Crash(who));
            }
            if running > 1 && state.pauses < self.pauses {
                actions.push(Action::Pause(who));
            }
            if running > 1 && state.owner == Some(who) && process.actor.is_some() && state.leaves < self.leaves {
                actions.push(Action::Leave(who));
            }
        }
        if state.lost_leases < self.lost_leases {
            actions.push(Action::LoseLeases);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Post(who) => state.post(who),
            Action::Claim(who) => {
                let was_behind = state.had < state.posted;
                state.claim(who);
                if was_behind && state.cuts > 0 && state.generation == 1 && state.had == state.posted {
                    state.reached.insert(0);
                }
            }
            Action::Look(who) => return state.look(self, who),
            Action::Sweep(who) => state.processes[who].judged = Some((state.owner, state.generation)),
            Action::FindOwn(who) => state.processes[who].suspects = true,
            Action::LookAtLease(who) => state.look_at_lease(self, who),
            Action::Adopt(who) => state.adopt(self, who, true),
            Action::AdoptUnheard(who) => {
                state.lost_actors += 1;
                state.adopt(self, who, false);
            }
            Action::Subscribe(who) => {
                let process = &mut state.processes[who];
                process.hears = true;
                // It looks at everything.
                process.awake |= process.actor.is_some();
            }
            Action::ComeBack(who) => {
                state.shown = who;
                state.knock(who);
            }
            Action::Renew(who) => {
                let process = &mut state.processes[who];
                (process.lease, process.lapsed, process.steady) = (true, false, false);
                process.awake |= process.actor.is_some();
            }
            Action::BecomeSteady(who) => {
                state.processes[who].steady = true;
                // So long has passed that who hangs without a lease has hung past it.
                for process in &mut state.processes {
                    process.lapsed |= process.life == Life::Paused && !process.lease;
                }
            }
            Action::LeaseEnds(who) => {
                state.processes[who].lease = false;
                state.processes[who].lapsed = true;
            }
            Action::Cut(who) => {
                state.cuts += 1;
                state.processes[who].hears = false;
            }
            Action::LoseLeases => {
                state.lost_leases += 1;
                for process in &mut state.processes {
                    (process.lease, process.steady, process.hears) = (false, false, false);
                    // The store was away for longer than a judgement counts.
                    (process.judged, process.looked) = (None, None);
                }
            }
            Action::BreakActor(who) => {
                state.lost_actors += 1;
                state.processes[who].actor = None;
                state.processes[who].awake = false;
            }
            Action::Crash(who) => {
                state.crashes += 1;
                state.end(who);
            }
            Action::Pause(who) => {
                state.pauses += 1;
                state.processes[who].life = Life::Paused;
            }
            Action::Resume(who) => state.processes[who].life = Life::Running,
            Action::Leave(who) => {
                state.leaves += 1;
                // Fenced if it is not the owner any more.
                if state.processes[who].actor == Some(state.generation) {
                    state.owner = None;
                }
                state.end(who);
                state.processes[who].lease = false;
                // Who shows the stream is told that the session has no owner.
                state.processes[state.shown].suspects |= state.shown != who;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(LIVING_STAYS, |_, state: &State| !state.replaced_living),
            Property::always(ALL_HAD, |model: &Self, state: &State| {
                let someone_runs = state.processes.iter().any(|process| process.life == Life::Running);
                if state.had == state.posted || !someone_runs {
                    return true;
                }
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.into_iter().all(Action::is_optional)
            }),
            Property::sometimes(REACHED[0], |_, state: &State| state.reached.contains(&0)),
            Property::sometimes(REACHED[1], |_, state: &State| state.reached.contains(&1)),
            Property::sometimes(REACHED[2], |_, state: &State| state.reached.contains(&2)),
            Property::sometimes(REACHED[3], |_, state: &State| state.reached.contains(&3)),
        ]
    }
}

fn sound(name: &str, model: Ownership, reached: &[usize]) {
    assert_sound(name, model, reached.iter().map(|index| REACHED[*index]).collect());
}

/// OWN-4, OWN-9: subscriptions are lost, owners die and are seen to be dead, actors and answers are lost.
#[test]
fn no_living_owner_is_replaced_and_every_message_is_had() {
    let model = Ownership { crashes: 1, cuts: 2, lost_actors: 1, ..Ownership::sound(3, 2) };
    sound("3 processes, 2 messages, 1 crash, 2 cuts, 1 lost actor", model, &[0, 1, 2, 3]);
}

/// OWN-4, OWN-9: the same where nobody sees another's death, with an owner that hangs past its lease.
#[test]
fn without_a_proof_the_lease_is_enough() {
    let model = Ownership { crashes: 1, pauses: 1, cuts: 1, lost_actors: 1, proof: false, ..Ownership::sound(2, 2) };
    sound("2 processes, no proof, 1 crash, 1 pause, 1 cut, 1 lost actor", model, &[0, 2, 3]);
}

/// OWN-4, DUR-1: the store was away, and no lease is left; an owner leaves, another hangs.
#[test]
fn a_store_that_comes_back_without_leases_replaces_nobody() {
    let model = Ownership { lost_leases: 1, pauses: 1, leaves: 1, lost_actors: 1, ..Ownership::sound(2, 1) };
    sound("2 processes, lost leases, 1 pause, 1 leaves, 1 lost actor", model, &[2, 3]);
    let model = Ownership { lost_leases: 1, pauses: 1, leaves: 1, ..Ownership::sound(3, 1) };
    sound("3 processes, lost leases, 1 pause, 1 leaves", model, &[3]);
}

/// OWN-4, negative control: a missing listener is taken for death, as it was once.
#[test]
fn without_the_judge_a_living_owner_is_replaced() {
    let model = Ownership { cuts: 1, judge: false, lease_in_adopt: false, ..Ownership::sound(2, 1) };
    assert_breaks("no judge", model, LIVING_STAYS);
}

/// OWN-4, negative control: what was judged may have changed when the session is adopted.
#[test]
fn without_the_lease_in_the_adoption_an_owner_that_came_back_is_replaced() {
    let model = Ownership { pauses: 1, lease_in_adopt: false, ..Ownership::sound(2, 1) };
    assert_breaks("no lease in adopt", model, LIVING_STAYS);
}

/// OWN-4, negative control: a process that has just got its own lease back takes the missing one of another for its death.
#[test]
fn who_judges_at_once_replaces_a_living_owner() {
    let model = Ownership { lost_leases: 1, steady: false, ..Ownership::sound(2, 1) };
    assert_breaks("judges at once", model, LIVING_STAYS);
}

/// OWN-9, negative control: an owner that had its lease back between the look and the compare-and-set does not know that it was
/// replaced, and does not look after the session when its successor dies.
#[test]
fn without_a_word_to_who_is_replaced_a_session_is_orphaned() {
    let model = Ownership { crashes: 1, pauses: 1, proof: false, tells_the_former: false, ..Ownership::sound(2, 2) };
    assert_breaks("who is replaced is not told", model, ALL_HAD);
}

/// OWN-9, negative control: the owner on record takes itself for alive, and everybody else does, too.
#[test]
fn without_adopting_from_itself_a_session_is_orphaned() {
    let model = Ownership { crashes: 1, lost_actors: 1, adopts_from_itself: false, ..Ownership::sound(3, 2) };
    assert_breaks("does not adopt from itself", model, ALL_HAD);
}
