//! What comes back from an upstream session, and its back-pressure: a link, or the answer to a POST, puts what it has read
//! into an [`Outlet`], which leads to the actor that asked for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::prelude::*;
use actix_http::{Uri, header::HeaderValue};
use bytes::Bytes;
use tokio::sync::Notify;

use super::{choice::Spoken, endpoint::Endpoint};
use crate::{
    protocol::{jsonrpc, scan::Told, sse_reader::Read},
    settings::UpstreamSettings,
};

/// Time limits and bounds of a link.
#[derive(Debug, Clone, Copy)]
pub struct LinkLimits {
    /// For the connection, the response head and the `endpoint` event together.
    pub connect: Duration,
    /// Largest message.
    pub max_message: usize,
    /// Most bytes of a larger one that are passed over.
    pub max_skipped: usize,
}

impl From<&UpstreamSettings> for LinkLimits {
    fn from(settings: &UpstreamSettings) -> Self {
        Self {
            connect: settings.connect_timeout,
            max_message: settings.max_message,
            max_skipped: settings.max_skipped.max(settings.max_message),
        }
    }
}

/// Where an upstream session takes messages, as its transport has told. It may pass between threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// HTTP+SSE (2024-11-05): the URL of the `endpoint` event.
    Sse(Uri),
    /// Streamable HTTP (2025-03-26 to 2025-11-25): the endpoint's own URL. The session begins with `initialize`.
    Streamable,
    /// Streamable HTTP without sessions (2026-07-28): the same. What a session would be is kept here.
    Modern,
}

impl Address {
    /// The transport that it is of.
    pub(super) fn spoken(&self) -> Spoken {
        match self {
            Self::Sse(_) => Spoken::Sse,
            Self::Streamable => Spoken::Streamable,
            Self::Modern => Spoken::Modern,
        }
    }
}

/// What a link reports to the actor that asked for it.
#[derive(Debug)]
pub enum LinkEvent {
    /// The upstream's session is open, and takes messages here.
    Opened(Address),
    /// A JSON-RPC message from the upstream.
    Message(Bytes),
    /// The same, of which some bytes were no text and have been replaced by U+FFFD.
    Altered(Bytes),
    /// A message larger than the limit has been passed over; what could be told of it.
    TooLarge(Told),
    /// The stream can be resumed behind this event id, which is that of the message that follows at once, or of none
    /// (Streamable HTTP).
    Cursor(Arc<str>),
    /// The request can be gone on with by this, whoever has it: nothing of it runs at the server, which has asked something
    /// (MCP 2026-07-28). `with_next`: it counts once the message that follows is on record.
    Waits {
        /// For [`super::resumed::resume`].
        state: Arc<str>,
        /// See above.
        with_next: bool,
    },
    /// It is about to run again: it can be gone on with no more, which must be on record before more is read.
    GoesOn,
    /// The link is gone; nothing follows.
    Closed(LinkError),
}

/// By what something has come from an upstream session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// Its own stream.
    Stream,
    /// The answer to the POST with this number, which its sender gave.
    Post(u64),
}

/// [`LinkEvent`] of the link with this number. Precondition: none; a receiver ignores links it has given up.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LinkNotice {
    /// Number that the opener gave.
    pub link: u64,
    /// By what it has come.
    pub via: Via,
    /// What happened.
    pub event: LinkEvent,
    /// Held until the receiver has taken the message.
    pub charge: Option<Charge>,
}

/// Where a link, or the answer to a POST, puts what it has read.
#[derive(Debug)]
pub struct Outlet {
    /// Number for the notices.
    pub link: u64,
    /// What it reads.
    pub via: Via,
    /// Who gets them.
    pub to: Recipient<LinkNotice>,
    /// Stops the reading while the receiver is behind.
    pub gate: Arc<Gate>,
}

impl Outlet {
    /// Waits while too much waits already, and while the receiver's mailbox is full.
    async fn put(&self, event: LinkEvent) -> Result<(), LinkError> {
        let charge = match &event {
            LinkEvent::Message(body) | LinkEvent::Altered(body) => {
                self.gate.wait().await;
                Some(Charge::new(&self.gate, body.len()))
            }
            LinkEvent::Opened(_)
            | LinkEvent::TooLarge(_)
            | LinkEvent::Cursor(_)
            | LinkEvent::Waits { .. }
            | LinkEvent::GoesOn
            | LinkEvent::Closed(_) => None,
        };
        let gone = || LinkError::Lost("nobody listens any more".to_owned());
        match self.to.try_send(LinkNotice { link: self.link, via: self.via, event, charge }) {
            Ok(()) => Ok(()),
            Err(SendError::Full(notice)) => self.to.send(notice).await.map_err(|_| gone()),
            Err(SendError::Closed(_)) => Err(gone()),
        }
    }

    /// The session can be begun: nothing has to be connected for it.
    pub(super) async fn open_at_once(self, address: Address) {
        // A receiver that is gone has no use for it.
        let _ = self.put(LinkEvent::Opened(address)).await;
    }

    /// As [`Self::put`], in order.
    pub(super) async fn put_all(&self, events: Vec<LinkEvent>) -> Result<(), LinkError> {
        for event in events {
            self.put(event).await?;
        }
        Ok(())
    }
}

/// Adds what a piece of an event stream holds for the router. `endpoint`: what becomes of that event.
pub(super) fn sort_event(read: Read<'_>, events: &mut Vec<LinkEvent>, endpoint: impl FnOnce(&[u8])) {
    match read {
        Read::Event { name: "endpoint", data, .. } => endpoint(&data),
        Read::Event { name: "message", data, is_altered } => sort_message(data, is_altered, events),
        // Heartbeats and the like of other servers; where to resume, which HTTP+SSE has not.
        Read::Event { .. } | Read::Id(_) | Read::Retry(_) => {}
        Read::TooLarge(told) => events.push(LinkEvent::TooLarge(told)),
    }
}

/// What an event stream says of its own resumption (Streamable HTTP).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// The last event id, if it can stand in a header.
    pub cursor: Option<Arc<str>>,
    /// How long to wait before the stream is asked for again.
    pub retry: Option<Duration>,
}

/// Adds what a piece of a stream of Streamable HTTP holds for the router: the id of an event stands before its message, of
/// an array before the last one, so that whoever notes it has the others.
pub(super) fn sort_streamed(read: Read<'_>, events: &mut Vec<LinkEvent>, marks: &mut Marks) {
    match read {
        Read::Id(id) => {
            marks.cursor = (!id.is_empty() && HeaderValue::from_bytes(id.as_bytes()).is_ok()).then(|| id.into());
            events.extend(marks.cursor.clone().map(LinkEvent::Cursor));
        }
        Read::Retry(pause) => marks.retry = Some(Duration::from_millis(pause)),
        read => {
            let before = events.len();
            sort_event(read, events, |_| ());
            let is_array = events.len() > before + 1;
            if is_array && before.checked_sub(1).is_some_and(|at| matches!(events[at], LinkEvent::Cursor(_))) {
                let last = events.len() - 1;
                events[before - 1..last].rotate_left(1);
            }
        }
    }
}

/// Adds a message, or each message of an array (MCP 2025-03-26).
pub(super) fn sort_message(data: Bytes, is_altered: bool, events: &mut Vec<LinkEvent>) {
    let event = if is_altered { LinkEvent::Altered } else { LinkEvent::Message };
    match jsonrpc::split_batch(&data) {
        Some(messages) => events.extend(messages.into_iter().map(event)),
        None if data.is_empty() => {}
        None => events.push(event(data)),
    }
}

/// Bytes that a [`Gate`] counts for as long as this lives.
#[derive(Debug)]
pub struct Charge {
    gate: Arc<Gate>,
    bytes: usize,
}

impl Charge {
    fn new(gate: &Arc<Gate>, bytes: usize) -> Self {
        gate.add(bytes);
        Self { gate: Arc::clone(gate), bytes }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.gate.sub(self.bytes);
    }
}

/// Why a link could not be opened, or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No connection, or not within the time limit.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// It answered, but not with an MCP event stream.
    #[error("not an MCP event stream: {0}")]
    Protocol(String),
    /// It was open and has ended.
    #[error("the upstream closed the stream: {0}")]
    Lost(String),
}

impl LinkError {
    /// It speaks against the endpoint: no MCP server can be reached there.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Protocol(_))
    }
}

/// Back-pressure between a link and the actor behind it: the link stops reading while too much waits in the actor's
/// mailbox ([`Charge`]) or is unwritten. MEM-1.
#[derive(Debug)]
pub struct Gate {
    used: AtomicUsize,
    limit: usize,
    opened: Notify,
}

impl Gate {
    /// `limit`: bytes that may wait.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit, opened: Notify::new() })
    }

    /// `bytes` more are waiting.
    pub fn add(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    /// `bytes` are waiting no more.
    pub fn sub(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        self.opened.notify_one();
    }

    /// Resolves when there is room.
    pub async fn wait(&self) {
        while self.used.load(Ordering::Acquire) >= self.limit {
            self.opened.notified().await;
        }
    }
}

/// Keeps a link open; dropping it ends the link (and its TCP connection) at once.
#[derive(Debug)]
pub struct LinkHandle {
    task: Option<tokio::task::AbortHandle>,
    counted: Option<Arc<Endpoint>>,
}

impl LinkHandle {
    /// Ties the task to the handle; `counted`: the endpoint whose session count it is part of while it lives.
    pub fn new(task: tokio::task::AbortHandle, counted: Option<Arc<Endpoint>>) -> Self {
        if let Some(endpoint) = &counted {
            endpoint.sessions.fetch_add(1, Ordering::Relaxed);
        }
        Self { task: Some(task), counted }
    }

    /// The task has done all that it does: its memory is not kept for the handle's sake.
    pub fn is_done(&mut self) {
        self.task = None;
    }
}

impl Drop for LinkHandle {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        if let Some(endpoint) = &self.counted {
            endpoint.sessions.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::sse_reader::Reader;

    #[test]
    fn the_id_of_an_event_stands_before_its_last_message() {
        let text = "id: p\ndata: \n\nretry: 700\nid: 1\ndata: {\"a\":1}\n\nid: 2\ndata: [{\"b\":1},{\"c\":1}]\n\n\
                    data: {\"d\":1}\n\nid: x\u{7f}\n\nid\n\n";
        let (mut events, mut marks) = (Vec::new(), Marks::default());
        let mut cursors = Vec::new();
        Reader::new(100, 100)
            .feed(text.as_bytes(), |read| {
                sort_streamed(read, &mut events, &mut marks);
                cursors.push(marks.cursor.clone());
            })
            .unwrap();
        let told = events.iter().map(|event| match event {
            LinkEvent::Cursor(id) => format!("id {id}"),
            LinkEvent::Message(body) => String::from_utf8_lossy(body).into_owned(),
            other => format!("{other:?}"),
        });
        assert_eq!(
            told.collect::<Vec<_>>(),
            ["id p", "id 1", r#"{"a":1}"#, r#"{"b":1}"#, "id 2", r#"{"c":1}"#, r#"{"d":1}"#]
        );
        assert_eq!(marks, Marks { cursor: None, retry: Some(Duration::from_millis(700)) }, "none can be sent");
        assert!(cursors.contains(&Some("2".into())));
    }
}
