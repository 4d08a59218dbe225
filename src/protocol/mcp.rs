//! What the router knows of MCP itself: method names, and which requests may safely be sent again.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    by_name::{ByName, by_name},
    jsonrpc::{Head, with_part},
};

/// The client's first request.
pub const INITIALIZE: &str = "initialize";
/// The client's word that it has the answer to `initialize`.
pub const INITIALIZED: &str = "notifications/initialized";
/// How far a request has come.
pub const PROGRESS: &str = "notifications/progress";
/// Either side gives up a request.
pub const CANCELLED: &str = "notifications/cancelled";
/// Liveness, both ways.
pub const PING: &str = "ping";
/// Sets the level of log notifications.
pub const SET_LEVEL: &str = "logging/setLevel";
/// A server asks the user.
pub const ELICIT: &str = "elicitation/create";
/// The page of an elicitation by URL has been visited.
pub const ELICITED: &str = "notifications/elicitation/complete";
/// A server asks the model.
pub const SAMPLE: &str = "sampling/createMessage";
/// A server asks for the roots.
pub const LIST_ROOTS: &str = "roots/list";
/// Subscribes to one resource.
pub const SUBSCRIBE: &str = "resources/subscribe";
/// Ends a subscription.
pub const UNSUBSCRIBE: &str = "resources/unsubscribe";
/// Runs a tool: the only request of the protocol that may have side effects of its own.
pub const CALL_TOOL: &str = "tools/call";
/// Lists the tools.
pub const LIST_TOOLS: &str = "tools/list";
/// 2026-07-28: what a server is and can do, which is answered without a session.
pub const DISCOVER: &str = "server/discover";
/// Of the router's own: a request of this method stands in the place of one that is refused, and is answered with the error
/// that its params are. A client that sends it itself is told what it says.
pub const REFUSED: &str = "router/refused";
/// Protocol versions with sessions, the newest first: those that a client may name in a header.
pub const VERSIONS: [&str; 4] = [NEWEST_VERSION, "2025-06-18", "2025-03-26", "2024-11-05"];
/// The version of those who name none.
pub const UNNAMED: &str = "2025-03-26";
/// The one version in which a POST may hold an array of messages.
pub const WITH_BATCHES: &str = "2025-03-26";
/// The first version without sessions ([`super::modern`]).
pub const STATELESS_VERSION: &str = "2026-07-28";
/// Newest protocol version that the router itself speaks when it is the client.
pub const NEWEST_VERSION: &str = "2025-11-25";

/// May this request run twice without harm?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repeatable {
    /// By the protocol: the method only reads, or sets a value.
    Yes,
    /// It calls the tool of this name: the tool's annotations decide.
    IfToolSays(String),
    /// Unknown method: assume the worst.
    No,
}

/// Decides for a request. REQ-3.
pub fn repeatable(method: &str, params: Option<&RawValue>) -> Repeatable {
    match method {
        INITIALIZE
        | PING
        | SET_LEVEL
        | SUBSCRIBE
        | UNSUBSCRIBE
        | LIST_TOOLS
        | "resources/list"
        | "resources/templates/list"
        | "resources/read"
        | "prompts/list"
        | "prompts/get"
        | "completion/complete"
        | "tasks/get"
        | "tasks/list"
        | "tasks/result" => Repeatable::Yes,
        CALL_TOOL => tool_name(params).map_or(Repeatable::No, Repeatable::IfToolSays),
        _ => Repeatable::No,
    }
}

fn tool_name(params: Option<&RawValue>) -> Option<String> {
    #[derive(Deserialize)]
    struct Call {
        name: String,
    }
    by_name::<Call>(params?.get()).map(|call| call.name)
}

/// A notification of this method belongs to no request that runs, whatever the server is working on.
pub fn is_about_nobodys_request(method: &str) -> bool {
    let rest = method.strip_prefix("notifications/").unwrap_or_default();
    rest.ends_with("/list_changed") || rest == "resources/updated"
}

/// The request id that a `notifications/cancelled` names: JSON text, which borrows from the message.
pub fn cancelled_request_id(params: Option<&RawValue>) -> Option<&str> {
    #[derive(Deserialize)]
    struct Cancelled<'a> {
        #[serde(borrow, rename = "requestId")]
        request_id: &'a RawValue,
    }
    by_name::<Cancelled<'_>>(params?.get()).map(|cancelled| cancelled.request_id.get())
}

/// The `_meta.progressToken` of a request (JSON text): by it the server names the request in its progress.
pub fn progress_token_asked(params: Option<&RawValue>) -> Option<&str> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow, rename = "_meta")]
        meta: Meta<'a>,
    }
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, rename = "progressToken")]
        token: &'a RawValue,
    }
    serde_json::from_str::<Params<'_>>(params?.get()).ok().map(|params| params.meta.token.get())
}

/// The `progressToken` of a `notifications/progress` (JSON text).
pub fn progress_token_named(params: Option<&RawValue>) -> Option<&str> {
    #[derive(Deserialize)]
    struct Progress<'a> {
        #[serde(borrow, rename = "progressToken")]
        token: &'a RawValue,
    }
    serde_json::from_str::<Progress<'_>>(params?.get()).ok().map(|progress| progress.token.get())
}

/// A copy of a request whose `_meta.progressToken` is `token` (JSON text); all other bytes stay. `None`: it has none.
pub fn with_progress_token(body: &[u8], token: &str) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow, rename = "_meta")]
        meta: &'a RawValue,
    }
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, rename = "progressToken")]
        token: &'a RawValue,
    }
    let params = Head::parse(body).ok()?.params?;
    let meta = by_name::<Params<'_>>(params.get())?.meta;
    let old = by_name::<Meta<'_>>(meta.get())?.token.get();
    // It borrows from `body`, so the distance of the two starts is its place in it.
    let start = (old.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    let (before, after) = (body.get(..start)?, body.get(start + old.len()..)?);
    Some(Bytes::from([before, token.as_bytes(), after].concat()))
}

/// The `uri` of a subscription request.
pub fn subscription_uri(params: Option<&RawValue>) -> Option<String> {
    #[derive(Deserialize)]
    struct Subscription {
        uri: String,
    }
    by_name::<Subscription>(params?.get()).map(|subscription| subscription.uri)
}

/// This is 2026-07-28 or a later version, by its date: one without sessions.
pub fn is_without_sessions(version: &str) -> bool {
    let shape = version.bytes().enumerate().all(|(at, byte)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    version.len() == STATELESS_VERSION.len() && shape && version >= STATELESS_VERSION
}

/// The version that a result of `initialize` (JSON text) names.
pub fn protocol_version(result: &str) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Initialized {
        protocol_version: String,
    }
    serde_json::from_str::<Initialized>(result).ok().map(|initialized| initialized.protocol_version)
}

/// A copy of an `initialize` that offers the newest version with sessions instead of one without; all other bytes stay. Some
/// servers would agree to anything. `None`: it offers none such.
pub fn with_sessions(body: &[u8]) -> Option<Bytes> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Offer<'a> {
        #[serde(borrow)]
        protocol_version: &'a RawValue,
    }
    let params = Head::parse(body).ok()?.params?;
    let offered = by_name::<Offer<'_>>(params.get())?.protocol_version.get();
    let has_none = serde_json::from_str::<String>(offered).is_ok_and(|version| is_without_sessions(&version));
    has_none.then(|| with_part(body, offered, &format!("\"{NEWEST_VERSION}\"")))
}

/// A list request with these parameters asks for the first page.
pub fn is_first_page(params: Option<&RawValue>) -> bool {
    #[derive(Deserialize)]
    struct Paged {
        #[serde(default)]
        cursor: Option<serde::de::IgnoredAny>,
    }
    params.is_none_or(|params| {
        params.get() == "null" || by_name::<Paged>(params.get()).is_some_and(|paged| paged.cursor.is_none())
    })
}

/// A tool of a `tools/list` result, as far as the router needs it.
#[derive(Debug, Deserialize)]
pub struct ListedTool {
    /// Name to call it by.
    pub name: String,
    /// What the server says of its effects.
    #[serde(default)]
    pub annotations: Option<ByName<ToolAnnotations>>,
}

/// MCP `ToolAnnotations`: hints; absent ones mean the worst.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolAnnotations {
    /// Changes nothing.
    #[serde(default)]
    pub read_only_hint: bool,
    /// A second call with the same arguments changes nothing more.
    #[serde(default)]
    pub idempotent_hint: bool,
}

impl ListedTool {
    /// A call of it may be sent again when its outcome is unknown.
    pub fn repeatable(&self) -> bool {
        self.annotations.as_ref().is_some_and(|ByName(hints)| hints.read_only_hint || hints.idempotent_hint)
    }
}

/// See [`REFUSED`]. `id`: JSON text.
pub fn refusal(id: &str, error: &serde_json::Value) -> Bytes {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{REFUSED}","params":{error}}}"#).into()
}

/// The answer to a [`refusal`]. `id`: JSON text.
pub fn refused(id: &str, params: Option<&RawValue>) -> Bytes {
    let error = params.map_or(r#"{"code":-32600,"message":"refused"}"#, RawValue::get);
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reading_requests_are_repeatable() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        assert_eq!(repeatable(LIST_TOOLS, None), Repeatable::Yes);
        assert_eq!(
            repeatable(CALL_TOOL, Some(&raw(r#"{"name":"addPerson","arguments":{}}"#))),
            Repeatable::IfToolSays("addPerson".into())
        );
        assert_eq!(repeatable(CALL_TOOL, None), Repeatable::No);
        assert_eq!(repeatable("vendor/doIt", None), Repeatable::No);
        let tool: ListedTool = serde_json::from_str(r#"{"name":"a","annotations":{"readOnlyHint":true}}"#).unwrap();
        assert!(tool.repeatable());
        let silent: ListedTool = serde_json::from_str(r#"{"name":"a"}"#).unwrap();
        assert!(!silent.repeatable());
    }

    #[test]
    fn versions_without_sessions_are_told_by_their_dates() {
        for (version, expected) in [
            (STATELESS_VERSION, true),
            ("2027-01-01", true),
            ("2026-07-27", false),
            ("DRAFT-2026-v1", false),
            ("2026-07-28 ", false),
            ("9999999999", false),
            ("", false),
        ] {
            assert_eq!(is_without_sessions(version), expected, "{version}");
        }
        assert!(!VERSIONS.into_iter().any(is_without_sessions));
    }

    #[test]
    fn a_handshake_offers_a_version_that_has_sessions() {
        let body =
            br#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion" : "2026-07-28","x":1}}"#;
        let older = with_sessions(body).unwrap();
        assert_eq!(
            older,
            &br#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion" : "2025-11-25","x":1}}"#[..]
        );
        assert_eq!(with_sessions(&older), None);
    }

    /// JSON-RPC has parameters by position, MCP has not: no member is taken from a place in an array.
    #[test]
    fn parameters_by_position_say_nothing() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        for array in [r#"["a"]"#, "[5]", "[]", r#"[{"progressToken":1}]"#] {
            let params = raw(array);
            assert_eq!(repeatable(CALL_TOOL, Some(&params)), Repeatable::No, "{array}");
            assert_eq!(cancelled_request_id(Some(&params)), None, "{array}");
            assert_eq!(subscription_uri(Some(&params)), None, "{array}");
            assert!(!is_first_page(Some(&params)), "{array}");
        }
        for params in [r#"[{"progressToken":1}]"#, r#"{"_meta":["t"]}"#] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{params}}}"#);
            assert_eq!(with_progress_token(body.as_bytes(), "2"), None, "{params}");
        }
        assert!(serde_json::from_str::<ListedTool>(r#"{"name":"a","annotations":[true]}"#).is_err());
    }
}
