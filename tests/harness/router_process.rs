//! The real `mcp-router`, with exactly the settings that the test gives it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::{
    eventually,
    http::{self, Request},
    leaks,
    ports::Port,
    process::Process,
};

/// Settings of one router, beyond those of the harness.
pub type Env = BTreeMap<String, String>;

/// No setting of the router: how many files its process may open.
pub const FILES: &str = "HARNESS_OPEN_FILES";

/// See module documentation.
#[derive(Debug)]
pub struct RouterProcess {
    process: Process,
    name: String,
    port: Port,
    env: Env,
    dir: PathBuf,
}

impl RouterProcess {
    /// Starts one without waiting for anything; its log and working folder are in `dir`. `env` overrides what the
    /// harness sets: port, instance id (`name`), two workers, log level, no watchdog.
    pub fn launch(dir: &Path, name: &str, env: &Env) -> Self {
        let port = Port::reserve();
        leaks::note_settings(env);
        let process = spawn(dir, name, &port, env);
        Self { process, name: name.to_owned(), port, env: env.clone(), dir: dir.to_owned() }
    }

    /// Starts one and waits until it is ready.
    pub async fn start(dir: &Path, name: &str, env: &Env) -> Self {
        let mut router = Self::launch(dir, name, env);
        router.ready().await;
        router
    }

    /// Waits until it welcomes sessions.
    pub async fn ready(&mut self) {
        let (what, addr) = (format!("readiness of {}", self.name), self.port.addr());
        eventually(&what, || {
            assert!(!self.process.has_ended(), "{} did not start: {}", self.name, self.process.log_text());
            async move { is_ready(addr).await }
        })
        .await;
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its process, for signals, memory, log and exit code.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What this process has logged.
    pub fn log_text(&self) -> String {
        self.process.log_text()
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port with the same settings, without waiting.
    pub fn relaunch(&mut self) {
        self.kill();
        self.process = spawn(&self.dir, &self.name, &self.port, &self.env);
    }

    /// Starts it again and waits until it is ready.
    pub async fn restart(&mut self) {
        self.relaunch();
        self.ready().await;
    }

    /// Stops it (SIGSTOP).
    pub fn freeze(&mut self) {
        self.process.signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&mut self) {
        self.process.signal("CONT");
    }

    /// It has not ended.
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// The value of a metric: of the row whose label has this value, or the sum of all rows. Every row is there from the
    /// start; a name or a value that the router does not know is a mistake of the test.
    pub async fn metric(&self, name: &str, label: Option<&str>) -> f64 {
        let text = http::get(self.addr(), "/actuator/prometheus").await.text();
        let (mut sum, mut is_known) = (0.0, false);
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(name) else { continue };
            let Some((labels, value)) = rest.rsplit_once(' ') else { continue };
            if !(labels.is_empty() || labels.starts_with('{')) {
                continue;
            }
            if label.is_none_or(|label| labels.contains(&format!("=\"{label}\""))) {
                is_known = true;
                sum += value.parse::<f64>().expect("a metric is a number");
            }
        }
        assert!(is_known, "the router has no metric {name} with {label:?}");
        sum
    }

    /// Secrets in what it has written in all of its lives, in its audit log, and on its page of metrics. `also`: more secrets
    /// than those that the test kit knows.
    pub fn leaks(&self, also: &[&str]) -> Vec<String> {
        let mut texts = leaks::audit_logs(&self.env, &self.dir);
        texts.push(self.process.log_of_all_lives());
        if self.is_running() && !self.process.is_stopped() && !self.env.contains_key("SERVER_CERT_FILE") {
            texts.extend(leaks::metrics_page(self.addr()));
        }
        leaks::of(&self.name, &texts, also)
    }

    /// Guarantees that it has seen broken, in this life or an earlier one; by its log, which outlives it.
    pub fn violations(&self) -> Vec<String> {
        let log = self.process.log_of_all_lives();
        log.lines().filter(|line| line.contains("a guarantee is broken")).map(str::to_owned).collect()
    }

    /// `/actuator/health`, whatever its status.
    pub async fn health(&self) -> Value {
        http::get(self.addr(), "/actuator/health").await.json()
    }
}

impl Drop for RouterProcess {
    fn drop(&mut self) {
        leaks::assert_none(&self.leaks(&[]));
    }
}

async fn is_ready(addr: SocketAddr) -> bool {
    matches!(Request::get("/actuator/health/readiness").try_send(addr).await, Ok(response) if response.status == 200)
}

fn spawn(dir: &Path, name: &str, port: &Port, env: &Env) -> Process {
    let program = env!("CARGO_BIN_EXE_mcp-router");
    let mut command = match env.get(FILES) {
        Some(files) => {
            let mut command = Command::new("sh");
            command.args(["-c", r#"ulimit -n "$0" && exec "$1""#, files.as_str(), program]);
            command
        }
        None => Command::new(program),
    };
    // Not the test's environment, and not the project's folder, where a person's .env may lie.
    command.env_clear().current_dir(dir);
    command
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("RUST_BACKTRACE", "1")
        .env("SERVER_PORT", port.number().to_string())
        .env("SERVER_WORKERS", "2")
        .env("MCP_SESSION_INSTANCE_ID", name)
        .env("LOG_LEVEL", "info,mcp_router=debug")
        // Many tests stop a router and let it go on.
        .env("MCP_WATCHDOG", "0s")
        .envs(env);
    Process::spawn(name, &mut command, &dir.join(format!("{name}.log")))
}
