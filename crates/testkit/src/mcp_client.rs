//! A client of the 2024-11-05 transport that behaves as the EventSource standard says: it keeps the last event id, honours
//! `retry:`, comes back whenever its stream ends, and remembers every event of every connection.
//!
//! It can be told to behave like others: without a cursor and with the protocol version (the TypeScript SDK), with a
//! cookie jar (mcp-remote). Streams and POSTs may go to several instances in turn, as behind a load balancer.
//!
//! Or to speak Streamable HTTP ([`Transport::Streamable`]): then it does the same for the session's main stream, and follows the
//! stream of each call until that is answered, wherever it has to come back for it (`calls`). Tests of what holds over either
//! transport are the same tests. [`crate::StreamableClient`] is for what is peculiar to Streamable HTTP.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
};

use crate::{
    PATIENCE,
    connection::{Headers, header},
    event_stream::{Event, EventStream, Item, Opened, StreamEnd},
    http::{Request, Response},
    secrets, soon,
};

mod calls;

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// HTTP+SSE (2024-11-05): one stream, and POSTs that are answered 202.
    Sse,
    /// Streamable HTTP (2025-11-25).
    Streamable,
}

/// Number of the connection of what came by the POST of a request, or by coming back to its stream.
const OF_A_CALL: usize = usize::MAX;

/// The version that the client asks for.
const VERSION: &str = "2025-11-25";

/// An instance that hangs takes a connection and says nothing: after so long another one is tried.
const COMES_BACK: Duration = Duration::from_secs(2);

/// Reconnection time before the server has told one.
const RETRY: Duration = Duration::from_millis(500);

/// Which instance gets the POSTs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostTo {
    /// Each in its turn.
    InTurn,
    /// Always this one.
    Only(usize),
}

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct Builder {
    addrs: Vec<SocketAddr>,
    transport: Transport,
    path: String,
    headers: Headers,
    post_to: PostTo,
    cursor: bool,
    cookies: bool,
    version: bool,
    reconnects: bool,
    sampling: Option<String>,
    capabilities: Value,
}

impl Builder {
    /// Speaks so (HTTP+SSE).
    pub fn over(mut self, transport: Transport) -> Self {
        self.transport = transport;
        match transport {
            Transport::Sse => "/sse/mcp-server-v6",
            Transport::Streamable => "/mcp/mcp-server-v6",
        }
        .clone_into(&mut self.path);
        self
    }

    fn is_streamable(&self) -> bool {
        self.transport == Transport::Streamable
    }

    /// GETs this path instead of `/sse/mcp-server-v6`.
    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// Sends a header with every request.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where POSTs go (default: to the instances in turn).
    pub fn post_to(mut self, post_to: PostTo) -> Self {
        self.post_to = post_to;
        self
    }

    /// As the TypeScript SDK: no `Last-Event-ID`, but the protocol version once it is known.
    pub fn like_typescript(mut self) -> Self {
        self.cursor = false;
        self.version = true;
        self
    }

    /// As supergateway and mcp-remote 0.1.38: nothing tells that it has been here before.
    pub fn without_mark(mut self) -> Self {
        self.cursor = false;
        self
    }

    /// As mcp-remote 0.15: no `Last-Event-ID`, but cookies.
    pub fn with_cookies(mut self) -> Self {
        self.cursor = false;
        self.cookies = true;
        self
    }

    /// Does not come back by itself; [`McpClient::reconnect`] makes it.
    pub fn stays_away(mut self) -> Self {
        self.reconnects = false;
        self
    }

    /// Declares that it can do this.
    pub fn capabilities(mut self, capabilities: Value) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Answers sampling requests with this text.
    pub fn samples(mut self, text: &str) -> Self {
        self.sampling = Some(text.to_owned());
        self
    }

    /// Opens the stream and waits for the endpoint. Over Streamable HTTP there is none before the handshake.
    pub async fn connect(self) -> McpClient {
        let (want, wanted) = watch::channel(Want { open: true, cuts: 0, to: None });
        let endpoint = self.is_streamable().then(|| self.path.clone());
        let inner = Arc::new(Inner {
            builder: self,
            state: Mutex::new(State { endpoint, ..State::default() }),
            changed: Notify::new(),
            posts: AtomicUsize::new(0),
            next_id: AtomicUsize::new(1),
        });
        let stream = tokio::spawn(keep_stream(Arc::clone(&inner), wanted)).abort_handle();
        let client = McpClient { inner, want, stream };
        client.until("the endpoint event", |state| state.endpoint.is_some().then_some(())).await;
        client
    }

    /// [`Self::connect`] and the handshake.
    pub async fn initialize(self) -> McpClient {
        let is_streamable = self.is_streamable();
        let client = self.connect().await;
        client.handshake().await;
        if is_streamable {
            client.connection_count(1).await;
        }
        client
    }
}

/// An event, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Number of the connection, from 0; the highest number there is, if it came on the stream of a call (Streamable HTTP).
    pub connection: usize,
    /// Its `id:`.
    pub id: Option<String>,
    /// Its name; `prime` of an event without a message.
    pub name: String,
    /// Its data.
    pub data: String,
}

impl Record {
    /// Its data as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).expect("a message is JSON")
    }
}

/// A numbered event, by the parts of its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbered {
    /// The session.
    pub session: String,
    /// The stream.
    pub stream: String,
    /// The session's life.
    pub epoch: String,
    /// Place in the stream.
    pub seq: u64,
}

impl Numbered {
    /// Reads `<session>.<stream>.<epoch>.<seq>`.
    pub fn parse(id: &str) -> Self {
        let parts: Vec<&str> = id.split('.').collect();
        let [session, stream, epoch, seq] = parts[..] else { panic!("no event id of the router: {id}") };
        let seq = seq.parse().unwrap_or_else(|_| panic!("no event id of the router: {id}"));
        Self { session: session.to_owned(), stream: stream.to_owned(), epoch: epoch.to_owned(), seq }
    }
}

/// One connection of the client.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Which instance.
    pub addr: SocketAddr,
    /// Status of the answer; 0 when there was none.
    pub status: u16,
    /// Headers of the answer.
    pub headers: Headers,
    /// How it ended, unless the client ended it itself.
    pub end: Option<StreamEnd>,
    /// Nothing comes from it any more.
    pub over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Want {
    open: bool,
    cuts: usize,
    /// The next connection goes there.
    to: Option<usize>,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<Record>,
    connections: Vec<Connection>,
    cursor: Option<String>,
    cookie: Option<String>,
    endpoint: Option<String>,
    /// Over Streamable HTTP.
    session: Option<String>,
    retry: Option<Duration>,
    version: Option<String>,
    /// Answers by the JSON text of their id.
    answers: HashMap<String, Value>,
    accepted: BTreeSet<String>,
}

#[derive(Debug)]
struct Inner {
    builder: Builder,
    state: Mutex<State>,
    changed: Notify,
    posts: AtomicUsize,
    next_id: AtomicUsize,
}

/// See module documentation.
#[derive(Debug)]
pub struct McpClient {
    inner: Arc<Inner>,
    want: watch::Sender<Want>,
    stream: AbortHandle,
}

impl Drop for McpClient {
    fn drop(&mut self) {
        self.stream.abort();
    }
}

impl McpClient {
    /// A client of these instances; its streams go to them in turn, beginning with the first.
    pub fn builder(addrs: impl IntoIterator<Item = SocketAddr>) -> Builder {
        Builder {
            addrs: addrs.into_iter().collect(),
            transport: Transport::Sse,
            path: "/sse/mcp-server-v6".to_owned(),
            headers: Vec::new(),
            post_to: PostTo::InTurn,
            cursor: true,
            cookies: false,
            version: false,
            reconnects: true,
            sampling: None,
            capabilities: json!({}),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state()
    }

    /// Waits until `look` finds what it looks for.
    async fn until<T>(&self, what: &str, look: impl Fn(&State) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let changed = self.inner.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(found) = look(&self.state()) {
                    return found;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(found) => found,
            Err(_) => {
                let state = self.state();
                for connection in &state.connections {
                    println!("connection to {}: {} {:?}", connection.addr, connection.status, connection.end);
                }
                for record in state.records.iter().rev().take(10).rev() {
                    println!("seen: {:?} {} {:.200}", record.id, record.name, record.data);
                }
                drop(state);
                panic!("{what}: not within {PATIENCE:?}")
            }
        }
    }

    /// Sends `initialize` and `notifications/initialized`; the result.
    pub async fn handshake(&self) -> Value {
        let mut capabilities = self.inner.builder.capabilities.clone();
        if self.inner.builder.sampling.is_some() {
            capabilities["sampling"] = json!({});
        }
        let params = json!({
            "protocolVersion": VERSION, "capabilities": capabilities,
            "clientInfo": { "name": "test", "version": "0" },
        });
        // The first of the instances is the session's owner over either transport: by the stream, or by this request.
        let id = self.fresh_id();
        let first = match self.transport() {
            Transport::Sse => self.inner.next_post(),
            Transport::Streamable => self.inner.builder.addrs[0],
        };
        self.post_at(first, &request(id, "initialize", params)).await;
        let mut answer = self.response(id).await;
        assert!(answer.get("error").is_none(), "initialize: {answer}");
        let result = answer["result"].take();
        self.state().version = result["protocolVersion"].as_str().map(str::to_owned);
        self.notify("notifications/initialized", json!({})).await;
        result
    }

    /// A fresh id for a request.
    pub fn fresh_id(&self) -> u64 {
        self.inner.next_id.fetch_add(1, Ordering::Relaxed) as u64
    }

    /// The URL path that POSTs go to.
    pub fn endpoint(&self) -> String {
        self.state().endpoint.clone().expect("the endpoint event has come")
    }

    /// How it speaks.
    pub fn transport(&self) -> Transport {
        self.inner.builder.transport
    }

    /// The session's id.
    pub fn session(&self) -> String {
        if self.inner.builder.is_streamable() {
            return self.state().session.clone().expect("the handshake is done");
        }
        let endpoint = self.endpoint();
        let (_, query) = endpoint.split_once("sessionId=").expect("an endpoint names its session");
        query.split('&').next().expect("a part before the next one").to_owned()
    }

    /// The session of the last id that the stream has told, and its place there.
    pub fn cursor(&self) -> Numbered {
        Numbered::parse(self.state().cursor.as_deref().expect("a cursor has come"))
    }

    /// The last event id as it came.
    pub fn cursor_text(&self) -> Option<String> {
        self.state().cursor.clone()
    }

    /// A GET that goes on behind this event.
    pub fn resume_request(&self, cursor: &str) -> Request {
        self.inner.get_request_after(Some(cursor))
    }

    /// Posts to the next instance by [`PostTo`]; whatever the answer is.
    ///
    /// # Errors
    /// No connection, or it broke before the answer.
    pub async fn try_post(&self, message: &Value) -> io::Result<Response> {
        let addr = self.inner.next_post();
        self.try_post_at(addr, message, None).await
    }

    /// Posts to one instance, named as nginx names all tries of one request, if so; whatever the answer is. Over Streamable
    /// HTTP a request whose answer comes, or will come on its stream, is told as accepted, as over HTTP+SSE (202); one that
    /// was not taken and may be repeated, as refused (503).
    ///
    /// # Errors
    /// No connection, or it broke before the answer.
    pub async fn try_post_at(
        &self,
        addr: SocketAddr,
        message: &Value,
        request_id: Option<&str>,
    ) -> io::Result<Response> {
        let mut request = self.inner.post_request(message);
        if let Some(request_id) = request_id {
            request = request.header("x-mcp-request-try", request_id).header("x-request-id", request_id);
        }
        let response = if self.inner.builder.is_streamable() {
            calls::post(&self.inner, self.want.subscribe(), addr, &request, message).await?
        } else {
            request.try_send(addr).await?
        };
        if response.status == 202 {
            self.note_accepted(message);
        }
        Ok(response)
    }

    fn note_accepted(&self, message: &Value) {
        if message.get("method").is_some()
            && let Some(id) = message.get("id")
        {
            self.state().accepted.insert(id.to_string());
        }
    }

    /// Posts to one instance; must be accepted.
    pub async fn post_at(&self, addr: SocketAddr, message: &Value) {
        self.post_with(addr, message, None).await;
    }

    /// Posts to one instance, named as nginx names all tries of one request; must be accepted.
    pub async fn post_with(&self, addr: SocketAddr, message: &Value, request_id: Option<&str>) {
        let response = self.try_post_at(addr, message, request_id).await;
        let response = response.unwrap_or_else(|error| panic!("POST to {addr}: {error}"));
        assert_eq!(response.status, 202, "{message}: {}", response.text());
    }

    /// Posts to the next instance; must be accepted.
    pub async fn post(&self, message: &Value) {
        let addr = self.inner.next_post();
        self.post_at(addr, message).await;
    }

    /// Posts a notification.
    pub async fn notify(&self, method: &str, params: Value) {
        self.post(&json!({ "jsonrpc": "2.0", "method": method, "params": params })).await;
    }

    /// Posts a request without waiting for its answer; its id.
    pub async fn start(&self, method: &str, params: Value) -> u64 {
        let id = self.fresh_id();
        self.post(&request(id, method, params)).await;
        id
    }

    /// Starts a tool call; its id.
    pub async fn start_call(&self, tool: &str, arguments: Value) -> u64 {
        self.start("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    /// Waits for the answer to a request.
    pub async fn response(&self, id: u64) -> Value {
        self.response_to(&json!(id)).await
    }

    /// Waits for the answer to a request with any kind of id.
    pub async fn response_to(&self, id: &Value) -> Value {
        let key = id.to_string();
        self.until(&format!("answer to request {key}"), |state| state.answers.get(&key).cloned()).await
    }

    /// The answer, if it has come.
    pub fn response_now(&self, id: u64) -> Option<Value> {
        self.response_to_now(&json!(id))
    }

    /// The answer to a request with any kind of id, if it has come.
    pub fn response_to_now(&self, id: &Value) -> Option<Value> {
        self.state().answers.get(&id.to_string()).cloned()
    }

    /// A request and its result, which must not be an error.
    pub async fn result(&self, method: &str, params: Value) -> Value {
        let id = self.start(method, params).await;
        let mut answer = self.response(id).await;
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].take()
    }

    /// Calls a tool; its result.
    pub async fn call(&self, tool: &str, arguments: Value) -> Value {
        self.result("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    /// Calls a tool that answers with a text.
    pub async fn text(&self, tool: &str, arguments: Value) -> String {
        let result = self.call(tool, arguments).await;
        assert_ne!(result["isError"], true, "{result}");
        result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text in {result}")).to_owned()
    }

    /// Waits for a message that `wanted` likes; the first such, old ones included.
    pub async fn message(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        // What has been looked at is not looked at again: there may be megabytes of it.
        let looked = std::cell::Cell::new(0);
        self.until(what, |state| {
            let fresh = &state.records[looked.replace(state.records.len())..];
            fresh.iter().filter(|record| record.name == "message").map(Record::json).find(|json| wanted(json))
        })
        .await
    }

    /// Waits until as many messages have come.
    pub async fn message_count(&self, count: usize) {
        let what = format!("{count} messages");
        self.until(&what, |state| {
            (state.records.iter().filter(|record| record.name == "message").count() >= count).then_some(())
        })
        .await;
    }

    /// Everything that has come.
    pub fn records(&self) -> Vec<Record> {
        self.state().records.clone()
    }

    /// The messages that have come.
    pub fn messages(&self) -> Vec<Record> {
        self.state().records.iter().filter(|record| record.name == "message").cloned().collect()
    }

    /// Notifications of one method that have come.
    pub fn notifications(&self, method: &str) -> Vec<Value> {
        self.messages().iter().map(Record::json).filter(|message| message["method"] == method).collect()
    }

    /// Its connections so far.
    pub fn connections(&self) -> Vec<Connection> {
        self.state().connections.clone()
    }

    /// Ids (JSON text) of the requests that were answered with 202.
    pub fn accepted_requests(&self) -> BTreeSet<String> {
        self.state().accepted.clone()
    }

    /// Waits for the end of the current connection by the server; how it ended.
    pub async fn connection_end(&self, number: usize) -> Option<StreamEnd> {
        self.until(&format!("end of connection {number}"), |state| {
            state.connections.get(number).filter(|connection| connection.over).map(|connection| connection.end)
        })
        .await
    }

    /// Waits until as many connections have been answered.
    pub async fn connection_count(&self, count: usize) {
        self.until(&format!("{count} connections"), |state| (state.connections.len() >= count).then_some(())).await;
    }

    /// Ends the current connection (FIN); the client comes back after its reconnection time unless it stays away.
    pub fn cut(&self) {
        self.want.send_modify(|want| {
            want.cuts += 1;
            want.open = want.open && self.inner.builder.reconnects;
        });
    }

    /// Ends the current connection and stays away until [`Self::reconnect`]; returns when it has ended.
    pub async fn disconnect(&self) {
        self.want.send_modify(|want| {
            want.cuts += 1;
            want.open = false;
        });
        self.until("end of the connection", |state| {
            state.connections.last().is_none_or(|connection| connection.over).then_some(())
        })
        .await;
    }

    /// Opens the stream again, at this instance, or at the next one.
    pub fn reconnect(&self, to: Option<usize>) {
        self.want.send_modify(|want| {
            want.open = true;
            want.to = to;
        });
    }
}

/// A JSON-RPC request.
pub fn request(id: impl Into<Value>, method: &str, params: Value) -> Value {
    secrets::note_call(method, &params);
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": method, "params": params })
}

/// A JSON-RPC request that calls a tool.
pub fn tool_call(id: impl Into<Value>, tool: &str, arguments: Value) -> Value {
    request(id, "tools/call", json!({ "name": tool, "arguments": arguments }))
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }

    fn next_post(&self) -> SocketAddr {
        let addrs = &self.builder.addrs;
        match self.builder.post_to {
            PostTo::InTurn => addrs[self.posts.fetch_add(1, Ordering::Relaxed) % addrs.len()],
            PostTo::Only(index) => addrs[index],
        }
    }

    fn post_request(&self, message: &Value) -> Request {
        let (endpoint, cookie) = {
            let state = self.state();
            (state.endpoint.clone().expect("the endpoint event has come"), state.cookie.clone())
        };
        let mut request = Request::post(endpoint, message.to_string());
        for (name, value) in &self.builder.headers {
            request = request.header(name, value);
        }
        if let Some(cookie) = cookie.filter(|_| self.builder.cookies) {
            request = request.header("cookie", &cookie);
        }
        if self.builder.is_streamable() {
            request = self.of_session(request).header("accept", "application/json, text/event-stream");
        }
        request
    }

    /// Over Streamable HTTP: with what says whose request it is.
    fn of_session(&self, mut request: Request) -> Request {
        let state = self.state();
        if let Some(session) = &state.session {
            request = request.header("mcp-session-id", session);
        }
        if let Some(version) = &state.version {
            request = request.header("mcp-protocol-version", version);
        }
        request
    }

    /// Of the session's stream, where it goes on.
    fn get_request(&self) -> Request {
        let cursor = self.state().cursor.clone().filter(|_| self.builder.cursor);
        self.get_request_after(cursor.as_deref())
    }

    fn get_request_after(&self, cursor: Option<&str>) -> Request {
        let mut request = Request::get(self.builder.path.clone());
        for (name, value) in &self.builder.headers {
            request = request.header(name, value);
        }
        if let Some(cursor) = cursor {
            request = request.header("last-event-id", cursor);
        }
        if self.builder.is_streamable() {
            return self.of_session(request);
        }
        let state = self.state();
        if let Some(cookie) = state.cookie.as_deref().filter(|_| self.builder.cookies) {
            request = request.header("cookie", cookie);
        }
        if let Some(version) = state.version.as_deref().filter(|_| self.builder.version) {
            request = request.header("mcp-protocol-version", version);
        }
        request
    }

    /// What a client answers without being asked by the test.
    fn own_answer(&self, message: &Value) -> Option<Value> {
        let id = message.get("id")?;
        match message.get("method")?.as_str()? {
            "ping" => Some(json!({ "jsonrpc": "2.0", "id": id, "result": {} })),
            "sampling/createMessage" => {
                let text = self.builder.sampling.as_deref()?;
                let content = json!({ "type": "text", "text": text });
                let result = json!({ "role": "assistant", "model": "test", "content": content });
                Some(json!({ "jsonrpc": "2.0", "id": id, "result": result }))
            }
            _ => None,
        }
    }

    fn take(self: &Arc<Self>, connection: usize, item: Item, stream: &EventStream) {
        let Item::Event(event) = item else { return };
        let mut state = self.state();
        // Of this event, not of those that have been parsed behind it and will never be seen if the stream is cut now.
        if event.id.is_some() {
            state.cursor.clone_from(&event.id);
        }
        state.retry = stream.retry_ms().map(Duration::from_millis).or(state.retry);
        drop(state);
        self.note(connection, event);
    }

    /// What has come, by whatever way.
    fn note(self: &Arc<Self>, connection: usize, event: Event) {
        let mut state = self.state();
        let is_prime = self.builder.is_streamable() && event.data.is_empty();
        let name = if is_prime { "prime".to_owned() } else { event.name };
        let mut answer = None;
        if name == "endpoint" {
            state.endpoint = Some(event.data.clone());
        } else if let Ok(message) = serde_json::from_str::<Value>(&event.data) {
            if message.get("method").is_none()
                && let Some(id) = message.get("id")
            {
                state.answers.insert(id.to_string(), message.clone());
            }
            answer = self.own_answer(&message);
        }
        state.records.push(Record { connection, id: event.id, name, data: event.data });
        drop(state);
        self.changed.notify_waiters();
        if let Some(answer) = answer {
            let inner = Arc::clone(self);
            tokio::spawn(async move {
                // A stock client does not try again either.
                let _ = inner.post_request(&answer).try_send(inner.next_post()).await;
            });
        }
    }
}

/// Keeps a stream open for as long as one is wanted.
async fn keep_stream(inner: Arc<Inner>, mut want: watch::Receiver<Want>) {
    let mut turn = 0;
    while inner.builder.is_streamable() && inner.state().session.is_none() {
        let changed = inner.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if inner.state().session.is_none() {
            changed.await;
        }
    }
    loop {
        let Ok(wanted) = want.wait_for(|want| want.open).await.map(|want| *want) else { return };
        want.mark_unchanged();
        let index = wanted.to.unwrap_or(turn) % inner.builder.addrs.len();
        turn = index + 1;
        let addr = inner.builder.addrs[index];
        show_stream(&inner, addr, wanted.cuts, &mut want).await;
        if !inner.builder.reconnects {
            let is_new = |now: &Want| now.open && *now != wanted;
            if want.wait_for(is_new).await.is_err() {
                return;
            }
            continue;
        }
        let retry = inner.state().retry.unwrap_or(RETRY);
        // Being told to come back is no reason to wait.
        tokio::select! {
            () = tokio::time::sleep(retry) => {}
            _ = want.wait_for(|now| now.to.is_some() && now.to != wanted.to) => {}
        }
    }
}

/// One connection, until it ends or is cut.
async fn show_stream(inner: &Arc<Inner>, addr: SocketAddr, cuts: usize, want: &mut watch::Receiver<Want>) {
    let opened = soon("head of an event stream", EventStream::request(addr, &inner.get_request())).await;
    let number = inner.state().connections.len();
    let mut connection = Connection { addr, status: 0, headers: Vec::new(), end: None, over: true };
    let mut stream = match opened {
        Ok(Opened::Stream(stream)) => {
            connection.status = 200;
            connection.headers.clone_from(&stream.headers);
            connection.over = false;
            Some(stream)
        }
        Ok(Opened::Refused(response)) => {
            connection.status = response.status;
            connection.headers = response.headers;
            None
        }
        Err(_) => None,
    };
    {
        let mut state = inner.state();
        if let Some(cookie) = header(&connection.headers, "set-cookie") {
            state.cookie = cookie.split(';').next().map(str::to_owned);
        }
        state.connections.push(connection);
    }
    inner.changed.notify_waiters();
    let Some(stream) = &mut stream else { return };
    loop {
        tokio::select! {
            item = stream.read() => {
                if let Item::End(end) = item {
                    inner.state().connections[number].end = Some(end);
                    break;
                }
                inner.take(number, item, stream);
            }
            cut = want.wait_for(|now| now.cuts != cuts) => {
                let _ = cut;
                break;
            }
        }
    }
    inner.state().connections[number].over = true;
    inner.changed.notify_waiters();
}
