//! [`Uplink`]: where the messages of one upstream session go, whichever MCP transport it is of. It knows the line of its
//! endpoint's [`UpstreamActor`](super::actor::UpstreamActor) on this thread; what comes back on the session's stream comes
//! as notices (`notice`), what comes in the answer to a POST as a [`Reply`].
//!
//! This is the seam between transports: whoever holds an uplink says what is sent, never how.

use std::{rc::Rc, sync::Arc, time::Duration};

use actix_http::Uri;
use bytes::Bytes;

use super::{
    notice::{Address, LinkHandle, LinkLimits, Marks, Outlet},
    resumption::Resumption,
    transport::{
        http::{answer::PostError, line::Line, reply::Reply},
        streamable::{NoStream, Streamable},
    },
};
use crate::settings::UpstreamSettings;

/// See the module's text. Cheap to clone; it stays on its thread.
#[derive(Debug, Clone)]
pub struct Uplink {
    line: Line,
    session: Session,
}

#[derive(Debug, Clone)]
enum Session {
    /// HTTP+SSE: the URL that takes its messages.
    Sse(Uri),
    Streamable(Rc<Streamable>),
}

impl Uplink {
    /// `line`: of the endpoint that the session is with.
    pub fn new(line: Line, address: Address) -> Self {
        let session = match address {
            Address::Sse(url) => Session::Sse(url),
            Address::Streamable => Session::Streamable(Rc::new(Streamable::new(&line))),
        };
        Self { line, session }
    }

    /// Sends one message, byte for byte; a future of whoever sends it. Without a time limit but that for a new connection:
    /// whoever waits for it has one. `Some`: the answer has a body that may hold messages, to be read on.
    ///
    /// # Errors
    /// [`PostError`], which says whether the upstream may have seen it.
    pub async fn send(self, body: Bytes) -> Result<Option<Reply>, PostError> {
        match self.session {
            Session::Sse(url) => self.line.post(url, body).await,
            Session::Streamable(session) => session.post(&self.line, body).await,
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

    /// The answer to a request comes in the answer to its POST, and nowhere else (Streamable HTTP).
    pub fn answers_in_place(&self) -> bool {
        matches!(self.session, Session::Streamable(_))
    }

    /// The server has answered on this session.
    pub fn is_proven(&self) -> bool {
        match &self.session {
            Session::Sse(_) => true,
            Session::Streamable(session) => session.is_open(),
        }
    }

    /// `initialize` was answered with success. `version`: what was agreed on.
    pub fn initialized(&self, version: Option<&str>) {
        if let Session::Streamable(session) = &self.session {
            session.opened(version);
        }
    }

    /// `initialize` was answered with an error.
    pub fn not_initialized(&self) {
        if let Session::Streamable(session) = &self.session {
            session.refused();
        }
    }

    /// What an heir needs to go on with this session ([`Self::go_on`]), if that is possible at all.
    pub fn stored(&self) -> Option<String> {
        match &self.session {
            Session::Sse(_) => None,
            Session::Streamable(session) => session.stored(),
        }
    }

    /// Goes on with the session of a former owner, by what [`Self::stored`] was.
    pub fn go_on(&self, stored: &str) {
        if let Session::Streamable(session) = &self.session {
            session.go_on(stored);
        }
    }

    /// Asks for the session's own stream, which shows what is related to no request, for as long as the handle lives. `None`: it
    /// comes by itself. `cursor`: behind which it begins.
    pub fn listen(&self, settings: &UpstreamSettings, outlet: Outlet, cursor: Option<Arc<str>>) -> Option<LinkHandle> {
        let Session::Streamable(session) = &self.session else { return None };
        let (limits, attempts) = (LinkLimits::from(settings), Resumption::new(settings));
        let listens = Rc::clone(session).listen(self.line.clone(), limits, outlet, attempts, cursor);
        Some(LinkHandle::new(actix_rt::spawn(listens).abort_handle(), None))
    }

    /// Asks for what follows in a stream that has ended, which has said this of itself.
    ///
    /// # Errors
    /// [`NoStream`]
    pub async fn resume(self, marks: Marks) -> Result<Reply, NoStream> {
        match &self.session {
            Session::Sse(_) => Err(NoStream::None),
            Session::Streamable(session) => session.get(&self.line, marks).await,
        }
    }

    /// Tells the server that the session is over, if it is one that does not end with its connection.
    pub async fn end(self) {
        if let Session::Streamable(session) = &self.session {
            session.end(&self.line).await;
        }
    }

    /// The same, by awc: for a health check, which is nobody's call.
    pub(super) fn for_check(&self) -> Self {
        Self { line: self.line.by_awc(), session: self.session.clone() }
    }
}
