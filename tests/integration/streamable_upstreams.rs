//! Servers that speak Streamable HTTP (MCP 2025-03-26 to 2025-11-25): the router is their client, and whoever talks to the
//! router notices no difference.

use serde_json::{Value, json};

use crate::harness::{
    Cluster, FakeUpstream, McpClient, Oracle, PostTo, RedisClient, StreamableUpstream, eventually,
    http::Request,
    mcp_client::tool_call,
    odd_upstream::Gate,
    streamable_upstream::{Act, Manner, Seen, response},
};

const REST: &str = "/mcp/router/route/mcp-server-v6";

fn text(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }] })
}

fn named(call: &Value) -> String {
    call["params"]["name"].as_str().unwrap_or_default().to_owned()
}

fn calls(name: &str) -> Value {
    json!({ "name": name, "arguments": {} })
}

/// Answers each call with the name of its tool: as JSON, or as an event if the name begins with an `e`.
fn in_both_forms(call: &Value) -> Vec<Act> {
    let name = named(call);
    if name.starts_with('e') {
        vec![Act::Prime, Act::result(call, &text(&name))]
    } else {
        vec![Act::Json(response(call, &text(&name)))]
    }
}

async fn behind(upstream: &StreamableUpstream) -> Cluster {
    Cluster::builder().upstream_urls([upstream.url()]).start().await
}

/// MCP, "Session Management" and "Protocol Version Header": each message is a POST that takes both forms of an answer, and
/// from `initialize` on names the session and the version.
#[tokio::test]
async fn a_client_of_the_old_transport_calls_tools_of_a_streamable_server() {
    let upstream = StreamableUpstream::calls(in_both_forms).await;
    let cluster = behind(&upstream).await;
    let client = cluster.client().initialize().await;
    for tool in ["json", "event", "json", "event"] {
        let result = client.result("tools/call", calls(tool)).await;
        assert_eq!(result["content"][0]["text"], tool);
    }
    let session = upstream.sessions()[0].clone();
    for post in upstream.seen_with("POST") {
        let accept = post.header("accept").unwrap();
        assert!(accept.contains("application/json") && accept.contains("text/event-stream"), "{accept}");
        assert_eq!(post.header("content-type"), Some("application/json"));
        assert_eq!(post.header("host"), Some(&*upstream.addr().to_string()));
        let is_first = post.json["method"] == "initialize";
        assert_eq!(post.session(), (!is_first).then_some(&*session), "{}", post.json);
        assert_eq!(post.header("mcp-protocol-version"), (!is_first).then_some("2025-11-25"), "{}", post.json);
    }
    assert_eq!(upstream.posts("initialize").len(), 1);
    assert_eq!(upstream.posts("notifications/initialized").len(), 1);
    Oracle::every_request_answered_once(&client);
}

/// Sessions are optional.
#[tokio::test]
async fn a_server_without_sessions_is_sent_none() {
    let manner = Manner { has_sessions: false, has_stream: false, ..Manner::default() };
    let upstream = StreamableUpstream::start(manner, in_both_forms).await;
    let cluster = behind(&upstream).await;
    let client = cluster.client().initialize().await;
    assert_eq!(client.result("tools/call", calls("event")).await["content"][0]["text"], "event");
    assert!(upstream.seen().iter().all(|seen| seen.session().is_none()));
}

/// What a server says in the answer to a call before the result is passed on, in order, while the call runs.
#[tokio::test]
async fn what_comes_before_the_answer_is_passed_on_at_once() {
    let gate = Gate::new();
    let waits = gate.clone();
    let note =
        |number: usize| json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "data": number } });
    let upstream = StreamableUpstream::calls(move |call| {
        vec![
            Act::Event(note(1)),
            Act::Plain(note(2)),
            Act::Wait(waits.clone()),
            Act::Event(note(3)),
            Act::result(call, &text("done")),
        ]
    })
    .await;
    let cluster = behind(&upstream).await;
    let client = cluster.client().initialize().await;
    let call = client.start_call("write", json!({})).await;
    client.message("the second note", |message| message["params"]["data"] == 2).await;
    gate.open();
    assert_eq!(client.response(call).await["result"]["content"][0]["text"], "done");
    assert_eq!(client.notifications("notifications/message"), [note(1), note(2), note(3)]);
}

/// A session that the server does not know any more (404, or 400 that says so) is begun anew with the client's own words,
/// and the message that met it is sent again: it was not executed.
#[tokio::test]
async fn a_session_that_the_server_has_forgotten_is_begun_anew() {
    let words = r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#;
    for unknown_session in [Manner::default().unknown_session, ("400 Bad Request", words)] {
        let upstream = StreamableUpstream::start(Manner { unknown_session, ..Manner::default() }, in_both_forms).await;
        let cluster = behind(&upstream).await;
        let client = cluster.client().initialize().await;
        let before = upstream.sessions();
        upstream.forget_sessions();
        assert_eq!(client.result("tools/call", calls("write")).await["content"][0]["text"], "write");
        assert_ne!(upstream.sessions(), before);
        let begun = upstream.posts("initialize");
        assert_eq!(begun.len(), 2);
        assert_eq!(begun[0].json["params"], begun[1].json["params"], "the client's own");
        assert!(begun[1].session().is_none());
        upstream.wait_for("notifications/initialized", 2).await;
        Oracle::every_request_answered_once(&client);
    }
}

/// An event stream that ends without the answer is no answer, and without an id there is nothing to resume by: what only
/// reads is sent again, and of the rest the client is told that nobody knows.
#[tokio::test]
async fn a_stream_without_the_answer_and_without_an_id_leaves_the_outcome_unknown() {
    for end in [Act::Close, Act::Break] {
        let upstream = StreamableUpstream::calls(move |call| {
            let is_second = call["params"]["arguments"]["again"] == true;
            if named(call) == "read" && is_second {
                return vec![Act::result(call, &text("read"))];
            }
            vec![Act::Plain(json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": {} })), end.clone()]
        })
        .await;
        let cluster = behind(&upstream).await;
        let client = cluster.client().initialize().await;
        let call = client.start_call("write", json!({})).await;
        let error = client.response(call).await["error"].clone();
        assert_eq!((&error["code"], &error["data"]["outcome"]), (&json!(-32001), &json!("unknown")), "{error}");
        assert_eq!(upstream.posts("tools/call").len(), 1, "it may have had its effect");
        client.start_call("read", json!({})).await;
        upstream.until("the read-only call again", |server| server.posts("tools/call").len() >= 3).await;
    }
}

/// MCP, "Backwards Compatibility": where the URL does not say it the server does, whichever transport it speaks.
#[tokio::test]
async fn a_url_that_says_nothing_is_asked_which_transport_it_speaks() {
    let manner = Manner { path: "/somewhere", ..Manner::default() };
    let upstream = StreamableUpstream::start(manner, in_both_forms).await;
    let cluster = behind(&upstream).await;
    let client = cluster.client().initialize().await;
    assert_eq!(client.result("tools/call", calls("event")).await["content"][0]["text"], "event");
    assert!(upstream.seen_with("POST").len() >= 3);

    let old = FakeUpstream::start().await;
    let url = old.url().replace("/sse", "/somewhere");
    let cluster = Cluster::builder().upstream_urls([url]).start().await;
    for _ in 0..2 {
        let client = cluster.client().initialize().await;
        client.result("tools/call", calls("x")).await;
    }
    assert_eq!(old.open_sessions().len(), 2);
}

/// `MCP_UPSTREAM_TRANSPORT` is for URLs that say the wrong thing.
#[tokio::test]
async fn the_transport_can_be_set() {
    let manner = Manner { path: "/a/sse", ..Manner::default() };
    let upstream = StreamableUpstream::start(manner, in_both_forms).await;
    let cluster =
        Cluster::builder().upstream_urls([upstream.url()]).env("MCP_UPSTREAM_TRANSPORT", "streamable").start().await;
    let client = cluster.client().initialize().await;
    assert_eq!(client.result("tools/call", calls("json")).await["content"][0]["text"], "json");
}

/// REST callers and health checks use the router's own session, over Streamable HTTP as well.
#[tokio::test]
async fn rest_calls_and_health_checks_pass_over_streamable_http() {
    let upstream = StreamableUpstream::calls(in_both_forms).await;
    let cluster =
        Cluster::builder().upstream_urls([upstream.url()]).env("MCP_UPSTREAM_HEALTH_INTERVAL", "50ms").start().await;
    for tool in ["json", "event"] {
        let call = json!({ "jsonrpc": "2.0", "id": tool, "method": "tools/call", "params": calls(tool) });
        let answer = Request::post(REST, call.to_string()).send(cluster.addr(0)).await;
        assert_eq!(answer.status, 200, "{tool}");
        assert_eq!((&answer.json()["id"], &answer.json()["result"]), (&json!(tool), &text(tool)));
    }
    upstream.until("health checks", |server| server.own_posts("ping") >= 3).await;
    upstream.forget_sessions();
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": calls("json") });
    assert_eq!(Request::post(REST, call.to_string()).send(cluster.addr(0)).await.status, 200, "on a new session");
}

fn note(number: usize) -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": number } })
}

async fn has_resumable(redis: &RedisClient, client: &McpClient) -> bool {
    redis.fields(&client.session()).await.keys().any(|field| field.starts_with("rs:"))
}

fn notes(client: &McpClient) -> Vec<Value> {
    client.notifications("notifications/message").iter().map(|note| note["params"]["data"].clone()).collect()
}

/// MCP, "Listening for Messages from the Server": what is related to no request comes on the session's own stream, which is
/// asked for once the client is initialised, and again, behind the last event, whenever it ends.
#[tokio::test]
async fn the_servers_own_stream_is_shown_and_resumed() {
    let upstream = StreamableUpstream::calls(in_both_forms).await;
    let cluster = behind(&upstream).await;
    let client = cluster.client().initialize().await;
    let session = upstream.sessions()[0].clone();
    upstream.listened(&session).await;
    upstream.say(&session, &note(1));
    client.message("the first", |message| message["params"]["data"] == 1).await;
    upstream.end_streams();
    upstream.until("nobody listens", |server| server.listeners(&session) == 0).await;
    upstream.say(&session, &note(2));
    client.message("the second", |message| message["params"]["data"] == 2).await;
    upstream.say(&session, &note(3));
    client.message("the third", |message| message["params"]["data"] == 3).await;
    assert_eq!(notes(&client), [1, 2, 3]);
    let gets = upstream.seen_with("GET");
    assert_eq!((gets[0].header("last-event-id"), gets[0].session()), (None, Some(&*session)));
    assert_eq!(gets[0].header("mcp-protocol-version"), Some("2025-11-25"));
    assert_eq!(gets[0].header("accept"), Some("text/event-stream"));
    assert!(gets.last().unwrap().header("last-event-id").is_some_and(|id| id.ends_with("/0")), "{gets:?}");
    assert_eq!(upstream.listeners(&session), 1, "one at a time");
}

/// A server without such a stream (405) is asked once.
#[tokio::test]
async fn a_server_without_a_stream_of_its_own_is_not_asked_again() {
    let manner = Manner { has_stream: false, ..Manner::default() };
    let upstream = StreamableUpstream::start(manner, in_both_forms).await;
    let cluster = behind(&upstream).await;
    let client = cluster.client().initialize().await;
    upstream.until("a GET", |server| !server.seen_with("GET").is_empty()).await;
    for _ in 0..3 {
        client.result("tools/call", calls("event")).await;
    }
    assert_eq!(upstream.seen_with("GET").len(), 1);
}

/// MCP, "Session Management": the server is told when a session is over for good.
#[tokio::test]
async fn the_end_of_a_session_is_told_to_the_server() {
    let upstream = StreamableUpstream::calls(in_both_forms).await;
    let cluster = behind(&upstream).await;
    let client = cluster.client().initialize().await;
    let session = upstream.sessions()[0].clone();
    let path = format!("/mcp/router/sessions/{}", client.session());
    assert_eq!(Request::delete(path).send(cluster.addr(0)).await.status, 204);
    upstream.until("a DELETE", |server| server.sessions().is_empty()).await;
    assert_eq!(upstream.seen_with("DELETE")[0].session(), Some(&*session));
}

/// MCP 2025-11-25, "Polling": a stream that ends without the response is asked for again behind its last event, not before
/// the time that the server has named, and as often as that brings something; its answer is the call's, and it ran once.
#[tokio::test]
async fn an_answer_that_breaks_off_is_resumed_by_its_event_id() {
    for (end, hop) in [(Act::Close, None), (Act::Break, None), (Act::Close, Some(1))] {
        let gate = Gate::new();
        let waits = gate.clone();
        let manner = Manner { hop, ..Manner::default() };
        let upstream = StreamableUpstream::start(manner, move |call| {
            vec![
                Act::Raw("retry: 30\n".to_owned()),
                Act::Prime,
                Act::Event(note(1)),
                end.clone(),
                Act::Event(note(2)),
                Act::Wait(waits.clone()),
                Act::Event(note(3)),
                Act::result(call, &text("done")),
                Act::Event(note(4)),
            ]
        })
        .await;
        let cluster = behind(&upstream).await;
        let client = cluster.client().initialize().await;
        let call = client.start_call("write", json!({})).await;
        client.message("what follows", |message| message["params"]["data"] == 2).await;
        gate.open();
        assert_eq!(client.response(call).await["result"]["content"][0]["text"], "done");
        assert_eq!(notes(&client), [1, 2, 3]);
        assert_eq!(upstream.posts("tools/call").len(), 1, "it ran once");
        assert_eq!(upstream.posts("initialize").len(), 1);
        Oracle::every_request_answered_once(&client);
    }
}

/// REST calls are resumed as well.
#[tokio::test]
async fn the_answer_to_a_rest_call_that_breaks_off_is_resumed() {
    let upstream =
        StreamableUpstream::calls(|call| vec![Act::Prime, Act::Close, Act::result(call, &text("done"))]).await;
    let cluster = behind(&upstream).await;
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": calls("write") });
    let answer = Request::post(REST, call.to_string()).send(cluster.addr(0)).await;
    assert_eq!((answer.status, &answer.json()["result"]), (200, &text("done")));
}

/// OWN-5, REQ-3: an instance dies while the server works on a call. The next owner goes on with the same upstream session,
/// without a handshake, and with the answer: the call ran once, nothing is lost and nothing comes twice.
#[tokio::test]
async fn a_call_in_flight_outlives_the_instance_that_sent_it() {
    let gate = Gate::new();
    let waits = gate.clone();
    let upstream = StreamableUpstream::calls(move |call| {
        vec![
            Act::Prime,
            Act::Event(note(1)),
            Act::Wait(waits.clone()),
            Act::Event(note(2)),
            Act::result(call, &text("done")),
        ]
    })
    .await;
    let mut cluster = Cluster::builder()
        .routers(2)
        .upstream_urls([upstream.url()])
        .env("MCP_RETRY_MIN", "10ms")
        .env("MCP_RETRY_MAX", "30ms")
        .start()
        .await;
    let client = cluster.client().post_to(PostTo::Only(0)).initialize().await;
    let session = upstream.sessions()[0].clone();
    upstream.listened(&session).await;
    let call = client.start_call("write", json!({})).await;
    client.message("the first", |message| message["params"]["data"] == 1).await;
    cluster.routers[0].kill();
    let resumed = |server: &StreamableUpstream| {
        server.seen_with("GET").iter().filter(|get| get.header("last-event-id").is_some()).count()
    };
    upstream.until("the stream of the call resumed", |server| resumed(server) >= 1).await;
    gate.open();
    assert_eq!(client.response(call).await["result"]["content"][0]["text"], "done");
    assert_eq!(notes(&client), [1, 2]);
    assert_eq!(upstream.posts("tools/call").len(), 1, "it ran once");
    assert_eq!(upstream.posts("initialize").len(), 1, "the same upstream session");
    assert_eq!(upstream.sessions(), std::slice::from_ref(&session));
    upstream.listened(&session).await;
    upstream.say(&session, &note(3));
    client.message("what comes later", |message| message["params"]["data"] == 3).await;
    Oracle::every_request_answered_once(&client);
    cluster.assert_no_violations().await;
}

/// The same where nothing but the priming event has come.
#[tokio::test]
async fn a_call_of_which_only_the_priming_event_has_come_outlives_its_instance() {
    let gate = Gate::new();
    let waits = gate.clone();
    let upstream = StreamableUpstream::calls(move |call| {
        vec![Act::Prime, Act::Wait(waits.clone()), Act::result(call, &text("done"))]
    })
    .await;
    let mut cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().post_to(PostTo::Only(0)).initialize().await;
    let call = client.start_call("write", json!({})).await;
    upstream.wait_for("tools/call", 1).await;
    let redis = cluster.redis_client().await;
    eventually("the event id on record", || async { has_resumable(&redis, &client).await }).await;
    cluster.routers[0].kill();
    gate.open();
    assert_eq!(client.response(call).await["result"]["content"][0]["text"], "done");
    assert_eq!(upstream.posts("tools/call").len(), 1, "it ran once");
    eventually("nothing of it on record", || async { !has_resumable(&redis, &client).await }).await;
}

/// An heir whose server does not know the session any more begins it anew, with the client's own words.
#[tokio::test]
async fn an_heir_of_a_session_that_the_server_has_forgotten_begins_it_anew() {
    let upstream = StreamableUpstream::calls(in_both_forms).await;
    let mut cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().post_to(PostTo::Only(0)).initialize().await;
    upstream.listened(&upstream.sessions()[0]).await;
    upstream.forget_sessions();
    cluster.routers[0].kill();
    upstream.wait_for("initialize", 2).await;
    client.connection_count(2).await;
    client.post_at(cluster.addr(1), &tool_call("again", "write", json!({}))).await;
    assert_eq!(client.response_to(&json!("again")).await["result"]["content"][0]["text"], "write");
}

/// A question that the server has asked within a call is answered by the next owner of the session, even if the client gives
/// its answer before there is one.
#[tokio::test]
async fn the_answer_to_a_question_reaches_the_server_by_the_next_owner() {
    let gate = Gate::new();
    let waits = gate.clone();
    let question = json!({ "jsonrpc": "2.0", "id": 7, "method": "sampling/createMessage", "params": {} });
    let asks = question.clone();
    let upstream = StreamableUpstream::calls(move |call| {
        vec![Act::Prime, Act::Event(asks.clone()), Act::Wait(waits.clone()), Act::result(call, &text("done"))]
    })
    .await;
    let mut cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().post_to(PostTo::Only(0)).initialize().await;
    let call = client.start_call("write", json!({})).await;
    let asked = client.message("the question", |message| message["method"] == "sampling/createMessage").await;
    cluster.routers[0].kill();
    let answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "by": "client" } });
    client.post_at(cluster.addr(1), &answer).await;
    let is_answer = |seen: &Seen| seen.json["id"] == 7 && seen.json["result"]["by"] == "client";
    upstream.until("the answer", |server| server.seen_with("POST").iter().any(is_answer)).await;
    gate.open();
    assert_eq!(client.response(call).await["result"]["content"][0]["text"], "done");
    assert_eq!(upstream.seen_with("POST").iter().filter(|seen| is_answer(seen)).count(), 1);
    assert_eq!(upstream.posts("tools/call").len(), 1, "it ran once");
    Oracle::every_request_answered_once(&client);
}

/// What passes over HTTP+SSE passes over Streamable HTTP: progress, questions of the server, cancellation, large answers.
#[tokio::test]
async fn the_reference_server_is_used_over_streamable_http() {
    let cluster = Cluster::builder().streamable().start().await;
    let client = cluster.client().samples("from the client").initialize().await;
    assert_eq!(client.text("echo", json!({ "text": "é" })).await, "é");
    assert_eq!(client.text("ask_client", json!({ "prompt": "?" })).await, "from the client");
    let params = json!({ "name": "wait", "arguments": { "ms": 80 }, "_meta": { "progressToken": "p" } });
    client.result("tools/call", params).await;
    let progress = client.notifications("notifications/progress");
    assert!(!progress.is_empty() && progress.iter().all(|told| told["params"]["progressToken"] == "p"), "{progress:?}");
    assert_eq!(client.text("wait", json!({ "ms": 80, "text": "resumed", "hangUp": true })).await, "resumed");
    assert_eq!(client.text("payload", json!({ "bytes": 300_000 })).await.len(), 300_000);
    let cancelled = client.start_call("wait", json!({ "ms": 30_000 })).await;
    client.notify("notifications/cancelled", json!({ "requestId": cancelled })).await;
    client.text("echo", json!({ "text": "still here" })).await;
    assert_eq!(client.response_now(cancelled), None);
}

/// REQ-3, OWN-5: instances die again and again with a call in flight that must not run twice; each is answered with its own
/// answer.
#[tokio::test]
async fn calls_in_flight_at_the_reference_server_outlive_their_instances() {
    let mut cluster = Cluster::builder()
        .routers(2)
        .streamable()
        .env("MCP_RETRY_MIN", "10ms")
        .env("MCP_RETRY_MAX", "30ms")
        .start()
        .await;
    let client = cluster.client().initialize().await;
    let redis = cluster.redis_client().await;
    let upstream_session = redis.field(&client.session(), "upstream_session").await;
    assert!(
        upstream_session.as_ref().is_some_and(|session| session.starts_with("2025-11-25 ")),
        "{upstream_session:?}"
    );
    for round in 0..3 {
        let owner = redis.field(&client.session(), "owner").await.unwrap();
        let dies = usize::from(owner != "router-instance-1");
        let wait = format!("wait {round}");
        let call = tool_call(wait.as_str(), "wait", json!({ "ms": 800, "text": wait }));
        client.post_at(cluster.addr(dies), &call).await;
        eventually("the event id on record", || async { has_resumable(&redis, &client).await }).await;
        cluster.routers[dies].kill();
        let answer = client.response_to(&json!(wait)).await;
        assert_eq!(answer["result"]["content"][0]["text"], wait, "{answer}");
        cluster.routers[dies].restart().await;
    }
    Oracle::every_request_answered_once(&client);
    Oracle::exactly_once(&client);
    assert_eq!(redis.field(&client.session(), "upstream_session").await, upstream_session, "the same one all along");
}

/// A client that has called without a handshake may begin one later: with a server session of its own, since servers of
/// Streamable HTTP refuse a second `initialize`.
#[tokio::test]
async fn a_handshake_that_comes_late_begins_another_server_session() {
    let upstream = StreamableUpstream::calls(in_both_forms).await;
    let cluster = behind(&upstream).await;
    let client = cluster.client().connect().await;
    assert_eq!(client.result("tools/call", calls("json")).await["content"][0]["text"], "json");
    client.handshake().await;
    assert_eq!(client.result("tools/call", calls("event")).await["content"][0]["text"], "event");
    upstream.until("the router's session ended", |server| server.ended_sessions() == 1).await;
    assert_eq!(upstream.sessions().len(), 1, "the client's own");
    let begun = upstream.posts("initialize");
    assert_eq!(begun.last().unwrap().json["params"]["clientInfo"]["name"], "test");
    assert!(begun.iter().all(|post| post.session().is_none()));
}

/// One server of two dies: sessions that were on it go on at the other, with a handshake of the router's, and calls that only
/// read are run again there; of others the client is told that nobody knows, and they never run twice.
#[tokio::test]
async fn the_death_of_one_streamable_server_costs_no_session() {
    let mut cluster = Cluster::builder()
        .upstreams(2)
        .streamable()
        .env("MCP_UPSTREAM_HEALTH_INTERVAL", "50ms")
        .env("MCP_UPSTREAM_BACKOFF_MIN", "20ms")
        .env("MCP_UPSTREAM_BACKOFF_MAX", "100ms")
        .start()
        .await;
    let clients = futures_util::future::join_all((0..6).map(|_| cluster.client().initialize())).await;
    let mut open = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        open.push(client.start_call("wait", json!({ "ms": 700, "text": format!("{number}") })).await);
    }
    // Increments that the first server has been sent and not answered when it dies.
    cluster.upstreams[0].freeze();
    let redis = cluster.redis_client().await;
    for (number, client) in clients.iter().enumerate() {
        let key = format!("key-{number}");
        client.post(&tool_call(key.as_str(), "increment", json!({ "key": key }))).await;
        eventually("an increment forwarded or answered", || async {
            let pending = redis.pending(&client.session()).await;
            pending.iter().all(|(id, _, forwarded)| *id != format!("\"{key}\"") || *forwarded)
        })
        .await;
    }
    cluster.upstreams[0].kill();
    let mut unknown = 0;
    for (number, (client, call)) in clients.iter().zip(open).enumerate() {
        assert_eq!(client.response(call).await["result"]["content"][0]["text"], format!("{number}"));
        let key = format!("key-{number}");
        let answer = client.response_to(&json!(key)).await;
        let runs = cluster.counts().get(&key).copied().unwrap_or(0);
        match answer["error"]["code"].as_i64() {
            None => assert_eq!(runs, 1, "{answer}"),
            Some(-32001) => {
                unknown += 1;
                assert!(runs <= 1);
            }
            Some(_) => panic!("{answer}"),
        }
        assert_eq!(client.text("echo", json!({ "text": "still here" })).await, "still here");
        Oracle::every_request_answered_once(client);
    }
    assert!((1..clients.len()).contains(&unknown), "{unknown}: those of the sessions that were on the first server");
}

/// While its client is gone a session gives back the connection that shows the server's own stream, and nothing else: the
/// server session goes on when the client returns.
#[tokio::test]
async fn a_session_without_its_client_gives_back_the_stream_and_keeps_the_server_session() {
    let upstream = StreamableUpstream::calls(in_both_forms).await;
    let cluster = Cluster::builder()
        .without_redis()
        .upstream_urls([upstream.url()])
        .env("MCP_SESSION_REST", "100ms")
        .env("MCP_POLL_INTERVAL", "50ms")
        .start()
        .await;
    let client = cluster.client().stays_away().initialize().await;
    let session = upstream.sessions()[0].clone();
    upstream.listened(&session).await;
    client.disconnect().await;
    upstream.until("the stream given back", |server| server.listeners(&session) == 0).await;
    client.reconnect(None);
    upstream.listened(&session).await;
    upstream.say(&session, &note(1));
    client.message("what is said then", |message| message["params"]["data"] == 1).await;
    assert_eq!(client.result("tools/call", calls("json")).await["content"][0]["text"], "json");
    assert_eq!((upstream.sessions(), upstream.ended_sessions()), (vec![session], 0));
    assert_eq!(upstream.posts("initialize").len(), 1);
}

/// DRN-2: an instance that is told to go hands the server session over.
#[tokio::test]
async fn an_instance_that_goes_hands_the_server_session_over() {
    let upstream = StreamableUpstream::calls(in_both_forms).await;
    let mut cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    let session = upstream.sessions()[0].clone();
    upstream.listened(&session).await;
    cluster.routers[0].process().signal("TERM");
    client.connection_count(2).await;
    client.post_at(cluster.addr(1), &tool_call("there", "event", json!({}))).await;
    assert_eq!(client.response_to(&json!("there")).await["result"]["content"][0]["text"], "event");
    upstream.listened(&session).await;
    assert_eq!((upstream.sessions(), upstream.ended_sessions()), (vec![session], 0));
    assert_eq!(upstream.posts("initialize").len(), 1);
}
