//! What clients without sessions leave behind: sessions at their servers, results that are kept, and requests that are refused before
//! they are read.

use serde_json::{Value, json};

use crate::harness::{
    AuthorizationServer, Cluster, ModernClient, StreamableUpstream,
    cluster::{self, SERVICE},
    eventually_some,
    http::Request,
    odd_upstream::Gate,
    soon,
    streamable_upstream::{Act, response},
};

fn client() -> ModernClient {
    ModernClient::of(SERVICE)
}

fn quick() -> cluster::Builder {
    Cluster::builder().short_lease().env("MCP_POLL_INTERVAL", "200ms").env("MCP_SESSION_REST", "400ms")
}

async fn answers() -> StreamableUpstream {
    StreamableUpstream::calls(|call| vec![Act::Json(response(call, &json!({})))]).await
}

/// Nobody would come for it: an instance that goes down ends at their servers what waits for a next call.
#[tokio::test]
async fn no_session_for_clients_without_one_stays_at_its_server_when_the_instance_goes_down() {
    for redis in [true, false] {
        let upstream = answers().await;
        let builder = quick().upstream_urls([upstream.url()]);
        let mut cluster = if redis { builder } else { builder.without_redis() }.start().await;
        client().tool(cluster.addr(0), "read", json!({})).await.result();
        let asks = client().declaring(json!({ "elicitation": {} }));
        asks.tool(cluster.addr(0), "read", json!({})).await.result();
        assert_eq!((upstream.sessions().len(), upstream.ended_sessions()), (2, 0));
        cluster.routers[0].process().signal("TERM");
        assert_eq!(cluster.routers[0].process().exit_code().await, Some(0));
        assert_eq!(upstream.ended_sessions(), 2, "with Redis: {redis}");
    }
}

/// The same for one that is at work then: its call is answered before.
#[tokio::test]
async fn a_session_at_work_ends_after_its_call_when_the_instance_goes_down() {
    let gate = Gate::default();
    let waits = gate.clone();
    let upstream =
        StreamableUpstream::calls(move |call| vec![Act::Wait(waits.clone()), Act::Json(response(call, &json!({})))])
            .await;
    let mut cluster = quick().upstream_urls([upstream.url()]).start().await;
    let addr = cluster.addr(0);
    let asks = client().declaring(json!({ "elicitation": {} }));
    let call = tokio::spawn(async move { asks.try_call(addr, "tools/call", json!({ "name": "write" })).await });
    upstream.wait_for("tools/call", 1).await;
    cluster.routers[0].process().signal("TERM");
    gate.open();
    soon("its answer", call).await.unwrap().unwrap().result();
    assert_eq!(cluster.routers[0].process().exit_code().await, Some(0));
    assert_eq!(upstream.ended_sessions(), 1);
}

/// A record may lead to a session of a killed instance; to one for calls that end with their clients nothing does.
#[tokio::test]
async fn what_a_killed_instance_had_open_for_calls_in_passing_its_heir_ends() {
    let upstream = answers().await;
    let mut cluster = quick().routers(2).upstream_urls([upstream.url()]).start().await;
    client().tool(cluster.addr(0), "read", json!({})).await.result();
    let keyed = client().header("idempotency-key", "one");
    let first = keyed.tool(cluster.addr(0), "read", json!({})).await;
    assert_eq!(upstream.sessions().len(), 2);
    cluster.routers[0].kill();
    upstream.until("the plain one ends", |upstream| upstream.ended_sessions() > 0).await;
    assert_eq!(keyed.tool(cluster.addr(1), "read", json!({})).await.result(), first.result());
    assert_eq!((upstream.ended_sessions(), upstream.posts("tools/call").len()), (1, 2));
}

#[tokio::test]
async fn a_full_store_of_results_refuses_new_keys_and_keeps_what_it_has() {
    let upstream = answers().await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).env("MCP_CALL_KEPT", 1).start().await;
    let call = async |key: &str| {
        let client = client().header("idempotency-key", key);
        client.tool(cluster.addr(0), "write", json!({})).await
    };
    let first = call("one").await;
    let refused = call("two").await;
    assert_eq!((refused.status, &refused.response["error"]["data"]["reason"]), (503, &json!("too_many")));
    assert_eq!(call("one").await.result(), first.result());
    assert_eq!(upstream.posts("tools/call").len(), 1, "what was refused has not run");
    client().tool(cluster.addr(0), "write", json!({})).await.result();
    assert!(cluster.metric("mcp_router_dropped_total", Some("results_full")).await > 0.0);
}

/// SEC-1: what came of a call of a stronger token is told to no weaker one of the same subject.
#[tokio::test]
async fn neither_a_result_nor_a_task_is_told_to_a_weaker_token_of_the_same_subject() {
    let dir = tempfile::tempdir().unwrap();
    let server = AuthorizationServer::start(dir.path()).await;
    let cluster = Cluster::builder()
        .streamable()
        .env("MCP_AUTH", "tokens")
        .env("MCP_AUTH_ISSUER", server.issuer())
        .env("MCP_AUTH_RESOURCE", "http://127.0.0.1/here")
        .env("MCP_TASK_AFTER", "50ms")
        .start()
        .await;
    let addr = cluster.addr(0);
    let with = async |scope: &str| {
        let claims = json!({ "aud": "http://127.0.0.1/here", "scope": scope, "jti": fastrand::u64(..).to_string() });
        let token = server.token("", &claims).await;
        client().header("authorization", &format!("Bearer {token}"))
    };
    let (strong, again, weak) = (with("a b").await, with("b a c").await, with("a").await);
    let keyed = |client: &ModernClient| client.clone().header("idempotency-key", "order");
    let count = || json!({ "key": "order" });
    let first = keyed(&strong).tool(addr, "increment", count()).await;
    assert_eq!(keyed(&again).tool(addr, "increment", count()).await.result(), first.result());
    assert_eq!(keyed(&weak).tool(addr, "increment", count()).await.error_code(), -32602);
    assert_eq!(cluster.counts()["order"], 1);

    let tasks = json!({ "extensions": { "io.modelcontextprotocol/tasks": {} } });
    let [strong, again, weak] = [strong, again, weak].map(|client| client.declaring(tasks.clone()));
    let begun = strong.tool(addr, "wait", json!({ "ms": 400, "text": "secret" })).await;
    let about = json!({ "taskId": begun.result()["taskId"] });
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        assert_eq!(weak.call(addr, method, about.clone()).await.error_code(), -32602, "{method}");
    }
    let told = eventually_some("its end", async || {
        let told = again.call(addr, "tasks/get", about.clone()).await.result().clone();
        (told["status"] == "completed").then_some(told)
    })
    .await;
    assert_eq!(told["result"]["content"][0]["text"], "secret");
    assert_eq!(weak.call(addr, "tasks/get", about).await.error_code(), -32602);
}

/// Some clients of this era wait for ever for an answer that names no request.
#[tokio::test]
async fn a_request_that_is_not_read_to_its_end_is_refused_by_its_id_where_that_has_come() {
    let cluster = Cluster::builder().env("MCP_MAX_BODY", "100kiB").env("SERVER_BODY_TIMEOUT", "300ms").start().await;
    let addr = cluster.addr(0);
    let post = |body: String| {
        Request::post(format!("/mcp/{SERVICE}"), body)
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", "tools/list")
    };
    let small = r#"{"jsonrpc":"2.0","method":"tools/list","params":{},"id":"a"}"#.to_owned();
    let asks_for_text = post(small).without("accept").header("accept", "text/html");
    let refused = asks_for_text.send(addr).await;
    assert_eq!((refused.status, &refused.json()["id"]), (406, &json!("a")), "{}", refused.text());

    let padding = "x".repeat(200_000);
    for (body, id) in [
        (format!(r#"{{"jsonrpc":"2.0","id":"a","method":"tools/list","params":{{"x":"{padding}"}}}}"#), json!("a")),
        (format!(r#"{{"method":"tools/list","params":{{"x":"{padding}"}},"id":"a"}}"#), Value::Null),
    ] {
        let refused = post(body).send(addr).await;
        assert_eq!((refused.status, &refused.json()["id"]), (413, &id), "{}", refused.text());
    }

    // The rest of it does not come.
    let late = post(r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"#.to_owned());
    let refused = late.header("content-length", "1000").send(addr).await;
    assert_eq!((refused.status, &refused.json()["id"]), (408, &json!(7)), "{}", refused.text());
}
