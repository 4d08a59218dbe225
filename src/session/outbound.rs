//! Upstream → client: append to the log first, then deliver (EVT-2). What is appended next, and what the store's answer
//! means, is [`Outbox`](super::core::outbox::Outbox)'s to say.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;
use bytes::Bytes;

use super::{
    actor::{Exit, SessionActor},
    attachment::Pushed,
    core::{
        outbox::{Batch, Entry as LogEntry, Logged, Refusal, Told},
        setup::Effect,
        streams::{MAIN_STREAM, StreamKey},
    },
    traced::Delivered,
};
use crate::{
    audit::Entry,
    fault,
    metrics::Outcome,
    policy::{List, filtered},
    protocol::{
        jsonrpc::{self, Head, IdKey, Kind},
        mcp,
        scan::meant_to_answer,
    },
    store::{Append, Appended, NewEvent, StoreError},
    upstream::Via,
};

impl SessionActor {
    /// A message from the upstream.
    pub(super) fn take_upstream_message(&mut self, body: Bytes, via: Via, ctx: &mut Context<Self>) {
        let head = match Head::parse(&body) {
            Ok(head) => head,
            Err(error) => {
                self.env.metrics.dropped.with_label_values(&["upstream_nonsense"]).inc();
                tracing::warn!(session = %self.fence.session, %error, "the upstream sent no JSON-RPC message");
                for id in meant_to_answer(&body) {
                    if self.posts.requests().contains(&id) {
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
            Kind::Response { id: Some(id), success } => match self.posts.answered(id) {
                Some((request, goes_on)) => {
                    if goes_on {
                        self.pump_posts(ctx);
                    }
                    let outcome = if *success { Outcome::Ok } else { Outcome::Error };
                    self.timing.traced.came_back(id.key(), self.env.traces.as_ref(), (!*success).then_some("error"));
                    self.timing.ended(request.kept.begun.ends(outcome, request.sent));
                    let shown = self.shown_of(request.kept.list, id, body.clone());
                    let event = self.answer_event(&request, shown);
                    let event = if *success {
                        self.apply(request.kept.effect, &head, event)
                    } else {
                        self.not_applied(&request.kept.effect);
                        event
                    };
                    self.push_event(event, ctx);
                }
                None => self.env.metrics.dropped.with_label_values(&["upstream_unknown_answer"]).inc(),
            },
            Kind::Response { id: None, .. } => {
                self.env.metrics.dropped.with_label_values(&["upstream_answer_without_id"]).inc();
            }
            Kind::Request { id, .. } => self.take_question(id.clone(), via, &head, &body, ctx),
            Kind::Notification { method } if method == mcp::CANCELLED => {
                self.take_upstream_cancel(via, &head, &body, ctx);
            }
            Kind::Notification { method } => {
                if method == "notifications/tools/list_changed" {
                    self.service.tools.forget();
                }
                let stream = self.stream_for(via, &head);
                self.push_event(NewEvent::message(body.clone()).on(stream), ctx);
            }
        }
    }

    /// The client's stream that a message of the server belongs to which answers nothing: that of the request by which it
    /// comes or which it names, as far as that can be told; else the main one.
    pub(super) fn stream_for(&self, via: Via, head: &Head<'_>) -> StreamKey {
        if !self.has_many_streams {
            return StreamKey::Main;
        }
        let requests = self.posts.requests();
        if let Via::Post(seq) = via
            && requests.iter().any(|(_, request)| request.seq == seq)
        {
            return StreamKey::Request(seq);
        }
        match head.method().unwrap_or_default() {
            mcp::PROGRESS => {
                let token = mcp::progress_token_named(head.params);
                let named =
                    requests.iter().find(|(_, request)| token.is_some() && request.kept.token.as_deref() == token);
                named.map_or(StreamKey::Main, |(_, request)| StreamKey::Request(request.seq))
            }
            method if mcp::is_about_nobodys_request(method) => StreamKey::Main,
            // An HTTP+SSE server has one stream for all. What it says while it works on one request is about that one; while it
            // works on several, a client that listens to the main stream gets it there.
            _ if requests.len() > 1 && self.streams.get(StreamKey::Main).is_some() => StreamKey::Main,
            _ => requests.iter().map(|(_, request)| request.seq).max().map_or(StreamKey::Main, StreamKey::Request),
        }
    }

    /// What the session's client may see of an answer. SEC-7
    fn shown_of(&self, list: Option<List>, id: &IdKey, answer: Bytes) -> Bytes {
        let (Some(list), Some(policy)) = (list, &self.env.policy) else { return answer };
        filtered(list, &policy.named(self.binding.rules()), &answer).unwrap_or_else(|| {
            let why = "the server's list cannot be read, and rules say what of it may be seen";
            jsonrpc::error_response(id.as_json(), jsonrpc::INTERNAL_ERROR, why, None)
        })
    }

    /// A request whose answer is none: nothing else will come.
    pub(super) fn fail_broken(&mut self, id: &IdKey, error: &impl fmt::Display, ctx: &mut Context<Self>) {
        let why = format!("the server answered this request, but not with a JSON-RPC response: {error}");
        let details = serde_json::json!({ "reason": "broken_answer", "outcome": "unknown", "retry": false });
        self.fail_request(id, jsonrpc::INTERNAL_ERROR, &why, "broken_answer", details, ctx);
    }

    /// What the answer changes in the session's own state; written in the same step as the answer.
    fn apply(&mut self, effect: Effect, head: &Head<'_>, event: NewEvent) -> NewEvent {
        let result = head.result.map(|result| result.get());
        let begins = matches!(effect, Effect::Initialize(_));
        match effect {
            Effect::None => return event,
            Effect::Tools { first, version } => {
                if let Some(result) = result {
                    self.service.tools.remember_page(result, first, version);
                }
                return event;
            }
            Effect::Initialize(_) => {
                self.list_stream();
                if let Some(uplink) = self.uplink.way() {
                    uplink.initialized(result.and_then(mcp::protocol_version).as_deref());
                    self.questions.are_of(uplink.stored().as_deref());
                }
            }
            Effect::LogLevel(_) | Effect::Subscribe(..) | Effect::Unsubscribe(_) => {}
        }
        let endpoint = || self.endpoint.as_ref().map(|endpoint| endpoint.url.to_string()).unwrap_or_default();
        let event = self.setup.answered(effect, result, endpoint, event);
        if begins { self.with_upstream_session(event) } else { event }
    }

    /// The answer was an error.
    fn not_applied(&self, effect: &Effect) {
        if let (Effect::Initialize(_), Some(uplink)) = (effect, self.uplink.way()) {
            uplink.not_initialized();
        }
    }

    /// Queues an event for the log.
    pub(super) fn push_event(&mut self, event: NewEvent, ctx: &mut Context<Self>) {
        let event = self.with_cursor(event);
        let event = self.timing.traced.is_answered(event, self.env.traces.as_ref());
        self.gate.add(event.body.len());
        self.outbox.push(event);
        self.pump_outbox(ctx);
    }

    fn pump_outbox(&mut self, ctx: &mut Context<Self>) {
        if self.restoring {
            return;
        }
        let streams = &mut self.streams;
        let next = self.outbox.next(|| streams.news_of_sent());
        if let Some(batch) = next.cloned() {
            self.append(batch, ctx);
        }
    }

    /// Appends what is to be appended first, after the session was written again.
    pub(super) fn append_again(&mut self, ctx: &mut Context<Self>) {
        // It may be lost again by now.
        if self.restoring {
            return;
        }
        let streams = &mut self.streams;
        let first = self.outbox.again(|| streams.news_of_sent());
        if let Some(batch) = first.cloned() {
            self.append(batch, ctx);
        }
    }

    fn append(&mut self, batch: Batch, ctx: &mut Context<Self>) {
        if batch.has_answers() {
            fault::point(fault::BEFORE_APPEND);
        }
        self.send_append(batch, ctx);
    }

    fn send_append(&mut self, batch: Batch, ctx: &mut Context<Self>) {
        let Batch { op, events, sent } = batch;
        let append = Append {
            fence: self.fence.clone(),
            stream: MAIN_STREAM.into(),
            op,
            events,
            sent,
            acked: self.acked(),
            known: self.known_event(),
            limits: self.env.log_limits(),
        };
        let env = Arc::clone(&self.env);
        let (epoch, begun) = (self.fence.epoch, Instant::now());
        let appended = async move { env.store.append(append).await };
        self.run(appended, ctx, move |outcome, actor, ctx| actor.appended(op, outcome, epoch, begun, ctx));
    }

    /// The last sequence that the store has given in the log.
    pub(super) fn known_event(&self) -> u64 {
        // Without this protection they are the owner's own.
        if fault::unprotected(fault::APPEND_FIRST) { 0 } else { self.outbox.last_seq() }
    }

    fn appended(
        &mut self,
        op: u64,
        outcome: Result<Appended, StoreError>,
        epoch: u32,
        begun: Instant,
        ctx: &mut Context<Self>,
    ) {
        let outcome = match outcome {
            Err(_) if fault::unprotected(fault::APPEND_FIRST) => {
                Ok(Appended::Done { seqs: self.outbox.invented(), shown: Vec::new() })
            }
            outcome => outcome,
        };
        match self.outbox.told(op, outcome, begun.elapsed()) {
            Told::Stale => {}
            Told::Logged(logged) => self.logged(&logged, begun.elapsed(), ctx),
            // The gate bounds what gathers meanwhile, and nothing goes out before (EVT-2).
            Told::Again(pause, error) => {
                self.env.count_store_error(&error);
                ctx.run_later(pause, move |actor, ctx| {
                    if let Some(batch) = actor.outbox.same(op).cloned() {
                        actor.send_append(batch, ctx);
                    }
                });
            }
            Told::Refused(Refusal::NotFound) => self.vanished(epoch, ctx),
            Told::Refused(Refusal::Older) => self.went_back(epoch, ctx),
            Told::Refused(Refusal::Fenced) => self.fenced(epoch, ctx),
            Told::Corrupt(error) => {
                self.note_store_error(&error);
                self.exit(Exit::Corrupt, ctx);
            }
        }
    }

    /// Delivers what is in the log.
    fn logged(&mut self, logged: &Logged, took: Duration, ctx: &mut Context<Self>) {
        self.last_active = Instant::now();
        if logged.has_answers() {
            fault::point(fault::AFTER_APPEND);
        }
        self.gate.sub(logged.bytes());
        let env = Arc::clone(&self.env);
        let metrics = &env.metrics;
        let mut unheard = Vec::new();
        for (entry, answers) in logged.entries().zip(logged.answers()) {
            let LogEntry::Event { seq, expected, view, is_answer, is_shown, body } = entry else {
                if let Some(id) = answers {
                    self.timing.traced.is_logged(id, env.traces.as_ref(), took, None);
                }
                metrics.dropped.with_label_values(&["second_answer"]).inc();
                self.timing.was_answered();
                continue;
            };
            if seq != expected {
                metrics.violated("EVT-1");
                tracing::error!(session = %self.fence.session, seq, expected, "sequence is not contiguous");
            }
            metrics.appended.inc();
            metrics.appended_bytes.inc_by(body.len() as u64);
            if is_answer {
                self.timing.logged(&self.service.metrics, took, answers);
                self.timing.serves(&self.env, &self.fence);
            }
            if is_answer && let Some(audit) = &self.env.audit {
                audit.note(self.answered(body));
            }
            let is_last = is_answer && view != StreamKey::Main;
            let shown = self.streams.next_on(view, seq);
            if let Some(id) = answers {
                let elsewhere = if is_shown { Delivered::Elsewhere } else { Delivered::Kept };
                let delivered = if shown.is_some() { Delivered::Here } else { elsewhere };
                self.timing.traced.is_logged(id, env.traces.as_ref(), took, Some(delivered));
            }
            if let Some((attachment, after)) = shown {
                attachment.push(Pushed { epoch: self.fence.epoch, after, seq, is_last, body: body.clone() });
            }
            if is_last && self.streams.over(view, Instant::now()).is_none() && !is_shown {
                unheard.push((view, body.clone()));
            }
        }
        for (stream, answer) in unheard {
            self.wait_for_hearer(stream, answer, ctx);
        }
        self.pump_outbox(ctx);
        self.release_if_quiet(false, ctx);
    }

    /// For the audit log: it is in the log, and will be shown.
    fn answered(&self, answer: &[u8]) -> Entry {
        let (request, outcome) = match Head::parse(answer).map(|head| head.kind) {
            Ok(Kind::Response { id, success }) => (id, if success { "ok" } else { "error" }),
            _ => (None, "error"),
        };
        Entry {
            what: "answered",
            service: self.service.name.clone(),
            session: self.fence.session.handle().to_string(),
            request: request.map(|id| id.as_json().to_owned()).unwrap_or_default(),
            outcome: outcome.to_owned(),
            ..Entry::default()
        }
    }

    /// The client is told that each list may have changed of which it was told that it can.
    pub(super) fn tell_lists_changed(&mut self, ctx: &mut Context<Self>) {
        for list in self.setup.lists_that_change() {
            let body = format!(r#"{{"jsonrpc":"2.0","method":"notifications/{list}/list_changed"}}"#);
            self.push_event(NewEvent::message(Bytes::from(body)), ctx);
        }
    }
}
