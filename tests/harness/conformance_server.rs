//! The fixture of the conformance suite: a server on the TypeScript SDK, over both transports
//! (`tests/fixtures/conformance-server`).

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::{eventually, ports::Port, process::Process};

/// See module documentation.
#[derive(Debug)]
pub struct ConformanceServer {
    process: Process,
    port: Port,
    log: PathBuf,
}

impl ConformanceServer {
    /// Starts one and waits until it listens; its log is in `dir`.
    pub async fn start(dir: &Path) -> Self {
        let port = Port::reserve();
        let log = dir.join("conformance-server.log");
        let mut server = Self { process: spawn(&port, &log), port, log };
        server.listening().await;
        server
    }

    async fn listening(&mut self) {
        eventually("the conformance server listening", || {
            assert!(!self.process.has_ended(), "it did not start: {}", self.process.log_text());
            std::future::ready(self.process.log_text().contains("ready on http://"))
        })
        .await;
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// URL of its Streamable HTTP endpoint.
    pub fn streamable_url(&self) -> String {
        format!("http://{}/mcp", self.addr())
    }

    /// URL of its event stream (HTTP+SSE).
    pub fn sse_url(&self) -> String {
        format!("http://{}/sse", self.addr())
    }

    /// Starts it again on the same port; its sessions are gone.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(&self.port, &self.log);
        self.listening().await;
    }
}

fn spawn(port: &Port, log: &Path) -> Process {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/conformance-server");
    assert!(
        dir.join("node_modules").exists(),
        "the fixture's packages are not installed. Run scripts/test.sh, or: cd tests/fixtures/conformance-server && npm ci"
    );
    let mut command = Command::new("node");
    command.arg(dir.join("server.mjs")).arg(port.number().to_string());
    Process::spawn("conformance-server", &mut command, log)
}
