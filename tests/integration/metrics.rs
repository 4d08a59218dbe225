//! What `/actuator/prometheus` tells: every row from the start, the right ones after calls and a death, and no more than there
//! were values at the start.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::json;

use crate::harness::{
    Cluster, Transport, eventually,
    http::{self, Request},
    mcp_client::{request, tool_call},
};

/// Rows as they are named: everything before the value.
fn rows(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

fn value(text: &str, row: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no row {row} in\n{text}")).parse().unwrap()
}

async fn shown(cluster: &Cluster, router: usize) -> String {
    http::get(cluster.addrs()[router], "/actuator/prometheus").await.text()
}

fn families<'a>(text: &'a str, kind: &str) -> BTreeSet<&'a str> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.filter(|(_, its)| *its == kind).map(|(name, _)| name).collect()
}

/// What rises is seen to rise: before the first call each counter is there, and has rows, all of them 0 but for what the
/// start itself has done.
#[tokio::test]
async fn every_counter_is_there_from_the_start_and_no_row_is_added_by_what_clients_name() {
    let cluster = Cluster::builder().start().await;
    let before = shown(&cluster, 0).await;
    let counters = families(&before, "counter");
    assert!(counters.len() >= 20, "{counters:?}");
    for name in &counters {
        assert!(name.ends_with("_total"), "{name}");
        let of_it = |row: &&String| row.as_str() == *name || row.starts_with(&format!("{name}{{"));
        let rows = rows(&before);
        let rows: Vec<&String> = rows.iter().filter(of_it).collect();
        assert!(!rows.is_empty(), "{name} has no row");
        if !name.starts_with("process_") {
            assert!(rows.iter().all(|row| value(&before, row) == 0.0), "{name} is not 0 at the start");
        }
    }
    for named in ["tools/call", "no/such/method", "prompts/get", "\\\"}} 1"] {
        let body = request(1, named, json!({ "name": "x" })).to_string();
        let post = Request::post("/mcp/router/route/mcp-server-v6", body).header("content-type", "application/json");
        post.try_send(cluster.addrs()[0]).await.unwrap();
    }
    for path in ["/mcp/no-such-service", "/sse/another", "/mcp/router/tools/third"] {
        let _ = http::get(cluster.addrs()[0], path).await;
    }
    let after = shown(&cluster, 0).await;
    let came: Vec<String> = rows(&after).difference(&rows(&before)).cloned().collect();
    // The first health check may have worked meanwhile.
    assert!(came.iter().all(|row| row.starts_with("mcp_router_upstream_check_duration_seconds")), "{came:?}");
    assert!(value(&after, r#"mcp_router_calls_total{method="other",outcome="error",service="mcp-server-v6"}"#) >= 1.0);
}

/// A call is counted once, where it is answered, and its parts are apart; a death is seen by whoever takes over.
#[tokio::test]
async fn calls_their_parts_and_a_takeover_are_counted_where_they_happen() {
    for transport in [Transport::Sse, Transport::Streamable] {
        let mut cluster = Cluster::builder()
            .routers(2)
            .short_lease()
            .env("MCP_RETRY_MIN", "10ms")
            .env("MCP_RETRY_MAX", "30ms")
            .start()
            .await;
        let client = cluster.client().over(transport).initialize().await;
        let of = |method: &str, outcome: &str| {
            format!(r#"mcp_router_calls_total{{method="{method}",outcome="{outcome}",service="mcp-server-v6"}}"#)
        };
        for _ in 0..3 {
            client.call("wait", json!({ "ms": 20, "text": "x" })).await;
        }
        client.post(&request(900, "no/such/method", json!({}))).await;
        client.response(900).await;
        let text = shown(&cluster, 0).await;
        assert_eq!(value(&text, &of("tools/call", "ok")), 3.0, "{transport:?}");
        assert_eq!(value(&text, &of("initialize", "ok")), 1.0, "{transport:?}");
        assert_eq!(value(&text, &of("other", "error")), 1.0, "{transport:?}");
        let sum = |what: &str| {
            let row = format!(r#"mcp_router_{what}_duration_seconds_sum{{service="mcp-server-v6"}}"#);
            value(&text, &row)
        };
        let (whole, upstream, store, own) = (sum("call"), sum("upstream"), sum("store"), sum("own"));
        assert!(upstream >= 0.06 && store > 0.0 && own > 0.0, "{transport:?}: {upstream} {store} {own}");
        assert!((whole - upstream - store - own).abs() < 1e-6, "{transport:?}: {whole} {upstream} {store} {own}");
        for row in ["accept", "append", "lease"] {
            let row = format!(r#"mcp_router_redis_duration_seconds_count{{operation="{row}"}}"#);
            assert!(value(&text, &row) >= 1.0, "{transport:?} {row}");
        }
        assert_eq!(value(&text, "mcp_router_redis_up"), 1.0);
        assert_eq!(value(&text, r#"mcp_router_phase{phase="ready"}"#), 1.0);
        assert!(value(&text, "mcp_router_accepted_bytes_total") > 100.0);
        assert!(value(&text, "mcp_router_connections") >= 1.0);
        assert!(value(&text, "mcp_router_lease_age_seconds") < 10.0);
        assert_eq!(value(&text, "mcp_router_recovery_duration_seconds_count"), 0.0);

        cluster.routers[0].kill();
        let answered = {
            client.reconnect(Some(1));
            let call = tool_call("after", "echo", json!({ "text": "after" }));
            client.post_at(cluster.addrs()[1], &call).await;
            client.response_to(&json!("after")).await
        };
        assert_eq!(answered["result"]["content"][0]["text"], "after");
        let text = shown(&cluster, 1).await;
        assert_eq!(value(&text, "mcp_router_recovery_duration_seconds_count"), 1.0, "{transport:?}");
        assert_eq!(value(&text, &of("tools/call", "ok")), 1.0, "{transport:?}");
        assert!(!text.contains(&client.session()[..12]), "SEC-2");
        cluster.assert_no_violations().await;
    }
}

/// A server that dies, and Redis that is away, are seen.
#[tokio::test]
async fn a_dead_server_and_a_dead_redis_are_seen() {
    let mut cluster = Cluster::builder().upstreams(2).env("MCP_UPSTREAM_HEALTH_INTERVAL", "100ms").start().await;
    // By its number: where a server is, only operators are told.
    let up = r#"mcp_router_upstream_up{endpoint="2",service="mcp-server-v6"}"#;
    let open = r#"mcp_router_upstream_breaker{endpoint="2",service="mcp-server-v6",state="closed"}"#;
    let text = shown(&cluster, 0).await;
    assert_eq!((value(&text, up), value(&text, open)), (1.0, 1.0));
    cluster.upstreams[1].kill();
    eventually("the dead server is seen", || async {
        let text = shown(&cluster, 0).await;
        value(&text, up) == 0.0 && value(&text, open) == 0.0
    })
    .await;
    cluster.redis().kill();
    eventually("the dead Redis is seen", || async { value(&shown(&cluster, 0).await, "mcp_router_redis_up") == 0.0 })
        .await;
}

/// By the conventions of those who read it, where their tool is installed (Debian: prometheus).
#[tokio::test]
async fn promtool_has_nothing_to_say_of_the_names() {
    if Command::new("promtool").arg("--version").output().is_err() {
        eprintln!("left out: promtool is not installed");
        return;
    }
    let cluster = Cluster::builder().start().await;
    let text = shown(&cluster, 0).await;
    let check = |text: &str| {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(check(&text), (true, String::new()));
    let (is_fine, said) = check("# TYPE calls counter\ncalls 1\n");
    assert!(!is_fine && said.contains("_total"), "it would have said so: {said}");
}
