//! What the router takes from the parameters of a message is what stands there by its name.

use mcp_router::protocol::{
    jsonrpc::{Head, IdKey},
    mcp::{
        CALL_TOOL, Repeatable, cancelled_request_id, is_first_page, repeatable, subscription_uri, with_progress_token,
    },
};
use serde_json::{Value, json};

use super::json::{is_plain_once, value};

/// Bytes: the body of a message.
pub fn mcp(body: &[u8]) {
    let changed = with_progress_token(body, r#""another""#);
    let Ok(head) = Head::parse(body) else {
        assert_eq!(changed, None);
        return;
    };
    if let Some(changed) = &changed {
        let again = Head::parse(changed).expect("another token does not spoil it");
        assert_eq!((&again.kind, again.id_text()), (&head.kind, head.id_text()));
        if let Some(mut message) = value(body) {
            assert!(message["params"]["_meta"].as_object().is_some_and(|meta| meta.contains_key("progressToken")));
            message["params"]["_meta"]["progressToken"] = json!("another");
            assert_eq!(value(changed), Some(message), "nothing else has changed");
        }
    }

    let Some(params) = head.params else {
        assert!(is_first_page(None) && repeatable(CALL_TOOL, None) == Repeatable::No);
        return;
    };
    let text = params.get();
    let (name, uri) = (repeatable(CALL_TOOL, Some(params)), subscription_uri(Some(params)));
    let (cancelled, is_first) = (cancelled_request_id(Some(params)), is_first_page(Some(params)));
    let _ = cancelled.map(IdKey::from_stored);
    let Some(params) = value(text.as_bytes()) else { return };
    match &name {
        Repeatable::Yes => panic!("a call of a tool is as repeatable as the tool says"),
        Repeatable::IfToolSays(name) => assert_eq!(by_name(&params, "name"), Some(&json!(name))),
        Repeatable::No => {
            let is_named = by_name(&params, "name").is_some_and(Value::is_string) && is_plain_once(text, "name");
            assert!(!is_named, "the name of the tool is overlooked");
        }
    }
    match &uri {
        Some(uri) => assert_eq!(by_name(&params, "uri"), Some(&json!(uri))),
        None => assert!(!by_name(&params, "uri").is_some_and(Value::is_string) || !is_plain_once(text, "uri")),
    }
    match cancelled {
        Some(id) => assert_eq!(by_name(&params, "requestId"), value(id.as_bytes()).as_ref()),
        None => assert!(by_name(&params, "requestId").is_none() || !is_plain_once(text, "requestId")),
    }
    let cursor = by_name(&params, "cursor").filter(|cursor| !cursor.is_null());
    if is_first {
        assert!(params.is_null() || (params.is_object() && cursor.is_none()), "a later page is taken for the first");
    }
}

/// Of an object: parameters by position are nothing that MCP knows.
fn by_name<'v>(params: &'v Value, name: &str) -> Option<&'v Value> {
    params.as_object()?.get(name)
}
