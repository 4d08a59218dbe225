#!/usr/bin/env bash
# rmcp 3.11.0 (crates.io), its Streamable HTTP server with the default configuration.
#
# The server begins the stream of a call with an event id and `retry: 3000`, and its documentation says that what a completed call had
# to say is kept for 60 s for clients that come back (`completed_cache_ttl`). A client that loses the stream and comes back with
# Last-Event-ID while the call runs gets the answer. One that comes back when the call has ended, as a client does that waits for the
# 3 s it was told, gets 200 and an event stream that is empty and over: the call has run, and its answer is gone.
# Seen: back at once: the priming event and the answer; back after the call: 200, 0 events; the tool has run both times.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "server"
version = "0.1.0"
edition = "2024"
[dependencies]
rmcp = { version = "=3.11.0", features = ["server", "transport-streamable-http-server"] }
axum = { version = "0.8", default-features = false, features = ["http1", "tokio"] }
serde_json = "1"
tokio = { version = "1", features = ["macros", "net", "rt", "time"] }
[profile.dev]
debug = false
TOML
cat >"$folder/src/main.rs" <<'RUST'
use std::{sync::{Arc, atomic::{AtomicU32, Ordering}}, time::Duration};
use rmcp::{ErrorData, RoleServer, ServerHandler, model::*, service::RequestContext};
use rmcp::transport::streamable_http_server::{StreamableHttpService, session::local::LocalSessionManager};
#[derive(Clone, Default)]
struct Slow(Arc<AtomicU32>);
impl ServerHandler for Slow {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }
    /// Takes 1.5 s, and says how often it has run.
    async fn call_tool(&self, _: CallToolRequestParams, _: RequestContext<RoleServer>) -> Result<CallToolResponse, ErrorData> {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let runs = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(CallToolResult::success(vec![ContentBlock::text(format!("run {runs}"))]).into())
    }
}
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let slow = Slow::default();
    let service = StreamableHttpService::new(move || Ok(slow.clone()), Arc::<LocalSessionManager>::default(), Default::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    axum::serve(listener, axum::Router::new().nest_service("/mcp", service)).await.unwrap();
}
RUST
cargo build --quiet --manifest-path "$folder/Cargo.toml" --target-dir "$folder/target" >/dev/null 2>&1 ||
    { echo "the crates cannot be built"; exit 2; }
python3 - "$folder/target/debug/server" <<'PYTHON'
import http.client, json, subprocess, sys, time
server = subprocess.Popen([sys.argv[1]], stdout=subprocess.PIPE, text=True)
port = int(server.stdout.readline())
HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json",
           "MCP-Protocol-Version": "2025-11-25"}
def ask(method, body=None, **more):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = HEADERS | {name.replace("_", "-"): value for name, value in more.items()}
    connection.request(method, "/mcp", json.dumps(body) if body else None, headers)
    return connection, connection.getresponse()
def events(response):
    """Ids and data of the events up to the stream's end."""
    blocks = response.read().decode().split("\n\n")
    return [dict(line.split(": ", 1) for line in block.split("\n") if ": " in line) for block in blocks if block]
def answers_of(seen):
    return [json.loads(event["data"])["result"]["content"][0]["text"] for event in seen if event.get("data", "").strip()]
try:
    _, begun = ask("POST", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "client", "version": "1"}}})
    session = begun.getheader("Mcp-Session-Id")
    begun.read()
    ask("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"}, Mcp_Session_Id=session)[1].read()
    def cut_and_resume(number, away):
        call = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": "slow", "arguments": {}}}
        connection, stream = ask("POST", call, Mcp_Session_Id=session)
        cursor, retry = None, None
        while not (cursor and retry):
            line = stream.fp.readline().decode().strip()
            cursor = line[4:] if line.startswith("id: ") else cursor
            retry = line[7:] if line.startswith("retry: ") else retry
        stream.close()
        connection.close()
        time.sleep(away)
        _, resumed = ask("GET", None, Mcp_Session_Id=session, Last_Event_ID=cursor)
        seen = events(resumed)
        print(f"cut after event {cursor} (retry: {retry}), back after {away} s: status {resumed.status}, "
              f"{len(seen)} events, answers {answers_of(seen)}")
        return resumed.status, answers_of(seen), len(seen)
    soon = cut_and_resume(1, 0.2)
    late = cut_and_resume(2, 3.0)
    _, last = ask("POST", {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "slow", "arguments": {}}},
                  Mcp_Session_Id=session)
    then = answers_of(events(last))
    print(f"another call: {then}")
finally:
    server.kill()
as_stated = soon[:2] == (200, ["run 1"]) and late == (200, [], 0) and then == ["run 3"]
print("as stated" if as_stated else "this has changed")
sys.exit(0 if as_stated else 1)
PYTHON
