//! How many calls of one principal are under way, wherever they are: `MCP_PRINCIPAL_CALLS`. MEM-5

use serde_json::{Value, json};

use crate::harness::{
    Cluster, EventStream, McpClient, StreamableClient, event_stream::Opened, eventually, http::Request, mcp_client,
};

const MCP: &str = "/mcp/mcp-server-v6";
const ROUTE: &str = "/mcp/router/route/mcp-server-v6";
const NAME: &str = "x-mcp-principal";
/// Longer than any test waits.
const LONG: u64 = 60_000;

async fn two_at_a_time() -> Cluster {
    let builder = Cluster::builder().routers(2).env("MCP_AUTH", "proxy").env("MCP_PRINCIPAL_CALLS", 2);
    builder.short_lease().start().await
}

fn route(name: &str, message: &Value) -> Request {
    Request::post(ROUTE, message.to_string()).header(NAME, name)
}

fn list() -> Value {
    json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/list" })
}

/// A call without a session that goes on until it is dropped.
async fn endless(cluster: &Cluster, index: usize, name: &str) -> tokio::task::JoinHandle<()> {
    let (addr, request) =
        (cluster.addr(index), route(name, &mcp_client::tool_call(1, "wait", json!({ "ms": LONG, "text": "x" }))));
    tokio::spawn(async move {
        let _ = EventStream::exchange(addr, &request).await.map(|opened| match opened {
            Opened::Refused(response) => panic!("{} {}", response.status, response.text()),
            Opened::Stream(_) => panic!("no stream was asked for"),
        });
    })
}

async fn status(cluster: &Cluster, index: usize, name: &str) -> u16 {
    route(name, &list()).send(cluster.addr(index)).await.status
}

#[tokio::test]
async fn calls_at_a_time_are_counted_at_all_instances_and_over_every_surface() {
    let cluster = two_at_a_time().await;
    let streamable = StreamableClient::new([cluster.addr(0)], MCP);
    streamable.set_header(NAME, "alice");
    streamable.initialize("2025-11-25", json!({})).await;
    let sse = McpClient::builder([cluster.addr(1)]).header(NAME, "alice").initialize().await;
    // One after the other there may be any number.
    for _ in 0..20 {
        streamable.result("tools/list", json!({})).await;
        sse.result("tools/list", json!({})).await;
        assert_eq!(status(&cluster, 0, "alice").await, 200);
    }
    let (id, shown) = streamable.start_call("wait", json!({ "ms": 3000, "text": "x" })).await;
    let second = sse.start_call("wait", json!({ "ms": LONG, "text": "x" })).await;
    eventually("a full house", || async { status(&cluster, 0, "alice").await == 429 }).await;
    for index in [0, 1] {
        let refused = route("alice", &list()).send(cluster.addr(index)).await;
        assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "{index}");
        let data = &refused.json()["error"]["data"];
        assert_eq!((&data["reason"], &data["outcome"]), (&json!("too_many_calls"), &json!("not_executed")));
        assert_eq!(status(&cluster, index, "bob").await, 200, "others are not concerned");
    }
    // In the sessions, too; what is answered at once goes on.
    let refused = streamable.post(&list()).await.whole();
    assert_eq!((refused.status, &refused.json()["error"]["data"]["reason"]), (429, &json!("too_many_calls")));
    let refused = sse.start("tools/list", json!({})).await;
    let answer = sse.response(refused).await;
    assert_eq!(answer["error"]["data"]["reason"], "too_many_calls", "{answer}");
    streamable.result("ping", json!({})).await;
    sse.result("ping", json!({})).await;
    // One is answered, the other given up.
    shown.follow(&id.into()).await;
    eventually("a place", || async { status(&cluster, 1, "alice").await == 200 }).await;
    sse.notify("notifications/cancelled", json!({ "requestId": second })).await;
    let endless = endless(&cluster, 0, "alice").await;
    eventually("both places", || async { status(&cluster, 1, "alice").await == 200 }).await;
    endless.abort();
    assert!(cluster.metric("mcp_router_errors_total", Some("too_many_calls")).await >= 4.0);
}

#[tokio::test]
async fn a_killed_instance_leaves_no_calls_behind_and_an_heir_counts_what_it_takes_over() {
    let mut cluster = two_at_a_time().await;
    let mut running = Vec::new();
    for _ in 0..2 {
        running.push(endless(&cluster, 0, "alice").await);
    }
    eventually("a full house", || async { status(&cluster, 1, "alice").await == 429 }).await;
    // Carol's go on: her session is taken over.
    let carol = StreamableClient::new(cluster.addrs(), MCP);
    carol.set_header(NAME, "carol");
    carol.initialize("2025-11-25", json!({})).await;
    let mut shown = Vec::new();
    for _ in 0..2 {
        shown.push(carol.start_call("wait", json!({ "ms": 8000, "text": "x" })).await);
    }
    eventually("a full house", || async { status(&cluster, 1, "carol").await == 429 }).await;
    cluster.routers[0].kill();
    eventually("an end of the dead one's calls", || async { status(&cluster, 1, "alice").await == 200 }).await;
    for call in running {
        call.abort();
    }
    let was_adopted = || async { cluster.metric("mcp_router_adoptions_total", None).await > 0.0 };
    eventually("the takeover", was_adopted).await;
    let is_kept = || async { status(&cluster, 1, "carol").await == 429 };
    eventually("the heir's word on what it has taken over", is_kept).await;
    for (id, shown) in shown {
        shown.follow(&id.into()).await;
    }
    eventually("an end of hers", || async { status(&cluster, 1, "carol").await == 200 }).await;
}
