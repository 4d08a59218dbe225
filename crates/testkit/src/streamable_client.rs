//! A client of Streamable HTTP (2025-03-26 to 2025-11-25) that does what the test tells it and nothing by itself: every
//! POST, GET and DELETE is a call of the test, with any header, at any instance. It remembers every event of every
//! connection with its id, so that a test can say "lost" or "twice".
//!
//! [`StreamableClient::request`] and [`Shown::follow`] are for tests whose subject is something else: they go for the
//! answer as the stock clients do, by `Last-Event-ID` after `retry:`.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    connection::{Headers, header},
    event_stream::{Event, EventStream, Item, Opened, StreamEnd},
    http::{Request, Response},
    mcp_client::{request, tool_call},
    soon,
};

/// Reconnection time before the server has told one.
const RETRY: Duration = Duration::from_millis(500);

/// What a POST or GET brought.
#[allow(clippy::large_enum_variant, reason = "one of them at a time")]
pub enum Reply {
    /// An event stream.
    Stream(Shown),
    /// Anything else: JSON, 202, or a refusal.
    Whole(Response),
}

impl Reply {
    /// The stream that it must be.
    pub fn stream(self) -> Shown {
        match self {
            Self::Stream(shown) => shown,
            Self::Whole(response) => panic!("no stream: {} {}", response.status, response.text()),
        }
    }

    /// The whole response that it must be.
    pub fn whole(self) -> Response {
        match self {
            Self::Stream(_) => panic!("a stream was opened"),
            Self::Whole(response) => response,
        }
    }
}

/// What a connection was opened for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A POST.
    Post,
    /// A GET for the session's own stream.
    Listen,
    /// A GET with this `Last-Event-ID`.
    Resume(String),
}

/// An event, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Number of the connection among those with an event stream, from 0.
    pub connection: usize,
    /// What that connection was opened for.
    pub asked: Asked,
    /// Its `id:`.
    pub id: Option<String>,
    /// Its data; empty for a priming event.
    pub data: String,
}

impl Seen {
    /// Its data as JSON; `None` for a priming event.
    pub fn message(&self) -> Option<Value> {
        (!self.data.is_empty()).then(|| serde_json::from_str(&self.data).expect("a message is JSON"))
    }
}

#[derive(Debug)]
struct Shared {
    addrs: Vec<SocketAddr>,
    turn: AtomicUsize,
    next_id: AtomicUsize,
    connections: AtomicUsize,
    path: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    headers: Vec<(String, String)>,
    session: Option<String>,
    version: Option<String>,
    seen: Vec<Seen>,
}

/// See module documentation. Clones are the same client.
#[derive(Debug, Clone)]
pub struct StreamableClient {
    shared: Arc<Shared>,
}

impl StreamableClient {
    /// A client without a session; its requests go to the instances in turn.
    pub fn new(addrs: impl IntoIterator<Item = SocketAddr>, path: &str) -> Self {
        let shared = Shared {
            addrs: addrs.into_iter().collect(),
            turn: AtomicUsize::new(0),
            next_id: AtomicUsize::new(1),
            connections: AtomicUsize::new(0),
            path: path.to_owned(),
            state: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A client with a session of the newest revision that has `initialize`, which offers nothing.
    pub async fn initialized(addrs: impl IntoIterator<Item = SocketAddr>, path: &str) -> Self {
        let client = Self::new(addrs, path);
        client.initialize("2025-11-25", json!({})).await;
        client
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no test panics while it holds this")
    }

    /// Sends a header with every request from now on, also in place of one of the client's own.
    pub fn set_header(&self, name: &str, value: &str) {
        let mut state = self.state();
        state.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        state.headers.push((name.to_owned(), value.to_owned()));
    }

    /// The session's id.
    pub fn session(&self) -> Option<String> {
        self.state().session.clone()
    }

    /// Sends this session id from now on, or none.
    pub fn set_session(&self, id: Option<&str>) {
        self.state().session = id.map(str::to_owned);
    }

    /// Sends this version from now on, or none.
    pub fn set_version(&self, version: Option<&str>) {
        self.state().version = version.map(str::to_owned);
    }

    /// A fresh id for a request.
    pub fn fresh_id(&self) -> u64 {
        self.shared.next_id.fetch_add(1, Ordering::Relaxed) as u64
    }

    /// The next instance.
    pub fn next_addr(&self) -> SocketAddr {
        let addrs = &self.shared.addrs;
        addrs[self.shared.turn.fetch_add(1, Ordering::Relaxed) % addrs.len()]
    }

    fn dressed(&self, mut request: Request) -> Request {
        let state = self.state();
        if let Some(session) = &state.session {
            request = request.header("mcp-session-id", session);
        }
        if let Some(version) = &state.version {
            request = request.header("mcp-protocol-version", version);
        }
        for (name, value) in &state.headers {
            request = request.header(name, value);
        }
        request
    }

    /// A POST of this body, with all headers that belong to it; the test may change it.
    pub fn post_request(&self, body: impl Into<Vec<u8>>) -> Request {
        let request = Request::post(self.shared.path.clone(), body);
        self.dressed(request.header("accept", "application/json, text/event-stream"))
    }

    /// A GET with all headers that belong to it, with `Last-Event-ID` if one is given.
    pub fn get_request(&self, last_event_id: Option<&str>) -> Request {
        let request = self.dressed(Request::get(self.shared.path.clone()).header("accept", "text/event-stream"));
        match last_event_id {
            Some(id) => request.header("last-event-id", id),
            None => request,
        }
    }

    /// A DELETE with all headers that belong to it.
    pub fn delete_request(&self) -> Request {
        self.dressed(Request::delete(self.shared.path.clone()))
    }

    /// Sends a request to one instance; whatever the answer is.
    ///
    /// # Errors
    /// No connection, or it broke before the answer or the head of its stream.
    pub async fn try_send(&self, addr: SocketAddr, request: &Request, asked: Asked) -> io::Result<Reply> {
        let opened = soon("head of an answer", EventStream::exchange(addr, request)).await?;
        Ok(match opened {
            Opened::Refused(response) => Reply::Whole(response),
            Opened::Stream(stream) => {
                let connection = self.shared.connections.fetch_add(1, Ordering::Relaxed);
                Reply::Stream(Shown::new(self.clone(), stream, connection, asked))
            }
        })
    }

    async fn send(&self, request: &Request, asked: Asked) -> Reply {
        let addr = self.next_addr();
        let reply = self.try_send(addr, request, asked).await;
        reply.unwrap_or_else(|error| panic!("no answer at {addr}: {error}"))
    }

    /// Posts a message, or a batch, to the next instance.
    pub async fn post(&self, message: &Value) -> Reply {
        self.send(&self.post_request(message.to_string()), Asked::Post).await
    }

    /// Posts to one instance.
    ///
    /// # Errors
    /// As [`Self::try_send`].
    pub async fn try_post_at(&self, addr: SocketAddr, message: &Value) -> io::Result<Reply> {
        self.try_send(addr, &self.post_request(message.to_string()), Asked::Post).await
    }

    /// GET of the session's own stream.
    pub async fn listen(&self) -> Reply {
        self.send(&self.get_request(None), Asked::Listen).await
    }

    /// GET with `Last-Event-ID`.
    pub async fn resume(&self, last_event_id: &str) -> Reply {
        self.send(&self.get_request(Some(last_event_id)), Asked::Resume(last_event_id.to_owned())).await
    }

    /// As [`Self::resume`], at one instance.
    ///
    /// # Errors
    /// As [`Self::try_send`].
    pub async fn try_resume_at(&self, addr: SocketAddr, last_event_id: &str) -> io::Result<Reply> {
        let request = self.get_request(Some(last_event_id));
        self.try_send(addr, &request, Asked::Resume(last_event_id.to_owned())).await
    }

    /// DELETE; the response.
    pub async fn delete(&self) -> Response {
        self.delete_request().send(self.next_addr()).await
    }

    /// Posts `initialize` and, if it is answered with a result, takes session id and version from it; the answer.
    pub async fn try_initialize(&self, version: &str, capabilities: Value) -> Value {
        let params = json!({
            "protocolVersion": version, "capabilities": capabilities,
            "clientInfo": { "name": "test", "version": "0" },
        });
        let id = self.fresh_id();
        let (headers, answer) = match self.post(&request(id, "initialize", params)).await {
            Reply::Whole(response) => (response.headers.clone(), response.json()),
            Reply::Stream(mut shown) => (shown.headers().clone(), shown.answer(&json!(id)).await),
        };
        if let Some(version) = answer["result"]["protocolVersion"].as_str() {
            self.set_version(Some(version));
            self.set_session(header(&headers, "mcp-session-id"));
        }
        answer
    }

    /// The handshake, which must succeed; the result of `initialize`.
    pub async fn initialize(&self, version: &str, capabilities: Value) -> Value {
        let mut answer = self.try_initialize(version, capabilities).await;
        assert!(answer["result"].is_object(), "{answer}");
        self.notify("notifications/initialized", json!({})).await;
        answer["result"].take()
    }

    /// Posts a notification, which must be accepted.
    pub async fn notify(&self, method: &str, params: Value) {
        let message = json!({ "jsonrpc": "2.0", "method": method, "params": params });
        let response = self.post(&message).await.whole();
        assert_eq!((response.status, response.body.len()), (202, 0), "{method}: {}", response.text());
    }

    /// Answers a request of the server with a result; must be accepted.
    pub async fn reply(&self, question: &Value, result: Value) {
        let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": result });
        let response = self.post(&answer).await.whole();
        assert_eq!(response.status, 202, "{}", response.text());
    }

    /// Posts a request and goes for its answer: JSON, or an event stream that is resumed as often as it breaks.
    pub async fn request(&self, method: &str, params: Value) -> Value {
        let id = self.fresh_id();
        match self.post(&request(id, method, params)).await {
            Reply::Whole(response) => response.json(),
            Reply::Stream(shown) => shown.follow(&json!(id)).await,
        }
    }

    /// As [`Self::request`]; its result, which must not be an error.
    pub async fn result(&self, method: &str, params: Value) -> Value {
        let mut answer = self.request(method, params).await;
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].take()
    }

    /// Calls a tool; its result.
    pub async fn call(&self, tool: &str, arguments: Value) -> Value {
        self.result("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    /// Starts a tool call that is answered by an event stream; its id and the stream.
    pub async fn start_call(&self, tool: &str, arguments: Value) -> (u64, Shown) {
        let id = self.fresh_id();
        (id, self.post(&tool_call(id, tool, arguments)).await.stream())
    }

    fn note(&self, seen: Seen) {
        self.state().seen.push(seen);
    }

    /// Every event of every connection, in the order in which the test read them.
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// Messages that came by events, with how often each did: more than once is "twice", absent is "lost".
    pub fn messages(&self) -> BTreeMap<String, usize> {
        let mut messages = BTreeMap::new();
        for seen in self.state().seen.iter().filter(|seen| !seen.data.is_empty()) {
            *messages.entry(seen.data.clone()).or_default() += 1;
        }
        messages
    }

    /// Event ids that came more than once.
    pub fn repeated_ids(&self) -> Vec<String> {
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        for id in self.state().seen.iter().filter_map(|seen| seen.id.clone()) {
            *times.entry(id).or_default() += 1;
        }
        times.into_iter().filter(|(_, times)| *times > 1).map(|(id, _)| id).collect()
    }
}

/// One connection that shows an event stream. Dropping it ends the connection.
#[derive(Debug)]
pub struct Shown {
    client: StreamableClient,
    stream: EventStream,
    connection: usize,
    asked: Asked,
    last_id: Option<String>,
}

impl Shown {
    fn new(client: StreamableClient, stream: EventStream, connection: usize, asked: Asked) -> Self {
        Self { client, stream, connection, asked, last_id: None }
    }

    /// Headers of the response.
    pub fn headers(&self) -> &Headers {
        &self.stream.headers
    }

    /// The last id that came; before one has, that by which the stream was resumed.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref().or(match &self.asked {
            Asked::Resume(id) => Some(id),
            Asked::Post | Asked::Listen => None,
        })
    }

    /// Reconnection time that the stream has told, milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        self.stream.retry_ms()
    }

    /// What comes next, however long it takes. May be dropped while it waits: nothing is lost.
    pub async fn read(&mut self) -> Item {
        let item = self.stream.read().await;
        if let Item::Event(event) = &item {
            if event.id.is_some() {
                self.last_id.clone_from(&event.id);
            }
            let (connection, asked) = (self.connection, self.asked.clone());
            self.client.note(Seen { connection, asked, id: event.id.clone(), data: event.data.clone() });
        }
        item
    }

    /// What comes next, soon.
    pub async fn next(&mut self) -> Item {
        soon("something on an event stream", self.read()).await
    }

    /// The next event, priming events included. Comments do not make the wait longer.
    pub async fn event(&mut self) -> Event {
        soon("an event", async {
            loop {
                match self.read().await {
                    Item::Event(event) => return event,
                    Item::Comment(_) => {}
                    Item::End(end) => panic!("the stream ended: {end:?}"),
                }
            }
        })
        .await
    }

    /// The next message.
    pub async fn message(&mut self) -> Value {
        loop {
            let event = self.event().await;
            if !event.data.is_empty() {
                return serde_json::from_str(&event.data).expect("a message is JSON");
            }
        }
    }

    /// Reads on until the answer to a request comes, on this connection.
    pub async fn answer(&mut self, id: &Value) -> Value {
        loop {
            let message = self.message().await;
            if message["method"].is_null() && message["id"] == *id {
                return message;
            }
        }
    }

    /// Reads to the end of the connection; how it ended. Nothing on the way makes the wait longer.
    pub async fn end(&mut self) -> StreamEnd {
        soon("the end of a connection", async {
            loop {
                if let Item::End(end) = self.read().await {
                    return end;
                }
            }
        })
        .await
    }

    /// Goes for the answer to a request as the stock clients do: when the connection ends without it, the stream is
    /// resumed at the next instance after its reconnection time, however often that takes.
    pub async fn follow(self, id: &Value) -> Value {
        let client = self.client.clone();
        let following = async {
            let mut shown = self;
            let mut retry = RETRY;
            loop {
                loop {
                    match shown.read().await {
                        Item::Event(event) => {
                            let message = serde_json::from_str::<Value>(&event.data).unwrap_or_default();
                            if message["method"].is_null() && message["id"] == *id {
                                return message;
                            }
                        }
                        Item::Comment(_) => {}
                        Item::End(_) => break,
                    }
                }
                retry = shown.retry_ms().map_or(retry, Duration::from_millis);
                let last_id = shown.last_id().expect("an id by which the stream can be resumed").to_owned();
                shown = loop {
                    tokio::time::sleep(retry).await;
                    match client.try_resume_at(client.next_addr(), &last_id).await {
                        Ok(Reply::Stream(shown)) => break shown,
                        Ok(Reply::Whole(response)) if response.status < 500 => {
                            panic!("not resumed: {} {}", response.status, response.text())
                        }
                        // An instance that is not there; the next one may be.
                        Ok(Reply::Whole(_)) | Err(_) => {}
                    }
                };
            }
        };
        soon(&format!("answer to request {id}"), following).await
    }

    /// Ends the connection with RST.
    pub fn reset(self) {
        self.stream.reset();
    }
}
