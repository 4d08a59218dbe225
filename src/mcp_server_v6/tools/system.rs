//! The tools about the server itself: `get_system_info` and `list_servers`.

use std::fs;

use serde_json::{Value, json};

use super::{Call, CallResult, Effect, Outcome, definition, object};
use crate::mcp_server_v6::{SERVER_NAME, ServerState, rpc::RpcError};

/// The definitions of this group.
pub(super) fn definitions() -> Vec<Value> {
    let text = json!({ "type": "string" });
    let number = json!({ "type": "integer", "minimum": 0 });
    let report = object(
        json!({
            "name": text,
            "version": text,
            "operatingSystem": text,
            "architecture": text,
            "hostName": text,
            "processors": number,
            "processId": number,
            "residentBytes": number,
            "uptimeSeconds": number,
            "sessions": number,
            "persons": number,
        }),
        // Linux tells these two; elsewhere they are left out.
        &["hostName", "residentBytes"],
    );
    let server = object(
        json!({
            "name": text,
            "version": text,
            "transport": text,
            "status": text,
            "sessions": number,
        }),
        &[],
    );
    vec![
        definition(
            "get_system_info",
            "Get system information",
            "Describes the process that answers and the system it runs on.",
            Effect::Reads,
            object(json!({}), &[]),
            Some(report),
        ),
        definition(
            "list_servers",
            "List servers",
            "Lists the MCP servers known here, which is this one.",
            Effect::Reads,
            object(json!({}), &[]),
            Some(object(json!({ "servers": { "type": "array", "items": server } }), &[])),
        ),
    ]
}

/// Runs a tool of this group; `None` if `name` is not one.
pub(super) fn call(name: &str, call: &Call<'_>) -> Option<Result<Outcome, RpcError>> {
    let result = match name {
        "get_system_info" => report(call.state),
        "list_servers" => json!({ "servers": [{
            "name": SERVER_NAME,
            "version": env!("CARGO_PKG_VERSION"),
            "transport": "sse",
            "status": "UP",
            "sessions": call.state.sessions.len(),
        }] }),
        _ => return None,
    };
    Some(Ok(CallResult::structured(result).into()))
}

/// What `get_system_info` answers.
pub(crate) fn report(state: &ServerState) -> Value {
    let mut report = json!({
        "name": SERVER_NAME,
        "version": env!("CARGO_PKG_VERSION"),
        "operatingSystem": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "processId": std::process::id(),
        "uptimeSeconds": state.started.elapsed().as_secs(),
        "sessions": state.sessions.len(),
        "persons": state.persons.count(),
    });
    if let Ok(name) = fs::read_to_string("/proc/sys/kernel/hostname") {
        report["hostName"] = name.trim().into();
    }
    if let Some(bytes) = resident_bytes() {
        report["residentBytes"] = bytes.into();
    }
    report
}

/// Memory of this process that is in use, as Linux counts it.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}
