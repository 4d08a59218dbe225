//! JSON-RPC 2.0 on the wire: tells requests, notifications and answers apart, and writes what the server sends.
//!
//! Ids and parameters stay the text they came as: an id goes back in its own JSON type, and megabytes of parameters are
//! read once, by the method that wants them. Pure code; it knows no method and no session.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

/// Not JSON at all.
pub(crate) const PARSE_ERROR: i32 = -32700;
/// JSON, but not a JSON-RPC 2.0 message, or one that is not allowed now.
pub(crate) const INVALID_REQUEST: i32 = -32600;
/// The server does not know the method.
pub(crate) const METHOD_NOT_FOUND: i32 = -32601;
/// The parameters do not fit the method.
pub(crate) const INVALID_PARAMS: i32 = -32602;
/// The server failed.
pub(crate) const INTERNAL_ERROR: i32 = -32603;
/// The session has too many running calls (implementation-defined range of JSON-RPC).
pub(crate) const TOO_MANY_CALLS: i32 = -32000;
/// No such session (implementation-defined range of JSON-RPC).
pub(crate) const NO_SESSION: i32 = -32001;
/// MCP: no such resource.
pub(crate) const RESOURCE_NOT_FOUND: i32 = -32002;

/// An error as it stands in a JSON-RPC answer.
#[derive(Debug, Clone, Serialize, thiserror::Error)]
#[error("{message} ({code})")]
pub(crate) struct RpcError {
    pub code: i32,
    pub message: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

impl RpcError {
    pub fn new(code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    pub fn invalid_params(reason: impl fmt::Display) -> Self {
        Self::new(INVALID_PARAMS, format!("invalid params: {reason}"))
    }
}

/// The id of a request: a string or a number, kept in its JSON type.
///
/// A number keeps its digits as they came (`1` is not `1.0`); a string is compared by its characters, however they were
/// escaped.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct RequestId(Box<str>);

impl RequestId {
    /// An id of the server's own making.
    pub fn of_server(name: &str) -> Self {
        Self(Value::from(name).to_string().into())
    }

    fn try_from_json(json: &RawValue) -> Option<Self> {
        let text = json.get();
        match text.as_bytes().first()? {
            b'"' => serde_json::from_str::<String>(text).ok().map(|name| Self::of_server(&name)),
            b'-' | b'0'..=b'9' => Some(Self(text.into())),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = <&RawValue>::deserialize(deserializer)?;
        Self::try_from_json(json).ok_or_else(|| serde::de::Error::custom("an id is a string or a number"))
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        json.serialize(serializer)
    }
}

/// The id as JSON.
impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One message from the client.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    /// Wants an answer.
    Request { id: RequestId, method: Cow<'a, str>, params: Params<'a> },
    /// Wants none.
    Notification { method: Cow<'a, str>, params: Params<'a> },
    /// Answers a request of the server: its result, or its error as JSON.
    Answer { id: RequestId, outcome: Result<Box<RawValue>, Box<RawValue>> },
}

/// What one POST of Streamable HTTP brings.
#[derive(Debug)]
pub(crate) enum Posted<'a> {
    /// One message.
    One(Incoming<'a>),
    /// Several, as revision 2025-03-26 has them.
    Batch(Vec<Incoming<'a>>),
}

impl<'a> Posted<'a> {
    /// Reads one message or a batch of at most `max`.
    ///
    /// # Errors
    /// As [`Incoming::parse`], for any of the messages; -32600 for a batch that is empty or too large.
    pub fn parse(body: &'a [u8], max: usize) -> Result<Self, RpcError> {
        if body.trim_ascii_start().first() != Some(&b'[') {
            return Incoming::parse(body).map(Self::One);
        }
        let messages: Vec<&'a RawValue> = serde_json::from_slice(body)
            .map_err(|reason| RpcError::new(PARSE_ERROR, format!("not a JSON-RPC batch: {reason}")))?;
        if messages.is_empty() || messages.len() > max {
            return Err(RpcError::new(INVALID_REQUEST, format!("a batch has 1 to {max} messages")));
        }
        messages
            .into_iter()
            .map(|message| Incoming::parse(message.get().as_bytes()))
            .collect::<Result<_, _>>()
            .map(Self::Batch)
    }

    /// Its messages, in their order.
    pub fn messages(&self) -> &[Incoming<'a>] {
        match self {
            Self::One(message) => std::slice::from_ref(message),
            Self::Batch(messages) => messages,
        }
    }

    /// As [`Self::messages`].
    pub fn into_messages(self) -> Vec<Incoming<'a>> {
        match self {
            Self::One(message) => vec![message],
            Self::Batch(messages) => messages,
        }
    }
}

/// The parameters of a message, unread.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Params<'a>(pub Option<&'a RawValue>);

impl Params<'_> {
    /// Reads the parameters; missing ones count as `{}`.
    ///
    /// # Errors
    /// -32602 with the reason if they do not fit.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, RpcError> {
        let text = self.0.map_or("{}", RawValue::get);
        // Serde would take an array for a struct, field by field; MCP passes parameters by name only.
        if !text.starts_with('{') {
            return Err(RpcError::invalid_params("an object was expected"));
        }
        serde_json::from_str(text).map_err(RpcError::invalid_params)
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    jsonrpc: Cow<'a, str>,
    // `present` keeps `"id": null`, which is not the same as no id at all.
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Incoming<'a> {
    /// Reads one message.
    ///
    /// # Errors
    /// -32700 if the body is not JSON, -32600 if it is not one JSON-RPC 2.0 message (batches included).
    pub fn parse(body: &'a [u8]) -> Result<Self, RpcError> {
        let envelope: Envelope<'a> = serde_json::from_slice(body).map_err(|reason| {
            // A body that breaks off within the envelope is "EOF", bad UTF-8 and bad grammar are "syntax".
            let code = if reason.is_data() { INVALID_REQUEST } else { PARSE_ERROR };
            RpcError::new(code, format!("not a JSON-RPC message: {reason}"))
        })?;
        let invalid = |reason: &'static str| RpcError::new(INVALID_REQUEST, reason);
        if envelope.jsonrpc != "2.0" {
            return Err(invalid("jsonrpc must be \"2.0\""));
        }
        let id = match envelope.id {
            Some(json) => {
                Some(RequestId::try_from_json(json).ok_or_else(|| invalid("id must be a string or a number"))?)
            }
            None => None,
        };
        let params = Params(envelope.params);
        match (envelope.method, id, envelope.result, envelope.error) {
            (Some(method), Some(id), None, None) => Ok(Self::Request { id, method, params }),
            (Some(method), None, None, None) => Ok(Self::Notification { method, params }),
            (None, Some(id), Some(result), None) => Ok(Self::Answer { id, outcome: Ok(result.to_owned()) }),
            (None, Some(id), None, Some(error)) => Ok(Self::Answer { id, outcome: Err(error.to_owned()) }),
            _ => Err(invalid("neither a request, a notification nor an answer")),
        }
    }
}

/// A message for the stream, ready to send: JSON without line breaks.
pub(crate) type Outgoing = String;

/// The answer to request `id`.
pub(crate) fn answer<R: Serialize>(id: &RequestId, outcome: Result<R, RpcError>) -> Outgoing {
    #[derive(Serialize)]
    struct Success<'a, R> {
        jsonrpc: &'static str,
        id: &'a RequestId,
        result: R,
    }
    match outcome {
        Ok(result) => written(&Success { jsonrpc: "2.0", id, result }),
        Err(error) => failure(Some(id), &error),
    }
}

/// An error answer; without an id where the request could not be read far enough to know it.
pub(crate) fn failure(id: Option<&RequestId>, error: &RpcError) -> Outgoing {
    #[derive(Serialize)]
    struct Failure<'a> {
        jsonrpc: &'static str,
        id: Option<&'a RequestId>,
        error: &'a RpcError,
    }
    written(&Failure { jsonrpc: "2.0", id, error })
}

/// A request of the server to the client.
pub(crate) fn request(id: &RequestId, method: &str, params: &Value) -> Outgoing {
    #[derive(Serialize)]
    struct Request<'a> {
        jsonrpc: &'static str,
        id: &'a RequestId,
        method: &'a str,
        params: &'a Value,
    }
    written(&Request { jsonrpc: "2.0", id, method, params })
}

/// A notification to the client.
pub(crate) fn notification<P: Serialize>(method: &str, params: P) -> Outgoing {
    #[derive(Serialize)]
    struct Notification<'a, P> {
        jsonrpc: &'static str,
        method: &'a str,
        params: P,
    }
    written(&Notification { jsonrpc: "2.0", method, params })
}

fn written<T: Serialize>(message: &T) -> Outgoing {
    serde_json::to_string(message).expect("messages have string keys only and write to memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_goes_back_in_the_json_type_and_digits_it_came_in() {
        for id in ["1", "-7", "1.0", "18446744073709551616", "\"1\"", "\"\"", "\"ü\\n\""] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
            let Ok(Incoming::Request { id: read, .. }) = Incoming::parse(body.as_bytes()) else { panic!("{id}") };
            let sent = answer(&read, Ok(Value::Null));
            assert_eq!(sent, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":null}}"#));
        }
    }

    #[test]
    fn an_escaped_string_id_is_the_same_id() {
        let plain: RequestId = serde_json::from_str(r#""a""#).unwrap();
        let escaped: RequestId = serde_json::from_str(r#""\u0061""#).unwrap();
        assert_eq!(plain, escaped);
        assert_ne!(plain, serde_json::from_str(r#""b""#).unwrap());
    }

    #[test]
    fn what_is_not_json_and_what_is_not_json_rpc_are_told_apart() {
        let table: [(&[u8], i32); 11] = [
            (b"", PARSE_ERROR),
            (b"{", PARSE_ERROR),
            (b"nonsense", PARSE_ERROR),
            (b"{\"jsonrpc\":\"\xff\"}", PARSE_ERROR),
            (b"7", INVALID_REQUEST),
            (b"{}", INVALID_REQUEST),
            (br#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, INVALID_REQUEST),
            (br#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, INVALID_REQUEST),
            (br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, INVALID_REQUEST),
            (br#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, INVALID_REQUEST),
            (br#"{"jsonrpc":"2.0","id":1}"#, INVALID_REQUEST),
        ];
        for (body, code) in table {
            assert_eq!(Incoming::parse(body).unwrap_err().code, code, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_null_result_is_an_answer() {
        let parsed = Incoming::parse(br#"{"jsonrpc":"2.0","id":"ask-1","result":null}"#).unwrap();
        assert!(matches!(parsed, Incoming::Answer { outcome: Ok(_), .. }));
    }
}
