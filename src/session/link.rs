//! The upstream link of a session: opened at the first message that needs it, opened again when it is lost or when the
//! session was adopted, and brought to where the client left it: `initialize`, `initialized`, log level, subscriptions
//! are replayed and their answers swallowed; then every open request meets its fate ([`super::recovery`]). REQ-3

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;
use bytes::Bytes;

use super::{
    actor::{Exit, SessionActor},
    claim::CLAIM_BATCH,
    recovery::Progress,
};
use crate::{
    backoff::pause_after,
    protocol::{
        jsonrpc::{self, IdKey, Said},
        mcp,
    },
    store::Claimed,
    upstream::{LinkError, LinkEvent, LinkNotice, Uplink, actor::OpenLink},
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
        /// Where messages go.
        uplink: Uplink,
        /// Id of the replayed request.
        id: IdKey,
    },
    /// Open requests are being sorted out.
    Recovering {
        /// Where messages go.
        uplink: Uplink,
    },
    /// Messages flow.
    Open {
        /// Where messages go.
        uplink: Uplink,
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

    pub(super) fn uplink(&self) -> Option<&Uplink> {
        match self {
            Self::Handshake { uplink, .. } | Self::Recovering { uplink } | Self::Open { uplink } => Some(uplink),
            Self::Idle | Self::Waiting | Self::Opening => None,
        }
    }
}

impl SessionActor {
    /// There is something to do for a link, or the client may expect notifications.
    pub(super) fn wants_link(&self) -> bool {
        (self.setup.is_done() && !self.resting)
            || !self.in_flight.is_empty()
            || !self.to_send.is_empty()
            || self.more_waits
            || self.inherited.as_ref().is_some_and(|inbox| !inbox.is_empty())
    }

    /// Opens a link unless there is one or one is on its way.
    pub(super) fn ensure_link(&mut self, ctx: &mut Context<Self>) {
        if !matches!(self.link, Link::Idle) {
            return;
        }
        // DRN-2: what is in flight is finished here if it can be.
        if self.draining && self.in_flight.is_empty() && self.to_send.is_empty() {
            return;
        }
        self.lists_may_have_changed |= std::mem::take(&mut self.resting);
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
        let opened = self.lines.actor(&endpoint).send(open);
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
        self.env.metrics.upstream_links.with_label_values(&["lost"]).inc();
        tracing::info!(session = %self.fence.session, service = self.service.name, %error, "upstream link lost");
        self.link_handle = None;
        self.link_number += 1;
        self.link = Link::Idle;
        self.questions.forget_own();
        self.drop_link_bound();
        self.pace.forget_link();
        if self.wants_link() || !self.order.is_even() {
            self.link_failed(error, ctx);
        }
    }

    /// Plans the next attempt, or gives up for now. STM-2
    fn link_failed(&mut self, error: &dyn std::fmt::Display, ctx: &mut Context<Self>) {
        let env = Arc::clone(&self.env);
        let settings = &env.settings.upstream;
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
            _ => pause_after((settings.backoff_min, settings.backoff_max), doublings - 1),
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
        self.env.metrics.upstream_links.with_label_values(&["gave_up"]).inc();
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
            self.env.metrics.dropped.with_label_values(&["upstream_down"]).inc();
        }
        self.refuse_inbox(ctx);
    }

    /// Answers what still lies in the inbox.
    fn refuse_inbox(&mut self, ctx: &mut Context<Self>) {
        let inherited = self.inherited.take().unwrap_or_default();
        for entry in inherited {
            self.outstanding.remove(&entry.seq);
        }
        let claim = self.next_claim(CLAIM_BATCH);
        let (env, epoch) = (Arc::clone(&self.env), self.fence.epoch);
        let claimed = async move { env.store.claim(claim).await };
        ctx.spawn(claimed.into_actor(self).map(move |outcome, actor, ctx| match outcome {
            Ok(Claimed::Entries { handed, .. }) => {
                let more = handed.more;
                actor.note_handed(handed.after, handed.upto, handed.entries);
                while let Some((_, message)) = actor.order.pop() {
                    match message.said {
                        Said::Request { id, .. } => actor.fail_unavailable(&id, ctx),
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

    pub(super) fn fail_unknown(&mut self, id: &IdKey, ctx: &mut Context<Self>) {
        let why = "outcome unknown: the request was forwarded and its server or router died before the answer; \
                   it is not repeated because it may have had its effect";
        let details = serde_json::json!({
            "reason": "outcome_unknown", "service": self.service.name, "outcome": "unknown", "retry": false,
            "requestId": serde_json::from_str::<serde_json::Value>(id.as_json()).unwrap_or_default(),
        });
        self.fail_request(id, jsonrpc::OUTCOME_UNKNOWN, why, "outcome_unknown", details, ctx);
    }

    /// Periodic: a link that was given up is tried again, a silent one is asked for a sign of life.
    pub(super) fn check_link(&mut self, ctx: &mut Context<Self>) {
        let idle_timeout = self.env.settings.upstream.idle_timeout;
        if matches!(self.link, Link::Idle) && self.wants_link() {
            self.ensure_link(ctx);
        } else if self.link.is_open() && self.last_heard.elapsed() > idle_timeout * 2 {
            // The ping of the round before has met silence.
            self.lose_link(&"the upstream is silent", ctx);
        } else if self.link.is_open() && self.last_heard.elapsed() > idle_timeout {
            let id = self.questions.own_id();
            let ping = format!(r#"{{"jsonrpc":"2.0","id":{},"method":"{}"}}"#, id.as_json(), mcp::PING);
            self.post_internal(Bytes::from(ping), ctx);
        }
    }
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
            LinkEvent::Opened(address) => {
                // Some servers send it twice; the first stands.
                if matches!(self.link, Link::Opening)
                    && let Some(endpoint) = &self.endpoint
                {
                    let uplink = self.lines.uplink(endpoint, address);
                    self.opened(uplink, ctx);
                }
            }
            LinkEvent::Message(body) | LinkEvent::Altered(body) => self.take_upstream_message(body, ctx),
            LinkEvent::TooLarge(told) => self.take_too_large(told, ctx),
            LinkEvent::Closed(error) => {
                if let Some(endpoint) = self.endpoint.as_ref().filter(|_| error.is_failure()) {
                    endpoint.failed(&error);
                }
                self.lose_link(&error, ctx);
            }
        }
    }
}
