//! The parts of a deployment, real and under a test's control: each is started for one test on ports and in folders of
//! its own, and ends with it.
//!
//! | part | what it is |
//! |---|---|
//! | [`Cluster`] | redis-server, upstreams, routers and nginx together |
//! | [`RedisServer`], [`UpstreamProcess`], [`RouterProcess`], [`Nginx`] | the programs themselves |
//! | [`ConformanceServer`], [`conformance_suite`] | a server on the TypeScript SDK, and the official suite that judges one |
//! | [`ModernServer`] | a server of MCP 2026-07-28 |
//! | [`StatelessServer`] | one that has all that the suite asks for in that version |
//! | [`AuthorizationServer`] | whose tokens the router takes |
//! | [`RedisCluster`] | primaries that share the keys, and their replicas |
//! | [`Sentinels`] | a primary and a replica, and who watches them |
//! | [`Oracle`] | whether anything was lost, doubled or reordered |
//!
//! Clients, stand-in servers and links are those of `crates/testkit`, by which the drill and the load generator work, too.

#![allow(dead_code, unused_imports, reason = "each test binary uses its part of the harness")]

pub mod authorization_server;
pub mod cluster;
pub mod conformance_server;
pub mod conformance_suite;
pub mod leaks;
pub mod modern_server;
pub mod nginx;
mod node_server;
pub mod oracle;
pub mod redis_client;
pub mod redis_cluster;
pub mod redis_server;
pub mod router_process;
pub mod sentinels;
pub mod stateless_server;
pub mod upstream_process;

pub use authorization_server::AuthorizationServer;
pub use cluster::Cluster;
pub use conformance_server::ConformanceServer;
pub use modern_server::ModernServer;
pub use nginx::{Front, Nginx, edge_is_missing};
pub use oracle::Oracle;
pub use redis_client::RedisClient;
pub use redis_cluster::RedisCluster;
pub use redis_server::RedisServer;
pub use router_process::RouterProcess;
pub use sentinels::Sentinels;
pub use stateless_server::StatelessServer;
pub use testkit::mcp_client::Transport;
pub use testkit::{
    DnsServer, Event, EventStream, FakeUpstream, FaultProxy, Item, McpClient, Mode, ModernClient, NacosRegistry,
    OddUpstream, PATIENCE, PostTo, Process, ReceivedSpan, SpanReceiver, StreamEnd, StreamableClient,
    StreamableUpstream, dns_server, event_stream, eventually, eventually_some, fake_upstream, fault_proxy, http,
    mcp_client, odd_upstream, ports, process, secrets, seed, soon, streamable_client, streamable_upstream, tls,
};
pub use upstream_process::UpstreamProcess;

/// Tests of what holds over either transport: each of these functions is run once for each.
macro_rules! over_both_transports {
    ($($(#[$attribute:meta])* $test:ident)+) => {
        mod over_sse {
            $($(#[$attribute])* #[tokio::test] async fn $test() {
                super::$test(crate::harness::Transport::Sse).await;
            })+
        }
        mod over_streamable {
            $($(#[$attribute])* #[tokio::test] async fn $test() {
                super::$test(crate::harness::Transport::Streamable).await;
            })+
        }
    };
}
pub(crate) use over_both_transports;
