//! How a router starts, and how it says that it cannot: exit codes and words.

use std::process::Command;

use crate::harness::{Cluster, RedisServer, RouterProcess, eventually, http, ports::Port, router_process::Env};

fn env(pairs: &[(&str, &str)]) -> Env {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A taken port: exit 71, with the port and how to find who has it, before anything else is touched.
#[tokio::test]
async fn a_taken_port_is_named_with_how_to_find_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    // Redis is away, too: the port is what is said.
    let settings = env(&[("SERVER_PORT", &port), ("REDIS_URL", "redis://127.0.0.1:1")]);
    let mut router = RouterProcess::launch(dir.path(), "second", &settings);
    assert_eq!(router.process().exit_code().await, Some(71));
    let log = router.log_text();
    for word in [port.as_str(), "ss -ltnp", "lsof", "SERVER_PORT"] {
        assert!(log.contains(word), "{word}: {log}");
    }
}

/// An address that this machine does not have is no taken port, and is not called one.
#[tokio::test]
async fn an_address_of_another_machine_is_named_as_such() {
    let dir = tempfile::tempdir().unwrap();
    // RFC 5737: nobody has it.
    let redis = ("REDIS_URL", "redis://127.0.0.1:1");
    let settings = env(&[("SERVER_ADDRESS", "192.0.2.1"), ("MCP_AUTH", "none"), redis]);
    let mut router = RouterProcess::launch(dir.path(), "elsewhere", &settings);
    assert_eq!(router.process().exit_code().await, Some(71));
    let log = router.log_text();
    for word in ["192.0.2.1", "SERVER_ADDRESS", "0.0.0.0"] {
        assert!(log.contains(word), "{word}: {log}");
    }
    for word in ["lsof", "ss -ltnp"] {
        assert!(!log.contains(word), "{word}: {log}");
    }
}

/// SEC-5
#[tokio::test]
async fn where_others_may_come_a_start_asks_who_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let settings = env(&[("SERVER_ADDRESS", "0.0.0.0")]);
    let mut router = RouterProcess::launch(dir.path(), "open", &settings);
    assert_eq!(router.process().exit_code().await, Some(64));
    let log = router.log_text();
    for word in ["MCP_AUTH", "keys", "proxy", "none by name"] {
        assert!(log.contains(word), "{word}: {log}");
    }
    let named = env(&[("SERVER_ADDRESS", "0.0.0.0"), ("MCP_AUTH", "none")]);
    RouterProcess::start(dir.path(), "open-by-name", &named).await;
}

/// Redis away at the start: tried again until the limit, then exit 69 with where it was looked for, password aside.
#[tokio::test]
async fn redis_away_at_the_start_is_said_and_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let url = format!("redis://:open-sesame@{}", port.addr());
    let settings = env(&[("REDIS_URL", &url), ("REDIS_START_TIMEOUT", "300ms"), ("REDIS_TIMEOUT", "100ms")]);
    let mut router = RouterProcess::launch(dir.path(), "lonely", &settings);
    assert_eq!(router.process().exit_code().await, Some(69));
    let log = router.log_text();
    assert!(log.contains("trying again") && log.contains("REDIS_URL"), "{log}");
    assert!(log.contains(&port.number().to_string()) && !log.contains("open-sesame"), "{log}");
}

/// A Redis that comes up late, as in a deployment whose parts start together, is waited for.
#[tokio::test]
async fn redis_that_comes_late_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start();
    redis.kill();
    let mut router = RouterProcess::launch(dir.path(), "patient", &env(&[("REDIS_URL", &redis.url())]));
    eventually("a word about waiting", || std::future::ready(router.log_text().contains("trying again"))).await;
    redis.restart();
    router.ready().await;
}

/// Wrong settings: all of them reported together, by name and value; exit 64.
#[tokio::test]
async fn all_wrong_settings_are_reported_together() {
    let dir = tempfile::tempdir().unwrap();
    let settings =
        env(&[("SERVER_PORT", "eighty"), ("MCP_LEASE", "soon"), ("MCP_UPSTREAMS", "nonsense"), ("LOG_FORMAT", "xml")]);
    let mut router = RouterProcess::launch(dir.path(), "wrong", &settings);
    assert_eq!(router.process().exit_code().await, Some(64));
    let log = router.log_text();
    for word in ["SERVER_PORT", "eighty", "MCP_LEASE", "soon", "MCP_UPSTREAMS", "nonsense", "LOG_FORMAT", "xml"] {
        assert!(log.contains(word), "{word}: {log}");
    }
}

/// OWN-11: of two processes with one instance id the second refuses to start, says who has it, and the first goes on.
#[tokio::test]
async fn a_second_process_with_an_instance_id_refuses_to_start() {
    let cluster = Cluster::builder().env("MCP_LEASE", "300ms").env("MCP_LEASE_RENEW", "100ms").start().await;
    let client = cluster.client().initialize().await;
    let mut second = RouterProcess::launch(cluster.dir(), "router-instance-1", cluster.env());
    assert_eq!(second.process().exit_code().await, Some(78));
    let log = second.log_text();
    for word in ["router-instance-1", &cluster.addr(0).to_string(), "MCP_SESSION_INSTANCE_ID"] {
        assert!(log.contains(word), "{word}: {log}");
    }
    assert_eq!(client.text("echo", serde_json::json!({ "text": "still here" })).await, "still here");
    assert_eq!(http::get(cluster.addr(0), "/actuator/health/readiness").await.status, 200);
}

/// OWN-11: the id of a process that was killed can be taken again, without anybody's help; so can that of one that has
/// ended in order.
#[tokio::test]
async fn an_instance_id_can_be_taken_again_after_its_process() {
    let mut cluster = Cluster::builder().env("MCP_LEASE", "500ms").env("MCP_LEASE_RENEW", "100ms").start().await;
    cluster.routers[0].restart().await;
    cluster.routers[0].process().signal("TERM");
    assert_eq!(cluster.routers[0].process().exit_code().await, Some(0));
    cluster.routers[0].restart().await;
}

/// A start says little, and last that it is ready: what a newcomer sees after `cargo run`.
#[tokio::test]
async fn a_start_is_quiet_and_its_last_line_says_ready() {
    let dir = tempfile::tempdir().unwrap();
    let mut router =
        RouterProcess::start(dir.path(), "quiet", &env(&[("LOG_LEVEL", "info"), ("MCP_SESSION_INSTANCE_ID", "")]))
            .await;
    let log = router.log_text();
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines.len() <= 5, "{log}");
    let last = lines.last().unwrap();
    assert!(last.contains("mcp-router is ready") && last.contains(&router.addr().to_string()), "{log}");
    assert!(!log.contains("WARN") || log.contains("open files"), "{log}");
    router.kill();
}

/// The command line of the Spring deployment (`--server.port=… --mcp.session.instance-id=…`) is understood, over the
/// environment as any flag.
#[tokio::test]
async fn flags_in_springs_spelling_are_understood() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let log = dir.path().join("spring.log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-router"));
    command.env_clear().current_dir(dir.path()).env("SERVER_PORT", "1").args([
        &format!("--server.port={}", port.number()),
        "--mcp.session.instance-id=router-instance-1",
        "--mcp.session.ttl=5m",
    ]);
    let router = crate::harness::process::Process::spawn("spring", &mut command, &log);
    let addr = port.addr();
    eventually("readiness", || async move {
        let asked = http::Request::get("/actuator/health/readiness").try_send(addr).await;
        asked.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    assert_eq!(http::get(addr, "/actuator/info").await.json()["instance"]["id"], "router-instance-1");
    drop(router);
}

/// `--help` and `--version` end with success; an unknown flag is a wrong setting.
#[test]
fn flags_are_explained_and_unknown_ones_refused() {
    let run = |flag: &str| Command::new(env!("CARGO_BIN_EXE_mcp-router")).arg(flag).env_clear().output().unwrap();
    for flag in ["--help", "--version"] {
        assert!(run(flag).status.success(), "{flag}");
    }
    assert_eq!(run("--no-such-flag").status.code(), Some(64));
}

/// SIGTERM with nothing to do: out at once, with success; a stream that is open is let go.
#[tokio::test]
async fn sigterm_ends_the_process_with_streams_open() {
    let mut cluster = Cluster::builder().start().await;
    let client = cluster.client().stays_away().initialize().await;
    cluster.routers[0].process().signal("TERM");
    assert_eq!(cluster.routers[0].process().exit_code().await, Some(0));
    assert_eq!(client.connection_end(0).await, Some(crate::harness::StreamEnd::Abrupt), "rule 8: no last chunk");
}

/// `mcp-router check` tells what a start would find, each thing once, and changes nothing.
#[tokio::test]
async fn a_check_tells_what_a_start_would_find() {
    let cluster = Cluster::builder().start().await;
    let check = |more: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-router"));
        command.arg("check").env_clear().current_dir(cluster.dir()).envs(cluster.env()).env("SERVER_PORT", "0");
        let told = command.envs(more.iter().copied()).output().unwrap();
        (told.status.code(), String::from_utf8(told.stdout).unwrap(), String::from_utf8(told.stderr).unwrap())
    };
    let before = cluster.redis_client().await.run::<Vec<String>>(&["KEYS", "*"]).await;

    let (code, told, _) = check(&[("MCP_SESSION_INSTANCE_ID", "another")]);
    assert_eq!(code, Some(0), "{told}");
    let marks = |told: &str| -> Vec<String> {
        told.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(
        marks(&told),
        ["ok settings", "ok address", "ok files", "ok redis", "ok clock", "ok instance", "ok server"],
        "{told}"
    );
    assert!(told.contains("router-instance-1 at "), "{told}");
    assert!(told.contains("mcp-server-v6") && told.contains("MCP 2025-11-25"), "{told}");

    // The id of an instance that runs; a server and a Redis that are away.
    let (code, told, _) = check(&[("MCP_SESSION_INSTANCE_ID", "router-instance-1")]);
    assert_eq!((code, told.contains("warn  instance")), (Some(0), true), "{told}");
    let nobody = Port::reserve();
    let away = format!("s=http://127.0.0.1:{}/sse", nobody.number());
    let (code, told, _) = check(&[("MCP_UPSTREAMS", &away)]);
    assert_eq!((code, told.contains("FAIL  server     s http://")), (Some(69), true), "{told}");
    let away = format!("redis://:secret@127.0.0.1:{}", nobody.number());
    let (code, told, _) = check(&[("REDIS_URL", &away)]);
    assert_eq!((code, told.contains("FAIL  redis"), told.contains("secret")), (Some(69), true, false), "{told}");
    let (code, _, told) = check(&[("MCP_LEASE", "never")]);
    assert_eq!((code, told.contains("MCP_LEASE")), (Some(64), true), "{told}");
    let after = cluster.redis_client().await.run::<Vec<String>>(&["KEYS", "*"]).await;
    let sorted = |mut keys: Vec<String>| {
        keys.sort();
        keys
    };
    assert_eq!(sorted(after), sorted(before));
}
