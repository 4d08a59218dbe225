//! [`Uplink`]: where the messages of one upstream session go, whichever MCP transport it is of. It knows the line of its
//! endpoint's [`UpstreamActor`](super::actor::UpstreamActor) on this thread; what comes back on the session's stream comes
//! as notices (`notice`), what comes in the answer to a POST as a [`Reply`].
//!
//! This is the seam between transports: whoever holds an uplink says what is sent, never how.

use std::{rc::Rc, sync::Arc, time::Duration};

use actix_http::Uri;
use bytes::Bytes;

use super::{
    choice::Spoken,
    notice::{Address, LinkHandle, LinkLimits, Marks, Outlet},
    resumption::Resumption,
    transport::{
        http::{answer::PostError, line::Line, reply::Reply},
        modern::{self, Modern},
        streamable::{NoStream, Streamable},
    },
};
use crate::{protocol::trace_context::TraceContext, settings::UpstreamSettings};

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
    Modern {
        session: Modern,
        /// It is a health check's.
        is_check: bool,
    },
}

impl Uplink {
    /// `line`: of the endpoint that the session is with.
    pub fn new(line: Line, address: Address) -> Self {
        let session = match address {
            Address::Sse(url) => Session::Sse(url),
            Address::Streamable => Session::Streamable(Rc::new(Streamable::new(&line))),
            Address::Modern => Session::Modern { session: Modern::new(&line), is_check: false },
        };
        Self { line, session }
    }

    /// Another one with the same endpoint, which is not begun; of HTTP+SSE, which has one for each connection, this one.
    pub fn anew(&self) -> Self {
        let address = match &self.session {
            Session::Sse(url) => Address::Sse(url.clone()),
            Session::Streamable(_) => Address::Streamable,
            Session::Modern { .. } => Address::Modern,
        };
        Self::new(self.line.clone(), address)
    }

    /// The same, for a message that stands there in its trace.
    pub fn at(self, place: Option<TraceContext>) -> Self {
        match place {
            Some(place) => Self { line: self.line.at(place), ..self },
            None => self,
        }
    }

    /// Sends one message, byte for byte but where its server is of the era without sessions; a future of whoever sends it. Without a time limit but that for a new connection:
    /// whoever waits for it has one. `Some`: the answer has a body that may hold messages, to be read on.
    ///
    /// # Errors
    /// [`PostError`], which says whether the upstream may have seen it.
    pub async fn send(self, body: Bytes) -> Result<Option<Reply>, PostError> {
        match self.session {
            Session::Sse(url) => self.line.post(url, body).await,
            Session::Streamable(session) => session.post(&self.line, body).await,
            Session::Modern { session, is_check } => session.send(self.line, body, is_check).await,
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
        matches!(self.session, Session::Streamable(_) | Session::Modern { .. })
    }

    /// The server has answered on this session.
    pub fn is_proven(&self) -> bool {
        match &self.session {
            Session::Sse(_) => true,
            Session::Streamable(session) => session.is_open(),
            Session::Modern { session, .. } => session.is_open(),
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
            Session::Modern { session, .. } => session.stored(),
        }
    }

    /// Goes on with the session of a former owner, by what [`Self::stored`] was. `false`: there is none at the server; what the
    /// client has set up is to be told again.
    pub fn go_on(&self, stored: &str) -> bool {
        match &self.session {
            Session::Streamable(session) => {
                session.go_on(stored);
                true
            }
            Session::Sse(_) | Session::Modern { .. } => false,
        }
    }

    /// By which transport a session was, which stands on record as this.
    pub fn spoken_of(stored: &str) -> Spoken {
        if stored == modern::STORED { Spoken::Modern } else { Spoken::Streamable }
    }

    /// By which transport this is.
    pub fn spoken(&self) -> Spoken {
        match self.session {
            Session::Sse(_) => Spoken::Sse,
            Session::Streamable(_) => Spoken::Streamable,
            Session::Modern { .. } => Spoken::Modern,
        }
    }

    /// Asks for the session's own stream, which shows what is related to no request, for as long as the handle lives. `None`: it
    /// comes by itself. `cursor`: behind which it begins.
    pub fn listen(&self, settings: &UpstreamSettings, outlet: Outlet, cursor: Option<Arc<str>>) -> Option<LinkHandle> {
        let (line, limits, attempts) = (self.line.clone(), LinkLimits::from(settings), Resumption::new(settings));
        let listens = match &self.session {
            Session::Sse(_) => return None,
            Session::Streamable(session) => {
                actix_rt::spawn(Rc::clone(session).listen(line, limits, outlet, attempts, cursor))
            }
            Session::Modern { session, .. } => actix_rt::spawn(session.clone().listen(line, limits, outlet, attempts)),
        };
        Some(LinkHandle::new(listens.abort_handle(), None))
    }

    /// Asks for what follows in a stream that has ended, which has said this of itself: the answer to this request.
    ///
    /// # Errors
    /// [`NoStream`]
    pub async fn resume(self, request: Option<Bytes>, marks: Marks) -> Result<Reply, NoStream> {
        match self.session {
            Session::Sse(_) => Err(NoStream::None),
            Session::Streamable(session) => session.get(&self.line, marks).await,
            Session::Modern { session, .. } => {
                let (request, state) = request.zip(marks.cursor).ok_or(NoStream::None)?;
                session.resume(self.line, &request, &state).ok_or(NoStream::None)
            }
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
        let session = match self.session.clone() {
            Session::Modern { session, .. } => Session::Modern { session, is_check: true },
            session => session,
        };
        Self { line: self.line.by_awc(), session }
    }
}
