//! Tools: what `tools/list` shows and where `tools/call` goes.
//!
//! Each group of tools is a file that knows its definitions and its calls: [`directory`] (persons), [`system`], and
//! [`drill`], which is there only when asked for.

mod directory;
mod drill;
mod system;

use std::{future::Future, pin::Pin, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

pub(super) use self::system::report as system_report;
use super::{
    ServerState,
    rpc::{Params, RequestId, RpcError},
    session::Session,
};

/// What a call came to.
pub(super) enum Outcome {
    /// It is done.
    Done(CallResult),
    /// It waits for something, and can be cancelled meanwhile.
    Running(Pin<Box<dyn Future<Output = Result<CallResult, RpcError>>>>),
}

/// The result of a call, as it stands in its answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CallResult {
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
    fn text(text: impl Into<String>) -> Self {
        Self { content: [TextContent { r#type: "text", text: text.into() }], structured_content: None, is_error: false }
    }

    /// A structured result. It is repeated as text, for clients older than revision 2025-06-18.
    fn structured(result: Value) -> Self {
        Self { structured_content: Some(result.clone()), ..Self::text(result.to_string()) }
    }

    /// The tool ran and failed; the model is told why.
    fn failed(reason: impl Into<String>) -> Self {
        Self { is_error: true, ..Self::text(reason) }
    }
}

impl From<CallResult> for Outcome {
    fn from(result: CallResult) -> Self {
        Self::Done(result)
    }
}

/// What a tool may know of its call.
struct Call<'a> {
    state: &'a Arc<ServerState>,
    session: &'a Arc<Session>,
    request: &'a RequestId,
    arguments: Params<'a>,
    /// Present if the client wants to hear of progress; a string or a number.
    progress_token: Option<RequestId>,
}

/// How a tool behaves, as its annotations tell. None of the tools reaches beyond this server, or destroys anything.
#[derive(Clone, Copy)]
enum Effect {
    /// Changes nothing.
    Reads,
    /// Adds something at every call.
    Adds,
}

/// One entry of `tools/list`. A tool without an `output` schema answers with text alone.
fn definition(
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
fn object(properties: Value, optional: &[&str]) -> Value {
    let required: Vec<&String> = properties
        .as_object()
        .map(|names| names.keys().filter(|name| !optional.contains(&name.as_str())).collect())
        .unwrap_or_default();
    json!({ "type": "object", "required": required, "properties": properties })
}

/// The answer to `tools/list`.
pub(super) fn list(drill_tools: bool) -> Value {
    let mut tools = directory::definitions();
    tools.extend(system::definitions());
    if drill_tools {
        tools.extend(drill::definitions());
    }
    json!({ "tools": tools })
}

#[derive(Deserialize)]
struct CallParams {
    name: String,
    arguments: Option<Box<RawValue>>,
    #[serde(rename = "_meta")]
    meta: Option<Meta>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    progress_token: Option<RequestId>,
}

/// Runs `tools/call`.
///
/// # Errors
/// -32602 if there is no such tool or its arguments do not fit its schema.
pub(super) fn call(
    state: &Arc<ServerState>,
    session: &Arc<Session>,
    request: &RequestId,
    params: Params<'_>,
) -> Result<Outcome, RpcError> {
    let params: CallParams = params.read()?;
    let call = Call {
        state,
        session,
        request,
        arguments: Params(params.arguments.as_deref()),
        progress_token: params.meta.and_then(|meta| meta.progress_token),
    };
    let name = params.name.as_str();
    let found = directory::call(name, &call).or_else(|| system::call(name, &call));
    let found = if state.options.drill_tools { found.or_else(|| drill::call(name, &call)) } else { found };
    found.unwrap_or_else(|| Err(RpcError::invalid_params(format_args!("unknown tool: {name}"))))
}
