//! Rules which principals may do what: refused is what none allows, at any instance and over either transport. SEC-7

use std::fs;

use serde_json::{Value, json};

use crate::harness::{
    AuthorizationServer, Cluster, McpClient, PostTo, StreamableClient, cluster, eventually, http::Request, mcp_client,
};

const MCP: &str = "/mcp/mcp-server-v6";
const ROUTE: &str = "/mcp/router/route/mcp-server-v6";
const NAME: &str = "x-mcp-principal";

const RULES: &str = r#"
    [[rule]]
    name = "readers"
    who = ["proxy:alice", "proxy:bob"]
    services = ["mcp-*"]
    methods = ["tools/*", "resources/list"]
    tools = ["echo", "wait"]
    resources = []

    [[rule]]
    name = "bob-counts"
    who = ["proxy:bob"]
    tools = ["increment"]

    [[rule]]
    name = "elsewhere"
    who = ["proxy:carol"]
    services = ["another"]
"#;

fn ruled(dir: &tempfile::TempDir, rules: &str) -> cluster::Builder {
    let file = dir.path().join("policy.toml");
    fs::write(&file, rules).unwrap();
    Cluster::builder()
        .routers(2)
        .env("MCP_AUTH", "proxy")
        .env("MCP_POLICY_FILE", file.display())
        .env("MCP_AUTH_RELOAD", "20ms")
}

fn tools(listed: &Value) -> Vec<&str> {
    let mut tools: Vec<&str> =
        listed["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    tools.sort_unstable();
    tools
}

fn is_refused(answer: &Value, tool: &str) {
    let error = &answer["error"];
    assert_eq!(
        (&error["data"]["reason"], &error["data"]["outcome"]),
        (&json!("policy"), &json!("not_executed")),
        "{answer}"
    );
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(tool) && message.contains("readers"), "{message}");
}

#[tokio::test]
async fn what_no_rule_allows_is_refused_over_streamable_http() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = ruled(&dir, RULES).start().await;
    let client = StreamableClient::new(cluster.addrs(), MCP);
    client.set_header(NAME, "alice");
    client.initialize("2025-11-25", json!({})).await;
    // To its owner and to another instance in turn.
    for _ in 0..2 {
        assert_eq!(tools(&client.result("tools/list", json!({})).await), ["echo", "wait"]);
        let echoed = client.result("tools/call", json!({ "name": "echo", "arguments": { "text": "x" } })).await;
        assert_eq!(echoed["content"][0]["text"], "x");
        let refused = client.request("tools/call", json!({ "name": "increment", "arguments": { "key": "k" } })).await;
        is_refused(&refused, "increment");
        let refused = client.request("prompts/list", json!({})).await;
        is_refused(&refused, "prompts/list");
    }
    assert_eq!(cluster.counts().get("k"), None);
    assert_eq!(cluster.metric("mcp_router_errors_total", Some("policy")).await, 4.0);

    let bob = StreamableClient::new(cluster.addrs(), MCP);
    bob.set_header(NAME, "bob");
    bob.initialize("2025-11-25", json!({})).await;
    assert_eq!(tools(&bob.result("tools/list", json!({})).await), ["echo", "increment", "wait"]);
    bob.result("tools/call", json!({ "name": "increment", "arguments": { "key": "k" } })).await;

    for (name, status) in [("mallory", 403), ("alice", 200)] {
        let initialize = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } } });
        let request =
            Request::post(MCP, initialize.to_string()).header("accept", "application/json, text/event-stream");
        assert_eq!(request.header(NAME, name).send(cluster.addr(0)).await.status, status, "{name}");
    }
}

#[tokio::test]
async fn what_no_rule_allows_is_refused_on_the_stream_of_http_and_sse() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = ruled(&dir, RULES).short_lease().start().await;
    for post_to in [0, 1] {
        let client = McpClient::builder(cluster.addrs()).header(NAME, "alice").post_to(PostTo::Only(post_to));
        let client = client.initialize().await;
        assert_eq!(tools(&client.result("tools/list", json!({})).await), ["echo", "wait"]);
        let id = client.start_call("increment", json!({ "key": "k" })).await;
        is_refused(&client.response(id).await, "increment");
        client.notify("notifications/roots/list_changed", json!({})).await;
        assert_eq!(client.text("echo", json!({ "text": "x" })).await, "x");
    }
    assert_eq!(cluster.counts().get("k"), None);
    assert_eq!(cluster.metric("mcp_router_dropped_total", Some("policy")).await, 2.0);

    // Whoever may not use its service learns no more of a session than of one that is not there. SEC-1
    let asked = |session: &str| {
        let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" }).to_string();
        Request::post(format!("/mcp/message?sessionId={session}"), ping).header(NAME, "carol")
    };
    let client = McpClient::builder(cluster.addrs()).header(NAME, "alice").initialize().await;
    let there = asked(&client.session()).send(cluster.addr(0)).await;
    let not_there = asked("00112233445566778899aabbccddeeff").send(cluster.addr(0)).await;
    assert_eq!((there.status, there.body), (not_there.status, not_there.body));

    // An heir knows the rules, too.
    let client = McpClient::builder(cluster.addrs()).header(NAME, "alice").post_to(PostTo::Only(1)).initialize().await;
    let session = client.session();
    let owner = cluster.redis_client().await.field(&session, "owner").await.unwrap();
    if owner == "router-instance-1" {
        cluster.routers[0].kill();
        assert_eq!(tools(&client.result("tools/list", json!({})).await), ["echo", "wait"]);
        assert_eq!(client.session(), session);
    }
}

#[tokio::test]
async fn rules_hold_for_calls_without_a_session_and_may_change() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = ruled(&dir, RULES).routers(1).without_redis().start().await;
    let addr = cluster.addr(0);
    let call = async |name: &str, message: Value| {
        let request = Request::post(ROUTE, message.to_string()).header(NAME, name);
        let response = request.send(addr).await;
        (response.status, response.json())
    };
    let increment = || mcp_client::tool_call(1, "increment", json!({ "key": "k" }));
    let (status, refused) = call("alice", increment()).await;
    assert_eq!((status, &refused["id"]), (403, &json!(1)));
    is_refused(&refused, "increment");
    assert_eq!(call("bob", increment()).await.0, 200);
    let (_, listed) = call("alice", json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })).await;
    assert_eq!(tools(&listed["result"]), ["echo", "wait"]);
    let listed =
        Request::get("/mcp/router/tools/mcp-server-v6").header(NAME, "alice").header("x-forwarded-for", "192.0.2.1");
    assert_eq!(tools(&listed.send(addr).await.json()), ["echo", "wait"]);
    // One that some servers read in another way.
    let two_faced = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","Name":"increment"}}"#;
    let response = Request::post(ROUTE, two_faced).header(NAME, "alice").send(addr).await;
    assert_eq!(response.status, 403);

    let file = dir.path().join("policy.toml");
    fs::write(&file, "[[rule]]\nname = \"all\"\nwho = [\"proxy:*\"]\n").unwrap();
    eventually("the new rules", || async { call("alice", increment()).await.0 == 200 }).await;
    fs::write(&file, "[[rule]]\nname = 1").unwrap();
    eventually("the complaint", || async { cluster.routers[0].log_text().contains("all stays as it was") }).await;
    assert_eq!(call("mallory", increment()).await.0, 200);
    fs::write(&file, "").unwrap();
    eventually("no rules", || async { call("alice", increment()).await.0 == 403 }).await;
}

/// SEC-8
#[tokio::test]
async fn who_has_called_what_is_kept_without_payloads_and_cannot_be_changed_unseen() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.jsonl");
    let mut cluster = ruled(&dir, RULES).routers(1).env("MCP_AUDIT_LOG", log.display()).start().await;
    let addr = cluster.addr(0);
    let sse = McpClient::builder([addr]).header(NAME, "alice").initialize().await;
    sse.call("echo", json!({ "text": "the payload" })).await;
    let id = sse.start_call("increment", json!({ "key": "k" })).await;
    is_refused(&sse.response(id).await, "increment");
    let streamable = StreamableClient::new([addr], MCP);
    streamable.set_header(NAME, "bob");
    streamable.initialize("2025-11-25", json!({})).await;
    streamable.result("tools/call", json!({ "name": "increment", "arguments": { "key": "k" } })).await;
    assert_eq!(Request::post(ROUTE, "{}").send(addr).await.status, 401);
    let lines = || -> Vec<Value> {
        let text = fs::read_to_string(&log).unwrap_or_default();
        assert!(!text.contains("the payload") && !text.contains(&sse.session()), "SEC-2");
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let handle = &sse.session()[..12];
    let expected = [
        json!({ "what": "asked", "who": "proxy:alice", "session": handle, "method": "tools/call", "target": "echo", "outcome": "accepted" }),
        json!({ "what": "answered", "session": handle, "outcome": "ok" }),
        json!({ "what": "refused", "who": "proxy:alice", "method": "tools/call", "target": "increment", "outcome": "policy" }),
        json!({ "what": "asked", "who": "proxy:bob", "method": "tools/call", "target": "increment", "outcome": "accepted" }),
        json!({ "what": "refused", "method": "/mcp/router/route", "outcome": "no_credential" }),
    ];
    let has = |lines: &[Value], wanted: &Value| {
        let wanted = wanted.as_object().unwrap();
        lines.iter().any(|line| wanted.iter().all(|(name, value)| line[name] == *value))
    };
    for wanted in &expected {
        eventually(&format!("{wanted}"), || async { has(&lines(), wanted) }).await;
    }
    let moved = dir.path().join("audit.1");
    fs::rename(&log, &moved).unwrap();
    cluster.routers[0].process().signal("USR1");
    eventually("the new file", || async { log.exists() }).await;
    sse.call("echo", json!({ "text": "x" })).await;
    eventually("a line in it", || async { !lines().is_empty() }).await;
    let check = |path: &std::path::Path| {
        std::process::Command::new(env!("CARGO_BIN_EXE_mcp-router")).arg("audit").arg(path).output().unwrap()
    };
    for path in [&moved, &log] {
        assert!(check(path).status.success(), "{:?}", check(path));
    }
    let all = fs::read_to_string(&moved).unwrap();
    fs::write(&moved, all.replacen("proxy:alice", "proxy:carol", 1)).unwrap();
    let found = check(&moved);
    assert!(!found.status.success() && String::from_utf8_lossy(&found.stderr).contains("was changed"), "{found:?}");
    assert_eq!(cluster.metric("mcp_router_audit_lost_total", None).await, 0.0);
}

/// However many instances it asks.
#[tokio::test]
async fn a_principal_that_asks_too_often_is_told_to_wait_and_others_are_not() {
    let builder = Cluster::builder().routers(2).env("MCP_AUTH", "proxy");
    let cluster = builder.env("MCP_PRINCIPAL_RATE", 1).env("MCP_PRINCIPAL_BURST", 6).start().await;
    let list = json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/list" }).to_string();
    let ask = async |name: &str, index: usize| {
        Request::post(ROUTE, list.clone()).header(NAME, name).send(cluster.addr(index)).await
    };
    // The handshake is two requests' worth of one.
    let alice = McpClient::builder(cluster.addrs()).header(NAME, "alice").initialize().await;
    let mut refused = None;
    for number in 0..100 {
        let response = ask("alice", number % 2).await;
        if response.status != 200 {
            refused = Some(response);
            break;
        }
    }
    let refused = refused.expect("there is a limit");
    assert_eq!((refused.status, &refused.json()["error"]["data"]["reason"]), (429, &json!("too_often")));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(ask("bob", 0).await.status, 200);
    // Of the session of HTTP+SSE, on its stream.
    let answer = loop {
        let id = alice.start("tools/list", json!({})).await;
        let answer = alice.response(id).await;
        if answer["result"].is_null() {
            break answer;
        }
    };
    assert_eq!(answer["error"]["data"]["reason"], "too_often", "{answer}");
    eventually("its turn", || async { ask("alice", 1).await.status == 200 }).await;
    assert!(cluster.metric("mcp_router_errors_total", Some("too_often")).await >= 2.0);
}

#[tokio::test]
async fn a_token_with_too_little_is_told_what_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let rules = r#"
        [[rule]]
        name = "write"
        who = ["token:*"]
        scopes = ["mcp:use", "mcp:write"]
        [[rule]]
        name = "read"
        who = ["token:alice"]
        tools = ["echo"]
    "#;
    let cluster = ruled(&dir, rules)
        .env("MCP_AUTH", "tokens")
        .env("MCP_AUTH_ISSUER", server.issuer())
        .env("MCP_AUTH_RESOURCE", "http://127.0.0.1/here")
        .env("MCP_AUTH_SCOPES", "mcp:use")
        .start()
        .await;
    let client = StreamableClient::new([cluster.addr(0)], MCP);
    let token = async |scope: &str| server.token("", &json!({ "aud": "http://127.0.0.1/here", "scope": scope })).await;
    client.set_header("authorization", &format!("Bearer {}", token("mcp:use").await));
    client.initialize("2025-11-25", json!({})).await;
    let increment = mcp_client::tool_call(7, "increment", json!({ "key": "k" }));
    let refused = client.post(&increment).await.whole();
    let told = refused.header("www-authenticate").unwrap().to_owned();
    assert!(refused.status == 403 && told.contains(r#"scope="mcp:use mcp:write""#), "{} {told}", refused.status);
    client.result("tools/call", json!({ "name": "echo", "arguments": { "text": "x" } })).await;
    // The same session, with a stronger token of the same subject.
    client.set_header("authorization", &format!("Bearer {}", token("mcp:use mcp:write").await));
    client.result("tools/call", json!({ "name": "increment", "arguments": { "key": "k" } })).await;
    assert_eq!(cluster.counts().get("k"), Some(&1));
}
