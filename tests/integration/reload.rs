//! Lists of upstreams that change while the routers run: what stays keeps its sessions, what comes is used at once, what goes
//! keeps what has begun there for a while, and instances with different lists do no harm. STM-3

use std::{fs, net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    Cluster, McpClient, Oracle, RouterProcess, Transport, cluster, eventually, eventually_some,
    http::{self, Request},
    mcp_client::tool_call,
    over_both_transports,
};

const SERVICE: &str = cluster::SERVICE;

/// The file of a list, in a folder of its own.
struct List {
    file: PathBuf,
    _dir: TempDir,
}

impl List {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let list = Self { file: dir.path().join("upstreams"), _dir: dir };
        list.write(text);
        list
    }

    /// As editors and ConfigMaps do: whole or not at all.
    fn write(&self, text: &str) {
        let next = self.file.with_extension("next");
        fs::write(&next, text).unwrap();
        fs::rename(&next, &self.file).unwrap();
    }
}

fn listed(builder: cluster::Builder, list: &List) -> cluster::Builder {
    builder.env("MCP_UPSTREAMS_FILE", list.file.display()).env("MCP_AUTH_RELOAD", "20ms")
}

fn url(cluster: &Cluster, index: usize, transport: Transport) -> String {
    match transport {
        Transport::Sse => cluster.upstreams[index].url(),
        Transport::Streamable => cluster.upstreams[index].streamable_url(),
    }
}

fn line(urls: &[&String]) -> String {
    format!("{SERVICE}={}\n", urls.iter().map(|url| url.as_str()).collect::<Vec<_>>().join(","))
}

async fn generation(router: &RouterProcess) -> String {
    let text = http::get(router.addr(), "/actuator/prometheus").await.text();
    let row = text.lines().find_map(|line| line.strip_prefix("mcp_router_upstreams_info{generation=\""));
    row.unwrap().split_once('"').unwrap().0.to_owned()
}

/// The routers have this list, whichever it was.
async fn has_another_list(router: &RouterProcess, before: &str) {
    eventually("the new list", || async { generation(router).await != before }).await;
}

async fn endpoint(cluster: &Cluster, router: usize, client: &McpClient) -> String {
    let path = format!("/mcp/router/sessions/{}", client.session());
    http::get(cluster.addr(router), &path).await.json()["endpoint"].as_str().unwrap_or_default().to_owned()
}

/// The session is served at this instance.
async fn echo_at(client: &McpClient, addr: SocketAddr) {
    let id = client.fresh_id();
    client.post_at(addr, &tool_call(id, "echo", json!({ "text": "on" }))).await;
    assert_eq!(client.response(id).await["result"]["content"][0]["text"], "on");
}

async fn initialize(cluster: &Cluster, router: usize, transport: Transport) -> McpClient {
    cluster.client_of(router).over(transport).initialize().await
}

/// One comes and one goes: new sessions are with the new one at once, the others stay where they are until their calls are
/// answered and their time is over, and then go on at the new one.
async fn servers_come_and_go_without_a_restart(transport: Transport) {
    let list = List::new(&line(&[&"http://127.0.0.1:9/sse".to_owned()]));
    let cluster = listed(Cluster::builder().upstreams(2), &list).env("MCP_UPSTREAM_LEAVE", "3s").start().await;
    let router = &cluster.routers[0];
    let (first, second) = (url(&cluster, 0, transport), url(&cluster, 1, transport));
    let before = generation(router).await;
    list.write(&line(&[&first]));
    has_another_list(router, &before).await;
    let client = initialize(&cluster, 0, transport).await;
    assert_eq!(endpoint(&cluster, 0, &client).await, first);

    let before = generation(router).await;
    let open = client.start_call("wait", json!({ "ms": 1000, "text": "under way" })).await;
    list.write(&line(&[&second]));
    has_another_list(router, &before).await;
    let newcomer = initialize(&cluster, 0, transport).await;
    assert_eq!(endpoint(&cluster, 0, &newcomer).await, second);
    assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
    assert_eq!(endpoint(&cluster, 0, &client).await, first, "it stays where it is");
    assert_eq!(client.response(open).await["result"]["content"][0]["text"], "under way");
    assert_eq!(cluster.metric("mcp_router_upstream_leaving", Some(SERVICE)).await, 1.0);

    // Its time is over, and the server as good as dead: also for a call that runs then.
    let open = client.start_call("wait", json!({ "ms": 3000, "text": "run again" })).await;
    eventually("the session elsewhere", || async { endpoint(&cluster, 0, &client).await == second }).await;
    assert_eq!(client.response(open).await["result"]["content"][0]["text"], "run again");
    assert_eq!(cluster.metric("mcp_router_upstream_leaving", Some(SERVICE)).await, 0.0);
    eventually("nobody there", || async { cluster.upstreams[0].sessions().await == 0 }).await;
    for client in [&client, &newcomer] {
        assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
        Oracle::every_request_answered_once(client);
        Oracle::exactly_once(client);
    }
    cluster.assert_no_violations().await;
}

/// What stays in the list keeps its sessions and all that is known of it, whatever comes and goes beside it.
async fn a_server_that_stays_keeps_its_sessions(transport: Transport) {
    let list = List::new(&line(&[&"http://127.0.0.1:9/sse".to_owned()]));
    let cluster = listed(Cluster::builder().upstreams(2), &list).start().await;
    let router = &cluster.routers[0];
    let (first, second) = (url(&cluster, 0, transport), url(&cluster, 1, transport));
    let before = generation(router).await;
    list.write(&line(&[&first]));
    has_another_list(router, &before).await;
    let client = initialize(&cluster, 0, transport).await;
    let lost = router.metric("mcp_router_upstream_links_total", Some("lost")).await;
    for urls in [vec![&second, &first], vec![&first], vec![&first, &second]] {
        let before = generation(router).await;
        list.write(&line(&urls));
        has_another_list(router, &before).await;
        assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
    }
    assert_eq!(endpoint(&cluster, 0, &client).await, first);
    assert_eq!(router.metric("mcp_router_upstream_links_total", Some("lost")).await, lost);
    assert_eq!(client.connections().len(), 1, "its stream has seen nothing of it");
}

/// For a moment instances have different lists: whoever takes a session over goes on where it was, if it knows the server, and
/// else at another one, as after a server's death. Nothing is sent to a server that is not its own.
async fn instances_with_different_lists_do_no_harm(transport: Transport) {
    let (mine, theirs) = (List::new("x=http://127.0.0.1:9/sse"), List::new("x=http://127.0.0.1:9/sse"));
    let mut cluster = listed(Cluster::builder().upstreams(2).short_lease(), &mine).start().await;
    let mut env = cluster.env().clone();
    env.insert("MCP_UPSTREAMS_FILE".to_owned(), theirs.file.display().to_string());
    let other = RouterProcess::start(cluster.dir(), "router-instance-2", &env).await;
    cluster.routers.push(other);
    let (first, second) = (url(&cluster, 0, transport), url(&cluster, 1, transport));
    for (list, urls) in [(&mine, [&first]), (&theirs, [&second])] {
        list.write(&line(&urls));
    }
    for router in &cluster.routers {
        eventually("its service", || async {
            http::get(router.addr(), "/mcp/router/services").await.text().contains(SERVICE)
        })
        .await;
    }
    assert_ne!(generation(&cluster.routers[0]).await, generation(&cluster.routers[1]).await);

    // A session of one that the other cannot go on with where it is.
    let client = cluster.client().over(transport).initialize().await;
    let owner = usize::from(endpoint(&cluster, 0, &client).await == second);
    let (here, there) = if owner == 0 { (&first, &second) } else { (&second, &first) };
    assert_eq!(endpoint(&cluster, 0, &client).await, *here);
    let open = client.start_call("wait", json!({ "ms": 1500, "text": "run again" })).await;
    eventually("the call at its server", || async { cluster.upstreams[owner].sessions().await > 0 }).await;
    cluster.routers[owner].kill();
    assert_eq!(client.response(open).await["result"]["content"][0]["text"], "run again");
    echo_at(&client, cluster.addr(1 - owner)).await;
    assert_eq!(endpoint(&cluster, 1 - owner, &client).await, *there);

    // The lists are the same again, and so are the digits by which that is seen.
    cluster.routers[owner].restart().await;
    for list in [&mine, &theirs] {
        list.write(&line(&[&first, &second]));
    }
    eventually("the same list", || async {
        generation(&cluster.routers[0]).await == generation(&cluster.routers[1]).await
    })
    .await;
    cluster.routers[1 - owner].kill();
    echo_at(&client, cluster.addr(owner)).await;
    if transport == Transport::Streamable {
        assert_eq!(endpoint(&cluster, owner, &client).await, *there, "its heir knows the server: it goes on there");
    }
    Oracle::every_request_answered_once(&client);
    cluster.assert_no_violations().await;
}

over_both_transports! {
    servers_come_and_go_without_a_restart
    a_server_that_stays_keeps_its_sessions
    instances_with_different_lists_do_no_harm
}

/// A file with a fault changes nothing; the log says what is wrong by its line, and no secret in it, and a metric that it is.
#[tokio::test]
async fn a_list_with_a_fault_changes_nothing() {
    let list = List::new("x=http://127.0.0.1:9/sse");
    let mut cluster = listed(Cluster::builder(), &list).start().await;
    let url = cluster.upstreams[0].url();
    let before = generation(&cluster.routers[0]).await;
    list.write(&line(&[&url]));
    has_another_list(&cluster.routers[0], &before).await;
    let client = cluster.client().initialize().await;
    let (right, valid) = (generation(&cluster.routers[0]).await, "mcp_router_upstreams_file_valid");
    for (refused, wrong) in
        ["", "# nothing\n", "mcp-server-v6=http://user:SECRET@h:1/sse\nsecond\n"].into_iter().enumerate()
    {
        list.write(wrong);
        eventually("the refusal", || async {
            cluster.metric("mcp_router_upstreams_reloads_total", Some("refused")).await > refused as f64
        })
        .await;
        assert_eq!(cluster.metric(valid, None).await, 0.0);
        assert_eq!(generation(&cluster.routers[0]).await, right);
        assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
    }
    let log = cluster.routers[0].log_text();
    assert!(log.contains("line 2: a name and = before the URLs") && log.contains("all stays as it was"), "{log}");
    assert!(!log.contains("SECRET"), "{log}");
    list.write(&format!("# right again\n{}", line(&[&url])));
    // Looked at at once when asked to.
    cluster.routers[0].process().signal("HUP");
    eventually("right again", || async { cluster.metric(valid, None).await == 1.0 }).await;
    assert_eq!(generation(&cluster.routers[0]).await, right);
}

/// A start with such a file is refused, and where both are set the file counts.
#[tokio::test]
async fn the_file_counts_and_a_start_with_a_fault_in_it_is_refused() {
    let list = List::new("x=http://127.0.0.1:9/sse\nsecond");
    let dir = tempfile::tempdir().unwrap();
    let mut env = crate::harness::router_process::Env::new();
    env.insert("MCP_UPSTREAMS_FILE".to_owned(), list.file.display().to_string());
    let mut router = RouterProcess::launch(dir.path(), "wrong", &env);
    eventually("its end", || async { !router.is_running() }).await;
    assert!(
        router.log_text().contains("MCP_UPSTREAMS_FILE") && router.log_text().contains("line 2"),
        "{}",
        router.log_text()
    );
    assert!(router.process().has_ended());

    list.write("of-the-file=http://127.0.0.1:9/sse\n");
    env.insert("MCP_UPSTREAMS".to_owned(), "of-the-variable=http://127.0.0.1:9/sse".to_owned());
    let router = RouterProcess::start(dir.path(), "both", &env).await;
    let services = http::get(router.addr(), "/mcp/router/services").await.text();
    assert!(services.contains("of-the-file") && !services.contains("of-the-variable"), "{services}");
    assert!(router.log_text().contains("MCP_UPSTREAMS is not used"), "{}", router.log_text());
}

/// A service that comes is served by every surface; one that goes takes no new session, and what has begun there goes on.
#[tokio::test]
async fn services_come_and_go_without_a_restart() {
    let list = List::new("first=http://127.0.0.1:9/sse");
    let cluster = listed(Cluster::builder(), &list).env("MCP_UPSTREAM_LEAVE", "1h").start().await;
    let (addr, url) = (cluster.addr(0), cluster.upstreams[0].url());
    let before = generation(&cluster.routers[0]).await;
    list.write(&format!("first=http://127.0.0.1:9/sse\n{}", line(&[&url])));
    has_another_list(&cluster.routers[0], &before).await;
    let clients = [
        cluster.client().over(Transport::Sse).initialize().await,
        cluster.client().over(Transport::Streamable).initialize().await,
    ];
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" }).to_string();
    assert_eq!(http::post(addr, &format!("/mcp/router/route/{SERVICE}"), ping.clone()).await.status, 200);

    let before = generation(&cluster.routers[0]).await;
    list.write("first=http://127.0.0.1:9/sse\n");
    has_another_list(&cluster.routers[0], &before).await;
    for client in &clients {
        assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
    }
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } } });
    let begun = Request::post(format!("/mcp/{SERVICE}"), initialize.to_string());
    let begun = begun.header("accept", "application/json, text/event-stream").send(addr).await;
    assert_eq!((begun.status, begun.json()["error"]["data"]["reason"].as_str()), (404, Some("unknown_service")));
    assert_eq!(http::get(addr, &format!("/sse/{SERVICE}")).await.status, 404);
    let services: Value = http::get(addr, "/mcp/router/services").await.json();
    assert_eq!(services["services"].as_array().unwrap().len(), 1, "{services}");
    // A client that comes back is none that begins.
    clients[0].cut();
    eventually("its second stream", || async { clients[0].connections().len() > 1 }).await;
    assert_eq!(clients[0].text("echo", json!({ "text": "still" })).await, "still");
    eventually_some("health without it", || async {
        let health = cluster.routers[0].health().await;
        health["components"]["upstreams"]["details"].as_object().filter(|all| !all.contains_key(SERVICE)).map(|_| ())
    })
    .await;
}
