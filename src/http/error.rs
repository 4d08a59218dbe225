//! The only place that maps errors to HTTP: what can go wrong there, and which of it each error of the rooms below is.
//! How each looks on the wire is `table`'s.

mod table;

use std::time::Duration;

use crate::{
    gateway::{
        StoreUnavailable,
        call::{NotAnswered, NotListed},
        deliver::NotDelivered,
        open::NotOpened,
        stateless::NotServed,
    },
    protocol::{jsonrpc::InvalidMessage, mcp, modern::refusal::Refusal},
    session::messages::DeliverError,
    store::{SessionStore, StoreError},
    upstream::actor::CallError,
};

/// What can go wrong on the HTTP side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The body is no JSON-RPC message.
    #[error(transparent)]
    Invalid(#[from] InvalidMessage),
    /// A JSON-RPC message, but of a kind that does not belong here.
    #[error("{0}")]
    Unexpected(&'static str),
    /// Unknown service.
    #[error("unknown service {name:?}; known: {known}")]
    UnknownService {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The URL names no service and there are several.
    #[error("name a service: GET /sse/{{service}}; known: {known}")]
    AmbiguousService {
        /// What there is.
        known: String,
    },
    /// A second request with an id in flight.
    #[error("a request with this id, and another body, has no answer yet; an id is used once at a time")]
    IdInUse,
    /// `sessionId` is missing.
    #[error("the query parameter sessionId is missing")]
    MissingSession,
    /// Unknown or expired session.
    #[error("no such session: it has expired, was closed, or never existed")]
    UnknownSession,
    /// Several sessions have this handle.
    #[error("several sessions begin with these digits: name more of them")]
    AmbiguousSession,
    /// Unknown instance.
    #[error("no such instance: it has no lease, or tells nothing of itself (MCP_UI)")]
    UnknownInstance,
    /// Nobody would take over what the instance has.
    #[error("no other instance is ready to take over its sessions; SIGTERM drains it all the same")]
    LastInstance,
    /// Body too large.
    #[error("the body is larger than {limit} bytes (MCP_MAX_BODY)")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The head is too long, in HTTP/2; in HTTP/1.1 such a request does not come this far.
    #[error("the head is longer than {limit} bytes")]
    LongHead {
        /// The limit.
        limit: usize,
    },
    /// The body could not be read.
    #[error("the body could not be read")]
    BrokenBody,
    /// The body did not come to its end in time.
    #[error("the body was not complete after {limit:?} (SERVER_BODY_TIMEOUT)")]
    SlowBody {
        /// The limit.
        limit: Duration,
    },
    /// Wrong content type.
    #[error("the content type must be application/json")]
    ContentType,
    /// The body is compressed, or the like. RFC 9110, sections 8.4 and 15.5.16.
    #[error("Content-Encoding is not supported: send the body as it is")]
    ContentCoding,
    /// Nothing has this path.
    #[error(
        "there is nothing at this path: a stream is opened by GET /sse/{{service}}, one request is answered by POST /mcp/router/route/{{service}}"
    )]
    NoSuchPath,
    /// The path has other methods.
    #[error("this path takes {allow}")]
    Method {
        /// As in `Allow`.
        allow: &'static str,
    },
    /// A query that cannot be understood.
    #[error("the query cannot be read: a parameter is repeated or has another form than it should")]
    Query,
    /// A header that must not be repeated was.
    #[error("the header {header} stands there more than once")]
    Repeated {
        /// Its name.
        header: &'static str,
    },
    /// DNS rebinding protection.
    #[error("this Host is not allowed (MCP_ALLOWED_HOSTS)")]
    Host,
    /// Browsers of other origins.
    #[error("this Origin is not allowed (MCP_ALLOWED_ORIGINS)")]
    Origin,
    /// Nobody that is known here.
    #[error("show who you are: Authorization: Bearer, or as the operator of this router says")]
    Unauthorized {
        /// `WWW-Authenticate`.
        challenge: String,
    },
    /// Somebody, who may not do this.
    #[error("the token does not allow this: it lacks a scope")]
    TooLittle {
        /// `WWW-Authenticate`.
        challenge: String,
    },
    /// No rule allows it.
    #[error("not allowed here: {what} ({})", if rules.is_empty() { "no rule is about you".to_owned() } else { format!("by the rules {rules}") })]
    Policy {
        /// What was asked for.
        what: String,
        /// Names of those that were looked at.
        rules: String,
    },
    /// One principal asks too often.
    #[error("too many requests of one principal (MCP_PRINCIPAL_RATE); try again later")]
    TooOften {
        /// After so many seconds.
        retry: u32,
    },
    /// One principal has too many calls under way.
    #[error("too many calls of one principal are under way (MCP_PRINCIPAL_CALLS); try again when one is answered")]
    TooManyCalls,
    /// The keys of the issuer of tokens were never had.
    #[error("tokens cannot be checked now: the keys of their issuer cannot be had; try again later")]
    NoIssuer,
    /// Admin surface.
    #[error("only from loopback, or with the admin token as bearer (MCP_ADMIN_TOKEN)")]
    NotAdmin,
    /// The client takes no event stream.
    #[error("this is an event stream: send Accept: text/event-stream")]
    NotAcceptable,
    /// The client takes neither form of an answer.
    #[error("an answer is JSON or an event stream: send Accept: application/json, text/event-stream")]
    NeitherAcceptable,
    /// `Mcp-Session-Id` is missing.
    #[error(
        "the header Mcp-Session-Id is missing: a session begins with the request initialize, whose response names it"
    )]
    NoSessionHeader,
    /// A protocol version that no session here has.
    #[error("MCP-Protocol-Version names no version that this router speaks: {spoken}")]
    ProtocolVersion {
        /// What it speaks.
        spoken: String,
    },
    /// Another one than this session has.
    #[error("MCP-Protocol-Version names another version than the one that was agreed on by initialize")]
    OtherVersion,
    /// 2026-07-28's stateless opening.
    #[error("this router speaks MCP versions with sessions, up to {newest}: begin with initialize")]
    Stateless {
        /// The newest one.
        newest: &'static str,
    },
    /// What 2026-07-28 refuses by its own rules.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A client of another transport.
    #[error(
        "no Streamable HTTP at this URL, which is the event stream of HTTP+SSE (MCP 2024-11-05): POST to {base}/mcp/{service} \
         instead, or open the stream with GET {base}/sse/{service}"
    )]
    OtherTransport {
        /// Path before all paths.
        base: String,
        /// The service asked for, or a placeholder.
        service: String,
    },
    /// Every session has a client.
    #[error(
        "this instance has as many sessions as it may (MCP_MAX_SESSIONS), all of them with clients; try again later"
    )]
    Full,
    /// One client has its share.
    #[error("this client has {limit} sessions on this instance (MCP_MAX_SESSIONS_PER_CLIENT); close some")]
    TooManyOfClient {
        /// The limit.
        limit: usize,
    },
    /// A cap is reached.
    #[error("too many {what}; try again later")]
    TooMany {
        /// Of what.
        what: &'static str,
    },
    /// This instance goes down.
    #[error("this instance is draining; try again, another one will answer")]
    Draining,
    /// The store does not answer.
    #[error("the session store does not answer; try again later")]
    StoreUnavailable,
    /// The store answers, and refuses writes; why.
    #[error("{0}; the message was not accepted")]
    StoreRefuses(String),
    /// The store could not be asked.
    #[error("the session store cannot be reached; the message was not accepted")]
    NotAccepted,
    /// The store was asked, and has not answered.
    #[error("the session store has not answered; the message may have been accepted, or may yet be")]
    PerhapsAccepted,
    /// REST: the upstream failed.
    #[error("{0}")]
    Upstream(#[from] CallError),
    /// The tools of a service cannot be listed.
    #[error("{0}")]
    ToolList(String),
    /// REST: every breaker of the service is open.
    #[error("no server of service {service} is healthy; the request was not executed")]
    NoEndpoint {
        /// The service.
        service: String,
    },
}

impl From<DeliverError> for ApiError {
    fn from(error: DeliverError) -> Self {
        match error {
            DeliverError::Gone | DeliverError::WrongService => Self::UnknownSession,
            DeliverError::IdInUse => Self::IdInUse,
            DeliverError::OtherVersion => Self::OtherVersion,
            DeliverError::TooMany => Self::TooMany { what: "requests of this session without an answer" },
            DeliverError::InstanceFull => {
                Self::TooMany { what: "bytes in requests of this instance without an answer (MCP_MAX_HELD_BYTES)" }
            }
            DeliverError::TooManyBytes => {
                Self::TooMany { what: "bytes in messages of this session without an answer (MCP_MAX_INBOX_BYTES)" }
            }
            DeliverError::StoreUnavailable | DeliverError::NotOwner | DeliverError::Vanished => Self::NotAccepted,
            DeliverError::InDoubt => Self::PerhapsAccepted,
        }
    }
}

impl From<NotDelivered> for ApiError {
    fn from(error: NotDelivered) -> Self {
        match error {
            NotDelivered::Refused(error) => error.into(),
            NotDelivered::Draining => Self::Draining,
        }
    }
}

impl From<NotOpened> for ApiError {
    fn from(error: NotOpened) -> Self {
        match error {
            NotOpened::Draining => Self::Draining,
            NotOpened::UnknownSession => Self::UnknownSession,
            NotOpened::TooManyNew => Self::TooMany { what: "new sessions per second" },
            NotOpened::Full => Self::Full,
            NotOpened::TooManyOfClient { limit } => Self::TooManyOfClient { limit },
            NotOpened::Store(StoreUnavailable) => Self::StoreUnavailable,
        }
    }
}

impl From<NotAnswered> for ApiError {
    fn from(error: NotAnswered) -> Self {
        match error {
            NotAnswered::TooMany => Self::TooMany { what: "REST requests under way" },
            NotAnswered::NoEndpoint { service } => Self::NoEndpoint { service },
            NotAnswered::Upstream(error) => Self::Upstream(error),
        }
    }
}

impl From<NotServed> for ApiError {
    fn from(error: NotServed) -> Self {
        match error {
            NotServed::Refused(refusal) => Self::Refused(refusal),
            NotServed::NotAnswered(error) => error.into(),
            NotServed::NotDelivered(error) => error.into(),
            NotServed::NotOpened(error) => error.into(),
            NotServed::TooMany => {
                Self::TooMany { what: "requests of this instance under way (MCP_STATELESS_MAX_INFLIGHT)" }
            }
            NotServed::TooManySessions => {
                Self::TooMany { what: "sessions of the router's own at work (MCP_INNER_SESSIONS)" }
            }
            NotServed::TooManyResults => Self::TooMany { what: "results kept for who asks again (MCP_CALL_KEPT)" },
            NotServed::NoList => Self::ToolList("its list cannot be read".to_owned()),
            NotServed::OtherEra | NotServed::SessionsOnly => Self::Stateless { newest: mcp::NEWEST_VERSION },
        }
    }
}

impl From<NotListed> for ApiError {
    fn from(error: NotListed) -> Self {
        match error {
            NotListed::Call(error) => error.into(),
            NotListed::List(why) => Self::ToolList(why),
        }
    }
}

impl From<StoreUnavailable> for ApiError {
    fn from(StoreUnavailable: StoreUnavailable) -> Self {
        Self::StoreUnavailable
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            // What is wrong with it is in the log, and with [`ApiError::knowing`] for its operator.
            StoreError::Unavailable(_)
            | StoreError::NotDone(_)
            | StoreError::Full(_)
            | StoreError::Unusable(_)
            | StoreError::Overloaded
            | StoreError::Corrupt(_) => Self::StoreUnavailable,
        }
    }
}

impl ApiError {
    /// With the cause, where the store is known to refuse writes.
    pub fn knowing(self, store: &dyn SessionStore) -> Self {
        match store.refusal() {
            Some(cause) if matches!(self, Self::StoreUnavailable | Self::NotAccepted) => Self::StoreRefuses(cause),
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every arm of every error of the rooms below: one that is new does not compile until somebody has said what it is.
    #[test]
    fn every_error_of_the_rooms_below_is_told_as_what_it_is() {
        let too_many = |what| ApiError::TooMany { what };
        let delivered = |error: DeliverError| {
            let expected = match &error {
                DeliverError::Gone | DeliverError::WrongService => ApiError::UnknownSession,
                DeliverError::IdInUse => ApiError::IdInUse,
                DeliverError::OtherVersion => ApiError::OtherVersion,
                DeliverError::TooMany => too_many("requests of this session without an answer"),
                DeliverError::InstanceFull => {
                    too_many("bytes in requests of this instance without an answer (MCP_MAX_HELD_BYTES)")
                }
                DeliverError::TooManyBytes => {
                    too_many("bytes in messages of this session without an answer (MCP_MAX_INBOX_BYTES)")
                }
                DeliverError::StoreUnavailable | DeliverError::NotOwner | DeliverError::Vanished => {
                    ApiError::NotAccepted
                }
                DeliverError::InDoubt => ApiError::PerhapsAccepted,
            };
            assert_eq!(ApiError::from(NotDelivered::Refused(error)), expected);
        };
        for error in [
            DeliverError::NotOwner,
            DeliverError::Gone,
            DeliverError::Vanished,
            DeliverError::WrongService,
            DeliverError::OtherVersion,
            DeliverError::IdInUse,
            DeliverError::TooMany,
            DeliverError::TooManyBytes,
            DeliverError::InstanceFull,
            DeliverError::StoreUnavailable,
            DeliverError::InDoubt,
        ] {
            delivered(error);
        }
        let limit = 3;
        for (error, expected) in [
            (NotOpened::Draining.into(), ApiError::Draining),
            (NotOpened::UnknownSession.into(), ApiError::UnknownSession),
            (NotOpened::TooManyNew.into(), too_many("new sessions per second")),
            (NotOpened::Full.into(), ApiError::Full),
            (NotOpened::TooManyOfClient { limit }.into(), ApiError::TooManyOfClient { limit }),
            (NotOpened::Store(StoreUnavailable).into(), ApiError::StoreUnavailable),
            (NotDelivered::Draining.into(), ApiError::Draining),
            (NotAnswered::TooMany.into(), too_many("REST requests under way")),
            (NotAnswered::NoEndpoint { service: "s".into() }.into(), ApiError::NoEndpoint { service: "s".into() }),
            (NotAnswered::Upstream(CallError::Nonsense).into(), ApiError::Upstream(CallError::Nonsense)),
            (NotListed::Call(NotAnswered::TooMany).into(), too_many("REST requests under way")),
            (NotListed::List("x".into()).into(), ApiError::ToolList("x".into())),
            (StoreUnavailable.into(), ApiError::StoreUnavailable),
            (NotServed::Refused(Refusal::Params("x")).into(), ApiError::Refused(Refusal::Params("x"))),
            (NotServed::NotAnswered(NotAnswered::TooMany).into(), too_many("REST requests under way")),
            (NotServed::NotDelivered(NotDelivered::Draining).into(), ApiError::Draining),
            (NotServed::NotOpened(NotOpened::Full).into(), ApiError::Full),
            (NotServed::TooManySessions.into(), too_many("sessions of the router's own at work (MCP_INNER_SESSIONS)")),
            (NotServed::TooManyResults.into(), too_many("results kept for who asks again (MCP_CALL_KEPT)")),
            (NotServed::SessionsOnly.into(), ApiError::Stateless { newest: mcp::NEWEST_VERSION }),
            (StoreError::Overloaded.into(), ApiError::StoreUnavailable),
        ] {
            let error: ApiError = error;
            assert_eq!(error, expected);
        }
    }
}
