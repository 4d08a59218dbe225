//! The registry: this process's place among the others. Lease, wake-ups, upkeep of the sessions it owns, adoption of
//! sessions whose owner is gone. It forwards and parses no MCP.

pub mod actor;
pub mod adopt;
pub mod host;
pub mod limiter;
pub mod orphans;
pub mod sweep;
