//! How each error looks on the wire: one table, a row for each of them. Every error answer is a JSON-RPC error object, so
//! that a client which reads bodies learns the same as one that reads statuses.

use actix_web::{
    HttpResponse, HttpResponseBuilder,
    http::{
        StatusCode,
        header::{self, HeaderName},
    },
};

use bytes::Bytes;

use super::ApiError;
use crate::{
    protocol::jsonrpc::{
        self, INTERNAL_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, OUTCOME_UNKNOWN, PARSE_ERROR, UPSTREAM_UNAVAILABLE,
    },
    upstream::actor::CallError,
};

/// Seconds after which it is worth asking a full instance again: it has room as soon as one of its clients goes, and
/// another instance may have some at once.
const FULL_RETRY: u32 = 10;

/// The longest `Retry-After` of a server that is passed on, in seconds.
const RETRY_MAX: u64 = 3600;

/// Codes that have no meaning in MCP 2026-07-28, and must not be used in it (Error Codes).
const UNASSIGNED: std::ops::RangeInclusive<i64> = -32019..=-32000;

/// Whether the request that an error is about was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Executed,
    NotExecuted,
    Unknown,
}

impl Outcome {
    fn text(self) -> &'static str {
        match self {
            Self::Executed => "executed",
            Self::NotExecuted => "not_executed",
            Self::Unknown => "unknown",
        }
    }
}

/// What else an answer carries.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Also {
    Nothing,
    Header(HeaderName, &'static str),
    /// RFC 9110, section 11.6.1.
    Challenge(String),
    /// The connection ends with it.
    Close,
}

/// One error on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    status: u16,
    code: i64,
    reason: &'static str,
    /// Seconds for `Retry-After`; set where a retry helps.
    retry_after: Option<u32>,
    outcome: Option<Outcome>,
    also: Also,
}

impl Row {
    const fn new(status: u16, code: i64, reason: &'static str) -> Self {
        Self { status, code, reason, retry_after: None, outcome: None, also: Also::Nothing }
    }

    fn retry(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    fn outcome(self, outcome: Outcome) -> Self {
        Self { outcome: Some(outcome), ..self }
    }

    fn also(self, also: Also) -> Self {
        Self { also, ..self }
    }
}

/// The table. No arm stands for several that are not known yet: a new error gets its row.
#[rustfmt::skip] // One line an error, where it fits.
fn row(error: &ApiError) -> Row {
    use ApiError as E;
    match error {
        E::Invalid(invalid) => Row::new(400, invalid.code(), "invalid_message"),
        E::Unexpected(_) => Row::new(400, INVALID_REQUEST, "unexpected_message"),
        E::UnknownService { .. } => Row::new(404, INVALID_REQUEST, "unknown_service"),
        E::AmbiguousService { .. } => Row::new(400, INVALID_REQUEST, "ambiguous_service"),
        E::IdInUse => Row::new(400, INVALID_REQUEST, "id_in_use"),
        E::MissingSession => Row::new(400, INVALID_REQUEST, "missing_session"),
        E::UnknownSession => Row::new(404, INVALID_REQUEST, "unknown_session"),
        E::AmbiguousSession => Row::new(409, INVALID_REQUEST, "ambiguous_session"),
        E::UnknownInstance => Row::new(404, INVALID_REQUEST, "unknown_instance"),
        E::LastInstance => Row::new(409, INVALID_REQUEST, "last_instance"),
        E::TooLarge { .. } => Row::new(413, INVALID_REQUEST, "too_large"),
        // RFC 6585, section 5.
        E::LongHead { .. } => Row::new(431, INVALID_REQUEST, "long_head"),
        E::BrokenBody => Row::new(400, PARSE_ERROR, "broken_body"),
        // RFC 9110, section 15.5.9. What is left of the body would be taken for the next request.
        E::SlowBody { .. } => Row::new(408, INVALID_REQUEST, "slow_body").also(Also::Close),
        E::ContentType => Row::new(415, INVALID_REQUEST, "content_type"),
        // RFC 9110, section 12.5.3: what would have been taken.
        E::ContentCoding => Row::new(415, INVALID_REQUEST, "content_coding")
            .also(Also::Header(header::ACCEPT_ENCODING, "identity")),
        E::NoSuchPath => Row::new(404, INVALID_REQUEST, "no_such_path"),
        E::Method { allow } => Row::new(405, INVALID_REQUEST, "method").also(Also::Header(header::ALLOW, allow)),
        E::Query => Row::new(400, INVALID_REQUEST, "query"),
        E::Repeated { .. } => Row::new(400, INVALID_REQUEST, "repeated_header"),
        E::Host => Row::new(403, INVALID_REQUEST, "forbidden_host"),
        // The same request with another origin has another answer.
        E::Origin => Row::new(403, INVALID_REQUEST, "forbidden_origin").also(Also::Header(header::VARY, "Origin")),
        E::Unauthorized { challenge } => {
            Row::new(401, INVALID_REQUEST, "unauthorized").also(Also::Challenge(challenge.clone()))
        }
        E::TooLittle { challenge } => {
            Row::new(403, INVALID_REQUEST, "insufficient_scope").also(Also::Challenge(challenge.clone()))
        }
        E::Policy { .. } => Row::new(403, INVALID_REQUEST, "policy").outcome(Outcome::NotExecuted),
        E::TooOften { retry } => Row::new(429, INTERNAL_ERROR, "too_often").retry(*retry).outcome(Outcome::NotExecuted),
        E::TooManyCalls => {
            Row::new(429, INTERNAL_ERROR, "too_many_calls").retry(1).outcome(Outcome::NotExecuted)
        }
        E::NoIssuer => Row::new(503, INTERNAL_ERROR, "no_issuer").retry(1),
        E::NotAdmin => Row::new(403, INVALID_REQUEST, "forbidden"),
        E::NotAcceptable => Row::new(406, INVALID_REQUEST, "not_acceptable"),
        E::NeitherAcceptable => Row::new(406, INVALID_REQUEST, "not_acceptable"),
        E::NoSessionHeader => Row::new(400, INVALID_REQUEST, "missing_session"),
        E::ProtocolVersion { .. } => Row::new(400, INVALID_REQUEST, "protocol_version"),
        E::OtherVersion => Row::new(400, INVALID_REQUEST, "other_version"),
        // By this status and code clients of that version fall back to one with sessions.
        E::Stateless { .. } => Row::new(404, METHOD_NOT_FOUND, "stateless"),
        E::Refused(refusal) => Row::new(refusal.status(), refusal.code(), refusal.reason()),
        E::OtherTransport { .. } => Row::new(404, INVALID_REQUEST, "other_transport"),
        E::Full => Row::new(503, INTERNAL_ERROR, "too_many").retry(FULL_RETRY),
        E::TooManyOfClient { .. } => Row::new(429, INTERNAL_ERROR, "too_many").retry(FULL_RETRY),
        E::TooMany { .. } => Row::new(503, INTERNAL_ERROR, "too_many").retry(1),
        E::Draining => Row::new(503, INTERNAL_ERROR, "draining").retry(1),
        E::StoreUnavailable | E::StoreRefuses(_) => Row::new(503, INTERNAL_ERROR, "store_unavailable").retry(1),
        E::NotAccepted => Row::new(503, INTERNAL_ERROR, "store_unavailable").retry(1).outcome(Outcome::NotExecuted),
        // What was written may yet be read: who sent it again under another name might have it run twice.
        E::PerhapsAccepted => Row::new(503, OUTCOME_UNKNOWN, "store_unavailable").outcome(Outcome::Unknown),
        E::Upstream(error) => row_of_call(error),
        E::ToolList(_) => Row::new(502, INTERNAL_ERROR, "tool_list"),
        E::NoEndpoint { .. } => Row::new(503, UPSTREAM_UNAVAILABLE, "upstream_unavailable").retry(1)
            .outcome(Outcome::NotExecuted),
    }
}

#[rustfmt::skip]
fn row_of_call(error: &CallError) -> Row {
    use CallError as E;
    use Outcome::{Executed, NotExecuted, Unknown};
    match error {
        E::Unreachable(_) => Row::new(502, UPSTREAM_UNAVAILABLE, "upstream_unreachable").retry(1).outcome(NotExecuted),
        E::NotNow { retry_after, .. } => {
            let seconds = retry_after.map_or(1, |asked| asked.as_secs().clamp(1, RETRY_MAX));
            Row::new(503, UPSTREAM_UNAVAILABLE, "upstream_busy").retry(u32::try_from(seconds).unwrap_or(1))
                .outcome(NotExecuted)
        }
        E::Lost(_) => Row::new(502, OUTCOME_UNKNOWN, "upstream_lost").outcome(Unknown),
        E::TimedOut(_) => Row::new(504, OUTCOME_UNKNOWN, "upstream_timeout").outcome(Unknown),
        E::Refused(_) | E::NotFollowed(_) => Row::new(502, INTERNAL_ERROR, "upstream_refused"),
        E::TooLarge { .. } => Row::new(502, INTERNAL_ERROR, "answer_too_large").outcome(Executed),
        E::Nonsense => Row::new(502, INTERNAL_ERROR, "broken_answer").outcome(Unknown),
        E::Altered(_) => Row::new(502, INTERNAL_ERROR, "answer_not_utf8").outcome(Executed),
        // nginx's word for a client that did not wait.
        E::Cancelled => Row::new(499, OUTCOME_UNKNOWN, "cancelled").outcome(Unknown),
    }
}

impl ApiError {
    /// The answer to a request of a session that lives, `id` as JSON text: as any answer, with status 200. Some clients give
    /// their session up for any other.
    pub fn answer(&self, id: &str) -> HttpResponse {
        self.response_of(&Row { status: 200, ..row(self) }, Some(id))
    }

    /// In one word.
    pub(in crate::http) fn reason(&self) -> &'static str {
        row(self).reason
    }

    /// The JSON-RPC error. `id`: JSON text of the request's id, where it is known.
    pub fn body(&self, id: Option<&str>) -> Bytes {
        self.body_of(&row(self), id)
    }

    fn body_of(&self, row: &Row, id: Option<&str>) -> Bytes {
        let mut details = serde_json::json!({ "reason": row.reason, "retry": row.retry_after.is_some() });
        if let Some(outcome) = row.outcome {
            details["outcome"] = outcome.text().into();
        }
        if let Self::Upstream(CallError::Altered(answer)) = self
            && let Ok(serde_json::Value::Object(mut answer)) = serde_json::from_slice(answer)
        {
            for part in ["result", "error"] {
                details[part] = answer.remove(part).unwrap_or_default();
            }
        }
        jsonrpc::error_response(id.unwrap_or("null"), row.code, &self.to_string(), Some(&details))
    }

    /// The response. `id`: as for [`Self::body`].
    pub fn response(&self, id: Option<&str>) -> HttpResponse {
        self.response_of(&row(self), id)
    }

    /// The answer to a request of 2026-07-28, `id` as JSON text. Codes that it leaves to nobody are not used; what they say
    /// stands in `data`.
    pub fn stateless(&self, id: &str) -> HttpResponse {
        let row = row(self);
        if let Self::Refused(refusal) = self {
            return HttpResponseBuilder::new(status(&row)).content_type("application/json").body(refusal.body(id));
        }
        let code = if UNASSIGNED.contains(&row.code) { INTERNAL_ERROR } else { row.code };
        self.response_of(&Row { code, ..row }, Some(id))
    }

    /// The same as a message alone.
    pub fn stateless_body(&self, id: &str) -> Bytes {
        let row = row(self);
        let code = if UNASSIGNED.contains(&row.code) { INTERNAL_ERROR } else { row.code };
        self.body_of(&Row { code, ..row }, Some(id))
    }

    fn response_of(&self, row: &Row, id: Option<&str>) -> HttpResponse {
        let mut response = HttpResponseBuilder::new(status(row));
        response.content_type("application/json");
        if let Some(seconds) = row.retry_after {
            response.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        match &row.also {
            Also::Nothing => {}
            Also::Header(name, value) => {
                response.insert_header((name.clone(), *value));
            }
            Also::Challenge(challenge) => {
                response.insert_header((header::WWW_AUTHENTICATE, challenge.as_str()));
            }
            Also::Close => {
                response.force_close();
            }
        }
        response.body(self.body_of(row, id))
    }
}

impl actix_web::ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        status(&row(self))
    }

    fn error_response(&self) -> HttpResponse {
        self.response(None)
    }
}

fn status(row: &Row) -> StatusCode {
    StatusCode::from_u16(row.status).expect("the table has three digits everywhere")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::*;
    use crate::protocol::{jsonrpc::InvalidMessage, modern::refusal::Refusal};

    /// Numbers the arms of an enum; does not compile when one is missing.
    macro_rules! numbered {
        ($function:ident: $enum:ident { $($arm:ident $(($tuple:tt))? $({$fields:tt})?),+ $(,)? }) => {
            fn $function(error: &$enum) -> (usize, usize) {
                enum Number { $($arm),+, All }
                let number = match error { $($enum::$arm $(($tuple))? $({$fields})? => Number::$arm),+ };
                (number as usize, Number::All as usize)
            }
        };
    }

    numbered!(arm: ApiError {
        Invalid(_), Unexpected(_), UnknownService{..}, AmbiguousService{..}, IdInUse, MissingSession, UnknownSession,
        AmbiguousSession, UnknownInstance, LastInstance, TooLarge{..}, LongHead{..}, BrokenBody, SlowBody{..}, ContentType, ContentCoding, NoSuchPath, Method{..}, Query,
        Repeated{..}, Host, Origin, Unauthorized{..}, TooLittle{..}, Policy{..}, TooOften{..}, TooManyCalls, NoIssuer, NotAdmin, NotAcceptable, NeitherAcceptable, NoSessionHeader,
        ProtocolVersion{..}, OtherVersion, Stateless{..}, Refused(_), OtherTransport{..}, Full, TooManyOfClient{..}, TooMany{..},
        Draining, StoreUnavailable, NotAccepted, PerhapsAccepted, StoreRefuses(_), Upstream(_), ToolList(_), NoEndpoint{..},
    });

    numbered!(arm_of_call: CallError {
        Unreachable(_), NotNow{..}, Lost(_), TimedOut(_), Refused(_), NotFollowed(_), TooLarge{..}, Nonsense, Altered(_),
        Cancelled,
    });

    fn check(error: &ApiError, status: u16, reason: &str, retry: Option<&str>, outcome: Option<&str>) {
        let response = error.response(Some("7"));
        assert_eq!(response.status().as_u16(), status, "{error}");
        let after = response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(after.as_deref(), retry, "{error}");
        let body = response.into_body();
        let body = actix_web::body::MessageBody::try_into_bytes(body).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["id"], 7, "{error}");
        let told = &body["error"]["data"];
        assert_eq!(told["reason"], reason, "{error}");
        assert_eq!(told["retry"], retry.is_some(), "{error}");
        assert_eq!(told.get("outcome").and_then(serde_json::Value::as_str), outcome, "{error}");
    }

    #[test]
    fn every_error_has_its_status_and_says_whether_a_retry_helps() {
        let text = || "x".to_owned();
        let mut seen = BTreeSet::new();
        let mut all = 0;
        for (error, status, reason, retry) in [
            (ApiError::Invalid(InvalidMessage::NotJson(text())), 400, "invalid_message", None),
            (ApiError::Unexpected("x"), 400, "unexpected_message", None),
            (ApiError::UnknownService { name: text(), known: text() }, 404, "unknown_service", None),
            (ApiError::AmbiguousService { known: text() }, 400, "ambiguous_service", None),
            (ApiError::IdInUse, 400, "id_in_use", None),
            (ApiError::MissingSession, 400, "missing_session", None),
            (ApiError::UnknownSession, 404, "unknown_session", None),
            (ApiError::AmbiguousSession, 409, "ambiguous_session", None),
            (ApiError::UnknownInstance, 404, "unknown_instance", None),
            (ApiError::LastInstance, 409, "last_instance", None),
            (ApiError::TooLarge { limit: 1 }, 413, "too_large", None),
            (ApiError::LongHead { limit: 1 }, 431, "long_head", None),
            (ApiError::BrokenBody, 400, "broken_body", None),
            (ApiError::SlowBody { limit: Duration::from_secs(1) }, 408, "slow_body", None),
            (ApiError::ContentType, 415, "content_type", None),
            (ApiError::ContentCoding, 415, "content_coding", None),
            (ApiError::NoSuchPath, 404, "no_such_path", None),
            (ApiError::Method { allow: "GET" }, 405, "method", None),
            (ApiError::Query, 400, "query", None),
            (ApiError::Repeated { header: "Host" }, 400, "repeated_header", None),
            (ApiError::Host, 403, "forbidden_host", None),
            (ApiError::Origin, 403, "forbidden_origin", None),
            (ApiError::Unauthorized { challenge: text() }, 401, "unauthorized", None),
            (ApiError::TooLittle { challenge: text() }, 403, "insufficient_scope", None),
            (ApiError::NoIssuer, 503, "no_issuer", Some("1")),
            (ApiError::NotAdmin, 403, "forbidden", None),
            (ApiError::NotAcceptable, 406, "not_acceptable", None),
            (ApiError::NeitherAcceptable, 406, "not_acceptable", None),
            (ApiError::NoSessionHeader, 400, "missing_session", None),
            (ApiError::ProtocolVersion { spoken: text() }, 400, "protocol_version", None),
            (ApiError::OtherVersion, 400, "other_version", None),
            (ApiError::Stateless { newest: "x" }, 404, "stateless", None),
            (ApiError::Refused(Refusal::Method { method: text() }), 404, "unknown_method", None),
            (ApiError::OtherTransport { base: text(), service: text() }, 404, "other_transport", None),
            (ApiError::Full, 503, "too_many", Some("10")),
            (ApiError::TooManyOfClient { limit: 1 }, 429, "too_many", Some("10")),
            (ApiError::TooMany { what: "sessions" }, 503, "too_many", Some("1")),
            (ApiError::Draining, 503, "draining", Some("1")),
            (ApiError::StoreUnavailable, 503, "store_unavailable", Some("1")),
            (ApiError::StoreRefuses(text()), 503, "store_unavailable", Some("1")),
            (ApiError::ToolList(text()), 502, "tool_list", None),
        ] {
            check(&error, status, reason, retry, None);
            let (number, of) = arm(&error);
            all = of;
            seen.insert(number);
        }
        let of_a_message =
            [(ApiError::NotAccepted, Some("1"), "not_executed"), (ApiError::PerhapsAccepted, None, "unknown")];
        for (error, retry, outcome) in of_a_message {
            check(&error, 503, "store_unavailable", retry, Some(outcome));
            seen.insert(arm(&error).0);
        }
        let policy = ApiError::Policy { what: text(), rules: text() };
        check(&policy, 403, "policy", None, Some("not_executed"));
        let too_often = ApiError::TooOften { retry: 3 };
        check(&too_often, 429, "too_often", Some("3"), Some("not_executed"));
        check(&ApiError::TooManyCalls, 429, "too_many_calls", Some("1"), Some("not_executed"));
        seen.extend([arm(&policy).0, arm(&too_often).0, arm(&ApiError::TooManyCalls).0]);
        let no_endpoint = ApiError::NoEndpoint { service: text() };
        check(&no_endpoint, 503, "upstream_unavailable", Some("1"), Some("not_executed"));
        seen.extend([arm(&no_endpoint).0, arm(&ApiError::Upstream(CallError::Nonsense)).0]);
        assert!(seen.into_iter().eq(0..all), "an error has no row in this test");
    }

    /// REQ-3
    #[test]
    fn a_request_of_a_session_that_lives_is_answered_with_200_and_never_said_to_be_safe_to_repeat_when_it_is_not() {
        let too_many = ApiError::TooMany { what: "x" };
        for (error, code, retry) in [
            (ApiError::PerhapsAccepted, OUTCOME_UNKNOWN, false),
            (ApiError::NotAccepted, INTERNAL_ERROR, true),
            (too_many, INTERNAL_ERROR, true),
        ] {
            let response = error.answer("7");
            assert_eq!(response.status(), 200);
            let body = actix_web::body::MessageBody::try_into_bytes(response.into_body()).unwrap();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(
                (&body["error"]["code"], &body["error"]["data"]["retry"]),
                (&code.into(), &retry.into()),
                "{error}"
            );
        }
    }

    #[test]
    fn every_failed_call_says_whether_it_was_executed() {
        let text = || "x".to_owned();
        let asked = Some(Duration::from_secs(40));
        let mut seen = BTreeSet::new();
        let mut all = 0;
        for (error, status, reason, retry, outcome) in [
            (CallError::Unreachable(text()), 502, "upstream_unreachable", Some("1"), Some("not_executed")),
            (
                CallError::NotNow { status: 429, retry_after: None },
                503,
                "upstream_busy",
                Some("1"),
                Some("not_executed"),
            ),
            (
                CallError::NotNow { status: 503, retry_after: asked },
                503,
                "upstream_busy",
                Some("40"),
                Some("not_executed"),
            ),
            (CallError::Lost(text()), 502, "upstream_lost", None, Some("unknown")),
            (CallError::TimedOut(Duration::ZERO), 504, "upstream_timeout", None, Some("unknown")),
            (CallError::Refused(400), 502, "upstream_refused", None, None),
            (CallError::NotFollowed(text()), 502, "upstream_refused", None, None),
            (CallError::TooLarge { limit: 1 }, 502, "answer_too_large", None, Some("executed")),
            (CallError::Nonsense, 502, "broken_answer", None, Some("unknown")),
            (CallError::Altered(Bytes::from_static(b"{}")), 502, "answer_not_utf8", None, Some("executed")),
            (CallError::Cancelled, 499, "cancelled", None, Some("unknown")),
        ] {
            let (number, of) = arm_of_call(&error);
            all = of;
            seen.insert(number);
            check(&ApiError::Upstream(error), status, reason, retry, outcome);
        }
        assert!(seen.into_iter().eq(0..all), "an error has no row in this test");
    }

    #[test]
    fn an_answer_says_what_would_have_been_taken() {
        for (error, name, value) in [
            (ApiError::Method { allow: "GET" }, header::ALLOW, "GET"),
            (ApiError::ContentCoding, header::ACCEPT_ENCODING, "identity"),
            (ApiError::Origin, header::VARY, "Origin"),
        ] {
            assert_eq!(error.response(None).headers().get(name).unwrap(), value, "{error}");
        }
        let slow = ApiError::SlowBody { limit: Duration::from_secs(1) };
        assert_eq!(slow.response(None).head().connection_type(), actix_web::http::ConnectionType::Close);
    }
}
