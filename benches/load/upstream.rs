//! An MCP server that is never the bottleneck: `initialize`, `tools/list`, `tools/call` of `echo` (brings back its
//! text) and `ping`, over HTTP+SSE at `/sse`, over Streamable HTTP at `/mcp` (answers as JSON) and `/streams/mcp` (as
//! event streams, without ids), without sessions (2026-07-28) at `/modern/mcp`, and as plain POSTs at `/rest`. `/sse/events?every=MS` is a stream that it fills by the clock.
//!
//! It looks for what it needs in the text of a message and never parses one; it knows the shape in which the load
//! generator, the router and the SDKs write theirs.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    rc::Rc,
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memmem;
use testkit::connection::invalid;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
};

use crate::{Fault, options::Upstream};

const BACKLOG: u32 = 4096;
const READ_SIZE: usize = 4096;

/// To a notification over Streamable HTTP.
const TAKEN: &[u8] = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";
const ENDED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nAccepted";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
/// As a router says it to nginx-edge.conf.
const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-MCP-Edge: held\r\n\
    Transfer-Encoding: chunked\r\n\r\n";

const INITIALIZED: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"load-upstream","version":"1"}}"#;
const TOOLS: &str = r#"{"tools":[{"name":"echo","description":"Brings back its text","inputSchema":{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]},"annotations":{"readOnlyHint":true,"idempotentHint":true}}]}"#;

/// The same in the version without sessions: for ten minutes, for everybody.
const MODERN_TOOLS: &str = r#"{"resultType":"complete","ttlMs":600000,"cacheScope":"public","tools":[{"name":"echo","description":"Brings back its text","inputSchema":{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]},"annotations":{"readOnlyHint":true,"idempotentHint":true}}]}"#;
const DISCOVERED: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"private"}"#;

#[derive(Default)]
struct Server {
    /// The open event streams by session, of HTTP+SSE.
    streams: RefCell<HashMap<u64, Rc<Stream>>>,
    /// The number of the next session, over either transport.
    next: Cell<u64>,
}

struct Stream {
    socket: TcpStream,
    /// What the socket would not take at once.
    unsent: RefCell<BytesMut>,
    woken: Notify,
}

impl Server {
    fn new_session(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }
}

impl Stream {
    fn new(socket: TcpStream) -> Self {
        Self { socket, unsent: RefCell::default(), woken: Notify::new() }
    }

    /// Writes now if the socket takes it.
    fn push(&self, frame: &[u8]) {
        let mut unsent = self.unsent.borrow_mut();
        // A socket that is broken is noticed by its reader.
        let written = if unsent.is_empty() { self.socket.try_write(frame).unwrap_or(0) } else { 0 };
        if written < frame.len() {
            unsent.extend_from_slice(&frame[written..]);
            self.woken.notify_one();
        }
    }

    /// Until the client goes away.
    async fn serve(&self) -> io::Result<()> {
        let mut nothing = [0; 16];
        loop {
            let blocked = !self.unsent.borrow().is_empty();
            tokio::select! {
                () = self.woken.notified() => {}
                readable = self.socket.readable() => {
                    readable?;
                    match self.socket.try_read(&mut nothing) {
                        Ok(0) => return Ok(()),
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                        _ => {}
                    }
                }
                writable = self.socket.writable(), if blocked => {
                    writable?;
                    let mut unsent = self.unsent.borrow_mut();
                    match self.socket.try_write(&unsent) {
                        Ok(written) => unsent.advance(written),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
}

pub async fn run(options: &Upstream) -> Result<(), Fault> {
    let address = std::net::SocketAddr::new(options.address, options.port);
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener: TcpListener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    println!("upstream: http://{address}/sse http://{address}/mcp");
    let server = Rc::new(Server::default());
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let server = Rc::clone(&server);
        tokio::task::spawn_local(async move {
            // A client that goes away in the middle of a request is no concern of the others.
            let _ = serve(&server, socket).await;
        });
    }
}

/// A request, as far as it matters.
struct Request {
    method: Method,
    path: Bytes,
    /// `Mcp-Session-Id`, if it is one of ours.
    session: Option<u64>,
    body: Bytes,
}

enum Method {
    Get,
    Post,
    Delete,
}

async fn serve(server: &Server, mut socket: TcpStream) -> io::Result<()> {
    let mut unread = BytesMut::new();
    let mut scratch = Vec::new();
    while let Some(request) = read_request(&mut socket, &mut unread).await? {
        let (path, query) = split(&request.path, b'?');
        match (&request.method, path) {
            (Method::Get, b"/sse/events") => {
                let every = std::str::from_utf8(query.strip_prefix(b"every=").unwrap_or_default());
                let every = every.ok().and_then(|digits| digits.parse().ok()).unwrap_or(0);
                return serve_events(socket, Duration::from_millis(every)).await;
            }
            (Method::Get, b"/sse") => return serve_sse(server, socket).await,
            (Method::Get, b"/mcp" | b"/streams/mcp") => return serve_listener(socket).await,
            (Method::Delete, b"/mcp" | b"/streams/mcp") => socket.write_all(ENDED).await?,
            (Method::Post, b"/mcp" | b"/streams/mcp") => {
                take(server, &request, path == b"/mcp", &mut scratch);
                socket.write_all(&scratch).await?;
            }
            (Method::Post, b"/modern/mcp") => {
                scratch.clear();
                match id_of(&request.body) {
                    Some(id) => write_modern(&mut scratch, &request.body, id),
                    None => scratch.extend_from_slice(TAKEN),
                }
                socket.write_all(&scratch).await?;
            }
            (Method::Post, b"/message") => {
                let session = std::str::from_utf8(query.strip_prefix(b"sessionId=").unwrap_or_default());
                let session = session.ok().and_then(|digits| digits.parse().ok()).unwrap_or(0);
                let Some(stream) = server.streams.borrow().get(&session).cloned() else {
                    socket.write_all(NOT_FOUND).await?;
                    continue;
                };
                socket.write_all(ACCEPTED).await?;
                if let Some(id) = id_of(&request.body) {
                    scratch.clear();
                    frame(&mut scratch, |answer| write_answer(answer, &request.body, id));
                    stream.push(&scratch);
                }
            }
            (Method::Post, b"/rest") => {
                scratch.clear();
                write_json(&mut scratch, &request.body, id_of(&request.body).unwrap_or(b"null"), "");
                socket.write_all(&scratch).await?;
            }
            _ => socket.write_all(NOT_FOUND).await?,
        }
    }
    Ok(())
}

/// The response to a POST over Streamable HTTP: JSON, or an event stream that ends with the answer.
fn take(server: &Server, request: &Request, is_json: bool, out: &mut Vec<u8>) {
    out.clear();
    let begins = value_of(&request.body, b"\"method\":") == Some(b"\"initialize\"");
    if !begins && request.session.is_none_or(|session| session >= server.next.get()) {
        return out.extend_from_slice(NOT_FOUND);
    }
    let Some(id) = id_of(&request.body) else { return out.extend_from_slice(TAKEN) };
    let session = if begins { format!("Mcp-Session-Id: {}\r\n", server.new_session()) } else { String::new() };
    if is_json {
        return write_json(out, &request.body, id, &session);
    }
    out.extend_from_slice(&STREAM[..STREAM.len() - 2]);
    out.extend_from_slice(session.as_bytes());
    out.extend_from_slice(b"\r\n");
    frame(out, |answer| write_answer(answer, &request.body, id));
    out.extend_from_slice(b"0\r\n\r\n");
}

/// A response of 2026-07-28, where results say what they are.
fn write_modern(out: &mut Vec<u8>, message: &[u8], id: &[u8]) {
    let told = match value_of(message, b"\"method\":") {
        Some(b"\"server/discover\"") => DISCOVERED,
        Some(b"\"tools/list\"") => MODERN_TOOLS,
        _ => return write_json(out, message, id, ""),
    };
    let mut answer = [br#"{"jsonrpc":"2.0","id":"#, id].concat();
    result(&mut answer, told);
    answer.push(b'}');
    write_whole(out, &answer, "");
}

/// A response with the answer to a request; `headers` are whole lines.
fn write_json(out: &mut Vec<u8>, message: &[u8], id: &[u8], headers: &str) {
    let mut answer = Vec::new();
    write_answer(&mut answer, message, id);
    write_whole(out, &answer, headers);
}

fn write_whole(out: &mut Vec<u8>, answer: &[u8], headers: &str) {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ");
    out.extend_from_slice(answer.len().to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(headers.as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(answer);
}

/// A session's own stream over Streamable HTTP, on which nothing is ever said.
async fn serve_listener(mut socket: TcpStream) -> io::Result<()> {
    socket.write_all(STREAM).await?;
    Stream::new(socket).serve().await
}

async fn serve_sse(server: &Server, mut socket: TcpStream) -> io::Result<()> {
    let session = server.new_session();
    let endpoint = format!("event: endpoint\ndata: /message?sessionId={session}\n\n");
    let first = [STREAM, format!("{:x}\r\n{endpoint}\r\n", endpoint.len()).as_bytes()].concat();
    socket.write_all(&first).await?;
    let stream = Rc::new(Stream::new(socket));
    server.streams.borrow_mut().insert(session, Rc::clone(&stream));
    let served = stream.serve().await;
    server.streams.borrow_mut().remove(&session);
    served
}

/// An event every so often, numbered as a router numbers them; without a time none but the first.
async fn serve_events(mut socket: TcpStream, every: Duration) -> io::Result<()> {
    const SESSION: &str = "0123456789abcdef0123456789abcdef.g.00000001";
    let endpoint = format!("id: {SESSION}.0\nretry: 500\nevent: endpoint\ndata: /message?sessionId=0\n\n");
    socket.write_all(&[STREAM, format!("{:x}\r\n{endpoint}\r\n", endpoint.len()).as_bytes()].concat()).await?;
    let stream = Stream::new(socket);
    let fill = async {
        if every.is_zero() {
            return std::future::pending().await;
        }
        // Streams are not in step.
        tokio::time::sleep(every.mul_f64(fastrand::f64())).await;
        let mut clock = tokio::time::interval(every);
        for number in 1_u64.. {
            clock.tick().await;
            let text = "x".repeat(64);
            let answer = format!(
                r#"{{"jsonrpc":"2.0","id":{number},"result":{{"content":[{{"type":"text","text":"{text}"}}],"isError":false}}}}"#
            );
            let event = format!("id: {SESSION}.{number}\nevent: message\ndata: {answer}\n\n");
            stream.push(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
        }
        Ok(())
    };
    tokio::select! {
        served = stream.serve() => served,
        filled = fill => filled,
    }
}

/// One `message` event as one chunk.
fn frame(out: &mut Vec<u8>, write_data: impl FnOnce(&mut Vec<u8>)) {
    /// Place for the size of the chunk in as many digits as any has.
    const SIZE: &[u8] = b"00000000\r\n";
    let begin = out.len();
    out.extend_from_slice(SIZE);
    out.extend_from_slice(b"event: message\ndata: ");
    write_data(out);
    out.extend_from_slice(b"\n\n");
    let size = format!("{:08x}", out.len() - begin - SIZE.len());
    out[begin..begin + size.len()].copy_from_slice(size.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn write_answer(out: &mut Vec<u8>, message: &[u8], id: &[u8]) {
    out.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    out.extend_from_slice(id);
    match value_of(message, b"\"method\":") {
        Some(b"\"tools/call\"") => {
            out.extend_from_slice(br#","result":{"content":[{"type":"text","text":"#);
            out.extend_from_slice(value_of(message, b"\"text\":").unwrap_or(b"\"\""));
            out.extend_from_slice(br#"}],"isError":false}}"#);
            return;
        }
        Some(b"\"initialize\"") => result(out, INITIALIZED),
        Some(b"\"tools/list\"") => result(out, TOOLS),
        Some(b"\"ping\"") => result(out, "{}"),
        _ => out.extend_from_slice(br#","error":{"code":-32601,"message":"unknown method"}"#),
    }
    out.push(b'}');
}

fn result(out: &mut Vec<u8>, result: &str) {
    out.extend_from_slice(b",\"result\":");
    out.extend_from_slice(result.as_bytes());
}

/// The id of a request; a message without a method is an answer, and answers are not answered.
fn id_of(message: &[u8]) -> Option<&[u8]> {
    value_of(message, b"\"method\":")?;
    value_of(message, b"\"id\":")
}

/// The string or number behind `name`, as it stands there.
fn value_of<'a>(message: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = message[memmem::find(message, name)? + name.len()..].trim_ascii_start();
    if rest.first() != Some(&b'"') {
        let end = rest.iter().position(|byte| matches!(byte, b',' | b'}' | b' ' | b'\r' | b'\n'))?;
        return Some(&rest[..end]);
    }
    let mut end = 1;
    loop {
        end += memchr::memchr(b'"', rest.get(end..)?)?;
        let backslashes = rest[..end].iter().rev().take_while(|byte| **byte == b'\\').count();
        end += 1;
        if backslashes % 2 == 0 {
            return Some(&rest[..end]);
        }
    }
}

/// `None`: the client has closed the connection.
async fn read_request(socket: &mut TcpStream, unread: &mut BytesMut) -> io::Result<Option<Request>> {
    let end = loop {
        if let Some(end) = memmem::find(unread, b"\r\n\r\n") {
            break end + 4;
        }
        unread.reserve(READ_SIZE);
        if socket.read_buf(unread).await? == 0 {
            return Ok(None);
        }
    };
    let head = unread.split_to(end).freeze();
    let length = number_in(&head, b"content-length")?.unwrap_or(0) as usize;
    while unread.len() < length {
        unread.reserve(length - unread.len());
        if socket.read_buf(unread).await? == 0 {
            return Ok(None);
        }
    }
    let body = unread.split_to(length).freeze();
    let (method, rest) = split(&head, b' ');
    let (path, _) = split(rest, b' ');
    let method = match method {
        b"GET" => Method::Get,
        b"DELETE" => Method::Delete,
        _ => Method::Post,
    };
    Ok(Some(Request { method, path: head.slice_ref(path), session: number_in(&head, b"mcp-session-id")?, body }))
}

/// The value of a header that holds a number; `name` is in lower case.
fn number_in(head: &[u8], name: &[u8]) -> io::Result<Option<u64>> {
    for line in head.split(|byte| *byte == b'\n') {
        let (other, value) = split(line, b':');
        if other.eq_ignore_ascii_case(name) {
            let number = std::str::from_utf8(value.trim_ascii()).ok().and_then(|digits| digits.parse().ok());
            return number.map(Some).ok_or_else(|| invalid("a header that is no number"));
        }
    }
    Ok(None)
}

/// What stands before and after the first `by`.
fn split(text: &[u8], by: u8) -> (&[u8], &[u8]) {
    match memchr::memchr(by, text) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &[]),
    }
}
