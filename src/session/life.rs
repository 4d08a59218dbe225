//! What a session gives back when its client is gone: first the upstream connection (after `MCP_SESSION_REST`; it is made
//! again when the client returns), then, where sessions are at their cap, its place in this process (its record in the
//! store lives on, and whoever its client comes to adopts it). A session that was never used ends altogether.
//!
//! A session with subscriptions or with open requests of its server keeps its connection for as long as events are kept
//! for a resume: what the server says in that time is what the client comes back for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;

use super::{
    actor::{Exit, SessionActor},
    handle::SessionHandle,
    messages::{MakeRoom, Snapshot, TakeSnapshot, Tick, Upkeep},
    returning, shown,
};
use crate::{
    store::{Fenceable, Holder, StoreError},
    upstream::Uplink,
};

/// Slack of the timer that ends a session that was never used.
const SLACK: Duration = Duration::from_millis(1);

/// What was found about a session without a stream here.
enum Found {
    /// Some other instance shows it, or may: one that does not hear, and is not gone.
    Shown,
    /// Nobody does; who held the stream last, by the store.
    Alone(Option<Holder>),
}

impl SessionActor {
    pub(super) fn is_never_used(&self) -> bool {
        !self.setup.is_done() && self.order.next() == 1
    }

    /// The stream on this process has ended.
    pub(super) fn left_alone(&mut self, ctx: &mut Context<Self>) {
        self.enlist(ctx);
        if self.is_never_used() {
            let ttl = self.env.settings.session.uninitialized_ttl;
            ctx.run_later(ttl + SLACK, move |actor, ctx| {
                let over = actor.streams.alone_since().is_some_and(|since| since.elapsed() >= ttl);
                if over && actor.is_never_used() && actor.is_quiet() {
                    actor.exit(Exit::Gone, ctx);
                }
            });
        }
    }

    /// Among those that make room first.
    pub(super) fn enlist(&mut self, ctx: &mut Context<Self>) {
        if !self.streams.is_shown_here() && self.place.is_none() && !self.draining {
            let guest = self.guest.as_ref().map(crate::session::room::Guest::keys).unwrap_or_default();
            self.place = Some(self.env.lonely.enter(SessionHandle::new(&ctx.address()), guest));
        }
    }

    /// It has a client.
    pub(super) fn delist(&mut self) {
        if let Some(place) = self.place.take() {
            self.env.lonely.leave(place);
        }
    }

    fn rest_after(&self) -> Duration {
        let settings = &self.env.settings;
        if self.setup.has_no_subscriptions() && self.questions.unanswered() == 0 {
            settings.session.rest
        } else {
            settings.session.rest.max(settings.stream.resume_window)
        }
    }

    /// Periodic: gives the upstream connection back if nobody has been here for long.
    pub(super) fn rest_if_alone(&mut self, ctx: &mut Context<Self>) {
        let since = self.streams.alone_since().filter(|since| since.elapsed() >= self.rest_after());
        let could = !self.resting && !self.uplink.is_idle() && !self.streams.is_shown_here() && self.is_quiet();
        let Some(since) = since.filter(|_| could && !self.looking_around) else { return };
        self.looking_around = true;
        let found = self.look_around();
        ctx.spawn(found.into_actor(self).map(move |found, actor, _ctx| {
            actor.looking_around = false;
            let unchanged =
                actor.streams.alone_since() == Some(since) && !actor.streams.is_shown_here() && actor.is_quiet();
            match found {
                // Asked again after the same time.
                Ok(Found::Shown) if unchanged => actor.streams.alone_from(Instant::now()),
                Ok(Found::Alone(holder)) if unchanged => actor.rest(holder),
                Ok(_) => {}
                Err(error) => actor.env.count_store_error(&error),
            }
        }));
    }

    fn rest(&mut self, holder: Option<Holder>) {
        self.env.metrics.upstream_links.with_label_values(&["rested"]).inc();
        tracing::debug!(session = %self.fence.session, "no client: upstream connection given back");
        self.streamed.listener = None;
        // A session that is not its connection goes on (MCP 2025-03-26 and later).
        if !self.uplink.way().is_some_and(Uplink::answers_in_place) {
            self.link_handle = None;
            self.uplink.rest();
            self.questions.forget_own();
            self.drop_link_bound();
        }
        self.resting = true;
        self.rested_under = holder;
        self.shrink();
    }

    /// The client is back, or somebody needs the server.
    pub(super) fn wake_from_rest(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.resting, false) {
            // What the server said of its lists meanwhile was said to nobody.
            if self.uplink.is_open() {
                self.tell_lists_changed(ctx);
                self.listen(ctx);
                return;
            }
            self.lists_may_have_changed = true;
            self.ensure_link(ctx);
        }
    }

    /// A claim tells who holds the stream, by attachment id: not the one of before.
    pub(super) fn held_by(&mut self, holder: Option<u64>, ctx: &mut Context<Self>) {
        let before = self.rested_under.as_ref().map(|holder| holder.id);
        if self.resting && holder.is_some() && holder != before {
            self.wake_from_rest(ctx);
        }
    }

    fn look_around(&self) -> impl Future<Output = Result<Found, StoreError>> + use<> {
        let (env, session) = (Arc::clone(&self.env), self.fence.session);
        async move {
            let Some(head) = env.store.load(session).await? else { return Ok(Found::Alone(None)) };
            if shown::look(&env, session, &head).await?.may_be_shown() {
                return Ok(Found::Shown);
            }
            Ok(Found::Alone(head.holder(super::MAIN_STREAM).cloned()))
        }
    }
}

impl SessionActor {
    /// While draining: hands the session over once nothing is under way.
    pub(super) fn release_if_quiet(&mut self, now: bool, ctx: &mut Context<Self>) {
        // A cancelled request is no reason to stay: the next owner finds that it is (REQ-4).
        let is_over = !self.posts.requests().anybody_waits() && self.has_no_work();
        if !self.draining || !(now || is_over) {
            return;
        }
        let (env, fence) = (Arc::clone(&self.env), self.fence.clone());
        let released = async move {
            let released = async {
                // Over for all, as its server is to hear: nobody will come who could say it.
                if env.store.release(&fence).await? == Fenceable::NotFound {
                    return Ok(Exit::Gone);
                }
                // OWN-9: somebody else looks at it at once, in case that a client waits elsewhere.
                if let Some(heir) = env.neighbours.another(&env.me) {
                    env.store.wake(&heir, fence.session).await?;
                }
                Ok(Exit::Released)
            };
            released.await.unwrap_or_else(|error: StoreError| {
                // The lease's end says it then.
                env.count_store_error(&error);
                Exit::Released
            })
        };
        ctx.spawn(released.into_actor(self).map(|exit, actor, ctx| actor.exit(exit, ctx)));
    }
}

impl Handler<Tick> for SessionActor {
    type Result = MessageResult<Tick>;

    fn handle(&mut self, _tick: Tick, ctx: &mut Self::Context) -> Self::Result {
        let env = Arc::clone(&self.env);
        let settings = &env.settings.session;
        let held_here = !env.directory.attachments(&self.fence.session).is_empty();
        let now = Instant::now();
        self.streams.looked(held_here, now);
        let alone = self.streams.alone_for(now);
        if !held_here {
            self.enlist(ctx);
        }
        let never_used = self.is_never_used();
        // The process that had a use for it is gone.
        let is_left = !held_here && self.fence.generation > 1 && returning::ends_with_its_process(&self.client);
        let idle = self.last_active.elapsed().min(alone);
        self.check_link(ctx);
        self.rest_if_alone(ctx);
        let nobody_needs_it = (never_used && alone > settings.uninitialized_ttl) || (is_left && self.is_quiet());
        MessageResult(if nobody_needs_it {
            Upkeep::Purge
        } else if held_here || !self.is_quiet() {
            Upkeep::Touch
        } else if idle > settings.ttl {
            // The store lets it go by itself, unless a stream on another instance keeps it alive.
            Upkeep::Leave
        } else if self.last_active.elapsed() < settings.ttl / 4 {
            Upkeep::Touch
        } else {
            Upkeep::Leave
        })
    }
}

impl Handler<MakeRoom> for SessionActor {
    type Result = ResponseActFuture<Self, bool>;

    fn handle(&mut self, _make: MakeRoom, _ctx: &mut Self::Context) -> Self::Result {
        // Whoever asks has taken it off the list.
        self.place = None;
        if self.streams.is_shown_here() || !self.is_quiet() || self.draining {
            return Box::pin(actix::fut::ready(()).into_actor(self).map(|(), actor, ctx| {
                actor.enlist(ctx);
                false
            }));
        }
        let found = self.look_around();
        let (env, fence, never_used) = (Arc::clone(&self.env), self.fence.clone(), self.is_never_used());
        let still_alone = self.streams.joins();
        let work = found.into_actor(self).then(move |found, actor, ctx| {
            let alone = matches!(found, Ok(Found::Alone(_)));
            let go = alone && actor.streams.joins() == still_alone && actor.is_quiet();
            if !go && !matches!(found, Ok(Found::Shown)) {
                actor.enlist(ctx);
            }
            async move {
                match (go, never_used) {
                    (false, _) => None,
                    (true, true) => Some(Exit::Gone),
                    (true, false) => match env.store.release(&fence).await {
                        Ok(Fenceable::Done) => Some(Exit::Released),
                        Ok(Fenceable::NotFound) => Some(Exit::Gone),
                        Ok(Fenceable::Fenced) => Some(Exit::Fenced),
                        Err(error) => {
                            env.count_store_error(&error);
                            None
                        }
                    },
                }
            }
            .into_actor(actor)
        });
        Box::pin(work.map(|exit, actor, ctx| {
            let Some(exit) = exit else {
                actor.enlist(ctx);
                return false;
            };
            actor.env.metrics.made_room.inc();
            tracing::debug!(session = %actor.fence.session, "let go to make room for another session");
            actor.exit(exit, ctx);
            true
        }))
    }
}

impl Handler<TakeSnapshot> for SessionActor {
    type Result = MessageResult<TakeSnapshot>;

    fn handle(&mut self, _take: TakeSnapshot, _ctx: &mut Self::Context) -> Self::Result {
        MessageResult(Snapshot {
            generation: self.fence.generation,
            link: self.uplink.name(),
            endpoint: self.endpoint.as_ref().map(|endpoint| endpoint.url.to_string()),
            in_flight: self.posts.requests().len(),
            server_requests: self.questions.unanswered(),
            last_seq: self.outbox.last_seq(),
            attached: self.streams.is_shown_here(),
        })
    }
}
