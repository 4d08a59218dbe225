//! The body of a client stream: from the mailbox and from the log, in order, each event once.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::{
    Attachment, End, Pushed,
    replay::{self, Known},
    told::{Block, Told, resume_failed},
};
use crate::{
    backoff::Backoff,
    fault,
    protocol::jsonrpc::{Head, Kind},
    session::{
        env::Env,
        messages::{AttachLocal, Detached},
    },
    store::{Attach, Attachment as StoredAttachment, Hint, Page, StoreError},
};

/// The body of a client stream.
#[derive(Debug)]
pub struct Pump {
    env: Arc<Env>,
    attachment: Arc<Attachment>,
    epoch: u32,
    cursor: u64,
    /// Events that are being taken out of the mailbox; empty between two looks.
    taken: VecDeque<Pushed>,
    /// Sent before anything else.
    first: Block,
    /// Up to here a connection was given the events; see [`Pump::resume_without_cursor`].
    only_needed_until: u64,
    /// Up to here only that is sent which the client is not proven to have had.
    unproven_until: u64,
    /// While it is in doubt whose stream this is; see [`Pump::in_doubt`].
    doubt: Option<Doubt>,
    /// Resumed, and no page has been read yet: a hole right behind the cursor is said aloud instead of closing the stream again.
    fresh: bool,
    /// The log says already that this stream could not be served in full.
    told: bool,
    /// Since when the log is behind what this stream has sent.
    behind_since: Option<Instant>,
    parked: bool,
    next_heartbeat: Instant,
    next_poll: Instant,
    /// The one timer of the stream, for the earlier of the two.
    timer: Pin<Box<Sleep>>,
    read_backoff: Backoff,
}

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

/// The client stream was aborted on purpose, so that the client comes back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stream aborted: {0}")]
pub struct Aborted(pub &'static str);

/// First wait before a page that could not be read is tried again; doubled up to the store's own time-out.
const READ_RETRY: Duration = Duration::from_millis(50);

/// How long a log may be behind what was sent, with nothing broken by the router: the store has come back with older data,
/// and the session's owner is about to write the session again.
const BEHIND: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    ByMailbox,
    ByTimer,
}

enum Read {
    Told(Block),
    Nothing,
    End(End),
}

impl Read {
    fn of(block: Block) -> Self {
        if block.is_empty() { Self::Nothing } else { Self::Told(block) }
    }
}

impl Pump {
    /// A body that starts with `first` and goes on after `cursor`.
    pub fn new(env: Arc<Env>, attachment: Arc<Attachment>, epoch: u32, cursor: u64, first: Block) -> Self {
        attachment.sent.store(cursor, Ordering::Release);
        env.directory.insert_attachment(Arc::clone(&attachment));
        env.metrics.streams.inc();
        let next_poll = Instant::now() + env.settings.session.poll_interval;
        let next_heartbeat = Instant::now() + env.settings.stream.heartbeat;
        let read_timeout = env.settings.redis.timeout;
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
            told: false,
            behind_since: None,
            parked: false,
            next_heartbeat,
            next_poll,
            timer: Box::pin(tokio::time::sleep_until(next_poll.min(next_heartbeat))),
            read_backoff: Backoff::new(READ_RETRY, read_timeout),
        }
    }

    /// The stream is a resumed one: it starts by reading the log, and a cursor that cannot be served is said aloud.
    pub fn resumed(mut self) -> Self {
        self.fresh = true;
        self.attachment.look();
        self
    }

    /// The client came back without a cursor (the TypeScript SDK sends none). Of what was handed to its connections,
    /// `cursor..=sent`, answers and open questions of the server are sent again, which clients tell apart by id, unless the
    /// client is proven to have had them ([`replay`]); notifications are not. `sent` may lag, so that what follows it is
    /// looked at in the same way, but that notifications in it are sent.
    pub fn resume_without_cursor(mut self, cursor: u64, sent: u64) -> Self {
        self.cursor = cursor;
        self.only_needed_until = sent;
        // Found by the first page.
        self.unproven_until = u64::MAX;
        self
    }

    /// The session was found by a cookie alone, which another client of the same program or browser may have sent. Until
    /// the first message of the client shows that it is the session's own, it gets notifications and nothing else: never
    /// somebody else's answers. A new client's session is renewed, and this stream goes on with the new one.
    pub fn in_doubt(mut self, doubt: Doubt) -> Self {
        self.doubt = Some(doubt);
        self.attachment.doubted.store(true, Ordering::Release);
        self
    }

    /// Whose stream it is.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
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
            let (mut fresh, mut behind) = (Block::default(), false);
            if !self.parked {
                (fresh, behind) = self.take_next(&mut events);
                self.taken = events;
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
                    return Err(Aborted(reason));
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
            attachment.woken.register(context.waker());
            if attachment.queue().has_news(*parked) {
                return Poll::Ready(Woken::ByMailbox);
            }
            timer.as_mut().poll(context).map(|()| Woken::ByTimer)
        })
        .await
    }

    /// A superseded stream whose successor has gone takes its place back. That successor may have been a GET that its
    /// client had given up, served late by a process that had been paused: the client still listens here, and would for
    /// ever. If it does not, its next stream supersedes this one again.
    async fn reclaim(&mut self) {
        let (session, stream) = (self.attachment.session, Arc::clone(&self.attachment.stream));
        match self.env.store.read_page(session, &stream, self.cursor, 0, 0).await {
            Ok(Some(page)) if page.epoch == self.epoch && page.holder.is_some_and(|id| id != self.attachment.id) => {
                return;
            }
            Ok(Some(page)) if page.epoch == self.epoch => {
                let attachment = StoredAttachment {
                    stream: (*stream).to_owned(),
                    incarnation: Arc::clone(&self.env.me.incarnation),
                    id: self.attachment.id,
                };
                match self.env.store.attach(Attach { session, attachment }).await {
                    Ok(_) => {}
                    Err(error) => return self.env.count_store_error(&error),
                }
            }
            // The session is over, or lives anew: reading on tells.
            Ok(_) => {}
            Err(error) => return self.env.count_store_error(&error),
        }
        {
            let mut queue = self.attachment.queue();
            if queue.end == Some(End::Superseded) {
                queue.end = None;
            }
            queue.look = true;
        }
        self.parked = false;
        if let Some(owner) = self.env.directory.session(&session) {
            // An owner that has ended meanwhile needs to know nothing.
            let _ = owner.send(AttachLocal { attachment: Arc::clone(&self.attachment) }).await;
        }
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
        for Pushed { epoch, seq, body } in events.drain(..) {
            if seq == self.cursor + 1 && seq > self.only_needed_until {
                self.cursor = seq;
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

    async fn read(&mut self) -> Read {
        if self.doubt.is_some() {
            self.ask_for_proof().await;
        }
        let before = if self.cursor < self.unproven_until { Some(self.known().await) } else { None };
        let stream = &self.env.settings.stream;
        let page = self
            .env
            .store
            .read_page(
                self.attachment.session,
                &self.attachment.stream,
                self.cursor,
                stream.replay_page_events,
                stream.replay_page_bytes,
            )
            .await;
        match page {
            Ok(Some(page)) => {
                if self.is_behind(&page) {
                    tokio::time::sleep(self.read_backoff.pause()).await;
                    self.attachment.look();
                    return Read::Nothing;
                }
                self.read_backoff.reset();
                self.unproven_until = self.unproven_until.min(page.last_seq);
                let known = match page.events.first() {
                    // Asked after the page was read, so that nothing in it is newer than the answer.
                    Some(first) if first.seq <= self.unproven_until => {
                        Some(self.known().await.and_before(before.unwrap_or_default()))
                    }
                    _ => None,
                };
                self.take_page(page, known)
            }
            Ok(None) if self.env.data_lost().await => Read::End(End::Abort("the session store lost its data")),
            Ok(None) => Read::End(End::Finished),
            Err(error) => {
                self.env.count_store_error(&error);
                if matches!(error, StoreError::Corrupt(_)) {
                    tracing::error!(session = %self.attachment.session, %error, "cannot read the event log");
                    return Read::End(End::Abort("the event log cannot be read"));
                }
                // DUR-2: nothing with an id goes out that cannot be read; the stream waits for the store.
                tokio::time::sleep(self.read_backoff.pause()).await;
                self.attachment.look();
                Read::Nothing
            }
        }
    }

    /// The log is behind what this stream has sent, and that may be the doing of the store.
    fn is_behind(&mut self, page: &Page) -> bool {
        let is_mine = page.epoch == self.epoch && page.holder == Some(self.attachment.id);
        if !is_mine || self.fresh || page.last_seq >= self.cursor {
            self.behind_since = None;
            return false;
        }
        self.behind_since.get_or_insert_with(Instant::now).elapsed() < BEHIND
    }

    /// What is known of the client's side; nothing, if the store does not say: a repetition is better than a loss.
    async fn known(&self) -> Known {
        let (store, session) = (&self.env.store, self.attachment.session);
        let known = async {
            let Some(head) = store.load(session).await? else { return Ok(Known::default()) };
            Ok::<_, StoreError>(Known::new(&head, store.pending_ids(session).await?))
        };
        known.await.unwrap_or_else(|error| {
            self.env.count_store_error(&error);
            Known::default()
        })
    }

    /// The proof may have come to any instance; the session's head tells.
    async fn ask_for_proof(&mut self) {
        let Some(doubt) = self.doubt else { return };
        let proved = !self.attachment.is_doubted()
            || match self.env.store.load(self.attachment.session).await {
                Ok(Some(head)) => {
                    let same_life = head.ownership.is_some_and(|ownership| ownership.epoch == self.epoch);
                    let is_settled = head.doubted != Some(doubt.attach_count);
                    // It has been spoken for under its own URL, too: by a client that keeps to that.
                    same_life && (is_settled || head.in_seq > doubt.in_seq)
                }
                // What follows finds out.
                Ok(None) => false,
                Err(error) => {
                    self.env.count_store_error(&error);
                    false
                }
            };
        if proved {
            self.doubt = None;
            // Now what may have been lost on the way; the notifications up to here are not sent again.
            self.only_needed_until = self.cursor;
            self.cursor = self.cursor.min(doubt.replay_from);
            self.unproven_until = u64::MAX;
        }
    }

    /// `known` for a page of which some may be sent for the second time.
    fn take_page(&mut self, page: Page, known: Option<Known>) -> Read {
        if page.epoch != self.epoch && self.doubt.is_some() {
            // Renewed for the client that looks on: all of the new life is its own.
            (self.epoch, self.cursor) = (page.epoch, 0);
            (self.only_needed_until, self.unproven_until) = (0, 0);
            self.doubt = None;
            self.attachment.sent.store(0, Ordering::Release);
            self.attachment.look();
            return Read::Nothing;
        }
        if page.epoch != self.epoch {
            // The session was made again after a loss of data: the client must come back and be told. EVT-6
            return Read::End(End::Abort("the session was made again"));
        }
        if page.holder != Some(self.attachment.id) {
            return Read::End(End::Superseded);
        }
        let fresh = std::mem::take(&mut self.fresh);
        let mut block = Block::default();
        let next = page.events.first().map_or(page.last_seq + 1, |event| event.seq);
        if !self.follows(next) {
            // A reader that is slower than its server, and whose log has moved on: back pressure would hold up the session
            // and whoever else it serves, so it is told what it will not get. EVT-6
            let expired = next > self.cursor && page.events.first().is_some_and(|first| first.seq == page.first_seq);
            if !fresh && !expired {
                // EVT-2: what this very stream has sent the log never had, or has no more.
                return self.gap(if page.last_seq < self.cursor { "EVT-2" } else { "EVT-5" });
            }
            let reason = if next <= self.cursor { "cursor_unknown" } else { "events_expired" };
            self.env.metrics.resume_failed.with_label_values(&[reason]).inc();
            // Once: a flood makes it happen with every page.
            if !std::mem::replace(&mut self.told, true) {
                tracing::warn!(session = %self.attachment.session, reason, cursor = self.cursor, next,
                    "events that a client has not had are not kept any more");
            }
            block.push(resume_failed(reason, self.cursor, next));
            self.cursor = next - 1;
        }
        let to_the_end = page.events.last().is_some_and(|last| last.seq == page.last_seq);
        let wanted = known.map(|known| replay::wanted(&page.events, &known, self.only_needed_until, to_the_end));
        for (at, event) in page.events.into_iter().enumerate() {
            if !self.follows(event.seq) {
                // What stands before the hole goes out; the hole itself is met again by the next read.
                if block.is_empty() {
                    return self.gap("EVT-5");
                }
                self.attachment.look();
                break;
            }
            if self.doubt.is_some() && !is_notification(&event.body) {
                self.attachment.has_sent(self.cursor);
                return Read::of(block);
            }
            self.cursor = event.seq;
            let is_new = event.seq > self.unproven_until;
            if is_new || wanted.as_ref().is_none_or(|wanted| wanted[at]) {
                block.push(Told::Event { epoch: self.epoch, seq: event.seq, body: event.body });
            }
        }
        self.attachment.has_sent(self.cursor);
        if self.cursor < page.last_seq {
            self.attachment.look();
        }
        Read::of(block)
    }

    /// Nothing is missing between the cursor and `seq`. EVT-5
    fn follows(&self, seq: u64) -> bool {
        seq == self.cursor + 1 || fault::unprotected(fault::GAP_CHECK)
    }

    /// EVT-5: a hole in the log is never skipped silently. The client comes back with its cursor and is told.
    fn gap(&self, broken: &'static str) -> Read {
        self.env.metrics.violated(broken);
        tracing::error!(session = %self.attachment.session, after = self.cursor, broken, "events are missing in the log");
        Read::End(End::Abort("events are missing in the log"))
    }
}

fn is_notification(body: &[u8]) -> bool {
    matches!(Head::parse(body).map(|head| head.kind), Ok(Kind::Notification { .. }))
}

impl Drop for Pump {
    fn drop(&mut self) {
        let attachment = Arc::clone(&self.attachment);
        let env = Arc::clone(&self.env);
        let (parked, ttl) = (self.parked, self.env.settings.session.ttl);
        env.metrics.streams.dec();
        env.directory.remove_attachment(&attachment);
        if let Some(owner) = env.directory.session(&attachment.session) {
            // A full mailbox only delays the owner's clean-up: its sweep looks again.
            let _ = owner.try_send(Detached { attachment: attachment.id });
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // For a client that comes back without a cursor. Not for a superseded stream: its successor knows better.
                let sent = attachment.sent();
                let superseded = parked || attachment.queue().end == Some(End::Superseded);
                if sent > 0 && !superseded {
                    let hint = Hint::Sent { stream: attachment.stream.clone(), sent };
                    if let Err(error) = env.store.hint(attachment.session, &hint).await {
                        env.count_store_error(&error);
                    }
                }
                let detached = env.store.detach(attachment.session, &attachment.stream, attachment.id).await;
                let listed = match (detached, attachment.listed()) {
                    (Ok(true), Some(client)) => {
                        env.store.client_left(&client, attachment.session, Some(&env.me.incarnation), ttl).await
                    }
                    (detached, _) => detached.map(drop),
                };
                if let Err(error) = listed {
                    // The holder field stays until the next attach replaces it; nothing depends on its absence.
                    env.count_store_error(&error);
                }
            });
        }
    }
}
