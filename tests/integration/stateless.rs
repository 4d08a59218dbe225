//! Clients of MCP 2026-07-28, which have no session: what their requests must say, and what comes of them at servers of the same
//! version.

use std::{net::SocketAddr, process::Command};

use serde_json::{Value, json};

use crate::harness::{
    Cluster, Event, EventStream, Item, StatelessServer, StreamEnd, cluster,
    event_stream::Opened,
    eventually,
    http::{Request, Response},
    ports::Port,
    soon,
    stateless_server::FIXTURE,
};

const MCP: &str = "/mcp/mcp-server-v6";
const VERSION: &str = "2026-07-28";
const BOTH: &str = "application/json, text/event-stream";
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// A request as its client writes it; its headers say what it says.
fn asked(id: impl Into<Value>, method: &str, mut params: Value) -> (Request, Value) {
    params["_meta"][META_VERSION] = VERSION.into();
    params["_meta"][META_CAPABILITIES] = json!({ "elicitation": {}, "sampling": {}, "roots": {} });
    let body = json!({ "jsonrpc": "2.0", "id": id.into(), "method": method, "params": params });
    let request = Request::post(MCP, body.to_string())
        .header("accept", BOTH)
        .header("mcp-protocol-version", VERSION)
        .header("mcp-method", method);
    let request = match body["params"]["name"].as_str().or(body["params"]["uri"].as_str()) {
        Some(name) => request.header("mcp-name", name),
        None => request,
    };
    (request, body)
}

fn request(id: impl Into<Value>, method: &str, params: Value) -> Request {
    asked(id, method, params).0
}

fn call(id: impl Into<Value>, tool: &str, arguments: Value) -> Request {
    request(id, "tools/call", json!({ "name": tool, "arguments": arguments }))
}

fn text(response: &Value) -> &str {
    response["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {response}"))
}

async fn result_of(addr: SocketAddr, request: Request) -> Value {
    let response = request.send(addr).await;
    let body = response.json();
    assert_eq!((response.status, body["result"]["resultType"].is_string()), (200, true), "{body}");
    body
}

async fn stream(addr: SocketAddr, request: &Request) -> EventStream {
    match soon("head of an answer", EventStream::exchange(addr, request)).await.unwrap() {
        Opened::Stream(stream) => stream,
        Opened::Refused(response) => panic!("no stream: {} {}", response.status, response.text()),
    }
}

fn message(event: &Event) -> Value {
    assert_eq!(event.id, None, "streams of this version are not resumed");
    serde_json::from_str(&event.data).unwrap()
}

/// The next message of a stream.
async fn next(stream: &mut EventStream) -> Value {
    message(&stream.event().await)
}

fn modern() -> cluster::Builder {
    Cluster::builder()
        .env("MCP_RETRY_MIN", "10ms")
        .env("MCP_UPSTREAM_BACKOFF_MIN", "20ms")
        .env("MCP_UPSTREAM_BACKOFF_MAX", "100ms")
}

/// One server, and what is in front of it.
async fn one(builder: cluster::Builder, env: &[(&str, &str)]) -> (Cluster, StatelessServer, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let server = StatelessServer::start(dir.path(), "one", env).await;
    let cluster = builder.upstream_urls([server.url()]).start().await;
    (cluster, server, dir)
}

#[tokio::test]
async fn a_request_says_the_same_in_its_headers_and_in_its_body_or_is_refused() {
    let (cluster, _server, _dir) = one(modern(), &[("LEGACY", "stateless")]).await;
    let addr = cluster.addr(0);
    let list = || request("a", "tools/list", json!({}));
    let (named, body) = asked("a", "tools/call", json!({ "name": "test_simple_text", "arguments": {} }));
    let without_meta = |what: &str| {
        let mut body = body.clone();
        body["params"]["_meta"].as_object_mut().unwrap().remove(what);
        body
    };
    let with = |body: &Value| {
        let request = Request::post(MCP, body.to_string()).header("accept", BOTH);
        let request = request.header("mcp-protocol-version", VERSION).header("mcp-method", "tools/call");
        request.header("mcp-name", "test_simple_text")
    };
    let of_version = |version: &str| {
        let mut body = body.clone();
        body["params"]["_meta"][META_VERSION] = version.into();
        with(&body).header("mcp-protocol-version", version)
    };
    for (what, request, status, code) in [
        ("in order", named.clone(), 200, None),
        ("in base64", named.clone().header("mcp-name", "=?base64?dGVzdF9zaW1wbGVfdGV4dA==?="), 200, None),
        ("no version in the header", list().without("mcp-protocol-version"), 400, Some(-32020)),
        ("an older version in the header", list().header("mcp-protocol-version", "2025-11-25"), 400, Some(-32020)),
        ("two versions in the header", list().also("mcp-protocol-version", "2025-11-25"), 400, Some(-32020)),
        ("no version in the body", with(&without_meta(META_VERSION)), 400, Some(-32602)),
        ("no capabilities", with(&without_meta(META_CAPABILITIES)), 400, Some(-32602)),
        ("a version of nobody", of_version("2099-01-01"), 400, Some(-32022)),
        ("a version with sessions", of_version("2025-11-25"), 400, Some(-32022)),
        ("no method in the header", list().without("mcp-method"), 400, Some(-32020)),
        ("another method in the header", list().header("mcp-method", "prompts/list"), 400, Some(-32020)),
        ("no name in the header", named.clone().without("mcp-name"), 400, Some(-32020)),
        ("another name in the header", named.clone().header("mcp-name", "who"), 400, Some(-32020)),
        ("a name that is none", named.clone().header("mcp-name", "=?base64?!?="), 400, Some(-32020)),
        ("a method of before", request("a", "ping", json!({})), 404, Some(-32601)),
        ("a handshake", request("a", "initialize", json!({})), 404, Some(-32601)),
        ("no method at all", request("a", "no/such", json!({})), 404, Some(-32601)),
        (
            "a state that nobody gave",
            request("a", "tools/call", json!({ "name": "who", "requestState": "x" })),
            400,
            Some(-32602),
        ),
    ] {
        let response = request.send(addr).await;
        let answer = response.json();
        assert_eq!((response.status, answer["error"]["code"].as_i64()), (status, code), "{what}: {answer}");
        assert_eq!(answer["id"], "a", "{what}: {answer}");
        assert_eq!(response.header("mcp-session-id"), None, "{what}");
        if code == Some(-32022) {
            assert_eq!(answer["error"]["data"]["supported"], json!([VERSION]), "{what}");
        }
    }
    let note = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": "a" } });
    let note = Request::post(MCP, note.to_string()).header("mcp-protocol-version", VERSION).send(addr).await;
    assert_eq!((note.status, note.body.len()), (202, 0));
    let answer = json!({ "jsonrpc": "2.0", "id": 1, "result": {} });
    for body in [answer.clone(), json!([answer])] {
        let refused = Request::post(MCP, body.to_string()).header("mcp-protocol-version", VERSION).send(addr).await;
        assert_eq!((refused.status, refused.json()["error"]["code"].as_i64()), (400, Some(-32600)), "{body}");
    }
    for method in ["GET", "DELETE"] {
        let request = Request::with_method(method, MCP).header("mcp-protocol-version", VERSION).header("accept", BOTH);
        let refused = request.header("mcp-session-id", "x").send(addr).await;
        assert_eq!((refused.status, refused.header("allow")), (405, Some("POST")), "{method}");
    }
    // What only sessions have is ignored.
    let with_more = list().header("mcp-session-id", "x").header("last-event-id", "y");
    assert_eq!(result_of(addr, with_more).await["id"], "a");
    // Some clients wait for ever for an answer that does not name their request.
    let nowhere =
        Request::post("/mcp/nowhere", body.to_string()).header("mcp-protocol-version", VERSION).send(addr).await;
    assert_eq!((nowhere.status, &nowhere.json()["id"]), (404, &json!("a")));
    cluster.assert_no_violations().await;
}

/// A handshake is never answered with a version that has no sessions, whoever the server is.
#[tokio::test]
async fn a_handshake_agrees_to_a_version_that_has_sessions() {
    let (cluster, _server, _dir) = one(modern(), &[("LEGACY", "stateless")]).await;
    let other = Cluster::builder().start().await;
    for addr in [cluster.addr(0), other.addr(0)] {
        let offer = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": VERSION, "capabilities": {}, "clientInfo": { "name": "test", "version": "1" },
        }});
        for request in [
            Request::post(MCP, offer.to_string()),
            Request::post(MCP, offer.to_string()).header("mcp-protocol-version", VERSION),
        ] {
            let response = request.header("accept", "application/json").send(addr).await;
            assert_eq!(response.json()["result"]["protocolVersion"], "2025-11-25", "{}", response.text());
            assert!(response.header("mcp-session-id").is_some());
        }
    }
}

/// By the answer to it clients tell of which era a server is.
#[tokio::test]
async fn whoever_asks_what_there_is_gets_no_error_of_the_moment() {
    let nobody = Port::reserve();
    let cluster = modern().upstream_urls([format!("http://{}/mcp", nobody.addr())]).start().await;
    let discovered = result_of(cluster.addr(0), request(1, "server/discover", json!({}))).await;
    assert_eq!(
        (&discovered["result"]["supportedVersions"], &discovered["result"]["ttlMs"]),
        (&json!([VERSION]), &json!(0))
    );

    let (cluster, mut server, _dir) = one(modern(), &[]).await;
    let discovered = || result_of(cluster.addr(0), request(1, "server/discover", json!({})));
    let first = discovered().await;
    assert_eq!(first["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "modern-server");
    assert_eq!(first["result"]["capabilities"]["tools"]["listChanged"], true);
    server.kill();
    assert_eq!(discovered().await, first);
}

#[tokio::test]
async fn an_answer_is_json_or_a_stream_without_ids_that_ends_with_it() {
    let (cluster, server, _dir) = one(modern(), &[]).await;
    let addr = cluster.addr(0);
    let plain = call(1, "test_simple_text", json!({})).send(addr).await;
    assert_eq!(
        (plain.header("content-type"), text(&plain.json())),
        (Some("application/json"), "This is a simple text response for testing.")
    );

    let params = json!({ "name": "test_tool_with_progress", "arguments": {}, "_meta": { "progressToken": "t" } });
    let mut progress = stream(addr, &request(2, "tools/call", params)).await;
    for expected in [0, 50, 100] {
        let message = next(&mut progress).await;
        assert_eq!(
            (&message["params"]["progress"], &message["params"]["progressToken"]),
            (&json!(expected), &json!("t"))
        );
    }
    assert_eq!(text(&next(&mut progress).await), "Progress is complete.");
    assert_eq!(progress.end().await, StreamEnd::Clean);

    // It says nothing for longer than a proxy waits for a sign of life: comments come meanwhile.
    let hasty = modern().env("MCP_HEARTBEAT", "20ms").upstream_urls([server.url()]).start().await;
    let mut slow = stream(hasty.addr(0), &call(3, "slow", json!({ "ms": 400, "key": "quiet" }))).await;
    let mut comments = 0;
    let answer = loop {
        match slow.next().await {
            Item::Comment(_) => comments += 1,
            Item::Event(event) => break message(&event),
            Item::End(end) => panic!("no answer: {end:?}"),
        }
    };
    assert_eq!((text(&answer), comments > 0), ("quiet is done", true));

    // Who takes no stream is not given one.
    let json_alone =
        call(4, "slow", json!({ "ms": 200, "key": "json" })).header("accept", "application/json").send(addr).await;
    assert_eq!(text(&json_alone.json()), "json is done");
    let events_alone = call(5, "test_simple_text", json!({})).header("accept", "text/event-stream");
    assert_eq!(next(&mut stream(addr, &events_alone).await).await["id"], 5);
}

async fn counted(addr: SocketAddr, key: &str) -> Value {
    let answer = result_of(addr, call("count", "counted", json!({ "key": key }))).await;
    serde_json::from_str(text(&answer)).unwrap()
}

/// Closing the connection of a request cancels it at its server, whether its answer has begun or not; and no other request.
#[tokio::test]
async fn a_client_that_goes_has_cancelled_its_request_at_the_server() {
    let (cluster, _server, _dir) = one(modern(), &[]).await;
    let addr = cluster.addr(0);
    let slow = |id: u64, key: &str, token: bool| {
        let mut params = json!({ "name": "slow", "arguments": { "ms": 600_000, "key": key } });
        if token {
            params["_meta"] = json!({ "progressToken": id });
        }
        request(id, "tools/call", params)
    };
    let mut streaming = stream(addr, &slow(1, "streaming", true)).await;
    assert_eq!(next(&mut streaming).await["method"], "notifications/progress");
    let mut other = stream(addr, &slow(2, "other", true)).await;
    next(&mut other).await;
    drop(streaming);
    eventually("the cancelled call", || async { counted(addr, "streaming").await["cancelled"] == 1 }).await;

    let silent = tokio::spawn({
        let request = slow(3, "silent", false);
        async move { EventStream::exchange(addr, &request).await.map(drop) }
    });
    eventually("the silent call", || async { counted(addr, "silent").await["begun"] == 1 }).await;
    silent.abort();
    eventually("the cancelled silent call", || async { counted(addr, "silent").await["cancelled"] == 1 }).await;
    assert_eq!(counted(addr, "other").await, json!({ "begun": 1, "ended": 0, "cancelled": 0 }));
    drop(other);
    eventually("nothing under way", || async { cluster.metric("mcp_router_stateless_requests", None).await == 0.0 })
        .await;
}

/// Two of three SDKs wait, or die, of a stream without its response. What may have run is not run again. REQ-3
#[tokio::test]
async fn a_request_whose_server_dies_is_answered_with_an_error_and_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let mut servers =
        [StatelessServer::start(dir.path(), "one", &[]).await, StatelessServer::start(dir.path(), "two", &[]).await];
    let cluster = modern().upstream_urls(servers.iter().map(StatelessServer::url)).start().await;
    let addr = cluster.addr(0);
    let params = json!({ "name": "slow", "arguments": { "ms": 600_000, "key": "k" }, "_meta": { "progressToken": 1 } });
    let mut broken = stream(addr, &request("x", "tools/call", params)).await;
    next(&mut broken).await;
    servers.iter_mut().for_each(StatelessServer::kill);
    let last = next(&mut broken).await;
    assert_eq!(
        (&last["id"], &last["error"]["code"], &last["error"]["data"]["outcome"]),
        (&json!("x"), &json!(-32603), &json!("unknown"))
    );
    assert_eq!(broken.end().await, StreamEnd::Clean);

    for server in &mut servers {
        server.restart().await;
    }
    let die = eventually_answered(addr, || call(7, "die", json!({}))).await;
    assert_eq!(
        (die.status, &die.json()["error"]["data"]["outcome"], &die.json()["id"]),
        (502, &json!("unknown"), &json!(7))
    );
    // One of the two has died, and not the other.
    let who = result_of(addr, call(8, "who", json!({}))).await;
    assert!(["one", "two"].contains(&text(&who)));
}

/// The answer to a request, as soon as a server is there that takes it.
async fn eventually_answered(addr: SocketAddr, request: impl Fn() -> Request) -> Response {
    crate::harness::eventually_some("a server that takes requests", || {
        let request = request();
        async move {
            let response = request.send(addr).await;
            let reason = response.json()["error"]["data"]["reason"].clone();
            (!["upstream_unavailable", "upstream_unreachable"].contains(&reason.as_str().unwrap_or_default()))
                .then_some(response)
        }
    })
    .await
}

/// A key leads to a session that outlives the instance, also where the server has none.
#[tokio::test]
async fn a_call_with_a_key_runs_once_at_a_server_without_sessions() {
    let (cluster, server, _dir) = one(modern().routers(2), &[]).await;
    let keyed = |id: u64| call(id, "slow", json!({ "ms": 50, "key": "once" })).header("idempotency-key", "k-1");
    for at in 0..3_u64 {
        let addr = cluster.addr(usize::try_from(at).unwrap() % 2);
        let answer = result_of(addr, keyed(at).header("accept", "application/json")).await;
        assert_eq!((text(&answer), &answer["id"]), ("once is done", &json!(at)));
    }
    assert_eq!(counted(server.addr(), "once").await["begun"], 1);
}

/// A server's state may be bound to its process: the request that shows it again goes there, from whichever instance.
#[tokio::test]
async fn what_a_server_gives_to_show_again_leads_back_to_it_from_any_instance() {
    let dir = tempfile::tempdir().unwrap();
    let servers =
        [StatelessServer::start(dir.path(), "one", &[]).await, StatelessServer::start(dir.path(), "two", &[]).await];
    let cluster = modern().routers(2).upstream_urls(servers.iter().map(StatelessServer::url)).start().await;
    let tool = "test_input_required_result_multi_round";
    let round = |id: u64, state: Option<&Value>, key: &str, content: Value| {
        let mut params = json!({ "name": tool, "arguments": {} });
        if let Some(state) = state {
            params["requestState"] = state.clone();
            params["inputResponses"] = json!({ key: { "action": "accept", "content": content } });
        }
        request(id, "tools/call", params)
    };
    // Often enough that chance alone does not lead there.
    for attempt in 0..8 {
        let addr = |at: usize| cluster.addr((attempt + at) % 2);
        let first = result_of(addr(0), round(1, None, "", json!({}))).await;
        assert_eq!(first["result"]["resultType"], "input_required");
        let second =
            result_of(addr(1), round(2, Some(&first["result"]["requestState"]), "step1", json!({ "name": "Ada" })))
                .await;
        let state = &second["result"]["requestState"];
        let last = result_of(addr(0), round(3, Some(state), "step2", json!({ "color": "blue" }))).await;
        assert_eq!(text(&last), "Ada likes blue.");
        // It is the router's own, and counts only as it was given.
        let mut forged = state.as_str().unwrap().to_owned();
        let end = if forged.pop() == Some('A') { 'B' } else { 'A' };
        forged.push(end);
        let refused = round(4, Some(&json!(forged)), "step2", json!({})).send(addr(1)).await;
        assert_eq!((refused.status, refused.json()["error"]["code"].as_i64()), (400, Some(-32602)));
    }
}

#[tokio::test]
async fn a_stream_of_changes_outlives_its_server_and_ends_with_its_response() {
    let (mut cluster, mut server, _dir) = one(modern(), &[]).await;
    let addr = cluster.addr(0);
    let wanted = json!({ "toolsListChanged": true, "resourceSubscriptions": ["test://watched-resource"] });
    let mut changes = stream(addr, &request(9, "subscriptions/listen", json!({ "notifications": wanted }))).await;
    let acknowledged = next(&mut changes).await;
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(
        (&acknowledged["params"]["notifications"], &acknowledged["params"]["_meta"][SUBSCRIPTION]),
        (&wanted, &json!(9))
    );
    // Nothing comes that was not asked for.
    result_of(addr, call(1, "test_trigger_prompt_change", json!({}))).await;
    result_of(addr, call(2, "test_trigger_tool_change", json!({}))).await;
    let told = next(&mut changes).await;
    assert_eq!(
        (&told["method"], &told["params"]["_meta"][SUBSCRIPTION]),
        (&json!("notifications/tools/list_changed"), &json!(9))
    );

    server.restart().await;
    let mut missed = [next(&mut changes).await, next(&mut changes).await].map(|told| {
        assert_eq!(told["params"]["_meta"][SUBSCRIPTION], 9);
        (told["method"].as_str().unwrap().to_owned(), told["params"]["uri"].clone())
    });
    missed.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(
        missed,
        [
            ("notifications/resources/updated".to_owned(), json!("test://watched-resource")),
            ("notifications/tools/list_changed".to_owned(), Value::Null),
        ]
    );
    result_of(addr, call(3, "touch", json!({ "uri": "test://watched-resource" }))).await;
    assert_eq!(next(&mut changes).await["params"]["uri"], "test://watched-resource");

    cluster.routers[0].process().signal("TERM");
    let last = next(&mut changes).await;
    assert_eq!(
        last,
        json!({ "jsonrpc": "2.0", "id": 9, "result": { "resultType": "complete", "_meta": { SUBSCRIPTION: 9 } } })
    );
    assert_eq!(changes.end().await, StreamEnd::Clean);
    assert_eq!(cluster.routers[0].process().exit_code().await, Some(0));
}

/// DRN-1
#[tokio::test]
async fn an_instance_that_goes_down_waits_for_the_requests_that_it_has() {
    let (mut cluster, _server, _dir) = one(modern(), &[]).await;
    let addr = cluster.addr(0);
    let params = json!({ "name": "slow", "arguments": { "ms": 1000, "key": "k" }, "_meta": { "progressToken": 1 } });
    let mut under_way = stream(addr, &request(1, "tools/call", params)).await;
    next(&mut under_way).await;
    cluster.routers[0].process().signal("TERM");
    assert_eq!(text(&next(&mut under_way).await), "k is done");
    assert_eq!(under_way.end().await, StreamEnd::Clean);
    assert_eq!(cluster.routers[0].process().exit_code().await, Some(0));
}

/// `mcp_router_stateless_cache_total`; 0 bytes are no cache.
#[tokio::test]
async fn results_are_kept_as_long_as_their_server_allows_and_no_longer() {
    let builder = modern().env("MCP_STATELESS_LISTEN_AGAIN", "0s");
    let (cluster, mut server, _dir) = one(builder, &[("TTL_MS", "600000")]).await;
    let addr = cluster.addr(0);
    let list = || request(1, "tools/list", json!({}));
    let hits = || cluster.metric("mcp_router_stateless_cache_total", Some("hit"));
    let first = result_of(addr, list()).await;
    assert_eq!(first["result"]["cacheScope"], "public");
    let again = result_of(addr, request("other", "tools/list", json!({}))).await;
    assert_eq!(
        (&again["id"], &again["result"]["tools"], hits().await),
        (&json!("other"), &first["result"]["tools"], 1.0)
    );
    assert!(again["result"]["ttlMs"].as_u64().unwrap() <= first["result"]["ttlMs"].as_u64().unwrap());
    // Another resource is another result, and a call is none that is kept.
    let read = |uri: &str| request(2, "resources/read", json!({ "uri": uri }));
    for uri in ["test://static-text", "test://watched-resource", "test://static-text"] {
        assert_eq!(result_of(addr, read(uri)).await["result"]["contents"][0]["uri"], uri);
    }
    assert_eq!(hits().await, 2.0);
    // The server says that its tools have changed.
    let mut changes =
        stream(addr, &request(3, "subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } })))
            .await;
    next(&mut changes).await;
    result_of(addr, call(4, "test_trigger_tool_change", json!({}))).await;
    assert_eq!(next(&mut changes).await["method"], "notifications/tools/list_changed");
    let misses = || cluster.metric("mcp_router_stateless_cache_total", Some("miss"));
    let before = misses().await;
    result_of(addr, list()).await;
    assert_eq!(misses().await, before + 1.0);
    drop(changes);
    server.kill();
    assert_eq!(result_of(addr, list()).await["result"]["tools"], first["result"]["tools"], "nobody needs to be asked");

    let (cluster, _server, _dir) = one(modern().env("MCP_STATELESS_CACHE", "0"), &[("TTL_MS", "600000")]).await;
    for _ in 0..2 {
        assert_eq!(result_of(cluster.addr(0), list()).await["result"]["ttlMs"], 600_000);
    }
    assert_eq!(cluster.metric("mcp_router_stateless_cache_total", None).await, 0.0);
}

/// The router listens itself to servers of which it keeps results; what changed while it could not counts as changed.
#[tokio::test]
async fn what_a_server_calls_changed_is_not_kept_although_no_client_listens() {
    let list = || request(1, "tools/list", json!({}));
    let change = || call(2, "test_trigger_tool_change", json!({}));
    for again in ["1m", "0s"] {
        let builder = modern().env("MCP_STATELESS_LISTEN_AGAIN", again);
        let (cluster, mut server, _dir) = one(builder, &[("TTL_MS", "600000")]).await;
        let addr = cluster.addr(0);
        let count = |outcome| cluster.metric("mcp_router_stateless_cache_total", Some(outcome));
        result_of(addr, list()).await;
        if again == "0s" {
            result_of(addr, change()).await;
            result_of(addr, list()).await;
            assert_eq!((count("stale").await, count("hit").await), (0.0, 1.0), "nobody has told");
            continue;
        }
        eventually("it is told", async || {
            result_of(addr, change()).await;
            count("stale").await == 1.0
        })
        .await;
        result_of(addr, list()).await;
        assert_eq!((count("hit").await, count("miss").await), (0.0, 2.0));
        server.restart().await;
        eventually("the stream is there again", async || count("stale").await >= 2.0).await;
    }
}

/// SEC-1, SEC-7
#[tokio::test]
async fn rules_and_principals_count_as_they_do_for_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.toml");
    std::fs::write(&file, concat!(
        "[[rule]]\nname = \"all\"\nwho = [\"proxy:alice\"]\n",
        "[[rule]]\nname = \"readers\"\nwho = [\"proxy:bob\"]\ntools = [\"who\"]\nresources = [\"test://static-*\"]\n",
    )).unwrap();
    let builder =
        modern().env("MCP_AUTH", "proxy").env("MCP_POLICY_FILE", file.display()).env("MCP_AUTH_RELOAD", "20ms");
    let (cluster, _server, _dir) = one(builder, &[("TTL_MS", "600000")]).await;
    let addr = cluster.addr(0);
    let by = |who: &str, request: Request| request.header("x-mcp-principal", who);
    let list = || request(1, "tools/list", json!({}));
    let nobody = list().send(addr).await;
    assert_eq!(nobody.status, 401);
    for _ in 0..2 {
        let all = result_of(addr, by("alice", list())).await;
        assert!(all["result"]["tools"].as_array().unwrap().len() > 10);
        let some = result_of(addr, by("bob", list())).await;
        let names: Vec<&str> =
            some["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
        assert_eq!((names, &some["result"]["cacheScope"]), (vec!["who"], &json!("private")));
    }
    assert_eq!(text(&result_of(addr, by("bob", call(2, "who", json!({})))).await), "one");
    let listen =
        |uri: &str| request(3, "subscriptions/listen", json!({ "notifications": { "resourceSubscriptions": [uri] } }));
    for refused in [
        call(2, "test_simple_text", json!({})),
        request(2, "resources/read", json!({ "uri": "test://watched-resource" })),
        listen("test://watched-resource"),
    ] {
        let refused = by("bob", refused).send(addr).await;
        assert_eq!((refused.status, refused.json()["error"]["data"]["reason"].as_str()), (403, Some("policy")));
    }
    next(&mut stream(addr, &by("bob", listen("test://static-text"))).await).await;
    // What one was given to show again is nothing for another.
    let ask = |state: Option<&Value>| {
        let mut params = json!({ "name": "test_input_required_result_request_state", "arguments": {} });
        if let Some(state) = state {
            params["requestState"] = state.clone();
            params["inputResponses"] = json!({ "confirm": { "action": "accept", "content": { "ok": true } } });
        }
        request(5, "tools/call", params)
    };
    std::fs::write(&file, "[[rule]]\nname = \"all\"\nwho = [\"proxy:alice\", \"proxy:carol\"]\n").unwrap();
    eventually("the new rules", || async { by("carol", call(1, "who", json!({}))).send(addr).await.status == 200 })
        .await;
    let given = result_of(addr, by("alice", ask(None))).await["result"]["requestState"].clone();
    let taken = by("carol", ask(Some(&given))).send(addr).await;
    assert_eq!((taken.status, taken.json()["error"]["code"].as_i64()), (400, Some(-32602)));
    assert_eq!(text(&result_of(addr, by("alice", ask(Some(&given)))).await), "state-ok: true");
}

/// nginx tries a request at another instance only if it could not be sent: nobody could know it there.
#[tokio::test]
async fn a_request_whose_instance_dies_is_not_run_again_by_the_proxy() {
    let dir = tempfile::tempdir().unwrap();
    let server = StatelessServer::start(dir.path(), "one", &[]).await;
    let mut cluster = modern().routers(2).nginx(false).upstream_urls([server.url()]).start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let lost = tokio::spawn(async move { call(1, "slow", json!({ "ms": 600_000, "key": "k" })).send(nginx).await });
    eventually("the call", || async { counted(server.addr(), "k").await["begun"] == 1 }).await;
    let mut at = 0;
    for (number, router) in cluster.routers.iter().enumerate() {
        if router.metric("mcp_router_stateless_requests", None).await > 0.0 {
            at = number;
        }
    }
    cluster.routers[at].kill();
    let lost = lost.await.unwrap();
    assert_eq!((lost.status, lost.json()["error"]["data"]["reason"].as_str()), (502, Some("instance_lost")));
    eventually("the end of the call", || async { counted(server.addr(), "k").await["cancelled"] == 1 }).await;
    assert_eq!(counted(server.addr(), "k").await["begun"], 1);
    // One that has not been sent goes to the other.
    assert_eq!(text(&result_of(nginx, call(2, "who", json!({}))).await), "one");
}

/// The official TypeScript client in its mode for this version: list, call with a mirrored argument, progress, questions, a stream
/// of changes, a cancelled call, through nginx and two instances.
#[tokio::test]
async fn the_typescript_client_of_this_version_notices_no_router() {
    let dir = tempfile::tempdir().unwrap();
    let servers =
        [StatelessServer::start(dir.path(), "one", &[]).await, StatelessServer::start(dir.path(), "two", &[]).await];
    let cluster =
        modern().routers(2).nginx(false).upstream_urls(servers.iter().map(StatelessServer::url)).start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let told = tokio::task::spawn_blocking(move || {
        let url = format!("http://{nginx}{MCP}");
        Command::new("node").arg(format!("{FIXTURE}/client.mjs")).arg(url).output().expect("node can be run")
    })
    .await
    .unwrap();
    let (out, error) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    let told: Value = serde_json::from_str(out.trim()).unwrap_or_else(|_| panic!("{out}\n{error}"));
    assert_eq!(
        told,
        json!({
            "version": VERSION,
            "server": "modern-server",
            "tools": true,
            "mirrored": "region=世界",
            "progress": [0, 50, 100],
            "asked": "Hello, Ada!",
            "rounds": "Ada likes blue.",
            "listened": "notifications/tools/list_changed",
            "cancelled": true,
        })
    );
    cluster.assert_no_violations().await;
}
