//! The body of the answer to a POST, when it may hold messages: servers that answer where they were asked, with one
//! message, an array of them, or an event stream (as MCP's Streamable HTTP has it).
//!
//! What it holds goes the way of what comes on the link's stream; what comes on both counts once, as any second answer.

use std::{pin::Pin, time::Duration};

use actix_http::{ResponseHead, StatusCode, header};
use bytes::{Buf as _, Bytes};

use super::{DRAIN_PATIENCE, answer::BodyKind, body::Body};
use crate::{
    protocol::{
        jsonrpc::{self, Head, Kind},
        scan::{Scan, Told},
        sse_reader::{Reader, to_text},
    },
    upstream::notice::{LinkEvent, LinkLimits, Marks, Outlet, sort_message, sort_streamed},
};

/// Byte order mark.
const BOM: &[u8] = "\u{feff}".as_bytes();

/// How long an answer on the stream may come after a body that is none or names no request: what came first counts.
pub const STREAM_WAIT: Duration = Duration::from_millis(100);

/// See the module's text.
pub struct Reply {
    rest: Rest,
    form: Form,
    /// What its events say of a resumption.
    marks: Marks,
}

/// What the head says of the body.
#[derive(Debug, Clone, Copy)]
struct Form {
    kind: BodyKind,
    /// It has a coding (RFC 9110, section 8.4), though none was asked for: it cannot be read.
    is_coded: bool,
    /// The status is 200: not only an acknowledgement, unless the body says no more.
    is_answer: bool,
}

enum Rest {
    /// Nothing of it has been read.
    Unread(Body),
    /// An event stream, as far as it has been read.
    Events(Box<Stream>),
    /// JSON text, and whether some of it was none and has been replaced.
    Read(Bytes, bool),
    /// What somebody else reads.
    Other(Box<dyn Source>),
    /// Nothing.
    Over,
}

/// What a body says, as whoever has made it of several says it.
pub(in crate::upstream) trait Source: std::fmt::Debug {
    /// As [`Reply::next`].
    fn next(&mut self, limits: LinkLimits) -> Pin<Box<dyn Future<Output = Piece> + '_>>;
}

struct Stream {
    body: Body,
    reader: Reader,
    /// The first error that names no request.
    nameless: Option<Bytes>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

/// One step of the reading: what has come, and the end if this was the last.
#[derive(Debug)]
pub struct Piece {
    /// In order.
    pub events: Vec<LinkEvent>,
    /// `None`: there is more to come.
    pub end: Option<ReplyEnd>,
}

/// How the reading ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyEnd {
    /// There is nothing more to come.
    Whole,
    /// The connection broke, or nobody could read on: an answer in it is lost.
    Broken,
    /// It was meant as an answer, and nobody can read it.
    Unreadable,
    /// The server's error (JSON text) about a message whose id it could not read (JSON-RPC 2.0, section 5): where else than
    /// here would it be sure which.
    Nameless(Bytes),
}

/// What a body that came with the status of an error says.
pub(in crate::upstream) enum Said {
    /// It answers the request.
    Answer(Reply),
    /// Something else: text.
    Other(Bytes),
    /// Nothing that can be read in time.
    Nothing,
}

impl Piece {
    fn of(events: Vec<LinkEvent>) -> Self {
        Self { events, end: None }
    }

    fn end(end: ReplyEnd) -> Self {
        Self { events: Vec::new(), end: Some(end) }
    }
}

impl Reply {
    /// `None`: that body holds no messages.
    pub(super) fn of(head: &ResponseHead, body: Body) -> Option<Self> {
        let kind = BodyKind::of(head)?;
        let codings = head.headers.get_all(header::CONTENT_ENCODING).filter_map(|value| value.to_str().ok());
        let mut codings = codings.flat_map(|value| value.split(',')).map(str::trim);
        let is_coded = codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"));
        let form = Form { kind, is_coded, is_answer: head.status == StatusCode::OK };
        Some(Self { rest: Rest::Unread(body), form, marks: Marks::default() })
    }

    /// What is read by this.
    pub(in crate::upstream) fn of_source(source: Box<dyn Source>) -> Self {
        let form = Form { kind: BodyKind::Events, is_coded: false, is_answer: true };
        Self { rest: Rest::Other(source), form, marks: Marks::default() }
    }

    /// This message.
    pub(in crate::upstream) fn said(message: Bytes) -> Self {
        let form = Form { kind: BodyKind::Json, is_coded: false, is_answer: true };
        Self { rest: Rest::Read(message, false), form, marks: Marks::default() }
    }

    /// None, of a stream that has said this of itself: it is to be resumed.
    pub fn over(marks: Marks) -> Self {
        let form = Form { kind: BodyKind::Events, is_coded: false, is_answer: true };
        Self { rest: Rest::Over, form, marks }
    }

    /// The stream that goes on where another one has ended, which has said this of it.
    pub(in crate::upstream) fn resumed(head: &ResponseHead, body: Body, marks: Marks) -> Option<Self> {
        Self::of(head, body).map(|reply| Self { marks, ..reply })
    }

    /// The JSON text, where all of it has been read ([`Said::Answer`]).
    pub(in crate::upstream) fn text(&self) -> Option<&Bytes> {
        if let Rest::Read(text, _) = &self.rest { Some(text) } else { None }
    }

    /// What its events have said of a resumption.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Waits for the next of what it holds. To be called until the end, which comes with the last piece; if it is not waited
    /// for to the end of this call, the rest is lost.
    pub async fn next(&mut self, limits: LinkLimits) -> Piece {
        let form = self.form;
        let mut stream = match std::mem::replace(&mut self.rest, Rest::Over) {
            Rest::Over => return Piece::end(ReplyEnd::Whole),
            Rest::Other(mut source) => {
                let piece = source.next(limits).await;
                if piece.end.is_none() {
                    self.rest = Rest::Other(source);
                }
                return piece;
            }
            Rest::Unread(body) if form.is_coded => return Piece::end(pass_over(body, limits, form).await),
            Rest::Unread(body) if form.kind == BodyKind::Json => return read_json(body, limits, form).await,
            Rest::Unread(body) => {
                let reader = Reader::new(limits.max_message, limits.max_skipped);
                Box::new(Stream { body, reader, nameless: None })
            }
            Rest::Events(stream) => stream,
            Rest::Read(text, is_altered) => {
                return Piece { events: messages(text, is_altered), end: Some(ReplyEnd::Whole) };
            }
        };
        let Some(chunk) = stream.body.next().await else {
            stream.body.give_back();
            return Piece::end(stream.nameless.map_or(ReplyEnd::Whole, ReplyEnd::Nameless));
        };
        let Ok(chunk) = chunk else { return Piece::end(ReplyEnd::Broken) };
        let mut events = Vec::new();
        let marks = &mut self.marks;
        let readable = stream.reader.feed(&chunk, |read| sort_streamed(read, &mut events, marks));
        drop(chunk);
        let nameless = sift(&mut events, false);
        stream.nameless = stream.nameless.take().or(nameless);
        if readable.is_err() {
            return Piece { events, end: Some(ReplyEnd::Broken) };
        }
        self.rest = Rest::Events(stream);
        Piece::of(events)
    }

    /// Reads to the end, or until it is not wanted any more, and puts each message into `outlet` as soon as it is there; not
    /// beyond `until`.
    pub async fn read(
        &mut self,
        limits: LinkLimits,
        outlet: &Outlet,
        until: tokio::time::Instant,
        is_wanted: impl Fn() -> bool,
    ) -> ReplyEnd {
        let read = async {
            loop {
                let Piece { events, end } = self.next(limits).await;
                if outlet.put_all(events).await.is_err() {
                    return ReplyEnd::Broken;
                }
                if let Some(end) = end {
                    return end;
                }
                // What has been put may have to be looked at first.
                tokio::task::yield_now().await;
                if !is_wanted() {
                    return ReplyEnd::Whole;
                }
            }
        };
        tokio::time::timeout_at(until, read).await.unwrap_or(ReplyEnd::Broken)
    }

    /// Of a JSON body that came with the status of an error: what it says, perhaps as the answer to this request. Read for as
    /// long as the rest of any acknowledgement, and of no more than `limit` bytes.
    pub(in crate::upstream) async fn said_of(self, request: &[u8], limit: usize) -> Said {
        let form = self.form;
        let Rest::Unread(mut body) = self.rest else { return Said::Nothing };
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
        let Ok(Some(text)) = tokio::time::timeout(DRAIN_PATIENCE, read).await else { return Said::Nothing };
        body.give_back();
        let (text, is_altered) = to_text(text);
        if text.len() > limit {
            return Said::Nothing;
        }
        if answers(&messages(text.clone(), is_altered), request) {
            return Said::Answer(Self { rest: Rest::Read(text, is_altered), form, marks: Marks::default() });
        }
        Said::Other(text)
    }
}

/// Reads what cannot be understood, so that its connection can be used again.
async fn pass_over(mut body: Body, limits: LinkLimits, form: Form) -> ReplyEnd {
    let mut passed = 0;
    while let Some(chunk) = body.next().await {
        let Ok(chunk) = chunk else { return ReplyEnd::Broken };
        passed += chunk.len();
        if passed > limits.max_message {
            break;
        }
    }
    body.give_back();
    if form.is_answer && passed > 0 { ReplyEnd::Unreadable } else { ReplyEnd::Whole }
}

async fn read_json(mut body: Body, limits: LinkLimits, form: Form) -> Piece {
    let mut text = Vec::new();
    let mut too_large: Option<(Scan, usize)> = None;
    while let Some(chunk) = body.next().await {
        let Ok(chunk) = chunk else { return Piece::end(ReplyEnd::Broken) };
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
    let mut end = ReplyEnd::Whole;
    match too_large {
        Some((scan, _)) => events.extend(scan.finish().into_iter().map(LinkEvent::TooLarge)),
        None => {
            let (text, is_altered) = to_text(text);
            if text.len() > limits.max_message {
                // Each byte that was no text has become three.
                events.extend(Scan::of(&text).into_iter().map(LinkEvent::TooLarge));
            } else {
                events = unsifted(text.clone(), is_altered);
            }
            if let Some(error) = sift(&mut events, true) {
                end = ReplyEnd::Nameless(error);
            } else if events.is_empty() && form.is_answer && is_unreadable(&text, is_altered) {
                end = ReplyEnd::Unreadable;
            }
        }
    }
    body.give_back();
    Piece { events, end: Some(end) }
}

/// What a body is.
enum Word {
    Message,
    /// The error in it, which names no request.
    Nameless(Bytes),
    /// No message, and nothing that could be told of one: many acknowledge with JSON of their own.
    Nothing,
}

impl Word {
    fn of(body: &[u8]) -> Self {
        match Head::parse(body).map(|head| head.kind) {
            Ok(Kind::Response { id: None, .. }) => {
                jsonrpc::error_without_id(body).map_or(Self::Message, Self::Nameless)
            }
            Ok(_) => Self::Message,
            Err(_) => match jsonrpc::error_without_id(body) {
                Some(error) => Self::Nameless(error),
                None if Scan::of(body) == [Told::Nothing] => Self::Nothing,
                None => Self::Message,
            },
        }
    }
}

/// Takes out the errors that name no request, and what is no message if that is `acknowledges`; the first of the errors.
fn sift(events: &mut Vec<LinkEvent>, acknowledges: bool) -> Option<Bytes> {
    let mut first = None;
    events.retain(|event| match message_of(event).map(|body| Word::of(body)) {
        Some(Word::Nameless(error)) => {
            first.get_or_insert(error);
            false
        }
        Some(Word::Nothing) => !acknowledges,
        Some(Word::Message) | None => true,
    });
    first
}

/// A body that holds no message: neither JSON of the server's own nor plain words, by which many acknowledge.
fn is_unreadable(text: &[u8], is_altered: bool) -> bool {
    let text = text.strip_prefix(BOM).unwrap_or(text).trim_ascii();
    if serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok() {
        return false;
    }
    // UTF-16 and the like; JSON that is cut off.
    is_altered || text.contains(&0) || matches!(text.first(), Some(b'{' | b'['))
}

/// The messages of a JSON body.
fn messages(text: Bytes, is_altered: bool) -> Vec<LinkEvent> {
    let mut events = unsifted(text, is_altered);
    events.retain(|event| message_of(event).is_none_or(|body| !matches!(Word::of(body), Word::Nothing)));
    events
}

/// What a JSON body holds. A byte order mark before it is none of it (RFC 8259, section 8.1).
fn unsifted(mut text: Bytes, is_altered: bool) -> Vec<LinkEvent> {
    if text.starts_with(BOM) {
        text.advance(BOM.len());
    }
    let mut events = Vec::new();
    sort_message(text, is_altered, &mut events);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_acknowledge_with_is_told_from_an_answer_that_cannot_be_read() {
        for (body, expected) in [
            (&b""[..], false),
            (b" \n", false),
            (b"Accepted", false),
            (b"\"Accepted\"", false),
            (b"null", false),
            (b"{}", false),
            (br#"{"status":"ok"}"#, false),
            (b"[]", false),
            (br#"{"jsonrpc":"2.0","resu"#, true),
            (b"[{\"a\":", true),
            (b"{\0\"\0", true),
            (b"\0{\0\"", true),
            (b"\xff\xfe{\0\"\0", true),
            (b"\x1f\x8b\x08\0", true),
        ] {
            let (text, is_altered) = to_text(body.to_vec());
            assert_eq!(is_unreadable(&text, is_altered), expected, "{body:?}");
        }
    }
}
