//! The shortest way through everything.

use serde_json::json;

use crate::harness::{Cluster, Oracle};

/// REQ-1, REQ-2, EVT-1: a session works from the handshake to a tool's answer, wherever its messages are posted.
#[tokio::test]
async fn a_client_of_three_instances_calls_tools() {
    let cluster = Cluster::builder().routers(3).upstreams(2).start().await;
    let client = cluster.client().initialize().await;
    assert_eq!(client.text("echo", json!({ "text": "hello" })).await, "hello");
    client.call("increment", json!({ "key": "once" })).await;
    Oracle::exactly_once(&client);
    Oracle::every_request_answered_once(&client);
    Oracle::agrees_with_log(&client, &cluster.redis_client().await).await;
    Oracle::counted_once(&cluster.counts(), ["once"]);
    cluster.assert_no_violations().await;
}
