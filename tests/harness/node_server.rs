//! A server of `tests/fixtures` on Node.js, which says on stdout when it listens.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::{eventually, ports::Port, process::Process};

/// See module documentation.
#[derive(Debug)]
pub struct NodeServer {
    fixture: &'static str,
    process: Process,
    port: Port,
    log: PathBuf,
    arguments: Vec<String>,
    env: Vec<(String, String)>,
}

impl NodeServer {
    /// Starts the one in this folder and waits until it listens. `arguments`: behind its port.
    pub async fn start(
        fixture: &'static str,
        log: PathBuf,
        arguments: Vec<String>,
        env: Vec<(String, String)>,
    ) -> Self {
        let port = Port::reserve();
        let process = spawn(fixture, &port, &log, &arguments, &env);
        let mut server = Self { fixture, process, port, log, arguments, env };
        server.listening().await;
        server
    }

    async fn listening(&mut self) {
        eventually(self.fixture, || {
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
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.addr())
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port; kills it before, if it has not ended.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(self.fixture, &self.port, &self.log, &self.arguments, &self.env);
        self.listening().await;
    }
}

fn spawn(fixture: &str, port: &Port, log: &Path, arguments: &[String], env: &[(String, String)]) -> Process {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
    assert!(
        dir.join("node_modules").exists(),
        "the fixture's packages are not installed. Run scripts/test.sh, or: cd tests/fixtures/{fixture} && npm ci"
    );
    let mut command = Command::new("node");
    command.arg(dir.join("server.mjs")).arg(port.number().to_string()).args(arguments);
    command.envs(env.iter().map(|(name, value)| (name, value)));
    Process::spawn(fixture, &mut command, log)
}
