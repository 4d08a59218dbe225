//! The body of a client stream: from the mailbox and from the log, in order, each event once.
//!
//! Owns the client's cursor and the stream's one timer. What it reads in the log is in [`super::log`], whose stream it is while
//! only a cookie says so in [`super::doubt`], and who holds the stream in the store in [`super::hold`]. It makes no bytes.

use std::{collections::VecDeque, future::poll_fn, pin::Pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use super::{
    Attachment, End, Pushed,
    told::{Block, Told},
};
use crate::{backoff::Backoff, fault, protocol::stream_key::StreamKey, session::env::Env};

/// What was so when a stream was opened by a cookie alone; see [`Pump::in_doubt`].
#[derive(Debug, Clone, Copy)]
pub struct Doubt {
    /// How many attachments the session's stream had had, with this one.
    pub attach_count: u64,
    /// Messages that its client had sent when its stream ended. If it has sent one since, it lives, and this is its stream.
    pub in_seq: u64,
    /// After here stands what may have been lost on the way to the session's own client.
    pub replay_from: u64,
}

/// What a look into the log has come to.
pub(super) enum Read {
    Told(Block),
    Nothing,
    End(End),
}

impl Read {
    pub(super) fn of(block: Block) -> Self {
        if block.is_empty() { Self::Nothing } else { Self::Told(block) }
    }
}

/// The body of a client stream.
#[derive(Debug)]
pub struct Pump {
    pub(super) env: Arc<Env>,
    pub(super) attachment: Arc<Attachment>,
    pub(super) epoch: u32,
    pub(super) cursor: u64,
    /// Events that are being taken out of the mailbox; empty between two looks.
    pub(super) taken: VecDeque<Pushed>,
    /// Sent before anything else.
    pub(super) first: Block,
    /// Up to here a connection was given the events; see [`Pump::resume_without_cursor`].
    pub(super) only_needed_until: u64,
    /// Up to here only that is sent which the client is not proven to have had.
    pub(super) unproven_until: u64,
    /// While it is in doubt whose stream this is; see [`Pump::in_doubt`].
    pub(super) doubt: Option<Doubt>,
    /// Resumed, and no page has been read yet: a hole right behind the cursor is said aloud instead of closing the stream again.
    pub(super) fresh: bool,
    /// Resumed, and it has not come to the end of the log since: what it sends was there before it.
    pub(super) replays: bool,
    /// The log says already that this stream could not be served in full.
    pub(super) told: bool,
    /// Since when the log is behind what this stream has sent.
    pub(super) behind_since: Option<Instant>,
    pub(super) parked: bool,
    /// The store knows that this process shows the stream. Not of the stream of a request whose owner is in this process.
    pub(super) is_registered: bool,
    /// It was registered when the answer may have been there already, which takes the holder away.
    pub(super) is_late: bool,
    /// The stream of a request has given its answer: nothing follows.
    pub(super) is_over: bool,
    /// It ends when what there is has gone out, and its client comes back after this time.
    pub(super) pauses: Option<Duration>,
    /// It ends cleanly also where its client is to come back.
    pub(super) ends_cleanly: bool,
    /// It ends when somebody else shows the stream.
    pub(super) yields: bool,
    pub(super) next_heartbeat: Instant,
    pub(super) next_poll: Instant,
    /// The one timer of the stream, for the earlier of the two.
    pub(super) timer: Pin<Box<Sleep>>,
    pub(super) read_backoff: Backoff,
}

/// The client stream was aborted on purpose, so that the client comes back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stream aborted: {0}")]
pub struct Aborted(pub &'static str);

/// First wait before a page that could not be read is tried again; doubled up to the store's own time-out.
const READ_RETRY: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    ByMailbox,
    ByTimer,
}

impl Pump {
    /// A body that starts with `first` and goes on after `cursor`.
    pub fn new(env: Arc<Env>, attachment: Arc<Attachment>, epoch: u32, cursor: u64, first: Block) -> Self {
        attachment.has_sent(cursor);
        env.directory.insert_attachment(Arc::clone(&attachment));
        env.metrics.streams.inc();
        let next_poll = Instant::now() + env.settings.session.poll_interval;
        let next_heartbeat = Instant::now() + env.settings.stream.heartbeat;
        let read_timeout = env.settings.redis.timeout;
        let ends_cleanly = attachment.key != StreamKey::Main;
        Self {
            env,
            attachment,
            epoch,
            cursor,
            taken: VecDeque::new(),
            first,
            only_needed_until: 0,
            unproven_until: 0,
            doubt: None,
            fresh: false,
            replays: false,
            told: false,
            behind_since: None,
            parked: false,
            is_registered: true,
            is_late: true,
            is_over: false,
            ends_cleanly,
            yields: false,
            pauses: None,
            next_heartbeat,
            next_poll,
            timer: Box::pin(tokio::time::sleep_until(next_poll.min(next_heartbeat))),
            read_backoff: Backoff::new(READ_RETRY, read_timeout),
        }
    }

    /// The stream of a request that has just come. `is_registered`: the store knows who shows it, because its owner may be
    /// elsewhere.
    pub fn of_request(mut self, is_registered: bool) -> Self {
        self.is_registered = is_registered;
        self.is_late = self.cursor == 0;
        if is_registered {
            // Something may have come before this process could be woken.
            self.attachment.look();
        }
        self
    }

    /// Whether it ends cleanly also where its client is to come back, as streams of Streamable HTTP do: the client waits for as
    /// long as it was told then (MCP 2025-11-25, polling). It is so for streams of requests, and for no other, until it is said.
    pub fn ending_cleanly(mut self, cleanly: bool) -> Self {
        self.ends_cleanly = cleanly;
        self
    }

    /// It ends when somebody else shows the stream, for a reader who goes on by himself then.
    pub fn yielding(mut self) -> Self {
        self.yields = true;
        self
    }

    /// It has ended for that reason.
    pub fn has_yielded(&self) -> bool {
        self.yields && self.parked
    }

    /// It ends cleanly as soon as what there is has gone out, and its client is to come back after `retry`: for clients that
    /// count how often a stream of theirs has broken, and begin anew after a clean end.
    pub fn pausing(mut self, retry: Duration) -> Self {
        self.pauses = Some(retry);
        self
    }

    /// This goes out before anything else.
    pub fn begin_with(&mut self, first: Block) {
        self.first = first;
    }

    /// The stream of a request has given its answer.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// What the log has for the stream first, if it comes within this time. Nothing is lost when it does not.
    pub async fn first_within(&mut self, patience: Duration) -> Option<Block> {
        let deadline = Instant::now() + patience;
        loop {
            if std::mem::take(&mut self.attachment.queue().look) {
                match self.read().await {
                    Read::Told(block) => {
                        fault::point(fault::BEFORE_DELIVER);
                        return Some(block);
                    }
                    Read::Nothing => continue,
                    Read::End(end) => {
                        self.attachment.end(end);
                        return None;
                    }
                }
            }
            if tokio::time::timeout_at(deadline, self.wait()).await != Ok(Woken::ByMailbox) {
                return None;
            }
            let queue = self.attachment.queue();
            if queue.end.is_some() || !queue.events.is_empty() {
                return None;
            }
        }
    }

    /// The stream is a resumed one: it starts by reading the log, and a cursor that cannot be served is said aloud.
    pub fn resumed(mut self) -> Self {
        self.fresh = true;
        self.replays = true;
        self.attachment.look();
        self
    }

    /// The client came back without a cursor (the TypeScript SDK sends none). Of what was handed to its connections,
    /// `cursor..=sent`, answers and open questions of the server are sent again, which clients tell apart by id, unless the
    /// client is proven to have had them (`attachment/replay`); notifications are not. `sent` may lag, so that what follows it is
    /// looked at in the same way, but that notifications in it are sent.
    pub fn resume_without_cursor(mut self, cursor: u64, sent: u64) -> Self {
        self.cursor = cursor;
        self.only_needed_until = sent;
        // Found by the first page.
        self.unproven_until = u64::MAX;
        self
    }

    /// Whose stream it is.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Of the stream of a request: its answer, for a client that takes nothing else. What comes before it is passed over.
    pub async fn answer(mut self) -> Option<Bytes> {
        while let Ok(Some(block)) = self.next().await {
            let last = block.iter().last();
            if let (true, Some(Told::Event { body, .. })) = (self.is_over, last) {
                return Some(body.clone());
            }
        }
        None
    }

    /// What the client is to be told next; nothing more: a clean end.
    ///
    /// # Errors
    /// The connection is to be closed without a last chunk.
    pub async fn next(&mut self) -> Result<Option<Block>, Aborted> {
        if !self.first.is_empty() {
            return Ok(Some(std::mem::take(&mut self.first)));
        }
        loop {
            let (mut events, look, end) = {
                let mut queue = self.attachment.queue();
                // A resumed stream reads first: what is pushed follows its cursor only when the log says so.
                if !self.fresh {
                    queue.bytes = 0;
                    // Swapped with an empty one of the same capacity, so that neither is made anew for each event.
                    std::mem::swap(&mut queue.events, &mut self.taken);
                }
                (std::mem::take(&mut self.taken), std::mem::take(&mut queue.look), queue.end)
            };
            self.parked |= end == Some(End::Superseded);
            if self.parked && self.yields {
                return Ok(None);
            }
            let (mut fresh, mut behind) = (Block::default(), false);
            if !self.parked {
                (fresh, behind) = self.take_next(&mut events);
                self.taken = events;
            }
            if fresh.is_empty() && self.is_over {
                return Ok(None);
            }
            // What is ready goes out before the stream ends: the log that has it may be lost with the store.
            if !fresh.is_empty() {
                if behind || look {
                    // Read the log in the next turn.
                    self.attachment.queue().look = true;
                }
                return Ok(Some(fresh));
            }
            match end {
                Some(End::Abort(reason)) => {
                    // The server would throw away what it was given in this very turn and has not written yet.
                    tokio::task::yield_now().await;
                    return if self.ends_cleanly { Ok(None) } else { Err(Aborted(reason)) };
                }
                Some(End::Finished) => return Ok(None),
                Some(End::Superseded) | None => {}
            }
            if !self.parked && (behind || look) {
                match self.read().await {
                    Read::Told(block) => {
                        fault::point(fault::BEFORE_DELIVER);
                        return Ok(Some(block));
                    }
                    Read::Nothing => {}
                    Read::End(end) => self.attachment.end(end),
                }
                continue;
            }
            if let Some(retry) = self.pauses.take() {
                self.is_over = true;
                return Ok(Some(Block::one(Told::Pause { epoch: self.epoch, seq: self.cursor, retry })));
            }
            if self.wait().await == Woken::ByTimer {
                let now = Instant::now();
                let heartbeat_is_due = now >= self.next_heartbeat;
                if now >= self.next_poll {
                    self.next_poll = now + self.env.settings.session.poll_interval;
                    if self.parked {
                        self.reclaim().await;
                    } else if self.env.directory.session(&self.attachment.session).is_none() {
                        // Finds what a lost wake-up missed; the owner in this process needs no wake-ups.
                        self.attachment.queue().look = true;
                    }
                }
                if heartbeat_is_due {
                    self.next_heartbeat = now + self.env.settings.stream.heartbeat;
                }
                self.timer.as_mut().reset(self.next_poll.min(self.next_heartbeat));
                if heartbeat_is_due {
                    return Ok(Some(Block::one(Told::Heartbeat)));
                }
            }
        }
    }

    /// Until there is something in the mailbox, or the timer is over.
    async fn wait(&mut self) -> Woken {
        let Self { attachment, timer, parked, .. } = self;
        poll_fn(|context| {
            attachment.register(context.waker());
            if attachment.queue().has_news(*parked) {
                return Poll::Ready(Woken::ByMailbox);
            }
            timer.as_mut().poll(context).map(|()| Woken::ByTimer)
        })
        .await
    }

    /// Takes those pushed events that follow the cursor. The flag says that some are further ahead.
    fn take_next(&mut self, events: &mut VecDeque<Pushed>) -> (Block, bool) {
        let mut fresh = Block::default();
        let mut behind = false;
        if self.doubt.is_some() {
            // The log is read instead: by then it may be another life's.
            behind = !events.is_empty();
            events.clear();
            return (fresh, behind);
        }
        for Pushed { epoch, after, seq, is_last, body } in events.drain(..) {
            // What stands between is of other streams.
            let follows = after <= self.cursor && self.cursor < seq;
            if follows && seq > self.only_needed_until {
                self.cursor = seq;
                self.is_over |= is_last;
                fresh.push(Told::Event { epoch, seq, body });
            } else if seq > self.cursor {
                behind = true;
                break;
            }
        }
        if !fresh.is_empty() {
            self.attachment.has_sent(self.cursor);
        }
        (fresh, behind)
    }
}
