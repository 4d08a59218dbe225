//! Redis dies, hangs or comes back empty; everything dies at random: what was promised holds.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Cluster, FakeUpstream, McpClient, Oracle, PostTo, Transport, eventually,
    http::{self, Request},
    mcp_client::tool_call,
    over_both_transports, seed,
};

/// Settings under which what dies or hangs is noticed soon.
fn quick(builder: crate::harness::cluster::Builder) -> crate::harness::cluster::Builder {
    builder
        .short_lease()
        .env("MCP_POLL_INTERVAL", "200ms")
        .env("MCP_RETRY_MIN", "10ms")
        .env("MCP_RETRY_MAX", "30ms")
        .env("MCP_STREAMABLE_RETRY_MIN", "10ms")
        .env("MCP_STREAMABLE_RETRY_MAX", "30ms")
        .env("REDIS_TIMEOUT", "300ms")
        .env("MCP_UPSTREAM_HEALTH_INTERVAL", "100ms")
        .env("MCP_UPSTREAM_BACKOFF_MIN", "20ms")
        .env("MCP_UPSTREAM_BACKOFF_MAX", "100ms")
}

async fn all_ready(cluster: &Cluster) {
    for addr in cluster.addrs() {
        eventually("readiness", || async move { http::get(addr, "/actuator/health/readiness").await.status == 200 })
            .await;
    }
}

/// Posts as nginx does: to the next instance when one fails, always with the same `X-Request-ID`.
async fn post_somewhere(client: &McpClient, addrs: &[std::net::SocketAddr], message: &Value, request_id: &str) {
    eventually("a 202 from some instance", || async {
        for addr in addrs {
            let answer = client.try_post_at(*addr, message, Some(request_id)).await;
            if answer.is_ok_and(|answer| answer.status == 202) {
                return true;
            }
        }
        false
    })
    .await;
}

/// OWN-2, OWN-9: Redis hangs for longer than the lease, so that all leases have run out when it is back: nobody is taken
/// for dead, nothing is adopted, and the work goes on.
async fn a_redis_that_hangs_past_the_lease_causes_no_adoption(transport: Transport) {
    let mut cluster = quick(Cluster::builder().routers(3)).start().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(cluster.client().over(transport).initialize().await);
    }
    let redis = cluster.redis_client().await;
    for _ in 0..2 {
        cluster.redis().freeze();
        // Redis's own clock shows that the leases are over: it expires them when it goes on.
        tokio::time::sleep(Duration::from_millis(900)).await;
        cluster.redis().thaw();
        all_ready(&cluster).await;
        let _: String = redis.run(&["PING"]).await;
        for client in &clients {
            assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
        }
    }
    assert_eq!(cluster.metric("mcp_router_adoptions_total", None).await, 0.0);
    for client in &clients {
        Oracle::exactly_once(client);
        Oracle::every_request_answered_once(client);
        Oracle::agrees_with_log(client, &redis).await;
    }
    cluster.assert_no_violations().await;
}

/// DUR-1, DUR-2: a Redis that is killed and comes back with its append-only file loses nothing: requests wait for it, and
/// every event is seen once.
async fn a_redis_that_restarts_with_its_data_costs_nothing(transport: Transport) {
    let builder = quick(Cluster::builder().routers(2)).redis_args(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut cluster = builder.env("REDIS_WAIT", "20s").start().await;
    let client = cluster.client().over(transport).initialize().await;
    for round in 0..3 {
        let id = client.start_call("wait", json!({ "ms": 30, "text": format!("{round}") })).await;
        let key = format!("key-{round}");
        client.post(&tool_call(key.as_str(), "increment", json!({ "key": key }))).await;
        cluster.redis().restart();
        assert_eq!(client.response(id).await["result"]["content"][0]["text"], format!("{round}"));
        client.response_to(&json!(key)).await;
        all_ready(&cluster).await;
    }
    Oracle::counted_once(&cluster.counts(), ["key-0", "key-1", "key-2"]);
    Oracle::exactly_once(&client);
    Oracle::every_request_answered_once(&client);
    Oracle::agrees_with_log(&client, &cluster.redis_client().await).await;
    cluster.assert_no_violations().await;
}

/// DUR-1, EVT-6: a Redis that comes back empty is filled again by the living owners: the sessions go on under their ids,
/// and a later failover works. What was lost is either not lost for the client, or said aloud.
async fn a_redis_that_comes_back_empty_is_filled_again(transport: Transport) {
    // A lease as it is by default: for so long clients are asked to wait for the owners to write their sessions again.
    let builder = quick(Cluster::builder().routers(2)).env("MCP_LEASE", "3s").env("REDIS_WAIT", "20s");
    let mut cluster = builder.start().await;
    let client = cluster.client().over(transport).initialize().await;
    let session = client.session();
    assert_eq!(client.text("echo", json!({ "text": "before" })).await, "before");
    cluster.redis().restart();
    all_ready(&cluster).await;
    eventually("the session in the store again", || async {
        http::get(cluster.addr(1), &format!("/mcp/router/sessions/{session}")).await.status == 200
    })
    .await;
    assert_eq!(client.text("echo", json!({ "text": "after" })).await, "after");
    assert_eq!(client.session(), session);
    client.cut();
    assert_eq!(client.text("echo", json!({ "text": "resumed" })).await, "resumed");

    cluster.routers[0].kill();
    let addr = cluster.addr(1);
    client.reconnect(Some(1));
    client.post_at(addr, &tool_call("failover", "echo", json!({ "text": "failover" }))).await;
    let answer = client.response_to(&json!("failover")).await;
    assert_eq!(answer["result"]["content"][0]["text"], "failover", "{answer}");
    assert_eq!(client.session(), session);
    Oracle::every_request_answered_once(&client);
}

/// DUR-1, REQ-2: Redis loses all data while calls are in flight at living owners: each call that the owner has accepted has
/// its one answer, its result or a word about its fate, and nothing runs twice. (What another instance had journaled, and
/// the owner had not claimed, was nowhere else.)
async fn calls_in_flight_survive_a_loss_of_all_data(transport: Transport) {
    let builder = quick(Cluster::builder().routers(2)).env("MCP_LEASE", "3s").env("REDIS_WAIT", "20s");
    let mut cluster = builder.start().await;
    let mut keys = Vec::new();
    for moment in [0, 10, 60] {
        let client = cluster.client().over(transport).post_to(PostTo::Only(0)).initialize().await;
        let key = format!("increment {moment}");
        client.post(&tool_call("read", "wait", json!({ "ms": 50, "text": "read" }))).await;
        client.post(&tool_call("write", "increment", json!({ "key": key }))).await;
        tokio::time::sleep(Duration::from_millis(moment)).await;
        cluster.redis().restart();
        for id in ["read", "write"] {
            let answer = client.response_to(&json!(id)).await;
            assert!(answer["result"].is_object() || answer["error"]["code"] == -32001, "{moment}: {answer}");
        }
        all_ready(&cluster).await;
        assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
        Oracle::every_request_answered_once(&client);
        keys.push(key);
    }
    let counts = cluster.counts();
    assert!(keys.iter().all(|key| counts.get(key).is_none_or(|runs| *runs == 1)), "{counts:?}");
}

/// Many clients lose their instance at once: all are back on others, each with its own session and answers (STM-1).
#[tokio::test]
async fn the_clients_of_a_dead_instance_are_all_back() {
    let upstream = FakeUpstream::start().await;
    let mut cluster = quick(Cluster::builder().routers(3).upstream_urls([upstream.url()])).start().await;
    let clients = futures_util::future::join_all((0..60).map(|_| cluster.client().initialize())).await;
    cluster.routers[0].kill();
    let alive = [cluster.addr(1), cluster.addr(2)];
    futures_util::future::join_all(clients.iter().enumerate().map(|(number, client)| async move {
        let id = format!("after {number}");
        client.post_at(alive[number % 2], &tool_call(id.as_str(), "x", json!({}))).await;
        client.response_to(&json!(id)).await;
    }))
    .await;
    for client in &clients {
        Oracle::exactly_once(client);
        Oracle::every_request_answered_once(client);
    }
    eventually("one link for each session", || std::future::ready(upstream.open_sessions().len() == 60)).await;
}

/// One fault of the storm.
#[derive(Debug, Clone, Copy)]
enum Fault {
    KillRouter(usize),
    FreezeRouter(usize),
    KillServer(usize),
    FreezeRedis,
    CutClients,
    EndRouter(usize),
}

/// REQ-1, REQ-2, REQ-3, EVT-3, OWN-1 … OWN-5: routers are killed, stopped and ended, servers killed, Redis stopped and
/// clients cut off at random under load: every accepted request is answered exactly once, no side effect happens
/// twice, no event is lost, doubled or changed.
#[tokio::test]
async fn a_storm_of_faults_loses_nothing() {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut cluster = quick(Cluster::builder().routers(3).upstreams(2)).start().await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(cluster.client().initialize().await);
    }
    let mut keys = Vec::new();
    for round in 0..12 {
        let fault = match random.u8(0..6) {
            0 => Fault::KillRouter(random.usize(0..3)),
            1 => Fault::FreezeRouter(random.usize(0..3)),
            2 => Fault::KillServer(random.usize(0..2)),
            3 => Fault::FreezeRedis,
            4 => Fault::CutClients,
            _ => Fault::EndRouter(random.usize(0..3)),
        };
        println!("round {round}: {fault:?}");
        let hit = match fault {
            Fault::KillRouter(index) | Fault::FreezeRouter(index) | Fault::EndRouter(index) => Some(index),
            _ => None,
        };
        let addrs: Vec<_> = (0..3).filter(|index| Some(*index) != hit).map(|index| cluster.addr(index)).collect();
        let mut load = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            for call in 0..3 {
                let key = format!("r{round}-c{number}-{call}");
                let message = match call {
                    0 => tool_call(key.as_str(), "wait", json!({ "ms": random.u64(0..100), "text": key })),
                    _ => tool_call(key.as_str(), "increment", json!({ "key": key })),
                };
                let mut order = addrs.clone();
                random.shuffle(&mut order);
                if call > 0 {
                    keys.push((number, key.clone()));
                }
                load.push((client, key, message, order));
            }
        }
        let moment = Duration::from_millis(random.u64(0..40));
        let length = Duration::from_millis(random.u64(0..1200));
        let strike = async {
            tokio::time::sleep(moment).await;
            match fault {
                Fault::KillRouter(index) => cluster.routers[index].kill(),
                Fault::FreezeRouter(index) => {
                    cluster.routers[index].freeze();
                    tokio::time::sleep(length).await;
                    cluster.routers[index].thaw();
                }
                Fault::KillServer(index) => cluster.upstreams[index].kill(),
                Fault::FreezeRedis => {
                    cluster.redis().freeze();
                    tokio::time::sleep(length).await;
                    cluster.redis().thaw();
                }
                Fault::CutClients => clients.iter().for_each(McpClient::cut),
                Fault::EndRouter(index) => cluster.routers[index].process().signal("TERM"),
            }
        };
        let posts = futures_util::future::join_all(load.iter().map(|(client, key, message, order)| async move {
            post_somewhere(client, order, message, key).await;
        }));
        tokio::join!(strike, posts);
        for (client, key, _, _) in &load {
            let answer = client.response_to(&json!(key)).await;
            let code = answer["error"]["code"].as_i64();
            assert!(matches!(code, None | Some(-32001)), "{key}: {answer}");
        }
        match fault {
            Fault::KillRouter(index) => cluster.routers[index].restart().await,
            Fault::EndRouter(index) => {
                assert_eq!(cluster.routers[index].process().exit_code().await, Some(0));
                cluster.routers[index].restart().await;
            }
            Fault::KillServer(index) => cluster.upstreams[index].restart().await,
            _ => {}
        }
        all_ready(&cluster).await;
    }
    let counts = cluster.counts();
    for (number, key) in &keys {
        let answer = clients[*number].response_to(&json!(key)).await;
        let runs = counts.get(key).copied().unwrap_or(0);
        let succeeded = answer.get("result").is_some();
        assert!(runs == 1 || (runs == 0 && !succeeded), "{key} ran {runs} times: {answer}");
    }
    let redis = cluster.redis_client().await;
    for client in &clients {
        post_somewhere(client, &cluster.addrs(), &tool_call("end", "echo", json!({ "text": "end" })), "end").await;
        assert_eq!(client.response_to(&json!("end")).await["result"]["content"][0]["text"], "end");
        Oracle::exactly_once(client);
        Oracle::every_request_answered_once(client);
        Oracle::agrees_with_log(client, &redis).await;
        assert!(redis.pending(&client.session()).await.is_empty());
        let gone = Request::delete(format!("/mcp/router/sessions/{}", client.session())).send(cluster.addr(0)).await;
        assert_eq!(gone.status, 204);
    }
    cluster.assert_no_violations().await;
}

over_both_transports! {
    a_redis_that_hangs_past_the_lease_causes_no_adoption
    a_redis_that_restarts_with_its_data_costs_nothing
    a_redis_that_comes_back_empty_is_filled_again
    calls_in_flight_survive_a_loss_of_all_data
}
