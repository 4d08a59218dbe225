//! Pure protocol code: no I/O, no actors, imports nothing else of this crate.

pub mod by_name;
pub mod event_id;
mod id_key;
pub mod jsonrpc;
pub mod mcp;
pub mod members;
pub mod modern;
pub mod post_id;
pub mod same;
pub mod scan;
pub mod session_id;
pub mod sse_reader;
pub mod stream_key;
pub mod trace_context;

#[cfg(test)]
mod tests;
