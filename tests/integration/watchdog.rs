//! The watchdog: an instance that hangs is ended, so that its clients come back elsewhere; nothing else is ended, and
//! nothing is left behind.

use std::{fs, time::Duration};

use serde_json::json;

use crate::harness::{
    Cluster, McpClient, Oracle, cluster::Builder, eventually, eventually_some, http, mcp_client::tool_call,
};

/// What the guard says when it has killed a router.
const KILLED: &str = "killed so that its clients move";

/// Shorter than by default, and long enough for a busy machine.
const PERIOD: &str = "2s";

fn guarded(builder: Builder) -> Builder {
    builder.env("MCP_WATCHDOG", PERIOD).env("MCP_RETRY_MIN", "10ms").env("MCP_RETRY_MAX", "30ms")
}

/// Parent of a process; `None` when there is no such process.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything; state and parent follow it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// It runs, and is a guard; a zombie has no command line any more.
fn is_guard(pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(b"--watchdog-guard")
}

fn guards_of(router: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(router) && is_guard(*pid)).collect()
}

/// The guard of one of the cluster's routers, once it is there.
async fn guard_of(cluster: &mut Cluster, index: usize) -> u32 {
    let router = cluster.routers[index].process().pid();
    let guards = eventually_some("a guard", || {
        let guards = guards_of(router);
        std::future::ready((!guards.is_empty()).then_some(guards))
    })
    .await;
    assert_eq!(guards.len(), 1, "one guard for one router");
    guards[0]
}

async fn guard_gone(guard: u32) {
    eventually("the end of the guard", || std::future::ready(!is_guard(guard))).await;
}

/// Which instance owns the session and holds its stream, which for a client behind ip_hash is one.
async fn place_of(cluster: &Cluster, client: &McpClient) -> usize {
    let session = http::get(cluster.addr(0), &format!("/mcp/router/sessions/{}", client.session())).await.json();
    let owner = session["owner"].as_str().unwrap().to_owned();
    let number: usize = owner.strip_prefix("router-instance-").unwrap().parse().unwrap();
    number - 1
}

async fn killed(cluster: &mut Cluster, index: usize) {
    let router = &mut cluster.routers[index];
    let pid = router.process().pid();
    assert_eq!(router.process().exit_code().await, None, "by a signal");
    // The guard kills first, and writes then.
    let told = format!("the router (pid {pid}) has been silent for {PERIOD}: {KILLED}; MCP_WATCHDOG=0s turns this off");
    eventually("a line that says so", || std::future::ready(router.log_text().contains(&told))).await;
}

/// OWN-9, REQ-2, REQ-3, EVT-3: a client whose stream and session are on an instance that hangs (SIGSTOP) is not left waiting
/// for its connection to end: the instance is killed, and the client is served by another one, with its session, and
/// with one answer to each call that was under way and to each that was posted to the hung instance.
#[tokio::test]
async fn a_client_of_a_hung_instance_is_served_elsewhere() {
    let mut cluster = guarded(Cluster::builder().routers(3).nginx(true)).start().await;
    let nginx = cluster.nginx.as_ref().unwrap().addr();
    let client = McpClient::builder([nginx]).initialize().await;
    let session = client.session();
    let hung = place_of(&cluster, &client).await;
    let guard = guard_of(&mut cluster, hung).await;
    client.post(&tool_call("under way", "wait", json!({ "ms": 300, "text": "under way" }))).await;
    client.post(&tool_call("an effect", "increment", json!({ "key": "an effect" }))).await;

    cluster.routers[hung].freeze();
    client.post(&tool_call("to the hung one", "increment", json!({ "key": "to the hung one" }))).await;
    killed(&mut cluster, hung).await;
    guard_gone(guard).await;

    assert_eq!(client.text("echo", json!({ "text": "elsewhere" })).await, "elsewhere");
    let answer = client.response_to(&json!("under way")).await;
    assert_eq!(answer["result"]["content"][0]["text"], "under way", "it may be repeated: {answer}");
    let answer = client.response_to(&json!("an effect")).await;
    assert!(answer["result"].is_object() || answer["error"]["code"] == -32001, "{answer}");
    assert!(client.response_to(&json!("to the hung one")).await["result"].is_object());
    assert_eq!(client.session(), session);
    let counts = cluster.counts();
    assert_eq!((counts["an effect"], counts["to the hung one"]), (1, 1));

    cluster.routers[hung].restart().await;
    let now = place_of(&cluster, &client).await;
    assert_ne!(now, hung);
    Oracle::exactly_once(&client);
    Oracle::every_request_answered_once(&client);
    Oracle::agrees_with_log(&client, &cluster.redis_client().await).await;
    cluster.assert_no_violations().await;
}

/// A router under load is not killed, and neither is one that stops for less than the period; nobody's session moves
/// (negative control of the above).
#[tokio::test]
async fn a_busy_instance_and_a_short_pause_are_no_hang() {
    let builder = guarded(Cluster::builder().routers(2)).env("MCP_WATCHDOG", "3s").env("LOG_LEVEL", "info");
    let mut cluster = builder.start().await;
    let guard = guard_of(&mut cluster, 0).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(cluster.client_of(0).initialize().await);
    }
    for round in 0..3 {
        let load = futures_util::future::join_all(clients.iter().map(|client| async move {
            for call in 0..40 {
                let text = format!("{round} {call} {}", "x".repeat(20_000));
                assert_eq!(client.text("echo", json!({ "text": text })).await, text);
            }
        }));
        let pause = async {
            cluster.routers[0].freeze();
            // Several beats are missed.
            tokio::time::sleep(Duration::from_millis(1000)).await;
            cluster.routers[0].thaw();
        };
        tokio::join!(load, pause);
    }
    assert!(!cluster.routers[0].process().has_ended());
    assert_eq!(guard_of(&mut cluster, 0).await, guard);
    assert!(!cluster.routers[0].log_text().contains(KILLED));
    assert_eq!(cluster.metric("mcp_router_adoptions_total", None).await, 0.0);
    for client in &clients {
        Oracle::exactly_once(client);
        Oracle::every_request_answered_once(client);
    }
    cluster.assert_no_violations().await;
}

/// A router and its guard that were paused together, as the machine under them is, go on together.
#[tokio::test]
async fn a_pause_of_the_whole_machine_is_no_hang() {
    let mut cluster = guarded(Cluster::builder()).start().await;
    let guard = guard_of(&mut cluster, 0).await;
    let signal_guard = |signal: &str| {
        let sent = std::process::Command::new("kill").args(["-s", signal, &guard.to_string()]).status().unwrap();
        assert!(sent.success());
    };
    signal_guard("STOP");
    cluster.routers[0].freeze();
    // Longer than the period: what is paused is the clock of neither.
    tokio::time::sleep(Duration::from_millis(3000)).await;
    // The worse order: the guard looks at once, and the router has said nothing.
    signal_guard("CONT");
    cluster.routers[0].thaw();
    let client = cluster.client().initialize().await;
    assert_eq!(client.text("wait", json!({ "ms": 3000, "text": "alive" })).await, "alive");
    assert!(!cluster.routers[0].process().has_ended());
    assert_eq!(guard_of(&mut cluster, 0).await, guard);
}

/// With `MCP_WATCHDOG=0s` there is no guard, and a router that was stopped for long goes on (negative control); neither is
/// there one with the embedded store, whose sessions a kill would end.
#[tokio::test]
async fn without_a_watchdog_a_stopped_instance_lives() {
    let quick = |builder: Builder| builder.env("MCP_LEASE", "300ms").env("MCP_LEASE_RENEW", "100ms");
    let mut cluster = quick(Cluster::builder().routers(2)).env("MCP_WATCHDOG", "0s").start().await;
    let client = cluster.client_of(1).initialize().await;
    assert_eq!(guards_of(cluster.routers[0].process().pid()), [0; 0]);
    cluster.routers[0].freeze();
    let redis = cluster.redis_client().await;
    eventually("the end of its lease", || async {
        redis.run::<u64>(&["EXISTS", "mcp:instance:router-instance-1"]).await == 0
    })
    .await;
    cluster.routers[0].thaw();
    cluster.routers[0].ready().await;
    assert_eq!(client.text("echo", json!({ "text": "both" })).await, "both");

    let mut alone = guarded(Cluster::builder().without_redis().upstreams(0)).start().await;
    assert_eq!(guards_of(alone.routers[0].process().pid()), [0; 0]);
}

/// A router that ends in order takes its guard with it: when the one is gone the other is, too.
#[tokio::test]
async fn a_router_that_ends_in_order_leaves_no_guard_behind() {
    let mut cluster = guarded(Cluster::builder()).start().await;
    let client = cluster.client().stays_away().initialize().await;
    // In flight for longer than the period: a drain is no hang.
    let id = client.start_call("wait", json!({ "ms": 2500, "text": "drained" })).await;
    for signal in ["TERM", "INT"] {
        let guard = guard_of(&mut cluster, 0).await;
        cluster.routers[0].process().signal(signal);
        assert_eq!(cluster.routers[0].process().exit_code().await, Some(0), "SIG{signal}");
        assert!(!is_guard(guard), "SIG{signal}");
        let log = cluster.routers[0].log_text();
        assert!(!log.contains(KILLED) && !log.contains("watchdog could not"), "SIG{signal}: {log}");
        cluster.routers[0].restart().await;
    }
    client.reconnect(Some(0));
    assert_eq!(client.response(id).await["result"]["content"][0]["text"], "drained");
}

/// A router that is killed leaves no guard behind; neither does one that is told to end together with its guard, as
/// systemd does, or that is killed while it hangs.
#[tokio::test]
async fn a_killed_router_leaves_no_guard_behind() {
    let mut cluster = guarded(Cluster::builder()).start().await;
    let guard = guard_of(&mut cluster, 0).await;
    cluster.routers[0].kill();
    guard_gone(guard).await;
    cluster.routers[0].restart().await;

    let guard = guard_of(&mut cluster, 0).await;
    cluster.routers[0].freeze();
    cluster.routers[0].kill();
    guard_gone(guard).await;
    cluster.routers[0].restart().await;

    let guard = guard_of(&mut cluster, 0).await;
    let both = [guard.to_string(), cluster.routers[0].process().pid().to_string()];
    assert!(std::process::Command::new("kill").args(["-s", "TERM"]).args(both).status().unwrap().success());
    assert_eq!(cluster.routers[0].process().exit_code().await, Some(0));
    assert!(!is_guard(guard));
    let log = cluster.routers[0].log_text();
    assert!(!log.contains("watchdog could not"), "the end of both was meant: {log}");
}

/// A guard that dies is missed and replaced; its router serves on.
#[tokio::test]
async fn a_guard_that_dies_is_replaced() {
    let mut cluster = guarded(Cluster::builder()).start().await;
    let guard = guard_of(&mut cluster, 0).await;
    let client = cluster.client().initialize().await;
    assert!(std::process::Command::new("kill").args(["-9", &guard.to_string()]).status().unwrap().success());
    guard_gone(guard).await;
    let next = guard_of(&mut cluster, 0).await;
    assert_ne!(next, guard);
    assert!(cluster.routers[0].log_text().contains("it is started again"));
    assert_eq!(client.text("echo", json!({ "text": "undisturbed" })).await, "undisturbed");
    // The new one does its work.
    cluster.routers[0].freeze();
    killed(&mut cluster, 0).await;
}

/// The guard has the pipe, the log and a hold on the router open, and nothing else: no socket that would keep the port, a
/// client or Redis from seeing the router's end.
#[tokio::test]
async fn the_guard_holds_nothing_of_its_router() {
    let mut cluster = guarded(Cluster::builder()).start().await;
    let client = cluster.client().initialize().await;
    let first = guard_of(&mut cluster, 0).await;
    assert!(std::process::Command::new("kill").args(["-9", &first.to_string()]).status().unwrap().success());
    guard_gone(first).await;
    // This one was started when there were sockets of all kinds.
    let guard = guard_of(&mut cluster, 0).await;
    let open: Vec<(String, String)> = eventually_some("its hold on the router", || {
        let entries = fs::read_dir(format!("/proc/{guard}/fd")).unwrap().flatten();
        let open: Vec<_> = entries
            .map(|entry| {
                let target = fs::read_link(entry.path()).unwrap_or_default();
                (entry.file_name().into_string().unwrap(), target.to_string_lossy().into_owned())
            })
            .collect();
        std::future::ready(open.iter().any(|(_, target)| target.contains("pidfd")).then_some(open))
    })
    .await;
    for (number, target) in &open {
        let expected = match number.as_str() {
            "0" => target.starts_with("pipe:"),
            "1" => target == "/dev/null",
            "2" => target.ends_with(".log"),
            // Its hold on the router, and what all children of the test's own parents inherit.
            _ => !target.contains("socket") && !target.contains("event"),
        };
        assert!(expected, "{open:?}");
    }
    let threads = fs::read_dir(format!("/proc/{guard}/task")).unwrap().count();
    assert_eq!(threads, 1);
    assert_eq!(client.text("echo", json!({ "text": "still" })).await, "still");
}

/// A worker thread that hangs holds its share of the sessions and streams, while the others and the lease go on as if
/// nothing was: that is a hang, too.
#[cfg(feature = "fault-points")]
#[tokio::test]
async fn a_worker_thread_that_hangs_is_a_hang() {
    let dir = tempfile::tempdir().unwrap();
    let arm = dir.path().join("armed");
    let mut cluster = guarded(Cluster::builder().routers(2))
        .env("MCP_FAULT_POINT", mcp_router::fault::ACCEPTED)
        .env("MCP_FAULT_ACTION", "wedge")
        .env("MCP_FAULT_ARM", arm.display())
        .start()
        .await;
    let client = cluster.client().post_to(crate::harness::PostTo::Only(0)).initialize().await;
    fs::write(&arm, "").unwrap();
    let (hung, message) = (cluster.addr(0), tool_call("wedged", "increment", json!({ "key": "wedged" })));
    let unanswered = client.try_post_at(hung, &message, Some("once")).await;
    assert!(unanswered.is_err(), "its connection has ended with the instance: {unanswered:?}");
    killed(&mut cluster, 0).await;
    // It was journaled, whatever its client was told; sent again, as by nginx, it runs once.
    client.post_with(cluster.addr(1), &message, Some("once")).await;
    let answer = client.response_to(&json!("wedged")).await;
    assert!(answer["result"].is_object() || answer["error"]["code"] == -32001, "{answer}");
    assert!(cluster.counts().get("wedged").copied().unwrap_or(0) <= 1);
    Oracle::exactly_once(&client);
    cluster.routers[0].restart().await;
    cluster.assert_no_violations().await;
}
