//! The tools about the server itself: `get_system_info` and `list_servers`.

use serde_json::{Value, json};

use super::tool::{Call, CallResult, Effect, Outcome, definition, object};
use crate::{options::SERVER_NAME, rpc::RpcError, system};

/// The definitions of this group.
pub(crate) fn definitions() -> Vec<Value> {
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
pub(crate) fn call(name: &str, call: &Call<'_>) -> Option<Result<Outcome, RpcError>> {
    let result = match name {
        "get_system_info" => system::report(call.state),
        "list_servers" => json!({ "servers": [{
            "name": SERVER_NAME,
            "version": env!("CARGO_PKG_VERSION"),
            "transport": if call.session.streams().is_some() { "streamable-http" } else { "sse" },
            "status": "UP",
            "sessions": call.state.sessions.len(),
        }] }),
        _ => return None,
    };
    Some(Ok(CallResult::structured(result).into()))
}
