//! `mcp-server-v6` over a real socket: the transport, the protocol, each tool, and the binary.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, in its helpers too")]

#[path = "server/client.rs"]
mod client;

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use actix_web::dev::ServerHandle;
use client::{Client, StreamDrop, eventually, initialize_params, soon};
use mcp_server_v6::{ServerOptions, bind};
use serde_json::{Value, json};
use testkit::{
    event_stream::{EventStream, Item, StreamEnd},
    http::{self, Request},
};

const MEBIBYTE: usize = 1 << 20;

fn options() -> ServerOptions {
    ServerOptions { port: 0, drill_tools: true, ..ServerOptions::default() }
}

/// Starts a server inside this process, as the router does.
fn start(options: ServerOptions) -> (SocketAddr, ServerHandle) {
    let server = bind(options).unwrap();
    let (addr, handle) = (server.addr(), server.handle());
    actix_web::rt::spawn(server.into_server());
    (addr, handle)
}

fn drill_server() -> SocketAddr {
    start(options()).0
}

async fn health(addr: SocketAddr) -> Value {
    let response = http::get(addr, "/actuator/health").await;
    assert_eq!(response.status, 200);
    response.json()
}

// ---- transport

#[actix_web::test]
async fn a_session_is_gone_as_soon_as_its_stream_drops_in_whatever_way() {
    let addr = drill_server();
    let mut other = Client::initialized(addr).await;
    for drop in [StreamDrop::Close, StreamDrop::Reset, StreamDrop::HalfClose] {
        let mut client = Client::initialized(addr).await;
        assert_eq!(health(addr).await["sessions"], 2);
        client.start("tools/call", json!({ "name": "wait", "arguments": { "ms": 60_000 } })).await;
        expect_gone(addr, client, drop).await;
        assert_eq!(other.result("ping", json!({})).await, json!({}));
    }
}

#[actix_web::test]
async fn a_session_whose_client_never_read_is_gone_when_its_stream_drops() {
    let addr = drill_server();
    let _other = Client::initialized(addr).await;
    for drop in [StreamDrop::Close, StreamDrop::Reset] {
        let mut client = Client::initialized(addr).await;
        for _ in 0..4 {
            client.start("tools/call", json!({ "name": "payload", "arguments": { "bytes": 8 * MEBIBYTE } })).await;
        }
        expect_gone(addr, client, drop).await;
    }
}

/// Drops the client's stream; one other session must remain.
async fn expect_gone(addr: SocketAddr, client: Client, drop: StreamDrop) {
    let (poster, _half) = client.disconnect(drop).await;
    let ping = r#"{"jsonrpc":"2.0","id":9,"method":"ping"}"#;
    eventually("404 for the dropped session", || async { poster.post(ping).await == 404 }).await;
    assert_eq!(health(addr).await["sessions"], 1, "{drop:?}");
}

#[actix_web::test]
async fn messages_for_no_session_and_messages_that_are_none_are_refused() {
    let addr = drill_server();
    let mut client = Client::initialized(addr).await;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let live = client.poster.url.clone();
    let endpoint = format!("http://{addr}/mcp/message");

    let mut poster = client.poster.clone();
    for (url, body, status) in [
        (format!("{endpoint}?sessionId=00000000000000000000000000000000"), ping, 404),
        (format!("{endpoint}?sessionId=nonsense"), ping, 404),
        (endpoint.clone(), ping, 400),
        (live.clone(), "nonsense", 400),
        (live.clone(), "", 400),
        (live.clone(), "[]", 400),
        (live.clone(), r#"{"id":1,"method":"ping"}"#, 400),
        (live.clone(), r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, 400),
        (format!("http://{addr}/.well-known/oauth-protected-resource"), ping, 404),
    ] {
        poster.url = url;
        assert_eq!(poster.post(body).await, status, "{} {body}", poster.url);
    }
    assert_eq!(client.result("ping", json!({})).await, json!({}), "the session is none the worse for it");
}

#[actix_web::test]
async fn a_server_on_loopback_answers_to_loopback_names_only() {
    let addr = drill_server();
    for (header, value, status) in [
        ("Host", format!("localhost:{}", addr.port()), 200),
        ("Host", format!("evil.example:{}", addr.port()), 421),
        ("Origin", "http://localhost:6274".to_owned(), 200),
        ("Origin", "http://evil.example".to_owned(), 403),
    ] {
        let request = Request::get("/actuator/health").header(header, &value);
        assert_eq!(request.send(addr).await.status, status, "{header}: {value}");
    }
}

#[actix_web::test]
async fn a_silent_stream_carries_heartbeats_and_never_starts_with_one() {
    let (addr, _server) = start(ServerOptions { heartbeat: Duration::from_millis(20), ..options() });
    let mut stream = EventStream::open(addr, &Request::get("/sse")).await;
    assert!(matches!(stream.next().await, Item::Event(event) if event.name == "endpoint"));
    for _ in 0..3 {
        assert_eq!(stream.next().await, Item::Comment("heartbeat".to_owned()));
    }
}

#[actix_web::test]
async fn four_mebibytes_pass_in_both_directions_unchanged() {
    let mut client = Client::initialized(drill_server()).await;
    let text: String = ('!'..='~').chain("äöü€🦀\n\r".chars()).cycle().take(4 * MEBIBYTE).collect();
    assert_eq!(client.text("echo", json!({ "text": text })).await, text);
}

#[actix_web::test]
async fn a_body_above_the_limit_is_refused_and_the_session_lives() {
    let mut client = Client::initialized(drill_server()).await;
    let body = format!(r#"{{"jsonrpc":"2.0","method":"x","params":{{"a":"{}"}}}}"#, "a".repeat(8 * MEBIBYTE));
    assert_eq!(client.poster.post(body).await, 413);
    assert_eq!(client.result("ping", json!({})).await, json!({}));
}

#[actix_web::test]
async fn a_client_that_reads_late_gets_every_answer() {
    let (addr, _server) = start(ServerOptions { queue_capacity: 1, ..options() });
    let mut client = Client::initialized(addr).await;
    let mut open = BTreeSet::new();
    for _ in 0..12 {
        let params = json!({ "name": "payload", "arguments": { "bytes": MEBIBYTE } });
        open.insert(client.start("tools/call", params).await);
    }
    while !open.is_empty() {
        let answer = client.next().await;
        assert!(open.remove(&answer["id"].as_i64().unwrap()), "an answer twice: {}", answer["id"]);
        assert_eq!(answer["result"]["content"][0]["text"].as_str().unwrap().len(), MEBIBYTE);
    }
}

#[actix_web::test]
async fn a_post_waits_for_a_client_that_leaves_too_many_answers_unread() {
    let (addr, _server) = start(ServerOptions { queue_capacity: 1, max_running_calls: 1, ..options() });
    let mut client = Client::initialized(addr).await;
    let mut posts = Vec::new();
    for id in 0..10 {
        let params = json!({ "name": "payload", "arguments": { "bytes": 2 * MEBIBYTE } });
        let call = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }).to_string();
        let poster = client.poster.clone();
        posts.push(actix_web::rt::spawn(async move { poster.post(call).await }));
    }
    let mut answered = BTreeSet::new();
    while answered.len() < posts.len() {
        let answer = client.next().await;
        assert_eq!(answer["result"]["content"][0]["text"].as_str().unwrap().len(), 2 * MEBIBYTE);
        answered.insert(answer["id"].as_i64().unwrap());
    }
    for post in posts {
        assert_eq!(post.await.unwrap(), 202);
    }
}

#[actix_web::test]
async fn sessions_work_across_workers() {
    let (addr, _server) = start(ServerOptions { workers: 3, ..options() });
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(Client::initialized(addr).await);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let text = format!("client {number}");
        assert_eq!(client.text("wait", json!({ "ms": 1, "text": text })).await, text);
    }
    // One by one, each from a connection of its own: they land on different workers.
    for (number, client) in clients.into_iter().enumerate() {
        let (poster, _) = client.disconnect(StreamDrop::Close).await;
        let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
        eventually("404 for the dropped session", || async { poster.post(cancel).await == 404 }).await;
        assert_eq!(health(addr).await["sessions"], 5 - number);
    }
}

#[actix_web::test]
async fn a_stopped_server_cuts_its_streams_without_a_last_chunk() {
    let (addr, server) = start(options());
    let mut client = Client::initialized(addr).await;
    soon("stop", server.stop(false)).await;
    assert_eq!(client.stream.next().await, Item::End(StreamEnd::Abrupt));
}

#[actix_web::test]
async fn health_tells_sessions_and_components() {
    let addr = drill_server();
    let _client = Client::connect(addr).await;
    let health = health(addr).await;
    assert_eq!(health["status"], "UP");
    assert_eq!(health["sessions"], 1);
    assert_eq!(health["components"]["persons"]["status"], "UP");
}

// ---- protocol

#[actix_web::test]
async fn initialize_negotiates_and_may_come_again() {
    let mut client = Client::connect(drill_server()).await;
    for (asked, spoken) in
        [("2024-11-05", "2024-11-05"), ("2025-06-18", "2025-06-18"), ("2026-07-28", "2025-11-25"), ("x", "2025-11-25")]
    {
        let result = client.result("initialize", initialize_params(asked)).await;
        assert_eq!(result["protocolVersion"], spoken);
        assert_eq!(result["serverInfo"]["name"], "mcp-server-v6");
        assert_eq!(result["capabilities"]["tools"]["listChanged"], true);
        assert_eq!(result["capabilities"]["resources"]["subscribe"], true);
        assert!(result["capabilities"]["logging"].is_object());
        assert!(!result["instructions"].as_str().unwrap().is_empty());
    }
    assert_eq!(client.error("initialize", json!({})).await, -32602);
}

#[actix_web::test]
async fn before_initialize_only_pings_are_answered() {
    let mut client = Client::connect(drill_server()).await;
    assert_eq!(client.result("ping", json!({})).await, json!({}));
    assert_eq!(client.error("tools/list", json!({})).await, -32600);
}

#[actix_web::test]
async fn an_id_keeps_its_json_type() {
    let mut client = Client::initialized(drill_server()).await;
    for id in [json!(7), json!("7"), json!(""), json!(-1), json!(9_007_199_254_740_993_i64)] {
        client.send(json!({ "jsonrpc": "2.0", "id": id, "method": "ping" })).await;
        assert_eq!(client.next().await, json!({ "jsonrpc": "2.0", "id": id, "result": {} }));
    }
}

#[actix_web::test]
async fn what_a_method_cannot_take_is_answered_with_the_right_code() {
    let mut client = Client::initialized(drill_server()).await;
    for (method, params, code) in [
        ("server/discover", json!({}), -32601),
        ("nonsense", json!({}), -32601),
        ("tools/call", json!({}), -32602),
        ("tools/call", json!([1, 2]), -32602),
        ("tools/call", json!({ "name": "nonsense" }), -32602),
        ("tools/call", json!({ "name": "getPersonById" }), -32602),
        ("tools/call", json!({ "name": "getPersonById", "arguments": { "id": "one" } }), -32602),
        ("tools/call", json!({ "name": "getPersonById", "arguments": [1] }), -32602),
        ("tools/call", json!({ "name": "wait", "arguments": { "ms": 60_001 } }), -32602),
        ("tools/call", json!({ "name": "payload", "arguments": { "bytes": 8 * MEBIBYTE + 1 } }), -32602),
        ("tools/call", json!({ "name": "increment", "arguments": { "key": "two\nlines" } }), -32602),
        ("tools/list", json!({ "cursor": "x" }), -32602),
        ("logging/setLevel", json!({ "level": "loud" }), -32602),
        ("resources/read", json!({}), -32602),
        ("resources/read", json!({ "uri": "persons://nobody" }), -32002),
        ("resources/subscribe", json!({ "uri": "persons://nobody" }), -32002),
        ("prompts/get", json!({ "name": "nonsense" }), -32602),
    ] {
        assert_eq!(client.error(method, params.clone()).await, code, "{method} {params}");
    }
}

#[actix_web::test]
async fn a_cancelled_call_stops_and_is_never_answered() {
    let (addr, _server) = start(ServerOptions { max_running_calls: 1, ..options() });
    let mut client = Client::initialized(addr).await;
    let id = client.start("tools/call", json!({ "name": "wait", "arguments": { "ms": 60_000 } })).await;
    let second = json!({ "name": "wait", "arguments": { "ms": 0 } });
    assert_eq!(client.error("tools/call", second.clone()).await, -32000, "the first one is running");

    let wrong_type = json!({ "requestId": id.to_string() });
    client.send(json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": wrong_type })).await;
    assert_eq!(client.error("tools/call", second.clone()).await, -32000, "\"1\" is not 1");

    let meant = json!({ "requestId": id, "reason": "test" });
    client.send(json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": meant })).await;
    // `result` fails if any other message comes first.
    assert_eq!(client.result("tools/call", second).await["isError"], false);
    assert_eq!(client.result("ping", json!({})).await, json!({}));
}

#[actix_web::test]
async fn resources_can_be_listed_read_and_watched() {
    let addr = drill_server();
    let (mut watcher, mut writer) = (Client::initialized(addr).await, Client::initialized(addr).await);
    let list = watcher.result("resources/list", json!({})).await;
    for resource in list["resources"].as_array().unwrap() {
        let read = watcher.result("resources/read", json!({ "uri": resource["uri"] })).await;
        assert_eq!(read["contents"][0]["uri"], resource["uri"]);
        serde_json::from_str::<Value>(read["contents"][0]["text"].as_str().unwrap()).unwrap();
    }
    let one = watcher.result("resources/read", json!({ "uri": "persons://person/7" })).await;
    assert!(one["contents"][0]["text"].as_str().unwrap().contains(r#""id":7"#));

    let stats = json!({ "uri": "persons://stats" });
    watcher.result("resources/subscribe", stats.clone()).await;
    watcher.result("resources/subscribe", stats.clone()).await;
    writer.text("addPerson", nobody()).await;
    let update = watcher.next().await;
    assert_eq!(update["method"], "notifications/resources/updated");
    assert_eq!(update["params"], stats);

    watcher.result("resources/unsubscribe", stats).await;
    writer.text("addPerson", nobody()).await;
    assert_eq!(watcher.result("ping", json!({})).await, json!({}), "no further update came before this answer");
}

#[actix_web::test]
async fn prompts_can_be_listed_and_got() {
    let mut client = Client::initialized(drill_server()).await;
    let list = client.result("prompts/list", json!({})).await;
    let params = json!({ "name": list["prompts"][0]["name"], "arguments": { "id": "12" } });
    let prompt = client.result("prompts/get", params).await;
    assert!(prompt["messages"][0]["content"]["text"].as_str().unwrap().contains("12"));
}

#[actix_web::test]
async fn log_messages_come_from_the_level_the_client_set() {
    let mut client = Client::initialized(drill_server()).await;
    client.text("addPerson", nobody()).await;
    client.result("logging/setLevel", json!({ "level": "warning" })).await;
    client.text("addPerson", nobody()).await;
    client.result("logging/setLevel", json!({ "level": "debug" })).await;
    client.start("tools/call", json!({ "name": "addPerson", "arguments": nobody() })).await;
    let log = client.next().await;
    assert_eq!(log["method"], "notifications/message");
    assert_eq!(log["params"]["level"], "info");
    assert!(client.next().await["result"].is_object());
}

// ---- tools

fn nobody() -> Value {
    json!({ "firstName": "Nemo", "lastName": "Nobody", "age": 42, "nationality": "None", "gender": "none" })
}

#[actix_web::test]
async fn only_tools_that_change_something_say_so() {
    let (addr, _server) = start(ServerOptions { drill_tools: false, ..options() });
    let standard = ["addPerson", "getAllPersons", "getPersonById", "get_system_info", "list_servers"];
    let drill = ["ask_client", "counts", "echo", "increment", "payload", "wait"];
    for (addr, names) in [(addr, standard.to_vec()), (drill_server(), [&standard[..], &drill[..]].concat())] {
        let list = Client::initialized(addr).await.result("tools/list", json!({})).await;
        let tools = list["tools"].as_array().unwrap();
        let listed: BTreeSet<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
        assert_eq!(listed, names.into_iter().collect());
        for tool in tools {
            let writes = ["addPerson", "increment"].contains(&tool["name"].as_str().unwrap());
            let hints = &tool["annotations"];
            assert_eq!(hints["readOnlyHint"], !writes, "{tool}");
            assert_eq!(hints["idempotentHint"], !writes, "{tool}");
            assert_eq!(hints["destructiveHint"], false, "{tool}");
            assert_eq!(hints["openWorldHint"], false, "{tool}");
            assert!(!hints["title"].as_str().unwrap().is_empty(), "{tool}");
            assert_eq!(tool["inputSchema"]["type"], "object", "{tool}");
        }
    }
    let mut client = Client::initialized(addr).await;
    assert_eq!(client.error("tools/call", json!({ "name": "echo", "arguments": { "text": "" } })).await, -32602);
}

#[actix_web::test]
async fn structured_results_have_what_their_schema_requires_and_repeat_it_as_text() {
    let mut client = Client::initialized(drill_server()).await;
    let list = client.result("tools/list", json!({})).await;
    for tool in list["tools"].as_array().unwrap() {
        let Some(schema) = tool.get("outputSchema") else { continue };
        let arguments = match tool["name"].as_str().unwrap() {
            "addPerson" => nobody(),
            "getPersonById" => json!({ "id": 1 }),
            "increment" => json!({ "key": "k" }),
            _ => json!({}),
        };
        let result = client.call(tool["name"].as_str().unwrap(), arguments).await;
        let structured = &result["structuredContent"];
        for required in schema["required"].as_array().unwrap() {
            assert!(!structured[required.as_str().unwrap()].is_null(), "{required} of {tool}: {result}");
        }
        let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(text, *structured);
    }
}

#[actix_web::test]
async fn an_added_person_is_seen_by_every_session_and_the_rest_stays() {
    let addr = drill_server();
    let (mut writer, mut reader) = (Client::initialized(addr).await, Client::initialized(addr).await);
    let before = reader.call("getAllPersons", json!({})).await["structuredContent"]["persons"].clone();
    assert!(before.as_array().unwrap().len() > 100);

    let added = writer.call("addPerson", nobody()).await["structuredContent"].clone();
    let mut expected = nobody();
    expected["id"] = added["id"].clone();
    assert_eq!(added, expected);
    assert_eq!(reader.call("getPersonById", json!({ "id": added["id"] })).await["structuredContent"], added);

    let mut after = reader.call("getAllPersons", json!({})).await["structuredContent"]["persons"].clone();
    assert_eq!(after.as_array_mut().unwrap().pop(), Some(added));
    assert_eq!(after, before);
    for (field, wrong) in
        [("age", json!(151)), ("age", json!("42")), ("firstName", json!(" ")), ("gender", Value::Null)]
    {
        let mut person = nobody();
        person[field] = wrong;
        let params = json!({ "name": "addPerson", "arguments": person });
        assert_eq!(writer.error("tools/call", params).await, -32602, "{person}");
    }
}

#[actix_web::test]
async fn a_person_that_does_not_exist_is_a_failure_of_the_tool() {
    let mut client = Client::initialized(drill_server()).await;
    assert_eq!(client.call("getPersonById", json!({ "id": 100_000 })).await["isError"], true);
}

#[actix_web::test]
async fn the_server_describes_itself() {
    let mut client = Client::initialized(drill_server()).await;
    let report = client.call("get_system_info", json!({})).await["structuredContent"].clone();
    assert_eq!(report["processId"], std::process::id());
    assert_eq!(report["sessions"], 1);
    let servers = client.call("list_servers", json!({})).await["structuredContent"]["servers"].clone();
    assert_eq!(servers[0]["name"], "mcp-server-v6");
}

#[actix_web::test]
async fn wait_answers_in_its_time_and_tells_its_progress_to_whoever_asked() {
    let mut client = Client::initialized(drill_server()).await;
    let begin = Instant::now();
    assert_eq!(client.text("wait", json!({ "ms": 30, "text": "done" })).await, "done");
    assert!(begin.elapsed() >= Duration::from_millis(30));

    for token in [json!("token"), json!(5)] {
        let params = json!({ "name": "wait", "arguments": { "ms": 20 }, "_meta": { "progressToken": token } });
        let id = client.start("tools/call", params).await;
        for step in 1..=3 {
            let progress = client.next().await;
            assert_eq!(progress["method"], "notifications/progress");
            assert_eq!(progress["params"], json!({ "progressToken": token, "progress": step, "total": 4 }));
        }
        assert_eq!(client.next().await["id"], id);
    }
}

#[actix_web::test]
async fn a_waiting_call_holds_up_nothing_else() {
    let mut client = Client::initialized(drill_server()).await;
    client.start("tools/call", json!({ "name": "wait", "arguments": { "ms": 60_000 } })).await;
    assert_eq!(client.text("echo", json!({ "text": "meanwhile" })).await, "meanwhile");
}

#[actix_web::test]
async fn every_increment_is_counted_and_a_repeated_call_is_told_apart() {
    let addr = drill_server();
    let (mut one, mut two) = (Client::initialized(addr).await, Client::initialized(addr).await);
    assert_eq!(one.call("increment", json!({ "key": "a" })).await["structuredContent"]["value"], 1);
    assert_eq!(two.call("increment", json!({ "key": "a" })).await["structuredContent"]["value"], 2);
    let call = json!({ "name": "increment", "arguments": { "key": "b" } });
    for _ in 0..2 {
        one.send(json!({ "jsonrpc": "2.0", "id": "same", "method": "tools/call", "params": call })).await;
        assert_eq!(one.next().await["id"], "same");
    }
    let counts = two.call("counts", json!({})).await["structuredContent"].clone();
    assert_eq!(counts["counters"], json!({ "a": 2, "b": 2 }));
    assert_eq!(counts["distinctCalls"], json!({ "a": 2, "b": 1 }));
    assert_eq!(counts["repeatedCalls"].as_array().unwrap().len(), 1);
    assert_eq!(counts["repeatedCalls"][0]["requestId"], "same");
    assert_eq!(counts["repeatedCalls"][0]["runs"], 2);
}

#[actix_web::test]
async fn ask_client_returns_what_the_clients_model_says() {
    let mut client = Client::initialized(drill_server()).await;
    let call = json!({ "name": "ask_client", "arguments": { "prompt": "Who?" } });
    for (answer, text, failed) in [
        (
            json!({ "result": { "role": "assistant", "model": "m", "content": { "type": "text", "text": "Me" } } }),
            "Me",
            false,
        ),
        (
            json!({ "result": { "role": "assistant", "model": "m", "content": [{ "type": "text", "text": "Me" }] } }),
            "Me",
            false,
        ),
        (json!({ "error": { "code": -1, "message": "no" } }), "the client refused", true),
        (json!({ "result": {} }), "no text", true),
    ] {
        let id = client.start("tools/call", call.clone()).await;
        let question = client.next().await;
        assert_eq!(question["method"], "sampling/createMessage");
        assert_eq!(question["params"]["messages"][0]["content"]["text"], "Who?");
        let mut reply = answer;
        reply["jsonrpc"] = json!("2.0");
        reply["id"] = question["id"].clone();
        client.send(reply.clone()).await;
        let result = client.next().await;
        assert_eq!(result["id"], id);
        assert_eq!(result["result"]["isError"], failed);
        assert!(result["result"]["content"][0]["text"].as_str().unwrap().contains(text), "{result}");
        // A second answer to the same question finds nobody.
        client.send(reply).await;
        assert_eq!(client.result("ping", json!({})).await, json!({}));
    }
}

#[actix_web::test]
async fn ask_client_gives_up_on_a_client_that_cannot_or_does_not_answer() {
    let (addr, _server) = start(ServerOptions { ask_deadline: Duration::from_millis(20), ..options() });
    let mut silent = Client::initialized(addr).await;
    silent.start("tools/call", json!({ "name": "ask_client", "arguments": { "prompt": "?" } })).await;
    assert_eq!(silent.next().await["method"], "sampling/createMessage");
    assert_eq!(silent.next().await["result"]["isError"], true);

    let mut incapable = Client::connect(addr).await;
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {} });
    incapable.result("initialize", params).await;
    assert_eq!(incapable.call("ask_client", json!({ "prompt": "?" })).await["isError"], true);
}

#[actix_web::test]
async fn a_payload_has_exactly_the_bytes_asked_for() {
    let mut client = Client::initialized(drill_server()).await;
    for bytes in [0, 1, 1000, 4 * MEBIBYTE, 8 * MEBIBYTE] {
        assert_eq!(client.text("payload", json!({ "bytes": bytes })).await.len(), bytes);
    }
}

// ---- the binary

/// The real binary; killed when dropped.
struct Binary {
    child: Child,
    addr: SocketAddr,
}

impl Binary {
    fn start(arguments: &[&str]) -> Self {
        let mut child = command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let addr = line.strip_prefix("mcp-server-v6 listening on http://").unwrap_or_else(|| panic!("{line:?}"));
        Self { addr: addr.trim_end().parse().unwrap(), child }
    }

    /// Sends a signal by name and waits for the end; whether it was a success.
    async fn end_by(mut self, signal: &str) -> bool {
        let killed = Command::new("kill").args([format!("-{signal}"), self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let mut status = None;
        while status.is_none() {
            status = self.child.try_wait().unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut rest = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "standard output has one line only");
        status.unwrap().success()
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-server-v6"));
    command.args(["--log-level", "error"]).args(arguments).stdin(Stdio::null());
    command
}

#[actix_web::test]
async fn a_signal_ends_the_binary_within_two_seconds_and_cuts_open_streams() {
    for signal in ["TERM", "INT"] {
        let server = Binary::start(&["--port", "0", "--drill-tools"]);
        let mut client = Client::initialized(server.addr).await;
        client.start("tools/call", json!({ "name": "wait", "arguments": { "ms": 60_000 } })).await;
        let begin = Instant::now();
        assert!(server.end_by(signal).await, "SIG{signal}");
        assert!(begin.elapsed() < Duration::from_secs(2), "SIG{signal} took {:?}", begin.elapsed());
        assert_eq!(client.stream.next().await, Item::End(StreamEnd::Abrupt));
    }
}

#[test]
fn a_taken_port_is_named_and_how_to_find_its_owner() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = command(&["--port", &port]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains(&format!("port {port}")), "{complaint}");
    assert!(complaint.contains("ss -ltnp"), "{complaint}");
    assert_eq!(output.stdout, b"");
}

#[actix_web::test]
async fn counts_outlive_a_kill_and_add_up_over_several_servers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("counts");
    let arguments = ["--port", "0", "--drill-tools", "--counts-file", path.to_str().unwrap()];
    for _ in 0..2 {
        let server = Binary::start(&arguments);
        let mut client = Client::initialized(server.addr).await;
        for key in ["a", "b", "a"] {
            client.call("increment", json!({ "key": key })).await;
        }
        assert!(!server.end_by("KILL").await);
    }
    assert_eq!(lines(&path), ["a", "b", "a", "a", "b", "a"]);
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}
