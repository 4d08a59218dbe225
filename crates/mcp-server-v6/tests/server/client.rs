//! A small MCP client over HTTP+SSE on a raw socket, so that tests see what really is on the wire: comments, the last
//! chunk or its absence, and the moment a connection ends.

use std::{collections::VecDeque, future::Future, net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use socket2::SockRef;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::{sleep, timeout},
};

/// More than anything here takes; a test that waits longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Awaits `future`, but not for ever.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Asks again and again until `probe` says yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut probe: impl FnMut() -> F) {
    soon(what, async {
        while !probe().await {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// What a stream brought.
#[derive(Debug, PartialEq)]
pub enum StreamItem {
    /// A dispatched event: its name and data.
    Event(String, String),
    /// A comment line.
    Comment(String),
    /// The connection ended: after the last chunk, or without it.
    End { clean: bool },
}

/// The `GET /sse` half of a client.
pub struct EventReader {
    socket: BufReader<TcpStream>,
    /// Bytes of the body that form no whole line yet.
    rest: Vec<u8>,
    lines: VecDeque<String>,
    event: String,
    data: Vec<String>,
}

impl EventReader {
    /// Opens a stream and checks the head of its response.
    pub async fn open(addr: SocketAddr) -> Self {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        let head = format!("GET /sse HTTP/1.1\r\nHost: {addr}\r\nAccept: text/event-stream\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut reader = Self {
            socket: BufReader::new(socket),
            rest: Vec::new(),
            lines: VecDeque::new(),
            event: String::new(),
            data: Vec::new(),
        };
        let mut head = String::new();
        while soon("head of the stream", reader.socket.read_line(&mut head)).await.unwrap() > 2 {}
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        reader
    }

    /// What comes next.
    pub async fn next(&mut self) -> StreamItem {
        soon("something on the stream", async {
            loop {
                while let Some(line) = self.lines.pop_front() {
                    if let Some(item) = self.take_line(line) {
                        return item;
                    }
                }
                match self.read_chunk().await {
                    Some(0) => return StreamItem::End { clean: true },
                    Some(_) => {}
                    None => return StreamItem::End { clean: false },
                }
            }
        })
        .await
    }

    fn take_line(&mut self, line: String) -> Option<StreamItem> {
        if let Some(comment) = line.strip_prefix(':') {
            return Some(StreamItem::Comment(comment.trim().to_owned()));
        }
        if let Some(name) = line.strip_prefix("event: ") {
            name.clone_into(&mut self.event);
        } else if let Some(data) = line.strip_prefix("data: ") {
            self.data.push(data.to_owned());
        } else {
            assert_eq!(line, "", "a line that is not known here");
            if !self.data.is_empty() {
                let data = std::mem::take(&mut self.data).join("\n");
                return Some(StreamItem::Event(std::mem::take(&mut self.event), data));
            }
        }
        None
    }

    /// Reads one chunk of the body; its size, or `None` if the connection ended instead.
    async fn read_chunk(&mut self) -> Option<usize> {
        let mut size = String::new();
        if self.socket.read_line(&mut size).await.ok()? == 0 {
            return None;
        }
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        self.socket.read_exact(&mut chunk).await.ok()?;
        // Only the new bytes are searched: a message of megabytes comes in hundreds of chunks.
        let searched = self.rest.len();
        self.rest.extend_from_slice(&chunk[..size]);
        if let Some(end) = chunk[..size].iter().rposition(|byte| *byte == b'\n') {
            let whole = self.rest.drain(..=searched + end).collect();
            self.lines.extend(String::from_utf8(whole).unwrap().lines().map(str::to_owned));
        }
        Some(size)
    }

    /// The next event, comments left out.
    pub async fn next_event(&mut self) -> (String, String) {
        loop {
            match self.next().await {
                StreamItem::Event(name, data) => return (name, data),
                StreamItem::Comment(_) => {}
                end @ StreamItem::End { .. } => panic!("the stream ended: {end:?}"),
            }
        }
    }
}

/// The `POST` half of a client; it may outlive the stream.
#[derive(Clone)]
pub struct Poster {
    http: awc::Client,
    pub url: String,
}

impl Poster {
    /// Posts a body; the status of the response.
    pub async fn post(&self, body: impl Into<bytes::Bytes>) -> u16 {
        let sent = self.http.post(&self.url).content_type("application/json").send_body(body.into());
        let mut response = soon("response to a POST", sent).await.unwrap();
        soon("body of a response", response.body()).await.unwrap();
        response.status().as_u16()
    }
}

/// An HTTP client whose deadlines are those of the tests.
pub fn http() -> awc::Client {
    awc::Client::builder().timeout(PATIENCE).finish()
}

/// A client with a live session.
pub struct Client {
    pub stream: EventReader,
    pub poster: Poster,
    last_id: i64,
}

impl Client {
    /// Opens a stream and learns its endpoint.
    pub async fn connect(addr: SocketAddr) -> Self {
        let mut stream = EventReader::open(addr).await;
        let (event, endpoint) = stream.next_event().await;
        assert_eq!(event, "endpoint");
        assert!(endpoint.starts_with("/mcp/message?sessionId="), "{endpoint}");
        let poster = Poster { http: http(), url: format!("http://{addr}{endpoint}") };
        Self { stream, poster, last_id: 0 }
    }

    /// As [`Self::connect`], initialized, as a client that offers sampling.
    pub async fn initialized(addr: SocketAddr) -> Self {
        let mut client = Self::connect(addr).await;
        let answer = client.request("initialize", initialize_params("2025-11-25")).await;
        assert!(answer["result"].is_object(), "{answer}");
        client.send(json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
        client
    }

    /// Posts a message that the server must accept.
    pub async fn send(&self, message: Value) {
        assert_eq!(self.poster.post(message.to_string()).await, 202, "{message}");
    }

    /// The next message on the stream.
    pub async fn next(&mut self) -> Value {
        let (event, data) = self.stream.next_event().await;
        assert_eq!(event, "message");
        serde_json::from_str(&data).unwrap()
    }

    /// Sends a request without waiting; its id.
    pub async fn start(&mut self, method: &str, params: Value) -> i64 {
        self.last_id += 1;
        self.send(json!({ "jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params })).await;
        self.last_id
    }

    /// Sends a request; the next message must be its answer.
    pub async fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.start(method, params).await;
        let answer = self.next().await;
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    /// As [`Self::request`]; the result.
    pub async fn result(&mut self, method: &str, params: Value) -> Value {
        let mut answer = self.request(method, params).await;
        assert!(answer.get("error").is_none(), "{answer}");
        answer["result"].take()
    }

    /// As [`Self::request`]; the code of the error.
    pub async fn error(&mut self, method: &str, params: Value) -> i64 {
        let answer = self.request(method, params).await;
        assert!(answer.get("result").is_none(), "{answer}");
        answer["error"]["code"].as_i64().unwrap()
    }

    /// Calls a tool; its result.
    pub async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        self.result("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    /// Calls a tool that succeeds; its text.
    pub async fn text(&mut self, tool: &str, arguments: Value) -> String {
        let result = self.call(tool, arguments).await;
        assert_eq!(result["isError"], false, "{result}");
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }

    /// Ends the stream's connection. What still is open of it is handed back.
    pub async fn disconnect(self, how: StreamDrop) -> (Poster, Option<TcpStream>) {
        let mut socket = self.stream.socket.into_inner();
        let rest = match how {
            StreamDrop::Close => None,
            StreamDrop::Reset => {
                SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
                None
            }
            StreamDrop::HalfClose => {
                socket.shutdown().await.unwrap();
                Some(socket)
            }
        };
        (self.poster, rest)
    }
}

/// How a client leaves its stream.
#[derive(Clone, Copy, Debug)]
pub enum StreamDrop {
    /// The socket is closed: FIN, or RST if something was unread.
    Close,
    /// RST.
    Reset,
    /// FIN, and the socket stays open for reading.
    HalfClose,
}

/// Parameters of `initialize`.
pub fn initialize_params(version: &str) -> Value {
    json!({
        "protocolVersion": version,
        "capabilities": { "sampling": {} },
        "clientInfo": { "name": "test", "version": "0" },
    })
}
