//! Messages of one era become messages of the other, whatever servers and clients say: JSON-RPC with the id of the client, no
//! code that this era does not have, and no capability that was not declared.

use bytes::Bytes;
use mcp_router::{
    gateway::stateless::held::translate::{ask, capabilities, fingerprint, notification, params, response},
    protocol::{jsonrpc::Head, modern::meta::Said},
};
use serde::de::IgnoredAny;
use serde_json::Value;

use super::choices::Choices;

/// JSON, in any case; `None`: with numbers that no `Value` holds.
fn value(text: &[u8]) -> Option<Value> {
    let told = String::from_utf8_lossy(text);
    serde_json::from_slice::<IgnoredAny>(text).unwrap_or_else(|error| panic!("no JSON ({error}): {told}"));
    super::json::value(text)
}

/// Of a client that can be asked everything.
const EVERYTHING: &str =
    r#"{"_meta":{"io.modelcontextprotocol/clientCapabilities":{"elicitation":{"url":{}},"sampling":{},"roots":{}}}}"#;
const METHODS: [&str; 4] = ["tools/call", "tools/list", "resources/read", "prompts/get"];

/// Bytes: choices of a method and of what the client has declared, and a message of either side.
pub fn held(data: &[u8]) {
    let mut choices = Choices::of(data);
    let [method, has_declared] = choices.bytes();
    let method = METHODS[usize::from(method) % METHODS.len()];
    let body = choices.rest();
    let declared: Option<Box<serde_json::value::RawValue>> =
        (has_declared % 2 == 1).then(|| serde_json::from_str(EVERYTHING).expect("JSON"));
    let said = Said::of(declared.as_deref()).expect("an object");
    answer(body, method, &said);
    question(body, &said, declared.is_some());
    request(body, method);
    if let Ok(text) = std::str::from_utf8(body) {
        declaration(text);
    }
}

fn answer(body: &[u8], method: &str, said: &Said<'_>) {
    let told = response(&Bytes::copy_from_slice(body), "\"the id\"", method, Some(r#"{"name":"s"}"#), said);
    let Some(message) = value(&told.body) else { return };
    assert_eq!((&message["jsonrpc"], &message["id"]), (&Value::from("2.0"), &Value::from("the id")));
    match (message.get("result"), message.get("error")) {
        (Some(result), None) => {
            assert!(result["resultType"].is_string() && told.status == 200, "{result}");
        }
        (None, Some(error)) => {
            let code = error["code"].as_i64().expect("a code");
            assert!(!(-32099..=-32000).contains(&code), "{code}");
            assert_eq!(told.status, if code == -32601 { 404 } else { 200 });
            assert!(error["message"].is_string());
        }
        _ => panic!("neither result nor error, or both: {message}"),
    }
}

fn question(body: &[u8], said: &Said<'_>, has_declared: bool) {
    let asked = ask(body, said);
    assert!(asked.is_none() || has_declared);
    if let Some(asked) = asked.and_then(|asked| value(asked.as_bytes())) {
        let method = asked["method"].as_str().expect("a method");
        assert!(["elicitation/create", "sampling/createMessage", "roots/list"].contains(&method), "{method}");
        assert!(
            asked["params"]["_meta"].get("progressToken").is_none() && asked["params"].get("elicitationId").is_none()
        );
    }
    let Ok(head) = Head::parse(body) else { return };
    let Some(method) = head.method() else { return };
    let body = Bytes::copy_from_slice(body);
    for (token, wants_logs) in [(None, false), (Some("\"the token\""), true)] {
        if let Some(told) = notification(&body, method, token, wants_logs).and_then(|told| value(&told)) {
            assert_eq!(told["method"].as_str(), Some(method));
            if method == "notifications/progress" {
                assert_eq!(told["params"]["progressToken"], "the token");
            }
        }
    }
}

/// What is of its era is gone, and the same request in other words has the same fingerprint.
fn request(body: &[u8], method: &str) {
    let Some(for_server) = params(body, Some("\"the token\"")) else { return };
    if let Some(of_server) = value(for_server.as_bytes()) {
        let Value::Object(of_server) = of_server else { panic!("no object: {for_server}") };
        assert_eq!(of_server["_meta"]["progressToken"], "the token");
        assert!(!of_server.contains_key("requestState") && !of_server.contains_key("inputResponses"));
        if let Some(meta) = of_server["_meta"].as_object() {
            assert!(meta.keys().all(|name| !name.starts_with("io.modelcontextprotocol/")), "{meta:?}");
        }
    }
    let as_sent = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{for_server}}}"#);
    assert_eq!(fingerprint("s", method, body), fingerprint("s", method, as_sent.as_bytes()), "{as_sent}");
    assert_ne!(fingerprint("s", method, body), fingerprint("other", method, body));
}

fn declaration(text: &str) {
    let passed = capabilities(text);
    let known = value(passed.as_bytes()).expect("numbers that a value holds");
    let known = known.as_object().expect("an object");
    let declared = super::json::value(text.as_bytes()).unwrap_or_default();
    for (name, value) in known {
        assert!(["elicitation", "roots", "sampling"].contains(&name.as_str()) && value.is_object(), "{name}");
        assert!(declared[name].is_object(), "{name} was not declared");
    }
    assert_eq!(capabilities(&passed), passed, "said again");
}
