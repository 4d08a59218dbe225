//! Ids of requests, of both sides: compared as the JSON values that they are, passed on as they came, never taken for the
//! router's own, and never for those of another upstream session.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::harness::{
    Cluster, FakeUpstream, McpClient, PostTo, Transport, eventually,
    fake_upstream::Reply,
    http::{self, Request, Response},
    mcp_client::tool_call,
    over_both_transports,
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

/// REQ-3: a call whose outcome nobody knows is told by its id as it came.
#[tokio::test]
async fn a_call_whose_outcome_is_unknown_is_named_as_it_came() {
    let upstream = FakeUpstream::answering(|_| Reply::Silence).await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    let ids = ["7.00", r#""\u00e9""#];
    for (number, id) in ids.into_iter().enumerate() {
        assert_eq!(post_text(&client, &cluster, 0, &call_text(id)).await.status, 202);
        upstream.wait_for("tools/call", number + 1).await;
    }
    upstream.drop_session(upstream.open_sessions()[0]);
    for id in ids {
        let is_told = || {
            let is_it = |data: &str| {
                data.contains(&format!(r#""id":{id},"#)) && data.contains(&format!(r#""requestId":{id},"#))
            };
            client.messages().iter().any(|record| is_it(&record.data) && record.data.contains("outcome_unknown"))
        };
        eventually(id, || std::future::ready(is_told())).await;
    }
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

fn ask(id: impl Into<Value>, text: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": "sampling/createMessage", "params": { "text": text } })
}

fn answer(id: &Value, text: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": { "text": text } })
}

/// The id under which the client was asked this.
async fn asked(client: &McpClient, text: &str) -> Value {
    client.message(text, |message| message["params"]["text"] == text).await["id"].clone()
}

/// (id, text) of the client's answers, as the server got them.
fn answered(upstream: &FakeUpstream) -> Vec<(String, String)> {
    let received = upstream.received();
    let answers = received.iter().map(|got| got.json()).filter(|message| message.get("result").is_some());
    answers
        .map(|message| (message["id"].to_string(), message["result"]["text"].as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// MCP, base protocol: any string is an id. Whatever one looks like, it is not taken for one of the router's own: of the
/// client's requests (stream and REST), of the server's, and of answers that nobody waits for.
#[tokio::test]
async fn an_id_that_looks_like_the_routers_own_is_any_id() {
    let upstream = FakeUpstream::start().await;
    let cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    let redis = cluster.redis_client().await;
    let incarnation = redis.field(&client.session(), "incarnation").await.unwrap();
    let mine = format!("rebind.{incarnation}.1");
    let ids = ["mcp-router-1-1", "mcp-router-", "rebind.x.1", "ask-1", "sr:1", &mine];
    for id in ids {
        client.post(&tool_call(id, "x", json!({}))).await;
        assert!(client.response_to(&json!(id)).await["result"].is_object(), "{id}");
        let path = "/mcp/router/route/mcp-server-v6";
        let rest = http::post(cluster.addr(0), path, tool_call(id, "x", json!({})).to_string()).await;
        assert_eq!((rest.status, &rest.json()["id"]), (200, &json!(id)));
    }
    let link = upstream.open_sessions()[0];
    for id in ids {
        upstream.send(link, &ask(id, id)).await;
        let asked = asked(&client, id).await;
        client.post(&answer(&asked, id)).await;
    }
    let expected: Vec<(String, String)> = ids.iter().map(|id| (json!(id).to_string(), (*id).to_owned())).collect();
    eventually("all answers", || std::future::ready(answered(&upstream) == expected)).await;

    let dropped = cluster.metric("mcp_router_dropped_total", Some("answer_to_nothing")).await;
    for (number, id) in ids.into_iter().enumerate() {
        // Whether a stream waits for an answer to its rebind is known where it is.
        let router = if id == mine { 0 } else { number % 2 };
        client.post_at(cluster.addr(router), &answer(&json!(id), "nobody asked")).await;
    }
    eventually("each is an ordinary answer", || async {
        cluster.metric("mcp_router_dropped_total", Some("answer_to_nothing")).await == dropped + ids.len() as f64
    })
    .await;
}

/// REQ-7: the server's questions have ids of the router's own towards the client. A late answer to a question of a dead upstream
/// session reaches nobody, although the new session asks under the same id: after the server has gone, and after the
/// session's owner has.
async fn an_answer_never_reaches_another_question_with_the_same_id(transport: Transport) {
    for owner_dies in [false, true] {
        let upstream = FakeUpstream::start().await;
        let mut cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
        let client = cluster.client().over(transport).post_to(PostTo::Only(1)).initialize().await;
        let link = upstream.open_sessions()[0];
        for id in [json!(4), json!("\u{e9}")] {
            upstream.send(link, &ask(id.clone(), &format!("before {id}"))).await;
        }
        let late = [asked(&client, "before 4").await, asked(&client, "before \"\u{e9}\"").await];
        if owner_dies {
            cluster.routers[0].kill();
        } else {
            upstream.drop_session(link);
        }
        for question in &late {
            let told = |message: &Value| message["params"]["requestId"] == *question;
            client.message("its cancellation", told).await;
        }
        eventually("a new upstream session", || std::future::ready(upstream.open_sessions().len() == 1)).await;
        client.call("x", json!({})).await;
        let link = upstream.open_sessions()[0];
        upstream.send(link, &ask(4, "after 4")).await;
        let now = asked(&client, "after 4").await;
        assert!(!late.contains(&now), "{now} is another question");
        for question in &late {
            client.post(&answer(question, "late")).await;
        }
        client.post(&answer(&now, "right")).await;
        eventually("the answer", || std::future::ready(!answered(&upstream).is_empty())).await;
        client.call("x", json!({})).await;
        assert_eq!(answered(&upstream), [("4".to_owned(), "right".to_owned())], "owner dies: {owner_dies}");
        let session = cluster.redis_client().await.fields(&client.session()).await;
        assert!(!session.keys().any(|field| field.starts_with("sr:")), "no question is open: {session:?}");
    }
}

/// REQ-7, DUR-1: a question stays answerable when Redis has lost the session.
async fn a_question_survives_the_loss_of_the_stores_data(transport: Transport) {
    let upstream = FakeUpstream::start().await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().over(transport).initialize().await;
    upstream.send(upstream.open_sessions()[0], &ask(4, "?")).await;
    let id = asked(&client, "?").await;
    let redis = cluster.redis_client().await;
    redis.run::<()>(&["FLUSHALL"]).await;
    client.call("x", json!({})).await;
    assert_eq!(redis.field(&client.session(), &format!("sr:{id}")).await.as_deref(), Some("4"));
    client.post(&answer(&id, "!")).await;
    eventually("the answer", || std::future::ready(answered(&upstream) == [("4".to_owned(), "!".to_owned())])).await;
}

/// REQ-7: a question is on record with its id at the server; only the bytes of the id differ on either side, and the server's
/// cancel names the id that the client knows. `progressToken` stays.
#[tokio::test]
async fn only_the_id_of_a_question_is_replaced_in_both_directions() {
    let upstream = FakeUpstream::start().await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().initialize().await;
    let link = upstream.open_sessions()[0];
    let question = |id: &str, text: &str| {
        format!(
            r#"{{ "params":{{"id":7.0,"_meta":{{"progressToken":{id}}},"text":"{text}"}}, "id" : {id},"jsonrpc":"2.0" ,"method":"x/y"}}"#
        )
    };
    upstream.send_raw(link, question("7.0", "one")).await;
    let id = asked(&client, "one").await;
    let seen = client.messages().pop().unwrap().data;
    let expected = question("7.0", "one").replace(r#""id" : 7.0"#, &format!(r#""id" : {id}"#));
    assert_eq!(seen, expected);
    let redis = cluster.redis_client().await;
    assert_eq!(redis.field(&client.session(), &format!("sr:{id}")).await.as_deref(), Some("7.0"));

    let text = format!(r#"{{"result" : {{"id":{id}}}, "id":{id} ,"jsonrpc":"2.0"}}"#);
    post_text(&client, &cluster, 0, &text).await;
    let expected = format!(r#"{{"result" : {{"id":{id}}}, "id":7.0 ,"jsonrpc":"2.0"}}"#);
    eventually("the answer", || {
        std::future::ready(upstream.received().iter().any(|got| got.body == expected.as_bytes()))
    })
    .await;
    assert_eq!(redis.field(&client.session(), &format!("sr:{id}")).await, None);

    upstream.send_raw(link, question(r#""\u00e9""#, "two")).await;
    let id = asked(&client, "two").await;
    let cancel = r#"{"jsonrpc":"2.0", "method":"notifications/cancelled","params":{"reason":"é","requestId": "é" }}"#;
    upstream.send_raw(link, cancel.to_owned()).await;
    let told = client.message("its cancellation", |message| message["params"]["requestId"] == id).await;
    assert_eq!(told["params"]["reason"], "é");
    client.post(&answer(&id, "too late")).await;
    client.call("x", json!({})).await;
    assert!(answered(&upstream).iter().all(|(_, text)| text != "too late"), "the server does not wait for it");
    assert_eq!(redis.field(&client.session(), &format!("sr:{id}")).await, None);
}

/// A router whose server is a router: neither takes the other's own requests, cancels and pings for its own, in either
/// direction, also when both set up their sessions anew.
async fn a_router_behind_a_router_is_a_server_like_any_other(transport: Transport) {
    let upstream = FakeUpstream::answering(|message| match message["method"].as_str() {
        Some("tools/list") => Reply::Result(json!({ "tools": [{ "name": "x", "inputSchema": {} }] })),
        _ if message["params"]["name"] == "hold" => Reply::Silence,
        _ => Reply::Result(json!({ "content": [] })),
    })
    .await;
    let inner = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let urls = inner.addrs().into_iter().map(|addr| format!("http://{addr}/sse/mcp-server-v6"));
    // Looked at every 500 ms, so that a silent link is asked before it is given up.
    let outer = Cluster::builder().routers(2).upstream_urls(urls).env("MCP_SESSION_UNINITIALIZED_TTL", "1s");
    let outer = outer.env("MCP_UPSTREAM_IDLE_TIMEOUT", "1200ms").start().await;
    let client = outer.client().over(transport).samples("from the client").initialize().await;
    let whole_round = async || {
        assert_eq!(client.result("tools/list", json!({})).await["tools"][0]["name"], "x");
        client.call("x", json!({})).await;
        let path = "/mcp/router/route/mcp-server-v6";
        let rest = http::post(outer.addr(1), path, tool_call("mcp-router-1-1", "x", json!({})).to_string()).await;
        assert_eq!(rest.json()["id"], "mcp-router-1-1");

        let link = *upstream.open_sessions().last().unwrap();
        let before = answered(&upstream).len();
        upstream.send(link, &json!({ "jsonrpc": "2.0", "id": "rebind.a.1", "method": "ping" })).await;
        upstream.send(link, &ask("mcp-router-1-1", "?")).await;
        let both = || std::future::ready(answered(&upstream).len() >= before + 2);
        eventually("the client's answers to ping and question", both).await;
        let ids: Vec<String> = answered(&upstream)[before..].iter().map(|(id, _)| id.clone()).collect();
        assert!(ids.contains(&json!("rebind.a.1").to_string()) && ids.contains(&json!("mcp-router-1-1").to_string()));

        let (held, cancelled) =
            (upstream.received_of("tools/call").len(), upstream.received_of("notifications/cancelled").len());
        let id = client.start_call("hold", json!({})).await;
        upstream.wait_for("tools/call", held + 1).await;
        client.notify("notifications/cancelled", json!({ "requestId": id })).await;
        let cancels = upstream.wait_for("notifications/cancelled", cancelled + 1).await;
        assert_eq!(cancels[cancelled]["params"]["requestId"], json!(id));
    };
    whole_round().await;
    // The outer router asks its silent server for a sign of life, under an id of its own; the inner one passes it on.
    let pings = upstream.wait_for("ping", 1).await;
    assert!(pings[0]["id"].as_str().unwrap().starts_with("mcp-router-"));
    let links = upstream.open_sessions();
    upstream.wait_for("ping", 3).await;
    assert_eq!(upstream.open_sessions(), links, "the sign of life comes back");
    // The inner one replays the handshake of its client, the outer router, under an id of its own.
    upstream.drop_session(*links.last().unwrap());
    upstream.wait_for("initialize", 2).await;
    whole_round().await;
}

over_both_transports! {
    an_answer_never_reaches_another_question_with_the_same_id
    a_question_survives_the_loss_of_the_stores_data
    a_router_behind_a_router_is_a_server_like_any_other
}
