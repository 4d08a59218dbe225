//! Upstream → client: the answer to a request whose stream nobody shows. What becomes of it is
//! [`Unheard`]'s to say.

use actix::prelude::*;
use bytes::Bytes;

use super::{
    actor::SessionActor,
    core::{streams::StreamKey, unheard::Unheard},
    returning::is_of_gateway,
};
use crate::store::NewEvent;

impl SessionActor {
    /// Somebody shows the stream.
    pub(super) fn heard(&mut self, stream: StreamKey) {
        if let Some(unheard) = &mut self.unheard {
            unheard.heard(stream);
        }
    }

    /// It waits for its client to come back, for as long as `MCP_ANSWER_GRACE`.
    pub(super) fn wait_for_hearer(&mut self, stream: StreamKey, answer: Bytes, ctx: &mut Context<Self>) {
        // Its client is the gateway, which looks for the answer where it belongs, however late.
        if is_of_gateway(&self.client) {
            return;
        }
        if !self.unheard.get_or_insert_with(Box::<Unheard>::default).logged(stream, answer) {
            return;
        }
        ctx.run_later(self.env.settings.stream.answer_grace, move |actor, ctx| {
            let late = actor.unheard.as_mut().and_then(|unheard| unheard.is_late(stream));
            let Some((answer, changes)) = late else { return };
            actor.env.metrics.moved_answers.inc();
            let event = changes.into_iter().fold(NewEvent::message(answer), NewEvent::changing);
            actor.push_event(event, ctx);
        });
    }
}
