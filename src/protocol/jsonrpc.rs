//! JSON-RPC 2.0, as far as a router must understand it: the head of a message (kind, id, method), never its payload.
//!
//! A body is validated once and then passed on byte for byte; `params` and `result` stay [`RawValue`]s that borrow
//! from it. Source: JSON-RPC 2.0 specification; MCP forbids `null` ids for requests and (since 2025-06-18) batches.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::by_name::by_name;
pub use super::id_key::IdKey;

/// Invalid JSON.
pub const PARSE_ERROR: i64 = -32700;
/// JSON, but no JSON-RPC request; also batches.
pub const INVALID_REQUEST: i64 = -32600;
/// Unknown method.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The router or its upstream failed.
pub const INTERNAL_ERROR: i64 = -32603;
/// The upstream could not be reached or closed the connection (the SDKs' `ConnectionClosed`). Not executed.
pub const UPSTREAM_UNAVAILABLE: i64 = -32000;
/// No answer in time, or the outcome is unknown (the SDKs' `RequestTimeout`).
pub const OUTCOME_UNKNOWN: i64 = -32001;

/// What is wrong with a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// Not JSON (or not UTF-8).
    #[error("the body is not valid JSON: {0}")]
    NotJson(String),
    /// JSON, but not one JSON-RPC 2.0 message.
    #[error("the body is not a JSON-RPC 2.0 message: {0}")]
    NotJsonRpc(&'static str),
}

impl InvalidMessage {
    /// The JSON-RPC error code that says so.
    pub fn code(&self) -> i64 {
        match self {
            Self::NotJson(_) => PARSE_ERROR,
            Self::NotJsonRpc(_) => INVALID_REQUEST,
        }
    }
}

/// Kind of a message, with its id and method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Has an id and a method.
    Request {
        /// Its id.
        id: IdKey,
        /// Its method.
        method: Cow<'a, str>,
    },
    /// Has a method and no id.
    Notification {
        /// Its method.
        method: Cow<'a, str>,
    },
    /// Has an id and a result or an error.
    Response {
        /// The id it answers; `None` for an error about a message whose id could not be read.
        id: Option<IdKey>,
        /// It carries `result` (else `error`).
        success: bool,
    },
}

/// What a [`Head`] says, kept beside the body so that a message is parsed once on its way. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A request.
    Request {
        /// Its id.
        id: IdKey,
        /// Its method.
        method: Arc<str>,
    },
    /// A notification.
    Notification {
        /// Its method.
        method: Arc<str>,
    },
    /// A response.
    Response {
        /// The id it answers.
        id: Option<IdKey>,
    },
}

/// The head of a message; borrows from the body.
#[derive(Debug, Clone)]
pub struct Head<'a> {
    /// Kind, id and method.
    pub kind: Kind<'a>,
    /// `params`, unparsed.
    pub params: Option<&'a RawValue>,
    /// `result`, unparsed.
    pub result: Option<&'a RawValue>,
    /// Where the text of the id stands in the body.
    id_text: Option<&'a str>,
}

#[derive(Deserialize)]
struct RawHead<'a> {
    #[serde(borrow, default)]
    jsonrpc: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// Borrows if it can; serde would copy an `Option<Cow<str>>`.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A field that is there, even as `null` (serde's `Option` would not tell).
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&'de RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Head<'a> {
    /// Reads the head of `body`.
    ///
    /// # Errors
    /// [`InvalidMessage`] when it is not exactly one JSON-RPC 2.0 message.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidMessage> {
        let text = std::str::from_utf8(body).map_err(|error| InvalidMessage::NotJson(error.to_string()))?;
        match text.trim_ascii_start().as_bytes().first() {
            Some(b'{') => {}
            // serde would read an array as a struct, field by field.
            _ => {
                return Err(match serde_json::from_str::<serde::de::IgnoredAny>(text) {
                    Ok(_) if text.trim_ascii_start().starts_with('[') => {
                        InvalidMessage::NotJsonRpc("batches are not supported, send one message at a time")
                    }
                    Ok(_) => InvalidMessage::NotJsonRpc("it is not an object"),
                    Err(error) => InvalidMessage::NotJson(error.to_string()),
                });
            }
        }
        let raw: RawHead<'a> = serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => InvalidMessage::NotJsonRpc("a field has the wrong type or is doubled"),
            _ => InvalidMessage::NotJson(error.to_string()),
        })?;
        if raw.jsonrpc.as_ref().map(|version| &*version.0) != Some("2.0") {
            return Err(InvalidMessage::NotJsonRpc("\"jsonrpc\" is not \"2.0\""));
        }
        let (result, error) = (raw.result, raw.error);
        // Many servers write the member that they have no value for as null (jsonrpc.js, Jackson): it counts only where
        // nothing else says what the message is.
        let is_said = |member: Option<&RawValue>| member.is_some_and(|member| member.get() != "null");
        let answers = match &raw.method {
            Some(_) => is_said(result) || is_said(error),
            None => result.is_some() || error.is_some(),
        };
        let kind = match (raw.id, raw.method) {
            (Some(_), Some(_)) | (None, Some(_)) if answers => {
                return Err(InvalidMessage::NotJsonRpc("it has a method and a result or error"));
            }
            (Some(id), Some(Text(method))) => Kind::Request { id: id_of(id)?, method },
            (None, Some(Text(method))) => Kind::Notification { method },
            (_, None) if is_said(result) && is_said(error) => {
                return Err(InvalidMessage::NotJsonRpc("it has a result and an error"));
            }
            (Some(id), None) if answers => Kind::Response {
                id: if id.get() == "null" { None } else { Some(id_of(id)?) },
                success: result.is_some() && !is_said(error),
            },
            _ => return Err(InvalidMessage::NotJsonRpc("it is neither request, notification nor response")),
        };
        Ok(Self { kind, params: raw.params, result, id_text: raw.id.map(RawValue::get) })
    }

    /// The kind, free of the body.
    pub fn said(&self) -> Said {
        match &self.kind {
            Kind::Request { id, method } => Said::Request { id: id.clone(), method: method.as_ref().into() },
            Kind::Notification { method } => Said::Notification { method: method.as_ref().into() },
            Kind::Response { id, .. } => Said::Response { id: id.clone() },
        }
    }

    /// The method of a request or notification.
    pub fn method(&self) -> Option<&str> {
        match &self.kind {
            Kind::Request { method, .. } | Kind::Notification { method } => Some(method),
            Kind::Response { .. } => None,
        }
    }

    /// A copy of `body` (the text this head was read from) with another id; all other bytes stay.
    pub fn with_id(&self, body: &[u8], id: &str) -> Bytes {
        self.id_text.map_or_else(|| Bytes::copy_from_slice(body), |old| with_part(body, old, id))
    }

    /// The id as it stands in the body.
    pub fn id_text(&self) -> Option<&'a str> {
        self.id_text
    }
}

fn id_of(raw: &RawValue) -> Result<IdKey, InvalidMessage> {
    IdKey::of_json(raw.get()).ok_or(InvalidMessage::NotJsonRpc("an id is a string or a number"))
}

/// A copy of `body` with `new` in the place of `old`, a part that borrows from it (as what serde reads does); all other
/// bytes stay. Of a part that does not, nothing is changed.
pub fn with_part(body: &[u8], old: &str, new: &str) -> Bytes {
    let start = (old.as_ptr() as usize).wrapping_sub(body.as_ptr() as usize);
    let Some(rest) = start.checked_add(old.len()).and_then(|end| body.get(end..)) else {
        return Bytes::copy_from_slice(body);
    };
    let mut copy = Vec::with_capacity(body.len() + new.len());
    copy.extend_from_slice(&body[..start]);
    copy.extend_from_slice(new.as_bytes());
    copy.extend_from_slice(rest);
    Bytes::from(copy)
}

/// The request that a body means to answer which is no valid answer, so that whoever waits for it can be told.
pub fn broken_answer_to(body: &[u8]) -> Option<IdKey> {
    #[derive(Deserialize)]
    struct Broken<'a> {
        #[serde(borrow)]
        id: &'a RawValue,
        #[serde(default)]
        method: Option<serde::de::IgnoredAny>,
    }
    let broken: Broken<'_> = by_name(std::str::from_utf8(body).ok()?)?;
    if broken.method.is_some() {
        return None;
    }
    IdKey::of_json(broken.id.get())
}

/// Makes the text of an error response. `id` is JSON text (`null` when it could not be read).
pub fn error_response(id: &str, code: i64, message: &str, details: Option<&serde_json::Value>) -> Bytes {
    match details {
        Some(details) => error_response_with(id, code, message, details),
        None => failed_response(id, serde_json::json!({ "code": code, "message": message }).to_string().as_bytes()),
    }
}

/// As [`error_response`], with details that may hold JSON text as it came.
pub fn error_response_with(id: &str, code: i64, message: &str, details: &impl Serialize) -> Bytes {
    #[derive(Serialize)]
    struct Error<'a, D> {
        code: i64,
        data: &'a D,
        message: &'a str,
    }
    let error = serde_json::to_vec(&Error { code, data: details, message }).expect("details are plain values");
    failed_response(id, &error)
}

/// The error, as it stands there, of a response that names no request: its id is `null` or left out.
pub fn error_without_id(body: &[u8]) -> Option<Bytes> {
    let raw: RawHead<'_> = by_name(std::str::from_utf8(body).ok()?)?;
    let is_said = |member: Option<&RawValue>| member.is_some_and(|member| member.get() != "null");
    let is_one = raw.jsonrpc.is_some_and(|version| version.0 == "2.0")
        && raw.method.is_none()
        && !is_said(raw.id)
        && !is_said(raw.result);
    let error = raw.error.filter(|error| is_one && error.get().starts_with('{'))?;
    Some(Bytes::copy_from_slice(error.get().as_bytes()))
}

/// The error in a response, as it stands there.
pub fn error_of(response: &[u8]) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct Failed<'a> {
        #[serde(borrow)]
        error: &'a RawValue,
    }
    let failed: Failed<'_> = by_name(std::str::from_utf8(response).ok()?)?;
    Some(Bytes::copy_from_slice(failed.error.get().as_bytes()))
}

/// Makes the text of an error response around an error that is JSON text already.
pub fn failed_response(id: &str, error: &[u8]) -> Bytes {
    Bytes::from([br#"{"jsonrpc":"2.0","id":"#, id.as_bytes(), br#","error":"#, error, b"}"].concat())
}

/// The messages of an array of them (a batch, which some servers answer with), each as it stands there. `None`: it is
/// no array.
pub fn split_batch(body: &Bytes) -> Option<Vec<Bytes>> {
    if body.trim_ascii_start().first() != Some(&b'[') {
        return None;
    }
    let messages: Vec<&RawValue> = serde_json::from_slice(body).ok()?;
    // In memory of their own: one may stay for long, and would keep them all.
    Some(messages.into_iter().map(|message| Bytes::copy_from_slice(message.get().as_bytes())).collect())
}

/// Makes the text of a success response around a result that is JSON text already.
pub fn result_response(id: &str, result: &str) -> Bytes {
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#))
}

#[cfg(test)]
mod tests {
    use super::*;

    mod property;

    fn key(text: &str) -> IdKey {
        IdKey::of_json(text).unwrap()
    }

    #[test]
    fn each_kind_of_message_is_told_apart() {
        let request = Head::parse(br#"{"jsonrpc":"2.0","id":"a\u0062","method":"x","params":{"deep":[1]}}"#).unwrap();
        assert_eq!(request.kind, Kind::Request { id: key("\"ab\""), method: "x".into() });
        assert_eq!(request.params.unwrap().get(), r#"{"deep":[1]}"#);
        let notification = Head::parse(br#"{"jsonrpc":"2.0","method":"n"}"#).unwrap();
        assert_eq!(notification.kind, Kind::Notification { method: "n".into() });
        let answer = Head::parse(br#"{"jsonrpc":"2.0","id":1,"result":null}"#).unwrap();
        assert_eq!(answer.kind, Kind::Response { id: Some(key("1")), success: true });
        let lost = Head::parse(br#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}"#).unwrap();
        assert_eq!(lost.kind, Kind::Response { id: None, success: false });
    }

    /// serde_json has no value for every number that JSON has.
    #[test]
    fn details_may_hold_what_came_as_it_came() {
        let id: &RawValue = serde_json::from_str("1e400").unwrap();
        assert_eq!(
            error_response_with("1e400", -5, "no", &id),
            r#"{"jsonrpc":"2.0","id":1e400,"error":{"code":-5,"data":1e400,"message":"no"}}"#
        );
        let details = serde_json::json!({ "b": 1, "a": "x" });
        let told = error_response("7", -5, "no", Some(&details));
        assert_eq!(told, r#"{"jsonrpc":"2.0","id":7,"error":{"code":-5,"data":{"a":"x","b":1},"message":"no"}}"#);
        assert_eq!(
            error_response("7", -5, "no", None),
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":-5,"message":"no"}}"#
        );
    }

    #[test]
    fn an_error_without_an_id_is_told_from_other_messages() {
        for (body, expected) in [
            (r#"{"jsonrpc":"2.0","id":null,"error":{"code":1}}"#, Some(r#"{"code":1}"#)),
            (r#" {"error":{"code": 1},"jsonrpc":"2.0"}"#, Some(r#"{"code": 1}"#)),
            (r#"{"jsonrpc":"2.0","id":null,"result":null,"error":{}}"#, Some("{}")),
            (r#"{"jsonrpc":"2.0","id":null,"result":{},"error":{}}"#, None),
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":1}}"#, None),
            (r#"{"jsonrpc":"2.0","method":"m","error":{"code":1}}"#, None),
            (r#"{"jsonrpc":"2.0","id":null,"error":"boom"}"#, None),
            (r#"{"jsonrpc":"2.0","id":null,"result":{}}"#, None),
            (r#"{"error":{"code":1}}"#, None),
            (r#"["2.0",null,null,null,null,{"code":1}]"#, None),
        ] {
            assert_eq!(error_without_id(body.as_bytes()).as_deref(), expected.map(str::as_bytes), "{body}");
        }
    }

    #[test]
    fn an_id_keeps_its_json_type() {
        let id = |text: &str| match Head::parse(text.as_bytes()).unwrap().kind {
            Kind::Request { id, .. } => id,
            other => panic!("{other:?}"),
        };
        let number = id(r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#);
        let string = id(r#"{"jsonrpc":"2.0","id":"1","method":"x"}"#);
        assert_ne!(number, string);
    }

    #[test]
    fn bad_bodies_get_the_code_that_says_what_is_wrong() {
        for (body, code) in [
            ("", PARSE_ERROR),
            ("{", PARSE_ERROR),
            ("nonsense", PARSE_ERROR),
            ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\"} trailing", PARSE_ERROR),
            ("[]", INVALID_REQUEST),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"x"}]"#, INVALID_REQUEST),
            (r#"["2.0",1,"x",null,null,null]"#, INVALID_REQUEST),
            ("3", INVALID_REQUEST),
            ("{}", INVALID_REQUEST),
            (r#"{"jsonrpc":"1.0","id":1,"method":"x"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1,"method":3}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","result":1}"#, INVALID_REQUEST),
        ] {
            assert_eq!(Head::parse(body.as_bytes()).unwrap_err().code(), code, "{body}");
        }
        assert_eq!(Head::parse(b"{\"a\":\"\xff\"}").unwrap_err().code(), PARSE_ERROR);
    }

    /// Textalk/jquery.jsonrpcclient.js#24, paritytech/jsonrpc#618
    #[test]
    fn a_member_that_is_null_says_nothing_beside_one_that_is_not() {
        let success = |body: &str| match Head::parse(body.as_bytes()).map(|head| head.kind) {
            Ok(Kind::Response { success, .. }) => Some(success),
            _ => None,
        };
        for (members, expected) in [
            (r#""result":{},"error":null"#, Some(true)),
            (r#""error":null,"result":{}"#, Some(true)),
            (r#""result":null,"error":{"code":1,"message":""}"#, Some(false)),
            (r#""result":null,"error":null"#, Some(true)),
            (r#""result":null"#, Some(true)),
            (r#""error":null"#, Some(false)),
            (r#""method":null,"result":{}"#, Some(true)),
            (r#""result":{},"error":{"code":1,"message":""}"#, None),
        ] {
            assert_eq!(success(&format!(r#"{{"jsonrpc":"2.0","id":1,{members}}}"#)), expected, "{members}");
        }
        let request = Head::parse(br#"{"jsonrpc":"2.0","id":1,"method":"x","result":null,"error":null}"#).unwrap();
        assert_eq!(request.kind, Kind::Request { id: key("1"), method: "x".into() });
    }

    #[test]
    fn an_answer_that_is_none_names_its_request() {
        for (body, expected) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#, Some("1")),
            (r#"{"id":"a","result":{}}"#, Some("\"a\"")),
            (r#"{"jsonrpc":"2.0","id":1}"#, Some("1")),
            (r#"{"jsonrpc":"1.0","id":1,"method":"x"}"#, None),
            (r#"{"jsonrpc":"2.0","id":null,"result":{}}"#, None),
            ("nonsense", None),
        ] {
            assert_eq!(broken_answer_to(body.as_bytes()).as_ref().map(IdKey::as_json), expected, "{body}");
        }
    }

    #[test]
    fn only_the_id_changes_when_it_is_rewritten() {
        let body = br#" { "params": {"id": 7}, "id" : 7, "jsonrpc":"2.0", "method":"x" } "#;
        let rewritten = Head::parse(body).unwrap().with_id(body, "\"r-1\"");
        assert_eq!(rewritten, &br#" { "params": {"id": 7}, "id" : "r-1", "jsonrpc":"2.0", "method":"x" } "#[..]);
    }
}
