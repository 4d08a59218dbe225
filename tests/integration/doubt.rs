//! Requests over Streamable HTTP of which nobody can say whether the store has taken them: their clients get the answer or an
//! error, never both, and what is said to be safe to repeat is. REQ-1, REQ-2, REQ-3, DUR-2

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Cluster, Mode, StreamableClient, cluster, eventually, http,
    mcp_client::tool_call,
    streamable_client::{Asked, Reply},
};

const MCP: &str = "/mcp/mcp-server-v6";

/// What a router waits for Redis.
const WAIT: Duration = Duration::from_millis(300);

/// Two routers with short patience for Redis, of which the first reaches it through a link with faults.
fn two_routers() -> cluster::Builder {
    let cluster = Cluster::builder().routers(2).redis_proxy_of(0);
    // Nobody is taken for dead. One thread, so that all operations of a router wait for the same connection.
    let cluster = cluster.env("MCP_LEASE", "60s").env("SERVER_WORKERS", "1");
    cluster.env("REDIS_TIMEOUT", "150ms").env("REDIS_WAIT", format!("{}ms", WAIT.as_millis()))
}

async fn session_of(cluster: &Cluster, owner: usize) -> StreamableClient {
    StreamableClient::initialized([cluster.addr(owner)], MCP).await
}

fn increment(key: &str) -> Value {
    tool_call(key, "increment", json!({ "key": key }))
}

async fn answer(reply: Reply, key: &str) -> Value {
    match reply {
        Reply::Whole(response) => {
            assert_eq!(response.status, 200, "{key}: {}", response.text());
            response.json()
        }
        Reply::Stream(shown) => shown.follow(&json!(key)).await,
    }
}

async fn ready_again(cluster: &Cluster) {
    let readiness = || async { http::get(cluster.addr(0), "/actuator/health/readiness").await.status == 200 };
    eventually("readiness", readiness).await;
}

/// How the store falls silent for the first router: answers are lost, or everything waits for the link to pass again, or for
/// Redis itself.
const SILENCES: [Option<Mode>; 3] = [Some(Mode::LoseAnswers), Some(Mode::BlackHole), None];

fn silence(cluster: &mut Cluster, how: Option<Mode>) {
    match how {
        Some(mode) => cluster.redis_proxy.as_ref().unwrap().set(mode),
        None => cluster.redis().freeze(),
    }
}

async fn end_silence(cluster: &mut Cluster, how: Option<Mode>) {
    match how {
        Some(_) => cluster.redis_proxy.as_ref().unwrap().set(Mode::Pass),
        None => cluster.redis().thaw(),
    }
    ready_again(cluster).await;
}

/// It was behind something else on its way to the store, and was not handed over.
fn is_safe(answer: &Value) -> bool {
    answer["error"]["data"]["outcome"] == "not_executed"
}

/// REQ-1, REQ-6, DUR-2: longer than others it waits for the store, and its client has the answer, wherever it was posted and
/// whatever became of it.
#[tokio::test]
async fn a_request_that_the_store_may_have_taken_waits_and_is_answered_with_its_answer() {
    let mut cluster = two_routers().start().await;
    let mut keys = Vec::new();
    for owner in [0, 1] {
        let client = session_of(&cluster, owner).await;
        for how in SILENCES {
            for attempt in 0.. {
                let key = format!("{owner} {how:?} {attempt}");
                silence(&mut cluster, how);
                let message = increment(&key);
                let mut waiting = std::pin::pin!(client.try_post_at(cluster.addr(0), &message));
                let early = tokio::select! {
                    reply = &mut waiting => Some(answer(reply.unwrap(), &key).await),
                    () = tokio::time::sleep(3 * WAIT) => None,
                };
                end_silence(&mut cluster, how).await;
                if let Some(told) = early {
                    assert!(is_safe(&told) && attempt < 20, "{key}: answered while nobody can know: {told}");
                    continue;
                }
                let answer = answer(waiting.await.unwrap(), &key).await;
                assert!(answer["result"].is_object(), "{key}: {answer}");
                keys.push((key, 1));
                break;
            }
        }
    }
    assert_eq!(cluster.counts(), keys.into_iter().collect(), "what was not executed least of all");
    cluster.assert_no_violations().await;
}

/// REQ-3, DUR-2: what never came to the store is said to be safe to repeat, over either transport, and is.
#[tokio::test]
async fn a_request_that_never_came_to_the_store_is_safe_to_repeat() {
    let cluster = two_routers().start().await;
    let (client, older) = (session_of(&cluster, 0).await, cluster.client_of(0).initialize().await);
    let link = cluster.redis_proxy.as_ref().unwrap();
    link.set(Mode::Cut);
    // Connections that were open are gone, and none can be made.
    let is_known = || async {
        http::get(cluster.addr(0), "/actuator/health/readiness").await;
        cluster.routers[0].metric("mcp_router_store_errors_total", Some("not_done")).await > 0.0
    };
    eventually("a link that is known to be cut", is_known).await;
    let safe = json!({ "reason": "store_unavailable", "outcome": "not_executed", "retry": true });
    let (call, other) = (increment("streamable"), increment("sse"));
    let told = client.try_post_at(cluster.addr(0), &call).await.unwrap().whole();
    assert_eq!((told.status, told.error_code(), &told.json()["error"]["data"]), (200, Some(-32603), &safe));
    let refused = older.try_post_at(cluster.addr(0), &other, None).await.unwrap();
    assert_eq!((refused.status, refused.error_code(), &refused.json()["error"]["data"]), (503, Some(-32603), &safe));
    assert!(refused.header("retry-after").is_some());
    link.set(Mode::Pass);
    ready_again(&cluster).await;
    let again = client.try_post_at(cluster.addr(0), &call).await.unwrap();
    assert!(answer(again, "streamable").await["result"].is_object());
    older.post(&other).await;
    older.response_to(&json!("sse")).await;
    assert_eq!(cluster.counts(), [("sse".to_owned(), 1), ("streamable".to_owned(), 1)].into());
    cluster.assert_no_violations().await;
}

/// Requests that their clients are told an error about, since the store is silent for too long; then it is back, and has
/// taken them or does so now. What the sessions' main streams show until the answers would have moved there.
async fn told_an_error(cluster: &mut Cluster) -> Vec<Value> {
    let mut shown = Vec::new();
    for owner in [0, 1] {
        let client = session_of(cluster, owner).await;
        let main = client.get_request(None);
        let mut main = client.try_send(cluster.addr(1), &main, Asked::Listen).await.unwrap().stream();
        for how in SILENCES {
            for attempt in 0.. {
                let key = format!("{owner} {how:?} {attempt}");
                silence(cluster, how);
                let told = client.try_post_at(cluster.addr(0), &increment(&key)).await.unwrap();
                let told = answer(told, &key).await;
                end_silence(cluster, how).await;
                if is_safe(&told) && attempt < 20 {
                    continue;
                }
                let unknown = json!({ "reason": "store_unavailable", "outcome": "unknown", "retry": false });
                let (code, data) = (&told["error"]["code"], &told["error"]["data"]);
                assert_eq!((code, data), (&json!(-32001), &unknown), "{key}: {told}");
                break;
            }
        }
        let redis = cluster.redis_client().await;
        let session = client.session().unwrap();
        eventually("no open request", || async { redis.pending(&session).await.is_empty() }).await;
        // Longer than an answer waits for its client to come back to the stream of its request.
        tokio::time::sleep(Duration::from_millis(GRACE_MS + 500)).await;
        assert!(client.call("echo", json!({ "text": "on" })).await.is_object());
        assert_eq!(client.delete().await.status, 204);
        main.end().await;
        shown.extend(
            client.seen().iter().filter_map(|seen| seen.message()).filter(|message| message["method"].is_null()),
        );
    }
    assert!(cluster.counts().values().all(|runs| *runs == 1), "{:?}", cluster.counts());
    cluster.assert_no_violations().await;
    shown
}

/// `MCP_ANSWER_GRACE` here: longer than a request is under way to being disowned.
const GRACE_MS: u64 = 2500;

fn impatient() -> cluster::Builder {
    two_routers().env("REDIS_DOUBT_WAIT", "0s").env("MCP_ANSWER_GRACE", format!("{GRACE_MS}ms"))
}

/// REQ-2: the error was the answer. What the store does with the request afterwards brings no other one.
#[tokio::test]
async fn after_the_word_that_nobody_knows_no_answer_comes() {
    let mut cluster = impatient().start().await;
    assert_eq!(told_an_error(&mut cluster).await, Vec::<Value>::new());
    assert_eq!(cluster.metric("mcp_router_disowned_total", None).await, 6.0);
}

/// REQ-2, negative control.
#[cfg(feature = "fault-points")]
#[tokio::test]
async fn without_disowning_a_request_its_answer_follows_the_error() {
    let unprotected = impatient().env("MCP_FAULT_UNPROTECTED", mcp_router::fault::DISOWN);
    let mut cluster = unprotected.start().await;
    assert!(!told_an_error(&mut cluster).await.is_empty());
}
