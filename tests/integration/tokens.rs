//! Tokens of a real authorization server: which count, for what, and what clients are told that have none. SEC-1, SEC-6

use std::{net::SocketAddr, path::Path, process::Command};

use serde_json::{Value, json};

use testkit::connection::header;

use crate::harness::{
    AuthorizationServer, Cluster, EventStream, FakeUpstream, StreamableClient, StreamableUpstream, cluster,
    event_stream::Opened,
    eventually,
    http::{Request, Response},
    soon,
};

pub(super) const MCP: &str = "/mcp/mcp-server-v6";
/// Where the router says that it is, when it is told; tokens for it say nothing by themselves.
pub(super) const RESOURCE: &str = "http://127.0.0.1/opaque";
const ROUTE: &str = "/mcp/router/route/mcp-server-v6";
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

pub(super) fn taking(server: &AuthorizationServer) -> cluster::Builder {
    Cluster::builder()
        .without_redis()
        .env("MCP_AUTH", "tokens")
        .env("MCP_AUTH_ISSUER", server.issuer())
        .env("MCP_AUTH_JWKS_FLOOR", "50ms")
}

/// A router that asks what tokens are worth.
pub(super) fn taking_opaque(server: &AuthorizationServer, dir: &Path) -> cluster::Builder {
    let secret = dir.join("secret");
    std::fs::write(&secret, "open barley&\n").unwrap();
    taking(server)
        .env("MCP_AUTH_RESOURCE", RESOURCE)
        .env("MCP_AUTH_INTROSPECTION", format!("{}/token/introspection", server.issuer()))
        .env("MCP_AUTH_CLIENT_ID", "router")
        .env("MCP_AUTH_CLIENT_SECRET_FILE", secret.display())
}

/// A token for that router, which says nothing by itself.
pub(super) async fn opaque_token(server: &AuthorizationServer) -> String {
    opaque_token_for(server, RESOURCE, "mcp:use").await
}

async fn opaque_token_for(server: &AuthorizationServer, resource: &str, scope: &str) -> String {
    let form = format!("grant_type=client_credentials&resource={resource}&scope={scope}");
    let request = Request::post("/token", form).header("authorization", "Basic dGVzdGVyOm9wZW4tc2VzYW1l");
    let request = request.without("content-type").header("content-type", "application/x-www-form-urlencoded");
    request.send(server.addr()).await.json()["access_token"].as_str().unwrap().to_owned()
}

pub(super) fn list(path: &str, token: Option<&str>) -> Request {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string();
    let request = Request::post(path, body).header("accept", "application/json, text/event-stream");
    token.map_or(request.clone(), |token| request.header("authorization", &format!("Bearer {token}")))
}

fn challenge(response: &Response) -> String {
    response.header("www-authenticate").unwrap_or_default().to_owned()
}

fn resource(addr: SocketAddr) -> String {
    format!("http://{addr}{MCP}")
}

/// SEC-6
#[tokio::test]
async fn a_token_counts_for_its_resource_and_its_time_and_from_its_issuer() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let cluster = taking(&server).env("MCP_AUTH_LEEWAY", "30m").start().await;
    let addr = cluster.addr(0);
    let ours = resource(addr);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for (what, query, claims, status) in [
        ("for this service", "", json!({ "aud": ours }), 200),
        ("one of several", "", json!({ "aud": ["x", ours] }), 200),
        ("for its event stream", "", json!({ "aud": format!("http://{addr}/sse/mcp-server-v6") }), 200),
        ("for the whole router", "", json!({ "aud": format!("http://{addr}/") }), 200),
        ("a plain JWT", "typ=JWT", json!({ "aud": ours }), 200),
        ("just over, within the leeway", "", json!({ "aud": ours, "exp": now - 60 }), 200),
        ("for a client without a user", "", json!({ "aud": ours, "sub": null, "client_id": "ci" }), 200),
        ("for nobody", "", json!({ "aud": null }), 401),
        ("for another service", "", json!({ "aud": format!("http://{addr}/mcp/other") }), 401),
        ("for another port", "", json!({ "aud": "http://127.0.0.1:1/mcp/mcp-server-v6" }), 401),
        ("for a longer path", "", json!({ "aud": format!("{ours}/x") }), 401),
        ("over", "ttl=-3600", json!({ "aud": ours }), 401),
        ("without an end", "", json!({ "aud": ours, "exp": null }), 401),
        ("with an end that is no time", "", json!({ "aud": ours, "exp": "never" }), 401),
        ("not yet", "", json!({ "aud": ours, "nbf": now + 3600 }), 401),
        ("of another issuer", "", json!({ "aud": ours, "iss": "https://evil.example" }), 401),
        ("of several issuers", "", json!({ "aud": ours, "iss": [server.issuer()] }), 401),
        ("of no issuer", "", json!({ "aud": ours, "iss": null }), 401),
        ("with a subject of another type", "", json!({ "aud": ours, "sub": { "name": "alice" } }), 401),
        ("of nobody", "", json!({ "aud": ours, "sub": null }), 401),
        ("an id token by its type", "typ=logout%2Bjwt", json!({ "aud": ours }), 401),
        ("of an unknown key", "kid=made-up", json!({ "aud": ours }), 401),
    ] {
        let token = server.token(query, &claims).await;
        for turn in ["at first", "again"] {
            let response = list(ROUTE, Some(&token)).send(addr).await;
            assert_eq!(response.status, status, "{what}, {turn}: {}", challenge(&response));
            if status == 401 {
                let told = challenge(&response);
                assert!(told.contains(r#"error="invalid_token""#) && !told.contains("evil"), "{what}: {told}");
            }
        }
    }
    let token = server.token("", &json!({ "aud": ours })).await;
    let (head, signature) = token.rsplit_once('.').unwrap();
    let (header, payload) = head.split_once('.').unwrap();
    let none = "eyJhbGciOiJub25lIn0";
    for (what, wrong) in [
        ("no signature", format!("{head}.")),
        ("another signature", format!("{head}.{}", signature.chars().rev().collect::<String>())),
        ("the algorithm none", format!("{none}.{payload}.")),
        ("other claims", format!("{header}.{}A.{signature}", &payload[..payload.len() - 1])),
        ("too long", "a.".repeat(20_000)),
        ("no token", "x".to_owned()),
        ("a key", "mcpr_x".to_owned()),
    ] {
        // A head that is too large is refused before anybody looks at it.
        let status = list(ROUTE, Some(&wrong)).send(addr).await.status;
        assert!(status == 401 || what == "too long" && status == 431, "{what}: {status}");
    }
    let log = cluster.routers[0].log_text();
    assert!(!log.contains(signature), "SEC-2");
}

#[tokio::test]
async fn clients_are_told_where_to_get_a_token_and_for_what() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let cluster = taking(&server).env("MCP_AUTH_SCOPES", "mcp:use").nginx(true).start().await;
    let front = cluster.nginx.as_ref().unwrap().addr();
    for (path, metadata, resource) in [
        (MCP, "/mcp/mcp-server-v6", "/mcp/mcp-server-v6"),
        ("/mcp-bridge/mcp/mcp-server-v6", "/mcp-bridge/mcp/mcp-server-v6", "/mcp-bridge/mcp/mcp-server-v6"),
        ("/sse/mcp-server-v6", "/sse/mcp-server-v6", "/sse/mcp-server-v6"),
    ] {
        let refused = match soon("an answer", EventStream::exchange(front, &list(path, None))).await.unwrap() {
            Opened::Refused(response) => response,
            Opened::Stream(_) => panic!("{path}"),
        };
        let url = format!("http://{front}{WELL_KNOWN}{metadata}");
        let expected = format!(r#"Bearer realm="mcp-router", resource_metadata="{url}", scope="mcp:use""#);
        assert_eq!((refused.status, challenge(&refused)), (401, expected));
        let told = Request::get(format!("{WELL_KNOWN}{metadata}")).send(front).await;
        assert_eq!((told.status, told.header("content-type")), (200, Some("application/json")));
        assert_eq!(
            told.json(),
            json!({
                "resource": format!("http://{front}{resource}"),
                "authorization_servers": [server.issuer()],
                "bearer_methods_supported": ["header"],
                "scopes_supported": ["mcp:use"],
            })
        );
        // Behind the prefix the token is for the URL that the client has.
        let token = server.token("", &json!({ "aud": format!("http://{front}{resource}") })).await;
        if path != "/sse/mcp-server-v6" {
            assert_eq!(list(path, Some(&token)).send(front).await.status, 400, "no session: it was let in");
        }
        let other = if path == MCP { "/mcp-bridge/mcp/mcp-server-v6" } else { MCP };
        let elsewhere = list(other, Some(&token)).send(front).await.status;
        assert_eq!(elsewhere, if resource.starts_with("/sse") { 400 } else { 401 }, "{path} {other}");
    }
    assert_eq!(Request::get(format!("{WELL_KNOWN}/mcp/other")).send(front).await.status, 404);
    assert_eq!(Request::get(WELL_KNOWN).send(front).await.json()["resource"], format!("http://{front}"));

    // A token that allows less: which scopes it takes, and no other 401.
    let weak = server.token("", &json!({ "aud": format!("http://{front}{MCP}"), "scope": "other" })).await;
    let refused = list(MCP, Some(&weak)).send(front).await;
    let told = challenge(&refused);
    assert_eq!((refused.status, &refused.json()["error"]["data"]["reason"]), (403, &json!("insufficient_scope")));
    for word in [r#"error="insufficient_scope""#, r#"scope="mcp:use""#, "resource_metadata="] {
        assert!(told.contains(word), "{told}");
    }
}

#[tokio::test]
async fn where_the_router_is_may_be_said() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let cluster = taking(&server)
        .env("MCP_AUTH_RESOURCE", "https://mcp.example.com/tools")
        .env("MCP_ALLOWED_HOSTS", "*")
        .env("MCP_AUTH_JWKS", format!("{}/jwks", server.issuer()))
        .start()
        .await;
    let addr = cluster.addr(0);
    let token = server.token("", &json!({ "aud": "https://mcp.example.com/tools/mcp/mcp-server-v6" })).await;
    assert_eq!(list(ROUTE, Some(&token)).send(addr).await.status, 200);
    let spoofed = server.token("", &json!({ "aud": "http://evil.example/mcp/mcp-server-v6" })).await;
    assert_eq!(list(ROUTE, Some(&spoofed)).header("host", "evil.example").send(addr).await.status, 401);
    let at = format!("{WELL_KNOWN}/tools/mcp/mcp-server-v6");
    assert!(challenge(&list(MCP, None).send(addr).await).contains(&format!("https://mcp.example.com{at}")));
    let told = Request::get(at).send(addr).await.json();
    assert_eq!(told["resource"], "https://mcp.example.com/tools/mcp/mcp-server-v6");
}

#[tokio::test]
async fn keys_that_change_are_fetched_and_those_that_are_gone_check_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = AuthorizationServer::later(dir.path());
    let cluster = taking(&server).start().await;
    let addr = cluster.addr(0);
    let ours = json!({ "aud": resource(addr) });
    let some = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.e30.AAAA";
    let away = list(ROUTE, Some(some)).send(addr).await;
    assert_eq!((away.status, away.header("retry-after")), (503, Some("1")), "nobody can say whether it is good");

    server.restart().await;
    let old = server.token("", &ours).await;
    eventually("the keys", || async { list(ROUTE, Some(&old)).send(addr).await.status == 200 }).await;

    server.rotate().await;
    let new = server.token("", &ours).await;
    assert_eq!(list(ROUTE, Some(&old)).send(addr).await.status, 200, "nobody has asked");
    eventually("the new key", || async { list(ROUTE, Some(&new)).send(addr).await.status == 200 }).await;
    assert_eq!(list(ROUTE, Some(&old)).send(addr).await.status, 401, "its key is gone");

    server.kill();
    let fresh = cluster.routers[0].metric("mcp_router_unauthorized_total", Some("no_issuer")).await;
    assert_eq!(list(ROUTE, Some(&new)).send(addr).await.status, 200, "what is known stays known");
    assert_eq!(list(ROUTE, Some(some)).send(addr).await.status, 401);
    let counted = cluster.routers[0].metric("mcp_router_unauthorized_total", Some("no_issuer")).await;
    assert_eq!(counted, fresh, "it is known how to check tokens");
}

/// Whoever makes up tokens brings nobody's server down, and keeps nobody out.
#[tokio::test]
async fn made_up_tokens_cost_the_issuer_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let cluster = taking(&server).env("MCP_AUTH_JWKS_FLOOR", "1h").start().await;
    let addr = cluster.addr(0);
    let good = server.token("", &json!({ "aud": resource(addr) })).await;
    eventually("the keys", || async { list(ROUTE, Some(&good)).send(addr).await.status == 200 }).await;
    let before = server.key_fetches();
    for number in 0..300 {
        let (header, rest) = good.split_once('.').unwrap();
        // Another key id each time.
        let kid = format!(r#"{{"alg":"RS256","kid":"{number}"}}"#);
        let encoded = data_encoding::BASE64URL_NOPAD.encode(kid.as_bytes());
        assert_ne!(encoded, header);
        assert_eq!(list(ROUTE, Some(&format!("{encoded}.{rest}"))).send(addr).await.status, 401);
    }
    assert_eq!(server.key_fetches(), before);
    assert_eq!(list(ROUTE, Some(&good)).send(addr).await.status, 200);
    assert_eq!(cluster.metric("mcp_router_unauthorized_total", Some("unknown_signer")).await, 300.0);
}

/// SEC-1: the same subject goes on with a new token; nobody else does, and not with less than the session was used with.
#[tokio::test]
async fn a_session_goes_on_with_a_new_token_of_its_subject_and_with_no_weaker_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let builder = Cluster::builder()
        .routers(2)
        .env("MCP_AUTH", "tokens")
        .env("MCP_AUTH_ISSUER", server.issuer())
        .env("MCP_AUTH_RESOURCE", "http://127.0.0.1/here")
        .short_lease();
    let mut cluster = builder.start().await;
    let token = async |claims: Value| {
        let mut all = json!({ "aud": "http://127.0.0.1/here", "jti": fastrand::u64(..).to_string(), "scope": "a b" });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        server.token("", &all).await
    };
    let first = token(json!({})).await;
    let client = StreamableClient::new([cluster.addr(0)], MCP);
    let show = |token: &str| client.set_header("authorization", &format!("Bearer {token}"));
    show(&first);
    client.initialize("2025-11-25", json!({})).await;
    let session = client.session().unwrap();
    let ask = async |addr: SocketAddr, token: &str| {
        let request = list(MCP, Some(token)).header("mcp-session-id", &session);
        request.header("mcp-protocol-version", "2025-11-25").send(addr).await.status
    };
    let (new, more) = (token(json!({})).await, token(json!({ "scope": "a b c" })).await);
    let others = [
        ("another subject", token(json!({ "sub": "mallory" })).await, 404),
        ("fewer scopes", token(json!({ "scope": "a" })).await, 404),
        ("no scopes", token(json!({ "scope": null })).await, 404),
        ("expired", token(json!({ "exp": 1 })).await, 401),
        ("another audience", token(json!({ "aud": "http://127.0.0.1/there" })).await, 401),
    ];
    for killed in [false, true] {
        let places = if killed { vec![cluster.addr(1)] } else { cluster.addrs() };
        if killed {
            cluster.routers[0].kill();
        }
        for addr in places {
            for (what, token, status) in &others {
                assert_eq!(ask(addr, token).await, *status, "{what}, killed: {killed}");
            }
            assert_eq!(ask(addr, &new).await, 200, "a new token, killed: {killed}");
        }
    }
    // A stronger one raises what the session asks for.
    let addr = cluster.addr(1);
    assert_eq!(ask(addr, &more).await, 200);
    assert_eq!((ask(addr, &new).await, ask(addr, &more).await), (404, 200));
}

/// The specification forbids to pass tokens through.
#[tokio::test]
async fn no_credential_of_a_client_reaches_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let (sse, streamable) = (FakeUpstream::start().await, StreamableUpstream::calls(|_| Vec::new()).await);
    for url in [sse.url(), streamable.url()] {
        let cluster = taking(&server).upstream_urls([url]).start().await;
        let addr = cluster.addr(0);
        let token = server.token("", &json!({ "aud": resource(addr) })).await;
        let client = StreamableClient::new([addr], MCP);
        client.set_header("authorization", &format!("Bearer {token}"));
        client.set_header("cookie", "a=b");
        client.initialize("2025-11-25", json!({})).await;
        client.result("tools/list", json!({})).await;
        assert_eq!(list(ROUTE, Some(&token)).send(addr).await.status, 200);
    }
    let by_post = sse.received().into_iter().map(|received| received.headers);
    let by_get = sse.open_sessions().into_iter().map(|session| sse.get_headers(session));
    let heads: Vec<_> = by_post.chain(by_get).chain(streamable.seen().into_iter().map(|seen| seen.headers)).collect();
    assert!(heads.len() > 6, "{}", heads.len());
    for head in heads {
        assert!(header(&head, "authorization").is_none() && header(&head, "cookie").is_none(), "{head:?}");
    }
}

/// A stock client that knows nothing but the URL.
#[tokio::test]
async fn the_typescript_sdk_finds_the_authorization_server_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let cluster = taking(&server).env("MCP_AUTH_SCOPES", "mcp:use").nginx(true).start().await;
    let front = cluster.nginx.as_ref().unwrap().addr();
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/typescript");
    assert!(clients.join("node_modules").exists(), "run scripts/test.sh, or: cd {} && npm ci", clients.display());
    for (transport, path) in [("streamable", "/mcp/mcp-server-v6"), ("sse", "/mcp-bridge/sse/mcp-server-v6")] {
        // Without a user the SDK (1.32.2) asks for no scope but those that it is given.
        for flow in [&["client", "mcp:use"][..], &["user"]] {
            let mut command = Command::new("node");
            command.arg(clients.join("authorize.mjs")).arg(format!("http://{front}{path}")).arg(transport).args(flow);
            let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
            let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(report["ok"] == true && report["text"] == "hello", "{transport} {flow:?}: {report:#} {err}");
        }
    }
}

/// Another one, which registers itself, in both of its generations.
#[tokio::test]
async fn fastmcp_finds_the_authorization_server_and_registers_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let cluster = taking(&server).env("MCP_AUTH_SCOPES", "mcp:use").nginx(true).start().await;
    let front = cluster.nginx.as_ref().unwrap().addr();
    let visits = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/visits");
    for (folder, version) in [(visits.clone(), "4."), (visits.join("matrix/python-1"), "2.")] {
        let python = folder.join(".venv/bin/python");
        let how = "run scripts/test.sh, or make a venv there and pip install -r requirements.txt";
        assert!(python.exists(), "{}: {how}", folder.display());
        for (transport, path) in [("streamable", "/mcp/mcp-server-v6"), ("sse", "/mcp-bridge/sse/mcp-server-v6")] {
            let mut command = Command::new(&python);
            command.arg(visits.join("authorize.py")).arg(format!("http://{front}{path}")).arg(transport);
            let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
            let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(report["ok"] == true && report["text"] == "hello", "{transport}: {report:#} {err}");
            assert!(report["fastmcp"].as_str().unwrap().starts_with(version), "{report:#}");
        }
    }
}

/// Of a token that says nothing by itself its authorization server is asked, not more often than it must be. SEC-6
#[tokio::test]
async fn an_opaque_token_is_worth_what_its_authorization_server_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = AuthorizationServer::start(dir.path()).await;
    let cluster = taking_opaque(&server, dir.path())
        .env("MCP_AUTH_SCOPES", "mcp:use")
        .env("MCP_AUTH_INTROSPECTION_TTL", "1h")
        .start()
        .await;
    let addr = cluster.addr(0);
    let ours = RESOURCE;
    let token = async |resource: &str, scope: &str| opaque_token_for(&server, resource, scope).await;
    let good = token(ours, "mcp:use").await;
    assert!(!good.contains('.'), "it says nothing");
    for _ in 0..20 {
        assert_eq!(list(ROUTE, Some(&good)).send(addr).await.status, 200);
    }
    assert_eq!(server.looks(), 1);
    let (other, less) = (token("http://127.0.0.1/opaque-too", "mcp:use").await, token(ours, "mcp:write").await);
    for (token, status) in [(&*other, 401), (&*less, 403), ("made-up", 401), ("made-up", 401)] {
        assert_eq!(list(ROUTE, Some(token)).send(addr).await.status, status, "{token}");
    }
    assert_eq!(server.looks(), 4, "also that it does not know one is kept for a moment");
    // A session of its bearer.
    let client = StreamableClient::new([addr], MCP);
    client.set_header("authorization", &format!("Bearer {good}"));
    client.initialize("2025-11-25", json!({})).await;
    client.result("tools/list", json!({})).await;
    // While it is away what is known goes on, and nobody is told that his token were wrong.
    server.kill();
    client.result("tools/list", json!({})).await;
    let refused = list(ROUTE, Some("another")).send(addr).await;
    assert_eq!((refused.status, &refused.json()["error"]["data"]["reason"]), (503, &json!("no_issuer")));
    let log = cluster.routers[0].log_text();
    assert!(
        [&good, &other, &less].into_iter().all(|token| !log.contains(token.as_str())) && !log.contains("barley"),
        "SEC-2"
    );
}
