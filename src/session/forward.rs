//! Client → upstream, the second half: POST what was decided to be forwarded, in order, and see to it that each request
//! ends: acknowledged, refused, too late.
//!
//! A POST's outcome is about that POST alone: by the time it comes, its message may have been answered, or be on its way to
//! another upstream session.

use std::{sync::Arc, time::Instant};

use actix::prelude::*;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    actor::SessionActor,
    core::{
        claims::CLAIM_BATCH,
        posts::{Moment, OrderWait, Outbound, Resent, Room, UnderWay},
        recovery::Progress,
        streams::StreamKey,
    },
    reading::Carried,
    timing::Begun,
};
use crate::{
    backoff::jittered,
    fault,
    metrics::{Method, Outcome},
    protocol::{
        jsonrpc::{self, IdKey},
        mcp,
    },
    store::Fenceable,
    upstream::{PostError, Reply},
};

/// POSTs of one session that may be without an acknowledgement at a time, beside one for each request that may be in
/// flight: servers that acknowledge when the work is done must not keep a cancel, or the answer that the work waits for,
/// from coming.
const MAX_OTHER_POSTS: usize = 32;

/// A POST to the upstream without an acknowledgement.
pub(super) type PostUnderWay = UnderWay<SpawnHandle>;

impl SessionActor {
    /// POSTs the next message, one after the other: each waits for the one before it, but not for long.
    pub(super) fn pump_posts(&mut self, ctx: &mut Context<Self>) {
        // Whoever is being found out about, or written again, may be another's.
        if self.posts.queued() == 0 || self.restoring {
            return;
        }
        if self.posts.next_waits() {
            self.arm_order_wait(ctx);
            return;
        }
        let Some(uplink) = self.uplink.open_way().cloned() else {
            self.ensure_link(ctx);
            return;
        };
        if self.posts.next_is_request() {
            fault::point(fault::BEFORE_FORWARD);
        }
        if !self.env.may_forward(self.confirmed) {
            // OWN-2: this process may have been paused or cut off; somebody else may own the session by now.
            self.recheck_ownership(ctx);
            return;
        }
        match self.posts.make_room(self.env.settings.limits.max_inflight + MAX_OTHER_POSTS) {
            Room::Free => {}
            Room::Instead(useless) => {
                ctx.cancel_future(useless);
            }
            Room::Full => return,
        }
        let now = Instant::now();
        let Some(next) = self.posts.next(now) else { return };
        if next.is_request {
            fault::point(fault::BEFORE_POST);
        }
        let number = next.number;
        let place =
            next.outbound.id.as_ref().and_then(|id| self.timing.traced.goes_up(id.key(), self.env.traces.as_ref()));
        let sent = uplink.at(place).send(next.outbound.body.clone());
        let future = ctx.spawn(sent.into_actor(self).map(move |outcome, actor, ctx| {
            actor.posted(number, outcome, ctx);
        }));
        self.posts.made(next, now, self.uplink.number(), future);
        self.arm_deadline(ctx);
        if self.posts.queued() > 0 {
            self.arm_order_wait(ctx);
        }
        if self.claims.more_waits() && self.posts.queued() == CLAIM_BATCH / 2 {
            self.claim(ctx);
        }
    }

    /// A timer only while something waits.
    fn arm_order_wait(&mut self, ctx: &mut Context<Self>) {
        let usual = self.env.settings.upstream.order_wait;
        let Some(OrderWait { left, patience }) = self.posts.order_wait(Instant::now(), usual) else { return };
        ctx.run_later(left, move |actor, ctx| {
            let moment = actor.moment();
            actor.posts.waited(patience, moment);
            actor.pump_posts(ctx);
        });
    }

    /// Now, and what is known of the server.
    pub(super) fn moment(&self) -> Moment {
        Moment { now: Instant::now(), link: self.uplink.number(), last_heard: self.uplink.last_heard() }
    }

    /// Forwards nothing until the store has confirmed that this process still owns the session.
    fn recheck_ownership(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.rechecking, true) {
            return;
        }
        let (env, fence) = (Arc::clone(&self.env), self.fence.clone());
        let pause = jittered(self.env.settings.session.lease_renew / 4);
        let (asked, epoch) = (Instant::now(), self.fence.epoch);
        let confirmed = async move {
            let confirmed = env.store.update(&fence, &[]).await;
            if confirmed.is_err() || !env.lease.holds() {
                // The lease is renewed by the registry; until then even a confirmed ownership may end any moment.
                tokio::time::sleep(pause).await;
            }
            confirmed
        };
        ctx.spawn(confirmed.into_actor(self).map(move |confirmed, actor, ctx| {
            actor.rechecking = false;
            match confirmed {
                Ok(Fenceable::Done) => {
                    actor.confirmed_owner(asked);
                    actor.pump_posts(ctx);
                }
                Ok(Fenceable::NotFound) if epoch == actor.fence.epoch => actor.vanished(epoch, ctx),
                Ok(Fenceable::Fenced) if epoch == actor.fence.epoch => actor.fenced(epoch, ctx),
                Ok(Fenceable::NotFound | Fenceable::Fenced) => actor.pump_posts(ctx),
                Err(error) => {
                    actor.note_store_error(&error);
                    actor.pump_posts(ctx);
                }
            }
        }));
    }

    /// The upstream session was given up, and there is another. What went to the old one and may not have arrived goes up
    /// again, before all that comes after it (REQ-5); the outcome of that POST is of no interest any more.
    pub(super) fn resend_unacknowledged(&mut self, ctx: &mut Context<Self>) {
        let Resent { given_up, for_nobody } = self.posts.new_link(self.uplink.number());
        for future in given_up {
            ctx.cancel_future(future);
        }
        self.count_for_nobody(for_nobody);
    }

    /// What waits to be sent and was for a session that is gone is for nobody.
    pub(super) fn drop_link_bound(&mut self) {
        let dropped = self.posts.drop_link_bound(self.uplink.number());
        self.count_for_nobody(dropped);
    }

    pub(super) fn count_for_nobody(&self, messages: usize) {
        for _ in 0..messages {
            self.count_dropped("answer_to_dead_upstream");
        }
    }

    fn posted(&mut self, number: u64, outcome: Result<Option<Reply>, PostError>, ctx: &mut Context<Self>) {
        if let Some(post) = self.posts.ended(number) {
            match outcome {
                Ok(reply) => self.acknowledged(number, post, reply, ctx),
                Err(error) => self.post_failed(number, post, error, ctx),
            }
        }
        self.pump_posts(ctx);
    }

    fn acknowledged(&mut self, number: u64, post: PostUnderWay, reply: Option<Reply>, ctx: &mut Context<Self>) {
        if post.outbound.id.is_some() {
            fault::point(fault::AFTER_POST);
        }
        let usual = self.env.settings.upstream.order_wait;
        let carries = self.posts.acknowledged(number, &post, Instant::now(), usual);
        if post.link == self.uplink.number() {
            self.uplink.answered();
            self.listen(ctx);
            let PostUnderWay { seq, outbound: Outbound { body, id, .. }, .. } = post;
            let carried = id.filter(|_| carries).map(|id| Carried { number, seq, id, body });
            self.read_reply(reply, carried, ctx);
        }
    }

    /// One error for a request in flight, through the log. REQ-2
    pub(super) fn fail_request(
        &mut self,
        id: &IdKey,
        code: i64,
        message: &str,
        reason: &'static str,
        details: impl Serialize,
        ctx: &mut Context<Self>,
    ) {
        if self.posts.requests().get(id).is_some_and(|request| request.cancelled.is_some()) {
            // REQ-4: nobody wants to hear of it any more.
            self.forget_cancelled(vec![id.clone()], ctx);
            return;
        }
        self.env.metrics.router_errors.with_label_values(&[reason]).inc();
        self.timing.traced.came_back(id.key(), self.env.traces.as_ref(), Some(reason));
        let (id, table_key, stream, begun) = match self.posts.end_request(id) {
            Some((id, request)) => (id, request.table_key, self.stream_of(request.seq), request.kept.begun),
            // It is not known which one it was.
            None => (id.clone(), id.shared_key(), StreamKey::Main, Begun::found(Method::unknown())),
        };
        let body = jsonrpc::error_response_with(id.as_json(), code, message, &details);
        let outcome = if code == jsonrpc::OUTCOME_UNKNOWN { Outcome::Unknown } else { Outcome::Refused };
        self.answer(table_key, stream, body, begun.ends(outcome, None), ctx);
    }

    /// A request whose outcome nobody can know, as far as this router is concerned: REQ-3.
    pub(super) fn fail_unknown(&mut self, id: &IdKey, why: &str, ctx: &mut Context<Self>) {
        #[derive(Serialize)]
        struct Details<'a> {
            outcome: &'static str,
            reason: &'static str,
            /// As it came: not every number in JSON is one that can be reckoned with.
            #[serde(rename = "requestId")]
            request_id: Option<&'a RawValue>,
            retry: bool,
            service: &'a str,
        }
        let service = Arc::clone(&self.service);
        // As its client has written it.
        let written = self.posts.requests().iter().map(|(written, _)| written).find(|written| *written == id).cloned();
        let id = written.as_ref().unwrap_or(id);
        let details = Details {
            outcome: "unknown",
            reason: "outcome_unknown",
            request_id: serde_json::from_str(id.as_json()).ok(),
            retry: false,
            service: &service.name,
        };
        let why = format!("outcome unknown: {why}; it is not repeated because it may have had its effect");
        self.fail_request(id, jsonrpc::OUTCOME_UNKNOWN, &why, "outcome_unknown", details, ctx);
    }

    /// One timer a session, and only while something is in flight.
    pub(super) fn arm_deadline(&mut self, ctx: &mut Context<Self>) {
        let upstream = &self.env.settings.upstream;
        let (limit, post_limit) = (upstream.request_timeout, upstream.post_timeout);
        let Some(next) = self.posts.next_deadline(Instant::now(), limit, post_limit) else { return };
        ctx.run_later(next, |actor, ctx| {
            actor.check_deadlines(ctx);
            actor.arm_deadline(ctx);
            actor.shrink();
        });
    }

    fn check_deadlines(&mut self, ctx: &mut Context<Self>) {
        let upstream = &self.env.settings.upstream;
        let (limit, post_limit) = (upstream.request_timeout, upstream.post_timeout);
        for (number, future, age) in self.posts.late(self.moment(), limit, post_limit) {
            ctx.cancel_future(future);
            self.posted(number, Err(PostError::Late(age)), ctx);
        }
        for (id, progress) in self.posts.requests().late(Instant::now(), limit) {
            if progress != Progress::MaybeSent {
                let why =
                    format!("the request could not be given to the upstream within {limit:?}; it was not executed");
                let details = serde_json::json!({ "reason": "timeout", "outcome": "not_executed", "retry": true });
                self.fail_request(&id, jsonrpc::UPSTREAM_UNAVAILABLE, &why, "timeout", details, ctx);
                continue;
            }
            let cancel = format!(
                r#"{{"jsonrpc":"2.0","method":"{}","params":{{"requestId":{},"reason":"the router's time limit"}}}}"#,
                mcp::CANCELLED,
                id.as_json()
            );
            self.post_internal(Bytes::from(cancel), ctx);
            let why =
                format!("the upstream did not answer within {limit:?}; whether the request was executed is unknown");
            let details = serde_json::json!({ "reason": "timeout", "outcome": "unknown", "retry": false });
            self.fail_request(&id, jsonrpc::OUTCOME_UNKNOWN, &why, "timeout", details, ctx);
        }
        let forgotten = self.posts.requests().given_up(Instant::now());
        if !forgotten.is_empty() {
            self.forget_cancelled(forgotten, ctx);
        }
    }
}
