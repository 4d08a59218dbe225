//! Upstreams: balanced, watched, replaced when they die; and what passes between client and server passes unchanged.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::harness::{
    Cluster, EventStream, FakeUpstream, McpClient, Oracle, PostTo, Transport, eventually,
    fake_upstream::{Framing, Reply},
    http::{self, Request},
    mcp_client::{request, tool_call},
    over_both_transports,
};

const SSE: &str = "/sse/mcp-server-v6";
const REST: &str = "/mcp/router/route/mcp-server-v6";

/// Settings under which a dead endpoint is noticed, and tried again, soon.
fn quick(builder: crate::harness::cluster::Builder) -> crate::harness::cluster::Builder {
    builder
        .env("MCP_UPSTREAM_HEALTH_INTERVAL", "50ms")
        .env("MCP_UPSTREAM_BACKOFF_MIN", "20ms")
        .env("MCP_UPSTREAM_BACKOFF_MAX", "100ms")
}

/// Sessions that a router has pinned to each endpoint of its service.
async fn sessions_by_endpoint(cluster: &Cluster, index: usize) -> Vec<u64> {
    let instances = http::get(cluster.addr(index), "/mcp/router/services/mcp-server-v6/instances").await.json();
    instances["instances"].as_array().unwrap().iter().map(|one| one["sessions"].as_u64().unwrap()).collect()
}

/// Nothing is opened upstream for a GET alone: many are probes.
#[tokio::test]
async fn a_stream_without_initialize_opens_nothing_upstream() {
    let upstream = FakeUpstream::start().await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let mut probes = Vec::new();
    for _ in 0..5 {
        let mut probe = EventStream::open(cluster.addr(0), &Request::get(SSE)).await;
        probe.event().await;
        probes.push(probe);
    }
    let client = cluster.client().initialize().await;
    assert_eq!(upstream.open_sessions().len(), 1, "only that of the client");
    drop(client);
}

/// RFC 9112, section 6.3: however a server marks the ends of its bodies, messages pass whole and once, and a connection is
/// used again only if it can be.
#[tokio::test]
async fn every_framing_of_http_1_is_understood() {
    let all = [Framing::Usual, Framing::Close, Framing::Chunks, Framing::Empty, Framing::Early, Framing::Old];
    for framing in all {
        let upstream = FakeUpstream::framing(framing).await;
        let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
        let client = cluster.client().initialize().await;
        for call in 0..5 {
            client.result("tools/call", json!({ "name": "x", "arguments": { "call": call } })).await;
        }
        let link = upstream.open_sessions()[0];
        upstream
            .send_raw(link, r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"data":7}}"#.into())
            .await;
        client.message("the note", |message| message["params"]["data"] == 7).await;
        assert_eq!(upstream.received_of("tools/call").len(), 5, "{framing:?}");
        Oracle::every_request_answered_once(&client);
        assert_eq!(upstream.open_sessions(), [link], "{framing:?}: no POST was taken for a failed one");
        upstream.drop_session(link);
        client.result("tools/call", json!({ "name": "x", "arguments": {} })).await;
        assert_ne!(upstream.open_sessions(), [link], "{framing:?}: the end of the stream was seen");
    }
}

/// New sessions go to the endpoint with the fewest.
#[tokio::test]
async fn sessions_are_balanced_by_fewest_sessions() {
    let cluster = Cluster::builder().upstreams(3).start().await;
    let mut clients = Vec::new();
    for round in 1..=4 {
        for _ in 0..3 {
            clients.push(cluster.client().initialize().await);
        }
        assert_eq!(sessions_by_endpoint(&cluster, 0).await, [round; 3]);
    }
    // Room at one endpoint is filled first.
    let mut pinned = Vec::new();
    for client in &clients {
        let path = format!("/mcp/router/sessions/{}", client.session());
        pinned.push(http::get(cluster.addr(0), &path).await.json()["endpoint"].as_str().unwrap().to_owned());
    }
    let emptied = cluster.upstreams[1].url();
    for (client, endpoint) in clients.iter().zip(&pinned) {
        if *endpoint == emptied {
            let path = format!("/mcp/router/sessions/{}", client.session());
            assert_eq!(Request::delete(path).send(cluster.addr(0)).await.status, 204);
        }
    }
    eventually("an empty endpoint", || async { sessions_by_endpoint(&cluster, 0).await == [4, 0, 4] }).await;
    for _ in 0..4 {
        clients.push(cluster.client().initialize().await);
    }
    assert_eq!(sessions_by_endpoint(&cluster, 0).await, [4, 4, 4]);
}

/// One server of two is killed under load: new sessions go to the other; sessions that were on it go on there, their
/// read-only calls in flight are run again, and those that may have had an effect are answered once with "outcome unknown"
/// or their result. Health says so, and is UP again when the server is back and used again.
#[tokio::test]
async fn the_death_of_one_server_costs_no_session() {
    let mut cluster = quick(Cluster::builder().routers(2).upstreams(2)).start().await;
    let clients = futures_util::future::join_all((0..8).map(|_| cluster.client().initialize())).await;
    let mut open = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        open.push(client.start_call("wait", json!({ "ms": 700, "text": format!("{number}") })).await);
    }
    // Increments that the first server has been sent and not answered when it dies.
    cluster.upstreams[0].freeze();
    for (number, client) in clients.iter().enumerate() {
        let key = format!("key-{number}");
        client.post(&tool_call(key.as_str(), "increment", json!({ "key": key }))).await;
    }
    let redis = cluster.redis_client().await;
    for (number, client) in clients.iter().enumerate() {
        let key = format!("\"key-{number}\"");
        eventually("an increment forwarded or answered", || async {
            let pending = redis.pending(&client.session()).await;
            pending.iter().all(|(id, _, forwarded)| *id != key || *forwarded)
        })
        .await;
    }
    cluster.upstreams[0].kill();

    for (number, (client, id)) in clients.iter().zip(open).enumerate() {
        let answer = client.response(id).await;
        assert_eq!(answer["result"]["content"][0]["text"], format!("{number}"), "a read-only call is run again");
    }
    let mut unknown = 0;
    for (number, client) in clients.iter().enumerate() {
        let key = format!("key-{number}");
        let answer = client.response_to(&json!(key)).await;
        let runs = cluster.counts().get(&key).copied().unwrap_or(0);
        if let Some(code) = answer["error"]["code"].as_i64() {
            assert_eq!(code, -32001, "{answer}");
            assert_eq!(answer["error"]["data"]["outcome"], "unknown");
            assert!(runs <= 1, "{key} ran {runs} times");
            unknown += 1;
        } else {
            assert_eq!(runs, 1, "{key}: {answer}");
        }
    }
    // Each router balances by its own sessions, so the dead server may have had more than half.
    assert!((1..=7).contains(&unknown), "those of the dead server, as far as they were sent: {unknown}");
    let newcomer = cluster.client().initialize().await;
    assert_eq!(newcomer.text("echo", json!({ "text": "new" })).await, "new");
    for client in &clients {
        assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
        Oracle::exactly_once(client);
        Oracle::every_request_answered_once(client);
    }
    for router in &cluster.routers {
        eventually("DEGRADED", || async { router.health().await["status"] == "DEGRADED" }).await;
    }
    for index in 0..2 {
        assert_eq!(sessions_by_endpoint(&cluster, index).await[0], 0);
    }
    cluster.upstreams[0].restart().await;
    for router in &cluster.routers {
        eventually("UP again", || async { router.health().await["status"] == "UP" }).await;
    }
    let back = cluster.client_of(0).initialize().await;
    assert_eq!(sessions_by_endpoint(&cluster, 0).await[0], 1, "the endpoint with the fewest is used again");
    drop(back);
    cluster.assert_no_violations().await;
}

/// A hung server (its connections open, nothing answered) is noticed by the health check, and gets no new session.
#[tokio::test]
async fn a_hung_server_gets_no_new_session() {
    let mut cluster = quick(Cluster::builder().upstreams(2)).env("MCP_UPSTREAM_HEALTH_TIMEOUT", "200ms").start().await;
    let addr = cluster.addr(0);
    let status = |word: &'static str| async move {
        let instances = http::get(addr, "/mcp/router/services/mcp-server-v6/instances").await.json();
        instances["instances"][0]["status"] == word
    };
    eventually("UP", || status("UP")).await;
    cluster.upstreams[0].freeze();
    eventually("not UP", || async move { !status("UP").await }).await;
    for _ in 0..4 {
        let client = cluster.client().initialize().await;
        let path = format!("/mcp/router/sessions/{}", client.session());
        assert_eq!(http::get(addr, &path).await.json()["endpoint"], cluster.upstreams[1].url());
    }
    cluster.upstreams[0].thaw();
    eventually("UP again", || status("UP")).await;
}

/// The server that counts as healthy has just died, the other one is back and nobody has looked yet: it gets the call. STM-2
#[tokio::test]
async fn a_rest_caller_reaches_the_one_server_that_lives() {
    let rare = |builder: crate::harness::cluster::Builder| {
        let names = ["MCP_UPSTREAM_HEALTH_INTERVAL", "MCP_UPSTREAM_BACKOFF_MIN", "MCP_UPSTREAM_BACKOFF_MAX"];
        names
            .into_iter()
            .fold(builder.env("MCP_UPSTREAM_BREAKER_FAILURES", "1"), |builder, name| builder.env(name, "10m"))
    };
    let mut cluster = rare(Cluster::builder().upstreams(2)).start().await;
    let addr = cluster.addr(0);
    let list = || async move { http::post(addr, REST, request(1, "tools/list", json!({})).to_string()).await };
    cluster.upstreams[1].kill();
    eventually("the dead one is out of use", || async {
        list().await;
        let instances = http::get(addr, "/mcp/router/services/mcp-server-v6/instances").await.json();
        instances["instances"][1]["status"] == "DOWN"
    })
    .await;
    cluster.upstreams[1].restart().await;
    // It is not asked twice within 100 ms.
    let back = std::time::Instant::now();
    eventually("it may be asked again", || async { back.elapsed().as_millis() > 100 }).await;
    cluster.upstreams[0].kill();
    let answer = list().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// All servers down: REST says 502 or 503, sessions get a JSON-RPC error that says that nothing was executed and a retry
/// helps; and they go on by themselves when a server is back.
#[tokio::test]
async fn without_any_server_callers_are_told_and_recover() {
    let mut cluster = quick(Cluster::builder().upstreams(2)).env("MCP_UPSTREAM_RELINK_TIMEOUT", "500ms").start().await;
    let client = cluster.client().initialize().await;
    cluster.upstreams[0].kill();
    cluster.upstreams[1].kill();
    let addr = cluster.addr(0);
    let rest = http::post(addr, REST, tool_call(1, "echo", json!({ "text": "x" })).to_string()).await;
    assert!(matches!(rest.status, 502 | 503), "{} {}", rest.status, rest.text());
    assert!(rest.header("retry-after").is_some() || rest.error_code() == Some(-32001), "{}", rest.text());
    eventually("503 with every breaker open", || async move {
        let rest = http::post(addr, REST, tool_call(1, "echo", json!({ "text": "x" })).to_string()).await;
        rest.status == 503 && rest.error_code() == Some(-32000) && rest.header("retry-after").is_some()
    })
    .await;

    let id = client.start_call("increment", json!({ "key": "down" })).await;
    let answer = client.response(id).await;
    assert_eq!(answer["error"]["code"], -32000, "{answer}");
    assert_eq!(answer["error"]["data"]["outcome"], "not_executed");
    assert_eq!(
        (&answer["error"]["data"]["retry"], &answer["error"]["data"]["service"]),
        (&json!(true), &json!("mcp-server-v6"))
    );

    let newcomer = cluster.client().connect().await;
    let id = newcomer.start("initialize", json!({ "protocolVersion": "2025-11-25" })).await;
    assert_eq!(newcomer.response(id).await["error"]["code"], -32000);

    cluster.upstreams[1].restart().await;
    eventually("the session works again", || async {
        let id = client.start_call("echo", json!({ "text": "x" })).await;
        client.response(id).await.get("result").is_some()
    })
    .await;
    assert!(!cluster.counts().contains_key("down"));
    Oracle::every_request_answered_once(&client);
    Oracle::exactly_once(&client);
}

/// REQ-3: when the link to a server breaks, a call that the protocol or the tool's annotations call repeatable is sent
/// again on the new link, one that is not gets one "outcome unknown", and one that the server has not had goes there.
async fn a_broken_link_repeats_only_what_is_repeatable(transport: Transport) {
    let upstream = FakeUpstream::answering(|message| match message["method"].as_str() {
        Some("tools/list") => Reply::Result(json!({ "tools": [
            { "name": "reads", "inputSchema": {}, "annotations": { "readOnlyHint": true } },
            { "name": "sets", "inputSchema": {}, "annotations": { "readOnlyHint": false, "idempotentHint": true } },
            { "name": "adds", "inputSchema": {}, "annotations": { "readOnlyHint": false } },
            { "name": "says nothing", "inputSchema": {} },
        ] })),
        _ => Reply::Silence,
    })
    .await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().over(transport).initialize().await;
    let first_link = upstream.open_sessions()[0];
    for tool in ["reads", "sets", "adds", "says nothing", "is not listed"] {
        client.post(&tool_call(tool, tool, json!({}))).await;
    }
    client.post(&request("read", "resources/read", json!({ "uri": "person://1" }))).await;
    client.post(&request("odd", "vendor/method", json!({}))).await;
    upstream.wait_for("vendor/method", 1).await;
    upstream.drop_session(first_link);

    for id in ["adds", "says nothing", "is not listed", "odd"] {
        let answer = client.response_to(&json!(id)).await;
        assert_eq!(answer["error"]["code"], -32001, "{id}: {answer}");
        assert_eq!(
            (&answer["error"]["data"]["outcome"], &answer["error"]["data"]["retry"]),
            (&json!("unknown"), &json!(false))
        );
    }
    upstream.wait_for("tools/call", 7).await;
    upstream.wait_for("resources/read", 2).await;
    let second_link = upstream.open_sessions()[0];
    let again: Vec<Value> = upstream
        .received()
        .iter()
        .filter(|one| one.session == second_link)
        .map(|one| one.json())
        .filter(|message| {
            !message["id"].is_null() && message["method"] != "initialize" && message["method"] != "tools/list"
        })
        .collect();
    let mut ids: Vec<&str> = again.iter().map(|message| message["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["read", "reads", "sets"]);
    for message in &again {
        upstream
            .send(second_link, &json!({ "jsonrpc": "2.0", "id": message["id"], "result": { "second": true } }))
            .await;
        assert_eq!(client.response_to(&message["id"]).await["result"], json!({ "second": true }));
    }
    Oracle::every_request_answered_once(&client);
    Oracle::exactly_once(&client);
}

/// REQ-3: a server that takes a POST and hangs up without a word may have executed it: a call that may have an effect is
/// answered with "outcome unknown" and never sent again, by stream and by REST; one that only reads is.
#[tokio::test]
async fn a_post_that_was_taken_without_a_word_is_not_repeated() {
    let upstream = FakeUpstream::answering(|message| match message["params"]["name"].as_str() {
        Some("adds") => Reply::HangUp,
        Some("reads") => Reply::Result(json!({ "read": true })),
        _ => Reply::Result(json!({ "tools": [
            { "name": "reads", "inputSchema": {}, "annotations": { "readOnlyHint": true } },
            { "name": "adds", "inputSchema": {}, "annotations": { "readOnlyHint": false } },
        ] })),
    })
    .await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    for round in 1..=5 {
        // On a fresh connection and on one that has been used before.
        client.call("reads", json!({})).await;
        let id = client.start_call("adds", json!({})).await;
        let answer = client.response(id).await;
        assert_eq!(answer["error"]["code"], -32001, "{answer}");
        let calls = upstream.received_of("tools/call");
        assert_eq!(calls.iter().filter(|call| call["params"]["name"] == "adds").count(), round, "{calls:?}");
    }
    let before = upstream.received_by_anyone("tools/call");
    let rest = http::post(cluster.addr(0), REST, tool_call(1, "adds", json!({})).to_string()).await;
    assert_eq!((rest.status, rest.error_code()), (502, Some(-32001)), "{}", rest.text());
    assert_eq!(upstream.received_by_anyone("tools/call"), before + 1);
    Oracle::every_request_answered_once(&client);
}

/// What becomes of a POST to a session that was given up says nothing of the same message's POST to the new one: the new
/// link stays, and its answer counts.
#[tokio::test]
async fn a_late_post_to_a_former_link_does_not_touch_the_new_one() {
    let (former, current) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let tell = (Arc::clone(&former), Arc::clone(&current));
    let calls = AtomicUsize::new(0);
    let upstream = FakeUpstream::answering(move |message| {
        if message["method"] != "tools/call" {
            let annotations = json!({ "readOnlyHint": true });
            let tools = json!([{ "name": "reads", "inputSchema": {}, "annotations": annotations }]);
            return Reply::Result(json!({ "tools": tools }));
        }
        match calls.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::After(Arc::clone(&former), Box::new(Reply::HangUp)),
            number => Reply::After(Arc::clone(&current), Box::new(Reply::Result(json!({ "call": number })))),
        }
    })
    .await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    let id = client.start_call("reads", json!({})).await;
    upstream.wait_for("tools/call", 1).await;
    upstream.drop_session(upstream.open_sessions()[0]);
    upstream.wait_for("tools/call", 2).await;
    let link = upstream.open_sessions();

    let under_way = || async {
        let instances = http::get(cluster.addr(0), "/mcp/router/services/mcp-server-v6/instances").await.json();
        instances["instances"][0]["inFlight"].as_u64()
    };
    eventually("both POSTs under way", || async { under_way().await == Some(2) }).await;
    tell.0.notify_one();
    eventually("the end of the former one", || async { under_way().await == Some(1) }).await;
    tell.1.notify_one();
    assert_eq!(client.response(id).await["result"], json!({ "call": 1 }));
    assert_eq!(upstream.open_sessions(), link);
    assert_eq!(upstream.received_of("tools/call").len(), 2);
    Oracle::every_request_answered_once(&client);
}

/// Bodies pass byte for byte: spaces, key order, escapes, numbers that no double holds, unknown members; to the server
/// from any instance, and to the client.
#[tokio::test]
async fn bodies_pass_unchanged() {
    let answer = "{ \"result\" : {\"big\":123456789012345678901234567890,\"f\":1.0e2,\"u\":\"\\u00fc\u{2028}\",\"dup\":1,\"dup\":2} ,\"id\":\"raw\"  , \"jsonrpc\":\"2.0\" , \"x\":null}";
    let upstream = FakeUpstream::answering(move |_| Reply::Raw(answer.to_owned())).await;
    let cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    let body = "\r\n { \"params\" : { \"name\":\"t\", \"n\": 0.10, \"big\": 123456789012345678901234567890, \"dup\":1, \"dup\":2,\n\t\"u\":\"\\u00FC \u{1F600} \\/\" },\"method\":\"tools\\/call\" , \"id\":\"raw\",\"jsonrpc\":\"2.0\", \"extra\":[ ] } \n";
    for (round, addr) in cluster.addrs().into_iter().enumerate() {
        let accepted = http::post(addr, &client.endpoint(), body).await;
        assert_eq!(accepted.status, 202, "{}", accepted.text());
        client.message_count(2 + round).await;
        assert_eq!(client.messages()[1 + round].data, answer);
    }
    let forwarded: Vec<Vec<u8>> = upstream
        .received()
        .into_iter()
        .map(|one| one.body)
        .filter(|body| body.windows(5).any(|part| part == b"extra"))
        .collect();
    assert_eq!(forwarded, [body.as_bytes(), body.as_bytes()]);
}

/// JSON that stands on several lines is one event, whose data is the same JSON.
#[tokio::test]
async fn a_message_of_several_lines_stays_one_message() {
    let answer = "{\n  \"jsonrpc\": \"2.0\",\n  \"id\": \"lines\",\n  \"result\": {\n    \"a\": [1,\n2]\n  }\n}";
    let upstream = FakeUpstream::answering(move |_| Reply::Raw(answer.to_owned())).await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    client.post(&tool_call("lines", "x", json!({}))).await;
    assert_eq!(client.response_to(&json!("lines")).await["result"], json!({ "a": [1, 2] }));
    assert_eq!(client.messages()[1].data, answer);
}

/// Requests of the server (sampling) reach the client on whatever instance its stream is, and its answer the server,
/// from whatever instance it is posted to; several at once, each its own.
#[tokio::test]
async fn the_server_asks_the_client_across_instances() {
    let cluster = Cluster::builder().routers(3).upstreams(1).start().await;
    let client = cluster.client().samples("from the client's model").initialize().await;
    let mut ids = Vec::new();
    for number in 0..10 {
        ids.push(client.start_call("ask_client", json!({ "prompt": format!("question {number}") })).await);
        if number == 4 {
            client.cut();
        }
    }
    for id in ids {
        let answer = client.response(id).await;
        assert_eq!(answer["result"]["content"][0]["text"], "from the client's model", "{answer}");
    }
    let asked = client.messages().iter().filter(|one| one.json()["method"] == "sampling/createMessage").count();
    assert_eq!(asked, 10);
    Oracle::exactly_once(&client);
    Oracle::every_request_answered_once(&client);
}

/// Any request of the server passes (elicitation, roots, whatever comes), as does any notification of either side; the
/// client's answer is forwarded once, and answers to nothing are not.
#[tokio::test]
async fn whatever_the_server_says_or_asks_passes_both_ways() {
    let upstream = FakeUpstream::start().await;
    let cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    let link = upstream.open_sessions()[0];
    let says = [
        json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" }),
        json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": { "uri": "person://1" } }),
        json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": 1, "progress": 0.5 } }),
        json!({ "jsonrpc": "2.0", "method": "vendor/said", "params": [1, 2] }),
        json!({ "jsonrpc": "2.0", "id": 1, "method": "roots/list" }),
        json!({ "jsonrpc": "2.0", "id": "e-1", "method": "elicitation/create", "params": { "message": "?" } }),
        json!({ "jsonrpc": "2.0", "id": -7, "method": "vendor/asked" }),
    ];
    for message in &says {
        upstream.send(link, message).await;
    }
    client.message_count(1 + says.len()).await;
    let seen: Vec<Value> = client.messages()[1..].iter().map(|record| record.json()).collect();
    // All the same but for the ids of requests, which are the router's.
    let with_id = |message: &Value, id: &Value| {
        let mut message = message.clone();
        message["id"] = id.clone();
        message
    };
    for (seen, said) in seen.iter().zip(&says) {
        match said.get("id") {
            Some(id) => assert_eq!(with_id(seen, id), *said),
            None => assert_eq!(seen, said),
        }
    }

    let answers = [
        json!({ "jsonrpc": "2.0", "id": 1, "result": { "roots": [] } }),
        json!({ "jsonrpc": "2.0", "id": "e-1", "result": { "action": "decline" } }),
        json!({ "jsonrpc": "2.0", "id": -7, "error": { "code": -32601, "message": "no" } }),
    ];
    let questions = seen.iter().filter(|message| message.get("id").is_some());
    for (number, (answer, question)) in answers.iter().zip(questions).enumerate() {
        let answer = &with_id(answer, &question["id"]);
        let request_id = format!("answer-{number}");
        for addr in cluster.addrs() {
            client.post_with(addr, answer, Some(&request_id)).await;
        }
        // Posted again as a new POST: the server has its answer.
        client.post(answer).await;
    }
    client.post(&json!({ "jsonrpc": "2.0", "id": "nobody asked", "result": {} })).await;
    for method in ["notifications/roots/list_changed", "vendor/client"] {
        client.notify(method, json!({ "from": "client" })).await;
    }
    upstream.wait_for("vendor/client", 1).await;
    let received: Vec<Value> = upstream.received().iter().map(|one| one.json()).collect();
    let got: Vec<&Value> = received.iter().filter(|message| message.get("method").is_none()).collect();
    assert_eq!(got, answers.iter().collect::<Vec<_>>());
    assert_eq!(upstream.received_of("notifications/roots/list_changed").len(), 1);
    Oracle::exactly_once(&client);
}

/// Progress of a call comes before its answer, in order, on another instance than the owner too.
#[tokio::test]
async fn progress_comes_in_order_and_before_the_answer() {
    let cluster = Cluster::builder().routers(2).start().await;
    let client = cluster.client().stays_away().initialize().await;
    for instance in [0, 1] {
        client.disconnect().await;
        client.reconnect(Some(instance));
        client.connection_count(2 + instance).await;
        let token = format!("token-{instance}");
        let params = json!({ "name": "wait", "arguments": { "ms": 80 }, "_meta": { "progressToken": token } });
        let id = client.start("tools/call", params).await;
        client.response(id).await;
        let order: Vec<Value> = client
            .messages()
            .iter()
            .map(|record| record.json())
            .filter(|message| message["id"] == id || message["params"]["progressToken"] == token)
            .collect();
        let steps: Vec<u64> =
            order[..order.len() - 1].iter().map(|step| step["params"]["progress"].as_u64().unwrap()).collect();
        assert_eq!(steps, [1, 2, 3]);
        assert_eq!(order.last().unwrap()["id"], id);
    }
}

/// Results of 4 MiB and requests just below the body limit pass, alone and side by side, by stream and by REST.
#[tokio::test]
async fn large_messages_pass_both_ways() {
    let cluster = Cluster::builder().routers(2).start().await;
    let client = cluster.client().initialize().await;
    let bytes = 4 << 20;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(client.start_call("payload", json!({ "bytes": bytes })).await);
    }
    for id in ids {
        assert_eq!(client.response(id).await["result"]["content"][0]["text"].as_str().unwrap().len(), bytes);
    }
    let large = "ü\"".repeat((4 << 20) / 4 - 200);
    for addr in cluster.addrs() {
        let id = client.fresh_id();
        client.post_at(addr, &tool_call(id, "echo", json!({ "text": large }))).await;
        assert_eq!(client.response(id).await["result"]["content"][0]["text"], large);
    }
    let rest = http::post(cluster.addr(0), REST, tool_call(1, "payload", json!({ "bytes": bytes })).to_string()).await;
    assert_eq!(rest.json()["result"]["content"][0]["text"].as_str().unwrap().len(), bytes);
    Oracle::exactly_once(&client);
}

/// A server that does not answer in time: one error that says so, and the server is told to stop.
#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_with_an_error() {
    let upstream = FakeUpstream::answering(|_| Reply::Silence).await;
    let cluster =
        Cluster::builder().upstream_urls([upstream.url()]).env("MCP_UPSTREAM_REQUEST_TIMEOUT", "200ms").start().await;
    let client = cluster.client().initialize().await;
    let id = client.start_call("slow", json!({})).await;
    let answer = client.response(id).await;
    assert_eq!(answer["error"]["code"], -32001, "{answer}");
    assert_eq!(
        (&answer["error"]["data"]["outcome"], &answer["error"]["data"]["retry"]),
        (&json!("unknown"), &json!(false))
    );
    let cancels = upstream.wait_for("notifications/cancelled", 1).await;
    assert_eq!(cancels[0]["params"]["requestId"], id);
    // The late answer is dropped.
    upstream.send(upstream.open_sessions()[0], &json!({ "jsonrpc": "2.0", "id": id, "result": {} })).await;
    client.post(&request("after", "ping", json!({}))).await;
    client.response_to(&json!("after")).await;
    Oracle::every_request_answered_once(&client);
}

/// Rule 11: a second `initialize` of the client (mcp-remote sends one after a reconnect) is answered as the first was, and
/// does not reach the server, which might refuse it; `server/discover` is refused, so that newer clients fall back.
#[tokio::test]
async fn a_second_initialize_is_answered_from_the_store() {
    let upstream = FakeUpstream::start().await;
    let cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().connect().await;
    let discover = client.start("server/discover", json!({})).await;
    assert_eq!(client.response(discover).await["error"]["code"], -32601);
    let first = client.handshake().await;
    for addr in cluster.addrs() {
        let id = format!("again at {addr}");
        let params = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "x", "version": "0" } });
        client.post_at(addr, &request(id.as_str(), "initialize", params)).await;
        assert_eq!(client.response_to(&json!(id)).await["result"], first);
        client.notify("notifications/initialized", json!({})).await;
    }
    client.call("x", json!({})).await;
    assert_eq!(upstream.received_of("initialize").len(), 1);
    assert_eq!(upstream.received_of("notifications/initialized").len(), 1);
    assert!(upstream.received_of("server/discover").is_empty());
}

/// An endpoint that answers, but is no MCP server, is no use: health says so, and REST and sessions are told.
#[tokio::test]
async fn an_endpoint_that_is_no_mcp_server_is_said_to_be_down() {
    let other = Cluster::builder().without_redis().upstreams(0).start().await;
    let cluster = quick(Cluster::builder())
        .upstream_urls([format!("http://{}/actuator/health", other.addr(0))])
        .env("MCP_UPSTREAM_RELINK_TIMEOUT", "300ms")
        .start()
        .await;
    let addr = cluster.addr(0);
    eventually("DEGRADED", || async { cluster.routers[0].health().await["status"] == "DEGRADED" }).await;
    let rest = http::post(addr, REST, request(1, "ping", json!({})).to_string()).await;
    assert!(matches!(rest.status, 502 | 503), "{}", rest.text());
    let client = cluster.client().connect().await;
    let id = client.start("initialize", json!({ "protocolVersion": "2025-11-25" })).await;
    assert_eq!(client.response(id).await["error"]["code"], -32000);
}

/// Requests of a server whose session died with its link cannot be answered any more: the client is told so.
#[tokio::test]
async fn open_questions_of_a_dead_server_session_are_cancelled() {
    let upstream = FakeUpstream::start().await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    let link = upstream.open_sessions()[0];
    upstream.send(link, &json!({ "jsonrpc": "2.0", "id": 77, "method": "sampling/createMessage", "params": {} })).await;
    let asked = client.message("the question", |message| message["method"] == "sampling/createMessage").await;
    upstream.drop_session(link);
    let cancel = client.message("its cancellation", |message| message["method"] == "notifications/cancelled").await;
    assert_eq!(cancel["params"]["requestId"], asked["id"]);
    client.post(&json!({ "jsonrpc": "2.0", "id": asked["id"], "result": {} })).await;
    client.call("x", json!({})).await;
    let answers = upstream.received().iter().filter(|one| one.json().get("result").is_some()).count();
    assert_eq!(answers, 0, "an answer to a dead session goes nowhere");
}

/// A session that is posted to before its stream has been read, and through one instance only, works as well: nothing
/// depends on who is first.
#[tokio::test]
async fn a_stream_on_one_instance_and_posts_on_another_is_a_session() {
    let cluster = Cluster::builder().routers(2).start().await;
    let client = McpClient::builder(cluster.addrs()).post_to(PostTo::Only(1)).initialize().await;
    for number in 0..20 {
        assert_eq!(client.text("echo", json!({ "text": format!("{number}") })).await, format!("{number}"));
    }
    Oracle::exactly_once(&client);
}

over_both_transports! {
    a_broken_link_repeats_only_what_is_repeatable
}
