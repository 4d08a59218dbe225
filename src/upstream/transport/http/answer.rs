//! What the head of an answer says: of the message that was POSTed, and of the body that follows. Pure.

use std::time::Duration;

use actix_http::{ResponseHead, StatusCode, Version, header};

use super::redirect::{self, NotFollowed};
use crate::upstream::credential::NoCredential;

/// Why a POST failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// No connection: the upstream has not seen the message.
    #[error("cannot connect: {0}")]
    NotSent(String),
    /// The upstream does not know the session (404).
    #[error("the upstream session is gone")]
    SessionGone,
    /// The endpoint may speak another MCP transport than was tried (`choice`): it has not executed the message.
    #[error("the upstream speaks another MCP transport")]
    OtherTransport,
    /// The upstream refused the message with this status: it was not executed.
    #[error("the upstream refused it with status {0}")]
    Refused(u16),
    /// The router has nothing to show for this message: it was not sent.
    #[error("{0}")]
    NoCredential(String),
    /// The upstream sends it where the router does not follow: it was not executed.
    #[error("the upstream did not take it: {0}")]
    NotFollowed(#[from] NotFollowed),
    /// The upstream did not process the message now (408, 425, 429, 503: RFC 9110, sections 15.5.9 and 15.6.4, RFC 6585,
    /// section 4, RFC 8470, section 5.2): it may be sent again.
    #[error("the upstream does not take it now (status {status})")]
    NotNow {
        /// What it said.
        status: u16,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The upstream, or something before it, failed with this status: it may have executed the message.
    #[error("the upstream failed with status {0}")]
    Failed(u16),
    /// The connection broke: the upstream may have seen it.
    #[error("no answer to the POST: {0}")]
    Unknown(String),
    /// The time is over: the upstream may have seen it.
    #[error("no answer to the POST within {0:?}")]
    Late(Duration),
}

impl From<NoCredential> for PostError {
    fn from(error: NoCredential) -> Self {
        match error {
            NoCredential::NotNow(_) => Self::NotSent(error.to_string()),
            NoCredential::Never(_) => Self::NoCredential(error.to_string()),
        }
    }
}

/// What a status says of the message.
pub(in crate::upstream) fn outcome(head: &ResponseHead) -> Result<(), PostError> {
    match head.status.as_u16() {
        200..=299 => Ok(()),
        404 => Err(PostError::SessionGone),
        status @ (408 | 425 | 429 | 503) => {
            Err(PostError::NotNow { status, retry_after: redirect::retry_after(&head.headers) })
        }
        // 501 and 505: not understood.
        status @ (500 | 502 | 504 | 506..) => Err(PostError::Failed(status)),
        status => Err(PostError::Refused(status)),
    }
}

/// A body that may hold messages, by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum BodyKind {
    /// One message, or an array of them.
    Json,
    /// An event stream.
    Events,
}

impl BodyKind {
    pub(in crate::upstream) fn of(head: &ResponseHead) -> Option<Self> {
        let given = head.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let essence = given.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            Some(Self::Json)
        } else if essence.eq_ignore_ascii_case("text/event-stream") {
            Some(Self::Events)
        } else {
            None
        }
    }

    /// Messages of that kind may come with that status. Servers that answer where they were asked give their JSON-RPC
    /// errors statuses of errors; those that say that the message was not processed, or the session is not known, count
    /// by themselves. `not_found`: 404 does not.
    pub(super) fn is_said_with(self, status: StatusCode, not_found: bool) -> bool {
        let is_error = status.is_client_error() || status.is_server_error();
        let counts_alone =
            matches!(status.as_u16(), 408 | 425 | 429 | 503) || (status == StatusCode::NOT_FOUND && !not_found);
        status.is_success() || (self == Self::Json && is_error && !counts_alone)
    }
}

/// The body of this answer ends with the connection, and is whole then: it has neither a length nor chunks (RFC 9112,
/// section 6.3, no. 8). actix-http takes it for none in HTTP/1.1, and never sees its end in HTTP/1.0.
pub(super) fn is_until_close(head: &ResponseHead) -> bool {
    // In HTTP/1.0 the name means nothing (section 6.1).
    let is_chunked = head.version == Version::HTTP_11
        && head
            .headers
            .get(header::TRANSFER_ENCODING)
            .is_some_and(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
    !has_no_body(head.status) && !is_chunked && !head.headers.contains_key(header::CONTENT_LENGTH)
}

pub(super) fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status.as_u16(), 204 | 304)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_whether_the_message_may_have_been_executed() {
        for (status, expected) in [
            (200, Ok(())),
            (202, Ok(())),
            (204, Ok(())),
            (400, Err(PostError::Refused(400))),
            (401, Err(PostError::Refused(401))),
            (403, Err(PostError::Refused(403))),
            (404, Err(PostError::SessionGone)),
            (405, Err(PostError::Refused(405))),
            (408, Err(PostError::NotNow { status: 408, retry_after: None })),
            (413, Err(PostError::Refused(413))),
            (425, Err(PostError::NotNow { status: 425, retry_after: None })),
            (429, Err(PostError::NotNow { status: 429, retry_after: None })),
            (500, Err(PostError::Failed(500))),
            (501, Err(PostError::Refused(501))),
            (502, Err(PostError::Failed(502))),
            (503, Err(PostError::NotNow { status: 503, retry_after: None })),
            (504, Err(PostError::Failed(504))),
            (505, Err(PostError::Refused(505))),
            (520, Err(PostError::Failed(520))),
            (302, Err(PostError::Refused(302))),
        ] {
            assert_eq!(outcome(&ResponseHead::new(StatusCode::from_u16(status).unwrap())), expected, "{status}");
        }
    }
}
