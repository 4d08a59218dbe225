//! HTTP as browsers, proxies and probes speak it: CORS, methods, content codings, lists of forwarded values, and an error
//! in JSON-RPC whatever is wrong.

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::harness::{
    Cluster, EventStream,
    http::{self, Request, Response},
    mcp_client::request,
};

const SSE: &str = "/sse/mcp-server-v6";
const REST: &str = "/mcp/router/route/mcp-server-v6";
const PAGE: &str = "https://app.example";

/// Each surface, with the methods that it takes.
const SURFACES: [(&str, &str); 18] = [
    ("/sse", "GET, HEAD"),
    (SSE, "GET, HEAD"),
    ("/mcp/mcp-server-v6/message", "POST"),
    ("/mcp/another/message", "POST"),
    ("/mcp/message", "POST"),
    (REST, "POST"),
    ("/mcp/router/services", "GET, HEAD"),
    ("/mcp/router/services/mcp-server-v6/instances", "GET, HEAD"),
    ("/mcp/router/tools/mcp-server-v6", "GET, HEAD"),
    ("/mcp/router/sessions", "GET, HEAD"),
    ("/mcp/router/sessions/00112233445566778899aabbccddeeff", "GET, HEAD, DELETE"),
    ("/actuator/health", "GET, HEAD"),
    ("/actuator/health/liveness", "GET, HEAD"),
    ("/actuator/prometheus", "GET, HEAD"),
    ("/ui/", "GET, HEAD"),
    ("/mcp/router/deployment", "GET, HEAD"),
    ("/mcp/router/sessions/001122334455/timeline", "GET, HEAD"),
    ("/mcp/router/instances/nobody/drain", "POST"),
];

fn ping() -> String {
    request(1, "ping", json!({})).to_string()
}

fn assert_json_rpc_error(response: &Response, status: u16, what: &str) {
    assert_eq!(response.status, status, "{what}: {}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"), "{what}");
    let body = response.json();
    assert_eq!(body["jsonrpc"], "2.0", "{what}");
    assert!(body["error"]["code"].is_i64() && body["error"]["message"].is_string(), "{what}: {body}");
}

fn listed<'a>(response: &'a Response, name: &str) -> Vec<&'a str> {
    response.header(name).unwrap_or_default().split(',').map(str::trim).collect()
}

/// Fetch standard, CORS protocol: a preflight of an allowed origin is 2xx on every path, with what it asked for.
#[tokio::test]
async fn a_preflight_of_an_allowed_origin_succeeds_on_every_path() {
    let cluster = Cluster::builder().env("MCP_ALLOWED_ORIGINS", PAGE).start().await;
    let addr = cluster.addr(0);
    let paths =
        SURFACES.map(|(path, _)| path).into_iter().chain(["/", "/nothing", "/.well-known/openid-configuration"]);
    for path in paths {
        for (origin, method) in [(PAGE, "POST"), ("http://localhost:6274", "DELETE")] {
            let preflight = Request::with_method("OPTIONS", path)
                .header("origin", origin)
                .header("access-control-request-method", method)
                .header("access-control-request-headers", "content-type,mcp-protocol-version,x-api-key");
            let answer = preflight.send(addr).await;
            assert!((200..300).contains(&answer.status), "{path}: {}", answer.status);
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin), "{path}");
            assert!(listed(&answer, "access-control-allow-methods").contains(&method), "{path}");
            let allowed = answer.header("access-control-allow-headers").unwrap();
            assert!(allowed.contains("mcp-protocol-version") && allowed.contains("x-api-key"), "{path}: {allowed}");
            assert!(listed(&answer, "vary").contains(&"Origin"), "{path}");
        }
    }
    let evil = Request::with_method("OPTIONS", REST)
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "POST");
    let answer = evil.send(addr).await;
    assert_json_rpc_error(&answer, 403, "a foreign origin");
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

/// An allowed page may read every answer, errors and streams, too, and the headers that matter; programs get none of this.
#[tokio::test]
async fn an_allowed_page_may_read_every_answer() {
    let cluster = Cluster::builder().env("MCP_ALLOWED_ORIGINS", PAGE).start().await;
    let addr = cluster.addr(0);
    let client = cluster.client().initialize().await;
    for (request, status) in [
        (Request::post(REST, ping()), 200),
        (Request::post(client.endpoint(), ping()), 202),
        (Request::get("/mcp/router/services"), 200),
        (Request::get("/actuator/health"), 200),
        (Request::get("/actuator/health/liveness"), 200),
        (Request::post(REST, "{"), 400),
        (Request::post(REST, ping()).header("content-type", "text/plain"), 415),
        (Request::post("/mcp/message", ping()), 400),
        (Request::get("/nothing"), 404),
        (Request::with_method("PUT", REST), 405),
        (Request::get("/sse/unknown"), 404),
    ] {
        let plain = request.send(addr).await;
        assert_eq!((plain.status, plain.header("access-control-allow-origin")), (status, None));
        let answer = request.header("origin", PAGE).send(addr).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE), "{status}");
        assert!(listed(&answer, "vary").contains(&"Origin"), "{status}");
        let exposed = listed(&answer, "access-control-expose-headers");
        for name in ["Mcp-Session-Id", "WWW-Authenticate", "Retry-After", "X-Request-ID"] {
            assert!(exposed.contains(&name), "{name}: {exposed:?}");
        }
    }
    let stream = EventStream::open(addr, &Request::get(SSE).header("origin", PAGE)).await;
    assert_eq!(http::header(&stream.headers, "access-control-allow-origin"), Some(PAGE));
}

/// RFC 9110, sections 15.5.6 and 9.3.7: what a path does not take is 405 with `Allow`, and OPTIONS tells the same.
#[tokio::test]
async fn a_method_that_a_path_does_not_take_is_405_with_allow() {
    let cluster = Cluster::builder().start().await;
    let addr = cluster.addr(0);
    for (path, methods) in SURFACES {
        let methods: Vec<&str> = methods.split(", ").collect();
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            // What such a client tries first on a stream's path has an answer of its own.
            if methods.contains(&method) || (method == "POST" && path.starts_with("/sse")) {
                continue;
            }
            let answer = Request::with_method(method, path).header("content-length", "0").send(addr).await;
            assert_json_rpc_error(&answer, 405, &format!("{method} {path}"));
            for allowed in &methods {
                assert!(listed(&answer, "allow").contains(allowed), "{method} {path}: {:?}", answer.header("allow"));
            }
        }
        let answer = Request::with_method("OPTIONS", path).send(addr).await;
        assert!((200..300).contains(&answer.status), "{path}");
        assert!(listed(&answer, "allow").contains(&methods[0]), "{path}");
    }
}

/// HEAD is GET without a body (RFC 9110, section 9.3.2); of a stream it opens no session.
#[tokio::test]
async fn head_answers_as_get_and_opens_nothing() {
    let cluster = Cluster::builder().start().await;
    let addr = cluster.addr(0);
    for (path, methods) in SURFACES {
        if !methods.contains("HEAD") || path.contains("sessions/") {
            continue;
        }
        let head = Request::with_method("HEAD", path).send(addr).await;
        assert_eq!(head.status, 200, "{path}");
        assert!(head.body.is_empty(), "{path}");
        let content_type = head.header("content-type").unwrap().to_owned();
        if path.starts_with("/sse") {
            assert_eq!(content_type, "text/event-stream");
            continue;
        }
        let get = http::get(addr, path).await;
        assert_eq!(get.header("content-type"), Some(content_type.as_str()), "{path}");
    }
    assert_eq!(Request::with_method("HEAD", "/sse/unknown").send(addr).await.status, 404);
    assert_eq!(http::get(addr, "/mcp/router/sessions").await.json()["count"], 0);
}

/// RFC 9110, sections 8.4, 12.5.3 and 15.5.16.
#[tokio::test]
async fn a_content_coding_is_refused_by_name() {
    let cluster = Cluster::builder().start().await;
    let addr = cluster.addr(0);
    let client = cluster.client().initialize().await;
    for path in [REST, client.endpoint().as_str()] {
        for coding in ["gzip", "br", "zstd", "gzip, identity"] {
            let answer = Request::post(path, ping()).header("content-encoding", coding).send(addr).await;
            assert_json_rpc_error(&answer, 415, coding);
            assert!(answer.text().contains("Content-Encoding"), "{}", answer.text());
            assert_eq!(answer.header("accept-encoding"), Some("identity"));
        }
        for none in ["identity", "Identity", "", ",", "identity, ", "identity, identity"] {
            let plain = Request::post(path, ping()).header("content-encoding", none).send(addr).await;
            assert!(matches!(plain.status, 200 | 202), "{none:?}: {}", plain.text());
        }
        let typed = Request::post(path, ping()).header("content-type", "text/plain").send(addr).await;
        assert_json_rpc_error(&typed, 415, "a content type");
        assert_eq!(typed.header("accept-encoding"), None);
    }
}

/// Whatever is wrong, it is said in JSON-RPC.
#[tokio::test]
async fn every_error_is_a_json_rpc_error() {
    let cluster = Cluster::builder().start().await;
    let addr = cluster.addr(0);
    let client = cluster.client().initialize().await;
    for (request, status) in [
        (Request::get("/sse?serviceName=a&serviceName=b"), 400),
        (Request::get(format!("{SSE}?sessionId=a&sessionId=b")), 400),
        (Request::with_method("HEAD", "/sse?serviceName=a&serviceName=b"), 400),
        (Request::get("/mcp/router/sessions?limit=many"), 400),
        (Request::get("/mcp/router/sessions?limit=1&limit=2"), 400),
        (Request::post(format!("{}&sessionId=b", client.endpoint()), ping()), 400),
        (Request::get("/"), 404),
        (Request::get("/nothing"), 404),
        (Request::get("/sse/%FF%FE"), 404),
        (Request::post("/mcp//message", ping()), 404),
        (Request::post("/mcp/router/route/", ping()), 404),
        (Request::with_method("DELETE", "/actuator"), 404),
        (Request::get("/mcp/router/tools/unknown"), 404),
        (Request::delete("/mcp/router/sessions/nonsense"), 404),
    ] {
        let what = format!("{request:?}");
        let answer = request.send(addr).await;
        if what.contains("\"HEAD\"") {
            assert_eq!(answer.status, status, "{what}");
        } else {
            assert_json_rpc_error(&answer, status, &what);
        }
    }
}

/// SEC-3: two values for what decides who speaks are one too many.
#[tokio::test]
async fn two_hosts_or_two_origins_are_refused() {
    let cluster = Cluster::builder().env("MCP_ALLOWED_ORIGINS", PAGE).start().await;
    let addr = cluster.addr(0);
    for path in [SSE, "/mcp/router/services", "/actuator/health"] {
        for second in [PAGE, "https://evil.example"] {
            let two = Request::get(path).header("origin", PAGE).also("origin", second);
            assert_json_rpc_error(&EventStream::refusal(addr, &two).await, 403, path);
        }
        let two = Request::get(path).header("host", "localhost").also("host", "evil.example");
        let refused = EventStream::refusal(addr, &two).await;
        assert!((400..500).contains(&refused.status), "{path}: {}", refused.status);
    }
}

/// Behind two proxies in a row the first value of a list is what the client sees.
#[tokio::test]
async fn of_lists_of_forwarded_values_the_first_counts() {
    let cluster = Cluster::builder().start().await;
    let addr = cluster.addr(0);
    let behind = Request::get(SSE)
        .header("x-forwarded-host", "mcp-bridge.local, inner.example:8080")
        .header("x-forwarded-prefix", "/mcp-bridge, /inner")
        .header("x-forwarded-proto", "https, http");
    let mut stream = EventStream::open(addr, &behind).await;
    let cookie = http::header(&stream.headers, "set-cookie").unwrap().to_owned();
    assert!(cookie.contains("Secure") && cookie.contains("SameSite=Strict") && cookie.contains("HttpOnly"), "{cookie}");
    let endpoint = stream.event().await.data;
    assert!(endpoint.starts_with("/mcp-bridge/mcp/mcp-server-v6/message?"), "{endpoint}");
    let foreign = Request::get(SSE).header("x-forwarded-host", "evil.example, mcp-bridge.local");
    assert_json_rpc_error(&EventStream::refusal(addr, &foreign).await, 403, "a foreign first value");
}

/// What is said is as it says it is, and is kept by nobody.
#[tokio::test]
async fn answers_are_neither_guessed_at_nor_kept() {
    let cluster = Cluster::builder().without_redis().start().await;
    let list = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string();
    for request in [
        Request::get("/actuator/health"),
        Request::get("/mcp/router/services"),
        Request::get("/nothing"),
        Request::post("/mcp/router/route/mcp-server-v6", list.clone()),
        Request::post("/mcp/mcp-server-v6", list).header("accept", "application/json"),
    ] {
        let response = request.send(cluster.addr(0)).await;
        let headers = (response.header("x-content-type-options"), response.header("cache-control"));
        assert_eq!(headers, (Some("nosniff"), Some("no-store")), "{request:?}");
    }
}

/// Whoever refuses, and however early: what is said is as it says it is (no browser takes it for a page), and nobody keeps it.
#[tokio::test]
async fn what_is_refused_is_marked_like_what_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, key) = (dir.path().join("keys"), "mcpr_test");
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(key));
    std::fs::write(&keys, format!("ci sha256:{hash}\n")).unwrap();
    let cluster = Cluster::builder()
        .without_redis()
        .env("MCP_AUTH", "keys")
        .env("MCP_AUTH_KEYS_FILE", keys.display())
        .env("MCP_ALLOWED_ORIGINS", PAGE)
        .env("MCP_MAX_BODY", "1KiB")
        .start()
        .await;
    let post = || Request::post(REST, ping()).header("x-api-key", key);
    for (what, request, status) in [
        ("a call", post(), 200),
        ("a foreign host", post().header("host", "evil.example"), 403),
        ("a foreign origin", post().header("origin", "https://evil.example"), 403),
        ("two origins", post().also("origin", PAGE).also("origin", PAGE), 403),
        ("nobody", post().without("x-api-key"), 401),
        ("a wrong key", post().header("x-api-key", "mcpr_wrong"), 401),
        (
            "a preflight",
            Request::with_method("OPTIONS", REST)
                .header("origin", PAGE)
                .header("access-control-request-method", "POST"),
            204,
        ),
        ("another type", post().header("content-type", "text/plain"), 415),
        ("too much", Request::post(REST, "x".repeat(2048)).header("x-api-key", key), 413),
        ("no JSON", Request::post(REST, "x").header("x-api-key", key), 400),
        ("no such path", Request::get("/nothing").header("x-api-key", key), 404),
        ("no such service", Request::get("/sse/nothing").header("x-api-key", key), 404),
        ("another method", Request::with_method("PUT", REST).header("x-api-key", key), 405),
        ("no metadata", Request::get("/.well-known/oauth-protected-resource"), 404),
        ("figures", Request::get("/actuator/prometheus"), 200),
    ] {
        let answer = request.send(cluster.addr(0)).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{what}");
        assert!(answer.header("cache-control").is_some_and(|value| value.contains("no-store")), "{what}");
    }
}
