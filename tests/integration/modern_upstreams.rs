//! Servers of the era without sessions (MCP 2026-07-28): the router finds out that they are, and clients with a handshake notice
//! no difference.

use serde_json::{Value, json};

use crate::harness::{
    Cluster, StreamableUpstream,
    streamable_upstream::{Act, response},
};

fn in_json(call: &Value) -> Vec<Act> {
    let result = json!({ "content": [{ "type": "text", "text": call["params"]["name"] }] });
    vec![Act::Json(response(call, &result))]
}

/// A server with sessions is asked once of which era it is, whoever comes; not where that is set; and again after it has failed.
#[tokio::test]
async fn a_server_is_asked_once_of_which_era_it_is() {
    let upstream = StreamableUpstream::calls(in_json).await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).start().await;
    for _ in 0..3 {
        let client = cluster.client().initialize().await;
        let call = json!({ "name": "write", "arguments": {} });
        assert_eq!(client.result("tools/call", call).await["content"][0]["text"], "write");
    }
    assert_eq!(upstream.asked_for_era(), 1);

    let upstream = StreamableUpstream::calls(in_json).await;
    let cluster = Cluster::builder().upstream_urls([upstream.url()]).env("MCP_UPSTREAM_ERA", "legacy").start().await;
    cluster.client().initialize().await.result("tools/call", json!({ "name": "write", "arguments": {} })).await;
    assert_eq!(upstream.asked_for_era(), 0);
}
