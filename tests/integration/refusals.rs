//! A Redis that answers and cannot be used: a former primary, a full one, a user without a right, something that is no Redis.

use std::{net::SocketAddr, time::Duration};

use serde_json::json;

use crate::harness::{
    Cluster, FaultProxy, McpClient, RedisClient, RedisServer, RouterProcess, eventually,
    http::{self, Request},
    mcp_client::tool_call,
    router_process::Env,
};

fn env(pairs: &[(&str, &str)]) -> Env {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn readiness(addr: SocketAddr) -> u16 {
    http::get(addr, "/actuator/health/readiness").await.status
}

/// After a failover the address leads to the new primary, and the old one is a replica whose connections are open: they are
/// given up, the subscription's too.
#[tokio::test]
async fn a_primary_that_became_a_replica_is_left_without_a_restart() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let proxy = FaultProxy::start(([127, 0, 0, 1], old.port()).into()).await;
    let cluster = Cluster::builder()
        .without_redis()
        .routers(2)
        .env("REDIS_URL", format!("redis://{}", proxy.addr()))
        .start()
        .await;
    let client = cluster.client().initialize().await;
    assert_eq!(client.text("echo", json!({ "text": "before" })).await, "before");

    let (at_old, at_new) = (RedisClient::connect(&old).await, RedisClient::connect(&new).await);
    let (host, port) = ("127.0.0.1", old.port().to_string());
    let _: String = at_new.run(&["REPLICAOF", host, &port]).await;
    eventually("the new one has the data", || async {
        at_new.run::<String>(&["INFO", "replication"]).await.contains("master_link_status:up")
    })
    .await;
    let _: String = at_new.run(&["REPLICAOF", "NO", "ONE"]).await;
    let _: String = at_old.run(&["REPLICAOF", host, &new.port().to_string()]).await;
    proxy.lead_to(([127, 0, 0, 1], new.port()).into());

    // Calls of the client's session, and messages that one instance takes for the other: by wake-ups.
    for addr in cluster.addrs() {
        let id = format!("after {addr}");
        let call = tool_call(id.as_str(), "echo", json!({ "text": "after" }));
        eventually("a POST is taken again", || async {
            matches!(client.try_post_at(addr, &call, Some(&id)).await, Ok(answer) if answer.status == 202)
        })
        .await;
        client.response_to(&json!(id)).await;
    }
    eventually("nobody listens at the old one", || async {
        let channels: Vec<String> = at_old.run(&["PUBSUB", "CHANNELS", "*"]).await;
        channels.is_empty()
    })
    .await;
    for router in &cluster.routers {
        eventually("readiness", || async { readiness(router.addr()).await == 200 }).await;
        assert!(router.log_text().matches("Redis refuses writes").count() <= 1, "once for each change");
    }
    cluster.assert_no_violations().await;
}

/// Health, readiness, the 503 and the log say that writes are refused, and why; and that it is over.
#[tokio::test]
async fn an_instance_is_down_while_redis_refuses_writes_and_says_why() {
    let cluster = Cluster::builder().env("REDIS_WAIT", "100ms").start().await;
    let redis = cluster.redis_client().await;
    let client = cluster.client().initialize().await;
    let addr = cluster.addr(0);
    let refusals: [(&str, &[&str], &[&str]); 4] = [
        ("OOM", &["CONFIG", "SET", "maxmemory", "1mb"], &["CONFIG", "SET", "maxmemory", "0"]),
        ("READONLY", &["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"]),
        (
            "NOREPLICAS",
            &["CONFIG", "SET", "min-replicas-to-write", "1"],
            &["CONFIG", "SET", "min-replicas-to-write", "0"],
        ),
        ("NOPERM", &["ACL", "SETUSER", "default", "-zadd", "-sadd"], &["ACL", "SETUSER", "default", "+@all"]),
    ];
    for (word, begin, end) in refusals {
        let _: String = redis.run(begin).await;
        // Known without any traffic.
        eventually("DOWN", || async { readiness(addr).await == 503 }).await;
        let health = http::get(addr, "/actuator/health").await;
        assert!(health.status == 503 && health.text().contains(word), "{word}: {}", health.text());
        let id = format!("refused {word}");
        let refused = client.try_post_at(addr, &tool_call(id.as_str(), "echo", json!({})), None).await.unwrap();
        assert!(
            refused.status == 503 && refused.text().contains(word),
            "{word}: {} {}",
            refused.status,
            refused.text()
        );
        assert!(refused.header("retry-after").is_some());
        let log = cluster.routers[0].log_text();
        assert_eq!(log.matches(&format!("Redis refuses writes: {word}")).count(), 1, "{word}: {log}");

        let _: String = redis.run(end).await;
        eventually("UP", || async { readiness(addr).await == 200 }).await;
        assert_eq!(client.text("echo", json!({ "text": word })).await, word);
    }
}

/// The rights that docs/operations.md names carry a session's whole life, and its adoption.
#[tokio::test]
async fn the_least_rights_carry_a_session_through_its_life_and_its_adoption() {
    let text = include_str!("../../docs/operations.md");
    let begin = text.find("ACL SETUSER mcp-router on >PASSWORD").expect("the least ACL stands in the document");
    let words = text[begin..].split("```").next().unwrap().split_whitespace().filter(|word| *word != "\\");
    let words: Vec<&'static str> = ["--user"].into_iter().chain(words.skip(2)).collect();
    let cluster = Cluster::builder().routers(2).redis_args(&words).redis_login("mcp-router:PASSWORD");
    let mut cluster = cluster.start().await;
    let redis = cluster.redis_client().await;
    let client = cluster.client().initialize().await;
    for addr in cluster.addrs() {
        let id = format!("at {addr}");
        client.post_at(addr, &tool_call(id.as_str(), "echo", json!({ "text": "x" }))).await;
        client.response_to(&json!(id)).await;
    }
    client.notify("notifications/roots/list_changed", json!({})).await;
    client.disconnect().await;
    client.reconnect(None);
    assert_eq!(client.text("echo", json!({ "text": "resumed" })).await, "resumed");
    let owner = RedisClient::session_key(&client.session());
    let owner: String = redis.run(&["HGET", &owner, "owner"]).await;
    let owner = usize::from(owner == "router-instance-2");
    cluster.routers[owner].kill();
    let other = cluster.addr(1 - owner);
    client.post_at(other, &tool_call("adopted", "echo", json!({ "text": "x" }))).await;
    client.response_to(&json!("adopted")).await;
    assert!(http::get(other, "/mcp/router/sessions").await.text().contains("mcp-server-v6"));
    let deleted = Request::delete(format!("/mcp/router/sessions/{}", client.session())).send(other).await;
    assert!(deleted.status < 300, "{}", deleted.text());
    let denied: Vec<redis::Value> = redis.run(&["ACL", "LOG"]).await;
    // A word about itself that the client library says to newer servers, and does without.
    let denied: Vec<String> = denied.iter().map(|entry| format!("{entry:?}")).collect();
    let denied = denied.into_iter().find(|entry| entry.contains("mcp-router") && !entry.contains("setinfo"));
    assert_eq!(denied, None);
    cluster.routers[1 - owner].process().signal("TERM");
    assert_eq!(cluster.routers[1 - owner].process().exit_code().await, Some(0));
}

/// What waiting does not change ends the start at once, with what to do.
#[tokio::test]
async fn a_redis_that_cannot_be_used_ends_the_start_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let redis = RedisServer::start();
    let client = RedisClient::connect(&redis).await;
    let _: String = client.run(&["ACL", "SETUSER", "poor", "on", ">open-sesame", "~mcp:*", "&*", "+@all"]).await;
    let login = |login: &str| redis.url().replace("redis://", &format!("redis://{login}@"));
    for (name, url, word) in [
        ("password", login("poor:wrong"), "WRONGPASS"),
        ("rights", login("poor:open-sesame"), "~{mcp:*"),
        ("database", format!("{}/99", redis.url()), "range"),
    ] {
        // More than a test waits for.
        let settings = env(&[("REDIS_URL", &url), ("REDIS_START_TIMEOUT", "10m")]);
        let mut router = RouterProcess::launch(dir.path(), name, &settings);
        assert_eq!(router.process().exit_code().await, Some(69));
        let log = router.log_text();
        assert!(log.contains(word) && log.contains("cannot be used"), "{name}: {log}");
        assert!(!log.contains("open-sesame") && !log.contains("redis.call"), "{name}: {log}");
    }
}

/// A Redis that evicts loses sessions without a word: said at the start, also where CONFIG is forbidden.
#[tokio::test]
async fn an_eviction_policy_is_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    let redis = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let router = RouterProcess::start(dir.path(), "evicting", &env(&[("REDIS_URL", &redis.url())])).await;
    assert!(router.log_text().contains("maxmemory-policy allkeys-lru"), "{}", router.log_text());
    let redis = RedisServer::start();
    let router = RouterProcess::start(dir.path(), "keeping", &env(&[("REDIS_URL", &redis.url())])).await;
    assert!(!router.log_text().contains("maxmemory-policy"), "{}", router.log_text());
    let client = McpClient::builder([router.addr()]).initialize().await;
    tokio::time::timeout(Duration::from_secs(20), client.result("tools/list", json!({}))).await.expect("it serves");
}
