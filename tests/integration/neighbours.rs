//! Services side by side: one whose server hangs, or is dead, holds up no other. STM-4

use serde_json::json;

use crate::harness::{
    Cluster, ModernClient, Transport, UpstreamProcess, cluster, eventually, http, mcp_client::request,
};

const SERVICE: &str = cluster::SERVICE;

/// While calls wait for a server that hangs and others ask for one that is dead, sessions begin at a third one, and lists and
/// calls are answered there. The breaker of the dead one is open, lets a probe through, and closes when it is back: all of
/// that is seen in metrics.
#[tokio::test]
async fn a_server_that_hangs_or_is_dead_holds_up_no_other_service() {
    let dir = tempfile::tempdir().unwrap();
    let counts = dir.path().join("counts");
    let mut hanging = UpstreamProcess::start(dir.path(), "hanging", &counts).await;
    let mut dead = UpstreamProcess::start(dir.path(), "dead", &counts).await;
    let well = UpstreamProcess::start(dir.path(), "well", &counts).await;
    let cluster = Cluster::builder()
        .upstreams(0)
        .env("MCP_UPSTREAMS", format!("{SERVICE}={};hangs={};dead={}", well.url(), hanging.url(), dead.url()))
        .env("MCP_UPSTREAM_HEALTH_INTERVAL", "500ms")
        .env("MCP_UPSTREAM_HEALTH_TIMEOUT", "100ms")
        .env("MCP_UPSTREAM_BREAKER_FAILURES", "2")
        .env("MCP_UPSTREAM_BACKOFF_MAX", "100ms")
        .start()
        .await;
    let addr = cluster.addr(0);
    let mut waiting = Vec::new();
    for _ in 0..8 {
        waiting.push(cluster.client().path("/sse/hangs").initialize().await);
    }
    hanging.freeze();
    dead.kill();
    let mut open = Vec::new();
    for client in &waiting {
        open.push(client.start_call("echo", json!({ "text": "late" })).await);
    }
    let ping = request(1, "ping", json!({})).to_string();
    let asked = |service: &'static str| {
        let ping = ping.clone();
        tokio::spawn(async move { http::post(addr, &format!("/mcp/router/route/{service}"), ping).await.status })
    };
    let hung: Vec<_> = (0..32).map(|_| asked("hangs")).collect();
    let refused: Vec<_> = (0..32).map(|_| asked("dead")).collect();

    for transport in [Transport::Sse, Transport::Streamable] {
        let client = cluster.client().over(transport).initialize().await;
        assert!(!client.result("tools/list", json!({})).await["tools"].as_array().unwrap().is_empty());
        assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
    }
    assert_eq!(http::get(addr, &format!("/mcp/router/tools/{SERVICE}")).await.status, 200);
    assert_eq!(asked(SERVICE).await.unwrap(), 200);
    assert_eq!(http::get(addr, "/mcp/router/services").await.status, 200);
    let discovered = ModernClient::of(SERVICE).call(addr, "server/discover", json!({})).await;
    assert!(discovered.result()["capabilities"].is_object(), "{discovered:?}");
    assert_eq!(http::get(addr, "/actuator/health/readiness").await.status, 200);
    for (client, id) in waiting.iter().zip(&open) {
        assert!(client.response_now(*id).is_none(), "all that was while these waited");
    }
    for refused in refused {
        assert!(matches!(refused.await.unwrap(), 502 | 503), "at once, and not with the others");
    }

    let breaker = |state: &'static str| {
        let row = format!("mcp_router_upstream_breaker{{endpoint=\"1\",service=\"dead\",state=\"{state}\"}} 1");
        async move { http::get(addr, "/actuator/prometheus").await.text().lines().any(|line| line == row) }
    };
    eventually("an open breaker", || breaker("open")).await;
    eventually("a breaker that lets a probe through", || breaker("half_open")).await;
    dead.restart().await;
    eventually("a closed breaker", || breaker("closed")).await;
    assert_eq!(asked("dead").await.unwrap(), 200);
    hanging.thaw();
    for (client, id) in waiting.iter().zip(open) {
        assert_eq!(client.response(id).await["result"]["content"][0]["text"], "late");
    }
    hung.iter().for_each(tokio::task::JoinHandle::abort);
    cluster.assert_no_violations().await;
}
