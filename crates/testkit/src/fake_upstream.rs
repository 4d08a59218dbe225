//! An MCP server inside the test, over HTTP+SSE: it shows every request as it came, byte for byte, and answers as the
//! test tells it to.
//!
//! The router's own sessions (health checks, REST) are told from clients' ones by the name in their `initialize`; only
//! the latter are shown.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    sync::{Notify, mpsc},
    task::AbortHandle,
};

use crate::{
    PATIENCE,
    connection::Headers,
    incoming::{Incoming, read_request},
    listen,
};

/// Messages that may wait for one stream: few, so that a test feels it when the router reads no further.
const QUEUE: usize = 16;

/// What the server does with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Answers with this result.
    Result(Value),
    /// Sends this text as the event's data, whatever it is.
    Raw(String),
    /// Never answers.
    Silence,
    /// Closes the connection of the POST without a word: it may have been executed or not.
    HangUp,
    /// Leaves the POST without a word until it is told to go on, and then does this.
    After(Arc<Notify>, Box<Reply>),
}

/// A message that a client's session was sent.
#[derive(Debug, Clone)]
pub struct Received {
    /// Number of the upstream session, from 0.
    pub session: usize,
    /// Headers of the POST, names in lower case.
    pub headers: Headers,
    /// The body as it came.
    pub body: Vec<u8>,
}

impl Received {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the router forwards JSON")
    }
}

type Answers = Box<dyn Fn(&Value) -> Reply + Send + Sync>;

#[derive(Default)]
struct State {
    received: Vec<Received>,
    streams: HashMap<usize, mpsc::Sender<String>>,
    sessions: usize,
    own: std::collections::HashSet<usize>,
    get_headers: HashMap<usize, Headers>,
    swallowed: Option<String>,
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
    answers: Answers,
    framing: Framing,
}

/// How the server marks the ends of its bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// Streams in chunks, acknowledgements with their length.
    #[default]
    Usual,
    /// Everything by the end of its connection, as in HTTP/1.0.
    Close,
    /// Everything in chunks.
    Chunks,
    /// An acknowledgement without a body.
    Empty,
    /// Informational responses before each acknowledgement.
    Early,
    /// HTTP/1.0, which closes its connections after an answer with a length, without saying so.
    Old,
}

impl Framing {
    fn acknowledgement(self, status: &str) -> String {
        match self {
            Self::Usual => format!("HTTP/1.1 {status}\r\ncontent-length: 8\r\n\r\nAccepted"),
            Self::Close => format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\nAccepted"),
            Self::Chunks => {
                format!("HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n\r\n3\r\nAcc\r\n5\r\nepted\r\n0\r\n\r\n")
            }
            Self::Empty => format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"),
            Self::Early => format!(
                "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n\
                 HTTP/1.1 {status}\r\ncontent-length: 8\r\n\r\nAccepted"
            ),
            Self::Old => format!("HTTP/1.0 {status}\r\ncontent-length: 8\r\n\r\nAccepted"),
        }
    }

    fn chunk(self, text: &str) -> String {
        match self {
            Self::Close => text.to_owned(),
            _ => format!("{:x}\r\n{text}\r\n", text.len()),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }
}

/// See module documentation.
pub struct FakeUpstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl FakeUpstream {
    /// A server that answers `tools/call` with an empty result.
    pub async fn start() -> Self {
        Self::answering(|_| Reply::Result(json!({ "content": [] }))).await
    }

    /// A server that answers what is neither `initialize` nor `ping` by `answers`.
    pub async fn answering(answers: impl Fn(&Value) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch(answers, Framing::default()).await
    }

    /// A server that answers `tools/call` with an empty result and frames its bodies so.
    pub async fn framing(framing: Framing) -> Self {
        Self::launch(|_| Reply::Result(json!({ "content": [] })), framing).await
    }

    async fn launch(answers: impl Fn(&Value) -> Reply + Send + Sync + 'static, framing: Framing) -> Self {
        let (state, changed) = (Mutex::default(), Notify::new());
        let shared = Arc::new(Shared { state, changed, answers: Box::new(answers), framing });
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

    /// What clients' sessions were sent, in the order of arrival.
    pub fn received(&self) -> Vec<Received> {
        let state = self.shared.state();
        state.received.iter().filter(|received| !state.own.contains(&received.session)).cloned().collect()
    }

    /// What was sent of one method.
    pub fn received_of(&self, method: &str) -> Vec<Value> {
        self.received().iter().map(Received::json).filter(|message| message["method"] == method).collect()
    }

    /// How many of one method have come, those of the router's own sessions included.
    pub fn received_by_anyone(&self, method: &str) -> usize {
        let state = self.shared.state();
        state.received.iter().filter(|received| received.json()["method"] == method).count()
    }

    /// Waits until `wanted` messages of one method have come; all of them.
    pub async fn wait_for(&self, method: &str, wanted: usize) -> Vec<Value> {
        let waiting = async {
            loop {
                let changed = self.shared.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let received = self.received_of(method);
                if received.len() >= wanted {
                    return received;
                }
                changed.await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, waiting).await;
        found.unwrap_or_else(|_| panic!("{wanted} {method} at the upstream, it has {}", self.received_of(method).len()))
    }

    /// Numbers of the clients' sessions that are open.
    pub fn open_sessions(&self) -> Vec<usize> {
        let state = self.shared.state();
        let mut open: Vec<usize> =
            state.streams.keys().copied().filter(|session| !state.own.contains(session)).collect();
        open.sort_unstable();
        open
    }

    /// Headers of the GET that opened a session.
    pub fn get_headers(&self, session: usize) -> Headers {
        self.shared.state().get_headers.get(&session).cloned().unwrap_or_default()
    }

    /// Sends a message on a session's stream.
    pub async fn send(&self, session: usize, message: &Value) {
        self.send_raw(session, message.to_string()).await;
    }

    /// Sends any text as an event's data.
    pub async fn send_raw(&self, session: usize, text: String) {
        let stream = self.shared.state().streams.get(&session).cloned();
        stream.expect("an open session").send(text).await.expect("an open stream");
    }

    /// POSTs of this method are lost from now on, as on a link that is dead in one direction: they do not come, and nobody
    /// says so. `None`: no more.
    pub fn swallow(&self, method: Option<&str>) {
        self.shared.state().swallowed = method.map(str::to_owned);
    }

    /// Ends a session's stream.
    pub fn drop_session(&self, session: usize) {
        self.shared.state().streams.remove(&session);
    }
}

impl Drop for FakeUpstream {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.state().streams.clear();
    }
}

async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    let mut reader = BufReader::new(socket);
    loop {
        let Some(Incoming { method, path, headers, body }) = read_request(&mut reader).await else { return };
        if method == "GET" {
            return stream(reader, headers, &shared).await;
        }
        let Some(status) = take(&shared, &path, headers, body).await else { return };
        let answer = shared.framing.acknowledgement(status);
        let closes = matches!(shared.framing, Framing::Close | Framing::Old);
        if reader.get_mut().write_all(answer.as_bytes()).await.is_err() || closes {
            return;
        }
    }
}

async fn stream(mut reader: BufReader<TcpStream>, headers: Headers, shared: &Shared) {
    let (sender, mut queue) = mpsc::channel::<String>(QUEUE);
    let session = {
        let mut state = shared.state();
        let session = state.sessions;
        state.sessions += 1;
        state.streams.insert(session, sender);
        state.get_headers.insert(session, headers);
        session
    };
    shared.changed.notify_waiters();
    let framing = shared.framing;
    let head = match framing {
        Framing::Close => "HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n",
        _ => "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    };
    let endpoint = framing.chunk(&format!("event: endpoint\ndata: /message?sessionId={session}\n\n"));
    let mut alive = reader.get_mut().write_all(format!("{head}{endpoint}").as_bytes()).await.is_ok();
    let mut byte = [0];
    while alive {
        tokio::select! {
            text = queue.recv() => match text {
                Some(text) => {
                    let lines = text.replace('\n', "\ndata: ");
                    let event = framing.chunk(&format!("event: message\ndata: {lines}\n\n"));
                    alive = reader.get_mut().write_all(event.as_bytes()).await.is_ok();
                }
                None => alive = false,
            },
            // The router has ended the connection.
            _ = reader.read(&mut byte) => alive = false,
        }
    }
    shared.state().streams.remove(&session);
    shared.changed.notify_waiters();
}

/// Takes a message; the rest of the status line, or `None` to hang up.
async fn take(shared: &Shared, path: &str, headers: Headers, body: Vec<u8>) -> Option<&'static str> {
    const ACCEPTED: Option<&str> = Some("202 Accepted");
    let session = path.rsplit_once("sessionId=").and_then(|(_, session)| session.parse::<usize>().ok());
    let Some(session) = session else { return Some("404 Not Found") };
    let Ok(message) = serde_json::from_slice::<Value>(&body) else { return Some("400 Bad Request") };
    let is_lost = shared.state().swallowed.as_deref().is_some_and(|method| message["method"] == method);
    if is_lost {
        std::future::pending::<()>().await;
    }
    let stream = {
        let mut state = shared.state();
        if message["params"]["clientInfo"]["name"] == "mcp-router" {
            state.own.insert(session);
        }
        state.received.push(Received { session, headers, body });
        state.streams.get(&session).cloned()
    };
    shared.changed.notify_waiters();
    let Some(stream) = stream else { return Some("404 Not Found") };
    let (Some(id), Some(method)) = (message.get("id"), message["method"].as_str()) else { return ACCEPTED };
    let mut reply = match method {
        "initialize" => Reply::Result(json!({
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": { "tools": { "listChanged": true }, "logging": {} },
            "serverInfo": { "name": "fake", "version": "0" },
        })),
        "ping" => Reply::Result(json!({})),
        _ => (shared.answers)(&message),
    };
    // Not held while it waits: the session may be dropped meanwhile.
    drop(stream);
    while let Reply::After(told, then) = reply {
        told.notified().await;
        reply = *then;
    }
    let text = match reply {
        Reply::Result(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string(),
        Reply::Raw(text) => text,
        Reply::Silence => return ACCEPTED,
        Reply::HangUp => return None,
        Reply::After(..) => unreachable!("the wait is over"),
    };
    let stream = shared.state().streams.get(&session).cloned()?;
    let _ = stream.send(text).await;
    ACCEPTED
}
