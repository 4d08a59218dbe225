//! `initialize`: which revision of the protocol is spoken, and what the server offers.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};

use crate::{
    options::SERVER_NAME,
    rpc::{Params, RpcError},
    session::{Client, Session},
};

/// The revisions the server speaks, newest first.
pub(crate) const PROTOCOL_VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

const INSTRUCTIONS: &str = "A directory of made-up persons. Use getAllPersons or getPersonById to read it and addPerson \
                            to add to it; nothing else changes it.";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InitializeParams {
    protocol_version: String,
    #[serde(default)]
    capabilities: ClientCapabilities,
}

#[derive(Deserialize, Default)]
struct ClientCapabilities {
    sampling: Option<IgnoredAny>,
    elicitation: Option<IgnoredAny>,
    roots: Option<IgnoredAny>,
}

/// Answers `initialize`. A second one on a live session is answered like the first: clients that lost track send it.
pub(crate) fn initialize(session: &Session, params: Params<'_>) -> Result<Value, RpcError> {
    let params: InitializeParams = params.read()?;
    let (version, offers) = (negotiated(&params.protocol_version), params.capabilities);
    session.set_client(Client {
        version,
        samples: offers.sampling.is_some(),
        elicits: offers.elicitation.is_some(),
        has_roots: offers.roots.is_some(),
    });
    Ok(json!({
        "protocolVersion": version,
        "capabilities": {
            "tools": { "listChanged": true },
            "resources": { "subscribe": true },
            "prompts": {},
            "logging": {},
        },
        "serverInfo": { "name": SERVER_NAME, "title": "MCP reference server", "version": env!("CARGO_PKG_VERSION") },
        "instructions": INSTRUCTIONS,
    }))
}

/// The version asked for if it is spoken here, else the newest one (lifecycle, "Version Negotiation").
fn negotiated(requested: &str) -> &'static str {
    PROTOCOL_VERSIONS.into_iter().find(|version| *version == requested).unwrap_or(PROTOCOL_VERSIONS[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_version_is_echoed_and_any_other_gets_the_newest() {
        for version in PROTOCOL_VERSIONS {
            assert_eq!(negotiated(version), version);
        }
        for other in ["2026-07-28", "2024-10-07", ""] {
            assert_eq!(negotiated(other), "2025-11-25");
        }
    }
}
