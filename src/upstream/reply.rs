//! The body of the answer to a POST, when it may hold messages: servers that answer where they were asked, with one
//! message, an array of them, or an event stream (as MCP's Streamable HTTP has it).
//!
//! What it holds goes the way of what comes on the link's stream; what comes on both counts once, as any second answer.

use std::time::Duration;

use bytes::{Buf as _, Bytes};

use super::{
    connection::{Body, BodyKind, DRAIN_PATIENCE},
    line::Line,
    transport::{LinkEvent, Outlet, sort_event, sort_message, sse::LinkLimits},
};
use crate::protocol::{
    jsonrpc::{Head, Kind},
    scan::{Scan, Told},
    sse_reader::{Reader, to_text},
};

/// Byte order mark.
const BOM: &[u8] = "\u{feff}".as_bytes();

/// See the module's text.
pub struct Reply {
    rest: Rest,
}

enum Rest {
    /// Still to come.
    Unread(Body, BodyKind, Line),
    /// JSON text, and whether some of it was none and has been replaced.
    Read(Bytes, bool),
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

/// How the reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyEnd {
    /// There is nothing more to come.
    Whole,
    /// The connection broke, or nobody could read on: an answer in it is lost.
    Broken,
}

impl Reply {
    pub(super) fn new(body: Body, kind: BodyKind, line: Line) -> Self {
        Self { rest: Rest::Unread(body, kind, line) }
    }

    /// Reads to the end, and puts each message into `outlet` as soon as it is there; not for longer than `patience`.
    pub async fn read(self, limits: LinkLimits, outlet: Outlet, patience: Duration) -> ReplyEnd {
        let read = async {
            match self.rest {
                Rest::Unread(body, BodyKind::Json, line) => read_json(body, &line, limits, &outlet).await,
                Rest::Unread(body, BodyKind::Events, line) => read_events(body, &line, limits, &outlet).await,
                Rest::Read(text, is_altered) => put(messages(text, is_altered), &outlet).await,
            }
        };
        tokio::time::timeout(patience, read).await.unwrap_or(ReplyEnd::Broken)
    }

    /// Of a JSON body that came with the status of an error: `Some` if it answers this request. Read for as long as the rest
    /// of any acknowledgement, and of no more than `limit` bytes.
    pub(super) async fn answer_to(self, request: &[u8], limit: usize) -> Option<Self> {
        let Rest::Unread(mut body, _, line) = self.rest else { return None };
        let read = async {
            let mut text = Vec::new();
            while let Some(chunk) = body.next().await {
                text.extend_from_slice(&chunk.ok()?);
                if text.len() > limit {
                    return None;
                }
            }
            Some(text)
        };
        let text = tokio::time::timeout(DRAIN_PATIENCE, read).await.ok()??;
        give_back(body, &line);
        let (text, is_altered) = to_text(text);
        let answers = answers(&messages(text.clone(), is_altered), request);
        answers.then_some(Self { rest: Rest::Read(text, is_altered) })
    }
}

async fn read_events(mut body: Body, line: &Line, limits: LinkLimits, outlet: &Outlet) -> ReplyEnd {
    let mut reader = Reader::new(limits.max_message, limits.max_skipped);
    while let Some(chunk) = body.next().await {
        let Ok(chunk) = chunk else { return ReplyEnd::Broken };
        let mut events = Vec::new();
        let readable = reader.feed(&chunk, |read| sort_event(read, &mut events, |_| ()));
        drop(chunk);
        if outlet.put_all(events).await.is_err() || readable.is_err() {
            return ReplyEnd::Broken;
        }
    }
    give_back(body, line);
    ReplyEnd::Whole
}

async fn read_json(mut body: Body, line: &Line, limits: LinkLimits, outlet: &Outlet) -> ReplyEnd {
    let mut text = Vec::new();
    let mut too_large: Option<(Scan, usize)> = None;
    while let Some(chunk) = body.next().await {
        let Ok(chunk) = chunk else { return ReplyEnd::Broken };
        if too_large.is_none() && text.len() + chunk.len() <= limits.max_message {
            text.extend_from_slice(&chunk);
            continue;
        }
        let (scan, skipped) = too_large.get_or_insert_default();
        scan.feed(&std::mem::take(&mut text));
        scan.feed(&chunk);
        *skipped += chunk.len();
        if *skipped > limits.max_skipped {
            break;
        }
    }
    let mut events = Vec::new();
    match too_large {
        Some((scan, _)) => events.extend(scan.finish().into_iter().map(LinkEvent::TooLarge)),
        None => {
            let (text, is_altered) = to_text(text);
            events = messages(text, is_altered);
        }
    }
    give_back(body, line);
    put(events, outlet).await
}

/// The messages of a JSON body. A byte order mark before it is none of it (RFC 8259, section 8.1).
fn messages(mut text: Bytes, is_altered: bool) -> Vec<LinkEvent> {
    if text.starts_with(BOM) {
        text.advance(BOM.len());
    }
    let mut events = Vec::new();
    sort_message(text, is_altered, &mut events);
    // Many acknowledge with JSON of their own, which is no message and says nothing.
    events.retain(|event| {
        message_of(event).is_none_or(|body| Head::parse(body).is_ok() || Scan::of(body) != [Told::Nothing])
    });
    events
}

fn message_of(event: &LinkEvent) -> Option<&Bytes> {
    match event {
        LinkEvent::Message(body) | LinkEvent::Altered(body) => Some(body),
        _ => None,
    }
}

/// One of them is the answer to this request.
fn answers(messages: &[LinkEvent], request: &[u8]) -> bool {
    let Ok(Head { kind: Kind::Request { id: asked, .. }, .. }) = Head::parse(request) else { return false };
    messages.iter().filter_map(message_of).any(|body| {
        let head = Head::parse(body);
        matches!(head.map(|head| head.kind), Ok(Kind::Response { id: Some(id), .. }) if id == asked)
    })
}

async fn put(events: Vec<LinkEvent>, outlet: &Outlet) -> ReplyEnd {
    if outlet.put_all(events).await.is_err() { ReplyEnd::Broken } else { ReplyEnd::Whole }
}

fn give_back(body: Body, line: &Line) {
    if let Some(connection) = body.into_connection() {
        line.keep(connection);
    }
}
