//! A log that cannot be written, and parts of the process that end by themselves: neither leaves an instance that looks
//! well and serves nobody.

use std::{
    fs::OpenOptions,
    io::{PipeReader, Write as _},
    process::{Command, Stdio},
};

use serde_json::json;

#[cfg(feature = "fault-points")]
use crate::harness::{Cluster, mcp_client::tool_call};
use crate::harness::{McpClient, RedisServer, eventually, http::Request, ports::Port};

/// A router whose standard error is `log`; the test ends it.
struct Logging {
    child: std::process::Child,
    port: Port,
}

impl Logging {
    async fn start(log: Stdio, redis: &RedisServer, dir: &std::path::Path) -> Self {
        let port = Port::reserve();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-router"));
        command.env_clear().current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.env("SERVER_PORT", port.number().to_string()).env("SERVER_WORKERS", "1").env("LOG_QUEUE", "2");
        command.env("REDIS_URL", redis.url()).env("LOG_LEVEL", "info,mcp_router=debug");
        let logging = Self { child: command.spawn().unwrap(), port };
        logging.is_ready().await;
        logging
    }

    async fn is_ready(&self) {
        eventually("readiness", || async {
            let answer = Request::get("/actuator/health/readiness").try_send(self.port.addr()).await;
            matches!(answer, Ok(answer) if answer.status == 200)
        })
        .await;
    }

    async fn dropped_lines(&self) -> bool {
        let metrics = Request::get("/actuator/prometheus").try_send(self.port.addr()).await.unwrap().text();
        let lines = metrics.lines().filter(|line| line.starts_with("mcp_router_log_lines_dropped_total{"));
        lines.filter_map(|line| line.rsplit_once(' ')).any(|(_, count)| count != "0")
    }

    /// Serves, loses Redis and gets it back, with all that this has to say; then serves again, and ends in order.
    async fn goes_on(mut self, redis: &mut RedisServer) {
        let client = McpClient::builder([self.port.addr()]).initialize().await;
        redis.kill();
        eventually("DOWN", || async {
            let answer = Request::get("/actuator/health/readiness").try_send(self.port.addr()).await;
            matches!(answer, Ok(answer) if answer.status == 503)
        })
        .await;
        redis.restart();
        self.is_ready().await;
        eventually("counted", || self.dropped_lines()).await;
        client.result("tools/list", json!({})).await;
        McpClient::builder([self.port.addr()]).initialize().await.result("tools/list", json!({})).await;
        assert!(self.child.try_wait().unwrap().is_none(), "it runs");
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        eventually("end", || std::future::ready(self.child.try_wait().unwrap().is_some())).await;
        assert_eq!(self.child.try_wait().unwrap().unwrap().code(), Some(0));
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

fn pipe() -> (PipeReader, Stdio) {
    let (reader, writer) = std::io::pipe().unwrap();
    (reader, writer.into())
}

async fn with_log(log: Stdio) {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start_with(&["--appendonly", "yes"]);
    Logging::start(log, &redis, dir.path()).await.goes_on(&mut redis).await;
}

/// The disk of the log is full.
#[tokio::test]
async fn a_full_disk_costs_log_lines_and_nothing_else() {
    with_log(full()).await;
}

/// Who read the log is gone.
#[tokio::test]
async fn a_log_pipe_without_a_reader_costs_log_lines_and_nothing_else() {
    let (reader, log) = pipe();
    drop(reader);
    with_log(log).await;
}

/// Who should read the log is stuck: the pipe is full, and every write to it would wait.
#[tokio::test]
async fn a_log_pipe_that_nobody_reads_holds_nobody_up() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // Nearly full, so that the router's first lines wait.
    writer.write_all(&vec![b' '; (64 << 10) - 64]).unwrap();
    with_log(writer.into()).await;
    drop(reader);
}

/// Wrong settings are said by their exit code also when nobody reads why.
#[test]
fn a_closed_standard_error_changes_no_exit_code() {
    let (reader, log) = pipe();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-router"));
    command.env_clear().env("SERVER_PORT", "eighty").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    assert_eq!(command.status().unwrap().code(), Some(64));
}

/// A panic of what renews the lease ends the process, and another instance goes on with its sessions.
#[cfg(feature = "fault-points")]
#[tokio::test]
async fn a_vital_task_that_dies_ends_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let arm = dir.path().join("arm");
    let mut cluster = Cluster::builder()
        .routers(2)
        .env("MCP_FAULT_POINT", mcp_router::fault::LEASE)
        .env("MCP_FAULT_ACTION", "panic")
        .env("MCP_FAULT_ARM", arm.display())
        .start()
        .await;
    let client = cluster.client().initialize().await;
    std::fs::write(&arm, "").unwrap();
    let mut dead = None;
    eventually("an end", || {
        dead = cluster.routers.iter_mut().position(|router| router.process().has_ended());
        std::future::ready(dead.is_some())
    })
    .await;
    let index = dead.unwrap();
    let dead = &mut cluster.routers[index];
    assert_eq!(dead.process().exit_code().await, Some(70));
    let log = dead.log_text();
    assert!(log.contains("panicked") && log.contains("must be started again"), "{log}");
    client.post_at(cluster.addr(1 - index), &tool_call("elsewhere", "echo", json!({ "text": "x" }))).await;
    client.response_to(&json!("elsewhere")).await;
}
/// A panic in one session's owner costs neither the message nor the session.
#[cfg(feature = "fault-points")]
#[tokio::test]
async fn a_session_whose_actor_dies_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let arm = dir.path().join("arm");
    let cluster = Cluster::builder()
        .env("MCP_FAULT_POINT", mcp_router::fault::ACCEPTED)
        .env("MCP_FAULT_ACTION", "panic")
        .env("MCP_FAULT_ARM", arm.display())
        .start()
        .await;
    let client = cluster.client().initialize().await;
    std::fs::write(&arm, "").unwrap();
    // Journaled and marked forwarded, but by a read-only tool: sent again by whoever owns the session then.
    let answer =
        tokio::time::timeout(std::time::Duration::from_secs(20), client.text("echo", json!({ "text": "still here" })));
    assert_eq!(answer.await.expect("an answer"), "still here");
    assert!(!arm.exists(), "it did panic");
    assert_eq!(cluster.metric("mcp_router_sessions", None).await, 1.0);
}
