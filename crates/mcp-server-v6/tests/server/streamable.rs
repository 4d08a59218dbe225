//! What the tests of Streamable HTTP begin with.

use std::{net::SocketAddr, time::Duration};

use mcp_server_v6::{ServerOptions, bind};
use serde_json::{Value, json};
use testkit::{StreamableClient, mcp_client::tool_call};

/// Where the server has the transport.
pub const PATH: &str = "/mcp";

/// A server with its drill tools, and clients that come back soon.
pub fn options() -> ServerOptions {
    ServerOptions { port: 0, drill_tools: true, retry: Duration::from_millis(20), ..ServerOptions::default() }
}

/// Starts a server inside this process, as the router does.
pub fn start(options: ServerOptions) -> SocketAddr {
    let server = bind(options).unwrap();
    let addr = server.addr();
    actix_web::rt::spawn(server.into_server());
    addr
}

/// Starts a server and gives its only client.
pub async fn client_of(options: ServerOptions) -> StreamableClient {
    StreamableClient::initialized([start(options)], PATH).await
}

/// Arguments of `addPerson`.
pub fn nobody() -> Value {
    json!({ "firstName": "Nemo", "lastName": "Nobody", "age": 42, "nationality": "None", "gender": "none" })
}

/// A call of `wait` that tells its progress in three steps and answers "done".
pub fn wait_call(id: u64, ms: u64, more: &[(&str, Value)]) -> Value {
    let mut call = tool_call(id, "wait", json!({ "ms": ms, "text": "done" }));
    for (name, value) in more {
        call["params"]["arguments"][name] = value.clone();
    }
    call["params"]["_meta"] = json!({ "progressToken": id });
    call
}

/// The step that a progress notification tells.
pub fn progress_of(message: &Value) -> Option<u64> {
    (message["method"] == "notifications/progress").then(|| message["params"]["progress"].as_u64().unwrap())
}
