//! The real `mcp-server-v6` with its drill tools.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::{eventually, http, ports::Port, process::Process};

/// See module documentation.
#[derive(Debug)]
pub struct UpstreamProcess {
    process: Process,
    name: String,
    port: Port,
    dir: PathBuf,
    counts: PathBuf,
}

impl UpstreamProcess {
    /// Starts one; its log goes to `dir`, the keys of its increments to `counts`, which several may share.
    pub async fn start(dir: &Path, name: &str, counts: &Path) -> Self {
        let port = Port::reserve();
        let process = spawn(dir, name, &port, counts);
        let mut server = Self { process, name: name.to_owned(), port, dir: dir.to_owned(), counts: counts.to_owned() };
        server.listening().await;
        server
    }

    async fn listening(&mut self) {
        let what = format!("{} listening", self.name);
        eventually(&what, || {
            assert!(!self.process.has_ended(), "{} did not start: {}", self.name, self.process.log_text());
            std::future::ready(self.process.log_text().contains("listening on http://"))
        })
        .await;
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// URL of its event stream.
    pub fn url(&self) -> String {
        format!("http://{}/sse", self.addr())
    }

    /// Kills it; every session and running call is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port.
    pub async fn restart(&mut self) {
        self.kill();
        self.process = spawn(&self.dir, &self.name, &self.port, &self.counts);
        self.listening().await;
    }

    /// Stops it (SIGSTOP): connections stay open, nothing is answered.
    pub fn freeze(&mut self) {
        self.process.signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&mut self) {
        self.process.signal("CONT");
    }

    /// Sessions open on it, those of health checks included.
    pub async fn sessions(&self) -> u64 {
        let health: Value = http::get(self.addr(), "/actuator/health").await.json();
        health["sessions"].as_u64().expect("a number of sessions")
    }
}

fn spawn(dir: &Path, name: &str, port: &Port, counts: &Path) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-server-v6"));
    command.current_dir(dir).args(["--port", &port.number().to_string(), "--drill-tools", "--counts-file"]).arg(counts);
    Process::spawn(name, &mut command, &dir.join(format!("{name}.log")))
}

/// How often each key was incremented, over all servers that share the file and all their lives.
pub fn counts(file: &Path) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for key in std::fs::read_to_string(file).unwrap_or_default().lines() {
        *counts.entry(key.to_owned()).or_default() += 1;
    }
    counts
}
