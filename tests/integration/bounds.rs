//! Bounds: memory stays flat whatever clients and servers do, and secrets stay where they belong.

use serde_json::{Value, json};

use crate::harness::{
    Cluster, EventStream, FakeUpstream, McpClient, Oracle, PostTo, RedisClient, Transport, eventually,
    fake_upstream::Reply,
    http::{self, Request},
    mcp_client::{request, tool_call},
    oracle::Numbered,
    over_both_transports,
};

const SSE: &str = "/sse/mcp-server-v6";
const MIB: u64 = 1 << 20;

/// How much a process may grow while a hundred times as much passes through it: buffers of a few streams, and what an
/// allocator keeps.
const FLAT: u64 = 48 * MIB;

/// A session whose client has a stream and never reads from it; and that stream.
async fn deaf_session(transport: Transport, cluster: &Cluster) -> (EventStream, McpClient) {
    let client = cluster.client_of(0).over(transport).stays_away().initialize().await;
    client.disconnect().await;
    let cursor = client.cursor_text().unwrap();
    let deaf = EventStream::open(cluster.addr(0), &client.resume_request(&cursor)).await;
    (deaf, client)
}

/// A mebibyte that a server says.
fn large(number: u64) -> Value {
    let filler = "x".repeat(MIB as usize);
    json!({ "jsonrpc": "2.0", "method": "notifications/message",
            "params": { "level": "info", "data": number, "filler": filler } })
}

async fn answered(redis: &RedisClient, client: &McpClient, seq: u64) {
    eventually("answers in the log", || async {
        let last: Option<String> = redis.field(&client.session(), "s:g:seq").await;
        last.is_some_and(|last| last.parse::<u64>().unwrap() >= seq)
    })
    .await;
}

/// MEM-1: a client that never reads costs the router no memory, however much its server says, and the others nothing; what
/// it did not read is in the store.
async fn a_client_that_never_reads_costs_no_memory(transport: Transport) {
    let upstream = FakeUpstream::start().await;
    let mut cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let redis = cluster.redis_client().await;
    let (deaf, mute) = deaf_session(transport, &cluster).await;
    let link = upstream.open_sessions()[0];
    let other = cluster.client().over(transport).initialize().await;
    other.call("x", json!({ "filler": "x".repeat(MIB as usize) })).await;
    let before = cluster.routers[0].process().resident_bytes();
    for number in 0..200 {
        upstream.send(link, &large(number)).await;
        if number % 20 == 19 {
            answered(&redis, &mute, 2 + number).await;
            other.call("others", json!({})).await;
        }
    }
    answered(&redis, &mute, 201).await;
    let after = cluster.routers[0].process().resident_bytes();
    println!("resident: {} MiB, then {} MiB", before / MIB, after / MIB);
    assert!(after < before + FLAT, "200 MiB have passed: {} MiB, then {} MiB", before / MIB, after / MIB);
    drop(deaf);
    mute.reconnect(None);
    mute.message("the newest is still there", |message| message["params"]["data"] == 199).await;
}

/// Logs events of about 1 KiB from `from` to `to` as an owner would, only faster.
const FILL: &str = r#"
local from, to, filler = tonumber(ARGV[1]), tonumber(ARGV[2]), string.rep('x', 900)
local head = '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":'
local bytes = tonumber(redis.call('HGET', KEYS[1], 's:g:bytes'))
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for seq = from, to do
  local text = string.format('%d', seq)
  local body = head .. text .. ',"filler":"' .. filler .. '"}}'
  redis.call('RPUSH', KEYS[2], text .. '  ' .. (seq % 16 == 1 and string.format('%d', now) or '') .. ' ' .. body)
  bytes = bytes + #body
end
redis.call('HSET', KEYS[1], 's:g:seq', string.format('%d', to), 's:g:bytes', string.format('%d', bytes))
"#;

/// Events of the long replay: about 100 MiB.
const BACKLOG: u64 = 100_000;

/// A client comes back to another instance than its owner with the oldest cursor of a log of [`BACKLOG`] events, and
/// gets them all, once and in order. Returns by how much that instance has grown at most, bytes.
async fn growth_by_a_long_replay(transport: Transport, builder: crate::harness::cluster::Builder) -> u64 {
    let builder = builder.routers(2).env("MCP_RESUME_EVENTS", 200_000).env("MCP_RESUME_BYTES", "256MiB");
    let mut cluster = builder.start().await;
    let client = cluster.client().over(transport).stays_away().initialize().await;
    client.disconnect().await;
    // Over Streamable HTTP the answer to `initialize` has the number behind that of the stream's beginning.
    let cursor = Numbered { seq: 1, ..client.cursor() };
    let redis = cluster.redis_client().await;
    let keys = [RedisClient::session_key(&cursor.session), RedisClient::log_key(&cursor.session)];
    let last = cursor.seq + BACKLOG;
    redis.thaw(&cursor.session).await;
    for from in (cursor.seq + 1..=last).step_by(5000) {
        let to = (from + 4999).min(last);
        let (from, to) = (from.to_string(), to.to_string());
        redis.run::<()>(&["EVAL", FILL, "2", &keys[0], &keys[1], &from, &to]).await;
    }

    let before = cluster.routers[1].process().resident_bytes();
    let mut most = before;
    let mut stream = EventStream::open(cluster.addr(1), &client.resume_request(&client.cursor_text().unwrap())).await;
    assert!(stream.event().await.is_opening());
    for seq in cursor.seq + 1..=last {
        let event = stream.event().await;
        assert_eq!(Numbered::parse(&event.id.unwrap()), Numbered { seq, ..cursor.clone() });
        assert!(event.data.contains(&format!(r#""data":{seq},"#)), "event {seq} is {:.120}", event.data);
        if seq % 500 == 0 {
            most = most.max(cluster.routers[1].process().resident_bytes());
        }
    }
    println!("resident: {} MiB, then at most {} MiB", before / MIB, most / MIB);
    cluster.assert_no_violations().await;
    most - before
}

/// EVT-9: a replay of 100,000 events comes in order and whole, and the router that reads it for the client stays as small
/// as it was.
async fn a_replay_of_a_hundred_thousand_events_is_paged(transport: Transport) {
    let growth = growth_by_a_long_replay(transport, Cluster::builder()).await;
    assert!(growth < FLAT / 2, "100 MiB have passed: it grew by {} MiB", growth / MIB);
}

/// EVT-9, negative control: with pages that hold the whole log the memory for it is seen.
#[tokio::test]
async fn without_pages_a_long_replay_takes_its_size_in_memory() {
    let builder = Cluster::builder().env("MCP_REPLAY_PAGE_EVENTS", BACKLOG).env("MCP_REPLAY_PAGE_BYTES", "1GiB");
    let growth = growth_by_a_long_replay(Transport::Sse, builder.env("REDIS_TIMEOUT", "30s")).await;
    assert!(growth > 2 * FLAT, "it grew by {} MiB only", growth / MIB);
}

/// MEM-3: a connection whose client takes nothing is closed after its deadline.
async fn a_client_that_takes_nothing_is_let_go(transport: Transport) {
    let upstream = FakeUpstream::start().await;
    let builder = Cluster::builder().upstream_urls([upstream.url()]).env("MCP_CLIENT_FLUSH_TIMEOUT", "500ms");
    let cluster = builder.start().await;
    let redis = cluster.redis_client().await;
    let (_deaf, mute) = deaf_session(transport, &cluster).await;
    assert_eq!(cluster.metric("mcp_router_streams", None).await, 1.0);
    for number in 0..16 {
        upstream.send(upstream.open_sessions()[0], &large(number)).await;
    }
    answered(&redis, &mute, 17).await;
    eventually("the stream let go", || async { cluster.metric("mcp_router_streams", None).await == 0.0 }).await;
}

/// MEM-1: a server that says more than the store takes is read no further: no memory grows while Redis hangs.
async fn a_flood_from_the_upstream_meets_back_pressure(transport: Transport) {
    let upstream = FakeUpstream::start().await;
    let mut cluster = Cluster::builder()
        .upstream_urls([upstream.url()])
        .redis_proxy()
        .env("REDIS_TIMEOUT", "500ms")
        .env("MCP_RESUME_EVENTS", 100_000)
        .env("MCP_RESUME_BYTES", "256MiB")
        .start()
        .await;
    let client = cluster.client().over(transport).initialize().await;
    let link = upstream.open_sessions()[0];
    let proxy = cluster.redis_proxy.as_ref().unwrap();
    proxy.set(crate::harness::Mode::BlackHole);
    let before = cluster.routers[0].process().resident_bytes();
    let filler = "x".repeat(64 << 10);
    let note = |number: u64| {
        json!({ "jsonrpc": "2.0", "method": "notifications/message",
                "params": { "level": "info", "data": number, "filler": filler } })
    };
    // 64 MiB, of which the fake's own queue holds a part: they can be sent only as far as the router reads.
    let flood = async {
        for number in 0..1000 {
            upstream.send(link, &note(number)).await;
        }
    };
    let mut flood = std::pin::pin!(flood);
    for _ in 0..5 {
        tokio::select! {
            () = &mut flood => panic!("the router has read 64 MiB that it could not store"),
            _ = http::get(cluster.addr(0), "/actuator/health/readiness") => {}
        }
    }
    let after = cluster.routers[0].process().resident_bytes();
    assert!(after < before + FLAT, "{} MiB, then {} MiB", before / MIB, after / MIB);
    cluster.redis_proxy.as_ref().unwrap().set(crate::harness::Mode::Pass);
    flood.await;
    client.message("the last note", |message| message["params"]["data"] == 999).await;
    Oracle::exactly_once(&client);
}

/// MEM-2: a client that floods its session with messages which its server does not take is refused at a bound, at the
/// owner and elsewhere: neither the router nor Redis grows with the flood. What was accepted is still forwarded, once and
/// in order.
async fn a_flood_of_messages_is_refused_at_a_bound(transport: Transport) {
    for (what, index) in [("owner", 0), ("another instance", 1)] {
        let mut cluster = Cluster::builder().routers(2).env("MCP_MAX_INBOX", 50).start().await;
        let redis = cluster.redis_client().await;
        let client = cluster.client().over(transport).post_to(PostTo::Only(index)).initialize().await;
        assert_eq!(client.text("echo", json!({ "text": "before" })).await, "before");
        cluster.upstreams[0].freeze();
        let mut refused = 0;
        for number in 0..400 {
            let note = json!({ "jsonrpc": "2.0", "method": "notifications/any", "params": { "number": number } });
            let response = client.try_post(&note).await.unwrap();
            match response.status {
                202 => {}
                503 => {
                    assert_eq!(response.error_code(), Some(-32603), "{}", response.text());
                    refused += 1;
                }
                status => panic!("{status}: {}", response.text()),
            }
        }
        let waiting: u64 = redis.run(&["HLEN", &RedisClient::inbox_key(&client.session())]).await;
        println!("{what}: {refused} of 400 refused, {waiting} wait");
        // Besides those that wait: what the owner has claimed (a batch of 64 is claimed while fewer than 64 are left) and
        // is posting (32).
        assert!(waiting <= 50 + 128 + 32, "{what}: {waiting} messages are in the store, the bound is 50");
        assert!(refused >= 190, "{what}: only {refused} of 400 were refused");
        cluster.upstreams[0].thaw();
        let addr = cluster.addr(index);
        eventually("room again", || async {
            let note = json!({ "jsonrpc": "2.0", "method": "notifications/any" });
            client.try_post_at(addr, &note, None).await.unwrap().status == 202
        })
        .await;
        assert_eq!(client.text("echo", json!({ "text": "after" })).await, "after");
    }
}

/// MEM-2: a server that asks more than its client answers is told at once, at a bound, and neither the client nor the session's
/// record sees more of it. What the client has answered makes room again.
async fn a_server_that_asks_without_end_is_refused_at_a_bound(transport: Transport) {
    let upstream = FakeUpstream::start().await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).env("MCP_MAX_SERVER_REQUESTS", 3).start().await;
    let client = cluster.client().over(transport).initialize().await;
    let session = upstream.open_sessions()[0];
    let ask = |number: u64| request(number, "elicitation/create", json!({ "number": number }));
    let asked = |number: u64| move |message: &Value| message["params"]["number"] == number;
    let refused = || {
        let errors = upstream.received().into_iter().map(|received| received.json());
        errors.filter(|message| message["error"].is_object()).collect::<Vec<_>>()
    };
    for number in 1..=5 {
        upstream.send(session, &ask(number)).await;
    }
    eventually("two refusals", || std::future::ready(refused().len() == 2)).await;
    for error in refused() {
        assert!([json!(4), json!(5)].contains(&error["id"]), "{error}");
        assert_eq!(error["error"]["data"]["reason"], "too_many_server_requests", "{error}");
    }
    let fields = cluster.redis_client().await;
    let open = || async {
        let key = format!("mcp:sessions:{}", client.session());
        let names: Vec<String> = fields.run(&["HKEYS", &key]).await;
        names.iter().filter(|name| name.starts_with("sr:")).count()
    };
    eventually("three open questions on record", || async { open().await == 3 }).await;
    assert_eq!(cluster.metric("mcp_router_errors_total", Some("too_many_server_requests")).await, 2.0);

    let first = client.message("the first question", asked(1)).await;
    client.post(&json!({ "jsonrpc": "2.0", "id": first["id"], "result": {} })).await;
    eventually("the answer at the server", || {
        let answers = upstream.received();
        std::future::ready(answers.iter().any(|received| received.json()["result"].is_object()))
    })
    .await;
    upstream.send(session, &ask(6)).await;
    client.message("the sixth question", asked(6)).await;
    assert_eq!(client.messages().iter().filter(|record| record.json()["method"] == "elicitation/create").count(), 4);
    cluster.assert_no_violations().await;
}

/// MEM-2: many clients at once, each with as many calls as it may have, on all instances: all are answered.
async fn many_calls_of_many_clients_are_all_answered(transport: Transport) {
    let cluster = Cluster::builder().routers(3).upstreams(2).start().await;
    let clients = futures_util::future::join_all((0..20).map(|_| cluster.client().over(transport).initialize())).await;
    futures_util::future::join_all(clients.iter().map(|client| async move {
        let mut ids = Vec::new();
        for number in 0..50 {
            ids.push(client.start_call("echo", json!({ "text": format!("{number}") })).await);
        }
        for id in ids {
            client.response(id).await;
        }
    }))
    .await;
    for client in &clients {
        Oracle::exactly_once(client);
        Oracle::every_request_answered_once(client);
    }
    cluster.assert_no_violations().await;
}

/// MEM-4: when sessions have ended, nothing of them is left: in no gauge of the router, not at the server, not in Redis.
async fn ended_sessions_leave_nothing_behind(transport: Transport) {
    let cluster = Cluster::builder().routers(2).env("MCP_SESSION_TTL", "1s").start().await;
    let redis = cluster.redis_client().await;
    for round in 0..3 {
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(cluster.client().over(transport).initialize().await);
        }
        for client in &clients {
            client.call("echo", json!({ "text": "x" })).await;
            if round == 0 {
                let path = format!("/mcp/router/sessions/{}", client.session());
                assert_eq!(Request::delete(path).send(cluster.addr(1)).await.status, 204);
            }
        }
        drop(clients);
        // A GET that is dropped at once, as probes are.
        if transport == Transport::Sse {
            drop(EventStream::open(cluster.addr(0), &Request::get(SSE)).await);
        }
    }
    eventually("no session and no stream", || async {
        cluster.metric("mcp_router_sessions", None).await == 0.0
            && cluster.metric("mcp_router_streams", None).await == 0.0
    })
    .await;
    // Leases and the list of instances stay.
    eventually("no key of a session, and no trace in an index", || async {
        redis.keys().await.iter().all(|key| !key.contains(":sessions"))
    })
    .await;
    // Those of the health checks stay.
    eventually("no session at the server", || async { cluster.upstreams[0].sessions().await <= 2 }).await;
}

/// SEC-2: session ids, tokens and payloads are in no log line of routers and nginx, in no metric and in no error text,
/// whatever happens, at the most talkative level.
#[tokio::test]
async fn secrets_are_in_no_log_no_metric_and_no_error() {
    let mut cluster = Cluster::builder()
        .routers(2)
        .upstreams(2)
        .nginx(false)
        .redis_login("default:redis-password-marker")
        .env("LOG_LEVEL", "trace")
        .env("MCP_ADMIN_TOKEN", "admin-token-marker")
        .env("MCP_MAX_BODY", "64KiB")
        .env("MCP_RETRY_MIN", "1ms")
        .env("MCP_RETRY_MAX", "5ms")
        .start()
        .await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let mut texts = Vec::new();
    let mut sessions = Vec::new();

    // Ordinary life, through nginx and past it, with every way to come back.
    for builder in [
        McpClient::builder([nginx]),
        cluster.client().like_typescript(),
        cluster.client().with_cookies(),
        cluster.client().samples("payload-marker sampled"),
    ] {
        let client = builder.header("authorization", "Bearer bearer-token-marker").initialize().await;
        client.call("echo", json!({ "text": "payload-marker" })).await;
        client.call("increment", json!({ "key": "payload-marker" })).await;
        client.call("ask_client", json!({ "prompt": "payload-marker" })).await;
        // A cookie finds its session only when nobody shows it any more.
        client.disconnect().await;
        let redis = cluster.redis_client().await;
        eventually("the stream detached", || async { redis.field(&client.session(), "a:g").await.is_none() }).await;
        client.reconnect(None);
        client.call("echo", json!({ "text": "payload-marker" })).await;
        client.connection_count(2).await;
        sessions.push(client.session());
        // What goes wrong.
        let (path, session) = (client.endpoint(), client.session());
        for (addr, body) in [
            (nginx, "payload-marker is no JSON".to_owned()),
            (cluster.addr(0), r#"{"jsonrpc":"2.0","payload-marker":1}"#.to_owned()),
            (
                cluster.addr(1),
                format!(
                    r#"{{"jsonrpc":"2.0","id":"payload-marker","method":"x","params":"{}"}}"#,
                    "y".repeat(65 << 10)
                ),
            ),
        ] {
            let response = http::post(addr, &path, body).await;
            assert!(response.status >= 400, "{}", response.text());
            texts.push(response.text());
        }
        let wrong = Request::post(&path, "payload-marker").header("content-type", "text/plain").send(nginx).await;
        texts.push(wrong.text());
        let admin = Request::get(format!("/mcp/router/sessions/{session}"))
            .header("x-forwarded-for", "203.0.113.9")
            .header("authorization", "Bearer admin-token-marker-wrong");
        texts.push(admin.send(cluster.addr(0)).await.text());
        let right = Request::get(format!("/mcp/router/sessions/{session}"))
            .header("x-forwarded-for", "203.0.113.9")
            .header("authorization", "Bearer admin-token-marker");
        assert_eq!(right.send(cluster.addr(0)).await.status, 200);
        let foreign = format!("{session}.g.00000000.99");
        drop(EventStream::open(nginx, &Request::get(SSE).header("last-event-id", &foreign)).await);
        let gone = format!("/mcp/router/sessions/{session}");
        if sessions.len() == 1 {
            let delete = Request::delete(gone).header("authorization", "Bearer admin-token-marker");
            assert_eq!(delete.send(nginx).await.status, 204);
            texts.push(http::post(nginx, &path, tool_call(1, "echo", json!({})).to_string()).await.text());
        }
    }
    // A server dies, an instance dies, Redis hangs.
    let client = cluster.client().post_to(PostTo::Only(1)).initialize().await;
    sessions.push(client.session());
    cluster.upstreams[0].kill();
    cluster.upstreams[1].kill();
    client.post(&tool_call("payload-marker", "echo", json!({ "text": "payload-marker" }))).await;
    cluster.upstreams[0].restart().await;
    client.response_to(&json!("payload-marker")).await;
    cluster.routers[0].kill();
    let late = tool_call("late", "echo", json!({ "text": "payload-marker" }));
    client.post(&late).await;
    client.response_to(&json!("late")).await;
    texts.push(http::post(nginx, "/mcp/router/route/none", "payload-marker").await.text());

    texts.push(http::get(cluster.addr(1), "/actuator/prometheus").await.text());
    let mut logs = vec![("nginx", cluster.nginx.as_ref().unwrap().logs())];
    for name in ["router-instance-1", "router-instance-2"] {
        logs.push((name, std::fs::read_to_string(cluster.dir().join(format!("{name}.log"))).unwrap()));
    }
    let markers = ["payload-marker", "bearer-token-marker", "admin-token-marker", "redis-password-marker"];
    let secrets: Vec<&str> = sessions.iter().map(String::as_str).chain(markers).collect();
    for secret in &secrets {
        for (name, log) in &logs {
            let found: Vec<&str> = log.lines().filter(|line| line.contains(secret)).collect();
            assert!(found.is_empty(), "{secret} is in {} lines of the log of {name}: {:.600}", found.len(), found[0]);
        }
        for text in &texts {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
    // Negative control: the logs are of these sessions, and talkative.
    for session in &sessions {
        assert!(logs[1..].iter().any(|(_, log)| log.contains(&session[..6])), "nothing about a session");
    }
    assert!(logs[1].1.contains("TRACE"));
}

/// SEC-2, SEC-3: what an upstream is sent is the message alone: no header of the client, and the upstream's own Host.
#[tokio::test]
async fn the_upstream_gets_nothing_of_the_clients_headers() {
    let upstream = FakeUpstream::answering(|_| Reply::Result(json!({}))).await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster
        .client()
        .header("origin", "http://localhost:6274")
        .header("authorization", "Bearer secret")
        .header("cookie", "a=b")
        .header("x-custom", "y")
        .initialize()
        .await;
    client.call("x", json!({})).await;
    let session = upstream.open_sessions()[0];
    let mut all: Vec<Vec<(String, String)>> = upstream.received().into_iter().map(|one| one.headers).collect();
    all.push(upstream.get_headers(session));
    for headers in all {
        for (name, value) in &headers {
            let expected: Option<Value> = match name.as_str() {
                "host" => Some(json!(upstream.addr().to_string())),
                "content-type" => Some(json!("application/json")),
                "accept" => Some(json!("text/event-stream")),
                "content-length" | "connection" | "date" | "accept-encoding" | "user-agent" => None,
                _ => panic!("{name}: {value}"),
            };
            assert!(expected.is_none_or(|expected| expected == json!(value)), "{name}: {value}");
        }
        assert!(headers.iter().any(|(name, _)| name == "host"));
    }
}

over_both_transports! {
    a_flood_from_the_upstream_meets_back_pressure
    a_flood_of_messages_is_refused_at_a_bound
    a_server_that_asks_without_end_is_refused_at_a_bound
    many_calls_of_many_clients_are_all_answered
    a_client_that_never_reads_costs_no_memory
    a_client_that_takes_nothing_is_let_go
    a_replay_of_a_hundred_thousand_events_is_paged
    ended_sessions_leave_nothing_behind
}
