//! Redis comes back with older data of its own: a replica that was behind is the primary now, the append-only file lacks its
//! last second, a snapshot was restored. What was accepted before and after has its answer, once, and clients are told. DUR-1

use serde_json::{Value, json};

use crate::harness::{
    Cluster, FakeUpstream, McpClient, Oracle, PostTo, Transport, cluster::Builder, eventually, http,
    mcp_client::tool_call, over_both_transports,
};

/// Settings under which owners live through it, and what is broken is noticed soon.
fn patient(builder: Builder) -> Builder {
    builder
        .env("MCP_LEASE", "20s")
        .env("MCP_POLL_INTERVAL", "200ms")
        .env("MCP_RETRY_MIN", "10ms")
        .env("MCP_RETRY_MAX", "30ms")
        .env("MCP_STREAMABLE_RETRY_MIN", "10ms")
        .env("MCP_STREAMABLE_RETRY_MAX", "30ms")
        .env("REDIS_TIMEOUT", "300ms")
        .env("REDIS_WAIT", "20s")
        .env("MCP_UPSTREAM_REQUEST_TIMEOUT", "60s")
}

fn told_of_epoch(message: &Value) -> bool {
    message["params"]["logger"] == "mcp-router" && message["params"]["data"]["reason"] == "epoch"
}

fn increment(key: &str) -> Value {
    tool_call(key, "increment", json!({ "key": key }))
}

async fn answered(client: &McpClient, key: &str) {
    let answer = client.response_to(&json!(key)).await;
    assert!(answer["result"].is_object(), "{key}: {answer}");
}

/// No message is accepted and then ignored because its number was given before; no number of an event is given twice under
/// one epoch.
async fn every_number_means_one_event(client: &McpClient) {
    let mut seen = std::collections::HashMap::new();
    for record in client.messages() {
        if let Some(id) = &record.id {
            let before = seen.insert(id.clone(), record.json());
            assert!(before.is_none_or(|before| before == record.json()), "two events have the id of one");
        }
    }
}

/// REQ-1, REQ-2, EVT-1, EVT-6: messages and events were lost, one call is in flight; whoever is the first to meet the older
/// data, what is sent from then on through the owner and the other instance is answered, each call once.
async fn calls_after_a_return_of_older_data_are_answered_each_once(transport: Transport) {
    // How many calls the older data lack, of which instance is asked first then.
    for (lost, first) in [(1, 0), (1, 1), (6, 0), (6, 1)] {
        let mut cluster = patient(Cluster::builder().routers(2)).start().await;
        let client = cluster.client().over(transport).post_to(PostTo::Only(0)).initialize().await;
        let addrs = cluster.addrs();
        let mut keys = vec!["before".to_owned()];
        client.post(&increment("before")).await;
        answered(&client, "before").await;
        client.post(&tool_call("open", "wait", json!({ "ms": 1500, "text": "open" }))).await;
        cluster.redis().keep_data();
        for number in 0..lost {
            let key = format!("lost {number}");
            client.post_at(addrs[number % 2], &increment(&key)).await;
            answered(&client, &key).await;
            keys.push(key);
        }
        cluster.redis().restart_with_older_data();
        for number in 0..8 {
            let key = format!("after {number}");
            client.post_at(addrs[(first + number) % 2], &increment(&key)).await;
            keys.push(key);
        }
        for number in 0..8 {
            answered(&client, &format!("after {number}")).await;
        }
        answered(&client, "open").await;
        client.message("a word about the loss", told_of_epoch).await;
        Oracle::counted_once(&cluster.counts(), keys.iter().map(String::as_str));
        Oracle::every_request_answered_once(&client);
        every_number_means_one_event(&client).await;
        assert_eq!(cluster.metric("mcp_router_adoptions_total", None).await, 0.0, "{lost} {first}");
        cluster.assert_no_violations().await;

        // And a later failover works.
        cluster.routers[0].kill();
        client.reconnect(Some(1));
        client.post_at(addrs[1], &tool_call("failover", "echo", json!({ "text": "on" }))).await;
        answered(&client, "failover").await;
    }
}

/// REQ-2, EVT-1: nobody sends anything: what the server answers and says meets the older data first.
async fn what_a_server_says_after_a_return_of_older_data_has_a_number_of_its_own(transport: Transport) {
    let upstream = FakeUpstream::start().await;
    let mut cluster = patient(Cluster::builder().routers(2).upstream_urls([upstream.url()])).start().await;
    let client = cluster.client().over(transport).post_to(PostTo::Only(0)).initialize().await;
    let note =
        |number: u64| json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "data": number } });
    let session = *upstream.open_sessions().last().unwrap();
    cluster.redis().keep_data();
    for number in 0..3 {
        upstream.send(session, &note(number)).await;
    }
    client.message("the last note", |message| message["params"]["data"] == 2).await;
    cluster.redis().restart_with_older_data();
    upstream.send(session, &note(3)).await;
    client.message("a note after it", |message| message["params"]["data"] == 3).await;
    client.message("a word about the loss", told_of_epoch).await;
    every_number_means_one_event(&client).await;
    cluster.assert_no_violations().await;
}

/// REQ-1: what another instance journals into the older data before the owner has looked is not lost, and what the owner had
/// claimed from that instance before runs no second time although the older data have it as unclaimed.
async fn what_is_journaled_before_the_owner_looks_is_kept_and_nothing_runs_twice(transport: Transport) {
    let mut cluster = patient(Cluster::builder().routers(2)).start().await;
    let client = cluster.client_of(0).over(transport).initialize().await;
    let other = cluster.addr(1);
    cluster.routers[0].freeze();
    client.post_at(other, &increment("unclaimed")).await;
    cluster.redis().keep_data();
    cluster.routers[0].thaw();
    answered(&client, "unclaimed").await;
    for number in 0..3 {
        client.post_at(other, &increment(&format!("lost {number}"))).await;
        answered(&client, &format!("lost {number}")).await;
    }
    cluster.routers[0].freeze();
    cluster.redis().restart_with_older_data();
    eventually("the other instance at work", || async {
        http::get(other, "/actuator/health/readiness").await.status == 200
    })
    .await;
    for number in 0..5 {
        client.post_at(other, &increment(&format!("kept {number}"))).await;
    }
    cluster.routers[0].thaw();
    for number in 0..5 {
        answered(&client, &format!("kept {number}")).await;
    }
    let keys: Vec<String> = (0..5).map(|n| format!("kept {n}")).chain((0..3).map(|n| format!("lost {n}"))).collect();
    Oracle::counted_once(&cluster.counts(), keys.iter().map(String::as_str).chain(["unclaimed"]));
    Oracle::every_request_answered_once(&client);
    cluster.assert_no_violations().await;
}

/// EVT-6: the owner died with what Redis has lost: nobody knows that the data are older, but the client's cursor, which is
/// ahead of the log. It is told, and waits for nothing.
#[tokio::test]
async fn a_client_whose_cursor_is_ahead_of_an_adopted_session_is_told_so() {
    let builder = patient(Cluster::builder().routers(2)).short_lease();
    let mut cluster = builder.start().await;
    let client = cluster.client().post_to(PostTo::Only(0)).initialize().await;
    let addr = cluster.addr(1);
    cluster.redis().keep_data();
    for number in 0..4 {
        client.text("echo", json!({ "text": number.to_string() })).await;
    }
    client.disconnect().await;
    cluster.routers[0].kill();
    cluster.redis().restart_with_older_data();
    client.reconnect(Some(1));
    let told = |message: &Value| message["params"]["data"]["reason"] == "cursor_unknown";
    client.message("a word about the loss", told).await;
    client.post_at(addr, &tool_call("after", "echo", json!({ "text": "after" }))).await;
    answered(&client, "after").await;
    let violations = cluster.routers[1].metric("mcp_router_invariant_violations_total", None).await;
    assert_eq!(violations, 0.0);
}

/// REQ-2, OWN-3: the older data are from before the owner's time, and name an owner that is dead: nobody takes the session from
/// the living one, and its calls are answered.
async fn an_owner_that_came_after_the_older_data_keeps_its_sessions(transport: Transport) {
    let mut cluster = patient(Cluster::builder().routers(3)).start().await;
    let client = cluster.client().over(transport).post_to(PostTo::Only(0)).initialize().await;
    let addrs = cluster.addrs();
    cluster.redis().keep_data();
    cluster.routers[0].kill();
    client.reconnect(Some(1));
    client.post_at(addrs[1], &increment("adopted")).await;
    answered(&client, "adopted").await;
    client.post_at(addrs[1], &tool_call("open", "wait", json!({ "ms": 1500, "text": "open" }))).await;
    cluster.redis().restart_with_older_data();
    for number in 0..6 {
        client.post_at(addrs[1 + number % 2], &increment(&format!("after {number}"))).await;
    }
    answered(&client, "open").await;
    for number in 0..6 {
        answered(&client, &format!("after {number}")).await;
    }
    let keys: Vec<String> = (0..6).map(|number| format!("after {number}")).collect();
    Oracle::counted_once(&cluster.counts(), keys.iter().map(String::as_str).chain(["adopted"]));
    Oracle::every_request_answered_once(&client);
}

over_both_transports! {
    calls_after_a_return_of_older_data_are_answered_each_once
    what_a_server_says_after_a_return_of_older_data_has_a_number_of_its_own
    what_is_journaled_before_the_owner_looks_is_kept_and_nothing_runs_twice
    an_owner_that_came_after_the_older_data_keeps_its_sessions
}
