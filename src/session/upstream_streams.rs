//! The streams of an upstream session of Streamable HTTP: its own, which shows what is related to no request, and those of
//! answers, which are resumed where they ended without the response. What an heir needs to go on with all of them is put on
//! record, and an heir goes on: with the same upstream session, without a handshake. REQ-3, OWN-5
//!
//! The server works on while nobody reads. So a call whose router has died is answered by the heir with its own answer, and
//! only if the server does not know the stream any more does it meet the rule for unknown outcomes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;
use bytes::Bytes;

use super::{
    actor::SessionActor,
    reading::{Carried, Reading},
};
use crate::{
    backoff,
    protocol::{jsonrpc::IdKey, mcp},
    store::{Fenceable, HeadChange, NewEvent, StoreError},
    upstream::{
        Endpoint, Reply, Uplink, Via,
        breaker::BreakerState,
        notice::{Marks, Outlet},
        resumed::{Resumed, resume},
    },
};

/// How long the id of a priming event waits for an answer that makes it useless: most come at once.
const CURSOR_WAIT: Duration = Duration::from_millis(20);

impl SessionActor {
    /// The endpoint of the session that is gone on with, if this process has it, too.
    pub(super) fn endpoint_of_kept(&mut self) -> Option<Arc<Endpoint>> {
        let kept = self.streamed.kept.as_ref()?;
        let spoken = Uplink::spoken_of(&kept.session);
        // Of which era it is may not be known yet in this process.
        let is_spoken = |endpoint: &Endpoint| endpoint.transport.next() == spoken || endpoint.era().is_none();
        let is_it = |endpoint: &Endpoint| endpoint.url.to_string() == kept.endpoint && is_spoken(endpoint);
        let found = self.service.find(is_it);
        if found.is_none() {
            self.streamed.kept = None;
        }
        found
    }

    /// Asks for the session's own stream, once the client has said that it is initialised, unless it is shown already.
    pub(super) fn listen(&mut self, ctx: &mut Context<Self>) {
        if self.streamed.listener.is_some() || self.resting || !self.setup.is_initialized() {
            return;
        }
        let Some(uplink) = self.uplink.open_way().filter(|uplink| uplink.answers_in_place() && uplink.is_proven())
        else {
            return;
        };
        let (link, to) = (self.uplink.number(), ctx.address().recipient());
        let outlet = Outlet { link, via: Via::Stream, to, gate: Arc::clone(&self.gate) };
        self.streamed.listener =
            uplink.listen(&self.env.settings.upstream, outlet, self.streamed.cursors.main().cloned());
    }

    /// The client begins a handshake of its own where the router's stands: with an upstream session of its own, since servers
    /// refuse a second one.
    pub(super) fn begin_upstream_anew(&mut self) {
        let is_begun = self.uplink.open_way().is_some_and(|uplink| uplink.answers_in_place() && uplink.is_proven());
        if !(is_begun && self.setup.is_assumed()) {
            return;
        }
        let Some(fresh) = self.uplink.way().map(Uplink::anew) else { return };
        self.end_upstream();
        self.uplink.turn(fresh);
        self.streamed.listener = None;
        self.streamed.cursors.restart();
        self.questions.are_of(None);
    }

    /// The session is over, and not only for this process.
    pub(super) fn end_upstream(&mut self) {
        let Some(uplink) = self.uplink.way().cloned().filter(Uplink::answers_in_place) else { return };
        let patience = self.env.settings.upstream.post_timeout;
        let farewell = self.env.farewells.begin();
        actix_rt::spawn(async move {
            let _until_told = farewell;
            tokio::time::timeout(patience, uplink.end()).await
        });
    }

    /// The upstream session's own stream can be resumed behind this.
    pub(super) fn note_cursor(&mut self, cursor: Arc<str>, ctx: &mut Context<Self>) {
        if self.streamed.arriving == Some(Via::Stream) && self.streamed.cursors.main_at(cursor) {
            self.record_cursors_soon(ctx);
        }
    }

    /// The answer to this request can be resumed behind this.
    pub(super) fn note_cursor_of(&mut self, carried: &Carried, cursor: Arc<str>, ctx: &mut Context<Self>) {
        if self.posts.carries(carried.number, &carried.id)
            && self.streamed.cursors.post_at(carried.seq, &carried.id.shared_key(), cursor)
        {
            self.record_cursors_soon(ctx);
        }
    }

    /// Whoever owns the session can go on with this request by `state`: it waits for what the client says.
    pub(super) fn note_waiting(
        &mut self,
        carried: &Carried,
        state: Arc<str>,
        with_next: bool,
        ctx: &mut Context<Self>,
    ) {
        if self.posts.carries(carried.number, &carried.id)
            && self.streamed.cursors.post_waits(carried.seq, &carried.id.shared_key(), state, with_next)
        {
            self.record_cursors_soon(ctx);
        }
    }

    /// It runs again: from now on nobody may go on with it by what is on record, which is taken off before.
    pub(super) fn goes_on(&mut self, reading: Reading, ctx: &mut Context<Self>) {
        let key = reading.carried.as_ref().map(|carried| carried.id.shared_key());
        let Some(over) = key.and_then(|key| self.streamed.cursors.answered(&key)) else {
            return self.read_on(reading, ctx);
        };
        let (env, fence, epoch) = (Arc::clone(&self.env), self.fence.clone(), self.fence.epoch);
        let (asked, changes) = (Instant::now(), [over]);
        let written = async move {
            let may_repeat = |error: &StoreError| {
                env.count_store_error(error);
                !matches!(error, StoreError::Corrupt(_))
            };
            backoff::retry(backoff::STORE_PAUSES, || env.store.update(&fence, &changes), may_repeat).await
        };
        ctx.spawn(written.into_actor(self).map(move |written, actor, ctx| match written {
            Ok(Fenceable::Done) => {
                actor.confirmed_owner(asked);
                actor.read_on(reading, ctx);
            }
            // There is no record by which anybody could.
            Ok(Fenceable::NotFound) => {
                actor.vanished(epoch, ctx);
                actor.read_on(reading, ctx);
            }
            Ok(Fenceable::Fenced) => actor.fenced(epoch, ctx),
            Err(_) => actor.settle_unanswered(reading, "the store could not be told that it goes on", ctx),
        }));
    }

    fn record_cursors_soon(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.streamed.cursors_timer, true) {
            return;
        }
        ctx.run_later(CURSOR_WAIT, |actor, ctx| {
            actor.streamed.cursors_timer = false;
            if actor.restoring || !actor.streamed.cursors.is_due() {
                return;
            }
            let changes = actor.streamed.cursors.due();
            let (env, fence, epoch) = (Arc::clone(&actor.env), actor.fence.clone(), actor.fence.epoch);
            let recorded = async move { env.store.update(&fence, &changes).await };
            actor.run(recorded, ctx, move |outcome, actor, ctx| match outcome {
                Ok(Fenceable::Fenced) => actor.fenced(epoch, ctx),
                Ok(_) => {}
                // Later events bring later ids; until then an heir has none.
                Err(error) => {
                    actor.note_store_error(&error);
                }
            });
        });
    }

    /// What goes on record with an event: how far the stream has been read by which it came; and nothing more of a request that
    /// it answers.
    pub(super) fn with_cursor(&mut self, event: NewEvent) -> NewEvent {
        let over = event.answers.as_ref().and_then(|key| self.streamed.cursors.answered(key));
        let read = self.streamed.arriving.and_then(|via| self.streamed.cursors.ride(via));
        over.into_iter().chain(read).fold(event, NewEvent::changing)
    }

    /// The client's `initialize` was answered, with this event.
    pub(super) fn with_upstream_session(&self, event: NewEvent) -> NewEvent {
        match self.uplink.way().and_then(Uplink::stored) {
            Some(session) => event.changing(HeadChange::UpstreamSession(Some(session))),
            None => event,
        }
    }

    /// The former owner's stream for the answer to this request can be asked for.
    pub(super) fn can_be_resumed(&self, seq: u64) -> bool {
        self.streamed.kept.is_some() && self.streamed.cursors.of_post(seq).is_some()
    }

    pub(super) fn keep_for_resumption(&mut self, seq: u64, id: IdKey, body: Bytes) {
        let number = self.posts.adopt(&id);
        if let (Some(kept), Some(number)) = (&mut self.streamed.kept, number) {
            kept.resumed.push(Carried { number, seq, id, body });
        }
    }

    /// An heir has sorted out what was open, and messages flow.
    pub(super) fn go_on_reading(&mut self, ctx: &mut Context<Self>) {
        let Some(kept) = self.streamed.kept.take() else { return };
        self.env.metrics.upstream_links.with_label_values(&["resumed"]).inc();
        self.listen(ctx);
        if kept.resumed.is_empty() {
            // Whether the server still knows the session should not be found out by a call.
            let id = self.questions.own_id();
            let ping = format!(r#"{{"jsonrpc":"2.0","id":{},"method":"{}"}}"#, id.as_json(), mcp::PING);
            self.post_internal(Bytes::from(ping), ctx);
        }
        for carried in kept.resumed {
            let cursor = self.streamed.cursors.of_post(carried.seq).cloned();
            let reading = self.reading(Reply::over(Marks { cursor, retry: None }), Some(carried));
            self.ask_again(reading, true, ctx);
        }
    }

    /// The answer to a POST has ended without the response: what follows is asked for, as long as that brings something.
    pub(super) fn resume(&mut self, reading: Reading, ctx: &mut Context<Self>) {
        self.ask_again(reading, false, ctx);
    }

    fn ask_again(&mut self, mut reading: Reading, at_once: bool, ctx: &mut Context<Self>) {
        let marks = reading.reply.marks().clone();
        let Some(uplink) = self.uplink.way().cloned() else {
            return self.settle_unanswered(reading, "the answer ended without a response", ctx);
        };
        let request = reading.carried.as_ref().map(|carried| carried.body.clone());
        let asked = match resume(uplink, request, marks, &mut reading.attempts, at_once, reading.until) {
            Ok(asked) => asked,
            Err(why) => return self.settle_unanswered(reading, why, ctx),
        };
        ctx.spawn(asked.into_actor(self).map(move |asked, actor, ctx| {
            if !actor.is_wanted(&reading) {
                return;
            }
            match asked {
                Resumed::On(reply) => {
                    actor.uplink.heard(reading.link, Instant::now());
                    actor.read_on(Reading { reply, is_resumed: true, ..reading }, ctx);
                }
                Resumed::SessionGone(error) => actor.lose_link(&error, ctx),
                Resumed::NotConnected(error) if actor.is_better_elsewhere() => actor.lose_link(&error, ctx),
                Resumed::NotConnected(_) | Resumed::Again => actor.ask_again(reading, false, ctx),
                Resumed::Never => actor.settle_unanswered(reading, "its stream cannot be resumed", ctx),
            }
        }));
    }

    /// The server is out of use, and another one is well: calls that may be repeated need not wait for it.
    fn is_better_elsewhere(&self) -> bool {
        let is_out_of_use = |endpoint: &Arc<Endpoint>| endpoint.state() != BreakerState::Closed;
        self.endpoint.as_ref().is_some_and(is_out_of_use)
            && !self.service.others_that_are_well(self.endpoint.as_deref()).is_empty()
    }

    /// Somebody waits for what is read there.
    pub(super) fn is_wanted(&self, reading: &Reading) -> bool {
        let is_open = |carried: &Carried| self.posts.carries(carried.number, &carried.id);
        reading.link == self.uplink.number() && reading.carried.as_ref().is_some_and(is_open)
    }

    fn settle_unanswered(&mut self, reading: Reading, why: &str, ctx: &mut Context<Self>) {
        if let Some(Carried { number, seq, id, body }) = reading.carried {
            self.settle_alone(number, seq, id, body, why.to_owned(), ctx);
        }
    }
}
