//! What one session was promised and what it got, and the verdict.
//!
//! Every POST that was taken (202; over Streamable HTTP the head of its answer) is a promise: exactly one answer. Every
//! numbered event is held against its stream: each number once, in order, none left out; over Streamable HTTP, where the
//! numbers are those of one log, on no other stream.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::Value;

/// JSON-RPC code of "the outcome is unknown".
const OUTCOME_UNKNOWN: i64 = -32001;

/// What a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Answered at once; read-only.
    Echo,
    /// Answered after so many milliseconds; read-only.
    Wait(u64),
    /// Has a side effect, which must not happen twice.
    Increment,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With the result that belongs to it.
    Answered,
    /// With the result of something else.
    WrongResult,
    /// The router says that it does not know whether the call was executed.
    Unknown,
    /// With another error.
    Failed,
    /// Never accepted, and surely not executed.
    Refused,
    /// Never accepted as far as the client was told, but perhaps executed.
    Doubtful,
    /// Accepted and not answered.
    Lost,
}

/// A call without an answer.
#[derive(Debug)]
pub struct Open {
    /// What it asks for.
    pub kind: Kind,
    /// When its POST was first sent.
    pub sent: Instant,
    /// When it was taken.
    pub accepted: Option<Instant>,
    /// Its POST was sent again although the first may have been taken. Once that one is answered, the id is free again
    /// and the second is a new request by the rules: two answers are then the client's own doing.
    repeated: bool,
    wake: Option<tokio::sync::oneshot::Sender<()>>,
}

#[derive(Debug, Clone, Copy)]
struct Closed {
    kind: Kind,
    outcome: Outcome,
    accepted: bool,
    answers: u8,
    repeated: bool,
    /// When it was closed, and the way by which its answer had come.
    at: Instant,
    way: Way,
}

/// The way by which an answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// None has.
    Nowhere,
    /// As the response to its POST.
    Json,
    /// On the stream of its call.
    OwnStream,
    /// On the session's stream.
    SessionStream,
}

/// Counts of all sessions together.
#[derive(Debug, Default)]
pub struct Totals {
    /// POSTs answered with 202, and those that were answered on the stream without it.
    pub accepted: u64,
    /// Of these, calls with their own result.
    pub answered: u64,
    /// Of these, calls whose outcome the router does not know.
    pub unknown: u64,
    /// Of those, calls that the router may repeat and therefore should know.
    pub unknown_read_only: u64,
    /// Of these, calls without an answer.
    pub lost: u64,
    /// Answers that came a second time.
    pub answered_twice: u64,
    /// Second answers to calls whose POST was sent twice: no fault.
    pub answered_again: u64,
    /// Answers with something else's result.
    pub wrong_result: u64,
    /// Other errors.
    pub failed: u64,
    /// Calls that were never accepted.
    pub refused: u64,
    /// Calls that were never accepted but may have been executed.
    pub doubtful: u64,
    /// Numbered events.
    pub events: u64,
    /// Events that came a second time.
    pub events_twice: u64,
    /// Events left out or in the wrong order.
    pub out_of_order: u64,
    /// Messages that say that events cannot be delivered any more.
    pub gaps_told: u64,
    /// Increments asked for.
    pub increments: u64,
    /// Increments that ran more than once.
    pub ran_twice: u64,
    /// Increments that were answered and have not run.
    pub never_ran: u64,
    /// Increments said not to have been executed, which ran.
    pub ran_unsaid: u64,
    /// Sessions that the servers no longer knew, or that became others.
    pub sessions_lost: u64,
}

/// A stream of a session over Streamable HTTP.
#[derive(Debug)]
struct View {
    /// The call whose stream it is; none: the session's own.
    call: Option<u64>,
    /// The number of its last event.
    last: u64,
}

/// One session's.
#[derive(Debug, Default)]
pub struct Ledger {
    open: HashMap<u64, Open>,
    /// By JSON-RPC id, from 1.
    closed: HashMap<u64, Closed>,
    /// Stream (the event id without its number) → last number.
    streams: HashMap<String, u64>,
    /// Over Streamable HTTP: session and epoch, and what is shown of that one log.
    log: Option<String>,
    views: HashMap<String, View>,
    events: u64,
    events_twice: u64,
    out_of_order: u64,
    gaps_told: u64,
    /// The session is not what it was.
    pub session_lost: bool,
    /// Things to be told, at most a few.
    pub complaints: Vec<String>,
}

/// An answer as the stream had it.
#[derive(Debug)]
pub struct Answer {
    /// What was asked for.
    pub kind: Kind,
    /// When its POST was first sent.
    pub sent: Instant,
    /// When it was answered with 202, if that was before the answer.
    pub accepted: Option<Instant>,
    /// What it took beyond what the call itself takes.
    pub delay: Duration,
}

impl Ledger {
    /// A call is about to be sent. The receiver is told when it is answered.
    pub fn open(&mut self, id: u64, kind: Kind) -> tokio::sync::oneshot::Receiver<()> {
        let (wake, woken) = tokio::sync::oneshot::channel();
        self.open.insert(id, Open { kind, sent: Instant::now(), accepted: None, repeated: false, wake: Some(wake) });
        woken
    }

    /// Its POST was answered with 202. The answer may have been faster.
    pub fn accepted(&mut self, id: u64) {
        if let Some(open) = self.open.get_mut(&id) {
            open.accepted.get_or_insert_with(Instant::now);
        } else if let Some(closed) = self.closed.get_mut(&id) {
            closed.accepted = true;
        }
    }

    /// Its POST is about to be sent again, and the first may have been taken.
    pub fn repeated(&mut self, id: u64) {
        if let Some(open) = self.open.get_mut(&id) {
            open.repeated = true;
        }
    }

    /// Whether the call is still without an answer.
    pub fn is_open(&self, id: u64) -> bool {
        self.open.contains_key(&id)
    }

    /// The call ends without an answer.
    pub fn give_up(&mut self, id: u64, outcome: Outcome) {
        if let Some(open) = self.open.remove(&id) {
            let accepted = open.accepted.is_some();
            self.close(id, &open, outcome, accepted, Way::Nowhere);
        }
    }

    fn close(&mut self, id: u64, open: &Open, outcome: Outcome, accepted: bool, way: Way) {
        let Open { kind, repeated, .. } = *open;
        let answers = u8::from(way != Way::Nowhere);
        self.closed.insert(id, Closed { kind, outcome, accepted, answers, repeated, at: Instant::now(), way });
    }

    /// Calls that were accepted and are not answered.
    pub fn unanswered(&self) -> impl Iterator<Item = (u64, &Open)> {
        self.open.iter().filter(|(_, open)| open.accepted.is_some()).map(|(id, open)| (*id, open))
    }

    /// Whether a call that was sent before `until` is still open.
    pub fn has_open_before(&self, until: Instant) -> bool {
        self.open.values().any(|open| open.sent < until)
    }

    /// Whether a call was lost.
    pub fn has_losses(&self) -> bool {
        self.closed.values().any(|closed| closed.outcome == Outcome::Lost)
    }

    /// All that are still open.
    pub fn open_ids(&self) -> Vec<u64> {
        self.open.keys().copied().collect()
    }

    /// A numbered event; `false` when it was seen before.
    pub fn event(&mut self, id: &str, session: usize) -> bool {
        let Some((stream, seq)) =
            id.rsplit_once('.').and_then(|(stream, seq)| Some((stream, seq.parse::<u64>().ok()?)))
        else {
            self.out_of_order += 1;
            self.complain(format!("session {session}: an event id without a number"));
            return true;
        };
        self.events += 1;
        let known = !self.streams.is_empty();
        let last = match self.streams.get_mut(stream) {
            Some(last) => last,
            None => {
                if known {
                    self.session_lost = true;
                    self.complain(format!("session {session}: the stream has become another one"));
                }
                self.streams.entry(stream.to_owned()).or_default()
            }
        };
        let expected = *last + 1;
        if seq == expected {
            *last = seq;
            return true;
        }
        if seq < expected {
            self.events_twice += 1;
            self.complain(format!("session {session}: event {seq} came again, after {}", expected - 1));
            return false;
        }
        *last = seq;
        self.out_of_order += 1;
        self.complain(format!("session {session}: event {seq} follows {}", expected - 1));
        true
    }

    /// A numbered event of a session over Streamable HTTP, whose streams are views of one log: `<session>.<view>.<epoch>.<number>`.
    /// `call`: it came on the stream of that call. `false` when it was seen before.
    ///
    /// The numbers of a view go up; there may be others between them. A primer says only where its stream stands.
    pub fn event_of(&mut self, id: &str, session: usize, call: Option<u64>, is_primer: bool) -> bool {
        let parts: Vec<&str> = id.split('.').collect();
        let seq = parts.last().and_then(|seq| seq.parse().ok());
        let (&[name, view, epoch, _], Some(seq)) = (&parts[..], seq) else {
            self.out_of_order += 1;
            self.complain(format!("session {session}: no event id: {id}"));
            return true;
        };
        let log = format!("{name}.{epoch}");
        if *self.log.get_or_insert_with(|| log.clone()) != log {
            self.session_lost = true;
            self.complain(format!("session {session}: the log has become another one"));
        }
        let shown = self.views.entry(view.to_owned()).or_insert(View { call, last: 0 });
        let (is_foreign, last) = (shown.call != call, shown.last);
        if !is_primer {
            shown.last = last.max(seq);
            self.events += 1;
        }
        if is_foreign {
            self.out_of_order += 1;
            self.complain(format!("session {session}: an event of {view} on the stream of another call"));
        }
        if is_primer || seq > last {
            return true;
        }
        self.events_twice += 1;
        self.complain(format!("session {session}: event {seq} of {view} came again, after {last}"));
        false
    }

    /// A message without a number that tells of events which cannot be delivered.
    pub fn gap_told(&mut self, session: usize, text: &str) {
        self.gaps_told += 1;
        self.complain(format!("session {session}: the router says {text}"));
    }

    /// An answer. `None` when it belongs to no open call.
    pub fn answer(&mut self, session: usize, id: u64, message: &Value, text: &str, way: Way) -> Option<Answer> {
        let Some(mut open) = self.open.remove(&id) else {
            match self.closed.get_mut(&id) {
                Some(closed) if closed.answers == 0 => {
                    closed.answers = 1;
                    // What comes after the time limit is lost all the same.
                    if closed.outcome != Outcome::Lost {
                        closed.outcome = outcome(closed.kind, message, text);
                    }
                }
                Some(closed) if closed.repeated => closed.answers += 1,
                Some(closed) => {
                    closed.answers += 1;
                    let (kind, first, after) = (closed.kind, closed.way, closed.at.elapsed().as_millis());
                    self.complain(format!(
                        "session {session}: call {id} ({kind:?}) is answered again after {after} ms, {way:?} after {first:?}: {message}"
                    ));
                }
                None => self.complain(format!("session {session}: an answer to nothing: {message}")),
            }
            return None;
        };
        let outcome = outcome(open.kind, message, text);
        if matches!(outcome, Outcome::WrongResult | Outcome::Failed) {
            self.complain(format!("session {session}: call {id} ({:?}): {message}", open.kind));
        }
        if outcome == Outcome::Unknown && open.kind != Kind::Increment {
            self.complain(format!("session {session}: call {id} ({:?}) may be repeated and was not", open.kind));
        }
        let accepted = open.accepted.is_some();
        self.close(id, &open, outcome, accepted, way);
        if let Some(wake) = open.wake.take() {
            // Nobody waits for a probe.
            let _ = wake.send(());
        }
        let own = if let Kind::Wait(millis) = open.kind { Duration::from_millis(millis) } else { Duration::ZERO };
        Some(Answer {
            kind: open.kind,
            sent: open.sent,
            accepted: open.accepted,
            delay: open.sent.elapsed().saturating_sub(own),
        })
    }

    /// Remembers something to be told.
    pub fn complain(&mut self, what: String) {
        const MOST: usize = 5;
        if self.complaints.len() < MOST {
            self.complaints.push(what);
        }
    }

    /// Increments that ran more than once.
    pub fn ran_twice(&self, runs: impl Fn(u64) -> u64) -> Vec<u64> {
        let twice = self.closed.iter().filter(|(id, call)| call.kind == Kind::Increment && runs(**id) > 1);
        twice.map(|(id, _)| *id).collect()
    }

    /// Adds this session to `totals`. `runs`: how often the increment of a call has run.
    pub fn add_to(&self, totals: &mut Totals, runs: impl Fn(u64) -> u64) {
        totals.events += self.events;
        totals.events_twice += self.events_twice;
        totals.out_of_order += self.out_of_order;
        totals.gaps_told += self.gaps_told;
        totals.sessions_lost += u64::from(self.session_lost);
        for (id, call) in &self.closed {
            totals.accepted += u64::from(call.accepted || call.answers > 0);
            let again = u64::from(call.answers.saturating_sub(1));
            if call.repeated {
                totals.answered_again += again;
            } else {
                totals.answered_twice += again;
            }
            match call.outcome {
                Outcome::Answered => totals.answered += 1,
                Outcome::WrongResult => totals.wrong_result += 1,
                Outcome::Unknown => {
                    totals.unknown += 1;
                    totals.unknown_read_only += u64::from(call.kind != Kind::Increment);
                }
                Outcome::Failed => totals.failed += 1,
                Outcome::Refused => totals.refused += 1,
                Outcome::Doubtful => totals.doubtful += 1,
                Outcome::Lost => totals.lost += 1,
            }
            if call.kind == Kind::Increment {
                totals.increments += 1;
                let runs = runs(*id);
                totals.ran_twice += u64::from(runs > 1);
                totals.never_ran += u64::from(runs == 0 && call.outcome == Outcome::Answered);
                totals.ran_unsaid += u64::from(runs > 0 && matches!(call.outcome, Outcome::Failed | Outcome::Refused));
            }
        }
    }
}

fn outcome(kind: Kind, message: &Value, text: &str) -> Outcome {
    let error = &message["error"];
    if !error.is_null() {
        let unknown = error["code"] == OUTCOME_UNKNOWN && error["data"]["outcome"] == "unknown";
        return if unknown { Outcome::Unknown } else { Outcome::Failed };
    }
    let result = &message["result"];
    let fits = match kind {
        Kind::Echo | Kind::Wait(_) => result["content"][0]["text"] == text,
        Kind::Increment => result["structuredContent"]["key"] == text,
    };
    if fits { Outcome::Answered } else { Outcome::WrongResult }
}

impl Totals {
    /// Why this run is a failure; empty when it is none.
    pub fn failures(&self) -> Vec<String> {
        let checks = [
            (self.lost, "calls were accepted and never answered"),
            (self.answered_twice, "calls were answered twice"),
            (self.wrong_result, "calls got another one's answer"),
            (self.events_twice, "events came twice"),
            (self.out_of_order, "events were left out or came in the wrong order"),
            (self.gaps_told, "times the router had to say that events are gone"),
            (self.ran_twice, "increments ran more than once"),
            (self.never_ran, "increments were answered and never ran"),
            (self.ran_unsaid, "increments ran and were said not to have run"),
            (self.sessions_lost, "sessions were lost"),
        ];
        checks.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn echoed(text: &str) -> Value {
        json!({ "id": 1, "result": { "content": [{ "type": "text", "text": text }] } })
    }

    fn totals(ledger: &Ledger, runs: u64) -> Totals {
        let mut totals = Totals::default();
        ledger.add_to(&mut totals, |_| runs);
        totals
    }

    #[test]
    fn what_is_promised_and_kept_is_no_failure() {
        let mut ledger = Ledger::default();
        let _woken = ledger.open(1, Kind::Echo);
        ledger.accepted(1);
        assert!(ledger.event("s.g.e.1", 0));
        assert!(ledger.answer(0, 1, &echoed("text"), "text", Way::OwnStream).is_some());
        let totals = totals(&ledger, 0);
        assert_eq!((totals.accepted, totals.answered), (1, 1));
        assert_eq!(totals.failures(), Vec::<String>::new());
    }

    /// The judge must be able to say no: each fault alone makes a run fail.
    #[test]
    fn each_fault_is_seen() {
        type Deed = fn(&mut Ledger);
        let accepted = |ledger: &mut Ledger, kind| {
            let _woken = ledger.open(1, kind);
            ledger.accepted(1);
        };
        let deeds: [(&str, u64, Deed); 11] = [
            ("accepted and never answered", 0, |ledger| ledger.give_up(1, Outcome::Lost)),
            ("answered twice", 1, |ledger| {
                let answer = json!({ "id": 1, "result": { "structuredContent": { "key": "text" } } });
                ledger.answer(0, 1, &answer, "text", Way::OwnStream);
                ledger.answer(0, 1, &answer, "text", Way::OwnStream);
            }),
            ("another one's answer", 1, |ledger| {
                let answer = json!({ "id": 1, "result": { "structuredContent": { "key": "other" } } });
                ledger.answer(0, 1, &answer, "text", Way::OwnStream);
            }),
            ("came twice", 1, |ledger| {
                ledger.event("s.g.e.1", 0);
                ledger.event("s.g.e.1", 0);
            }),
            ("left out", 1, |ledger| {
                ledger.event("s.g.e.2", 0);
            }),
            ("sessions were lost", 1, |ledger| {
                ledger.event("s.g.e.1", 0);
                ledger.event("s.g.f.1", 0);
            }),
            ("came twice", 1, |ledger| {
                assert!(ledger.event_of("s.r1.1.4", 0, Some(1), false));
                assert!(ledger.event_of("s.r1.1.7", 0, Some(1), false), "what stands between is of other streams");
                assert!(ledger.event_of("s.r1.1.7", 0, Some(1), true), "where a stream stands is no event");
                assert!(!ledger.event_of("s.r1.1.7", 0, Some(1), false));
            }),
            ("left out or came in the wrong order", 1, |ledger| {
                ledger.event_of("s.r1.1.4", 0, Some(1), false);
                ledger.event_of("s.r1.1.5", 0, None, false);
            }),
            ("sessions were lost", 1, |ledger| {
                ledger.event_of("s.g.1.1", 0, None, false);
                ledger.event_of("s.g.2.2", 0, None, false);
            }),
            ("ran more than once", 2, |ledger| {
                ledger.answer(
                    0,
                    1,
                    &json!({ "id": 1, "result": { "structuredContent": { "key": "text" } } }),
                    "text",
                    Way::OwnStream,
                );
            }),
            ("never ran", 0, |ledger| {
                ledger.answer(
                    0,
                    1,
                    &json!({ "id": 1, "result": { "structuredContent": { "key": "text" } } }),
                    "text",
                    Way::OwnStream,
                );
            }),
        ];
        for (fault, runs, deed) in deeds {
            let mut ledger = Ledger::default();
            accepted(&mut ledger, Kind::Increment);
            deed(&mut ledger);
            let failures = totals(&ledger, runs).failures();
            assert!(failures.iter().any(|failure| failure.contains(fault)), "{fault}: {failures:?}");
        }
    }

    #[test]
    fn an_answer_after_the_time_limit_is_lost_all_the_same() {
        let mut ledger = Ledger::default();
        let _woken = ledger.open(1, Kind::Echo);
        ledger.accepted(1);
        ledger.give_up(1, Outcome::Lost);
        ledger.answer(0, 1, &echoed("text"), "text", Way::OwnStream);
        assert_eq!(totals(&ledger, 0).lost, 1);
    }

    #[test]
    fn an_unknown_outcome_is_no_loss() {
        let mut ledger = Ledger::default();
        let _woken = ledger.open(1, Kind::Increment);
        ledger.accepted(1);
        let error =
            json!({ "id": 1, "error": { "code": OUTCOME_UNKNOWN, "message": "", "data": { "outcome": "unknown" } } });
        ledger.answer(0, 1, &error, "text", Way::OwnStream);
        let totals = totals(&ledger, 1);
        assert_eq!((totals.unknown, totals.lost), (1, 0));
        assert_eq!(totals.failures(), Vec::<String>::new());
    }
}
