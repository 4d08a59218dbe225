//! Client → upstream, the second half: POST what was decided to be forwarded, in order, and see to it that each request
//! ends: acknowledged, refused, too late.
//!
//! A POST's outcome is about that POST alone: by the time it comes, its message may have been answered, or be on its way to
//! another upstream session.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;
use bytes::Bytes;

use super::{actor::SessionActor, claim::CLAIM_BATCH, inbound::InFlight, link, recovery::Progress};
use crate::{
    backoff::jittered,
    fault,
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

/// How long a cancelled request may still be answered before it is forgotten.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// A message on its way to the upstream.
#[derive(Debug)]
pub struct Outbound {
    pub(super) body: Bytes,
    /// Set for requests.
    pub(super) id: Option<IdKey>,
    /// Number of the link whose upstream session alone understands it: an answer to a question of it, or a cancel.
    pub(super) only_on: Option<u64>,
}

impl Outbound {
    /// It may be sent on the link of this number.
    pub(super) fn may_go_on(&self, link: u64) -> bool {
        self.only_on.is_none_or(|only| only == link)
    }
}

/// A POST to the upstream without an acknowledgement.
#[derive(Debug)]
pub struct PostUnderWay {
    pub(super) seq: u64,
    pub(super) since: Instant,
    pub(super) outbound: Outbound,
    pub(super) link_number: u64,
    pub(super) future: SpawnHandle,
}

impl SessionActor {
    /// POSTs the next message, one after the other: each waits for the one before it, but not for long.
    pub(super) fn pump_posts(&mut self, ctx: &mut Context<Self>) {
        // Whoever is being found out about, or written again, may be another's.
        if self.to_send.is_empty() || self.restoring {
            return;
        }
        if self.posting.is_some() {
            self.arm_order_wait(ctx);
            return;
        }
        let link::Link::Open { uplink } = &self.link else {
            self.ensure_link(ctx);
            return;
        };
        if self.to_send.first_key_value().is_some_and(|(_, next)| next.id.is_some()) {
            fault::point(fault::BEFORE_FORWARD);
        }
        if !self.env.may_forward(self.confirmed) {
            // OWN-2: this process may have been paused or cut off; somebody else may own the session by now.
            self.recheck_ownership(ctx);
            return;
        }
        let uplink = uplink.clone();
        if !self.has_room_for_post(ctx) {
            return;
        }
        let Some(seq) = self.next_to_go() else { return };
        let Some(outbound) = self.to_send.remove(&seq) else { return };
        if let Some(request) = outbound.id.as_ref().and_then(|id| self.in_flight.get_mut(id)) {
            request.progress = Progress::MaybeSent;
            request.attempts += 1;
            request.post = Some(self.next_post);
            fault::point(fault::BEFORE_POST);
        }
        let number = self.next_post;
        self.next_post += 1;
        let sent = uplink.send(outbound.body.clone());
        let future = ctx.spawn(sent.into_actor(self).map(move |outcome, actor, ctx| {
            actor.posted(number, outcome, ctx);
        }));
        self.posting = Some(number);
        let link_number = self.link_number;
        self.posts.insert(number, PostUnderWay { seq, since: Instant::now(), outbound, link_number, future });
        self.arm_deadline(ctx);
        if !self.to_send.is_empty() {
            self.arm_order_wait(ctx);
        }
        if self.more_waits && self.to_send.len() == CLAIM_BATCH / 2 {
            self.claim(ctx);
        }
    }

    /// A server that answers a POST only when the work is done must not hold up a cancel behind it. A timer only while
    /// something waits.
    fn arm_order_wait(&mut self, ctx: &mut Context<Self>) {
        let under_way = self.posting.and_then(|number| self.posts.get(&number));
        let Some(since) = under_way.map(|post| post.since).filter(|_| !self.order_timer) else { return };
        self.order_timer = true;
        let patience = self.pace.patience(self.env.settings.upstream.order_wait);
        ctx.run_later(patience.saturating_sub(since.elapsed()), move |actor, ctx| {
            actor.order_timer = false;
            let posts = &actor.posts;
            let late = |number: &mut u64| posts.get(number).is_none_or(|post| post.since.elapsed() >= patience);
            let since = actor.posting.and_then(|number| actor.posts.get(&number)).map(|post| post.since);
            // A server from which nothing has come since may be out of reach: then each message that does not wait its full
            // time may overtake the one before (REQ-5).
            if actor.posting.take_if(late).is_some() && since.is_some_and(|since| actor.last_heard > since) {
                actor.pace.acknowledged_late();
            }
            actor.pump_posts(ctx);
        });
    }

    /// A POST for each request in flight, and some for the rest. Of those whose request is answered already, the oldest
    /// makes room: its acknowledgement is of no use to anybody.
    fn has_room_for_post(&mut self, ctx: &mut Context<Self>) -> bool {
        let limit = self.env.settings.limits.max_inflight + MAX_OTHER_POSTS;
        if self.posts.len() < limit {
            return true;
        }
        let useless = self.posts.iter().find(|(number, post)| !self.matters(**number, post));
        let Some((number, future)) = useless.map(|(number, post)| (*number, post.future)) else { return false };
        ctx.cancel_future(future);
        self.posts.remove(&number);
        true
    }

    /// Something depends on its outcome: it carries a notification or an answer, or a request that is not answered yet.
    fn matters(&self, number: u64, post: &PostUnderWay) -> bool {
        post.outbound.id.as_ref().is_none_or(|id| self.carries(number, id))
    }

    /// The request of this id is in flight, and this POST is the last one that has carried it.
    pub(super) fn carries(&self, number: u64, id: &IdKey) -> bool {
        self.in_flight.get(id).is_some_and(|request| request.post == Some(number))
    }

    /// No POST is under way whose outcome matters.
    pub(super) fn posts_are_settled(&self) -> bool {
        !self.posts.iter().any(|(number, post)| self.matters(*number, post))
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
        let number = self.link_number;
        // Requests are sorted out from the request table.
        let is_of_old = |post: &PostUnderWay| post.link_number != number && post.outbound.id.is_none();
        let old: Vec<u64> = self.posts.iter().filter(|(_, post)| is_of_old(post)).map(|(number, _)| *number).collect();
        for post in old.into_iter().filter_map(|number| self.posts.remove(&number)) {
            ctx.cancel_future(post.future);
            self.to_send.insert(post.seq, post.outbound);
        }
        let posts = &self.posts;
        self.posting.take_if(|posting| posts.get(posting).is_none_or(|post| post.link_number != number));
        self.drop_link_bound();
    }

    /// What waits to be sent and was for a session that is gone is for nobody.
    pub(super) fn drop_link_bound(&mut self) {
        let link = self.link_number;
        let dead: Vec<u64> =
            self.to_send.iter().filter(|(_, outbound)| !outbound.may_go_on(link)).map(|(seq, _)| *seq).collect();
        for seq in dead {
            self.to_send.remove(&seq);
            self.outstanding.remove(&seq);
            self.count_dropped("answer_to_dead_upstream");
        }
    }

    fn posted(&mut self, number: u64, outcome: Result<Option<Reply>, PostError>, ctx: &mut Context<Self>) {
        self.posting.take_if(|posting| *posting == number);
        if let Some(post) = self.posts.remove(&number) {
            match outcome {
                Ok(reply) => self.acknowledged(number, post, reply, ctx),
                Err(error) => self.post_failed(number, post, error, ctx),
            }
        }
        self.pump_posts(ctx);
    }

    /// This request's answer has come: its server has had it, and what comes after it need not wait for the acknowledgement.
    pub(super) fn proven_to_have_arrived(&mut self, request: &InFlight, ctx: &mut Context<Self>) {
        let Some(number) = request.post.filter(|number| self.posts.contains_key(number)) else { return };
        self.pace.acknowledged_late();
        if self.posting.take_if(|posting| *posting == number).is_some() {
            self.pump_posts(ctx);
        }
    }

    fn acknowledged(&mut self, number: u64, post: PostUnderWay, reply: Option<Reply>, ctx: &mut Context<Self>) {
        let PostUnderWay { seq, since, outbound, link_number, .. } = post;
        if outbound.id.is_some() {
            fault::point(fault::AFTER_POST);
        }
        self.outstanding.remove(&seq);
        self.pace.taken(seq);
        let carried = outbound.id.filter(|id| self.carries(number, id));
        if carried.is_some() && since.elapsed() < self.env.settings.upstream.order_wait {
            self.pace.acknowledged_early();
        }
        if link_number == self.link_number {
            self.read_reply(reply, carried.map(|id| (number, seq, id, outbound.body)), ctx);
        }
    }

    /// One error for a request in flight, through the log. REQ-2
    pub(super) fn fail_request(
        &mut self,
        id: &IdKey,
        code: i64,
        message: &str,
        reason: &'static str,
        details: serde_json::Value,
        ctx: &mut Context<Self>,
    ) {
        if self.in_flight.get(id).is_some_and(|request| request.cancelled.is_some()) {
            // REQ-4: nobody wants to hear of it any more.
            self.forget_cancelled(vec![id.clone()], ctx);
            return;
        }
        self.env.metrics.router_errors.with_label_values(&[reason]).inc();
        let (id, table_key) = match self.in_flight.remove_entry(id) {
            Some((id, request)) => {
                self.to_send.remove(&request.seq);
                self.outstanding.remove(&request.seq);
                self.pace.taken(request.seq);
                (id, request.table_key)
            }
            None => (id.clone(), id.shared_key()),
        };
        let body = jsonrpc::error_response(id.as_json(), code, message, Some(&details));
        self.answer(table_key, body, ctx);
    }

    /// One timer a session, and only while something is in flight.
    pub(super) fn arm_deadline(&mut self, ctx: &mut Context<Self>) {
        if self.deadline_timer || (self.in_flight.is_empty() && self.posts.is_empty()) {
            return;
        }
        let upstream = &self.env.settings.upstream;
        let (limit, post_limit) = (upstream.request_timeout, upstream.post_timeout);
        let now = Instant::now();
        let requests = self
            .in_flight
            .values()
            .map(|request| request.cancelled.map_or(request.since + limit, |at| at + CANCEL_GRACE));
        let posts = self.posts.values().map(|post| post.since + post_limit).filter(|at| *at > now);
        let next = requests.chain(posts).min().map_or(limit, |at| at.saturating_duration_since(now));
        // A cancel or a POST that comes meanwhile is seen at the next round.
        let next = next.min(post_limit).clamp(Duration::from_millis(10), CANCEL_GRACE);
        self.deadline_timer = true;
        ctx.run_later(next, |actor, ctx| {
            actor.deadline_timer = false;
            actor.check_deadlines(ctx);
            actor.arm_deadline(ctx);
            actor.shrink();
        });
    }

    fn check_deadlines(&mut self, ctx: &mut Context<Self>) {
        let upstream = &self.env.settings.upstream;
        let (limit, post_limit) = (upstream.request_timeout, upstream.post_timeout);
        let late_posts = self.posts.iter().filter(|(_, post)| {
            let age = post.since.elapsed();
            // That of a request may come when the work is done: the limit of the request is its limit, too.
            age >= limit || (age >= post_limit && post.outbound.id.is_none() && self.seems_dead(post.since))
        });
        for (number, future) in late_posts.map(|(number, post)| (*number, post.future)).collect::<Vec<_>>() {
            ctx.cancel_future(future);
            let age = self.posts.get(&number).map_or(limit, |post| post.since.elapsed());
            self.posted(number, Err(PostError::Late(age)), ctx);
        }
        let late: Vec<(IdKey, Progress)> = self
            .in_flight
            .iter()
            .filter(|(_, request)| request.cancelled.is_none() && request.since.elapsed() >= limit)
            .map(|(id, request)| (id.clone(), request.progress))
            .collect();
        for (id, progress) in late {
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
        let forgotten: Vec<IdKey> = self
            .in_flight
            .iter()
            .filter(|(_, request)| request.cancelled.is_some_and(|at| at.elapsed() >= CANCEL_GRACE))
            .map(|(id, _)| id.clone())
            .collect();
        if !forgotten.is_empty() {
            self.forget_cancelled(forgotten, ctx);
        }
    }
}
