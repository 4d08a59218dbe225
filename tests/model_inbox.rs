//! The way of a client's messages into the journal and out of it to the server as a model, checked in every order in which
//! its steps can happen: replies of the store that are lost, and steps that it executes when their caller has given them up
//! long ago (Redis was paused, or bytes lay in a socket). One owner, another instance that journals, and clients that try a
//! POST again there. REQ-1, REQ-5, REQ-6
//!
//! And the requests of which their clients are told an error, because nobody knows what has become of them: the store is asked
//! to disown them, on another connection than the one on which the journaling may still be under way. REQ-2
//!
//! The order of messages, its holes, when a claim is made and what it asks for are those of the router ([`Order`],
//! [`Claims`]). `tests/model.rs` is about
//! who owns a session. For each protection there is a model without it, which must break.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use mcp_router::session::core::{claims::Claims, order::Order};
use stateright::{Checker, HasDiscoveries, Model, Property};

/// The client's messages, in the order in which it posts them: is it a request? Answers of the client go the way of
/// notifications.
const MESSAGES: [bool; 3] = [false, true, false];

const FORWARDED: &str = "REQ-1: when nothing more happens, every accepted message was forwarded";
const ONCE: &str = "REQ-6: no message is forwarded twice";
const IN_ORDER: &str = "REQ-5: messages are forwarded in the order of the store";
const SILENT: &str = "REQ-2: after the word that nobody knows what became of a request no answer to it goes out";
const HEARD: &str = "REQ-2: the answer to a request that was posted again goes out";
const REACHED: [&str; 6] = [
    "a message that was refused with 503 is forwarded all the same",
    "a hole is closed that was seen by a later message",
    "the store executes a claim that was given up",
    "a request is disowned before it comes to the store",
    "a request is disowned while it waits there",
    "a request is disowned that was forwarded",
];

/// How much may happen, and which protections are in place.
#[derive(Debug, Clone)]
struct Inbox {
    messages: usize,
    /// How often the owner gives up a step of the store.
    faults: u8,
    /// Looks that follow such a fault.
    looks: u32,
    /// As long as there is a hole, claims are made and ask for it.
    closes_holes: bool,
    /// A claim finds notifications again, too, not only requests.
    finds_notifications: bool,
    /// Who journals a duplicate wakes the owner.
    wakes_for_duplicates: bool,
    /// What was seen before is not forwarded again.
    knows_what_it_saw: bool,
    /// What was disowned before it came is not journaled.
    remembers_disowned: bool,
    /// The answer to what was disowned is kept back.
    silences: bool,
    /// A request that is posted again is not disowned by the word on its first POST.
    tells_posts_apart: bool,
}

impl Inbox {
    fn sound() -> Self {
        Self {
            messages: MESSAGES.len(),
            faults: 2,
            looks: 1,
            closes_holes: true,
            finds_notifications: true,
            wakes_for_duplicates: true,
            knows_what_it_saw: true,
            remembers_disowned: true,
            silences: true,
            tells_posts_apart: true,
        }
    }
}

/// A step of the store that the owner has asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Op {
    Accept(usize),
    Claim { missing_from: Option<u64>, acked: u64 },
}

/// What the store says to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Reply {
    Forward(usize, u64),
    Queued(usize),
    Duplicate(usize, u64, bool),
    Barred(usize),
    Claimed { looked: bool, after: u64, upto: u64, entries: Vec<(u64, usize)> },
}

/// What became of a message for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Post {
    Fresh,
    UnderWay,
    /// 503: it may be tried again elsewhere.
    Refused,
    /// 202.
    Accepted,
    /// An error that says that nobody knows, and that is the answer.
    Told,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    // --- the store
    /// By sequence, from 1: the message, and whether inbox or request table still has it.
    journal: Vec<(usize, bool)>,
    claimed: u64,
    /// Requests whose first POST must not be journaled any more.
    barred: BTreeSet<usize>,
    /// Requests whose answers are kept back.
    silenced: BTreeSet<usize>,
    /// Requests that another POST has asked for.
    shared: BTreeSet<usize>,
    /// Answers in the log.
    answered: BTreeSet<usize>,
    // --- between store and owner
    /// Steps on their way to the store: its thread's lane keeps their order.
    asked: Vec<Op>,
    /// Steps that were given up before they were executed.
    given_up: Vec<Op>,
    replies: Vec<Reply>,
    // --- the owner
    order: Order<usize>,
    claims: Claims,
    /// Somebody has told it to look.
    woken: bool,
    /// Sequence and message.
    forwarded: Vec<(u64, usize)>,
    // --- clients
    posts: Vec<Post>,
    faults: u8,
    was_refused: BTreeSet<usize>,
    closed_a_hole: bool,
    late_claim: bool,
    /// The word on these has not come to the store yet.
    disowning: BTreeSet<usize>,
    /// How those stood whose word has come.
    disowned: BTreeSet<Stood>,
    /// Posted again as another POST.
    again: BTreeSet<usize>,
}

/// How a request stood when it was disowned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Stood {
    Nowhere,
    Waiting,
    Forwarded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// The client posts its next message at the owner.
    PostHere,
    /// At another instance.
    PostThere,
    /// A refused message is tried again at another instance.
    Again(usize),
    /// The store executes what the owner asked for first.
    Execute,
    /// It executes something that was given up.
    ExecuteLate(usize),
    /// The owner hears of it.
    Deliver,
    /// The owner gives up what it asked for first: it is on its way, or its reply is lost.
    GiveUp,
    /// The owner claims.
    Claim,
    /// The server answers a request that was forwarded.
    Answer(usize),
    /// The client of a refused request is told an error.
    Tell(usize),
    /// The word on it comes to the store: before an answer that nobody came for would go out on the main stream.
    Disown(usize),
    /// The client posts a request once more of which it was told an error, while it has no answer: under another name.
    Repeat(usize),
}

impl Action {
    /// It need never happen.
    fn is_optional(self) -> bool {
        match self {
            Self::PostHere
            | Self::PostThere
            | Self::Again(_)
            | Self::ExecuteLate(_)
            | Self::GiveUp
            | Self::Tell(_)
            | Self::Repeat(_) => true,
            Self::Execute | Self::Deliver | Self::Claim | Self::Answer(_) | Self::Disown(_) => false,
        }
    }
}

impl State {
    fn last(&self) -> u64 {
        self.journal.len() as u64
    }

    fn seq_of(&self, message: usize) -> Option<u64> {
        let found = self.journal.iter().position(|(journaled, _)| *journaled == message);
        found.map(|at| at as u64 + 1)
    }

    /// REQ-6 and direct forwarding, as the store's `accept`.
    fn accept(&mut self, message: usize, is_owner: bool) -> Reply {
        if let Some(seq) = self.seq_of(message) {
            return Reply::Duplicate(message, seq, seq <= self.claimed);
        }
        if self.barred.contains(&message) {
            return Reply::Barred(message);
        }
        let direct = is_owner && self.claimed == self.last();
        self.journal.push((message, true));
        if direct {
            self.claimed = self.last();
            return Reply::Forward(message, self.last());
        }
        Reply::Queued(message)
    }

    fn execute(&mut self, model: &Inbox, op: &Op) -> Reply {
        let (missing_from, acked) = match op {
            Op::Accept(message) => return self.accept(*message, true),
            Op::Claim { missing_from, acked } => (*missing_from, *acked),
        };
        for (message, there) in self.journal.iter_mut().take(acked.min(self.claimed) as usize) {
            *there &= MESSAGES[*message];
        }
        let before = self.claimed;
        let looked = missing_from.is_some();
        let missing_from = missing_from.filter(|from| *from <= before);
        let from = missing_from.unwrap_or(before + 1);
        self.claimed = self.last();
        let entries = (from..=self.claimed)
            .map(|seq| (seq, self.journal[seq as usize - 1]))
            .filter(|(seq, (message, there))| {
                *there && (model.finds_notifications || MESSAGES[*message] || *seq > before)
            })
            .map(|(seq, (message, _))| (seq, message))
            .collect();
        Reply::Claimed { looked, after: from - 1, upto: self.claimed, entries }
    }

    /// As the store's `disown`.
    fn disown(&mut self, model: &Inbox, message: usize) -> Option<Stood> {
        let Some(seq) = self.seq_of(message) else {
            if model.remembers_disowned {
                self.barred.insert(message);
            }
            return Some(Stood::Nowhere);
        };
        if self.shared.contains(&message) && model.tells_posts_apart {
            return None;
        }
        if seq > self.claimed {
            self.journal[seq as usize - 1].1 = false;
            return Some(Stood::Waiting);
        }
        if model.silences {
            self.silenced.insert(message);
        }
        Some(Stood::Forwarded)
    }

    /// Answers that go out, on whatever stream.
    fn goes_out(&self, message: usize) -> bool {
        self.answered.contains(&message) && !self.silenced.contains(&message)
    }

    fn deliver(&mut self, model: &Inbox, reply: Reply) {
        match reply {
            Reply::Forward(message, seq) => {
                self.posts[message] = Post::Accepted;
                self.closed_a_hole |= seq > self.order.next();
                if let Some(message) = self.order.came(seq, message) {
                    self.forwarded.push((seq, message));
                }
            }
            Reply::Queued(message) => {
                self.posts[message] = Post::Accepted;
                self.woken = true;
            }
            Reply::Duplicate(message, seq, claimed) => {
                self.posts[message] = Post::Accepted;
                if claimed {
                    self.order.taken(seq);
                } else {
                    self.woken = true;
                }
            }
            // Its try was given up long ago.
            Reply::Barred(_) => {}
            Reply::Claimed { looked, after, upto, entries } => {
                self.claims.ended();
                self.claims.answered(looked);
                if !model.knows_what_it_saw {
                    self.forwarded.extend(entries.iter().filter(|(seq, _)| *seq < self.order.next()));
                }
                self.order.told(after, upto, entries);
            }
        }
        while let Some((seq, message)) = self.order.pop() {
            self.forwarded.push((seq, message));
        }
    }

    fn wants_claim(&self, model: &Inbox) -> bool {
        self.woken || self.claims.in_doubt() || (model.closes_holes && self.claims.hole_pause(&self.order, 0).is_some())
    }
}

impl Model for Inbox {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            journal: Vec::new(),
            claimed: 0,
            barred: BTreeSet::new(),
            silenced: BTreeSet::new(),
            shared: BTreeSet::new(),
            answered: BTreeSet::new(),
            asked: Vec::new(),
            given_up: Vec::new(),
            replies: Vec::new(),
            order: Order::new(1),
            claims: Claims::default(),
            woken: false,
            forwarded: Vec::new(),
            posts: vec![Post::Fresh; self.messages],
            faults: 0,
            was_refused: BTreeSet::new(),
            closed_a_hole: false,
            late_claim: false,
            disowning: BTreeSet::new(),
            disowned: BTreeSet::new(),
            again: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.posts.contains(&Post::Fresh) {
            actions.extend([Action::PostHere, Action::PostThere]);
        }
        let refused = state.posts.iter().enumerate().filter(|(_, post)| **post == Post::Refused);
        for (message, _) in refused {
            actions.push(Action::Again(message));
            if MESSAGES[message] {
                actions.push(Action::Tell(message));
            }
        }
        actions.extend(state.disowning.iter().copied().map(Action::Disown));
        for (message, post) in state.posts.iter().enumerate() {
            // Before it is journaled, or after its answer, it is a new request, whose answer is its own.
            let is_pending = state.seq_of(message).is_some_and(|seq| state.journal[seq as usize - 1].1);
            if *post == Post::Told && is_pending && !state.again.contains(&message) {
                actions.push(Action::Repeat(message));
            }
        }
        if !state.asked.is_empty() {
            actions.push(Action::Execute);
        }
        actions.extend((0..state.given_up.len()).map(Action::ExecuteLate));
        if !state.replies.is_empty() {
            actions.push(Action::Deliver);
        }
        if state.faults < self.faults && !(state.asked.is_empty() && state.replies.is_empty()) {
            actions.push(Action::GiveUp);
        }
        if state.wants_claim(self) && !state.claims.is_under_way() {
            actions.push(Action::Claim);
        }
        for (seq, message) in &state.forwarded {
            if MESSAGES[*message] && state.journal[*seq as usize - 1].1 {
                actions.push(Action::Answer(*message));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let fresh = state.posts.iter().position(|post| *post == Post::Fresh);
        match action {
            Action::PostHere => {
                state.posts[fresh?] = Post::UnderWay;
                state.asked.push(Op::Accept(fresh?));
            }
            Action::PostThere | Action::Again(_) => {
                let message = if let Action::Again(message) = action { message } else { fresh? };
                let reply = state.accept(message, false);
                state.posts[message] = Post::Accepted;
                let is_duplicate = matches!(reply, Reply::Duplicate(_, _, true));
                state.woken |= !is_duplicate || self.wakes_for_duplicates;
            }
            Action::Execute => {
                let op = state.asked.remove(0);
                let reply = state.execute(self, &op);
                state.replies.push(reply);
            }
            Action::ExecuteLate(at) => {
                let op = state.given_up.remove(at);
                state.late_claim |= matches!(op, Op::Claim { .. });
                state.execute(self, &op);
            }
            Action::Deliver => {
                let reply = state.replies.remove(0);
                state.deliver(self, reply);
            }
            Action::GiveUp => {
                state.faults += 1;
                let op = if state.replies.is_empty() {
                    let op = state.asked.remove(0);
                    state.given_up.push(op.clone());
                    op
                } else {
                    match state.replies.remove(0) {
                        Reply::Claimed { .. } => Op::Claim { missing_from: None, acked: 0 },
                        Reply::Forward(message, _)
                        | Reply::Queued(message)
                        | Reply::Barred(message)
                        | Reply::Duplicate(message, ..) => Op::Accept(message),
                    }
                };
                match op {
                    Op::Claim { .. } => {
                        state.claims.ended();
                        state.woken = true;
                        if self.looks > 0 {
                            state.claims.failed();
                        }
                    }
                    Op::Accept(message) => {
                        state.posts[message] = Post::Refused;
                        state.was_refused.insert(message);
                        state.claims.doubt(self.looks);
                    }
                }
            }
            Action::Claim => {
                let holes = self.closes_holes || state.claims.in_doubt();
                let missing_from = if holes { state.claims.missing_from(&state.order) } else { None };
                state.woken = false;
                assert!(state.claims.begin(), "one at a time");
                state.asked.push(Op::Claim { missing_from, acked: state.order.next() - 1 });
            }
            Action::Answer(message) => {
                let seq = state.seq_of(message)?;
                state.journal[seq as usize - 1].1 = false;
                state.answered.insert(message);
            }
            Action::Tell(message) => {
                state.posts[message] = Post::Told;
                state.disowning.insert(message);
            }
            Action::Disown(message) => {
                state.disowning.remove(&message);
                let stood = state.disown(self, message);
                state.disowned.extend(stood);
            }
            Action::Repeat(message) => {
                state.again.insert(message);
                state.shared.insert(message);
                state.silenced.remove(&message);
                state.woken = true;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(FORWARDED, |model: &Self, state: &State| {
                let is_forwarded = |message: usize| state.forwarded.iter().any(|(_, forwarded)| *forwarded == message);
                let accepted = state.posts.iter().enumerate().filter(|(_, post)| **post == Post::Accepted);
                if accepted.map(|(message, _)| message).all(is_forwarded) {
                    return true;
                }
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.into_iter().all(Action::is_optional)
            }),
            Property::always(ONCE, |_, state: &State| {
                let different: BTreeSet<usize> = state.forwarded.iter().map(|(_, message)| *message).collect();
                different.len() == state.forwarded.len()
            }),
            Property::always(IN_ORDER, |_, state: &State| state.forwarded.is_sorted_by_key(|(seq, _)| *seq)),
            Property::always(SILENT, |_, state: &State| {
                let told = |message: &usize| state.posts[*message] == Post::Told;
                let is_due = |message: &usize| !state.disowning.contains(message) && !state.again.contains(message);
                (0..state.posts.len()).filter(told).filter(is_due).all(|message| !state.goes_out(message))
            }),
            Property::always(HEARD, |model: &Self, state: &State| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.into_iter().all(Action::is_optional)
                    || state.again.iter().all(|message| state.goes_out(*message))
            }),
            Property::sometimes(REACHED[3], |_, state: &State| state.disowned.contains(&Stood::Nowhere)),
            Property::sometimes(REACHED[4], |_, state: &State| state.disowned.contains(&Stood::Waiting)),
            Property::sometimes(REACHED[5], |_, state: &State| state.disowned.contains(&Stood::Forwarded)),
            Property::sometimes(REACHED[0], |_, state: &State| {
                state.was_refused.iter().any(|message| {
                    state.posts[*message] == Post::Refused
                        && state.forwarded.iter().any(|(_, forwarded)| forwarded == message)
                })
            }),
            Property::sometimes(REACHED[1], |_, state: &State| state.closed_a_hole && state.order.is_even()),
            Property::sometimes(REACHED[2], |_, state: &State| state.late_claim),
        ]
    }
}

/// Names of the properties that do not hold, and of what was reached.
fn discovered(name: &str, model: Inbox, until: HasDiscoveries) -> BTreeSet<&'static str> {
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

fn assert_breaks(name: &str, model: Inbox, property: &'static str) {
    let broken = discovered(name, model, HasDiscoveries::AllOf(BTreeSet::from([property])));
    assert!(broken.contains(property), "{name}: the model cannot see the fault");
}

/// REQ-1, REQ-5, REQ-6: replies that are lost, and steps that are executed late.
#[test]
fn every_accepted_message_is_forwarded_once_and_in_order() {
    let found = discovered("3 messages, 2 faults", Inbox::sound(), HasDiscoveries::AnyFailures);
    assert_eq!(found, BTreeSet::from(REACHED), "nothing is broken, and everything is reached");
}

/// REQ-1: it does not hang on the looks that follow a fault, which may come too early.
#[test]
fn a_look_after_a_fault_is_not_what_the_promise_stands_on() {
    let found = discovered("no looks", Inbox { looks: 0, ..Inbox::sound() }, HasDiscoveries::AnyFailures);
    assert_eq!(found, BTreeSet::from(REACHED));
}

/// REQ-1, negative control: the session stalls behind a hole that came after the look.
#[test]
fn without_closing_holes_a_session_stalls() {
    assert_breaks("holes stay", Inbox { closes_holes: false, ..Inbox::sound() }, FORWARDED);
}

/// REQ-1, negative control.
#[test]
fn without_finding_notifications_again_one_is_lost() {
    assert_breaks("requests only", Inbox { finds_notifications: false, ..Inbox::sound() }, FORWARDED);
}

/// REQ-1, negative control: nobody tells the owner of the last message.
#[test]
fn without_a_word_on_duplicates_one_is_lost() {
    assert_breaks("silent duplicates", Inbox { wakes_for_duplicates: false, ..Inbox::sound() }, FORWARDED);
}

/// REQ-2, negative control: the store executes the journaling after it was asked to disown the request.
#[test]
fn without_remembering_what_was_disowned_its_answer_goes_out() {
    assert_breaks("not remembered", Inbox { remembers_disowned: false, ..Inbox::sound() }, SILENT);
}

/// REQ-2, negative control.
#[test]
fn without_keeping_the_answer_back_it_goes_out() {
    assert_breaks("not kept back", Inbox { silences: false, ..Inbox::sound() }, SILENT);
}

/// REQ-2, negative control: the word on the first POST comes after the second.
#[test]
fn without_telling_posts_apart_one_is_not_answered() {
    assert_breaks("one name for all", Inbox { tells_posts_apart: false, ..Inbox::sound() }, HEARD);
}

/// REQ-6, negative control.
#[test]
fn without_knowing_what_it_saw_an_owner_forwards_twice() {
    assert_breaks("no sequence is remembered", Inbox { knows_what_it_saw: false, ..Inbox::sound() }, ONCE);
}
