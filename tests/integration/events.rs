//! Events: in the log before they are on the wire; replayed and joined to live ones without gap or duplicate; what cannot
//! be replayed is said aloud.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Cluster, Event, EventStream, FakeUpstream, FaultProxy, Item, McpClient, Mode, Oracle, PostTo, RedisClient,
    StreamEnd, Transport, eventually,
    http::{self, Request},
    mcp_client::{Record, tool_call},
    oracle::Numbered,
    over_both_transports, seed,
};

const SSE: &str = "/sse/mcp-server-v6";

fn note(number: u64) -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": number } })
}

/// Numbers of the notes among what a client has seen, in order.
fn numbers(records: &[Record]) -> Vec<u64> {
    records.iter().filter_map(|record| record.json()["params"]["data"].as_u64()).collect()
}

/// What the router says when it cannot deliver: its reason.
fn complaint(message: &Value) -> Option<&str> {
    let is_ours = message["method"] == "notifications/message" && message["params"]["logger"] == "mcp-router";
    if is_ours { message["params"]["data"]["reason"].as_str() } else { None }
}

fn complaints(client: &McpClient) -> Vec<String> {
    client.messages().iter().filter_map(|record| complaint(&record.json()).map(str::to_owned)).collect()
}

fn resume(cursor: &str) -> Request {
    Request::get(SSE).header("last-event-id", cursor)
}

/// A message's event on a stream, not the endpoint.
async fn next_message(stream: &mut EventStream) -> Event {
    loop {
        let event = stream.event().await;
        if event.name == "message" && !event.is_opening() {
            return event;
        }
    }
}

/// A cluster whose upstream is the test's own, a client that stays away once it has left, and the number of its session
/// at the upstream.
async fn with_fake_upstream(
    transport: Transport,
    builder: impl FnOnce(crate::harness::cluster::Builder) -> crate::harness::cluster::Builder,
) -> (FakeUpstream, Cluster, McpClient, usize) {
    let upstream = FakeUpstream::start().await;
    let cluster = builder(Cluster::builder().upstream_urls([upstream.url()])).start().await;
    let client = cluster.client().over(transport).stays_away().initialize().await;
    let session = upstream.open_sessions()[0];
    (upstream, cluster, client, session)
}

/// Waits until the log has an event of this sequence.
async fn logged(redis: &RedisClient, client: &McpClient, seq: u64) {
    let session = client.session();
    eventually("an event in the log", || async {
        let last: Option<String> = redis.field(&session, "s:g:seq").await;
        last.is_some_and(|last| last.parse::<u64>().unwrap() >= seq)
    })
    .await;
}

/// EVT-2: an event goes out only when the log has it: with the store cut, hung, or answering into the void, the client sees
/// nothing; then it sees everything once.
async fn nothing_is_sent_that_the_log_does_not_have(transport: Transport) {
    let (upstream, cluster, client, session) =
        with_fake_upstream(transport, |cluster| cluster.redis_proxy().env("REDIS_TIMEOUT", "150ms")).await;
    let link = cluster.redis_proxy.as_ref().unwrap();
    let redis = cluster.redis_client().await;
    for (round, mode) in [Mode::Cut, Mode::BlackHole, Mode::LoseAnswers].into_iter().enumerate() {
        let number = round as u64;
        link.set(mode);
        upstream.send(session, &note(number)).await;
        // Several rounds of the router's own time-outs pass.
        for _ in 0..3 {
            assert_eq!(http::get(cluster.addr(0), "/actuator/health/readiness").await.status, 503, "{mode:?}");
            let (seen, logged) = (numbers(&client.messages()), redis.log(&client.session()).await.len());
            assert!(!seen.contains(&number), "{mode:?}: seen before the store has answered; the log has {logged}");
        }
        link.set(Mode::Pass);
        client.message("the note", |message| message["params"]["data"] == number).await;
    }
    assert_eq!(numbers(&client.messages()), [0, 1, 2]);
    Oracle::exactly_once(&client);
    Oracle::agrees_with_log(&client, &redis).await;
    cluster.assert_no_violations().await;
}

/// EVT-2, negative control: a router that does not wait for the log shows the client an event that the store lacks.
#[cfg(feature = "fault-points")]
#[tokio::test]
async fn without_the_log_first_a_client_sees_what_the_store_lacks() {
    let transport = Transport::Sse;
    let (upstream, cluster, client, session) = with_fake_upstream(transport, |cluster| {
        let unprotected = cluster.env("MCP_FAULT_UNPROTECTED", mcp_router::fault::APPEND_FIRST);
        unprotected.redis_proxy().env("REDIS_TIMEOUT", "150ms")
    })
    .await;
    cluster.redis_proxy.as_ref().unwrap().set(Mode::Cut);
    upstream.send(session, &note(0)).await;
    client.message("the note", |message| message["params"]["data"] == 0).await;
    let log = cluster.redis_client().await.log(&client.session()).await;
    assert!(log.iter().all(|entry| entry.seq < client.cursor().seq), "the cursor is one that nobody can serve");
}

/// EVT-3: events that are published while a client reconnects a hundred times, on one instance or on two in turn, all
/// arrive, once and in order.
async fn replay_joins_live(transport: Transport, routers: usize) {
    let mut random = fastrand::Rng::with_seed(seed());
    let upstream = FakeUpstream::start().await;
    let cluster = Cluster::builder()
        .routers(routers)
        .upstream_urls([upstream.url()])
        .env("MCP_RETRY_MIN", "1ms")
        .env("MCP_RETRY_MAX", "5ms")
        .env("MCP_STREAMABLE_RETRY_MIN", "1ms")
        .env("MCP_STREAMABLE_RETRY_MAX", "5ms")
        .env("MCP_RESUME_EVENTS", 100_000)
        .start()
        .await;
    let client = cluster.client().over(transport).initialize().await;
    let session = upstream.open_sessions()[0];
    let mut sent = 0;
    for round in 0..100 {
        client.cut();
        // The load: events every 1 to 10 ms, some in bursts, whether anybody listens or not.
        while client.connections().len() < round + 2 {
            for _ in 0..random.usize(1..4) {
                upstream.send(session, &note(sent)).await;
                sent += 1;
            }
            tokio::time::sleep(Duration::from_millis(random.u64(1..=10))).await;
        }
    }
    client.message("the last note", |message| message["params"]["data"] == sent - 1).await;
    assert_eq!(numbers(&client.messages()), (0..sent).collect::<Vec<_>>());
    Oracle::exactly_once(&client);
    Oracle::agrees_with_log(&client, &cluster.redis_client().await).await;
    assert_eq!(complaints(&client), [""; 0]);
    assert!(cluster.metric("mcp_router_resumed_total", Some("last_event_id")).await >= 100.0);
    assert_eq!(cluster.metric("mcp_router_adoptions_total", None).await, 0.0);
    cluster.assert_no_violations().await;
}

/// EVT-3, where the owner of the session serves the stream.
async fn replay_joins_live_at_the_owner(transport: Transport) {
    replay_joins_live(transport, 1).await;
}

/// EVT-3, where the stream moves between the owner and another instance.
async fn replay_joins_live_on_changing_instances(transport: Transport) {
    replay_joins_live(transport, 2).await;
}

/// EVT-4: what is replayed keeps its id, on any instance; when everything has been seen, a replay is empty.
async fn a_replayed_event_keeps_its_id_and_a_second_replay_is_empty(transport: Transport) {
    let (upstream, cluster, client, session) = with_fake_upstream(transport, |cluster| cluster.routers(2)).await;
    for number in 0..5 {
        upstream.send(session, &note(number)).await;
    }
    client.message_count(6).await;
    let originals = client.messages();
    client.disconnect().await;
    // Over Streamable HTTP the answer to `initialize` was none of the stream's.
    let prime = || client.records().into_iter().find_map(|record| record.id);
    let first_cursor = originals[0].id.clone().or_else(prime).unwrap();
    let last_cursor = originals[5].id.clone().unwrap();
    for addr in cluster.addrs() {
        let mut replay = EventStream::open(addr, &client.resume_request(&first_cursor)).await;
        let opening = replay.event().await;
        assert_eq!((opening.is_opening(), opening.id.as_ref()), (true, Some(&first_cursor)));
        for original in &originals[1..] {
            let event = next_message(&mut replay).await;
            assert_eq!((event.id.as_ref(), &event.data), (original.id.as_ref(), &original.data));
        }
        drop(replay);
    }
    for (round, addr) in cluster.addrs().into_iter().enumerate() {
        let mut replay = EventStream::open(addr, &client.resume_request(&last_cursor)).await;
        assert!(replay.event().await.is_opening());
        let number = 100 + round as u64;
        upstream.send(session, &note(number)).await;
        let fresh = loop {
            let event = next_message(&mut replay).await;
            // The second round replays the first round's note, which is new to this cursor.
            if serde_json::from_str::<Value>(&event.data).unwrap()["params"]["data"] == number {
                break event;
            }
            assert_eq!(round, 1, "nothing but the new event: {event:?}");
        };
        assert_eq!(Numbered::parse(&fresh.id.unwrap()).seq, 7 + round as u64);
    }
}

/// A stream on instance 1, which hangs while three notes are logged of which the second is lost.
async fn with_a_hole(
    transport: Transport,
    builder: impl FnOnce(crate::harness::cluster::Builder) -> crate::harness::cluster::Builder,
) -> (FakeUpstream, Cluster, McpClient) {
    let (upstream, mut cluster, client, session) =
        with_fake_upstream(transport, |cluster| builder(cluster.routers(2))).await;
    let redis = cluster.redis_client().await;
    client.disconnect().await;
    client.reconnect(Some(1));
    client.connection_count(2).await;
    let key = RedisClient::log_key(&client.session());
    upstream.send(session, &note(0)).await;
    client.message("the stream in full swing", |message| message["params"]["data"] == 0).await;
    cluster.routers[1].freeze();
    for number in 1..4 {
        upstream.send(session, &note(number)).await;
    }
    logged(&redis, &client, 5).await;
    let entries: Vec<String> = redis.run(&["LRANGE", &key, "0", "-1"]).await;
    let fourth = entries.iter().find(|entry| entry.starts_with("4 ")).expect("entries begin with their number");
    assert_eq!(redis.run::<u64>(&["LREM", &key, "1", fourth]).await, 1);
    cluster.routers[1].thaw();
    (upstream, cluster, client)
}

/// EVT-5: a hole in the log ends the stream (without a last chunk, so that the client comes back) instead of being
/// skipped; the client that resumes in front of it is told what it will not get, and then gets the rest.
async fn a_hole_in_the_log_closes_the_stream_and_is_told_on_resume(transport: Transport) {
    let (_upstream, cluster, client) = with_a_hole(transport, |cluster| cluster).await;
    // Either end is one after which clients of that transport come back.
    let end = if transport == Transport::Sse { StreamEnd::Abrupt } else { StreamEnd::Clean };
    assert_eq!(client.connection_end(1).await, Some(end));
    assert_eq!(numbers(&client.messages()), [0, 1], "what stands before the hole goes out");
    assert_eq!(cluster.metric("mcp_router_invariant_violations_total", Some("EVT-5")).await, 1.0);
    client.reconnect(None);
    client.message("what stands behind the hole", |message| message["params"]["data"] == 3).await;
    let told = client.message("a word about the hole", |message| complaint(message).is_some()).await;
    assert_eq!(told["params"]["level"], "error");
    assert_eq!((&told["params"]["data"]["lastSeen"], &told["params"]["data"]["next"]), (&json!(3), &json!(5)));
    assert_eq!(numbers(&client.messages()), [0, 1, 3]);
}

/// EVT-5, negative control: a stream that does not look for holes goes on behind one, and its client hears nothing of it.
#[cfg(feature = "fault-points")]
#[tokio::test]
async fn without_the_gap_check_a_hole_is_skipped_in_silence() {
    let gap = mcp_router::fault::GAP_CHECK;
    let (_upstream, cluster, client) =
        with_a_hole(Transport::Sse, |cluster| cluster.env("MCP_FAULT_UNPROTECTED", gap)).await;
    client.message("what stands behind the hole", |message| message["params"]["data"] == 3).await;
    assert_eq!(numbers(&client.messages()), [0, 1, 3]);
    assert_eq!(complaints(&client), [""; 0]);
    assert!(!client.connections()[1].over, "all on one connection");
    cluster.assert_no_violations().await;
}

/// EVT-6: a cursor from which the log has been trimmed is told so, and then gets all that is kept, with original ids.
async fn a_cursor_behind_the_kept_events_is_told_so(transport: Transport) {
    let (upstream, cluster, client, session) =
        with_fake_upstream(transport, |cluster| cluster.routers(2).env("MCP_RESUME_EVENTS", 5)).await;
    client.disconnect().await;
    for number in 0..20 {
        upstream.send(session, &note(number)).await;
    }
    let redis = cluster.redis_client().await;
    logged(&redis, &client, 21).await;
    client.reconnect(Some(1));
    client.message("the last note", |message| message["params"]["data"] == 19).await;
    assert_eq!(complaints(&client), ["events_expired"]);
    assert_eq!(numbers(&client.messages()), [15, 16, 17, 18, 19]);
    let ids: Vec<u64> =
        client.messages().iter().filter_map(|record| Some(Numbered::parse(record.id.as_deref()?).seq)).collect();
    // The answer to `initialize` came as JSON over Streamable HTTP.
    let first = if transport == Transport::Sse { vec![1] } else { Vec::new() };
    assert_eq!(ids, [first, vec![17, 18, 19, 20, 21]].concat());
    assert_eq!(cluster.metric("mcp_router_resume_failed_total", Some("events_expired")).await, 1.0);
    let messages = client.messages();
    let told = messages.iter().find(|record| complaint(&record.json()).is_some()).unwrap();
    assert_eq!(told.id, None, "the complaint moves no cursor");
}

/// EVT-6: all streams of a session share its log. What is not kept of others is no loss to a client's main stream, on which
/// nothing has come.
#[tokio::test]
async fn a_cursor_behind_which_only_other_streams_events_are_gone_is_as_good_as_ever() {
    let cluster = Cluster::builder().routers(2).env("MCP_RESUME_EVENTS", 5).start().await;
    let client = cluster.client().over(Transport::Streamable).stays_away().initialize().await;
    let cursor = client.cursor();
    client.disconnect().await;
    for _ in 0..20 {
        client.call("echo", json!({ "text": "x" })).await;
    }
    let redis = cluster.redis_client().await;
    let first = redis.field(&client.session(), "s:g:first").await;
    assert!(first.is_some_and(|first| first.parse::<u64>().unwrap() > cursor.seq + 1), "the log has moved on");
    for instance in [0, 1] {
        client.reconnect(Some(instance));
        eventually("the stream is resumed", || async {
            cluster.metric("mcp_router_resumed_total", None).await >= (instance + 1) as f64
        })
        .await;
        client.call("echo", json!({ "text": "x" })).await;
        client.disconnect().await;
    }
    assert_eq!(complaints(&client), [""; 0]);
    assert_eq!(cluster.metric("mcp_router_resume_failed_total", Some("events_expired")).await, 0.0);
}

/// EVT-6: a server that says more than a slow reader takes moves the log on under it: the reader is told what it will not
/// get and goes on, on the same connection, at the owner and elsewhere; nothing counts as broken (EVT-5).
async fn a_reader_that_the_log_has_left_behind_is_told_so_and_goes_on(transport: Transport) {
    for instance in [0, 1] {
        let (upstream, cluster, client, session) = with_fake_upstream(transport, |cluster| {
            cluster.routers(2).env("MCP_RESUME_EVENTS", 50).env("MCP_CLIENT_QUEUE_BYTES", "64KiB")
        })
        .await;
        client.disconnect().await;
        let cursor = client.cursor_text().unwrap();
        let mut stream = EventStream::open(cluster.addr(instance), &client.resume_request(&cursor)).await;
        stream.event().await;
        let filler = "x".repeat(100_000);
        for number in 0..300 {
            let params = json!({ "level": "info", "data": number, "filler": filler });
            let note = json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params });
            upstream.send(session, &note).await;
        }
        let redis = cluster.redis_client().await;
        logged(&redis, &client, 301).await;
        let (mut expected, mut told) = (0, 0);
        while expected < 300 {
            let message: Value = serde_json::from_str(&next_message(&mut stream).await.data).unwrap();
            if complaint(&message) == Some("events_expired") {
                told += 1;
                // Event 1 is the answer to `initialize`.
                expected = message["params"]["data"]["next"].as_u64().unwrap() - 2;
            } else {
                assert_eq!(message["params"]["data"], expected, "nothing is left out without a word");
                expected += 1;
            }
        }
        assert!(told > 0, "30 MB fit into no socket");
        cluster.assert_no_violations().await;
    }
}

/// EVT-6: cursors that cannot be anybody's here, or are ahead of the log, or of another stream or life of the session, are
/// told so.
/// The status stays 200: any other would stop stock clients for good.
async fn a_cursor_that_makes_no_sense_is_told_so(transport: Transport) {
    let (upstream, cluster, client, session) = with_fake_upstream(transport, |cluster| cluster).await;
    upstream.send(session, &note(0)).await;
    client.message_count(2).await;
    let own = client.cursor();
    client.disconnect().await;
    let with = |session: &str, epoch: &str, seq: u64| format!("{session}.g.{epoch}.{seq}");
    let other_epoch = if own.epoch == "00000001" { "00000002" } else { "00000001" };
    for (cursor, reason, same_session) in [
        ("7".to_owned(), "cursor_foreign", false),
        ("not an id at all".to_owned(), "cursor_foreign", false),
        (with("00112233445566778899aabbccddeeff", &own.epoch, 1), "session_gone", false),
        (with(&own.session, &own.epoch, 99), "cursor_unknown", true),
        (with(&own.session, other_epoch, 1), "epoch", true),
        (format!("{}.zz.{}.1", own.session, own.epoch), "cursor_foreign", true),
        (format!("{}.zz.{}.0", own.session, own.epoch), "cursor_foreign", true),
        (format!("{}.G.{}.2", own.session, own.epoch), "cursor_foreign", true),
    ] {
        let mut stream = EventStream::open(cluster.addr(0), &client.resume_request(&cursor)).await;
        let opening = stream.event().await;
        // Over Streamable HTTP the client names its session, whatever its cursor says.
        let is_named = transport == Transport::Streamable;
        assert!(is_named || opening.data.contains(&own.session) == same_session, "{cursor}: {}", opening.data);
        let reason = if is_named && !same_session { "cursor_foreign" } else { reason };
        let told: Value = serde_json::from_str(&next_message(&mut stream).await.data).unwrap();
        assert_eq!(complaint(&told), Some(reason), "{cursor}: {told}");
        if reason == "epoch" || (reason == "cursor_foreign" && same_session) {
            // All of this life is new to the client.
            for seq in if is_named { 2..=2 } else { 1..=2 } {
                assert_eq!(Numbered::parse(&next_message(&mut stream).await.id.unwrap()).seq, seq);
            }
        }
    }
}

/// EVT-6, DUR-1: after a loss of all data the client is told, and gets on: its session is there again or it has a new one.
async fn a_flushed_store_is_said_aloud(transport: Transport) {
    let cluster = Cluster::builder().env("MCP_POLL_INTERVAL", "100ms").start().await;
    let client = cluster.client().over(transport).initialize().await;
    client.call("echo", json!({ "text": "before" })).await;
    client.disconnect().await;
    let redis = cluster.redis_client().await;
    redis.run::<()>(&["FLUSHALL"]).await;
    client.reconnect(None);
    client.message("a word about the loss", |message| complaint(message).is_some()).await;
    client.handshake().await;
    assert_eq!(client.text("echo", json!({ "text": "after" })).await, "after");
}

/// EVT-7: the first bytes hold a cursor: a client that is cut off right after them resumes its session, and finds what was
/// answered meanwhile.
#[tokio::test]
async fn the_first_bytes_hold_a_cursor() {
    let cluster = Cluster::builder().routers(2).start().await;
    let client = cluster.client().stays_away().connect().await;
    let session = client.session();
    assert_eq!(client.cursor().seq, 0);
    client.disconnect().await;
    let id = client.start("initialize", initialize_params()).await;
    client.reconnect(Some(1));
    assert_eq!(client.response(id).await["result"]["serverInfo"]["name"], "mcp-server-v6");
    assert_eq!(client.session(), session);
    Oracle::exactly_once(&client);
}

fn initialize_params() -> Value {
    json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "0" } })
}

/// EVT-8: of two sessions each sees its own events only, live and replayed.
async fn a_session_sees_its_own_events_only(transport: Transport) {
    let cluster = Cluster::builder().routers(2).env("MCP_RETRY_MIN", "1ms").env("MCP_RETRY_MAX", "5ms").start().await;
    let clients =
        [cluster.client().over(transport).initialize().await, cluster.client().over(transport).initialize().await];
    for round in 0..10 {
        for (number, client) in clients.iter().enumerate() {
            client.start_call("echo", json!({ "text": format!("of {number}") })).await;
            if round % 3 == 0 {
                client.cut();
            }
        }
    }
    for (number, client) in clients.iter().enumerate() {
        client.message_count(11).await;
        for record in &client.messages()[1..] {
            assert_eq!(record.json()["result"]["content"][0]["text"], format!("of {number}"));
        }
        Oracle::exactly_once(client);
        Oracle::every_request_answered_once(client);
    }
}

/// EVT-8, OWN-7: a stream that is opened a second time, here or on another instance, takes the first one's place: each
/// event is on one connection, and the first stays open and silent, so that its client does not take the stream back.
async fn a_superseded_stream_stays_open_and_silent(transport: Transport) {
    let (upstream, cluster, client, session) =
        with_fake_upstream(transport, |cluster| cluster.routers(2).env("MCP_HEARTBEAT", "50ms")).await;
    let cursor = client.cursor_text().unwrap();
    let seen_before = client.messages().len();
    let mut number = 0;
    for addr in cluster.addrs() {
        let mut second = EventStream::open(addr, &client.resume_request(&cursor)).await;
        assert!(second.event().await.is_opening());
        for _ in 0..10 {
            upstream.send(session, &note(number)).await;
            number += 1;
        }
        let mut seen = Vec::new();
        while seen.last() != Some(&(number - 1)) {
            let event: Value = serde_json::from_str(&next_message(&mut second).await.data).unwrap();
            seen.push(event["params"]["data"].as_u64().unwrap());
        }
        assert_eq!(seen, (0..number).collect::<Vec<_>>());
        // It lives: its heart beats on.
        for _ in 0..3 {
            assert!(matches!(second.next().await, Item::Comment(_)));
        }
        assert_eq!(client.messages().len(), seen_before, "nothing more on the superseded connection");
        assert!(!client.connections()[0].over, "it stays open");
    }
}

/// EVT-10: a final response that was lost on the wire is still there for the client that resumes before it, more than
/// once, and gone from a replay once the cursor has passed it.
#[tokio::test]
async fn a_response_lost_on_the_wire_is_replayed() {
    let cluster = Cluster::builder().routers(2).start().await;
    let wire = FaultProxy::start(cluster.addr(0)).await;
    let client =
        McpClient::builder([wire.addr(), cluster.addr(1)]).post_to(PostTo::Only(1)).stays_away().initialize().await;
    let redis = cluster.redis_client().await;
    wire.set(Mode::LoseAnswers);
    let id = client.start_call("echo", json!({ "text": "lost" })).await;
    // Events of the handshake, then the lost one: in the log, handed to the connection, and not seen.
    logged(&redis, &client, 2).await;
    wire.set(Mode::Cut);
    client.connection_end(0).await;
    assert!(client.response_now(id).is_none());
    let cursor = client.cursor_text().unwrap();
    wire.set(Mode::Pass);
    for addr in [cluster.addr(0), cluster.addr(1), cluster.addr(0)] {
        let mut stream = EventStream::open(addr, &resume(&cursor)).await;
        let event = next_message(&mut stream).await;
        assert_eq!(Numbered::parse(&event.id.unwrap()).seq, 2);
    }
    client.reconnect(Some(1));
    assert_eq!(client.response(id).await["result"]["content"][0]["text"], "lost");
    Oracle::exactly_once(&client);
}

/// Resume by `?sessionId=` and by cookie, for clients that keep those: the same session, what they have not had, and (by
/// cookie) an endpoint that has changed, without which mcp-remote holds its POSTs back.
#[tokio::test]
async fn a_client_resumes_by_session_id_and_by_cookie() {
    let transport = Transport::Sse;
    let (upstream, cluster, client, session) = with_fake_upstream(transport, |cluster| cluster.routers(2)).await;
    let (id, endpoint) = (client.session(), client.endpoint());
    let cookie = client.connections()[0].headers.iter().find(|(name, _)| name == "set-cookie").unwrap().1.clone();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();

    let with_cookie = Request::get(SSE).header("cookie", &cookie);
    let other = EventStream::open(cluster.addr(1), &with_cookie).await.event().await.data;
    assert!(!other.contains(&id), "a session that somebody shows is not taken by a cookie: {other}");

    client.disconnect().await;
    let redis = cluster.redis_client().await;
    eventually("the stream detached", || async { redis.field(&id, "a:g").await.is_none() }).await;
    upstream.send(session, &note(1)).await;
    logged(&redis, &client, 2).await;
    let mut by_cookie = EventStream::open(cluster.addr(1), &with_cookie).await;
    let changed = by_cookie.event().await.data;
    assert!(changed.starts_with(&endpoint) && changed != endpoint, "{changed}");
    let message: Value =
        serde_json::from_str(&next_message_of(&mut by_cookie, "notifications/message").await.data).unwrap();
    assert_eq!(message["params"]["data"], 1);
    let posted = http::post(cluster.addr(0), &changed, tool_call("x", "any", json!({})).to_string()).await;
    assert_eq!(posted.status, 202);
    let answer = next_answer(&mut by_cookie).await;
    assert_eq!(answer["id"], "x");
    drop(by_cookie);

    let by_id = Request::get(format!("{SSE}?sessionId={id}"));
    let mut by_id = EventStream::open(cluster.addr(1), &by_id).await;
    assert_eq!(by_id.event().await.data, endpoint);
    upstream.send(session, &note(2)).await;
    // Nobody knows how far a client without a cursor has come: what it had may come again.
    while serde_json::from_str::<Value>(&next_message(&mut by_id).await.data).unwrap()["params"]["data"] != 2 {}
    let nobody = Request::get(format!("{SSE}?sessionId=00112233445566778899aabbccddeeff"));
    assert_eq!(EventStream::refusal(cluster.addr(0), &nobody).await.status, 404);
}

async fn next_message_of(stream: &mut EventStream, method: &str) -> Event {
    loop {
        let event = next_message(stream).await;
        if serde_json::from_str::<Value>(&event.data).unwrap()["method"] == method {
            return event;
        }
    }
}

async fn next_answer(stream: &mut EventStream) -> Value {
    loop {
        let message: Value = serde_json::from_str(&next_message(stream).await.data).unwrap();
        if message.get("method").is_none() && message["id"] != 1 {
            return message;
        }
    }
}

/// Ping-rebind: a client that behaves like the TypeScript SDK (no cursor, no cookie, its protocol version) keeps its
/// session over reconnects, although the stream and the answer to the ping go to different instances, and every call is
/// answered.
#[tokio::test]
async fn a_typescript_like_client_is_found_by_a_ping() {
    let cluster = Cluster::builder().routers(3).env("MCP_RETRY_MIN", "1ms").env("MCP_RETRY_MAX", "5ms").start().await;
    let client = cluster.client().like_typescript().post_to(PostTo::Only(2)).initialize().await;
    let session = client.session();
    for round in 0..20 {
        let id = client.start_call("wait", json!({ "ms": 20, "text": format!("{round}") })).await;
        client.cut();
        assert_eq!(client.response(id).await["result"]["content"][0]["text"], format!("{round}"));
        client.connection_count(round + 2).await;
    }
    assert_eq!(client.session(), session);
    let endpoints = client.records().iter().filter(|record| record.name == "endpoint").count();
    assert_eq!(endpoints, 1, "after a rebind the client keeps its endpoint");
    let pings = client.messages().iter().filter(|record| record.json()["method"] == "ping").count();
    assert!(pings >= 20, "{pings}");
    Oracle::every_request_answered_once(&client);
    assert_eq!(cluster.metric("mcp_router_adoptions_total", None).await, 0.0);
    assert!(cluster.metric("mcp_router_resumed_total", Some("ping_rebind")).await >= 20.0);
}

/// Ping-rebind: who does not answer the ping is a new client, and gets an endpoint; Python clients, which would hang on a
/// message before the endpoint, are never asked.
#[tokio::test]
async fn a_client_that_does_not_answer_the_ping_is_new() {
    let cluster = Cluster::builder().env("MCP_REBIND_TIMEOUT", "50ms").start().await;
    // One of its kind has been here, so that it may be one that comes back.
    let _before = cluster.client().initialize().await;
    let known = Request::get(SSE).header("mcp-protocol-version", "2025-11-25");
    let mut stream = EventStream::open(cluster.addr(0), &known).await;
    let ping: Value = serde_json::from_str(&stream.event().await.data).unwrap();
    assert_eq!(ping["method"], "ping");
    let endpoint = stream.event().await;
    assert_eq!(endpoint.name, "endpoint");
    assert!(endpoint.id.is_some());
    let late = json!({ "jsonrpc": "2.0", "id": ping["id"], "result": {} });
    let answered = http::post(cluster.addr(0), &endpoint.data, late.to_string()).await;
    assert_eq!(answered.status, 202, "a late answer harms nothing");

    for agent in ["python-httpx/0.28.1", "python-requests/2"] {
        let _before = cluster.client().header("user-agent", agent).initialize().await;
        let mut stream = EventStream::open(cluster.addr(0), &known.clone().header("user-agent", agent)).await;
        assert_eq!(stream.event().await.name, "endpoint", "{agent}");
    }
}

/// Ping-rebind, EVT-10: answers that were handed to a connection and lost on the wire are sent again to a client that has
/// no cursor to say so.
#[tokio::test]
async fn answers_lost_on_the_wire_reach_a_typescript_like_client() {
    let cluster = Cluster::builder().routers(2).start().await;
    let wire = FaultProxy::start(cluster.addr(0)).await;
    let client = McpClient::builder([wire.addr(), cluster.addr(1)])
        .post_to(PostTo::Only(1))
        .like_typescript()
        .initialize()
        .await;
    wire.set(Mode::LoseAnswers);
    let redis = cluster.redis_client().await;
    let mut ids = Vec::new();
    for number in 0..30 {
        ids.push(client.start_call("echo", json!({ "text": format!("{number}") })).await);
    }
    logged(&redis, &client, 31).await;
    wire.set(Mode::Cut);
    client.connection_end(0).await;
    wire.set(Mode::Pass);
    for (number, id) in ids.into_iter().enumerate() {
        assert_eq!(client.response(id).await["result"]["content"][0]["text"], format!("{number}"));
    }
    Oracle::every_request_answered_once(&client);
}

/// Rule 8: the router ends no stream cleanly that its client should take up again; rule 9 and EVT-6: a reconnecting GET
/// never sees another status than 200, even while Redis is away: it is held, or closed without an answer.
async fn a_reconnecting_client_meets_no_error_status_while_redis_is_away(transport: Transport) {
    let cluster = Cluster::builder()
        .redis_proxy()
        .env("REDIS_TIMEOUT", "100ms")
        .env("REDIS_WAIT", "200ms")
        .env("MCP_RETRY_MIN", "10ms")
        .env("MCP_RETRY_MAX", "20ms")
        .env("MCP_STREAMABLE_RETRY_MIN", "10ms")
        .env("MCP_STREAMABLE_RETRY_MAX", "20ms")
        .start()
        .await;
    let client = cluster.client().over(transport).initialize().await;
    let link = cluster.redis_proxy.as_ref().unwrap();
    link.set(Mode::BlackHole);
    client.cut();
    client.connection_count(4).await;
    link.set(Mode::Pass);
    let addr = cluster.addr(0);
    eventually("readiness", || async move { http::get(addr, "/actuator/health/readiness").await.status == 200 }).await;
    // The connection for its messages may still pause between two attempts, for longer than REDIS_WAIT is here.
    let call = tool_call("back", "echo", json!({ "text": "back" }));
    eventually("a message is taken", || async {
        matches!(client.try_post_at(addr, &call, Some("back")).await, Ok(answer) if answer.status == 202)
    })
    .await;
    assert_eq!(client.response_to(&json!("back")).await["result"]["content"][0]["text"], "back");
    let statuses: Vec<u16> = client.connections().iter().map(|connection| connection.status).collect();
    assert!(statuses.iter().all(|status| matches!(status, 0 | 200)), "{statuses:?}");
    Oracle::exactly_once(&client);
}

/// A session's log and the answers in it survive a client that is away while many large results come.
#[tokio::test]
async fn large_results_are_replayed_whole() {
    let cluster = Cluster::builder().routers(2).env("MCP_RESUME_BYTES", "32MiB").start().await;
    let client = cluster.client().stays_away().initialize().await;
    client.disconnect().await;
    let mut ids = Vec::new();
    for bytes in [1 << 20, 4 << 20, 10, 4 << 20] {
        ids.push((client.start_call("payload", json!({ "bytes": bytes })).await, bytes));
    }
    let redis = cluster.redis_client().await;
    logged(&redis, &client, 5).await;
    client.reconnect(Some(1));
    for (id, bytes) in ids {
        let answer = client.response(id).await;
        assert_eq!(answer["result"]["content"][0]["text"].as_str().unwrap().len(), bytes);
    }
    Oracle::exactly_once(&client);
    Oracle::agrees_with_log(&client, &redis).await;
}

over_both_transports! {
    nothing_is_sent_that_the_log_does_not_have
    replay_joins_live_at_the_owner
    replay_joins_live_on_changing_instances
    a_replayed_event_keeps_its_id_and_a_second_replay_is_empty
    a_hole_in_the_log_closes_the_stream_and_is_told_on_resume
    a_cursor_behind_the_kept_events_is_told_so
    a_reader_that_the_log_has_left_behind_is_told_so_and_goes_on
    a_cursor_that_makes_no_sense_is_told_so
    a_flushed_store_is_said_aloud
    a_session_sees_its_own_events_only
    a_superseded_stream_stays_open_and_silent
    a_reconnecting_client_meets_no_error_status_while_redis_is_away
}
