//! Upstream → client: append to the log first, then deliver (EVT-2). One append is under way at a time and takes all
//! that has gathered meanwhile, so order is kept and a burst costs one round trip.

use std::{fmt, sync::Arc, time::Instant};

use actix::prelude::*;
use bytes::Bytes;

use super::{
    MAIN_STREAM,
    actor::{Exit, SessionActor},
    field,
    inbound::Effect,
};
use crate::{
    fault,
    protocol::{
        jsonrpc::{self, Head, IdKey, Kind},
        mcp,
        scan::meant_to_answer,
        sse,
    },
    store::{Append, Appended, NewEvent, StoreError},
};

/// Events in one append: bounds how long one script runs in the store.
const APPEND_EVENTS: usize = 64;
/// Bytes in one append (a single larger event goes alone).
const APPEND_BYTES: usize = 1 << 20;

impl SessionActor {
    /// A message from the upstream.
    pub(super) fn take_upstream_message(&mut self, body: Bytes, ctx: &mut Context<Self>) {
        let head = match Head::parse(&body) {
            Ok(head) => head,
            Err(error) => {
                self.env.metrics.dropped.with_label_values(&["upstream_nonsense"]).inc();
                tracing::warn!(session = %self.fence.session, %error, "the upstream sent no JSON-RPC message");
                for id in meant_to_answer(&body) {
                    if self.in_flight.contains_key(&id) {
                        self.fail_broken(&id, &error, ctx);
                    }
                }
                return;
            }
        };
        match &head.kind {
            Kind::Response { id: Some(id), .. } if self.questions.answers_own(id) => {
                let id = id.clone();
                self.take_internal_answer(&id, &head, ctx);
            }
            Kind::Response { id: Some(id), success } => match self.in_flight.remove(id) {
                Some(request) => {
                    self.outstanding.remove(&request.seq);
                    self.proven_to_have_arrived(&request, ctx);
                    let event = Self::answer_event(&request, body.clone());
                    let event = if *success { self.apply(request.effect, &head, event) } else { event };
                    self.push_event(event, ctx);
                }
                None => self.env.metrics.dropped.with_label_values(&["upstream_unknown_answer"]).inc(),
            },
            Kind::Response { id: None, .. } => {
                self.env.metrics.dropped.with_label_values(&["upstream_answer_without_id"]).inc();
            }
            Kind::Request { id, .. } => self.take_question(id.clone(), &head, &body, ctx),
            Kind::Notification { method } if method == mcp::CANCELLED => self.take_upstream_cancel(&head, &body, ctx),
            Kind::Notification { method } => {
                if method == "notifications/tools/list_changed" {
                    self.service.tools.forget();
                }
                self.push_event(NewEvent::message(body.clone()), ctx);
            }
        }
    }

    /// A request whose answer is none: nothing else will come.
    pub(super) fn fail_broken(&mut self, id: &IdKey, error: &impl fmt::Display, ctx: &mut Context<Self>) {
        let why = format!("the server answered this request, but not with a JSON-RPC response: {error}");
        let details = serde_json::json!({ "reason": "broken_answer", "outcome": "unknown", "retry": false });
        self.fail_request(id, jsonrpc::INTERNAL_ERROR, &why, "broken_answer", details, ctx);
    }

    /// What the answer changes in the session's own state; written in the same step as the answer.
    fn apply(&mut self, effect: Effect, head: &Head<'_>, event: NewEvent) -> NewEvent {
        match effect {
            Effect::None => event,
            Effect::Initialize(request) => {
                let result = head.result.map_or("{}", |result| result.get()).to_owned();
                self.initialize_result = Some(result.clone());
                self.initialize_request = Some(request.clone());
                self.assumed = false;
                self.list_stream();
                let endpoint = self.endpoint.as_ref().map(|endpoint| endpoint.url.to_string()).unwrap_or_default();
                event
                    .setting(field::INITIALIZE_REQUEST.to_owned(), String::from_utf8_lossy(&request).into_owned())
                    .setting(field::INITIALIZE_RESULT.to_owned(), result)
                    .setting(field::ENDPOINT.to_owned(), endpoint)
                    .clearing(field::ASSUMED.to_owned())
            }
            Effect::LogLevel(request) => {
                self.log_level = Some(request.clone());
                event.setting(field::LOG_LEVEL.to_owned(), request)
            }
            Effect::Subscribe(uri, request) => {
                self.subscriptions.insert(uri.clone(), request.clone());
                event.setting(format!("{}{uri}", field::SUBSCRIPTION), request)
            }
            Effect::Unsubscribe(uri) => {
                self.subscriptions.remove(&uri);
                event.clearing(format!("{}{uri}", field::SUBSCRIPTION))
            }
            Effect::Tools { first, version } => {
                if let Some(result) = head.result {
                    self.service.tools.remember_page(result.get(), first, version);
                }
                event
            }
        }
    }

    /// Queues an event for the log.
    pub(super) fn push_event(&mut self, event: NewEvent, ctx: &mut Context<Self>) {
        self.gate.add(event.body.len());
        self.outbox.push_back(event);
        self.pump_outbox(ctx);
    }

    fn pump_outbox(&mut self, ctx: &mut Context<Self>) {
        if self.restoring || !self.appending.is_empty() || self.outbox.is_empty() {
            return;
        }
        let (mut count, mut bytes) = (0, 0);
        for next in self.outbox.iter().take(APPEND_EVENTS) {
            if count > 0 && bytes + next.body.len() > APPEND_BYTES {
                break;
            }
            bytes += next.body.len();
            count += 1;
        }
        self.appending = self.outbox.drain(..count).collect();
        self.appending_sent = self.news_of_sent();
        self.append_again(ctx);
    }

    /// Appends what is on its way: for the first time, or again after the session was restored.
    pub(super) fn append_again(&mut self, ctx: &mut Context<Self>) {
        if self.appending.is_empty() {
            self.pump_outbox(ctx);
            return;
        }
        let has_answers = self.appending.iter().any(|event| event.answers.is_some());
        if has_answers {
            fault::point(fault::BEFORE_APPEND);
        }
        self.op += 1;
        self.send_append(ctx);
    }

    fn send_append(&mut self, ctx: &mut Context<Self>) {
        let append = Append {
            fence: self.fence.clone(),
            stream: MAIN_STREAM.into(),
            op: self.op,
            events: Arc::clone(&self.appending),
            sent: self.appending_sent,
            acked: self.acked(),
            known: self.known_event(),
            limits: self.env.log_limits(),
        };
        let env = Arc::clone(&self.env);
        let (op, epoch, begun) = (self.op, self.fence.epoch, Instant::now());
        let appended = async move { env.store.append(append).await };
        self.run(appended, ctx, move |outcome, actor, ctx| {
            // Not if it was made again since, for a session that was restored.
            if op == actor.op {
                actor.appended(outcome, epoch, begun, ctx);
            }
        });
    }

    /// The last sequence that the store has given.
    pub(super) fn known_event(&self) -> u64 {
        // Without this protection they are the owner's own.
        if fault::unprotected(fault::APPEND_FIRST) { 0 } else { self.last_seq }
    }

    /// Tries until the store answers: the number of the append makes that safe, the gate bounds what gathers meanwhile,
    /// and nothing goes out before (EVT-2).
    fn append_later(&mut self, error: &StoreError, begun: Instant, ctx: &mut Context<Self>) {
        self.env.count_store_error(error);
        let pause = self.append_backoff.pause_since(begun);
        let op = self.op;
        ctx.run_later(pause, move |actor, ctx| {
            if op == actor.op {
                actor.send_append(ctx);
            }
        });
    }

    /// Requests whose answer is on its way into the log.
    pub(super) fn answers_on_the_way(&self) -> impl Iterator<Item = &str> {
        self.appending.iter().chain(&self.outbox).filter_map(|event| event.answers.as_deref())
    }

    /// Lets an adopter know how far the connection had come, for clients that come back without a cursor. Rides on an
    /// append that is made anyway.
    fn news_of_sent(&mut self) -> Option<u64> {
        let sent = self.attachment.as_ref()?.sent();
        let is_news = sent > self.persisted_sent;
        is_news.then(|| {
            self.persisted_sent = sent;
            sent
        })
    }

    fn appended(&mut self, outcome: Result<Appended, StoreError>, epoch: u32, begun: Instant, ctx: &mut Context<Self>) {
        let seqs = match outcome {
            Ok(Appended::Done(seqs)) => {
                self.append_backoff.reset();
                seqs
            }
            // What is on its way stays where it is, for the case that the session is restored.
            Ok(Appended::NotFound) => return self.vanished(epoch, ctx),
            Ok(Appended::Older) => return self.went_back(epoch, ctx),
            Ok(Appended::Fenced) => {
                self.fenced(epoch, ctx);
                return;
            }
            Err(_) if fault::unprotected(fault::APPEND_FIRST) => {
                (self.last_seq + 1..).map(Some).take(self.appending.len()).collect()
            }
            Err(error @ StoreError::Corrupt(_)) => {
                self.note_store_error(&error);
                return self.exit(Exit::Corrupt, ctx);
            }
            Err(error) => return self.append_later(&error, begun, ctx),
        };
        self.last_active = Instant::now();
        let batch = std::mem::take(&mut self.appending);
        if batch.iter().any(|event| event.answers.is_some()) {
            fault::point(fault::AFTER_APPEND);
        }
        self.gate.sub(batch.iter().map(|event| event.body.len()).sum());
        for (event, seq) in batch.iter().zip(seqs) {
            let Some(seq) = seq else {
                // Answered before (or cancelled and forgotten): the first answer stands. REQ-2
                self.env.metrics.dropped.with_label_values(&["second_answer"]).inc();
                continue;
            };
            if seq != self.last_seq + 1 {
                self.env.metrics.violations.with_label_values(&["EVT-1"]).inc();
                tracing::error!(session = %self.fence.session, seq, expected = self.last_seq + 1, "sequence is not contiguous");
            }
            self.last_seq = seq;
            self.env.metrics.appended.inc();
            if let Some(attachment) = &self.attachment {
                let frame = sse::message(&self.fence.session, MAIN_STREAM, self.fence.epoch, seq, &event.body);
                attachment.push(seq, frame);
            }
        }
        self.pump_outbox(ctx);
        self.release_if_quiet(false, ctx);
    }

    /// `method` names a list that the server says may change.
    pub(super) fn tell_lists_changed(&mut self, ctx: &mut Context<Self>) {
        for list in ["tools", "resources", "prompts"] {
            let offered = self
                .initialize_result
                .as_deref()
                .and_then(|result| serde_json::from_str::<serde_json::Value>(result).ok())
                .is_some_and(|result| result["capabilities"][list]["listChanged"] == true);
            if offered {
                let body = format!(r#"{{"jsonrpc":"2.0","method":"notifications/{list}/list_changed"}}"#);
                self.push_event(NewEvent::message(Bytes::from(body)), ctx);
            }
        }
    }
}
