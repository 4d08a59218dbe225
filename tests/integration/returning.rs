//! Who a client is that opens a stream: a new one, which is not kept waiting and sees nothing of others, or one that comes
//! back, with or without a mark, which gets its session.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Cluster, Event, EventStream, FakeUpstream, Item, McpClient, PostTo, eventually,
    fake_upstream::Reply,
    http::{self, Request},
    mcp_client::{request, tool_call},
};

const SSE: &str = "/sse/mcp-server-v6";

/// Longer than any client is asked: an endpoint that came sooner was not held up by a question.
const ASKED: Duration = Duration::from_secs(20);

/// The first event of a stream; it must be the endpoint.
async fn endpoint(stream: &mut EventStream) -> String {
    let event = stream.event().await;
    assert_eq!(event.name, "endpoint", "{event:?}");
    event.data
}

fn session(endpoint: &str) -> &str {
    endpoint.split_once("sessionId=").unwrap().1.split('&').next().unwrap()
}

/// java-sdk#404: Java, Spring AI and @ai-sdk/mcp send their version on their first GET. None of them is asked who it is,
/// with either store, also where others of its kind are connected or have long gone, and where others have just gone that
/// said no version at first.
#[tokio::test]
async fn the_first_get_of_a_client_that_says_its_version_is_not_delayed() {
    for redis in [false, true] {
        let builder = Cluster::builder().env("MCP_REBIND_TIMEOUT", format!("{}s", ASKED.as_secs()));
        let builder = builder.env("MCP_REBIND_WINDOW", "0s");
        let cluster = if redis { builder.routers(2).start().await } else { builder.without_redis().start().await };
        let java =
            |agent: &str| cluster.client().header("mcp-protocol-version", "2024-11-05").header("user-agent", agent);
        for agent in ["Java-http-client/21.0.2", "ReactorNetty/1.2.3", "ai-sdk/2.0.99"] {
            let _typescript = cluster.client().header("user-agent", "node").initialize().await;
            let connected = java(agent).initialize().await;
            let gone = java(agent).initialize().await;
            gone.disconnect().await;
            let second = java(agent).initialize().await;
            assert_eq!(second.text("echo", json!({ "text": agent })).await, agent);
            assert_eq!(second.records()[0].name, "endpoint");
            assert_ne!(second.session(), connected.session());
            assert_ne!(second.session(), gone.session());
        }
        assert_eq!(cluster.metric("mcp_router_rebinds_total", None).await, 0.0);
    }
}

/// A new client of a program that says its version once it has one is not asked either, although one of its kind has just
/// gone: that one would have said it.
#[tokio::test]
async fn a_new_client_without_a_version_is_not_taken_for_one_that_had_one() {
    let cluster = Cluster::builder().env("MCP_REBIND_TIMEOUT", format!("{}s", ASKED.as_secs())).start().await;
    let first = cluster.client().header("user-agent", "node").without_mark().stays_away().connect().await;
    let version =
        json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "a", "version": "0" } });
    first.result("initialize", version).await;
    let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string();
    let post = Request::post(first.endpoint(), initialized).header("mcp-protocol-version", "2025-11-25");
    assert_eq!(post.send(cluster.addr(0)).await.status, 202);
    first.disconnect().await;
    let redis = cluster.redis_client().await;
    let id = first.session();
    eventually("the stream detached", || async { redis.field(&id, "a:g").await.is_none() }).await;
    let second = cluster.client().header("user-agent", "node").without_mark().initialize().await;
    assert_ne!(second.session(), first.session());
    assert_eq!(cluster.metric("mcp_router_rebinds_total", None).await, 0.0);
}

/// A client that shows nothing at all when it comes back (supergateway, mcp-remote 0.1.38), or its version as on its first
/// GET (Spring AI), is asked, and finds its session: also on an instance that never saw it, after its own was killed.
#[tokio::test]
async fn a_client_without_a_mark_finds_the_session_of_a_killed_instance() {
    let mut cluster =
        Cluster::builder().routers(3).env("MCP_RETRY_MIN", "10ms").env("MCP_RETRY_MAX", "50ms").start().await;
    let addrs = cluster.addrs();
    let plain = McpClient::builder(addrs.clone()).without_mark().header("user-agent", "node");
    let spring = McpClient::builder(addrs).without_mark().header("user-agent", "ReactorNetty/1.2.3");
    let spring = spring.header("mcp-protocol-version", "2024-11-05");
    let clients =
        [plain.post_to(PostTo::Only(2)).initialize().await, spring.post_to(PostTo::Only(2)).initialize().await];
    let sessions = [clients[0].session(), clients[1].session()];
    let mut calls = Vec::new();
    for client in &clients {
        calls.push(client.start_call("wait", json!({ "ms": 300, "text": "after the kill" })).await);
    }
    cluster.routers[0].kill();
    for ((client, session), call) in clients.iter().zip(&sessions).zip(calls) {
        let answer = client.response(call).await;
        assert_eq!(answer["result"]["content"][0]["text"], "after the kill", "{answer}");
        assert_eq!(client.text("echo", json!({ "text": "again" })).await, "again");
        assert_eq!(client.session(), *session);
        let endpoints = client.records().iter().filter(|record| record.name == "endpoint").count();
        assert_eq!(endpoints, 1, "it keeps its endpoint");
    }
}

/// A client of many: each finds its own session again, whoever else of its kind is looking for one.
#[tokio::test]
async fn each_of_many_equal_clients_finds_its_own_session() {
    let mut cluster =
        Cluster::builder().routers(2).env("MCP_RETRY_MIN", "10ms").env("MCP_RETRY_MAX", "100ms").start().await;
    let mut clients = Vec::new();
    for number in 0..10 {
        let like = cluster.client().post_to(PostTo::Only(1)).header("user-agent", "node");
        let like = if number % 2 == 0 { like.like_typescript() } else { like.without_mark() };
        clients.push(like.initialize().await);
    }
    let sessions: Vec<String> = clients.iter().map(McpClient::session).collect();
    cluster.routers[0].kill();
    for (number, client) in clients.iter().enumerate() {
        let text = format!("of {number}");
        assert_eq!(client.text("echo", json!({ "text": text })).await, text);
        assert_eq!(client.session(), sessions[number]);
    }
}

/// While Redis, or the instance that has the client's answer to the question who it is, hangs, no client loses its session
/// to a new one.
#[tokio::test]
async fn a_client_that_comes_back_while_something_hangs_keeps_its_session() {
    let builder = Cluster::builder().routers(2).env("MCP_REBIND_TIMEOUT", "500ms").env("MCP_WATCHDOG", "0s");
    let mut cluster = builder.env("MCP_RETRY_MIN", "10ms").env("MCP_RETRY_MAX", "50ms").start().await;
    let like = cluster.client().like_typescript().post_to(PostTo::Only(1)).header("user-agent", "node");
    let client = like.initialize().await;
    let session = client.session();
    for round in 0..2 {
        let connections = client.connections().len();
        if round == 0 {
            cluster.redis().freeze()
        } else {
            cluster.routers[1].freeze()
        }
        client.cut();
        client.connection_count(connections + usize::from(round == 1)).await;
        tokio::time::sleep(Duration::from_millis(2200)).await;
        if round == 0 {
            cluster.redis().thaw()
        } else {
            cluster.routers[1].thaw()
        }
        assert_eq!(client.text("echo", json!({ "text": "mine" })).await, "mine");
        assert_eq!(client.session(), session);
    }
    let endpoints = client.records().iter().filter(|record| record.name == "endpoint").count();
    assert_eq!(endpoints, 1, "no second session");
}

/// A Redis that comes back empty has lost the lists of clients, too: who comes back in that moment is asked all the same.
#[tokio::test]
async fn a_client_without_a_cursor_keeps_its_session_when_redis_has_lost_all() {
    let builder = Cluster::builder().routers(2).env("MCP_LEASE", "3s").env("REDIS_WAIT", "20s");
    let mut cluster = builder.env("MCP_RETRY_MIN", "10ms").env("MCP_RETRY_MAX", "50ms").start().await;
    let client = cluster.client().like_typescript().header("user-agent", "node").initialize().await;
    let session = client.session();
    cluster.redis().restart();
    client.cut();
    assert_eq!(client.text("echo", json!({ "text": "after" })).await, "after");
    assert_eq!(client.session(), session);
}

/// Who speaks for a session that is gone gets a new one at once, whichever instance has its answer.
#[tokio::test]
async fn a_client_whose_session_is_gone_is_not_kept_waiting() {
    let builder = Cluster::builder().routers(2).env("MCP_REBIND_TIMEOUT", format!("{}s", ASKED.as_secs()));
    let cluster = builder.env("MCP_REBIND_PATIENCE", "60s").start().await;
    let like = || cluster.client().like_typescript().header("user-agent", "node");
    let _other = like().initialize().await;
    for instance in 0..2 {
        let client = like().post_to(PostTo::Only(instance)).stays_away().initialize().await;
        let before = client.session();
        let gone = Request::delete(format!("/mcp/router/sessions/{before}")).send(cluster.addr(0)).await;
        assert_eq!(gone.status, 204);
        client.reconnect(Some(0));
        eventually("a new session", || async { client.session() != before }).await;
    }
}

/// Nothing that is for another client comes before the next event that is not a comment; and none of it at all.
async fn next_event(stream: &mut EventStream) -> Option<Event> {
    loop {
        match tokio::time::timeout(Duration::from_millis(300), stream.read()).await {
            Ok(Item::Event(event)) => return Some(event),
            Ok(Item::Comment(_)) => {}
            Ok(Item::End(end)) => panic!("{end:?}"),
            Err(_) => return None,
        }
    }
}

/// A second client with the first one's cookie jar (another tab, the program started again) gets a session of its own: its
/// `initialize` reaches a server session of its own, and nothing that was for the first one reaches it: neither what had been
/// sent, nor what was still on its way, nor what comes later. With either store, and when stream and POSTs meet different
/// instances.
#[tokio::test]
async fn a_new_client_with_a_cookie_gets_a_session_of_its_own() {
    for redis in [false, true] {
        let upstream = FakeUpstream::answering(|message| match message["params"]["name"].as_str() {
            Some("slow") => Reply::Silence,
            _ => Reply::Result(json!({ "content": [] })),
        })
        .await;
        let builder = Cluster::builder().upstream_urls([upstream.url()]);
        let cluster = if redis { builder.routers(2).start().await } else { builder.without_redis().start().await };
        let last = cluster.addrs().len() - 1;
        let first = cluster.client().post_to(PostTo::Only(0)).stays_away().initialize().await;
        let old = upstream.open_sessions()[0];
        first.call("quick", json!({})).await;
        for _ in 0..2 {
            first.start_call("slow", json!({})).await;
        }
        let calls = upstream.wait_for("tools/call", 3).await;
        let cookie = first.connections()[0].headers.iter().find(|(name, _)| name == "set-cookie").unwrap().1.clone();
        first.disconnect().await;
        eventually("nobody shows the stream", || async {
            let shown = http::get(cluster.addr(0), &format!("/mcp/router/sessions/{}", first.session())).await;
            !shown.text().contains("a:g") && cluster.metric("mcp_router_streams", None).await == 0.0
        })
        .await;
        // One answer that nobody has had, and one that comes while the second one looks on.
        let answer = |call: &Value| json!({ "jsonrpc": "2.0", "id": call["id"], "result": { "secret": true } });
        upstream.send(old, &answer(&calls[1])).await;

        let get = Request::get(SSE).header("cookie", cookie.split(';').next().unwrap());
        let mut second = EventStream::open(cluster.addr(last), &get).await;
        let to = endpoint(&mut second).await;
        assert_eq!(next_event(&mut second).await, None);
        upstream.send(old, &answer(&calls[2])).await;
        assert_eq!(next_event(&mut second).await, None);

        let params = json!({ "protocolVersion": "2024-11-05", "capabilities": { "roots": {} },
            "clientInfo": { "name": "test", "version": "0" } });
        // Tried on both instances, as nginx does, and perhaps after its answer: one message all the same (REQ-6).
        let mine = Request::post(&to, request("mine", "initialize", params).to_string());
        let mine = mine.header("x-mcp-request-try", "the-newcomers-initialize");
        for instance in [0, last] {
            assert_eq!(mine.send(cluster.addr(instance)).await.status, 202);
        }
        let result: Value = serde_json::from_str(&second.event().await.data).unwrap();
        assert_eq!((&result["id"], result["result"].is_object()), (&json!("mine"), true), "{result}");
        let handshakes = upstream.wait_for("initialize", 2).await;
        assert_eq!((handshakes.len(), &handshakes[1]["params"]["capabilities"]), (2, &json!({ "roots": {} })));
        eventually("the first one's server session is closed", || async { !upstream.open_sessions().contains(&old) })
            .await;
        for (id, instance) in [("a", 0), ("b", last)] {
            let call = tool_call(id, "quick", json!({})).to_string();
            assert_eq!(http::post(cluster.addr(instance), &to, call).await.status, 202);
            let answered: Value = serde_json::from_str(&second.event().await.data).unwrap();
            assert_eq!(answered["id"], id, "{answered}");
        }
        cluster.assert_no_violations().await;
    }
}

/// mcp-remote 0.15 comes back with its cookie and begins with an `initialize` of its own: it keeps its session, with and
/// without its version; its server sees nothing of it.
#[tokio::test]
async fn mcp_remote_keeps_its_session_by_its_cookie() {
    for version in [false, true] {
        let upstream = FakeUpstream::start().await;
        let builder = Cluster::builder().routers(2).upstream_urls([upstream.url()]).env("MCP_REBIND_TIMEOUT", "300ms");
        let cluster = builder.start().await;
        let first = cluster.client().stays_away().initialize().await;
        let cookie = first.connections()[0].headers.iter().find(|(name, _)| name == "set-cookie").unwrap().1.clone();
        first.disconnect().await;
        let (redis, id) = (cluster.redis_client().await, first.session());
        eventually("nobody shows the stream", || async { redis.field(&id, "a:g").await.is_none() }).await;
        let mut get = Request::get(SSE).header("cookie", cookie.split(';').next().unwrap());
        if version {
            get = get.header("mcp-protocol-version", "2025-11-25");
        }
        let mut again = EventStream::open(cluster.addr(1), &get).await;
        let mut event = again.event().await;
        if event.name == "message" {
            // It may be asked first; it answers nothing before it has an endpoint.
            event = again.event().await;
        }
        assert_eq!(session(&event.data), first.session());
        assert_ne!(event.data, first.endpoint(), "it holds its POSTs back until the URL changes");
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": { "name": "test", "version": "0" } });
        let reinit = request("mcp-remote-reinit-1", "initialize", params).to_string();
        assert_eq!(http::post(cluster.addr(0), &event.data, reinit).await.status, 202);
        let answer: Value = serde_json::from_str(&again.event().await.data).unwrap();
        assert_eq!(answer["id"], "mcp-remote-reinit-1");
        let call = tool_call("x", "any", json!({})).to_string();
        assert_eq!(http::post(cluster.addr(1), &event.data, call).await.status, 202);
        let answer: Value = serde_json::from_str(&again.event().await.data).unwrap();
        assert_eq!(answer["id"], "x");
        assert_eq!((upstream.received_of("initialize").len(), upstream.open_sessions().len()), (1, 1));
    }
}

/// A client that believes to be initialised when its stream is a new one (mcp-use, supergateway, OpenAI Agents JS after a
/// break) is answered: the router runs the handshake. An `initialize` that comes after all still is the client's own. With
/// either store, and when an adopter has to do it again.
#[tokio::test]
async fn a_call_without_a_handshake_is_answered() {
    for redis in [false, true] {
        let builder = Cluster::builder().env("MCP_RETRY_MIN", "10ms").env("MCP_RETRY_MAX", "50ms");
        let mut cluster = if redis { builder.routers(2).start().await } else { builder.without_redis().start().await };
        let last = cluster.addrs().len() - 1;
        let client = cluster.client().post_to(PostTo::Only(last)).connect().await;
        assert_eq!(client.text("echo", json!({ "text": "no handshake" })).await, "no handshake");
        assert!(client.result("tools/list", json!({})).await["tools"].is_array());
        assert_eq!(cluster.metric("mcp_router_handshakes_assumed_total", None).await, 1.0);
        if redis {
            cluster.routers[0].kill();
            assert_eq!(client.text("echo", json!({ "text": "adopted" })).await, "adopted");
        }
        let result = client.handshake().await;
        assert_eq!(result["serverInfo"]["name"], "mcp-server-v6");
        assert_eq!(client.text("echo", json!({ "text": "initialised" })).await, "initialised");
        let metric = cluster.routers[last].metric("mcp_router_handshakes_assumed_total", None).await;
        assert_eq!(metric, f64::from(u8::from(!redis)), "the adopter goes on with the first one's");
    }
}
