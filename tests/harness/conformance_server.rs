//! The fixture of the conformance suite: a server on the TypeScript SDK, over both transports
//! (`tests/fixtures/conformance-server`).

use std::path::Path;

use super::node_server::NodeServer;

/// See module documentation.
#[derive(Debug)]
pub struct ConformanceServer(NodeServer);

impl ConformanceServer {
    /// Starts one and waits until it listens; its log is in `dir`.
    pub async fn start(dir: &Path) -> Self {
        let log = dir.join("conformance-server.log");
        Self(NodeServer::start("conformance-server", log, Vec::new(), Vec::new()).await)
    }

    /// URL of its Streamable HTTP endpoint.
    pub fn streamable_url(&self) -> String {
        self.0.url()
    }

    /// URL of its event stream (HTTP+SSE).
    pub fn sse_url(&self) -> String {
        format!("http://{}/sse", self.0.addr())
    }

    /// Starts it again on the same port; its sessions are gone.
    pub async fn restart(&mut self) {
        self.0.restart().await;
    }
}
