//! An MCP server inside the test whose every byte the test decides: event streams and answers to POSTs that no library
//! would write. What the test does not care for (`initialize`, `ping`, `tools/list`) is answered as usual.
//!
//! Its streams end with their connection, so that what is sent on them is what arrives. Sessions of the router itself are
//! told from clients' ones by the name in their `initialize`.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpStream, tcp::OwnedWriteHalf},
    sync::{Mutex as AsyncMutex, watch},
    task::AbortHandle,
};

use crate::{
    connection::Headers,
    eventually,
    incoming::{Incoming, read_request},
    listen,
};

/// One thing that the server does about a POST, in order.
#[derive(Debug, Clone)]
pub enum Step {
    /// Writes an event on the session's stream: one `data` line.
    Event(String),
    /// Writes these bytes on the session's stream.
    Raw(Vec<u8>),
    /// Waits until the test opens the gate.
    Wait(Gate),
    /// Acknowledges the POST.
    Accept,
    /// Answers the POST with this status line, these header lines and this body.
    Respond(&'static str, Vec<(&'static str, String)>, Vec<u8>),
    /// Writes these bytes on the connection of the POST.
    Bytes(Vec<u8>),
    /// Ends the connection of the POST.
    HangUp,
}

impl Step {
    /// A status without a body.
    pub fn status(status: &'static str) -> Self {
        Self::Respond(status, Vec::new(), Vec::new())
    }

    /// A body of this type.
    pub fn body(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::Respond("200 OK", vec![("content-type", content_type.to_owned())], body.into())
    }

    /// The usual answer to a request: this result.
    pub fn result(message: &Value, result: &Value) -> Self {
        Self::Event(json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }).to_string())
    }
}

/// Holds up [`Step::Wait`] until it is opened, for good.
#[derive(Debug, Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A closed one.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Lets everybody pass.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is open.
    pub async fn pass(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// What the server does about a GET.
#[derive(Debug, Clone)]
pub enum Get {
    /// Opens a session: these bytes, then an `endpoint` event with this data, in which `{sid}` is the session's number.
    Open(Vec<u8>, String),
    /// Answers with this status line and these header lines.
    Respond(&'static str, Vec<(&'static str, String)>),
}

impl Get {
    /// The usual one.
    pub fn open() -> Self {
        Self::Open(Vec::new(), "/message?sid={sid}".to_owned())
    }
}

/// A message as it came.
#[derive(Debug, Clone)]
pub struct Post {
    /// Number of the session, from 0.
    pub session: usize,
    /// Target of the request line.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: Headers,
    /// The body.
    pub json: Value,
}

#[derive(Default)]
struct State {
    posts: Vec<Post>,
    gets: Vec<(String, Headers)>,
    own: HashSet<usize>,
    streams: HashMap<usize, Arc<AsyncMutex<OwnedWriteHalf>>>,
}

type OnPost = Box<dyn Fn(&Post) -> Option<Vec<Step>> + Send + Sync>;
type OnGet = Box<dyn Fn(&str) -> Get + Send + Sync>;

struct Shared {
    state: Mutex<State>,
    on_post: OnPost,
    on_get: OnGet,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }
}

/// See the module's text.
pub struct OddUpstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl OddUpstream {
    /// A server that does this about POSTs; `None`: what is usual.
    pub async fn posts(on_post: impl Fn(&Post) -> Option<Vec<Step>> + Send + Sync + 'static) -> Self {
        Self::start(|_| Get::open(), on_post).await
    }

    /// A server that does this about GETs, and what is usual about POSTs.
    pub async fn gets(on_get: impl Fn(&str) -> Get + Send + Sync + 'static) -> Self {
        Self::start(on_get, |_| None).await
    }

    /// A server that does this about GETs and POSTs.
    pub async fn start(
        on_get: impl Fn(&str) -> Get + Send + Sync + 'static,
        on_post: impl Fn(&Post) -> Option<Vec<Step>> + Send + Sync + 'static,
    ) -> Self {
        let shared = Shared { state: Mutex::default(), on_post: Box::new(on_post), on_get: Box::new(on_get) };
        let shared = Arc::new(shared);
        let serving = Arc::clone(&shared);
        let (addr, accepting) = listen(move |socket| serve(socket, Arc::clone(&serving))).await;
        Self { addr, shared, accepting }
    }

    /// URL of its event stream.
    pub fn url(&self) -> String {
        format!("http://{}/sse", self.addr)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it was sent, in the order of arrival; `own`: on the router's own sessions, else on clients'.
    pub fn posts_of(&self, own: bool, method: &str) -> Vec<Post> {
        let state = self.shared.state();
        let of_kind = state.posts.iter().filter(|post| state.own.contains(&post.session) == own);
        of_kind.filter(|post| post.json["method"] == method).cloned().collect()
    }

    /// Everything on clients' sessions.
    pub fn client_posts(&self) -> Vec<Post> {
        let state = self.shared.state();
        state.posts.iter().filter(|post| !state.own.contains(&post.session)).cloned().collect()
    }

    /// Runs of a tool, on whatever session.
    pub fn runs(&self, tool: &str) -> usize {
        let is_run = |post: &&Post| post.json["method"] == "tools/call" && post.json["params"]["name"] == tool;
        self.shared.state().posts.iter().filter(is_run).count()
    }

    /// Waits until a tool has been run so often.
    pub async fn ran(&self, tool: &str, wanted: usize) {
        self.until(&format!("{wanted} runs of {tool}"), || self.runs(tool) >= wanted).await;
    }

    /// Waits for so many messages of a method on sessions of that kind.
    pub async fn wait_for(&self, own: bool, method: &str, wanted: usize) -> Vec<Post> {
        self.until(&format!("{wanted} {method}"), || self.posts_of(own, method).len() >= wanted).await;
        self.posts_of(own, method)
    }

    async fn until(&self, what: &str, reached: impl Fn() -> bool) {
        eventually(what, || std::future::ready(reached())).await;
    }

    /// Targets and headers of the GETs that came.
    pub fn gets_seen(&self) -> Vec<(String, Headers)> {
        self.shared.state().gets.clone()
    }

    /// Numbers of the clients' sessions whose stream is open.
    pub fn client_sessions(&self) -> Vec<usize> {
        let state = self.shared.state();
        let mut open: Vec<usize> =
            state.streams.keys().filter(|session| !state.own.contains(session)).copied().collect();
        open.sort_unstable();
        open
    }

    /// How many sessions clients have had.
    pub fn initialized_by_clients(&self) -> usize {
        self.posts_of(false, "initialize").len()
    }

    /// Writes bytes on a session's stream.
    pub async fn write(&self, session: usize, bytes: &[u8]) {
        write_stream(&self.shared, session, bytes).await;
    }

    /// Ends a session's stream.
    pub async fn end_stream(&self, session: usize) {
        let stream = self.shared.state().streams.remove(&session);
        if let Some(stream) = stream {
            let _ = stream.lock().await.shutdown().await;
        }
    }
}

impl Drop for OddUpstream {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.state().streams.clear();
    }
}

async fn write_stream(shared: &Shared, session: usize, bytes: &[u8]) {
    let stream = shared.state().streams.get(&session).cloned();
    if let Some(stream) = stream {
        let _ = stream.lock().await.write_all(bytes).await;
    }
}

async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    let (reader, mut writer) = socket.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let Some(Incoming { method, path, headers, body }) = read_request(&mut reader).await else { return };
        if method == "GET" {
            match open(&shared, &path, headers) {
                Err(answer) => {
                    if writer.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok((session, opening)) => {
                    let writer = Arc::new(AsyncMutex::new(writer));
                    let locked = Arc::clone(&writer);
                    let mut first = locked.lock().await;
                    shared.state().streams.insert(session, writer);
                    let _ = first.write_all(&opening).await;
                    drop(first);
                    // Until the router ends the connection.
                    let _ = reader.read(&mut [0]).await;
                    shared.state().streams.remove(&session);
                    return;
                }
            }
        }
        let session = path.rsplit_once("sid=").and_then(|(_, number)| number.parse().ok()).unwrap_or(usize::MAX);
        let Ok(json) = serde_json::from_slice::<Value>(&body) else { return };
        let post = Post { session, path, headers, json };
        {
            let mut state = shared.state();
            if post.json["params"]["clientInfo"]["name"] == "mcp-router" {
                state.own.insert(session);
            }
            state.posts.push(post.clone());
        }
        let steps = (shared.on_post)(&post).unwrap_or_else(|| usual(&post.json));
        for step in steps {
            let answer = match step {
                Step::Event(data) => {
                    write_stream(&shared, session, format!("event: message\ndata: {data}\n\n").as_bytes()).await;
                    continue;
                }
                Step::Raw(bytes) => {
                    write_stream(&shared, session, &bytes).await;
                    continue;
                }
                Step::Wait(gate) => {
                    gate.pass().await;
                    continue;
                }
                Step::HangUp => return,
                Step::Bytes(bytes) => bytes,
                Step::Accept => b"HTTP/1.1 202 Accepted\r\ncontent-length: 8\r\n\r\nAccepted".to_vec(),
                Step::Respond(status, headers, body) => {
                    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                    let mut answer =
                        format!("HTTP/1.1 {status}\r\n{lines}content-length: {}\r\n\r\n", body.len()).into_bytes();
                    answer.extend(body);
                    answer
                }
            };
            if writer.write_all(&answer).await.is_err() {
                return;
            }
        }
    }
}

fn open(shared: &Shared, path: &str, headers: Headers) -> Result<(usize, Vec<u8>), String> {
    let session = {
        let mut state = shared.state();
        state.gets.push((path.to_owned(), headers));
        state.gets.len() - 1
    };
    match (shared.on_get)(path) {
        Get::Respond(status, headers) => {
            let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            Err(format!("HTTP/1.1 {status}\r\n{lines}content-length: 0\r\n\r\n"))
        }
        Get::Open(before, endpoint) => {
            let mut opening = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n".to_vec();
            opening.extend(before);
            let endpoint = endpoint.replace("{sid}", &session.to_string());
            opening.extend(format!("event: endpoint\ndata: {endpoint}\n\n").bytes());
            Ok((session, opening))
        }
    }
}

/// What any server does. `read` only reads, `write` does not.
pub fn usual(message: &Value) -> Vec<Step> {
    let result = match message["method"].as_str() {
        Some(_) if message.get("id").is_none() => return vec![Step::Accept],
        Some("initialize") => json!({
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": { "tools": { "listChanged": true }, "logging": {} },
            "serverInfo": { "name": "odd", "version": "0" },
        }),
        Some("tools/list") => json!({ "tools": [
            { "name": "read", "inputSchema": { "type": "object" }, "annotations": { "readOnlyHint": true } },
            { "name": "write", "inputSchema": { "type": "object" } },
        ] }),
        Some("tools/call") => json!({ "content": [{ "type": "text", "text": message["params"]["name"] }] }),
        Some(_) => json!({}),
        None => return vec![Step::Accept],
    };
    vec![Step::Accept, Step::result(message, &result)]
}
