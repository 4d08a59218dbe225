//! Requests of the server to the client (sampling, elicitation, roots, ping): passed on under ids of the router's own, and
//! their answers under the server's. Which are open is [`Questions`](super::core::questions::Questions)'s to say. Only the bytes
//! of the id are replaced; `progressToken` is another matter and stays.

use actix::prelude::*;
use bytes::Bytes;

use super::{actor::SessionActor, core::questions::Answered};
use crate::{
    protocol::{
        jsonrpc::{self, Head, IdKey},
        mcp,
    },
    store::{HeadChange, NewEvent},
    upstream::{Uplink, Via},
};

/// The question with this id towards the client is not open any more.
fn settled(id: &IdKey) -> HeadChange {
    HeadChange::Settled { id: id.as_json().to_owned() }
}

impl SessionActor {
    /// The server asks.
    pub(super) fn take_question(
        &mut self,
        upstream_id: IdKey,
        via: Via,
        head: &Head<'_>,
        body: &Bytes,
        ctx: &mut Context<Self>,
    ) {
        // Some servers repeat events of all streams to whoever resumes one.
        let is_resumable = self.uplink.way().is_some_and(Uplink::answers_in_place);
        if is_resumable && self.questions.is_asked(&upstream_id, self.uplink.number()) {
            return self.count_dropped("repeated_question");
        }
        let stored = upstream_id.as_json().to_owned();
        let most = self.env.settings.limits.max_server_requests;
        let id = match self.questions.ask(upstream_id, self.uplink.number(), most) {
            Ok(id) => id,
            Err(upstream_id) => return self.refuse_question(&upstream_id, most, ctx),
        };
        let asked = HeadChange::Asked { id: id.as_json().to_owned(), upstream_id: stored };
        let stream = self.stream_for(via, head);
        let event = NewEvent::message(head.with_id(body, id.as_json())).on(stream).changing(asked);
        self.push_event(event, ctx);
    }

    /// The server has asked more than its client answers. MEM-2
    fn refuse_question(&mut self, upstream_id: &IdKey, most: usize, ctx: &mut Context<Self>) {
        self.env.metrics.router_errors.with_label_values(&["too_many_server_requests"]).inc();
        let why =
            format!("{most} requests of the server are without an answer of the client (MCP_MAX_SERVER_REQUESTS)");
        let details = serde_json::json!({ "reason": "too_many_server_requests", "limit": most, "retry": true });
        let error = jsonrpc::error_response(upstream_id.as_json(), jsonrpc::INTERNAL_ERROR, &why, Some(&details));
        self.post_internal(error, ctx);
    }

    /// The server takes a question back: after that an answer is of no use to it (MCP, cancellation).
    pub(super) fn take_upstream_cancel(&mut self, via: Via, head: &Head<'_>, body: &Bytes, ctx: &mut Context<Self>) {
        let named = mcp::cancelled_request_id(head.params);
        let withdrawn = named
            .and_then(|named| Some((named, self.questions.withdraw(&IdKey::of_json(named)?, self.uplink.number())?)));
        let event = match withdrawn {
            Some((named, id)) => {
                NewEvent::message(jsonrpc::with_part(body, named, id.as_json())).changing(settled(&id))
            }
            None => NewEvent::message(body.clone()),
        };
        let stream = self.stream_for(via, head);
        self.push_event(event.on(stream), ctx);
    }

    /// The client answers.
    pub(super) fn take_answer(&mut self, seq: u64, id: Option<&IdKey>, body: Bytes) {
        let answered = id.map_or(Answered::Nothing, |id| self.questions.answer(id, self.uplink.number()));
        let body = match answered {
            Answered::Live(None) => body,
            Answered::Live(Some(upstream_id)) => match Head::parse(&body) {
                Ok(head) => head.with_id(&body, upstream_id.as_json()),
                // It was read before.
                Err(_) => return,
            },
            Answered::Dead => return self.count_dropped("answer_to_dead_upstream"),
            Answered::Nothing => return self.count_dropped("answer_to_nothing"),
        };
        self.send_to_this_session(seq, body);
    }

    /// The client's word on a question that it cancels (which MCP does not foresee), under the server's id. `None`: it is about
    /// something else.
    pub(super) fn cancel_of_question(&self, target: &IdKey, body: &Bytes) -> Option<Bytes> {
        let upstream_id = self.questions.upstream_id(target, self.uplink.number())?;
        let head = Head::parse(body).ok()?;
        let named = mcp::cancelled_request_id(head.params)?;
        Some(jsonrpc::with_part(body, named, upstream_id.as_json()))
    }

    pub(super) fn count_dropped(&self, why: &'static str) {
        self.env.metrics.dropped.with_label_values(&[why]).inc();
    }

    /// Questions of dead upstream sessions cannot be answered any more: the client is told.
    pub(super) fn cancel_dead_questions(&mut self, ctx: &mut Context<Self>) {
        for id in self.questions.take_dead(self.uplink.number()) {
            let body = format!(
                r#"{{"jsonrpc":"2.0","method":"{}","params":{{"requestId":{},"reason":"the server that asked is gone"}}}}"#,
                mcp::CANCELLED,
                id.as_json()
            );
            self.push_event(NewEvent::message(Bytes::from(body)).changing(settled(&id)), ctx);
        }
    }
}
