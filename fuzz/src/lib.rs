//! What must hold for whatever comes from outside, as functions of bytes: each target in `fuzz_targets/` calls one of them,
//! and `tests/fuzz_replay.rs` calls them with the kept corpora in `corpus/`, without a fuzzer.
//!
//! Each panics when its property does not hold. Judges are `serde_json`, `url` and the test kit, none of which uses the
//! code that is judged.

mod accept;
mod choices;
mod forwarded;
mod frame;
mod held;
mod id_key;
mod ids;
mod json;
mod jsonrpc;
mod mcp;
mod modern;
mod older;
mod policy;
mod redis_reply;
mod scan;
mod secret_files;
mod session_head;
mod settings;
mod sse_reader;
mod token;
mod tools;
mod trace_context;
mod upstream;

pub use self::{
    accept::accept,
    forwarded::forwarded,
    frame::frame,
    held::held,
    id_key::id_key,
    ids::ids,
    jsonrpc::jsonrpc,
    mcp::mcp,
    modern::modern,
    older::older,
    policy::policy,
    redis_reply::redis_reply,
    scan::scan,
    secret_files::{credentials_file, key_file},
    session_head::session_head,
    settings::{env_file, settings, upstreams},
    sse_reader::sse_reader,
    token::token,
    tools::tools,
    trace_context::trace_context,
    upstream::{bridge, link, reply},
};
