//! A fresh upstream session is brought to where the client left the old one, from its own words; then every request that
//! is open meets its fate. REQ-3, OWN-5

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;
use bytes::Bytes;

use super::{
    actor::{Exit, SessionActor},
    core::{
        pause::pause_before_retry,
        setup::{Again, Effect},
        streams::StreamKey,
    },
    journal::{InFlight, target},
    recovery::{self, Fate, Progress},
    shown,
};
use crate::{
    backoff,
    protocol::{
        jsonrpc::{Head, IdKey, Kind},
        mcp::{self, Repeatable},
    },
    store::{ClientMessage, Fenceable, HeadChange, PendingRequest, StoreError},
    upstream::{
        PostError, Service, Uplink,
        actor::{Call, UpstreamActor},
        call::flatten,
        tools::{self, Bounds, WalkError},
    },
};

/// What a recovery fetched.
struct Fetched {
    pending: Vec<PendingRequest>,
    marked: Fenceable,
    /// When the mark was asked for, and with which epoch.
    asked: Instant,
    epoch: u32,
}

impl SessionActor {
    /// Sends one of our own messages. What says that the server or its session is gone ends the link; so does whatever
    /// goes wrong before the handshake is done.
    pub(super) fn post_internal(&mut self, body: Bytes, ctx: &mut Context<Self>) {
        let Some(uplink) = self.uplink.way().cloned() else { return };
        let env = Arc::clone(&self.env);
        let since = Instant::now();
        let sent = async move {
            let settings = &env.settings.upstream;
            let mut refusals = 0;
            loop {
                let left = settings.post_timeout.saturating_sub(since.elapsed());
                let outcome = uplink.send_within(body.clone(), left).await;
                let Err(PostError::NotNow { retry_after, .. }) = outcome else { return outcome };
                let pause = pause_before_retry(settings, retry_after, refusals);
                if since.elapsed() + pause >= settings.post_timeout {
                    return outcome;
                }
                refusals += 1;
                tokio::time::sleep(pause).await;
            }
        };
        let number = self.uplink.number();
        ctx.spawn(sent.into_actor(self).map(move |outcome, actor, ctx| {
            if number != actor.uplink.number() {
                return;
            }
            match outcome {
                Ok(reply) => {
                    actor.listen(ctx);
                    actor.read_reply(reply, None, ctx);
                }
                Err(error) if actor.ends_link(&error, since) => actor.lose_link(&error, ctx),
                Err(error) => tracing::debug!(session = %actor.fence.session, %error, "own message not taken"),
            }
        }));
    }

    fn ends_link(&self, error: &PostError, since: Instant) -> bool {
        match error {
            _ if self.uplink.is_in_handshake() => true,
            PostError::NotSent(_) | PostError::SessionGone | PostError::OtherTransport => true,
            PostError::Late(_) | PostError::Unknown(_) => self.seems_dead(since),
            PostError::Refused(_)
            | PostError::NotFollowed(_)
            | PostError::NoCredential(_)
            | PostError::NotNow { .. }
            | PostError::Failed(_) => false,
        }
    }

    pub(super) fn opened(&mut self, uplink: Uplink, ctx: &mut Context<Self>) {
        // Where nothing had to be connected nothing is proven yet.
        if let Some(endpoint) = self.endpoint.as_ref().filter(|_| !uplink.answers_in_place()) {
            endpoint.succeeded();
        }
        self.env.metrics.upstream_links.with_label_values(&["opened"]).inc();
        self.streamed.kept.take_if(|kept| Uplink::spoken_of(&kept.session) != uplink.spoken());
        if let Some(kept) = &self.streamed.kept {
            self.questions.go_on(self.uplink.number());
            self.questions.are_of(Some(&kept.session));
            if uplink.go_on(&kept.session) {
                // No handshake: the server knows the session.
                self.recover(uplink, ctx);
                return;
            }
        }
        if !self.setup.is_done() {
            self.recover(uplink, ctx);
            return;
        }
        let id = self.questions.own_id();
        let Some(replay) = self.setup.replayed_initialize(&id) else { return };
        self.uplink.shake_hands(uplink, id);
        self.post_internal(replay, ctx);
        let number = self.uplink.number();
        ctx.run_later(self.env.settings.upstream.post_timeout, move |actor, ctx| {
            if number == actor.uplink.number() && actor.uplink.is_in_handshake() {
                actor.lose_link(&"no answer to the replayed initialize", ctx);
            }
        });
    }

    /// An answer to one of our own requests: swallowed, but the one to `initialize` moves the link on.
    pub(super) fn take_internal_answer(&mut self, answered: &IdKey, head: &Head<'_>, ctx: &mut Context<Self>) {
        let Some(uplink) = self.uplink.handshake_answered(answered) else { return };
        if !matches!(head.kind, Kind::Response { success: true, .. }) {
            self.lose_link(&"the upstream refused the replayed initialize", ctx);
            return;
        }
        let result = head.result.map_or("{}", |result| result.get());
        uplink.initialized(mcp::protocol_version(result).as_deref());
        self.questions.are_of(uplink.stored().as_deref());
        match self.setup.answered_again(result) {
            Again::Same => {}
            Again::Assumed(changes) => self.keep_assumption(changes, ctx),
            Again::Differs => {
                tracing::warn!(session = %self.fence.session, service = self.service.name,
                    "the new upstream session has other capabilities than the client was told");
                self.service.tools.forget();
                self.lists_may_have_changed = true;
            }
        }
        if std::mem::take(&mut self.lists_may_have_changed) {
            self.tell_lists_changed(ctx);
        }
        let questions = &mut self.questions;
        for body in self.setup.rest(|| questions.own_id()) {
            self.post_internal(body, ctx);
        }
        self.record_endpoint(ctx);
        self.recover(uplink, ctx);
    }

    /// The client believes that it is initialised, and this upstream session is not: it has come back on a new stream (some
    /// clients do without a handshake), and this session is its new one.
    pub(super) fn comes_without_handshake(&self, method: &str) -> bool {
        self.setup.is_missing_for(method)
            && !self.posts.requests().iter().any(|(_, request)| matches!(request.kept.effect, Effect::Initialize(_)))
    }

    /// Stands in for the client's handshake with the router's own: no capabilities, since nobody knows what it can do. Its
    /// own `initialize`, should it come, replaces it.
    pub(super) fn assume_initialized(&mut self, ctx: &mut Context<Self>) {
        self.env.metrics.handshakes_assumed.inc();
        let changes = self.setup.assume();
        self.list_stream();
        self.keep_assumption(changes, ctx);
        // One that was opened for something else has had no handshake.
        self.lose_link(&"the client calls without a handshake", ctx);
    }

    /// An adopter needs it. If it cannot be written, the adopter meets the next call as this one did the first.
    fn keep_assumption(&self, changes: Vec<HeadChange>, ctx: &mut Context<Self>) {
        let (env, fence, epoch) = (Arc::clone(&self.env), self.fence.clone(), self.fence.epoch);
        let kept = async move { env.store.update(&fence, &changes).await };
        ctx.spawn(kept.into_actor(self).map(move |outcome, actor, ctx| match outcome {
            Ok(Fenceable::Fenced) => {
                actor.fenced(epoch, ctx);
            }
            Ok(_) => {}
            Err(error) => {
                actor.note_store_error(&error);
            }
        }));
    }

    /// The session is one that its client may come back to.
    pub(super) fn list_stream(&self) {
        if let Some(attachment) = self.streams.get(StreamKey::Main)
            && let Some(client) = attachment.list()
        {
            shown::show(&self.env, client, self.fence.session);
        }
    }

    fn record_endpoint(&mut self, ctx: &mut Context<Self>) {
        let Some(endpoint) = &self.endpoint else { return };
        let session = self.uplink.way().and_then(Uplink::stored);
        let mut changes = vec![HeadChange::Endpoint(endpoint.url.to_string()), HeadChange::UpstreamSession(session)];
        changes.extend(self.streamed.cursors.due());
        let (env, fence, epoch) = (Arc::clone(&self.env), self.fence.clone(), self.fence.epoch);
        let recorded = async move { env.store.update(&fence, &changes).await };
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
    fn recover(&mut self, uplink: Uplink, ctx: &mut Context<Self>) {
        self.uplink.recover(uplink);
        self.cancel_dead_questions(ctx);
        self.resend_unacknowledged(ctx);
        if self.posts.requests().is_empty() && self.inherited.is_none() {
            self.become_open(ctx);
            self.go_on_reading(ctx);
            return;
        }
        let ids = |progress| {
            let such = self.posts.requests().iter().filter(move |(_, request)| request.progress == progress);
            such.map(|(_, request)| (*request.table_key).to_owned())
        };
        let inherited: Vec<String> = ids(Progress::Accepted).collect();
        let maybe_sent: HashSet<String> = ids(Progress::MaybeSent).collect();
        let upstreams = self.tool_sources();
        let patience = self.env.settings.upstream.health_timeout;
        let (env, fence) = (Arc::clone(&self.env), self.fence.clone());
        let service = Arc::clone(&self.service);
        let bounds = Bounds::new(&self.env.settings.upstream);
        let fetched = async move {
            let attempt = || async {
                let pending = env.store.pending(fence.session).await?;
                let asked = Instant::now();
                // Before anything is sent: what is sent must be on record as sent.
                let marked = env.store.mark_forwarded(&fence, &inherited).await?;
                Ok::<_, StoreError>(Fetched { pending, marked, asked, epoch: fence.epoch })
            };
            let may_repeat = |error: &StoreError| {
                let may_repeat = !matches!(error, StoreError::Corrupt(_));
                if may_repeat {
                    env.count_store_error(error);
                }
                may_repeat
            };
            let fetched = backoff::retry(backoff::STORE_PAUSES, attempt, may_repeat).await?;
            let tools_wanted = fetched.pending.iter().any(|request| {
                maybe_sent.contains(&*request.id_key)
                    && matches!(repeatable(&request.body),
                        Repeatable::IfToolSays(tool) if service.tools.repeatable(&tool).is_none())
            });
            if tools_wanted {
                learn_tools(&service, upstreams, bounds, patience).await;
            }
            Ok(fetched)
        };
        let number = self.uplink.number();
        ctx.spawn(fetched.into_actor(self).map(move |fetched, actor, ctx| {
            if number != actor.uplink.number() {
                return;
            }
            match fetched {
                Ok(fetched) => actor.recovered(fetched, ctx),
                Err(error) => {
                    actor.note_store_error(&error);
                    actor.exit(Exit::Corrupt, ctx);
                }
            }
        }));
    }

    /// Who can say something about the tools: the session's own server first, which may have just died; then the others that
    /// are well.
    pub(super) fn tool_sources(&self) -> Vec<Addr<UpstreamActor>> {
        let others = self.service.others_that_are_well(self.endpoint.as_deref());
        self.endpoint.iter().chain(&others).map(|endpoint| self.lines.actor(endpoint)).collect()
    }

    fn recovered(&mut self, fetched: Fetched, ctx: &mut Context<Self>) {
        match fetched.marked {
            Fenceable::Done => self.confirmed_owner(fetched.asked),
            // The claim that follows finds out and deals with it.
            Fenceable::NotFound => {}
            Fenceable::Fenced => self.fenced(fetched.epoch, ctx),
        }
        let goes_on = self.streamed.kept.is_some();
        let mut cancelled = Vec::new();
        for entry in self.inherited.take().unwrap_or_default() {
            match entry.message {
                // Sorted out below, from the request table.
                ClientMessage::Request { .. } => {}
                // It answers a request of the dead upstream session.
                ClientMessage::Response if goes_on => {
                    let id = Head::parse(&entry.body).ok().and_then(|head| match head.kind {
                        Kind::Response { id, .. } => id,
                        Kind::Request { .. } | Kind::Notification { .. } => None,
                    });
                    self.posts.is_done(entry.seq);
                    self.take_answer(entry.seq, id.as_ref(), entry.body);
                }
                ClientMessage::Response => {
                    self.posts.is_done(entry.seq);
                    self.env.metrics.dropped.with_label_values(&["answer_to_dead_upstream"]).inc();
                }
                ClientMessage::Cancel { id_key } => {
                    self.posts.is_done(entry.seq);
                    cancelled.push(IdKey::from_stored(id_key));
                    if goes_on {
                        self.send_to_this_session(entry.seq, entry.body);
                    }
                }
                ClientMessage::Notification => {
                    self.posts.is_done(entry.seq);
                    let Ok(head) = Head::parse(&entry.body) else { continue };
                    match head.method() {
                        // Replayed with the handshake; without one it goes up like any other.
                        Some(mcp::INITIALIZED) if self.setup.is_done() && !goes_on => {}
                        Some(mcp::CANCELLED) => cancelled.extend(target(&entry.body)),
                        _ => self.send_up(entry.seq, entry.body.clone(), None),
                    }
                }
            }
        }
        let mut settled = HashSet::new();
        for request in fetched.pending {
            let id = IdKey::from_stored(request.id_key);
            settled.insert(id.clone());
            self.settle(id, request.seq, request.body, &cancelled, ctx);
        }
        // The store has lost them, and with them their bodies. DUR-1
        let is_lost = |(id, request): &(&IdKey, &InFlight)| {
            request.progress != Progress::NotSent && !settled.contains(*id) && !self.posts.is_queued(request.seq)
        };
        let lost: Vec<IdKey> = self.posts.requests().iter().filter(is_lost).map(|(id, _)| id.clone()).collect();
        for id in lost {
            self.fail_forwarded(&id, ctx);
        }
        self.timing.traced.adopted(self.env.traces.as_ref());
        self.become_open(ctx);
        self.go_on_reading(ctx);
    }

    /// Decides the fate of one request that was open when the link broke.
    fn settle(&mut self, id: IdKey, seq: u64, body: Bytes, cancelled: &[IdKey], ctx: &mut Context<Self>) {
        if self.posts.is_queued(seq) {
            return;
        }
        let can_be_resumed = self.can_be_resumed(seq);
        let Some(request) = self.posts.requests_mut().get_mut(&id) else { return };
        if request.cancelled.is_some() || cancelled.contains(&id) {
            // The upstream that worked on it is gone, and the client wants no answer.
            self.forget_cancelled(vec![id], ctx);
            return;
        }
        if body.is_empty() {
            // Lost with the store's data.
            return self.fail_forwarded(&id, ctx);
        }
        if request.progress == Progress::MaybeSent && can_be_resumed {
            return self.keep_for_resumption(seq, id, body);
        }
        let repeatable = match repeatable(&body) {
            Repeatable::Yes => true,
            Repeatable::No => false,
            Repeatable::IfToolSays(tool) => self.service.tools.repeatable(&tool) == Some(true),
        };
        match recovery::fate(request.progress, repeatable, request.attempts) {
            Fate::Forward => {
                request.progress = Progress::NotSent;
                self.send_up(seq, body, Some(id));
            }
            Fate::OutcomeUnknown => self.fail_forwarded(&id, ctx),
        }
    }

    fn become_open(&mut self, ctx: &mut Context<Self>) {
        let is_proven = self.uplink.way().is_some_and(Uplink::is_proven);
        let now = Instant::now();
        if !(if is_proven { self.uplink.settled(now) } else { self.uplink.settled_unproven(now) }) {
            return;
        }
        self.arm_deadline(ctx);
        self.pump_posts(ctx);
        self.claim(ctx);
    }
}

/// Asks one of these servers what it says of its tools: the next one if there is no answer, all of them within one time
/// limit. Without an answer no tool can be vouched for, and unknown outcomes are said to be unknown.
pub(super) async fn learn_tools(
    service: &Service,
    upstreams: Vec<Addr<UpstreamActor>>,
    bounds: Bounds,
    patience: Duration,
) {
    let asked = async {
        for upstream in upstreams {
            let list = |body| {
                let upstream = upstream.clone();
                async move { flatten(upstream.send(Call { body, timeout: patience, given_up: None, place: None }).await) }
            };
            match tools::learn(&service.tools, bounds, list).await {
                Ok(()) => return,
                Err(WalkError::Call(error)) => {
                    tracing::debug!(service = service.name, %error, "a server does not list its tools");
                }
                Err(error) => {
                    tracing::warn!(service = service.name, %error, "the tools cannot be listed");
                    return;
                }
            }
        }
    };
    if tokio::time::timeout(patience * 2, asked).await.is_err() {
        tracing::warn!(service = service.name, "the tools are not listed in time");
    }
}

/// Of a request whose body the store has kept (it has lost those of restored sessions).
pub(super) fn repeatable(body: &[u8]) -> Repeatable {
    match Head::parse(body) {
        Ok(head) => mcp::repeatable(head.method().unwrap_or_default(), head.params),
        Err(_) => Repeatable::No,
    }
}
