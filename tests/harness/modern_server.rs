//! The fixture of the era without sessions: a server of MCP 2026-07-28 on the TypeScript SDK
//! (`tests/fixtures/modern-tools`).

use std::net::SocketAddr;

use serde_json::Value;

use super::{eventually, http::Request, node_server::NodeServer};

/// See module documentation.
#[derive(Debug)]
pub struct ModernServer {
    server: NodeServer,
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

    async fn start_with(legacy: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = dir.path().join("modern-tools.log");
        let server = NodeServer::start("modern-tools", log, vec![legacy.to_owned()], Vec::new()).await;
        Self { server, _dir: dir }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Its one URL.
    pub fn url(&self) -> String {
        self.server.url()
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
        self.server.kill();
    }

    /// Starts it again on the same port.
    pub async fn restart(&mut self) {
        self.server.restart().await;
    }
}
