//! That each test with a router searches what it has written for secrets finds something only if it looks in the right places.
//! SEC-2

use serde_json::json;

use crate::harness::{Cluster, McpClient, StreamableClient, eventually};

/// The negative control: what surely stands in each of those places is found there when it is said to be a secret.
#[tokio::test]
async fn a_secret_in_a_log_an_audit_log_or_a_metric_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let audit = dir.path().join("audit.jsonl");
    let cluster = Cluster::builder()
        .without_redis()
        .nginx(true)
        .env("MCP_AUTH", "proxy")
        .env("MCP_AUDIT_LOG", audit.display())
        .start()
        .await;
    let (router, nginx) = (&cluster.routers[0], cluster.nginx.as_ref().unwrap());
    let streamable = StreamableClient::new([cluster.addr(0)], "/mcp/mcp-server-v6");
    streamable.set_header("x-mcp-principal", "alice-of-the-test");
    streamable.initialize("2025-11-25", json!({})).await;
    streamable.call("echo", json!({ "text": "a text that nobody may tell" })).await;
    drop(McpClient::builder([nginx.addr()]).path("/nothing-is-here"));
    crate::harness::http::get(nginx.addr(), "/nothing-is-here").await;
    let finds = |what: &str| router.leaks(&[what]).iter().any(|leak| leak.contains(what));
    eventually("the audit log", || std::future::ready(finds("proxy:alice-of-the-test"))).await;
    for what in ["mcp-router is ready", "mcp_router_sessions", &streamable.session().unwrap()[..12]] {
        assert!(finds(what), "{what}");
    }
    eventually("nginx's log", || std::future::ready(!nginx.leaks(&["/nothing-is-here"]).is_empty())).await;
    // What the client has shown and said is known to be secret, and is nowhere.
    let session = streamable.session().unwrap();
    let known = crate::harness::secrets::found_in(&format!("{session}\na text that nobody may tell"), &[]);
    assert_eq!((known.len(), router.leaks(&[]).len(), nginx.leaks(&[]).len()), (2, 0, 0), "{known:?}");
}

/// A router that has written one fails the test that has run it.
#[tokio::test]
#[should_panic(expected = "SEC-2: 1 leaks")]
async fn a_test_whose_router_has_told_a_secret_fails() {
    let cluster = Cluster::builder().without_redis().start().await;
    let log = std::fs::OpenOptions::new().append(true).open(cluster.dir().join("router-instance-1.log"));
    let client = cluster.client().initialize().await;
    std::io::Write::write_all(&mut log.unwrap(), format!("session {}\n", client.session()).as_bytes()).unwrap();
}
