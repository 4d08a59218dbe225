//! Redis Cluster: sessions are spread over its primaries, and what befalls one of these costs no session and no call: a slot
//! is moved under it, it is replaced by order, by its death or by a hang. DUR-1, DUR-2

use serde_json::{Value, json};

use crate::harness::{
    Cluster, McpClient, ModernClient, Oracle, RedisClient, RedisCluster, StreamableClient, cluster::Builder,
    eventually, mcp_client::tool_call,
};

fn over(redis: &RedisCluster) -> Builder {
    Cluster::builder()
        .without_redis()
        .routers(2)
        .env("REDIS_URL", redis.url())
        .env("REDIS_TIMEOUT", "500ms")
        .env("REDIS_WAIT", "30s")
        .env("MCP_UPSTREAM_REQUEST_TIMEOUT", "60s")
}

fn increment(key: &str) -> Value {
    tool_call(key, "increment", json!({ "key": key }))
}

/// Calls at both instances in turn; each is accepted and answered before the end.
async fn calls(cluster: &Cluster, client: &McpClient, of: &str, count: usize) -> Vec<String> {
    let addrs = cluster.addrs();
    let keys: Vec<String> = (0..count).map(|number| format!("{of} {number}")).collect();
    for (number, key) in keys.iter().enumerate() {
        let (addr, call) = (addrs[number % addrs.len()], increment(key));
        // The same POST again, as a proxy would: it runs once (REQ-6).
        eventually("a POST is taken", || async {
            matches!(client.try_post_at(addr, &call, Some(key)).await, Ok(answer) if answer.status == 202)
        })
        .await;
    }
    for key in &keys {
        let answer = client.response_to(&json!(key)).await;
        assert!(answer["result"].is_object(), "{key}: {answer}");
    }
    keys
}

/// One after the other at each client, all clients at once.
async fn calls_of_all(cluster: &Cluster, clients: &[McpClient], of: &str, count: usize) -> Vec<String> {
    let all = clients.iter().enumerate().map(|(number, client)| {
        let of = format!("{of} of {number}");
        async move { calls(cluster, client, &of, count).await }
    });
    futures_util::future::join_all(all).await.concat()
}

async fn is_clean(cluster: &Cluster, clients: &[McpClient], keys: &[String]) {
    Oracle::counted_once(&cluster.counts(), keys.iter().map(String::as_str));
    clients.iter().for_each(Oracle::every_request_answered_once);
    cluster.assert_no_violations().await;
}

async fn sessions(cluster: &Cluster, count: usize) -> Vec<McpClient> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(cluster.client().initialize().await);
    }
    clients
}

/// The wake-ups of both instances are heard at each of these nodes.
async fn both_listen_at(redis: &RedisCluster, nodes: impl IntoIterator<Item = usize>) {
    for node in nodes {
        eventually("both instances listen there", || async {
            let channels = redis.try_ask::<Vec<String>>(node, &["PUBSUB", "CHANNELS", "mcp:wake:*"]).await;
            channels.is_some_and(|channels| channels.len() == 2)
        })
        .await;
    }
}

#[tokio::test]
async fn sessions_live_move_and_end_on_a_redis_cluster() {
    let redis = RedisCluster::start(3, 0).await;
    let mut cluster = over(&redis).short_lease().start().await;
    let clients = sessions(&cluster, 8).await;
    let mut keys = calls_of_all(&cluster, &clients, "first", 4).await;
    both_listen_at(&redis, 0..3).await;
    // An answer that takes a while, over the death of the instance that owns the session or shows the stream.
    for (number, client) in clients.iter().enumerate() {
        client.post(&tool_call(format!("slow {number}"), "wait", json!({ "ms": 1500, "text": "slow" }))).await;
    }
    cluster.routers[0].kill();
    for (number, client) in clients.iter().enumerate() {
        let slow = client.response_to(&json!(format!("slow {number}"))).await;
        assert!(slow["result"].is_object(), "{slow}");
    }
    cluster.routers[0].restart().await;
    keys.extend(calls_of_all(&cluster, &clients, "after", 4).await);
    // Calls without sessions, at either instance: one of a key.
    let modern = ModernClient::of("mcp-server-v6").header("Idempotency-Key", "order-1");
    for addr in cluster.addrs() {
        let answered = modern.tool(addr, "increment", json!({ "key": "order" })).await;
        assert!(answered.result().is_object());
    }
    keys.push("order".to_owned());
    is_clean(&cluster, &clients, &keys).await;
    let client = StreamableClient::initialized(cluster.addrs(), "/mcp/mcp-server-v6").await;
    let called = client.call("echo", json!({ "text": "on" })).await;
    assert_eq!(called["content"][0]["text"], "on", "{called}");
    let key = RedisClient::session_key(&client.session().unwrap());
    let home = redis.owner_of(&key).await;
    assert!(redis.ask::<bool>(home, &["EXISTS", &key]).await);
    assert_eq!(client.delete().await.status, 204);
    assert!(!redis.ask::<bool>(home, &["EXISTS", &key]).await);
}

async fn sent_again(cluster: &Cluster) -> f64 {
    cluster.metric("mcp_router_redis_redirections_total", None).await
}

#[tokio::test]
async fn slots_are_moved_under_sessions() {
    let redis = RedisCluster::start(3, 0).await;
    let cluster = over(&redis).start().await;
    let clients = sessions(&cluster, 4).await;
    let mut keys = calls_of_all(&cluster, &clients, "before", 2).await;
    for (number, client) in clients.iter().enumerate() {
        let key = RedisClient::session_key(&client.session());
        let from = redis.owner_of(&key).await;
        let to = (from + 1) % 3;
        let of = format!("while {number} moves");
        let before = sent_again(&cluster).await;
        let (_, called) = tokio::join!(
            // Some come while its keys are at two nodes, and wait until all are at one.
            redis.move_slot(&key, to, async || {
                eventually("one is sent again", || async { sent_again(&cluster).await > before }).await;
            }),
            calls_of_all(&cluster, &clients, &of, 6)
        );
        keys.extend(called);
        assert_eq!(redis.owner_of(&key).await, to);
    }
    keys.extend(calls_of_all(&cluster, &clients, "after", 2).await);
    is_clean(&cluster, &clients, &keys).await;
}

#[tokio::test]
async fn a_planned_failover_in_a_redis_cluster_costs_no_session_and_no_call() {
    let redis = RedisCluster::start(3, 1).await;
    let cluster = over(&redis).start().await;
    let clients = sessions(&cluster, 6).await;
    let mut keys = calls_of_all(&cluster, &clients, "before", 2).await;
    for round in 0..3 {
        let of = format!("during {round}");
        let (_, called) = tokio::join!(redis.fail_over(round), calls_of_all(&cluster, &clients, &of, 10));
        keys.extend(called);
    }
    keys.extend(calls_of_all(&cluster, &clients, "after", 4).await);
    both_listen_at(&redis, 3..6).await;
    is_clean(&cluster, &clients, &keys).await;
}

/// The others' sessions go on meanwhile.
#[tokio::test]
async fn a_primary_of_a_redis_cluster_that_dies_or_hangs_is_replaced_and_calls_go_on() {
    let mut redis = RedisCluster::start(3, 1).await;
    let cluster = over(&redis).start().await;
    let clients = sessions(&cluster, 9).await;
    let mut keys = calls_of_all(&cluster, &clients, "before", 2).await;
    let home = redis.owner_of(&RedisClient::session_key(&clients[0].session())).await;
    redis.nodes[home].kill();
    keys.extend(calls_of_all(&cluster, &clients, "one is dead", 6).await);
    assert!(redis.is_primary(home + 3).await);
    let other = (home + 1) % 3;
    redis.nodes[other].freeze();
    keys.extend(calls_of_all(&cluster, &clients, "one hangs", 6).await);
    redis.nodes[other].thaw();
    keys.extend(calls_of_all(&cluster, &clients, "it is back", 6).await);
    assert_eq!(cluster.metric("mcp_router_adoptions_total", None).await, 0.0, "a living owner was replaced");
    is_clean(&cluster, &clients, &keys).await;
}
