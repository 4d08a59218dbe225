//! The tasks extension (`io.modelcontextprotocol/tasks`): a call that takes long becomes a task, which is on record before its
//! client hears of it, and is asked about, answered or cancelled at any instance. CALL-2
//!
//! A task is a call in its session, and what is told of it is read there: nothing has to run for it but the session itself.

use std::{
    rc::Rc,
    time::{Duration, UNIX_EPOCH},
};

use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    begun,
    call::{Caller, Handle, key_of},
    record::{self, Asked as Recorded, Done, Place},
    translate::{self, Ask, Response},
};
use crate::{
    cluster::look_after::look_after,
    gateway::{
        inner::{Ended, Failed, Inner, Said as Heard},
        patience::patiently,
        shared::Gateway,
        stateless::asked::{Asked, NotServed, Outcome},
    },
    protocol::{
        by_name::by_name,
        jsonrpc::{self, IdKey},
        mcp,
        modern::{TASKS, refusal::Refusal, result},
        stream_key::StreamKey,
    },
    store::{CallNote, CallRecord, SessionHead},
};

/// How a task stands.
pub const GET: &str = "tasks/get";
/// Answers to what a task asks.
pub const UPDATE: &str = "tasks/update";
/// Gives a task up.
pub const CANCEL: &str = "tasks/cancel";

const NOT_FOUND: Refusal = Refusal::Params("there is no such task, or its time is over");

/// Makes a task of a running call, and puts it on record. Its record's name, and what its client is told; `None`: the store does
/// not take it, and the call goes on as it is.
pub(super) async fn begin(gateway: &Rc<Gateway>, handle: &Handle) -> Option<(String, Response)> {
    let caller = &handle.caller;
    if !record::may_be_one_more(gateway) {
        return None;
    }
    let task = format!("{:032x}", fastrand::u128(..));
    let name = record::name("task", &caller.service.name, &caller.by, &task);
    let asked = Recorded::new(handle.session, &handle.id, caller.fingerprint(), &caller.by);
    let (text, life) = (asked.write(), record::life(&gateway.env.settings));
    let place = handle.place.write();
    let store = &gateway.env.store;
    patiently(gateway, || store.begin_call(&name, &text, life)).await.ok()?;
    patiently(gateway, || store.note_call(&name, CallNote::Place, &place, life)).await.ok()??;
    handle.becomes_a_task();
    gateway.env.metrics.tasks.with_label_values(&["created"]).inc();
    let told = Told { task: &task, asked: &asked, gateway };
    let mut result = told.state("working", asked.at);
    result.insert("resultType".to_owned(), "task".into());
    Some((name, Response::result(&caller.id, &Value::Object(result).to_string())))
}

struct Told<'t> {
    task: &'t str,
    asked: &'t Recorded,
    gateway: &'t Gateway,
}

impl Told<'_> {
    /// `at`: when it was last so, in milliseconds since 1970.
    fn state(&self, status: &str, at: u64) -> Map<String, Value> {
        let inner = &self.gateway.env.settings.inner;
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let state = json!({
            "taskId": self.task, "status": status, "createdAt": iso(self.asked.at), "lastUpdatedAt": iso(at),
            "ttlMs": millis(record::life(&self.gateway.env.settings)), "pollIntervalMs": millis(inner.task_poll),
        });
        let Value::Object(state) = state else { return Map::new() };
        state
    }
}

fn iso(millis: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
}

/// What is asked about a task.
pub(super) async fn answer(gateway: &Rc<Gateway>, asked: &Asked<'_>) -> Result<Outcome, NotServed> {
    if !asked.said.declares(&["extensions", TASKS]) {
        let required = json!({ "extensions": { TASKS: {} } });
        return Err(Refusal::Capability { required }.into());
    }
    let task = asked.said.task_id.as_deref().ok_or(Refusal::Params("params has no taskId"))?;
    let name = record::name("task", &asked.service.name, asked.by, task);
    let found = patiently(gateway, || gateway.env.store.call(&name)).await?.ok_or(NOT_FOUND)?;
    let recorded = Recorded::read(&found.asked).filter(|recorded| recorded.admits(asked.by)).ok_or(NOT_FOUND)?;
    let (Some(session), Some(id)) = (recorded.session(), recorded.id()) else { return Err(NOT_FOUND.into()) };
    let inner = Inner::at(gateway, asked.service, asked.by, session);
    gateway.env.metrics.tasks.with_label_values(&[label(asked.method)]).inc();
    let stands = match asked.method {
        GET => get(gateway, asked, &inner, (&name, &found, &recorded)).await?,
        UPDATE => {
            update(gateway, asked, &inner).await?;
            Stands::default()
        }
        _ => {
            if found.done.is_none() {
                record::note_done(gateway, &name, &Done::cancelled()).await?;
                // A session that is gone has nothing to cancel.
                let _ = inner.cancel(&id, "the client has cancelled the task").await;
            }
            Stands::default()
        }
    };
    let body = jsonrpc::result_response(asked.id.as_json(), &stands.write());
    Ok(Outcome::Whole { status: 200, body })
}

/// What is told of a task, and with it what its server has said (name and JSON text), which stays as it was written.
#[derive(Debug, Default)]
struct Stands {
    told: Map<String, Value>,
    said: Option<(&'static str, String)>,
}

impl Stands {
    fn write(mut self) -> String {
        self.told.insert("resultType".to_owned(), "complete".into());
        let told = Value::Object(self.told).to_string();
        let said = self.said.as_ref().map(|(name, text)| (*name, text.as_str()));
        // What is told is an object.
        result::edited(&told, said.as_slice()).unwrap_or(told)
    }
}

fn label(method: &str) -> &'static str {
    match method {
        GET => "get",
        UPDATE => "update",
        _ => "cancel",
    }
}

async fn get(
    gateway: &Rc<Gateway>,
    asked: &Asked<'_>,
    inner: &Inner,
    (name, found, recorded): (&str, &CallRecord, &Recorded),
) -> Result<Stands, NotServed> {
    let task = asked.said.task_id.as_deref().unwrap_or_default();
    let told = Told { task, asked: recorded, gateway };
    if let Some(done) = found.done.as_deref().and_then(Done::read) {
        return Ok(ended(&told, &done));
    }
    let caller = Caller { method: mcp::CALL_TOOL.to_owned(), ..begun::caller(asked) };
    let (done, questions) = match look(gateway, &caller, inner, found).await? {
        Seen::Working => (None, Vec::new()),
        Seen::Asks(questions) => (None, questions),
        Seen::Answered(response) => (Some(Done::of(&response)), Vec::new()),
    };
    if let Some(done) = done {
        let noted = record::note_done(gateway, name, &done).await?;
        let stands = noted.and_then(|record| Done::read(record.done.as_deref()?));
        return Ok(ended(&told, stands.as_ref().unwrap_or(&done)));
    }
    let status = if questions.is_empty() { "working" } else { "input_required" };
    let said = (!questions.is_empty()).then(|| ("inputRequests", translate::requests(&questions)));
    Ok(Stands { told: told.state(status, recorded.at), said })
}

fn ended(told: &Told<'_>, done: &Done) -> Stands {
    #[derive(Deserialize)]
    struct Failed {
        message: String,
    }
    match (&done.result, &done.error) {
        (Some(result), _) => {
            let told = told.state("completed", done.at);
            Stands { told, said: Some(("result", result.get().to_owned())) }
        }
        (None, Some(error)) => {
            let mut told = told.state("failed", done.at);
            if let Some(Failed { message }) = by_name(error.get()) {
                told.insert("statusMessage".to_owned(), message.into());
            }
            Stands { told, said: Some(("error", error.get().to_owned())) }
        }
        (None, None) => Stands { told: told.state("cancelled", done.at), said: None },
    }
}

/// How a call stands in its session.
enum Seen {
    Working,
    /// Its open questions, by their keys.
    Asks(Vec<Ask>),
    Answered(Response),
}

async fn look(gateway: &Rc<Gateway>, caller: &Caller, inner: &Inner, found: &CallRecord) -> Result<Seen, NotServed> {
    let gone = || Seen::Answered(caller.failed(&Ended::Gone));
    let Some(place) = found.place.as_deref().and_then(Place::read) else { return Ok(gone()) };
    let (store, session) = (&gateway.env.store, inner.session);
    // Before its stream is read: what is not pending now has its answer there, or will have none.
    let Some(head) = patiently(gateway, || store.load(session)).await? else { return Ok(gone()) };
    let pending = patiently(gateway, || store.pending(session)).await?;
    let is_pending = pending.iter().any(|request| request.seq == place.request);
    let heard = match inner.peek(StreamKey::Request(place.request), place.at()).await {
        Ok(heard) => heard,
        Err(Failed::Ended(Ended::Gone)) => return Ok(gone()),
        Err(error) => return Err(begun::not_served(error)),
    };
    let mut asks = Vec::new();
    for heard in heard {
        match heard {
            Heard::Answer { body, .. } => {
                let server = head.continuation.initialize_result.as_deref().and_then(begun::server_of);
                return Ok(Seen::Answered(Caller { server, ..caller.clone() }.response(&body)));
            }
            Heard::Question { id, body, .. } if head.continuation.questions.contains_key(id.as_json()) => {
                if let Some(ask) = caller.ask(&body) {
                    asks.push((key_of(&id), ask));
                }
            }
            Heard::Question { .. } | Heard::Notification { .. } | Heard::Beat => {}
        }
    }
    if !is_pending {
        return Ok(gone());
    }
    adopt_if_orphaned(gateway, inner, &head);
    Ok(if asks.is_empty() { Seen::Working } else { Seen::Asks(asks) })
}

/// Nobody shows the stream of a task: who asks about it sees to it that it has an owner.
fn adopt_if_orphaned(gateway: &Rc<Gateway>, inner: &Inner, head: &SessionHead) {
    let env = &gateway.env;
    let is_here = env.directory.session(&inner.session).is_some();
    let lives = head.ownership.as_ref().is_some_and(|ownership| env.neighbours.saw_alive(&ownership.owner));
    if !is_here && !lives {
        look_after(&gateway.member, inner.session, "task");
    }
}

/// Answers to questions that are open; others are passed over.
async fn update(gateway: &Rc<Gateway>, asked: &Asked<'_>, inner: &Inner) -> Result<(), NotServed> {
    let given = asked.said.input_responses.map(RawValue::get).unwrap_or("{}");
    let given: begun::Members<'_> = by_name(given).ok_or(Refusal::Params("inputResponses is no object"))?;
    let head = patiently(gateway, || gateway.env.store.load(inner.session)).await?.ok_or(NOT_FOUND)?;
    for open in head.continuation.questions.keys() {
        let id = IdKey::from_stored(open.as_str());
        if let Some(result) = given.get(&key_of(&id)) {
            let replied = inner.reply(&id, result.get()).await;
            replied.map_err(begun::not_served)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_has_said_stays_as_it_was_written() {
        let odd = r#"{"z":12345678901234567890123,"a":1e400,"s":"\ud800"}"#;
        let told = json!({ "status": "completed" }).as_object().unwrap().clone();
        let stands = Stands { told, said: Some(("result", odd.to_owned())) };
        let expected = format!(r#"{{"result":{odd},"resultType":"complete","status":"completed"}}"#);
        assert_eq!(stands.write(), expected);
        assert_eq!(Stands::default().write(), r#"{"resultType":"complete"}"#);
    }
}
