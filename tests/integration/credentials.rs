//! By what the router shows servers who it is: what stands in its file, or tokens of a real authorization server, for itself
//! or in the name of who asks; never by what a client has shown. SEC-6, SEC-9

use std::{fs, path::Path};

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use crate::harness::{
    AuthorizationServer, Cluster, FakeUpstream, McpClient, StreamableClient, StreamableUpstream, cluster, eventually,
    http::Request,
    streamable_upstream::{Act, Seen},
};

const MCP: &str = "/mcp/mcp-server-v6";
const ROUTE: &str = "/mcp/router/route/mcp-server-v6";
/// The resource that the router's clients have tokens for.
const HERE: &str = "http://127.0.0.1/here";

fn credentials(dir: &Path, entry: &str) -> String {
    let file = dir.join("credentials.toml");
    fs::write(&file, format!("[[service]]\nname = \"mcp-server-v6\"\n{entry}")).unwrap();
    file.display().to_string()
}

fn grant(dir: &Path, server: &AuthorizationServer, more: &str) -> String {
    fs::write(dir.join("secret"), "open barley&\n").unwrap();
    let endpoint = format!("token_endpoint = \"{}/token\"\nclient_id = \"router\"\n", server.issuer());
    let rest = format!("client_secret_file = \"secret\"\nresource = \"http://127.0.0.1:1/mcp\"\n{more}");
    credentials(dir, &(endpoint + &rest))
}

async fn answering() -> StreamableUpstream {
    StreamableUpstream::calls(|request| vec![Act::result(request, &json!({ "content": [] }))]).await
}

fn bearer(seen: &Seen) -> String {
    seen.header("authorization").unwrap_or_default().to_owned()
}

/// What a JWT of the authorization server says.
fn claims(bearer: &str) -> Value {
    let token = bearer.strip_prefix("Bearer ").unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(token.split('.').nth(1).unwrap().as_bytes()).unwrap()).unwrap()
}

fn list() -> String {
    json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string()
}

/// Nothing that is secret stands in what the cluster says.
async fn says_nothing_of(cluster: &Cluster, secrets: &[String]) {
    assert!(secrets.iter().all(|secret| secret.len() > 8), "{secrets:?}");
    let metrics = crate::harness::http::get(*cluster.addrs().last().unwrap(), "/actuator/prometheus").await.text();
    for told in cluster.routers.iter().map(|router| router.log_text()).chain([metrics]) {
        for secret in secrets {
            assert!(!told.contains(secret.as_str()), "SEC-2: {secret}");
        }
    }
}

#[tokio::test]
async fn a_header_from_a_file_goes_with_every_request_and_may_change() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("value"), "first-of-all\n").unwrap();
    let file = credentials(dir.path(), "header = \"X-Api-Key\"\nvalue_file = \"value\"\n");
    let (streamable, sse) = (answering().await, FakeUpstream::start().await);
    streamable.asks_for("x-api-key");
    let mut clusters = Vec::new();
    for (url, is_last) in [(streamable.url(), false), (sse.url(), true)] {
        let builder = Cluster::builder().without_redis().upstream_urls([url]).env("LOG_LEVEL", "trace");
        let cluster = builder.env("MCP_UPSTREAM_CREDENTIALS_FILE", &file).env("MCP_AUTH_RELOAD", "40ms").start().await;
        let client = StreamableClient::initialized([cluster.addr(0)], MCP).await;
        client.result("tools/list", json!({})).await;
        assert_eq!(Request::post(ROUTE, list()).send(cluster.addr(0)).await.status, 200);
        says_nothing_of(&cluster, &["first-of-all".to_owned()]).await;
        if is_last {
            clusters.push((cluster, client));
            break;
        }
        fs::write(dir.path().join("value"), "second-to-none\n").unwrap();
        let is_new = || async {
            client.result("tools/list", json!({})).await;
            streamable.posts("tools/list").last().unwrap().header("x-api-key") == Some("second-to-none")
        };
        eventually("the new value", is_new).await;
        client.delete().await;
        streamable.until("the end of the session", |server| server.ended_sessions() > 0).await;
        fs::write(dir.path().join("value"), "first-of-all\n").unwrap();
    }
    assert!(streamable.seen().iter().all(|seen| seen.header("x-api-key").is_some()), "{:?}", streamable.seen());
    assert_eq!(streamable.posts("initialize").len(), 1, "the session went on");
    let by_post = sse.received().into_iter().map(|received| received.headers);
    let by_get = sse.open_sessions().into_iter().map(|session| sse.get_headers(session));
    let heads: Vec<_> = by_post.chain(by_get).collect();
    assert!(heads.len() > 3, "{}", heads.len());
    for head in heads {
        assert_eq!(testkit::connection::header(&head, "x-api-key"), Some("first-of-all"));
    }
}

#[tokio::test]
async fn the_routers_own_token_is_had_once_and_anew_when_a_server_refuses_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let file = grant(dir.path(), &server, "scope = \"mcp:use\"\n");
    let upstream = answering().await;
    upstream.asks_for("authorization");
    let builder = Cluster::builder().routers(1).without_redis().upstream_urls([upstream.url()]);
    let builder = builder.env("MCP_UPSTREAM_HEALTH_INTERVAL", "1h").env("LOG_LEVEL", "trace");
    let cluster = builder.env("MCP_UPSTREAM_CREDENTIALS_FILE", file).start().await;
    let client = StreamableClient::initialized([cluster.addr(0)], MCP).await;
    for _ in 0..5 {
        client.result("tools/call", json!({ "name": "read", "arguments": {} })).await;
        assert_eq!(Request::post(ROUTE, list()).send(cluster.addr(0)).await.status, 200);
    }
    assert_eq!(server.token_requests(), 1);
    let first = bearer(upstream.posts("tools/call").last().unwrap());
    let said = claims(&first);
    assert_eq!(
        (&said["sub"], &said["aud"], &said["scope"]),
        (&json!("router"), &json!("http://127.0.0.1:1/mcp"), &json!("mcp:use"))
    );
    // It was taken back; the call is not lost, and has run once.
    upstream.takes_no_more(&first);
    client.result("tools/call", json!({ "name": "write", "arguments": {} })).await;
    let calls = upstream.posts("tools/call");
    let second = bearer(calls.last().unwrap());
    assert!(second != first && calls.len() == 7, "{}", calls.len());
    assert_eq!(server.token_requests(), 2);
    assert!(cluster.metric("mcp_router_upstream_tokens_total", Some("refused")).await >= 1.0);
    says_nothing_of(&cluster, &[first[7..].to_owned(), second[7..].to_owned(), "open barley&".to_owned()]).await;
}

#[tokio::test]
async fn a_call_waits_for_an_authorization_server_that_is_away_and_says_so_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = AuthorizationServer::start(dir.path()).await;
    let file = grant(dir.path(), &server, "");
    server.kill();
    let upstream = answering().await;
    upstream.asks_for("authorization");
    let builder = Cluster::builder().without_redis().upstream_urls([upstream.url()]);
    let cluster = builder.env("MCP_UPSTREAM_CREDENTIALS_FILE", file).start().await;
    let client = StreamableClient::new([cluster.addr(0)], MCP);
    let began = tokio::spawn(async move {
        client.initialize("2025-11-25", json!({})).await;
        client
    });
    eventually("a warning", || async { cluster.routers[0].log_text().contains("no token for a server") }).await;
    server.restart().await;
    let client = began.await.unwrap();
    client.result("tools/list", json!({})).await;
}

fn for_users(dir: &Path, server: &AuthorizationServer, upstream: &StreamableUpstream) -> cluster::Builder {
    Cluster::builder()
        .routers(2)
        .upstream_urls([upstream.url()])
        .env("MCP_AUTH", "tokens")
        .env("MCP_AUTH_ISSUER", server.issuer())
        .env("MCP_AUTH_RESOURCE", HERE)
        .env("MCP_UPSTREAM_CREDENTIALS_FILE", grant(dir, server, "as_user = true\n"))
        .short_lease()
        .env("LOG_LEVEL", "trace")
}

async fn token(server: &AuthorizationServer, who: &str, scope: &str) -> String {
    server.token("", &json!({ "aud": HERE, "sub": who, "scope": scope })).await
}

fn call(upstream: &StreamableUpstream) -> Value {
    claims(&bearer(upstream.posts("tools/call").last().unwrap()))
}

#[tokio::test]
async fn each_user_is_himself_at_the_server_whichever_instance_asks_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let upstream = answering().await;
    upstream.asks_for("authorization");
    let mut cluster = for_users(dir.path(), &server, &upstream).start().await;
    let read = json!({ "name": "read", "arguments": {} });
    let (alices, bobs) = (token(&server, "alice", "mcp:use").await, token(&server, "bob", "mcp:use").await);
    let begin = async |token: &str, index: usize| {
        let client = StreamableClient::new([cluster.addr(index)], MCP);
        client.set_header("authorization", &format!("Bearer {token}"));
        client.initialize("2025-11-25", json!({})).await;
        client
    };
    let (alice, bob) = (begin(&alices, 0).await, begin(&bobs, 0).await);
    for (client, name) in [(&alice, "alice"), (&bob, "bob"), (&alice, "alice")] {
        client.result("tools/call", read.clone()).await;
        let said = call(&upstream);
        assert_eq!((&said["sub"], &said["aud"]), (&json!(name), &json!("http://127.0.0.1:1/mcp")));
    }
    let of = |name: &str| server.log_text().matches(&format!("exchanged for {name}")).count();
    assert_eq!((of("alice"), of("bob")), (1, 1), "kept for each");
    // A second session of hers has no need of another one.
    begin(&alices, 0).await.result("tools/call", read.clone()).await;
    assert_eq!(of("alice"), 1);
    // HTTP+SSE towards the client.
    let sse =
        McpClient::builder([cluster.addr(0)]).header("authorization", &format!("Bearer {bobs}")).initialize().await;
    sse.result("tools/call", read.clone()).await;
    assert_eq!((&call(&upstream)["sub"], of("bob")), (&json!("bob"), 1));
    // A stronger token has a token of its own, and leaves it to no weaker one.
    let strong = token(&server, "alice", "mcp:use mcp:write").await;
    let other = begin(&strong, 0).await;
    other.result("tools/call", read.clone()).await;
    assert_eq!((&call(&upstream)["scope"], of("alice")), (&json!("mcp:use mcp:write"), 2));
    alice.result("tools/call", read.clone()).await;
    assert_eq!((&call(&upstream)["scope"], of("alice")), (&json!("mcp:use"), 2));
    // One that the server refuses is dropped.
    let refused = bearer(upstream.posts("tools/call").last().unwrap());
    upstream.takes_no_more(&refused);
    alice.result("tools/call", read.clone()).await;
    assert_eq!((&call(&upstream)["sub"], of("alice")), (&json!("alice"), 3));
    // Whoever takes the session over is asked in her name, too.
    alice.set_header("authorization", &format!("Bearer {alices}"));
    cluster.routers[0].kill();
    let there = StreamableClient::new([cluster.addr(1)], MCP);
    there.set_session(alice.session().as_deref());
    there.set_header("authorization", &format!("Bearer {alices}"));
    there.set_version(Some("2025-11-25"));
    there.result("tools/call", read.clone()).await;
    assert_eq!((&call(&upstream)["sub"], of("alice")), (&json!("alice"), 4));
    // Neither what clients have shown reaches a server, nor anything of it a log, a metric or Redis.
    let shown = [&alices, &bobs, &strong];
    let told: Vec<String> = upstream.seen().iter().map(bearer).collect();
    assert!(told.len() > 10 && told.iter().all(|value| value.starts_with("Bearer ")), "{}", told.len());
    assert!(shown.iter().all(|token| told.iter().all(|value| !value.contains(token.as_str()))));
    let secrets: Vec<String> = shown
        .into_iter()
        .cloned()
        .chain(told.iter().map(|value| value[7..].to_owned()))
        .chain(["open barley&".to_owned()])
        .collect();
    says_nothing_of(&cluster, &secrets).await;
}

#[tokio::test]
async fn without_a_token_of_its_own_nothing_is_asked_in_anybodys_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let upstream = answering().await;
    upstream.asks_for("authorization");
    let cluster = for_users(dir.path(), &server, &upstream).start().await;
    let alices = token(&server, "alice", "mcp:use").await;
    // Calls without a session share the router's.
    let response = Request::post(ROUTE, list()).header("authorization", &format!("Bearer {alices}"));
    let response = response.send(cluster.addr(0)).await;
    assert!(response.status == 400 && response.text().contains("users' names"), "{}", response.text());
    // The authorization server does not exchange tokens of before its keys were changed.
    let client = StreamableClient::new([cluster.addr(0)], MCP);
    client.set_header("authorization", &format!("Bearer {alices}"));
    server.rotate().await;
    let answer = client.try_initialize("2025-11-25", json!({})).await;
    let text = answer.to_string();
    assert!(text.contains("invalid_grant") && !text.contains(&alices), "{text}");
    assert!(upstream.posts("tools/call").is_empty());
    assert!(upstream.seen().iter().all(|seen| !bearer(seen).contains(&alices)));
}
