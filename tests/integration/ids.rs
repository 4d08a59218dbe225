//! Ids of requests, of both sides: compared as the JSON values that they are, passed on as they came, never taken for the
//! router's own, and never for those of another upstream session.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::harness::{
    Cluster, FakeUpstream, McpClient, PostTo, eventually,
    fake_upstream::Reply,
    http::{self, Request, Response},
    mcp_client::tool_call,
};

/// Posts text as it is.
async fn post_text(client: &McpClient, cluster: &Cluster, router: usize, text: &str) -> Response {
    Request::post(client.endpoint(), text).send(cluster.addr(router)).await
}

fn call_text(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"x"}}}}"#)
}

/// RFC 8259, section 8.3: a cancel reaches the server whichever spelling of the id it uses, by the owner and by others.
#[tokio::test]
async fn a_cancel_finds_its_request_by_the_value_of_the_id() {
    let upstream = FakeUpstream::answering(|_| Reply::Silence).await;
    let cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().post_to(PostTo::Only(0)).initialize().await;
    let spellings = [
        (r#""plain""#, r#""plain""#),
        (r#""\u00e9-1""#, r#""\u00E9-1""#),
        (r#""é-2""#, r#""\u00e9-2""#),
        (r#""a\/b""#, r#""a/b""#),
        ("7", "7.0"),
        ("8e0", "8"),
        ("-0", "0"),
    ];
    for (number, (id, named)) in spellings.into_iter().enumerate() {
        assert_eq!(post_text(&client, &cluster, number % 2, &call_text(id)).await.status, 202);
        let call = upstream.wait_for("tools/call", number + 1).await;
        assert_eq!(call.len(), number + 1);
        let cancel =
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{named}}}}}"#);
        assert_eq!(post_text(&client, &cluster, (number + 1) % 2, &cancel).await.status, 202);
        upstream.wait_for("notifications/cancelled", number + 1).await;
        let bodies: Vec<String> =
            upstream.received().iter().map(|got| String::from_utf8(got.body.clone()).unwrap()).collect();
        assert!(bodies.contains(&call_text(id)), "{id} goes up as it came");
        assert!(bodies.contains(&cancel), "{named} goes up as it came");
    }
    // What is cancelled and unanswered leaves the request table, whatever its id.
    let redis = cluster.redis_client().await;
    eventually("no open request", || async { redis.pending(&client.session()).await.is_empty() }).await;
}

/// An answer finds its request by the value of the id, over the stream and over REST; each side's spelling stays.
#[tokio::test]
async fn an_answer_finds_its_request_by_the_value_of_the_id() {
    let upstream = FakeUpstream::answering(|message| match message["id"].as_str() {
        Some("é") => Reply::Raw(r#"{"jsonrpc":"2.0","id":"\u00e9","result":{"who":"letter"}}"#.to_owned()),
        _ => Reply::Raw(format!(r#"{{"jsonrpc":"2.0","result":{{"who":"number"}},"id":{}.0}}"#, message["id"])),
    })
    .await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    for (id, answer) in [
        (r#""é""#, r#"{"jsonrpc":"2.0","id":"\u00e9","result":{"who":"letter"}}"#),
        ("7", r#"{"jsonrpc":"2.0","result":{"who":"number"},"id":7.0}"#),
    ] {
        assert_eq!(post_text(&client, &cluster, 0, &call_text(id)).await.status, 202);
        client.message("the answer", |message| message["result"]["who"].is_string()).await;
        eventually("the answer as it came", || {
            std::future::ready(client.messages().iter().any(|record| record.data == answer))
        })
        .await;
        let rest = http::post(cluster.addr(0), "/mcp/router/route/mcp-server-v6", call_text("7.00")).await;
        assert_eq!(rest.text(), r#"{"jsonrpc":"2.0","result":{"who":"number"},"id":7.00}"#);
    }
    assert!(cluster.redis_client().await.pending(&client.session()).await.is_empty());
}

/// Textalk/jquery.jsonrpcclient.js#24: a member that is null beside one that is not says nothing, and passes byte for byte.
/// What is no response at all is told to the call that it names, at once.
#[tokio::test]
async fn a_null_member_is_passed_on_and_a_broken_answer_is_told_at_once() {
    let members = |tool: &str| match tool {
        "result" => r#""result":{"content":[]},"error":null"#,
        "error" => r#""result":null,"error":{"code":-5,"message":"no"}"#,
        "both" => r#""result":{},"error":{"code":-5,"message":"no"}"#,
        _ => r#""neither":1"#,
    };
    let upstream = FakeUpstream::answering(move |message| {
        let tool = message["params"]["name"].as_str().unwrap_or_default();
        Reply::Raw(format!(r#"{{"jsonrpc":"2.0","id":{},{}}}"#, message["id"], members(tool)))
    })
    .await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    for tool in ["result", "error"] {
        let id = client.start_call(tool, json!({})).await;
        client.response(id).await;
        let expected = format!(r#"{{"jsonrpc":"2.0","id":{id},{}}}"#, members(tool));
        assert!(client.messages().iter().any(|record| record.data == expected), "{tool} passes byte for byte");
        let path = "/mcp/router/route/mcp-server-v6";
        let rest = http::post(cluster.addr(0), path, tool_call(3, tool, json!({})).to_string()).await;
        assert_eq!(rest.text(), format!(r#"{{"jsonrpc":"2.0","id":3,{}}}"#, members(tool)));
    }
    for tool in ["both", "neither"] {
        let id = client.start_call(tool, json!({})).await;
        let error = client.response(id).await["error"].clone();
        assert_eq!((error["code"].as_i64(), error["data"]["retry"].as_bool()), (Some(-32603), Some(false)), "{error}");
        assert_eq!(error["data"]["reason"], "broken_answer");
    }
}

/// modelcontextprotocol/typescript-sdk#2474: another request with an id in flight is refused, by the owner and by others; the
/// very same one is a retry, and runs once (REQ-6).
#[tokio::test]
async fn another_request_with_an_id_in_flight_is_refused_and_a_retry_is_not() {
    let go_on = Arc::new(Notify::new());
    let told = Arc::clone(&go_on);
    let upstream = FakeUpstream::answering(move |message| {
        Reply::After(Arc::clone(&told), Box::new(Reply::Result(json!({ "who": message["params"]["name"] }))))
    })
    .await;
    let cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().post_to(PostTo::Only(0)).initialize().await;
    for id in [json!(101), json!("é")] {
        let first = tool_call(id.clone(), "first", json!({}));
        let runs = upstream.received_of("tools/call").len() + 1;
        client.post(&first).await;
        upstream.wait_for("tools/call", runs).await;
        for router in [0, 1] {
            let addr = cluster.addr(router);
            let refused = client.try_post_at(addr, &tool_call(id.clone(), "other", json!({})), None).await.unwrap();
            assert_eq!((refused.status, refused.error_code()), (400, Some(-32600)), "{}", refused.text());
            assert_eq!((&refused.json()["id"], &refused.json()["error"]["data"]["reason"]), (&id, &json!("id_in_use")));
            assert_eq!(client.try_post_at(addr, &first, None).await.unwrap().status, 202, "the same body is a retry");
        }
        assert_eq!(upstream.received_of("tools/call").len(), runs);
        go_on.notify_one();
        assert_eq!(client.response_to(&id).await["result"]["who"], "first");
        // Free again.
        client.post(&tool_call(id.clone(), "second", json!({}))).await;
        upstream.wait_for("tools/call", runs + 1).await;
        go_on.notify_one();
        client
            .message("the answer to the second", |message: &Value| {
                message["id"] == id && message["result"]["who"] == "second"
            })
            .await;
    }
}
