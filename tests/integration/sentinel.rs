//! Redis behind Sentinels: the primary is replaced, by order, by death or by a hang, and sessions, calls and the work of the
//! instances go on at the new one. DUR-1, DUR-2

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{
    Cluster, McpClient, Oracle, RedisClient, Sentinels, cluster::Builder, eventually, mcp_client::tool_call,
};

fn behind(sentinels: &Sentinels) -> Builder {
    Cluster::builder()
        .without_redis()
        .routers(2)
        .env("REDIS_URL", sentinels.url())
        .env("MCP_LEASE", "20s")
        .env("REDIS_TIMEOUT", "500ms")
        .env("REDIS_WAIT", "30s")
        .env("MCP_UPSTREAM_REQUEST_TIMEOUT", "60s")
}

fn increment(key: &str) -> Value {
    tool_call(key, "increment", json!({ "key": key }))
}

/// Calls at both instances in turn; each is accepted and answered before the next.
async fn calls(cluster: &Cluster, client: &McpClient, of: &str, count: usize, keys: &mut Vec<String>) {
    let addrs = cluster.addrs();
    for number in 0..count {
        let key = format!("{of} {number}");
        let (addr, call) = (addrs[number % addrs.len()], increment(&key));
        // The same POST again, as a proxy would: it runs once (REQ-6).
        eventually("a POST is taken", || async {
            matches!(client.try_post_at(addr, &call, Some(&key)).await, Ok(answer) if answer.status == 202)
        })
        .await;
        keys.push(key);
    }
    for number in 0..count {
        let key = format!("{of} {number}");
        let answer = client.response_to(&json!(key)).await;
        assert!(answer["result"].is_object(), "{key}: {answer}");
    }
}

async fn is_clean(cluster: &Cluster, client: &McpClient, keys: &[String]) {
    Oracle::counted_once(&cluster.counts(), keys.iter().map(String::as_str));
    Oracle::every_request_answered_once(client);
    cluster.assert_no_violations().await;
}

/// The wake-ups of both instances are heard at this node.
async fn both_listen(sentinels: &Sentinels, port: u16) {
    let node = sentinels.nodes.iter().find(|node| node.port() == port).expect("one of the nodes");
    let redis = RedisClient::connect(node).await;
    eventually("both instances listen there", || async {
        redis.run::<Vec<String>>(&["PUBSUB", "CHANNELS", "mcp:wake:*"]).await.len() == 2
    })
    .await;
}

#[tokio::test]
async fn a_planned_failover_costs_no_session_and_no_call() {
    let sentinels = Sentinels::start(&[]).await;
    let cluster = behind(&sentinels).start().await;
    let client = cluster.client().initialize().await;
    let mut keys = Vec::new();
    calls(&cluster, &client, "before", 4, &mut keys).await;
    for round in 0..2 {
        client.post(&tool_call(format!("open {round}"), "wait", json!({ "ms": 1500, "text": "open" }))).await;
        let during = format!("during {round}");
        tokio::join!(sentinels.fail_over(), calls(&cluster, &client, &during, 20, &mut keys));
        calls(&cluster, &client, &format!("after {round}"), 10, &mut keys).await;
        let open = client.response_to(&json!(format!("open {round}"))).await;
        assert!(open["result"].is_object(), "{open}");
        both_listen(&sentinels, sentinels.primary().await.unwrap()).await;
    }
    is_clean(&cluster, &client, &keys).await;
}

#[tokio::test]
async fn a_primary_that_dies_is_replaced_and_calls_go_on() {
    let mut sentinels = Sentinels::start(&[]).await;
    let cluster = behind(&sentinels).start().await;
    let client = cluster.client().initialize().await;
    let mut keys = Vec::new();
    calls(&cluster, &client, "before", 4, &mut keys).await;
    // A Sentinel that has gone with it, as one on its machine would.
    sentinels.kill(0);
    sentinels.nodes[0].kill();
    calls(&cluster, &client, "after", 10, &mut keys).await;
    assert_eq!(sentinels.primary().await, Some(sentinels.nodes[1].port()));
    both_listen(&sentinels, sentinels.nodes[1].port()).await;
    is_clean(&cluster, &client, &keys).await;
}

/// It hangs, is replaced, and comes back as one that believes to be the primary: nobody goes to it.
#[tokio::test]
async fn a_primary_that_hung_and_comes_back_gets_no_session_back() {
    let sentinels = Sentinels::start(&[]).await;
    let cluster = behind(&sentinels).start().await;
    let client = cluster.client().initialize().await;
    let mut keys = Vec::new();
    calls(&cluster, &client, "before", 4, &mut keys).await;
    sentinels.nodes[0].freeze();
    calls(&cluster, &client, "while it hangs", 10, &mut keys).await;
    sentinels.nodes[0].thaw();
    calls(&cluster, &client, "after", 20, &mut keys).await;
    both_listen(&sentinels, sentinels.nodes[1].port()).await;
    is_clean(&cluster, &client, &keys).await;
}

#[tokio::test]
async fn a_primary_without_replicas_that_must_follow_is_warned_of() {
    let warning = "no replica has them";
    for (args, is_warned) in [(&[][..], true), (&["--min-replicas-to-write", "1"][..], false)] {
        let sentinels = Sentinels::start(args).await;
        let cluster = behind(&sentinels).routers(1).start().await;
        assert_eq!(cluster.routers[0].log_text().contains(warning), is_warned);
        let client = cluster.client().initialize().await;
        assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
        // The scripts find the primary, too.
        let query = ". scripts/lib.sh; redis_query \"$1/0\" ROLE";
        let told = Command::new("bash").args(["-c", query, "-", &sentinels.url()]).output().unwrap();
        assert!(told.stdout.starts_with(b"master\n"), "{told:?}");
    }
}

#[tokio::test]
async fn calls_go_on_without_any_sentinel_and_the_log_says_so() {
    let mut sentinels = Sentinels::start(&[]).await;
    let cluster = behind(&sentinels).routers(1).start().await;
    let client = cluster.client().initialize().await;
    (0..3).for_each(|index| sentinels.kill(index));
    let told = || cluster.routers[0].log_text().matches("a Sentinel does not answer").count();
    eventually("the word of each", || async { told() == 3 }).await;
    assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
}
