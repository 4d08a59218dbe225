//! What tests, drill and bench share: a client that does not use the code that it judges, servers that stand in for MCP
//! servers, and links and processes under a test's control. No part of the router, and it knows none of its types.
//!
//! | module | what it is |
//! |---|---|
//! | [`connection`], [`events`], [`poster`] | HTTP/1.1 and event streams at as little CPU as possible: for the load generator and the drill |
//! | [`sse`] | the one parser of event streams |
//! | [`http`], [`event_stream`] | the same for tests: any header, any body, everything in text |
//! | [`mcp_client`] | a client that does what the EventSource standard says, and remembers everything |
//! | [`streamable_client`] | a client of Streamable HTTP that does what the test tells it, and remembers everything |
//! | [`modern_client`] | a client of 2026-07-28, which has no sessions |
//! | [`fake_upstream`], [`odd_upstream`] | MCP servers inside the test: one that shows every byte, one that breaks the rules as told |
//! | [`streamable_upstream`] | one of Streamable HTTP, which keeps its events and does what it is told |
//! | [`span_receiver`] | a receiver of OTLP, which keeps what it is sent |
//! | [`dns_server`], [`nacos_registry`] | where servers are found by names |
//! | [`fault_proxy`] | a TCP link that can be cut, delayed, or swallow everything |
//! | [`judge`] | what a JSON-RPC message is, judged by its value |
//! | [`listen`](mod@listen) | what each server here begins with |
//! | [`process`], [`ports`] | child processes, and ports that no other test has |
//! | [`secrets`] | what must stand in no log |
//! | [`page`] | what drill and load generator have found, as an HTML file with plots |
//! | [`tls`] | TLS in front of a server, with certificates made for the test |
//! | [`wait`] | waiting for a condition, not for a time |

pub mod connection;
pub mod dns_server;
pub mod event_stream;
pub mod events;
pub mod fake_upstream;
pub mod fault_proxy;
pub mod http;
mod incoming;
pub mod judge;
pub mod listen;
pub mod mcp_client;
pub mod modern_client;
pub mod nacos_registry;
pub mod odd_upstream;
pub mod page;
pub mod ports;
pub mod poster;
pub mod process;
pub mod secrets;
pub mod span_receiver;
pub mod sse;
pub mod streamable_client;
pub mod streamable_upstream;
pub mod tls;
pub mod wait;

pub use connection::header;
pub use dns_server::DnsServer;
pub use event_stream::{Event, EventStream, Item, StreamEnd};
pub use fake_upstream::FakeUpstream;
pub use fault_proxy::{FaultProxy, Mode};
pub use listen::listen;
pub use mcp_client::{McpClient, PostTo};
pub use modern_client::ModernClient;
pub use nacos_registry::NacosRegistry;
pub use odd_upstream::OddUpstream;
pub use process::Process;
pub use span_receiver::{ReceivedSpan, SpanReceiver};
pub use streamable_client::{Reply, Shown, StreamableClient};
pub use streamable_upstream::StreamableUpstream;
pub use wait::{PATIENCE, eventually, eventually_some, seed, soon};
