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
    let mut cluster = ruled(&dir, RULES).env("MCP_LEASE", "600ms").env("MCP_LEASE_RENEW", "150ms").start().await;
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
