//! Drill tools: made to be broken in the middle, repeated, delayed and counted. Offered only by `--drill-tools`.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::tool::{Call, CallResult, Effect, Outcome, definition, object};
use crate::{
    outlet::Outlet,
    rpc::{self, INTERNAL_ERROR, RequestId, RpcError},
    session::{Client, Question},
};

/// The longest `wait`, milliseconds: as long as stock clients wait for an answer.
const MAX_WAIT_MS: u64 = 60_000;

/// Into how many steps `wait` divides its time. It tells its progress after each but the last, which the answer tells:
/// stock clients drop a notification that comes together with the answer.
const PROGRESS_STEPS: u32 = 4;

/// The largest `payload`, bytes: the largest message a gateway is expected to carry, twice.
const MAX_PAYLOAD: usize = 8 << 20;

/// What a `payload` repeats. One character a byte, none of them escaped in JSON; and a pattern, so that a piece lost or
/// doubled on the way shows in the text and not only in its length.
const PAYLOAD_PATTERN: &str = "abcdefghijklmnopqrstuvwxyz0123456789";

/// The longest key of `increment`, bytes.
const MAX_KEY: usize = 256;

/// The definitions of this group.
pub(crate) fn definitions() -> Vec<Value> {
    let counter = json!({ "type": "integer", "minimum": 0 });
    let counters = json!({ "type": "object", "additionalProperties": counter });
    let text = json!({ "type": "string" });
    vec![
        definition(
            "wait",
            "Wait",
            "Sleeps, telling its progress if asked to, then answers with the text. With hangUp it first ends the \
             connection that is to carry the answer, if the client can resume it.",
            Effect::Reads,
            object(
                json!({
                    "ms": { "type": "integer", "minimum": 0, "maximum": MAX_WAIT_MS },
                    "text": text,
                    "hangUp": { "type": "boolean" },
                }),
                &["text", "hangUp"],
            ),
            None,
        ),
        definition(
            "increment",
            "Increment a counter",
            "Adds one to a counter at every call.",
            Effect::Adds,
            object(json!({ "key": { "type": "string", "minLength": 1, "maxLength": MAX_KEY } }), &[]),
            Some(object(json!({ "key": text, "value": counter }), &[])),
        ),
        definition(
            "counts",
            "Read the counters",
            "Returns every counter, and which calls were run more than once.",
            Effect::Reads,
            object(json!({}), &[]),
            Some(object(
                json!({
                    "counters": counters,
                    "distinctCalls": counters,
                    "repeatedCalls": { "type": "array", "items": { "type": "object" } },
                }),
                &[],
            )),
        ),
        definition(
            "ask_client",
            "Ask the client",
            "Has the client's model (sampling) or its user (elicitation) answer a prompt and returns the text, or \
             returns the URIs of the client's roots, one a line.",
            Effect::Reads,
            object(
                json!({ "prompt": text, "by": { "type": "string", "enum": ["sampling", "elicitation", "roots"] } }),
                &["by"],
            ),
            None,
        ),
        definition(
            "payload",
            "Get a payload",
            "Returns a text of exactly so many bytes.",
            Effect::Reads,
            object(json!({ "bytes": { "type": "integer", "minimum": 0, "maximum": MAX_PAYLOAD } }), &[]),
            None,
        ),
        definition(
            "echo",
            "Echo",
            "Returns the text it was given.",
            Effect::Reads,
            object(json!({ "text": text }), &[]),
            None,
        ),
    ]
}

/// Runs a tool of this group; `None` if `name` is not one.
pub(crate) fn call(name: &str, call: &Call<'_>) -> Option<Result<Outcome, RpcError>> {
    Some(match name {
        "wait" => wait(call),
        "increment" => increment(call),
        "counts" => Ok(CallResult::structured(call.state.counters.snapshot()).into()),
        "ask_client" => ask_client(call),
        "payload" => payload(call),
        "echo" => echo(call),
        _ => return None,
    })
}

fn wait(call: &Call<'_>) -> Result<Outcome, RpcError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Arguments {
        ms: u64,
        text: Option<String>,
        #[serde(default)]
        hang_up: bool,
    }
    let Arguments { ms, text, hang_up } = call.arguments.read()?;
    if ms > MAX_WAIT_MS {
        return Err(RpcError::invalid_params(format_args!("ms must be 0 to {MAX_WAIT_MS}")));
    }
    let text = text.unwrap_or_else(|| format!("waited {ms} ms"));
    let (outlet, progress_token) = (call.outlet.clone(), call.progress_token.clone());
    Ok(Outcome::Running(Box::pin(async move {
        if hang_up {
            outlet.hang_up();
        }
        match progress_token {
            Some(token) => wait_with_progress(&outlet, &token, Duration::from_millis(ms)).await,
            None => sleep(Duration::from_millis(ms)).await,
        }
        Ok(CallResult::text(text))
    })))
}

async fn wait_with_progress(outlet: &Outlet, token: &RequestId, total: Duration) {
    for step in 1..PROGRESS_STEPS {
        sleep(total / PROGRESS_STEPS).await;
        let progress = json!({ "progressToken": token, "progress": step, "total": PROGRESS_STEPS });
        if outlet.send(rpc::notification("notifications/progress", progress)).await.is_err() {
            // The client is gone; this call is about to be aborted.
            return;
        }
    }
    sleep(total / PROGRESS_STEPS).await;
}

fn increment(call: &Call<'_>) -> Result<Outcome, RpcError> {
    #[derive(Deserialize)]
    struct Arguments {
        key: String,
    }
    let Arguments { key } = call.arguments.read()?;
    // A key is a line of the counts file.
    if key.is_empty() || key.len() > MAX_KEY || key.contains(char::is_control) {
        return Err(RpcError::invalid_params(format_args!("key must be 1 to {MAX_KEY} bytes of printable text")));
    }
    let value = call.state.counters.increment(call.session.id(), call.request, &key).map_err(|reason| {
        tracing::error!(%reason, "an increment could not be written to the counts file and was refused");
        RpcError::new(INTERNAL_ERROR, format!("counts file: {reason}"))
    })?;
    Ok(CallResult::structured(json!({ "key": key, "value": value })).into())
}

/// What can be asked of a client.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ability {
    #[default]
    Sampling,
    Elicitation,
    Roots,
}

impl Ability {
    fn is_offered(self, client: Client) -> bool {
        match self {
            Self::Sampling => client.samples,
            Self::Elicitation => client.elicits,
            Self::Roots => client.has_roots,
        }
    }

    /// Method and parameters of the request.
    fn request(self, prompt: &str) -> (&'static str, Value) {
        match self {
            Self::Sampling => (
                "sampling/createMessage",
                json!({
                    "messages": [{ "role": "user", "content": { "type": "text", "text": prompt } }],
                    "maxTokens": 1000,
                }),
            ),
            Self::Elicitation => (
                "elicitation/create",
                json!({ "message": prompt, "requestedSchema": object(json!({ "text": { "type": "string" } }), &[]) }),
            ),
            Self::Roots => ("roots/list", json!({})),
        }
    }

    fn text(self, result: &str) -> Option<String> {
        match self {
            Self::Sampling => sampled_text(result),
            Self::Elicitation => elicited_text(result),
            Self::Roots => root_uris(result),
        }
    }
}

fn ask_client(call: &Call<'_>) -> Result<Outcome, RpcError> {
    #[derive(Deserialize)]
    struct Arguments {
        prompt: String,
        #[serde(default)]
        by: Ability,
    }
    let Arguments { prompt, by } = call.arguments.read()?;
    if !call.session.client().is_some_and(|client| by.is_offered(client)) {
        let (method, _) = by.request("");
        return Ok(CallResult::failed(format!("the client does not offer {method}")).into());
    }
    let (session, outlet) = (Arc::clone(call.session), call.outlet.clone());
    let deadline = call.state.options.ask_deadline;
    Ok(Outcome::Running(Box::pin(async move {
        let question = session.ask();
        Ok(match timeout(deadline, ask(&outlet, question, by, &prompt)).await {
            Ok(result) => result,
            Err(_) => CallResult::failed(format!("the client did not answer within {} ms", deadline.as_millis())),
        })
    })))
}

async fn ask(outlet: &Outlet, mut question: Question, by: Ability, prompt: &str) -> CallResult {
    let (method, params) = by.request(prompt);
    let gone = || CallResult::failed("the client is gone");
    if outlet.send(rpc::request(&question.id, method, &params)).await.is_err() {
        return gone();
    }
    match (&mut question.answer).await {
        Ok(Ok(result)) => match by.text(result.get()) {
            Some(text) => CallResult::text(text),
            None => CallResult::failed("the client's answer has no text"),
        },
        Ok(Err(error)) => CallResult::failed(format!("the client refused: {}", error.get())),
        Err(_) => gone(),
    }
}

/// The text of an `ElicitResult` that was accepted.
fn elicited_text(result: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct ElicitResult {
        action: String,
        content: Option<Content>,
    }
    #[derive(Deserialize)]
    struct Content {
        text: String,
    }
    let result: ElicitResult = serde_json::from_str(result).ok()?;
    result.content.filter(|_| result.action == "accept").map(|content| content.text)
}

/// The URIs of a `ListRootsResult`, one a line.
fn root_uris(result: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct ListRootsResult {
        roots: Vec<Root>,
    }
    #[derive(Deserialize)]
    struct Root {
        uri: String,
    }
    let result: ListRootsResult = serde_json::from_str(result).ok()?;
    let uris: Vec<String> = result.roots.into_iter().map(|root| root.uri).collect();
    Some(uris.join("\n"))
}

/// The text of a `CreateMessageResult`. Its content is one block, or since revision 2025-11-25 a list of them.
fn sampled_text(result: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct SamplingResult {
        content: Blocks,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Blocks {
        One(Block),
        Many(Vec<Block>),
    }
    #[derive(Deserialize)]
    struct Block {
        text: Option<String>,
    }
    let result: SamplingResult = serde_json::from_str(result).ok()?;
    match result.content {
        Blocks::One(block) => block.text,
        Blocks::Many(blocks) => blocks.into_iter().map(|block| block.text).reduce(|all, text| match (all, text) {
            (Some(all), Some(text)) => Some(all + &text),
            (all, text) => all.or(text),
        })?,
    }
}

fn payload(call: &Call<'_>) -> Result<Outcome, RpcError> {
    #[derive(Deserialize)]
    struct Arguments {
        bytes: usize,
    }
    let Arguments { bytes } = call.arguments.read()?;
    if bytes > MAX_PAYLOAD {
        return Err(RpcError::invalid_params(format_args!("bytes must be 0 to {MAX_PAYLOAD}")));
    }
    let mut text = PAYLOAD_PATTERN.repeat(bytes.div_ceil(PAYLOAD_PATTERN.len()));
    text.truncate(bytes);
    Ok(CallResult::text(text).into())
}

fn echo(call: &Call<'_>) -> Result<Outcome, RpcError> {
    #[derive(Deserialize)]
    struct Arguments {
        text: String,
    }
    let Arguments { text } = call.arguments.read()?;
    Ok(CallResult::text(text).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_found_in_one_block_and_in_several() {
        let table = [
            (r#"{"content":{"type":"text","text":"a"}}"#, Some("a")),
            (r#"{"content":[{"type":"text","text":"a"},{"type":"image"},{"type":"text","text":"b"}]}"#, Some("ab")),
            (r#"{"content":{"type":"image"}}"#, None),
            (r#"{"content":[]}"#, None),
            ("null", None),
        ];
        for (result, text) in table {
            assert_eq!(sampled_text(result).as_deref(), text, "{result}");
        }
    }

    #[test]
    fn an_elicited_text_was_accepted_and_roots_are_listed_by_their_uris() {
        assert_eq!(elicited_text(r#"{"action":"accept","content":{"text":"a"}}"#).as_deref(), Some("a"));
        for result in [r#"{"action":"decline","content":{"text":"a"}}"#, r#"{"action":"accept"}"#, "{}"] {
            assert_eq!(elicited_text(result), None, "{result}");
        }
        let roots = r#"{"roots":[{"uri":"file:///a","name":"A"},{"uri":"file:///b"}]}"#;
        assert_eq!(root_uris(roots).as_deref(), Some("file:///a\nfile:///b"));
        assert_eq!(root_uris("{}"), None);
    }
}
