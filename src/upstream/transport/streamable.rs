//! Streamable HTTP (MCP 2025-03-26 to 2025-11-25), the client's side: every message is a POST to the endpoint's one URL, and
//! what comes back for it comes in its answer.
//!
//! An upstream session is what the endpoint names in the answer to `initialize`, and what is repeated with every message
//! after it. Nothing is connected for it; the headers of its requests are made once.

mod streams;

use std::cell::RefCell;

use actix_http::{
    Method, Uri,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use bytes::Bytes;
use serde::Deserialize;

pub use self::streams::NoStream;
use super::http::{
    answer::{PostError, outcome},
    connection::Head,
    line::{Answered, EITHER_ANSWER, Line, OF_POST},
    reply::{Reply, Said},
};
use crate::upstream::{
    choice::{Era, Spoken},
    era,
};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// Stands for none on record.
const NO_VERSION: &str = "-";

/// One upstream session. It stays on its thread.
#[derive(Debug)]
pub(in crate::upstream) struct Streamable {
    /// Of its POSTs.
    post: Head,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    /// Where POSTs are taken: at the endpoint's own URL, or where that sends them on to. `None`: it cannot be requested.
    url: Option<Uri>,
    id: Option<HeaderValue>,
    is_open: bool,
}

impl Streamable {
    /// None yet: the first message is to be `initialize`.
    pub(in crate::upstream) fn new(line: &Line) -> Self {
        let post = line.head(Method::POST, [OF_POST, EITHER_ANSWER]);
        let state = State { url: line.uri().ok(), id: None, is_open: false };
        Self { post, state: RefCell::new(state) }
    }

    /// `initialize` was answered with success: from now on the messages are of this session. `version`: what was agreed on.
    pub(in crate::upstream) fn opened(&self, version: Option<&str>) {
        self.state.borrow_mut().is_open = true;
        if let Some(version) = version.and_then(|version| HeaderValue::from_str(version).ok()) {
            self.post.insert(VERSION, version);
        }
    }

    /// `initialize` was answered with success.
    pub(in crate::upstream) fn is_open(&self) -> bool {
        self.state.borrow().is_open
    }

    /// As an heir goes on with it: see [`Self::stored`].
    pub(in crate::upstream) fn go_on(&self, stored: &str) {
        let (version, id) = stored.split_once(' ').unwrap_or((stored, ""));
        if let Some(id) = HeaderValue::from_str(id).ok().filter(|id| !id.is_empty()) {
            self.post.insert(SESSION, id.clone());
            self.state.borrow_mut().id = Some(id);
        }
        self.opened(Some(version).filter(|version| *version != NO_VERSION));
    }

    /// As it stands on record: the version, a space, and the id if there is one. `None` before it was begun.
    pub(in crate::upstream) fn stored(&self) -> Option<String> {
        let state = self.state.borrow();
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let version = self.post.get(&VERSION).as_ref().and_then(text).unwrap_or_else(|| NO_VERSION.to_owned());
        let id = state.id.as_ref().and_then(text).unwrap_or_default();
        state.is_open.then(|| format!("{version} {id}"))
    }

    /// The server has named it.
    fn has_id(&self) -> bool {
        self.state.borrow().id.is_some()
    }

    /// Gives the headers of this session to requests of another kind.
    fn name_session(&self, head: &Head) {
        for name in [SESSION, VERSION] {
            if let Some(value) = self.post.get(&name) {
                head.insert(name, value);
            }
        }
    }

    /// `initialize` was answered with an error: what its answer named is no session.
    pub(in crate::upstream) fn refused(&self) {
        let mut state = self.state.borrow_mut();
        if !state.is_open && state.id.take().is_some() {
            self.post.remove(SESSION);
        }
    }

    /// POSTs one message. As [`Line::post`].
    pub(in crate::upstream) async fn post(&self, line: &Line, body: Bytes) -> Result<Option<Reply>, PostError> {
        let url = self.state.borrow().url.clone();
        let url = url.ok_or_else(|| PostError::NotSent("the URL cannot be requested".to_owned()))?;
        let Answered { head, reply, url } = line.exchange(&self.post, url, &body).await?;
        let (has_session, is_open) = {
            let state = self.state.borrow();
            (state.id.is_some(), state.is_open)
        };
        let may_be_other = !is_open && line.endpoint.transport.is_open();
        match verdict(head.status.as_u16(), reply.is_some(), has_session, is_open, may_be_other) {
            Verdict::Taken => {
                let mut state = self.state.borrow_mut();
                // The next ones need not be sent twice.
                state.url = Some(url);
                if !state.is_open
                    && let Some(id) = session_id(&head.headers)
                {
                    self.post.insert(SESSION, id.clone());
                    state.id = Some(id);
                }
                if !state.is_open {
                    line.endpoint.transport.is(Spoken::Streamable);
                    line.endpoint.succeeded();
                }
                Ok(reply)
            }
            Verdict::SessionGone => Err(PostError::SessionGone),
            Verdict::OtherTransport => {
                line.endpoint.transport.is_not(Spoken::Streamable);
                Err(PostError::OtherTransport)
            }
            Verdict::NotHere => {
                let why = format!("status {} to initialize: no MCP server", head.status.as_u16());
                line.endpoint.failed(&why);
                Err(PostError::NotSent(why))
            }
            Verdict::AskBody => match reply {
                Some(reply) => match reply.said_of(&body, line.max_message()).await {
                    // It was too busy to say so when it was asked.
                    Said::Answer(reply)
                        if !is_open && reply.text().is_some_and(|text| era::refuses_handshakes(text)) =>
                    {
                        if !line.endpoint.transport.finds_era() {
                            return Ok(Some(reply));
                        }
                        line.endpoint.transport.is_of(Era::Modern);
                        Err(PostError::OtherTransport)
                    }
                    Said::Answer(reply) => Ok(Some(reply)),
                    Said::Other(text) if has_session && says_no_session(&text) => Err(PostError::SessionGone),
                    Said::Other(_) | Said::Nothing => outcome(&head).map(|()| None),
                },
                None => outcome(&head).map(|()| None),
            },
        }
    }
}

/// What a status says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It was taken.
    Taken,
    /// The session is over.
    SessionGone,
    /// The endpoint may speak HTTP+SSE.
    OtherTransport,
    /// There is no MCP server.
    NotHere,
    /// The body may say more than the status.
    AskBody,
}

/// `has_body`: one that may hold messages. `has_session`: its id went with the message. `is_open`: `initialize` has been
/// answered. `may_be_other`: which transport it is has to be found out.
fn verdict(status: u16, has_body: bool, has_session: bool, is_open: bool, may_be_other: bool) -> Verdict {
    match status {
        // An acknowledgement is no answer to `initialize`.
        200..=299 if has_body || is_open || !may_be_other => Verdict::Taken,
        200..=299 => Verdict::OtherTransport,
        400 | 404 | 405 if may_be_other && !has_session => Verdict::OtherTransport,
        404 if has_session => Verdict::SessionGone,
        404 | 405 if !is_open => Verdict::NotHere,
        _ => Verdict::AskBody,
    }
}

/// MCP: visible ASCII. A copy: it is kept for the session's life, and the one that was read holds the whole buffer into which
/// it was.
fn session_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(SESSION)?.as_bytes();
    let is_legal = !id.is_empty() && id.iter().all(u8::is_ascii_graphic);
    is_legal.then(|| HeaderValue::from_bytes(id).ok()).flatten()
}

/// Some servers say with another status than 404 that they do not know a session (any more): with an error about no
/// request of the client's.
pub(super) fn says_no_session(text: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Said<'a> {
        #[serde(borrow)]
        error: Error<'a>,
    }
    #[derive(Deserialize)]
    struct Error<'a> {
        #[serde(borrow)]
        message: std::borrow::Cow<'a, str>,
    }
    serde_json::from_slice::<Said<'_>>(text).is_ok_and(|said| {
        let message = said.error.message.to_ascii_lowercase();
        message.contains("session") || message.contains("not initialized")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_whether_the_message_the_session_or_the_transport_is_refused() {
        use Verdict::{AskBody, NotHere, OtherTransport, SessionGone, Taken};
        for (status, has_body, has_session, is_open, may_be_other, expected) in [
            (200, true, false, false, true, Taken),
            (202, false, false, false, true, OtherTransport),
            (202, false, false, false, false, Taken),
            (202, false, true, true, false, Taken),
            (202, false, false, true, true, Taken),
            (404, false, false, false, true, OtherTransport),
            (405, false, false, false, true, OtherTransport),
            (400, true, false, false, true, OtherTransport),
            (401, true, false, false, true, AskBody),
            (404, true, false, false, false, NotHere),
            (405, false, false, false, false, NotHere),
            (400, true, false, false, false, AskBody),
            (404, true, true, true, false, SessionGone),
            (404, true, true, false, true, SessionGone),
            // A server without sessions has none that could be gone.
            (404, true, false, true, false, AskBody),
            (400, true, true, true, false, AskBody),
            (500, false, true, true, false, AskBody),
        ] {
            let given = verdict(status, has_body, has_session, is_open, may_be_other);
            assert_eq!(given, expected, "{status} {has_body} {has_session} {is_open} {may_be_other}");
        }
    }

    #[test]
    fn an_error_about_the_session_is_told_from_others() {
        for (text, expected) in [
            (
                r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#,
                true,
            ),
            (
                r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: Server not initialized"},"id":null}"#,
                true,
            ),
            (r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Session not found"}}"#, true),
            (r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid request parameters"},"id":null}"#, false),
            (r#"{"message":"no session"}"#, false),
            ("no session", false),
            ("", false),
        ] {
            assert_eq!(says_no_session(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_session_id_is_visible_ascii() {
        for (id, is_legal) in [("a-1~!", true), ("", false), ("a b", false), ("\u{e9}", false)] {
            let mut headers = HeaderMap::new();
            headers.insert(SESSION, HeaderValue::from_bytes(id.as_bytes()).unwrap());
            assert_eq!(session_id(&headers).is_some(), is_legal, "{id}");
        }
        assert!(session_id(&HeaderMap::new()).is_none());
    }
}
