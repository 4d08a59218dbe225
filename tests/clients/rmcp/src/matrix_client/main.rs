//! What a stock Rust client gets from a server, feature by feature.
//!
//!     matrix-client rmcp0|rmcp3|rmcp3-auto URL SPEC
//!
//! rmcp0: 0.10; rmcp3: 3.x as it is, which begins with a session; rmcp3-auto: the same, which asks for the version of the server first.
//! SPEC and what is told: as of tests/clients/visits/matrix/client.py.

mod rmcp0;
mod rmcp3;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use serde_json::{Map, Value, json};
use tokio::sync::Notify;

const STEP: Duration = Duration::from_secs(20);

/// What the client's user and its handlers see.
#[derive(Default)]
struct Seen {
    progress: AtomicUsize,
    updated: Notify,
}

/// One version of rmcp.
trait Stock {
    async fn names(&self) -> Result<Vec<String>, String>;
    async fn call(&self, tool: &str, arguments: &Value) -> Result<String, String>;
    /// Begins the call and gives it up after a second, as one does with this version.
    async fn give_up(&self, tool: &str, arguments: &Value) -> Result<(), String>;
    /// Asks to hear of the resource.
    async fn watch(&mut self, uri: &str) -> Result<(), String>;
    /// Hears of it.
    async fn updated(&mut self) -> Result<(), String>;
    fn seen(&self) -> &Seen;
    fn version(&self) -> String;
}

/// The user says "Ada" to whatever he is asked.
fn filled(schema: &Value) -> Value {
    let names = schema["properties"].as_object().cloned().unwrap_or_default();
    Value::Object(names.into_iter().map(|(name, _)| (name, json!("Ada"))).collect())
}

/// The text of a result.
fn text_of(result: &impl serde::Serialize) -> String {
    let result = serde_json::to_value(result).unwrap_or_default();
    result["content"][0]["text"].as_str().unwrap_or_default().to_owned()
}

fn expected(text: &str, wanted: &Value) -> Result<(), String> {
    let is_there = text.contains(wanted.as_str().unwrap_or_default());
    if is_there { Ok(()) } else { Err(format!("unexpected: {}", text.chars().take(100).collect::<String>())) }
}

async fn called(client: &impl Stock, how: &Value) -> Result<(), String> {
    expected(&client.call(how["tool"].as_str().unwrap_or_default(), &how["arguments"]).await?, &how["expect"])
}

async fn step(client: &mut impl Stock, feature: &str, how: &Value) -> Result<(), String> {
    match feature {
        "list" => {
            let names = client.names().await?;
            if names.iter().any(|name| how == name) { Ok(()) } else { Err(format!("unexpected: {names:?}")) }
        }
        "progress" => {
            let before = client.seen().progress.load(Ordering::Relaxed);
            called(client, how).await?;
            let heard = client.seen().progress.load(Ordering::Relaxed) - before;
            if heard > 0 { Ok(()) } else { Err("no progress".to_owned()) }
        }
        "cancel" => {
            client.give_up(how["tool"].as_str().unwrap_or_default(), &how["arguments"]).await?;
            for _ in 0..100 {
                let asked = client.call(how["ask"].as_str().unwrap_or_default(), &how["askArguments"]).await?;
                if expected(&asked, &how["expect"]).is_ok() {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err("the server does not know".to_owned())
        }
        "updates" => {
            client.watch(how["uri"].as_str().unwrap_or_default()).await?;
            client.call(how["tool"].as_str().unwrap_or_default(), &how["arguments"]).await?;
            client.updated().await
        }
        _ => called(client, how).await,
    }
}

async fn visit(mut client: impl Stock, spec: &Value) -> Map<String, Value> {
    let mut told = Map::from_iter([("version".to_owned(), client.version().into())]);
    for feature in ["list", "call", "progress", "ask", "cancel", "updates"] {
        let Some(how) = spec.get(feature) else { continue };
        let done =
            tokio::time::timeout(STEP, step(&mut client, feature, how)).await.unwrap_or(Err("no end".to_owned()));
        let first = |why: String| why.lines().next().unwrap_or_default().chars().take(160).collect::<String>();
        told.insert(feature.to_owned(), done.map_or_else(first, |()| "ok".to_owned()).into());
    }
    told
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, kind, url, spec] = &arguments[..] else { panic!("matrix-client rmcp0|rmcp3|rmcp3-auto URL SPEC") };
    let spec: Value = serde_json::from_str(spec).expect("SPEC is JSON");
    let visited = async {
        Ok::<_, String>(match kind.as_str() {
            "rmcp0" => visit(rmcp0::connect(url).await?, &spec).await,
            kind => visit(rmcp3::connect(url, kind == "rmcp3-auto").await?, &spec).await,
        })
    };
    let told = match tokio::time::timeout(Duration::from_secs(140), visited).await {
        Ok(Ok(told)) => Value::Object(told),
        Ok(Err(why)) => json!({ "connect": why }),
        Err(_) => json!({ "connect": "no end" }),
    };
    println!("{told}");
    // Politeness is not what is looked at.
    std::process::exit(0);
}
