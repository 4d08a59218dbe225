//! Upstream → client: the events on their way into the log. One append is under way at a time and takes all that has
//! gathered meanwhile, so order is kept and a burst costs one round trip.
//!
//! Owns what waits, what is under way, and how far the log has come, which all streams of the session share. It says what is to be appended next and
//! what an answer of the store means; the actor asks the store and delivers what is logged (EVT-2). It has no clock and no
//! store of its own.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;

use super::streams::StreamKey;
use crate::{
    backoff::{Backoff, STORE_BACKOFF},
    store::{Appended, NewEvent, StoreError},
};

/// Events in one append: bounds how long one script runs in the store.
const APPEND_EVENTS: usize = 64;
/// Bytes in one append (a single larger event goes alone).
const APPEND_BYTES: usize = 1 << 20;

/// See the module's text.
#[derive(Debug)]
pub struct Outbox {
    waiting: VecDeque<NewEvent>,
    under_way: Option<Batch>,
    /// What is under way was for a log that is lost.
    is_void: bool,
    /// Number of the last append.
    op: u64,
    /// Pauses before the append is tried again, if the store does not answer.
    backoff: Backoff,
    /// Last sequence of the log.
    tail: u64,
}

/// One append: what the store is asked for.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Its number. The same number asks for the same again.
    pub op: u64,
    /// The events, in order; at least one.
    pub events: Arc<[NewEvent]>,
    /// How far the connection of the main stream had come, if that is news.
    pub sent: Option<u64>,
}

/// What the answer to an append means.
#[derive(Debug)]
pub enum Told {
    /// The append was made anew since, for a session that was written again: this one says nothing.
    Stale,
    /// It is in the log: to be delivered now, in this order.
    Logged(Logged),
    /// Nobody knows whether it is. The same is to be asked again after this pause: its number makes that safe.
    Again(Duration, StoreError),
    /// The store refuses it. It stays under way, for the case that the session is written again.
    Refused(Refusal),
    /// The store's data of the session makes no sense.
    Corrupt(StoreError),
}

/// Why the store does not take an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It does not know the session.
    NotFound,
    /// It has less of the session than this owner knows.
    Older,
    /// Another process owns the session, as far as it knows.
    Fenced,
}

/// A batch that is in the log.
#[derive(Debug)]
pub struct Logged {
    events: Arc<[NewEvent]>,
    seqs: Vec<Option<u64>>,
    /// Of these, answers that somebody shows, by the store's record.
    shown: Vec<u64>,
    /// Last sequence of the log before it.
    before: u64,
}

/// What became of one event of a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// It stands in the log.
    Event {
        /// Here.
        seq: u64,
        /// The place that follows the one before it. Another one breaks EVT-1.
        expected: u64,
        /// The stream that shows it.
        view: StreamKey,
        /// It answers a request.
        is_answer: bool,
        /// Somebody shows the stream of its request, by the store's record.
        is_shown: bool,
        /// The message.
        body: &'a Bytes,
    },
    /// Its request was answered before, or cancelled and forgotten: the first answer stands. REQ-2
    SecondAnswer,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), under_way: None, is_void: false, op: 0, backoff: STORE_BACKOFF, tail: 0 }
    }
}

impl Outbox {
    /// Another event for the log.
    pub fn push(&mut self, event: NewEvent) {
        self.waiting.push_back(event);
    }

    /// The next append, unless one is under way or nothing waits. `news_of_sent`: what an adopter should know of how far
    /// the main stream's connection has come, for clients that come back without a cursor; it rides on an append that is made
    /// anyway.
    pub fn next(&mut self, news_of_sent: impl FnOnce() -> Option<u64>) -> Option<&Batch> {
        if self.under_way.is_some() || self.waiting.is_empty() {
            return None;
        }
        let (mut count, mut bytes) = (0, 0);
        for next in self.waiting.iter().take(APPEND_EVENTS) {
            if count > 0 && bytes + next.body.len() > APPEND_BYTES {
                break;
            }
            bytes += next.body.len();
            count += 1;
        }
        let events = self.waiting.drain(..count).collect();
        self.op += 1;
        self.under_way = Some(Batch { op: self.op, events, sent: news_of_sent() });
        self.under_way.as_ref()
    }

    /// The pause after [`Told::Again`] is over: the same append, unless it was made anew since.
    pub fn same(&self, op: u64) -> Option<&Batch> {
        self.under_way.as_ref().filter(|batch| batch.op == op)
    }

    /// What is to be appended first now that the session is written again: what was under way when its log was lost, under
    /// a new number, or else what waits.
    pub fn again(&mut self, news_of_sent: impl FnOnce() -> Option<u64>) -> Option<&Batch> {
        if !std::mem::take(&mut self.is_void) {
            return self.next(news_of_sent);
        }
        self.op += 1;
        let op = self.op;
        self.under_way.as_mut().map(|batch| {
            batch.op = op;
            &*batch
        })
    }

    /// The log is lost. What was known of it, and how far connections had come in it, counts no more; see
    /// [`Outbox::again`].
    pub fn restart(&mut self) {
        self.tail = 0;
        if let Some(batch) = &mut self.under_way {
            batch.sent = None;
            self.is_void = true;
        }
    }

    /// The store's answer to the append with this number, which took so long.
    pub fn told(&mut self, op: u64, outcome: Result<Appended, StoreError>, took: Duration) -> Told {
        let Some(batch) = self.under_way.take_if(|batch| batch.op == op) else { return Told::Stale };
        let told = match outcome {
            Ok(Appended::Done { seqs, shown }) => {
                self.backoff.reset();
                self.is_void = false;
                let before = self.tail;
                if let Some(last) = seqs.iter().rev().find_map(|seq| *seq) {
                    self.tail = last;
                }
                return Told::Logged(Logged { events: batch.events, seqs, shown, before });
            }
            Ok(Appended::NotFound) => Told::Refused(Refusal::NotFound),
            Ok(Appended::Older) => Told::Refused(Refusal::Older),
            Ok(Appended::Fenced) => Told::Refused(Refusal::Fenced),
            Err(error @ StoreError::Corrupt(_)) => Told::Corrupt(error),
            // Against a store that hangs, the attempt itself was a pause.
            Err(error) => Told::Again(self.backoff.pause().saturating_sub(took), error),
        };
        self.under_way = Some(batch);
        told
    }

    /// Sequences of the owner's own for what is under way: what an append would say that nobody waited for. Only for a build
    /// without the protection of EVT-2.
    pub fn invented(&self) -> Vec<Option<u64>> {
        let batch = self.under_way.as_ref();
        (self.tail + 1..).map(Some).take(batch.map_or(0, |batch| batch.events.len())).collect()
    }

    /// The last sequence that the store has given in the log.
    pub fn last_seq(&self) -> u64 {
        self.tail
    }

    /// As an adopter finds the log.
    pub fn inherit(&mut self, last_seq: u64) {
        self.tail = last_seq;
    }

    /// Nothing waits, and nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_none()
    }

    /// How many events wait for the append that is under way.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests whose answer is on its way into the log.
    pub fn answers(&self) -> impl Iterator<Item = &str> {
        let under_way = self.under_way.iter().flat_map(|batch| batch.events.iter());
        under_way.chain(&self.waiting).filter_map(|event| event.answers.as_deref())
    }

    /// Gives back what a burst has left.
    pub fn shrink(&mut self) {
        self.waiting.shrink_to_fit();
    }
}

impl Batch {
    /// It answers a request.
    pub fn has_answers(&self) -> bool {
        has_answers(&self.events)
    }
}

impl Logged {
    /// Bytes of the bodies: so many wait no more.
    pub fn bytes(&self) -> usize {
        self.events.iter().map(|event| event.body.len()).sum()
    }

    /// It answers a request.
    pub fn has_answers(&self) -> bool {
        has_answers(&self.events)
    }

    /// Which request each of its events answers, if it does, in the same order.
    pub fn answers(&self) -> impl Iterator<Item = Option<&str>> {
        self.events.iter().map(|event| event.answers.as_deref())
    }

    /// What became of its events, in order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut last = self.before;
        self.events.iter().zip(&self.seqs).map(move |(event, seq)| match *seq {
            Some(seq) => {
                let expected = last + 1;
                last = seq;
                let (is_answer, is_shown) = (event.answers.is_some(), self.shown.contains(&seq));
                Entry::Event { seq, expected, view: event.view, is_answer, is_shown, body: &event.body }
            }
            None => Entry::SecondAnswer,
        })
    }
}

fn has_answers(events: &[NewEvent]) -> bool {
    events.iter().any(|event| event.answers.is_some())
}

#[cfg(test)]
mod tests;
