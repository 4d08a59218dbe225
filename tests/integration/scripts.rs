//! `scripts/start-instances.sh` after accidents: what it left behind harms no later start or stop. And the failover drill in
//! short: what it shows at length holds in each run of the tests.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::harness::{
    RedisServer, eventually,
    http::Request,
    ports::Port,
    upstream_process::{PROGRAM, built},
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/start-instances.sh");

/// The script, for one router and no server, with its files in `dir`.
fn script(dir: &Path, port: &Port, redis: &str, command: &str) -> Command {
    let bin_dir = Path::new(env!("CARGO_BIN_EXE_mcp-router")).parent().unwrap();
    let mut script = Command::new(SCRIPT);
    script
        .arg(command)
        .env("RUN_DIR", dir.join("run"))
        .env("LOG_DIR", dir.join("logs"))
        .env("ROUTER_PORTS", port.number().to_string())
        .env("SERVER_PORTS", "")
        .env("MCP_UPSTREAMS", "none=http://127.0.0.1:9/sse")
        .env("BIN_DIR", bin_dir)
        .env("REDIS_URL", redis)
        .stdin(Stdio::null());
    script
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A lock left by a power cut, whose pid another process has by now, or nobody, or which names none, stands in nobody's
/// way; that of a script that runs does.
#[tokio::test]
async fn a_lock_whose_holder_is_gone_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let lock = dir.path().join("run/lock");
    let stop = || script(dir.path(), &port, "redis://127.0.0.1:1", "stop");
    let mine = std::process::id();
    for left in [format!("{mine}\n"), format!("{mine}\n1\n"), "999999999\n".to_owned(), String::new(), "x\n".to_owned()]
    {
        std::fs::create_dir_all(&lock).unwrap();
        std::fs::write(lock.join("pid"), &left).unwrap();
        let stopped = run(stop()).await;
        assert!(stopped.status.success(), "{left:?}: {}", text(&stopped));
        assert!(!lock.exists(), "the lock is given back");
    }
    // Named as the script is.
    let mut other =
        Command::new("sh").args(["-c", "read line; exit", "start-instances.sh"]).stdin(Stdio::piped()).spawn().unwrap();
    std::fs::create_dir_all(&lock).unwrap();
    std::fs::write(lock.join("pid"), format!("{}\n", other.id())).unwrap();
    let refused = run(stop()).await;
    assert!(!refused.status.success() && text(&refused).contains("under way"), "{}", text(&refused));
    assert!(lock.exists(), "the lock of a running script stays");
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(run(stop()).await.status.success());
}

/// A start that is killed while it launches a router knows it again afterwards: it is no foreign process, and is stopped.
#[tokio::test]
async fn a_start_that_is_killed_leaves_no_foreign_router() {
    let dir = tempfile::tempdir().unwrap();
    let redis = RedisServer::start();
    let port = Port::reserve();
    let command = |name: &str| script(dir.path(), &port, &redis.url(), name);
    let mut start = command("start").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let log = dir.path().join(format!("logs/router-{}.log", port.number()));
    eventually("the launch of the router", || std::future::ready(log.exists())).await;
    start.kill().unwrap();
    start.wait().unwrap();
    let addr = port.addr();
    eventually("a router that is ready", || async move {
        let asked = Request::get("/actuator/health/readiness").try_send(addr).await;
        asked.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    let status = text(&run(command("status")).await);
    assert!(status.contains("running") && !status.contains("foreign"), "{status}");
    let again = run(command("start")).await;
    assert!(again.status.success() && text(&again).contains("runs already"), "{}", text(&again));
    let stopped = run(command("stop")).await;
    assert!(stopped.status.success(), "{}", text(&stopped));
    assert!(Request::get("/actuator/health/liveness").try_send(addr).await.is_err(), "it has ended");
}

/// The failover drill, twice broken by `fault`, with clients and servers of a transport.
async fn drill(transport: &str, fault: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let features = if cfg!(feature = "fault-points") { "fault-points" } else { "" };
    let target = ["--example", "drill", "--features", features];
    let client = built("examples/drill", root, &target, &root.join("examples/drill"));
    let mut script = Command::new(root.join("scripts/failover-drill.sh"));
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.html");
    script
        .args([fault, "--transport", transport, "--rounds", "2", "--sessions", "8", "--report"])
        .arg(&report)
        .env("BIN_DIR", PROGRAM.parent().unwrap())
        .env("DRILL_BIN", client)
        .stdin(Stdio::null());
    let drilled = run(script).await;
    let text = text(&drilled);
    assert!(drilled.status.success() && text.contains("Nothing was lost, nothing came twice."), "{text}");
    // The page says what the table says, and shows each session that was served again.
    let page = std::fs::read_to_string(report).unwrap();
    for name in ["calls accepted", "answered", "lost", "increments run more than once", "sessions lost"] {
        let row = text.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix("  "));
        let value = row.unwrap_or_else(|| panic!("{name} is in the table: {text}")).trim();
        let row = format!("<tr><th>{name}</th><td>{value}</td></tr>");
        assert!(page.contains(&row), "{row}\n{page}");
    }
    let served = |line: &str| line.split_once(" served again")?.0.rsplit_once(' ')?.1.parse::<usize>().ok();
    let served: usize = text.lines().filter_map(served).sum();
    let plot = page.split("<figure>").find(|part| part.contains("Sessions served again, by fault")).unwrap_or_default();
    assert!(served > 0 && plot.matches("<circle").count() == served, "{served} in\n{plot}");
    assert!(page.contains("Lost and duplicated, of"), "{page}");
}

/// EVT-2, EVT-4, REQ-2
#[tokio::test]
async fn the_drill_over_sse_loses_nothing() {
    drill("sse", "--kill").await;
}

/// EVT-2, EVT-4, REQ-2
#[tokio::test]
async fn the_drill_over_streamable_http_loses_nothing() {
    drill("streamable", "--kill").await;
}

/// DRN-1: of each transport half of the clients, and one server.
#[tokio::test]
async fn the_drill_over_both_transports_loses_nothing_in_a_drain() {
    drill("mixed", "--term").await;
}
