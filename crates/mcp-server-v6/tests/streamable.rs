//! `mcp-server-v6` over Streamable HTTP, on a real socket: the transport's rules, its streams and their resumption, with
//! and without the event store. What the methods and tools do is in `server.rs`; here it is only that they do the same.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, in its helpers too")]

#[path = "server/streamable.rs"]
mod streamable;

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use mcp_server_v6::{Answers, ServerOptions};
use serde_json::{Value, json};
use streamable::{PATH, client_of, nobody, options, progress_of, start, wait_call};
use testkit::{
    Item, Reply, StreamEnd, StreamableClient, eventually, header,
    http::{self, Request},
    mcp_client::{request, tool_call},
    soon,
};

const NO_SESSION: &str = "00000000000000000000000000000000";

fn everything() -> Value {
    json!({ "sampling": {}, "elicitation": {}, "roots": {} })
}

async fn sessions(addr: SocketAddr) -> Value {
    http::get(addr, "/actuator/health").await.json()["components"]["streamableHttp"]["details"]["sessions"].clone()
}

// ---- form and session

#[actix_web::test]
async fn what_has_the_wrong_form_is_refused_with_the_status_that_says_so() {
    let addr = start(options());
    let client = StreamableClient::initialized([addr], PATH).await;
    let ping = request(1, "ping", json!({})).to_string();
    let post = |body: &str| client.post_request(body);
    for (what, request, status) in [
        ("as it must be", post(&ping), 200),
        ("other order and parameters", post(&ping).header("accept", "text/event-stream;q=1 ,APPLICATION/json"), 200),
        ("charset", post(&ping).header("content-type", "application/json; charset=utf-8"), 200),
        ("no Accept", post(&ping).without("accept"), 406),
        ("JSON alone", post(&ping).header("accept", "application/json"), 406),
        ("streams alone", post(&ping).header("accept", "text/event-stream"), 406),
        ("anything", post(&ping).header("accept", "*/*"), 406),
        ("text", post(&ping).header("content-type", "text/plain"), 415),
        ("no type", post(&ping).without("content-type"), 415),
        ("no JSON", post("nonsense"), 400),
        ("no JSON-RPC", post("{}"), 400),
        ("nothing", post(""), 400),
        ("an empty batch", post("[]"), 400),
        ("a batch in a revision without", post(&format!("[{ping}]")), 400),
        ("no session", post(&ping).without("mcp-session-id"), 400),
        ("unknown session", post(&ping).header("mcp-session-id", NO_SESSION), 404),
        ("no session id at all", post(&ping).header("mcp-session-id", "x"), 404),
        ("unknown version", post(&ping).header("mcp-protocol-version", "1999-01-01"), 400),
        ("the next era", post(&ping).header("mcp-protocol-version", "2026-07-28"), 400),
        ("another known version", post(&ping).header("mcp-protocol-version", "2025-06-18"), 200),
        ("no version", post(&ping).without("mcp-protocol-version"), 200),
        ("GET without Accept", client.get_request(None).without("accept"), 406),
        ("GET of JSON", client.get_request(None).header("accept", "application/json"), 406),
        ("GET without session", client.get_request(None).without("mcp-session-id"), 400),
        ("GET of an unknown session", client.get_request(None).header("mcp-session-id", NO_SESSION), 404),
        ("GET of an unknown version", client.get_request(None).header("mcp-protocol-version", "x"), 400),
        ("GET after a foreign id", client.get_request(Some("x")), 400),
        ("GET after an id of no stream", client.get_request(Some("99-1")), 400),
        ("GET after an id to come", client.get_request(Some("0-99")), 400),
        ("DELETE without session", client.delete_request().without("mcp-session-id"), 400),
        ("DELETE of an unknown session", client.delete_request().header("mcp-session-id", NO_SESSION), 404),
        ("PUT", Request::with_method("PUT", PATH), 405),
    ] {
        let response = request.send(addr).await;
        assert_eq!(response.status, status, "{what}: {}", response.text());
        if status == 405 {
            assert_eq!(response.header("allow"), Some("GET, POST, DELETE"));
        }
    }
    assert_eq!(client.result("ping", json!({})).await, json!({}), "the session is none the worse for it");
}

#[actix_web::test]
async fn a_session_begins_with_initialize_and_ends_with_delete() {
    let addr = start(options());
    let client = StreamableClient::new([addr], PATH);
    let refused = client.try_initialize("2025-11-25", Value::Null).await;
    assert_eq!((&refused["error"]["code"], client.session()), (&json!(-32602), None), "{refused}");
    assert_eq!(sessions(addr).await, 0);

    for (asked, spoken) in [("2025-03-26", "2025-03-26"), ("2025-06-18", "2025-06-18"), ("2026-07-28", "2025-11-25")] {
        let client = StreamableClient::new([addr], PATH);
        let result = client.initialize(asked, json!({})).await;
        assert_eq!(result["protocolVersion"], spoken);
        let session = client.session().unwrap();
        assert!(session.bytes().all(|byte| byte.is_ascii_graphic()));
        // Once more, by a client that lost track: the same session.
        assert!(client.result("initialize", json!({ "protocolVersion": asked })).await.is_object());
        assert_eq!(sessions(addr).await, 1);

        let mut stream = client.listen().await.stream();
        let (_, mut call) = client.start_call("wait", json!({ "ms": 60_000 })).await;
        assert_eq!(client.delete().await.status, 200);
        assert_eq!((stream.end().await, call.end().await), (StreamEnd::Clean, StreamEnd::Clean));
        let ping = request(1, "ping", json!({}));
        assert_eq!(client.post(&ping).await.whole().status, 404);
        assert_eq!(client.listen().await.whole().status, 404);
        assert_eq!(client.delete().await.status, 404);
        assert_eq!(sessions(addr).await, 0);
    }
}

#[actix_web::test]
async fn a_session_of_one_transport_is_unknown_to_the_other() {
    let addr = start(options());
    let client = StreamableClient::initialized([addr], PATH).await;
    let session = client.session().unwrap();
    let ping = request(1, "ping", json!({})).to_string();
    assert_eq!(http::post(addr, &format!("/mcp/message?sessionId={session}"), ping).await.status, 404);

    let mut sse = testkit::EventStream::open(addr, &Request::get("/sse")).await;
    let endpoint = sse.event().await.data;
    client.set_session(endpoint.strip_prefix("/mcp/message?sessionId="));
    assert_eq!(client.listen().await.whole().status, 404);
    assert_eq!(client.delete().await.status, 404);
}

#[actix_web::test]
async fn a_session_that_is_left_alone_ends_and_one_in_use_does_not() {
    let addr = start(ServerOptions { session_idle: Duration::from_secs(2), ..options() });
    let left = StreamableClient::initialized([addr], PATH).await;
    let listening = StreamableClient::initialized([addr], PATH).await;
    let mut stream = listening.listen().await.stream();
    // The one that is left is looked for when another one begins.
    eventually("the end of the session", || async {
        StreamableClient::initialized([addr], PATH).await.delete().await;
        sessions(addr).await == 1
    })
    .await;
    assert_eq!(left.post(&request(1, "ping", json!({}))).await.whole().status, 404);
    assert_eq!(listening.result("ping", json!({})).await, json!({}));
    assert!(matches!(stream.event().await.id.as_deref(), Some("0-1")));
}

#[actix_web::test]
async fn more_sessions_than_there_may_be_are_refused() {
    let addr = start(ServerOptions { max_sessions: 1, ..options() });
    let first = StreamableClient::initialized([addr], PATH).await;
    let params = json!({ "protocolVersion": "2025-11-25" });
    let second = StreamableClient::new([addr], PATH);
    assert_eq!(second.post(&request(1, "initialize", params)).await.whole().status, 503);
    assert_eq!(first.delete().await.status, 200);
    second.initialize("2025-11-25", json!({})).await;
}

#[actix_web::test]
async fn batches_are_of_one_revision_and_answered_together() {
    let addr = start(options());
    let client = StreamableClient::new([addr], PATH);
    client.initialize("2025-03-26", json!({})).await;
    let ping = |id: u64| request(id, "ping", json!({}));
    let note = json!({ "jsonrpc": "2.0", "method": "notifications/x" });

    let response = client.post(&json!([ping(7), note, ping(8)])).await.whole();
    assert_eq!(response.json().as_array().unwrap().len(), 2);
    assert_eq!((&response.json()[0]["id"], &response.json()[1]["id"]), (&json!(7), &json!(8)));
    assert!(client.post(&json!([ping(9)])).await.whole().json().is_array(), "one is a batch, too");
    assert_eq!(client.post(&json!([note, note])).await.whole().status, 202);

    let mut shown = client.post(&json!([tool_call(10, "wait", json!({ "ms": 20 })), ping(11)])).await.stream();
    assert_eq!((&shown.message().await["id"], &shown.message().await["id"]), (&json!(11), &json!(10)));
    assert_eq!(shown.end().await, StreamEnd::Clean);

    let initialize = request(12, "initialize", json!({ "protocolVersion": "2025-03-26" }));
    assert_eq!(client.post(&json!([initialize, ping(13)])).await.whole().status, 400);
}

// ---- answers

#[actix_web::test]
async fn what_is_ready_comes_as_json_and_what_takes_its_time_as_a_stream() {
    for (answers, ready_is_json, slow_is_json) in
        [(Answers::Auto, true, false), (Answers::Json, true, true), (Answers::Stream, false, false)]
    {
        let client = client_of(ServerOptions { answers, ..options() }).await;
        for (tool, arguments, is_json) in
            [("echo", json!({ "text": "x" }), ready_is_json), ("wait", json!({ "ms": 5, "text": "x" }), slow_is_json)]
        {
            let answer = match client.post(&tool_call("id", tool, arguments)).await {
                Reply::Whole(response) => {
                    assert!(is_json, "{answers:?} {tool}");
                    assert_eq!(response.header("content-type"), Some("application/json"));
                    response.json()
                }
                Reply::Stream(mut shown) => {
                    assert!(!is_json, "{answers:?} {tool}");
                    assert_eq!(header(shown.headers(), "content-type"), Some("text/event-stream"));
                    let priming = shown.event().await;
                    assert_eq!((priming.data.as_str(), shown.retry_ms()), ("", Some(20)), "{priming:?}");
                    let answer = shown.answer(&json!("id")).await;
                    assert_eq!(shown.next().await, Item::End(StreamEnd::Clean));
                    answer
                }
            };
            assert_eq!((&answer["id"], &answer["result"]["content"][0]["text"]), (&json!("id"), &json!("x")));
        }
        assert_eq!(client.repeated_ids(), Vec::<String>::new());
    }
}

#[actix_web::test]
async fn only_clients_that_know_priming_events_get_them_unless_told_otherwise() {
    for (version, prime_always, is_primed) in
        [("2025-06-18", false, false), ("2025-06-18", true, true), ("2025-11-25", false, true)]
    {
        let client = StreamableClient::new([start(ServerOptions { prime_always, ..options() })], PATH);
        client.initialize(version, json!({})).await;
        let (id, mut shown) = client.start_call("wait", json!({ "ms": 5 })).await;
        assert_eq!(shown.event().await.data.is_empty(), is_primed, "{version}");
        if is_primed {
            shown.answer(&json!(id)).await;
        }
        let place = if is_primed { "-1" } else { "-2" };
        assert!(client.seen()[0].id.as_ref().unwrap().ends_with(place), "ids there are always: {:?}", client.seen());
    }
}

#[actix_web::test]
async fn four_mebibytes_pass_in_both_directions_unchanged_in_either_form() {
    let text: String = ('!'..='~').chain("äöü€🦀\n\r".chars()).cycle().take(4 << 20).collect();
    for answers in [Answers::Auto, Answers::Stream] {
        let client = client_of(ServerOptions { answers, ..options() }).await;
        assert_eq!(client.call("echo", json!({ "text": text })).await["content"][0]["text"], text);
    }
}

#[actix_web::test]
async fn the_same_tools_do_the_same_as_over_sse() {
    for answers in [Answers::Auto, Answers::Stream, Answers::Json] {
        let client = client_of(ServerOptions { answers, ..options() }).await;
        let tools = client.result("tools/list", json!({})).await;
        let names: BTreeSet<_> =
            tools["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone().to_string()).collect();
        assert_eq!(names.len(), 11, "{names:?}");
        assert_eq!(client.call("increment", json!({ "key": "k" })).await["structuredContent"]["value"], 1);
        assert_eq!(client.call("increment", json!({ "key": "k" })).await["structuredContent"]["value"], 2);
        let counts = client.call("counts", json!({})).await["structuredContent"].clone();
        assert_eq!((&counts["distinctCalls"]["k"], &counts["repeatedCalls"]), (&json!(2), &json!([])));
        assert!(client.result("resources/list", json!({})).await["resources"].is_array());
        assert!(client.result("prompts/list", json!({})).await["prompts"].is_array());
        assert_eq!(client.request("nonsense", json!({})).await["error"]["code"], -32601);
        let servers = client.call("list_servers", json!({})).await;
        assert_eq!(servers["structuredContent"]["servers"][0]["transport"], "streamable-http");
    }
}

#[actix_web::test]
async fn progress_questions_and_log_messages_come_on_the_stream_of_their_call() {
    let client = StreamableClient::new([start(options())], PATH);
    client.initialize("2025-11-25", everything()).await;
    let mut own = client.listen().await.stream();

    let mut shown = client.post(&wait_call(50, 20, &[])).await.stream();
    for step in 1..=3 {
        assert_eq!(progress_of(&shown.message().await), Some(step));
    }
    assert_eq!(shown.message().await["id"], 50);

    let model = json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "Me" } });
    let user = json!({ "action": "accept", "content": { "text": "Me" } });
    let roots = json!({ "roots": [{ "uri": "file:///a" }] });
    for (by, method, result, text) in [
        ("sampling", "sampling/createMessage", model, "Me"),
        ("elicitation", "elicitation/create", user, "Me"),
        ("roots", "roots/list", roots, "file:///a"),
    ] {
        let (id, mut shown) = client.start_call("ask_client", json!({ "prompt": "Who?", "by": by })).await;
        let question = shown.message().await;
        assert_eq!(question["method"], method);
        client.reply(&question, result).await;
        assert_eq!(shown.answer(&json!(id)).await["result"]["content"][0]["text"], text);
    }

    client.result("logging/setLevel", json!({ "level": "info" })).await;
    let (id, mut shown) = client.start_call("addPerson", nobody()).await;
    assert_eq!(shown.message().await["method"], "notifications/message");
    assert_eq!(shown.answer(&json!(id)).await["result"]["isError"], false);

    // Nothing of all that came on the session's own stream.
    client.result("resources/subscribe", json!({ "uri": "persons://stats" })).await;
    client.result("logging/setLevel", json!({ "level": "error" })).await;
    client.call("addPerson", nobody()).await;
    assert_eq!(own.message().await["method"], "notifications/resources/updated");
}

#[actix_web::test]
async fn with_json_alone_a_call_says_on_the_sessions_own_stream_what_it_has_to_say_before() {
    let client = StreamableClient::new([start(ServerOptions { answers: Answers::Json, ..options() })], PATH);
    client.initialize("2025-11-25", everything()).await;
    let mut own = client.listen().await.stream();
    let asking = actix_web::rt::spawn({
        let client = client.clone();
        async move { client.call("ask_client", json!({ "prompt": "Who?" })).await }
    });
    let question = own.message().await;
    let model = json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "Me" } });
    client.reply(&question, model).await;
    assert_eq!(soon("the answer", asking).await.unwrap()["content"][0]["text"], "Me");
}

#[actix_web::test]
async fn a_cancelled_call_is_not_answered_and_its_response_ends() {
    for answers in [Answers::Auto, Answers::Json] {
        let client = client_of(ServerOptions { answers, max_running_calls: 1, ..options() }).await;
        let posting = actix_web::rt::spawn({
            let client = client.clone();
            async move { client.post(&tool_call(70, "wait", json!({ "ms": 60_000 }))).await }
        });
        let cancel = || client.notify("notifications/cancelled", json!({ "requestId": 70 }));
        let reply = if answers == Answers::Auto {
            let reply = soon("the head of the stream", posting).await.unwrap();
            cancel().await;
            reply
        } else {
            // Nothing tells that the call runs.
            eventually("the end of the call", || async {
                cancel().await;
                posting.is_finished()
            })
            .await;
            posting.await.unwrap()
        };
        match reply {
            Reply::Whole(response) => assert_eq!((response.status, response.body.len()), (202, 0)),
            Reply::Stream(mut shown) => assert_eq!(shown.end().await, StreamEnd::Clean),
        }
        assert!(client.seen().iter().all(|seen| seen.data.is_empty()), "{:?}", client.seen());
        assert_eq!(client.call("wait", json!({ "ms": 0 })).await["isError"], false, "there is room for another one");
    }
}
