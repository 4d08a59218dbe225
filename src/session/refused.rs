//! What becomes of a message whose POST failed: sent again, answered with an error, or left to its link's end. REQ-3
//!
//! A POST says something of its own message alone. Only what says that the server or its session is gone ends the link;
//! a status, a broken connection or a late acknowledgement touch no other call.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;
use bytes::Bytes;

use super::{
    actor::SessionActor,
    forward::{Outbound, PostUnderWay},
    recovery::{self, Fate, Progress},
    rehydrate,
};
use crate::{
    backoff::pause_after,
    protocol::{
        jsonrpc::{self, Head, IdKey},
        mcp::{self, Repeatable},
    },
    settings::UpstreamSettings,
    upstream::{
        PostError, Reply, ReplyEnd, STREAM_WAIT,
        notice::{LinkLimits, Outlet},
        tools::Bounds,
    },
};

/// How long the end of a server's stream may come after that of a POST's connection, if both end with the server.
const STREAM_END_WAIT: Duration = Duration::from_millis(100);

/// How fast messages go up on the present link.
#[derive(Debug, Default)]
pub struct Pace {
    /// The server acknowledges when the work is done: waiting for it keeps no order.
    acknowledges_late: bool,
    /// The server wants to be left alone until then.
    not_before: Option<Instant>,
    /// Messages that it did not take, by sequence: how often, and since when.
    refused: BTreeMap<u64, (u32, Instant)>,
}

impl Pace {
    /// How long a message waits for the acknowledgement of the one before it. `usual`: of a server that acknowledges at
    /// once. One that does not has had the message long before: a tenth covers the way there.
    pub(super) fn patience(&self, usual: Duration) -> Duration {
        if self.acknowledges_late { usual / 10 } else { usual }
    }

    pub(super) fn acknowledged_late(&mut self) {
        self.acknowledges_late = true;
    }

    /// While its request was not answered yet.
    pub(super) fn acknowledged_early(&mut self) {
        self.acknowledges_late = false;
    }

    /// A message needs no further try.
    pub(super) fn taken(&mut self, seq: u64) {
        self.refused.remove(&seq);
    }

    /// Nothing is under way.
    pub(super) fn shrink(&mut self) {
        self.refused = BTreeMap::new();
    }

    /// Another server session: what the one before said is nothing to it.
    pub(super) fn forget_link(&mut self) {
        (self.acknowledges_late, self.not_before) = (false, None);
    }

    fn is_paused(&self) -> bool {
        self.not_before.is_some_and(|at| Instant::now() < at)
    }
}

/// Pause before a message is sent again that the upstream did not take for the time being.
pub fn pause_before_retry(settings: &UpstreamSettings, asked: Option<Duration>, refusals: u32) -> Duration {
    match asked {
        Some(asked) => asked.clamp(settings.backoff_min, settings.retry_after_max.max(settings.backoff_min)),
        None => pause_after((settings.backoff_min, settings.backoff_max), refusals),
    }
}

impl SessionActor {
    /// Sequence of the message that may be sent now. While the server wants to be left alone, only what running calls
    /// wait for: answers of the client, and cancels.
    pub(super) fn next_to_go(&self) -> Option<u64> {
        let is_paused = self.pace.is_paused();
        let mut waiting = self.to_send.iter().filter(|(_, outbound)| !is_paused || is_urgent(outbound));
        waiting.next().map(|(seq, _)| *seq)
    }

    /// Nothing has come from the server since then, and it works on nothing that could keep it from acknowledging.
    pub(super) fn seems_dead(&self, since: Instant) -> bool {
        let works = self.posts.iter().any(|(number, post)| {
            post.link_number == self.link_number
                && post.outbound.id.as_ref().is_some_and(|id| self.carries(*number, id))
        });
        self.last_heard < since && !works
    }

    pub(super) fn post_failed(&mut self, number: u64, post: PostUnderWay, error: PostError, ctx: &mut Context<Self>) {
        let PostUnderWay { seq, since, outbound, link_number, .. } = post;
        tracing::debug!(session = %self.fence.session, %error, "POST to the upstream failed");
        // A request may have been answered since, and its id used again; or it is on its way a second time.
        let is_over = outbound.id.as_ref().is_some_and(|id| !self.carries(number, id));
        let is_current = link_number == self.link_number;
        match error {
            // Nobody waits for it any more, and its message says nothing of the session.
            PostError::Late(_) | PostError::Unknown(_) | PostError::Failed(_) | PostError::NotNow { .. } if is_over => {
            }
            // The session has answered since: it lives, whatever has become of the acknowledgement.
            PostError::SessionGone if is_over && is_current && self.last_heard > since => {}
            PostError::Refused(_) | PostError::NotFollowed(_) => self.refused(seq, outbound, is_over, &error, ctx),
            PostError::NotNow { retry_after, .. } => self.not_now(seq, outbound, &error, retry_after, ctx),
            PostError::Failed(_) | PostError::Unknown(_) if outbound.id.is_some() => {
                let Some(id) = outbound.id else { return };
                let (body, why) = (outbound.body, error.to_string());
                if matches!(error, PostError::Failed(_)) {
                    self.settle_alone(number, seq, id, body, why, ctx);
                } else {
                    self.settle_unless_link_ends(number, seq, id, body, why, ctx);
                }
            }
            // It had its time limit; the request's own says the rest.
            PostError::Late(_) if outbound.id.is_some() => {}
            PostError::Failed(_) => self.drop_message(seq),
            // The server lives, and keeps this one without a word.
            PostError::Late(_) if !self.seems_dead(since) => self.drop_message(seq),
            // At least once: the session that may have had it is given up.
            PostError::Late(_) | PostError::Unknown(_) => {
                self.send_again(seq, outbound);
                if is_current {
                    self.lose_link(&error, ctx);
                }
            }
            PostError::NotSent(_) | PostError::SessionGone => {
                if let Some(request) =
                    outbound.id.as_ref().filter(|_| !is_over).and_then(|id| self.in_flight.get_mut(id))
                {
                    request.progress = Progress::NotSent;
                }
                if !is_over {
                    self.send_again(seq, outbound);
                }
                if is_current {
                    self.lose_link(&error, ctx);
                }
            }
        }
    }

    /// What means something to its own upstream session only goes no further.
    fn send_again(&mut self, seq: u64, outbound: Outbound) {
        if outbound.id.is_some() || outbound.may_go_on(self.link_number) {
            self.to_send.insert(seq, outbound);
            return;
        }
        self.outstanding.remove(&seq);
        self.count_dropped("answer_to_dead_upstream");
    }

    /// For good.
    fn refused(&mut self, seq: u64, outbound: Outbound, is_over: bool, error: &PostError, ctx: &mut Context<Self>) {
        match outbound.id {
            Some(_) if is_over => {}
            Some(id) => {
                let details = serde_json::json!({ "reason": "upstream_refused", "retry": false });
                let why = error.to_string();
                self.fail_request(&id, jsonrpc::INTERNAL_ERROR, &why, "upstream_refused", details, ctx);
            }
            None => self.drop_message(seq),
        }
    }

    fn drop_message(&mut self, seq: u64) {
        self.outstanding.remove(&seq);
        self.pace.taken(seq);
        self.env.metrics.dropped.with_label_values(&["upstream_refused"]).inc();
    }

    /// Not executed, and to be tried again: after the pause that the server asks for, as long as the message's own time
    /// limit allows it.
    fn not_now(
        &mut self,
        seq: u64,
        outbound: Outbound,
        error: &PostError,
        retry_after: Option<Duration>,
        ctx: &mut Context<Self>,
    ) {
        let env = Arc::clone(&self.env);
        let settings = &env.settings.upstream;
        let now = Instant::now();
        let (refusals, since) = self.pace.refused.entry(seq).or_insert((0, now));
        let pause = pause_before_retry(settings, retry_after, *refusals);
        *refusals = refusals.saturating_add(1);
        let mut since = *since;
        if let Some(request) = outbound.id.as_ref().and_then(|id| self.in_flight.get_mut(id)) {
            request.progress = Progress::NotSent;
            // It has met no endpoint yet.
            request.attempts = request.attempts.saturating_sub(1);
            since = request.since;
        }
        if now + pause >= since + settings.request_timeout {
            let Some(id) = outbound.id else { return self.drop_message(seq) };
            let why = format!("{error}; the request was not executed");
            let details = serde_json::json!({
                "reason": "upstream_busy", "service": self.service.name, "outcome": "not_executed", "retry": true,
            });
            self.fail_request(&id, jsonrpc::UPSTREAM_UNAVAILABLE, &why, "upstream_busy", details, ctx);
            return;
        }
        self.send_again(seq, outbound);
        self.wait_before_posts(pause, ctx);
    }

    fn wait_before_posts(&mut self, pause: Duration, ctx: &mut Context<Self>) {
        self.pace.not_before = self.pace.not_before.max(Some(Instant::now() + pause));
        ctx.run_later(pause + Duration::from_millis(1), |actor, ctx| actor.pump_posts(ctx));
    }

    /// A connection has broken under a POST. If the server is dead, its stream says so in this very moment, and the
    /// recovery on the next link knows more: which tools only read, from a server that lives.
    fn settle_unless_link_ends(
        &mut self,
        number: u64,
        seq: u64,
        id: IdKey,
        body: Bytes,
        why: String,
        ctx: &mut Context<Self>,
    ) {
        let link = self.link_number;
        ctx.run_later(STREAM_END_WAIT, move |actor, ctx| {
            if link == actor.link_number {
                actor.settle_alone(number, seq, id, body, why, ctx);
            }
        });
    }

    /// A request whose outcome is unknown although its link is well: sent again if that is harmless, else answered.
    fn settle_alone(&mut self, number: u64, seq: u64, id: IdKey, body: Bytes, why: String, ctx: &mut Context<Self>) {
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
            if !actor.carries(number, &id) {
                return;
            }
            let is_repeatable = match repeatable {
                Repeatable::Yes => true,
                Repeatable::No => false,
                Repeatable::IfToolSays(tool) => actor.service.tools.repeatable(&tool) == Some(true),
            };
            let Some(request) = actor.in_flight.get_mut(&id) else { return };
            if request.cancelled.is_some() {
                return;
            }
            match recovery::fate(request.progress, is_repeatable, request.attempts) {
                Fate::Forward => {
                    request.progress = Progress::NotSent;
                    let attempts = request.attempts;
                    actor.send_up(seq, body, Some(id));
                    let pause = pause_before_retry(&actor.env.settings.upstream, None, attempts);
                    actor.wait_before_posts(pause, ctx);
                }
                Fate::OutcomeUnknown => {
                    let why = format!("outcome unknown: {why}; it is not repeated because it may have had its effect");
                    let details = serde_json::json!({
                        "reason": "outcome_unknown", "service": actor.service.name, "outcome": "unknown", "retry": false,
                        "requestId": serde_json::from_str::<serde_json::Value>(id.as_json()).unwrap_or_default(),
                    });
                    actor.fail_request(&id, jsonrpc::OUTCOME_UNKNOWN, &why, "outcome_unknown", details, ctx);
                }
            }
        });
    }

    /// What the answer to a POST holds goes the way of what comes on the stream. `carried`: the POST's number, sequence,
    /// id and body of the request that still waits for an answer.
    pub(super) fn read_reply(
        &mut self,
        reply: Option<Reply>,
        carried: Option<(u64, u64, IdKey, Bytes)>,
        ctx: &mut Context<Self>,
    ) {
        let Some(reply) = reply else { return };
        let settings = &self.env.settings.upstream;
        let (limits, patience) = (LinkLimits::from(settings), settings.request_timeout);
        let outlet = Outlet { link: self.link_number, to: ctx.address().recipient(), gate: Arc::clone(&self.gate) };
        let read = async move { reply.read(limits, outlet, patience).await };
        ctx.spawn(read.into_actor(self).map(move |end, actor, ctx| match (end, carried) {
            (ReplyEnd::Whole, _) | (ReplyEnd::Broken | ReplyEnd::Unreadable, None) => {}
            (ReplyEnd::Nameless(_), None) => actor.count_dropped("upstream_answer_without_id"),
            (ReplyEnd::Broken, Some((number, seq, id, body))) => {
                actor.settle_unless_link_ends(number, seq, id, body, "the answer broke off".to_owned(), ctx);
            }
            (ReplyEnd::Unreadable, Some((number, _, id, _))) => {
                actor.answer_unless_stream_does(number, id, None, ctx);
            }
            (ReplyEnd::Nameless(error), Some((number, _, id, _))) => {
                actor.answer_unless_stream_does(number, id, Some(error), ctx);
            }
        }));
    }

    /// The answer to a POST is this error of the server, or (`None`) cannot be read. What has come on the stream counts.
    fn answer_unless_stream_does(&mut self, number: u64, id: IdKey, error: Option<Bytes>, ctx: &mut Context<Self>) {
        ctx.run_later(STREAM_WAIT, move |actor, ctx| {
            if !actor.carries(number, &id) {
                return;
            }
            match error {
                Some(error) => actor.take_upstream_message(jsonrpc::failed_response(id.as_json(), &error), ctx),
                None => {
                    actor.count_dropped("upstream_nonsense");
                    actor.fail_broken(&id, &"it cannot be read", ctx);
                }
            }
        });
    }
}

/// A call that runs may wait for it.
fn is_urgent(outbound: &Outbound) -> bool {
    let head = Head::parse(&outbound.body);
    outbound.id.is_none() && head.is_ok_and(|head| head.method().is_none_or(|method| method == mcp::CANCELLED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn a_pause_is_what_the_server_asks_for_within_bounds() {
        let pairs = [
            ("MCP_UPSTREAM_BACKOFF_MIN", "100ms"),
            ("MCP_UPSTREAM_BACKOFF_MAX", "1s"),
            ("MCP_UPSTREAM_RETRY_AFTER_MAX", "5s"),
        ];
        let settings = Settings::from_pairs(pairs).unwrap().upstream;
        for (asked, refusals, from, to) in [
            (Some(0), 0, 100, 100),
            (Some(3000), 7, 3000, 3000),
            (Some(3_600_000), 0, 5000, 5000),
            (None, 0, 50, 100),
            (None, 2, 200, 400),
            (None, 20, 500, 1000),
        ] {
            let pause = pause_before_retry(&settings, asked.map(Duration::from_millis), refusals).as_millis();
            assert!((from..=to).contains(&pause), "{asked:?} {refusals}: {pause}");
        }
    }
}
