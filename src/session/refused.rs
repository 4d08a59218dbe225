//! What becomes of a message whose POST failed, as `core/posts/failed` decides: sent again, answered with an error, or left
//! to its link's end. REQ-3

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;
use bytes::Bytes;

use super::{
    actor::SessionActor,
    core::{
        pause::pause_before_retry,
        posts::{Failed, NotNow, Outbound, Settled},
    },
    forward::PostUnderWay,
    rehydrate,
};
use crate::{
    protocol::{
        jsonrpc::{self, IdKey},
        mcp::Repeatable,
    },
    upstream::{PostError, tools::Bounds},
};

/// How long the end of a server's stream may come after that of a POST's connection, if both end with the server.
const STREAM_END_WAIT: Duration = Duration::from_millis(100);

impl SessionActor {
    /// Nothing has come from the server since then, and it works on nothing that could keep it from acknowledging.
    pub(super) fn seems_dead(&self, since: Instant) -> bool {
        self.posts.seems_dead(since, self.moment())
    }

    pub(super) fn post_failed(&mut self, number: u64, post: PostUnderWay, error: PostError, ctx: &mut Context<Self>) {
        tracing::debug!(session = %self.fence.session, %error, "POST to the upstream failed");
        let (seq, moment) = (post.seq, self.moment());
        match self.posts.failed(number, post, &error, moment) {
            Failed::Nothing => {}
            Failed::Dropped => self.count_dropped("upstream_refused"),
            Failed::Refused(id) => {
                let details = serde_json::json!({ "reason": "upstream_refused", "retry": false });
                let why = error.to_string();
                self.fail_request(&id, jsonrpc::INTERNAL_ERROR, &why, "upstream_refused", details, ctx);
            }
            Failed::NotNow(outbound) => self.not_now(seq, outbound, &error, ctx),
            Failed::Unclear { id, body, link_may_end: true } => {
                self.settle_unless_link_ends(number, seq, id, body, error.to_string(), ctx);
            }
            Failed::Unclear { id, body, link_may_end: false } => {
                self.settle_alone(number, seq, id, body, error.to_string(), ctx);
            }
            Failed::Again { is_for_nobody, ends_link } => {
                self.count_for_nobody(usize::from(is_for_nobody));
                if ends_link {
                    self.lose_link(&error, ctx);
                }
            }
        }
    }

    /// Not executed, and to be tried again: after the pause that the server asks for.
    fn not_now(&mut self, seq: u64, outbound: Outbound, error: &PostError, ctx: &mut Context<Self>) {
        let PostError::NotNow { retry_after, .. } = error else { return };
        let settings = &self.env.settings.upstream;
        let pause = pause_before_retry(settings, *retry_after, self.posts.refusals(seq));
        match self.posts.not_now(seq, outbound, pause, settings.request_timeout, self.moment()) {
            NotNow::Later { is_for_nobody } => {
                self.count_for_nobody(usize::from(is_for_nobody));
                self.pump_after(pause, ctx);
            }
            NotNow::TooLate(id) => {
                let why = format!("{error}; the request was not executed");
                let details = serde_json::json!({
                    "reason": "upstream_busy", "service": self.service.name, "outcome": "not_executed", "retry": true,
                });
                self.fail_request(&id, jsonrpc::UPSTREAM_UNAVAILABLE, &why, "upstream_busy", details, ctx);
            }
            NotNow::Dropped => self.count_dropped("upstream_refused"),
        }
    }

    fn pump_after(&mut self, pause: Duration, ctx: &mut Context<Self>) {
        ctx.run_later(pause + Duration::from_millis(1), |actor, ctx| actor.pump_posts(ctx));
    }

    /// A connection has broken under a POST. If the server is dead, its stream says so in this very moment, and the
    /// recovery on the next link knows more: which tools only read, from a server that lives.
    pub(super) fn settle_unless_link_ends(
        &mut self,
        number: u64,
        seq: u64,
        id: IdKey,
        body: Bytes,
        why: String,
        ctx: &mut Context<Self>,
    ) {
        let link = self.uplink.number();
        ctx.run_later(STREAM_END_WAIT, move |actor, ctx| {
            if link == actor.uplink.number() {
                actor.settle_alone(number, seq, id, body, why, ctx);
            }
        });
    }

    /// A request whose outcome is unknown although its link is well: sent again if that is harmless, else answered.
    pub(super) fn settle_alone(
        &mut self,
        number: u64,
        seq: u64,
        id: IdKey,
        body: Bytes,
        why: String,
        ctx: &mut Context<Self>,
    ) {
        let repeatable = rehydrate::repeatable(&body);
        let (service, patience) = (Arc::clone(&self.service), self.env.settings.upstream.health_timeout);
        let bounds = Bounds::new(&self.env.settings.upstream);
        let is_unknown_tool =
            matches!(&repeatable, Repeatable::IfToolSays(tool) if service.tools.repeatable(tool).is_none());
        let upstreams = self.tool_sources();
        let asked = async move {
            if is_unknown_tool {
                rehydrate::learn_tools(&service, upstreams, bounds, patience).await;
            }
        };
        self.run(asked, ctx, move |(), actor, ctx| {
            let is_repeatable = match repeatable {
                Repeatable::Yes => true,
                Repeatable::No => false,
                Repeatable::IfToolSays(tool) => actor.service.tools.repeatable(&tool) == Some(true),
            };
            match actor.posts.settle(number, seq, id, body, is_repeatable) {
                Settled::Nothing => {}
                Settled::Again(attempts) => {
                    let pause = pause_before_retry(&actor.env.settings.upstream, None, attempts);
                    actor.posts.pause_until(Instant::now() + pause);
                    actor.pump_after(pause, ctx);
                }
                Settled::Unknown(id) => {
                    actor.fail_unknown(&id, &why, ctx);
                }
            }
        });
    }
}
