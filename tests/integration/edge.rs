//! nginx-edge.conf: nginx keeps a client's connection while the instance behind it changes. Clients that have nothing in them
//! for that, the Python SDK above all, keep their sessions and their calls; the client sees one stream, each event once, and no
//! second endpoint.

use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    sync::mpsc,
};

use super::sdk::{Sdk, Transport, report, run_at, works_behind};
use crate::harness::{
    Cluster, EventStream, Front, Item, McpClient, Nginx, Oracle, PostTo, StreamEnd, StreamableClient, cluster,
    edge_is_missing, eventually, eventually_some, http::Request, soon, tls::Ca,
};

const SSE: &str = "/sse/mcp-server-v6";
const STREAMABLE: &str = "/mcp/mcp-server-v6";
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Servers whose sessions outlive an instance, so that calls in flight have their answers.
fn three_behind(front: Front) -> cluster::Builder {
    Cluster::builder().routers(3).streamable().front(front).env("MCP_LEASE", "2s").env("MCP_LEASE_RENEW", "500ms")
}

fn front_door(cluster: &Cluster) -> SocketAddr {
    cluster.nginx.as_ref().unwrap().addr()
}

async fn streams_of(cluster: &Cluster, index: usize) -> f64 {
    match cluster.routers[index].is_running() {
        true => cluster.routers[index].metric("mcp_router_streams", None).await,
        false => 0.0,
    }
}

/// The instance that serves the only stream there is.
async fn holder(cluster: &Cluster) -> usize {
    eventually_some("somebody serves the stream", || async {
        for index in 0..cluster.routers.len() {
            if streams_of(cluster, index).await > 0.0 {
                return Some(index);
            }
        }
        None
    })
    .await
}

/// Breaks the instance that serves the stream `times` times, each time with a call in flight.
async fn break_under(cluster: &mut Cluster, client: &McpClient, times: usize, fault: &str) {
    for round in 0..times {
        let call = client.start_call("wait", json!({ "ms": 300, "text": format!("{round}") })).await;
        let index = holder(cluster).await;
        cluster.routers[index].process().signal(fault);
        assert_eq!(client.response(call).await["result"]["content"][0]["text"], format!("{round}"));
        cluster.routers[index].restart().await;
    }
}

/// One stream from beginning to end, and nothing on it that the client has seen before.
async fn saw_nothing(cluster: &Cluster, client: &McpClient) {
    for number in 0..6 {
        assert_eq!(client.text("echo", json!({ "text": format!("after {number}") })).await, format!("after {number}"));
    }
    assert_eq!(client.connections().len(), 1, "one stream");
    let endpoints = client.records().iter().filter(|record| record.name == "endpoint").count();
    assert_eq!(endpoints, 1, "one endpoint");
    Oracle::exactly_once(client);
    Oracle::every_request_answered_once(client);
    let redis = cluster.redis_client().await;
    Oracle::agrees_with_log(client, &redis).await;
    cluster.assert_no_violations().await;
}

/// HTTP+SSE: the instance that serves the stream is killed three times.
#[tokio::test]
async fn a_client_sees_nothing_of_the_deaths_of_its_instances() {
    if edge_is_missing() {
        return;
    }
    let mut cluster = three_behind(Front::edge("")).start().await;
    let client = McpClient::builder([front_door(&cluster)]).stays_away().initialize().await;
    break_under(&mut cluster, &client, 3, "KILL").await;
    saw_nothing(&cluster, &client).await;
}

/// DRN-1: instances that are told to go, one after the other.
#[tokio::test]
async fn a_client_sees_nothing_of_instances_that_go() {
    if edge_is_missing() {
        return;
    }
    let mut cluster = three_behind(Front::edge("")).start().await;
    let client = McpClient::builder([front_door(&cluster)]).stays_away().initialize().await;
    break_under(&mut cluster, &client, 3, "TERM").await;
    saw_nothing(&cluster, &client).await;
}

/// An instance that hangs is left when three of its heartbeats have not come.
#[tokio::test]
async fn a_client_sees_nothing_of_an_instance_that_hangs() {
    if edge_is_missing() {
        return;
    }
    // Looked at every 5 s.
    let front = Front::edge("silence = 1, again = 1, head = 1");
    let mut cluster = three_behind(front).env("MCP_HEARTBEAT", "300ms").start().await;
    let client = McpClient::builder([front_door(&cluster)]).stays_away().initialize().await;
    let hung = holder(&cluster).await;
    cluster.routers[hung].freeze();
    let others: Vec<usize> = (0..3).filter(|index| *index != hung).collect();
    eventually("another instance serves the stream", || async {
        streams_of(&cluster, others[0]).await + streams_of(&cluster, others[1]).await > 0.0
    })
    .await;
    cluster.routers[hung].thaw();
    saw_nothing(&cluster, &client).await;
}

/// The negative control of the tests above: without re-attachment the client's stream ends with its instance.
#[tokio::test]
async fn without_reattachment_a_stream_ends_with_its_instance() {
    if edge_is_missing() {
        return;
    }
    let mut cluster = three_behind(Front::edge("reattach = false")).start().await;
    let client = McpClient::builder([front_door(&cluster)]).stays_away().initialize().await;
    let index = holder(&cluster).await;
    cluster.routers[index].kill();
    assert_eq!(client.connection_end(0).await, Some(StreamEnd::Abrupt));
}

/// Streamable HTTP: the session's own stream and that of a call, each broken three times, go on as if nothing was.
#[tokio::test]
async fn streams_of_streamable_http_are_kept_too() {
    if edge_is_missing() {
        return;
    }
    let mut cluster = three_behind(Front::edge("")).env("MCP_JSON_WAIT", "0s").start().await;
    let client = StreamableClient::initialized([front_door(&cluster)], STREAMABLE).await;
    let mut main = client.listen().await.stream();
    let Item::Event(prime) = main.next().await else { panic!("a priming event") };
    assert_eq!(prime.data, "");
    let (id, mut answer) = client.start_call("wait", json!({ "ms": 4000, "text": "done" })).await;
    // Wherever the two are: each of three instances dies in turn.
    for index in 0..3 {
        cluster.routers[index].kill();
        eventually("both streams are served elsewhere", || async {
            let mut streams = 0.0;
            for index in 0..3 {
                streams += streams_of(&cluster, index).await;
            }
            streams >= 2.0
        })
        .await;
        cluster.routers[index].restart().await;
    }
    let answered = answer.answer(&json!(id)).await;
    assert_eq!(answered["result"]["content"][0]["text"], "done", "{answered}");
    assert_eq!(answer.end().await, StreamEnd::Clean);
    assert_eq!(client.repeated_ids(), [""; 0]);
    let primes = client.seen().iter().filter(|seen| seen.connection == 0 && seen.data.is_empty()).count();
    assert!(primes <= 1, "primed once: {primes}");
    // A session that is over ends its stream cleanly, and nobody is asked for more.
    assert_eq!(client.delete().await.status, 204);
    assert_eq!(main.end().await, StreamEnd::Clean);
    cluster.assert_no_violations().await;
}

/// A client that leaves takes the stream at the instance with it.
#[tokio::test]
async fn a_client_that_leaves_leaves_nothing_behind() {
    if edge_is_missing() {
        return;
    }
    let cluster = three_behind(Front::edge("")).start().await;
    let client = McpClient::builder([front_door(&cluster)]).stays_away().initialize().await;
    holder(&cluster).await;
    drop(client);
    eventually("no instance has a stream", || async { cluster.metric("mcp_router_streams", None).await == 0.0 }).await;
}

/// Nobody is there for longer than the edge waits: until then the client hears that it is not alone, and then its stream
/// breaks, which is no end.
#[tokio::test]
async fn a_stream_that_nobody_goes_on_with_breaks() {
    if edge_is_missing() {
        return;
    }
    let mut cluster = three_behind(Front::edge("patience = 2, heartbeat = 0.5")).start().await;
    let mut stream = EventStream::open(front_door(&cluster), &Request::get(SSE)).await;
    let opened = stream.event().await;
    assert_eq!(opened.name, "endpoint");
    for router in &mut cluster.routers {
        router.kill();
    }
    let mut comments = 0;
    loop {
        match soon("the end", stream.read()).await {
            Item::Comment(_) => comments += 1,
            Item::End(end) => break assert_eq!(end, StreamEnd::Abrupt),
            Item::Event(event) => panic!("{event:?}"),
        }
    }
    assert!(comments >= 2, "{comments}");
}

/// A session that is gone cannot be gone on with, and no other one is put in its place.
#[tokio::test]
async fn a_session_that_is_gone_breaks_its_stream() {
    if edge_is_missing() {
        return;
    }
    let mut cluster = three_behind(Front::edge("")).start().await;
    let client = McpClient::builder([front_door(&cluster)]).stays_away().initialize().await;
    let index = holder(&cluster).await;
    cluster.routers[index].freeze();
    let redis = cluster.redis_client().await;
    let _: () = redis.run(&["FLUSHALL"]).await;
    cluster.routers[index].kill();
    assert_eq!(client.connection_end(0).await, Some(StreamEnd::Abrupt));
    let endpoints = client.records().iter().filter(|record| record.name == "endpoint").count();
    assert_eq!(endpoints, 1);
}

/// An event beyond what the edge keeps goes out as it comes, whole.
#[tokio::test]
async fn events_of_any_size_pass() {
    if edge_is_missing() {
        return;
    }
    let mut cluster = three_behind(Front::edge("event = 5000")).start().await;
    let client = McpClient::builder([front_door(&cluster)]).stays_away().initialize().await;
    for bytes in [10, 4_000, 5_000, 6_000, 300_000, 2_000_000] {
        let text = "x".repeat(bytes);
        assert_eq!(client.text("echo", json!({ "text": text })).await, text);
    }
    break_under(&mut cluster, &client, 1, "KILL").await;
    saw_nothing(&cluster, &client).await;
}

/// An instance that writes what it is told, in pieces of `piece` bytes and chunks of `chunk`, and then breaks off; a second
/// request gets the second of the texts. What it was asked stands in the second part.
async fn scripted(texts: [&'static str; 2], chunk: usize, piece: usize) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    tokio::spawn(async move {
        for (number, text) in texts.into_iter().enumerate() {
            let (mut connection, _) = listener.accept().await.unwrap();
            connection.set_nodelay(true).unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(connection.read_u8().await.unwrap());
            }
            heard.lock().unwrap().push(String::from_utf8(request).unwrap());
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-mcp-edge: held\r\ntransfer-encoding: chunked\r\n\r\n";
            let mut bytes = head.as_bytes().to_vec();
            for chunk in text.as_bytes().chunks(chunk) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            if number == 1 {
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
            for piece in bytes.chunks(piece) {
                connection.write_all(piece).await.unwrap();
                connection.flush().await.unwrap();
                if piece.len() < 100 {
                    tokio::time::sleep(Duration::from_micros(300)).await;
                }
            }
            // Read by then, and not reset.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    (addr, asked)
}

/// An instance that writes `count` events on its first stream, each a chunk and a write of its own, and breaks off; of each further
/// request it tells the cursor, and ends the stream.
async fn one_by_one(count: usize) -> (SocketAddr, mpsc::Receiver<String>) {
    const PAUSE: Duration = Duration::from_millis(5);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel(8);
    tokio::spawn(async move {
        for first in [true, false] {
            let (connection, _) = listener.accept().await.unwrap();
            connection.set_nodelay(true).unwrap();
            let mut connection = BufReader::new(connection);
            let mut line = String::new();
            while connection.read_line(&mut line).await.unwrap() > 2 {
                if let Some(cursor) = line.to_ascii_lowercase().strip_prefix("last-event-id:") {
                    tell.send(cursor.trim().to_owned()).await.unwrap();
                }
                line.clear();
            }
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-mcp-edge: held\r\ntransfer-encoding: chunked\r\n\r\n";
            connection.write_all(head.as_bytes()).await.unwrap();
            for number in 0..if first { count } else { 0 } {
                let event = format!("id: s.g.0.{number}\nevent: message\ndata: {{}}\n\n");
                connection.write_all(format!("{:X}\r\n{event}\r\n", event.len()).as_bytes()).await.unwrap();
                tokio::time::sleep(PAUSE).await;
            }
            if !first {
                connection.write_all(b"0\r\n\r\n").await.unwrap();
            }
        }
    });
    (addr, told)
}

/// How often something came to a client that reads nothing, so that its system acknowledges late, until all events were there.
async fn arrivals(options: &str) -> usize {
    const COUNT: usize = 100;
    let dir = tempfile::tempdir().unwrap();
    let (addr, mut told) = one_by_one(COUNT).await;
    let nginx = Nginx::start(dir.path(), &[addr], Front::edge(options)).await;
    let mut client = TcpStream::connect(nginx.addr()).await.unwrap();
    client
        .write_all(format!("GET {SSE} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let (mut seen, mut times, mut bytes) = (0, 0, vec![0; 65536]);
    let end = format!("id: s.g.0.{}\n", COUNT - 1);
    soon("the last event", async {
        while !bytes[..seen].windows(end.len()).any(|window| window == end.as_bytes()) {
            let there = client.peek(&mut bytes).await.unwrap();
            if there > seen {
                (seen, times) = (there, times + 1);
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    })
    .await;
    assert_eq!(soon("the next request", told.recv()).await.as_deref(), Some(format!("s.g.0.{}", COUNT - 1).as_str()));
    let mut text = String::new();
    soon("the end", client.read_to_string(&mut text)).await.unwrap();
    for number in 0..COUNT {
        assert_eq!(text.matches(&format!("id: s.g.0.{number}\n")).count(), 1, "{text}");
    }
    assert!(text.ends_with("0\r\n\r\n"), "{text}");
    times
}

/// Events do not wait for each other: over a long way each would otherwise be late by what its predecessor takes there and back. The
/// negative control leaves it to TCP, which sends the next small segment when the one before is acknowledged.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_event_does_not_wait_until_the_one_before_is_acknowledged() {
    if edge_is_missing() {
        return;
    }
    // A machine with other work shows some of them together.
    eventually("events come one by one", || async { arrivals("").await > 50 }).await;
    let times = arrivals("nodelay = false").await;
    assert!(times < 50, "{times}");
}

/// However an instance's bytes are cut, the client is shown whole events, each once; what had begun when the instance broke is
/// shown as the next one sends it.
#[tokio::test]
async fn only_whole_events_are_shown_however_they_come() {
    if edge_is_missing() {
        return;
    }
    const FIRST: &str = "id: s.g.0.0\nretry: 5\nevent: endpoint\ndata: /m\n\n: hb\nid: s.g.0.1\nevent: message\ndata: one\n\n: hb\n: hb\nevent: message\ndata: {\"id: no\":\"id: s.g.0.9\"}\n\nid: s.g.0.2\nevent: message\ndata: tw";
    const SECOND: &str = ": hb\nid: s.g.0.2\nevent: message\ndata: two\n\n";
    for (chunk, piece) in [(1, 1), (1, 4096), (7, 3), (1000, 1), (1000, 4096), (13, 29)] {
        let dir = tempfile::tempdir().unwrap();
        let (addr, asked) = scripted([FIRST, SECOND], chunk, piece).await;
        let nginx = Nginx::start(dir.path(), &[addr], Front::edge("")).await;
        let mut stream = EventStream::open(nginx.addr(), &Request::get(SSE)).await;
        let mut shown = Vec::new();
        let end = loop {
            match soon("the stream", stream.read()).await {
                Item::Event(event) => shown.push((event.id.unwrap_or_default(), event.data)),
                Item::Comment(_) => {}
                Item::End(end) => break end,
            }
        };
        let expected =
            [("s.g.0.0", "/m"), ("s.g.0.1", "one"), ("", "{\"id: no\":\"id: s.g.0.9\"}"), ("s.g.0.2", "two")];
        let expected = expected.map(|(id, data)| (id.to_owned(), data.to_owned()));
        assert_eq!(
            (shown.as_slice(), end),
            (expected.as_slice(), StreamEnd::Clean),
            "chunks of {chunk}, {piece} bytes"
        );
        let asked = asked.lock().unwrap();
        let lower: Vec<String> = asked.iter().map(|request| request.to_ascii_lowercase()).collect();
        assert!(lower[0].contains("x-mcp-edge: open\r\n") && !lower[0].contains("last-event-id"), "{}", lower[0]);
        assert!(
            lower[1].contains("x-mcp-edge: again\r\n") && lower[1].contains("last-event-id: s.g.0.1\r\n"),
            "{}",
            lower[1]
        );
    }
}

/// What a client says of itself in the headers that are the edge's own does not reach the instance.
#[tokio::test]
async fn nobody_else_speaks_in_the_edges_name() {
    if edge_is_missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (addr, asked) = scripted(["data: x\n\n", ""], 100, 4096).await;
    let nginx = Nginx::start(dir.path(), &[addr], Front::edge("")).await;
    let request = Request::get("/mcp-bridge/sse/a?sessionId=1")
        .header("x-mcp-edge", "again")
        .header("x-forwarded-for", "192.0.2.1")
        .header("x-mcp-request-try", "mine")
        .header("x-forwarded-prefix", "/evil")
        .header("x-mcp-principal", "mallory")
        .header("authorization", "Bearer x");
    let mut stream = EventStream::open(nginx.addr(), &request).await;
    stream.event().await;
    let request = asked.lock().unwrap()[0].to_ascii_lowercase();
    assert!(request.starts_with("get /sse/a?sessionid=1 http/1.1\r\n"), "{request}");
    for line in
        ["x-mcp-edge: open", "x-forwarded-for: 127.0.0.1", "x-forwarded-prefix: /mcp-bridge", "authorization: bearer x"]
    {
        assert_eq!(request.matches(&format!("{line}\r\n")).count(), 1, "{line}: {request}");
    }
    for name in ["x-mcp-edge:", "x-forwarded-for:", "x-forwarded-prefix:", "x-mcp-request-try:", "host:"] {
        assert_eq!(request.matches(&format!("\n{name}")).count(), 1, "{name}: {request}");
    }
    assert!(!request.contains("mine") && !request.contains("x-mcp-principal"), "{request}");
}

/// The Python SDK over HTTP+SSE, which comes back to nothing, at work while each instance is killed in turn; the report.
async fn python_through_kills(front: Front) -> Value {
    let cluster = three_behind(front).start().await;
    let url = format!("http://{}", front_door(&cluster));
    through_kills(cluster, Sdk::Python, Transport::Sse, &url, &[], &[]).await
}

/// Three sessions that call a tool without a pause while each instance is killed in turn; the report.
async fn through_kills(
    mut cluster: Cluster,
    sdk: Sdk,
    transport: Transport,
    url: &str,
    env: &[(&str, &Path)],
    more: &[&str],
) -> Value {
    let mut arguments = vec!["hold", "--seconds", "6", "--sessions", "3", "--call-timeout", "20"];
    arguments.extend(more);
    let work = report(sdk, transport, url, env, &arguments);
    let kills = async {
        let mut before = 0.0;
        for index in 0..3 {
            eventually("calls go on", || async {
                cluster.metric("mcp_router_events_appended_total", None).await > before + 60.0
            })
            .await;
            cluster.routers[index].kill();
            cluster.routers[index].restart().await;
            before = cluster.metric("mcp_router_events_appended_total", None).await;
        }
    };
    let mut work = std::pin::pin!(work);
    tokio::select! {
        report = &mut work => report,
        () = kills => work.await,
    }
}

fn every_call_was_answered(report: &Value) {
    let totals = &report["totals"];
    assert_eq!((&totals["errors"], &totals["ok"]), (&json!(0), &totals["calls"]), "{report:#}");
    assert!(totals["calls"].as_u64() > Some(60), "{totals:#}");
}

/// Every call of every session is answered.
#[tokio::test]
async fn the_python_sdk_keeps_its_sessions_behind_the_edge() {
    if edge_is_missing() {
        return;
    }
    every_call_was_answered(&python_through_kills(Front::edge("")).await);
}

/// The same over HTTP/2, where a session's calls are on the connection of its stream: the SDK with httpx, which speaks it when asked
/// to, and the TypeScript SDK with undici.
#[tokio::test]
async fn sdks_keep_their_sessions_over_http2() {
    if edge_is_missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let ca_file = ca.file(dir.path());
    for (sdk, env) in [(Sdk::Python, "SSL_CERT_FILE"), (Sdk::TypeScript, "NODE_EXTRA_CA_CERTS")] {
        for transport in [Transport::Sse, Transport::Streamable] {
            let tls = Some(ca.certificate_files(dir.path(), &["localhost", "127.0.0.1"]));
            let front = Front { tls, edge: Some(String::new()), ..Front::default() };
            let cluster = three_behind(front).start().await;
            let url = format!("https://localhost:{}", cluster.nginx.as_ref().unwrap().tls_addr().port());
            every_call_was_answered(
                &through_kills(cluster, sdk, transport, &url, &[(env, &ca_file)], &["--http2"]).await,
            );
        }
    }
}

/// The negative control: with nginx.conf, and with an edge that does not go on with streams, its sessions die.
#[tokio::test]
async fn the_python_sdk_loses_its_sessions_without_the_edge() {
    if edge_is_missing() {
        return;
    }
    for front in [Front::stock(false), Front::edge("reattach = false")] {
        let report = python_through_kills(front).await;
        assert!(report["totals"]["errors"].as_u64() > Some(0), "{report:#}");
    }
}

/// All that the Python SDK does.
#[tokio::test]
async fn the_python_sdk_works_behind_the_edge() {
    if !edge_is_missing() {
        works_behind(Front::edge(""), Sdk::Python, Transport::Sse).await;
    }
}

/// And the TypeScript SDK, over the other transport.
#[tokio::test]
async fn the_typescript_sdk_works_behind_the_edge() {
    if !edge_is_missing() {
        works_behind(Front::edge(""), Sdk::TypeScript, Transport::Streamable).await;
    }
}

/// A reload: streams of clients that come back are broken off soon, so that they come to the new worker; those of clients that do
/// not are served on by the old one, also over the death of an instance.
#[tokio::test]
async fn a_reload_takes_nobodys_session() {
    if edge_is_missing() {
        return;
    }
    let mut cluster = three_behind(Front::edge("handover = 0.2")).env("MCP_HEARTBEAT", "300ms").start().await;
    let addr = front_door(&cluster);
    let python = McpClient::builder([addr]).header("user-agent", "python-httpx/0.28.1").stays_away().initialize().await;
    let other = McpClient::builder([addr]).header("user-agent", "node").initialize().await;
    cluster.nginx.as_mut().unwrap().reload();
    assert_eq!(other.connection_end(0).await, Some(StreamEnd::Abrupt), "it comes back then");
    other.connection_count(2).await;
    assert_eq!(other.text("echo", json!({ "text": "new worker" })).await, "new worker");
    for index in 0..3 {
        let call = python.start_call("wait", json!({ "ms": 200, "text": format!("{index}") })).await;
        cluster.routers[index].kill();
        assert_eq!(python.response(call).await["result"]["content"][0]["text"], format!("{index}"));
        cluster.routers[index].restart().await;
    }
    saw_nothing(&cluster, &python).await;
    Oracle::exactly_once(&other);
}

/// Two edges share nothing and need nothing: the death of one is to its clients what the end of any connection is, and the other one
/// goes on with their sessions.
#[tokio::test]
async fn the_death_of_an_edge_is_a_reconnection_to_the_other_one() {
    if edge_is_missing() {
        return;
    }
    let mut cluster = three_behind(Front::edge("")).start().await;
    let other = Nginx::start(&cluster.dir().join("other"), &cluster.addrs(), Front::edge("")).await;
    let addrs = [front_door(&cluster), other.addr()];
    let client = McpClient::builder(addrs).post_to(PostTo::Only(1)).initialize().await;
    let call = client.start_call("wait", json!({ "ms": 500, "text": "in flight" })).await;
    cluster.nginx = None;
    client.connection_count(2).await;
    assert_eq!(client.response(call).await["result"]["content"][0]["text"], "in flight");
    let index = holder(&cluster).await;
    cluster.routers[index].kill();
    assert_eq!(client.text("echo", json!({ "text": "kept there, too" })).await, "kept there, too");
    assert_eq!(client.connections().len(), 2);
    Oracle::exactly_once(&client);
}

/// EVT-12: clients that show no cursor of their own, and whose stream the edge has gone on with, are recognised when the edge itself breaks
/// it: at whichever instance it was last, their session is one that they may come back to.
#[tokio::test]
async fn a_client_without_a_cursor_comes_back_to_a_session_that_has_moved() {
    if edge_is_missing() {
        return;
    }
    for without_version in [false, true] {
        let mut cluster = three_behind(Front::edge("handover = 0.2")).env("MCP_HEARTBEAT", "300ms").start().await;
        let client = McpClient::builder([front_door(&cluster)]).header("user-agent", "node");
        let client = if without_version { client.without_mark() } else { client.like_typescript() };
        let client = client.initialize().await;
        let session = client.session();
        let index = holder(&cluster).await;
        cluster.routers[index].kill();
        assert_eq!(client.text("echo", json!({ "text": "moved" })).await, "moved");
        cluster.routers[index].restart().await;
        cluster.nginx.as_mut().unwrap().reload();
        client.connection_count(2).await;
        assert_eq!(client.text("echo", json!({ "text": "back" })).await, "back");
        assert_eq!(client.session(), session, "without a version: {without_version}");
        assert_eq!(client.connections().len(), 2);
        Oracle::at_least_once(&client);
    }
}

/// curl's arguments for a server with a certificate of this authority.
fn curl(ca: &Path, protocol: &str, url: &str) -> Command {
    let mut command = Command::new("curl");
    command.args(["-q", "-sS", "-N", "--noproxy", "*", "--max-time", "60", protocol, "--cacert"]).arg(ca).arg(url);
    command
}

/// HTTPS, HTTP/1.1 and HTTP/2, with either configuration: curl sees a stream begin, and behind the edge it goes on over the
/// death of its instance; a stock client works.
async fn tls_and_http2(edge: bool) {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let ca_file = ca.file(dir.path());
    let tls = Some(ca.certificate_files(dir.path(), &["localhost", "127.0.0.1"]));
    let front = Front { tls, edge: edge.then(|| "patience = 1".to_owned()), ip_hash: false, clients: None };
    let mut cluster = three_behind(front).start().await;
    let url = format!("https://localhost:{}", cluster.nginx.as_ref().unwrap().tls_addr().port());
    for (protocol, spoken) in [("--http1.1", "HTTP/1.1 200"), ("--http2", "HTTP/2 200")] {
        let output = dir.path().join(format!("curl{protocol}"));
        let file = || std::fs::read_to_string(&output).unwrap_or_default();
        let mut command = curl(&ca_file, protocol, &format!("{url}{SSE}"));
        let mut child = command.arg("-i").arg("-o").arg(&output).spawn().unwrap();
        eventually("the endpoint", || async { file().contains("\ndata: /mcp/") }).await;
        assert!(file().starts_with(spoken), "{}", file());
        if edge {
            let index = holder(&cluster).await;
            cluster.routers[index].kill();
            eventually("the stream goes on", || async { file().contains("\n\n: hb\n") }).await;
            assert!(child.try_wait().unwrap().is_none(), "curl's stream has not ended");
            assert_eq!(file().matches("event: endpoint").count(), 1);
            cluster.routers[index].restart().await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // Seen also where many streams share a connection: it is closed by the client here.
        eventually("the client's stream is gone", || async { cluster.metric("mcp_router_streams", None).await == 0.0 })
            .await;
    }
    for transport in [Transport::Sse, Transport::Streamable] {
        run_at(Sdk::TypeScript, transport, &url, &[("NODE_EXTRA_CA_CERTS", &ca_file)], &["basics"]).await;
        run_at(Sdk::Python, transport, &url, &[("SSL_CERT_FILE", &ca_file)], &["basics"]).await;
    }
    // A stream that nobody goes on with is broken, not ended: an error to curl over either version.
    let mut streams = Vec::new();
    for protocol in ["--http1.1", "--http2"] {
        let output = dir.path().join(format!("last{protocol}"));
        let mut command = curl(&ca_file, protocol, &format!("{url}{SSE}"));
        streams.push(command.arg("-o").arg(&output).spawn().unwrap());
        eventually("the endpoint", || async {
            std::fs::read_to_string(&output).is_ok_and(|text| text.contains("\ndata: /mcp/"))
        })
        .await;
    }
    for router in &mut cluster.routers {
        router.kill();
    }
    for mut stream in streams {
        let status = tokio::task::spawn_blocking(move || stream.wait()).await.unwrap().unwrap();
        assert!(!status.success(), "{status}");
    }
}

/// See [`tls_and_http2`].
#[tokio::test]
async fn https_and_http2_are_spoken_by_nginx() {
    tls_and_http2(false).await;
}

/// See [`tls_and_http2`].
#[tokio::test]
async fn https_and_http2_are_spoken_by_the_edge() {
    if !edge_is_missing() {
        tls_and_http2(true).await;
    }
}

/// nginx-edge.conf is nginx.conf, and what stands between its marks.
#[test]
fn the_edge_has_all_that_nginx_has() {
    let read = |name: &str| std::fs::read_to_string(Path::new(ROOT).join("nginx").join(name)).unwrap();
    let (mut shared, mut is_ours, mut marks) = (Vec::new(), false, 0);
    let edge = read("nginx-edge.conf");
    for line in edge.lines() {
        match line.trim() {
            "# edge {" => (is_ours, marks) = (true, marks + 1),
            "# } edge" => is_ours = false,
            _ if is_ours => {}
            _ => shared.push(line),
        }
    }
    // The blank line behind the block at the top.
    let squeezed = |lines: &[&str]| lines.join("\n").replace("\n\n\n", "\n\n");
    assert!(marks >= 4 && !is_ours);
    assert_eq!(squeezed(&shared), squeezed(&read("nginx.conf").lines().collect::<Vec<_>>()));
}
