//! Streamable HTTP of MCP 2026-07-28, the client's side, for a client with a session: every request stands for itself and says
//! who asks, and what comes back for it comes in its answer.
//!
//! | file | what stands there |
//! |---|---|
//! | `state` | what a server with a session would keep |
//! | `handshake` | what is kept of the client's `initialize`, and what it is answered |
//! | `head` | what every POST has in its head |
//! | `outgoing` | a request as this era has it: body and headers |
//! | `posting` | one POST, and what its answer means |
//! | `exchange` | one request of the client until its answer, with what the server asks in between |
//! | `questions`, `told` | what the server asks and says, as servers with sessions do |
//! | `subscriptions`, `listening` | what the client wants to hear of, and the stream of what changes |
//!
//! There is no upstream session. What stands for it lives as long as the client's session has this uplink; an heir has it from
//! the session's own record.

mod exchange;
mod handshake;
pub(in crate::upstream) mod head;
mod listening;
mod outgoing;
mod posting;
mod questions;
mod state;
mod subscriptions;
mod told;

use std::rc::Rc;

use bytes::Bytes;
use serde_json::json;

use self::{exchange::Exchange, handshake::Client, state::State};
use super::http::{answer::PostError, line::Line, reply::Reply};
use crate::{
    protocol::{
        jsonrpc::{self, Head, IdKey, Kind},
        mcp, modern,
    },
    upstream::{
        notice::{LinkLimits, Outlet},
        resumption::Resumption,
    },
};

/// How it stands on record: there is nothing of it at the server.
pub(in crate::upstream) const STORED: &str = modern::VERSION;

/// See the module's text. Cheap to clone; it stays on its thread.
#[derive(Debug, Clone)]
pub(in crate::upstream) struct Modern(Rc<State>);

impl Modern {
    /// None yet: the first message is to be `initialize`.
    pub(in crate::upstream) fn new(line: &Line) -> Self {
        Self(Rc::new(State::new(line)))
    }

    /// The server has answered on this session.
    pub(in crate::upstream) fn is_open(&self) -> bool {
        self.0.is_open.get()
    }

    /// As it stands on record, by which an heir knows what it has to do with. `None` before it was begun.
    pub(in crate::upstream) fn stored(&self) -> Option<String> {
        self.is_open().then(|| STORED.to_owned())
    }

    /// Goes on with a request of a former owner: see [`Exchange::resume`].
    pub(in crate::upstream) fn resume(&self, line: Line, request: &Bytes, state: &str) -> Option<Reply> {
        Exchange::resume(Rc::clone(&self.0), line, request, state)
    }

    /// Shows what changes to `outlet` for as long as this is waited for.
    pub(in crate::upstream) async fn listen(
        self,
        line: Line,
        limits: LinkLimits,
        outlet: Outlet,
        attempts: Resumption,
    ) {
        self.0.listen(line, limits, outlet, attempts).await;
    }

    /// Takes one message of a client with a session. `is_check`: a `ping` is a question whether the server lives.
    pub(in crate::upstream) async fn send(
        &self,
        line: Line,
        body: Bytes,
        is_check: bool,
    ) -> Result<Option<Reply>, PostError> {
        let state = &self.0;
        let Ok(head) = Head::parse(&body) else { return Err(PostError::Refused(400)) };
        match &head.kind {
            Kind::Request { id, method } => {
                let id = id.clone();
                let said = |result: Result<(), String>| Ok(Some(local(id.as_json(), result)));
                match &**method {
                    mcp::INITIALIZE => self.shake_hands(&line, &head, id.as_json()).await,
                    mcp::PING if is_check => state.discover(&line).await.map(|_| Some(local(id.as_json(), Ok(())))),
                    mcp::PING => said(Ok(())),
                    mcp::SET_LEVEL => {
                        let set = state.client.borrow_mut().set_level(head.params);
                        said(set)
                    }
                    mcp::SUBSCRIBE => {
                        let uri = mcp::subscription_uri(head.params);
                        said(state.subscriptions.subscribe(uri, line.settings().post_timeout).await)
                    }
                    mcp::UNSUBSCRIBE => {
                        state.subscriptions.unsubscribe(mcp::subscription_uri(head.params).as_deref());
                        said(Ok(()))
                    }
                    // Of 2025-11-25, and without a counterpart.
                    method if method.starts_with("tasks/") => said(Err(
                        json!({ "code": jsonrpc::METHOD_NOT_FOUND, "message": "Method not found" }).to_string(),
                    )),
                    _ => Exchange::begin(Rc::clone(state), line, id, body.clone()).await,
                }
            }
            Kind::Notification { method } => {
                match &**method {
                    mcp::CANCELLED => {
                        if let Some(id) = mcp::cancelled_request_id(head.params).and_then(IdKey::of_json) {
                            state.cancel(&id);
                        }
                    }
                    // Nothing of this era: the server asks again for what it needs.
                    mcp::INITIALIZED | mcp::PROGRESS | "notifications/roots/list_changed" => {}
                    _ => state.note(&line, &body).await?,
                }
                Ok(None)
            }
            Kind::Response { id: Some(id), .. } => {
                state.answered(id, &body);
                Ok(None)
            }
            Kind::Response { id: None, .. } => Ok(None),
        }
    }

    /// The client's `initialize`, answered by what the server says of itself.
    async fn shake_hands(&self, line: &Line, head: &Head<'_>, id: &str) -> Result<Option<Reply>, PostError> {
        let state = &self.0;
        *state.client.borrow_mut() = Client::of(head.params);
        let discovered = match state.discover(line).await? {
            Ok(discovered) => discovered,
            Err(error) => return Ok(Some(Reply::said(jsonrpc::failed_response(id, &told::for_client(&error))))),
        };
        let answered = state.client.borrow_mut().answered(&discovered);
        let Some((answer, offers)) = answered else {
            // It speaks other versions of this era, or none: who asks again will know.
            line.endpoint.transport.doubt_era();
            return Err(PostError::OtherTransport);
        };
        state.subscriptions.offers(offers);
        state.is_open.set(true);
        line.endpoint.succeeded();
        Ok(Some(Reply::said(jsonrpc::result_response(id, &answer))))
    }
}

/// The answer to a request that does not go up. `Err`: an error object, JSON text.
fn local(id: &str, outcome: Result<(), String>) -> Reply {
    Reply::said(match outcome {
        Ok(()) => jsonrpc::result_response(id, "{}"),
        Err(error) => jsonrpc::failed_response(id, error.as_bytes()),
    })
}
