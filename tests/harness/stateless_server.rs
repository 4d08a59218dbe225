//! A server of MCP 2026-07-28 on the TypeScript SDK (`tests/fixtures/modern-server`).

use std::{net::SocketAddr, path::Path};

use super::node_server::NodeServer;

/// Folder of the fixture.
pub const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/modern-server");

/// See module documentation.
#[derive(Debug)]
pub struct StatelessServer(NodeServer);

impl StatelessServer {
    /// Starts one of this name, which it says when it is asked, and waits until it listens; its log is in `dir`. `env`: see
    /// the fixture.
    pub async fn start(dir: &Path, name: &str, env: &[(&str, &str)]) -> Self {
        let mut all = vec![("NAME".to_owned(), name.to_owned())];
        all.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Self(NodeServer::start("modern-server", dir.join(format!("{name}.log")), Vec::new(), all).await)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.0.addr()
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.0.kill();
    }

    /// Starts it again on the same port, if it has ended; kills it before, if it has not.
    pub async fn restart(&mut self) {
        self.0.restart().await;
    }
}
