//! What became of one session's messages, as far as anybody has it on record: the store's head of the session, its journal and
//! its event log, what has happened to it, and the audit log of this instance. For operators, without payloads. SEC-2

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    admin::{Looking, check_admin, check_own_page, describe_session, named},
    error::ApiError,
    extract::NodeData,
};
use crate::{
    audit,
    process::node::Node,
    protocol::{session_id::SessionId, stream_key::StreamKey},
    store::{Page, PendingRequest, SessionHead},
};

/// Events shown of each stream, the newest.
const EVENTS: usize = 100;
/// Bytes of events that are read for that.
const EVENT_BYTES: usize = 1 << 20;
/// Streams of requests that are looked for: of the last places of the inbox, and those that somebody shows.
const STREAMS: u64 = 16;
/// Requests without an answer that are shown.
const PENDING: usize = 100;
/// Lines of this instance's audit log that are shown.
const LINES: usize = 100;
/// So long after a question all instances tell what they know; who looks asks again before.
const ASKED: Duration = Duration::from_secs(15);
/// Incidents of all sessions among which those of this one are looked for.
const INCIDENTS: usize = 1000;

/// `GET /mcp/router/sessions/{id}/timeline`
///
/// # Errors
/// It is no operator who asks, there is no such session, or the store does not answer.
pub async fn timeline(node: NodeData, request: HttpRequest, name: web::Path<String>) -> Result<HttpResponse, ApiError> {
    check_admin(&node, &request)?;
    check_own_page(&node, &request)?;
    let _looking = Looking::begin()?;
    let id = named(&node, &name).await?;
    let (store, handle) = (&node.env.store, id.handle());
    let head = store.load(id).await?.ok_or(ApiError::UnknownSession)?;
    let (pending, incidents) = tokio::try_join!(store.pending(id), store.incidents(INCIDENTS))?;
    let mut incidents: Vec<Value> = incidents
        .iter()
        .filter(|text| text.contains(&handle))
        .filter_map(|text| serde_json::from_str(text).ok())
        .filter(|incident: &Value| incident["session"] == *handle)
        .collect();
    incidents.reverse();
    let Known { sent, lines } = known(&node, id).await?;
    let body = json!({
        "session": describe_session(&id, &head, true),
        "incidents": incidents,
        "audit": { "isKept": node.env.settings.log.audit.is_some(), "lines": lines },
        "pending": pending.iter().rev().take(PENDING).rev().map(|request| waits(&head, request)).collect::<Vec<_>>(),
        "streams": streams(&node, id, &head, &sent).await?,
    });
    Ok(HttpResponse::Ok().json(body))
}

/// What the instances know of a session: this one now, the others as they have told since somebody has begun to ask.
#[derive(Debug, Default, Deserialize)]
struct Known {
    #[serde(default)]
    sent: BTreeMap<String, u64>,
    #[serde(default)]
    lines: Vec<Value>,
}

async fn known(node: &Node, id: SessionId) -> Result<Known, ApiError> {
    let (handle, mut all) = (id.handle(), Known::default());
    node.env.store.ask_about(&handle, ASKED).await?;
    for told in node.env.store.published().await? {
        if told.owner.instance_id == node.env.me.instance_id {
            continue;
        }
        let Ok(mut known) = serde_json::from_str::<BTreeMap<String, Known>>(&told.known) else { continue };
        if let Some(Known { sent, lines }) = known.remove(&handle) {
            all.sent.extend(sent);
            all.lines.extend(lines);
        }
    }
    let here = node.env.directory.attachments(&id);
    all.sent.extend(here.iter().map(|held| (held.key.name().into_owned(), held.sent())));
    if let Some(path) = node.env.settings.log.audit.clone() {
        all.lines.extend(web::block(move || audit::tail::about(&path, &handle, LINES)).await.unwrap_or_default());
    }
    all.lines.sort_by(|one, other| one["at"].as_str().cmp(&other["at"].as_str()));
    Ok(all)
}

/// A request without an answer.
fn waits(head: &SessionHead, request: &PendingRequest) -> Value {
    json!({
        "seq": request.seq,
        "request": &*request.id_key,
        "method": method(&request.body),
        "isForwarded": request.forwarded,
        "isCancelled": head.continuation.cancelled.values().any(|seq| *seq == request.seq),
    })
}

/// What each stream has shown or is to show.
async fn streams(
    node: &Node,
    id: SessionId,
    head: &SessionHead,
    sent: &BTreeMap<String, u64>,
) -> Result<Vec<Value>, ApiError> {
    let mut keys: Vec<StreamKey> = head.streams.keys().filter_map(|name| StreamKey::of_name(name)).collect();
    keys.push(StreamKey::Main);
    keys.extend((head.in_seq.saturating_sub(STREAMS - 1).max(1)..=head.in_seq).map(StreamKey::Request));
    keys.sort_unstable();
    keys.dedup();
    // The main one, and the last others.
    let skipped = keys.len().saturating_sub(2 * STREAMS as usize + 1);
    let keys = keys.iter().enumerate().filter(|(place, _)| *place == 0 || *place > skipped).map(|(_, key)| *key);
    let log = StreamKey::Main.name();
    let last = head.stream(&log).map_or(0, |stream| stream.last_seq);
    let after = last.saturating_sub(EVENTS as u64);
    let mut streams = Vec::new();
    for key in keys {
        let name = key.name();
        let page = node.env.store.read_page(id, &log, key, after, EVENTS, EVENT_BYTES).await?;
        let Page { events, .. } = page.ok_or(ApiError::UnknownSession)?;
        let known = head.stream(&name);
        // Who shows it knows better than the record.
        let delivered = sent.get(&*name).copied().max(known.and_then(|stream| stream.sent)).unwrap_or(0);
        let events: Vec<Value> = events
            .iter()
            .filter_map(|event| event.body.as_deref().map(|body| shown(event.seq, body, event.seq <= delivered)))
            .collect();
        let holder = known.and_then(|stream| stream.holder.as_ref()).map(|holder| Arc::clone(&holder.incarnation));
        if key == StreamKey::Main || !events.is_empty() || holder.is_some() {
            streams
                .push(json!({ "stream": name, "holder": holder.as_deref(), "delivered": delivered, "events": events }));
        }
    }
    Ok(streams)
}

/// An event without what it says.
fn shown(seq: u64, body: &[u8], is_delivered: bool) -> Value {
    let mut event = json!({ "event": seq, "isDelivered": is_delivered });
    let message: Value = serde_json::from_slice(body).unwrap_or_default();
    match (message.get("method").and_then(Value::as_str), message.get("id")) {
        (Some(method), None) => event["notification"] = json!(short(method)),
        (Some(method), Some(_)) => event["question"] = json!(short(method)),
        (None, Some(id)) => {
            event["answers"] = json!(short(&id.to_string()));
            event["isError"] = json!(message.get("error").is_some());
        }
        (None, None) => {}
    }
    event
}

fn method(body: &[u8]) -> String {
    let message: Value = serde_json::from_slice(body).unwrap_or_default();
    short(message["method"].as_str().unwrap_or_default()).to_owned()
}

/// Clients and servers choose it.
fn short(text: &str) -> &str {
    const MOST: usize = 128;
    let end = (0..=MOST.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    &text[..end]
}
