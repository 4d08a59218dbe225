//! Every surface as it is documented: what it answers, and what it says to bad input.

use serde_json::{Value, json};

use crate::harness::{
    Cluster, EventStream, FakeUpstream, McpClient, eventually,
    fake_upstream::Reply,
    http::{self, Request, Response},
    mcp_client::{request, tool_call},
};

const SSE: &str = "/sse/mcp-server-v6";
const REST: &str = "/mcp/router/route/mcp-server-v6";

fn ping(id: impl Into<Value>) -> String {
    request(id, "ping", json!({})).to_string()
}

/// `GET /sse/{service}` and its other spellings; EVT-7: the first bytes, in one piece, hold a cursor, a reconnection
/// time, and an endpoint that is an absolute path.
#[tokio::test]
async fn a_stream_opens_with_cursor_retry_and_endpoint_in_one_block() {
    let cluster = Cluster::builder().start().await;
    for path in [SSE, "/sse?serviceName=mcp-server-v6", "/sse"] {
        let mut stream = EventStream::open(cluster.addr(0), &Request::get(path)).await;
        assert!(http::header(&stream.headers, "cache-control").unwrap().contains("no-cache"));
        assert_eq!(http::header(&stream.headers, "x-accel-buffering"), Some("no"));
        let event = stream.event().await;
        assert_eq!(event.name, "endpoint");
        let session = event.data.strip_prefix("/mcp/mcp-server-v6/message?sessionId=").expect("an absolute path");
        assert_eq!(session.len(), 32);
        assert!(event.id.unwrap().starts_with(&format!("{session}.g.")));
        assert!((300..=800).contains(&stream.retry_ms().unwrap()), "{:?}", stream.retry_ms());
        let first = String::from_utf8(stream.first_chunk().to_vec()).unwrap();
        let lines: Vec<&str> = first.split('\n').map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(lines, ["id", "retry", "event", "data", "", ""], "{first:?}");
    }
}

/// The heartbeat is one comment line: a blank line after it would be an (empty) event for old Python clients.
#[tokio::test]
async fn a_heartbeat_is_a_comment_without_a_blank_line() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let cluster = Cluster::builder().env("MCP_HEARTBEAT", "30ms").start().await;
    let mut socket = tokio::net::TcpStream::connect(cluster.addr(0)).await.unwrap();
    let head = format!("GET {SSE} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    crate::harness::soon("three heartbeats", async {
        while text.matches(": hb").count() < 3 {
            let mut bytes = [0; 4096];
            let count = socket.read(&mut bytes).await.unwrap();
            text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    })
    .await;
    let (_, beats) = text.split_once("\r\n5\r\n").expect("a chunk of the five bytes");
    assert!(beats.starts_with(": hb\n\r\n"), "{beats:?}");
}

/// `POST /mcp/{service}/message` and `POST /mcp/message` take messages for the session that the query names.
#[tokio::test]
async fn messages_are_taken_with_and_without_the_service_in_the_path() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.client().initialize().await;
    let session = client.session();
    for (number, path) in ["/mcp/mcp-server-v6/message", "/mcp/message"].into_iter().enumerate() {
        let id = format!("by-path-{number}");
        let answer = http::post(cluster.addr(0), &format!("{path}?sessionId={session}"), ping(id.as_str())).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        assert_eq!(client.response_to(&json!(id)).await["result"], json!({}));
    }
}

/// `GET /sse` is only unambiguous while there is one service; an unknown one is answered with the known ones.
#[tokio::test]
async fn a_missing_or_unknown_service_is_answered_with_the_known_ones() {
    let upstream = FakeUpstream::start().await;
    let services = format!("alpha={0};beta={0}", upstream.url());
    let cluster = Cluster::builder().upstreams(0).env("MCP_UPSTREAMS", services).start().await;
    let addr = cluster.addr(0);

    let ambiguous = http::get(addr, "/sse").await;
    assert_eq!((ambiguous.status, ambiguous.error_code()), (400, Some(-32600)));
    let message = request(1, "ping", json!({})).to_string();
    let unknown = [
        http::get(addr, "/sse/gamma").await,
        http::get(addr, "/sse?serviceName=gamma").await,
        http::post(addr, "/mcp/gamma/message?sessionId=00112233445566778899aabbccddeeff", message.as_str()).await,
        http::post(addr, "/mcp/router/route/gamma", message.as_str()).await,
        http::get(addr, "/mcp/router/services/gamma/instances").await,
        http::get(addr, "/mcp/router/tools/gamma").await,
    ];
    for response in &unknown {
        assert_eq!((response.status, response.error_code()), (404, Some(-32600)), "{}", response.text());
    }
    for response in unknown.iter().chain([&ambiguous]) {
        assert!(response.text().contains("alpha, beta"), "{}", response.text());
    }
    let client = McpClient::builder([addr]).path("/sse/alpha").initialize().await;
    let elsewhere = format!("/mcp/beta/message?sessionId={}", client.session());
    assert_eq!(http::post(addr, &elsewhere, message.as_str()).await.status, 404, "a session belongs to its service");
}

fn assert_refused(response: &Response, status: u16, code: i64, what: &str) {
    assert_eq!((response.status, response.error_code()), (status, Some(code)), "{what}: {}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"), "{what}");
    let body = response.json();
    assert_eq!(body["jsonrpc"], "2.0", "{what}");
    assert!(!body["error"]["message"].as_str().unwrap().is_empty(), "{what}");
}

/// Bad input gets a status and a JSON-RPC error that say what is wrong, on both surfaces that take messages, and the
/// session goes on.
#[tokio::test]
async fn bad_input_gets_a_clear_answer_and_harms_nothing() {
    let cluster = Cluster::builder().env("MCP_MAX_BODY", "64KiB").start().await;
    let addr = cluster.addr(0);
    let client = cluster.client().initialize().await;
    let message = format!("/mcp/mcp-server-v6/message?sessionId={}", client.session());
    let large = request(1, "ping", json!({ "filler": "x".repeat(64 << 10) })).to_string();

    for path in [message.as_str(), REST] {
        let bodies: [(&str, u16, i64); 14] = [
            ("", 400, -32700),
            ("{", 400, -32700),
            ("hello", 400, -32700),
            ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"} x", 400, -32700),
            ("[]", 400, -32600),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, 400, -32600),
            ("null", 400, -32600),
            ("42", 400, -32600),
            ("{}", 400, -32600),
            (r#"{"id":1,"method":"ping"}"#, 400, -32600),
            (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, 400, -32600),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, 400, -32600),
            (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, 400, -32600),
            (&large, 413, -32600),
        ];
        for (body, status, code) in bodies {
            let what = format!("{path} {body:.60}");
            assert_refused(&http::post(addr, path, body).await, status, code, &what);
        }
        let not_utf8 = http::post(addr, path, [b'"', 0xff, b'"']).await;
        assert_refused(&not_utf8, 400, -32700, "not UTF-8");
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
            let typed = Request::post(path, ping(1)).header("content-type", kind);
            assert_refused(&typed.send(addr).await, 415, -32600, kind);
        }
        let untyped = Request::post(path, ping(1)).without("content-type").send(addr).await;
        assert_refused(&untyped, 415, -32600, "no content type");
    }
    let charset = Request::post(&message, ping("utf8")).header("content-type", "Application/JSON; charset=utf-8");
    assert_eq!(charset.send(addr).await.status, 202);

    let nobody = "00112233445566778899aabbccddeeff";
    for (query, status) in
        [("", 400), ("?sessionId=", 404), ("?sessionId=short", 404), (&format!("?sessionId={nobody}"), 404)]
    {
        for path in ["/mcp/mcp-server-v6/message", "/mcp/message"] {
            let response = http::post(addr, &format!("{path}{query}"), ping(1)).await;
            assert_refused(&response, status, -32600, query);
        }
    }
    let unexpected = http::post(addr, REST, json!({ "jsonrpc": "2.0", "id": 1, "result": {} }).to_string()).await;
    assert_refused(&unexpected, 400, -32600, "a response to REST");

    assert_eq!(client.response_to(&json!("utf8")).await["result"], json!({}), "the session goes on");
}

/// The body limit holds for a body whose length is not announced.
#[tokio::test]
async fn a_chunked_body_beyond_the_limit_is_too_large() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let cluster = Cluster::builder().env("MCP_MAX_BODY", "16KiB").start().await;
    let mut socket = tokio::net::TcpStream::connect(cluster.addr(0)).await.unwrap();
    let head = format!(
        "POST {REST} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096));
    for _ in 0..5 {
        socket.write_all(chunk.as_bytes()).await.unwrap();
    }
    let mut answer = [0; 12];
    crate::harness::soon("an answer before the body's end", socket.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

/// An unknown session, one that ended, one that expired: 404, so that the client knows to begin anew.
#[tokio::test]
async fn a_session_that_is_gone_is_404_and_its_stream_ends() {
    let cluster = Cluster::builder().routers(2).env("MCP_SESSION_TTL", "1s").env("LOG_LEVEL", "debug").start().await;
    let client = cluster.client().initialize().await;
    let path = client.endpoint();
    let deleted = Request::delete(format!("/mcp/router/sessions/{}", client.session())).send(cluster.addr(1)).await;
    assert_eq!(deleted.status, 204);
    assert!(client.connection_end(0).await.is_some(), "the stream of a deleted session ends");
    for addr in cluster.addrs() {
        assert_refused(&http::post(addr, &path, ping(1)).await, 404, -32600, "deleted");
    }
    let client = cluster.client().stays_away().initialize().await;
    client.disconnect().await;
    let (addr, path) = (cluster.addr(0), client.endpoint());
    let session = format!("/mcp/router/sessions/{}", client.session());
    eventually("the end of an idle session's life", || async { http::get(addr, &session).await.status == 404 }).await;
    assert_refused(&http::post(addr, &path, ping(1)).await, 404, -32600, "expired");
}

/// An open stream keeps its session alive beyond the TTL, on whatever instance it is.
#[tokio::test]
async fn an_open_stream_keeps_its_session_alive() {
    let cluster = Cluster::builder().routers(2).env("MCP_SESSION_TTL", "1s").start().await;
    let owner_here = cluster.client().initialize().await;
    let owner_elsewhere = cluster.client().stays_away().initialize().await;
    owner_elsewhere.disconnect().await;
    owner_elsewhere.reconnect(Some(1));
    owner_elsewhere.connection_count(2).await;
    // Another session, idle and without a stream, shows when a whole TTL has passed, twice.
    for _ in 0..2 {
        let idle = cluster.client().stays_away().initialize().await;
        idle.disconnect().await;
        let (addr, path) = (cluster.addr(0), format!("/mcp/router/sessions/{}", idle.session()));
        eventually("the end of an idle session", || async { http::get(addr, &path).await.status == 404 }).await;
    }
    for client in [&owner_here, &owner_elsewhere] {
        assert_eq!(client.text("echo", json!({ "text": "alive" })).await, "alive");
    }
}

/// SEC-3: a foreign Host or Origin is 403 on every surface but the probes; loopback and configured ones pass.
#[tokio::test]
async fn foreign_hosts_and_origins_are_forbidden() {
    let cluster = Cluster::builder()
        .env("MCP_ALLOWED_HOSTS", "localhost,127.0.0.1,mcp-bridge.local")
        .env("MCP_ALLOWED_ORIGINS", "https://app.example.com")
        .start()
        .await;
    let addr = cluster.addr(0);
    let client = cluster.client().initialize().await;
    let requests = [
        Request::get(SSE),
        Request::post(client.endpoint(), ping("guarded")),
        Request::post(REST, ping(1)),
        Request::get("/mcp/router/services"),
        Request::get("/mcp/router/sessions"),
        Request::get("/actuator/info"),
    ];
    for request in &requests {
        for (name, value) in [
            ("host", "evil.example"),
            ("host", "evil.example:8051"),
            ("host", "localhost.evil.example"),
            ("x-forwarded-host", "evil.example"),
            ("origin", "https://evil.example"),
            ("origin", "http://localhost.evil.example"),
            ("origin", "null"),
        ] {
            let response = request.clone().header(name, value).send(addr).await;
            assert_refused(&response, 403, -32600, &format!("{name}: {value}"));
        }
        for (name, value) in [
            ("host", "localhost:9"),
            ("host", "mcp-bridge.local"),
            ("origin", "http://localhost:6274"),
            ("origin", "https://app.example.com"),
        ] {
            let allowed = request.clone().header(name, value);
            let status = match EventStream::request(addr, &allowed).await.unwrap() {
                crate::harness::event_stream::Opened::Stream(_) => 200,
                crate::harness::event_stream::Opened::Refused(response) => response.status,
            };
            assert!(matches!(status, 200 | 202), "{name}: {value}: {status}");
        }
    }
    let probe = Request::get("/actuator/health/liveness").header("host", "10.1.2.3:8051").send(addr).await;
    assert_eq!(probe.status, 200, "probes come with whatever Host");
}

/// Forwarded headers count from trusted proxies only: the prefix of the endpoint, and who may use the admin surface.
#[tokio::test]
async fn forwarded_headers_are_believed_from_trusted_proxies_only() {
    let trusting = Cluster::builder().start().await;
    let behind = Request::get(SSE).header("x-forwarded-prefix", "/mcp-bridge/");
    let endpoint = EventStream::open(trusting.addr(0), &behind).await.event().await.data;
    assert!(endpoint.starts_with("/mcp-bridge/mcp/mcp-server-v6/message?sessionId="), "{endpoint}");
    for bad in ["https://evil.example", "//evil.example", "/a b", "relative"] {
        let request = Request::get(SSE).header("x-forwarded-prefix", bad);
        let endpoint = EventStream::open(trusting.addr(0), &request).await.event().await.data;
        assert!(endpoint.starts_with("/mcp/"), "{bad}: {endpoint}");
    }
    let secure = EventStream::open(trusting.addr(0), &Request::get(SSE).header("x-forwarded-proto", "https")).await;
    assert!(http::header(&secure.headers, "set-cookie").unwrap().contains("Secure"));

    let wary = Cluster::builder().env("MCP_TRUSTED_PROXIES", "none").start().await;
    let endpoint = EventStream::open(wary.addr(0), &behind).await.event().await.data;
    assert!(endpoint.starts_with("/mcp/"), "{endpoint}");
    for address in ["203.0.113.9", "127.0.0.1"] {
        let claimed = Request::get("/mcp/router/sessions").header("x-forwarded-for", address).send(wary.addr(0)).await;
        assert_eq!(claimed.status, 403, "who says so is a proxy, and its clients may be anywhere");
    }
}

/// The base path is free: all surfaces are below it, and the endpoint names it.
#[tokio::test]
async fn all_surfaces_move_below_the_base_path() {
    let mut cluster = Cluster::builder().routers(0).start().await;
    let mut env = cluster.env().clone();
    env.insert("SERVER_BASE_PATH".to_owned(), "/gate/way".to_owned());
    let mut router = crate::harness::RouterProcess::launch(cluster.dir(), "based", &env);
    let addr = router.addr();
    eventually("readiness below the base path", || async move {
        let probe = Request::get("/gate/way/actuator/health/readiness").try_send(addr).await;
        probe.is_ok_and(|response| response.status == 200)
    })
    .await;
    let client = McpClient::builder([addr]).path("/gate/way/sse/mcp-server-v6").initialize().await;
    assert!(client.endpoint().starts_with("/gate/way/mcp/mcp-server-v6/message?"), "{}", client.endpoint());
    assert_eq!(client.text("echo", json!({ "text": "x" })).await, "x");
    assert_eq!(http::get(addr, "/gate/way/mcp/router/services").await.status, 200);
    assert_eq!(http::get(addr, SSE).await.status, 404);
    router.kill();
    cluster.upstreams.clear();
}

/// Discovery probes of OAuth-minded clients get a plain 404 at once, also below a service's own path, where a stream
/// would hang them.
#[tokio::test]
async fn well_known_paths_are_404() {
    let cluster = Cluster::builder().start().await;
    for path in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/sse/mcp-server-v6",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
        "/sse/mcp-server-v6/.well-known/openid-configuration",
        "/sse/.well-known/openid-configuration",
        "/sse/mcp-server-v6/",
        "/nothing",
    ] {
        let response = EventStream::refusal(cluster.addr(0), &Request::get(path)).await;
        assert_eq!(response.status, 404, "{path}");
    }
}

/// MEM-5: one session more than the cap is 503 with Retry-After; an ended one makes room.
#[tokio::test]
async fn sessions_beyond_the_cap_are_refused_until_there_is_room() {
    let cluster = Cluster::builder().env("MCP_MAX_SESSIONS", 2).start().await;
    let addr = cluster.addr(0);
    let first = cluster.client().initialize().await;
    let _second = cluster.client().initialize().await;
    let refused = EventStream::refusal(addr, &Request::get(SSE)).await;
    assert_refused(&refused, 503, -32603, "the third");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(cluster.routers[0].health().await["components"]["sessions"]["status"], "DEGRADED");

    let gone = Request::delete(format!("/mcp/router/sessions/{}", first.session())).send(addr).await;
    assert_eq!(gone.status, 204);
    eventually("room for a third session", || async {
        matches!(
            EventStream::request(addr, &Request::get(SSE)).await.unwrap(),
            crate::harness::event_stream::Opened::Stream(_)
        )
    })
    .await;
}

/// MEM-5: requests of one session beyond the cap are refused with a JSON-RPC error on the stream, whichever instance takes
/// them, since another status than 2xx ends the session of some clients. The others are answered, and then there is room
/// again.
#[tokio::test]
async fn requests_in_flight_beyond_the_cap_are_refused_on_the_stream() {
    let upstream = FakeUpstream::answering(|message| match message["params"]["name"].as_str() {
        Some("long") => Reply::Silence,
        _ => Reply::Result(json!({ "short": true })),
    })
    .await;
    let cluster =
        Cluster::builder().routers(2).upstream_urls([upstream.url()]).env("MCP_MAX_INFLIGHT", 2).start().await;
    let client = cluster.client().initialize().await;
    let first = client.start_call("long", json!({})).await;
    let second = client.start_call("long", json!({})).await;
    upstream.wait_for("tools/call", 2).await;

    // Many more than may be in flight, and more than are claimed at a time.
    let client = &client;
    let refused: Vec<(String, std::net::SocketAddr)> =
        (0..100).map(|number| (format!("refused {number}"), cluster.addr(number % 2))).collect();
    futures_util::future::join_all(refused.iter().map(|(id, addr)| async move {
        client.post_at(*addr, &tool_call(id.as_str(), "short", json!({}))).await;
        let answer = client.response_to(&json!(id)).await;
        assert_eq!(answer["error"]["code"], -32603, "{answer}");
        assert_eq!(
            (&answer["error"]["data"]["outcome"], &answer["error"]["data"]["retry"]),
            (&json!("not_executed"), &json!(true))
        );
    }))
    .await;
    for addr in cluster.addrs() {
        client.post_at(addr, &json!({ "jsonrpc": "2.0", "method": "notifications/any" })).await;
    }
    upstream.wait_for("notifications/any", 2).await;

    let calls = upstream.wait_for("tools/call", 2).await;
    for call in calls {
        upstream.send(upstream.open_sessions()[0], &json!({ "jsonrpc": "2.0", "id": call["id"], "result": {} })).await;
    }
    for id in [first, second] {
        client.response(id).await;
    }
    for addr in cluster.addrs() {
        let id = format!("room at {addr}");
        client.post_at(addr, &tool_call(id.as_str(), "short", json!({}))).await;
        assert_eq!(client.response_to(&json!(id)).await["result"], json!({ "short": true }));
    }
    assert_eq!(upstream.received_of("tools/call").len(), 4, "what was refused was not run");
    let redis = cluster.redis_client().await;
    assert!(redis.pending(&client.session()).await.is_empty());
    crate::harness::Oracle::exactly_once(client);
    crate::harness::Oracle::every_request_answered_once(client);
}

/// MEM-5: REST calls beyond the cap are refused.
#[tokio::test]
async fn rest_calls_beyond_the_cap_are_refused() {
    let upstream = FakeUpstream::answering(|_| Reply::Silence).await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).env("MCP_REST_MAX_INFLIGHT", 1).start().await;
    let addr = cluster.addr(0);
    // One of those below may be faster: then this one is refused, and tries again.
    let busy = tokio::spawn(async move {
        while http::post(addr, REST, tool_call(1, "x", json!({})).to_string()).await.status == 503 {}
    });
    eventually("a refusal", || async move {
        let refused = http::post(addr, REST, ping(1)).await;
        refused.status == 503 && refused.error_code() == Some(-32603) && refused.header("retry-after").is_some()
    })
    .await;
    busy.abort();
}

/// `POST /mcp/router/route/{service}`: one request in, its response out; the id's type stays; `initialize` and
/// notifications are taken too.
#[tokio::test]
async fn rest_answers_with_the_callers_own_id() {
    let cluster = Cluster::builder().start().await;
    let addr = cluster.addr(0);
    for id in [json!(7), json!("seven"), json!("7"), json!(-1), json!("a \"b\"")] {
        let answer = http::post(addr, REST, tool_call(id.clone(), "echo", json!({ "text": "x" })).to_string()).await;
        assert_eq!(answer.status, 200);
        let answer = answer.json();
        assert_eq!(answer["id"], id);
        assert_eq!(answer["result"]["content"][0]["text"], "x");
    }
    let initialize = request(
        "i",
        "initialize",
        json!({ "protocolVersion": "2025-06-18", "capabilities": {},
        "clientInfo": { "name": "rest", "version": "0" } }),
    );
    let answer = http::post(addr, REST, initialize.to_string()).await.json();
    assert_eq!((&answer["id"], &answer["result"]["serverInfo"]["name"]), (&json!("i"), &json!("mcp-server-v6")));
    let note = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    assert_eq!(http::post(addr, REST, note.to_string()).await.status, 202);
    let error = http::post(addr, REST, request(1, "no/such", json!({})).to_string()).await;
    assert_eq!((error.status, error.error_code()), (200, Some(-32601)), "the server's own error is an answer");
}

/// REST callers share sessions upstream, and still nobody gets another's answer, even with equal ids.
#[tokio::test]
async fn rest_callers_with_equal_ids_get_their_own_answers() {
    let cluster = Cluster::builder().upstreams(2).start().await;
    let addr = cluster.addr(0);
    let calls: Vec<_> = (0..40)
        .map(|number| {
            tokio::spawn(async move {
                let text = format!("caller-{number}");
                let arguments = json!({ "ms": (number * 7) % 50, "text": text });
                let answer = http::post(addr, REST, tool_call(1, "wait", arguments).to_string()).await.json();
                assert_eq!((&answer["id"], &answer["result"]["content"][0]["text"]), (&json!(1), &json!(text)));
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let sessions = cluster.upstreams[0].sessions().await + cluster.upstreams[1].sessions().await;
    assert!(sessions <= 4, "shared sessions, one for each endpoint and thread: {sessions}");
}

/// REST with a server in trouble: 502 when it cannot be reached or breaks off, 504 when it does not answer in time, 503
/// when it is known to be down; each with a JSON-RPC error that says whether a retry helps.
#[tokio::test]
async fn rest_says_what_is_wrong_with_the_upstream() {
    let upstream = FakeUpstream::answering(|_| Reply::Silence).await;
    let cluster = Cluster::builder()
        .upstream_urls([upstream.url()])
        .env("MCP_UPSTREAM_REQUEST_TIMEOUT", "200ms")
        .env("MCP_UPSTREAM_HEALTH_INTERVAL", "1h")
        .env("MCP_UPSTREAM_BACKOFF_MIN", "1m")
        .env("MCP_UPSTREAM_BACKOFF_MAX", "1m")
        .start()
        .await;
    let addr = cluster.addr(0);
    let call = tool_call("late", "x", json!({})).to_string();
    let late = http::post(addr, REST, call.as_str()).await;
    assert_refused(&late, 504, -32001, "no answer in time");
    assert_eq!((&late.json()["id"], &late.json()["error"]["data"]["retry"]), (&json!("late"), &json!(false)));

    drop(upstream);
    let mut statuses = Vec::new();
    while statuses.last() != Some(&503) {
        let response = http::post(addr, REST, call.as_str()).await;
        statuses.push(response.status);
        assert!(statuses.len() < 20, "the breaker never opens: {statuses:?}");
        if response.status == 504 {
            // The fake has not quite gone: it took the request and does not answer.
            continue;
        }
        assert!(matches!(response.status, 502 | 503), "{}", response.text());
        let (reachable, retry) = (response.error_code() != Some(-32000), &response.json()["error"]["data"]["retry"]);
        assert_eq!(*retry, json!(!reachable), "{}", response.text());
    }
    assert!(statuses.contains(&502), "{statuses:?}");
}

/// Services, their endpoints and their tools are listed.
#[tokio::test]
async fn services_instances_and_tools_are_listed() {
    let cluster = Cluster::builder().upstreams(2).start().await;
    let addr = cluster.addr(0);
    let services = http::get(addr, "/mcp/router/services").await.json();
    assert_eq!(services["services"][0]["name"], "mcp-server-v6");
    assert_eq!((&services["services"][0]["instances"], &services["services"][0]["healthy"]), (&json!(2), &json!(2)));

    let instances = http::get(addr, "/mcp/router/services/mcp-server-v6/instances").await.json();
    let urls: Vec<&str> =
        instances["instances"].as_array().unwrap().iter().map(|one| one["url"].as_str().unwrap()).collect();
    assert_eq!(urls, cluster.upstreams.iter().map(|server| server.url()).collect::<Vec<_>>());

    let tools = http::get(addr, "/mcp/router/tools/mcp-server-v6").await.json();
    let names: Vec<&str> =
        tools["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    for name in ["getAllPersons", "getPersonById", "addPerson", "get_system_info", "list_servers"] {
        assert!(names.contains(&name), "{names:?}");
    }
}

/// Sessions are read from the store: the same on every instance, whoever owns them.
#[tokio::test]
async fn sessions_are_listed_the_same_on_every_instance() {
    let cluster = Cluster::builder().routers(3).start().await;
    let mut expected = Vec::new();
    let mut clients = Vec::new();
    for index in 0..3 {
        let client = cluster.client_of(index).initialize().await;
        expected.push((client.session(), format!("router-instance-{}", index + 1)));
        clients.push(client);
    }
    expected.sort();
    for addr in cluster.addrs() {
        let list = http::get(addr, "/mcp/router/sessions").await.json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut listed: Vec<(String, String)> = list["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|session| (text(&session["handle"]), text(&session["owner"])))
            .collect();
        listed.sort();
        let handles = expected.iter().map(|(session, owner)| (session[..12].to_owned(), owner.clone()));
        assert_eq!(listed, handles.collect::<Vec<_>>());
        for (session, owner) in &expected {
            assert!(!list.to_string().contains(session), "a session's id is its secret");
            for name in [&session[..12], &session[..10], &format!("{}…", &session[..11])] {
                let path = format!("/mcp/router/sessions/{}", name.replace('…', "%E2%80%A6"));
                let one = http::get(addr, &path).await;
                assert_eq!((one.status, &one.json()["owner"]), (200, &json!(owner)), "{name}");
                assert!(!one.text().contains(session));
            }
            let one = http::get(addr, &format!("/mcp/router/sessions/{session}")).await.json();
            assert_eq!((&one["owner"], &one["service"]), (&json!(owner), &json!("mcp-server-v6")));
            assert_eq!(one["initialized"], true);
        }
        let limited = http::get(addr, "/mcp/router/sessions?limit=2").await.json();
        assert_eq!((&limited["count"], &limited["more"]), (&json!(2), &json!(true)));
        assert_eq!(http::get(addr, "/mcp/router/sessions/00112233445566778899aabbccddeeff").await.status, 404);
        for nobody in ["nonsense", "00112", "001122334455", "00*", "%2A"] {
            assert_eq!(http::get(addr, &format!("/mcp/router/sessions/{nobody}")).await.status, 404, "{nobody}");
        }
    }
    let (session, _) = &expected[0];
    let gone = Request::delete(format!("/mcp/router/sessions/{}", &session[..12]));
    assert_eq!(gone.send(cluster.addr(1)).await.status, 204);
    assert_eq!(http::get(cluster.addr(2), &format!("/mcp/router/sessions/{session}")).await.status, 404);
}

/// Strangers, and whoever comes through a proxy on this host, are told how it is and nothing else; the details are for this
/// machine itself and for the token.
#[tokio::test]
async fn strangers_are_told_how_it_is_and_no_more() {
    let mut cluster = Cluster::builder()
        .env("MCP_ADMIN_TOKEN", "open-sesame")
        .env("REDIS_TIMEOUT", "100ms")
        .env("MCP_UPSTREAM_HEALTH_INTERVAL", "50ms")
        .start()
        .await;
    let addr = cluster.addr(0);
    let server = cluster.upstreams[0].url();
    let redis = cluster.redis().port().to_string();
    cluster.upstreams[0].kill();
    eventually("a server that is down", || async move {
        http::get(addr, "/actuator/health").await.json()["status"] == "DEGRADED"
    })
    .await;
    cluster.redis().kill();
    let instances = "/mcp/router/services/mcp-server-v6/instances";
    for path in ["/actuator/health", "/actuator/health/readiness", "/actuator/info", instances] {
        let own = http::get(addr, path).await;
        for name in ["x-forwarded-for", "x-forwarded-host", "forwarded", "x-real-ip", "via", "x-forwarded-proto"] {
            let value = match name {
                "x-forwarded-host" => "localhost",
                "forwarded" => "for=127.0.0.1",
                _ => "127.0.0.1",
            };
            let stranger = Request::get(path).header(name, value);
            let told = stranger.send(addr).await;
            assert_eq!(told.status, own.status, "{path}");
            let text = told.text();
            for secret in [server.as_str(), "127.0.0.1", redis.as_str(), "error", "Error", "router-instance-1"] {
                assert!(!text.contains(secret), "{path} with {name} tells {secret}: {text}");
            }
            let with_token = stranger.header("authorization", "Bearer open-sesame").send(addr).await;
            assert_eq!(with_token.json().as_object().unwrap().len(), own.json().as_object().unwrap().len(), "{path}");
        }
    }
    let health = Request::get("/actuator/health").header("x-forwarded-for", "203.0.113.9").send(addr).await;
    assert_eq!(
        health.json(),
        json!({ "status": "DOWN", "components": {
            "redis": { "status": "DOWN" }, "upstreams": { "status": "DEGRADED" }, "sessions": { "status": "UP" }
        }})
    );
    let foreign = Request::get("/actuator/health").header("host", "evil.example").send(addr).await;
    assert_refused(&foreign, 403, -32600, "health is no probe: its Host counts");
    let refused = Request::get("/mcp/router/sessions").header("x-forwarded-for", "127.0.0.1").send(addr).await;
    assert_refused(&refused, 403, -32600, "a second proxy on this host");
}

/// Sessions' ids are secrets: the admin surface is for loopback and for the admin token.
#[tokio::test]
async fn the_admin_surface_is_for_loopback_or_the_token() {
    let cluster = Cluster::builder().env("MCP_ADMIN_TOKEN", "open-sesame").start().await;
    let addr = cluster.addr(0);
    let client = cluster.client().initialize().await;
    let one = format!("/mcp/router/sessions/{}", client.session());
    for request in [Request::get("/mcp/router/sessions"), Request::get(&one), Request::delete(&one)] {
        let from_afar = request.header("x-forwarded-for", "203.0.113.9");
        assert_refused(&from_afar.send(addr).await, 403, -32600, "from afar");
        let wrong = from_afar.clone().header("authorization", "Bearer open-sesam");
        assert_refused(&wrong.send(addr).await, 403, -32600, "a wrong token");
        for other in
            ["open-sesame", "Bearer", "Bearer ", "Basic open-sesame", "Beareropen-sesame", "Bearer open-sesame x"]
        {
            let told = from_afar.clone().header("authorization", other).send(addr).await;
            assert_refused(&told, 403, -32600, other);
        }
        let right = from_afar.header("authorization", "Bearer open-sesame").send(addr).await;
        assert!(matches!(right.status, 200 | 204), "{}", right.text());
    }
}

/// RFC 9110, section 11.1: the name of a scheme is case-insensitive.
#[tokio::test]
async fn the_scheme_of_the_admin_token_is_read_in_any_case() {
    let cluster = Cluster::builder().env("MCP_ADMIN_TOKEN", "open-sesame").start().await;
    for scheme in ["Bearer ", "bearer ", "BEARER ", "Bearer  "] {
        let request = Request::get("/mcp/router/sessions").header("x-forwarded-for", "203.0.113.9");
        let told = request.header("authorization", &format!("{scheme}open-sesame")).send(cluster.addr(0)).await;
        assert_eq!(told.status, 200, "{scheme:?}: {}", told.text());
    }
}

/// `/actuator/health` is UP, DEGRADED when some of it is not, DOWN (503) without Redis, and UP again; liveness stays.
#[tokio::test]
async fn health_tells_up_degraded_and_down() {
    let mut cluster = Cluster::builder()
        .upstreams(2)
        .env("REDIS_TIMEOUT", "200ms")
        .env("MCP_UPSTREAM_HEALTH_INTERVAL", "50ms")
        .env("MCP_UPSTREAM_BACKOFF_MAX", "200ms")
        .start()
        .await;
    let addr = cluster.addr(0);
    let status_is = |status: u16, word: &'static str| async move {
        let health = http::get(addr, "/actuator/health").await;
        health.status == status && health.json()["status"] == word
    };
    eventually("UP", || status_is(200, "UP")).await;
    let body = http::get(addr, "/actuator/health").await.json();
    for component in ["redis", "upstreams", "sessions"] {
        assert_eq!(body["components"][component]["status"], "UP", "{component}");
    }
    assert_eq!(body["instance"], "router-instance-1");

    cluster.upstreams[0].kill();
    eventually("DEGRADED", || status_is(200, "DEGRADED")).await;
    let instances = http::get(addr, "/mcp/router/services/mcp-server-v6/instances").await.json();
    assert_ne!(instances["instances"][0]["status"], "UP");
    assert_eq!(instances["instances"][1]["status"], "UP");
    cluster.upstreams[0].restart().await;
    eventually("UP after DEGRADED", || status_is(200, "UP")).await;

    cluster.redis().freeze();
    eventually("DOWN", || status_is(503, "DOWN")).await;
    assert_eq!(http::get(addr, "/actuator/health/readiness").await.status, 503);
    assert_eq!(http::get(addr, "/actuator/health/liveness").await.status, 200);
    cluster.redis().thaw();
    eventually("UP after DOWN", || status_is(200, "UP")).await;
    assert_eq!(http::get(addr, "/actuator/health/readiness").await.status, 200);
    let info = http::get(addr, "/actuator/info").await.json();
    assert_eq!((&info["app"]["name"], &info["instance"]["id"]), (&json!("mcp-router"), &json!("router-instance-1")));
}

/// MEM-5
#[actix_web::test]
async fn messages_of_one_session_hold_so_many_bytes_and_no_more() {
    for redis in [true, false] {
        let upstream = FakeUpstream::answering(|message| match message["method"].as_str() {
            Some("initialize") => Reply::Result(json!({ "protocolVersion": "2024-11-05", "capabilities": {} })),
            _ => Reply::Silence,
        })
        .await;
        let builder = Cluster::builder().upstream_urls([upstream.url()]).env("MCP_MAX_BODY", "64KiB");
        let builder = builder.env("MCP_MAX_INBOX_BYTES", "256KiB");
        let cluster = if redis { builder.routers(2) } else { builder.without_redis() }.start().await;
        let client = cluster.client_of(0).initialize().await;
        let post =
            async |client: &McpClient, addr, message: &Value| client.try_post_at(addr, message, None).await.unwrap();
        let large = |id: &str| tool_call(id, "hold", json!({ "text": "x".repeat(60 << 10) }));
        let owner = cluster.addr(0);
        for number in 0..4 {
            assert_eq!(post(&client, owner, &large(&format!("held {number}"))).await.status, 202);
        }
        upstream.wait_for("tools/call", 4).await;

        let refused = post(&client, owner, &large("refused")).await;
        let error = if refused.status == 202 { client.response_to(&json!("refused")).await } else { refused.json() };
        assert!(error["error"]["message"].as_str().unwrap().contains("MCP_MAX_INBOX_BYTES"), "{error}");
        assert_eq!(error["error"]["data"]["retry"], true);
        if redis {
            let elsewhere = post(&client, cluster.addr(1), &large("refused elsewhere")).await;
            let text = elsewhere.text();
            assert!(elsewhere.status == 503 && text.contains("MCP_MAX_INBOX_BYTES"), "{} {text}", elsewhere.status);
            assert!(elsewhere.header("retry-after").is_some());
        }
        // Another session is none of its business, and what fits is still taken.
        let other = cluster.client_of(0).initialize().await;
        assert_eq!(post(&other, owner, &large("other")).await.status, 202);
        assert_eq!(post(&client, owner, &tool_call("small", "hold", json!({}))).await.status, 202);
        let calls = upstream.wait_for("tools/call", 6).await;

        let first = calls.iter().find(|call| call["id"] == "held 0").expect("it was forwarded");
        let sessions = upstream.open_sessions();
        upstream.send(sessions[0], &json!({ "jsonrpc": "2.0", "id": first["id"], "result": {} })).await;
        client.response_to(&json!("held 0")).await;
        assert_eq!(post(&client, owner, &large("room again")).await.status, 202);
        upstream.wait_for("tools/call", 7).await;
    }
}

/// MEM-5
#[actix_web::test]
async fn sessions_together_hold_so_many_bytes_and_no_more() {
    let upstream = FakeUpstream::answering(|message| match message["method"].as_str() {
        Some("initialize") => Reply::Result(json!({ "protocolVersion": "2024-11-05", "capabilities": {} })),
        _ => Reply::Silence,
    })
    .await;
    let builder = Cluster::builder().routers(2).upstream_urls([upstream.url()]).env("MCP_MAX_HELD_BYTES", "512KiB");
    let cluster = builder.start().await;
    let owner = cluster.addr(0);
    let large = |id: &str| tool_call(id, "hold", json!({ "text": "x".repeat(100 << 10) }));
    let mut clients = Vec::new();
    for number in 0..5 {
        let client = cluster.client_of(0).initialize().await;
        client.post_at(owner, &large(&format!("held {number}"))).await;
        clients.push(client);
    }
    upstream.wait_for("tools/call", 5).await;
    assert!(cluster.routers[0].metric("mcp_router_held_bytes", None).await > f64::from(500 << 10));
    let last = cluster.client_of(0).initialize().await;
    let refused = last.try_post_at(owner, &large("refused"), None).await.unwrap();
    assert!(refused.status == 503 && refused.text().contains("MCP_MAX_HELD_BYTES"), "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    // Another instance does not know; the owner says it on the stream.
    last.post_at(cluster.addr(1), &large("by another")).await;
    let error = last.response_to(&json!("by another")).await;
    assert_eq!(error["error"]["data"]["reason"], "instance_full", "{error}");
    // Usual ones go on, and so do all when there is room again.
    last.post_at(owner, &tool_call("small", "hold", json!({}))).await;
    let calls = upstream.wait_for("tools/call", 6).await;
    let first = calls.iter().find(|call| call["id"] == "held 0").expect("it was forwarded");
    upstream.send(upstream.open_sessions()[0], &json!({ "jsonrpc": "2.0", "id": first["id"], "result": {} })).await;
    clients[0].response_to(&json!("held 0")).await;
    last.post_at(owner, &large("room again")).await;
    upstream.wait_for("tools/call", 7).await;
}

/// A GET that takes no event stream (the probe of mcp-use) is refused at once, and leaves no session behind.
#[tokio::test]
async fn a_get_that_takes_no_event_stream_is_refused() {
    let cluster = Cluster::builder().start().await;
    let addr = cluster.addr(0);
    for path in [SSE, "/sse?serviceName=mcp-server-v6", "/sse"] {
        for accept in ["application/json", "text/html, application/xhtml+xml;q=0.9", "text/event-stream;q=0"] {
            let refused = Request::get(path).header("accept", accept).send(addr).await;
            assert_refused(&refused, 406, -32600, accept);
        }
    }
    assert_eq!(cluster.metric("mcp_router_sessions", None).await, 0.0);
    // What follows the head of a stream is not waited for: only its status.
    for accept in [Some("*/*"), Some("text/*"), Some("application/json, text/event-stream"), Some(""), Some(","), None]
    {
        let head = accept.map_or_else(String::new, |accept| format!("accept: {accept}\r\n"));
        assert!(head_of(addr, &format!("GET {SSE} HTTP/1.1\r\nhost: localhost\r\n{head}\r\n")).await.contains(" 200 "));
    }
}

/// RFC 9112 section 6.1: no Transfer-Encoding in an answer to HTTP/1.0; the stream ends with its connection, also when the
/// client would keep that.
#[tokio::test]
async fn a_stream_over_http_1_0_has_no_chunks() {
    let cluster = Cluster::builder().start().await;
    for (path, more) in [(SSE, ""), ("/sse", "connection: keep-alive\r\n")] {
        let answer = head_of(cluster.addr(0), &format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n{more}\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let head = head.to_ascii_lowercase();
        assert!(
            head.contains(" 200 ") && !head.contains("transfer-encoding") && !head.contains("keep-alive"),
            "{head}"
        );
        assert!(body.starts_with("id: "), "{body:?}");
    }
    let now = head_of(cluster.addr(0), &format!("GET {SSE} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
    assert!(now.to_ascii_lowercase().contains("transfer-encoding: chunked"));
}

/// What comes back until the first event is there.
async fn head_of(addr: std::net::SocketAddr, request: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut socket = tokio::net::TcpStream::connect(addr).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    crate::harness::soon("the first event", async {
        while !text.contains("\n\n") || !text.contains("event: endpoint") {
            let mut bytes = [0; 4096];
            let count = socket.read(&mut bytes).await.unwrap();
            assert!(count > 0, "{text}");
            text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    })
    .await;
    text
}

/// Clients that try Streamable HTTP first at the URL of an event stream fall back on 404, and people read where to go; the error
/// answers the request.
#[tokio::test]
async fn a_client_of_another_transport_is_told_where_to_go() {
    let cluster = Cluster::builder().start().await;
    let addr = cluster.addr(0);
    let body = request("try", "initialize", json!({})).to_string();
    let slash = format!("{SSE}/");
    for path in [SSE, "/sse", &slash, "/sse/"] {
        let refused = http::post(addr, path, body.clone()).await;
        assert_refused(&refused, 404, -32600, path);
        let error = refused.json();
        assert_eq!((&error["id"], &error["error"]["data"]["reason"]), (&json!("try"), &json!("other_transport")));
        let text = error["error"]["message"].as_str().unwrap();
        assert!(text.contains("GET /sse/mcp-server-v6") && text.contains("POST to /mcp/mcp-server-v6"), "{text}");
        assert_refused(&http::post(addr, path, "no JSON").await, 404, -32600, path);
    }
    for path in [slash.as_str(), "/sse/"] {
        assert_refused(&http::get(addr, path).await, 404, -32600, path);
        assert_refused(&Request::delete(path).send(addr).await, 404, -32600, path);
    }
    assert_eq!(cluster.metric("mcp_router_sessions", None).await, 0.0);
    for path in ["/mcp/mcp-server-v6", "/mcp", "/mcp/mcp-server-v6/", "/mcp/"] {
        let begun = http::post(addr, path, body.clone()).await;
        assert!(begun.status == 200 && begun.header("mcp-session-id").is_some(), "{path}: {}", begun.text());
    }
}
