//! Drill tools: made to be broken in the middle, repeated, delayed and counted. Offered only by `--drill-tools`.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::tool::{Call, CallResult, Effect, Outcome, definition, object};
use crate::{
    rpc::{self, INTERNAL_ERROR, RequestId, RpcError},
    session::{Question, Session},
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
            "Sleeps, telling its progress if asked to, then answers with the text.",
            Effect::Reads,
            object(
                json!({ "ms": { "type": "integer", "minimum": 0, "maximum": MAX_WAIT_MS }, "text": text }),
                &["text"],
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
            "Has the client's model answer a prompt (sampling) and returns its text.",
            Effect::Reads,
            object(json!({ "prompt": text }), &[]),
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
    struct Arguments {
        ms: u64,
        text: Option<String>,
    }
    let Arguments { ms, text } = call.arguments.read()?;
    if ms > MAX_WAIT_MS {
        return Err(RpcError::invalid_params(format_args!("ms must be 0 to {MAX_WAIT_MS}")));
    }
    let text = text.unwrap_or_else(|| format!("waited {ms} ms"));
    let (session, progress_token) = (Arc::clone(call.session), call.progress_token.clone());
    Ok(Outcome::Running(Box::pin(async move {
        match progress_token {
            Some(token) => wait_with_progress(&session, &token, Duration::from_millis(ms)).await,
            None => sleep(Duration::from_millis(ms)).await,
        }
        Ok(CallResult::text(text))
    })))
}

async fn wait_with_progress(session: &Session, token: &RequestId, total: Duration) {
    for step in 1..PROGRESS_STEPS {
        sleep(total / PROGRESS_STEPS).await;
        let progress = json!({ "progressToken": token, "progress": step, "total": PROGRESS_STEPS });
        if session.send(rpc::notification("notifications/progress", progress)).await.is_err() {
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

fn ask_client(call: &Call<'_>) -> Result<Outcome, RpcError> {
    #[derive(Deserialize)]
    struct Arguments {
        prompt: String,
    }
    let Arguments { prompt } = call.arguments.read()?;
    if !call.session.client().is_some_and(|client| client.samples) {
        return Ok(CallResult::failed("the client does not offer sampling").into());
    }
    let (session, deadline) = (Arc::clone(call.session), call.state.options.ask_deadline);
    Ok(Outcome::Running(Box::pin(async move {
        let question = session.ask();
        Ok(match timeout(deadline, sample(&session, question, &prompt)).await {
            Ok(result) => result,
            Err(_) => CallResult::failed(format!("the client did not answer within {} ms", deadline.as_millis())),
        })
    })))
}

async fn sample(session: &Session, mut question: Question, prompt: &str) -> CallResult {
    let params = json!({
        "messages": [{ "role": "user", "content": { "type": "text", "text": prompt } }],
        "maxTokens": 1000,
    });
    let gone = || CallResult::failed("the client is gone");
    if session.send(rpc::request(&question.id, "sampling/createMessage", &params)).await.is_err() {
        return gone();
    }
    match (&mut question.answer).await {
        Ok(Ok(result)) => match sampled_text(result.get()) {
            Some(text) => CallResult::text(text),
            None => CallResult::failed("the client's answer has no text"),
        },
        Ok(Err(error)) => CallResult::failed(format!("the client refused: {}", error.get())),
        Err(_) => gone(),
    }
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
}
