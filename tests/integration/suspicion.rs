//! Owners that do not hear, and owners that do not know: who lives is not replaced, whatever breaks between it and Redis;
//! who is dead is replaced at once; and who is the owner on record without knowing it finds out by itself.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Cluster, EventStream, FakeUpstream, McpClient, Mode, Oracle, PostTo, Transport, cluster, eventually, http::Request,
    mcp_client::tool_call, over_both_transports,
};
#[cfg(feature = "fault-points")]
use crate::harness::{fake_upstream::Reply, mcp_client::request};

/// A lease that nobody waits for.
const LONG_LEASE: &str = "60s";

/// Posts at instance 1 what instance 0 owns, and waits for the answer.
async fn call_elsewhere(cluster: &Cluster, client: &McpClient, id: &str) {
    client.post_at(cluster.addr(1), &tool_call(id, "echo", json!({ "text": id }))).await;
    let answer = client.response_to(&json!(id)).await;
    assert_eq!(answer["result"]["content"][0]["text"], id, "{answer}");
}

/// Ends every subscription at Redis; they come back by themselves. What is published in between nobody hears.
async fn cut_subscriptions(cluster: &Cluster) -> u64 {
    cluster.redis_client().await.run(&["CLIENT", "KILL", "TYPE", "pubsub"]).await
}

async fn adoptions(cluster: &Cluster) -> f64 {
    cluster.metric("mcp_router_adoptions_total", None).await
}

/// By all but instance 0, which may be dead.
async fn adoptions_by_others(cluster: &Cluster) -> f64 {
    let mut sum = 0.0;
    for router in &cluster.routers[1..] {
        sum += router.metric("mcp_router_adoptions_total", None).await;
    }
    sum
}

/// OWN-4: three instances live; their subscriptions are cut again and again while a client posts at another one than its
/// owner. The owner stays the owner, and every message is answered.
async fn a_living_owner_whose_subscription_is_cut_stays_the_owner(transport: Transport) {
    let cluster = Cluster::builder().routers(3).start().await;
    let client = cluster.client().over(transport).stays_away().initialize().await;
    for cut in 0..25 {
        assert!(cut_subscriptions(&cluster).await > 0, "there was something to cut");
        call_elsewhere(&cluster, &client, &format!("cut {cut}")).await;
    }
    assert_eq!(adoptions(&cluster).await, 0.0);
    assert_eq!(cluster.metric("mcp_router_fenced_total", None).await, 0.0);
    Oracle::exactly_once(&client);
    Oracle::every_request_answered_once(&client);
    cluster.assert_no_violations().await;
}

/// OWN-4, negative control: without the judge the first message that nobody hears of replaces the living owner.
#[cfg(feature = "fault-points")]
#[tokio::test]
async fn without_the_judge_a_living_owner_is_replaced() {
    let unprotected = Cluster::builder().routers(3).env("MCP_FAULT_UNPROTECTED", mcp_router::fault::JUDGE);
    let cluster = unprotected.start().await;
    let client = cluster.client().stays_away().initialize().await;
    for cut in 0..25 {
        cut_subscriptions(&cluster).await;
        call_elsewhere(&cluster, &client, &format!("cut {cut}")).await;
        if adoptions(&cluster).await > 0.0 {
            return;
        }
    }
    panic!("nobody was replaced: the test with the judge cannot fail");
}

/// OWN-4: a client that comes back to another instance in the moment in which its owner does not hear.
async fn a_stream_that_is_opened_while_the_owner_does_not_hear_replaces_nobody(transport: Transport) {
    let cluster = Cluster::builder().routers(3).start().await;
    let client = cluster.client().over(transport).stays_away().initialize().await;
    for round in 1..=20 {
        client.disconnect().await;
        cut_subscriptions(&cluster).await;
        client.reconnect(Some(1 + round % 2));
        client.connection_count(1 + round).await;
        call_elsewhere(&cluster, &client, &format!("round {round}")).await;
    }
    assert_eq!(adoptions(&cluster).await, 0.0);
    Oracle::every_request_answered_once(&client);
}

/// OWN-4, OWN-10: the owner's subscription is a black hole, and so is every new one, while its other connections work: it
/// finds by itself what it cannot hear of.
async fn an_owner_whose_subscription_is_a_black_hole_finds_what_it_misses(transport: Transport) {
    let builder = Cluster::builder().routers(3).redis_proxy_of(0).env("REDIS_TIMEOUT", "500ms");
    let cluster = builder.start().await;
    let client = cluster.client().over(transport).stays_away().initialize().await;
    cluster.redis_proxy.as_ref().unwrap().set(Mode::BlackHoleSubscriptions);
    for number in 0..2 {
        call_elsewhere(&cluster, &client, &format!("unheard {number}")).await;
    }
    cluster.redis_proxy.as_ref().unwrap().set(Mode::Pass);
    call_elsewhere(&cluster, &client, "heard").await;
    assert_eq!(adoptions(&cluster).await, 0.0);
    Oracle::every_request_answered_once(&client);
}

/// OWN-4: all the owner's connections to Redis are cut, for less than its lease: it stays the owner.
async fn an_owner_whose_links_are_all_cut_for_less_than_its_lease_stays_the_owner(transport: Transport) {
    // Long, so that a busy machine does not make it run out.
    let builder = Cluster::builder().routers(3).redis_proxy_of(0).env("MCP_LEASE", "15s");
    let cluster = builder.start().await;
    let client = cluster.client().over(transport).stays_away().initialize().await;
    let link = cluster.redis_proxy.as_ref().unwrap();
    for cut in 0..8 {
        link.set(Mode::Cut);
        let id = format!("cut {cut}");
        client.post_at(cluster.addr(1), &tool_call(id.as_str(), "echo", json!({ "text": id }))).await;
        link.set(Mode::Pass);
        assert!(client.response_to(&json!(id)).await["result"].is_object());
    }
    assert_eq!(adoptions(&cluster).await, 0.0);
    Oracle::exactly_once(&client);
    Oracle::every_request_answered_once(&client);
}

/// OWN-4, DUR-1: Redis is killed and comes back with its data, and clients post elsewhere before their owners have
/// subscribed again.
async fn a_redis_that_restarts_replaces_no_living_owner(transport: Transport) {
    let mut cluster = Cluster::builder().routers(3).redis_args(&["--appendonly", "yes", "--appendfsync", "always"]);
    cluster = cluster.env("REDIS_WAIT", "20s");
    let mut cluster = cluster.start().await;
    let client = cluster.client().over(transport).stays_away().initialize().await;
    for round in 0..3 {
        cluster.redis().kill();
        let (first, second) = (format!("{round} at 1"), format!("{round} at 2"));
        let calls = [(1, first.as_str()), (2, second.as_str())].map(|(index, id)| {
            let (addr, call) = (cluster.addr(index), tool_call(id, "echo", json!({ "text": id })));
            let client = &client;
            async move { client.post_at(addr, &call).await }
        });
        let (posted, ()) = tokio::join!(futures_util::future::join_all(calls), async {
            cluster.redis().restart();
        });
        assert_eq!(posted.len(), 2);
        for id in [&first, &second] {
            assert!(client.response_to(&json!(id)).await["result"].is_object());
        }
    }
    assert_eq!(adoptions(&cluster).await, 0.0);
    Oracle::every_request_answered_once(&client);
}

/// A client whose stream is at instance 1, which does not hear: its subscription is a black hole, while its other connections
/// to Redis work. Instance 0 owns the session, and gives connections to servers back soon. Also the client's cookie.
async fn client_at_a_deaf_instance(builder: cluster::Builder) -> (Cluster, McpClient, String) {
    let builder = builder.routers(2).redis_proxy_of(1).env("REDIS_TIMEOUT", "500ms");
    let cluster = builder.env("MCP_SESSION_REST", "200ms").env("MCP_REBIND_PATIENCE", "500ms").start().await;
    let client = cluster.client().post_to(PostTo::Only(0)).stays_away().initialize().await;
    client.disconnect().await;
    client.reconnect(Some(1));
    client.connection_count(2).await;
    let cookie = client.connections()[1].headers.iter().find(|(name, _)| name == "set-cookie").unwrap().1.clone();
    cluster.redis_proxy.as_ref().unwrap().set(Mode::BlackHoleSubscriptions);
    cut_subscriptions(&cluster).await;
    let redis = cluster.redis_client().await;
    eventually("only the other one hears", || async {
        redis.run::<Vec<String>>(&["PUBSUB", "CHANNELS", "*"]).await.len() == 1
    })
    .await;
    (cluster, client, cookie.split(';').next().unwrap().to_owned())
}

/// The endpoint that a newcomer at instance 0 gets who has this cookie.
async fn endpoint_by_cookie(cluster: &Cluster, cookie: &str) -> String {
    let get = Request::get("/sse/mcp-server-v6").header("cookie", cookie);
    EventStream::open(cluster.addr(0), &get).await.event().await.data
}

/// OWN-4, MEM-6: who shows a stream and does not hear is only suspected to be gone: the session keeps its connection to the
/// server, and its client's cookie leads nobody else to it.
#[tokio::test]
async fn a_client_at_an_instance_that_does_not_hear_keeps_its_server_and_its_session() {
    let upstream = FakeUpstream::start().await;
    let (cluster, client, cookie) = client_at_a_deaf_instance(Cluster::builder().upstream_urls([upstream.url()])).await;
    let kept = upstream.open_sessions();
    assert_eq!(kept.len(), 1);
    // Others come and go after it: the rounds that found them alone have looked at the first one, too.
    for _ in 0..2 {
        let other = cluster.client().stays_away().initialize().await;
        other.disconnect().await;
        eventually("the one that left rests", || async { upstream.open_sessions().len() == 1 }).await;
    }
    assert_eq!(upstream.open_sessions(), kept);
    let newcomer = endpoint_by_cookie(&cluster, &cookie).await;
    assert!(!newcomer.contains(&client.session()), "{newcomer}");
    client.call("any", json!({})).await;
    assert_eq!(adoptions(&cluster).await, 0.0);
    cluster.assert_no_violations().await;
}

/// OWN-4, negative control.
#[cfg(feature = "fault-points")]
#[tokio::test]
async fn without_the_judge_a_client_at_an_instance_that_does_not_hear_loses_both() {
    let upstream = FakeUpstream::start().await;
    let unprotected = Cluster::builder().env("MCP_FAULT_UNPROTECTED", mcp_router::fault::HOLDER);
    let (cluster, client, cookie) = client_at_a_deaf_instance(unprotected.upstream_urls([upstream.url()])).await;
    eventually("its connection is given back", || async { upstream.open_sessions().is_empty() }).await;
    let newcomer = endpoint_by_cookie(&cluster, &cookie).await;
    assert!(newcomer.contains(&client.session()), "{newcomer}");
}

fn with_a_long_lease() -> cluster::Builder {
    Cluster::builder().routers(3).env("MCP_LEASE", LONG_LEASE).env("MCP_RETRY_MIN", "10ms").env("MCP_RETRY_MAX", "30ms")
}

/// OWN-9: an owner that was killed is replaced at once, long before its lease is over, by whoever hears nothing from it;
/// and it starts again at once under its old id.
async fn a_killed_owner_is_replaced_without_waiting_for_its_lease(transport: Transport) {
    let mut cluster = with_a_long_lease().start().await;
    let client = cluster.client().over(transport).stays_away().initialize().await;
    cluster.routers[0].kill();
    client.reconnect(Some(2));
    call_elsewhere(&cluster, &client, "after the kill").await;
    assert_eq!(adoptions_by_others(&cluster).await, 1.0);
    cluster.routers[0].restart().await;
    call_elsewhere(&cluster, &client, "after the restart").await;
    assert_eq!(adoptions(&cluster).await, 1.0);
    Oracle::every_request_answered_once(&client);
}

/// OWN-9: an instance that has just started may not judge by leases; what another has proven it believes.
async fn an_instance_that_has_just_started_believes_what_another_has_proven(transport: Transport) {
    let mut cluster = with_a_long_lease().start().await;
    let found = cluster.client().over(transport).stays_away().initialize().await;
    let left = cluster.client().over(transport).stays_away().initialize().await;
    cluster.routers[0].kill();
    found.reconnect(Some(1));
    call_elsewhere(&cluster, &found, "found").await;
    cluster.routers[2].restart().await;
    left.reconnect(Some(2));
    left.connection_count(2).await;
    left.post_at(cluster.addr(2), &tool_call("left", "echo", json!({ "text": "left" }))).await;
    assert!(left.response_to(&json!("left")).await["result"].is_object());
    assert_eq!(adoptions_by_others(&cluster).await, 2.0);
}

/// OWN-9: where the table of processes does not tell (another machine or container), a refused connection does, if that is
/// asked for.
#[cfg(feature = "fault-points")]
async fn a_refused_connection_proves_an_owner_dead(transport: Transport) {
    let builder = with_a_long_lease().env("MCP_FAULT_UNPROTECTED", mcp_router::fault::PROCESS_TABLE);
    let mut cluster = builder.env("MCP_DEATH_PROBE", "2s").start().await;
    let client = cluster.client().over(transport).stays_away().initialize().await;
    cut_subscriptions(&cluster).await;
    call_elsewhere(&cluster, &client, "it lives").await;
    assert_eq!(adoptions(&cluster).await, 0.0);
    cluster.routers[0].kill();
    client.reconnect(Some(2));
    call_elsewhere(&cluster, &client, "after the kill").await;
    assert_eq!(adoptions_by_others(&cluster).await, 1.0);
}

/// OWN-4: with no proof at hand a killed owner counts as alive until its lease is over, and is replaced then.
#[cfg(feature = "fault-points")]
async fn without_a_proof_the_lease_decides(transport: Transport) {
    let builder = Cluster::builder().routers(2).env("MCP_LEASE", "2s").env("MCP_LEASE_RENEW", "300ms");
    let mut cluster = builder.env("MCP_FAULT_UNPROTECTED", mcp_router::fault::PROCESS_TABLE).start().await;
    let client = cluster.client().over(transport).stays_away().initialize().await;
    let redis = cluster.redis_client().await;
    cluster.routers[0].kill();
    client.reconnect(Some(1));
    client.connection_count(2).await;
    client.post_at(cluster.addr(1), &tool_call("waits", "echo", json!({ "text": "x" }))).await;
    eventually("the end of its lease", || async {
        // Asked in this order: what was adopted was adopted before the lease was looked for.
        let adopted = cluster.routers[1].metric("mcp_router_adoptions_total", None).await;
        let lives = redis.run::<u64>(&["EXISTS", "mcp:instance:router-instance-1"]).await == 1;
        assert!(!(lives && adopted > 0.0), "adopted within its lease");
        !lives
    })
    .await;
    assert!(client.response_to(&json!("waits")).await["result"].is_object());
    assert_eq!(cluster.routers[1].metric("mcp_router_adoptions_total", None).await, 1.0);
}

/// OWN-4, DRN-2: an instance that is told to go is not dead while it owns sessions: it can be connected to until it has let
/// them all go, and a call in flight there is not disturbed, although nobody hears of what is posted elsewhere.
#[cfg(feature = "fault-points")]
async fn a_draining_owner_is_not_taken_for_dead(transport: Transport) {
    let upstream = FakeUpstream::answering(|_| Reply::Silence).await;
    let builder = with_a_long_lease().upstream_urls([upstream.url()]).env("MCP_DEATH_PROBE", "2s");
    let mut cluster = builder.env("MCP_FAULT_UNPROTECTED", mcp_router::fault::PROCESS_TABLE).start().await;
    let client = cluster.client().over(transport).post_to(PostTo::Only(1)).stays_away().initialize().await;
    client.post(&tool_call("slow", "not repeatable", json!({}))).await;
    let call = upstream.wait_for("tools/call", 1).await[0].clone();
    let link = upstream.open_sessions()[0];
    cluster.routers[0].process().signal("TERM");
    eventually("draining", || std::future::ready(cluster.routers[0].log_text().contains("Draining"))).await;
    for number in 0..5 {
        cut_subscriptions(&cluster).await;
        client.post(&request(format!("meanwhile {number}"), "ping", json!({}))).await;
        tokio::net::TcpStream::connect(cluster.addr(0)).await.expect("it still listens");
    }
    let answer = json!({ "jsonrpc": "2.0", "id": call["id"], "result": { "slow": true } });
    upstream.send(link, &answer).await;
    assert_eq!(client.response_to(&json!("slow")).await["result"], json!({ "slow": true }));
    assert_eq!(cluster.routers[0].process().exit_code().await, Some(0));
    client.reconnect(Some(1));
    for number in 0..5 {
        assert!(client.response_to(&json!(format!("meanwhile {number}"))).await["result"].is_object());
    }
    Oracle::every_request_answered_once(&client);
}

/// REQ-2, OWN-9: the answer to an adoption is lost: the adopter is the owner on record, and finds that out without any
/// client's help.
#[cfg(feature = "fault-points")]
#[tokio::test]
async fn an_adoption_whose_answer_is_lost_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let arm = dir.path().join("armed");
    let builder = with_a_long_lease().redis_proxy_of(1).env("REDIS_TIMEOUT", "300ms");
    let mut cluster = builder
        .env("MCP_FAULT_POINT", mcp_router::fault::LEASE_SEEN)
        .env("MCP_FAULT_ACTION", "stop")
        .env("MCP_FAULT_ARM", arm.display())
        .start()
        .await;
    let client = cluster.client().stays_away().initialize().await;
    client.disconnect().await;
    cluster.routers[0].kill();
    std::fs::write(&arm, "").unwrap();
    client.post_at(cluster.addr(1), &tool_call("first", "echo", json!({ "text": "first" }))).await;
    eventually("instance 1 is about to adopt", || std::future::ready(!arm.exists())).await;
    let link = cluster.redis_proxy.as_ref().unwrap();
    link.set(Mode::LoseAnswers);
    cluster.routers[1].thaw();
    let (redis, session) = (cluster.redis_client().await, client.session());
    eventually("instance 1 is the owner on record", || async {
        redis.field(&session, "owner").await.as_deref() == Some("router-instance-2")
    })
    .await;
    link.set(Mode::Pass);
    client.reconnect(Some(2));
    client.connection_count(2).await;
    assert!(client.response_to(&json!("first")).await["result"].is_object());
    client.post_at(cluster.addr(2), &tool_call("second", "echo", json!({ "text": "second" }))).await;
    assert!(client.response_to(&json!("second")).await["result"].is_object());
    assert_eq!(cluster.routers[2].metric("mcp_router_adoptions_total", None).await, 0.0);
    Oracle::every_request_answered_once(&client);
}

/// REQ-2: the actor of a session breaks (a panic) when nobody knocks: its process is the owner on record without one, and
/// takes the session up again by itself.
#[cfg(feature = "fault-points")]
async fn a_session_whose_actor_breaks_is_taken_up_again_by_its_own_instance(transport: Transport) {
    let dir = tempfile::tempdir().unwrap();
    let arm = dir.path().join("armed");
    let cluster = Cluster::builder()
        .env("MCP_POLL_INTERVAL", "200ms")
        .env("MCP_FAULT_POINT", mcp_router::fault::BEFORE_APPEND)
        .env("MCP_FAULT_ACTION", "panic")
        .env("MCP_FAULT_ARM", arm.display())
        .start()
        .await;
    let client = cluster.client().over(transport).initialize().await;
    std::fs::write(&arm, "").unwrap();
    client.post(&tool_call("read", "wait", json!({ "ms": 10, "text": "read" }))).await;
    let answer = client.response_to(&json!("read")).await;
    assert!(!arm.exists(), "it broke");
    assert!(answer["result"].is_object(), "{answer}");
    assert_eq!(cluster.metric("mcp_router_adoptions_total", Some("again")).await, 1.0);
    Oracle::every_request_answered_once(&client);
}

/// What the store has of a session makes no sense any more (somebody has written over it): the session ends, says so, and
/// is not counted as one that another instance has taken. Its client begins anew.
#[tokio::test]
async fn a_session_whose_data_makes_no_sense_ends_and_says_why() {
    let cluster = Cluster::builder().env("MCP_RETRY_MIN", "10ms").env("MCP_RETRY_MAX", "30ms").start().await;
    let client = cluster.client().initialize().await;
    let (redis, session) = (cluster.redis_client().await, client.session());
    let log = crate::harness::RedisClient::log_key(&session);
    let _: Value = json!(redis.run::<u64>(&["DEL", &log]).await);
    let _: String = redis.run(&["SET", &log, "nonsense"]).await;
    client.post(&tool_call("lost", "echo", json!({ "text": "lost" }))).await;
    eventually("the session is ended", || async { cluster.metric("mcp_router_corrupt_total", None).await == 1.0 })
        .await;
    assert_eq!(cluster.metric("mcp_router_fenced_total", None).await, 0.0);
    assert!(cluster.routers[0].log_text().contains("makes no sense"));
    eventually("nothing of it is left", || async { redis.field(&session, "owner").await.is_none() }).await;
    client.message("the client is told", |message| message["params"]["data"]["reason"] == "session_gone").await;
    assert_ne!(client.session(), session, "and has a new session");
}

/// OWN-4: the wait for an owner that does not hear is bounded by its lease even where nothing proves its death, and where
/// the one who has taken the message in is not the one who adopts.
async fn a_message_that_nobody_hears_of_is_found_whoever_took_it(transport: Transport) {
    let mut cluster =
        Cluster::builder().routers(3).env("MCP_LEASE", "1500ms").env("MCP_LEASE_RENEW", "300ms").start().await;
    let client = cluster.client().over(transport).stays_away().initialize().await;
    client.disconnect().await;
    cluster.routers[0].freeze();
    client.reconnect(Some(2));
    client.connection_count(2).await;
    cut_subscriptions(&cluster).await;
    // The owner hangs and does not listen: neither dead nor able to hear.
    client.post_at(cluster.addr(1), &tool_call("unheard", "echo", json!({ "text": "x" }))).await;
    tokio::time::timeout(Duration::from_secs(20), client.response_to(&json!("unheard"))).await.unwrap();
    cluster.routers[0].thaw();
    Oracle::every_request_answered_once(&client);
}

over_both_transports! {
    a_living_owner_whose_subscription_is_cut_stays_the_owner
    a_stream_that_is_opened_while_the_owner_does_not_hear_replaces_nobody
    an_owner_whose_subscription_is_a_black_hole_finds_what_it_misses
    an_owner_whose_links_are_all_cut_for_less_than_its_lease_stays_the_owner
    a_redis_that_restarts_replaces_no_living_owner
    a_killed_owner_is_replaced_without_waiting_for_its_lease
    an_instance_that_has_just_started_believes_what_another_has_proven
    #[cfg(feature = "fault-points")]
    a_refused_connection_proves_an_owner_dead
    #[cfg(feature = "fault-points")]
    without_a_proof_the_lease_decides
    #[cfg(feature = "fault-points")]
    a_draining_owner_is_not_taken_for_dead
    #[cfg(feature = "fault-points")]
    a_session_whose_actor_breaks_is_taken_up_again_by_its_own_instance
    a_message_that_nobody_hears_of_is_found_whoever_took_it
}
