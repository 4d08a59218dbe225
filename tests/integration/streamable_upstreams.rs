//! Servers that speak Streamable HTTP (MCP 2025-03-26 to 2025-11-25): the router is their client, and whoever talks to the
//! router notices no difference.

use serde_json::{Value, json};

use crate::harness::{
    Cluster, FakeUpstream, Oracle, StreamableUpstream,
    http::Request,
    odd_upstream::Gate,
    streamable_upstream::{Act, Manner, response},
};

const REST: &str = "/mcp/router/route/mcp-server-v6";

fn text(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }] })
}

fn named(call: &Value) -> String {
    call["params"]["name"].as_str().unwrap_or_default().to_owned()
}

fn calls(name: &str) -> Value {
    json!({ "name": name, "arguments": {} })
}

/// Answers each call with the name of its tool: as JSON, or as an event if the name begins with an `e`.
fn in_both_forms(call: &Value) -> Vec<Act> {
    let name = named(call);
    if name.starts_with('e') {
        vec![Act::Prime, Act::result(call, &text(&name))]
    } else {
        vec![Act::Json(response(call, &text(&name)))]
    }
}

async fn behind(upstream: &StreamableUpstream) -> Cluster {
    Cluster::builder().upstream_urls([upstream.url()]).start().await
}

/// MCP, "Session Management" and "Protocol Version Header": each message is a POST that takes both forms of an answer, and
/// from `initialize` on names the session and the version.
#[tokio::test]
async fn a_client_of_the_old_transport_calls_tools_of_a_streamable_server() {
    let upstream = StreamableUpstream::calls(in_both_forms).await;
    let cluster = behind(&upstream).await;
    let client = cluster.client().initialize().await;
    for tool in ["json", "event", "json", "event"] {
        let result = client.result("tools/call", calls(tool)).await;
        assert_eq!(result["content"][0]["text"], tool);
    }
    let session = upstream.sessions()[0].clone();
    for post in upstream.seen_with("POST") {
        let accept = post.header("accept").unwrap();
        assert!(accept.contains("application/json") && accept.contains("text/event-stream"), "{accept}");
        assert_eq!(post.header("content-type"), Some("application/json"));
        assert_eq!(post.header("host"), Some(&*upstream.addr().to_string()));
        let is_first = post.json["method"] == "initialize";
        assert_eq!(post.session(), (!is_first).then_some(&*session), "{}", post.json);
        assert_eq!(post.header("mcp-protocol-version"), (!is_first).then_some("2025-11-25"), "{}", post.json);
    }
    assert_eq!(upstream.posts("initialize").len(), 1);
    assert_eq!(upstream.posts("notifications/initialized").len(), 1);
    Oracle::every_request_answered_once(&client);
}

/// Sessions are optional.
#[tokio::test]
async fn a_server_without_sessions_is_sent_none() {
    let manner = Manner { has_sessions: false, has_stream: false, ..Manner::default() };
    let upstream = StreamableUpstream::start(manner, in_both_forms).await;
    let cluster = behind(&upstream).await;
    let client = cluster.client().initialize().await;
    assert_eq!(client.result("tools/call", calls("event")).await["content"][0]["text"], "event");
    assert!(upstream.seen().iter().all(|seen| seen.session().is_none()));
}

/// What a server says in the answer to a call before the result is passed on, in order, while the call runs.
#[tokio::test]
async fn what_comes_before_the_answer_is_passed_on_at_once() {
    let gate = Gate::new();
    let waits = gate.clone();
    let note =
        |number: usize| json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "data": number } });
    let upstream = StreamableUpstream::calls(move |call| {
        vec![
            Act::Event(note(1)),
            Act::Plain(note(2)),
            Act::Wait(waits.clone()),
            Act::Event(note(3)),
            Act::result(call, &text("done")),
        ]
    })
    .await;
    let cluster = behind(&upstream).await;
    let client = cluster.client().initialize().await;
    let call = client.start_call("write", json!({})).await;
    client.message("the second note", |message| message["params"]["data"] == 2).await;
    gate.open();
    assert_eq!(client.response(call).await["result"]["content"][0]["text"], "done");
    let notes = client.notifications("notifications/message");
    assert_eq!(notes, [note(1), note(2), note(3)]);
}

/// A session that the server does not know any more (404, or 400 that says so) is begun anew with the client's own words,
/// and the message that met it is sent again: it was not executed.
#[tokio::test]
async fn a_session_that_the_server_has_forgotten_is_begun_anew() {
    let words = r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#;
    for unknown_session in [Manner::default().unknown_session, ("400 Bad Request", words)] {
        let upstream = StreamableUpstream::start(Manner { unknown_session, ..Manner::default() }, in_both_forms).await;
        let cluster = behind(&upstream).await;
        let client = cluster.client().initialize().await;
        let before = upstream.sessions();
        upstream.forget_sessions();
        assert_eq!(client.result("tools/call", calls("write")).await["content"][0]["text"], "write");
        assert_ne!(upstream.sessions(), before);
        let begun = upstream.posts("initialize");
        assert_eq!(begun.len(), 2);
        assert_eq!(begun[0].json["params"], begun[1].json["params"], "the client's own");
        assert!(begun[1].session().is_none());
        upstream.wait_for("notifications/initialized", 2).await;
        Oracle::every_request_answered_once(&client);
    }
}

/// An event stream that ends without the answer is no answer, and without an id there is nothing to resume by: what only
/// reads is sent again, and of the rest the client is told that nobody knows.
#[tokio::test]
async fn a_stream_without_the_answer_and_without_an_id_leaves_the_outcome_unknown() {
    for end in [Act::Close, Act::Break] {
        let upstream = StreamableUpstream::calls(move |call| {
            let is_second = call["params"]["arguments"]["again"] == true;
            if named(call) == "read" && is_second {
                return vec![Act::result(call, &text("read"))];
            }
            vec![Act::Plain(json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": {} })), end.clone()]
        })
        .await;
        let cluster = behind(&upstream).await;
        let client = cluster.client().initialize().await;
        let call = client.start_call("write", json!({})).await;
        let error = client.response(call).await["error"].clone();
        assert_eq!((&error["code"], &error["data"]["outcome"]), (&json!(-32001), &json!("unknown")), "{error}");
        assert_eq!(upstream.posts("tools/call").len(), 1, "it may have had its effect");
        client.start_call("read", json!({})).await;
        upstream.until("the read-only call again", |server| server.posts("tools/call").len() >= 3).await;
    }
}

/// MCP, "Backwards Compatibility": where the URL does not say it the server does, whichever transport it speaks.
#[tokio::test]
async fn a_url_that_says_nothing_is_asked_which_transport_it_speaks() {
    let manner = Manner { path: "/somewhere", ..Manner::default() };
    let upstream = StreamableUpstream::start(manner, in_both_forms).await;
    let cluster = behind(&upstream).await;
    let client = cluster.client().initialize().await;
    assert_eq!(client.result("tools/call", calls("event")).await["content"][0]["text"], "event");
    assert!(upstream.seen_with("POST").len() >= 3);

    let old = FakeUpstream::start().await;
    let url = old.url().replace("/sse", "/somewhere");
    let cluster = Cluster::builder().upstream_urls([url]).start().await;
    for _ in 0..2 {
        let client = cluster.client().initialize().await;
        client.result("tools/call", calls("x")).await;
    }
    assert_eq!(old.open_sessions().len(), 2);
}

/// `MCP_UPSTREAM_TRANSPORT` is for URLs that say the wrong thing.
#[tokio::test]
async fn the_transport_can_be_set() {
    let manner = Manner { path: "/a/sse", ..Manner::default() };
    let upstream = StreamableUpstream::start(manner, in_both_forms).await;
    let cluster =
        Cluster::builder().upstream_urls([upstream.url()]).env("MCP_UPSTREAM_TRANSPORT", "streamable").start().await;
    let client = cluster.client().initialize().await;
    assert_eq!(client.result("tools/call", calls("json")).await["content"][0]["text"], "json");
}

/// REST callers and health checks use the router's own session, over Streamable HTTP as well.
#[tokio::test]
async fn rest_calls_and_health_checks_pass_over_streamable_http() {
    let upstream = StreamableUpstream::calls(in_both_forms).await;
    let cluster =
        Cluster::builder().upstream_urls([upstream.url()]).env("MCP_UPSTREAM_HEALTH_INTERVAL", "50ms").start().await;
    for tool in ["json", "event"] {
        let call = json!({ "jsonrpc": "2.0", "id": tool, "method": "tools/call", "params": calls(tool) });
        let answer = Request::post(REST, call.to_string()).send(cluster.addr(0)).await;
        assert_eq!(answer.status, 200, "{tool}");
        assert_eq!((&answer.json()["id"], &answer.json()["result"]), (&json!(tool), &text(tool)));
    }
    upstream.until("health checks", |server| server.own_posts("ping") >= 3).await;
    upstream.forget_sessions();
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": calls("json") });
    assert_eq!(Request::post(REST, call.to_string()).send(cluster.addr(0)).await.status, 200, "on a new session");
}
