//! The stream of one request of an inner session, or its main stream, message by message, wherever the session's owner is and
//! whoever becomes it meanwhile. A place in it ([`At`]) is enough for any instance to go on.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    backoff::Backoff,
    gateway::{
        open::{Mark, NotOpened, Opening},
        patience::patiently,
        resume::{Habits, Listening},
    },
    protocol::{
        event_id::EventId,
        jsonrpc::{Head, IdKey, Kind},
        session_id::SessionId,
        stream_key::{MAIN_STREAM, StreamKey},
    },
    session::attachment::{Block, Pump, Told},
};

/// Pauses between two looks into the log, for a reader whose stream somebody else shows.
const LOOKS: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// Pauses before a stream that has ended is asked for again.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));

/// A place in a stream: all up to here was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The session's epoch.
    pub epoch: u32,
    /// Place in the session's log.
    pub seq: u64,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A notification of the server.
    Notification {
        /// Its method.
        method: String,
        /// The message.
        body: Bytes,
    },
    /// A request of the server; its id is the router's.
    Question {
        /// By which it is answered.
        id: IdKey,
        /// Its method.
        method: String,
        /// The message.
        body: Bytes,
    },
    /// The answer to the request whose stream this is. Nothing follows.
    Answer {
        /// It is a result, and no error.
        success: bool,
        /// The message.
        body: Bytes,
    },
    /// Nothing; time has passed.
    Beat,
}

/// Why nothing more comes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The session is gone, or has no answer to this request and will have none.
    #[error("the session that worked on this request is gone")]
    Gone,
    /// The store does not answer.
    #[error("the session that works on this request cannot be read now")]
    Unavailable,
    /// This instance goes down; another one reads on.
    #[error("this instance is draining")]
    Draining,
}

/// See the module's text. Dropped, it is given up; the request is not.
#[derive(Debug)]
pub struct Reading {
    opening: Opening,
    session: SessionId,
    key: StreamKey,
    at: At,
    /// Before the last message.
    before: At,
    ready: VecDeque<(At, Said)>,
    source: Source,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one a request")]
enum Source {
    /// This process shows the stream.
    Shown(Pump),
    /// Somebody else does: the log is looked at from time to time.
    Log(Backoff),
    /// It is to be asked for.
    None,
}

impl Reading {
    /// A stream that this process shows already.
    pub(super) fn of(opening: Opening, session: SessionId, at: At, pump: Pump) -> Self {
        let key = pump.attachment().key;
        let source = Source::Shown(pump.yielding());
        Self { opening, session, key, at, before: at, ready: VecDeque::new(), source }
    }

    /// The stream after this place, at any instance. Whoever shows it now goes on by looking into the log.
    pub fn after(opening: Opening, session: SessionId, key: StreamKey, at: At) -> Self {
        Self { opening, session, key, at, before: at, ready: VecDeque::new(), source: Source::None }
    }

    /// Up to where it was read.
    pub fn at(&self) -> At {
        self.at
    }

    /// Up to where it was read before the last message: from there it is read again.
    pub fn before(&self) -> At {
        self.before
    }

    /// Which of the session's streams it is.
    pub fn key(&self) -> StreamKey {
        self.key
    }

    /// What is there already and was not read.
    pub fn next_at_once(&mut self) -> Option<Said> {
        let (at, said) = self.ready.pop_front()?;
        self.before = std::mem::replace(&mut self.at, at);
        Some(said)
    }

    /// This, which came last, is still to be read.
    pub fn back(&mut self, said: Said) {
        self.ready.push_front((self.at, said));
        self.at = self.before;
    }

    /// The next message. If its future is dropped before it is ready, only [`Self::at`] is of use: the rest is read anew from
    /// there.
    ///
    /// # Errors
    /// See [`Ended`].
    pub async fn next(&mut self) -> Result<Said, Ended> {
        let mut again = AGAIN;
        let begun = Instant::now();
        loop {
            if let Some(said) = self.next_at_once() {
                return Ok(said);
            }
            match &mut self.source {
                Source::Shown(pump) => match pump.next().await {
                    Ok(Some(block)) => {
                        let is_silent = block.iter().all(|told| *told == Told::Heartbeat);
                        self.take(&block);
                        if is_silent {
                            return Ok(Said::Beat);
                        }
                    }
                    // The answer may have come between the look into the log and the one whether it is still to come.
                    Ok(None) if pump.is_over() => {
                        self.look().await?;
                        if self.ready.is_empty() {
                            return Err(Ended::Gone);
                        }
                    }
                    Ok(None) if pump.has_yielded() => self.source = Source::Log(LOOKS),
                    // Its owner or the store has broken it: it is shown again from here on.
                    Ok(None) | Err(_) => {
                        self.source = Source::None;
                        actix_rt::time::sleep(again.pause()).await;
                    }
                },
                Source::Log(pauses) => {
                    let pause = pauses.pause();
                    actix_rt::time::sleep(pause).await;
                    self.look().await?;
                    if self.ready.is_empty() {
                        return Ok(Said::Beat);
                    }
                }
                Source::None => match self.listen().await {
                    Ok(pump) => self.source = Source::Shown(pump.yielding()),
                    Err(Ended::Unavailable) if begun.elapsed() < self.patience() => {
                        actix_rt::time::sleep(again.pause()).await;
                    }
                    Err(ended) => return Err(ended),
                },
            }
        }
    }

    fn patience(&self) -> Duration {
        self.opening.gateway.env.settings.redis.wait
    }

    async fn listen(&self) -> Result<Pump, Ended> {
        let stream = self.key.name().into_owned();
        let cursor = EventId { session: self.session, stream, epoch: self.at.epoch, seq: self.at.seq };
        // It comes back to what has ended.
        let habits = Habits::default();
        match self.opening.listen(self.session, None, Mark::Is(cursor), habits).await {
            Ok(Some(Listening::To(pump))) => Ok(pump),
            Ok(Some(Listening::Over | Listening::OtherVersion) | None) => Err(Ended::Gone),
            Err(NotOpened::Draining) => Err(Ended::Draining),
            Err(NotOpened::Store(_)) => Err(Ended::Unavailable),
            Err(_) => Err(Ended::Gone),
        }
    }

    /// Takes what the log has after the place that was read. `false`: nothing more.
    pub(super) async fn look(&mut self) -> Result<bool, Ended> {
        let gateway = &self.opening.gateway;
        let stream = &gateway.env.settings.stream;
        let (events, bytes) = (stream.replay_page_events, stream.replay_page_bytes);
        let (session, key, seq) = (self.session, self.key, self.at.seq);
        let read = || gateway.env.store.read_page(session, MAIN_STREAM, key, seq, events, bytes);
        let page = patiently(gateway, read).await.map_err(|_| Ended::Unavailable)?.ok_or(Ended::Gone)?;
        if page.epoch != self.at.epoch {
            // The session was made again: all of its new life is new.
            self.at = At { epoch: page.epoch, seq: 0 };
            return Ok(true);
        }
        let is_new = !page.events.is_empty();
        for event in page.events {
            let at = At { epoch: page.epoch, seq: event.seq };
            match event.body.and_then(said) {
                Some(said) => self.ready.push_back((at, said)),
                None if self.ready.is_empty() => self.at = at,
                None => {}
            }
        }
        Ok(is_new)
    }

    fn take(&mut self, block: &Block) {
        for told in block.iter() {
            match told {
                Told::Event { epoch, seq, body } => {
                    let at = At { epoch: *epoch, seq: *seq };
                    match said(body.clone()) {
                        Some(said) => self.ready.push_back((at, said)),
                        None if self.ready.is_empty() => self.at = at,
                        None => {}
                    }
                }
                Told::Opening { epoch, .. } | Told::Prime { epoch, .. } if *epoch != self.at.epoch => {
                    self.at = At { epoch: *epoch, seq: 0 };
                }
                // Of what is lost the log tells nobody, and the newest event, which an answer is, is never lost.
                Told::Opening { .. }
                | Told::Prime { .. }
                | Told::Pause { .. }
                | Told::Unnumbered(_)
                | Told::Heartbeat => {}
            }
        }
    }
}

/// What a message is. `None`: none that anybody could read.
pub fn said(body: Bytes) -> Option<Said> {
    let kind = Head::parse(&body).ok()?.kind;
    Some(match kind {
        Kind::Response { success, .. } => Said::Answer { success, body },
        Kind::Request { id, method } => {
            let method = method.into_owned();
            Said::Question { id, method, body }
        }
        Kind::Notification { method } => {
            let method = method.into_owned();
            Said::Notification { method, body }
        }
    })
}
