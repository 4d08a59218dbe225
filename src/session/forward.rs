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

use super::{actor::SessionActor, claim::CLAIM_BATCH, link, recovery::Progress};
use crate::{
    backoff::jittered,
    fault,
    protocol::{
        jsonrpc::{self, IdKey},
        mcp,
    },
    store::Fenceable,
    upstream::line::PostError,
};

/// POSTs of one session that may be without an answer at a time. More than one only for servers that answer a POST when
/// its work is done.
const MAX_POSTS: usize = 32;

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
    seq: u64,
    since: Instant,
    outbound: Outbound,
    link_number: u64,
    future: SpawnHandle,
}

impl SessionActor {
    /// POSTs the next message, one after the other: each waits for the one before it, but not for long.
    pub(super) fn pump_posts(&mut self, ctx: &mut Context<Self>) {
        if self.to_send.is_empty() {
            return;
        }
        if self.posting.is_some() || self.posts.len() >= MAX_POSTS {
            self.arm_order_wait(ctx);
            return;
        }
        let link::Link::Open { post, .. } = &self.link else {
            self.ensure_link(ctx);
            return;
        };
        if self.to_send.first_key_value().is_some_and(|(_, next)| next.id.is_some()) {
            fault::point(fault::BEFORE_FORWARD);
        }
        if !self.app().may_forward(self.confirmed) {
            // OWN-2: this process may have been paused or cut off; somebody else may own the session by now.
            self.recheck_ownership(ctx);
            return;
        }
        let (Some(line), post) = (self.line.clone(), post.clone()) else { return };
        let Some((seq, outbound)) = self.to_send.pop_first() else { return };
        if let Some(request) = outbound.id.as_ref().and_then(|id| self.in_flight.get_mut(id)) {
            request.progress = Progress::MaybeSent;
            request.attempts += 1;
            request.post = Some(self.next_post);
            fault::point(fault::BEFORE_POST);
        }
        let number = self.next_post;
        self.next_post += 1;
        let sent = line.post(post, outbound.body.clone());
        let future = ctx.spawn(sent.into_actor(self).map(move |outcome, actor, ctx| {
            actor.posted(number, outcome, ctx);
        }));
        self.posting = Some(number);
        let link_number = self.link_number;
        self.posts.insert(number, PostUnderWay { seq, since: Instant::now(), outbound, link_number, future });
        self.arm_deadline(ctx);
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
        let patience = self.app().settings.upstream.order_wait;
        ctx.run_later(patience.saturating_sub(since.elapsed()), move |actor, ctx| {
            actor.order_timer = false;
            let posts = &actor.posts;
            actor.posting.take_if(|number| posts.get(number).is_none_or(|post| post.since.elapsed() >= patience));
            actor.pump_posts(ctx);
        });
    }

    /// Forwards nothing until the store has confirmed that this process still owns the session.
    fn recheck_ownership(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.rechecking, true) {
            return;
        }
        let (app, fence) = (Arc::clone(self.app()), self.fence.clone());
        let pause = jittered(self.app().settings.session.lease_renew / 4);
        let (asked, epoch) = (Instant::now(), self.fence.epoch);
        let confirmed = async move {
            let confirmed = app.store.update(&fence, &[], &[]).await;
            if confirmed.is_err() || !app.lease_holds() {
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
                Ok(Fenceable::Fenced) if actor.fenced(epoch, ctx) => {}
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

    fn posted(&mut self, number: u64, outcome: Result<(), PostError>, ctx: &mut Context<Self>) {
        self.posting.take_if(|posting| *posting == number);
        if let Some(post) = self.posts.remove(&number) {
            self.take_acknowledgement(number, post, outcome, ctx);
        }
        self.pump_posts(ctx);
    }

    fn take_acknowledgement(
        &mut self,
        number: u64,
        post: PostUnderWay,
        outcome: Result<(), PostError>,
        ctx: &mut Context<Self>,
    ) {
        let PostUnderWay { seq, outbound, link_number, .. } = post;
        let error = match outcome {
            Ok(()) => {
                if outbound.id.is_some() {
                    fault::point(fault::AFTER_POST);
                }
                self.outstanding.remove(&seq);
                return;
            }
            Err(error) => error,
        };
        tracing::debug!(session = %self.fence.session, %error, "POST to the upstream failed");
        // The request may have been answered since, and its id used again; or it is on its way a second time.
        let carried = outbound.id.as_ref().and_then(|id| self.in_flight.get_mut(id));
        let carried = carried.filter(|request| request.post == Some(number));
        if let PostError::Refused(status) = error {
            let is_open = carried.is_some();
            match outbound.id {
                Some(id) if is_open => {
                    let why = format!("the upstream refused the request with status {status}");
                    let details = serde_json::json!({ "reason": "upstream_refused", "retry": false });
                    self.fail_request(&id, jsonrpc::INTERNAL_ERROR, &why, "upstream_refused", details, ctx);
                }
                Some(_) => {}
                None => {
                    self.outstanding.remove(&seq);
                    self.app().metrics.dropped.with_label_values(&["upstream_refused"]).inc();
                }
            }
            return;
        }
        let not_executed = matches!(error, PostError::NotSent(_) | PostError::SessionGone);
        match carried {
            Some(request) if not_executed => {
                request.progress = Progress::NotSent;
                self.to_send.insert(seq, outbound);
            }
            Some(_) => {}
            None if !outbound.may_go_on(self.link_number) => {
                self.outstanding.remove(&seq);
                self.count_dropped("answer_to_dead_upstream");
            }
            // At least once: the session that may have had it is given up.
            None if outbound.id.is_none() => {
                self.to_send.insert(seq, outbound);
            }
            None => {}
        }
        if link_number == self.link_number {
            self.lose_link(&error, ctx);
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
        self.app().metrics.router_errors.with_label_values(&[reason]).inc();
        let (id, table_key) = match self.in_flight.remove_entry(id) {
            Some((id, request)) => {
                self.to_send.remove(&request.seq);
                self.outstanding.remove(&request.seq);
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
        let upstream = &self.app().settings.upstream;
        let (limit, post_limit) = (upstream.request_timeout, upstream.post_timeout);
        let now = Instant::now();
        let requests = self
            .in_flight
            .values()
            .map(|request| request.cancelled.map_or(request.since + limit, |at| at + CANCEL_GRACE));
        let posts = self.posts.values().map(|post| post.since + post_limit);
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
        let upstream = &self.app().settings.upstream;
        let (limit, post_limit) = (upstream.request_timeout, upstream.post_timeout);
        let late_posts = self.posts.iter().filter(|(_, post)| post.since.elapsed() >= post_limit);
        for (number, future) in late_posts.map(|(number, post)| (*number, post.future)).collect::<Vec<_>>() {
            ctx.cancel_future(future);
            self.posted(number, Err(PostError::late(post_limit)), ctx);
        }
        let late: Vec<IdKey> = self
            .in_flight
            .iter()
            .filter(|(_, request)| request.cancelled.is_none() && request.since.elapsed() >= limit)
            .map(|(id, _)| id.clone())
            .collect();
        for id in late {
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
