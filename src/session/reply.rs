//! The answers to POSTs: what they hold is read piece by piece, and goes the way of what comes on the upstream session's own
//! stream; and what it means if the answer to the request is not in it. REQ-3

use std::{sync::Arc, time::Instant};

use actix::prelude::*;
use bytes::Bytes;

use super::{
    actor::SessionActor,
    reading::{Carried, Reading},
};
use crate::{
    protocol::jsonrpc::{self, IdKey},
    upstream::{
        LinkEvent, Piece, Reply, ReplyEnd, STREAM_WAIT, Uplink, Via, notice::LinkLimits, resumption::Resumption,
    },
};

impl SessionActor {
    /// What the answer to a POST holds goes the way of what comes on the stream.
    pub(super) fn read_reply(&mut self, reply: Option<Reply>, carried: Option<Carried>, ctx: &mut Context<Self>) {
        let Some(reply) = reply else { return };
        let reading = self.reading(reply, carried);
        self.read_on(reading, ctx);
    }

    pub(super) fn reading(&self, reply: Reply, carried: Option<Carried>) -> Reading {
        let settings = &self.env.settings.upstream;
        let until = tokio::time::Instant::now() + settings.request_timeout;
        let (link, attempts) = (self.uplink.number(), Resumption::new(settings));
        Reading { reply, link, carried, until, attempts, is_resumed: false }
    }

    /// Piece by piece, and no further while too much waits (MEM-1).
    pub(super) fn read_on(&mut self, reading: Reading, ctx: &mut Context<Self>) {
        let limits = LinkLimits::from(&self.env.settings.upstream);
        let gate = Arc::clone(&self.gate);
        let read = async move {
            let mut reading = reading;
            let next = async {
                gate.wait().await;
                reading.reply.next(limits).await
            };
            let piece = tokio::time::timeout_at(reading.until, next).await;
            let late = |_| Piece { events: Vec::new(), end: Some(ReplyEnd::Broken) };
            (piece.unwrap_or_else(late), reading)
        };
        ctx.spawn(read.into_actor(self).map(|(Piece { events, end }, mut reading), actor, ctx| {
            // Of a session that was given up nothing is wanted any more.
            if reading.link != actor.uplink.number() {
                return;
            }
            // By the sequence of the message, which names the client's stream that it belongs to.
            let via = reading.carried.as_ref().map_or(Via::Stream, |carried| Via::Post(carried.seq));
            if !events.is_empty() {
                reading.attempts.worked();
            }
            let mut goes_on = false;
            for event in events {
                if !actor.uplink.heard(reading.link, Instant::now()) {
                    return;
                }
                match (event, &reading.carried) {
                    (LinkEvent::Cursor(cursor), Some(carried)) => actor.note_cursor_of(carried, cursor, ctx),
                    (LinkEvent::Waits { state, with_next }, Some(carried)) => {
                        actor.note_waiting(carried, state, with_next, ctx);
                    }
                    (LinkEvent::GoesOn, _) => goes_on = true,
                    (LinkEvent::Cursor(_) | LinkEvent::Waits { .. }, None) => {}
                    (event, _) => actor.take_event(event, via, ctx),
                }
            }
            match end {
                _ if reading.is_resumed && !actor.is_wanted(&reading) => {}
                None if goes_on => actor.goes_on(reading, ctx),
                None => actor.read_on(reading, ctx),
                Some(end) => actor.reply_ended(end, reading, ctx),
            }
        }));
    }

    fn reply_ended(&mut self, end: ReplyEnd, mut reading: Reading, ctx: &mut Context<Self>) {
        let in_place = self.uplink.way().is_some_and(Uplink::answers_in_place);
        let Some(carried) = reading.carried.take_if(|_| reading.link == self.uplink.number()) else {
            if matches!(end, ReplyEnd::Nameless(_)) {
                self.count_dropped("upstream_answer_without_id");
            }
            return;
        };
        if in_place && matches!(end, ReplyEnd::Whole | ReplyEnd::Broken) {
            let reading = Reading { carried: Some(carried), ..reading };
            if self.is_wanted(&reading) {
                self.resume(reading, ctx);
            }
            return;
        }
        let Carried { number, seq, id, body } = carried;
        match end {
            ReplyEnd::Whole => {}
            ReplyEnd::Broken => {
                self.settle_unless_link_ends(number, seq, id, body, "the answer broke off".to_owned(), ctx);
            }
            ReplyEnd::Unreadable => self.answer_unless_stream_does(number, id, None, ctx),
            ReplyEnd::Nameless(error) => self.answer_unless_stream_does(number, id, Some(error), ctx),
        }
    }

    /// The answer to a POST is this error of the server, or (`None`) cannot be read. What has come on the stream counts.
    fn answer_unless_stream_does(&mut self, number: u64, id: IdKey, error: Option<Bytes>, ctx: &mut Context<Self>) {
        ctx.run_later(STREAM_WAIT, move |actor, ctx| {
            if !actor.posts.carries(number, &id) {
                return;
            }
            match error {
                Some(error) => {
                    actor.take_upstream_message(jsonrpc::failed_response(id.as_json(), &error), Via::Stream, ctx);
                }
                None => {
                    actor.count_dropped("upstream_nonsense");
                    actor.fail_broken(&id, &"it cannot be read", ctx);
                }
            }
        });
    }
}
