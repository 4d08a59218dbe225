//! [`Uplink`]: where the messages of one upstream session go, whichever MCP transport it is of. It knows the line of its
//! endpoint's [`UpstreamActor`](super::actor::UpstreamActor) on this thread; what comes back on the session's stream comes
//! as notices (`notice`).
//!
//! This is the seam between transports: whoever holds an uplink says what is sent, never how. Today every address is one
//! of HTTP+SSE. Streamable HTTP (2025-03-26 and later) gets its variant of [`Address`], with the one URL, the session id
//! and the protocol version that go with each message, a file beside `transport/sse`, and an arm here and in
//! `UpstreamActor`'s `OpenLink`; what an answer to a POST may hold is read for both by `transport/http/reply`.

use std::time::Duration;

use bytes::Bytes;

use super::{
    notice::Address,
    transport::http::{answer::PostError, line::Line, reply::Reply},
};

/// See the module's text. Cheap to clone; it stays on its thread.
#[derive(Debug, Clone)]
pub struct Uplink {
    line: Line,
    address: Address,
}

impl Uplink {
    /// `line`: of the endpoint that the session is with.
    pub fn new(line: Line, address: Address) -> Self {
        Self { line, address }
    }

    /// Sends one message, byte for byte; a future of whoever sends it. Without a time limit but that for a new connection:
    /// whoever waits for it has one. `Some`: the answer has a body that may hold messages, to be read on.
    ///
    /// # Errors
    /// [`PostError`], which says whether the upstream may have seen it.
    pub async fn send(self, body: Bytes) -> Result<Option<Reply>, PostError> {
        match self.address {
            Address::Sse(url) => self.line.post(url, body).await,
        }
    }

    /// As [`Self::send`], with a time limit.
    ///
    /// # Errors
    /// As [`Self::send`]; [`PostError::Late`] when the time is over.
    pub async fn send_within(&self, body: Bytes, limit: Duration) -> Result<Option<Reply>, PostError> {
        match tokio::time::timeout(limit, self.clone().send(body)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(PostError::Late(limit)),
        }
    }

    /// The same, by awc: for a health check, which is nobody's call.
    pub(super) fn for_check(&self) -> Self {
        Self { line: self.line.by_awc(), address: self.address.clone() }
    }
}
