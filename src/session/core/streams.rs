//! The client's streams of one session, by key: which connection of this process shows each, and since when nobody shows
//! any.
//!
//! Owns the table and decides what a connection that joins or ends, and what the store's word of holders, means for it.
//! The actor ends and wakes connections as it is told here. It has no clock: time comes in.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub use crate::protocol::stream_key::{MAIN_STREAM, StreamKey};

/// A connection that shows a stream, as far as it matters here.
pub trait Connection {
    /// By which the store knows it.
    fn id(&self) -> u64;
    /// The stream that it shows.
    fn key(&self) -> StreamKey;
    /// How far it has come.
    fn sent(&self) -> u64;
    /// Gives back what a burst has left.
    fn shrink(&self);
}

/// See the module's text.
#[derive(Debug)]
pub struct Streams<C> {
    main: Shown<C>,
    /// The others that a connection of this process shows.
    others: Vec<(StreamKey, Shown<C>)>,
    /// How often a connection of this process has joined.
    joined: u64,
    /// Since when no connection shows the session, as far as this process knows.
    alone_since: Option<Instant>,
    /// Holders by the store's word at an adoption, looked for once.
    inherited: Vec<(StreamKey, u64)>,
    /// Where an adopter has found the log.
    found_at: u64,
}

/// One stream of it.
#[derive(Debug)]
struct Shown<C> {
    attachment: Option<Arc<C>>,
    /// The count of joins when this one did: what the store said before that says nothing of it.
    joined: u64,
    /// How far its connections had come, by what the store was told.
    sent_on_record: u64,
    /// The log has nothing for it after here that its connection was not given.
    tail: u64,
}

impl<C> Default for Streams<C> {
    fn default() -> Self {
        Self {
            main: Shown::default(),
            others: Vec::new(),
            joined: 0,
            alone_since: None,
            inherited: Vec::new(),
            found_at: 0,
        }
    }
}

impl<C> Default for Shown<C> {
    fn default() -> Self {
        Self { attachment: None, joined: 0, sent_on_record: 0, tail: 0 }
    }
}

impl<C: Connection> Streams<C> {
    /// Of a session that was just created, by the connection that shows its main stream.
    pub fn of_new(attachment: Arc<C>) -> Self {
        Self { main: Shown { attachment: Some(attachment), ..Shown::default() }, ..Self::default() }
    }

    /// Of a session that was just created, which nobody shows yet.
    pub fn of_none(now: Instant) -> Self {
        Self { alone_since: Some(now), ..Self::default() }
    }

    /// Of an adopted session: who holds its streams, by the store.
    pub fn inherited(holders: impl IntoIterator<Item = (StreamKey, u64)>, now: Instant) -> Self {
        Self { inherited: holders.into_iter().collect(), alone_since: Some(now), ..Self::default() }
    }

    /// The connections of this process: those that an adopter found in the store show their streams.
    pub fn find_inherited(&mut self, held: &[Arc<C>]) {
        for (stream, holder) in std::mem::take(&mut self.inherited) {
            if let Some(found) = held.iter().find(|attachment| attachment.id() == holder) {
                let tail = self.found_at;
                let shown = self.shown_mut(stream);
                (shown.attachment, shown.tail) = (Some(Arc::clone(found)), tail);
                self.alone_since = None;
            }
        }
    }

    /// There may be some to be found.
    pub fn has_inherited(&self) -> bool {
        !self.inherited.is_empty()
    }

    /// An adopter finds the log at this sequence; the connections that it finds read what is there by themselves.
    pub fn log_is_at(&mut self, seq: u64) {
        self.main.tail = seq;
        self.others.iter_mut().for_each(|(_, shown)| shown.tail = seq);
        self.found_at = seq;
    }

    /// An event of this stream stands at `seq`: the connection that shows it, and the place after which nothing else in the
    /// log was for it.
    pub fn next_on(&mut self, stream: StreamKey, seq: u64) -> Option<(&Arc<C>, u64)> {
        let shown = match stream {
            StreamKey::Main => &mut self.main,
            _ => self.others.iter_mut().find_map(|(key, shown)| (*key == stream).then_some(shown))?,
        };
        let after = std::mem::replace(&mut shown.tail, seq);
        Some((shown.attachment.as_ref()?, after))
    }

    /// A connection shows its stream from now on, while the log is at `log_at`. The one before it, if another did.
    pub fn join(&mut self, attachment: Arc<C>, log_at: u64) -> Option<Arc<C>> {
        self.alone_since = None;
        self.joined += 1;
        let (id, joined) = (attachment.id(), self.joined);
        let shown = self.shown_mut(attachment.key());
        shown.joined = joined;
        shown.tail = log_at;
        // An adopter may have found it in the store already.
        shown.attachment.replace(attachment).filter(|before| before.id() != id)
    }

    /// The stream of a request is over: it has its answer, or nobody wants one. Who shows it here.
    pub fn over(&mut self, stream: StreamKey, now: Instant) -> Option<Arc<C>> {
        let at = self.others.iter().position(|(key, _)| *key == stream)?;
        let (_, shown) = self.others.swap_remove(at);
        if !self.is_shown_here() {
            self.alone_since.get_or_insert(now);
        }
        shown.attachment
    }

    /// A connection has ended. `true`: it was the last one (OWN-8: no successor of it shows its stream).
    pub fn leave(&mut self, id: u64, now: Instant) -> bool {
        let is_it = |shown: &Shown<C>| shown.attachment.as_ref().is_some_and(|attachment| attachment.id() == id);
        let was_shown = if is_it(&self.main) {
            self.main.attachment = None;
            true
        } else {
            let before = self.others.len();
            self.others.retain(|(_, shown)| !is_it(shown));
            self.others.len() < before
        };
        let is_last = was_shown && !self.is_shown_here();
        if is_last {
            self.alone_since = Some(now);
        }
        is_last
    }

    /// What the store said of holders when [`Streams::joins`] was `joins_then`: takes one of this process's connections
    /// that has a successor elsewhere, as long as there is one. OWN-7
    pub fn take_superseded(&mut self, joins_then: u64, holder: impl Fn(StreamKey) -> Option<u64>) -> Option<Arc<C>> {
        let take = |key, shown: &mut Shown<C>| {
            let joined_since = shown.joined > joins_then;
            shown.attachment.take_if(|mine| is_superseded(mine.id(), holder(key), joined_since))
        };
        take(StreamKey::Main, &mut self.main).or_else(|| {
            let (at, taken) =
                self.others.iter_mut().enumerate().find_map(|(at, (key, shown))| Some((at, take(*key, shown)?)))?;
            self.others.swap_remove(at);
            Some(taken)
        })
    }

    /// The connection of this process that shows this stream.
    pub fn get(&self, stream: StreamKey) -> Option<&Arc<C>> {
        let shown = match stream {
            StreamKey::Main => &self.main,
            _ => &self.others.iter().find(|(key, _)| *key == stream)?.1,
        };
        shown.attachment.as_ref()
    }

    /// The connections of this process that show a stream.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<C>> {
        self.main.attachment.iter().chain(self.others.iter().filter_map(|(_, shown)| shown.attachment.as_ref()))
    }

    /// A connection of this process shows a stream.
    pub fn is_shown_here(&self) -> bool {
        self.iter().next().is_some()
    }

    /// How often one has joined.
    pub fn joins(&self) -> u64 {
        self.joined
    }

    /// Since when nobody shows the session, as far as this process knows.
    pub fn alone_since(&self) -> Option<Instant> {
        self.alone_since
    }

    /// For how long nobody has.
    pub fn alone_for(&self, now: Instant) -> Duration {
        self.alone_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// From now on nobody does, as far as this process knows: it looks again after the same time.
    pub fn alone_from(&mut self, now: Instant) {
        self.alone_since = Some(now);
    }

    /// A look at this process's connections, one of which shows the session or shows it no more.
    pub fn looked(&mut self, held_here: bool, now: Instant) {
        // Else the stream is on another instance, or its end was missed.
        self.alone_since = if held_here { None } else { self.alone_since.or(Some(now)) };
    }

    /// How far the main stream's connection has come, if the store has not been told.
    pub fn news_of_sent(&mut self) -> Option<u64> {
        let sent = self.main.attachment.as_ref()?.sent();
        (sent > self.main.sent_on_record).then(|| {
            self.main.sent_on_record = sent;
            sent
        })
    }

    /// What the connections had come to is of a log that is lost.
    pub fn restart(&mut self) {
        self.main.sent_on_record = 0;
        self.log_is_at(0);
    }

    /// Gives back what a burst has left.
    pub fn shrink(&mut self) {
        self.others.shrink_to_fit();
        self.iter().for_each(|attachment| attachment.shrink());
    }

    fn shown_mut(&mut self, stream: StreamKey) -> &mut Shown<C> {
        if stream == StreamKey::Main {
            return &mut self.main;
        }
        let at = self.others.iter().position(|(key, _)| *key == stream).unwrap_or_else(|| {
            self.others.push((stream, Shown::default()));
            self.others.len() - 1
        });
        &mut self.others[at].1
    }
}

/// Whether the connection of this process, `mine`, has a successor elsewhere, by the store's word of who holds the stream.
/// `joined_since`: mine has joined after the store was asked. OWN-7
fn is_superseded(mine: u64, holder: Option<u64>, joined_since: bool) -> bool {
    // What was said of its predecessors is not about it: it would be silenced for good, with nobody in its place.
    !joined_since && holder.is_some_and(|holder| holder != mine)
}

#[cfg(test)]
mod tests;
