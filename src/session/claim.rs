//! What other instances have journaled for this owner, and what it lost sight of itself: claimed from the store in
//! order, and with it the word on who shows the client's stream.
//!
//! A journaling may be executed by the store when this actor has given it up, and any reply may be lost. What was missed is
//! a hole in the order of messages ([`super::core::order`]), which is seen in every word of the store about later ones; as long as
//! there is one, each claim asks for it. What is missing at the end is looked for a while after each failure, and whenever
//! somebody tells this owner to look, which a duplicate of such a message does. REQ-1

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;

use super::{
    actor::{Exit, SessionActor},
    attachment::End,
    core::{
        claims::{CLAIM_BATCH, LATER, LOOKS_AFTER_DOUBT, Next, SOON},
        streams::{MAIN_STREAM, StreamKey},
    },
    journal::Arrived,
};
use crate::{
    backoff::jittered,
    store::{Claim, Claimed, Handed, InboxEntry, StoreError},
};

impl SessionActor {
    /// Claims after this time; at most one such claim is planned, the earlier one.
    pub(super) fn plan_claim(&mut self, after: Duration, ctx: &mut Context<Self>) {
        if !self.claims.plan(Instant::now() + after) {
            return;
        }
        let timer = ctx.run_later(after, |actor, ctx| {
            actor.claim_timer = None;
            actor.claims.is_due();
            actor.claim(ctx);
        });
        if let Some(former) = self.claim_timer.replace(timer) {
            ctx.cancel_future(former);
        }
    }

    /// A journaling has ended without an answer: the store may have executed it, or may yet do so.
    pub(super) fn doubt(&mut self, ctx: &mut Context<Self>) {
        self.claims.doubt(LOOKS_AFTER_DOUBT);
        // Many sessions meet the same failure.
        self.plan_claim(jittered(LATER), ctx);
    }

    /// As long as something is known to be missing, somebody asks for it.
    pub(super) fn watch_holes(&mut self, ctx: &mut Context<Self>) {
        if let Some(pause) = self.claims.hole_pause(&self.order, self.accepting) {
            self.plan_claim(pause, ctx);
        }
    }

    /// Messages can go up now. What is claimed counts as forwarded and waits in this process, so no more is claimed than
    /// will soon be sent; the rest waits in the inbox, which has a bound (MEM-2).
    pub(super) fn may_take_more(&self) -> bool {
        self.uplink.is_open() && !self.draining && self.posts.queued() < CLAIM_BATCH
    }

    /// Asks the store for unclaimed inbox entries, for what was missed, and for who holds the client stream.
    pub(super) fn claim(&mut self, ctx: &mut Context<Self>) {
        if !self.claims.begin() {
            return;
        }
        // Without a link nothing is claimed: what is claimed counts as forwarded. What was missed is so already.
        let claim = self.next_claim(if self.may_take_more() { CLAIM_BATCH } else { 0 });
        let store = Arc::clone(&self.env.store);
        let (asked, epoch, joins) = (Instant::now(), self.fence.epoch, self.streams.joins());
        let looked = claim.missing_from.is_some();
        let claimed = async move { store.claim(claim).await };
        ctx.spawn(claimed.into_actor(self).map(move |outcome, actor, ctx| {
            actor.claims.ended();
            if let Ok(Claimed::Entries { .. }) = &outcome {
                actor.confirmed_owner(asked);
                if let Some(pause) = actor.claims.answered(looked) {
                    actor.plan_claim(pause.draw(), ctx);
                }
            }
            actor.claimed(outcome, epoch, joins, ctx);
            actor.watch_holes(ctx);
        }));
    }

    /// Up to so many new entries, and what was missed.
    pub(super) fn next_claim(&self, max_entries: usize) -> Claim {
        Claim {
            missing_from: self.claims.missing_from(&self.order),
            urgent_after: self.draining.then_some(self.claims.urgent_seen()),
            known: self.order.last(),
            known_event: (MAIN_STREAM.into(), self.known_event()),
            ..Claim::new(self.fence.clone(), self.acked(), max_entries)
        }
    }

    fn claimed(&mut self, outcome: Result<Claimed, StoreError>, epoch: u32, joins: u64, ctx: &mut Context<Self>) {
        match outcome {
            Ok(Claimed::Entries { handed, attachments }) => {
                let holder = |stream: StreamKey| {
                    attachments.iter().find(|attachment| attachment.stream == stream.name()).map(|holder| holder.id)
                };
                self.held_by(holder(StreamKey::Main), ctx);
                if self.has_many_streams {
                    for held in &attachments {
                        if held.incarnation != self.env.me.incarnation
                            && let Some(stream) = StreamKey::of_name(&held.stream)
                        {
                            self.heard(stream);
                        }
                    }
                }
                while let Some(superseded) = self.streams.take_superseded(joins, holder) {
                    superseded.end(End::Superseded);
                }
                if !handed.entries.is_empty() {
                    self.last_active = Instant::now();
                }
                let more = handed.more;
                self.take_handed(handed, ctx);
                match self.claims.next(more, self.uplink.is_open(), self.may_take_more()) {
                    Next::Nothing => {}
                    Next::Link => self.ensure_link(ctx),
                    Next::Claim => self.claim(ctx),
                }
                self.release_if_quiet(false, ctx);
            }
            Ok(Claimed::NotFound) if epoch == self.fence.epoch => self.vanished(epoch, ctx),
            Ok(Claimed::Fenced) if epoch == self.fence.epoch => self.fenced(epoch, ctx),
            Ok(Claimed::Older) if epoch == self.fence.epoch => self.went_back(epoch, ctx),
            Ok(Claimed::NotFound | Claimed::Fenced | Claimed::Older) => self.plan_claim(SOON, ctx),
            Err(error) => {
                if self.note_store_error(&error) {
                    let pause = self.claims.failed().draw();
                    self.plan_claim(pause, ctx);
                } else {
                    self.exit(Exit::Corrupt, ctx);
                }
            }
        }
    }

    /// Takes note of what the store has handed out, and handles what is next.
    fn take_handed(&mut self, handed: Handed, ctx: &mut Context<Self>) {
        let Handed { entries, after, upto, urgent, last, traces, .. } = handed;
        self.timing.traced.found(traces);
        self.note_handed(after, upto, entries);
        self.take_ready(ctx);
        if !self.draining {
            return;
        }
        // DRN-2: the server works on what is in flight, and may wait for just these. They stay in the inbox, where they mean
        // nothing to a later upstream session.
        urgent.iter().for_each(|entry| self.handed_lately.note(entry));
        let seen = self.claims.urgent_seen();
        for entry in urgent.into_iter().filter(|entry| entry.seq > seen) {
            if let Some(message) = Arrived::parse(entry.body) {
                self.take(entry.seq, message, ctx);
            }
        }
        self.claims.saw_urgent(last);
        self.pump_posts(ctx);
    }

    pub(super) fn note_handed(&mut self, after: u64, upto: u64, entries: Vec<InboxEntry>) {
        entries.iter().for_each(|entry| self.handed_lately.note(entry));
        // What cannot be read was journaled by no router; nothing will come there.
        let messages = entries.into_iter().filter_map(|entry| Some((entry.seq, Arrived::parse(entry.body)?)));
        self.order.told(after, upto, messages);
    }

    /// Handles what is next in order.
    pub(super) fn take_ready(&mut self, ctx: &mut Context<Self>) {
        while let Some((seq, message)) = self.order.pop() {
            self.take(seq, message, ctx);
        }
        self.pump_posts(ctx);
    }

    /// Handles a message that counts as claimed, or keeps it until every earlier one has been handled.
    pub(super) fn arrive(&mut self, seq: u64, message: Arrived, ctx: &mut Context<Self>) {
        if let Some(message) = self.order.came(seq, message) {
            self.take(seq, message, ctx);
        }
        self.take_ready(ctx);
        self.watch_holes(ctx);
    }

    /// A message counts as claimed by this owner, which may never have seen it.
    pub(super) fn look_for(&mut self, seq: u64, ctx: &mut Context<Self>) {
        self.order.taken(seq);
        self.watch_holes(ctx);
    }
}
