//! A server of MCP 2026-07-28 on the TypeScript SDK (`tests/fixtures/modern-server`).

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::{eventually, ports::Port, process::Process};

/// Folder of the fixture.
pub const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/modern-server");

/// See module documentation.
#[derive(Debug)]
pub struct StatelessServer {
    process: Process,
    port: Port,
    log: PathBuf,
    env: Vec<(String, String)>,
}

impl StatelessServer {
    /// Starts one of this name, which it says when it is asked, and waits until it listens; its log is in `dir`. `env`: see
    /// the fixture.
    pub async fn start(dir: &Path, name: &str, env: &[(&str, &str)]) -> Self {
        let (port, log) = (Port::reserve(), dir.join(format!("{name}.log")));
        let mut all = vec![("NAME".to_owned(), name.to_owned())];
        all.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let mut server = Self { process: spawn(&port, &log, &all), port, log, env: all };
        server.listening().await;
        server
    }

    async fn listening(&mut self) {
        eventually("a server of the stateless era listening", || {
            assert!(!self.process.has_ended(), "it did not start: {}", self.process.log_text());
            std::future::ready(self.process.log_text().contains("ready on http://"))
        })
        .await;
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.addr())
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port, if it has ended; kills it before, if it has not.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(&self.port, &self.log, &self.env);
        self.listening().await;
    }
}

fn spawn(port: &Port, log: &Path, env: &[(String, String)]) -> Process {
    let dir = Path::new(FIXTURE);
    assert!(
        dir.join("node_modules").exists(),
        "the fixture's packages are not installed. Run scripts/test.sh, or: cd tests/fixtures/modern-server && npm ci"
    );
    let mut command = Command::new("node");
    command.arg(dir.join("server.mjs")).arg(port.number().to_string());
    command.envs(env.iter().map(|(name, value)| (name, value)));
    Process::spawn("modern-server", &mut command, log)
}
