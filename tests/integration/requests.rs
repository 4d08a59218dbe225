//! Requests: journaled before they are accepted, forwarded once and in order, answered once.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{
    Cluster, FakeUpstream, McpClient, Mode, Oracle, PostTo, Transport, eventually,
    fake_upstream::Reply,
    http,
    mcp_client::{request, tool_call},
    over_both_transports,
};

fn increment(id: impl Into<Value>, key: &str) -> Value {
    tool_call(id, "increment", json!({ "key": key }))
}

/// A router with short patience for Redis, reached through a link with faults.
async fn cluster_with_faulty_redis() -> Cluster {
    let cluster = Cluster::builder().redis_proxy().env("REDIS_TIMEOUT", "150ms").env("REDIS_WAIT", "300ms");
    cluster.start().await
}

async fn ready_again(cluster: &Cluster) {
    for addr in cluster.addrs() {
        eventually("readiness", || async move { http::get(addr, "/actuator/health/readiness").await.status == 200 })
            .await;
    }
}

/// REQ-1, DUR-2: whatever is wrong with Redis, a POST that could not be journaled is not accepted: 503 after a
/// bounded time, which says whether it surely was not (then with Retry-After) or nobody knows. The same POST again, when Redis is back, runs exactly once, even if the first was written.
#[tokio::test]
async fn a_post_that_could_not_be_journaled_is_refused_and_may_be_repeated() {
    let cluster = cluster_with_faulty_redis().await;
    let client = cluster.client().initialize().await;
    let redis = cluster.redis_proxy.as_ref().unwrap();
    let mut keys = Vec::new();
    for mode in [Mode::Cut, Mode::BlackHole, Mode::LoseAnswers] {
        let key = format!("{mode:?}");
        let message = increment(key.as_str(), &key);
        redis.set(mode);
        let refused = client.try_post_at(cluster.addr(0), &message, Some(&key)).await.unwrap();
        assert_eq!(refused.status, 503, "{key}: {}", refused.text());
        let told = refused.json();
        let is_sure = told["error"]["data"]["outcome"] == "not_executed";
        // Over a link that is cut it may have been handed to nobody, or to the connection that broke; and a thread whose link
        // has not come back from that hands it to nobody, either.
        assert!(!is_sure || mode != Mode::LoseAnswers, "{told}");
        assert_eq!(refused.error_code(), Some(if is_sure { -32603 } else { -32001 }), "{key}");
        assert_eq!(
            (refused.header("retry-after").is_some(), &told["error"]["data"]["retry"]),
            (is_sure, &json!(is_sure))
        );
        assert_eq!(told["id"], json!(key));
        redis.set(Mode::Pass);
        ready_again(&cluster).await;
        client.post_with(cluster.addr(0), &message, Some(&key)).await;
        client.response_to(&json!(key)).await;
        keys.push(key);
    }
    assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
    Oracle::counted_once(&cluster.counts(), keys.iter().map(String::as_str));
    Oracle::every_request_answered_once(&client);
    Oracle::exactly_once(&client);
    cluster.assert_no_violations().await;
}

/// REQ-1, negative control: a router that accepts without the journal loses what it has accepted.
#[cfg(feature = "fault-points")]
#[tokio::test]
async fn without_the_journal_an_accepted_request_is_lost() {
    let journal = mcp_router::fault::JOURNAL_FIRST;
    let unprotected = Cluster::builder().env("MCP_FAULT_UNPROTECTED", journal).redis_proxy();
    let cluster = unprotected.env("REDIS_TIMEOUT", "150ms").env("REDIS_WAIT", "300ms").start().await;
    let client = cluster.client().initialize().await;
    let redis = cluster.redis_proxy.as_ref().unwrap();
    redis.set(Mode::Cut);
    client.post(&increment("lost", "lost")).await;
    redis.set(Mode::Pass);
    ready_again(&cluster).await;
    assert_eq!(client.text("echo", json!({ "text": "behind it" })).await, "behind it");
    assert!(client.accepted_requests().contains("\"lost\""));
    assert!(client.response_to_now(&json!("lost")).is_none());
    assert!(cluster.redis_client().await.pending(&client.session()).await.is_empty(), "nobody will answer it");
    Oracle::counted_once(&cluster.counts(), []);
}

/// REQ-1, DUR-2: while Redis is away a POST waits and is not accepted; when it is back in time, the POST is accepted.
async fn a_post_waits_for_redis_and_is_accepted_when_it_is_back(transport: Transport) {
    let cluster = Cluster::builder().redis_proxy().env("REDIS_TIMEOUT", "150ms").env("REDIS_WAIT", "20s").start().await;
    let client = cluster.client().over(transport).initialize().await;
    let redis = cluster.redis_proxy.as_ref().unwrap();
    for mode in [Mode::Cut, Mode::BlackHole, Mode::LoseAnswers] {
        redis.set(mode);
        let key = format!("{mode:?}");
        let message = increment(key.as_str(), &key);
        let mut waiting = std::pin::pin!(client.try_post_at(cluster.addr(0), &message, None));
        // Several rounds of the router's own time-outs pass.
        for _ in 0..3 {
            let probe = http::get(cluster.addr(0), "/actuator/health/readiness");
            tokio::select! {
                answer = &mut waiting => panic!("{key}: answered without the journal: {answer:?}"),
                probe = probe => assert_eq!(probe.status, 503, "{key}"),
            }
        }
        redis.set(Mode::Pass);
        assert_eq!(waiting.await.unwrap().status, 202, "{key}");
        client.response_to(&json!(key)).await;
    }
    Oracle::counted_once(&cluster.counts(), ["Cut", "BlackHole", "LoseAnswers"]);
    Oracle::every_request_answered_once(&client);
}

/// REQ-1: when the 202 has come the request is in the store, whichever instance took it.
async fn an_accepted_request_is_in_the_store(transport: Transport) {
    let upstream = FakeUpstream::answering(|_| Reply::Silence).await;
    let cluster =
        Cluster::builder().routers(3).upstream_urls([upstream.url()]).env("MCP_JSON_WAIT", "0s").start().await;
    let client = cluster.client().over(transport).initialize().await;
    let redis = cluster.redis_client().await;
    for number in 0..30 {
        let id = format!("r{number}");
        client.post(&tool_call(id.as_str(), "x", json!({}))).await;
        let pending = redis.pending(&client.session()).await;
        assert!(pending.iter().any(|(key, ..)| *key == format!("\"{id}\"")), "{id} in {pending:?}");
    }
    upstream.wait_for("tools/call", 30).await;
}

/// REQ-1: a request that was accepted and not yet forwarded survives the death of its session's owner: another instance
/// adopts the session and answers.
async fn a_request_accepted_for_a_dead_owner_is_answered_by_its_adopter(transport: Transport) {
    let mut cluster = Cluster::builder().routers(2).start().await;
    let client = cluster.client().over(transport).post_to(PostTo::Only(1)).initialize().await;
    cluster.routers[0].freeze();
    client.post(&increment("waiting", "waiting")).await;
    cluster.routers[0].kill();
    client.reconnect(Some(1));
    let answer = client.response_to(&json!("waiting")).await;
    assert!(answer["result"].is_object(), "{answer}");
    Oracle::counted_once(&cluster.counts(), ["waiting"]);
    Oracle::every_request_answered_once(&client);
    Oracle::exactly_once(&client);
}

/// REQ-2: an upstream that answers one request twice, or answers what nobody asked, gives the client one answer.
async fn an_upstream_that_repeats_itself_gives_one_answer(transport: Transport) {
    let upstream = FakeUpstream::start().await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().over(transport).initialize().await;
    client.call("x", json!({})).await;
    let session = upstream.open_sessions()[0];
    let again = json!({ "jsonrpc": "2.0", "id": upstream.received_of("tools/call")[0]["id"], "result": {} });
    upstream.send(session, &again).await;
    upstream.send(session, &json!({ "jsonrpc": "2.0", "id": "unasked", "result": {} })).await;
    upstream.send_raw(session, "no JSON at all".to_owned()).await;
    client.call("x", json!({})).await;
    Oracle::every_request_answered_once(&client);
    Oracle::exactly_once(&client);
    assert_eq!(cluster.metric("mcp_router_dropped_total", Some("upstream_unknown_answer")).await, 2.0);
    assert_eq!(cluster.metric("mcp_router_dropped_total", Some("upstream_nonsense")).await, 1.0);
}

/// REQ-4: a client that drops in mid-call cancels nothing; the result is there when it comes back, on any instance.
async fn a_dropped_connection_cancels_nothing(transport: Transport) {
    let upstream = FakeUpstream::answering(|_| Reply::Silence).await;
    let cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().over(transport).stays_away().initialize().await;
    let id = client.start_call("long", json!({})).await;
    let call = &upstream.wait_for("tools/call", 1).await[0];
    client.disconnect().await;
    let answer = json!({ "jsonrpc": "2.0", "id": call["id"], "result": { "late": true } });
    upstream.send(upstream.open_sessions()[0], &answer).await;
    let redis = cluster.redis_client().await;
    eventually("the answer in the log", || async { redis.pending(&client.session()).await.is_empty() }).await;
    client.reconnect(Some(1));
    assert_eq!(client.response(id).await["result"], json!({ "late": true }));
    assert!(upstream.received_of("notifications/cancelled").is_empty());
    Oracle::exactly_once(&client);
}

/// REQ-4: an explicit cancel reaches the upstream exactly once, from whichever instance it was posted to and however
/// often it was tried; the request may stay unanswered and is then forgotten.
async fn an_explicit_cancel_is_forwarded_once(transport: Transport) {
    let upstream = FakeUpstream::answering(|_| Reply::Silence).await;
    let cluster = Cluster::builder().routers(3).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().over(transport).initialize().await;
    let mut cancels = Vec::new();
    for (number, addr) in cluster.addrs().into_iter().enumerate() {
        let id = client.start_call("long", json!({})).await;
        // A call that is cancelled before it was sent never goes up, and neither does its cancel.
        upstream.wait_for("tools/call", number + 1).await;
        let params = json!({ "requestId": id, "reason": "the user has changed their mind" });
        let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
        let request_id = format!("cancel-{number}");
        client.post_with(addr, &cancel, Some(&request_id)).await;
        for other in cluster.addrs() {
            client.post_with(other, &cancel, Some(&request_id)).await;
        }
        cancels.push(cancel);
    }
    // Behind all of them: when it has arrived, so has every cancel that will.
    client.start_call("last", json!({})).await;
    upstream.wait_for("tools/call", 4).await;
    assert_eq!(upstream.received_of("notifications/cancelled"), cancels);
    let redis = cluster.redis_client().await;
    eventually("cancelled requests forgotten", || async { redis.pending(&client.session()).await.len() == 1 }).await;
}

/// REQ-4: a cancel that was accepted while the owner hung holds for its adopter: the call is not run again.
async fn a_cancelled_call_is_not_run_again_by_an_adopter(transport: Transport) {
    let upstream = FakeUpstream::answering(|message| match message["params"]["name"].as_str() {
        Some("long") => Reply::Silence,
        _ => Reply::Result(
            json!({ "tools": [{ "name": "long", "inputSchema": {}, "annotations": { "readOnlyHint": true } }] }),
        ),
    })
    .await;
    let mut cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().over(transport).post_to(PostTo::Only(1)).initialize().await;
    client.result("tools/list", json!({})).await;
    let id = client.start_call("long", json!({})).await;
    upstream.wait_for("tools/call", 1).await;
    cluster.routers[0].freeze();
    client.notify("notifications/cancelled", json!({ "requestId": id })).await;
    cluster.routers[0].kill();
    client.reconnect(Some(1));
    assert_eq!(client.call("other", json!({})).await["tools"][0]["name"], "long");
    let calls = upstream.received_of("tools/call");
    assert_eq!(calls.iter().filter(|call| call["params"]["name"] == "long").count(), 1, "{calls:?}");
}

/// REQ-5: messages posted one after the other, each to another instance, reach the upstream in that order.
async fn messages_posted_in_turn_to_three_instances_keep_their_order(transport: Transport) {
    let upstream = FakeUpstream::start().await;
    let cluster =
        Cluster::builder().routers(3).upstream_urls([upstream.url()]).env("MCP_MAX_INFLIGHT", 1000).start().await;
    let client = cluster.client().over(transport).initialize().await;
    for number in 0..300 {
        match number % 3 {
            0 => client.notify("notifications/progress", json!({ "number": number })).await,
            _ => client.post(&tool_call(number, "x", json!({ "number": number }))).await,
        }
    }
    upstream.wait_for("tools/call", 200).await;
    let numbers: Vec<u64> = upstream
        .received()
        .iter()
        .filter_map(|received| {
            let message = received.json();
            message["params"]["number"].as_u64().or(message["params"]["arguments"]["number"].as_u64())
        })
        .collect();
    assert_eq!(numbers, (0..300).collect::<Vec<_>>());
}

/// REQ-5: requests posted at once through three instances reach the upstream in the order in which the store accepted
/// them.
async fn parallel_posts_through_three_instances_arrive_in_the_order_of_the_store(transport: Transport) {
    let upstream = FakeUpstream::answering(|_| Reply::Silence).await;
    let cluster = Cluster::builder()
        .routers(3)
        .upstream_urls([upstream.url()])
        .env("MCP_MAX_INFLIGHT", 1000)
        .env("MCP_MAX_INBOX", 1000)
        .env("MCP_JSON_WAIT", "0s")
        .start()
        .await;
    let client = cluster.client().over(transport).initialize().await;
    futures_util::future::join_all((0..400).map(|number| {
        let client = &client;
        async move { client.post(&tool_call(format!("n{number}"), "x", json!({}))).await }
    }))
    .await;
    let arrived: Vec<String> =
        upstream.wait_for("tools/call", 400).await.iter().map(|call| call["id"].to_string()).collect();

    let redis = cluster.redis_client().await;
    let pending = redis.pending(&client.session()).await;
    let mut accepted: Vec<(u64, String)> = pending.into_iter().map(|(id, seq, _)| (seq, id)).collect();
    accepted.sort();
    assert_eq!(arrived, accepted.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
}

/// REQ-6: one POST that is tried on several instances (the same `X-Request-ID`) runs once: before its answer, and after.
#[tokio::test]
async fn a_post_tried_on_several_instances_runs_once() {
    let mut cluster = Cluster::builder().routers(3).start().await;
    let client = cluster.client().initialize().await;
    let addrs = cluster.addrs();
    cluster.upstreams[0].freeze();
    for addr in &addrs {
        client.post_with(*addr, &increment("tried", "tried"), Some("try-1")).await;
    }
    cluster.upstreams[0].thaw();
    client.response_to(&json!("tried")).await;
    for addr in &addrs {
        client.post_with(*addr, &increment("tried", "tried"), Some("try-1")).await;
    }
    assert_eq!(client.text("echo", json!({ "text": "behind" })).await, "behind");
    Oracle::counted_once(&cluster.counts(), ["tried"]);
    Oracle::every_request_answered_once(&client);
    assert_eq!(cluster.metric("mcp_router_accepted_total", Some("duplicate")).await, 5.0);
}

/// REQ-6, negative control: without the common `X-Request-ID` the repetition after the answer is a new request, and runs.
/// So does a new request with the id of an answered one; a pending id sent again runs once.
#[tokio::test]
async fn a_reused_id_is_a_new_request_and_a_pending_one_is_not() {
    let mut cluster = Cluster::builder().routers(3).start().await;
    let client = cluster.client().initialize().await;
    let addrs = cluster.addrs();
    cluster.upstreams[0].freeze();
    for addr in &addrs {
        client.post_at(*addr, &increment(7, "pending")).await;
    }
    cluster.upstreams[0].thaw();
    client.response(7).await;
    assert_eq!(cluster.counts()["pending"], 1);

    let mut expected = 1;
    for (number, addr) in addrs.iter().enumerate() {
        let request_id = format!("again-{number}");
        client.post_with(*addr, &increment(7, "pending"), Some(&request_id)).await;
        expected += 1;
        eventually("one more run", || std::future::ready(cluster.counts()["pending"] == expected)).await;
        // That of `initialize`, and one for each run.
        client.message_count(1 + usize::try_from(expected).unwrap()).await;
    }
    // A constant header is no identity: another body is another POST.
    client.post_with(addrs[0], &increment(8, "a"), Some("constant")).await;
    client.post_with(addrs[1], &increment(9, "b"), Some("constant")).await;
    client.response(8).await;
    client.response(9).await;
    assert_eq!(cluster.counts(), BTreeMap::from([("a".into(), 1), ("b".into(), 1), ("pending".into(), 4)]));
}

/// REQ-6: `X-Request-ID` of somebody who is no trusted proxy is no identity.
#[tokio::test]
async fn the_identity_of_a_post_is_believed_from_trusted_proxies_only() {
    let cluster = Cluster::builder().env("MCP_TRUSTED_PROXIES", "none").start().await;
    let client = cluster.client().initialize().await;
    for _ in 0..2 {
        client.post_with(cluster.addr(0), &increment(7, "twice"), Some("mine")).await;
        eventually("an answer", || std::future::ready(client.response_now(7).is_some())).await;
        let redis = cluster.redis_client().await;
        eventually("no open request", || async { redis.pending(&client.session()).await.is_empty() }).await;
    }
    eventually("both runs", || std::future::ready(cluster.counts().get("twice") == Some(&2))).await;
}

/// Posts with an `X-Request-ID` and nothing else that names the request, as proxies other than the shipped nginx do.
async fn post_correlated(client: &McpClient, addr: std::net::SocketAddr, message: &Value, name: &str) -> bool {
    let post = http::Request::post(client.endpoint(), message.to_string()).header("x-request-id", name);
    matches!(post.try_send(addr).await, Ok(response) if response.status == 202)
}

/// REQ-6: a name that a proxy gives to a whole conversation makes no two POSTs one: equal notifications all arrive, and a
/// call is answered again when it is sent again after its answer; on one instance and on several, with either store.
#[tokio::test]
async fn a_correlation_id_makes_no_two_posts_one() {
    for (builder, routers) in [(Cluster::builder().without_redis(), 1), (Cluster::builder(), 2)] {
        let upstream = FakeUpstream::start().await;
        let cluster = builder.routers(routers).upstream_urls([upstream.url()]).start().await;
        let client = cluster.client().initialize().await;
        let changed = json!({ "jsonrpc": "2.0", "method": "notifications/roots/list_changed" });
        let addrs = cluster.addrs();
        for (number, addr) in addrs.iter().cycle().take(12).enumerate() {
            // As a trace id or as anything else.
            let name = if number % 2 == 0 { "0af7651916cd43dd8448eb211c80319c" } else { "conversation-42" };
            assert!(post_correlated(&client, *addr, &changed, name).await);
        }
        upstream.wait_for("notifications/roots/list_changed", 12).await;
        // At the same time, too.
        let together =
            (0..8).map(|number| post_correlated(&client, addrs[number % routers], &changed, "conversation-42"));
        assert!(futures_util::future::join_all(together).await.into_iter().all(|accepted| accepted));
        upstream.wait_for("notifications/roots/list_changed", 20).await;
        for (number, addr) in addrs.iter().cycle().take(4).enumerate() {
            assert!(post_correlated(&client, *addr, &tool_call(7, "any", json!({})), "conversation-42").await);
            // That of `initialize`, and one for each call.
            client.message_count(2 + number).await;
        }
        assert_eq!(upstream.received_of("tools/call").len(), 4);
        assert_eq!(upstream.received_of("notifications/roots/list_changed").len(), 20);
    }
}

/// REQ-6: by such a name, too, a POST is known again when its first try was journaled and never answered, because its
/// instance died at that moment: also when the call itself has its answer by then.
#[tokio::test]
async fn a_correlation_id_makes_the_tries_of_an_unanswered_post_one() {
    let dir = tempfile::tempdir().unwrap();
    let arm = dir.path().join("armed");
    let mut cluster = Cluster::builder()
        .routers(2)
        .env("MCP_FAULT_POINT", mcp_router::fault::QUEUED)
        .env("MCP_FAULT_ARM", arm.display())
        .start()
        .await;
    let client = cluster.client_of(0).initialize().await;
    std::fs::write(&arm, "").unwrap();
    let message = increment("once", "once");
    assert!(!post_correlated(&client, cluster.addr(1), &message, "conversation-42").await, "it dies with the POST");
    client.response_to(&json!("once")).await;
    assert!(post_correlated(&client, cluster.addr(0), &message, "conversation-42").await);
    assert_eq!(client.text("echo", json!({ "text": "behind" })).await, "behind");
    Oracle::counted_once(&cluster.counts(), ["once"]);
    Oracle::exactly_once(&client);
    let answers = client.messages().iter().filter(|record| record.json()["id"] == "once").count();
    assert_eq!(answers, 1);
    cluster.routers[1].kill();
}

/// The ids of requests keep their JSON type and text on both ways; `1` and `"1"` are two requests.
async fn ids_keep_their_type(transport: Transport) {
    let cluster = Cluster::builder().routers(2).start().await;
    let client = cluster.client().over(transport).initialize().await;
    let ids = [json!(100), json!("100"), json!(-5), json!(""), json!("ü \" \\ \u{2028}"), json!(1.5)];
    for id in &ids {
        client.post(&request(id.clone(), "ping", json!({}))).await;
    }
    for id in &ids {
        assert_eq!(client.response_to(id).await["id"], *id);
    }
    Oracle::every_request_answered_once(&client);
}

over_both_transports! {
    a_post_waits_for_redis_and_is_accepted_when_it_is_back
    an_accepted_request_is_in_the_store
    a_request_accepted_for_a_dead_owner_is_answered_by_its_adopter
    an_upstream_that_repeats_itself_gives_one_answer
    a_dropped_connection_cancels_nothing
    an_explicit_cancel_is_forwarded_once
    a_cancelled_call_is_not_run_again_by_an_adopter
    messages_posted_in_turn_to_three_instances_keep_their_order
    parallel_posts_through_three_instances_arrive_in_the_order_of_the_store
    ids_keep_their_type
}
