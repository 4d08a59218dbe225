//! Ownership: one process speaks for a session, whoever the client talks to; when that process dies, another goes on from
//! what the store has.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Cluster, EventStream, FakeUpstream, McpClient, Mode, Oracle, PostTo, Transport, eventually,
    fake_upstream::Reply,
    http::{self, Request},
    mcp_client::{request, tool_call},
    over_both_transports, seed,
};

/// Settings under which a dead or hung instance is noticed soon.
fn quick(builder: crate::harness::cluster::Builder) -> crate::harness::cluster::Builder {
    builder
        .short_lease()
        .env("MCP_POLL_INTERVAL", "200ms")
        .env("MCP_RETRY_MIN", "10ms")
        .env("MCP_RETRY_MAX", "30ms")
        .env("MCP_STREAMABLE_RETRY_MIN", "10ms")
        .env("MCP_STREAMABLE_RETRY_MAX", "30ms")
}

fn note(number: u64) -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": number } })
}

/// What became of an owner that was stopped past its lease, and of what its upstream and its client told it meanwhile.
struct Revenant {
    cluster: Cluster,
    upstream: FakeUpstream,
    client: McpClient,
    old_link: usize,
    new_link: usize,
}

impl Revenant {
    /// Calls that the old owner has forwarded on its own link.
    fn forwarded(&self) -> Vec<Value> {
        let received = self.upstream.received();
        let on_old_link = received.iter().filter(|one| one.session == self.old_link).map(|one| one.json());
        on_old_link.filter(|message| message["method"] == "tools/call").collect()
    }

    /// The old owner's upstream has spoken into the session's log.
    async fn has_written(&self) -> bool {
        let log = self.cluster.redis_client().await.log(&self.client.session()).await;
        log.iter().any(|entry| entry.body.contains("666"))
    }
}

/// The owner (instance 0) is stopped past its lease, instance 1 adopts its session and, if `serves`, forwards a call; and
/// the owner goes on: it finds words of its upstream, and a POST that waits in its socket.
async fn revenant(transport: Transport, builder: crate::harness::cluster::Builder, serves: bool) -> Revenant {
    let upstream = FakeUpstream::start().await;
    let mut cluster = quick(builder.routers(2).upstream_urls([upstream.url()])).start().await;
    let client = cluster.client().over(transport).post_to(PostTo::Only(1)).stays_away().initialize().await;
    let old_link = upstream.open_sessions()[0];
    client.disconnect().await;
    client.reconnect(Some(1));
    client.connection_count(2).await;

    cluster.routers[0].freeze();
    if serves {
        client.post(&tool_call("during the pause", "x", json!({}))).await;
        assert!(client.response_to(&json!("during the pause")).await["result"].is_object());
    }
    eventually("a new owner with a link of its own", || async {
        let adoptions = cluster.routers[1].metric("mcp_router_adoptions_total", None).await;
        adoptions == 1.0 && upstream.received_of("initialize").len() == 2
    })
    .await;
    let new_link = *upstream.open_sessions().last().unwrap();
    assert_ne!(new_link, old_link);

    upstream.send(old_link, &note(666)).await;
    let (old_owner, new_owner) = (cluster.addr(0), cluster.addr(1));
    let late = tool_call("to the old owner", "x", json!({}));
    {
        let mut late = std::pin::pin!(client.try_post_at(old_owner, &late, None));
        tokio::select! {
            answer = &mut late => panic!("a stopped process answers: {answer:?}"),
            _ = http::get(new_owner, "/actuator/health") => {}
        }
        cluster.routers[0].thaw();
        assert_eq!(late.await.unwrap().status, 202, "it is journaled");
    }
    Revenant { cluster, upstream, client, old_link, new_link }
}

/// OWN-1, OWN-2, OWN-3: an owner that is stopped (SIGSTOP) past its lease and goes on after another instance has adopted
/// its session writes nothing and forwards nothing: neither what its upstream says now nor what it had accepted. It gives
/// the session up for good, and closes its upstream link.
async fn a_paused_owner_writes_and_forwards_nothing_after_an_adoption(transport: Transport) {
    let old = revenant(transport, Cluster::builder(), true).await;
    let Revenant { cluster, upstream, client, new_link, .. } = &old;
    assert!(client.response_to(&json!("to the old owner")).await["result"].is_object(), "the new owner has found it");
    eventually("the old owner's upstream link closed", || std::future::ready(upstream.open_sessions() == [*new_link]))
        .await;
    assert_eq!(cluster.routers[0].metric("mcp_router_fenced_total", None).await, 1.0);
    assert_eq!(cluster.routers[0].metric("mcp_router_sessions", None).await, 0.0);

    assert_eq!(old.forwarded(), [Value::Null; 0]);
    assert!(!old.has_written().await);
    Oracle::exactly_once(client);
    Oracle::every_request_answered_once(client);
    Oracle::agrees_with_log(client, &cluster.redis_client().await).await;
    cluster.assert_no_violations().await;
}

/// OWN-1, OWN-2, negative control: without the fence in the store the old owner writes into the session's log, and
/// forwards what its client posts to it.
#[cfg(feature = "fault-points")]
#[tokio::test]
async fn without_the_fence_a_paused_owner_writes_and_forwards_after_an_adoption() {
    let fence = mcp_router::fault::FENCE;
    // The new owner serves nothing: the old one would wait for the message that it has not seen.
    let old = revenant(Transport::Sse, Cluster::builder().env("MCP_FAULT_UNPROTECTED", fence), false).await;
    eventually("a call on the old link", || std::future::ready(!old.forwarded().is_empty())).await;
    eventually("words of the old link in the log", || old.has_written()).await;
    assert_eq!(old.cluster.metric("mcp_router_fenced_total", None).await, 0.0);
}

/// OWN-1, negative control: an owner that is stopped for less than its lease, with nobody adopting, goes on as if nothing
/// had been.
async fn a_short_pause_costs_nothing(transport: Transport) {
    let upstream = FakeUpstream::start().await;
    let mut cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().over(transport).initialize().await;
    let link = upstream.open_sessions()[0];
    cluster.routers[0].freeze();
    upstream.send(link, &note(1)).await;
    cluster.routers[0].thaw();
    client.message("the note", |message| message["params"]["data"] == 1).await;
    assert_eq!(upstream.open_sessions(), [link]);
    assert_eq!(cluster.metric("mcp_router_adoptions_total", None).await, 0.0);
    assert_eq!(cluster.metric("mcp_router_fenced_total", None).await, 0.0);
}

/// OWN-4: an instance that has found a session's owner gone, and is held up before it adopts the session, leaves it to
/// the one that has adopted it meanwhile: a call that is in flight there is not disturbed.
#[cfg(feature = "fault-points")]
async fn an_adopter_that_comes_late_leaves_the_session_to_its_new_owner(transport: Transport) {
    let upstream = FakeUpstream::answering(|_| Reply::Silence).await;
    let dir = tempfile::tempdir().unwrap();
    let arm = dir.path().join("armed");
    let builder = quick(Cluster::builder().routers(3).upstream_urls([upstream.url()]))
        .env("MCP_FAULT_POINT", mcp_router::fault::OWNER_GONE)
        .env("MCP_FAULT_ACTION", "stop")
        .env("MCP_FAULT_ARM", arm.display());
    let mut cluster = builder.start().await;
    // Instance 0 owns the session, instance 1 shows its stream and hears from instance 0 that it goes.
    let client = cluster.client().over(transport).stays_away().initialize().await;
    client.disconnect().await;
    client.reconnect(Some(1));
    client.connection_count(2).await;
    std::fs::write(&arm, "").unwrap();
    cluster.routers[0].process().signal("TERM");
    eventually("instance 1 has found the owner gone", || std::future::ready(!arm.exists())).await;

    client.post_at(cluster.addr(2), &tool_call("in flight", "x", json!({}))).await;
    upstream.wait_for("tools/call", 1).await;
    cluster.routers[1].thaw();
    eventually("instance 1 has seen that it is late", || {
        std::future::ready(cluster.routers[1].log_text().contains("another instance was faster"))
    })
    .await;
    let link = *upstream.open_sessions().last().unwrap();
    upstream
        .send(link, &json!({ "jsonrpc": "2.0", "id": upstream.received_of("tools/call")[0]["id"], "result": {} }))
        .await;
    let answer = client.response_to(&json!("in flight")).await;
    assert!(answer["result"].is_object(), "{answer}");
    assert_eq!(cluster.routers[1].metric("mcp_router_adoptions_total", None).await, 0.0);
    Oracle::every_request_answered_once(&client);
    assert_eq!(cluster.routers[0].process().exit_code().await, Some(0));
    cluster.routers[0].restart().await;
    cluster.assert_no_violations().await;
}

/// OWN-5: what a session has become is in the store when the client learns of it: right after each answer the owner is
/// killed, and the adopter brings its own upstream session to the same place, from the client's own words, and
/// swallows the answers.
async fn a_killed_owner_leaves_everything_that_its_adopter_needs(transport: Transport) {
    let upstream = FakeUpstream::start().await;
    let mut cluster = quick(Cluster::builder().routers(2).upstream_urls([upstream.url()])).start().await;
    let client = cluster.client().over(transport).initialize().await;
    let initialize = upstream.received_of("initialize")[0].clone();
    client.result("logging/setLevel", json!({ "level": "warning" })).await;
    client.result("resources/subscribe", json!({ "uri": "person://7" })).await;
    client.result("resources/subscribe", json!({ "uri": "person://8" })).await;
    client.result("resources/unsubscribe", json!({ "uri": "person://7" })).await;

    for round in 0..4 {
        let owner = round % 2;
        cluster.routers[owner].kill();
        client.reconnect(Some(1 - owner));
        let before = client.messages().len();
        let alive = cluster.addr(1 - owner);
        client.post_at(alive, &tool_call(format!("round {round}"), "x", json!({}))).await;
        client.response_to(&json!(format!("round {round}"))).await;
        let link = *upstream.open_sessions().last().unwrap();
        let mut replayed: Vec<Value> =
            upstream.received().iter().filter(|one| one.session == link).map(|one| one.json()).collect();
        // On a busy machine the second one may overtake the first (MCP_UPSTREAM_ORDER_WAIT).
        if replayed.len() == 5 {
            replayed[2..4].sort_by_key(|message| message["method"].to_string());
        }
        let methods: Vec<&str> = replayed.iter().map(|message| message["method"].as_str().unwrap()).collect();
        assert_eq!(
            methods,
            ["initialize", "notifications/initialized", "logging/setLevel", "resources/subscribe", "tools/call"],
            "round {round}: {:#?}",
            upstream.received().iter().map(|one| (one.session, one.json()["method"].clone())).collect::<Vec<_>>()
        );
        assert_eq!(replayed[0]["params"], initialize["params"], "the client's own words");
        assert_eq!(replayed[2]["params"]["level"], "warning");
        assert_eq!(replayed[3]["params"]["uri"], "person://8");
        assert_eq!(client.messages().len(), before + 1, "the answers to the replay are swallowed");
        cluster.routers[owner].restart().await;
    }
    Oracle::exactly_once(&client);
    Oracle::every_request_answered_once(&client);
}

/// OWN-5, REQ-1, REQ-2, REQ-3: instances are killed (kill -9) at random moments under load: no accepted request goes
/// without its one answer, no side effect happens twice, no event is lost or doubled.
async fn instances_killed_at_random_lose_nothing(transport: Transport) {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut cluster = quick(Cluster::builder().routers(3).upstreams(2)).start().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(cluster.client().over(transport).initialize().await);
    }
    let mut number = 0;
    let mut keys = Vec::new();
    for _round in 0..8 {
        let victim = random.usize(0..3);
        let moment = Duration::from_millis(random.u64(0..60));
        let addrs = cluster.addrs();
        let mut started = Vec::new();
        for client in &clients {
            for _ in 0..4 {
                number += 1;
                let key = format!("key-{number}");
                let message = match number % 3 {
                    0 => tool_call(key.as_str(), "wait", json!({ "ms": random.u64(0..50), "text": key })),
                    _ => tool_call(key.as_str(), "increment", json!({ "key": key })),
                };
                if number % 3 != 0 {
                    keys.push(key.clone());
                }
                started.push((client, key, message));
            }
        }
        let kill = async {
            tokio::time::sleep(moment).await;
            cluster.routers[victim].kill();
        };
        let posts = futures_util::future::join_all(started.iter().map(|(client, key, message)| {
            let mut order: Vec<_> = addrs.clone();
            random.shuffle(&mut order);
            async move {
                // As nginx does: the next instance, with the same X-Request-ID.
                for addr in order.iter().cycle().take(9) {
                    if let Ok(response) = client.try_post_at(*addr, message, Some(key)).await
                        && response.status == 202
                    {
                        return;
                    }
                }
                panic!("{key}: no instance takes it");
            }
        }));
        tokio::join!(kill, posts);
        for (client, key, _) in &started {
            let answer = client.response_to(&json!(key)).await;
            let code = answer["error"]["code"].as_i64();
            assert!(matches!(code, None | Some(-32001)), "{key}: {answer}");
        }
        cluster.routers[victim].restart().await;
    }
    let counts = cluster.counts();
    for key in &keys {
        let runs = counts.get(key).copied().unwrap_or(0);
        let answered = clients.iter().find_map(|client| {
            let answers = client.messages();
            answers.iter().map(|record| record.json()).find(|message| message["id"] == json!(key))
        });
        let succeeded = answered.is_some_and(|answer| answer.get("result").is_some());
        assert!(runs == 1 || (runs == 0 && !succeeded), "{key} ran {runs} times, success told: {succeeded}");
    }
    let redis = cluster.redis_client().await;
    for client in &clients {
        assert_eq!(client.text("echo", json!({ "text": "done" })).await, "done");
        Oracle::exactly_once(client);
        Oracle::every_request_answered_once(client);
        Oracle::agrees_with_log(client, &redis).await;
        assert_eq!(redis.pending(&client.session()).await, []);
    }
    cluster.assert_no_violations().await;
}

/// OWN-6: a client whose POSTs and GETs go to three live instances in turn causes no adoption and no second `initialize`
/// upstream, by whatever it is recognised.
async fn a_client_that_moves_between_live_instances_disturbs_nothing(transport: Transport) {
    for like_typescript in [false, true] {
        let upstream = FakeUpstream::start().await;
        let cluster = Cluster::builder()
            .routers(3)
            .upstream_urls([upstream.url()])
            .env("MCP_RETRY_MIN", "1ms")
            .env("MCP_RETRY_MAX", "5ms")
            .env("MCP_STREAMABLE_RETRY_MIN", "1ms")
            .env("MCP_STREAMABLE_RETRY_MAX", "5ms")
            .start()
            .await;
        let builder = cluster.client().over(transport);
        let builder = if like_typescript { builder.like_typescript() } else { builder };
        let client = builder.initialize().await;
        for round in 0..30 {
            client.call("x", json!({ "round": round })).await;
            client.cut();
            client.connection_count(round + 2).await;
        }
        assert_eq!(upstream.received_of("initialize").len(), 1);
        assert_eq!(upstream.open_sessions().len(), 1);
        assert_eq!(cluster.metric("mcp_router_adoptions_total", None).await, 0.0);
        let owner = http::get(cluster.addr(2), &format!("/mcp/router/sessions/{}", client.session())).await.json();
        assert_eq!((&owner["owner"], &owner["generation"]), (&json!("router-instance-1"), &json!(1)));
        Oracle::every_request_answered_once(&client);
        cluster.assert_no_violations().await;
    }
}

/// OWN-8: the end of an old connection, however late it is noticed, does not remove the new one: after each change the
/// new connection gets the next event.
async fn a_late_end_of_an_old_stream_does_not_harm_the_new_one(transport: Transport) {
    let mut random = fastrand::Rng::with_seed(seed());
    let upstream = FakeUpstream::start().await;
    let cluster =
        Cluster::builder().routers(2).upstream_urls([upstream.url()]).env("MCP_POLL_INTERVAL", "1h").start().await;
    let client = cluster.client().over(transport).stays_away().initialize().await;
    let link = upstream.open_sessions()[0];
    client.disconnect().await;
    let mut cursor = client.cursor_text().unwrap();
    let mut streams: Vec<EventStream> = Vec::new();
    for number in 0..60 {
        let close_first = random.bool();
        if close_first {
            streams.clear();
        }
        let addr = cluster.addr(random.usize(0..2));
        let mut stream = EventStream::open(addr, &client.resume_request(&cursor)).await;
        assert!(stream.event().await.is_opening());
        match random.u8(0..3) {
            0 => streams.clear(),
            1 => streams.drain(..).for_each(EventStream::reset),
            // They end after the event below.
            _ => {}
        }
        upstream.send(link, &note(number)).await;
        let event = stream.event().await;
        let message: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!(message["params"]["data"], number);
        cursor = event.id.unwrap();
        streams.push(stream);
    }
    drop(streams);
    eventually("no stream left", || async { cluster.metric("mcp_router_streams", None).await == 0.0 }).await;
    let redis = cluster.redis_client().await;
    eventually("no holder left", || async { redis.field(&client.session(), "a:g").await.is_none() }).await;
    cluster.assert_no_violations().await;
}

/// Two clients of instance 0, which has a Redis link of its own: one shows its stream there, the other at instance 1.
async fn with_a_link_of_its_own(transport: Transport) -> (Cluster, [McpClient; 2]) {
    let builder = quick(Cluster::builder().routers(3)).redis_proxy_of(0);
    let builder = builder.env("REDIS_TIMEOUT", "300ms").env("REDIS_WAIT", "300ms");
    // Over Streamable HTTP a POST is taken when its stream begins: before the call is over.
    let cluster = builder.env("MCP_JSON_WAIT", "0s").start().await;
    let client = || cluster.client().over(transport).initialize();
    let clients = [client().await, client().await];
    clients[1].cut();
    clients[1].reconnect(Some(1));
    clients[1].connection_count(2).await;
    (cluster, clients)
}

/// OWN-10, REQ-2, REQ-3: the owner's link to Redis becomes a black hole with calls in flight: the owner says that it is
/// down, the others adopt its sessions when its lease is over, and every call has its one answer, for the client that comes
/// back elsewhere as well as for the one that waits. What the old owner has got from its upstream meanwhile is refused
/// when the link works again.
async fn an_owner_whose_redis_link_is_dead_is_noticed_and_replaced(transport: Transport) {
    let (cluster, clients) = with_a_link_of_its_own(transport).await;
    let (old, link) = (&cluster.routers[0], cluster.redis_proxy.as_ref().unwrap());
    for client in &clients {
        let key = format!("increment {}", client.session());
        client.post_at(old.addr(), &tool_call("read", "wait", json!({ "ms": 300, "text": "read" }))).await;
        client.post_at(old.addr(), &tool_call("write", "increment", json!({ "key": key }))).await;
    }
    link.set(Mode::BlackHole);
    eventually("the owner says that it is down", || async { old.health().await["status"] == "DOWN" }).await;
    eventually("its sessions adopted", || async {
        let mut adopted = 0.0;
        for router in &cluster.routers[1..] {
            assert_eq!(router.health().await["status"], "UP");
            adopted += router.metric("mcp_router_adoptions_total", None).await;
        }
        adopted == 2.0
    })
    .await;
    // Its client sees nothing of it: the connection is open, and silent.
    // Over Streamable HTTP that of a call is where it was posted.
    for client in clients.iter().take(if transport == Transport::Streamable { 2 } else { 1 }) {
        client.cut();
        client.reconnect(Some(2));
    }
    for client in &clients {
        let read = client.response_to(&json!("read")).await;
        assert_eq!(read["result"]["content"][0]["text"], "read", "{read}");
        client.response_to(&json!("write")).await;
    }
    link.set(Mode::Pass);
    eventually("the old owner is up, and owns nothing", || async {
        old.health().await["status"] == "UP" && old.metric("mcp_router_sessions", None).await == 0.0
    })
    .await;
    let redis = cluster.redis_client().await;
    for client in &clients {
        let key = format!("increment {}", client.session());
        let write = client.response_to(&json!("write")).await;
        let runs = cluster.counts().get(&key).copied().unwrap_or(0);
        let is_unknown = write["error"]["code"] == -32001;
        assert!(runs == 1 || (runs == 0 && is_unknown), "{key} ran {runs} times: {write}");
        assert_eq!(client.text("echo", json!({ "text": "at every instance" })).await, "at every instance");
        Oracle::exactly_once(client);
        Oracle::every_request_answered_once(client);
        Oracle::agrees_with_log(client, &redis).await;
    }
    cluster.assert_no_violations().await;
}

/// OWN-10, negative control: a link that is slow, but within the limits, is no dead one: nobody is down, nothing is
/// adopted.
#[tokio::test]
async fn an_owner_whose_redis_link_is_slow_stays_the_owner() {
    let (cluster, clients) = with_a_link_of_its_own(Transport::Sse).await;
    cluster.redis_proxy.as_ref().unwrap().set(Mode::Delay(Duration::from_millis(40)));
    // Several times the lease passes.
    for number in 0..5 {
        for client in &clients {
            let text = format!("{number}");
            assert_eq!(client.text("wait", json!({ "ms": 20, "text": text })).await, text);
        }
        assert_eq!(cluster.routers[0].health().await["status"], "UP");
    }
    assert_eq!(cluster.metric("mcp_router_adoptions_total", None).await, 0.0);
    clients.iter().for_each(|client| assert_eq!(Oracle::exactly_once(client), 6));
}

/// OWN-4, OWN-9: an owner dies and two instances find it out at the same moment, by POSTs for the same sessions: each
/// session is adopted once, and is initialised once more upstream.
async fn of_two_instances_that_find_an_owner_dead_one_adopts(transport: Transport) {
    const SESSIONS: usize = 20;
    let upstream = FakeUpstream::start().await;
    let mut cluster = quick(Cluster::builder().routers(3).upstream_urls([upstream.url()])).start().await;
    let clients =
        futures_util::future::join_all((0..SESSIONS).map(|_| cluster.client().over(transport).initialize())).await;
    cluster.routers[0].kill();
    let calls = clients.iter().flat_map(|client| [1, 2].map(|index| (client, index, cluster.addr(index))));
    futures_util::future::join_all(calls.map(|(client, index, addr)| async move {
        let id = format!("at {index}");
        client.post_at(addr, &tool_call(id.as_str(), "x", json!({}))).await;
        client.response_to(&json!(id)).await;
    }))
    .await;
    for client in &clients {
        Oracle::exactly_once(client);
        Oracle::every_request_answered_once(client);
    }
    let mut adopted = 0.0;
    for router in &cluster.routers[1..] {
        adopted += router.metric("mcp_router_adoptions_total", None).await;
    }
    assert_eq!(adopted, SESSIONS as f64);
    assert_eq!(upstream.received_of("initialize").len(), 2 * SESSIONS);
    assert_eq!(upstream.received_of("tools/call").len(), 2 * SESSIONS);
}

/// OWN-9: the sessions of a killed instance are adopted by those that their clients come back to, although nobody posts
/// anything; the upstream has one link for each of them again.
async fn sessions_of_a_killed_instance_are_adopted_where_their_clients_come_back(transport: Transport) {
    let upstream = FakeUpstream::start().await;
    let mut cluster = quick(Cluster::builder().routers(3).upstream_urls([upstream.url()])).start().await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(cluster.client().over(transport).initialize().await);
    }
    cluster.routers[0].kill();
    eventually("all sessions adopted", || async {
        let mut adopted = 0.0;
        for router in &cluster.routers[1..] {
            adopted += router.metric("mcp_router_adoptions_total", None).await;
        }
        adopted == 6.0 && upstream.open_sessions().len() == 6
    })
    .await;
    for (number, link) in upstream.open_sessions().into_iter().enumerate() {
        upstream.send(link, &note(number as u64)).await;
    }
    for client in &clients {
        client.message("a note over the new link", |message| message["method"] == "notifications/message").await;
        Oracle::exactly_once(client);
    }
}

/// OWN-9, DRN-2: an instance that ends in order (SIGTERM) finishes the calls in flight and hands its sessions over: no
/// answer is lost, and none says "outcome unknown".
async fn an_instance_that_ends_in_order_finishes_its_calls(transport: Transport) {
    let upstream = FakeUpstream::answering(|_| Reply::Silence).await;
    let mut cluster = quick(Cluster::builder().routers(2).upstream_urls([upstream.url()])).start().await;
    let client = cluster.client().over(transport).post_to(PostTo::Only(1)).initialize().await;
    client.post(&tool_call("slow", "not repeatable", json!({}))).await;
    let call = upstream.wait_for("tools/call", 1).await[0].clone();
    cluster.routers[0].process().signal("TERM");
    let addr = cluster.addr(0);
    eventually("draining", || async move {
        let probe = Request::get("/actuator/health/readiness").try_send(addr).await;
        !probe.is_ok_and(|response| response.status == 200)
    })
    .await;
    let link = upstream.open_sessions()[0];
    upstream.send(link, &json!({ "jsonrpc": "2.0", "id": call["id"], "result": { "slow": true } })).await;
    assert_eq!(client.response_to(&json!("slow")).await["result"], json!({ "slow": true }));
    assert_eq!(cluster.routers[0].process().exit_code().await, Some(0));
    client.post(&request("after", "ping", json!({}))).await;
    client.response_to(&json!("after")).await;
    Oracle::exactly_once(&client);
    Oracle::every_request_answered_once(&client);
}

over_both_transports! {
    a_short_pause_costs_nothing
    #[cfg(feature = "fault-points")]
    an_adopter_that_comes_late_leaves_the_session_to_its_new_owner
    a_killed_owner_leaves_everything_that_its_adopter_needs
    instances_killed_at_random_lose_nothing
    a_client_that_moves_between_live_instances_disturbs_nothing
    of_two_instances_that_find_an_owner_dead_one_adopts
    sessions_of_a_killed_instance_are_adopted_where_their_clients_come_back
    an_instance_that_ends_in_order_finishes_its_calls
    a_paused_owner_writes_and_forwards_nothing_after_an_adoption
    a_late_end_of_an_old_stream_does_not_harm_the_new_one
    an_owner_whose_redis_link_is_dead_is_noticed_and_replaced
}
