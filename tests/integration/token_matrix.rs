//! Every verb × whoever may ask × every place, with tokens of a real authorization server, over both transports. SEC-1, SEC-6

use std::net::SocketAddr;

use serde_json::json;

use super::principals::{Outcome, Victim, outcome, secret_call};
use crate::harness::{AuthorizationServer, Cluster, McpClient, StreamableClient, http::Request};

const MCP: &str = "/mcp/mcp-server-v6";
const HERE: &str = "http://127.0.0.1/here";

/// Who asks, by the token that he shows, and what he gets.
struct Asks {
    who: &'static str,
    token: Option<String>,
    gets: Outcome,
}

async fn all(server: &AuthorizationServer) -> Vec<Asks> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let strong = "mcp:use mcp:write";
    let mut asks = Vec::new();
    for (who, gets, claims) in [
        ("a new token of the same subject", Outcome::Served, json!({ "scope": strong, "jti": "2" })),
        ("a weaker token of the same subject", Outcome::NotThere, json!({ "scope": "mcp:use" })),
        ("another subject", Outcome::NotThere, json!({ "scope": strong, "sub": "mallory" })),
        ("a token without a scope that all must have", Outcome::TooLittle, json!({ "scope": "mcp:write" })),
        ("a token that is over", Outcome::Unknown, json!({ "scope": strong, "exp": now - 3600 })),
        ("a token that is not yet", Outcome::Unknown, json!({ "scope": strong, "nbf": now + 3600 })),
        ("a token for another resource", Outcome::Unknown, json!({ "scope": strong, "aud": "https://other.example" })),
        ("a token of another issuer", Outcome::Unknown, json!({ "scope": strong, "iss": "https://other.example" })),
    ] {
        let mut usual = json!({ "aud": HERE });
        usual.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        asks.push(Asks { who, token: Some(server.token("", &usual).await), gets });
    }
    let whole = asks[0].token.clone().unwrap();
    let (head, tail) = whole.split_at(whole.len() - 8);
    for (who, token) in [
        ("nobody", None),
        ("a token of no bytes", Some(String::new())),
        ("one that is cut", Some(head.to_owned())),
        ("one that is changed", Some(format!("{head}{}", tail.chars().rev().collect::<String>()))),
        ("one without a signature", Some(whole.rsplit_once('.').unwrap().0.to_owned() + ".")),
        ("what is no token", Some("....".to_owned())),
        ("what is a very long one", Some("a.".repeat(9000) + "b")),
    ] {
        asks.push(Asks { who, token, gets: Outcome::Unknown });
    }
    asks
}

fn shows(request: Request, token: Option<&str>) -> Request {
    token.map_or(request.clone(), |token| request.header("authorization", &format!("Bearer {token}")))
}

async fn check(
    addr: SocketAddr,
    asks: &[Asks],
    victim: &Victim,
    verbs: impl Fn(&Victim) -> Vec<(&'static str, Request)>,
    place: &str,
) {
    for Asks { who, token, gets } in asks {
        for (verb, request) in verbs(victim) {
            // A cookie leads to no session that somebody shows.
            if *gets == Outcome::Served && verb.contains("cookie") {
                continue;
            }
            let found = outcome(addr, &shows(request, token.as_deref()), victim).await;
            assert_eq!(found, *gets, "{verb}, {who}, {place}");
        }
        if *gets != Outcome::Served {
            let delete = Request::with_method("DELETE", MCP).header("mcp-session-id", victim.id());
            let found = outcome(addr, &shows(delete, token.as_deref()), victim).await;
            assert_eq!(found, *gets, "DELETE, {who}, {place}");
        }
    }
}

#[tokio::test]
async fn with_tokens_nobody_but_its_principal_has_a_session_whatever_he_asks_and_wherever() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let mut cluster = Cluster::builder()
        .routers(2)
        .env("MCP_AUTH", "tokens")
        .env("MCP_AUTH_ISSUER", server.issuer())
        .env("MCP_AUTH_RESOURCE", HERE)
        .env("MCP_AUTH_SCOPES", "mcp:use")
        .env("MCP_AUTH_JWKS_FLOOR", "50ms")
        .short_lease()
        .env("MCP_POLL_INTERVAL", "200ms")
        .start()
        .await;
    let (here, there) = (cluster.addr(0), cluster.addr(1));
    let token = server.token("", &json!({ "aud": HERE, "scope": "mcp:use mcp:write" })).await;
    let bearer = format!("Bearer {token}");
    let streamable = StreamableClient::new([here], MCP);
    streamable.set_header("authorization", &bearer);
    let first = secret_call(&streamable).await;
    let sse = McpClient::builder([here]).header("authorization", &bearer).stays_away().initialize().await;
    let second = Victim::of_sse(&sse).await;
    let asks = all(&server).await;
    for (addr, place) in [(here, "at its owner"), (there, "at another instance")] {
        check(addr, &asks, &first, Victim::streamable, place).await;
        check(addr, &asks, &second, Victim::sse, place).await;
    }
    cluster.routers[0].kill();
    check(there, &asks, &first, Victim::streamable, "after a kill").await;
    check(there, &asks, &second, Victim::sse, "after a kill").await;
    // Keys of the issuer that are gone take their tokens with them, wherever.
    server.rotate().await;
    let fresh = server.token("", &json!({ "aud": HERE, "scope": "mcp:use mcp:write" })).await;
    for (token, gets) in [(&fresh, Outcome::Served), (&token, Outcome::Unknown)] {
        let (verb, request) = first.streamable().remove(0);
        assert_eq!(outcome(there, &shows(request, Some(token)), &first).await, gets, "{verb}");
    }
    let log = cluster.routers[1].log_text();
    let shown = asks.iter().filter_map(|asks| asks.token.as_deref()).chain([&*token, &*fresh]);
    for secret in shown.filter(|token| token.len() > 20).chain([first.id(), second.id()]) {
        assert!(!log.contains(secret), "SEC-2");
    }
    cluster.assert_no_violations().await;
}
