//! What a tool is made of: the call it is given, what that call may come to, and how a tool is described.

use std::{future::Future, pin::Pin, sync::Arc};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    outlet::Outlet,
    rpc::{Params, RequestId, RpcError},
    session::Session,
    state::ServerState,
};

/// What a call came to.
pub(crate) enum Outcome {
    /// It is done.
    Done(CallResult),
    /// It waits for something, and can be cancelled meanwhile.
    Running(Pin<Box<dyn Future<Output = Result<CallResult, RpcError>>>>),
}

/// The result of a call, as it stands in its answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CallResult {
    content: [TextContent; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    structured_content: Option<Value>,
    is_error: bool,
}

#[derive(Debug, Serialize)]
struct TextContent {
    r#type: &'static str,
    text: String,
}

impl CallResult {
    /// An answer that is text alone.
    pub fn text(text: impl Into<String>) -> Self {
        Self { content: [TextContent { r#type: "text", text: text.into() }], structured_content: None, is_error: false }
    }

    /// A structured result. It is repeated as text, for clients older than revision 2025-06-18.
    pub fn structured(result: Value) -> Self {
        Self { structured_content: Some(result.clone()), ..Self::text(result.to_string()) }
    }

    /// The tool ran and failed; the model is told why.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self { is_error: true, ..Self::text(reason) }
    }
}

impl From<CallResult> for Outcome {
    fn from(result: CallResult) -> Self {
        Self::Done(result)
    }
}

/// What a tool may know of its call.
pub(crate) struct Call<'a> {
    pub state: &'a Arc<ServerState>,
    pub session: &'a Arc<Session>,
    /// Where its answer will go, and what it has to say before.
    pub outlet: &'a Outlet,
    pub request: &'a RequestId,
    pub arguments: Params<'a>,
    /// Present if the client wants to hear of progress; a string or a number.
    pub progress_token: Option<RequestId>,
}

/// How a tool behaves, as its annotations tell. None of the tools reaches beyond this server, or destroys anything.
#[derive(Clone, Copy)]
pub(crate) enum Effect {
    /// Changes nothing.
    Reads,
    /// Adds something at every call.
    Adds,
}

/// One entry of `tools/list`. A tool without an `output` schema answers with text alone.
pub(crate) fn definition(
    name: &str,
    title: &str,
    description: &str,
    effect: Effect,
    input: Value,
    output: Option<Value>,
) -> Value {
    let reads = matches!(effect, Effect::Reads);
    let mut definition = json!({
        "name": name,
        "title": title,
        "description": description,
        "inputSchema": input,
        "annotations": {
            "title": title,
            "readOnlyHint": reads,
            "destructiveHint": false,
            "idempotentHint": reads,
            "openWorldHint": false,
        },
    });
    if let Some(output) = output {
        definition["outputSchema"] = output;
    }
    definition
}

/// The schema of an object all of whose `properties` are required but those named in `optional`.
pub(crate) fn object(properties: Value, optional: &[&str]) -> Value {
    let required: Vec<&String> = properties
        .as_object()
        .map(|names| names.keys().filter(|name| !optional.contains(&name.as_str())).collect())
        .unwrap_or_default();
    json!({ "type": "object", "required": required, "properties": properties })
}
