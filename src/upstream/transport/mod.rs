//! How an upstream is talked to: one file for each MCP transport, all of them over [`http`].
//!
//! HTTP+SSE (2024-11-05) is [`sse`], Streamable HTTP (2025-03-26 to 2025-11-25) `streamable`, and that of 2026-07-28, for clients
//! with a session, `modern`.

pub mod http;
pub(super) mod modern;
pub mod sse;
pub(super) mod streamable;
