//! The streams of one Streamable HTTP session, and its event store: what was sent on each of them, so that a client
//! whose connection broke can have the rest.
//!
//! Stream 0 is the session's own, which GET shows; every POST with requests makes another one, which is over when all of
//! them are answered. A stream is not its connection: it goes on without one, and at most one shows it at a time.
//! With an event store a stream keeps what it has sent, within bounds; without one an event is gone once a connection
//! has it, or at once when there is no connection.
//!
//! A place in a stream is a number that is given once. Place 1 is that of the priming event, which is never kept: there
//! is nothing in it.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{
    event_id::{EventId, StreamNumber},
    rpc::Outgoing,
};

/// The session's own stream.
pub(crate) const MAIN: StreamNumber = 0;

/// Place of a stream's priming event.
const FIRST_PLACE: u64 = 1;

/// The session is gone; there is nobody left to send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session is gone")]
pub(crate) struct ClientGone;

/// What a session may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// There is an event store.
    pub keeps: bool,
    /// Messages that a connection has not taken yet; above that, senders wait and notifications are dropped.
    pub unread: usize,
    /// Events of one stream.
    pub events: usize,
    /// Bytes of all events.
    pub bytes: usize,
    /// Streams that are over.
    pub streams: usize,
}

/// Why a stream is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Another connection shows it, and keeps it.
    Busy,
    /// The id names no event of this session, or what followed it is not kept any more.
    UnknownId,
}

/// See the module's text.
pub(crate) struct Streams {
    limits: Limits,
    inner: Mutex<Inner>,
    /// A connection has taken an event, or has gone.
    room: Notify,
}

struct Inner {
    streams: HashMap<StreamNumber, Log>,
    /// Streams that are over and shown by no connection, the oldest first.
    over: VecDeque<StreamNumber>,
    /// Of all events.
    bytes: usize,
    last_number: StreamNumber,
    last_ticket: u64,
    last_used: Instant,
    closed: bool,
}

struct Event {
    place: u64,
    message: Outgoing,
}

struct Log {
    events: VecDeque<Event>,
    last_place: u64,
    /// The newest place that was given up.
    forgotten: u64,
    /// Answers that are still to come; `None` for the session's own stream, which has none and is never over.
    answers_due: Option<usize>,
    /// Messages so far that are no answers.
    others: usize,
    reader: Option<Reader>,
    /// A connection has shown it.
    was_shown: bool,
    /// A client was told an id, by which it can come back.
    told_id: bool,
}

struct Reader {
    ticket: u64,
    /// The first place that it has not taken.
    next: u64,
    waker: Option<Waker>,
}

impl Reader {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Log {
    fn new(answers_due: Option<usize>) -> Self {
        Self {
            events: VecDeque::new(),
            last_place: FIRST_PLACE,
            forgotten: 0,
            answers_due,
            others: 0,
            reader: None,
            was_shown: false,
            told_id: false,
        }
    }

    fn is_over(&self) -> bool {
        self.answers_due == Some(0)
    }

    fn wake(&mut self) {
        if let Some(reader) = &mut self.reader {
            reader.wake();
        }
    }

    /// Index of the first event at this place or behind it.
    fn index_of(&self, place: u64) -> usize {
        self.events.partition_point(|event| event.place < place)
    }

    /// Messages that the connection has not taken.
    fn unread(&self) -> usize {
        self.reader.as_ref().map_or(0, |reader| self.events.len() - self.index_of(reader.next))
    }
}

impl Inner {
    fn append(&mut self, limits: &Limits, number: StreamNumber, message: Outgoing) {
        let Some(log) = self.streams.get_mut(&number) else { return };
        // What is said before the client first listens waits for it: a client cannot listen before it is initialized.
        let waits_for_first = number == MAIN && !log.was_shown && log.events.len() < limits.unread;
        if log.reader.is_none() && !limits.keeps && !waits_for_first {
            return;
        }
        log.last_place += 1;
        self.bytes += message.len();
        log.events.push_back(Event { place: log.last_place, message });
        log.wake();
        self.forget(limits, number);
    }

    /// Gives up what is too much: streams that are over, then the oldest events of this one, but nothing that its
    /// connection has still to take, and not the newest event.
    fn forget(&mut self, limits: &Limits, number: StreamNumber) {
        while self.over.len() > limits.streams || (self.bytes > limits.bytes && self.over.len() > 1) {
            let Some(oldest) = self.over.pop_front() else { break };
            self.remove(oldest);
        }
        let Some(log) = self.streams.get_mut(&number) else { return };
        let needed = log.reader.as_ref().map_or(u64::MAX, |reader| reader.next);
        while (log.events.len() > limits.events || self.bytes > limits.bytes) && log.events.len() > 1 {
            let Some(oldest) = log.events.front().filter(|event| event.place < needed) else { break };
            log.forgotten = oldest.place;
            self.bytes -= oldest.message.len();
            log.events.pop_front();
        }
    }

    fn remove(&mut self, number: StreamNumber) -> Option<Log> {
        let log = self.streams.remove(&number)?;
        self.bytes -= log.events.iter().map(|event| event.message.len()).sum::<usize>();
        Some(log)
    }

    /// No connection shows this stream any more.
    fn left(&mut self, limits: &Limits, number: StreamNumber) {
        let Some(log) = self.streams.get_mut(&number) else { return };
        log.reader = None;
        if number == MAIN && !limits.keeps {
            self.bytes -= log.events.drain(..).map(|event| event.message.len()).sum::<usize>();
        } else if number != MAIN && !limits.keeps {
            self.remove(number);
        } else if log.is_over() {
            self.over.push_back(number);
            self.forget(limits, number);
        }
    }

    fn answer_came(&mut self, limits: &Limits, number: StreamNumber) {
        let Some(log) = self.streams.get_mut(&number) else { return };
        if let Some(due) = &mut log.answers_due {
            *due = due.saturating_sub(1);
        }
        log.wake();
        if log.is_over() && log.reader.is_none() {
            self.left(limits, number);
        }
    }

    fn show(&mut self, number: StreamNumber, next: u64) -> u64 {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        if let Some(log) = self.streams.get_mut(&number) {
            // The connection before sees that it is not meant any more.
            log.wake();
            log.was_shown = true;
            log.reader = Some(Reader { ticket, next, waker: None });
        }
        ticket
    }
}

impl Streams {
    /// Of a session that begins.
    pub fn new(limits: Limits) -> Arc<Self> {
        let inner = Inner {
            streams: HashMap::from([(MAIN, Log::new(None))]),
            over: VecDeque::new(),
            bytes: 0,
            last_number: MAIN,
            last_ticket: 0,
            last_used: Instant::now(),
            closed: false,
        };
        Arc::new(Self { limits, inner: Mutex::new(inner), room: Notify::new() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No code that holds the lock can leave the streams half-changed, so a panic elsewhere does not spoil them.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client has been heard of.
    pub fn touch(&self) {
        self.inner().last_used = Instant::now();
    }

    /// No connection shows anything, and the client was not heard of for so long.
    pub fn is_idle(&self, long: Duration) -> bool {
        let inner = self.inner();
        inner.last_used.elapsed() > long && inner.streams.values().all(|log| log.reader.is_none())
    }

    /// Begins the stream of a POST that is owed so many answers. It is shown from its beginning.
    pub fn begin(self: &Arc<Self>, answers: usize) -> Attachment {
        let mut inner = self.inner();
        inner.last_number += 1;
        let number = inner.last_number;
        if !inner.closed {
            inner.streams.insert(number, Log::new(Some(answers)));
        }
        let ticket = inner.show(number, FIRST_PLACE + 1);
        drop(inner);
        Attachment { streams: Arc::clone(self), number, ticket, opening: FIRST_PLACE }
    }

    /// Shows the session's own stream from now on; the first time from its beginning.
    ///
    /// # Errors
    /// [`Refused::Busy`] if another connection shows it and `takes_over` is not set.
    pub fn listen(self: &Arc<Self>, takes_over: bool) -> Result<Attachment, Refused> {
        let mut inner = self.inner();
        let opening = match inner.streams.get_mut(&MAIN) {
            Some(log) if log.reader.is_some() && !takes_over => return Err(Refused::Busy),
            Some(log) if log.was_shown => {
                log.last_place += 1;
                log.last_place
            }
            // The first time, or the session has just ended: then there is nothing to show.
            _ => FIRST_PLACE,
        };
        let ticket = inner.show(MAIN, opening + 1);
        drop(inner);
        Ok(Attachment { streams: Arc::clone(self), number: MAIN, ticket, opening })
    }

    /// Shows the stream that the id names, from what followed it.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn resume(self: &Arc<Self>, after: EventId, takes_over: bool) -> Result<Attachment, Refused> {
        let mut inner = self.inner();
        let log = inner.streams.get(&after.stream).ok_or(Refused::UnknownId)?;
        if after.place < log.forgotten.max(FIRST_PLACE) || after.place > log.last_place {
            return Err(Refused::UnknownId);
        }
        if log.reader.is_some() && !takes_over {
            return Err(Refused::Busy);
        }
        inner.over.retain(|number| *number != after.stream);
        let ticket = inner.show(after.stream, after.place + 1);
        drop(inner);
        Ok(Attachment { streams: Arc::clone(self), number: after.stream, ticket, opening: after.place })
    }

    /// Sends a message that is no answer, waiting for a connection that does not keep up. A stream without one keeps the
    /// message or drops it.
    ///
    /// # Errors
    /// The session is gone.
    pub async fn send(&self, number: StreamNumber, message: Outgoing) -> Result<(), ClientGone> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut inner = self.inner();
                if inner.closed {
                    return Err(ClientGone);
                }
                if inner.streams.get(&number).is_none_or(|log| log.unread() < self.limits.unread) {
                    inner.other(&self.limits, number, message);
                    return Ok(());
                }
            }
            room.await;
        }
    }

    /// As [`Self::send`], but drops the message where that would wait; `false` if so.
    pub fn send_if_room(&self, number: StreamNumber, message: Outgoing) -> bool {
        let mut inner = self.inner();
        let has_room = inner.streams.get(&number).is_none_or(|log| log.unread() < self.limits.unread);
        if has_room {
            inner.other(&self.limits, number, message);
        }
        has_room
    }

    /// Sends an answer.
    pub fn answer(&self, number: StreamNumber, answer: Outgoing) {
        let mut inner = self.inner();
        inner.append(&self.limits, number, answer);
        inner.answer_came(&self.limits, number);
    }

    /// An answer that is due will never come.
    pub fn withdraw_answer(&self, number: StreamNumber) {
        self.inner().answer_came(&self.limits, number);
    }

    /// Ends the connection that shows a stream, if its client can come back for the rest.
    pub fn hang_up(&self, number: StreamNumber) {
        let mut inner = self.inner();
        if let Some(log) = inner.streams.get_mut(&number).filter(|log| log.told_id) {
            log.wake();
            inner.left(&self.limits, number);
        }
        drop(inner);
        self.room.notify_waiters();
    }

    /// The session ends, and every connection with it.
    pub fn close(&self) {
        let mut inner = self.inner();
        inner.closed = true;
        inner.streams.values_mut().for_each(Log::wake);
        inner.streams.clear();
        inner.over.clear();
        inner.bytes = 0;
        drop(inner);
        self.room.notify_waiters();
    }
}

impl Inner {
    fn other(&mut self, limits: &Limits, number: StreamNumber, message: Outgoing) {
        if let Some(log) = self.streams.get_mut(&number) {
            log.others += 1;
        }
        self.append(limits, number, message);
    }
}

/// A connection that shows a stream. Dropping it leaves the stream, which goes on.
pub(crate) struct Attachment {
    streams: Arc<Streams>,
    number: StreamNumber,
    ticket: u64,
    /// What it shows comes after this place.
    opening: u64,
}

impl Attachment {
    /// Which stream.
    pub fn number(&self) -> StreamNumber {
        self.number
    }

    /// The id of a priming event. The client is told it: it can come back from now on.
    pub fn prime(&self) -> EventId {
        if let Some(log) = self.streams.inner().streams.get_mut(&self.number) {
            log.told_id = true;
        }
        EventId { stream: self.number, place: self.opening }
    }

    /// The next message and its id; `None` when the stream is over or this connection is not meant any more.
    pub fn poll_event(&self, cx: &Context<'_>) -> Poll<Option<(EventId, Outgoing)>> {
        let mut inner = self.streams.inner();
        let Some(log) = inner.streams.get_mut(&self.number) else { return Poll::Ready(None) };
        let Some(next) = log.reader.as_ref().filter(|reader| reader.ticket == self.ticket).map(|reader| reader.next)
        else {
            return Poll::Ready(None);
        };
        let index = log.index_of(next);
        let Some(place) = log.events.get(index).map(|event| event.place) else {
            if log.is_over() {
                return Poll::Ready(None);
            }
            if let Some(reader) = &mut log.reader {
                reader.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        let message = if self.streams.limits.keeps {
            log.told_id = true;
            log.events[index].message.clone()
        } else {
            // Only what nobody has taken is there, in its order.
            log.events.pop_front().map(|event| event.message).unwrap_or_default()
        };
        if let Some(reader) = &mut log.reader {
            reader.next = place + 1;
        }
        if !self.streams.limits.keeps {
            inner.bytes -= message.len();
        }
        drop(inner);
        self.streams.room.notify_waiters();
        Poll::Ready(Some((EventId { stream: self.number, place }, message)))
    }

    /// All answers are there, and nothing but answers.
    pub fn has_only_answers(&self) -> bool {
        let inner = self.streams.inner();
        inner.streams.get(&self.number).is_some_and(|log| log.is_over() && log.others == 0)
    }

    /// Waits until all answers are there, or the session is gone.
    pub async fn over(&self) {
        poll_fn(|cx| {
            let mut inner = self.streams.inner();
            let Some(log) = inner.streams.get_mut(&self.number).filter(|log| !log.is_over()) else {
                return Poll::Ready(());
            };
            if let Some(reader) = &mut log.reader {
                reader.waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Takes what is there; the stream is no more.
    pub fn into_messages(self) -> Vec<Outgoing> {
        let log = self.streams.inner().remove(self.number);
        log.map(|log| log.events.into_iter().map(|event| event.message).collect()).unwrap_or_default()
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut inner = self.streams.inner();
        inner.last_used = Instant::now();
        let reader = inner.streams.get(&self.number).and_then(|log| log.reader.as_ref());
        if reader.is_some_and(|reader| reader.ticket == self.ticket) {
            inner.left(&self.streams.limits, self.number);
        }
        drop(inner);
        self.streams.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
