//! One connection with an event stream, read as WHATWG HTML section 9.2 says, with what that standard hides from its
//! users: comments, the first bytes, and how the connection ended.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use super::{
    http::{self, Request, Response},
    soon,
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
pub struct EventStream {
    reader: BufReader<TcpStream>,
    chunked: bool,
    parser: Parser,
    /// Headers of the answer.
    pub headers: Vec<(String, String)>,
    /// The first chunk of the body, as it came.
    pub first_chunk: Vec<u8>,
    chunks: usize,
    ended: Option<StreamEnd>,
}

impl EventStream {
    /// Sends the request and reads the head of the answer.
    ///
    /// # Errors
    /// No connection, or it broke before the head was complete.
    pub async fn request(addr: SocketAddr, request: &Request) -> io::Result<Opened> {
        let mut socket = TcpStream::connect(addr).await?;
        let request = request.clone().header("accept", "text/event-stream");
        socket.write_all(&request.to_bytes(addr, true)).await?;
        let mut reader = BufReader::with_capacity(64 << 10, socket);
        let (status, headers) = http::read_head(&mut reader).await?;
        let is_stream =
            http::header(&headers, "content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        let chunked = http::header(&headers, "transfer-encoding").is_some_and(|coding| coding.contains("chunked"));
        if status != 200 || !is_stream {
            let length = http::header(&headers, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            reader.read_exact(&mut body).await?;
            return Ok(Opened::Refused(Response { status, headers, body }));
        }
        let parser = Parser::default();
        Ok(Opened::Stream(Self { reader, chunked, parser, headers, first_chunk: Vec::new(), chunks: 0, ended: None }))
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

    /// What comes next, however long it takes. Cancel-safe only in that a cancelled stream must not be read on.
    pub async fn read(&mut self) -> Item {
        loop {
            if let Some(item) = self.parser.next() {
                return item;
            }
            if let Some(end) = self.ended {
                return Item::End(end);
            }
            match self.more().await {
                Ok(Some(bytes)) => {
                    self.chunks += 1;
                    if self.chunks == 1 {
                        self.first_chunk.clone_from(&bytes);
                    }
                    self.parser.feed(&bytes);
                }
                Ok(None) => self.ended = Some(StreamEnd::Clean),
                Err(_) => self.ended = Some(StreamEnd::Abrupt),
            }
        }
    }

    async fn more(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.chunked {
            return http::read_chunk(&mut self.reader).await;
        }
        let mut bytes = vec![0; 64 << 10];
        let count = self.reader.read(&mut bytes).await?;
        bytes.truncate(count);
        // Without chunks the end of the connection is all there is; it says nothing about how it was meant.
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(Some(bytes)) }
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
        self.parser.retry_ms
    }

    /// Ends the connection with RST.
    pub fn reset(self) {
        let socket = self.reader.into_inner();
        socket2::SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO)).expect("a socket option");
    }
}

/// The standard's parser.
#[derive(Debug, Default)]
struct Parser {
    buffer: Vec<u8>,
    /// The last byte taken was CR: an LF right after it belongs to it.
    after_cr: bool,
    items: std::collections::VecDeque<Item>,
    id: Option<String>,
    name: String,
    data: String,
    has_data: bool,
    retry_ms: Option<u64>,
}

impl Parser {
    fn next(&mut self) -> Option<Item> {
        self.items.pop_front()
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            if end == 0 && bytes[0] == b'\n' && self.after_cr && self.buffer.is_empty() {
                self.after_cr = false;
                bytes = &bytes[1..];
                continue;
            }
            self.buffer.extend_from_slice(&bytes[..end]);
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            let line = String::from_utf8(std::mem::take(&mut self.buffer)).expect("an event stream is UTF-8");
            self.take_line(&line);
        }
        if !bytes.is_empty() {
            self.after_cr = false;
            self.buffer.extend_from_slice(bytes);
        }
    }

    fn take_line(&mut self, line: &str) {
        if line.is_empty() {
            return self.dispatch();
        }
        if let Some(comment) = line.strip_prefix(':') {
            self.items.push_back(Item::Comment(comment.trim().to_owned()));
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
                self.has_data = true;
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "retry" => self.retry_ms = value.parse().ok().or(self.retry_ms),
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        let id = self.id.take();
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        if !std::mem::take(&mut self.has_data) {
            return;
        }
        data.pop();
        let name = if name.is_empty() { "message".to_owned() } else { name };
        self.items.push_back(Item::Event(Event { id, name, data }));
    }
}
