//! An authorization server whose tokens the router takes (`tests/fixtures/authorization-server`).

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::{eventually, http::Request, ports::Port, process::Process, secrets};

/// See module documentation.
#[derive(Debug)]
pub struct AuthorizationServer {
    process: Process,
    port: Port,
    log: PathBuf,
}

impl AuthorizationServer {
    /// Starts one and waits until it listens; its log is in `dir`.
    pub async fn start(dir: &Path) -> Self {
        let mut server = Self::later(dir);
        server.restart().await;
        server
    }

    /// One that does not listen yet: [`Self::restart`] starts it.
    pub fn later(dir: &Path) -> Self {
        let (port, log) = (Port::reserve(), dir.join("authorization-server.log"));
        Self { process: Process::spawn("nothing", &mut Command::new("true"), &log), port, log }
    }

    /// Starts it (again) on its port, with other keys.
    pub async fn restart(&mut self) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/authorization-server");
        assert!(
            dir.join("node_modules").exists(),
            "the fixture's packages are not installed. Run scripts/test.sh, or: cd tests/fixtures/authorization-server && npm ci"
        );
        self.process.kill();
        let mut command = Command::new("node");
        command.arg(dir.join("server.mjs")).arg(self.port.number().to_string());
        self.process = Process::spawn("authorization-server", &mut command, &self.log);
        eventually("the authorization server listening", || {
            assert!(!self.process.has_ended(), "it did not start: {}", self.process.log_text());
            std::future::ready(self.process.log_text().contains("ready on http://"))
        })
        .await;
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// As its tokens name it.
    pub fn issuer(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// A token with these claims over the usual ones (null: without it). `query`: what else is unusual about it.
    pub async fn token(&self, query: &str, claims: &Value) -> String {
        let token = Request::post(format!("/token-for?{query}"), claims.to_string()).send(self.addr()).await.text();
        secrets::note(&token);
        token
    }

    /// From now on it has another key.
    pub async fn rotate(&self) {
        assert_eq!(Request::post("/rotate", "").send(self.addr()).await.status, 200);
    }

    /// How often it was asked for its keys since it has started.
    pub fn key_fetches(&self) -> usize {
        self.log_text().matches("the keys are asked for").count()
    }

    /// How often it was asked for a token of its own making.
    pub fn token_requests(&self) -> usize {
        self.log_text().matches("a token is asked for").count()
    }

    /// How often it was asked what a token is worth.
    pub fn looks(&self) -> usize {
        self.log_text().matches("a token is looked at").count()
    }

    /// What it has logged.
    pub fn log_text(&self) -> String {
        self.process.log_text()
    }
}
