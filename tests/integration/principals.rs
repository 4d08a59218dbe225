//! Who asks, and what of others' he gets: nothing. SEC-1, SEC-5

use std::{fs, net::SocketAddr, path::Path, process::Command};

use serde_json::{Value, json};

use crate::harness::{
    Cluster, EventStream, Front, McpClient, StreamEnd, StreamableClient, cluster, edge_is_missing,
    event_stream::Opened, eventually, http, http::Request, mcp_client::Numbered, soon,
};

const MCP: &str = "/mcp/mcp-server-v6";
const SSE: &str = "/sse/mcp-server-v6";
const BOTH: &str = "application/json, text/event-stream";
/// As the shipped nginx.conf clears it, and a proxy that asks for credentials sets it.
const NAME: &str = "x-mcp-principal";
/// What is for its client alone.
const SECRET: &str = "for alice alone";

fn asking(routers: usize) -> cluster::Builder {
    Cluster::builder()
        .routers(routers)
        .env("MCP_AUTH", "proxy")
        .short_lease()
        .env("MCP_POLL_INTERVAL", "200ms")
        .env("MCP_RETRY_MIN", "10ms")
        .env("MCP_RETRY_MAX", "30ms")
}

fn as_who(request: Request, name: Option<&str>) -> Request {
    name.map_or(request.clone(), |name| request.header(NAME, name))
}

fn post(path: &str, message: &Value) -> Request {
    Request::post(path, message.to_string()).header("accept", BOTH)
}

/// A session and what its client knows of it.
pub(super) struct Victim {
    id: String,
    /// Before the event that holds [`SECRET`].
    cursor: String,
}

impl Victim {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Of a client of HTTP+SSE, which has been told [`SECRET`].
    pub(super) async fn of_sse(client: &McpClient) -> Self {
        let cursor = client.cursor_text().unwrap();
        assert!(client.text("wait", json!({ "ms": 0, "text": SECRET })).await.contains(SECRET));
        Self { id: client.session(), cursor }
    }

    /// All that a client of Streamable HTTP can ask for with what it knows of a session.
    pub(super) fn streamable(&self) -> Vec<(&'static str, Request)> {
        let of = |request: Request| request.header("mcp-session-id", &self.id);
        let list = json!({ "jsonrpc": "2.0", "id": fastrand::u32(..), "method": "tools/list" });
        let note = json!({ "jsonrpc": "2.0", "method": "notifications/roots/list_changed" });
        let get = || of(Request::get(MCP)).header("accept", "text/event-stream");
        vec![
            ("POST of a request", of(post(MCP, &list))),
            ("POST of a notification", of(post(MCP, &note))),
            ("POST of an array", of(post(MCP, &json!([note])))),
            ("GET", get()),
            ("GET after a cursor", get().header("last-event-id", &self.cursor)),
        ]
    }

    /// The same of HTTP+SSE.
    pub(super) fn sse(&self) -> Vec<(&'static str, Request)> {
        let (id, cookie) = (&self.id, format!("mcp_session={}", self.id));
        let at = |path: &str, message: &Value| Request::post(format!("{path}?sessionId={id}"), message.to_string());
        let list = json!({ "jsonrpc": "2.0", "id": fastrand::u32(..), "method": "tools/list" });
        let answer = json!({ "jsonrpc": "2.0", "id": "rebind.nobody.1", "result": {} });
        let message = format!("{MCP}/message");
        let doubted = Request::post(format!("{message}?sessionId={id}&attach=2"), list.to_string());
        let get = |path: String| Request::get(path).header("accept", "text/event-stream");
        vec![
            ("POST", at(&message, &list)),
            ("POST to no service", at("/mcp/message", &list)),
            ("POST of an answer to who are you", at(&message, &answer)),
            ("POST of one whom a mark of doubt was given", doubted),
            ("GET that names it", get(format!("{SSE}?sessionId={id}"))),
            ("GET after a cursor", get(SSE.to_owned()).header("last-event-id", &self.cursor)),
            ("GET with its cookie", get(SSE.to_owned()).header("cookie", &cookie)),
        ]
    }
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The session answers.
    Served,
    /// It does not exist: 404, or a session of his own.
    NotThere,
    /// 401
    Unknown,
    /// 403 with the scopes that it takes.
    TooLittle,
}

pub(super) async fn outcome(addr: SocketAddr, request: &Request, victim: &Victim) -> Outcome {
    match soon("an answer", EventStream::exchange(addr, request)).await.unwrap() {
        Opened::Refused(response) => {
            assert!(!response.text().contains(SECRET), "{}", response.text());
            match response.status {
                200 | 202 => Outcome::Served,
                404 => {
                    assert_eq!(response.json()["error"]["data"]["reason"], "unknown_session");
                    Outcome::NotThere
                }
                401 => {
                    assert!(response.header("www-authenticate").unwrap().starts_with("Bearer "));
                    assert_eq!(response.json()["error"]["data"]["reason"], "unauthorized");
                    Outcome::Unknown
                }
                403 => {
                    assert_eq!(response.json()["error"]["data"]["reason"], "insufficient_scope");
                    Outcome::TooLittle
                }
                status => panic!("{status} {}", response.text()),
            }
        }
        Opened::Stream(mut stream) => {
            let id = stream.event().await.id.expect("the first bytes hold a cursor");
            let is_own = Numbered::parse(&id).session == victim.id;
            stream.reset();
            if is_own { Outcome::Served } else { Outcome::NotThere }
        }
    }
}

async fn check(
    addr: SocketAddr,
    victim: &Victim,
    verbs: impl Fn(&Victim) -> Vec<(&'static str, Request)>,
    place: &str,
) {
    for (who, expected) in
        [(Some("mallory"), Outcome::NotThere), (None, Outcome::Unknown), (Some(""), Outcome::Unknown)]
    {
        for (verb, request) in verbs(victim) {
            let found = outcome(addr, &as_who(request, who), victim).await;
            assert_eq!(found, expected, "{verb}, {who:?}, {place}");
        }
    }
    // A cookie leads to no session that somebody shows.
    for (verb, request) in verbs(victim).into_iter().filter(|(verb, _)| !verb.contains("cookie")) {
        assert_eq!(outcome(addr, &as_who(request, Some("alice")), victim).await, Outcome::Served, "{verb}, {place}");
    }
}

/// An answer that holds [`SECRET`], and the cursor before it, in a new session of this client.
pub(super) async fn secret_call(client: &StreamableClient) -> Victim {
    // The version that has arrays of messages, and no header.
    client.initialize("2025-03-26", json!({})).await;
    client.set_version(None);
    let (id, mut shown) = client.start_call("wait", json!({ "ms": 400, "text": SECRET })).await;
    let first = shown.event().await;
    shown.answer(&id.into()).await;
    Victim { id: client.session().unwrap(), cursor: first.id.unwrap() }
}

async fn streamable_victim(addr: SocketAddr) -> (StreamableClient, Victim) {
    let alice = StreamableClient::new([addr], MCP);
    alice.set_header(NAME, "alice");
    let victim = secret_call(&alice).await;
    (alice, victim)
}

async fn sse_victim(addr: SocketAddr) -> (McpClient, Victim) {
    let alice = McpClient::builder([addr]).header(NAME, "alice").stays_away().initialize().await;
    let victim = Victim::of_sse(&alice).await;
    (alice, victim)
}

#[tokio::test]
async fn to_others_a_session_does_not_exist_whatever_they_ask_and_wherever() {
    let mut cluster = asking(2).start().await;
    let (here, there) = (cluster.addr(0), cluster.addr(1));
    let (streamable, first) = streamable_victim(here).await;
    let (sse, second) = sse_victim(here).await;
    for (addr, place) in [(here, "at its owner"), (there, "at another instance")] {
        check(addr, &first, Victim::streamable, place).await;
        check(addr, &second, Victim::sse, place).await;
        for who in [Some("mallory"), None] {
            let delete = as_who(streamable.delete_request().header(NAME, ""), None).without(NAME);
            let status = as_who(delete, who).send(addr).await.status;
            assert_eq!(status, if who.is_some() { 404 } else { 401 }, "DELETE, {who:?}, {place}");
        }
    }
    cluster.routers[0].kill();
    check(there, &first, Victim::streamable, "after a kill").await;
    check(there, &second, Victim::sse, "after a kill").await;
    let deleted = streamable.delete_request().send(there).await;
    assert_eq!(deleted.status, 204, "its own client may");
    drop(sse);
    cluster.assert_no_violations().await;
}

#[tokio::test]
async fn a_cookie_leads_nobody_to_the_session_of_another() {
    let cluster = asking(2).start().await;
    let alice =
        McpClient::builder(cluster.addrs()).header(NAME, "alice").with_cookies().stays_away().initialize().await;
    let session = alice.session();
    alice.disconnect().await;
    let with_cookie =
        Request::get(SSE).header("accept", "text/event-stream").header("cookie", &format!("mcp_session={session}"));
    let victim = Victim { id: session.clone(), cursor: String::new() };
    for addr in cluster.addrs() {
        for (who, expected) in [(Some("mallory"), Outcome::NotThere), (None, Outcome::Unknown)] {
            assert_eq!(outcome(addr, &as_who(with_cookie.clone(), who), &victim).await, expected, "{who:?}");
        }
    }
    alice.reconnect(Some(1));
    alice.connection_count(2).await;
    alice.result("tools/list", json!({})).await;
    assert_eq!(alice.session(), session, "it is its own client's");
}

#[tokio::test]
async fn the_embedded_store_keeps_sessions_apart_too() {
    let cluster = asking(1).without_redis().start().await;
    let (_streamable, first) = streamable_victim(cluster.addr(0)).await;
    let (_sse, second) = sse_victim(cluster.addr(0)).await;
    check(cluster.addr(0), &first, Victim::streamable, "in memory").await;
    check(cluster.addr(0), &second, Victim::sse, "in memory").await;
}

/// The negative control.
#[cfg(feature = "fault-points")]
#[tokio::test]
async fn without_the_binding_others_read_and_use_a_session() {
    let cluster = asking(2).env("MCP_FAULT_UNPROTECTED", "binding").start().await;
    let (_alice, victim) = streamable_victim(cluster.addr(0)).await;
    for (addr, place) in [(cluster.addr(0), "at its owner"), (cluster.addr(1), "at another instance")] {
        for (verb, request) in victim.streamable() {
            let found = outcome(addr, &as_who(request, Some("mallory")), &victim).await;
            assert_eq!(found, Outcome::Served, "{verb}, {place}");
        }
        let request = Request::get(MCP).header("mcp-session-id", &victim.id).header("last-event-id", &victim.cursor);
        let request = as_who(request.header("accept", "text/event-stream"), Some("mallory"));
        let mut stream = EventStream::open(addr, &request).await;
        while !stream.event().await.data.contains(SECRET) {}
    }
}

/// Of what Redis has lost its owner writes again whose it is.
#[tokio::test]
async fn a_session_that_is_written_again_stays_its_principals() {
    let cluster = asking(2).start().await;
    let (alice, victim) = streamable_victim(cluster.addr(0)).await;
    let () = cluster.redis_client().await.run(&["FLUSHALL"]).await;
    alice.result("tools/list", json!({})).await;
    for (verb, request) in victim.streamable().into_iter().take(4) {
        let found = outcome(cluster.addr(1), &as_who(request, Some("mallory")), &victim).await;
        assert_eq!(found, Outcome::NotThere, "{verb}");
    }
}

pub fn key(dir: &Path, file: &Path, name: &str) -> String {
    let made = Command::new(env!("CARGO_BIN_EXE_mcp-router")).current_dir(dir).arg("key").arg(name).arg(file).output();
    let made = made.unwrap();
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

fn initialize() -> Value {
    let params =
        json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
    json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params })
}

fn call(id: u32) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/list" })
}

#[tokio::test]
async fn a_key_is_good_from_when_it_stands_in_the_file_until_it_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    let old = key(dir.path(), &file, "ci");
    assert!(!fs::read_to_string(&file).unwrap().contains(&old), "the file has no key");
    let cluster = Cluster::builder()
        .without_redis()
        .env("MCP_AUTH", "keys")
        .env("MCP_AUTH_KEYS_FILE", file.display())
        .env("MCP_AUTH_RELOAD", "20ms")
        .start()
        .await;
    let addr = cluster.addr(0);
    let route = |name: &str, value: &str| post("/mcp/router/route/mcp-server-v6", &call(1)).header(name, value);
    for (name, value, status) in [
        ("authorization", format!("Bearer {old}"), 200),
        ("authorization", format!("bearer   {old}"), 200),
        ("x-api-key", old.clone(), 200),
        ("authorization", format!("Bearer {old}x"), 401),
        ("authorization", "Bearer ".to_owned(), 401),
        ("authorization", format!("Basic {old}"), 401),
        ("x-api-key", "sha256:".to_owned(), 401),
        ("x-other", old.clone(), 401),
        // Nobody has said that a proxy's word counts.
        (NAME, "ci".to_owned(), 401),
    ] {
        assert_eq!(route(name, &value).send(addr).await.status, status, "{name}");
    }
    let contradiction = route("authorization", &format!("Bearer {old}")).header("x-api-key", "another");
    assert_eq!(contradiction.send(addr).await.status, 401);
    let wrong = route("x-api-key", "mcpr_wrong").send(addr).await;
    let told = wrong.header("www-authenticate").unwrap();
    assert!(told.contains(r#"error="invalid_token""#) && !told.contains("mcpr_wrong"), "{told}");

    // Another key of the same name is the same client.
    let new = key(dir.path(), &file, "ci");
    eventually("the new key", || async { route("x-api-key", &new).send(addr).await.status == 200 }).await;
    let client = StreamableClient::new([addr], MCP);
    client.set_header("authorization", &format!("Bearer {old}"));
    client.initialize("2025-11-25", json!({})).await;
    let mut stream = client.listen().await.stream();
    client.set_header("authorization", &format!("Bearer {new}"));
    client.result("tools/list", json!({})).await;

    // What is no file of keys changes nothing.
    let whole = fs::read_to_string(&file).unwrap();
    fs::write(&file, "ci plain text\n").unwrap();
    eventually("the complaint", || async { cluster.routers[0].log_text().contains("all stays as it was") }).await;
    assert_eq!(route("x-api-key", &old).send(addr).await.status, 200);

    let lines: Vec<&str> = whole.lines().skip(1).collect();
    fs::write(&file, lines.join("\n")).unwrap();
    eventually("the end of the old key", || async { route("x-api-key", &old).send(addr).await.status == 401 }).await;
    assert_eq!(route("x-api-key", &new).send(addr).await.status, 200);
    assert_eq!(stream.end().await, StreamEnd::Abrupt, "what the old key had opened ends with it");
    client.result("tools/list", json!({})).await;

    // The file ends without an end of line, as editors leave it.
    let another = key(dir.path(), &file, "ci");
    eventually("another key", || async { route("x-api-key", &another).send(addr).await.status == 200 }).await;
    let not_made = Command::new(env!("CARGO_BIN_EXE_mcp-router")).args(["key", "--help"]).arg(&file).output().unwrap();
    assert_eq!((not_made.status.code(), fs::read_to_string(&file).unwrap().lines().count()), (Some(64), 2));
    let log = cluster.routers[0].log_text();
    assert!(!log.contains(&old) && !log.contains(&new), "SEC-2");
}

/// Who must lose access now.
#[tokio::test]
async fn at_sighup_the_keys_are_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    let key = key(dir.path(), &file, "ci");
    let auth = [("MCP_AUTH", "keys"), ("MCP_AUTH_RELOAD", "1h"), ("MCP_AUTH_KEYS_FILE", file.to_str().unwrap())];
    let builder =
        auth.into_iter().fold(Cluster::builder().without_redis(), |builder, (name, value)| builder.env(name, value));
    let mut cluster = builder.start().await;
    let addr = cluster.addr(0);
    let request = post("/mcp/router/route/mcp-server-v6", &call(1)).header("x-api-key", &key);
    assert_eq!(request.send(addr).await.status, 200);
    fs::write(&file, "# nobody\n").unwrap();
    assert_eq!(request.send(addr).await.status, 200, "nobody has looked");
    cluster.routers[0].process().signal("HUP");
    eventually("the end of the key", || async { request.send(addr).await.status == 401 }).await;
}

#[tokio::test]
async fn what_anybody_may_ask_and_what_operators_may() {
    let cluster = asking(1).without_redis().env("MCP_ADMIN_TOKEN", "open-sesame").start().await;
    let addr = cluster.addr(0);
    // Behind a proxy, so that nearness alone makes no operator.
    let get = |path: &str| Request::get(path).header("x-forwarded-for", "192.0.2.1");
    for path in ["/actuator/health", "/actuator/health/liveness", "/actuator/info", "/actuator/prometheus"] {
        assert!(get(path).send(addr).await.status < 400, "{path}");
    }
    for (path, by_name) in [
        ("/mcp/router/services", 200),
        ("/mcp/router/services/mcp-server-v6/instances", 200),
        ("/mcp/router/tools/mcp-server-v6", 200),
        ("/mcp/router/sessions", 403),
    ] {
        assert_eq!(get(path).send(addr).await.status, 401, "{path}");
        assert_eq!(get(path).header(NAME, "alice").send(addr).await.status, by_name, "{path}");
        let operator = get(path).header("authorization", "Bearer open-sesame");
        assert_eq!(operator.send(addr).await.status, 200, "{path}");
        assert_eq!(http::get(addr, path).await.status, 200, "{path}: from this machine itself");
    }
    for path in ["/mcp/mcp-server-v6", "/sse/mcp-server-v6", "/mcp/router/route/mcp-server-v6", "/nothing"] {
        // An operator's token is no principal's.
        let request = post(path, &call(1)).header("authorization", "Bearer open-sesame");
        assert_eq!(request.send(addr).await.status, 401, "{path}");
        assert_eq!(
            Request::with_method("OPTIONS", path).send(addr).await.status / 100,
            if path == "/nothing" { 4 } else { 2 }
        );
    }
    // One proxy that names two has been told one of them by its client.
    let named_twice = post("/mcp/router/route/mcp-server-v6", &call(1)).header(NAME, "alice").also(NAME, "bob");
    assert_eq!(named_twice.send(addr).await.status, 401);
}

#[tokio::test]
async fn nobody_but_a_trusted_proxy_names_who_asks() {
    let cluster = asking(1).without_redis().env("MCP_TRUSTED_PROXIES", "10.0.0.0/8").start().await;
    let request = post("/mcp/router/route/mcp-server-v6", &call(1)).header(NAME, "alice");
    assert_eq!(request.send(cluster.addr(0)).await.status, 401);
}

/// The shipped configurations let no client name itself.
#[tokio::test]
async fn nginx_takes_the_name_away_that_a_client_gives_itself() {
    for front in [Some(Front::stock(true)), (!edge_is_missing()).then(|| Front::edge(""))].into_iter().flatten() {
        let cluster = asking(1).without_redis().front(front).start().await;
        let front = cluster.nginx.as_ref().unwrap().addr();
        for request in [
            post("/mcp/router/route/mcp-server-v6", &call(1)),
            post(MCP, &initialize()),
            Request::get(SSE).header("accept", "text/event-stream"),
        ] {
            let request = request.header(NAME, "alice");
            let at = async |addr| match soon("an answer", EventStream::exchange(addr, &request)).await.unwrap() {
                Opened::Refused(response) => response.status,
                Opened::Stream(_) => 200,
            };
            assert_eq!((at(cluster.addr(0)).await, at(front).await), (200, 401));
        }
    }
}

/// Ten thousand of them, as fast as they can be sent: each is refused, others are served meanwhile, and nothing is kept of them.
#[tokio::test]
async fn wrong_keys_lock_nobody_out_and_cost_no_memory() {
    const CONNECTIONS: usize = 20;
    const EACH: usize = 500;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    let key = key(dir.path(), &file, "ci");
    let builder = Cluster::builder().without_redis().env("MCP_AUTH", "keys").env("MCP_AUTH_KEYS_FILE", file.display());
    let mut cluster = builder.start().await;
    let addr = cluster.addr(0);
    let right = post("/mcp/router/route/mcp-server-v6", &call(1)).header("x-api-key", &key);
    let flood = async || {
        let mut floods = Vec::new();
        for number in 0..CONNECTIONS {
            floods.push(tokio::spawn(async move {
                let mut socket = tokio::net::TcpStream::connect(addr).await.unwrap();
                let (mut reader, mut writer) = socket.split();
                let asks = async {
                    for at in 0..EACH {
                        let key = format!("mcpr_{number:04}{at:028}");
                        let head = format!(
                            "POST {MCP} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\ncontent-length: 0\r\n\r\n"
                        );
                        tokio::io::AsyncWriteExt::write_all(&mut writer, head.as_bytes()).await.unwrap();
                    }
                };
                let hears = async {
                    let (mut heard, mut buffer, mut count) = (Vec::new(), vec![0; 64 << 10], 0);
                    while count < EACH {
                        let read = tokio::io::AsyncReadExt::read(&mut reader, &mut buffer).await.unwrap();
                        assert!(read > 0, "the connection has ended after {count}");
                        heard.extend_from_slice(&buffer[..read]);
                        count = String::from_utf8_lossy(&heard).matches("HTTP/1.1 401").count();
                    }
                };
                tokio::join!(asks, hears);
            }));
        }
        // Others are served while it lasts.
        let mut served = 0;
        while floods.iter().any(|flood| !flood.is_finished()) || served == 0 {
            assert_eq!(right.send(addr).await.status, 200);
            served += 1;
        }
        for flood in floods {
            flood.await.unwrap();
        }
    };
    // What is used for connections and answers is there after some; of a key nothing stays.
    let mut count = 0;
    loop {
        let before = cluster.routers[0].process().resident_bytes();
        flood().await;
        count += CONNECTIONS * EACH;
        let grown = cluster.routers[0].process().resident_bytes().saturating_sub(before);
        if grown < 1 << 20 {
            break;
        }
        assert!(count < 10 * CONNECTIONS * EACH, "it grows without an end: {grown} bytes in the last round");
    }
    assert_eq!(cluster.metric("mcp_router_unauthorized_total", Some("unknown_key")).await, count as f64);
    assert_eq!(right.send(addr).await.status, 200, "nobody is locked out");
}
