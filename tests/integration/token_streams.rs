//! Streams outlive the request that has opened them, and not the credential that it has shown: at its end, or when its
//! authorization server takes it back. SEC-1, SEC-6

use std::net::SocketAddr;

use serde_json::json;

use super::tokens::{MCP, RESOURCE, list, opaque_token, taking, taking_opaque};
use crate::harness::{
    AuthorizationServer, EventStream, Item, ModernClient, StreamEnd, StreamableClient, cluster, event_stream::Opened,
    eventually, http::Request, mcp_client::tool_call, soon,
};

const SSE: &str = "/sse/mcp-server-v6";

/// An open stream, and how its client goes on with it.
struct Open {
    kind: &'static str,
    stream: EventStream,
    resume: Option<Request>,
}

/// Heartbeats show that a stream lives; calls are answered by streams.
fn beating(builder: cluster::Builder) -> cluster::Builder {
    builder.env("MCP_HEARTBEAT", "100ms").env("MCP_JSON_WAIT", "0s").env("MCP_AUTH_LEEWAY", "0s")
}

fn shows(request: Request, token: &str) -> Request {
    request.header("authorization", &format!("Bearer {token}"))
}

async fn opened(addr: SocketAddr, request: &Request) -> EventStream {
    match soon("an answer", EventStream::exchange(addr, request)).await.unwrap() {
        Opened::Stream(stream) => stream,
        Opened::Refused(response) => panic!("no stream: {} {}", response.status, response.text()),
    }
}

/// The client of a session, by this token.
async fn client(addr: SocketAddr, token: &str) -> StreamableClient {
    let client = StreamableClient::new([addr], MCP);
    client.set_header("authorization", &format!("Bearer {token}"));
    client.initialize("2025-11-25", json!({})).await;
    client
}

/// One stream of each kind that there is, all opened by this token, those of a session in one of `client`.
async fn all_kinds(addr: SocketAddr, client: &StreamableClient, token: &str) -> Vec<Open> {
    let call = tool_call("long", "wait", json!({ "ms": 60_000 })).to_string();
    let modern = ModernClient::of("mcp-server-v6").request(
        &json!(1),
        "subscriptions/listen",
        json!({ "notifications": { "toolsListChanged": true } }),
    );
    let mut all = Vec::new();
    for (kind, request, path) in [
        ("the stream of HTTP+SSE", Request::get(SSE).header("accept", "text/event-stream"), Some(SSE)),
        ("the main stream", client.get_request(None), Some(MCP)),
        ("the stream of a call", client.post_request(call), Some(MCP)),
        ("the stream of 2026-07-28", modern, None),
    ] {
        let mut stream = opened(addr, &shows(request, token)).await;
        let first = stream.event().await;
        let resume = path.map(|path| {
            let id = first.id.as_deref().unwrap_or_else(|| panic!("{kind} has no cursor"));
            let request = if path == SSE {
                Request::get(SSE).header("accept", "text/event-stream").header("last-event-id", id)
            } else {
                client.get_request(Some(id))
            };
            // The test shows what it likes.
            request.without("authorization")
        });
        all.push(Open { kind, stream, resume });
    }
    all
}

/// All of them break; with the token that they had nobody goes on with them, with `good` their client does.
async fn all_break(addr: SocketAddr, all: Vec<Open>, over: &str, good: Option<&str>) {
    for Open { kind, mut stream, resume } in all {
        assert_eq!(stream.end().await, StreamEnd::Abrupt, "{kind}");
        if let Some(resume) = resume {
            let refused = EventStream::refusal(addr, &shows(resume.clone(), over)).await;
            assert_eq!(refused.status, 401, "{kind}");
            if let Some(good) = good {
                opened(addr, &shows(resume, good)).await;
            }
        }
    }
}

/// It goes on: what was under way when it was asked does not count.
async fn is_alive(stream: &mut EventStream) {
    for _ in 0..5 {
        let item = stream.next().await;
        assert!(matches!(item, Item::Comment(_)), "{item:?}");
    }
}

#[tokio::test]
async fn every_stream_ends_when_its_token_expires() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let cluster = beating(taking(&server)).env("MCP_AUTH_RESOURCE", RESOURCE).start().await;
    let addr = cluster.addr(0);
    let claims = json!({ "aud": RESOURCE });
    let lasting = server.token("", &claims).await;
    let client = client(addr, &lasting).await;
    let mut control = opened(addr, &shows(Request::get(SSE), &lasting)).await;
    control.event().await;
    let short = server.token("ttl=8", &claims).await;
    let all = all_kinds(addr, &client, &short).await;
    all_break(addr, all, &short, Some(&lasting)).await;
    is_alive(&mut control).await;
}

/// A key that the issuer has withdrawn (it may be in others' hands) shows nothing any more.
#[tokio::test]
async fn every_stream_ends_when_the_key_of_its_token_is_withdrawn() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let cluster = beating(taking(&server)).env("MCP_AUTH_RESOURCE", RESOURCE).start().await;
    let addr = cluster.addr(0);
    let claims = json!({ "aud": RESOURCE });
    let old = server.token("", &claims).await;
    let client = client(addr, &old).await;
    let mut all = all_kinds(addr, &client, &old).await;
    server.rotate().await;
    for open in &mut all {
        assert!(matches!(open.stream.next().await, Item::Comment(_)), "{}: nobody has asked for keys", open.kind);
    }
    let new = server.token("", &claims).await;
    eventually("the new key", || async { list(MCP, Some(&new)).send(addr).await.status != 401 }).await;
    all_break(addr, all, &old, Some(&new)).await;
}

/// Whatever else its end is: it is asked about the token of an open stream as often as about that of new requests.
#[tokio::test]
async fn every_stream_ends_soon_after_its_opaque_token_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let builder = beating(taking_opaque(&server, dir.path()));
    let cluster = builder.env("MCP_AUTH_INTROSPECTION_TTL", "300ms").start().await;
    let addr = cluster.addr(0);
    let (kept, taken) = (opaque_token(&server).await, opaque_token(&server).await);
    let client = client(addr, &kept).await;
    let mut control = opened(addr, &shows(Request::get(SSE), &kept)).await;
    control.event().await;
    let mut all = all_kinds(addr, &client, &taken).await;
    let looks = server.looks();
    eventually("questions about tokens that nobody shows anew", || async { server.looks() > looks + 4 }).await;
    for open in &mut all {
        is_alive(&mut open.stream).await;
    }
    let form = Request::post("/token/revocation", format!("token={taken}")).without("content-type");
    let form = form.header("content-type", "application/x-www-form-urlencoded");
    let form = form.header("authorization", "Basic dGVzdGVyOm9wZW4tc2VzYW1l");
    assert_eq!(form.send(server.addr()).await.status, 200);
    all_break(addr, all, &taken, Some(&kept)).await;
    is_alive(&mut control).await;
}

/// Nobody says whether a token was taken back: a stream goes on for as long as that is allowed.
#[tokio::test]
async fn a_stream_outlives_the_silence_of_the_authorization_server_for_so_long() {
    for (patience, ends) in [("1s", true), ("1h", false)] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = AuthorizationServer::start(dir.path()).await;
        let builder = beating(taking_opaque(&server, dir.path())).env("MCP_AUTH_INTROSPECTION_TTL", "200ms");
        let cluster = builder.env("MCP_AUTH_INTROSPECTION_PATIENCE", patience).start().await;
        let addr = cluster.addr(0);
        let token = opaque_token(&server).await;
        let mut stream = opened(addr, &shows(Request::get(SSE), &token)).await;
        stream.event().await;
        server.kill();
        let is_silent = || async { list(MCP, Some(&token)).send(addr).await.status == 503 };
        eventually("503 for what is new", is_silent).await;
        if ends {
            assert_eq!(stream.end().await, StreamEnd::Abrupt, "{patience}");
        } else {
            is_alive(&mut stream).await;
        }
    }
}
