//! What was accepted reaches the server, whatever becomes of the replies of the store and of the owner: a message that the
//! owner never heard of, a cancel whose request could not be taken off the books, an answer that came to a draining owner.

use std::sync::Arc;

use mcp_router::{
    protocol::post_id::PostId,
    store::{
        Accept, Accepted, Binding, ClientMessage, Fence, Journal as _, Sessions as _,
        redis::{RedisConfig, RedisStore},
    },
};
use serde_json::{Value, json};

use crate::harness::{
    Cluster, FakeUpstream, McpClient, Mode, OddUpstream, Oracle, PostTo, Transport, cluster, eventually,
    fake_upstream::Reply,
    http,
    mcp_client::{request, tool_call},
    odd_upstream::{Gate, Step},
    over_both_transports,
};

const NOTE: &str = "notifications/roots/list_changed";

fn note(number: u64) -> Value {
    json!({ "jsonrpc": "2.0", "method": NOTE, "params": { "number": number } })
}

/// A router with short patience for Redis, which only this one reaches through a link with faults, and another one.
fn two_routers(upstream: &FakeUpstream) -> cluster::Builder {
    let cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).redis_proxy_of(0);
    // Nobody is taken for dead.
    cluster.env("REDIS_TIMEOUT", "150ms").env("REDIS_WAIT", "300ms").env("MCP_LEASE", "60s")
}

/// Numbers of what has come to the server, in order.
fn numbers(upstream: &FakeUpstream) -> Vec<u64> {
    let number = |message: &Value| {
        let params = &message["params"];
        params["number"].as_u64().or(params["arguments"]["number"].as_u64())
    };
    upstream.received().iter().filter_map(|received| number(&received.json())).collect()
}

/// The store executes a journaling of the session's owner of which the owner never hears: late, when it had given it up.
async fn journal_behind_the_owner(cluster: &mut Cluster, client: &McpClient, message: &Value) {
    let url = cluster.redis().url();
    let store = RedisStore::connect(RedisConfig::new(url)).await.unwrap();
    let session = client.session().parse().unwrap();
    let ownership = store.load(session).await.unwrap().unwrap().ownership.unwrap();
    let (epoch, generation) = (ownership.epoch, ownership.generation);
    let fence = Fence { session, epoch, generation, incarnation: ownership.owner.incarnation };
    let kind = match (message.get("id"), message.get("method")) {
        (Some(id), Some(_)) => ClientMessage::Request { id_key: id.to_string().into() },
        (None, Some(_)) => ClientMessage::Notification,
        _ => ClientMessage::Response,
    };
    let accept = Accept {
        session,
        by: Binding::default(),
        service: None,
        version: None,
        post_id: PostId::random(),
        message: kind,
        body: message.to_string().into(),
        fence: Some(fence),
        forward_now: true,
        acked: 0,
        known: 0,
        changes: Vec::new(),
        shown_by: None,
        max_pending: 100,
        max_inbox: 100,
        max_bytes: 1 << 20,
    };
    assert!(matches!(store.accept(accept).await.unwrap(), Accepted::Forward { .. }), "it counts as claimed");
}

/// REQ-1, REQ-5: a message that the store took behind the owner's back stalls nothing, and reaches the server itself, once
/// and in its place: whatever kind it is, whoever takes the next message, and when nothing comes after it but a look.
async fn a_message_that_the_owner_never_heard_of_stalls_nothing_and_is_not_lost(transport: Transport) {
    let upstream = FakeUpstream::start().await;
    let mut cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client_of(0).over(transport).initialize().await;
    let (owner, other) = (cluster.addr(0), cluster.addr(1));
    let mut number = 0;
    for addr in [owner, other] {
        for missed in [1, 3] {
            for _ in 0..missed {
                number += 1;
                let hidden = match number % 2 {
                    0 => note(number),
                    _ => tool_call(format!("hidden {number}"), "x", json!({ "number": number })),
                };
                journal_behind_the_owner(&mut cluster, &client, &hidden).await;
            }
            number += 1;
            client.post_at(addr, &tool_call(number, "x", json!({ "number": number }))).await;
            client.response(number).await;
        }
    }
    let session = client.session();
    number += 1;
    journal_behind_the_owner(&mut cluster, &client, &note(number)).await;
    // As a duplicate at another instance does, or a stream that joins there.
    let incarnation = cluster.redis_client().await.field(&session, "incarnation").await.unwrap();
    let _: u64 = cluster.redis_client().await.run(&["PUBLISH", &format!("mcp:wake:{incarnation}"), &session]).await;
    eventually("all at the server", || std::future::ready(numbers(&upstream).len() as u64 == number)).await;
    assert_eq!(numbers(&upstream), (1..=number).collect::<Vec<_>>());
    for hidden in (1..number).step_by(2) {
        assert!(client.response_to(&json!(format!("hidden {hidden}"))).await["result"].is_object());
    }
    let redis = cluster.redis_client().await;
    eventually("no open request", || async { redis.pending(&session).await.is_empty() }).await;
    cluster.assert_no_violations().await;
}

/// The server asks the client something, in its newest session; the id by which the client knows the question.
async fn ask(upstream: &FakeUpstream, client: &McpClient, name: &str) -> Value {
    let session = *upstream.open_sessions().last().unwrap();
    upstream.send(session, &request(name, "sampling/createMessage", json!({ "name": name }))).await;
    client.message(name, |message| message["params"]["name"] == name).await["id"].clone()
}

fn answer_of(id: &Value, text: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": { "text": text } })
}

/// What the server has received as answers to its questions.
fn answers(upstream: &FakeUpstream) -> Vec<String> {
    let text = |message: Value| message["result"]["text"].as_str().map(str::to_owned);
    upstream.received().iter().filter_map(|received| text(received.json())).collect()
}

/// REQ-1, REQ-6, DUR-2: the owner has refused a message with 503 because it got no word from the store, which had taken it;
/// the same POST at another instance is a duplicate of it and accepted. It reaches the server, of whatever kind it is, once.
#[tokio::test]
async fn what_the_owner_refused_and_the_store_took_is_accepted_elsewhere_and_forwarded_once() {
    let upstream = FakeUpstream::start().await;
    let cluster = two_routers(&upstream).start().await;
    let client = cluster.client_of(0).initialize().await;
    let question = ask(&upstream, &client, "first").await;
    let (owner, other) = (cluster.addr(0), cluster.addr(1));
    let link = cluster.redis_proxy.as_ref().unwrap();
    let messages = [note(1), answer_of(&question, "yes"), tool_call("call", "x", json!({ "number": 2 }))];
    for mode in [Mode::LoseAnswers, Mode::BlackHole] {
        for (place, message) in messages.iter().enumerate() {
            let name = format!("{mode:?} {place}");
            link.set(mode);
            let refused = client.try_post_at(owner, message, Some(&name)).await.unwrap();
            assert_eq!(refused.status, 503, "{name}: {}", refused.text());
            // Lost answers: a duplicate. Lost requests: the first.
            client.post_with(other, message, Some(&name)).await;
            link.set(Mode::Pass);
            eventually("readiness", || async { http::get(owner, "/actuator/health/readiness").await.status == 200 })
                .await;
            for addr in [owner, other] {
                client.post_with(addr, message, Some(&name)).await;
            }
        }
        client.response_to(&json!("call")).await;
        client.call("behind", json!({})).await;
    }
    assert_eq!(numbers(&upstream), [1, 2, 1, 2]);
    assert_eq!(answers(&upstream), ["yes"], "the question was asked once");
    cluster.assert_no_violations().await;
}

/// REQ-1, REQ-6: the same, when Redis hangs as a whole and goes on with everything that lay in its sockets, in any order.
#[tokio::test]
async fn what_was_accepted_while_redis_hung_reaches_the_server_once() {
    let upstream = FakeUpstream::start().await;
    let mut cluster = two_routers(&upstream).start().await;
    let client = cluster.client_of(0).initialize().await;
    let (owner, other) = (cluster.addr(0), cluster.addr(1));
    for round in 0..4_u64 {
        let question = ask(&upstream, &client, &format!("question {round}")).await;
        let call = format!("call {round}");
        let messages = [
            note(2 * round),
            answer_of(&question, &round.to_string()),
            tool_call(call.as_str(), "x", json!({ "number": 2 * round + 1 })),
        ];
        cluster.redis().freeze();
        for (place, message) in messages.iter().enumerate() {
            let name = format!("{round} {place}");
            assert_eq!(client.try_post_at(owner, message, Some(&name)).await.unwrap().status, 503);
        }
        cluster.redis().thaw();
        for (place, message) in messages.iter().enumerate() {
            let name = format!("{round} {place}");
            eventually("acceptance", || async {
                client.try_post_at(other, message, Some(&name)).await.unwrap().status == 202
            })
            .await;
        }
        client.response_to(&json!(call)).await;
        eventually("the answer at the server", || std::future::ready(answers(&upstream).len() as u64 == round + 1))
            .await;
        eventually("the notification", || std::future::ready(numbers(&upstream).len() as u64 == 2 * round + 2)).await;
    }
    let mut seen = numbers(&upstream);
    seen.sort_unstable();
    assert_eq!(seen, (0..8).collect::<Vec<_>>());
    assert_eq!(answers(&upstream), ["0", "1", "2", "3"]);
    Oracle::every_request_answered_once(&client);
    cluster.assert_no_violations().await;
}

/// A server whose tool `long` only reads and never answers.
async fn with_a_long_read() -> FakeUpstream {
    FakeUpstream::answering(|message| {
        let long = json!({ "name": "long", "inputSchema": {}, "annotations": { "readOnlyHint": true } });
        match (message["method"].as_str(), message["params"]["name"].as_str()) {
            (Some("tools/list"), _) => Reply::Result(json!({ "tools": [long] })),
            (_, Some("long" | "write")) => Reply::Silence,
            _ => Reply::Result(json!({ "content": [] })),
        }
    })
    .await
}

/// Ids of the calls of these two tools that the server was sent.
fn calls(upstream: &FakeUpstream) -> Vec<Value> {
    let of_interest = |call: &Value| ["long", "write"].contains(&call["params"]["name"].as_str().unwrap_or_default());
    upstream.received_of("tools/call").into_iter().filter(of_interest).map(|call| call["id"].clone()).collect()
}

/// REQ-4: calls that were cancelled are neither run again nor answered by an adopter, although the server had the cancel long
/// ago, nothing of it is in the inbox any more, and the owner died before it had taken the calls off the books. Whoever took
/// the cancel: the owner, or another instance.
async fn a_cancel_that_the_server_has_had_holds_for_every_later_owner(transport: Transport) {
    for taker in [0, 1] {
        let upstream = with_a_long_read().await;
        let mut cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
        let client = cluster.client().over(transport).post_to(PostTo::Only(0)).initialize().await;
        client.result("tools/list", json!({})).await;
        let ids = [client.start_call("long", json!({})).await, client.start_call("write", json!({})).await];
        upstream.wait_for("tools/call", 2).await;
        let session = client.session();
        let redis = cluster.redis_client().await;
        for id in ids {
            let cancel =
                json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } });
            client.post_at(cluster.addr(taker), &cancel).await;
        }
        upstream.wait_for("notifications/cancelled", 2).await;
        // Each call tells the store what the server has had.
        eventually("an empty inbox", || async {
            client.call("other", json!({})).await;
            redis.run::<u64>(&["HLEN", &crate::harness::RedisClient::inbox_key(&session)]).await == 0
        })
        .await;
        assert_eq!(redis.pending(&session).await.len(), 2, "they are on the books");

        cluster.routers[0].kill();
        client.reconnect(Some(1));
        client.post_at(cluster.addr(1), &tool_call("next", "other", json!({}))).await;
        client.response_to(&json!("next")).await;
        eventually("no open request", || async { redis.pending(&session).await.is_empty() }).await;
        assert_eq!(calls(&upstream), ids.map(Value::from), "once each");
        assert!(ids.iter().all(|id| client.response_now(*id).is_none()), "nobody wants an answer");
        let fields: Vec<String> = redis.run(&["HKEYS", &crate::harness::RedisClient::session_key(&session)]).await;
        assert!(!fields.iter().any(|field| field.starts_with("cx:")), "the marks are gone, too: {fields:?}");
    }
}

/// REQ-4: a cancelled call leaves the books although Redis was away when its time came.
async fn a_cancelled_call_leaves_the_books_when_redis_is_back(transport: Transport) {
    let upstream = with_a_long_read().await;
    let cluster = two_routers(&upstream).start().await;
    let client = cluster.client_of(0).over(transport).initialize().await;
    let id = client.start_call("long", json!({})).await;
    upstream.wait_for("tools/call", 1).await;
    client.notify("notifications/cancelled", json!({ "requestId": id })).await;
    upstream.wait_for("notifications/cancelled", 1).await;
    let errors = || cluster.routers[0].metric("mcp_router_store_errors_total", None);
    let before = errors().await;
    cluster.redis_proxy.as_ref().unwrap().set(Mode::Cut);
    // The lease's renewal fails, too; the call's time is over after five seconds.
    let since = std::time::Instant::now();
    eventually("failures for long enough", || async { since.elapsed().as_secs() >= 6 && errors().await > before })
        .await;
    let redis = cluster.redis_client().await;
    assert_eq!(redis.pending(&client.session()).await.len(), 1);
    cluster.redis_proxy.as_ref().unwrap().set(Mode::Pass);
    eventually("no open request", || async { redis.pending(&client.session()).await.is_empty() }).await;
    assert_eq!(redis.field(&client.session(), &format!("cx:{id}")).await, None);
}

/// REQ-4: a call that is cancelled before its server can be reached is not run when it can, and the cancel has nobody to
/// go to.
async fn a_call_that_is_cancelled_before_it_was_sent_never_runs(transport: Transport) {
    let upstream = with_a_long_read().await;
    let (link, cluster) = {
        let link = crate::harness::FaultProxy::start(upstream.addr()).await;
        let url = format!("http://{}/sse", link.addr());
        (link, Cluster::builder().routers(2).upstream_urls([url]).env("MCP_UPSTREAM_ORDER_WAIT", "1h").start().await)
    };
    let client = cluster.client_of(0).over(transport).initialize().await;
    // The first holds up the second.
    link.set(Mode::BlackHole);
    client.notify(NOTE, json!({ "number": 1 })).await;
    let id = client.start_call("write", json!({})).await;
    client.notify("notifications/cancelled", json!({ "requestId": id })).await;
    let redis = cluster.redis_client().await;
    eventually("no open request", || async { redis.pending(&client.session()).await.is_empty() }).await;
    link.set(Mode::Pass);
    client.call("other", json!({})).await;
    assert_eq!((calls(&upstream), upstream.received_of("notifications/cancelled")), (vec![], vec![]));
    assert_eq!(numbers(&upstream)[..1], [1]);
}

/// DRN-1, DRN-2: a draining owner takes what its calls wait for, wherever it comes in: the client's answer to the server, and
/// cancels. New requests wait for the next owner, and run there in their order. The drain's deadline plays no part.
async fn a_draining_owner_takes_answers_and_cancels_until_it_hands_over(transport: Transport) {
    for poster in [0, 1] {
        let upstream = Arc::new(with_a_long_read().await);
        let builder = Cluster::builder().routers(2).upstream_urls([upstream.url()]).env("MCP_POLL_INTERVAL", "200ms");
        let builder = builder.env("DRAIN_DEADLINE", "10m").env("SHUTDOWN_TIMEOUT", "15m");
        let mut cluster = builder.env("MCP_RETRY_MIN", "10ms").env("MCP_RETRY_MAX", "30ms").start().await;
        let client = cluster.client().over(transport).post_to(PostTo::Only(0)).initialize().await;
        let asking = client.start_call("write", json!({})).await;
        let given_up = client.start_call("long", json!({})).await;
        upstream.wait_for("tools/call", 2).await;
        let question = ask(&upstream, &client, "really?").await;
        let first = *upstream.open_sessions().last().unwrap();
        let (addr, other) = (cluster.addr(poster), cluster.addr(1));

        cluster.routers[0].process().signal("TERM");
        eventually("a draining instance", || async {
            http::get(cluster.addr(0), "/actuator/health/readiness").await.status == 503
        })
        .await;
        for number in 1..=3 {
            client.post_at(other, &tool_call(format!("new {number}"), "x", json!({ "number": number }))).await;
        }
        client.post_at(addr, &answer_of(&question, "yes")).await;
        client
            .post_at(
                addr,
                &json!({ "jsonrpc": "2.0", "method": "notifications/cancelled",
            "params": { "requestId": given_up } }),
            )
            .await;
        eventually("the answer at the server", || std::future::ready(answers(&upstream) == ["yes"])).await;
        upstream.wait_for("notifications/cancelled", 1).await;
        assert!(numbers(&upstream).is_empty(), "new requests wait");
        upstream.send(first, &answer_of(&json!(asking), "written")).await;

        assert_eq!(cluster.routers[0].process().exit_code().await, Some(0));
        client.reconnect(Some(1));
        assert_eq!(client.response(asking).await["result"]["text"], "written");
        for number in 1..=3 {
            client.response_to(&json!(format!("new {number}"))).await;
        }
        assert_eq!(numbers(&upstream), [1, 2, 3]);
        assert_eq!(calls(&upstream).len(), 2, "nothing ran twice");
        assert_eq!((answers(&upstream).len(), upstream.received_of("notifications/cancelled").len()), (1, 1));
        assert_eq!(client.response_now(given_up), None);
        let redis = cluster.redis_client().await;
        eventually("no open request", || async { redis.pending(&client.session()).await.is_empty() }).await;
        Oracle::exactly_once(&client);
    }
}

/// REQ-5: a notification that was on its way when its upstream session broke goes up again to the next one before what came
/// after it, and nothing waits for the late end of the first POST. An answer to the session that is gone goes nowhere.
async fn what_was_on_its_way_to_a_lost_session_goes_up_again_in_its_place(transport: Transport) {
    let upstream = FakeUpstream::start().await;
    // The POSTs that are lost end long after the test, and nothing overtakes them.
    let builder = Cluster::builder().upstream_urls([upstream.url()]).env("MCP_UPSTREAM_ORDER_WAIT", "1h");
    let cluster = builder.env("MCP_UPSTREAM_POST_TIMEOUT", "1h").start().await;
    let client = cluster.client().over(transport).initialize().await;
    let question = ask(&upstream, &client, "really?").await;
    let first = *upstream.open_sessions().last().unwrap();
    upstream.swallow(Some(NOTE));
    client.post(&note(1)).await;
    client.post(&answer_of(&question, "late")).await;
    client.post(&tool_call(2, "x", json!({ "number": 2 }))).await;
    client.post(&note(3)).await;
    let redis = cluster.redis_client().await;
    eventually("all of it journaled", || async { redis.pending(&client.session()).await.len() == 1 }).await;
    upstream.swallow(None);
    upstream.drop_session(first);
    client.response(2).await;
    upstream.wait_for(NOTE, 2).await;
    client.post(&tool_call(4, "x", json!({ "number": 4 }))).await;
    client.response(4).await;
    assert_eq!(numbers(&upstream), [1, 2, 3, 4]);
    assert!(answers(&upstream).is_empty(), "the session that asked is gone");
    assert!(
        upstream
            .received()
            .iter()
            .all(|received| received.session != first || received.json()["params"]["number"].is_null())
    );
}

/// REQ-5: a message waits for the one before it until that is known to have arrived: by its acknowledgement, or by its answer.
#[tokio::test]
async fn an_answer_ends_the_wait_of_the_next_message_as_an_acknowledgement_does() {
    let gate = Gate::new();
    let held = gate.clone();
    // What it is asked it answers at once, and acknowledges late.
    let upstream = OddUpstream::posts(move |post| {
        let is_call = post.json["method"] == "tools/call";
        is_call
            .then(|| vec![Step::result(&post.json, &json!({ "content": [] })), Step::Wait(held.clone()), Step::Accept])
    })
    .await;
    let builder = Cluster::builder().upstream_urls([upstream.url()]).env("MCP_UPSTREAM_ORDER_WAIT", "1h");
    let cluster = builder.start().await;
    let client = cluster.client().initialize().await;
    for number in 1..=3 {
        client.post(&tool_call(number, "x", json!({ "number": number }))).await;
    }
    for number in 1..=3 {
        client.response(number).await;
    }
    let arrived: Vec<Value> =
        upstream.posts_of(false, "tools/call").iter().map(|post| post.json["id"].clone()).collect();
    assert_eq!(arrived, [1, 2, 3]);
    gate.open();
}

over_both_transports! {
    a_message_that_the_owner_never_heard_of_stalls_nothing_and_is_not_lost
    a_cancel_that_the_server_has_had_holds_for_every_later_owner
    a_cancelled_call_leaves_the_books_when_redis_is_back
    a_call_that_is_cancelled_before_it_was_sent_never_runs
    a_draining_owner_takes_answers_and_cancels_until_it_hands_over
    what_was_on_its_way_to_a_lost_session_goes_up_again_in_its_place
}
