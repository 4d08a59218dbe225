//! Tools: what `tools/list` shows and where `tools/call` goes.
//!
//! Each group of tools is a file that knows its definitions and its calls: [`directory`] (persons), [`server`], and
//! [`drill`], which is there only when asked for.

mod directory;
mod drill;
mod server;
mod tool;

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use self::tool::Call;
pub(crate) use self::tool::Outcome;
use crate::{
    outlet::Outlet,
    rpc::{Params, RequestId, RpcError},
    session::Session,
    state::ServerState,
};

/// The answer to `tools/list`.
pub(crate) fn list(drill_tools: bool) -> Value {
    let mut tools = directory::definitions();
    tools.extend(server::definitions());
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
pub(crate) fn call(
    state: &Arc<ServerState>,
    session: &Arc<Session>,
    outlet: &Outlet,
    request: &RequestId,
    params: Params<'_>,
) -> Result<Outcome, RpcError> {
    let params: CallParams = params.read()?;
    let call = Call {
        state,
        session,
        outlet,
        request,
        arguments: Params(params.arguments.as_deref()),
        progress_token: params.meta.and_then(|meta| meta.progress_token),
    };
    let name = params.name.as_str();
    let found = directory::call(name, &call).or_else(|| server::call(name, &call));
    let found = if state.options.drill_tools { found.or_else(|| drill::call(name, &call)) } else { found };
    found.unwrap_or_else(|| Err(RpcError::invalid_params(format_args!("unknown tool: {name}"))))
}
