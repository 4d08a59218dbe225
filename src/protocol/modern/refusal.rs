//! The errors of this era (2026-07-28, Error Codes): what each says, and the HTTP status that is part of it.

use bytes::Bytes;

use super::VERSION;
use crate::protocol::jsonrpc;

/// Headers say another thing than the body, or nothing where they must say something.
pub const HEADER_MISMATCH: i64 = -32020;
/// The client does not declare what the server needs of it.
pub const MISSING_CAPABILITY: i64 = -32021;
/// A version that is not served.
pub const UNSUPPORTED_VERSION: i64 = -32022;
/// Parameters that are wrong or missing; a resource that is not there.
pub const INVALID_PARAMS: i64 = -32602;

/// Why a request of this era is refused before anybody has executed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// See [`HEADER_MISMATCH`].
    #[error("Header mismatch: {0}")]
    Headers(String),
    /// A field of `_meta` that every request must have.
    #[error("params._meta has no {0:?}, which every request of this version must have")]
    NoMeta(&'static str),
    /// `params` that nobody can read.
    #[error("{0}")]
    Params(&'static str),
    /// See [`UNSUPPORTED_VERSION`].
    #[error("the protocol version {requested:?} is not served without a session here")]
    Version {
        /// What was asked for.
        requested: String,
    },
    /// See [`MISSING_CAPABILITY`].
    #[error("this needs a client that declares more capabilities")]
    Capability {
        /// Those, as they would be declared.
        required: serde_json::Value,
    },
    /// No method of this version.
    #[error("Method not found: {method}")]
    Method {
        /// What was asked for.
        method: String,
    },
}

impl Refusal {
    /// The JSON-RPC error code.
    pub fn code(&self) -> i64 {
        match self {
            Self::Headers(_) => HEADER_MISMATCH,
            Self::NoMeta(_) | Self::Params(_) => INVALID_PARAMS,
            Self::Version { .. } => UNSUPPORTED_VERSION,
            Self::Capability { .. } => MISSING_CAPABILITY,
            Self::Method { .. } => jsonrpc::METHOD_NOT_FOUND,
        }
    }

    /// The HTTP status that goes with it.
    pub fn status(&self) -> u16 {
        if matches!(self, Self::Method { .. }) { 404 } else { 400 }
    }

    /// In one word, for the log and the figures.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Headers(_) => "header_mismatch",
            Self::NoMeta(_) => "missing_meta",
            Self::Params(_) => "invalid_params",
            Self::Version { .. } => "unsupported_version",
            Self::Capability { .. } => "missing_capability",
            Self::Method { .. } => "unknown_method",
        }
    }

    fn data(&self) -> Option<serde_json::Value> {
        match self {
            Self::Version { requested } => Some(serde_json::json!({ "supported": [VERSION], "requested": requested })),
            Self::Capability { required } => Some(serde_json::json!({ "requiredCapabilities": required })),
            _ => None,
        }
    }

    /// The response. `id`: JSON text of the request's id.
    pub fn body(&self, id: &str) -> Bytes {
        jsonrpc::error_response(id, self.code(), &self.to_string(), self.data().as_ref())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_refusal_has_its_code_its_status_and_its_data() {
        let required = json!({ "elicitation": { "form": {} } });
        for (refusal, code, status, data) in [
            (Refusal::Headers("x".into()), -32020, 400, Value::Null),
            (
                Refusal::Capability { required: required.clone() },
                -32021,
                400,
                json!({ "requiredCapabilities": required }),
            ),
            (
                Refusal::Version { requested: "1999-01-01".into() },
                -32022,
                400,
                json!({ "supported": ["2026-07-28"], "requested": "1999-01-01" }),
            ),
            (Refusal::NoMeta("x"), -32602, 400, Value::Null),
            (Refusal::Params("x"), -32602, 400, Value::Null),
            (Refusal::Method { method: "ping".into() }, -32601, 404, Value::Null),
        ] {
            let body: Value = serde_json::from_slice(&refusal.body("\"a\"")).unwrap();
            assert_eq!((&body["id"], &body["error"]["code"]), (&json!("a"), &json!(code)), "{refusal}");
            assert_eq!((&body["error"]["data"], refusal.status()), (&data, status), "{refusal}");
        }
    }
}
