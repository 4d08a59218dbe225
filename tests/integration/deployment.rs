//! The deployment as it is documented: nginx's own part, and the lines that people are told to copy.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::harness::{
    Cluster, EventStream, McpClient, Oracle, StreamableClient,
    http::{self, Request},
    mcp_client::tool_call,
};

const SSE: &str = "/sse/mcp-server-v6";
const STREAMABLE: &str = "/mcp/mcp-server-v6";
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The curl lines of a document's code blocks.
fn curl_lines(document: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(ROOT).join(document)).unwrap();
    text.replace("\\\n", " ").lines().filter(|line| line.starts_with("curl ")).map(str::to_owned).collect()
}

/// What a page names, whatever its language: settings, metrics, commands and their words in code.
fn names_in(document: &str) -> std::collections::BTreeSet<String> {
    let text = std::fs::read_to_string(Path::new(ROOT).join(document)).unwrap();
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_|".contains(c);
    let words = text.split(|c: char| !is_part(c)).map(|word| word.trim_matches('|'));
    let is_name = |word: &&str| {
        let is_setting = word.contains('_') && word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        is_setting || word.starts_with("mcp_router_")
    };
    words.filter(is_name).map(str::to_owned).collect()
}

/// What operators read says the same in both languages, as far as that can be compared.
#[test]
fn the_operations_pages_name_the_same_things() {
    for (page, least) in [("operations", 30), ("production", 10), ("redis-client", 10), ("session-management", 10)] {
        let (english, chinese) = (format!("docs/{page}.md"), format!("docs/{page}.zh-CN.md"));
        let lacks = |one: &str, other: &str| names_in(other).difference(&names_in(one)).cloned().collect::<Vec<_>>();
        assert!(names_in(&english).len() >= least, "{page}: {:?}", names_in(&english));
        assert_eq!(lacks(&chinese, &english), [""; 0], "what {chinese} lacks");
        assert_eq!(lacks(&english, &chinese), [""; 0], "what {english} lacks");
        let headings = |document: &str| {
            let text = std::fs::read_to_string(Path::new(ROOT).join(document)).unwrap();
            let of_a_kind = |mark: &str| text.lines().filter(|line| line.starts_with(mark)).count();
            ["## ", "| ", "- ", "**", "```"].map(of_a_kind)
        };
        assert_eq!(headings(&english), headings(&chinese), "{page}: headings, rows, items, paragraphs, blocks");
    }
}

/// Whoever copies from the one page or the other gets the same deployment, and it is the one that
/// `scripts/production-walk.sh` proves.
#[test]
fn the_blocks_of_the_production_pages_are_the_same() {
    let read = |document: &str| std::fs::read_to_string(Path::new(ROOT).join(document)).unwrap();
    let (english, chinese) = (read("docs/production.md"), read("docs/production.zh-CN.md"));
    let blocks = |text: &str| text.split("```").skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    assert!(blocks(&english).len() >= 10);
    assert_eq!(blocks(&english), blocks(&chinese));
    for marked in ["ca", "redis", "sentinel", "router"] {
        assert!(english.contains(&format!("<!-- walk: {marked} -->\n```")), "{marked}");
    }
    // A user of these rights is the one that the operations page makes.
    let rights = |text: &str| {
        let words =
            text.split_whitespace().filter(|word| word.starts_with('+') && word[1..].starts_with(char::is_lowercase));
        words.map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    let operations = read("docs/operations.md");
    let user = operations.split("ACL SETUSER").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let line = english.lines().find(|line| line.starts_with("user mcp-router")).unwrap();
    let mut theirs = rights(user);
    theirs.insert("+role".to_owned());
    assert_eq!(rights(line), theirs);
}

/// Runs a curl line as it is written, except that the names and ports of the documentation lead to the test's cluster.
/// Returns what it prints: all of it, or for a stream (`-N`) up to the endpoint.
fn run_curl(line: &str, routers: &[SocketAddr], nginx: SocketAddr) -> String {
    let mut line = line.replacen(
        "curl ",
        &format!("curl -sS --noproxy '*' --resolve mcp-bridge.local:{}:127.0.0.1 ", nginx.port()),
        1,
    );
    line = line.replace("http://mcp-bridge.local/", &format!("http://mcp-bridge.local:{}/", nginx.port()));
    for (number, router) in routers.iter().enumerate() {
        line = line.replace(&format!(":{}/", 8051 + number), &format!(":{}/", router.port()));
    }
    let mut child = Command::new("sh").args(["-c", &format!("exec {line}")]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = String::new();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let is_stream = line.contains(" -N ");
    while reader.read_line(&mut output).unwrap() > 0 {
        if is_stream && output.contains("\ndata: ") {
            child.kill().unwrap();
            break;
        }
    }
    let status = child.wait().unwrap();
    assert!(is_stream || status.success(), "{line}: {status}: {output}");
    output
}

/// The guide's curl lines, and those of both READMEs, work as written against the shipped nginx.conf.
#[tokio::test]
async fn the_documented_curl_lines_work() {
    let cluster = Cluster::builder().routers(3).upstreams(2).nginx(true).start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let mut lines: Vec<String> = [
        "curl http://localhost:8051/actuator/health",
        "curl http://localhost:8052/actuator/health",
        "curl http://localhost:8053/actuator/health",
        "curl -N http://mcp-bridge.local/sse/mcp-server-v6",
        r#"curl -X POST http://mcp-bridge.local/mcp/router/route/mcp-server-v6 -H "Content-Type: application/json" -d '{"jsonrpc":"2.0","method":"tools/list","id":1}'"#,
    ]
    .map(str::to_owned)
    .into();
    for document in ["README.md", "README.zh-CN.md"] {
        let documented = curl_lines(document);
        assert!(documented.len() >= 3, "{document}: {documented:?}");
        lines.extend(documented);
    }
    for line in lines {
        let addrs = cluster.addrs();
        let asked = line.clone();
        let output = tokio::task::spawn_blocking(move || run_curl(&asked, &addrs, nginx)).await.unwrap();
        if line.contains(" -N ") {
            assert!(
                output.contains("event: endpoint\ndata: /mcp/mcp-server-v6/message?sessionId="),
                "{line}: {output}"
            );
            continue;
        }
        let answer: Value = serde_json::from_str(&output).unwrap_or_else(|_| panic!("{line}: {output}"));
        let is_sound =
            answer["result"].is_object() || answer["status"] == "UP" || answer["services"].as_array().is_some();
        if !line.contains("/actuator/") && !line.contains("tools/list") {
            assert!(output.len() < 400, "a line to copy prints little: {line}: {output}");
        }
        assert!(is_sound && answer.get("error").is_none(), "{line}: {answer}");
    }
}

/// `scripts/verify-session.sh` finds nothing wrong with a sound deployment, and says what is wrong with another.
#[tokio::test]
async fn the_verification_script_tells_a_sound_deployment_from_another() {
    let mut cluster = Cluster::builder().routers(3).upstreams(2).nginx(false).start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let ports: Vec<String> = cluster.addrs().iter().map(|addr| addr.port().to_string()).collect();
    let redis_url = cluster.env()["REDIS_URL"].clone();
    let verify = || {
        let mut command = Command::new(Path::new(ROOT).join("scripts/verify-session.sh"));
        command.arg(format!("http://{nginx}")).env("ROUTER_PORTS", ports.join(" ")).env("REDIS_URL", &redis_url);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let sound = verify().await.unwrap();
    let text = String::from_utf8_lossy(&sound.stdout);
    assert!(sound.status.success(), "{text} {}", String::from_utf8_lossy(&sound.stderr));
    cluster.routers[1].kill();
    let broken = verify().await.unwrap();
    assert_eq!(broken.status.code(), Some(1), "{}", String::from_utf8_lossy(&broken.stdout));
}

/// A session works below nginx's prefix: the endpoint has it, too.
#[tokio::test]
async fn a_session_works_below_the_prefix_of_nginx() {
    let cluster = Cluster::builder().routers(2).nginx(false).start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let client = McpClient::builder([nginx]).path("/mcp-bridge/sse/mcp-server-v6").initialize().await;
    assert!(client.endpoint().starts_with("/mcp-bridge/mcp/mcp-server-v6/message?"), "{}", client.endpoint());
    assert_eq!(client.text("echo", json!({ "text": "x" })).await, "x");
    let rest = tool_call(1, "echo", json!({ "text": "y" })).to_string();
    let rest = http::post(nginx, "/mcp-bridge/mcp/router/route/mcp-server-v6", rest).await.json();
    assert_eq!(rest["result"]["content"][0]["text"], "y");
}

/// The same over Streamable HTTP: its one URL has the prefix.
#[tokio::test]
async fn streamable_http_works_below_the_prefix_of_nginx() {
    let cluster = Cluster::builder().routers(2).nginx(false).start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let client = StreamableClient::initialized([nginx], "/mcp-bridge/mcp/mcp-server-v6").await;
    let result = client.call("echo", json!({ "text": "x" })).await;
    assert_eq!(result["content"][0]["text"], "x");
    assert!(client.delete().await.status < 300);
}

/// A dead instance among three costs no POST: nginx asks the next one.
#[tokio::test]
async fn a_dead_instance_costs_no_message() {
    let mut cluster = Cluster::builder().routers(3).nginx(false).start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let client = McpClient::builder([nginx]).initialize().await;
    let owner = http::get(cluster.addr(0), &format!("/mcp/router/sessions/{}", client.session())).await.json();
    let victim = (0..3).find(|number| owner["owner"] != format!("router-instance-{}", number + 1)).unwrap();
    cluster.routers[victim].kill();
    for number in 0..30 {
        client.call("increment", json!({ "key": format!("{number}") })).await;
    }
    let keys: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    Oracle::counted_once(&cluster.counts(), keys.iter().map(String::as_str));
    Oracle::every_request_answered_once(&client);
}

/// The same over Streamable HTTP; the dead one may have been the owner, since each POST carries its answer.
#[tokio::test]
async fn a_dead_instance_costs_no_streamable_call() {
    let mut cluster = Cluster::builder().routers(3).nginx(false).start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let client = StreamableClient::initialized([nginx], STREAMABLE).await;
    cluster.routers[0].kill();
    for number in 0..30 {
        client.call("increment", json!({ "key": format!("{number}") })).await;
    }
    let keys: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    Oracle::counted_once(&cluster.counts(), keys.iter().map(String::as_str));
    cluster.assert_no_violations().await;
}

/// REQ-6 with the real nginx: a POST that a hung instance has taken is tried on another after nginx's time limit, and
/// runs once, also when the hung one goes on.
#[tokio::test]
async fn a_message_to_a_hung_instance_is_tried_elsewhere_and_runs_once() {
    let mut cluster = Cluster::builder().routers(2).nginx(false).env("MCP_LEASE", "60s").start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let client = McpClient::builder([nginx]).initialize().await;
    let owner = http::get(cluster.addr(0), &format!("/mcp/router/sessions/{}", client.session())).await.json();
    let other = usize::from(owner["owner"] == "router-instance-1");
    cluster.routers[other].freeze();
    // In turn: one of the two meets the hung instance first.
    let posts = (0..2).map(|number| {
        let key = format!("{number}");
        let client = &client;
        async move { client.post(&tool_call(key.as_str(), "increment", json!({ "key": key }))).await }
    });
    futures_util::future::join_all(posts).await;
    cluster.routers[other].thaw();
    for id in ["0", "1"] {
        client.response_to(&json!(id)).await;
    }
    assert_eq!(client.text("echo", json!({ "text": "behind" })).await, "behind");
    Oracle::counted_once(&cluster.counts(), ["0", "1"]);
    Oracle::every_request_answered_once(&client);
}

/// All instances away: a stream's GET is closed without an answer, since any status would stop stock clients for good; a
/// POST gets a JSON-RPC error that says whether to try again.
#[tokio::test]
async fn without_instances_streams_are_closed_and_messages_are_told() {
    let mut cluster = Cluster::builder().routers(2).nginx(false).start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let client = McpClient::builder([nginx]).initialize().await;
    for router in &mut cluster.routers {
        router.kill();
    }
    assert!(EventStream::request(nginx, &Request::get(SSE)).await.is_err(), "closed without an answer");
    let streamable = Request::get(STREAMABLE).header("accept", "text/event-stream");
    assert!(streamable.try_send(nginx).await.is_err(), "closed without an answer");
    for path in [&client.endpoint(), STREAMABLE] {
        let post = http::post(nginx, path, tool_call(1, "echo", json!({})).to_string()).await;
        assert_eq!((post.status, post.header("retry-after")), (502, Some("1")), "{path}: {}", post.text());
        assert_eq!(post.json()["error"]["data"]["retry"], true, "{path}");
    }
    for router in &mut cluster.routers {
        router.relaunch();
    }
    for router in &mut cluster.routers {
        router.ready().await;
    }
    assert_eq!(client.text("echo", json!({ "text": "back" })).await, "back");
    Oracle::exactly_once(&client);
}
