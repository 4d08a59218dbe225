//! What the router knows of a service's tools, which decides whether a call of unknown outcome is repeated (REQ-3): from every
//! page of every list that passes, from its own walk through the pages, and nothing that has changed since.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use serde_json::{Value, json};

use crate::harness::{Cluster, FakeUpstream, fake_upstream::Reply, http, mcp_client::tool_call};

const REST: &str = "/mcp/router/route/mcp-server-v6";

fn page(tool: &str, read_only: bool, next: Option<&str>) -> Reply {
    let tool =
        json!({ "name": tool, "inputSchema": { "type": "object" }, "annotations": { "readOnlyHint": read_only } });
    Reply::Result(json!({ "tools": [tool], "nextCursor": next }))
}

/// A server with a tool on each of two pages, which hangs up on the first call after it was told to. What it says of its
/// tools is as it is told, too.
struct Paged {
    upstream: FakeUpstream,
    hangs_up: Arc<AtomicBool>,
    read_only: Arc<AtomicBool>,
    lists: Arc<AtomicUsize>,
}

impl Paged {
    async fn start() -> Self {
        let (hangs_up, read_only) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
        let lists = Arc::new(AtomicUsize::new(0));
        let (hang_up, annotation, listed) = (Arc::clone(&hangs_up), Arc::clone(&read_only), Arc::clone(&lists));
        let upstream = FakeUpstream::answering(move |message| match message["method"].as_str() {
            Some("tools/list") => {
                listed.fetch_add(1, Ordering::SeqCst);
                let read_only = annotation.load(Ordering::SeqCst);
                match message["params"]["cursor"].as_str() {
                    None => page("read1", read_only, Some("p2")),
                    Some(_) => page("read2", read_only, None),
                }
            }
            _ if hang_up.swap(false, Ordering::SeqCst) => Reply::HangUp,
            _ => Reply::Result(json!({ "content": [] })),
        })
        .await;
        Self { upstream, hangs_up, read_only, lists }
    }

    async fn cluster(&self) -> Cluster {
        Cluster::builder().upstream_urls([self.upstream.url()]).start().await
    }
}

/// REQ-3: a client that lists its tools page by page, over its stream or over REST: the tools of all pages are known.
#[tokio::test]
async fn the_tools_of_all_pages_that_a_client_lists_are_known() {
    for over_rest in [false, true] {
        let server = Paged::start().await;
        let cluster = server.cluster().await;
        let client = cluster.client().initialize().await;
        for params in [json!({}), json!({ "cursor": "p2" })] {
            if over_rest {
                let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params });
                assert_eq!(http::post(cluster.addr(0), REST, list.to_string()).await.status, 200);
            } else {
                client.result("tools/list", params).await;
            }
        }
        let lists = server.lists.load(Ordering::SeqCst);
        for tool in ["read1", "read2"] {
            server.hangs_up.store(true, Ordering::SeqCst);
            assert!(client.call(tool, json!({})).await["content"].is_array(), "{tool} is repeated");
        }
        assert_eq!(server.lists.load(Ordering::SeqCst), lists, "without another look");
    }
}

/// REQ-3: a router that has seen no list walks through the pages itself.
#[tokio::test]
async fn a_router_that_lists_the_tools_itself_walks_through_the_pages() {
    for tool in ["read1", "read2"] {
        let server = Paged::start().await;
        let cluster = server.cluster().await;
        let client = cluster.client().initialize().await;
        server.hangs_up.store(true, Ordering::SeqCst);
        assert!(client.call(tool, json!({})).await["content"].is_array(), "{tool} is repeated");
        assert_eq!(server.lists.load(Ordering::SeqCst), 2);
        assert_eq!(server.upstream.received_of("tools/call").len(), 2);
    }
}

/// REQ-3: what was known is forgotten when the server says that its tools have changed.
#[tokio::test]
async fn what_was_known_of_tools_that_have_changed_is_forgotten() {
    let server = Paged::start().await;
    let cluster = server.cluster().await;
    let client = cluster.client().initialize().await;
    for params in [json!({}), json!({ "cursor": "p2" })] {
        client.result("tools/list", params).await;
    }
    server.read_only.store(false, Ordering::SeqCst);
    let changed = json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" });
    server.upstream.send(server.upstream.open_sessions()[0], &changed).await;
    client.message("the change", |message| message["method"] == changed["method"]).await;
    for tool in ["read1", "read2"] {
        let runs = server.upstream.received_of("tools/call").len();
        server.hangs_up.store(true, Ordering::SeqCst);
        let id = client.start_call(tool, json!({})).await;
        let error: Value = client.response(id).await["error"].clone();
        assert_eq!(error["code"], -32001, "{tool}: its outcome is unknown: {error}");
        assert_eq!(server.upstream.received_of("tools/call").len(), runs + 1);
    }
}

/// A list that never ends: an error, after as many pages as are allowed or at the first cursor that repeats; the service goes on.
#[tokio::test]
async fn a_tool_list_that_never_ends_is_an_error_and_nothing_else() {
    for repeats in [true, false] {
        let lists = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&lists);
        let upstream = FakeUpstream::answering(move |message| match message["method"].as_str() {
            Some("tools/list") => {
                let number = count.fetch_add(1, Ordering::SeqCst);
                page("read1", true, Some(&if repeats { "again".to_owned() } else { number.to_string() }))
            }
            _ => Reply::Result(json!({ "content": [] })),
        })
        .await;
        let cluster =
            Cluster::builder().upstream_urls([upstream.url()]).env("MCP_UPSTREAM_TOOL_PAGES", 7).start().await;
        let listed = http::get(cluster.addr(0), "/mcp/router/tools/mcp-server-v6").await;
        let reason = listed.json()["error"]["data"]["reason"].clone();
        assert_eq!((listed.status, listed.error_code(), reason), (502, Some(-32603), json!("tool_list")));
        let why = if repeats { "repeats" } else { "7 pages" };
        assert!(listed.text().contains(why), "{}", listed.text());
        assert_eq!(lists.load(Ordering::SeqCst), if repeats { 2 } else { 7 });
        assert_eq!(http::post(cluster.addr(0), REST, tool_call(1, "x", json!({})).to_string()).await.status, 200);
    }
    // All pages of one that ends.
    let server = Paged::start().await;
    let cluster = server.cluster().await;
    let listed = http::get(cluster.addr(0), "/mcp/router/tools/mcp-server-v6").await.json();
    let names: Vec<&str> =
        listed["tools"].as_array().unwrap().iter().filter_map(|tool| tool["name"].as_str()).collect();
    assert_eq!(names, ["read1", "read2"]);
}
