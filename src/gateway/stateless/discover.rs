//! `server/discover`, answered from what this process knows of the service. By the answer clients tell of which era a server is,
//! some for good: it is never an error that says no more than that something is the matter just now.

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::json;

use super::{
    asked::{Asked, Outcome},
    kept::Discovered,
    told::{Reading, Told},
};
use crate::{
    gateway::shared::Gateway,
    protocol::{
        jsonrpc::{self, Head, IdKey},
        modern::{self, META_CAPABILITIES, META_CLIENT, META_SERVER, META_VERSION, result},
    },
    upstream::{Endpoint, Service, choice::Era, credential::Who, notice::LinkLimits, question::Question},
};

/// How long what a server says of itself is believed: it may be replaced by another one without a word.
const BELIEVED: Duration = Duration::from_secs(60);

/// Id of the router's own question: JSON text.
const OWN_ID: &str = "\"mcp-router\"";

/// See the module's text.
pub(super) async fn answer(gateway: &Rc<Gateway>, asked: &Asked<'_>) -> Outcome {
    let known = gateway.shared.stateless.discovered(&asked.service.name);
    let result = match known {
        Some(known) => {
            if known.at.elapsed() >= BELIEVED {
                // What was true a minute ago is answered at once.
                let (gateway, service) = (Rc::clone(gateway), Arc::clone(asked.service));
                gateway
                    .shared
                    .stateless
                    .discover(&service.name, Discovered { at: std::time::Instant::now(), ..known.clone() });
                actix_rt::spawn(async move { learn(&gateway, &service).await });
            }
            known.result
        }
        None => match learn(gateway, asked.service).await {
            Some(result) => result,
            None => unknown(),
        },
    };
    let body = jsonrpc::result_response(asked.id.as_json(), &result);
    let body = if asked.grant.is_some() { result::private(&body) } else { body };
    Outcome::Whole { status: 200, body }
}

/// Nobody has told: what a server usually has, so that its client asks for it when it is there again.
pub(super) fn unknown() -> Arc<str> {
    let result = json!({
        "resultType": result::COMPLETE,
        "supportedVersions": [modern::VERSION],
        "capabilities": { "tools": {}, "prompts": {}, "resources": {}, "completions": {} },
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": { META_SERVER: { "name": "mcp-router", "version": env!("CARGO_PKG_VERSION") } },
    });
    result.to_string().into()
}

/// Asks the servers of the service, one after the other, until one tells.
async fn learn(gateway: &Rc<Gateway>, service: &Arc<Service>) -> Option<Arc<str>> {
    let limit = gateway.env.settings.upstream.health_timeout;
    let asked = async {
        for endpoint in service.candidates() {
            if gateway.member.lines.era(&endpoint).await != Some(Era::Modern) {
                continue;
            }
            if let Some(result) = ask(gateway, &endpoint).await {
                return Some(result);
            }
        }
        None
    };
    let result = tokio::time::timeout(limit, asked).await.ok().flatten()?;
    let discovered = Discovered { result: Arc::clone(&result), at: std::time::Instant::now() };
    gateway.shared.stateless.discover(&service.name, discovered);
    Some(result)
}

async fn ask(gateway: &Rc<Gateway>, endpoint: &Arc<Endpoint>) -> Option<Arc<str>> {
    let body = question();
    let question = Question { method: modern::DISCOVER, name: None, params: &[], body: &body, place: None };
    let replied = gateway.member.lines.ask(endpoint, Who::Itself, question).await.ok()?;
    let limits = LinkLimits::from(&gateway.env.settings.upstream);
    let mut reading =
        Reading::new(replied.reply, limits, IdKey::from_stored(OWN_ID), gateway.env.metrics.dropped.clone());
    loop {
        match reading.next().await.ok()? {
            Told::Notification(_) => {}
            Told::Response { body, .. } => return ours(Head::parse(&body).ok()?.result?.get()).map(Arc::from),
            Told::Nameless(_) => return None,
        }
    }
}

fn question() -> Bytes {
    let meta = json!({
        META_VERSION: modern::VERSION,
        META_CAPABILITIES: {},
        META_CLIENT: { "name": "mcp-router", "version": env!("CARGO_PKG_VERSION") },
    });
    let text =
        format!(r#"{{"jsonrpc":"2.0","id":{OWN_ID},"method":"{}","params":{{"_meta":{meta}}}}}"#, modern::DISCOVER);
    Bytes::from(text)
}

/// What the server says of itself, with the versions that are spoken here. `None`: it says nothing.
fn ours(result: &str) -> Option<String> {
    let said = result::Said::of(result).filter(|said| said.kind() == result::COMPLETE)?;
    let capabilities = said.capabilities?;
    let _: serde_json::Map<String, serde_json::Value> = serde_json::from_str(capabilities.get()).ok()?;
    let versions = format!("[\"{}\"]", modern::VERSION);
    result::edited(result, &[("supportedVersions", &versions)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_itself_is_told_with_the_versions_of_the_router() {
        let said = r#"{"resultType":"complete","supportedVersions":["2026-07-28","2025-11-25"],"capabilities":{"tools":{}},"instructions":"x"}"#;
        assert_eq!(
            ours(said).unwrap(),
            r#"{"supportedVersions":["2026-07-28"],"resultType":"complete","capabilities":{"tools":{}},"instructions":"x"}"#
        );
        for nothing in [r#"{"supportedVersions":["2026-07-28"]}"#, r#"{"capabilities":[]}"#, "[]"] {
            assert_eq!(ours(nothing), None, "{nothing}");
        }
        let unknown: serde_json::Value = serde_json::from_str(&unknown()).unwrap();
        assert_eq!((&unknown["ttlMs"], &unknown["supportedVersions"][0]), (&json!(0), &json!("2026-07-28")));
    }
}
