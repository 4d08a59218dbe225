//! What a JSON-RPC message is, judged by the values of its members (JSON-RPC 2.0, sections 4 and 5): for tests of the code
//! that reads heads alone.

use serde_json::Value;

/// The members that mean anything.
const KNOWN: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];

/// What a message says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said<'v> {
    /// `request`, `notification` or `response`.
    pub kind: &'static str,
    /// Of a request or notification.
    pub method: Option<&'v str>,
    /// Of a request or response; `None` for a response whose id is `null`.
    pub id: Option<&'v Value>,
    /// It is a response with a result.
    pub success: bool,
}

/// Reads one message; `None`: it is none. A member that is `null` counts only where nothing else says what the message
/// is, since many servers write those that they have no value for.
pub fn said(message: &Value) -> Option<Said<'_>> {
    let message = message.as_object()?;
    if message.get("jsonrpc") != Some(&Value::from("2.0")) {
        return None;
    }
    let given = |name: &str| message.get(name).filter(|value| !value.is_null());
    let id = given("id").filter(|id| id.is_string() || id.is_number());
    let id_is_null = message.get("id") == Some(&Value::Null);
    match given("method") {
        Some(method) => {
            let method = Some(method.as_str()?);
            if given("result").or(given("error")).is_some() {
                None
            } else if message.contains_key("id") {
                id.map(|id| Said { kind: "request", method, id: Some(id), success: false })
            } else {
                Some(Said { kind: "notification", method, id: None, success: false })
            }
        }
        None => {
            let success = match (message.get("result"), message.get("error")) {
                (None, None) => return None,
                (_, Some(error)) if !error.is_null() => {
                    if given("result").is_some() {
                        return None;
                    }
                    false
                }
                (result, _) => result.is_some(),
            };
            (id.is_some() || id_is_null).then_some(Said { kind: "response", method: None, id, success })
        }
    }
}

/// It is one message, and no member that means anything stands there twice, which `message` (the value of `body`) does not
/// tell.
pub fn is_sound(body: &[u8], message: &Value) -> bool {
    said(message).is_some() && !is_a_known_member_doubled(body)
}

fn is_a_known_member_doubled(body: &[u8]) -> bool {
    struct Keys(Vec<String>);
    impl<'de> serde::Deserialize<'de> for Keys {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_map(Visitor)
        }
    }
    struct Visitor;
    impl<'de> serde::de::Visitor<'de> for Visitor {
        type Value = Keys;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
            let mut keys = Vec::new();
            while let Some((key, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                keys.push(key);
            }
            Ok(Keys(keys))
        }
    }
    let Ok(Keys(keys)) = serde_json::from_slice(body) else { return false };
    KNOWN.iter().any(|known| keys.iter().filter(|key| key == known).count() > 1)
}

/// What serde_json refuses in a whole value and passes over in parts that nobody asks for: they go on as they came.
pub fn is_passed_over(error: &serde_json::Error) -> bool {
    ["number out of range", "lone leading surrogate", "unexpected end of hex escape", "recursion limit exceeded"]
        .iter()
        .any(|reason| error.to_string().starts_with(reason))
}
