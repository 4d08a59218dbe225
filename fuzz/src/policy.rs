//! Rules let nothing pass that any reader could take for something else than what they allow.

use std::cell::OnceCell;

use bytes::Bytes;
use mcp_router::{
    policy::{Grant, List, Policy, Verdict, filtered},
    protocol::jsonrpc::Head,
    settings::PolicyFile,
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::json::value;

const RULES: &str = r#"
    [[rule]]
    name = "r"
    who = ["*"]
    methods = ["tools/*", "resources/read"]
    tools = ["good*"]
    resources = ["file:///public/*"]
"#;

thread_local! {
    static GRANT: OnceCell<Grant> = const { OnceCell::new() };
}

/// Bytes: a message of a client; and the answer of a server to `tools/list`.
pub fn policy(data: &[u8]) {
    GRANT.with(|grant| {
        let grant = grant.get_or_init(|| {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("policy.toml");
            std::fs::write(&path, RULES).expect("it is written");
            Policy::new(&PolicyFile::read(&path).expect("it is read")).grant("key:x", "s", |_| true)
        });
        check_message(data, grant);
        check_list(data, grant);
    });
}

fn check_message(body: &[u8], grant: &Grant) {
    let Ok(head) = Head::parse(body) else { return };
    if grant.judge(&head, body) != Verdict::Allowed {
        return;
    }
    for method in readings(body, "method") {
        let Some(method) = text(&method) else { continue };
        let named =
            |name| readings(body, "params").into_iter().flat_map(move |params| readings(params.as_bytes(), name));
        match method.as_str() {
            "tools/call" => {
                let names: Vec<_> = named("name").filter_map(|name| text(&name)).collect();
                assert!(names.iter().all(|name| name.starts_with("good")), "{names:?}");
            }
            "resources/read" => {
                for uri in named("uri").filter_map(|uri| text(&uri)) {
                    assert!(uri.starts_with("file:///public/"), "{uri}");
                    if let Ok(url) = url::Url::parse(&uri) {
                        assert!(url.path().starts_with("/public/"), "{uri} is {url}");
                    }
                }
            }
            _ => assert!(
                method.starts_with("tools/")
                    || matches!(
                        method.as_str(),
                        "initialize" | "ping" | "notifications/initialized" | "notifications/cancelled"
                    ),
                "{method}"
            ),
        }
    }
}

fn check_list(answer: &[u8], grant: &Grant) {
    let Some(shown) = filtered(List::Tools, grant, &Bytes::copy_from_slice(answer)) else { return };
    for result in readings(&shown, "result") {
        for tools in readings(result.as_bytes(), "tools") {
            let Some(Value::Array(tools)) = value(tools.as_bytes()) else { continue };
            for tool in tools {
                let name = tool.get("name").and_then(Value::as_str);
                assert!(name.is_some_and(|name| name.starts_with("good")), "{tool}");
            }
        }
    }
    // What may be shown is.
    let names = |answer: &[u8]| -> Option<Vec<String>> {
        let tools = value(answer)?.get("result")?.get("tools")?.as_array()?.clone();
        let name = |tool: &Value| Some(tool.get("name")?.as_str()?.to_owned());
        Some(tools.iter().filter_map(name).collect())
    };
    if let (Some(all), Some(shown)) = (names(answer), names(&shown)) {
        // A tool with two names is none, whichever way they are written.
        let text = String::from_utf8_lossy(answer).to_lowercase();
        let doubled = text.contains('\\') || text.matches("name").count() > all.len();
        let good: Vec<_> = all.into_iter().filter(|name| name.starts_with("good")).collect();
        assert!(doubled || shown == good, "{shown:?} of {good:?}");
    }
}

fn text(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

/// What readers may find under this name: the first and the last one of them, by case or without looking at it.
fn readings(object: &[u8], name: &str) -> Vec<String> {
    let Ok(Members(members)) = serde_json::from_slice::<Members>(object) else { return Vec::new() };
    let exact = |member: &&(String, String)| member.0 == name;
    let folded = |member: &&(String, String)| member.0.to_lowercase() == name.to_lowercase();
    [members.iter().find(exact), members.iter().rfind(exact), members.iter().find(folded), members.iter().rfind(folded)]
        .into_iter()
        .flatten()
        .map(|(_, value)| value.clone())
        .collect()
}

/// All members of an object, in their order.
struct Members(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    members.push((name, value.get().to_owned()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}
