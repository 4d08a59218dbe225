//! Stock clients, as published, through nginx to three instances: everything they do works, wherever their requests land.
//!
//! The drivers are in `tests/clients`; `scripts/test.sh` installs what they need.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::harness::Cluster;

/// A client program.
#[derive(Clone, Copy)]
enum Sdk {
    TypeScript,
    Python,
}

impl Sdk {
    fn dir(self) -> PathBuf {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        clients.join(match self {
            Self::TypeScript => "typescript",
            Self::Python => "python",
        })
    }

    /// The driver's command; fails with what is to be done when the SDK is not installed.
    fn command(self) -> Command {
        let dir = self.dir();
        let (installed, program, driver, install) = match self {
            Self::TypeScript => (
                dir.join("node_modules/@modelcontextprotocol/sdk"),
                PathBuf::from("node"),
                "driver.mjs",
                "cd tests/clients/typescript && npm ci",
            ),
            Self::Python => (
                dir.join(".venv/bin/python"),
                dir.join(".venv/bin/python"),
                "driver.py",
                "cd tests/clients/python && python3 -m venv .venv && .venv/bin/pip install -r requirements.txt",
            ),
        };
        assert!(installed.exists(), "the SDK is not installed. Run scripts/test.sh, or: {install}");
        let mut command = Command::new(program);
        command.arg(dir.join(driver));
        command
    }
}

/// Runs one scenario to its end; its report. Beside the test's own runtime, which may have work to do meanwhile.
async fn run(sdk: Sdk, addr: SocketAddr, arguments: &[&str]) -> Value {
    let mut command = sdk.command();
    command.args(["--url", &format!("http://{addr}"), "--service", "mcp-server-v6", "--scenario"]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{arguments:?}: no report: {out} {err}"));
    let failed: Vec<&Value> = report["checks"].as_array().unwrap().iter().filter(|check| check["ok"] != true).collect();
    assert!(report["ok"] == true && output.status.success(), "{arguments:?}: {failed:#?}\n{err}");
    report
}

async fn cluster(ip_hash: bool) -> (Cluster, SocketAddr) {
    let cluster = Cluster::builder().routers(3).upstreams(2).nginx(ip_hash).start().await;
    let addr = cluster.nginx.as_ref().unwrap().addr();
    (cluster, addr)
}

/// What must hold after any client's visit to living instances.
async fn assert_calm(cluster: &Cluster) {
    cluster.assert_no_violations().await;
    assert_eq!(cluster.metric("mcp_router_adoptions_total", None).await, 0.0, "OWN-6");
    for (key, count) in cluster.counts() {
        assert!(!key.starts_with("once") || count == 1, "{key}: {count}");
    }
}

/// The TypeScript SDK: initialize, every tool, resources, errors, sampling, progress, cancellation, large messages, 32
/// sessions at once, 50 calls at once; each request to the next of three instances. OWN-6: nothing is adopted.
#[tokio::test]
async fn the_typescript_sdk_works_with_instances_in_turn() {
    let (cluster, nginx) = cluster(false).await;
    for scenario in ["basics", "sampling", "progress", "cancel", "big", "many", "parallel"] {
        run(Sdk::TypeScript, nginx, &[scenario]).await;
    }
    assert_calm(&cluster).await;
}

/// The TypeScript SDK, with its stream cut in mid-call three times, by FIN and by RST: it comes back to another instance
/// without a cursor, keeps its session, and gets every answer (EVT-10, OWN-6).
#[tokio::test]
async fn the_typescript_sdk_comes_back_after_cuts() {
    let (cluster, nginx) = cluster(false).await;
    for cut in ["fin", "rst"] {
        run(Sdk::TypeScript, nginx, &["reconnect", "--cuts", "3", "--cut", cut]).await;
    }
    run(Sdk::TypeScript, nginx, &["reconnect", "--cut-scope", "all"]).await;
    assert_calm(&cluster).await;
    assert!(cluster.metric("mcp_router_resumed_total", Some("ping_rebind")).await >= 7.0);
}

/// The Python SDK: the same, with instances in turn.
#[tokio::test]
async fn the_python_sdk_works_with_instances_in_turn() {
    let (cluster, nginx) = cluster(false).await;
    for scenario in ["basics", "sampling", "progress", "cancel", "big", "many", "parallel"] {
        run(Sdk::Python, nginx, &[scenario]).await;
    }
    assert_calm(&cluster).await;
}

/// Both SDKs with `ip_hash`, as shipped: one instance serves them.
#[tokio::test]
async fn both_sdks_work_with_sticky_instances() {
    let (cluster, nginx) = cluster(true).await;
    for sdk in [Sdk::TypeScript, Sdk::Python] {
        for scenario in ["basics", "sampling", "cancel"] {
            run(sdk, nginx, &[scenario]).await;
        }
    }
    run(Sdk::TypeScript, nginx, &["reconnect"]).await;
    assert_calm(&cluster).await;
}

/// One of two servers is killed while both SDKs work: no call fails, since what was in flight was read-only, and no
/// session ends.
#[tokio::test]
async fn both_sdks_outlive_the_death_of_a_server() {
    let (mut cluster, nginx) = cluster(false).await;
    let arguments = ["hold", "--seconds", "5", "--sessions", "4"];
    let work = async { tokio::join!(run(Sdk::TypeScript, nginx, &arguments), run(Sdk::Python, nginx, &arguments)) };
    let mut work = std::pin::pin!(work);
    // In full swing: every session has had answers.
    let swing = async {
        crate::harness::eventually("all sessions at work", || async {
            cluster.metric("mcp_router_events_appended_total", None).await > 100.0
        })
        .await;
    };
    tokio::select! {
        reports = &mut work => panic!("over before the fault: {reports:?}"),
        () = swing => {}
    }
    cluster.upstreams[0].kill();
    let (typescript, python) = work.await;
    for report in [typescript, python] {
        let totals = &report["totals"];
        assert_eq!(
            (&totals["errors"], &totals["skipped"]),
            (&serde_json::json!(0), &serde_json::json!(0)),
            "{totals:#}"
        );
        assert_eq!(totals["ok"], totals["calls"], "{totals:#}");
    }
    cluster.assert_no_violations().await;
}
