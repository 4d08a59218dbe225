//! An MCP server of Streamable HTTP inside the test: it shows every request as it came, and does what the test tells it to
//! about each call. It keeps the events of its streams, and resumes them by their ids.
//!
//! Sessions of the router itself are told from clients' ones by the name in their `initialize`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::AbortHandle,
};

use crate::{
    connection::{Headers, header},
    eventually,
    incoming::{Incoming, read_request},
    listen,
    odd_upstream::Gate,
};

/// One thing that the server does about a request, in order.
#[derive(Debug, Clone)]
pub enum Act {
    /// Answers the POST with this message as JSON.
    Json(Value),
    /// Answers the POST with this status line, these header lines and this body.
    Respond(&'static str, Vec<(&'static str, String)>, String),
    /// Writes an event that is only an id: the priming event of MCP. The first event of any kind begins the event stream.
    Prime,
    /// Writes an event with an id.
    Event(Value),
    /// Writes an event without an id: nobody can resume behind it.
    Plain(Value),
    /// Writes these lines.
    Raw(String),
    /// Ends the connection in an orderly way; what follows is for those who resume the stream.
    Close,
    /// The same, without the last chunk.
    Break,
    /// Waits until the test opens the gate.
    Wait(Gate),
}

impl Act {
    /// The answer to this request as an event.
    pub fn result(request: &Value, result: &Value) -> Self {
        Self::Event(response(request, result))
    }
}

/// A response to this request.
pub fn response(request: &Value, result: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": request["id"], "result": result })
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `POST`, `GET` or `DELETE`.
    pub method: String,
    /// Headers, names in lower case.
    pub headers: Headers,
    /// The body; null if there is none.
    pub json: Value,
}

impl Seen {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The session that it names.
    pub fn session(&self) -> Option<&str> {
        self.header("mcp-session-id")
    }
}

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Manner {
    /// Target of its one URL.
    pub path: &'static str,
    /// It names sessions.
    pub has_sessions: bool,
    /// It has a stream for what is related to no request; else 405.
    pub has_stream: bool,
    /// It ends each resumed stream after so many events.
    pub hop: Option<usize>,
    /// Resources can be subscribed to, once the test opens this gate.
    pub subscribes: Option<Gate>,
    /// What it answers for a session that it does not know.
    pub unknown_session: (&'static str, &'static str),
}

impl Default for Manner {
    fn default() -> Self {
        let body = r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}"#;
        let unknown_session = ("404 Not Found", body);
        Self { path: "/mcp", has_sessions: true, has_stream: true, hop: None, subscribes: None, unknown_session }
    }
}

const NO_SESSION: &str =
    r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"Bad Request: Missing session ID"},"id":"server-error"}"#;

/// The events of one stream.
#[derive(Debug, Default)]
struct Stream {
    /// Number of an event that has one, and its lines.
    events: Vec<(Option<usize>, String)>,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    /// How often it was asked of which era it is.
    asked: usize,
    sessions: BTreeSet<String>,
    own: BTreeSet<String>,
    named: usize,
    streams: Vec<Stream>,
    /// Number of the main stream of each session.
    main: BTreeMap<String, usize>,
    /// How often the connections that show main streams were ended.
    ended: usize,
    /// How many connections show a main stream.
    listening: BTreeMap<String, usize>,
    /// It asks for a header.
    asks: Option<Asks>,
}

/// Of which header it takes what.
#[derive(Debug)]
struct Asks {
    header: &'static str,
    refused: BTreeSet<String>,
}

type OnCall = Box<dyn Fn(&Value) -> Vec<Act> + Send + Sync>;

struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    manner: Manner,
    on_call: OnCall,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }

    fn changes(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Adds an event to a stream.
    fn add(&self, stream: usize, has_id: bool, lines: &str) {
        let mut state = self.state();
        let number = state.streams[stream].events.len();
        let id = if has_id { format!("id: {stream}/{number}\n") } else { String::new() };
        state.streams[stream].events.push((has_id.then_some(number), format!("{id}{lines}\n")));
        drop(state);
        self.changes();
    }
}

/// See the module's text.
pub struct StreamableUpstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl StreamableUpstream {
    /// A usual one that does this about each `tools/call`.
    pub async fn calls(on_call: impl Fn(&Value) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::start(Manner::default(), on_call).await
    }

    /// One of this manner that does this about each `tools/call`.
    pub async fn start(manner: Manner, on_call: impl Fn(&Value) -> Vec<Act> + Send + Sync + 'static) -> Self {
        let shared =
            Shared { state: Mutex::default(), changed: watch::Sender::new(0), manner, on_call: Box::new(on_call) };
        let shared = Arc::new(shared);
        let serving = Arc::clone(&shared);
        let (addr, accepting) = listen(move |socket| serve(socket, Arc::clone(&serving))).await;
        Self { addr, shared, accepting }
    }

    /// Its one URL.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.addr, self.shared.manner.path)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Every request on clients' sessions, in the order of arrival.
    pub fn seen(&self) -> Vec<Seen> {
        let state = self.shared.state();
        let is_own = |seen: &Seen| {
            seen.session().is_some_and(|session| state.own.contains(session))
                || seen.json["params"]["clientInfo"]["name"] == "mcp-router"
        };
        state.seen.iter().filter(|seen| !is_own(seen)).cloned().collect()
    }

    /// Those with this HTTP method.
    pub fn seen_with(&self, method: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.method == method).collect()
    }

    /// POSTs of this JSON-RPC method.
    pub fn posts(&self, method: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.json["method"] == method).collect()
    }

    /// POSTs of this method on the router's own sessions.
    pub fn own_posts(&self, method: &str) -> usize {
        let all = self.shared.state().seen.iter().filter(|seen| seen.json["method"] == method).count();
        all - self.posts(method).len()
    }

    /// Sessions that were ended, the router's own included.
    pub fn ended_sessions(&self) -> usize {
        self.shared.state().seen.iter().filter(|seen| seen.method == "DELETE").count()
    }

    /// How often it was asked of which era it is.
    pub fn asked_for_era(&self) -> usize {
        self.shared.state().asked
    }

    /// Sessions of clients that it knows.
    pub fn sessions(&self) -> Vec<String> {
        let state = self.shared.state();
        state.sessions.difference(&state.own).cloned().collect()
    }

    /// Waits until this is so.
    pub async fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        eventually(what, || std::future::ready(reached(self))).await;
    }

    /// Waits for so many POSTs of a method on clients' sessions.
    pub async fn wait_for(&self, method: &str, wanted: usize) -> Vec<Seen> {
        self.until(&format!("{wanted} {method}"), |server| server.posts(method).len() >= wanted).await;
        self.posts(method)
    }

    /// Waits until a connection shows the main stream of this session.
    pub async fn listened(&self, session: &str) {
        self.until("a listener", |server| server.listeners(session) > 0).await;
    }

    /// Connections that show the main stream of this session.
    pub fn listeners(&self, session: &str) -> usize {
        self.shared.state().listening.get(session).copied().unwrap_or_default()
    }

    /// Says this on the main stream of a session, with an id.
    pub fn say(&self, session: &str, message: &Value) {
        let stream = self.shared.state().main.get(session).copied();
        self.shared.add(stream.expect("a session that was listened to"), true, &format!("data: {message}\n"));
    }

    /// Ends the connections that show main streams, in an orderly way.
    pub fn end_streams(&self) {
        self.shared.state().ended += 1;
        self.shared.changes();
    }

    /// From now on it answers 401 to whoever does not show this header.
    pub fn asks_for(&self, header: &'static str) {
        self.shared.state().asks = Some(Asks { header, refused: BTreeSet::new() });
    }

    /// And to whoever shows this value.
    pub fn takes_no_more(&self, value: &str) {
        let mut state = self.shared.state();
        state.asks.as_mut().expect("it asks").refused.insert(value.to_owned());
    }

    /// Forgets these sessions, as after a restart.
    pub fn forget_sessions(&self) {
        self.shared.state().sessions.clear();
        self.shared.changes();
    }
}

impl Drop for StreamableUpstream {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.state().sessions.clear();
        self.shared.changes();
    }
}

/// The connection of one request.
struct Connection {
    writer: OwnedWriteHalf,
    is_streaming: bool,
}

impl Connection {
    async fn respond(&mut self, status: &str, headers: &[(&str, String)], body: &str) -> bool {
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let answer = format!("HTTP/1.1 {status}\r\n{lines}content-length: {}\r\n\r\n{body}", body.len());
        self.writer.write_all(answer.as_bytes()).await.is_ok()
    }

    /// A chunk of the event stream, which begins with the first.
    async fn chunk(&mut self, text: &str) -> bool {
        let mut bytes = String::new();
        if !std::mem::replace(&mut self.is_streaming, true) {
            bytes.push_str("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
        }
        if !text.is_empty() {
            bytes.push_str(&format!("{:x}\r\n{text}\r\n", text.len()));
        }
        self.writer.write_all(bytes.as_bytes()).await.is_ok()
    }

    async fn end_stream(&mut self) -> bool {
        self.is_streaming = false;
        self.writer.write_all(b"0\r\n\r\n").await.is_ok()
    }
}

async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    let (reader, writer) = socket.into_split();
    let mut reader = BufReader::new(reader);
    let mut connection = Connection { writer, is_streaming: false };
    while let Some(Incoming { method, path, headers, body }) = read_request(&mut reader).await {
        let json = serde_json::from_slice(&body).unwrap_or_default();
        let seen = Seen { method, headers, json };
        let is_refused = shared
            .state()
            .asks
            .as_ref()
            .is_some_and(|asks| seen.header(asks.header).is_none_or(|shown| asks.refused.contains(shown)));
        if is_refused {
            shared.state().seen.push(seen.clone());
            shared.changes();
            if !connection.respond("401 Unauthorized", &[("www-authenticate", "Bearer".to_owned())], "").await {
                return;
            }
            continue;
        }
        if seen.json["method"] == "server/discover" {
            // As servers with sessions answer to the question of which era they are. It is of no session, and nobody's call.
            shared.state().asked += 1;
            let (status, body) = ("400 Bad Request", NO_SESSION);
            if !connection.respond(status, &[("content-type", "application/json".to_owned())], body).await {
                return;
            }
            continue;
        }
        shared.state().seen.push(seen.clone());
        shared.changes();
        let manner = &shared.manner;
        let is_begin = seen.json["method"] == "initialize";
        let knows = |session: Option<&str>| session.is_some_and(|session| shared.state().sessions.contains(session));
        let goes_on = if path != manner.path {
            connection.respond("404 Not Found", &[], "").await
        } else if manner.has_sessions && !is_begin && !knows(seen.session()) {
            let (status, body) = manner.unknown_session;
            connection.respond(status, &[("content-type", "application/json".to_owned())], body).await
        } else {
            match seen.method.as_str() {
                "POST" => match take(&shared, &mut connection, &seen).await {
                    Some(goes_on) => goes_on,
                    None => return,
                },
                "GET" if manner.has_stream => return show(&shared, &mut connection, &mut reader, &seen).await,
                "DELETE" if manner.has_sessions => {
                    shared.state().sessions.remove(seen.session().unwrap_or_default());
                    shared.changes();
                    connection.respond("200 OK", &[], "").await
                }
                _ => connection.respond("405 Method Not Allowed", &[("allow", "POST".to_owned())], "").await,
            }
        };
        if !goes_on {
            return;
        }
    }
}

/// Answers a POST. `None`: the connection is another's business, or over.
async fn take(shared: &Arc<Shared>, connection: &mut Connection, seen: &Seen) -> Option<bool> {
    let (request, method) = (&seen.json, seen.json["method"].as_str());
    let result = match method {
        _ if request.get("id").is_none() || method.is_none() => {
            return Some(connection.respond("202 Accepted", &[], "").await);
        }
        Some("initialize") => {
            let mut headers = vec![("content-type", "application/json".to_owned())];
            if shared.manner.has_sessions {
                let mut state = shared.state();
                let session = format!("session-{}", state.named);
                state.named += 1;
                if request["params"]["clientInfo"]["name"] == "mcp-router" {
                    state.own.insert(session.clone());
                }
                state.sessions.insert(session.clone());
                state.streams.push(Stream::default());
                let main = state.streams.len() - 1;
                state.main.insert(session.clone(), main);
                headers.push(("mcp-session-id", session));
            }
            let mut result = json!({
                "protocolVersion": request["params"]["protocolVersion"],
                "capabilities": { "tools": { "listChanged": true }, "logging": {} },
                "serverInfo": { "name": "streamable", "version": "0" },
            });
            if shared.manner.subscribes.is_some() {
                result["capabilities"]["resources"] = json!({ "subscribe": true });
            }
            return Some(connection.respond("200 OK", &headers, &response(request, &result).to_string()).await);
        }
        Some("tools/list") => json!({ "tools": [
            { "name": "read", "inputSchema": { "type": "object" }, "annotations": { "readOnlyHint": true } },
            { "name": "write", "inputSchema": { "type": "object" } },
        ] }),
        Some("tools/call") => {
            let stream = {
                let mut state = shared.state();
                state.streams.push(Stream::default());
                state.streams.len() - 1
            };
            return call(shared, connection, stream, (shared.on_call)(request)).await;
        }
        Some("resources/subscribe") => {
            if let Some(gate) = &shared.manner.subscribes {
                gate.pass().await;
            }
            json!({})
        }
        _ => json!({}),
    };
    let json = [("content-type", "application/json".to_owned())];
    Some(connection.respond("200 OK", &json, &response(request, &result).to_string()).await)
}

async fn call(shared: &Arc<Shared>, connection: &mut Connection, stream: usize, acts: Vec<Act>) -> Option<bool> {
    let mut acts = acts.into_iter();
    let json = || vec![("content-type", "application/json".to_owned())];
    while let Some(act) = acts.next() {
        let alive = match act {
            Act::Json(message) => connection.respond("200 OK", &json(), &message.to_string()).await,
            Act::Respond(status, headers, body) => connection.respond(status, &headers, &body).await,
            Act::Wait(gate) => {
                gate.pass().await;
                true
            }
            Act::Close | Act::Break => {
                if matches!(act, Act::Close) && connection.is_streaming {
                    connection.end_stream().await;
                }
                let _ = connection.writer.shutdown().await;
                go_on(Arc::clone(shared), stream, acts.collect());
                return None;
            }
            event => {
                keep(shared, stream, event);
                let lines = shared.state().streams[stream].events.last().map(|(_, lines)| lines.clone());
                connection.chunk(&lines.unwrap_or_default()).await
            }
        };
        if !alive {
            go_on(Arc::clone(shared), stream, acts.collect());
            return None;
        }
    }
    if connection.is_streaming {
        return Some(connection.end_stream().await);
    }
    Some(true)
}

/// Nobody shows the stream for now.
fn go_on(shared: Arc<Shared>, stream: usize, acts: Vec<Act>) {
    tokio::spawn(async move {
        for act in acts {
            match act {
                Act::Wait(gate) => gate.pass().await,
                event => keep(&shared, stream, event),
            }
        }
    });
}

fn keep(shared: &Shared, stream: usize, event: Act) {
    match event {
        Act::Prime => shared.add(stream, true, "data: \n"),
        Act::Event(message) => shared.add(stream, true, &format!("data: {message}\n")),
        Act::Plain(message) => shared.add(stream, false, &format!("data: {message}\n")),
        Act::Raw(lines) => shared.add(stream, false, &lines),
        Act::Json(_) | Act::Respond(..) | Act::Close | Act::Break | Act::Wait(_) => {}
    }
}

/// Shows the main stream of the session, or the stream of `Last-Event-ID` from there on, until the router ends it, or the
/// session is over.
async fn show(shared: &Shared, connection: &mut Connection, reader: &mut BufReader<OwnedReadHalf>, seen: &Seen) {
    let session = seen.session().unwrap_or_default().to_owned();
    let asked = seen.header("last-event-id").and_then(|id| {
        let (stream, number) = id.split_once('/')?;
        Some((stream.parse::<usize>().ok()?, number.parse::<usize>().ok()?))
    });
    let main = shared.state().main.get(&session).copied().unwrap_or_default();
    let (stream, mut next) = match asked {
        Some((stream, number)) if stream < shared.state().streams.len() => (stream, number + 1),
        _ => (main, shared.state().streams[main].events.len()),
    };
    if stream == main {
        *shared.state().listening.entry(session.clone()).or_default() += 1;
        shared.changes();
    }
    let (mut changed, mut byte) = (shared.changed.subscribe(), [0]);
    let (mut alive, mut shown) = (connection.chunk("").await, 0);
    let ended = shared.state().ended;
    while alive
        && (stream != main || shared.state().ended == ended)
        && (!shared.manner.has_sessions || shared.state().sessions.contains(&session))
    {
        changed.borrow_and_update();
        let most = shared.manner.hop.filter(|_| stream != main).map_or(usize::MAX, |hop| hop - shown);
        let news: Vec<String> = {
            let state = shared.state();
            state.streams[stream].events[next..].iter().take(most).map(|(_, lines)| lines.clone()).collect()
        };
        (next, shown) = (next + news.len(), shown + news.len());
        for lines in news {
            alive &= connection.chunk(&lines).await;
        }
        if shared.manner.hop == Some(shown) && stream != main {
            connection.end_stream().await;
            break;
        }
        tokio::select! {
            changed = changed.changed() => alive &= changed.is_ok(),
            read = reader.read(&mut byte) => alive &= read.is_ok_and(|read| read > 0),
        }
    }
    if connection.is_streaming {
        connection.end_stream().await;
    }
    let _ = connection.writer.shutdown().await;
    if stream == main {
        if let Some(count) = shared.state().listening.get_mut(&session) {
            *count -= 1;
        }
        shared.changes();
    }
}
