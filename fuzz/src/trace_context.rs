//! What is read as a place in a trace is one by the letter of W3C Trace Context, is kept as it was, and a message says it in its
//! `params._meta` alone.

use mcp_router::protocol::trace_context::TraceContext;

/// Bytes: `traceparent`, and behind a line feed `tracestate`.
pub fn trace_context(data: &[u8]) {
    let _ = TraceContext::of_message(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (parent, state) = text.split_once('\n').map_or((text, None), |(parent, state)| (parent, Some(state)));
    let read = TraceContext::read(parent, state);
    assert_eq!(read.is_some(), is_parent(parent.trim_ascii()), "{parent}");
    let message = serde_json::json!({
        "jsonrpc": "2.0", "id": 1, "method": "m", "params": { "_meta": { "traceparent": parent, "tracestate": state } },
    });
    assert_eq!(TraceContext::of_message(message.to_string().as_bytes()), read);
    let elsewhere =
        serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": "m", "params": { "x": message["params"]["_meta"] } });
    assert_eq!(TraceContext::of_message(elsewhere.to_string().as_bytes()), None);
    let Some(read) = read else { return };
    assert_eq!(TraceContext::from_stored(&read.stored()), Some(read.clone()), "an heir knows what was kept");
    assert!(read.stored().len() <= 55 + 1 + 512, "no more is kept than is allowed");
    let parent = parent.trim_ascii();
    assert_eq!(&read.parent()[3..52], &parent[3..52]);
    assert_eq!(read.is_sampled(), u8::from_str_radix(&parent[53..55], 16).unwrap_or_default() & 1 == 1);
}

/// Section 3.2.2, word by word.
fn is_parent(text: &str) -> bool {
    let fields: Vec<&str> = text.split('-').collect();
    let [version, trace, span, flags, rest @ ..] = fields.as_slice() else { return false };
    let is_hex = |field: &str, length: usize| {
        field.len() == length && field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |field: &str, length: usize| is_hex(field, length) && field.bytes().any(|digit| digit != b'0');
    let is_version = is_hex(version, 2) && *version != "ff" && (rest.is_empty() || *version != "00");
    is_version && is_id(trace, 32) && is_id(span, 16) && is_hex(flags, 2)
}
