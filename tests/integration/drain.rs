//! An instance that is told to go (SIGTERM): it takes nobody's call, session or stream with it, and it goes in time.

use std::cell::Cell;

use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use crate::harness::{
    Cluster, EventStream, FakeUpstream, Front, McpClient, Oracle, PostTo, StreamEnd, Transport, cluster,
    edge_is_missing, eventually, fake_upstream::Reply, http::Request, mcp_client::tool_call, over_both_transports,
};

const SSE: &str = "/sse/mcp-server-v6";

/// Streams that are opened at a time: fewer than the kernel holds for a listener that is busy.
const AT_A_TIME: usize = 50;

fn quick() -> cluster::Builder {
    Cluster::builder()
        .short_lease()
        .env("MCP_POLL_INTERVAL", "200ms")
        .env("MCP_RETRY_MIN", "10ms")
        .env("MCP_RETRY_MAX", "30ms")
        .env("MCP_STREAMABLE_RETRY_MIN", "10ms")
        .env("MCP_STREAMABLE_RETRY_MAX", "30ms")
}

/// Calls tools without a pause until `done`; any error ends the test. Keys of its increments.
async fn work(client: &McpClient, number: usize, calls: &Cell<u64>, done: &Cell<bool>) -> Vec<String> {
    let mut keys = Vec::new();
    while !done.get() {
        let key = format!("client {number} call {}", calls.get());
        match calls.get() % 3 {
            0 => assert_eq!(client.text("echo", json!({ "text": key })).await, key),
            1 => assert_eq!(client.text("wait", json!({ "ms": 20, "text": key })).await, key),
            _ => {
                client.call("increment", json!({ "key": key })).await;
                keys.push(key);
            }
        }
        calls.set(calls.get() + 1);
    }
    keys
}

/// Every second client sends no cursor when it comes back, as the TypeScript SDK.
fn is_like_typescript(number: usize) -> bool {
    number % 2 == 1
}

/// Each of three instances is ended and started again in turn behind nginx, while clients call tools without a pause: no
/// POST and no GET is refused, every call has its result, and nothing is lost, doubled or reordered.
async fn rolling_restart(transport: Transport, front: Front) {
    const CLIENTS: usize = 6;
    let is_edge = front.edge.is_some();
    let mut cluster = quick().routers(3).upstreams(2).front(front).start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let clients = join_all((0..CLIENTS).map(|number| {
        let client = McpClient::builder([nginx]).over(transport);
        if is_like_typescript(number) { client.like_typescript().initialize() } else { client.initialize() }
    }))
    .await;
    let done = Cell::new(false);
    let calls: Vec<Cell<u64>> = vec![Cell::new(0); CLIENTS];
    let load = join_all(clients.iter().enumerate().map(|(number, client)| work(client, number, &calls[number], &done)));
    let roll = async {
        for index in 0..3 {
            cluster.routers[index].process().signal("TERM");
            assert_eq!(cluster.routers[index].process().exit_code().await, Some(0));
            cluster.routers[index].restart().await;
            let before: Vec<u64> = calls.iter().map(Cell::get).collect();
            eventually("work goes on", || {
                std::future::ready(calls.iter().zip(&before).all(|(calls, before)| calls.get() > before + 10))
            })
            .await;
        }
        done.set(true);
    };
    let (keys, ()) = join(load, roll).await;

    let total: u64 = calls.iter().map(Cell::get).sum();
    let reconnects: usize = clients.iter().map(|client| client.connections().len() - 1).sum();
    println!("{total} calls, {reconnects} reconnections");
    // At the edge a client's stream stays what it is.
    assert!(if is_edge { reconnects == 0 } else { reconnects >= 3 }, "the restarts were felt: {reconnects}");
    Oracle::counted_once(&cluster.counts(), keys.iter().flatten().map(String::as_str));
    let redis = cluster.redis_client().await;
    for (number, client) in clients.iter().enumerate() {
        let statuses: Vec<u16> = client.connections().iter().map(|connection| connection.status).collect();
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        if !is_like_typescript(number) {
            Oracle::exactly_once(client);
        } else if transport == Transport::Sse {
            Oracle::at_least_once(client);
        }
        Oracle::every_request_answered_once(client);
        Oracle::agrees_with_log(client, &redis).await;
        assert!(redis.pending(&client.session()).await.is_empty());
    }
    cluster.assert_no_violations().await;
}

/// DRN-1, where nginx sends every request to the next instance.
async fn a_rolling_restart_under_load_shows_no_client_an_error(transport: Transport) {
    rolling_restart(transport, Front::stock(false)).await;
}

/// DRN-1, where nginx sends all requests of a client to the same instance, as long as it is there.
async fn a_rolling_restart_moves_clients_that_stick_to_an_instance(transport: Transport) {
    rolling_restart(transport, Front::stock(true)).await;
}

/// DRN-1 behind nginx-edge.conf, where in addition no client sees anything of it.
#[tokio::test]
async fn a_rolling_restart_behind_the_edge_is_seen_by_no_client() {
    if !edge_is_missing() {
        rolling_restart(Transport::Sse, Front::edge("")).await;
    }
}

/// So many streams at instance 0, each with the cursor that it has told.
async fn open_streams(cluster: &Cluster, count: usize) -> Vec<(EventStream, String)> {
    let addr = cluster.addr(0);
    let mut streams = Vec::new();
    while streams.len() < count {
        let some = (0..AT_A_TIME.min(count - streams.len())).map(|_| async {
            let mut stream = EventStream::open(addr, &Request::get(SSE)).await;
            let cursor = stream.event().await.id.unwrap();
            (stream, cursor)
        });
        streams.extend(join_all(some).await);
    }
    streams
}

/// All have ended without a last chunk, so that every client comes back; and all find their sessions at instance 1.
async fn find_their_sessions(cluster: &Cluster, mut streams: Vec<(EventStream, String)>) {
    for (stream, _) in &mut streams {
        assert_eq!(stream.end().await, StreamEnd::Abrupt);
    }
    let addr = cluster.addr(1);
    for some in streams.chunks(AT_A_TIME) {
        join_all(some.iter().map(|(_, cursor)| async move {
            let mut stream = EventStream::open(addr, &Request::get(SSE).header("last-event-id", cursor)).await;
            let event = stream.event().await;
            assert_eq!((event.name.as_str(), event.id.as_ref()), ("endpoint", Some(cursor)));
            let session = cursor.split('.').next().unwrap();
            assert!(event.data.contains(session), "another session than before");
        }))
        .await;
    }
}

/// DRN-3, DRN-2: an instance with 1,000 open streams, and calls in flight that nobody will ever answer, ends by itself
/// before its time is over: no stream ends cleanly, every session is found elsewhere, and the calls are told.
#[tokio::test]
async fn an_instance_with_a_thousand_streams_ends_in_time() {
    let upstream = FakeUpstream::answering(|_| Reply::Silence).await;
    let builder = quick().routers(2).upstream_urls([upstream.url()]).env("MCP_NEW_SESSION_RATE", 0);
    let builder = builder.env("SHUTDOWN_TIMEOUT", "10s").env("DRAIN_DEADLINE", "500ms");
    let mut cluster = builder.env("DRAIN_STREAMS_PER_SECOND", 1000).start().await;
    let streams = open_streams(&cluster, 1000).await;
    let busy = join_all((0..5).map(|_| cluster.client().post_to(PostTo::Only(1)).initialize())).await;
    for client in &busy {
        client.post(&tool_call("endless", "x", json!({}))).await;
    }
    upstream.wait_for("tools/call", 5).await;

    cluster.routers[0].process().signal("TERM");
    assert_eq!(cluster.routers[0].process().exit_code().await, Some(0));
    let log = cluster.routers[0].log_text();
    assert!(log.contains("drained") && !log.contains("draining took too long"), "it ended because it was ready");
    find_their_sessions(&cluster, streams).await;
    for client in &busy {
        client.reconnect(Some(1));
        let told: Value = client.response_to(&json!("endless")).await;
        assert_eq!(told["error"]["code"], -32001, "{told}");
        assert_eq!(client.connections()[0].end, Some(StreamEnd::Abrupt));
        Oracle::exactly_once(client);
        Oracle::every_request_answered_once(client);
    }
}

/// DRN-3: an instance whose streams may go so slowly that its time is over before they are gone ends all the same; the
/// others adopt what it could not hand over.
#[tokio::test]
async fn an_instance_that_cannot_let_its_streams_go_in_time_ends_all_the_same() {
    let builder = quick().routers(2).env("SHUTDOWN_TIMEOUT", "2s").env("DRAIN_DEADLINE", "500ms");
    let mut cluster = builder.env("DRAIN_STREAMS_PER_SECOND", 1).start().await;
    let streams = open_streams(&cluster, 200).await;
    cluster.routers[0].process().signal("TERM");
    assert_eq!(cluster.routers[0].process().exit_code().await, Some(0));
    assert!(cluster.routers[0].log_text().contains("draining took too long"), "streams were left");
    find_their_sessions(&cluster, streams).await;
}

over_both_transports! {
    a_rolling_restart_under_load_shows_no_client_an_error
    a_rolling_restart_moves_clients_that_stick_to_an_instance
}
