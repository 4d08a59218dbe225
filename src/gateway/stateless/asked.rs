//! A request of this era as its surface has read and checked it ([`Asked`]), and what comes of it ([`Outcome`]).

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::LocalBoxStream;

use crate::{
    gateway::{call::NotAnswered, deliver::NotDelivered, open::NotOpened, patience::StoreUnavailable},
    policy::Grant,
    protocol::{
        jsonrpc::IdKey,
        modern::{meta::Said, refusal::Refusal},
    },
    store::Binding,
    traces::Place,
    upstream::{Service, credential::Shown},
};

/// One request. Its headers and its `_meta` have been found to be in order, its version is the one that is served, and it is
/// allowed.
#[derive(Clone)]
pub struct Asked<'a> {
    /// Of whom it is asked.
    pub service: &'a Arc<Service>,
    /// Who asks, with the rules about it. SEC-1
    pub by: &'a Binding,
    /// What may be seen of lists; `None`: all of it. SEC-7
    pub grant: Option<&'a Grant>,
    /// The whole message.
    pub body: &'a Bytes,
    /// Its id.
    pub id: &'a IdKey,
    /// Its method.
    pub method: &'a str,
    /// What its parameters say.
    pub said: &'a Said<'a>,
    /// The token by which its client has shown who it is, for servers that are asked in the names of their users. Not for logs.
    pub shown: Option<Shown>,
    /// Its headers `Mcp-Param-…`, as they came: name and value.
    pub params: &'a [(String, String)],
    /// Its client takes an event stream.
    pub takes_events: bool,
    /// By which it is known when its client asks again.
    pub key: Option<&'a str>,
    /// Where it stands in a trace.
    pub place: Option<&'a Place>,
}

impl std::fmt::Debug for Asked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked").field("method", &self.method).finish_non_exhaustive()
    }
}

/// What comes of a request. Whichever it is, the last message is its response, under its own id.
pub enum Outcome {
    /// One message.
    Whole {
        /// The HTTP status, which is part of an error.
        status: u16,
        /// The response.
        body: Bytes,
    },
    /// Several. Dropping it cancels the request.
    Stream(Messages),
}

/// JSON-RPC messages about one request, of which the last is its response, or why there is none.
pub type Messages = LocalBoxStream<'static, Result<Bytes, NotServed>>;

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole { status, body } => {
                f.debug_struct("Whole").field("status", status).field("bytes", &body.len()).finish()
            }
            Self::Stream(_) => f.debug_struct("Stream").finish_non_exhaustive(),
        }
    }
}

/// Why a request has no answer of its server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotServed {
    /// It is refused by the protocol's own rules.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No server has answered it.
    #[error(transparent)]
    NotAnswered(#[from] NotAnswered),
    /// The session that stands for it has not taken it.
    #[error("the session behind the request has not taken it: {0:?}")]
    NotDelivered(NotDelivered),
    /// There is no session that could stand for it.
    #[error("no session for the request: {0:?}")]
    NotOpened(NotOpened),
    /// As many as may be are under way (`MCP_STATELESS_MAX_INFLIGHT`).
    #[error("too many requests under way")]
    TooMany,
    /// As many sessions of the gateway's own as may be are at work (`MCP_INNER_SESSIONS`).
    #[error("too many sessions at work")]
    TooManySessions,
    /// As much is kept for who asks again as may be (`MCP_CALL_KEPT`).
    #[error("too many results are kept")]
    TooManyResults,
    /// Of a list that rules cut, nobody can tell what is in it.
    #[error("its list cannot be read")]
    NoList,
    /// Its server is one of sessions by now, or it goes on with what stands in one: the other way is to be taken.
    #[error("it is for the way by a session")]
    OtherEra,
    /// The service has servers of sessions only, and its client has to begin one.
    #[error("this service speaks versions with sessions alone")]
    SessionsOnly,
}

impl From<NotDelivered> for NotServed {
    fn from(error: NotDelivered) -> Self {
        Self::NotDelivered(error)
    }
}

impl From<NotOpened> for NotServed {
    fn from(error: NotOpened) -> Self {
        Self::NotOpened(error)
    }
}

impl From<StoreUnavailable> for NotServed {
    fn from(error: StoreUnavailable) -> Self {
        Self::NotOpened(NotOpened::Store(error))
    }
}
