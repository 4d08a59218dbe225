//! Servers of the era without sessions (MCP 2026-07-28): the router finds out that they are, and clients with a handshake notice
//! no difference.

use serde_json::{Value, json};

use crate::harness::{
    Cluster, McpClient, ModernServer, Oracle, PostTo, StreamableUpstream, Transport, eventually,
    http::Request,
    mcp_client::tool_call,
    over_both_transports,
    streamable_upstream::{Act, response},
};

over_both_transports! {
    calls_lists_and_errors_pass_to_a_server_without_sessions
    progress_and_log_messages_come_with_their_call
    what_the_server_asks_the_client_is_asked
    a_cancelled_call_is_given_up_at_the_server
    changes_are_told_to_whoever_subscribes
    the_death_of_an_instance_costs_no_session_and_runs_no_call_twice
    a_call_that_waits_for_its_client_outlives_the_instance
    answers_of_a_round_outlive_the_instance_that_had_them
}

async fn behind(server: &ModernServer) -> Cluster {
    Cluster::builder().upstream_urls([server.url()]).start().await
}

fn able() -> Value {
    json!({ "elicitation": { "form": {}, "url": {} }, "sampling": {}, "roots": {} })
}

async fn client(cluster: &Cluster, over: Transport) -> McpClient {
    cluster.client().over(over).capabilities(able()).initialize().await
}

/// Answers the next request of the server of this method.
async fn answers(client: &McpClient, method: &str, result: Value) -> Value {
    let asked = client.message(method, |message| message["method"] == method).await;
    client.post(&json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result })).await;
    asked
}

/// MCP 2026-07-28 towards the server, and a session towards the client: a handshake, lists, calls, prompts, resources; arguments
/// that stand in headers; errors under codes that the client knows.
async fn calls_lists_and_errors_pass_to_a_server_without_sessions(over: Transport) {
    let server = ModernServer::start().await;
    let cluster = behind(&server).await;
    let client = cluster.client().over(over).capabilities(able()).connect().await;
    let told = client.handshake().await;
    assert_eq!((&told["protocolVersion"], &told["serverInfo"]["name"]), (&json!("2025-11-25"), &json!("modern-tools")));
    assert_eq!(told["instructions"], "A fixture.");
    assert_eq!(told["capabilities"]["resources"], json!({ "listChanged": true, "subscribe": true }));
    assert_eq!(client.text("echo", json!({ "text": "h\u{e9}llo" })).await, "h\u{e9}llo");
    // Nobody has listed the tools: the server misses the header, which is found out by its list.
    assert_eq!(client.text("located", json!({ "region": "\u{e9}" })).await, "\u{e9} =?base64?w6k=?=");
    assert_eq!(client.text("located", json!({ "region": "here" })).await, "here here");
    assert_eq!(server.seen().await["located"], 2);
    let tools = client.result("tools/list", json!({})).await;
    assert!(tools["tools"].as_array().unwrap().iter().any(|tool| tool["name"] == "echo"));
    assert!(tools.get("resultType").is_none() && tools.get("ttlMs").is_none(), "{tools}");
    let prompt = client.result("prompts/get", json!({ "name": "greet", "arguments": { "name": "Ada" } })).await;
    assert_eq!(prompt["messages"][0]["content"]["text"], "Greet Ada.");
    let read = client.result("resources/read", json!({ "uri": "test://counter" })).await;
    assert_eq!(read["contents"][0]["text"], "0");
    client.result("ping", json!({})).await;
    let missing = client.start("resources/read", json!({ "uri": "test://none" })).await;
    assert_eq!(client.response(missing).await["error"]["code"], -32602);
    let unknown = client.start("vendor/unknown", json!({})).await;
    assert_eq!(client.response(unknown).await["error"]["code"], -32601);
    Oracle::every_request_answered_once(&client);
}

/// Progress by the client's own token, log messages from its level on, and from `info` on while it has set none.
async fn progress_and_log_messages_come_with_their_call(over: Transport) {
    let server = ModernServer::start().await;
    let cluster = behind(&server).await;
    let client = client(&cluster, over).await;
    let call = json!({ "name": "progress", "arguments": { "steps": 3 }, "_meta": { "progressToken": "mine" } });
    client.result("tools/call", call).await;
    let progress = client.notifications("notifications/progress");
    let steps: Vec<_> =
        progress.iter().map(|note| (&note["params"]["progressToken"], note["params"]["progress"].as_u64())).collect();
    assert_eq!(steps, [(&json!("mine"), Some(1)), (&json!("mine"), Some(2)), (&json!("mine"), Some(3))]);
    client.text("log", json!({})).await;
    client.result("logging/setLevel", json!({ "level": "error" })).await;
    client.text("log", json!({})).await;
    let logged = client.notifications("notifications/message");
    let levels: Vec<_> = logged.iter().map(|note| note["params"]["level"].as_str().unwrap()).collect();
    assert_eq!(levels, ["info", "error", "error"]);
}

/// `input_required` becomes requests of a server with a session, and their answers go back with the state that it gave.
async fn what_the_server_asks_the_client_is_asked(over: Transport) {
    let server = ModernServer::start().await;
    let cluster = behind(&server).await;
    let client = client(&cluster, over).await;
    let call = client.start_call("elicit", json!({})).await;
    let asked =
        answers(&client, "elicitation/create", json!({ "action": "accept", "content": { "name": "Ada" } })).await;
    assert_eq!(asked["params"]["message"], "Who are you?");
    let text = |answer: &Value| answer["result"]["content"][0]["text"].as_str().unwrap().to_owned();
    let answer: Value = serde_json::from_str(&text(&client.response(call).await)).unwrap();
    assert_eq!((&answer["state"], &answer["said"][0]["content"]["name"]), (&json!("elicit was asked"), &json!("Ada")));

    let call = client.start_call("ask_all", json!({})).await;
    answers(&client, "roots/list", json!({ "roots": [{ "uri": "file:///x" }] })).await;
    let sampled = json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "I" } });
    answers(&client, "sampling/createMessage", sampled).await;
    let seen = |message: &Value| message["method"] == "elicitation/create" && message["id"] != asked["id"];
    let second = client.message("another elicitation", seen).await;
    client.post(&json!({ "jsonrpc": "2.0", "id": second["id"], "result": { "action": "decline" } })).await;
    let answer: Value = serde_json::from_str(&text(&client.response(call).await)).unwrap();
    let kinds: Vec<_> = answer["said"].as_array().unwrap().iter().map(|said| said["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["elicit", "sampling", "roots"]);

    let call = client.start_call("elicit_url", json!({})).await;
    let is_url = |message: &Value| message["params"]["mode"] == "url";
    let page = client.message("an elicitation by URL", is_url).await;
    client.post(&json!({ "jsonrpc": "2.0", "id": page["id"], "result": { "action": "accept" } })).await;
    client.response(call).await;
    let done = client.notifications("notifications/elicitation/complete");
    assert_eq!(done[0]["params"]["elicitationId"], page["params"]["elicitationId"]);
    Oracle::every_request_answered_once(&client);
}

/// MCP 2026-07-28, Cancellation: the client's `notifications/cancelled` closes the request at the server.
async fn a_cancelled_call_is_given_up_at_the_server(over: Transport) {
    let server = ModernServer::start().await;
    let cluster = behind(&server).await;
    let client = client(&cluster, over).await;
    let call = client.start_call("slow", json!({ "ms": 60_000, "key": "mine" })).await;
    server.begun("mine", 1).await;
    client.notify("notifications/cancelled", json!({ "requestId": call })).await;
    eventually("the server knows that the client has left", || async { server.seen().await["left"]["mine"] == 1 })
        .await;
    assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
    assert!(client.response_now(call).is_none());
}

/// What the client subscribes to, and lists that change, come by one stream of the server, and are told as servers with sessions
/// tell them.
async fn changes_are_told_to_whoever_subscribes(over: Transport) {
    let server = ModernServer::start().await;
    let cluster = behind(&server).await;
    let client = client(&cluster, over).await;
    client.result("resources/subscribe", json!({ "uri": "test://counter" })).await;
    client.text("change", json!({ "what": "counter" })).await;
    let updated = client.message("an update", |message| message["method"] == "notifications/resources/updated").await;
    assert_eq!(updated["params"], json!({ "uri": "test://counter" }));
    client.text("change", json!({ "what": "tools" })).await;
    client.message("a list", |message| message["method"] == "notifications/tools/list_changed").await;
    client.result("resources/unsubscribe", json!({ "uri": "test://counter" })).await;
    client.text("change", json!({ "what": "prompts" })).await;
    client.message("another list", |message| message["method"] == "notifications/prompts/list_changed").await;
}

fn in_json(call: &Value) -> Vec<Act> {
    let result = json!({ "content": [{ "type": "text", "text": call["params"]["name"] }] });
    vec![Act::Json(response(call, &result))]
}

/// A server with sessions is asked once of which era it is, whoever comes; not where that is set; and again after it has failed.
#[tokio::test]
async fn a_server_is_asked_once_of_which_era_it_is() {
    let upstream = StreamableUpstream::calls(in_json).await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    for _ in 0..3 {
        let client = cluster.client().initialize().await;
        let call = json!({ "name": "write", "arguments": {} });
        assert_eq!(client.result("tools/call", call).await["content"][0]["text"], "write");
    }
    assert_eq!(upstream.asked_for_era(), 1);

    let upstream = StreamableUpstream::calls(in_json).await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).env("MCP_UPSTREAM_ERA", "legacy").start().await;
    cluster.client().initialize().await.result("tools/call", json!({ "name": "write", "arguments": {} })).await;
    assert_eq!(upstream.asked_for_era(), 0);
}

async fn two_instances(server: &ModernServer) -> Cluster {
    let cluster = Cluster::builder().routers(2).upstream_urls([server.url()]);
    cluster.env("MCP_RETRY_MIN", "10ms").env("MCP_RETRY_MAX", "30ms").start().await
}

async fn at_the_first(cluster: &Cluster, over: Transport) -> McpClient {
    cluster.client().over(over).capabilities(able()).post_to(PostTo::Only(0)).initialize().await
}

fn text_of(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"))
}

/// REQ-3, OWN-5: the session goes on at another instance, with its log level and its subscriptions. A running call is gone with
/// the connection that carried it: what may have had its effect is not repeated, what only reads is.
async fn the_death_of_an_instance_costs_no_session_and_runs_no_call_twice(over: Transport) {
    let server = ModernServer::start().await;
    let mut cluster = two_instances(&server).await;
    let client = at_the_first(&cluster, over).await;
    client.result("logging/setLevel", json!({ "level": "error" })).await;
    client.result("resources/subscribe", json!({ "uri": "test://counter" })).await;
    let write = client.start_call("slow", json!({ "ms": 60_000, "key": "write" })).await;
    let read = client.start_call("slow_read", json!({ "ms": 1_500, "key": "read" })).await;
    server.begun("write", 1).await;
    server.begun("read", 1).await;
    cluster.routers[0].kill();
    client.reconnect(Some(1));
    let client_posts_elsewhere = json!({ "jsonrpc": "2.0", "method": "notifications/roots/list_changed" });
    client.post_at(cluster.addr(1), &client_posts_elsewhere).await;
    let error = client.response(write).await["error"].clone();
    assert_eq!((&error["code"], &error["data"]["outcome"]), (&json!(-32001), &json!("unknown")), "{error}");
    assert_eq!(text_of(&client.response(read).await), "read is done");
    let seen = server.seen().await;
    assert_eq!((&seen["write"], &seen["read"]), (&json!(1), &json!(2)));
    let id = client.fresh_id();
    client.post_at(cluster.addr(1), &tool_call(id, "log", json!({}))).await;
    client.response(id).await;
    let levels: Vec<Value> =
        client.notifications("notifications/message").iter().map(|note| note["params"]["level"].clone()).collect();
    assert_eq!(levels, ["error"]);
    let id = client.fresh_id();
    client.post_at(cluster.addr(1), &tool_call(id, "change", json!({ "what": "counter" }))).await;
    client.message("an update", |message| message["method"] == "notifications/resources/updated").await;
    cluster.assert_no_violations().await;
}

/// A call whose server has asked something runs nowhere: it outlives the instance that asked the client, wherever the client's
/// answer comes, and each round runs once.
async fn a_call_that_waits_for_its_client_outlives_the_instance(over: Transport) {
    let server = ModernServer::start().await;
    let mut cluster = two_instances(&server).await;
    let client = at_the_first(&cluster, over).await;
    let call = client.start_call("elicit_twice", json!({ "key": "names" })).await;
    let first = client.message("the first", |message| message["params"]["message"] == "Name number 1?").await;
    let named = |asked: &Value, name: &str| {
        let result = json!({ "action": "accept", "content": { "name": name } });
        json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result })
    };
    client.post(&named(&first, "Ada")).await;
    let second = client.message("the second", |message| message["params"]["message"] == "Name number 2?").await;
    cluster.routers[0].kill();
    client.reconnect(Some(1));
    client.post_at(cluster.addr(1), &named(&second, "Bob")).await;
    assert_eq!(text_of(&client.response(call).await), "Ada and Bob");
    assert_eq!(server.seen().await["names"], 3, "each round once");
    cluster.assert_no_violations().await;
}

/// The same with several questions, one of which was answered before.
async fn answers_of_a_round_outlive_the_instance_that_had_them(over: Transport) {
    let server = ModernServer::start().await;
    let mut cluster = two_instances(&server).await;
    let client = at_the_first(&cluster, over).await;
    let redis = cluster.redis_client().await;
    let call = client.start_call("ask_all", json!({})).await;
    let asked = |method: &'static str| client.message(method, move |message| message["method"] == method);
    let (who, model, roots) =
        (asked("elicitation/create").await, asked("sampling/createMessage").await, asked("roots/list").await);
    let answer = |asked: &Value, result: Value| json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result });
    client.post(&answer(&who, json!({ "action": "accept", "content": { "name": "Ada" } }))).await;
    eventually("the answer is on record", || async {
        redis
            .fields(&client.session())
            .await
            .iter()
            .any(|(field, value)| field.starts_with("rs:") && value.contains("Ada"))
    })
    .await;
    cluster.routers[0].kill();
    client.reconnect(Some(1));
    client.post_at(cluster.addr(1), &answer(&roots, json!({ "roots": [] }))).await;
    let sampled = json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "I" } });
    client.post_at(cluster.addr(1), &answer(&model, sampled)).await;
    let told: Value = serde_json::from_str(text_of(&client.response(call).await)).unwrap();
    assert_eq!((&told["said"][0]["content"]["name"], &told["said"][1]["kind"]), (&json!("Ada"), &json!("sampling")));
    assert_eq!(server.seen().await["ask_all"], 2);
}

/// MCP 2026-07-28, Compatibility Matrix: a server of both eras is spoken to in the newer one, in which it can ask clients with a
/// session something.
#[tokio::test]
async fn a_server_of_both_eras_is_spoken_to_in_the_newer_one() {
    let server = ModernServer::of_both_eras().await;
    let cluster = behind(&server).await;
    let client = client(&cluster, Transport::Sse).await;
    let call = client.start_call("elicit", json!({})).await;
    answers(&client, "elicitation/create", json!({ "action": "decline" })).await;
    assert!(text_of(&client.response(call).await).contains("decline"));

    let cluster = Cluster::builder().upstream_urls([server.url()]).env("MCP_UPSTREAM_ERA", "legacy").start().await;
    let client = cluster.client().capabilities(able()).initialize().await;
    let call = client.start_call("elicit", json!({})).await;
    assert!(client.response(call).await["result"]["isError"] == true, "in the older one it cannot");
}

/// REST callers and health checks; and a server that dies and comes back.
#[tokio::test]
async fn rest_calls_and_health_checks_pass_to_a_server_without_sessions() {
    let mut server = ModernServer::start().await;
    let cluster =
        Cluster::builder().upstream_urls([server.url()]).env("MCP_UPSTREAM_HEALTH_INTERVAL", "50ms").start().await;
    let call = |text: &str| {
        let call = tool_call(1, "echo", json!({ "text": text }));
        let addr = cluster.addr(0);
        async move { Request::post("/mcp/router/route/mcp-server-v6", call.to_string()).send(addr).await }
    };
    let answer = call("by REST").await;
    assert_eq!((answer.status, text_of(&answer.json())), (200, "by REST"));
    let state = || async {
        let listed = Request::get("/mcp/router/services/mcp-server-v6/instances").send(cluster.addr(0)).await;
        listed.json().to_string()
    };
    server.kill();
    eventually("the server is out of use", || async { state().await.contains("\"lastError\":\"") }).await;
    server.restart().await;
    eventually("it is back", || async { call("again").await.status == 200 }).await;
}
