//! One connection with an event stream, read as WHATWG HTML section 9.2 says, with what that standard hides from its
//! users: comments, the first bytes, and how the connection ended.

use std::{io, net::SocketAddr};

use bytes::Bytes;

use crate::{
    connection::{Connection, Headers},
    events::{Answer, Events},
    http::{Request, Response},
    soon,
    sse::{Block, Piece},
};

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// After the last chunk.
    Clean,
    /// Without it: FIN or RST.
    Abrupt,
}

/// A dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The `id:` of this very block.
    pub id: Option<String>,
    /// Its name.
    pub name: String,
    /// Its data.
    pub data: String,
}

impl Event {
    /// It is how a stream of the router begins: with the endpoint (HTTP+SSE), or with a cursor alone (Streamable HTTP).
    pub fn is_opening(&self) -> bool {
        self.name == "endpoint" || self.data.is_empty()
    }
}

/// What a stream brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// An event.
    Event(Event),
    /// A comment line.
    Comment(String),
    /// Nothing more comes.
    End(StreamEnd),
}

/// Answer to the GET.
#[allow(clippy::large_enum_variant, reason = "one of them at a time")]
pub enum Opened {
    /// An event stream.
    Stream(EventStream),
    /// Something else.
    Refused(Response),
}

/// See module documentation.
#[derive(Debug)]
pub struct EventStream {
    events: Events,
    retry_ms: Option<u64>,
    ended: Option<StreamEnd>,
    /// Headers of the answer.
    pub headers: Headers,
}

impl EventStream {
    /// Sends the request and reads the head of the answer.
    ///
    /// # Errors
    /// No connection, or it broke before the head was complete.
    pub async fn request(addr: SocketAddr, request: &Request) -> io::Result<Opened> {
        Self::exchange(addr, &request.clone().header("accept", "text/event-stream")).await
    }

    /// As [`Self::request`], for any request, whose headers stay as they are.
    ///
    /// # Errors
    /// As there.
    pub async fn exchange(addr: SocketAddr, request: &Request) -> io::Result<Opened> {
        Ok(match Events::ask(addr, None, &request.to_bytes(addr, true)).await? {
            Answer::Stream(events, headers) => Opened::Stream(Self { events, retry_ms: None, ended: None, headers }),
            Answer::Other(status, headers, body) => Opened::Refused(Response { status, headers, body: body.to_vec() }),
        })
    }

    /// As [`Self::request`], for a GET that must open a stream.
    pub async fn open(addr: SocketAddr, request: &Request) -> Self {
        match soon("head of an event stream", Self::request(addr, request)).await {
            Ok(Opened::Stream(stream)) => stream,
            Ok(Opened::Refused(response)) => panic!("no stream: {} {}", response.status, response.text()),
            Err(error) => panic!("no stream at {addr}: {error}"),
        }
    }

    /// As [`Self::request`], for a GET that must be refused.
    pub async fn refusal(addr: SocketAddr, request: &Request) -> Response {
        match soon("head of an answer", Self::request(addr, request)).await {
            Ok(Opened::Stream(_)) => panic!("a stream was opened"),
            Ok(Opened::Refused(response)) => response,
            Err(error) => panic!("no answer at {addr}: {error}"),
        }
    }

    /// What comes next, however long it takes. May be dropped while it waits: nothing is lost.
    pub async fn read(&mut self) -> Item {
        if let Some(end) = self.ended {
            return Item::End(end);
        }
        let piece = self.events.next_piece().await;
        self.retry_ms = self.events.take_retry().or(self.retry_ms);
        let end = match piece {
            Ok(Some(Piece::Event(event))) => return Item::Event(event.into()),
            Ok(Some(Piece::Comment(text))) => return Item::Comment(utf8(&text).trim().to_owned()),
            Ok(None) => StreamEnd::Clean,
            Err(_) => StreamEnd::Abrupt,
        };
        self.ended = Some(end);
        Item::End(end)
    }

    /// What comes next, soon.
    pub async fn next(&mut self) -> Item {
        soon("something on an event stream", self.read()).await
    }

    /// The next event, comments left out.
    pub async fn event(&mut self) -> Event {
        loop {
            match self.next().await {
                Item::Event(event) => return event,
                Item::Comment(_) => {}
                Item::End(end) => panic!("the stream ended: {end:?}"),
            }
        }
    }

    /// How the stream ends; events before that are left out.
    pub async fn end(&mut self) -> StreamEnd {
        loop {
            if let Item::End(end) = self.next().await {
                return end;
            }
        }
    }

    /// Reconnection time that the stream has told, milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// The first chunk of the body, as it came.
    pub fn first_chunk(&self) -> &[u8] {
        &self.events.first_chunk
    }

    /// Ends the connection with RST.
    pub fn reset(self) {
        self.events.into_connection().reset();
    }

    /// Its connection.
    pub fn into_connection(self) -> Connection {
        self.events.into_connection()
    }
}

impl From<Block> for Event {
    fn from(block: Block) -> Self {
        let name = if block.name.is_empty() { "message".to_owned() } else { utf8(&block.name) };
        Self { id: block.id.as_ref().map(utf8), name, data: utf8(&block.data) }
    }
}

fn utf8(text: &Bytes) -> String {
    String::from_utf8(text.to_vec()).expect("an event stream is UTF-8")
}
