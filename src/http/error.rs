//! The only place that maps errors to HTTP. Every error answer is a JSON-RPC error object, so that a client which reads
//! bodies learns the same as one that reads statuses.

use std::time::Duration;

use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
};

use crate::{
    gateway::{
        StoreUnavailable,
        call::{NotAnswered, NotListed},
        deliver::NotDelivered,
        open::NotOpened,
    },
    protocol::jsonrpc::{self, InvalidMessage},
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
    /// Body too large.
    #[error("the body is larger than {limit} bytes (MCP_MAX_BODY)")]
    TooLarge {
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
    /// Admin surface.
    #[error("only from loopback, or with the admin token as bearer (MCP_ADMIN_TOKEN)")]
    NotAdmin,
    /// The client takes no event stream.
    #[error("this is an event stream: send Accept: text/event-stream")]
    NotAcceptable,
    /// A client of another transport.
    #[error(
        "no Streamable HTTP at this URL: the router speaks HTTP+SSE (MCP 2024-11-05). Open the event stream with GET \
         {base}/sse/{service} and POST to the URL that its endpoint event names; single requests without a session: POST \
         {base}/mcp/router/route/{service}"
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
    #[error("the session store does not answer; the message is not known to be accepted")]
    StoreUnavailable,
    /// The store answers, and refuses writes; why.
    #[error("{0}; the message is not known to be accepted")]
    StoreRefuses(String),
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
            DeliverError::TooMany => Self::TooMany { what: "requests of this session without an answer" },
            DeliverError::InstanceFull => {
                Self::TooMany { what: "bytes in requests of this instance without an answer (MCP_MAX_HELD_BYTES)" }
            }
            DeliverError::TooManyBytes => {
                Self::TooMany { what: "bytes in messages of this session without an answer (MCP_MAX_INBOX_BYTES)" }
            }
            DeliverError::StoreUnavailable | DeliverError::NotOwner | DeliverError::Vanished => Self::StoreUnavailable,
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
    fn from(_error: StoreError) -> Self {
        Self::StoreUnavailable
    }
}

/// Seconds after which it is worth asking a full instance again: it has room as soon as one of its clients goes, and
/// another instance may have some at once.
const FULL_RETRY: u32 = 10;

/// How an error looks on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    status: u16,
    code: i64,
    reason: &'static str,
    /// Seconds for `Retry-After`; set where a retry helps.
    retry_after: Option<u32>,
}

impl ApiError {
    fn shape(&self) -> Shape {
        let shape = |status, code, reason, retry_after| Shape { status, code, reason, retry_after };
        match self {
            Self::Invalid(invalid) => shape(400, invalid.code(), "invalid_message", None),
            Self::Unexpected(_) => shape(400, jsonrpc::INVALID_REQUEST, "unexpected_message", None),
            Self::UnknownService { .. } => shape(404, jsonrpc::INVALID_REQUEST, "unknown_service", None),
            Self::AmbiguousService { .. } => shape(400, jsonrpc::INVALID_REQUEST, "ambiguous_service", None),
            Self::IdInUse => shape(400, jsonrpc::INVALID_REQUEST, "id_in_use", None),
            Self::MissingSession => shape(400, jsonrpc::INVALID_REQUEST, "missing_session", None),
            Self::UnknownSession => shape(404, jsonrpc::INVALID_REQUEST, "unknown_session", None),
            Self::AmbiguousSession => shape(409, jsonrpc::INVALID_REQUEST, "ambiguous_session", None),
            Self::TooLarge { .. } => shape(413, jsonrpc::INVALID_REQUEST, "too_large", None),
            Self::BrokenBody => shape(400, jsonrpc::PARSE_ERROR, "broken_body", None),
            Self::SlowBody { .. } => shape(408, jsonrpc::INVALID_REQUEST, "slow_body", None),
            Self::ContentType => shape(415, jsonrpc::INVALID_REQUEST, "content_type", None),
            Self::ContentCoding => shape(415, jsonrpc::INVALID_REQUEST, "content_coding", None),
            Self::NoSuchPath => shape(404, jsonrpc::INVALID_REQUEST, "no_such_path", None),
            Self::Method { .. } => shape(405, jsonrpc::INVALID_REQUEST, "method", None),
            Self::Query => shape(400, jsonrpc::INVALID_REQUEST, "query", None),
            Self::Repeated { .. } => shape(400, jsonrpc::INVALID_REQUEST, "repeated_header", None),
            Self::Host => shape(403, jsonrpc::INVALID_REQUEST, "forbidden_host", None),
            Self::Origin => shape(403, jsonrpc::INVALID_REQUEST, "forbidden_origin", None),
            Self::NotAdmin => shape(403, jsonrpc::INVALID_REQUEST, "forbidden", None),
            Self::NotAcceptable => shape(406, jsonrpc::INVALID_REQUEST, "not_acceptable", None),
            Self::OtherTransport { .. } => shape(404, jsonrpc::INVALID_REQUEST, "other_transport", None),
            Self::Full => shape(503, jsonrpc::INTERNAL_ERROR, "too_many", Some(FULL_RETRY)),
            Self::TooManyOfClient { .. } => shape(429, jsonrpc::INTERNAL_ERROR, "too_many", Some(FULL_RETRY)),
            Self::TooMany { .. } => shape(503, jsonrpc::INTERNAL_ERROR, "too_many", Some(1)),
            Self::Draining => shape(503, jsonrpc::INTERNAL_ERROR, "draining", Some(1)),
            Self::StoreUnavailable | Self::StoreRefuses(_) => {
                shape(503, jsonrpc::INTERNAL_ERROR, "store_unavailable", Some(1))
            }
            Self::Upstream(CallError::Unreachable(_)) => {
                shape(502, jsonrpc::UPSTREAM_UNAVAILABLE, "upstream_unreachable", Some(1))
            }
            Self::Upstream(CallError::NotNow { retry_after, .. }) => {
                let seconds = retry_after.map_or(1, |asked| asked.as_secs().clamp(1, 3600));
                let seconds = u32::try_from(seconds).unwrap_or(1);
                shape(503, jsonrpc::UPSTREAM_UNAVAILABLE, "upstream_busy", Some(seconds))
            }
            Self::Upstream(CallError::Lost(_)) => shape(502, jsonrpc::OUTCOME_UNKNOWN, "upstream_lost", None),
            Self::Upstream(CallError::Refused(_) | CallError::NotFollowed(_)) => {
                shape(502, jsonrpc::INTERNAL_ERROR, "upstream_refused", None)
            }
            Self::Upstream(CallError::TooLarge { .. }) => shape(502, jsonrpc::INTERNAL_ERROR, "answer_too_large", None),
            Self::Upstream(CallError::Nonsense) => shape(502, jsonrpc::INTERNAL_ERROR, "broken_answer", None),
            Self::Upstream(CallError::Altered(_)) => shape(502, jsonrpc::INTERNAL_ERROR, "answer_not_utf8", None),
            // nginx's word for a client that did not wait.
            Self::Upstream(CallError::Cancelled) => shape(499, jsonrpc::OUTCOME_UNKNOWN, "cancelled", None),
            Self::Upstream(CallError::TimedOut(_)) => shape(504, jsonrpc::OUTCOME_UNKNOWN, "upstream_timeout", None),
            Self::ToolList(_) => shape(502, jsonrpc::INTERNAL_ERROR, "tool_list", None),
            Self::NoEndpoint { .. } => shape(503, jsonrpc::UPSTREAM_UNAVAILABLE, "upstream_unavailable", Some(1)),
        }
    }

    /// With the cause, where the store is known to refuse writes.
    pub fn knowing(self, store: &dyn SessionStore) -> Self {
        match (self, store.refusal()) {
            (Self::StoreUnavailable, Some(cause)) => Self::StoreRefuses(cause),
            (error, _) => error,
        }
    }

    /// Whether the request of this error was executed, where it is about one.
    fn outcome(&self) -> Option<&'static str> {
        match self {
            Self::NoEndpoint { .. } | Self::Upstream(CallError::Unreachable(_) | CallError::NotNow { .. }) => {
                Some("not_executed")
            }
            Self::Upstream(CallError::TooLarge { .. } | CallError::Altered(_)) => Some("executed"),
            Self::Upstream(
                CallError::Lost(_) | CallError::TimedOut(_) | CallError::Nonsense | CallError::Cancelled,
            ) => Some("unknown"),
            _ => None,
        }
    }

    /// The response. `id`: JSON text of the request's id, where it is known.
    pub fn response(&self, id: Option<&str>) -> HttpResponse {
        let Shape { status, code, reason, retry_after } = self.shape();
        let mut details = serde_json::json!({ "reason": reason, "retry": retry_after.is_some() });
        if let Some(outcome) = self.outcome() {
            details["outcome"] = outcome.into();
        }
        if let Self::Upstream(CallError::Altered(answer)) = self
            && let Ok(serde_json::Value::Object(mut answer)) = serde_json::from_slice(answer)
        {
            for part in ["result", "error"] {
                details[part] = answer.remove(part).unwrap_or_default();
            }
        }
        let body = jsonrpc::error_response(id.unwrap_or("null"), code, &self.to_string(), Some(&details));
        let mut response =
            HttpResponse::build(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
        response.content_type("application/json");
        if let Some(seconds) = retry_after {
            response.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        match self {
            Self::Method { allow } => {
                response.insert_header((header::ALLOW, *allow));
            }
            // RFC 9110, section 12.5.3: what would have been taken.
            Self::ContentCoding => {
                response.insert_header((header::ACCEPT_ENCODING, "identity"));
            }
            // The same request with another origin has another answer.
            Self::Origin => {
                response.insert_header((header::VARY, "Origin"));
            }
            // RFC 9110, section 15.5.9. What is left of the body would be taken for the next request.
            Self::SlowBody { .. } => {
                response.force_close();
            }
            _ => {}
        }
        response.body(body)
    }
}

impl actix_web::ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.shape().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        self.response(None)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_error_has_its_status_and_says_whether_a_retry_helps() {
        for (error, status, retry) in [
            (ApiError::Invalid(InvalidMessage::NotJson(String::new())), 400, false),
            (ApiError::UnknownService { name: "x".into(), known: "y".into() }, 404, false),
            (ApiError::UnknownSession, 404, false),
            (ApiError::IdInUse, 400, false),
            (ApiError::TooLarge { limit: 1 }, 413, false),
            (ApiError::SlowBody { limit: Duration::from_secs(1) }, 408, false),
            (ApiError::ContentType, 415, false),
            (ApiError::ContentCoding, 415, false),
            (ApiError::NoSuchPath, 404, false),
            (ApiError::Method { allow: "GET" }, 405, false),
            (ApiError::Query, 400, false),
            (ApiError::Repeated { header: "Host" }, 400, false),
            (ApiError::Host, 403, false),
            (ApiError::Origin, 403, false),
            (ApiError::NotAcceptable, 406, false),
            (ApiError::OtherTransport { base: String::new(), service: "x".into() }, 404, false),
            (ApiError::Full, 503, true),
            (ApiError::TooManyOfClient { limit: 1 }, 429, true),
            (ApiError::TooMany { what: "sessions" }, 503, true),
            (ApiError::StoreUnavailable, 503, true),
            (ApiError::StoreRefuses(String::new()), 503, true),
            (ApiError::Upstream(CallError::Unreachable(String::new())), 502, true),
            (ApiError::Upstream(CallError::NotNow { status: 429, retry_after: None }), 503, true),
            (ApiError::Upstream(CallError::Lost(String::new())), 502, false),
            (ApiError::Upstream(CallError::TooLarge { limit: 1 }), 502, false),
            (ApiError::Upstream(CallError::Nonsense), 502, false),
            (ApiError::Upstream(CallError::NotFollowed(String::new())), 502, false),
            (ApiError::Upstream(CallError::Cancelled), 499, false),
            (ApiError::Upstream(CallError::TimedOut(Duration::ZERO)), 504, false),
            (ApiError::NoEndpoint { service: "x".into() }, 503, true),
        ] {
            let response = error.response(None);
            assert_eq!(response.status().as_u16(), status, "{error}");
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), retry, "{error}");
        }
    }
}
