//! REST callers share one session of the router at a server: none of them reaches another one's call, and the server is
//! told when nobody waits for an answer any more.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::{
    Cluster, OddUpstream, eventually,
    http::{self, Request, Response},
    mcp_client::tool_call,
    odd_upstream::{Post, Step},
};

const REST: &str = "/mcp/router/route/mcp-server-v6";

/// A server whose tool `hold` never answers by itself.
async fn holding() -> OddUpstream {
    OddUpstream::posts(|post| (post.json["params"]["name"] == "hold").then(|| vec![Step::Accept])).await
}

fn caller(address: &str, message: &Value) -> Request {
    Request::post(REST, message.to_string()).header("x-forwarded-for", address)
}

fn cancel(address: &str, id: &Value) -> Request {
    caller(address, &json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } }))
}

async fn hold(router: SocketAddr, upstream: &OddUpstream, request: Request) -> tokio::task::JoinHandle<Response> {
    let before = upstream.runs("hold");
    let call = tokio::spawn(async move { request.send(router).await });
    upstream.ran("hold", before + 1).await;
    call
}

fn ids(posts: &[Post]) -> Vec<Value> {
    posts.iter().map(|post| post.json["params"]["requestId"].clone()).collect()
}

/// The id of the last call of `hold` at the server.
fn last_held(upstream: &OddUpstream) -> (usize, Value) {
    let calls = upstream.posts_of(true, "tools/call");
    let call = calls.iter().rev().find(|post| post.json["params"]["name"] == "hold").unwrap();
    (call.session, call.json["id"].clone())
}

/// A cancel goes up with the id that the call has there; the server may answer all the same.
#[tokio::test]
async fn a_rest_caller_cancels_its_own_call() {
    let upstream = holding().await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let addr = cluster.addr(0);
    for (number, id) in [json!("a"), json!(7), json!("\u{e9}")].into_iter().enumerate() {
        let call = hold(addr, &upstream, caller("192.0.2.1", &tool_call(id.clone(), "hold", json!({})))).await;
        assert_eq!(cancel("192.0.2.1", &id).send(addr).await.status, 202);
        let cancels = upstream.wait_for(true, "notifications/cancelled", number + 1).await;
        let (session, own) = last_held(&upstream);
        assert_eq!(ids(&cancels).last(), Some(&own));
        let answer = json!({ "jsonrpc": "2.0", "id": own, "result": { "stopped": true } });
        upstream.write(session, format!("data: {answer}\n\n").as_bytes()).await;
        let answer = call.await.unwrap();
        assert_eq!(
            (answer.status, &answer.json()["id"], &answer.json()["result"]["stopped"]),
            (200, &id, &json!(true))
        );
    }
}

/// Ids are JSON values: the cancel may spell its id otherwise than the call.
#[tokio::test]
async fn a_rest_cancel_finds_its_call_by_the_value_of_the_id() {
    let upstream = holding().await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let addr = cluster.addr(0);
    let post = |text: String| Request::post(REST, text).header("x-forwarded-for", "192.0.2.1");
    let spellings = [
        ("7", "7.0"),
        ("7.0", "7"),
        ("80", "8e1"),
        (r#""\u00e9""#, r#""é""#),
        (r#""a\/b""#, r#""a/b""#),
        (r#""a""#, r#""\u0061""#),
    ];
    for (number, (called, cancelled)) in spellings.into_iter().enumerate() {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{called},"method":"tools/call","params":{{"name":"hold"}}}}"#);
        let call = hold(addr, &upstream, post(text)).await;
        let text =
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{cancelled}}}}}"#);
        assert_eq!(post(text).send(addr).await.status, 202);
        let cancels = upstream.wait_for(true, "notifications/cancelled", number + 1).await;
        assert_eq!(ids(&cancels).last(), Some(&last_held(&upstream).1), "{called} by {cancelled}");
        call.abort();
    }
}

/// A server that says nothing more of a cancelled call, as MCP has it: the caller is not left waiting.
#[tokio::test]
async fn a_cancelled_rest_call_ends() {
    let upstream = holding().await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let call = hold(cluster.addr(0), &upstream, caller("192.0.2.1", &tool_call(1, "hold", json!({})))).await;
    cancel("192.0.2.1", &json!(1)).send(cluster.addr(0)).await;
    let answer = call.await.unwrap();
    assert_eq!(answer.json()["error"]["data"]["reason"], "cancelled", "{}", answer.text());
    assert_eq!(answer.json()["error"]["data"]["retry"], false);
    assert_eq!(upstream.posts_of(true, "notifications/cancelled").len(), 1);
}

/// Not another caller's, not another service's, not one of two that it could mean: accepted, counted, and dropped.
#[tokio::test]
async fn a_cancel_never_reaches_the_call_of_another_caller() {
    let upstream = holding().await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let addr = cluster.addr(0);
    let call = |address: &str| caller(address, &tool_call(1, "hold", json!({})));
    let mut calls = vec![hold(addr, &upstream, call("192.0.2.1").header("authorization", "Bearer a")).await];
    // Two of one caller that have the same id.
    for _ in 0..2 {
        calls.push(hold(addr, &upstream, call("192.0.2.9")).await);
    }
    let foreign = [
        cancel("192.0.2.2", &json!(1)),
        cancel("192.0.2.1", &json!(1)),
        cancel("192.0.2.1", &json!(1)).header("authorization", "Bearer b"),
        cancel("192.0.2.2", &json!(1)).header("authorization", "Bearer a"),
        cancel("192.0.2.1", &json!("1")).header("authorization", "Bearer a"),
        cancel("192.0.2.9", &json!(1)),
        caller("192.0.2.1", &json!({ "jsonrpc": "2.0", "method": "notifications/cancelled" })),
    ]
    .into_iter()
    // As the ids of the shared session would be.
    .chain((1..20).map(|id| cancel("192.0.2.3", &json!(id))));
    let mut sent = 0.0;
    for request in foreign {
        assert_eq!(request.send(addr).await.status, 202);
        sent += 1.0;
    }
    assert!(upstream.posts_of(true, "notifications/cancelled").is_empty());
    assert_eq!(cluster.metric("mcp_router_dropped_total", Some("cancel_of_nothing")).await, sent);
    cancel("192.0.2.1", &json!(1)).header("authorization", "Bearer a").send(addr).await;
    upstream.wait_for(true, "notifications/cancelled", 1).await;
    for call in calls {
        call.abort();
    }
}

/// A caller that goes away, and one whose time is over: the server is told (MCP 2025-11-25, lifecycle, timeouts).
#[tokio::test]
async fn the_server_is_told_when_a_rest_caller_waits_no_more() {
    let upstream = holding().await;
    let cluster =
        Cluster::builder().upstream_urls([upstream.url()]).env("MCP_UPSTREAM_REQUEST_TIMEOUT", "1500ms").start().await;
    let addr = cluster.addr(0);
    let gone = hold(addr, &upstream, caller("192.0.2.1", &tool_call("x", "hold", json!({})))).await;
    let (_, first) = last_held(&upstream);
    gone.abort();
    assert_eq!(ids(&upstream.wait_for(true, "notifications/cancelled", 1).await), std::slice::from_ref(&first));

    let late = hold(addr, &upstream, caller("192.0.2.1", &tool_call("x", "hold", json!({})))).await;
    let (_, second) = last_held(&upstream);
    let answer = late.await.unwrap();
    assert_eq!((answer.status, &answer.json()["error"]["data"]["outcome"]), (504, &json!("unknown")));
    assert_eq!(ids(&upstream.wait_for(true, "notifications/cancelled", 2).await), [first, second]);
    // An answer in time is no reason to cancel anything.
    http::post(addr, REST, tool_call("y", "read", json!({})).to_string()).await;
    assert_eq!(upstream.posts_of(true, "notifications/cancelled").len(), 2);
    eventually("nothing left under way", || async {
        let instances = http::get(addr, "/mcp/router/services/mcp-server-v6/instances").await.json();
        instances["instances"][0]["inFlight"] == 0
    })
    .await;
}

/// Progress tokens must be unique on a session: those of two callers that are alike are told apart.
#[tokio::test]
async fn progress_tokens_of_rest_callers_do_not_meet() {
    let upstream = holding().await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let mut calls = Vec::new();
    for address in ["192.0.2.1", "192.0.2.2"] {
        let mut message = tool_call(1, "hold", json!({}));
        message["params"]["_meta"] = json!({ "progressToken": 0, "other": "stays" });
        calls.push(hold(cluster.addr(0), &upstream, caller(address, &message)).await);
    }
    let held: Vec<Value> = upstream.posts_of(true, "tools/call").into_iter().map(|post| post.json).collect();
    let tokens: Vec<&Value> = held.iter().map(|call| &call["params"]["_meta"]["progressToken"]).collect();
    assert_ne!(tokens[0], tokens[1]);
    assert!(held.iter().all(|call| call["params"]["_meta"]["other"] == "stays"));
    for call in calls {
        call.abort();
    }
}

/// A link that breaks under REST callers: what may have run is run again only if it just reads, and nobody else is told to
/// try again.
#[tokio::test]
async fn a_broken_link_repeats_only_what_rest_callers_may_repeat() {
    let first = OddUpstream::posts(|post| (post.json["params"]["name"] == "write").then(|| vec![Step::Accept])).await;
    let cluster = Cluster::builder().upstream_urls([first.url()]).start().await;
    let addr = cluster.addr(0);
    let write = tokio::spawn(async move { http::post(addr, REST, tool_call(1, "write", json!({})).to_string()).await });
    first.ran("write", 1).await;
    let session = first.posts_of(true, "tools/call")[0].session;
    // Something that ends the link, and not by its end.
    first.end_stream(session).await;
    let answer = write.await.unwrap();
    let error = &answer.json()["error"];
    assert_eq!(
        (answer.status, &error["data"]["outcome"], &error["data"]["retry"]),
        (502, &json!("unknown"), &json!(false))
    );
    assert_eq!(first.runs("write"), 1);
    let again = http::post(addr, REST, tool_call(2, "read", json!({})).to_string()).await;
    assert_eq!(again.status, 200, "{}", again.text());
}
