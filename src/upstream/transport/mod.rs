//! How an upstream is talked to: one file for each MCP transport, all of them over [`http`].
//!
//! Today there is HTTP+SSE (2024-11-05), [`sse`].

pub mod http;
pub mod sse;
