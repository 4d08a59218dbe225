//! The upstream link of a session: opened at the first message that needs it, opened again when it is lost or when the
//! session was adopted, and brought to where the client left it: `initialize`, `initialized`, log level, subscriptions
//! are replayed and their answers swallowed; then every open request meets its fate ([`super::recovery`]). REQ-3

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;
use actix_http::Uri;
use bytes::Bytes;

use super::{
    actor::SessionActor,
    field,
    recovery::{self, Fate, Progress},
};
use crate::{
    backoff::{STORE_BACKOFF, doubled, jittered},
    protocol::{
        jsonrpc::{self, Head, IdKey, Kind},
        mcp::{self, Repeatable},
    },
    store::{Claim, Claimed, ClientMessage, Fenceable, PendingRequest, StoreError},
    upstream::{
        actor::{Call, OpenLink},
        transport::{LinkError, LinkEvent, LinkNotice},
    },
};

/// State of the upstream link.
#[derive(Debug)]
pub enum Link {
    /// None, and none being opened.
    Idle,
    /// Wanted; the next attempt is due at a timer.
    Waiting,
    /// The event stream is being opened.
    Opening,
    /// Our replay of the client's `initialize` waits for its answer.
    Handshake {
        /// Where to POST.
        post: Uri,
        /// Id of the replayed request.
        id: IdKey,
    },
    /// Open requests are being sorted out.
    Recovering {
        /// Where to POST.
        post: Uri,
    },
    /// Messages flow.
    Open {
        /// Where to POST.
        post: Uri,
    },
}

impl Link {
    /// Messages flow.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }

    /// For people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Opening => "opening",
            Self::Handshake { .. } => "handshake",
            Self::Recovering { .. } => "recovering",
            Self::Open { .. } => "open",
        }
    }

    fn post(&self) -> Option<&Uri> {
        match self {
            Self::Handshake { post, .. } | Self::Recovering { post } | Self::Open { post } => Some(post),
            Self::Idle | Self::Waiting | Self::Opening => None,
        }
    }
}

/// What a recovery fetched.
struct Fetched {
    pending: Vec<PendingRequest>,
    marked: Fenceable,
    /// When the mark was asked for, and with which epoch.
    asked: Instant,
    epoch: u32,
}

/// Prefix of the ids of our own requests on a client's upstream session.
const INTERNAL_ID: &str = "\"mcp-router-";

impl SessionActor {
    pub(super) fn is_internal(&self, id: &IdKey) -> bool {
        id.as_json().starts_with(INTERNAL_ID)
    }

    fn internal_id(&mut self) -> IdKey {
        self.next_internal_id += 1;
        IdKey::from_stored(format!("{INTERNAL_ID}{}-{}\"", self.fence.generation, self.next_internal_id))
    }

    /// There is something to do for a link, or the client may expect notifications.
    pub(super) fn wants_link(&self) -> bool {
        self.initialize_result.is_some()
            || !self.in_flight.is_empty()
            || !self.to_send.is_empty()
            || self.more_waits
            || self.inherited.as_ref().is_some_and(|inbox| !inbox.is_empty())
    }

    /// Opens a link unless there is one or one is on its way.
    pub(super) fn ensure_link(&mut self, ctx: &mut Context<Self>) {
        if !matches!(self.link, Link::Idle) || self.draining {
            return;
        }
        self.unlinked_since.get_or_insert_with(Instant::now);
        let avoid = self.endpoint.as_ref().filter(|_| self.link_failures > 0).map(|endpoint| endpoint.index);
        let Some(endpoint) = self.service.pick(avoid) else {
            let error = LinkError::Connect("no endpoint of the service is healthy".to_owned());
            self.link_failed(&error, ctx);
            return;
        };
        self.link_number += 1;
        self.link = Link::Opening;
        let open = OpenLink { link: self.link_number, to: ctx.address().recipient(), gate: Arc::clone(&self.gate) };
        let number = self.link_number;
        let opened = self.worker.upstream(&endpoint).send(open);
        self.line = Some(self.worker.line(&endpoint).clone());
        self.endpoint = Some(endpoint);
        ctx.spawn(opened.into_actor(self).map(move |handle, actor, ctx| match handle {
            Ok(handle) if number == actor.link_number => actor.link_handle = Some(handle),
            // Given up meanwhile: dropping the handle closes it.
            Ok(_) => {}
            Err(error) => actor.lose_link(&error, ctx),
        }));
    }

    /// The link is broken or useless: close it, and open another if one is wanted.
    pub(super) fn lose_link(&mut self, error: &dyn std::fmt::Display, ctx: &mut Context<Self>) {
        if matches!(self.link, Link::Idle | Link::Waiting) {
            return;
        }
        self.app().metrics.upstream_links.with_label_values(&["lost"]).inc();
        tracing::info!(session = %self.fence.session, service = self.service.name, %error, "upstream link lost");
        self.link_handle = None;
        self.link_number += 1;
        self.link = Link::Idle;
        if self.wants_link() || !self.arrived.is_empty() {
            self.link_failed(error, ctx);
        }
    }

    /// Plans the next attempt, or gives up for now. STM-2
    fn link_failed(&mut self, error: &dyn std::fmt::Display, ctx: &mut Context<Self>) {
        let app = Arc::clone(self.app());
        let settings = &app.settings.upstream;
        let since = *self.unlinked_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= settings.relink_timeout {
            self.give_up(&error.to_string(), ctx);
            return;
        }
        let doublings = self.link_failures;
        self.link_failures = self.link_failures.saturating_add(1);
        // The first attempt after a loss is nearly at once for those who wait for an answer, and spread out for others.
        let pause = match (doublings, self.in_flight.is_empty()) {
            (0, false) => Duration::from_millis(fastrand::u64(0..10)),
            (0, true) => Duration::from_millis(fastrand::u64(0..500)),
            _ => jittered(doubled((settings.backoff_min, settings.backoff_max), doublings - 1)),
        };
        self.link = Link::Waiting;
        ctx.run_later(pause, |actor, ctx| {
            if matches!(actor.link, Link::Waiting) {
                actor.link = Link::Idle;
                actor.ensure_link(ctx);
            }
        });
    }

    /// No endpoint within the time limit: everything that waits is answered. The next message starts a new search.
    fn give_up(&mut self, error: &str, ctx: &mut Context<Self>) {
        self.app().metrics.upstream_links.with_label_values(&["gave_up"]).inc();
        tracing::warn!(session = %self.fence.session, service = self.service.name, error, "no upstream endpoint can be reached");
        self.link = Link::Idle;
        self.unlinked_since = None;
        self.link_failures = 0;
        let mut open: Vec<(u64, IdKey)> =
            self.in_flight.iter().map(|(id, request)| (request.seq, id.clone())).collect();
        open.sort_unstable_by_key(|(seq, _)| *seq);
        for (_, id) in open {
            let progress = self.in_flight.get(&id).map(|request| request.progress);
            if progress == Some(Progress::MaybeSent) {
                self.fail_unknown(&id, ctx);
            } else {
                self.fail_unavailable(&id, ctx);
            }
        }
        let dropped = std::mem::take(&mut self.to_send);
        for seq in dropped.keys() {
            self.outstanding.remove(seq);
            self.app().metrics.dropped.with_label_values(&["upstream_down"]).inc();
        }
        self.refuse_inbox(ctx);
    }

    /// Answers what still lies in the inbox.
    fn refuse_inbox(&mut self, ctx: &mut Context<Self>) {
        let inherited = self.inherited.take().unwrap_or_default();
        for entry in inherited {
            self.outstanding.remove(&entry.seq);
        }
        let claim = Claim { fence: self.fence.clone(), acked: self.acked(), max_entries: 64 };
        let (app, epoch) = (Arc::clone(self.app()), self.fence.epoch);
        let claimed = async move { app.store.claim(claim).await };
        ctx.spawn(claimed.into_actor(self).map(move |outcome, actor, ctx| match outcome {
            Ok(Claimed::Entries { entries, more, .. }) => {
                for entry in entries {
                    actor.next_seq = actor.next_seq.max(entry.seq + 1);
                    match entry.message {
                        ClientMessage::Request { id_key } => {
                            actor.fail_unavailable(&IdKey::from_stored(id_key), ctx);
                        }
                        ClientMessage::Notification | ClientMessage::Response => {
                            actor.app().metrics.dropped.with_label_values(&["upstream_down"]).inc();
                        }
                    }
                }
                if more {
                    actor.refuse_inbox(ctx);
                }
            }
            Ok(Claimed::NotFound) => actor.vanished(epoch, ctx),
            Ok(Claimed::Fenced) => {
                actor.fenced(epoch, ctx);
            }
            Err(error) => {
                actor.note_store_error(&error);
            }
        }));
    }

    fn fail_unavailable(&mut self, id: &IdKey, ctx: &mut Context<Self>) {
        let why = format!("no server of service {} can be reached; the request was not executed", self.service.name);
        let details = serde_json::json!({
            "reason": "upstream_unavailable", "service": self.service.name, "outcome": "not_executed", "retry": true,
        });
        self.fail_request(id, jsonrpc::UPSTREAM_UNAVAILABLE, &why, "upstream_unavailable", details, ctx);
    }

    fn fail_unknown(&mut self, id: &IdKey, ctx: &mut Context<Self>) {
        let why = "outcome unknown: the request was forwarded and its server or router died before the answer; \
                   it is not repeated because it may have had its effect";
        let details = serde_json::json!({
            "reason": "outcome_unknown", "service": self.service.name, "outcome": "unknown", "retry": false,
            "requestId": serde_json::from_str::<serde_json::Value>(id.as_json()).unwrap_or_default(),
        });
        self.fail_request(id, jsonrpc::OUTCOME_UNKNOWN, why, "outcome_unknown", details, ctx);
    }

    /// Sends one of our own messages; its fate is the link's.
    pub(super) fn post_internal(&mut self, body: Bytes, ctx: &mut Context<Self>) {
        let (Some(url), Some(line)) = (self.link.post().cloned(), self.line.clone()) else { return };
        let limit = self.app().settings.upstream.post_timeout;
        let sent = async move { line.post_within(url, body, limit).await };
        let number = self.link_number;
        ctx.spawn(sent.into_actor(self).map(move |outcome, actor, ctx| {
            if let Err(error) = outcome
                && number == actor.link_number
            {
                actor.lose_link(&error, ctx);
            }
        }));
    }

    fn opened(&mut self, post: Uri, ctx: &mut Context<Self>) {
        if let Some(endpoint) = &self.endpoint {
            endpoint.succeeded();
        }
        self.app().metrics.upstream_links.with_label_values(&["opened"]).inc();
        let (Some(_), Some(request)) = (&self.initialize_result, self.initialize_request.clone()) else {
            self.recover(post, ctx);
            return;
        };
        let id = self.internal_id();
        let Ok(head) = Head::parse(&request) else { return };
        let replay = head.with_id(&request, id.as_json());
        self.link = Link::Handshake { post, id };
        self.post_internal(replay, ctx);
        let number = self.link_number;
        ctx.run_later(self.app().settings.upstream.post_timeout, move |actor, ctx| {
            if number == actor.link_number && matches!(actor.link, Link::Handshake { .. }) {
                actor.lose_link(&"no answer to the replayed initialize", ctx);
            }
        });
    }

    /// An answer to one of our own requests: swallowed, but the one to `initialize` moves the link on.
    pub(super) fn take_internal_answer(&mut self, answered: &IdKey, head: &Head<'_>, ctx: &mut Context<Self>) {
        let Link::Handshake { post, id } = &self.link else { return };
        if id != answered {
            return;
        }
        let post = post.clone();
        if !matches!(head.kind, Kind::Response { success: true, .. }) {
            self.lose_link(&"the upstream refused the replayed initialize", ctx);
            return;
        }
        let result = head.result.map_or("{}", |result| result.get());
        if self.initialize_result.as_deref().is_some_and(|stored| capabilities(stored) != capabilities(result)) {
            tracing::warn!(session = %self.fence.session, service = self.service.name,
                "the new upstream session has other capabilities than the client was told");
            self.tell_lists_changed(ctx);
        }
        if self.initialized {
            let note = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, mcp::INITIALIZED);
            self.post_internal(Bytes::from(note), ctx);
        }
        let setup: Vec<String> = self.log_level.iter().chain(self.subscriptions.values()).cloned().collect();
        for request in setup {
            let id = self.internal_id();
            if let Ok(head) = Head::parse(request.as_bytes()) {
                let replay = head.with_id(request.as_bytes(), id.as_json());
                self.post_internal(replay, ctx);
            }
        }
        self.record_endpoint(ctx);
        self.recover(post, ctx);
    }

    fn record_endpoint(&self, ctx: &mut Context<Self>) {
        let Some(endpoint) = &self.endpoint else { return };
        let set = vec![(field::ENDPOINT.to_owned(), endpoint.url.to_string())];
        let (app, fence, epoch) = (Arc::clone(self.app()), self.fence.clone(), self.fence.epoch);
        let recorded = async move { app.store.update(&fence, &set, &[]).await };
        ctx.spawn(recorded.into_actor(self).map(move |outcome, actor, ctx| match outcome {
            Ok(Fenceable::Fenced) => {
                actor.fenced(epoch, ctx);
            }
            Ok(_) => {}
            // For people only; nothing depends on it.
            Err(error) => {
                actor.note_store_error(&error);
            }
        }));
    }

    /// Brings the open requests over to the new link. Does nothing much on a session's first link.
    fn recover(&mut self, post: Uri, ctx: &mut Context<Self>) {
        self.link = Link::Recovering { post };
        self.cancel_server_requests(ctx);
        if self.in_flight.is_empty() && self.inherited.is_none() {
            self.become_open(ctx);
            return;
        }
        let inherited: Vec<String> = self
            .in_flight
            .iter()
            .filter(|(_, request)| request.progress == Progress::Accepted)
            .map(|(id, _)| id.as_json().to_owned())
            .collect();
        let maybe_sent: HashSet<String> = self
            .in_flight
            .iter()
            .filter(|(_, request)| request.progress == Progress::MaybeSent)
            .map(|(id, _)| id.as_json().to_owned())
            .collect();
        let upstream = self.endpoint.as_ref().map(|endpoint| self.worker.upstream(endpoint).clone());
        let patience = self.app().settings.upstream.health_timeout;
        let (app, fence) = (Arc::clone(self.app()), self.fence.clone());
        let service = Arc::clone(&self.service);
        let fetched = async move {
            let mut backoff = STORE_BACKOFF;
            let fetched = loop {
                let attempt = async {
                    let pending = app.store.pending(fence.session).await?;
                    let asked = Instant::now();
                    // Before anything is sent: what is sent must be on record as sent.
                    let marked = app.store.mark_forwarded(&fence, &inherited).await?;
                    Ok::<_, StoreError>(Fetched { pending, marked, asked, epoch: fence.epoch })
                };
                match attempt.await {
                    Ok(fetched) => break fetched,
                    Err(error) => {
                        app.count_store_error(&error);
                        tokio::time::sleep(backoff.pause()).await;
                    }
                }
            };
            let tools_wanted = !service.knows_tools()
                && fetched.pending.iter().any(|request| {
                    maybe_sent.contains(&request.id_key)
                        && matches!(repeatable(&request.body), Repeatable::IfToolSays(_))
                });
            if let Some(upstream) = upstream.filter(|_| tools_wanted) {
                // Without an answer no tool can be vouched for, and unknown outcomes are said to be unknown.
                let list = Bytes::from_static(br#"{"jsonrpc":"2.0","id":0,"method":"tools/list"}"#);
                let call = upstream.send(Call { body: list, timeout: patience });
                if let Ok(Ok(Ok(answer))) = tokio::time::timeout(patience * 2, call).await
                    && let Ok(Some(result)) = Head::parse(&answer).map(|head| head.result)
                {
                    service.remember_tool_list(result.get());
                }
            }
            fetched
        };
        let number = self.link_number;
        ctx.spawn(fetched.into_actor(self).map(move |fetched, actor, ctx| {
            if number == actor.link_number {
                actor.recovered(fetched, ctx);
            }
        }));
    }

    fn recovered(&mut self, fetched: Fetched, ctx: &mut Context<Self>) {
        match fetched.marked {
            Fenceable::Done => self.confirmed_owner(fetched.asked),
            // The claim that follows finds out and deals with it.
            Fenceable::NotFound => {}
            Fenceable::Fenced if self.fenced(fetched.epoch, ctx) => return,
            Fenceable::Fenced => {}
        }
        let mut cancelled = Vec::new();
        for entry in self.inherited.take().unwrap_or_default() {
            match entry.message {
                // Sorted out below, from the request table.
                ClientMessage::Request { .. } => {}
                // It answers a request of the dead upstream session.
                ClientMessage::Response => {
                    self.outstanding.remove(&entry.seq);
                    self.app().metrics.dropped.with_label_values(&["answer_to_dead_upstream"]).inc();
                }
                ClientMessage::Notification => {
                    self.outstanding.remove(&entry.seq);
                    let Ok(head) = Head::parse(&entry.body) else { continue };
                    match head.method() {
                        // Replayed with the handshake; without one it goes up like any other.
                        Some(mcp::INITIALIZED) if self.initialize_result.is_some() => {}
                        Some(mcp::CANCELLED) => {
                            cancelled.extend(mcp::cancelled_request_id(head.params).map(IdKey::from_stored));
                        }
                        _ => self.send_up(entry.seq, entry.body.clone(), None),
                    }
                }
            }
        }
        for request in fetched.pending {
            let id = IdKey::from_stored(request.id_key);
            self.settle(id, request.seq, request.body, &cancelled, ctx);
        }
        self.become_open(ctx);
    }

    /// Decides the fate of one request that was open when the link broke.
    fn settle(&mut self, id: IdKey, seq: u64, body: Bytes, cancelled: &[IdKey], ctx: &mut Context<Self>) {
        if self.to_send.contains_key(&seq) {
            return;
        }
        let Some(request) = self.in_flight.get_mut(&id) else { return };
        if request.cancelled.is_some() || cancelled.contains(&id) {
            // The upstream that worked on it is gone, and the client wants no answer.
            request.cancelled.get_or_insert_with(Instant::now);
            self.arm_deadline(ctx);
            return;
        }
        let repeatable = match repeatable(&body) {
            Repeatable::Yes => true,
            Repeatable::No => false,
            Repeatable::IfToolSays(tool) => self.service.tool_repeatable(&tool) == Some(true),
        };
        match recovery::fate(request.progress, repeatable, request.attempts) {
            Fate::Forward => {
                request.progress = Progress::NotSent;
                self.send_up(seq, body, Some(id));
            }
            Fate::OutcomeUnknown => self.fail_unknown(&id, ctx),
        }
    }

    fn become_open(&mut self, ctx: &mut Context<Self>) {
        let Some(post) = self.link.post().cloned() else { return };
        self.link = Link::Open { post };
        self.unlinked_since = None;
        self.link_failures = 0;
        self.last_heard = Instant::now();
        self.arm_deadline(ctx);
        self.pump_posts(ctx);
        self.claim(ctx);
    }

    /// Periodic: a link that was given up is tried again, a silent one is asked for a sign of life.
    pub(super) fn check_link(&mut self, ctx: &mut Context<Self>) {
        let idle_timeout = self.app().settings.upstream.idle_timeout;
        if matches!(self.link, Link::Idle) && self.wants_link() {
            self.ensure_link(ctx);
        } else if self.link.is_open() && self.last_heard.elapsed() > idle_timeout * 2 {
            // The ping of the round before has met silence.
            self.lose_link(&"the upstream is silent", ctx);
        } else if self.link.is_open() && self.last_heard.elapsed() > idle_timeout {
            let id = self.internal_id();
            let ping = format!(r#"{{"jsonrpc":"2.0","id":{},"method":"{}"}}"#, id.as_json(), mcp::PING);
            self.post_internal(Bytes::from(ping), ctx);
        }
    }
}

/// Of a request whose body the store has kept (it has lost those of restored sessions).
fn repeatable(body: &[u8]) -> Repeatable {
    match Head::parse(body) {
        Ok(head) => mcp::repeatable(head.method().unwrap_or_default(), head.params),
        Err(_) => Repeatable::No,
    }
}

fn capabilities(result: &str) -> Option<serde_json::Value> {
    let mut result: serde_json::Value = serde_json::from_str(result).ok()?;
    Some(result["capabilities"].take())
}

impl Handler<LinkNotice> for SessionActor {
    type Result = ();

    fn handle(&mut self, notice: LinkNotice, ctx: &mut Self::Context) {
        // From here on the outbox counts the message.
        drop(notice.charge);
        if notice.link != self.link_number {
            return;
        }
        self.last_heard = Instant::now();
        match notice.event {
            LinkEvent::Opened(post) => {
                // Some servers send it twice; the first stands.
                if matches!(self.link, Link::Opening) {
                    self.opened(post, ctx);
                }
            }
            LinkEvent::Message(body) => self.take_upstream_message(body, ctx),
            LinkEvent::Closed(error) => {
                if let (Some(endpoint), LinkError::Connect(_) | LinkError::Protocol(_)) = (&self.endpoint, &error) {
                    endpoint.failed(&error);
                }
                self.lose_link(&error, ctx);
            }
        }
    }
}
