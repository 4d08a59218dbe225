//! The shortest ways through the whole deployment, which also prove the harness itself.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Cluster, FakeUpstream, Mode, Oracle, eventually, fake_upstream::Reply, http, mcp_client::tool_call,
};

/// REQ-1, REQ-2, EVT-1: a session works from the handshake to a tool's answer, wherever its messages are posted.
#[tokio::test]
async fn a_client_of_three_instances_calls_tools() {
    let cluster = Cluster::builder().routers(3).upstreams(2).start().await;
    let client = cluster.client().initialize().await;
    assert_eq!(client.text("echo", json!({ "text": "hello" })).await, "hello");
    client.call("increment", json!({ "key": "once" })).await;
    Oracle::exactly_once(&client);
    Oracle::every_request_answered_once(&client);
    Oracle::agrees_with_log(&client, &cluster.redis_client().await).await;
    Oracle::counted_once(&cluster.counts(), ["once"]);
    cluster.assert_no_violations().await;
}

/// EVT-3: a client whose connection is cut comes back through nginx, on whichever instance, and misses nothing.
#[tokio::test]
async fn a_client_behind_nginx_comes_back() {
    let cluster = Cluster::builder().routers(2).nginx(false).env("MCP_RETRY_MIN", "10ms").start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let client = crate::harness::McpClient::builder([nginx]).initialize().await;
    for round in 0..5 {
        let id = client.start_call("wait", json!({ "ms": 20, "text": format!("{round}") })).await;
        client.cut();
        assert_eq!(client.response(id).await["result"]["content"][0]["text"], format!("{round}"));
        client.connection_count(round + 2).await;
    }
    Oracle::exactly_once(&client);
    Oracle::every_request_answered_once(&client);
    cluster.assert_no_violations().await;
}

/// The embedded store serves alone, with the server that is built in.
#[tokio::test]
async fn one_router_needs_nothing_else() {
    let cluster = Cluster::builder().without_redis().upstreams(0).start().await;
    let client = cluster.client().initialize().await;
    let tools = client.result("tools/list", json!({})).await;
    assert!(tools["tools"].as_array().unwrap().iter().any(|tool| tool["name"] == "getAllPersons"), "{tools}");
}

/// The harness: a fake upstream sees what comes and says what it is told; a link with faults behaves as its mode says.
#[tokio::test]
async fn the_harness_can_fake_an_upstream_and_break_a_link() {
    let upstream = FakeUpstream::answering(|_| Reply::Result(json!({ "fake": true }))).await;
    let cluster = Cluster::builder()
        .upstream_urls([upstream.url()])
        .redis_proxy()
        .env("REDIS_WAIT", "300ms")
        .env("REDIS_TIMEOUT", "300ms")
        .start()
        .await;
    let client = cluster.client().initialize().await;
    assert_eq!(client.call("any", json!({})).await, json!({ "fake": true }));
    assert_eq!(upstream.received_of("tools/call").len(), 1);
    assert_eq!(upstream.received_of("notifications/initialized").len(), 1);
    upstream.send(upstream.open_sessions()[0], &json!({ "jsonrpc": "2.0", "method": "notifications/x" })).await;
    client.message("the server's own message", |message| message["method"] == "notifications/x").await;

    let redis = cluster.redis_proxy.as_ref().unwrap();
    for mode in [Mode::Cut, Mode::BlackHole, Mode::LoseAnswers] {
        redis.set(mode);
        let refused = client.try_post(&tool_call("x", "any", json!({}))).await.unwrap();
        assert_eq!(refused.status, 503, "{mode:?}: {}", refused.text());
        redis.set(Mode::Pass);
        let router = cluster.addr(0);
        eventually("the router ready again", || async move {
            http::get(router, "/actuator/health/readiness").await.status == 200
        })
        .await;
    }
    redis.set(Mode::Delay(Duration::from_millis(1)));
    // One connection that answers makes a router ready; others may still be making theirs.
    let delayed = &tool_call("y", "any", json!({}));
    eventually("a call through the slow link", || async { client.try_post(delayed).await.unwrap().status == 202 })
        .await;
    let answer = client.response_to(&json!("y")).await;
    assert_eq!(answer["result"], json!({ "fake": true }), "{answer}");
    let body: Value = http::get(cluster.addr(0), "/actuator/info").await.json();
    assert_eq!(body["store"], "redis");
}
