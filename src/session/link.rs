//! The upstream link of a session: opened at the first message that needs it, opened again when it is lost or when the
//! session was adopted, and brought to where the client left it: `initialize`, `initialized`, log level, subscriptions
//! are replayed and their answers swallowed; then every open request meets its fate ([`super::recovery`]). REQ-3

use std::{sync::Arc, time::Instant};

use actix::prelude::*;
use bytes::Bytes;

use super::{
    actor::{Exit, SessionActor},
    core::{
        claims::CLAIM_BATCH,
        recovery::Progress,
        uplink::{Check, NoLink},
    },
    journal::{InFlight, Kept},
};
use crate::{
    protocol::{
        jsonrpc::{self, IdKey, Said},
        mcp,
    },
    store::Claimed,
    upstream::{Address, LinkError, LinkEvent, LinkNotice, Via, actor::OpenLink},
};

impl SessionActor {
    /// There is something to do for a link, or the client may expect notifications.
    pub(super) fn wants_link(&self) -> bool {
        (self.setup.is_done() && !self.resting)
            || !self.posts.requests().is_empty()
            || self.posts.queued() > 0
            || self.claims.more_waits()
            || self.inherited.as_ref().is_some_and(|inbox| !inbox.is_empty())
    }

    /// Opens a link unless there is one or one is on its way.
    pub(super) fn ensure_link(&mut self, ctx: &mut Context<Self>) {
        // DRN-2: what is in flight is finished here if it can be.
        let has_nothing_to_do = self.draining && self.posts.requests().is_empty() && self.posts.queued() == 0;
        if has_nothing_to_do || !self.uplink.want(Instant::now()) {
            return;
        }
        self.lists_may_have_changed |= std::mem::take(&mut self.resting);
        let kept = self.endpoint_of_kept();
        let avoid = self.endpoint.as_ref().filter(|_| self.uplink.avoids_last()).map(|endpoint| endpoint.number);
        let Some(endpoint) = kept.or_else(|| self.service.pick(avoid)) else {
            let error = LinkError::Connect("no endpoint of the service is healthy".to_owned());
            self.link_failed(&error, ctx);
            return;
        };
        let number = self.uplink.opening();
        let open =
            OpenLink { link: number, to: ctx.address().recipient(), gate: Arc::clone(&self.gate), who: self.who() };
        let opened = self.lines.actor(&endpoint).send(open);
        self.endpoint = Some(endpoint);
        ctx.spawn(opened.into_actor(self).map(move |handle, actor, ctx| match handle {
            Ok(handle) if number == actor.uplink.number() => {
                actor.link_handle = Some(handle);
                // It may have left the list between the choice and now.
                actor.lose_what_is_gone(ctx);
            }
            // Given up meanwhile: dropping the handle closes it.
            Ok(_) => {}
            Err(error) => actor.lose_link(&error, ctx),
        }));
    }

    /// The link is broken or useless: close it, and open another if one is wanted.
    pub(super) fn lose_link(&mut self, error: &dyn std::fmt::Display, ctx: &mut Context<Self>) {
        if !self.uplink.lost() {
            return;
        }
        self.env.metrics.upstream_links.with_label_values(&["lost"]).inc();
        tracing::info!(session = %self.fence.session, service = self.service.name, %error, "upstream link lost");
        (self.link_handle, self.streamed.listener, self.streamed.kept) = (None, None, None);
        self.streamed.cursors.restart();
        self.questions.are_of(None);
        self.questions.forget_own();
        let for_nobody = self.posts.link_lost(self.uplink.number());
        self.count_for_nobody(for_nobody);
        if self.wants_link() || !self.order.is_even() {
            self.link_failed(error, ctx);
        }
    }

    /// Plans the next attempt, or gives up for now. STM-2
    fn link_failed(&mut self, error: &dyn std::fmt::Display, ctx: &mut Context<Self>) {
        let env = Arc::clone(&self.env);
        let calls_wait = !self.posts.requests().is_empty();
        match self.uplink.failed(Instant::now(), calls_wait, &env.settings.upstream) {
            NoLink::Wait(pause) => {
                ctx.run_later(pause.draw(), |actor, ctx| {
                    if actor.uplink.pause_is_over() {
                        actor.ensure_link(ctx);
                    }
                });
            }
            NoLink::GiveUp => self.give_up(&error.to_string(), ctx),
        }
    }

    /// No endpoint within the time limit: everything that waits is answered. The next message starts a new search.
    fn give_up(&mut self, error: &str, ctx: &mut Context<Self>) {
        self.env.metrics.upstream_links.with_label_values(&["gave_up"]).inc();
        tracing::warn!(session = %self.fence.session, service = self.service.name, error, "no upstream endpoint can be reached");
        for (id, progress) in self.posts.requests().in_order() {
            if progress == Progress::MaybeSent {
                self.fail_forwarded(&id, ctx);
            } else {
                self.fail_unavailable(&id, ctx);
            }
        }
        for _ in 0..self.posts.drop_queued() {
            self.count_dropped("upstream_down");
        }
        self.refuse_inbox(ctx);
    }

    /// Answers what still lies in the inbox.
    fn refuse_inbox(&mut self, ctx: &mut Context<Self>) {
        let inherited = self.inherited.take().unwrap_or_default();
        for entry in inherited {
            self.posts.is_done(entry.seq);
        }
        let claim = self.next_claim(CLAIM_BATCH);
        let (env, epoch) = (Arc::clone(&self.env), self.fence.epoch);
        let claimed = async move { env.store.claim(claim).await };
        ctx.spawn(claimed.into_actor(self).map(move |outcome, actor, ctx| match outcome {
            Ok(Claimed::Entries { handed, .. }) => {
                let more = handed.more;
                actor.timing.traced.found(handed.traces);
                actor.note_handed(handed.after, handed.upto, handed.entries);
                while let Some((seq, message)) = actor.order.pop() {
                    let begun = message.begun();
                    match message.said {
                        Said::Request { id, .. } => {
                            let table_key = id.shared_key();
                            let request = InFlight::new(
                                seq,
                                table_key,
                                Instant::now(),
                                Kept::nothing(begun, &actor.env.metrics.held),
                            );
                            actor.posts.inherit_request(id.clone(), request);
                            actor.fail_unavailable(&id, ctx);
                        }
                        Said::Notification { .. } | Said::Response { .. } => {
                            actor.env.metrics.dropped.with_label_values(&["upstream_down"]).inc();
                        }
                    }
                }
                if more {
                    actor.refuse_inbox(ctx);
                }
                actor.watch_holes(ctx);
            }
            Ok(Claimed::NotFound) => actor.vanished(epoch, ctx),
            Ok(Claimed::Older) => actor.went_back(epoch, ctx),
            Ok(Claimed::Fenced) => {
                actor.fenced(epoch, ctx);
            }
            Err(error) => {
                if actor.note_store_error(&error) {
                    // What the lost reply held counts as claimed.
                    actor.doubt(ctx);
                } else {
                    actor.exit(Exit::Corrupt, ctx);
                }
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

    pub(super) fn fail_forwarded(&mut self, id: &IdKey, ctx: &mut Context<Self>) {
        self.fail_unknown(id, "the request was forwarded and its server or router died before the answer", ctx);
    }

    /// A server that the list has lost for too long counts as dead. Without a link to it there is nothing to lose.
    fn lose_what_is_gone(&mut self, ctx: &mut Context<Self>) {
        if self.endpoint.as_ref().is_some_and(|endpoint| endpoint.is_gone()) {
            // It may live, and should not keep what nobody comes back for.
            self.end_upstream();
            self.lose_link(&"its server is not in the list of upstreams any more", ctx);
        }
    }

    /// Periodic: a link that was given up is tried again, a silent one is asked for a sign of life.
    pub(super) fn check_link(&mut self, ctx: &mut Context<Self>) {
        self.lose_what_is_gone(ctx);
        if self.resting && self.uplink.is_open() {
            return;
        }
        let idle_timeout = self.env.settings.upstream.idle_timeout;
        match self.uplink.check(Instant::now(), self.wants_link(), idle_timeout) {
            Check::Fine => {}
            Check::Open => self.ensure_link(ctx),
            Check::Silent => self.lose_link(&"the upstream is silent", ctx),
            Check::Ping => {
                let id = self.questions.own_id();
                let ping = format!(r#"{{"jsonrpc":"2.0","id":{},"method":"{}"}}"#, id.as_json(), mcp::PING);
                self.post_internal(Bytes::from(ping), ctx);
            }
        }
    }
}

impl Handler<LinkNotice> for SessionActor {
    type Result = ();

    fn handle(&mut self, notice: LinkNotice, ctx: &mut Self::Context) {
        // From here on the outbox counts the message.
        drop(notice.charge);
        if !self.uplink.heard(notice.link, Instant::now()) {
            return;
        }
        match notice.event {
            LinkEvent::Opened(address) => {
                // Some servers send it twice; the first stands.
                if self.uplink.is_opening()
                    && let Some(endpoint) = &self.endpoint
                {
                    if let (Address::Streamable, Some(handle)) = (&address, &mut self.link_handle) {
                        handle.is_done();
                    }
                    let uplink = self.lines.uplink(endpoint, address, self.who());
                    self.opened(uplink, ctx);
                }
            }
            LinkEvent::Closed(error) => {
                if let Some(endpoint) = self.endpoint.as_ref().filter(|_| error.is_failure()) {
                    endpoint.failed(&error);
                }
                self.lose_link(&error, ctx);
            }
            event => self.take_event(event, notice.via, ctx),
        }
    }
}

impl SessionActor {
    /// What the present upstream session has said.
    pub(super) fn take_event(&mut self, event: LinkEvent, via: Via, ctx: &mut Context<Self>) {
        self.streamed.arriving = Some(via);
        match event {
            LinkEvent::Message(body) | LinkEvent::Altered(body) => self.take_upstream_message(body, via, ctx),
            LinkEvent::TooLarge(told) => self.take_too_large(told, via, ctx),
            LinkEvent::Cursor(cursor) => self.note_cursor(cursor, ctx),
            LinkEvent::Opened(_) | LinkEvent::Waits { .. } | LinkEvent::GoesOn | LinkEvent::Closed(_) => {}
        }
        self.streamed.arriving = None;
    }
}
