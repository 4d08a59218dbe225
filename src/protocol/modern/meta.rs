//! What a request says of itself in `params`, read once ([`Said`]), and requests with another `_meta`.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{META_CAPABILITIES, META_PREFIX, META_VERSION, edit, refusal::Refusal};
use crate::protocol::{
    by_name::{ByName, by_name},
    jsonrpc::{Head, with_part},
    members::Members,
};

/// See the module's text. Texts that are of another type count as none; all others are as they stand there.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Said<'a> {
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<ByName<Meta<'a>>>,
    /// Of a tool or a prompt.
    #[serde(borrow, default, deserialize_with = "text")]
    pub name: Option<Cow<'a, str>>,
    /// Of a resource.
    #[serde(borrow, default, deserialize_with = "text")]
    pub uri: Option<Cow<'a, str>>,
    /// Of a task.
    #[serde(borrow, default, deserialize_with = "text")]
    pub task_id: Option<Cow<'a, str>>,
    /// Of a page.
    #[serde(borrow, default, deserialize_with = "text")]
    pub cursor: Option<Cow<'a, str>>,
    /// Of a tool.
    #[serde(borrow, default)]
    pub arguments: Option<&'a RawValue>,
    /// What the server has given its client to show again.
    #[serde(borrow, default, deserialize_with = "text")]
    pub request_state: Option<Cow<'a, str>>,
    /// What the client says to what the server has asked.
    #[serde(borrow, default)]
    pub input_responses: Option<&'a RawValue>,
    /// What a client listens to.
    #[serde(borrow, default)]
    pub notifications: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion", deserialize_with = "text")]
    version: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/clientCapabilities")]
    capabilities: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/clientInfo")]
    client: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/logLevel", deserialize_with = "text")]
    log_level: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "progressToken")]
    progress_token: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "mcp-router/idempotencyKey", deserialize_with = "text")]
    key: Option<Cow<'a, str>>,
}

/// A text, which borrows if it can; `None` for what is none.
fn text<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'a, str>>, D::Error> {
    #[derive(Deserialize)]
    struct Text<'t>(#[serde(borrow)] Cow<'t, str>);
    let raw = <&'de RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str::<Text<'de>>(raw.get()).ok().map(|Text(text)| text))
}

impl<'a> Said<'a> {
    /// Of these parameters. `None`: they are no object, or say something twice.
    pub fn of(params: Option<&'a RawValue>) -> Option<Self> {
        params.map_or_else(|| Some(Self::default()), |params| by_name(params.get()))
    }

    fn meta(&self) -> Option<&Meta<'a>> {
        self.meta.as_ref().map(|ByName(meta)| meta)
    }

    /// The protocol version.
    pub fn version(&self) -> Option<&str> {
        self.meta()?.version.as_deref()
    }

    /// What the client can do: JSON text of an object.
    pub fn capabilities(&self) -> Option<&'a str> {
        self.meta()?.capabilities.map(RawValue::get).filter(|text| text.starts_with('{'))
    }

    /// Who the client is: JSON text.
    pub fn client(&self) -> Option<&'a str> {
        self.meta()?.client.map(RawValue::get)
    }

    /// From which level on it wants log messages.
    pub fn log_level(&self) -> Option<&str> {
        self.meta()?.log_level.as_deref()
    }

    /// By what progress of it is to be named: JSON text.
    pub fn progress_token(&self) -> Option<&'a str> {
        self.meta()?.progress_token.map(RawValue::get)
    }

    /// By which it is known when its client asks again (of the router's own: docs/protocol.md).
    pub fn key(&self) -> Option<&str> {
        self.meta()?.key.as_deref()
    }

    /// It goes on with a request that its server has asked something about.
    pub fn goes_on(&self) -> bool {
        self.request_state.is_some() || self.input_responses.is_some()
    }

    /// Everything that a request of this version must say is there.
    ///
    /// # Errors
    /// What is missing first.
    pub fn complete(&self) -> Result<(), Refusal> {
        if self.version().is_none() {
            return Err(Refusal::NoMeta(META_VERSION));
        }
        if self.capabilities().is_none() {
            return Err(Refusal::NoMeta(META_CAPABILITIES));
        }
        Ok(())
    }

    /// The client declares this capability, by its path: `["elicitation"]`, `["extensions", TASKS]`.
    pub fn declares(&self, path: &[&str]) -> bool {
        let mut at = self.capabilities();
        for name in path {
            at = at.and_then(|object| Members::of(object)?.get(name)).filter(|value| *value != "null");
        }
        at.is_some()
    }
}

/// A copy of a request whose `_meta` has no more keys of the protocol's own but `keeps`, and these (JSON text) first; all
/// other bytes stay. For a server of another era, or another client's word. `None`: it is no request whose parameters are an
/// object.
pub fn with_meta(body: &[u8], keeps: impl Fn(&str) -> bool, puts: &[(&str, &str)]) -> Option<Bytes> {
    let drops = |name: &str| name.starts_with(META_PREFIX) && !keeps(name);
    edited_params(body, |params| {
        let members = Members::of(params)?;
        let meta = edit::edited(members.get("_meta").filter(|meta| *meta != "null").unwrap_or("{}"), drops, puts)?;
        let is_empty = meta == "{}";
        if is_empty {
            return edit::edited(params, |name| name == "_meta", &[]);
        }
        edit::edited(params, |_| false, &[("_meta", &meta)])
    })
}

/// The parameters of a request but for `_meta`, as JSON text: what its answer depends on besides its client.
pub fn without_meta(body: &[u8]) -> String {
    let params = Head::parse(body).ok().and_then(|head| head.params);
    params.and_then(|params| edit::edited(params.get(), |name| name == "_meta", &[])).unwrap_or_else(|| "{}".to_owned())
}

/// A copy of a request without these parameters, and with others (JSON text); all other bytes stay. `None`: as above.
pub fn with_params(body: &[u8], drops: &[&str], puts: &[(&str, &str)]) -> Option<Bytes> {
    edited_params(body, |params| edit::edited(params, |name| drops.contains(&name), puts))
}

fn edited_params(body: &[u8], edit: impl FnOnce(&str) -> Option<String>) -> Option<Bytes> {
    let head = Head::parse(body).ok()?;
    match head.params {
        Some(params) => Some(with_part(body, params.get(), &edit(params.get())?)),
        None => {
            let params = edit("{}")?;
            let text = std::str::from_utf8(body).ok()?;
            edit::edited(text, |_| false, &[("params", &params)]).map(Bytes::from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_request_says_of_itself_what_stands_in_its_parameters() {
        let params = raw(r#"{"name":"a\u0062","arguments":{"x":1},"requestState":"s","_meta":{
            "io.modelcontextprotocol/protocolVersion":"2026-07-28","progressToken":7,
            "io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{}},"sampling":null,
            "extensions":{"io.modelcontextprotocol/tasks":{}}},
            "io.modelcontextprotocol/logLevel":"info"}}"#);
        let said = Said::of(Some(&params)).unwrap();
        assert_eq!((said.name.as_deref(), said.version()), (Some("ab"), Some("2026-07-28")));
        assert_eq!((said.progress_token(), said.log_level()), (Some("7"), Some("info")));
        assert!(said.goes_on() && said.complete().is_ok());
        for (path, expected) in [
            (&["elicitation"][..], true),
            (&["elicitation", "form"], true),
            (&["elicitation", "url"], false),
            (&["sampling"], false),
            (&["extensions", super::super::TASKS], true),
        ] {
            assert_eq!(said.declares(path), expected, "{path:?}");
        }
    }

    #[test]
    fn what_must_be_said_and_is_not_is_named() {
        let missing = |params: &str| Said::of(Some(&raw(params))).unwrap().complete().unwrap_err();
        for params in ["{}", r#"{"_meta":{}}"#, r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":1}}"#] {
            assert_eq!(missing(params), Refusal::NoMeta(META_VERSION), "{params}");
        }
        for more in ["", r#","io.modelcontextprotocol/clientCapabilities":[]"#] {
            let params = format!(r#"{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28"{more}}}}}"#);
            assert_eq!(missing(&params), Refusal::NoMeta(META_CAPABILITIES), "{params}");
        }
        for params in [r#"["x"]"#, r#"{"_meta":[]}"#, r#"{"name":"a","name":"b"}"#, "1"] {
            assert!(Said::of(Some(&raw(params))).is_none(), "{params}");
        }
    }

    #[test]
    fn only_meta_changes_when_it_is_changed() {
        let body = br#"{"jsonrpc":"2.0", "id":1,"method":"m","params": {"name":"x","_meta":{"a":1,"io.modelcontextprotocol/clientInfo":{},"io.modelcontextprotocol/logLevel":"info"}} }"#;
        assert_eq!(
            with_meta(body, |name| name.ends_with("logLevel"), &[("t", "2")]).unwrap(),
            &br#"{"jsonrpc":"2.0", "id":1,"method":"m","params": {"_meta":{"t":2,"a":1,"io.modelcontextprotocol/logLevel":"info"},"name":"x"} }"#[..]
        );
        let bare = br#"{"jsonrpc":"2.0","id":1,"method":"m"}"#;
        assert_eq!(
            with_meta(bare, |_| false, &[("t", "2")]).unwrap(),
            &br#"{"params":{"_meta":{"t":2}},"jsonrpc":"2.0","id":1,"method":"m"}"#[..]
        );
        let only = br#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"io.modelcontextprotocol/x":1}}}"#;
        assert_eq!(
            with_meta(only, |_| false, &[]).unwrap(),
            &br#"{"jsonrpc":"2.0","id":1,"method":"m","params":{}}"#[..]
        );
        assert_eq!(with_meta(br#"{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}"#, |_| false, &[]), None);
        assert_eq!(
            with_params(body, &["_meta"], &[("requestState", "\"s\"")]).unwrap(),
            &br#"{"jsonrpc":"2.0", "id":1,"method":"m","params": {"requestState":"s","name":"x"} }"#[..]
        );
    }
}
