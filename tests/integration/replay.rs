//! What a client that comes back without a cursor gets again: all that may have been lost on the way, and nothing that it is
//! proven to have had.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::harness::{
    Cluster, FakeUpstream, McpClient, PostTo, eventually,
    fake_upstream::Reply,
    mcp_client::{Builder, tool_call},
};

fn question(id: u64, text: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": { "text": text } })
}

/// The messages of one connection.
fn on_connection(client: &McpClient, number: usize) -> Vec<Value> {
    let messages = client.messages();
    messages.iter().filter(|record| record.connection == number).map(|record| record.json()).collect()
}

/// Breaks the connection, and comes back to the other instance once the first one knows.
async fn come_back(cluster: &Cluster, client: &McpClient) {
    client.disconnect().await;
    let (redis, session) = (cluster.redis_client().await, client.session());
    eventually("nobody shows the stream", || async { redis.field(&session, "a:g").await.is_none() }).await;
    client.reconnect(Some(1));
    client.connection_count(2).await;
}

/// A client that sends no cursor.
fn without_cursor(cluster: &Cluster) -> Builder {
    cluster.client().post_to(PostTo::Only(1)).stays_away().like_typescript()
}

/// "Delete the table?" is not asked twice: of the questions only the open ones come again, neither those that were answered
/// nor those that were taken back. The answer to `initialize` does not come again, other answers do.
#[tokio::test]
async fn a_client_without_a_cursor_is_asked_again_only_what_is_open() {
    let upstream = FakeUpstream::start().await;
    let cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = without_cursor(&cluster).initialize().await;
    let link = *upstream.open_sessions().last().unwrap();
    let asked =
        async |text: &str| client.message(text, |message| message["params"]["text"] == text).await["id"].clone();
    for (id, text) in [(1, "answered"), (2, "open"), (3, "taken back")] {
        upstream.send(link, &question(id, text)).await;
    }
    let answer = json!({ "jsonrpc": "2.0", "id": asked("answered").await, "result": { "action": "accept" } });
    client.post(&answer).await;
    let taken_back = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 3 } });
    upstream.send(link, &taken_back).await;
    let id = asked("taken back").await;
    client.message("its end", |message| message["params"]["requestId"] == id).await;
    client.call("x", json!({})).await;
    let answered = client.start_call("x", json!({})).await;
    client.response(answered).await;
    let open = asked("open").await;

    let session = client.session();
    come_back(&cluster, &client).await;
    let last = client.start_call("x", json!({})).await;
    client.response(last).await;
    assert_eq!(client.session(), session);
    let again = on_connection(&client, 1);
    let questions: Vec<&Value> = again.iter().filter(|message| message["method"] == "elicitation/create").collect();
    assert_eq!(questions.len(), 1, "{questions:?}");
    assert_eq!((&questions[0]["params"]["text"], &questions[0]["id"]), (&json!("open"), &open));
    assert!(again.iter().all(|message| message["result"].get("serverInfo").is_none()), "that of initialize");
    assert!(again.iter().any(|message| message["id"] == answered), "an answer may have been lost on the way");
}

/// The same when the owner died with what it knew of the client's connection: what the client has answered is not asked
/// again, and the rest is taken back, since the server that asked is gone.
#[tokio::test]
async fn a_client_whose_owner_died_is_asked_nothing_again() {
    let upstream = FakeUpstream::start().await;
    let mut cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = cluster.client().post_to(PostTo::Only(1)).like_typescript().initialize().await;
    let link = upstream.open_sessions()[0];
    for number in 0..5 {
        let text = format!("question {number}");
        upstream.send(link, &question(number, &text)).await;
        let asked = client.message(&text, |message| message["params"]["text"] == text).await;
        let answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "action": "accept" } });
        client.post(&answer).await;
        let received = || upstream.received().iter().filter(|got| got.json().get("result").is_some()).count();
        eventually("the answer", || std::future::ready(received() as u64 == number + 1)).await;
    }
    cluster.routers[0].kill();
    client.connection_end(0).await;
    client.call("x", json!({})).await;
    let asked = client.messages().iter().filter(|record| record.json()["method"] == "elicitation/create").count();
    assert_eq!(asked, 5);
    let initialized = |record: &Value| record["result"].get("serverInfo").is_some();
    assert_eq!(client.messages().iter().filter(|record| initialized(&record.json())).count(), 1);
}

/// An id that is in use for another request proves that its earlier answer has arrived; sent again, that one would be taken
/// for the new one's.
#[tokio::test]
async fn an_old_answer_is_never_sent_for_a_new_request_with_its_id() {
    let go_on = Arc::new(Notify::new());
    let told = Arc::clone(&go_on);
    let upstream = FakeUpstream::answering(move |message| {
        let name = message["params"]["name"].clone();
        let result = Reply::Result(json!({ "who": name }));
        if name == "second" { Reply::After(Arc::clone(&told), Box::new(result)) } else { result }
    })
    .await;
    let cluster = Cluster::builder().routers(2).upstream_urls([upstream.url()]).start().await;
    let client = without_cursor(&cluster).initialize().await;
    let calls = upstream.received_of("tools/call").len();
    client.post(&tool_call(500, "first", json!({}))).await;
    client.response(500).await;
    client.post(&tool_call(500, "second", json!({}))).await;
    upstream.wait_for("tools/call", calls + 2).await;
    come_back(&cluster, &client).await;
    // Behind all that is sent again.
    let last = client.start_call("last", json!({})).await;
    go_on.notify_one();
    client.response(last).await;
    client.message("the answer", |message| message["id"] == 500 && message["result"]["who"] == "second").await;
    let answers: Vec<Value> = on_connection(&client, 1).into_iter().filter(|message| message["id"] == 500).collect();
    assert_eq!(answers.len(), 1, "{answers:?}");
}
