//! Stock clients, as published, through nginx to three instances: everything they do works, wherever their requests land.
//!
//! The drivers are in `tests/clients`; `scripts/test.sh` installs what they need.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::harness::{Cluster, Front};

/// A client program.
#[derive(Clone, Copy)]
pub(super) enum Sdk {
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

/// How a client speaks.
#[derive(Clone, Copy)]
pub(super) enum Transport {
    Sse,
    Streamable,
}

/// What every client does, whatever its SDK and transport.
const ALL: [&str; 7] = ["basics", "sampling", "progress", "cancel", "big", "many", "parallel"];

/// Runs one scenario to its end; its report. Beside the test's own runtime, which may have work to do meanwhile.
async fn run(sdk: Sdk, transport: Transport, addr: SocketAddr, arguments: &[&str]) -> Value {
    run_at(sdk, transport, &format!("http://{addr}"), &[], arguments).await
}

/// The same at this URL, with these variables in the client's environment.
pub(super) async fn run_at(
    sdk: Sdk,
    transport: Transport,
    url: &str,
    env: &[(&str, &Path)],
    arguments: &[&str],
) -> Value {
    let report = report(sdk, transport, url, env, arguments).await;
    let failed: Vec<&Value> = report["checks"].as_array().unwrap().iter().filter(|check| check["ok"] != true).collect();
    assert!(report["ok"] == true, "{arguments:?}: {failed:#?}");
    report
}

/// What it reports, whatever that is.
pub(super) async fn report(
    sdk: Sdk,
    transport: Transport,
    url: &str,
    env: &[(&str, &Path)],
    arguments: &[&str],
) -> Value {
    let mut command = sdk.command();
    let name = match transport {
        Transport::Sse => "sse",
        Transport::Streamable => "streamable",
    };
    command.args(["--url", url, "--service", "mcp-server-v6", "--transport", name, "--scenario"]);
    command.args(arguments).envs(env.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{arguments:?}: no report: {out} {err}"));
    if report["ok"] == true {
        assert!(output.status.success(), "{arguments:?}: {err}");
    } else {
        println!("{arguments:?}: {err}");
    }
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

/// Initialize, every tool, resources, errors, sampling, progress, cancellation, large messages, 32 sessions at once, 50 calls
/// at once; each request to the next of three instances. OWN-6: nothing is adopted.
async fn works_with_instances_in_turn(sdk: Sdk, transport: Transport) {
    works_behind(Front::stock(false), sdk, transport).await;
}

/// The same behind either of the two configurations of nginx.
pub(super) async fn works_behind(front: Front, sdk: Sdk, transport: Transport) {
    let cluster = Cluster::builder().routers(3).upstreams(2).front(front).start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    for scenario in ALL {
        run(sdk, transport, nginx, &[scenario]).await;
    }
    assert_calm(&cluster).await;
}

/// The TypeScript SDK, with instances in turn.
#[tokio::test]
async fn the_typescript_sdk_works_with_instances_in_turn() {
    works_with_instances_in_turn(Sdk::TypeScript, Transport::Sse).await;
}

/// The same over Streamable HTTP.
#[tokio::test]
async fn the_typescript_sdk_works_over_streamable_http() {
    works_with_instances_in_turn(Sdk::TypeScript, Transport::Streamable).await;
}

/// The Python SDK: the same.
#[tokio::test]
async fn the_python_sdk_works_with_instances_in_turn() {
    works_with_instances_in_turn(Sdk::Python, Transport::Sse).await;
}

/// The same over Streamable HTTP.
#[tokio::test]
async fn the_python_sdk_works_over_streamable_http() {
    works_with_instances_in_turn(Sdk::Python, Transport::Streamable).await;
}

/// The TypeScript SDK, with its stream cut in mid-call three times, by FIN and by RST: it comes back to another instance
/// without a cursor, keeps its session, and gets every answer (EVT-10, OWN-6).
#[tokio::test]
async fn the_typescript_sdk_comes_back_after_cuts() {
    let (cluster, nginx) = cluster(false).await;
    for cut in ["fin", "rst"] {
        run(Sdk::TypeScript, Transport::Sse, nginx, &["reconnect", "--cuts", "3", "--cut", cut]).await;
    }
    run(Sdk::TypeScript, Transport::Sse, nginx, &["reconnect", "--cut-scope", "all"]).await;
    assert_calm(&cluster).await;
    assert!(cluster.metric("mcp_router_resumed_total", Some("ping_rebind")).await >= 7.0);
}

/// Over Streamable HTTP all its connections are cut, those of calls as well: it comes back for each with `Last-Event-ID`.
#[tokio::test]
async fn the_typescript_sdk_comes_back_over_streamable_http() {
    let (cluster, nginx) = cluster(false).await;
    for cut in ["fin", "rst"] {
        let arguments = ["reconnect", "--cuts", "3", "--cut", cut, "--cut-scope", "all"];
        run(Sdk::TypeScript, Transport::Streamable, nginx, &arguments).await;
    }
    assert_calm(&cluster).await;
}

/// Both SDKs with `ip_hash`, as shipped: one instance serves them.
#[tokio::test]
async fn both_sdks_work_with_sticky_instances() {
    let (cluster, nginx) = cluster(true).await;
    for sdk in [Sdk::TypeScript, Sdk::Python] {
        for scenario in ["basics", "sampling", "cancel"] {
            run(sdk, Transport::Sse, nginx, &[scenario]).await;
        }
    }
    run(Sdk::TypeScript, Transport::Sse, nginx, &["reconnect"]).await;
    assert_calm(&cluster).await;
}

/// Both SDKs at work; once they are in full swing, the fault. No call may fail.
async fn hold_through(
    cluster: &mut Cluster,
    nginx: SocketAddr,
    transport: Transport,
    fault: impl FnOnce(&mut Cluster),
) {
    let arguments = ["hold", "--seconds", "5", "--sessions", "4"];
    let work = async {
        tokio::join!(run(Sdk::TypeScript, transport, nginx, &arguments), run(Sdk::Python, transport, nginx, &arguments))
    };
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
    fault(cluster);
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

/// One of two servers is killed while both SDKs work: no call fails, since what was in flight was read-only, and no
/// session ends.
#[tokio::test]
async fn both_sdks_outlive_the_death_of_a_server() {
    let (mut cluster, nginx) = cluster(false).await;
    hold_through(&mut cluster, nginx, Transport::Sse, |cluster| cluster.upstreams[0].kill()).await;
}

/// The same over Streamable HTTP, and there an instance may be killed as well: neither SDK sees more of it than a stream
/// that ends (OWN-1).
#[tokio::test]
async fn both_sdks_outlive_an_instance_and_a_server_over_streamable_http() {
    let (mut cluster, nginx) = cluster(false).await;
    let faults = |cluster: &mut Cluster| {
        cluster.upstreams[0].kill();
        cluster.routers[0].kill();
    };
    hold_through(&mut cluster, nginx, Transport::Streamable, faults).await;
}
