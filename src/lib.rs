//! mcp-router: a gateway for the Model Context Protocol whose sessions survive the death of any instance.
//!
//! The map of the house; imports point downwards only:
//!
//! | module | role |
//! |---|---|
//! | [`process`] | one process from settings to exit code |
//! | [`http`] | the surfaces: parse, check, send messages; the only place that maps errors to HTTP |
//! | [`gateway`] | what any instance does for any client: open, deliver, rebind, call; knows nothing of HTTP |
//! | [`cluster`] | this process among the others: lease, wake-ups, who is gone, adoption |
//! | [`session`] | one actor per owned session; client streams |
//! | [`upstream`] | services, endpoints, connections |
//! | [`store`] | the truth about sessions: in memory or in Redis |
//! | [`protocol`] | JSON-RPC, MCP, SSE: pure |
//! | [`policy`] | who may call what |
//! | [`audit`] | who has called what |
//! | [`traces`] | where messages stand in their clients' traces, and spans |
//! | [`discovery`] | where servers are found that the list only names |
//! | [`certificate`] | its own certificates, which may change |
//! | [`watchdog`] | ends this process when it hangs |
//! | [`settings`], [`telemetry`], [`metrics`], [`lifecycle`], [`backoff`], [`reread`], [`fault`] | what all of them share |
//!
//! Beside the house: `crates/mcp-server-v6`, the reference upstream, which knows nothing of the router.

#![forbid(unsafe_code)]

pub mod audit;
pub mod backoff;
pub mod certificate;
pub mod cluster;
pub mod discovery;
pub mod fair;
pub mod fault;
pub mod gateway;
pub mod http;
pub mod incidents;
pub mod lifecycle;
pub mod metrics;
pub mod policy;
pub mod process;
pub mod protocol;
pub mod reread;
pub mod session;
pub mod settings;
pub mod store;
pub mod telemetry;
pub mod traces;
pub mod upstream;
pub mod watchdog;
