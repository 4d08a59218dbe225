//! One POST to a server of this era, and what its answer means.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::{outgoing::Outgoing, state::State, told};
use crate::{
    protocol::{
        by_name::by_name,
        jsonrpc::{self, Head, Kind},
        mcp,
        modern::refusal::{HEADER_MISMATCH, UNSUPPORTED_VERSION},
    },
    upstream::{
        notice::{LinkEvent, LinkLimits},
        transport::{
            http::{
                answer::{PostError, outcome},
                line::{Answered, Line},
                reply::{Piece, Reply, ReplyEnd, Said},
            },
            streamable::says_no_session,
        },
    },
};

/// What a server has said.
#[derive(Debug)]
pub(super) enum Taken {
    /// Something, which is to be read.
    Reply(Reply),
    /// This error object: it did nothing.
    Error(Bytes),
}

impl State {
    /// What the server says of itself (JSON text), or its error.
    pub(super) async fn discover(&self, line: &Line) -> Result<Result<String, Bytes>, PostError> {
        let asked = self.ask(line, mcp::DISCOVER, "{}").await?;
        if let Err(error) = &asked
            && told::code_of(error) == Some(UNSUPPORTED_VERSION)
        {
            line.endpoint.transport.doubt_era();
            return Err(PostError::OtherTransport);
        }
        Ok(asked)
    }

    /// Asks something of our own: the result (JSON text) or the error.
    async fn ask(&self, line: &Line, method: &str, params: &str) -> Result<Result<String, Bytes>, PostError> {
        let id = self.next_id();
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
        let outgoing = Outgoing::of(&Bytes::from(body), &id, &self.client.borrow());
        let outgoing = outgoing.ok_or_else(|| PostError::NotSent("it cannot be written".to_owned()))?;
        match self.post(line, &outgoing).await? {
            Taken::Error(error) => Ok(Err(error)),
            Taken::Reply(reply) => read_whole(reply, line).await,
        }
    }

    /// Fetches the list of tools for what it says of headers. Bounded as every walk through it is.
    async fn learn_tools(&self, line: &Line) -> Result<(), PostError> {
        let mut cursor: Option<String> = None;
        for _ in 0..line.settings().tool_pages {
            let params =
                cursor.as_ref().map_or_else(|| "{}".to_owned(), |cursor| json!({ "cursor": cursor }).to_string());
            let Ok(page) = self.ask(line, mcp::LIST_TOOLS, &params).await? else { return Ok(()) };
            learn(line, &page);
            cursor = next_cursor(&page);
            if cursor.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// POSTs it; and again, when the server misses headers that its list of tools names.
    pub(super) async fn post(&self, line: &Line, outgoing: &Outgoing) -> Result<Taken, PostError> {
        let taken = self.post_once(line, outgoing).await?;
        let is_mismatch =
            |taken: &Taken| matches!(taken, Taken::Error(error) if told::code_of(error) == Some(HEADER_MISMATCH));
        if outgoing.method != mcp::CALL_TOOL || !is_mismatch(&taken) {
            return Ok(taken);
        }
        // Not executed: such headers are looked at first. What went wrong with the list is no matter of this call.
        let learned = Box::pin(tokio::time::timeout(line.settings().post_timeout, self.learn_tools(line))).await;
        if !matches!(learned, Ok(Ok(()))) {
            return Ok(taken);
        }
        self.post_once(line, outgoing).await
    }

    async fn post_once(&self, line: &Line, outgoing: &Outgoing) -> Result<Taken, PostError> {
        let url = self.url.borrow().clone();
        let url = url.ok_or_else(|| PostError::NotSent("the URL cannot be requested".to_owned()))?;
        let Answered { head, reply, url } = line.exchange(&outgoing.head(line), url, &outgoing.body).await?;
        let status = head.status.as_u16();
        // The next ones need not be sent twice.
        self.url.replace(Some(url));
        let Some(reply) = reply else {
            return match status {
                // An acknowledgement is no answer.
                200..=299 => Err(PostError::Failed(status)),
                _ if is_of_nobody(status) => Err(gone(line)),
                _ => Err(outcome(&head).err().unwrap_or(PostError::Failed(status))),
            };
        };
        if head.status.is_success() {
            return Ok(Taken::Reply(reply));
        }
        let error = match reply.said_of(&outgoing.body, line.max_message()).await {
            Said::Answer(reply) => match reply.text().and_then(|text| jsonrpc::error_of(text)) {
                Some(error) => error,
                None => return Ok(Taken::Reply(reply)),
            },
            Said::Other(text) => match jsonrpc::error_without_id(&text) {
                Some(_) if says_no_session(&text) => return Err(gone(line)),
                Some(error) => error,
                None if is_of_nobody(status) => return Err(gone(line)),
                None => return Err(outcome(&head).err().unwrap_or(PostError::Failed(status))),
            },
            Said::Nothing if is_of_nobody(status) => return Err(gone(line)),
            Said::Nothing => return Err(outcome(&head).err().unwrap_or(PostError::Failed(status))),
        };
        if told::code_of(&error) == Some(UNSUPPORTED_VERSION) {
            line.endpoint.transport.doubt_era();
        }
        Ok(Taken::Error(error))
    }

    /// POSTs a notification, which nothing depends on.
    pub(super) async fn note(&self, line: &Line, body: &Bytes) -> Result<(), PostError> {
        let outgoing = Outgoing::of(body, "", &self.client.borrow());
        let (Some(outgoing), Some(url)) = (outgoing, self.url.borrow().clone()) else { return Ok(()) };
        let Answered { head, .. } = line.exchange(&outgoing.head(line), url, &outgoing.body).await?;
        outcome(&head).map_err(|error| if is_of_nobody(head.status.as_u16()) { PostError::Refused(404) } else { error })
    }
}

/// A server of this era says why, with an error of JSON-RPC: without one there is another server, or none.
fn is_of_nobody(status: u16) -> bool {
    matches!(status, 400 | 404 | 405)
}

/// The server of this era is not there any more. What is begun anew finds out what there is.
fn gone(line: &Line) -> PostError {
    line.endpoint.transport.doubt_era();
    PostError::SessionGone
}

/// Reads to the response: its result (JSON text) or its error.
async fn read_whole(mut reply: Reply, line: &Line) -> Result<Result<String, Bytes>, PostError> {
    let limits = LinkLimits::from(line.settings());
    loop {
        let Piece { events, end } = reply.next(limits).await;
        for event in &events {
            let LinkEvent::Message(body) = event else { continue };
            match Head::parse(body).map(|head| (head.kind, head.result)) {
                Ok((Kind::Response { success: true, .. }, result)) => {
                    return Ok(Ok(result.map_or("{}", |result| result.get()).to_owned()));
                }
                Ok((Kind::Response { .. }, _)) => return Ok(Err(jsonrpc::error_of(body).unwrap_or_default())),
                _ => {}
            }
        }
        match end {
            None => {}
            Some(ReplyEnd::Nameless(error)) => return Ok(Err(error)),
            Some(_) => return Err(PostError::Unknown("the answer holds no response".to_owned())),
        }
    }
}

fn next_cursor(page: &str) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Page {
        #[serde(default)]
        next_cursor: Option<String>,
    }
    by_name::<Page>(page)?.next_cursor.filter(|cursor| !cursor.is_empty())
}

/// Remembers what a page of the list of tools says of headers.
pub(super) fn learn(line: &Line, page: &str) {
    for (tool, mirrored) in told::mirrored(page).unwrap_or_default() {
        line.endpoint.mirrors.learn(tool, mirrored.unwrap_or_default());
    }
}
