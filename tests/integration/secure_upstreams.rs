//! Servers behind TLS: sessions, REST callers and health checks reach them, whoever vouches for their certificate must be
//! trusted, and a router that dies leaves its sessions to others as with any server.

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{
    Cluster, FakeUpstream, Oracle, UpstreamProcess, cluster, eventually,
    fake_upstream::Reply,
    http::{self, header},
    mcp_client::{request, tool_call},
    tls::{Ca, TlsFront},
};

const REST: &str = "/mcp/router/route/mcp-server-v6";

/// A server behind TLS, and whoever vouches for it.
struct Secure {
    server: UpstreamProcess,
    front: TlsFront,
    ca: Ca,
    dir: TempDir,
}

impl Secure {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = UpstreamProcess::start(dir.path(), "secure-server", &dir.path().join("counts")).await;
        let ca = Ca::new();
        let front = TlsFront::start(server.addr(), &ca, &["127.0.0.1"]).await;
        Self { server, front, ca, dir }
    }

    fn cluster(&self) -> cluster::Builder {
        let ca = self.ca.file(self.dir.path());
        Cluster::builder().upstream_urls([self.front.url()]).env("MCP_UPSTREAM_CA_FILE", ca.display())
    }
}

/// The last failure of the only endpoint.
async fn last_error(cluster: &Cluster) -> String {
    let instances = http::get(cluster.addr(0), "/mcp/router/services/mcp-server-v6/instances").await.json();
    instances["instances"][0]["lastError"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_server_behind_tls_serves_sessions_rest_callers_and_health_checks() {
    let secure = Secure::start().await;
    let cluster = secure.cluster().env("MCP_UPSTREAM_HEALTH_INTERVAL", "50ms").start().await;
    let client = cluster.client().initialize().await;
    assert_eq!(client.text("echo", json!({ "text": "é" })).await, "é");
    let large = "x".repeat(1 << 20);
    assert_eq!(client.text("echo", json!({ "text": large })).await, large);
    for id in 0..20 {
        let answer = http::post(cluster.addr(0), REST, tool_call(id, "echo", json!({ "text": "r" })).to_string()).await;
        assert_eq!(answer.json()["result"]["content"][0]["text"], "r", "{}", answer.text());
    }
    eventually("it is known to be well", || async { cluster.routers[0].health().await["status"] == "UP" }).await;
    Oracle::exactly_once(&client);
    cluster.assert_no_violations().await;
}

/// More sessions than awc has connections of its own accord: each stream holds one.
#[tokio::test]
async fn more_sessions_than_a_hundred_have_their_streams_behind_tls() {
    let secure = Secure::start().await;
    let cluster = secure.cluster().start().await;
    let mut clients = Vec::new();
    for _ in 0..250 {
        clients.push(cluster.client().initialize().await);
    }
    for client in &clients {
        assert_eq!(client.text("echo", json!({ "text": "here" })).await, "here");
    }
}

/// An operator finds out what is wrong, and what to do about it; a caller gets an error at once.
#[tokio::test]
async fn a_certificate_of_somebody_unknown_or_for_another_name_is_told_so() {
    let secure = Secure::start().await;
    let ping = |cluster: &Cluster| http::post(cluster.addr(0), REST, request(1, "ping", json!({})).to_string());

    let unknown = Cluster::builder().upstream_urls([secure.front.url()]).start().await;
    assert_ne!(ping(&unknown).await.status, 200);
    eventually("the reason", || async { last_error(&unknown).await.contains("MCP_UPSTREAM_CA_FILE") }).await;
    drop(unknown);

    let elsewhere = TlsFront::start(secure.server.addr(), &secure.ca, &["elsewhere.example"]).await;
    let ca = secure.ca.file(secure.dir.path());
    let renamed =
        Cluster::builder().upstream_urls([elsewhere.url()]).env("MCP_UPSTREAM_CA_FILE", ca.display()).start().await;
    assert_ne!(ping(&renamed).await.status, 200);
    eventually("the reason", || async { last_error(&renamed).await.contains("certificate is refused") }).await;
    drop(renamed);

    // And a port that speaks no TLS at all.
    let plain = format!("https://{}/sse", secure.server.addr());
    let plain = Cluster::builder().upstream_urls([plain]).start().await;
    assert_ne!(ping(&plain).await.status, 200);
    eventually("the reason", || async { last_error(&plain).await.contains("cannot") }).await;
}

/// REQ-3, OWN-4: the owner of sessions whose server is behind TLS is killed with calls under way.
#[tokio::test]
async fn a_session_behind_tls_survives_the_death_of_its_router() {
    let secure = Secure::start().await;
    let mut cluster = secure
        .cluster()
        .routers(2)
        .short_lease()
        .env("MCP_RETRY_MIN", "10ms")
        .env("MCP_RETRY_MAX", "30ms")
        .start()
        .await;
    let client = cluster.client().initialize().await;
    client.call("echo", json!({ "text": "before" })).await;
    let under_way = client.start_call("wait", json!({ "ms": 300, "text": "read" })).await;
    cluster.routers[0].kill();
    client.reconnect(Some(1));
    assert_eq!(client.response(under_way).await["result"]["content"][0]["text"], "read");
    client.post_at(cluster.addr(1), &tool_call("after", "echo", json!({ "text": "after" }))).await;
    assert_eq!(client.response_to(&json!("after")).await["result"]["content"][0]["text"], "after");
    Oracle::exactly_once(&client);
    Oracle::every_request_answered_once(&client);
    cluster.assert_no_violations().await;
}

/// REQ-3: what was sent when its connection broke is of unknown outcome, and not sent again: awc says of both that it is not
/// connected.
#[tokio::test]
async fn a_post_whose_connection_broke_behind_tls_is_not_sent_twice() {
    let server = FakeUpstream::answering(|message| match message["params"]["name"].as_str() {
        Some("hang up") => Reply::HangUp,
        _ => Reply::Result(json!({ "content": [{ "type": "text", "text": "done" }] })),
    })
    .await;
    let (ca, dir) = (Ca::new(), tempfile::tempdir().unwrap());
    let front = TlsFront::start(server.addr(), &ca, &["127.0.0.1"]).await;
    let cluster = Cluster::builder()
        .upstream_urls([front.url()])
        .env("MCP_UPSTREAM_CA_FILE", ca.file(dir.path()).display())
        .start()
        .await;
    let client = cluster.client().initialize().await;
    client.call("x", json!({})).await;
    let id = client.start_call("hang up", json!({})).await;
    let answer = client.response(id).await;
    assert_eq!(answer["error"]["code"], -32001, "{answer}");
    let sent = server.received().iter().filter(|message| message.json()["params"]["name"] == "hang up").count();
    assert_eq!(sent, 1);
    let posts = server.received();
    assert_eq!(header(&posts[0].headers, "host"), Some(front.addr().to_string().as_str()), "{:?}", posts[0].headers);
    assert_eq!(header(&posts[0].headers, "content-type"), Some("application/json"));
    assert_eq!(header(&posts[0].headers, "user-agent"), None);
}
