//! What a client stream takes from the log: pages after its cursor, holes said aloud, and of what was handed over before only
//! what the client is not proven to have had. EVT-3, EVT-5, EVT-6

use std::time::Duration;

use tokio::time::Instant;

use super::{
    End,
    pump::{Pump, Read},
    replay::{self, Known},
    told::{Block, Told, resume_failed},
};
use crate::{
    fault,
    protocol::{
        jsonrpc::{Head, Kind},
        stream_key::{MAIN_STREAM, StreamKey},
    },
    store::{Page, StoreError},
};

/// How long a log may be behind what was sent, with nothing broken by the router: the store has come back with older data,
/// and the session's owner is about to write the session again.
const BEHIND: Duration = Duration::from_secs(3);

impl Pump {
    /// The next page, or what is to be said instead.
    pub(super) async fn read(&mut self) -> Read {
        if self.doubt.is_some() {
            self.ask_for_proof().await;
        }
        self.register_elsewhere().await;
        let before = if self.cursor < self.unproven_until { Some(self.known().await) } else { None };
        let stream = &self.env.settings.stream;
        let page = self
            .env
            .store
            .read_page(
                self.attachment.session,
                MAIN_STREAM,
                self.attachment.key,
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
                let (was_fresh, last_seq) = (self.fresh, page.last_seq);
                let read = self.take_page(page, known);
                let is_request = self.attachment.key != StreamKey::Main;
                // Resumed, and read to the end of the log without the answer.
                let asks = was_fresh && is_request && !self.is_over && self.cursor >= last_seq;
                if asks && matches!(read, Read::Nothing) {
                    self.is_over = !self.is_pending().await;
                }
                read
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

    /// The request whose stream this is has no answer yet. In doubt it has none: its time limit says the rest.
    async fn is_pending(&self) -> bool {
        match self.env.store.pending(self.attachment.session).await {
            Ok(pending) => pending.iter().any(|request| StreamKey::Request(request.seq) == self.attachment.key),
            Err(error) => {
                self.env.count_store_error(&error);
                true
            }
        }
    }

    /// The log is behind what this stream has sent, and that may be the doing of the store.
    fn is_behind(&mut self, page: &Page) -> bool {
        let is_mine = page.epoch == self.epoch && !self.is_superseded(page);
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

    /// `known` for a page of which some may be sent for the second time.
    fn take_page(&mut self, page: Page, known: Option<Known>) -> Read {
        if page.epoch != self.epoch && self.doubt.is_some() {
            // Renewed for the client that looks on: all of the new life is its own.
            (self.epoch, self.cursor) = (page.epoch, 0);
            (self.only_needed_until, self.unproven_until) = (0, 0);
            self.doubt = None;
            self.attachment.has_sent(0);
            self.attachment.look();
            return Read::Nothing;
        }
        if page.epoch != self.epoch {
            // The session was made again after a loss of data: the client must come back and be told. EVT-6
            return Read::End(End::Abort("the session was made again"));
        }
        if self.is_superseded(&page) {
            return Read::End(End::Superseded);
        }
        let fresh = std::mem::take(&mut self.fresh);
        let mut block = Block::default();
        let next = page.events.first().map_or(page.last_seq + 1, |event| event.seq);
        // What is kept no more was of other streams.
        let begins = page.events.first().is_some_and(|first| first.seq == page.first_seq);
        if begins && next > self.cursor && page.gone <= self.cursor {
            self.cursor = next - 1;
        }
        if !self.follows(next) {
            // A reader that is slower than its server, and whose log has moved on: back pressure would hold up the session
            // and whoever else it serves, so it is told what it will not get. EVT-6
            let expired = next > self.cursor && begins;
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
            let Some(body) = event.body else {
                // Of another stream.
                self.cursor = event.seq;
                continue;
            };
            if self.doubt.is_some() && !is_notification(&body) {
                self.attachment.has_sent(self.cursor);
                return Read::of(block);
            }
            self.cursor = event.seq;
            self.is_over |= self.attachment.key != StreamKey::Main && is_response(&body);
            let is_new = event.seq > self.unproven_until;
            if is_new || wanted.as_ref().is_none_or(|wanted| wanted[at]) {
                block.push(Told::Event { epoch: self.epoch, seq: event.seq, body });
            }
        }
        self.attachment.has_sent(self.cursor);
        if self.replays {
            let events = block.iter().filter(|told| matches!(told, Told::Event { .. })).count();
            self.env.metrics.replayed.inc_by(events as u64);
            self.replays = self.cursor < page.last_seq;
        }
        if self.cursor < page.last_seq {
            self.attachment.look();
        }
        Read::of(block)
    }

    /// Somebody else shows this stream by now. That of a request is held in the store only for a process that does not own
    /// the session, and by nobody when its answer is there.
    fn is_superseded(&self, page: &Page) -> bool {
        match page.holder {
            // Whoever holds it in the store came before this one, of which the store does not know.
            Some(holder) => self.is_registered && holder != self.attachment.id,
            None => self.attachment.key == StreamKey::Main,
        }
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

fn is_response(body: &[u8]) -> bool {
    matches!(Head::parse(body).map(|head| head.kind), Ok(Kind::Response { .. }))
}

fn is_notification(body: &[u8]) -> bool {
    matches!(Head::parse(body).map(|head| head.kind), Ok(Kind::Notification { .. }))
}
