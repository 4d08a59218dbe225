//! The real `mcp-server-v6` with its drill tools.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::SystemTime,
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

    /// Of Streamable HTTP.
    pub fn streamable_url(&self) -> String {
        format!("http://{}/mcp", self.addr())
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
    let mut command = Command::new(PROGRAM.as_path());
    command.current_dir(dir).args(["--port", &port.number().to_string(), "--drill-tools", "--counts-file"]).arg(counts);
    Process::spawn(name, &mut command, &dir.join(format!("{name}.log")))
}

/// The program. It is another package's, so cargo does not name it here.
pub static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/mcp-server-v6");
    built("mcp-server-v6", &crate_root, &["--bin", "mcp-server-v6"], &crate_root.join("src"))
});

/// A program beside the router's that cargo builds for a run of all tests, but not always for a run of one file; a missing or
/// old one would be a riddle, so it is built then. `name`: its path beside the router's; `target`: what cargo calls it.
pub fn built(name: &str, package: &Path, target: &[&str], sources: &Path) -> PathBuf {
    let router = Path::new(env!("CARGO_BIN_EXE_mcp-router"));
    let program = router.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let built = program.metadata().and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    if newest_below(sources) > built {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet"]).args(target).current_dir(package);
        if router.parent().is_some_and(|profile| profile.ends_with("release")) {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo can be run").success(), "{} cannot be built", program.display());
    }
    program
}

fn newest_below(folder: &Path) -> SystemTime {
    let entries = std::fs::read_dir(folder).expect("a folder of sources").map(|entry| entry.expect("an entry").path());
    let changed = |path: PathBuf| match path.is_dir() {
        true => newest_below(&path),
        false => path.metadata().and_then(|file| file.modified()).expect("when a file was changed"),
    };
    entries.map(changed).max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// How often each key was incremented, over all servers that share the file and all their lives.
pub fn counts(file: &Path) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for key in std::fs::read_to_string(file).unwrap_or_default().lines() {
        *counts.entry(key.to_owned()).or_default() += 1;
    }
    counts
}
