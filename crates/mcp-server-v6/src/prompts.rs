//! Prompts: one, so that a router's handling of prompts can be tested against a real one.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::rpc::{Params, RpcError};

const DESCRIBE: &str = "describe_person";

/// The answer to `prompts/list`.
pub(crate) fn list() -> Value {
    json!({ "prompts": [{
        "name": DESCRIBE,
        "title": "Describe a person",
        "description": "Asks for a short portrait of one person of the directory.",
        "arguments": [{ "name": "id", "description": "The person's id.", "required": true }],
    }] })
}

#[derive(Deserialize)]
struct GetParams {
    name: String,
    #[serde(default)]
    arguments: HashMap<String, String>,
}

/// The answer to `prompts/get`.
pub(crate) fn get(params: Params<'_>) -> Result<Value, RpcError> {
    let GetParams { name, arguments } = params.read()?;
    if name != DESCRIBE {
        return Err(RpcError::invalid_params(format_args!("unknown prompt: {name}")));
    }
    let id = arguments.get("id").ok_or_else(|| RpcError::invalid_params("the argument id is missing"))?;
    let text = format!("Look up person {id} with getPersonById and describe that person in three sentences.");
    Ok(json!({
        "description": "A short portrait of one person.",
        "messages": [{ "role": "user", "content": { "type": "text", "text": text } }],
    }))
}
