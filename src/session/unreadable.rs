//! A message of the upstream that is too large to be passed on. The call that it answers gets an error that says so, if
//! that call can be told; nobody else is touched, and nothing is repeated: it has run. REQ-3

use actix::prelude::*;

use super::actor::SessionActor;
use crate::{
    protocol::{jsonrpc, scan::Told},
    upstream::Via,
};

impl SessionActor {
    /// A message beyond `MCP_UPSTREAM_MAX_MESSAGE` has been passed over.
    pub(super) fn take_too_large(&mut self, told: Told, via: Via, ctx: &mut Context<Self>) {
        let limit = self.env.settings.upstream.max_message;
        self.env.metrics.dropped.with_label_values(&["upstream_too_large"]).inc();
        tracing::warn!(session = %self.fence.session, service = self.service.name, limit,
            "the upstream sent a message that is too large (MCP_UPSTREAM_MAX_MESSAGE)");
        match told {
            Told::Answer(id) => {
                let why = format!(
                    "the server's answer is larger than {limit} bytes (MCP_UPSTREAM_MAX_MESSAGE); it is lost, the \
                     request was executed"
                );
                let details = serde_json::json!({
                    "reason": "answer_too_large", "outcome": "executed", "retry": false, "limit": limit,
                });
                self.env.metrics.router_errors.with_label_values(&["answer_too_large"]).inc();
                // As if the server had answered so.
                let error = jsonrpc::error_response(&id, jsonrpc::INTERNAL_ERROR, &why, Some(&details));
                self.take_upstream_message(error, via, ctx);
            }
            Told::Request(id) => {
                let why = format!("the request is larger than {limit} bytes");
                self.post_internal(jsonrpc::error_response(&id, jsonrpc::INVALID_REQUEST, &why, None), ctx);
            }
            Told::Nothing => {}
        }
    }
}
