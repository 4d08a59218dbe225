//! One request over a shared session: what it asks for, how it can fail, and how it is written there.

use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::watch;

use super::PostError;
use crate::protocol::{
    jsonrpc::{Head, InvalidMessage},
    mcp,
    trace_context::TraceContext,
};

/// Runs one request over the shared session. Reply: the response, with the id that it was given there.
#[derive(Debug, Message)]
#[rtype(result = "Result<Bytes, CallError>")]
pub struct Call {
    /// The request as the caller sent it.
    pub body: Bytes,
    /// Longest wait for the answer.
    pub timeout: Duration,
    /// Set for those of callers: changes when the caller cancels the request, and closes when the caller is gone. The
    /// server is told of both, and of the end of the time.
    pub given_up: GivenUp,
    /// Where it stands in a trace.
    pub place: Option<TraceContext>,
}

/// See [`Call::given_up`].
pub type GivenUp = Option<watch::Receiver<bool>>;

/// Resolves when the caller has given up: `true` if it is gone.
pub(super) async fn gives_up(given_up: &mut GivenUp) -> bool {
    match given_up {
        Some(caller) => caller.changed().await.is_err(),
        None => std::future::pending().await,
    }
}

/// Why a call over the shared session failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The endpoint cannot be reached; the request was not sent.
    #[error("the upstream cannot be reached: {0}")]
    Unreachable(String),
    /// The upstream does not take the request now; it was not executed.
    #[error("the upstream does not take the request now (status {status}); it was not executed")]
    NotNow {
        /// What it said.
        status: u16,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// Sent, but the connection broke before the answer.
    #[error("the upstream connection broke before the answer: {0}")]
    Lost(String),
    /// Sent, and no answer in time.
    #[error("the upstream did not answer within {0:?}")]
    TimedOut(Duration),
    /// The upstream refused the POST with this status.
    #[error("the upstream refused the request with status {0}")]
    Refused(u16),
    /// The upstream sends the request where the router does not follow; it was not executed.
    #[error("the upstream did not take the request: {0}")]
    NotFollowed(String),
    /// Executed, but the answer is too large to be passed on.
    #[error(
        "the upstream's answer is larger than {limit} bytes (MCP_UPSTREAM_MAX_MESSAGE); it is lost, the request was executed"
    )]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The answer cannot be read.
    #[error("the upstream's answer is no JSON-RPC message; whether the request was executed is unknown")]
    Nonsense,
    /// Executed, but the answer holds bytes that are no text; here they are replaced by U+FFFD.
    #[error("the upstream's answer is not UTF-8; the request was executed, and data.result is what can be read of it")]
    Altered(Bytes),
    /// The caller has given it up.
    #[error("the request was cancelled; whether it was executed is unknown")]
    Cancelled,
}

impl CallError {
    /// The same for those whose request was not sent yet.
    pub(super) fn before_sent(self) -> Self {
        match self {
            Self::Unreachable(_) | Self::NotNow { .. } | Self::Refused(_) | Self::NotFollowed(_) | Self::Cancelled => {
                self
            }
            Self::Lost(why) => Self::Unreachable(why),
            Self::TimedOut(limit) => Self::Unreachable(format!("no answer to initialize within {limit:?}")),
            Self::TooLarge { .. } | Self::Nonsense | Self::Altered(_) => {
                Self::Unreachable("its answer to initialize cannot be read".to_owned())
            }
        }
    }
}

/// What a call came to whose actor may be gone.
pub fn flatten<T>(outcome: Result<Result<T, CallError>, MailboxError>) -> Result<T, CallError> {
    outcome.unwrap_or_else(|_| Err(CallError::Lost("the router is stopping".to_owned())))
}

impl From<PostError> for CallError {
    fn from(error: PostError) -> Self {
        match error {
            PostError::NotSent(why) => Self::Unreachable(why),
            error @ (PostError::OtherTransport | PostError::NoCredential(_)) => Self::Unreachable(error.to_string()),
            PostError::SessionGone => Self::Unreachable("the upstream session is gone".to_owned()),
            PostError::Refused(status) => Self::Refused(status),
            PostError::NotFollowed(error) => Self::NotFollowed(error.to_string()),
            PostError::NotNow { status, retry_after } => Self::NotNow { status, retry_after },
            PostError::Failed(status) => Self::Lost(format!("it failed with status {status}")),
            PostError::Unknown(why) => Self::Lost(why),
            PostError::Late(limit) => Self::Lost(format!("no answer to the POST within {limit:?}")),
        }
    }
}

/// The request with an id of the shared session, which is its progress token, too, if it has one: the tokens of two
/// callers may be the same. What a server reports of its progress reaches no REST caller.
pub(super) fn rewritten(body: &Bytes, id: u64) -> Result<Bytes, InvalidMessage> {
    let id = id.to_string();
    let has_token = memchr::memmem::find(body, b"progressToken").is_some();
    let own_token = if has_token { mcp::with_progress_token(body, &id) } else { None };
    let body = own_token.as_ref().unwrap_or(body);
    Ok(Head::parse(body)?.with_id(body, &id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_progress_tokens_of_callers_do_not_meet_on_the_shared_session() {
        for (body, sent) in [
            (r#"{"jsonrpc":"2.0","id":"a","method":"m"}"#, r#"{"jsonrpc":"2.0","id":7,"method":"m"}"#),
            (
                r#"{"id":1,"jsonrpc":"2.0","method":"m","params":{"_meta":{"progressToken": "t" ,"x":1},"id":1}}"#,
                r#"{"id":7,"jsonrpc":"2.0","method":"m","params":{"_meta":{"progressToken": 7 ,"x":1},"id":1}}"#,
            ),
            (
                r#"{"params":{"arguments":{"progressToken":1},"_meta":{"progressToken":1}},"id":1,"jsonrpc":"2.0","method":"m"}"#,
                r#"{"params":{"arguments":{"progressToken":1},"_meta":{"progressToken":7}},"id":7,"jsonrpc":"2.0","method":"m"}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"progressToken":3}}"#,
                r#"{"jsonrpc":"2.0","id":7,"method":"m","params":{"progressToken":3}}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":["progressToken"]}"#,
                r#"{"jsonrpc":"2.0","id":7,"method":"m","params":["progressToken"]}"#,
            ),
        ] {
            assert_eq!(rewritten(&Bytes::from(body), 7).unwrap(), sent, "{body}");
        }
    }

    #[test]
    fn what_was_not_sent_is_never_of_unknown_outcome() {
        for error in [
            CallError::Lost(String::new()),
            CallError::TimedOut(Duration::ZERO),
            CallError::TooLarge { limit: 1 },
            CallError::Nonsense,
        ] {
            assert!(matches!(error.before_sent(), CallError::Unreachable(_)));
        }
    }
}
