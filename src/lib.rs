//! mcp-router: a gateway for the Model Context Protocol whose sessions survive the death of any instance.

#![forbid(unsafe_code)]

pub mod mcp_server_v6;
pub mod protocol;
pub mod settings;
pub mod store;
pub mod telemetry;
