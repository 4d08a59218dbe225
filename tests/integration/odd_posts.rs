//! What a server does about a POST besides acknowledging it at once: late, with the answer in it, not now, not at all.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};

use crate::harness::{
    Cluster, OddUpstream, Oracle, eventually, http,
    mcp_client::{request, tool_call},
    odd_upstream::{Gate, Post, Step, usual},
};

const REST: &str = "/mcp/router/route/mcp-server-v6";

fn tool(post: &Post) -> &str {
    post.json["params"]["name"].as_str().unwrap_or_default()
}

fn done(post: &Post) -> Step {
    Step::result(&post.json, &json!({ "content": [{ "type": "text", "text": "done" }] }))
}

/// Under which the limit of a POST that needs no answer is over soon; health checks count the time.
async fn impatient(upstream: &OddUpstream) -> Cluster {
    Cluster::builder()
        .upstream_urls([upstream.url()])
        .env("SERVER_WORKERS", "1")
        .env("MCP_UPSTREAM_POST_TIMEOUT", "300ms")
        .env("MCP_UPSTREAM_ORDER_WAIT", "100ms")
        .env("MCP_UPSTREAM_HEALTH_INTERVAL", "50ms")
        .start()
        .await
}

/// Until that limit is surely over, twice.
async fn past_the_post_limit(upstream: &OddUpstream) {
    let seen = upstream.posts_of(true, "ping").len();
    upstream.wait_for(true, "ping", seen + 12).await;
}

/// Servers that acknowledge when the work is done (the WebMVC SSE server of the Java SDK): the answer counts, the POST's
/// limit is the call's. More calls at a time than any fixed number of POSTs, each run once, on one session.
#[tokio::test]
async fn a_server_that_acknowledges_when_the_work_is_done_is_used_as_any_other() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = OddUpstream::posts(move |post| {
        matches!(tool(post), "read" | "write").then(|| vec![Step::Wait(held.clone()), done(post), Step::Accept])
    })
    .await;
    let cluster = impatient(&upstream).await;
    let client = cluster.client().initialize().await;
    client.result("tools/list", json!({})).await;
    let mut ids = Vec::new();
    for number in 0..60 {
        ids.push(client.start_call(if number % 2 == 0 { "read" } else { "write" }, json!({})).await);
    }
    upstream.wait_for(false, "tools/call", 60).await;
    // A cancel, the client's answer to a question, and a ping pass all the same.
    client.notify("notifications/cancelled", json!({ "requestId": ids[0] })).await;
    upstream.wait_for(false, "notifications/cancelled", 1).await;
    let session = upstream.client_sessions()[0];
    upstream.write(session, b"data: {\"jsonrpc\":\"2.0\",\"id\":\"q\",\"method\":\"roots/list\"}\n\n").await;
    let question = client.message("the question", |message| message["method"] == "roots/list").await;
    client.post(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": { "roots": [] } })).await;
    let is_answer = |post: &Post| post.json["id"] == "q";
    eventually("the client's answer", || async { upstream.client_posts().iter().any(is_answer) }).await;
    past_the_post_limit(&upstream).await;
    gate.open();
    for id in &ids[1..] {
        let answer = client.response(*id).await;
        assert_eq!(answer["result"]["content"][0]["text"], "done", "{answer}");
    }
    assert_eq!((upstream.runs("read"), upstream.runs("write")), (30, 30));
    assert_eq!(upstream.initialized_by_clients(), 1);
    assert_eq!(upstream.client_sessions(), [session]);
}

/// The same by REST.
#[tokio::test]
async fn a_late_acknowledgement_is_no_failure_for_rest_callers() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = OddUpstream::posts(move |post| {
        matches!(tool(post), "read" | "write").then(|| vec![Step::Wait(held.clone()), done(post), Step::Accept])
    })
    .await;
    let cluster = impatient(&upstream).await;
    let addr = cluster.addr(0);
    let calls: Vec<_> = (0..40)
        .map(|number| {
            let body = tool_call(number, if number % 2 == 0 { "read" } else { "write" }, json!({})).to_string();
            tokio::spawn(async move { http::post(addr, REST, body).await })
        })
        .collect();
    upstream.wait_for(true, "tools/call", 40).await;
    past_the_post_limit(&upstream).await;
    gate.open();
    for (number, call) in calls.into_iter().enumerate() {
        let answer = call.await.unwrap().json();
        assert_eq!(
            (&answer["id"], &answer["result"]["content"][0]["text"]),
            (&json!(number), &json!("done")),
            "{answer}"
        );
    }
    assert_eq!((upstream.runs("read"), upstream.runs("write")), (20, 20));
}

/// The answer has come, only its POST is acknowledged late or never: the session stays, and nothing is sent again.
#[tokio::test]
async fn a_late_acknowledgement_drops_nothing() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = OddUpstream::posts(move |post| {
        let end = match tool(post) {
            "late" => Step::Accept,
            "refused late" => Step::status("500 Internal Server Error"),
            "lost late" => Step::status("404 Not Found"),
            "cut late" => Step::HangUp,
            _ => return None,
        };
        Some(vec![done(post), Step::Wait(held.clone()), end])
    })
    .await;
    let cluster = impatient(&upstream).await;
    let client = cluster.client().initialize().await;
    let names = ["late", "refused late", "lost late", "cut late"];
    for name in names {
        client.call(name, json!({})).await;
        let rest = http::post(cluster.addr(0), REST, tool_call(1, name, json!({})).to_string()).await;
        assert_eq!(rest.json()["result"]["content"][0]["text"], "done");
    }
    past_the_post_limit(&upstream).await;
    gate.open();
    for _ in 0..3 {
        client.call("after", json!({})).await;
    }
    for name in names {
        assert_eq!(upstream.runs(name), 2, "{name}, once by stream and once by REST");
    }
    assert_eq!(upstream.initialized_by_clients(), 1);
    assert_eq!(upstream.posts_of(true, "initialize").len(), 1);
    assert_eq!(cluster.metric("mcp_router_upstream_links_total", Some("lost")).await, 0.0);
    Oracle::every_request_answered_once(&client);
}

/// A session whose calls are all answered can be handed over, whatever acknowledgements are still missing.
#[tokio::test]
async fn a_missing_acknowledgement_does_not_hold_up_a_drain() {
    let upstream =
        OddUpstream::posts(|post| (tool(post) == "late").then(|| vec![done(post), Step::Wait(Gate::new())])).await;
    let mut cluster =
        Cluster::builder().routers(2).upstream_urls([upstream.url()]).env("DRAIN_DEADLINE", "25s").start().await;
    let client = cluster.client().initialize().await;
    client.call("late", json!({})).await;
    let begun = std::time::Instant::now();
    cluster.routers[0].process().signal("TERM");
    client.connection_count(2).await;
    client.call("after", json!({})).await;
    assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
}

/// A notification that a living server keeps without a word costs nobody anything; one that a silent server keeps ends
/// that server's session, and goes to the next.
#[tokio::test]
async fn a_notification_without_an_acknowledgement_has_a_limit() {
    let swallowed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&swallowed);
    let upstream = OddUpstream::posts(move |post| {
        let swallows = post.json["method"] == "vendor/note" && count.fetch_add(1, Ordering::Relaxed) == 0;
        swallows.then(|| vec![Step::Wait(Gate::new())])
    })
    .await;
    let cluster = impatient(&upstream).await;
    let client = cluster.client().initialize().await;
    client.notify("vendor/note", json!({})).await;
    upstream.wait_for(false, "vendor/note", 2).await;
    client.call("after", json!({})).await;
    assert_eq!(upstream.initialized_by_clients(), 2, "the silent session was given up");
}

/// A server that answers where it was asked: one message, an array, an event stream. Taken once, even if the stream
/// brings it again; what is no message is only an acknowledgement.
#[tokio::test]
async fn an_answer_in_the_answer_to_the_post_is_taken_once() {
    let upstream = OddUpstream::posts(|post| {
        if post.json.get("id").is_none() {
            // Words of its own are no message.
            return Some(vec![Step::body("application/json", r#"{"status":"accepted"}"#)]);
        }
        let result = match usual(&post.json).pop() {
            Some(Step::Event(event)) if post.json["method"] != "tools/call" => event,
            _ => json!({ "jsonrpc": "2.0", "id": post.json["id"], "result": { "tool": tool(post) } }).to_string(),
        };
        let note = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;
        let events = format!(": hi\n\nid: 1\ndata:\n\nevent: message\ndata: {note}\n\ndata: {result}\n\n");
        Some(match tool(post) {
            "array" => vec![Step::body("application/json; charset=utf-8", format!("[{note},{result}]"))],
            "events" => vec![Step::body("text/event-stream", events)],
            "twice" => vec![Step::Event(result.clone()), Step::body("application/json", result)],
            "again" => vec![Step::body("application/json", result.clone()), Step::Event(result)],
            // As .NET may write it; parsers may ignore the mark (RFC 8259, section 8.1).
            "mark" => vec![Step::body("application/json", format!("\u{feff}{result}"))],
            "latin1" => {
                let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"tool":"#, post.json["id"]);
                vec![Step::body("application/json", [body.as_bytes(), b"\"\xe9\"}}"].concat())]
            }
            // Its acknowledgement is JSON, its answer comes on the stream.
            "acknowledged" => vec![Step::body("application/json", "{}"), Step::Event(result)],
            _ => vec![Step::body("application/json", result)],
        })
    })
    .await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    for name in ["single", "array", "events", "twice", "again", "acknowledged", "mark", "latin1"] {
        for _ in 0..2 {
            let id = client.start_call(name, json!({})).await;
            let expected = if name == "latin1" { "\u{fffd}" } else { name };
            assert_eq!(client.response(id).await["result"], json!({ "tool": expected }));
        }
        assert_eq!(upstream.runs(name), 2);
        let rest = http::post(cluster.addr(0), REST, tool_call("r", name, json!({})).to_string()).await;
        if name == "latin1" {
            assert_eq!(rest.json()["error"]["data"]["result"], json!({ "tool": "\u{fffd}" }));
        } else {
            assert_eq!(rest.json()["result"], json!({ "tool": name }), "{}", rest.text());
        }
        assert_eq!(upstream.runs(name), 3);
    }
    assert_eq!(client.notifications("notifications/progress").len(), 4);
    assert_eq!(upstream.initialized_by_clients(), 1);
    Oracle::every_request_answered_once(&client);
    Oracle::exactly_once(&client);
}

/// An answer without a length that ends with its connection is whole (RFC 9112, section 6.3, no. 8), in HTTP/1.0 too, as
/// Python's http.server and old proxies speak it.
#[tokio::test]
async fn an_answer_in_the_post_that_ends_with_its_connection_is_whole() {
    let upstream = OddUpstream::posts(|post| {
        let (head, framing) = tool(post).split_once(' ')?;
        let answer = json!({ "jsonrpc": "2.0", "id": post.json["id"], "result": { "text": "x".repeat(99_000) } });
        let (content_type, body) = match framing {
            "json" => ("application/json", answer.to_string()),
            _ => ("text/event-stream", format!("data: {answer}\n\n")),
        };
        let line = if head == "1.0" { "HTTP/1.0 200 OK" } else { "HTTP/1.1 200 OK" };
        let close = if head == "1.1-close" { "connection: close\r\n" } else { "" };
        let text = format!("{line}\r\n{close}content-type: {content_type}\r\n\r\n{body}");
        Some(vec![Step::Bytes(text.into_bytes()), Step::HangUp])
    })
    .await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    for head in ["1.0", "1.1", "1.1-close"] {
        for framing in ["json", "events"] {
            let name = format!("{head} {framing}");
            for _ in 0..3 {
                let id = client.start_call(&name, json!({})).await;
                let answer = client.response(id).await;
                assert_eq!(answer["result"]["text"].as_str().map(str::len), Some(99_000), "{name}: {answer}");
                let rest = http::post(cluster.addr(0), REST, tool_call(1, &name, json!({})).to_string()).await;
                assert_eq!(rest.status, 200, "{name}: {}", rest.text());
            }
            assert_eq!(upstream.runs(&name), 6);
        }
    }
    assert_eq!(upstream.initialized_by_clients(), 1);
}

/// An answer in the POST is bounded as one on the stream is.
#[tokio::test]
async fn an_answer_in_the_post_that_is_too_large_is_an_error_of_its_call() {
    let upstream = OddUpstream::posts(|post| {
        let answer = json!({ "result": "x".repeat(9000), "jsonrpc": "2.0", "id": post.json["id"] }).to_string();
        match tool(post) {
            "json" => Some(vec![Step::body("application/json", answer)]),
            "array" => Some(vec![Step::body("application/json", format!("[{answer}]"))]),
            "events" => Some(vec![Step::body("text/event-stream", format!("data: {answer}\n\n"))]),
            _ => None,
        }
    })
    .await;
    let cluster =
        Cluster::builder().upstream_urls([upstream.url()]).env("MCP_UPSTREAM_MAX_MESSAGE", 4096).start().await;
    let client = cluster.client().initialize().await;
    for name in ["json", "array", "events"] {
        let id = client.start_call(name, json!({})).await;
        assert_eq!(client.response(id).await["error"]["data"]["reason"], "answer_too_large", "{name}");
        let rest = http::post(cluster.addr(0), REST, tool_call(1, name, json!({})).to_string()).await;
        assert_eq!(rest.json()["error"]["data"]["reason"], "answer_too_large", "{name}");
        assert_eq!(upstream.runs(name), 2);
    }
}

/// An answer that breaks off in the POST: a call that reads is run again, another has an unknown outcome; the link stays.
#[tokio::test]
async fn an_answer_that_breaks_off_in_the_post_is_repeated_only_if_that_is_harmless() {
    let broken = AtomicUsize::new(0);
    let upstream = OddUpstream::posts(move |post| {
        let breaks = matches!(tool(post), "read" | "write") && broken.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        let half = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"jsonrpc\"";
        let half = Step::Bytes(half.to_vec());
        breaks.then(|| vec![half, Step::HangUp])
    })
    .await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    client.call("read", json!({})).await;
    assert_eq!(upstream.runs("read"), 2);
    let id = client.start_call("write", json!({})).await;
    assert_eq!(client.response(id).await["error"]["data"]["outcome"], "unknown");
    assert_eq!((upstream.runs("write"), upstream.initialized_by_clients()), (1, 1));
}

/// 408, 425, 429, 503: not processed (RFC 9110, 15.5.9 and 15.6.4; RFC 6585, 4; RFC 8470, 5.2), so any call is sent again,
/// as any notification is, in the order that they have.
#[tokio::test]
async fn what_a_server_does_not_take_now_is_sent_again() {
    for status in ["408 Request Timeout", "425 Too Early", "429 Too Many Requests", "503 Service Unavailable"] {
        let refused = AtomicUsize::new(0);
        let upstream = OddUpstream::posts(move |post| {
            let refusable = matches!(tool(post), "write" | "read") || post.json["method"] == "vendor/note";
            let number = refused.fetch_add(usize::from(refusable), Ordering::Relaxed);
            let asks = if number.is_multiple_of(2) { vec![("retry-after", "0".to_owned())] } else { Vec::new() };
            (refusable && number % 3 != 2).then(|| vec![Step::Respond(status, asks, Vec::new())])
        })
        .await;
        let cluster =
            Cluster::builder().upstream_urls([upstream.url()]).env("MCP_UPSTREAM_BACKOFF_MIN", "20ms").start().await;
        let client = cluster.client().initialize().await;
        for name in ["write", "read"] {
            client.call(name, json!({})).await;
            assert_eq!(upstream.runs(name), 3, "{status}: {name}");
        }
        client.notify("vendor/note", json!({})).await;
        client.call("after", json!({})).await;
        let order: Vec<Value> = upstream.client_posts().into_iter().map(|post| post.json["method"].clone()).collect();
        assert_eq!(order[order.len() - 4..], ["vendor/note", "vendor/note", "vendor/note", "tools/call"]);
        let rest = http::post(cluster.addr(0), REST, tool_call(1, "write", json!({})).to_string()).await;
        assert_eq!(rest.json()["result"]["content"][0]["text"], "write", "{status}: {}", rest.text());
        assert_eq!((upstream.runs("write"), upstream.initialized_by_clients()), (6, 1), "{status}");
        assert_eq!(cluster.routers[0].health().await["status"], "UP");
        Oracle::every_request_answered_once(&client);
    }
}

/// The server's own answer to the call in the body of a status that is an error: passed on, and nothing is sent again. A
/// body without the call's id is only the status, and so is any body of 408, 425, 429 and 503.
#[tokio::test]
async fn the_servers_own_error_is_passed_on_whatever_its_status() {
    let once = AtomicUsize::new(0);
    let upstream = OddUpstream::posts(move |post| {
        let (status, kind) = tool(post).split_once(": ")?;
        let status: &'static str = match status {
            "400" => "400 Bad Request",
            "422" => "422 Unprocessable Content",
            "500" => "500 Internal Server Error",
            "503" if once.fetch_add(1, Ordering::Relaxed) % 2 == 1 => return None,
            _ => "503 Service Unavailable",
        };
        let id = match kind {
            "null" => Value::Null,
            "foreign" => json!("another's"),
            _ => post.json["id"].clone(),
        };
        let error = json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32602, "message": "own words" } });
        let body = match kind {
            "array" => format!("[{error}]"),
            "cut" => error.to_string()[..40].to_owned(),
            "result" => json!({ "jsonrpc": "2.0", "id": id, "result": { "isError": true } }).to_string(),
            "old" => {
                let head = format!("HTTP/1.0 {status}\r\ncontent-type: application/json\r\n\r\n");
                return Some(vec![Step::Bytes(format!("{head}{error}").into_bytes()), Step::HangUp]);
            }
            _ => error.to_string(),
        };
        let json = vec![("content-type", "application/json".to_owned())];
        Some(vec![Step::Respond(status, json, body.into_bytes())])
    })
    .await;
    let cluster =
        Cluster::builder().upstream_urls([upstream.url()]).env("MCP_UPSTREAM_BACKOFF_MIN", "20ms").start().await;
    let client = cluster.client().initialize().await;
    let mut both = Vec::new();
    for name in [
        "400: own",
        "422: own",
        "500: own",
        "400: array",
        "500: old",
        "400: result",
        "500: result",
        "400: null",
        "400: foreign",
        "400: cut",
        "500: null",
        "500: foreign",
        "503: own",
    ] {
        let id = client.start_call(name, json!({})).await;
        both.push((name, client.response(id).await));
        let rest = http::post(cluster.addr(0), REST, tool_call("r", name, json!({})).to_string()).await;
        assert_eq!(rest.json()["id"], "r");
        both.push((name, rest.json()));
        assert_eq!(upstream.runs(name), if name == "503: own" { 4 } else { 2 }, "{name}");
    }
    for (name, answer) in both {
        let (status, kind) = name.split_once(": ").unwrap();
        match (status, kind) {
            ("503", _) => assert_eq!(answer["result"]["content"][0]["text"], name, "{answer}"),
            (_, "own" | "array" | "old") => {
                assert_eq!(answer["error"], json!({ "code": -32602, "message": "own words" }), "{name}: {answer}");
            }
            (_, "result") => assert_eq!(answer["result"], json!({ "isError": true }), "{name}: {answer}"),
            _ => {
                assert_eq!(answer["error"]["data"]["retry"], false, "{name}: {answer}");
                assert!(!answer.to_string().contains("own words"), "{name}: {answer}");
            }
        }
    }
    assert_eq!(upstream.initialized_by_clients(), 1);
    Oracle::exactly_once(&client);
}

/// A 200 whose body is an error without an id (JSON-RPC 2.0, section 5), or meant as an answer and not to be read, is
/// told to its call at once and once: there is no doubt which it is. What came on the stream before counts.
#[tokio::test]
async fn an_answer_in_the_post_without_an_id_or_sense_is_told_to_its_call() {
    const GZIP: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0";
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = OddUpstream::posts(move |post| {
        let error = json!({ "code": -32600, "message": "own words" });
        let null = json!({ "jsonrpc": "2.0", "id": null, "error": error });
        let unnamed = json!({ "jsonrpc": "2.0", "error": error });
        let answer = json!({ "jsonrpc": "2.0", "id": post.json["id"], "result": { "tool": tool(post) } }).to_string();
        let json = |body: Vec<u8>| vec![Step::body("application/json", body)];
        let coded = |content_type: &str, coding: &str, body: &[u8]| {
            let headers = vec![("content-type", content_type.to_owned()), ("content-encoding", coding.to_owned())];
            Step::Respond("200 OK", headers, body.to_vec())
        };
        Some(match tool(post) {
            "error null" => json(null.to_string().into_bytes()),
            "error unnamed" => json(unnamed.to_string().into_bytes()),
            "error array" => json(format!("[{null}]").into_bytes()),
            "error events" => vec![Step::body("text/event-stream", format!("data: {null}\n\n"))],
            "broken gzip" => vec![coded("application/json", "gzip", GZIP)],
            "broken gzip events" => vec![coded("text/event-stream", "gzip", GZIP)],
            "broken utf16" => json(answer.encode_utf16().flat_map(u16::to_le_bytes).collect()),
            "broken utf16 mark" => {
                json(format!("\u{feff}{answer}").encode_utf16().flat_map(u16::to_be_bytes).collect())
            }
            "broken cut" => json(b"{\"jsonrpc\":\"2.0\",\"resu".to_vec()),
            // The answer is on its way, and the body beside it is not to be waited for.
            "taken null" => {
                vec![Step::Event(answer), Step::Wait(held.clone()), Step::body("application/json", null.to_string())]
            }
            "taken gzip" => vec![Step::Event(answer), coded("application/json", "gzip", GZIP)],
            "taken beside" => json(format!("[{null},{answer}]").into_bytes()),
            "taken identity" => vec![coded("application/json", "identity", answer.as_bytes())],
            "taken words" => vec![Step::body("application/json", "Accepted"), Step::Event(answer)],
            "taken text" => vec![coded("text/plain", "gzip", GZIP), Step::Event(answer)],
            "taken empty" => vec![coded("application/json", "gzip", b""), Step::Event(answer)],
            _ => return None,
        })
    })
    .await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    let names = [
        "error null",
        "error unnamed",
        "error array",
        "error events",
        "broken gzip",
        "broken gzip events",
        "broken utf16",
        "broken utf16 mark",
        "broken cut",
        "taken null",
        "taken gzip",
        "taken beside",
        "taken identity",
        "taken words",
        "taken text",
        "taken empty",
    ];
    for name in names {
        let id = client.start_call(name, json!({})).await;
        let rest = http::post(cluster.addr(0), REST, tool_call("r", name, json!({})).to_string()).await;
        assert_eq!(rest.json()["id"], "r", "{name}");
        for answer in [client.response(id).await, rest.json()] {
            match name.split_once(' ').unwrap().0 {
                "error" => {
                    assert_eq!(answer["error"], json!({ "code": -32600, "message": "own words" }), "{name}: {answer}");
                }
                "broken" => {
                    let data = &answer["error"]["data"];
                    assert_eq!((&data["reason"], &data["retry"]), (&json!("broken_answer"), &json!(false)), "{answer}");
                }
                _ => assert_eq!(answer["result"], json!({ "tool": name }), "{name}: {answer}"),
            }
        }
        assert_eq!(upstream.runs(name), 2, "{name}");
    }
    gate.open();
    client.call("after", json!({})).await;
    assert_eq!(upstream.initialized_by_clients(), 1);
    Oracle::every_request_answered_once(&client);
    Oracle::exactly_once(&client);
}

/// By REST the other server is asked first.
#[tokio::test]
async fn a_call_that_one_server_does_not_take_goes_to_the_other() {
    let busy =
        OddUpstream::posts(|post| (tool(post) == "write").then(|| vec![Step::status("503 Service Unavailable")])).await;
    let free = OddUpstream::posts(|_| None).await;
    let cluster = Cluster::builder().upstream_urls([busy.url(), free.url()]).start().await;
    for round in 1..=8 {
        let rest = http::post(cluster.addr(0), REST, tool_call(1, "write", json!({})).to_string()).await;
        assert_eq!(rest.json()["result"]["content"][0]["text"], "write", "{}", rest.text());
        assert_eq!(free.runs("write"), round);
    }
}

/// While its time limit lasts; then one error says that it was not executed and may be tried again. What running calls
/// wait for passes meanwhile: a cancel ends the waiting.
#[tokio::test]
async fn a_call_that_no_server_takes_in_time_was_not_executed() {
    let upstream = OddUpstream::posts(|post| {
        let asks = vec![("retry-after", "1".to_owned())];
        match tool(post) {
            "write" => Some(vec![Step::Respond("429 Too Many Requests", asks, Vec::new())]),
            "hold" => Some(vec![Step::Accept]),
            _ => None,
        }
    })
    .await;
    let cluster =
        Cluster::builder().upstream_urls([upstream.url()]).env("MCP_UPSTREAM_REQUEST_TIMEOUT", "2500ms").start().await;
    let client = cluster.client().initialize().await;
    let id = client.start_call("write", json!({})).await;
    let error = client.response(id).await["error"].clone();
    assert_eq!(error["code"], -32000, "{error}");
    assert_eq!((&error["data"]["outcome"], &error["data"]["retry"]), (&json!("not_executed"), &json!(true)), "{error}");
    assert!((2..=3).contains(&upstream.runs("write")), "as often as it was allowed: {}", upstream.runs("write"));

    let rest = http::post(cluster.addr(0), REST, tool_call("r", "write", json!({})).to_string()).await;
    let error = &rest.json()["error"];
    assert_eq!((rest.status, rest.header("retry-after"), &rest.json()["id"]), (503, Some("1"), &json!("r")));
    assert_eq!((&error["data"]["outcome"], &error["data"]["retry"]), (&json!("not_executed"), &json!(true)), "{error}");

    // Held back by the pause, and cancelled meanwhile: it never runs.
    let held = client.start_call("hold", json!({})).await;
    upstream.ran("hold", 1).await;
    let runs = upstream.runs("write");
    let id = client.start_call("write", json!({})).await;
    upstream.ran("write", runs + 1).await;
    client.notify("notifications/cancelled", json!({ "requestId": held })).await;
    upstream.wait_for(false, "notifications/cancelled", 1).await;
    assert_eq!(upstream.runs("write"), runs + 1, "the cancel passes the call that waits");
    client.notify("notifications/cancelled", json!({ "requestId": id })).await;
    client.call("after", json!({})).await;
    assert_eq!(upstream.runs("write"), runs + 1, "what was cancelled while it waited");
    assert_eq!(client.response_now(id), None);
}

/// 500, 502, 504: it may have run. What only reads is sent again, all else has an unknown outcome; other calls and the
/// server's session are untouched. Other statuses are final.
#[tokio::test]
async fn a_server_that_fails_is_asked_again_only_for_what_reads() {
    for status in ["500 Internal Server Error", "502 Bad Gateway", "504 Gateway Timeout"] {
        let failed = AtomicUsize::new(0);
        let upstream = OddUpstream::posts(move |post| match tool(post) {
            "hold" => Some(vec![Step::Accept]),
            "read" if failed.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) => Some(vec![Step::status(status)]),
            "write" => Some(vec![Step::status(status)]),
            "no" => Some(vec![Step::status("403 Forbidden")]),
            _ => None,
        })
        .await;
        let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
        let client = cluster.client().initialize().await;
        let held = client.start_call("hold", json!({})).await;
        client.call("read", json!({})).await;
        assert_eq!(upstream.runs("read"), 2, "{status}");
        for (name, outcome) in [("write", json!("unknown")), ("no", Value::Null)] {
            let id = client.start_call(name, json!({})).await;
            let error = client.response(id).await["error"].clone();
            assert_eq!((&error["data"]["outcome"], &error["data"]["retry"]), (&outcome, &json!(false)), "{error}");
            assert_eq!(upstream.runs(name), 1, "{status}: {name}");
            let rest = http::post(cluster.addr(0), REST, tool_call(1, name, json!({})).to_string()).await;
            assert_eq!((rest.status, &rest.json()["error"]["data"]["retry"]), (502, &json!(false)), "{}", rest.text());
            assert_eq!(upstream.runs(name), 2, "{status}: {name} by REST");
        }
        let tools = request(1, "tools/list", json!({})).as_object().map(|list| {
            let mut list = list.clone();
            list.remove("params");
            Value::Object(list)
        });
        http::post(cluster.addr(0), REST, tools.unwrap().to_string()).await;
        let rest = http::post(cluster.addr(0), REST, tool_call(1, "read", json!({})).to_string()).await;
        assert_eq!(rest.json()["result"]["content"][0]["text"], "read", "{status}: {}", rest.text());
        assert_eq!(client.response_now(held), None);
        assert_eq!(upstream.initialized_by_clients(), 1, "{status}");
        Oracle::exactly_once(&client);
    }
}
