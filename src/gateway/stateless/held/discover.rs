//! `server/discover` for a server of sessions: by its result of `initialize`. Never an error: clients take one for the era of
//! the server, some for good.

use std::rc::Rc;

use serde_json::{Map, Value, json};

use crate::{
    gateway::{
        inner::{Kind, Use, pool},
        shared::Gateway,
        stateless::asked::{Asked, Outcome},
    },
    protocol::{
        jsonrpc,
        modern::{META_SERVER, TASKS, VERSION},
    },
};

/// What the server is.
pub(super) async fn answer(gateway: &Rc<Gateway>, asked: &Asked<'_>) -> Outcome {
    let kind = Kind::new(&asked.service.name, asked.by, "{}".to_owned(), None, Use::Calls);
    let lent = pool::lend(gateway, asked.service, asked.by, &kind).await;
    let told = match &lent {
        Ok(lent) => serde_json::from_str(&lent.told).unwrap_or_default(),
        Err(error) => {
            tracing::debug!(service = asked.service.name, %error, "a server is described although it cannot be asked");
            Map::new()
        }
    };
    let has_tasks = !gateway.env.settings.inner.task_after.is_zero();
    let result = discovered(&told, &asked.service.name, has_tasks);
    Outcome::Whole { status: 200, body: jsonrpc::result_response(asked.id.as_json(), &result.to_string()) }
}

/// By a result of `initialize`; an empty one is that of a server that cannot be asked now, which may have anything.
fn discovered(told: &Map<String, Value>, service: &str, has_tasks: bool) -> Value {
    let unknown = || json!({ "tools": {}, "resources": {}, "prompts": {}, "completions": {} });
    let mut capabilities = told.get("capabilities").cloned().filter(Value::is_object).unwrap_or_else(unknown);
    if let Some(capabilities) = capabilities.as_object_mut() {
        // Those of the other era mean nothing in this one.
        capabilities.remove("tasks");
        capabilities.remove("extensions");
        if has_tasks {
            capabilities.insert("extensions".to_owned(), json!({ TASKS: {} }));
        }
    }
    let server = told.get("serverInfo").cloned().filter(Value::is_object);
    let server = server.unwrap_or_else(|| json!({ "name": service, "version": "" }));
    let mut result = json!({
        "resultType": "complete", "supportedVersions": [VERSION], "capabilities": capabilities,
        "ttlMs": 0, "cacheScope": "private", "_meta": { META_SERVER: server },
    });
    if let Some(instructions) = told.get("instructions").filter(|instructions| instructions.is_string()) {
        result["instructions"] = instructions.clone();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_what_it_has_told_in_its_handshake() {
        let told = json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": { "listChanged": true }, "tasks": {} },
            "serverInfo": { "name": "s", "version": "1" }, "instructions": "i" });
        let expected = json!({ "resultType": "complete", "supportedVersions": ["2026-07-28"], "instructions": "i",
            "capabilities": { "tools": { "listChanged": true } }, "ttlMs": 0, "cacheScope": "private",
            "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "s", "version": "1" } } });
        assert_eq!(discovered(told.as_object().unwrap(), "service", false), expected);
        let unknown = discovered(&Map::new(), "service", true);
        assert_eq!(unknown["capabilities"]["extensions"], json!({ TASKS: {} }));
        assert!(unknown["capabilities"]["tools"].is_object());
        assert_eq!(unknown["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "service");
    }
}
