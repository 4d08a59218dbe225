//! What must hold for whatever comes from outside, as functions of bytes: each target in `fuzz_targets/` calls one of them,
//! and `tests/fuzz_replay.rs` calls them with the kept corpora in `corpus/`, without a fuzzer.
//!
//! Each panics when its property does not hold. Judges are `serde_json`, `url` and the test kit, none of which uses the
//! code that is judged.

mod choices;
mod forwarded;
mod frame;
mod id_key;
mod ids;
mod json;
mod jsonrpc;
mod mcp;
mod policy;
mod scan;
mod session_head;
mod settings;
mod sse_reader;
mod tools;
mod trace_context;
mod upstream;

pub use self::{
    forwarded::forwarded,
    frame::frame,
    id_key::id_key,
    ids::ids,
    jsonrpc::jsonrpc,
    mcp::mcp,
    policy::policy,
    scan::scan,
    session_head::session_head,
    settings::{env_file, settings, upstreams},
    sse_reader::sse_reader,
    tools::tools,
    trace_context::trace_context,
    upstream::{bridge, link, reply},
};
