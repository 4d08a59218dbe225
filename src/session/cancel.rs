//! Client → upstream: requests that the client has given up (`notifications/cancelled`). REQ-4
//!
//! The cancel is on record from the moment it is journaled, as a mark on the request ([`Continuation::cancelled`](crate::store::Continuation::cancelled)), by whichever
//! instance that was: an owner that comes later neither runs the request again nor answers it. The mark goes with the
//! request: with an answer that comes all the same, or when the request is taken off the store's table, which is tried until
//! it is done.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use actix::prelude::*;
use bytes::Bytes;

use super::{
    actor::SessionActor,
    attachment::End,
    core::posts::Cancelled,
    journal::{InFlight, target},
};
use crate::{
    metrics::Outcome,
    protocol::jsonrpc::IdKey,
    store::{Fenceable, HeadChange, NewEvent},
};

impl SessionActor {
    /// An explicit cancel goes up once; the request may stay without an answer, as MCP has it.
    pub(super) fn take_cancel(&mut self, seq: u64, body: Bytes, ctx: &mut Context<Self>) {
        let target = target(&body);
        let cancelled = target.as_ref().map(|id| self.posts.cancel(id, Instant::now()));
        match (cancelled, target) {
            (Some(Cancelled::NeverSent), Some(id)) => self.forget_cancelled(vec![id], ctx),
            // The upstream session that has seen it is gone.
            (Some(Cancelled::Sent), _) if !self.uplink.is_open() => self.count_dropped("cancel_to_dead_upstream"),
            (Some(Cancelled::Sent), _) => self.send_to_this_session(seq, body),
            (_, target) => match target.and_then(|id| self.cancel_of_question(&id, &body)) {
                Some(body) => self.send_to_this_session(seq, body),
                // Answered meanwhile.
                None => self.count_dropped("cancel_of_nothing"),
            },
        }
    }

    /// What an adopter finds: the marks on requests that are open, and those that have lost their request.
    pub(super) fn inherit_cancels(&mut self, marks: BTreeMap<String, u64>) {
        let now = Instant::now();
        for (id, seq) in marks {
            self.posts.requests_mut().inherit_cancel(&IdKey::from_stored(id), seq, now);
        }
    }

    /// The marks, for a session that is written again.
    pub(super) fn cancel_marks(&self) -> BTreeMap<String, u64> {
        let cancelled = self.posts.requests().cancelled();
        cancelled.map(|request| ((*request.table_key).to_owned(), request.seq)).collect()
    }

    /// The answer to a request that may have been cancelled takes the mark with it.
    pub(super) fn answer_event(&self, request: &InFlight, body: Bytes) -> NewEvent {
        let event = NewEvent::answer(Arc::clone(&request.table_key), body).on(self.stream_of(request.seq));
        match request.cancelled {
            Some(_) => event.changing(HeadChange::CancelMoot { id_key: Arc::clone(&request.table_key) }),
            None => event,
        }
    }

    /// Cancelled and unanswered, as MCP allows: off the books, without an event.
    pub(super) fn forget_cancelled(&mut self, ids: Vec<IdKey>, ctx: &mut Context<Self>) {
        for id in ids {
            let request = self.posts.requests().get(&id);
            let seq = request.map(|request| request.seq);
            if let Some(request) = request {
                self.service.metrics.count(request.kept.begun.method, Outcome::Cancelled);
            }
            self.posts.forget_request(&id);
            self.timing.traced.is_cancelled(id.key(), self.env.traces.as_ref());
            self.streamed.cursors.given_up(id.key());
            // Nothing more comes there.
            if let Some(shown) = seq.and_then(|seq| self.streams.over(self.stream_of(seq), Instant::now())) {
                shown.end(End::Finished);
            }
        }
        self.forget_in_store(ctx);
    }

    /// Until it is done, or somebody else owns the session, who then finds the marks.
    pub(super) fn forget_in_store(&mut self, ctx: &mut Context<Self>) {
        let Some(requests) = self.posts.requests_mut().tell_forgotten() else { return };
        let store = Arc::clone(&self.env.store);
        let (fence, epoch) = (self.fence.clone(), self.fence.epoch);
        let forgotten = async move { (store.forget_requests(&fence, &requests).await, requests.len()) };
        ctx.spawn(forgotten.into_actor(self).map(move |(forgotten, count), actor, ctx| {
            let told = if matches!(forgotten, Ok(Fenceable::Done)) { count } else { 0 };
            actor.posts.requests_mut().told_forgotten(told);
            match forgotten {
                Ok(Fenceable::Done) => {
                    actor.forget_backoff.reset();
                    actor.forget_in_store(ctx);
                }
                Ok(Fenceable::Fenced) if epoch == actor.fence.epoch => {
                    actor.fenced(epoch, ctx);
                    actor.forget_later(ctx);
                }
                Ok(Fenceable::NotFound) if epoch == actor.fence.epoch => {
                    actor.vanished(epoch, ctx);
                    actor.forget_later(ctx);
                }
                Ok(_) => actor.forget_later(ctx),
                Err(error) => {
                    if actor.note_store_error(&error) {
                        actor.forget_later(ctx);
                    }
                }
            }
        }));
    }

    fn forget_later(&mut self, ctx: &mut Context<Self>) {
        let pause = self.forget_backoff.pause();
        ctx.run_later(pause, |actor, ctx| actor.forget_in_store(ctx));
    }
}
