//! What `deploy/` gives to a Prometheus and a Grafana: rules that fire when they should, and panels that show something. By a
//! real Prometheus (Debian: prometheus) that asks real instances.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use url::form_urlencoded;

use crate::harness::{
    Cluster, Process, SpanReceiver, Transport, eventually,
    http::{self, Request},
    mcp_client::{request, tool_call},
    ports::Port,
};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn is_missing() -> bool {
    let is_missing = std::env::var_os("MCP_TEST_PROMETHEUS").is_some_and(|value| value == "skip");
    if is_missing {
        eprintln!("LEFT OUT: Prometheus could not be installed (scripts/setup.sh --monitoring)");
    }
    is_missing
}

/// Whether `promtool` is content, and what it says.
fn promtool(folder: &Path, args: &[&str]) -> (bool, String) {
    let output = Command::new("promtool").args(args).current_dir(folder).output().expect("promtool can be run");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Each alert has a course of things in which it fires and one in which it does not; a rule that is wrong is found out.
#[test]
fn the_alerts_fire_when_they_should() {
    if is_missing() {
        return;
    }
    let folder = deploy().join("prometheus");
    for args in [
        ["check", "config", "prometheus.yml"].as_slice(),
        &["check", "rules", "mcp-router.rules.yml"],
        &["test", "rules", "mcp-router.rules.test.yml"],
    ] {
        let (is_fine, said) = promtool(&folder, args);
        assert!(is_fine, "{args:?}: {said}");
    }
    let rules = fs::read_to_string(folder.join("mcp-router.rules.yml")).unwrap();
    let tests = fs::read_to_string(folder.join("mcp-router.rules.test.yml")).unwrap();
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let named = tests.lines().filter(|line| line.trim() == format!("- alertname: {alert}"));
        assert_eq!(named.count(), 2, "{alert} is tested for firing and for not firing");
    }
    let wrong = tempfile::tempdir().unwrap();
    fs::write(wrong.path().join("mcp-router.rules.test.yml"), tests).unwrap();
    fs::write(wrong.path().join("mcp-router.rules.yml"), rules.replacen("redis_up == 0", "redis_up == 2", 1)).unwrap();
    let (is_fine, said) = promtool(wrong.path(), &["test", "rules", "mcp-router.rules.test.yml"]);
    assert!(!is_fine && said.contains("McpRouterRedisDown"), "{said}");
}

fn dashboard() -> Value {
    let text = fs::read_to_string(deploy().join("grafana/dashboards/mcp-router.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().unwrap().iter().collect()
}

/// Grafana draws one over the other what stands in one place, and mixes up what has one number.
#[test]
fn the_panels_of_the_dashboard_have_each_a_place_of_its_own() {
    let dashboard = dashboard();
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeMap::new());
    for panel in panels(&dashboard) {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let at = |what: &str| panel["gridPos"][what].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{panel}");
        for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            let before = taken.insert((x, y), panel["title"].to_string());
            assert_eq!(before, None, "{}", panel["title"]);
        }
    }
    let known: Vec<&str> =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(known, ["datasource", "instance", "service"]);
}

/// A Prometheus with the shipped configuration, except that it asks these instances, and often.
struct Prometheus {
    process: Process,
    port: Port,
    _dir: TempDir,
}

impl Prometheus {
    async fn start(routers: &[SocketAddr]) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), Port::reserve());
        let shipped = fs::read_to_string(deploy().join("prometheus/prometheus.yml")).unwrap();
        let theirs = r#"targets: ["127.0.0.1:8051", "127.0.0.1:8052", "127.0.0.1:8053"]"#;
        assert!(shipped.contains(theirs) && shipped.contains("_interval: 15s"));
        let ours: Vec<String> = routers.iter().map(ToString::to_string).collect();
        let config =
            shipped.replace(theirs, &format!("targets: {ours:?}")).replace("_interval: 15s", "_interval: 500ms");
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        fs::copy(deploy().join("prometheus/mcp-router.rules.yml"), dir.path().join("mcp-router.rules.yml")).unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={}", port.addr()))
            .arg("--enable-feature=exemplar-storage");
        let process = Process::spawn("prometheus", &mut command, &dir.path().join("prometheus.log"));
        let prometheus = Self { process, port, _dir: dir };
        eventually("Prometheus is ready", || async {
            assert!(prometheus.process.is_running(), "{}", prometheus.process.log_text());
            let asked = Request::get("/-/ready").try_send(prometheus.port.addr()).await;
            asked.is_ok_and(|response| response.status == 200)
        })
        .await;
        prometheus
    }

    /// The values that a query has now.
    async fn ask(&self, query: &str) -> Vec<f64> {
        let body: String = form_urlencoded::Serializer::new(String::new()).append_pair("query", query).finish();
        let request = Request::post("/api/v1/query", body).header("content-type", "application/x-www-form-urlencoded");
        let answer = request.try_send(self.port.addr()).await.expect("Prometheus answers").json();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let series = answer["data"]["result"].as_array().unwrap().iter();
        series.map(|series| series["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }

    async fn rules(&self) -> Vec<Value> {
        let answer = http::get(self.port.addr(), "/api/v1/rules").await.json();
        let groups = answer["data"]["groups"].as_array().unwrap().iter();
        groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
    }
}

/// After some calls and a death each query of the dashboard has an answer, a number and not only the word that there is none;
/// the rules are loaded and can be evaluated, and the death is on its way to being told.
#[tokio::test]
async fn every_panel_shows_something_after_calls_and_a_death() {
    if is_missing() {
        return;
    }
    let mut cluster = Cluster::builder()
        .routers(2)
        .short_lease()
        .env("MCP_RETRY_MIN", "10ms")
        .env("MCP_RETRY_MAX", "30ms")
        .start()
        .await;
    let prometheus = Prometheus::start(&cluster.addrs()).await;
    // Seen before the first call: what is there from the start can be seen to rise.
    eventually("both instances are asked", || async {
        prometheus.ask("sum(count_over_time(mcp_router_sessions[1m])) > 4").await.len() == 1
    })
    .await;
    let mut clients = Vec::new();
    for transport in [Transport::Sse, Transport::Streamable] {
        let client = cluster.client().over(transport).initialize().await;
        for number in 0..5 {
            client.call("echo", json!({ "text": number.to_string() })).await;
        }
        client.post(&request(900, "no/such/method", json!({}))).await;
        client.response(900).await;
        clients.push(client);
    }
    let body = tool_call(1, "echo", json!({ "text": "x" })).to_string();
    let rest = Request::post("/mcp/router/route/mcp-server-v6", body).header("content-type", "application/json");
    assert_eq!(rest.try_send(cluster.addrs()[1]).await.unwrap().status, 200);

    let down = format!("up{{instance=\"{}\"}} == 0", cluster.addrs()[0]);
    cluster.routers[0].kill();
    for (number, client) in clients.iter().enumerate() {
        client.reconnect(Some(1));
        let id = format!("after {number}");
        client.post_at(cluster.addrs()[1], &tool_call(id.as_str(), "echo", json!({ "text": id }))).await;
        assert_eq!(client.response_to(&json!(id)).await["result"]["content"][0]["text"], id);
    }
    eventually("the death is seen", || async { prometheus.ask(&down).await.len() == 1 }).await;
    eventually("the alert is on its way", || async {
        let is_it = |rule: &Value| rule["name"] == "McpRouterInstanceDown" && rule["state"] != "inactive";
        prometheus.rules().await.iter().any(is_it)
    })
    .await;
    cluster.routers[0].restart().await;

    let dashboard = dashboard();
    let mut queries = Vec::new();
    for panel in panels(&dashboard).into_iter().filter(|panel| panel["type"] != "row") {
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let query = query.replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$service", ".*");
            assert!(!query.contains('$'), "{query}");
            queries.push((panel["title"].to_string(), query));
        }
    }
    assert!(queries.len() > 50, "{}", queries.len());
    for (title, query) in &queries {
        eventually(&format!("{title}: {query}"), || async {
            prometheus.ask(query).await.iter().any(|value| value.is_finite())
        })
        .await;
    }
    assert_eq!(prometheus.ask("mcp_router_no_such_name").await, [0.0; 0], "a query can have no answer");
    let rules = prometheus.rules().await;
    assert!(rules.len() > 15);
    let unwell: Vec<&Value> = rules.iter().filter(|rule| rule["health"] != "ok").collect();
    assert!(unwell.is_empty(), "{unwell:?}");
    let pages = rules.iter().filter(|rule| rule["state"] == "firing" && rule["labels"]["severity"] == "page");
    let pages: Vec<&Value> = pages.map(|rule| &rule["name"]).collect();
    assert!(pages.is_empty(), "nobody is woken for one instance that died and is back: {pages:?}");
    cluster.assert_no_violations().await;
}

/// From a bucket of the histogram one comes to the trace of a call that is in it; Prometheus reads the form with exemplars by
/// itself.
#[tokio::test]
async fn a_slow_call_leads_to_its_trace() {
    if is_missing() {
        return;
    }
    let receiver = SpanReceiver::start().await;
    let cluster = Cluster::builder()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url())
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
        .without_redis()
        .start()
        .await;
    let prometheus = Prometheus::start(&cluster.addrs()).await;
    let client = cluster.client().initialize().await;
    client.call("echo", json!({ "text": "x" })).await;
    let call = receiver.span("the call", |span| span.name == "tools/call").await;
    let query = format!(
        "/api/v1/query_exemplars?query={}&start=0&end=9999999999",
        r#"mcp_router_call_duration_seconds_bucket{service="mcp-server-v6"}"#
            .replace('{', "%7B")
            .replace('}', "%7D")
            .replace('"', "%22")
    );
    let labels = json!({ "trace_id": call.trace, "span_id": call.id });
    eventually("Prometheus has the trace of the call", || async {
        let answer = http::get(prometheus.port.addr(), &query).await.json();
        let series = answer["data"].as_array().cloned().unwrap_or_default();
        let mut exemplars = series.iter().flat_map(|series| series["exemplars"].as_array().into_iter().flatten());
        exemplars.any(|exemplar| exemplar["labels"] == labels)
    })
    .await;
    assert_eq!(
        prometheus.ask("mcp_router_invariant_violations_total{id=\"EVT-1\"}").await,
        [0.0],
        "the rest is read, too"
    );
    // Whoever does not ask for it gets the form without.
    let plain = http::get(cluster.addr(0), "/actuator/prometheus").await;
    assert!(!plain.text().contains("trace_id") && plain.text().contains("mcp_router_sessions"));
}
