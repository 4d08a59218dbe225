//! What a server sends and nobody can read: bytes that are no text, messages that are too large, events without an end,
//! nonsense. Each harms the call that it answers, and nothing else: no other call, no second run, no link, no breaker.

use serde_json::json;

use crate::harness::{
    Cluster, McpClient, OddUpstream, Oracle, eventually, http,
    mcp_client::{request, tool_call},
    odd_upstream::{Get, Post, Step},
};

const REST: &str = "/mcp/router/route/mcp-server-v6";
/// `MCP_UPSTREAM_MAX_MESSAGE` of these tests.
const LIMIT: usize = 4096;

fn tool(post: &Post) -> &str {
    post.json["params"]["name"].as_str().unwrap_or_default()
}

async fn two_servers(answers: fn(&Post) -> Option<Vec<Step>>) -> (OddUpstream, OddUpstream, Cluster) {
    let (first, second) = (OddUpstream::posts(answers).await, OddUpstream::posts(answers).await);
    let cluster = Cluster::builder()
        .upstream_urls([first.url(), second.url()])
        .env("MCP_UPSTREAM_MAX_MESSAGE", LIMIT)
        .env("MCP_UPSTREAM_MAX_SKIPPED", 64 * LIMIT)
        .start()
        .await;
    (first, second, cluster)
}

/// A call that is under way is still answered afterwards, on the link it had.
async fn untouched(client: &McpClient, servers: &[&OddUpstream], held: u64) {
    assert_eq!(client.response_now(held), None);
    let server = servers.iter().find(|server| server.posts_of(false, "initialize").len() == 1).unwrap();
    assert_eq!(server.client_sessions().len(), 1);
    let session = server.client_sessions()[0];
    let answer = format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{held},\"result\":{{\"held\":true}}}}\n\n");
    server.write(session, answer.as_bytes()).await;
    assert_eq!(client.response(held).await["result"], json!({ "held": true }));
    assert_eq!(servers.iter().map(|server| server.initialized_by_clients()).sum::<usize>(), 1, "one link all the time");
}

fn latin1(post: &Post) -> Option<Vec<Step>> {
    let id = &post.json["id"];
    let event = |text: &[u8]| [text, b"\n\n"].concat();
    match tool(post) {
        "hold" => Some(vec![Step::Accept]),
        "write" | "read" => {
            let before =
                format!(r#"data: {{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"caf"#);
            Some(vec![Step::Accept, Step::Raw(event(&[before.as_bytes(), b"\xe9\"}]}}"].concat()))])
        }
        _ => None,
    }
}

/// WHATWG HTML, section 9.2.6: such bytes become U+FFFD. The tool has run once, the other call goes on.
#[tokio::test]
async fn bytes_that_are_no_text_are_replaced() {
    let (first, second, cluster) = two_servers(latin1).await;
    let client = cluster.client().initialize().await;
    let held = client.start_call("hold", json!({})).await;
    for name in ["write", "read"] {
        let id = client.start_call(name, json!({})).await;
        assert_eq!(client.response(id).await["result"]["content"][0]["text"], "caf\u{fffd}");
        assert_eq!(first.runs(name) + second.runs(name), 1);
    }
    untouched(&client, &[&first, &second], held).await;
    Oracle::every_request_answered_once(&client);
}

/// By REST the caller learns that it has run and what can be read of the answer, and is not told to try again.
#[tokio::test]
async fn bytes_that_are_no_text_are_told_to_a_rest_caller() {
    let (first, second, cluster) = two_servers(latin1).await;
    let answer = http::post(cluster.addr(0), REST, tool_call("x", "write", json!({})).to_string()).await;
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &answer.json()["id"]), (502, &json!("x")));
    assert_eq!(error["data"]["reason"], "answer_not_utf8", "{error}");
    assert_eq!((&error["data"]["outcome"], &error["data"]["retry"]), (&json!("executed"), &json!(false)));
    assert_eq!(error["data"]["result"]["content"][0]["text"], "caf\u{fffd}");
    assert_eq!(first.runs("write") + second.runs("write"), 1);
}

const LARGE: [&str; 7] = ["id_first", "id_last", "lines", "error", "array", "array_last", "escaped_key"];

fn large(post: &Post) -> Option<Vec<Step>> {
    let id = &post.json["id"];
    let filler = "x".repeat(3 * LIMIT);
    let event = match tool(post) {
        "hold" => return Some(vec![Step::Accept]),
        "id_first" => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"id":0,"text":"{filler}"}}}}"#),
        // As the TypeScript SDK writes it.
        "id_last" => format!(r#"{{"result":{{"id":0,"text":"{filler}"}},"jsonrpc":"2.0","id":{id}}}"#),
        "lines" => {
            let lines = "\ndata: 1,".repeat(2 * LIMIT);
            format!("{{\"result\":[{lines}\ndata: 1],\ndata: \"jsonrpc\":\"2.0\",\"id\":{id}}}")
        }
        "array" => format!(r#"[{{"jsonrpc":"2.0","id":{id},"result":{{"id":0,"text":"{filler}"}}}}]"#),
        "array_last" => format!(
            r#"[{{"jsonrpc":"2.0","method":"vendor/note"}},{{"result":{{"id":0,"text":"{filler}"}},"id":{id}}}]"#
        ),
        "escaped_key" => format!(r#"{{"jsonrpc":"2.0","result":{{"text":"{filler}"}},"\u0069d":{id}}}"#),
        "error" => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":1,"message":"{filler}"}}}}"#),
        _ => return None,
    };
    Some(vec![Step::Accept, Step::Event(event)])
}

/// One error that says so, for the call whose answer is too large; nothing is repeated, on two equal servers either.
#[tokio::test]
async fn an_answer_that_is_too_large_is_an_error_of_its_call_alone() {
    let (first, second, cluster) = two_servers(large).await;
    let client = cluster.client().initialize().await;
    let held = client.start_call("hold", json!({})).await;
    for name in LARGE {
        let id = client.start_call(name, json!({})).await;
        let error = client.response(id).await["error"].clone();
        assert!(error["message"].as_str().unwrap().contains("larger than 4096 bytes"), "{name}: {error}");
        assert_eq!(
            (&error["data"]["reason"], &error["data"]["outcome"], &error["data"]["retry"]),
            (&json!("answer_too_large"), &json!("executed"), &json!(false)),
            "{name}"
        );
        assert_eq!(first.runs(name) + second.runs(name), 1, "{name}");
        client.call("after", json!({})).await;
    }
    untouched(&client, &[&first, &second], held).await;
    assert_eq!(cluster.routers[0].health().await["status"], "UP");
    assert!(cluster.metric("mcp_router_dropped_total", Some("upstream_too_large")).await >= 7.0);
    Oracle::every_request_answered_once(&client);
}

/// The same for REST callers, who share one session of the router.
#[tokio::test]
async fn an_answer_that_is_too_large_touches_no_other_rest_caller() {
    let (first, second, cluster) = two_servers(large).await;
    let addr = cluster.addr(0);
    let held = tokio::spawn(async move { http::post(addr, REST, tool_call(1, "hold", json!({})).to_string()).await });
    eventually("the held call", || async { first.runs("hold") + second.runs("hold") == 1 }).await;
    for name in LARGE {
        // Over both servers, and so over that of the held call.
        for round in 1..=4 {
            let answer = http::post(addr, REST, tool_call("x", name, json!({})).to_string()).await;
            let error = &answer.json()["error"];
            assert_eq!((answer.status, &answer.json()["id"]), (502, &json!("x")), "{name}: {error}");
            assert!(error["message"].as_str().unwrap().contains("larger than 4096 bytes"), "{name}: {error}");
            assert_eq!((&error["data"]["outcome"], &error["data"]["retry"]), (&json!("executed"), &json!(false)));
            assert_eq!(first.runs(name) + second.runs(name), round, "{name}");
        }
    }
    let server = if first.runs("hold") == 1 { &first } else { &second };
    let call = server.posts_of(true, "tools/call").into_iter().find(|post| tool(post) == "hold").unwrap();
    let answer = json!({ "jsonrpc": "2.0", "id": call.json["id"], "result": { "held": true } });
    server.write(call.session, format!("data: {answer}\n\n").as_bytes()).await;
    assert_eq!(held.await.unwrap().json()["result"], json!({ "held": true }));
    assert_eq!(first.runs("hold") + second.runs("hold"), 1);
    assert_eq!(cluster.routers[0].health().await["status"], "UP");
}

/// A notification or a question of the server that is too large is counted; a question gets an error, so that the tool
/// that asks does not wait for ever.
#[tokio::test]
async fn a_question_that_is_too_large_is_answered_with_an_error() {
    let (first, second, cluster) = two_servers(large).await;
    let client = cluster.client().initialize().await;
    let server = if first.initialized_by_clients() == 1 { &first } else { &second };
    let session = server.client_sessions()[0];
    let filler = "x".repeat(3 * LIMIT);
    for event in [
        format!(
            "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{{\"data\":\"{filler}\"}}}}\n\n"
        ),
        format!(
            "data: {{\"jsonrpc\":\"2.0\",\"id\":\"q\",\"method\":\"sampling/createMessage\",\"params\":\"{filler}\"}}\n\n"
        ),
        format!("data: {filler}\n\n"),
        format!(": {filler}\n\n"),
        format!("event: other\ndata: {filler}\n\n"),
        format!("{filler}\n\n"),
    ] {
        server.write(session, event.as_bytes()).await;
    }
    client.call("after", json!({})).await;
    let is_refusal = |post: &Post| post.json["id"] == "q" && post.json.get("error").is_some();
    eventually("the refusal", || async { server.client_posts().iter().any(is_refusal) }).await;
    assert_eq!(client.messages().len(), 2, "nothing but the answers to initialize and to the call");
    assert_eq!(server.client_sessions(), [session]);
}

/// A message that is no JSON-RPC answers the call that it means, if that can be told; all else is counted. The stream goes
/// on behind whatever there is: names, ids, comments, and every kind of line ending.
#[tokio::test]
async fn nonsense_harms_nobody_else() {
    let (first, second, cluster) = two_servers(|post| {
        let id = &post.json["id"];
        let data = match tool(post) {
            "hold" => return Some(vec![Step::Accept]),
            "cut" => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":["#),
            "cut array" => format!(r#"[{{"jsonrpc":"2.0","method":"m"}},{{"jsonrpc":"2.0","id":{id},"result":{{"#),
            "both" => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}},"error":{{"code":1,"message":"x"}}}}"#),
            "version" => format!(r#"{{"id":{id},"result":{{}}}}"#),
            _ => return None,
        };
        Some(vec![Step::Accept, Step::Event(data)])
    })
    .await;
    let client = cluster.client().initialize().await;
    let held = client.start_call("hold", json!({})).await;
    let server = if first.initialized_by_clients() == 1 { &first } else { &second };
    let session = server.client_sessions()[0];
    let odd: [&[u8]; 7] = [
        b"data: nonsense\n\n",
        b"data: \xff\xfe\n\n",
        b"data: {}\r\n\r\ndata: 3\r\rdata: [1,\"x\"]\n\n",
        b"event: ping\r\nid: 7\r\ndata: x\r\n\r\n: comment\r\n\r\nretry: 1\n\n",
        b"data\ndata\n\nid\n\nevent\n\n\n\n\r\r\r\n\r\n",
        b"\xef\xbb\xbfdata: x\n\n",
        b"event: endpoint\ndata: http://192.0.2.1/elsewhere\n\n",
    ];
    for bytes in odd {
        server.write(session, bytes).await;
        client.call("after", json!({})).await;
    }
    for name in ["cut", "cut array", "both", "version"] {
        let id = client.start_call(name, json!({})).await;
        let error = client.response(id).await["error"].clone();
        assert_eq!((&error["code"], &error["data"]["retry"]), (&json!(-32603), &json!(false)), "{name}: {error}");
        assert_eq!(first.runs(name) + second.runs(name), 1, "{name}");
        let rest = http::post(cluster.addr(0), REST, tool_call("x", name, json!({})).to_string()).await;
        assert_eq!((rest.status, &rest.json()["error"]["data"]["retry"]), (502, &json!(false)), "{name}");
        assert_eq!(first.runs(name) + second.runs(name), 2, "{name} by REST");
    }
    untouched(&client, &[&first, &second], held).await;
    assert_eq!(cluster.routers[0].health().await["status"], "UP");
}

/// An event that never ends is told as soon as its id is known, and its link is given up at a bound: what else was under way
/// there has an unknown outcome, and is not run again.
#[tokio::test]
async fn an_event_without_an_end_is_given_up_at_a_bound() {
    let (first, second, cluster) = two_servers(|post| match tool(post) {
        "hold" => Some(vec![Step::Accept]),
        "endless" => {
            let begin = format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":\"", post.json["id"]);
            Some(vec![Step::Accept, Step::Raw([begin.as_bytes(), "x".repeat(2 * LIMIT).as_bytes()].concat())])
        }
        _ => None,
    })
    .await;
    let client = cluster.client().initialize().await;
    let held = client.start_call("hold", json!({})).await;
    let endless = client.start_call("endless", json!({})).await;
    assert_eq!(client.response(endless).await["error"]["data"]["reason"], "answer_too_large");
    assert_eq!(client.response_now(held), None);
    let server = if first.initialized_by_clients() == 1 { &first } else { &second };
    let session = server.client_sessions()[0];
    for _ in 0..80 {
        server.write(session, &[b'x'; LIMIT]).await;
    }
    let error = client.response(held).await["error"].clone();
    assert_eq!((&error["code"], &error["data"]["outcome"]), (&json!(-32001), &json!("unknown")), "{error}");
    client.call("after", json!({})).await;
    for name in ["hold", "endless"] {
        assert_eq!(first.runs(name) + second.runs(name), 1, "{name}");
    }
    assert_eq!(cluster.routers[0].health().await["status"], "UP");
    Oracle::every_request_answered_once(&client);
}

/// Several messages in one array (MCP 2025-03-26) are as many events.
#[tokio::test]
async fn messages_in_an_array_are_taken_one_by_one() {
    let upstream = OddUpstream::posts(|post| {
        let id = &post.json["id"];
        (tool(post) == "array").then(|| {
            let note = r#"{"jsonrpc":"2.0","method":"vendor/note"}"#;
            vec![Step::Accept, Step::Event(format!(r#" [{note}, {{"jsonrpc":"2.0","id":{id},"result":{{"a":1}}}}]"#))]
        })
    })
    .await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    let id = client.start_call("array", json!({})).await;
    assert_eq!(client.response(id).await["result"], json!({ "a": 1 }));
    assert_eq!(client.notifications("vendor/note").len(), 1);
    let rest = http::post(cluster.addr(0), REST, tool_call(1, "array", json!({})).to_string()).await;
    assert_eq!(rest.json()["result"], json!({ "a": 1 }));
}

/// A byte order mark before the first event is no part of it (WHATWG HTML, section 9.2.5).
#[tokio::test]
async fn a_byte_order_mark_before_the_stream_is_ignored() {
    let upstream = OddUpstream::gets(|_| Get::Open(b"\xef\xbb\xbf".to_vec(), "/message?sid={sid}".to_owned())).await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    client.call("x", json!({})).await;
    let rest = http::post(cluster.addr(0), REST, request(1, "ping", json!({})).to_string()).await;
    assert_eq!(rest.json()["result"], json!({}), "{}", rest.text());
}

const ODD_TOOL: &str =
    r#"{"name":"odd","inputSchema":{"type":"object","properties":{"z":{"maximum":1e400},"a":{"const":"\ud800"}}}}"#;

fn odd_tools(post: &Post) -> Option<Vec<Step>> {
    let (id, list) = (&post.json["id"], post.json["method"] == "tools/list");
    let message = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"tools":[{ODD_TOOL}]}}}}"#);
    list.then(|| vec![Step::Accept, Step::Raw(format!("data: {message}\n\n").into_bytes())])
}

/// RFC 8259, sections 6 and 8.2: JSON that not every reader can keep. What a server says of its tools is listed as it stands.
#[tokio::test]
async fn tools_are_listed_as_they_are_written_however_odd_that_is() {
    let server = OddUpstream::posts(odd_tools).await;
    let cluster = Cluster::builder().upstream_urls([server.url()]).start().await;
    let listed = http::get(cluster.addr(0), "/mcp/router/tools/mcp-server-v6").await;
    assert_eq!(listed.text(), format!(r#"{{"service":"mcp-server-v6","tools":[{ODD_TOOL}]}}"#));
}
