//! Figures of all sessions, and the board on which faults are written.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::ledger::Answer;

/// See the module's text.
#[derive(Debug)]
pub struct Board {
    /// Streams opened.
    pub streams: Cell<u64>,
    /// Streams that ended by themselves.
    pub broken: Cell<u64>,
    /// Streams that the client gave up because an answer did not come.
    pub silent: Cell<u64>,
    /// Streams refused with a status, after which stock clients would never come back.
    pub refused_streams: RefCell<BTreeMap<u16, u64>>,
    /// POSTs sent again, by what had become of them.
    pub repeated_posts: RefCell<BTreeMap<String, u64>>,
    /// Answers that came as JSON.
    pub as_json: Cell<u64>,
    /// Calls over Streamable HTTP whose own stream broke: from then to their answer, milliseconds.
    pub cut: RefCell<Vec<u32>>,
    /// What each answer took beyond what the call takes, milliseconds.
    pub delays: RefCell<Vec<u32>>,
    /// The slowest of them, in words.
    pub slowest: RefCell<Vec<(Duration, String)>>,
    /// The current fault and when it happened.
    fault: Cell<Option<(usize, Instant)>>,
    /// By fault and session: when the first answer came to a call that was sent after it.
    recovered: RefCell<Vec<Vec<Option<Duration>>>>,
    /// How many there are.
    pub sessions: usize,
    /// The number of the last fault, and one.
    pub announce: watch::Sender<usize>,
    /// No new calls.
    pub stopping: Cell<bool>,
}

impl Board {
    /// For so many sessions.
    pub fn new(sessions: usize) -> Self {
        Self {
            streams: Cell::new(0),
            broken: Cell::new(0),
            silent: Cell::new(0),
            refused_streams: RefCell::default(),
            repeated_posts: RefCell::default(),
            as_json: Cell::new(0),
            cut: RefCell::default(),
            delays: RefCell::default(),
            slowest: RefCell::default(),
            fault: Cell::new(None),
            recovered: RefCell::default(),
            sessions,
            announce: watch::Sender::new(0),
            stopping: Cell::new(false),
        }
    }

    /// A fault has just happened. Its number.
    pub fn fault_at(&self, at: Instant) -> usize {
        let mut recovered = self.recovered.borrow_mut();
        recovered.push(vec![None; self.sessions]);
        let fault = recovered.len() - 1;
        self.fault.set(Some((fault, at)));
        self.announce.send_replace(fault + 1);
        fault
    }

    /// When each session was served again after a fault.
    pub fn recoveries(&self, fault: usize) -> Vec<Option<Duration>> {
        self.recovered.borrow()[fault].clone()
    }

    /// Whether it was served again after this fault.
    pub fn has_recovered(&self, fault: usize, session: usize) -> bool {
        self.recovered.borrow()[fault][session].is_some()
    }

    /// A call has its answer.
    pub fn answered(&self, session: usize, id: u64, answer: &Answer) {
        let Answer { kind, sent, accepted, delay } = *answer;
        self.delays.borrow_mut().push(u32::try_from(delay.as_millis()).unwrap_or(u32::MAX));
        self.note_slow(delay, || {
            let since = match self.fault.get() {
                Some((fault, at)) if sent >= at => {
                    format!("{} ms after fault {}", sent.duration_since(at).as_millis(), fault + 1)
                }
                Some((fault, at)) => format!("{} ms before fault {}", at.duration_since(sent).as_millis(), fault + 1),
                None => "before any fault".to_owned(),
            };
            let accepted = match accepted {
                Some(accepted) => format!("accepted after {} ms", accepted.duration_since(sent).as_millis()),
                None => "answered before it was accepted".to_owned(),
            };
            format!("session {session}, call {id} ({kind:?}), sent {since}, {accepted}")
        });
        let Some((fault, at)) = self.fault.get() else { return };
        if sent >= at {
            self.recovered.borrow_mut()[fault][session].get_or_insert_with(|| at.elapsed());
        }
    }

    /// The time, in words.
    pub fn since_fault(&self) -> String {
        match self.fault.get() {
            Some((fault, at)) => format!("{} ms after fault {}", at.elapsed().as_millis(), fault + 1),
            None => "before any fault".to_owned(),
        }
    }

    fn note_slow(&self, delay: Duration, describe: impl FnOnce() -> String) {
        const KEPT: usize = 5;
        let mut slowest = self.slowest.borrow_mut();
        if slowest.len() < KEPT || slowest.last().is_some_and(|(least, _)| *least < delay) {
            slowest.push((delay, describe()));
            slowest.sort_by_key(|(delay, _)| std::cmp::Reverse(*delay));
            slowest.truncate(KEPT);
        }
    }
}

/// One more.
pub fn bump(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}
