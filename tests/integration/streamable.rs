//! Streamable HTTP towards clients: sessions, answers as JSON and as streams, and streams that any instance goes on with.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};

use crate::harness::{
    Cluster, Event, EventStream, FakeUpstream, Item, StreamEnd, cluster, eventually,
    http::{self, Request, Response},
    mcp_client::tool_call,
    soon,
};

const MCP: &str = "/mcp/mcp-server-v6";
const VERSION: &str = "2025-11-25";
const BOTH: &str = "application/json, text/event-stream";

/// Settings under which a dead instance is noticed soon.
fn quick() -> cluster::Builder {
    Cluster::builder()
        .routers(2)
        .short_lease()
        .env("MCP_POLL_INTERVAL", "200ms")
        .env("MCP_STREAMABLE_RETRY_MIN", "10ms")
        .env("MCP_STREAMABLE_RETRY_MAX", "30ms")
}

fn initialize() -> Value {
    offering(VERSION)
}

fn offering(version: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": version, "capabilities": { "sampling": {} }, "clientInfo": { "name": "test", "version": "1" },
    }})
}

fn post(message: &Value) -> Request {
    Request::post(MCP, message.to_string()).header("accept", BOTH)
}

/// A session, as its client sees it.
struct Session(String);

impl Session {
    async fn begin(addr: SocketAddr) -> Self {
        Self::of_version(addr, VERSION).await
    }

    async fn of_version(addr: SocketAddr, version: &str) -> Self {
        let response = post(&offering(version)).send(addr).await;
        assert_eq!((response.status, response.json()["result"]["protocolVersion"].as_str()), (200, Some(version)));
        let session = Self(response.header("mcp-session-id").expect("the header of a new session").to_owned());
        let note = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let note = session.of(post(&note)).header("mcp-protocol-version", version);
        assert_eq!(note.send(addr).await.status, 202);
        session
    }

    fn of(&self, request: Request) -> Request {
        request.header("mcp-session-id", &self.0).header("mcp-protocol-version", VERSION)
    }

    async fn send(&self, addr: SocketAddr, message: &Value) -> Response {
        self.of(post(message)).send(addr).await
    }

    /// A call whose answer is a stream.
    async fn call(&self, addr: SocketAddr, message: &Value) -> EventStream {
        EventStream::open(addr, &self.of(Request::post(MCP, message.to_string()))).await
    }

    async fn listen(&self, addr: SocketAddr, cursor: Option<&str>) -> EventStream {
        let request = self.of(Request::get(MCP));
        let request = match cursor {
            Some(cursor) => request.header("last-event-id", cursor),
            None => request,
        };
        EventStream::open(addr, &request).await
    }
}

/// The cursor with which a stream begins: an event without data, and the time after which to come back.
async fn primed(stream: &mut EventStream) -> String {
    let first = stream.event().await;
    assert_eq!((first.data.as_str(), stream.retry_ms().is_some()), ("", true), "{first:?}");
    first.id.expect("a cursor at first")
}

fn message(event: &Event) -> Value {
    serde_json::from_str(&event.data).unwrap()
}

/// All that comes until the stream ends.
async fn to_the_end(stream: &mut EventStream) -> Vec<Value> {
    let mut messages = Vec::new();
    loop {
        match stream.next().await {
            // The cursor at first.
            Item::Event(event) if event.data.is_empty() => {}
            Item::Event(event) => messages.push(message(&event)),
            Item::Comment(_) => {}
            Item::End(end) => {
                assert_eq!(end, StreamEnd::Clean);
                return messages;
            }
        }
    }
}

fn with_progress(id: u64, ms: u64) -> Value {
    let mut call = tool_call(id, "wait", json!({ "ms": ms, "text": format!("call {id}") }));
    call["params"]["_meta"] = json!({ "progressToken": format!("token of {id}") });
    call
}

fn is_answer(message: &Value, id: u64) -> bool {
    message["id"] == id && message["result"]["content"][0]["text"] == format!("call {id}")
}

#[tokio::test]
async fn a_session_begins_with_initialize_and_ends_with_delete() {
    let cluster = Cluster::builder().start().await;
    let addr = cluster.addr(0);
    let session = Session::begin(addr).await;
    let list = json!({ "jsonrpc": "2.0", "id": "a", "method": "tools/list" });
    let listed = session.send(addr, &list).await;
    assert_eq!((listed.status, listed.header("content-type")), (200, Some("application/json")));
    assert_eq!(listed.json()["id"], "a");
    assert!(listed.header("mcp-session-id").is_none(), "named once");

    let unknown = Session("00112233445566778899aabbccddeeff".to_owned());
    let discover = json!({ "jsonrpc": "2.0", "id": 1, "method": "server/discover" });
    for (name, request, status, reason) in [
        ("no session", post(&list), 400, "missing_session"),
        ("an unknown one", unknown.of(post(&list)), 404, "unknown_session"),
        (
            "none that was made here",
            Request::post(MCP, list.to_string()).header("mcp-session-id", "x"),
            404,
            "unknown_session",
        ),
        (
            "another version",
            session.of(post(&list)).header("mcp-protocol-version", "1999-01-01"),
            400,
            "protocol_version",
        ),
        (
            "two versions",
            Request::post(MCP, list.to_string())
                .header("mcp-session-id", &session.0)
                .also("mcp-protocol-version", "2025-06-18")
                .also("mcp-protocol-version", VERSION),
            400,
            "repeated_header",
        ),
        ("the stateless era", post(&discover), 404, "stateless"),
        ("neither form", session.of(post(&list)).header("accept", "text/html"), 406, "not_acceptable"),
        ("no JSON", session.of(post(&list)).header("content-type", "text/plain"), 415, "content_type"),
        ("a stream as JSON", session.of(Request::get(MCP)).header("accept", "application/json"), 406, "not_acceptable"),
        ("a stream of nobody", Request::get(MCP), 400, "missing_session"),
        ("an unknown service", Request::post("/mcp/other", list.to_string()), 404, "unknown_service"),
        ("another method", Request::with_method("PUT", MCP), 405, "method"),
    ] {
        let response = request.send(addr).await;
        assert_eq!(
            (response.status, response.json()["error"]["data"]["reason"].as_str()),
            (status, Some(reason)),
            "{name}"
        );
        if status == 404 && reason == "stateless" {
            assert_eq!(response.error_code(), Some(-32601), "clients of that era fall back by it");
        }
    }
    let other = Session(cluster.client().initialize().await.session());
    assert_eq!(other.send(addr, &list).await.status, 404, "a session of HTTP+SSE");
    assert_eq!(session.of(Request::delete(MCP)).send(addr).await.status, 204);
    assert_eq!(session.of(Request::delete(MCP)).send(addr).await.status, 404);
    assert_eq!(session.send(addr, &list).await.status, 404);
    cluster.assert_no_violations().await;
}

#[tokio::test]
async fn a_call_that_takes_longer_is_answered_on_a_stream_that_begins_with_a_cursor() {
    let cluster = Cluster::builder().start().await;
    let addr = cluster.addr(0);
    let session = Session::begin(addr).await;
    let call = session.of(post(&with_progress(7, 600)));
    let mut stream = EventStream::open(addr, &call.header("accept", BOTH)).await;
    primed(&mut stream).await;
    let messages = to_the_end(&mut stream).await;
    let progress: Vec<_> = messages.iter().filter_map(|message| message["params"]["progress"].as_u64()).collect();
    assert_eq!(progress, [1, 2, 3]);
    assert!(is_answer(messages.last().unwrap(), 7), "the last: {messages:?}");
    cluster.assert_no_violations().await;
}

/// EVT-8
#[tokio::test]
async fn a_broken_stream_goes_on_at_another_instance_with_nothing_of_another_stream() {
    let cluster = quick().start().await;
    let session = Session::begin(cluster.addr(0)).await;
    let mut main = session.listen(cluster.addr(0), None).await;
    primed(&mut main).await;
    let mut broken = session.call(cluster.addr(0), &with_progress(1, 1500)).await;
    let mut other = session.call(cluster.addr(0), &with_progress(2, 1000)).await;
    let cursor = primed(&mut broken).await;
    broken.reset();
    let mut resumed = session.listen(cluster.addr(1), Some(&cursor)).await;
    for (stream, id) in [(&mut other, 2), (&mut resumed, 1)] {
        let messages = to_the_end(stream).await;
        let token = format!("token of {id}");
        let (last, progress) = messages.split_last().unwrap();
        assert!(is_answer(last, id), "{messages:?}");
        assert_eq!(progress.len(), 3, "{progress:?}");
        assert!(progress.iter().all(|note| note["params"]["progressToken"] == *token), "{progress:?}");
    }
    // All of it once more, after each of its events, and nothing after the last.
    let mut again = session.listen(cluster.addr(0), Some(&cursor)).await;
    let mut cursors = Vec::new();
    primed(&mut again).await;
    while let Item::Event(event) = again.next().await {
        cursors.push(event.id.unwrap());
    }
    assert_eq!(cursors.len(), 4);
    for (at, cursor) in cursors.iter().enumerate() {
        let left = to_the_end(&mut session.listen(cluster.addr(1), Some(cursor)).await).await;
        assert_eq!(left.len(), 3 - at, "{left:?}");
    }
    let changed = json!({ "jsonrpc": "2.0", "id": 3, "method": "ping" });
    assert_eq!(session.send(cluster.addr(0), &changed).await.status, 200);
    assert!(tokio::time::timeout(Duration::from_millis(100), main.event()).await.is_err(), "nothing was for it");
    cluster.assert_no_violations().await;
}

/// EVT-8
#[tokio::test]
async fn an_answer_that_nobody_comes_back_for_goes_out_on_the_main_stream_and_on_no_other() {
    let cluster = quick().env("MCP_ANSWER_GRACE", "300ms").start().await;
    let addr = cluster.addr(0);
    let session = Session::begin(addr).await;
    let mut main = session.listen(addr, None).await;
    primed(&mut main).await;
    let mut left = session.call(addr, &with_progress(1, 400)).await;
    let cursor = primed(&mut left).await;
    left.reset();
    assert!(is_answer(&message(&main.event().await), 1));
    assert_eq!(cluster.metric("mcp_router_moved_answers_total", None).await, 1.0);
    for instance in [0, 1] {
        let mut late = session.listen(cluster.addr(instance), Some(&cursor)).await;
        assert_eq!(to_the_end(&mut late).await, Vec::<Value>::new(), "it was delivered");
    }
    cluster.assert_no_violations().await;
}

/// OWN-6
#[tokio::test]
async fn any_instance_takes_a_request_and_shows_its_answer() {
    let cluster = quick().start().await;
    let session = Session::begin(cluster.addr(0)).await;
    for (id, instance) in [(1, 1), (2, 0), (3, 1)] {
        let mut stream = session.call(cluster.addr(instance), &with_progress(id, 100)).await;
        assert!(is_answer(to_the_end(&mut stream).await.last().unwrap(), id));
    }
    cluster.assert_no_violations().await;
}

/// OWN-5, REQ-2
#[tokio::test]
async fn a_call_in_flight_outlives_the_owner_of_its_session() {
    let mut cluster = quick().start().await;
    let session = Session::begin(cluster.addr(0)).await;
    let mut stream = session.call(cluster.addr(0), &with_progress(1, 700)).await;
    let mut elsewhere = session.call(cluster.addr(1), &with_progress(2, 700)).await;
    let cursor = primed(&mut stream).await;
    cluster.routers[0].kill();
    assert_eq!(stream.end().await, StreamEnd::Abrupt);
    let mut resumed = session.listen(cluster.addr(1), Some(&cursor)).await;
    for (stream, id) in [(&mut resumed, 1), (&mut elsewhere, 2)] {
        let messages = to_the_end(stream).await;
        assert!(is_answer(messages.last().unwrap(), id), "{messages:?}");
        assert_eq!(messages.iter().filter(|message| message.get("id").is_some()).count(), 1, "{messages:?}");
    }
    cluster.assert_no_violations().await;
}

/// REQ-6: nginx gives each try of one request the same name.
#[tokio::test]
async fn a_post_that_is_tried_again_at_another_instance_runs_once_and_has_its_answer() {
    let cluster = quick().start().await;
    let session = Session::begin(cluster.addr(0)).await;
    let call = tool_call("once", "increment", json!({ "key": "tried twice" }));
    let request = session.of(post(&call)).header("x-mcp-request-try", "one-name");
    let first = request.send(cluster.addr(0)).await;
    assert_eq!(first.json()["result"]["structuredContent"]["value"], 1, "{}", first.text());
    for instance in [1, 0, 1] {
        assert_eq!(request.send(cluster.addr(instance)).await.json(), first.json(), "instance {instance}");
    }
    assert_eq!(cluster.counts()["tried twice"], 1);
    cluster.assert_no_violations().await;
}

#[tokio::test]
async fn what_a_server_asks_while_it_works_on_a_call_is_asked_on_that_calls_stream() {
    let cluster = quick().start().await;
    let session = Session::begin(cluster.addr(0)).await;
    let mut stream = session.call(cluster.addr(0), &tool_call(1, "ask_client", json!({ "prompt": "who?" }))).await;
    primed(&mut stream).await;
    let question = message(&stream.event().await);
    assert_eq!(question["method"], "sampling/createMessage", "{question}");
    let said = json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "me" } });
    let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": said });
    // At whichever instance.
    assert_eq!(session.send(cluster.addr(1), &answer).await.status, 202);
    let messages = to_the_end(&mut stream).await;
    assert!(messages.last().unwrap()["result"].to_string().contains("me"), "{messages:?}");
    cluster.assert_no_violations().await;
}

/// OWN-7
#[tokio::test]
async fn the_newest_get_shows_the_main_stream_and_an_older_one_goes_on_when_it_has_gone() {
    let upstream = FakeUpstream::start().await;
    let cluster = quick().upstream_urls([upstream.url()]).start().await;
    let session = Session::begin(cluster.addr(0)).await;
    let at_server = upstream.open_sessions()[0];
    let note = |number: u64| json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": number } });
    let mut older = session.listen(cluster.addr(0), None).await;
    primed(&mut older).await;
    upstream.send(at_server, &note(1)).await;
    assert_eq!(message(&older.event().await), note(1));
    let mut newer = session.listen(cluster.addr(1), None).await;
    primed(&mut newer).await;
    upstream.send(at_server, &note(2)).await;
    // Without a cursor it is not known here how far the other one has come.
    let first = message(&newer.event().await);
    assert!(first == note(2) || (first == note(1) && message(&newer.event().await) == note(2)), "{first}");
    newer.reset();
    // It has its place back after a while, and is given what the other one may have lost, and what came meanwhile.
    upstream.send(at_server, &note(3)).await;
    assert_eq!(message(&older.event().await), note(2));
    assert_eq!(message(&older.event().await), note(3));
    cluster.assert_no_violations().await;
}

/// The Python SDK gives a stream up for good at its second break; a clean end lets it count anew.
#[tokio::test]
async fn a_stream_that_breaks_for_a_client_which_counts_breaks_ends_cleanly_once() {
    let cluster = quick().start().await;
    let session = Session::begin(cluster.addr(0)).await;
    let mut broken = session.call(cluster.addr(0), &with_progress(1, 1000)).await;
    let cursor = primed(&mut broken).await;
    broken.reset();
    let listen = |cursor: &str| {
        session.of(Request::get(MCP)).header("last-event-id", cursor).header("user-agent", "python-httpx/0.28.1")
    };
    let mut ended = EventStream::open(cluster.addr(1), &listen(&cursor)).await;
    let mut cursors = Vec::new();
    let end = loop {
        match ended.next().await {
            Item::Event(event) => cursors.extend(event.id),
            Item::Comment(_) => {}
            Item::End(end) => break end,
        }
    };
    assert_eq!((end, ended.retry_ms()), (StreamEnd::Clean, Some(100)));
    let mut resumed = EventStream::open(cluster.addr(0), &listen(cursors.last().unwrap())).await;
    let messages = to_the_end(&mut resumed).await;
    assert!(is_answer(messages.last().unwrap(), 1), "{messages:?}");
    cluster.assert_no_violations().await;
}

/// DRN-1, DRN-2: streams end cleanly (their clients come back when they are told to), and calls have their answers.
#[tokio::test]
async fn an_instance_that_is_told_to_go_leaves_every_call_its_answer() {
    let mut cluster = quick().start().await;
    let session = Session::begin(cluster.addr(0)).await;
    let mut main = session.listen(cluster.addr(0), None).await;
    let mut stream = session.call(cluster.addr(0), &with_progress(1, 700)).await;
    let ai_sdk = Session::begin(cluster.addr(0)).await;
    let listen = ai_sdk.of(Request::get(MCP)).header("user-agent", "ai-sdk/2.0.99 ai-sdk/provider-utils/3.0.0");
    let mut of_ai_sdk = EventStream::open(cluster.addr(0), &listen).await;
    let cursor = primed(&mut stream).await;
    let increment = session.of(post(&tool_call(2, "increment", json!({ "key": "drained" }))));
    let addr = cluster.addr(0);
    let (increased, ()) = futures_util::future::join(increment.send(addr), async {
        cluster.routers[0].process().signal("TERM");
    })
    .await;
    if increased.status != 200 {
        // As nginx does with what an instance that goes down does not take.
        assert_eq!(increased.status, 503, "{}", increased.text());
        assert_eq!(increment.send(cluster.addr(1)).await.status, 200);
    }
    assert_eq!(main.end().await, StreamEnd::Clean);
    assert_eq!(of_ai_sdk.end().await, StreamEnd::Abrupt, "it never comes back after a clean one");
    let mut messages = Vec::new();
    let end = loop {
        match stream.next().await {
            Item::Event(event) => messages.push(message(&event)),
            Item::Comment(_) => {}
            Item::End(end) => break end,
        }
    };
    assert_eq!(end, StreamEnd::Clean);
    if !messages.iter().any(|message| is_answer(message, 1)) {
        messages = to_the_end(&mut session.listen(cluster.addr(1), Some(&cursor)).await).await;
    }
    assert_eq!(messages.iter().filter(|message| is_answer(message, 1)).count(), 1, "{messages:?}");
    assert_eq!(cluster.routers[0].process().exit_code().await, Some(0));
    let mut next = session.call(cluster.addr(1), &with_progress(3, 50)).await;
    assert!(is_answer(to_the_end(&mut next).await.last().unwrap(), 3));
    assert_eq!(cluster.counts()["drained"], 1);
    cluster.assert_no_violations().await;
}

/// MCP, Protocol Version Header: the version is the one that was agreed on, at whatever instance and for whatever is asked.
#[tokio::test]
async fn a_version_other_than_the_one_agreed_on_is_refused_everywhere() {
    let mut cluster = quick().start().await;
    let session = Session::of_version(cluster.addr(0), "2025-06-18").await;
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
    let note = json!({ "jsonrpc": "2.0", "method": "notifications/roots/list_changed" });
    let naming = |request: Request, version| session.of(request).header("mcp-protocol-version", version);
    let get = || Request::get(MCP).header("accept", "text/event-stream");
    let refused = async |addr: SocketAddr| {
        for version in ["2025-11-25", "2024-11-05"] {
            for (name, request) in [
                ("a request", post(&list)),
                ("a notification", post(&note)),
                ("the handshake again", post(&offering("2025-06-18"))),
                ("the main stream", get()),
                ("a stream that goes on", get().header("last-event-id", "x")),
                ("the end", Request::delete(MCP)),
            ] {
                let response = naming(request, version).send(addr).await;
                let reason = response.json()["error"]["data"]["reason"].as_str().map(str::to_owned);
                assert_eq!((response.status, reason.as_deref()), (400, Some("other_version")), "{name} {version}");
            }
        }
        // Stock clients name the right one or none, and the conformance suite the version of those who name none.
        for version in ["2025-06-18", "2025-03-26"] {
            assert_eq!(naming(post(&list), version).send(addr).await.status, 200);
        }
        assert_eq!(post(&list).header("mcp-session-id", &session.0).send(addr).await.status, 200);
    };
    refused(cluster.addr(0)).await;
    refused(cluster.addr(1)).await;
    // Its heir has it from the record.
    cluster.routers[0].kill();
    refused(cluster.addr(1)).await;
    assert_eq!(naming(Request::delete(MCP), "2025-06-18").send(cluster.addr(1)).await.status, 204);
    cluster.assert_no_violations().await;
}

fn batch(messages: &[Value], accept: &str) -> Request {
    Request::post(MCP, Value::from(messages.to_vec()).to_string()).header("accept", accept)
}

#[tokio::test]
async fn an_array_of_messages_is_for_the_one_version_that_has_it() {
    let cluster = quick().start().await;
    let addr = cluster.addr(0);
    let session = Session::of_version(addr, "2025-03-26").await;
    let of = |request: Request| request.header("mcp-session-id", &session.0);
    let later = Session::begin(addr).await;
    let note = json!({ "jsonrpc": "2.0", "method": "notifications/roots/list_changed" });
    let calls = [with_progress(1, 100), note.clone(), with_progress(2, 50)];
    assert_eq!(of(batch(&[note.clone(), note.clone()], BOTH)).send(addr).await.status, 202);
    for instance in [0, 1] {
        let mut calls = calls.clone();
        (calls[0]["id"], calls[2]["id"]) = (json!(10 + instance), json!(20 + instance));
        let both = of(batch(&calls, "text/event-stream"));
        let mut stream = EventStream::open(cluster.addr(instance), &both).await;
        let mut answers: Vec<_> =
            to_the_end(&mut stream).await.iter().filter_map(|message| message["id"].as_u64()).collect();
        answers.sort_unstable();
        assert_eq!(answers, [10 + instance as u64, 20 + instance as u64]);
    }
    let whole = of(batch(&calls, "application/json")).send(addr).await;
    let answers: Vec<_> = whole.json().as_array().unwrap().iter().map(|answer| answer["id"].clone()).collect();
    assert_eq!((whole.status, answers), (200, vec![json!(1), json!(2)]));
    for (name, request) in [
        ("a later version", later.of(batch(&calls, BOTH))),
        ("a later version, unnamed", batch(&calls, BOTH).header("mcp-session-id", &later.0)),
        ("of that version, it says", later.of(batch(&calls, BOTH)).header("mcp-protocol-version", "2025-03-26")),
        ("nothing", of(batch(&[], BOTH))),
        ("a handshake", of(batch(&[initialize()], BOTH))),
    ] {
        assert_eq!(request.send(addr).await.status, 400, "{name}");
    }
    cluster.assert_no_violations().await;
}

/// EVT-8: an answer that an heir has fetched, and that the client is given by the POST which nginx tries again at instance `at`.
async fn an_heir_does_not_say_again_what_was_shown(at: usize) {
    let builder = quick().routers(3).env("MCP_ANSWER_GRACE", "1200ms");
    let mut cluster = builder.start().await;
    let session = Session::begin(cluster.addr(0)).await;
    let call = tool_call(1, "wait", json!({ "ms": 300, "text": "call 1" })).to_string();
    let call = session.of(Request::post(MCP, call)).header("x-mcp-request-try", "one-name");
    let mut first = EventStream::open(cluster.addr(0), &call).await;
    primed(&mut first).await;
    cluster.routers[0].kill();
    let mut main = session.listen(cluster.addr(2), None).await;
    primed(&mut main).await;
    let has_answer = || async {
        let told = http::get(cluster.addr(2), &format!("/mcp/router/sessions/{}", session.0)).await.json();
        (told["here"]["in_flight"].as_u64(), told["here"]["last_seq"].as_u64()) == (Some(0), Some(2))
    };
    eventually("the heir has the answer", has_answer).await;
    assert!(is_answer(&call.send(cluster.addr(at)).await.json(), 1));
    let moved = tokio::time::timeout(Duration::from_secs(2), main.event()).await;
    assert!(moved.is_err(), "it was delivered: {moved:?}");
    cluster.assert_no_violations().await;
}

#[tokio::test]
async fn an_heir_does_not_say_again_what_was_shown_here() {
    an_heir_does_not_say_again_what_was_shown(2).await;
}

#[tokio::test]
async fn an_heir_does_not_say_again_what_was_shown_elsewhere() {
    an_heir_does_not_say_again_what_was_shown(1).await;
}

/// OWN-6: the stale record of who showed the first try does not silence the second.
#[tokio::test]
async fn a_try_at_the_owner_has_the_answer_although_the_one_before_died_elsewhere() {
    let mut cluster = quick().routers(3).start().await;
    let session = Session::begin(cluster.addr(0)).await;
    let call =
        session.of(Request::post(MCP, with_progress(1, 1200).to_string())).header("x-mcp-request-try", "one-name");
    let mut first = EventStream::open(cluster.addr(1), &call).await;
    primed(&mut first).await;
    cluster.routers[1].kill();
    let mut again = EventStream::open(cluster.addr(0), &call).await;
    // By which the owner looks into the store.
    let ping = json!({ "jsonrpc": "2.0", "id": 2, "method": "ping" });
    assert_eq!(session.send(cluster.addr(2), &ping).await.status, 200);
    let messages = soon("the answer", to_the_end(&mut again)).await;
    assert!(is_answer(messages.last().unwrap(), 1));
    cluster.assert_no_violations().await;
}
