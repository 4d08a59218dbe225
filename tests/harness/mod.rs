//! The parts of a deployment, real and under a test's control: each is started for one test on ports and in folders of
//! its own, and ends with it.
//!
//! | part | what it is |
//! |---|---|
//! | [`Cluster`] | redis-server, upstreams, routers and nginx together |
//! | [`RedisServer`], [`UpstreamProcess`], [`RouterProcess`], [`Nginx`] | the programs themselves |
//! | [`FakeUpstream`] | an MCP server inside the test: sees every byte, answers as told |
//! | [`OddUpstream`] | an MCP server inside the test that breaks the rules as told |
//! | [`FaultProxy`] | a TCP link that can be cut, delayed, or swallow everything |
//! | [`http`], [`EventStream`] | HTTP/1.1 and event streams on a bare socket |
//! | [`McpClient`] | a client that does what the EventSource standard says, and remembers everything |
//! | [`Oracle`] | whether anything was lost, doubled or reordered |
//!
//! Nothing here sleeps in the hope that something has happened: [`eventually`] asks until it has, and gives up after
//! [`PATIENCE`] with a name for what did not come.

#![allow(dead_code, unused_imports, reason = "each test binary uses its part of the harness")]

pub mod cluster;
pub mod event_stream;
pub mod fake_upstream;
pub mod fault_proxy;
pub mod http;
pub mod mcp_client;
pub mod nginx;
pub mod odd_upstream;
pub mod oracle;
pub mod ports;
pub mod process;
pub mod redis_client;
pub mod redis_server;
pub mod router_process;
pub mod upstream_process;

use std::{future::Future, time::Duration};

pub use cluster::Cluster;
pub use event_stream::{Event, EventStream, Item, StreamEnd};
pub use fake_upstream::FakeUpstream;
pub use fault_proxy::{FaultProxy, Mode};
pub use mcp_client::{McpClient, PostTo};
pub use nginx::Nginx;
pub use odd_upstream::OddUpstream;
pub use oracle::Oracle;
pub use process::Process;
pub use redis_client::RedisClient;
pub use redis_server::RedisServer;
pub use router_process::RouterProcess;
pub use upstream_process::UpstreamProcess;

/// More than anything here takes on a busy machine; a test that waits longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks of [`eventually`].
const LOOK: Duration = Duration::from_millis(10);

/// Awaits `future`, but not for ever.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Asks again and again until `probe` says yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut probe: impl FnMut() -> F) {
    soon(what, async {
        while !probe().await {
            tokio::time::sleep(LOOK).await;
        }
    })
    .await;
}

/// As [`eventually`], for a probe that says what it has found.
pub async fn eventually_some<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    soon(what, async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
    })
    .await
}

/// The seed of a randomised test: `TEST_SEED` repeats one, else a new one; printed either way.
pub fn seed() -> u64 {
    let seed = std::env::var("TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("TEST_SEED={seed}");
    seed
}
