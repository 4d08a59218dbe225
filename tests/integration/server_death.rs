//! Servers that die while calls are in flight: what they worked on is sorted out at once, and their sessions go on at
//! another server, or at the same one as soon as it is back.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::harness::{
    Cluster, McpClient, Oracle, Transport, eventually, http, mcp_client::request, over_both_transports,
};

const REST: &str = "/mcp/router/route/mcp-server-v6";

/// Promised for a deployment of its own; here the machine is shared with other tests.
const SOON: Duration = Duration::from_secs(5);

async fn instances(cluster: &Cluster) -> Vec<serde_json::Value> {
    let instances = http::get(cluster.addr(0), "/mcp/router/services/mcp-server-v6/instances").await.json();
    instances["instances"].as_array().unwrap().clone()
}

/// How long after a fault a call was answered that was under way then, and another one after it.
async fn served(client: &McpClient, id: u64, begun: Instant) -> Duration {
    let answer = client.response(id).await;
    assert_eq!(answer["result"]["content"][0]["text"], "read", "{answer}");
    client.call("echo", json!({ "text": "after" })).await;
    begun.elapsed()
}

/// Servers that were down and one of which is back, before any pause is over and any health check due: where nothing else is
/// left it is tried, for REST callers and for sessions.
#[tokio::test]
async fn a_server_that_is_back_is_used_at_once_where_nothing_else_is_left() {
    let mut cluster = Cluster::builder()
        .upstreams(2)
        .env("MCP_UPSTREAM_HEALTH_INTERVAL", "1h")
        .env("MCP_UPSTREAM_BREAKER_FAILURES", "1")
        .env("MCP_UPSTREAM_BACKOFF_MIN", "1h")
        .env("MCP_UPSTREAM_BACKOFF_MAX", "1h")
        .start()
        .await;
    for server in &mut cluster.upstreams {
        server.kill();
    }
    let ping = || http::post(cluster.addr(0), REST, request(1, "ping", json!({})).to_string());
    eventually("both known to be down", || async {
        ping().await;
        instances(&cluster).await.iter().all(|one| one["status"] == "DOWN")
    })
    .await;
    let mut servers = std::mem::take(&mut cluster.upstreams);
    servers[1].restart().await;
    let begun = Instant::now();
    eventually("a REST caller served", || async {
        http::post(cluster.addr(0), REST, request(1, "ping", json!({})).to_string()).await.status == 200
    })
    .await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    servers[1].kill();
    eventually("both down again", || async {
        http::post(cluster.addr(0), REST, request(1, "ping", json!({})).to_string()).await;
        instances(&cluster).await.iter().all(|one| one["status"] == "DOWN")
    })
    .await;
    servers[0].restart().await;
    let begun = Instant::now();
    // Its first attempt may meet the other one, which is why a session has more than one.
    let rest = || http::post(cluster.addr(0), REST, request(1, "ping", json!({})).to_string());
    eventually("the other one", || async { rest().await.status == 200 }).await;
    let client = cluster.client().initialize().await;
    client.call("echo", json!({ "text": "x" })).await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

/// Two equal servers, killed and started again in turn under calls, at the defaults: every session is served again within
/// the time promised, what only reads is run again, nothing runs twice.
async fn sessions_of_a_killed_server_are_served_again_soon(transport: Transport) {
    let mut cluster = Cluster::builder().routers(2).upstreams(2).start().await;
    let clients = join_all((0..12).map(|number| cluster.client_of(number % 2).over(transport).initialize())).await;
    for round in 0..4_usize {
        let reads =
            join_all(clients.iter().map(|client| client.start_call("wait", json!({ "ms": 300, "text": "read" }))))
                .await;
        let keys: Vec<String> = (0..clients.len()).map(|number| format!("{round}-{number}")).collect();
        let adds = join_all(
            clients.iter().zip(&keys).map(|(client, key)| client.start_call("increment", json!({ "key": key }))),
        )
        .await;
        cluster.upstreams[round % 2].kill();
        let begun = Instant::now();
        let times = join_all(clients.iter().zip(reads).map(|(client, id)| served(client, id, begun))).await;
        let slowest = times.into_iter().max().unwrap();
        assert!(slowest < SOON, "round {round}: {slowest:?}");
        for (client, id) in clients.iter().zip(adds) {
            client.response(id).await;
        }
        cluster.upstreams[round % 2].restart().await;
    }
    assert!(cluster.counts().values().all(|runs| *runs == 1), "{:?}", cluster.counts());
    for client in &clients {
        Oracle::every_request_answered_once(client);
        Oracle::exactly_once(client);
    }
}

over_both_transports! {
    sessions_of_a_killed_server_are_served_again_soon
}
