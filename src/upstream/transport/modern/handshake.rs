//! A handshake for a server that has none: what is kept of the client's `initialize`, and what it is answered by what the server
//! says to `server/discover`. Pure.

use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::protocol::{
    by_name::by_name,
    jsonrpc::Head,
    mcp,
    modern::{self, refusal::INVALID_PARAMS},
};

/// Log messages from this level on are asked for while the client has not set one: servers with sessions send theirs then, too.
const USUAL_LEVEL: &str = "info";

/// The levels of RFC 5424, as MCP has them.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// What is said of the client in each request: JSON texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) capabilities: String,
    pub(super) info: String,
    /// From which level on it wants log messages; `None`: the server has none.
    pub(super) level: Option<String>,
    /// The version of the protocol that it asked for.
    pub(super) version: String,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            capabilities: "{}".to_owned(),
            info: own_info().to_string(),
            level: None,
            version: mcp::NEWEST_VERSION.to_owned(),
        }
    }
}

fn own_info() -> Value {
    json!({ "name": "mcp-router", "version": env!("CARGO_PKG_VERSION") })
}

impl Client {
    /// As it introduces itself.
    pub(super) fn of(params: Option<&RawValue>) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Introduced {
            protocol_version: Option<String>,
            capabilities: Map<String, Value>,
            client_info: Option<Box<RawValue>>,
        }
        let said: Introduced = params.and_then(|params| by_name(params.get())).unwrap_or_default();
        let is_known = |version: &String| mcp::VERSIONS.contains(&version.as_str());
        Self {
            capabilities: declared(said.capabilities).to_string(),
            info: said.client_info.map_or_else(|| own_info().to_string(), |info| info.get().to_owned()),
            level: None,
            version: said.protocol_version.filter(is_known).unwrap_or_else(|| mcp::NEWEST_VERSION.to_owned()),
        }
    }

    /// What its `initialize` is answered (JSON text), by this result of `server/discover`; `None`: that names no version of
    /// ours, or is no such result. From then on it wants log messages if the server has them.
    pub(super) fn answered(&mut self, discovered: &str) -> Option<(String, Offers)> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Discovered {
            supported_versions: Vec<String>,
            #[serde(default)]
            capabilities: Map<String, Value>,
            #[serde(default)]
            instructions: Option<String>,
            #[serde(default, rename = "_meta")]
            meta: Map<String, Value>,
        }
        let mut found: Discovered = by_name(discovered)?;
        if !found.supported_versions.iter().any(|version| version == modern::VERSION) {
            return None;
        }
        // Extensions and tasks of this era are none of the others.
        found.capabilities.retain(|name, _| !matches!(name.as_str(), "extensions" | "tasks"));
        let offers = Offers::of(&found.capabilities);
        self.level = found.capabilities.contains_key("logging").then(|| USUAL_LEVEL.to_owned());
        let server = found.meta.remove(modern::META_SERVER).filter(Value::is_object).unwrap_or_else(own_info);
        let mut told = json!({
            "protocolVersion": self.version, "capabilities": found.capabilities, "serverInfo": server,
        });
        if let Some(instructions) = found.instructions {
            told["instructions"] = instructions.into();
        }
        Some((told.to_string(), offers))
    }

    /// It sets the level of log messages.
    ///
    /// # Errors
    /// An error object (JSON text): it is none, or the server has no log.
    pub(super) fn set_level(&mut self, params: Option<&RawValue>) -> Result<(), String> {
        #[derive(Deserialize)]
        struct Level {
            level: String,
        }
        let level = params.and_then(|params| by_name::<Level>(params.get())).map(|asked| asked.level);
        match (level, &mut self.level) {
            (Some(level), Some(before)) if LEVELS.contains(&level.as_str()) => {
                *before = level;
                Ok(())
            }
            (_, None) => Err(json!({ "code": -32601, "message": "the server sends no log messages" }).to_string()),
            _ => Err(json!({ "code": INVALID_PARAMS, "message": "no level of log messages" }).to_string()),
        }
    }
}

/// The client's capabilities as clients of this era declare them.
fn declared(mut capabilities: Map<String, Value>) -> Value {
    // Those of 2025-11-25 are others.
    capabilities.remove("tasks");
    if let Some(Value::Object(extensions)) = capabilities.get_mut("extensions") {
        extensions.remove(modern::TASKS);
    }
    // Before there were two modes it meant this one.
    if let Some(Value::Object(modes)) = capabilities.get_mut("elicitation")
        && modes.is_empty()
    {
        modes.insert("form".to_owned(), json!({}));
    }
    Value::Object(capabilities)
}

/// What a server tells of without being asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Offers {
    pub(super) tools: bool,
    pub(super) prompts: bool,
    pub(super) resources: bool,
}

impl Offers {
    fn of(capabilities: &Map<String, Value>) -> Self {
        let changes = |list: &str| capabilities.get(list).is_some_and(|list| list["listChanged"] == true);
        Self { tools: changes("tools"), prompts: changes("prompts"), resources: changes("resources") }
    }
}

/// The result of a response.
pub(super) fn result_of(response: &[u8]) -> Option<&str> {
    Head::parse(response).ok()?.result.map(RawValue::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(params: &Value) -> Client {
        Client::of(Some(&RawValue::from_string(params.to_string()).unwrap()))
    }

    #[test]
    fn a_client_is_answered_with_what_the_server_says_in_a_version_with_sessions() {
        for (asked, told) in [
            ("2025-06-18", "2025-06-18"),
            ("2024-11-05", "2024-11-05"),
            ("2026-07-28", "2025-11-25"),
            ("1999", "2025-11-25"),
        ] {
            let mut client =
                client(&json!({ "protocolVersion": asked, "capabilities": {}, "clientInfo": { "name": "c" } }));
            let discovered = json!({
                "resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0, "cacheScope": "private",
                "capabilities": { "tools": { "listChanged": true }, "logging": {}, "extensions": { "x": {} } },
                "instructions": "be kind", "_meta": { modern::META_SERVER: { "name": "s", "version": "1" } },
            });
            let (answer, offers) = client.answered(&discovered.to_string()).unwrap();
            let answer: Value = serde_json::from_str(&answer).unwrap();
            let expected = json!({
                "protocolVersion": told, "capabilities": { "tools": { "listChanged": true }, "logging": {} },
                "serverInfo": { "name": "s", "version": "1" }, "instructions": "be kind",
            });
            assert_eq!(answer, expected);
            assert_eq!(offers, Offers { tools: true, ..Offers::default() });
            assert_eq!(client.level.as_deref(), Some("info"));
        }
    }

    #[test]
    fn a_server_of_other_versions_is_none_of_this_era() {
        let mut client = Client::default();
        for discovered in [json!({ "supportedVersions": ["2027-01-01"] }), json!({}), json!([])] {
            assert_eq!(client.answered(&discovered.to_string()), None, "{discovered}");
        }
    }

    #[test]
    fn what_the_client_can_do_is_declared_as_this_era_has_it() {
        let capabilities =
            json!({ "elicitation": {}, "sampling": {}, "roots": { "listChanged": true }, "tasks": { "list": {} } });
        let declared = client(&json!({ "capabilities": capabilities })).capabilities;
        let expected = json!({ "elicitation": { "form": {} }, "sampling": {}, "roots": { "listChanged": true } });
        assert_eq!(serde_json::from_str::<Value>(&declared).unwrap(), expected);
        let url = json!({ "elicitation": { "url": {} } });
        assert_eq!(client(&json!({ "capabilities": url })).capabilities, url.to_string());
        assert_eq!(client(&json!({})).capabilities, "{}");
    }

    #[test]
    fn a_level_is_set_where_there_is_a_log() {
        let level = |level: Value| RawValue::from_string(json!({ "level": level }).to_string()).unwrap();
        let mut client = Client { level: Some("info".to_owned()), ..Client::default() };
        assert_eq!(client.set_level(Some(&level(json!("error")))), Ok(()));
        assert_eq!(client.level.as_deref(), Some("error"));
        assert!(client.set_level(Some(&level(json!("loud")))).unwrap_err().contains("-32602"));
        client.level = None;
        assert!(client.set_level(Some(&level(json!("error")))).unwrap_err().contains("-32601"));
    }
}
