//! The fixture of the era without sessions: a server of MCP 2026-07-28 on the TypeScript SDK
//! (`tests/fixtures/modern-tools`).

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::{eventually, http::Request, ports::Port, process::Process};

/// See module documentation.
#[derive(Debug)]
pub struct ModernServer {
    process: Process,
    port: Port,
    log: PathBuf,
    legacy: &'static str,
    _dir: tempfile::TempDir,
}

impl ModernServer {
    /// Starts one that refuses clients with a handshake.
    pub async fn start() -> Self {
        Self::start_with("reject").await
    }

    /// Starts one that serves clients of both eras, those with a handshake without a session.
    pub async fn of_both_eras() -> Self {
        Self::start_with("stateless").await
    }

    async fn start_with(legacy: &'static str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = Port::reserve();
        let log = dir.path().join("modern-tools.log");
        let mut server = Self { process: spawn(&port, &log, legacy), port, log, legacy, _dir: dir };
        server.listening().await;
        server
    }

    async fn listening(&mut self) {
        eventually("the server listening", || {
            assert!(!self.process.has_ended(), "it did not start: {}", self.process.log_text());
            std::future::ready(self.process.log_text().contains("ready on http://"))
        })
        .await;
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Its one URL.
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.addr())
    }

    /// How often calls have begun, by their argument `key` or the name of their tool; under `left` those whose client has left.
    pub async fn seen(&self) -> Value {
        Request::get("/seen").send(self.addr()).await.json()
    }

    /// Waits until so many calls have begun under this key.
    pub async fn begun(&self, key: &str, times: u64) {
        eventually("the server has the call", || async { self.seen().await[key].as_u64() >= Some(times) }).await;
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(&self.port, &self.log, self.legacy);
        self.listening().await;
    }
}

fn spawn(port: &Port, log: &Path, legacy: &str) -> Process {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/modern-tools");
    assert!(
        dir.join("node_modules").exists(),
        "the fixture's packages are not installed. Run scripts/test.sh, or: cd tests/fixtures/modern-tools && npm ci"
    );
    let mut command = Command::new("node");
    command.arg(dir.join("server.mjs")).arg(port.number().to_string()).arg(legacy);
    Process::spawn("modern-tools", &mut command, log)
}
