//! Client → upstream, the first half: journal (REQ-1), and decide in the order the store accepted (REQ-5).
//!
//! A message has three stations: `order` (journaled, waits until every earlier sequence has been seen), the queue of `posts`
//! (decided to be forwarded, in order; from here on it is `forward`'s), and for requests the table in it (until the answer is
//! in the log).

use std::{sync::Arc, task::Poll, time::Instant};

use actix::prelude::*;
use bytes::Bytes;

use super::{
    actor::{SessionActor, poll_now},
    attachment::{Attachment, End},
    calls::Counted,
    core::{posts::Outbound, setup::Effect, streams::StreamKey},
    env::Env,
    held::{self, Held},
    journal::{Arrived, InFlight, Kept, journal_view, progress_token},
    messages::{AnswerStream, Deliver, DeliverError, Delivered, Posted},
    returning::is_of_gateway,
    timing::Ended,
};
use crate::{
    backoff, fault,
    metrics::Outcome,
    policy::List,
    protocol::{
        jsonrpc::{self, Head, IdKey, Said},
        mcp,
    },
    store::{Accept, Accepted, Fence, NewEvent, StoreError},
    traces::{Kind, Place, Span},
};

impl Handler<Deliver> for SessionActor {
    type Result = ActorResponse<Self, Result<Delivered, DeliverError>>;

    fn handle(&mut self, Deliver(posted): Deliver, ctx: &mut Self::Context) -> Self::Result {
        // Before anything that others than the session's own could see, or that keeps it alive. SEC-1
        if !self.binding.admits(&posted.by) {
            return ActorResponse::reply(Err(DeliverError::Gone));
        }
        self.last_active = Instant::now();
        if posted.service.as_ref().is_some_and(|named| **named != *self.service.name) {
            return ActorResponse::reply(Err(DeliverError::WrongService));
        }
        if posted.own_stream && !self.has_many_streams {
            // Of another transport: its answers go elsewhere.
            return ActorResponse::reply(Err(DeliverError::WrongService));
        }
        if let (Some(named), Some(agreed)) = (posted.version, self.setup.version())
            && named != agreed
        {
            return ActorResponse::reply(Err(DeliverError::OtherVersion));
        }
        if matches!(posted.said, Said::Request { .. }) && !self.may_hold(&posted.body) {
            self.env.metrics.accepted.refused.inc();
            return ActorResponse::reply(Err(DeliverError::InstanceFull));
        }
        let (asked, epoch) = (Instant::now(), self.fence.epoch);
        let journaled = Journaling {
            env: Arc::clone(&self.env),
            fence: self.fence.clone(),
            posted: Arc::clone(&posted),
            forward_now: self.may_take_more(),
            acked: self.acked(),
            known: self.order.last(),
        };
        let mut journaled = Box::pin(journaled.run(asked));
        self.accepting += 1;
        match poll_now(&mut journaled) {
            Poll::Ready(outcome) => ActorResponse::reply(self.journaled(outcome, &posted, asked, epoch, ctx)),
            Poll::Pending => ActorResponse::r#async(
                journaled
                    .into_actor(self)
                    .map(move |outcome, actor, ctx| actor.journaled(outcome, &posted, asked, epoch, ctx)),
            ),
        }
    }
}

/// A message on its way into the journal.
struct Journaling {
    env: Arc<Env>,
    fence: Fence,
    posted: Arc<Posted>,
    forward_now: bool,
    acked: u64,
    known: u64,
}

impl Journaling {
    async fn run(self, asked: Instant) -> Result<Accepted, StoreError> {
        let may_repeat = |error: &StoreError| {
            self.posted.failed(error);
            let deadline = asked + self.posted.patience(&self.env.settings.redis);
            let may_repeat = Instant::now() < deadline && !matches!(error, StoreError::Corrupt(_));
            if may_repeat {
                self.env.count_store_error(error);
            }
            may_repeat
        };
        // Safe to repeat: the request id makes it idempotent (REQ-6).
        backoff::retry(backoff::STORE_PAUSES, || self.env.store.accept(self.attempt()), may_repeat).await
    }

    fn attempt(&self) -> Accept {
        let (message, changes) = journal_view(&self.posted);
        let limits = &self.env.settings.limits;
        Accept {
            session: self.fence.session,
            by: self.posted.by.clone(),
            // The owner has compared it with its own.
            service: None,
            version: None,
            post_id: self.posted.post_id,
            message,
            body: self.posted.body.clone(),
            fence: Some(self.fence.clone()),
            forward_now: self.forward_now,
            acked: self.acked,
            known: self.known,
            changes,
            shown_by: None,
            max_pending: limits.max_inflight,
            max_inbox: limits.max_inbox,
            max_bytes: limits.inbox_bytes(),
        }
    }
}

impl SessionActor {
    /// The store has granted what was asked for at `asked` to the owner that this actor says it is.
    pub(super) fn confirmed_owner(&mut self, asked: Instant) {
        self.confirmed = self.confirmed.max(Some(asked));
    }

    /// Inbox entries up to here need not be kept: the upstream has had them, or the request table has them.
    pub(super) fn acked(&self) -> u64 {
        self.posts.acked(self.order.next())
    }

    fn journaled(
        &mut self,
        outcome: Result<Accepted, StoreError>,
        posted: &Posted,
        asked: Instant,
        epoch: u32,
        ctx: &mut Context<Self>,
    ) -> Result<Delivered, DeliverError> {
        self.accepting -= 1;
        if let Ok(Accepted::Forward { .. } | Accepted::Queued { .. } | Accepted::Duplicate { .. }) = &outcome {
            self.confirmed_owner(asked);
            if self.binding != posted.by {
                self.binding = posted.by.clone();
            }
        }
        let message = Arrived { body: posted.body.clone(), said: posted.said.clone(), asked: Some(asked) };
        let delivered = self.accepted(outcome, message, posted, epoch, ctx);
        // DRN-2: what was just marked forwarded must not be handed over unsent.
        self.release_if_quiet(false, ctx);
        delivered
    }

    fn accepted(
        &mut self,
        outcome: Result<Accepted, StoreError>,
        message: Arrived,
        posted: &Posted,
        epoch: u32,
        ctx: &mut Context<Self>,
    ) -> Result<Delivered, DeliverError> {
        let (own_stream, is_in_doubt) = (posted.own_stream, posted.is_in_doubt());
        if let (Some(place), Said::Request { id, .. }) = (&posted.place, &posted.said) {
            self.is_journaled(place, id, &outcome, message.asked);
        }
        let accepted = &self.env.metrics.accepted;
        if let Ok(Accepted::Forward { .. } | Accepted::Queued { .. }) = &outcome {
            self.env.metrics.accepted_bytes.inc_by(message.body.len() as u64);
        }
        match outcome {
            Ok(Accepted::Forward { seq }) => {
                accepted.forwarded.inc();
                fault::point(fault::ACCEPTED);
                let stream = own_stream.then(|| self.answer_stream(seq, false));
                self.arrive(seq, message, ctx);
                Ok(Delivered::Accepted(stream))
            }
            Ok(Accepted::Queued { seq, .. }) => {
                accepted.queued.inc();
                fault::point(fault::ACCEPTED);
                let stream = own_stream.then(|| self.answer_stream(seq, false));
                self.claim(ctx);
                Ok(Delivered::Accepted(stream))
            }
            Ok(Accepted::Duplicate { seq, claimed, .. }) => {
                accepted.duplicate.inc();
                let stream = own_stream.then(|| self.answer_stream(seq, true));
                // When an earlier try of this very POST was written but its answer was lost on the way, nobody has seen it.
                if claimed {
                    self.look_for(seq, ctx);
                } else {
                    self.claim(ctx);
                }
                Ok(Delivered::Duplicate(stream))
            }
            // Who waits for it on a stream of its own is told there.
            Ok(Accepted::TooManyPending) if own_stream => {
                accepted.refused.inc();
                Err(DeliverError::TooMany)
            }
            Ok(Accepted::TooManyBytes) if own_stream => {
                accepted.refused.inc();
                Err(DeliverError::TooManyBytes)
            }
            Ok(Accepted::TooManyPending) => {
                accepted.refused.inc();
                self.refuse(&message.said, DeliverError::TooMany, ctx)
            }
            Ok(Accepted::TooManyBytes) => {
                accepted.refused.inc();
                self.refuse(&message.said, DeliverError::TooManyBytes, ctx)
            }
            Ok(Accepted::Stranger) => Err(DeliverError::Gone),
            Ok(Accepted::WrongService) => Err(DeliverError::WrongService),
            Ok(Accepted::OtherVersion) => Err(DeliverError::OtherVersion),
            Ok(Accepted::Disowned) => Err(DeliverError::InDoubt),
            Ok(Accepted::IdInUse) => {
                accepted.refused.inc();
                Err(DeliverError::IdInUse)
            }
            Ok(Accepted::NotFound) => {
                self.vanished(epoch, ctx);
                Err(DeliverError::Vanished)
            }
            Ok(Accepted::Fenced) => {
                self.fenced(epoch, ctx);
                Err(DeliverError::Vanished)
            }
            // It was not journaled, and is not answered 202 before it is, under the new numbers.
            Ok(Accepted::Older) => {
                self.went_back(epoch, ctx);
                Err(DeliverError::Vanished)
            }
            Err(error) => {
                accepted.refused.inc();
                self.note_store_error(&error);
                // One of the tries may have been written and marked forwarded: found again by the next claims.
                if is_in_doubt {
                    self.doubt(ctx);
                }
                Err(DeliverError::StoreUnavailable)
            }
        }
    }

    /// A call that belongs to a trace has been to the store.
    fn is_journaled(
        &mut self,
        place: &Place,
        id: &IdKey,
        outcome: &Result<Accepted, StoreError>,
        asked: Option<Instant>,
    ) {
        if let Ok(Accepted::Forward { .. } | Accepted::Queued { .. }) = outcome {
            self.timing.traced.begins(id.shared_key(), place.context.clone());
        }
        if let Some(tracer) = &self.env.traces {
            let span = Span::child(&place.context, "store accept", Kind::Client, asked.unwrap_or_else(Instant::now));
            tracer.record(span.failed_if(outcome.is_err().then_some("store_unavailable")));
        }
    }

    /// The stream of the request at `seq`, for the connection by which it has come. `comes_again`: it may have been answered.
    fn answer_stream(&mut self, seq: u64, comes_again: bool) -> AnswerStream {
        self.delist();
        let (key, from) = (StreamKey::Request(seq), self.outbox.last_seq());
        let attachment = Attachment::new(self.fence.session, key, self.env.settings.stream.client_queue_bytes);
        self.heard(key);
        if let Some(before) = self.streams.join(Arc::clone(&attachment), from) {
            before.end(End::Abort("another connection waits for the answer"));
        }
        if comes_again {
            attachment.look();
        }
        let from = if comes_again { 0 } else { from };
        AnswerStream { attachment, epoch: self.fence.epoch, from, is_registered: false }
    }

    /// The client's stream for what belongs to the request at `seq`.
    pub(super) fn stream_of(&self, seq: u64) -> StreamKey {
        if self.has_many_streams { StreamKey::Request(seq) } else { StreamKey::Main }
    }

    /// A request beyond the cap gets its error on the stream: a status other than 2xx ends the session of some clients.
    /// It was not journaled, so this answer is no answer in the sense of REQ-2. MEM-5
    fn refuse(&mut self, said: &Said, why: DeliverError, ctx: &mut Context<Self>) -> Result<Delivered, DeliverError> {
        let Said::Request { id, .. } = said else { return Err(why) };
        if self.outbox.waiting() >= self.env.settings.limits.max_inbox {
            return Err(why);
        }
        let error = if why == DeliverError::TooManyBytes { self.too_many_bytes(id) } else { self.too_many(id) };
        self.push_event(NewEvent::message(error), ctx);
        Ok(Delivered::Accepted(None))
    }

    fn too_many(&self, id: &IdKey) -> Bytes {
        self.env.metrics.router_errors.with_label_values(&["too_many"]).inc();
        let limit = self.env.settings.limits.max_inflight;
        let why =
            format!("more than {limit} requests of this session are without an answer; the request was not executed");
        let details = serde_json::json!({ "reason": "too_many", "outcome": "not_executed", "retry": true });
        jsonrpc::error_response(id.as_json(), jsonrpc::INTERNAL_ERROR, &why, Some(&details))
    }

    /// The requests of this process leave room for another one.
    fn may_hold(&self, body: &Bytes) -> bool {
        let env = &self.env;
        held::has_room(env.metrics.held.get(), env.settings.limits.max_held_bytes, body.len())
    }

    fn instance_full(&self, id: &IdKey) -> Bytes {
        self.env.metrics.router_errors.with_label_values(&["instance_full"]).inc();
        let why = "the requests of this instance without an answer hold too many bytes (MCP_MAX_HELD_BYTES); the request was \
                   not executed";
        let details = serde_json::json!({ "reason": "instance_full", "outcome": "not_executed", "retry": true });
        jsonrpc::error_response(id.as_json(), jsonrpc::INTERNAL_ERROR, why, Some(&details))
    }

    fn too_many_bytes(&self, id: &IdKey) -> Bytes {
        self.env.metrics.router_errors.with_label_values(&["too_many_bytes"]).inc();
        let limit = self.env.settings.limits.inbox_bytes();
        let why = format!(
            "the messages of this session without an answer would hold more than {limit} bytes (MCP_MAX_INBOX_BYTES); \
             the request was not executed"
        );
        let details = serde_json::json!({ "reason": "too_many_bytes", "outcome": "not_executed", "retry": true });
        jsonrpc::error_response(id.as_json(), jsonrpc::INTERNAL_ERROR, &why, Some(&details))
    }

    /// What is listed by this method, where rules say what of it may be seen.
    fn list_of(&self, method: &str) -> Option<List> {
        self.env.policy.as_ref().and_then(|_| List::of(method))
    }

    /// Decides what becomes of a journaled message, in order.
    pub(super) fn take(&mut self, seq: u64, message: Arrived, ctx: &mut Context<Self>) {
        let begun = message.begun();
        let refused = || begun.ends(Outcome::Refused, None);
        let Arrived { body, said, .. } = message;
        if let Said::Request { method, .. } = &said
            && self.comes_without_handshake(method)
        {
            self.assume_initialized(ctx);
        }
        match said {
            Said::Request { id, method } => match &*method {
                // A second one (mcp-remote sends it after a reconnect) is answered from the store: some upstreams
                // refuse it.
                mcp::INITIALIZE if self.setup.told().is_some() => {
                    let answer = jsonrpc::result_response(id.as_json(), self.setup.told().unwrap_or_default());
                    self.answer(id.shared_key(), self.stream_of(seq), answer, begun.ends(Outcome::Ok, None), ctx);
                }
                mcp::REFUSED => {
                    let error = Head::parse(&body).map(|head| mcp::refused(id.as_json(), head.params));
                    self.answer(id.shared_key(), self.stream_of(seq), error.unwrap_or_default(), refused(), ctx);
                }
                // Refused, so that clients of 2026-07-28 fall back to a version with sessions.
                mcp::DISCOVER => {
                    let why = "this router speaks MCP versions with sessions, up to 2025-11-25";
                    let error = jsonrpc::error_response(id.as_json(), jsonrpc::METHOD_NOT_FOUND, why, None);
                    self.answer(id.shared_key(), self.stream_of(seq), error, refused(), ctx);
                }
                // Journaled by another instance, which does not know how many are in flight. MEM-5
                _ if self.posts.requests().len() >= self.env.settings.limits.max_inflight => {
                    let error = self.too_many(&id);
                    self.answer(id.shared_key(), self.stream_of(seq), error, refused(), ctx);
                }
                // Nor how much they hold.
                _ if !self.may_hold(&body) => {
                    let error = self.instance_full(&id);
                    self.answer(id.shared_key(), self.stream_of(seq), error, refused(), ctx);
                }
                _ => {
                    let kept = Kept {
                        effect: Effect::of(&method, &body, || self.service.tools.version()),
                        list: self.list_of(&method),
                        begun,
                        token: if self.has_many_streams { progress_token(&body) } else { None },
                        held: Held::new(&self.env.metrics.held, body.len()),
                        counted: self.counted(&id, &method),
                    };
                    if matches!(kept.effect, Effect::Initialize(_)) {
                        self.list_stream();
                        self.begin_upstream_anew();
                        self.setup.begins();
                    }
                    let request = InFlight::new(seq, id.shared_key(), Instant::now(), kept);
                    self.posts.queue_request(id, request, body);
                    self.arm_deadline(ctx);
                }
            },
            Said::Notification { method } => match &*method {
                // Only the first: after a repeated `initialize` the upstream has had it.
                mcp::INITIALIZED => {
                    if self.setup.says_initialized() {
                        self.send_up(seq, body, None);
                    }
                }
                mcp::CANCELLED => self.take_cancel(seq, body, ctx),
                _ => self.send_up(seq, body, None),
            },
            Said::Response { id } => self.take_answer(seq, id.as_ref(), body),
        }
    }

    /// For its principal, until it has its answer.
    pub(super) fn counted(&self, id: &IdKey, method: &str) -> Option<Counted> {
        if is_of_gateway(&self.client) {
            // Counted where its client has asked for it.
            return None;
        }
        self.env.calls.hold_request(&self.binding, &self.fence.session, (id, method))
    }

    pub(super) fn send_up(&mut self, seq: u64, body: Bytes, id: Option<IdKey>) {
        self.posts.queue(seq, Outbound { body, id, only_on: None });
    }

    /// What a later upstream session would not understand: an answer to a request of this one, or a cancel.
    pub(super) fn send_to_this_session(&mut self, seq: u64, body: Bytes) {
        self.posts.queue(seq, Outbound { body, id: None, only_on: Some(self.uplink.number()) });
    }

    /// Answers a request from here, on this stream: through the log, like any answer.
    pub(super) fn answer(
        &mut self,
        table_key: Arc<str>,
        stream: StreamKey,
        body: Bytes,
        ended: Ended,
        ctx: &mut Context<Self>,
    ) {
        self.timing.ended(ended);
        self.push_event(NewEvent::answer(table_key, body).on(stream), ctx);
    }
}
