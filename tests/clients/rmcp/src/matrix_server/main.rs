//! The server of the matrix on rmcp, with what tests/clients/visits/matrix/server.py has: `matrix-server rmcp0|rmcp3 PORT`,
//! Streamable HTTP at /mcp.

mod rmcp0;
mod rmcp3;

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};

/// The resource that changes.
const NOTE: &str = "note://matrix";

/// How often slow calls were cancelled, by key.
type Counts = Arc<Mutex<HashMap<String, u64>>>;

/// Tells how far a call has come: so much of so much.
type Tell = Box<dyn Fn(u64, u64) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The tools, as they are listed.
fn tools() -> Vec<Value> {
    let tool = |name: &str, description: &str, properties: Value| json!({ "name": name, "description": description, "inputSchema": { "type": "object", "properties": properties } });
    let (text, number) = (json!({ "type": "string" }), json!({ "type": "integer" }));
    vec![
        tool("echo", "Says what it was told.", json!({ "text": text })),
        tool("count", "Counts, and says how far it has come.", json!({ "to": number })),
        tool("slow", "Waits, unless it is cancelled.", json!({ "key": text, "ms": number })),
        tool("cancelled", "How often slow calls of this key were cancelled.", json!({ "key": text })),
        tool("ask", "Asks the user for a name.", json!({})),
        tool("change", "The note has changed.", json!({})),
    ]
}

fn capabilities() -> Value {
    json!({ "tools": {}, "resources": { "subscribe": true } })
}

/// What the user is asked.
fn form() -> Value {
    let schema = json!({ "type": "object", "properties": { "name": { "type": "string" } }, "required": ["name"] });
    json!({ "mode": "form", "message": "Your name?", "requestedSchema": schema })
}

/// What is said to who has answered that.
fn hello(answer: &Value) -> String {
    format!("Hello, {}", answer["content"]["name"].as_str().unwrap_or("nobody"))
}

/// The parameters of a progress notification.
fn progress(token: &impl serde::Serialize, done: u64, total: u64) -> Value {
    json!({ "progressToken": token, "progress": done, "total": total })
}

/// JSON as the type that is wanted there.
fn made<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("what the protocol has")
}

fn said(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }] })
}

/// Does what the tools do that are the same over both versions. `None`: it is none of them.
async fn run(
    (name, given): (&str, &Value),
    counts: &Counts,
    tell: Tell,
    cancelled: impl Future<Output = ()>,
) -> Option<String> {
    let text = |name: &str| given[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| given[name].as_u64().unwrap_or_default();
    let counts = || counts.lock().unwrap_or_else(PoisonError::into_inner);
    Some(match name {
        "echo" => format!("Echo: {}", text("text")),
        "count" => {
            for done in 1..=number("to") {
                tell(done, number("to")).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            format!("counted to {}", number("to"))
        }
        "slow" => tokio::select! {
            () = cancelled => {
                *counts().entry(text("key")).or_default() += 1;
                "cancelled".to_owned()
            }
            () = tokio::time::sleep(Duration::from_millis(number("ms"))) => "waited".to_owned(),
        },
        "cancelled" => format!("{} cancelled", counts().get(&text("key")).copied().unwrap_or_default()),
        _ => return None,
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, kind, port] = &arguments[..] else { panic!("matrix-server rmcp0|rmcp3 PORT") };
    let port: u16 = port.parse().expect("a port");
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let router = if kind == "rmcp0" { rmcp0::router() } else { rmcp3::router() };
    axum::serve(listener, router).await
}
