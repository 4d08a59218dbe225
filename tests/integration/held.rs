//! Clients of 2026-07-28 at servers of earlier versions: the gateway holds the session, and any instance goes on with what was
//! asked.

use std::{net::SocketAddr, time::Duration};

#[cfg(feature = "fault-points")]
use mcp_router::fault;
use serde_json::{Value, json};

use crate::harness::{
    Cluster, ModernClient, ModernServer, RedisClient, StreamableUpstream,
    cluster::{self, SERVICE},
    event_stream::{EventStream, Opened},
    eventually, eventually_some,
    http::Request,
    odd_upstream::Gate,
    soon,
    streamable_upstream::{Act, Manner, response},
};

const ELICITS: fn() -> Value = || json!({ "elicitation": {} });

fn client() -> ModernClient {
    ModernClient::of(SERVICE)
}

/// Settings under which a dead instance is noticed soon.
fn quick() -> cluster::Builder {
    Cluster::builder().routers(2).short_lease().env("MCP_POLL_INTERVAL", "200ms")
}

fn text(answered: &Value) -> &str {
    answered["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answered}"))
}

async fn says_what_it_is_and_does_what_is_asked(builder: cluster::Builder) {
    let cluster = builder.start().await;
    let addr = cluster.addr(0);
    let discovered = client().call(addr, "server/discover", json!({})).await;
    let result = discovered.result();
    assert_eq!(result["supportedVersions"], json!(["2026-07-28"]));
    assert!(result["capabilities"]["tools"].is_object() && result["capabilities"].get("tasks").is_none(), "{result}");
    assert_eq!((&result["ttlMs"], &result["cacheScope"]), (&json!(0), &json!("private")));
    assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], SERVICE);

    let listed = client().call(addr, "tools/list", json!({})).await;
    let result = listed.result();
    assert!(!result["tools"].as_array().unwrap().is_empty());
    assert_eq!(result["resultType"], "complete");
    assert_eq!((&result["ttlMs"], &result["cacheScope"]), (&json!(0), &json!("private")));

    let echoed = client().tool(addr, "echo", json!({ "text": "é" })).await;
    assert_eq!((text(echoed.result()), &echoed.result()["resultType"]), ("é", &json!("complete")));
    assert_eq!(client().call(addr, "no/such/method", json!({})).await.error_code(), -32601);
    assert_eq!(client().call(addr, "no/such/method", json!({})).await.status, 404);
}

#[tokio::test]
async fn a_server_of_http_and_sse_serves_a_client_without_sessions() {
    says_what_it_is_and_does_what_is_asked(Cluster::builder()).await;
}

#[tokio::test]
async fn a_server_of_streamable_http_serves_a_client_without_sessions() {
    says_what_it_is_and_does_what_is_asked(Cluster::builder().streamable()).await;
}

#[tokio::test]
async fn the_store_in_memory_is_enough_for_one_instance() {
    says_what_it_is_and_does_what_is_asked(Cluster::builder().without_redis()).await;
}

/// rmcp counts its progress tokens from 0 in every client: each hears of its own call alone.
#[tokio::test]
async fn callers_with_one_progress_token_hear_of_their_own_calls() {
    let cluster = Cluster::builder().streamable().start().await;
    let addr = cluster.addr(0);
    let calls = (0..4).map(|number| async move {
        let client = client().meta("progressToken", 0);
        let answered = client.tool(addr, "wait", json!({ "ms": 600, "text": format!("call {number}") })).await;
        assert_eq!(text(answered.result()), format!("call {number}"));
        let progress: Vec<_> = answered.before.iter().map(|said| &said["params"]).collect();
        assert!(!progress.is_empty());
        assert!(progress.iter().all(|said| said["progressToken"] == 0), "{progress:?}");
        let steps: Vec<u64> = progress.iter().map(|said| said["progress"].as_u64().unwrap()).collect();
        assert!(steps.is_sorted() && steps.windows(2).all(|pair| pair[0] < pair[1]), "another call's: {steps:?}");
    });
    futures_util::future::join_all(calls).await;
}

async fn asked_at_one_instance_and_answered_at_another(builder: cluster::Builder, kills: bool) {
    let mut cluster = builder.start().await;
    let (one, other) = (cluster.addr(0), cluster.addr(1));
    let client = client().declaring(ELICITS());
    let arguments = json!({ "prompt": "who?", "by": "elicitation" });
    let asked = client.tool(one, "ask_client", arguments.clone()).await;
    let result = asked.result();
    assert_eq!(result["resultType"], "input_required");
    let requests = result["inputRequests"].as_object().unwrap();
    assert_eq!(requests.len(), 1);
    let (key, request) = requests.iter().next().unwrap();
    assert_eq!((&request["method"], &request["params"]["message"]), (&json!("elicitation/create"), &json!("who?")));
    if kills {
        cluster.routers[0].kill();
    }
    let mut params = json!({ "name": "ask_client", "arguments": arguments, "requestState": result["requestState"] });

    // Of another request it means nothing.
    let mut stolen = params.clone();
    stolen["arguments"]["prompt"] = "what?".into();
    assert_eq!(client.call(other, "tools/call", stolen).await.error_code(), -32602);

    params["inputResponses"] = json!({ key: { "action": "accept", "content": { "text": "marvin" } } });
    let answered = client.call(other, "tools/call", params.clone()).await;
    assert_eq!(text(answered.result()), "marvin", "{}", answered.response);
    // Its client has lost that answer.
    let again = client.call(other, "tools/call", params).await;
    assert_eq!(again.result(), answered.result());
}

#[tokio::test]
async fn a_question_of_a_streamable_server_is_answered_at_another_instance() {
    asked_at_one_instance_and_answered_at_another(quick().streamable(), false).await;
}

#[tokio::test]
async fn a_question_of_an_sse_server_is_answered_at_another_instance() {
    asked_at_one_instance_and_answered_at_another(quick(), false).await;
}

#[tokio::test]
async fn a_question_outlives_the_instance_that_has_asked_it() {
    asked_at_one_instance_and_answered_at_another(quick().streamable(), true).await;
}

#[tokio::test]
async fn a_client_is_not_asked_what_it_has_not_declared() {
    let cluster = Cluster::builder().start().await;
    let answered = client().tool(cluster.addr(0), "ask_client", json!({ "prompt": "?", "by": "elicitation" })).await;
    assert_eq!(answered.result()["isError"], true, "the server knows it: {}", answered.response);
    let roots = client().declaring(json!({ "roots": {} }));
    let asked = roots.tool(cluster.addr(0), "ask_client", json!({ "prompt": "?", "by": "roots" })).await;
    let (_, request) = asked.result()["inputRequests"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(request["method"], "roots/list");
}

/// 2026-07-28, Cancellation: closing the stream is cancelling.
#[tokio::test]
async fn a_client_that_closes_its_stream_cancels_its_call() {
    let gate = Gate::default();
    let waits = gate.clone();
    let upstream =
        StreamableUpstream::calls(move |call| vec![Act::Wait(waits.clone()), Act::result(call, &json!({}))]).await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let opened = client().open(cluster.addr(0), &json!(1), "tools/call", json!({ "name": "write" })).await.unwrap();
    let Opened::Stream(stream) = opened else { panic!("no stream") };
    let call = upstream.wait_for("tools/call", 1).await.remove(0);
    drop::<EventStream>(stream);
    let cancel = upstream.wait_for("notifications/cancelled", 1).await.remove(0);
    assert_eq!(cancel.json["params"]["requestId"], call.json["id"]);
    gate.open();
}

#[tokio::test]
async fn logs_come_to_who_has_asked_for_them_and_to_nobody_else() {
    let log = |level: &str| json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": level, "data": "x" } });
    let upstream =
        StreamableUpstream::calls(move |call| vec![Act::Event(log("info")), Act::result(call, &json!({}))]).await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let silent = client().tool(cluster.addr(0), "read", json!({})).await;
    assert_eq!((silent.before.len(), upstream.posts("logging/setLevel").len()), (0, 0));
    let wants = client().meta("io.modelcontextprotocol/logLevel", "info");
    let told = wants.tool(cluster.addr(0), "read", json!({})).await;
    assert_eq!(told.before, [log("info")]);
    assert_eq!(upstream.posts("logging/setLevel")[0].json["params"]["level"], "info");
}

#[tokio::test]
async fn changes_come_on_the_stream_of_who_listens_and_end_with_it() {
    let upstream = StreamableUpstream::calls(|call| vec![Act::Json(response(call, &json!({})))]).await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let wanted = json!({ "notifications": { "toolsListChanged": true, "promptsListChanged": true } });
    let opened = client().open(cluster.addr(0), &json!(7), "subscriptions/listen", wanted).await.unwrap();
    let Opened::Stream(mut stream) = opened else { panic!("no stream") };
    let mut next = async || serde_json::from_str::<Value>(&stream.event().await.data).unwrap();
    let first = next().await;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"]["notifications"], json!({ "toolsListChanged": true }), "what the server can tell");
    assert_eq!(first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 7);
    let session = upstream.sessions()[0].clone();
    upstream.listened(&session).await;
    let changed = |list: &str| json!({ "jsonrpc": "2.0", "method": format!("notifications/{list}/list_changed") });
    upstream.say(&session, &changed("prompts"));
    upstream.say(&session, &changed("tools"));
    let told = next().await;
    assert_eq!(told["method"], "notifications/tools/list_changed");
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 7);
    drop(stream);
    upstream.until("its session ends", |upstream| upstream.ended_sessions() > 0).await;
}

/// What a client declares makes another kind of session: nobody can take all places by that, or without wanting to.
#[tokio::test]
async fn a_session_that_waits_makes_room_for_another_client() {
    let cluster = Cluster::builder().streamable().env("MCP_INNER_SESSIONS", 1).start().await;
    for at in 0..3 {
        let client = client().declaring(json!({ "sampling": { format!("kind-{at}"): {} } }));
        let echoed = client.tool(cluster.addr(0), "echo", json!({ "text": "x" })).await;
        assert_eq!(text(echoed.result()), "x", "{at}");
    }
}

/// The session is nobody else's: it must not be left to its server.
#[tokio::test]
async fn who_leaves_before_there_is_a_stream_of_changes_leaves_no_session_behind() {
    let manner = Manner { subscribes: Some(Gate::default()), ..Manner::default() };
    let upstream = StreamableUpstream::start(manner, |_| Vec::new()).await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let wanted = json!({ "notifications": { "resourceSubscriptions": ["file:///a"] } });
    let listens = client();
    let addr = cluster.addr(0);
    let listening = tokio::spawn(async move {
        let _ = listens.open(addr, &json!(1), "subscriptions/listen", wanted).await;
    });
    upstream.wait_for("resources/subscribe", 1).await;
    listening.abort();
    upstream.until("its session ends", |upstream| upstream.ended_sessions() > 0).await;
}

/// What any session's heir needs to go on with a call at its server.
async fn has_resumable(redis: &RedisClient) -> bool {
    for key in redis.keys().await {
        if let Some(session) = key.strip_prefix("mcp:sessions:")
            && redis.fields(session).await.keys().any(|field| field.starts_with("rs:"))
        {
            return true;
        }
    }
    false
}

/// A server whose calls can be resumed, and are done when the gate is open.
async fn done_behind(gate: &Gate) -> StreamableUpstream {
    let waits = gate.clone();
    StreamableUpstream::calls(move |call| {
        vec![
            Act::Prime,
            Act::Wait(waits.clone()),
            Act::result(call, &json!({ "content": [{ "type": "text", "text": "done" }] })),
        ]
    })
    .await
}

/// CALL-1: of all requests with one key one runs, whatever dies.
async fn runs_once(kill_at: KillAt) {
    let gate = Gate::default();
    let upstream = done_behind(&gate).await;
    let mut cluster = quick().upstream_urls([upstream.url()]).start().await;
    let (one, other) = (cluster.addr(0), cluster.addr(1));
    let keyed = client().header("Idempotency-Key", "order-1");
    let write = || json!({ "name": "write", "arguments": { "n": 1 } });
    let first = tokio::spawn({
        let keyed = keyed.clone();
        async move { keyed.try_call(one, "tools/call", write()).await }
    });
    upstream.wait_for("tools/call", 1).await;
    let redis = cluster.redis_client().await;
    eventually("the event id on record", async || has_resumable(&redis).await).await;
    let again = match kill_at {
        KillAt::Never => {
            let again = tokio::spawn({
                let keyed = keyed.clone();
                async move { keyed.call(other, "tools/call", write()).await }
            });
            eventually("it is found", async || {
                cluster.routers[1].metric("mcp_router_keyed_calls_total", Some("joined")).await > 0.0
            })
            .await;
            gate.open();
            let told = soon("the first answer", first).await.unwrap().unwrap();
            assert_eq!(text(told.result()), "done");
            again.await.unwrap()
        }
        KillAt::Running => {
            cluster.routers[0].kill();
            assert!(first.await.unwrap().is_err());
            let again = tokio::spawn({
                let keyed = keyed.clone();
                async move { keyed.call(other, "tools/call", write()).await }
            });
            gate.open();
            again.await.unwrap()
        }
        KillAt::Over => {
            gate.open();
            soon("the first answer", first).await.unwrap().unwrap();
            cluster.routers[0].kill();
            keyed.call(other, "tools/call", write()).await
        }
    };
    assert_eq!(text(again.result()), "done", "{}", again.response);
    // Known by its own name in `_meta`, too.
    let by_meta = client().meta("mcp-router/idempotencyKey", "order-1").call(other, "tools/call", write()).await;
    assert_eq!(by_meta.result(), again.result());
    assert_eq!(upstream.posts("tools/call").len(), 1, "it ran once");
    // Another request is not answered with this one's result.
    let different = keyed.call(other, "tools/call", json!({ "name": "write", "arguments": { "n": 2 } })).await;
    assert_eq!(different.error_code(), -32602);
    assert_eq!(upstream.posts("tools/call").len(), 1);
}

#[derive(Debug, Clone, Copy)]
enum KillAt {
    Never,
    Running,
    Over,
}

#[tokio::test]
async fn a_keyed_call_that_is_asked_again_while_it_runs_runs_once() {
    runs_once(KillAt::Never).await;
}

#[tokio::test]
async fn a_keyed_call_whose_instance_is_killed_runs_once() {
    runs_once(KillAt::Running).await;
}

#[tokio::test]
async fn the_result_of_a_keyed_call_outlives_its_instance() {
    runs_once(KillAt::Over).await;
}

/// As when a full Redis evicts one that waits for the next call.
#[tokio::test]
async fn no_key_is_lost_to_a_session_that_is_gone() {
    let cluster = Cluster::builder().streamable().start().await;
    let redis = cluster.redis_client().await;
    let call = async |key: &str| {
        let client = client().header("idempotency-key", key);
        client.tool(cluster.addr(0), "echo", json!({ "text": key })).await
    };
    call("one").await.result();
    for key in redis.keys().await.iter().filter(|key| key.contains(":sessions:")) {
        let _: i64 = redis.run(&["DEL", key]).await;
    }
    assert_eq!(text(call("two").await.result()), "two");
}

/// The negative control: without a key the client's retry is another call.
#[tokio::test]
async fn without_a_key_a_call_that_is_asked_again_runs_again() {
    let upstream = StreamableUpstream::calls(|call| vec![Act::Json(response(call, &json!({})))]).await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    for _ in 0..2 {
        client().tool(cluster.addr(0), "write", json!({})).await;
    }
    assert_eq!(upstream.posts("tools/call").len(), 2);
}

#[tokio::test]
async fn no_key_leads_to_the_result_of_another_request_however_alike_the_two_are() {
    let cluster = Cluster::builder().streamable().start().await;
    let call = async |number: &str| {
        let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}, "mcp-router/idempotencyKey": "alike" });
        let params = format!(r#"{{"name":"echo","arguments":{{"text":"x","n":{number}}},"_meta":{meta}}}"#);
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let request = Request::post(format!("/mcp/{SERVICE}"), body)
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", "tools/call")
            .header("mcp-name", "echo");
        request.send(cluster.addr(0)).await
    };
    let first = call("12345678901234567890123").await;
    assert_eq!(first.json()["result"]["content"][0]["text"], "x", "{}", first.text());
    // Other spellings of the same number are the same request.
    assert_eq!(call("12345678901234567890123.0").await.text(), first.text());
    // binary64 does not tell these two apart.
    assert_eq!(call("12345678901234567890124").await.error_code(), Some(-32602));
}

#[tokio::test]
async fn a_call_that_goes_on_with_the_key_of_another_one_does_not_become_its_result() {
    let cluster = Cluster::builder().routers(2).streamable().start().await;
    let with_key = |key: &str| client().declaring(ELICITS()).header("idempotency-key", key);
    let (mine, asking) = (json!({ "text": "mine" }), json!({ "prompt": "who?", "by": "elicitation" }));
    let echoed = with_key("echo's").tool(cluster.addr(0), "echo", mine.clone()).await;
    let asked = with_key("asked").tool(cluster.addr(0), "ask_client", asking.clone()).await;
    let (question, _) = asked.result()["inputRequests"].as_object().unwrap().iter().next().unwrap();
    let params = json!({ "name": "ask_client", "arguments": asking, "requestState": asked.result()["requestState"],
        "inputResponses": { question: { "action": "accept", "content": { "text": "marvin" } } } });
    let stolen = with_key("echo's").call(cluster.addr(1), "tools/call", params.clone()).await;
    assert_eq!(stolen.error_code(), -32602);
    let again = with_key("echo's").tool(cluster.addr(1), "echo", mine).await;
    assert_eq!(again.result(), echoed.result());
    let answered = with_key("asked").call(cluster.addr(1), "tools/call", params).await;
    assert_eq!(text(answered.result()), "marvin", "{}", answered.response);
}

/// A key that comes with the answers is the call's from then on.
#[tokio::test]
async fn a_key_may_come_when_a_call_goes_on() {
    let cluster = Cluster::builder().routers(2).streamable().start().await;
    let asking = json!({ "prompt": "who?", "by": "elicitation" });
    let client = client().declaring(ELICITS());
    let asked = client.tool(cluster.addr(0), "ask_client", asking.clone()).await;
    let (question, _) = asked.result()["inputRequests"].as_object().unwrap().iter().next().unwrap();
    let params = json!({ "name": "ask_client", "arguments": asking, "requestState": asked.result()["requestState"],
        "inputResponses": { question: { "action": "accept", "content": { "text": "marvin" } } } });
    let late = client.header("idempotency-key", "late");
    let answered = late.call(cluster.addr(1), "tools/call", params).await;
    let again = late.tool(cluster.addr(0), "ask_client", asking).await;
    assert_eq!((text(answered.result()), again.result()), ("marvin", answered.result()), "{}", again.response);
}

#[tokio::test]
async fn what_a_server_asks_and_answers_stays_as_it_was_written() {
    const SCHEMA: &str = r#"{"type":"object","properties":{"z":{"maximum":12345678901234567890123},"a":{}}}"#;
    const ODD: &str = r#"{"z":12345678901234567890123,"a":1e400,"s":"\ud800"}"#;
    let gate = Gate::default();
    let waits = gate.clone();
    let upstream = StreamableUpstream::calls(move |call| {
        let id = &call["id"];
        let asks = format!(r#"{{"message":"?","requestedSchema":{SCHEMA}}}"#);
        let asks = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{asks}}}"#);
        let says = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[],"structuredContent":{ODD}}}}}"#);
        let event = |text: &str| Act::Raw(format!("data: {text}\n\n"));
        match call["params"]["name"].as_str() {
            Some("ask") => vec![Act::Prime, event(&asks)],
            _ => vec![Act::Prime, Act::Wait(waits.clone()), event(&says)],
        }
    })
    .await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).env("MCP_TASK_AFTER", "100ms").start().await;
    let addr = cluster.addr(0);
    let call = |client: &ModernClient, name: &str| {
        client.request(&json!(1), "tools/call", json!({ "name": name, "arguments": {} }))
    };
    // People see the fields of a form in the order in which they stand there.
    let asked = call(&client().declaring(ELICITS()), "ask").send(addr).await.text();
    assert!(asked.contains(SCHEMA), "{asked}");
    let client = client().declaring(TASKS());
    let task = client.tool(addr, "read", json!({})).await.result()["taskId"].clone();
    gate.open();
    let get = client.request(&json!(1), "tasks/get", json!({ "taskId": task }));
    let ended = eventually_some("its end", async || {
        let told = get.send(addr).await.text();
        told.contains("completed").then_some(told)
    })
    .await;
    assert!(ended.contains(ODD), "{ended}");
}

const TASKS: fn() -> Value = || json!({ "extensions": { "io.modelcontextprotocol/tasks": {} }, "elicitation": {} });

/// CALL-2
#[tokio::test]
async fn a_task_outlives_the_instance_that_began_it() {
    let gate = Gate::default();
    let upstream = done_behind(&gate).await;
    let mut cluster = quick().upstream_urls([upstream.url()]).env("MCP_TASK_AFTER", "100ms").start().await;
    let (one, other) = (cluster.addr(0), cluster.addr(1));
    let client = client().declaring(TASKS());
    let begun = client.tool(one, "write", json!({})).await;
    let task = begun.result();
    assert_eq!((&task["resultType"], &task["status"]), (&json!("task"), &json!("working")));
    let about = json!({ "taskId": task["taskId"] });
    let working = client.call(other, "tasks/get", about.clone()).await;
    assert_eq!((&working.result()["status"], &working.result()["resultType"]), (&json!("working"), &json!("complete")));
    let redis = cluster.redis_client().await;
    eventually("the event id on record", async || has_resumable(&redis).await).await;
    cluster.routers[0].kill();
    gate.open();
    let ended = eventually_some("its end", async || {
        let told = client.call(other, "tasks/get", about.clone()).await.result().clone();
        (told["status"] != "working").then_some(told)
    })
    .await;
    assert_eq!(ended["status"], "completed", "{ended}");
    assert_eq!((text(&ended["result"]), &ended["result"]["resultType"]), ("done", &json!("complete")));
    assert_eq!(upstream.posts("tools/call").len(), 1, "it ran once");
    // Nobody else's, and of nobody who has not declared it.
    let undeclared = crate::held::client().call(other, "tasks/get", about).await;
    assert_eq!((undeclared.error_code(), undeclared.status), (-32021, 400));
    let unknown = client.call(other, "tasks/get", json!({ "taskId": "x" })).await;
    assert_eq!(unknown.error_code(), -32602);
}

#[tokio::test]
async fn a_task_asks_and_is_answered_at_any_instance() {
    let ask = json!({ "jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": { "message": "who?" } });
    let gate = Gate::default();
    let waits = gate.clone();
    let upstream =
        StreamableUpstream::calls(move |_| vec![Act::Prime, Act::Wait(waits.clone()), Act::Event(ask.clone())]).await;
    let cluster = quick().upstream_urls([upstream.url()]).env("MCP_TASK_AFTER", "100ms").start().await;
    let client = client().declaring(TASKS());
    let task = client.tool(cluster.addr(0), "write", json!({})).await.result().clone();
    gate.open();
    let about = json!({ "taskId": task["taskId"] });
    let asks = eventually_some("a question", async || {
        let told = client.call(cluster.addr(1), "tasks/get", about.clone()).await.result().clone();
        (told["status"] == "input_required").then_some(told)
    })
    .await;
    let (key, request) = asks["inputRequests"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(request["params"]["message"], "who?");
    let mut update = about.clone();
    update["inputResponses"] = json!({ key: { "action": "decline" }, "nobody": {} });
    assert_eq!(
        client.call(cluster.addr(1), "tasks/update", update).await.result(),
        &json!({ "resultType": "complete" })
    );
    upstream
        .until("the answer", |upstream| upstream.seen().iter().any(|seen| seen.json["result"]["action"] == "decline"))
        .await;
    let told = client.call(cluster.addr(0), "tasks/get", about.clone()).await;
    assert_eq!(told.result()["status"], "working");
    client.call(cluster.addr(1), "tasks/cancel", about.clone()).await.result();
    upstream.wait_for("notifications/cancelled", 1).await;
    assert_eq!(client.call(cluster.addr(0), "tasks/get", about).await.result()["status"], "cancelled");
}

/// Calls the tool with this key at one instance after the other, as SDKs do whose connection has broken, until there is an
/// answer.
async fn until_answered(addrs: &[SocketAddr], key: &str) -> Value {
    let client = client().header("Idempotency-Key", key);
    soon("an answer", async {
        for addr in addrs.iter().cycle() {
            let params = json!({ "name": "increment", "arguments": { "key": key } });
            if let Ok(answered) = client.try_call(*addr, "tools/call", params).await
                && answered.response["error"]["data"]["retry"] != true
            {
                return answered.response;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        unreachable!("there are instances")
    })
    .await
}

/// It ran once if it has a result, and otherwise no more than that.
fn judge(cluster: &Cluster, key: &str, response: &Value) {
    let runs = cluster.counts().get(key).copied().unwrap_or_default();
    match response["error"]["data"]["outcome"].as_str() {
        None => {
            assert_eq!((&response["result"]["structuredContent"]["value"], runs), (&json!(1), 1), "{key}: {response}")
        }
        Some(outcome) => assert!(outcome == "unknown" && runs <= 1, "{key} ran {runs} times: {response}"),
    }
}

/// CALL-1: at each step of its way the instance dies that has the call.
#[cfg(feature = "fault-points")]
async fn dies_at_each_step(builder: impl Fn() -> cluster::Builder) {
    let dir = tempfile::tempdir().unwrap();
    for step in [
        fault::CALL_RECORDED,
        fault::ACCEPTED,
        fault::BEFORE_POST,
        fault::CALL_SENT,
        fault::CALL_PLACED,
        fault::AFTER_POST,
        fault::BEFORE_APPEND,
        fault::AFTER_APPEND,
        fault::CALL_ANSWERED,
        fault::CALL_NOTED,
    ] {
        let arm = dir.path().join("armed");
        let mut cluster = builder().env("MCP_FAULT_POINT", step).env("MCP_FAULT_ARM", arm.display()).start().await;
        // Its session is open, and the steps are those of the call.
        judge(&cluster, "first", &until_answered(&cluster.addrs(), "first").await);
        std::fs::write(&arm, "").unwrap();
        // Not the bare name of the step, which the log of the test build has.
        let key = format!("dies at {step}");
        let answered = until_answered(&cluster.addrs(), &key).await;
        assert!(!arm.exists(), "{step} was not passed");
        eventually("it is dead", async || !cluster.routers[0].is_running()).await;
        judge(&cluster, &key, &answered);
        // Whoever asks again is told the same.
        let again = until_answered(&cluster.addrs()[1..], &key).await;
        assert_eq!(
            (&again["result"], &again["error"]["code"]),
            (&answered["result"], &answered["error"]["code"]),
            "{step}"
        );
        judge(&cluster, &key, &again);
        cluster.routers[0].kill();
    }
}

#[cfg(feature = "fault-points")]
#[tokio::test]
async fn a_keyed_call_runs_once_at_whichever_step_its_instance_dies() {
    dies_at_each_step(|| quick().streamable()).await;
}

#[cfg(feature = "fault-points")]
#[tokio::test]
async fn a_keyed_call_at_an_sse_server_runs_once_at_whichever_step_its_instance_dies() {
    dies_at_each_step(quick).await;
}

/// CALL-1
#[tokio::test]
async fn keyed_calls_run_once_while_instances_are_killed() {
    let mut cluster = quick().routers(3).streamable().start().await;
    let addrs = cluster.addrs();
    let callers = (0..6).map(|caller| {
        let mut addrs = addrs.clone();
        let count = addrs.len();
        addrs.rotate_left(caller % count);
        tokio::spawn(async move {
            let mut told = Vec::new();
            for call in 0..25 {
                let key = format!("caller {caller} call {call}");
                let response = until_answered(&addrs, &key).await;
                told.push((key, response));
            }
            told
        })
    });
    let callers: Vec<_> = callers.collect();
    for victim in [0, 1, 2, 0] {
        tokio::time::sleep(Duration::from_millis(150)).await;
        cluster.routers[victim].kill();
        cluster.routers[victim].restart().await;
    }
    let mut unknown = 0;
    for caller in callers {
        for (key, response) in caller.await.unwrap() {
            judge(&cluster, &key, &response);
            unknown += usize::from(response.get("error").is_some());
        }
    }
    println!("outcome unknown: {unknown} of 150");
    cluster.assert_no_violations().await;
}

/// CALL-1: a server of the same version has no session; the call is in one of the router's all the same.
#[tokio::test]
async fn a_keyed_call_at_a_server_without_sessions_runs_once() {
    let server = ModernServer::start().await;
    let cluster = quick().upstream_urls([server.url()]).start().await;
    let (one, other) = (cluster.addr(0), cluster.addr(1));
    let keyed = client().header("Idempotency-Key", "\"order-1\"");
    let slow = || json!({ "name": "slow", "arguments": { "key": "slow", "ms": 400 } });
    let first = tokio::spawn({
        let keyed = keyed.clone();
        async move { keyed.call(one, "tools/call", slow()).await }
    });
    server.begun("slow", 1).await;
    let again = keyed.call(other, "tools/call", slow()).await;
    let first = first.await.unwrap();
    assert_eq!((text(first.result()), &first.result()["resultType"]), ("slow is done", &json!("complete")));
    assert_eq!(again.result(), first.result());
    assert_eq!(keyed.call(other, "tools/call", slow()).await.result(), first.result());
    assert_eq!(server.seen().await["slow"], 1);

    // What it asks is asked, and answered at another instance.
    let asking = client().declaring(json!({ "elicitation": { "form": {} } })).header("Idempotency-Key", "order-2");
    let mut call = json!({ "name": "elicit", "arguments": { "key": "elicit" } });
    let asked = asking.call(one, "tools/call", call.clone()).await.result().clone();
    let (key, _) = asked["inputRequests"].as_object().unwrap().iter().next().unwrap();
    call["requestState"] = asked["requestState"].clone();
    call["inputResponses"] = json!({ key: { "action": "accept", "content": { "name": "Ada" } } });
    let answered = asking.call(other, "tools/call", call).await;
    assert!(text(answered.result()).contains("Ada"), "{}", answered.response);
}
