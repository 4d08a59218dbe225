//! One visit of a stock client, as visit.mjs and visit.py make it: it connects, lists the tools, calls one that takes its time, and
//! then once more.
//!
//!   visit CLIENT URL TOOL ARGUMENTS QUICK-TOOL QUICK-ARGUMENTS
//!
//! CLIENT: rmcp-sse (0.10, the last one that speaks HTTP+SSE; over both transports) or rmcp (3.x). VISIT_CALLS: so many slow
//! calls, each when a line comes on stdin, after `ready`.

use std::{io::BufRead as _, process::ExitCode, time::Duration};

use serde_json::{Value, json};

/// A client that hangs is a result, too.
const CALL_LIMIT: Duration = Duration::from_secs(60);

fn tell(event: &str, facts: Value) {
    let mut line = json!({ "event": event });
    line.as_object_mut().unwrap().extend(facts.as_object().unwrap().clone());
    println!("{line}");
}

struct Visit {
    client: String,
    url: String,
    slow: (String, Value),
    quick: (String, Value),
    calls: usize,
    limit: Duration,
}

/// The two versions have the same names for different types.
macro_rules! visit {
    ($name:ident, $rmcp:ident, |$url:ident| $transport:expr, $call:expr) => {
        async fn $name(visit: &Visit) -> Result<(), String> {
            use $rmcp::ServiceExt as _;
            let connect = async {
                let $url = visit.url.clone();
                ().serve($transport).await.map_err(|error| format!("connect: {error}"))
            };
            let client = tokio::time::timeout(visit.limit, connect).await.map_err(|_| "connect: no answer".to_owned())??;
            let list = || async { client.list_tools(Default::default()).await.map_err(|error| error.to_string()) };
            tell("connected", json!({ "tools": list().await?.tools.len() }));
            let call = |event: &'static str, (tool, arguments): (String, Value)| {
                let client = &client;
                async move {
                    let called = async { client.call_tool($call(tool, arguments)).await.map_err(|error| error.to_string()) };
                    let result = match tokio::time::timeout(visit.limit, called).await {
                        Ok(Ok(result)) => serde_json::to_value(result).map_err(|error| error.to_string()),
                        Ok(Err(error)) => Err(error),
                        Err(_) => Err("no answer".to_owned()),
                    };
                    match result {
                        Ok(result) => {
                            let text = result["content"][0]["text"].as_str().unwrap_or_default();
                            let is_error = if result["isError"] == true { "isError: " } else { "" };
                            tell(event, json!({ "text": format!("{is_error}{text}") }));
                        }
                        Err(error) => tell("failed", json!({ "text": error })),
                    }
                }
            };
            for _ in 0..visit.calls {
                if visit.calls > 1 {
                    tell("ready", json!({}));
                    let read = || std::io::stdin().lock().lines().next();
                    tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?;
                }
                tell("calling", json!({}));
                call("answered", visit.slow.clone()).await;
            }
            tokio::time::timeout(visit.limit, list()).await.map_err(|_| "no list of tools".to_owned())??;
            call("after", visit.quick.clone()).await;
            // Politeness is not what is looked at.
            let _ = tokio::time::timeout(Duration::from_secs(5), client.cancel()).await;
            Ok(())
        }
    };
}

fn call_of_0_10(tool: String, arguments: Value) -> rmcp_sse::model::CallToolRequestParam {
    rmcp_sse::model::CallToolRequestParam { name: tool.into(), arguments: arguments.as_object().cloned() }
}
fn call_of_3(tool: String, arguments: Value) -> rmcp::model::CallToolRequestParams {
    rmcp::model::CallToolRequestParams::new(tool).with_arguments(arguments.as_object().cloned().unwrap_or_default())
}

visit!(
    over_sse_0_10,
    rmcp_sse,
    |url| rmcp_sse::transport::SseClientTransport::start(url).await.map_err(|error| format!("connect: {error}"))?,
    call_of_0_10
);
visit!(over_streamable_0_10, rmcp_sse, |url| rmcp_sse::transport::StreamableHttpClientTransport::from_uri(url), call_of_0_10);
visit!(over_streamable_3, rmcp, |url| rmcp::transport::StreamableHttpClientTransport::from_uri(url), call_of_3);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [client, url, tool, given, quick_tool, quick_given] = &arguments[..] else {
        eprintln!("visit CLIENT URL TOOL ARGUMENTS QUICK-TOOL QUICK-ARGUMENTS");
        return ExitCode::from(64);
    };
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let visit = Visit {
        client: client.clone(),
        url: url.clone(),
        slow: (tool.clone(), serde_json::from_str(given).unwrap()),
        quick: (quick_tool.clone(), serde_json::from_str(quick_given).unwrap()),
        calls: number("VISIT_CALLS").unwrap_or(1),
        limit: number("VISIT_CALL_LIMIT_S").map_or(CALL_LIMIT, |seconds| Duration::from_secs(seconds as u64)),
    };
    let is_sse = visit.url.split('/').any(|part| part == "sse");
    let ended = match (visit.client.as_str(), is_sse) {
        ("rmcp-sse", true) => over_sse_0_10(&visit).await,
        ("rmcp-sse", false) => over_streamable_0_10(&visit).await,
        _ => over_streamable_3(&visit).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell("failed", json!({ "text": error }));
            ExitCode::FAILURE
        }
    }
}
