//! What sessions whose clients are gone hold on to, and who makes room when there is none left.

use std::time::Instant;

use serde_json::json;

use crate::harness::{Cluster, EventStream, FakeUpstream, McpClient, event_stream::Opened, eventually, http::Request};

const SSE: &str = "/sse/mcp-server-v6";

async fn exists(redis: &crate::harness::RedisClient, session: &str) -> bool {
    redis.field(session, "service").await.is_some()
}

/// Clients that open a session for each call (LangChain, LlamaIndex, AutoGen) leave one behind each time: its upstream
/// connection is given back after `MCP_SESSION_REST`, and made again, with the handshake, for a client that comes back after
/// all. With either store.
#[tokio::test]
async fn sessions_of_clients_that_are_gone_give_their_upstream_connections_back() {
    for redis in [false, true] {
        let upstream = FakeUpstream::start().await;
        let builder = Cluster::builder().upstream_urls([upstream.url()]).env("MCP_SESSION_REST", "300ms");
        let cluster = if redis { builder.routers(2).start().await } else { builder.without_redis().start().await };
        let mut gone: Vec<McpClient> = Vec::new();
        for _ in 0..if redis { 20 } else { 150 } {
            let client = cluster.client().stays_away().initialize().await;
            client.call("any", json!({})).await;
            client.disconnect().await;
            gone.push(client);
        }
        eventually("no connection to the server", || async { upstream.open_sessions().is_empty() }).await;
        assert!(cluster.metric("mcp_router_upstream_links_total", Some("rested")).await >= gone.len() as f64);

        let handshakes = upstream.received_of("initialize").len();
        let back = &gone[3];
        back.reconnect(None);
        // The server may speak to it before it speaks itself.
        eventually("a connection for the client", || async { upstream.open_sessions().len() == 1 }).await;
        back.call("any", json!({})).await;
        assert_eq!(upstream.received_of("initialize").len(), handshakes + 1);
        // One that does not open its stream first.
        let silent = &gone[4];
        let call = silent.start_call("any", json!({})).await;
        eventually("its own connection", || async { upstream.open_sessions().len() == 2 }).await;
        silent.reconnect(None);
        silent.response(call).await;
        assert_eq!(cluster.metric("mcp_router_sessions", None).await, gone.len() as f64, "none was forgotten");
    }
}

/// A session with a client keeps its connection however long it is silent, also when stream and owner are on different
/// instances; one with a subscription keeps it for as long as events are kept.
#[tokio::test]
async fn sessions_with_a_client_or_a_subscription_keep_their_upstream_connections() {
    let upstream = FakeUpstream::start().await;
    let builder = Cluster::builder().routers(2).upstream_urls([upstream.url()]).env("MCP_SESSION_REST", "200ms");
    let cluster = builder.start().await;
    let here = cluster.client().initialize().await;
    let moved = cluster.client().stays_away().initialize().await;
    moved.disconnect().await;
    moved.reconnect(Some(1));
    moved.connection_count(2).await;
    let subscribed = cluster.client().stays_away().initialize().await;
    subscribed.result("resources/subscribe", json!({ "uri": "x:y" })).await;
    subscribed.disconnect().await;
    let left = cluster.client().stays_away().initialize().await;
    left.disconnect().await;
    eventually("the one without a client rests", || async { upstream.open_sessions().len() == 3 }).await;
    let kept = upstream.open_sessions();
    // Another one comes and goes after it: its round has looked at the others, too.
    let later = cluster.client().stays_away().initialize().await;
    later.disconnect().await;
    let rests = || async { upstream.received_of("initialize").len() == 5 && upstream.open_sessions().len() == 3 };
    eventually("the one that left later rests", rests).await;
    assert_eq!(upstream.open_sessions(), kept);
    for client in [&here, &moved] {
        client.call("any", json!({})).await;
    }
}

/// MEM-5: at the cap the session makes room whose client has been gone longest, is still in the store, and goes on when its
/// client returns, by a cursor or by a POST. Sessions with clients stay.
#[tokio::test]
async fn the_session_that_has_been_alone_longest_makes_room_and_can_go_on() {
    for redis in [false, true] {
        let builder = Cluster::builder().env("MCP_MAX_SESSIONS", 4);
        let cluster = if redis { builder.start().await } else { builder.without_redis().start().await };
        let staying = cluster.client().initialize().await;
        let mut gone = Vec::new();
        for number in 0..20 {
            let client = cluster.client().stays_away().initialize().await;
            let text = format!("{number}");
            assert_eq!(client.text("echo", json!({ "text": text })).await, text);
            client.disconnect().await;
            gone.push(client);
        }
        assert!(cluster.metric("mcp_router_made_room_total", None).await >= 17.0);
        assert!(cluster.metric("mcp_router_sessions", None).await <= 4.0);
        assert_eq!(staying.text("echo", json!({ "text": "still here" })).await, "still here");
        gone[0].reconnect(None);
        assert_eq!(gone[0].text("echo", json!({ "text": "back" })).await, "back");
        let call = gone[1].start_call("echo", json!({ "text": "by a POST" })).await;
        gone[1].reconnect(None);
        assert_eq!(gone[1].response(call).await["result"]["content"][0]["text"], "by a POST");
        cluster.assert_no_violations().await;
    }
}

/// MEM-5: when all sessions have clients there is no room, and readiness says so; as soon as one of them leaves there is.
#[tokio::test]
async fn a_full_instance_is_not_ready_until_somebody_can_make_room() {
    let cluster = Cluster::builder().env("MCP_MAX_SESSIONS", 2).start().await;
    let addr = cluster.addr(0);
    let ready = || async { crate::harness::http::get(addr, "/actuator/health/readiness").await };
    let first = cluster.client().stays_away().initialize().await;
    let _second = cluster.client().initialize().await;
    let refused = EventStream::refusal(addr, &Request::get(SSE)).await;
    assert_eq!((refused.status, refused.error_code()), (503, Some(-32603)));
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() > 1);
    let full = ready().await;
    assert_eq!((full.status, &full.json()["status"]), (503, &json!("OUT_OF_SERVICE")));
    first.disconnect().await;
    eventually("readiness", || async { ready().await.status == 200 }).await;
    assert!(matches!(EventStream::request(addr, &Request::get(SSE)).await.unwrap(), Opened::Stream(_)));
}

/// A probe's session ends when it is told to, and not half as long again later.
#[tokio::test]
async fn a_session_that_was_never_used_ends_with_its_time() {
    let cluster = Cluster::builder().env("MCP_SESSION_UNINITIALIZED_TTL", "2s").start().await;
    let redis = cluster.redis_client().await;
    let client = cluster.client().stays_away().connect().await;
    let session = client.session();
    let left = Instant::now();
    client.disconnect().await;
    eventually("its end", || async { !exists(&redis, &session).await }).await;
    let lived = left.elapsed();
    assert!((1900..2800).contains(&lived.as_millis()), "{lived:?}");
    assert_eq!(cluster.metric("mcp_router_sessions", None).await, 0.0);
}

/// No client takes all: sessions of one address, or of one Authorization, beyond its share are refused with an error that
/// says so; others are not concerned, and those that it has left behind make room.
#[tokio::test]
async fn sessions_of_one_client_beyond_its_share_are_refused() {
    let cluster = Cluster::builder().env("MCP_MAX_SESSIONS_PER_CLIENT", 2).start().await;
    let addr = cluster.addr(0);
    let from = |address: &str| Request::get(SSE).header("x-forwarded-for", address);
    let first = cluster.client().header("x-forwarded-for", "192.0.2.1").stays_away().initialize().await;
    let _second = EventStream::open(addr, &from("192.0.2.1")).await;
    let refused = EventStream::refusal(addr, &from("192.0.2.1")).await;
    assert_eq!((refused.status, refused.error_code()), (429, Some(-32603)));
    assert!(refused.text().contains("MCP_MAX_SESSIONS_PER_CLIENT"));
    let _other = EventStream::open(addr, &from("192.0.2.2")).await;
    first.disconnect().await;
    let mut held = Vec::new();
    eventually("the place that was left", || async {
        matches!(EventStream::request(addr, &from("192.0.2.1")).await.unwrap(), Opened::Stream(_))
    })
    .await;
    for address in ["192.0.2.3", "192.0.2.4"] {
        held.push(EventStream::open(addr, &from(address).header("authorization", "Bearer one")).await);
    }
    let third = from("192.0.2.5").header("authorization", "Bearer one");
    assert_eq!(EventStream::refusal(addr, &third).await.status, 429);
}
