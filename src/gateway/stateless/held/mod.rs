//! For a server of sessions: the gateway is its client, in a session of its own ([`inner`](crate::gateway::inner)), and the
//! client of the request sees nothing of that.
//!
//! | file | what stands there |
//! |---|---|
//! | `translate` | messages of one era for the other: pure |
//! | `begin` | a request on its way into a session, or back to it |
//! | `begun` | what it has led to |
//! | `call` | one request: what comes of it, message by message |
//! | `keyed` | calls with an idempotency key: of all with the same one, one runs |
//! | `task` | calls that have become tasks |
//! | `run` | calls that go on without their clients |
//! | `record` | what is on record of these |
//! | `seat` | in which session it is |
//! | `state` | what a client shows when it goes on with a call that has asked something |
//! | `wait` | calls that wait for their clients |
//! | `discover` | what the server is |
//! | `listen` | a stream of changes |

mod begin;
mod begun;
mod call;
mod discover;
mod keyed;
mod listen;
mod record;
mod run;
mod seat;
mod state;
mod task;
pub mod translate;
mod wait;

use std::{pin::Pin, rc::Rc};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::sync::mpsc;

use self::{
    begun::Begun,
    call::{Call, Step},
    run::Plan,
    translate::Response,
};
use super::asked::{Asked, Messages, NotServed, Outcome};
use crate::{
    gateway::shared::Gateway,
    protocol::{
        jsonrpc, mcp,
        modern::{self, TASKS, refusal::Refusal},
    },
};

/// Levels of logs.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// The request is one that must outlive this instance, or goes on with such a one.
pub(super) async fn is_kept(gateway: &Rc<Gateway>, asked: &Asked<'_>) -> Result<bool, NotServed> {
    let is_keyed = asked.key.is_some() && asked.method == mcp::CALL_TOOL;
    Ok(is_keyed || begin::goes_on(gateway, asked).await?)
}

/// Does what is asked in a session. `has_tasks`: what takes long may become a task; a server of this era has its own.
pub(super) async fn answer(gateway: &Rc<Gateway>, asked: Asked<'_>, has_tasks: bool) -> Result<Outcome, NotServed> {
    if asked.said.log_level().is_some_and(|level| !LEVELS.contains(&level)) {
        return Err(Refusal::Params("params._meta names a level of logs that there is not").into());
    }
    match asked.method {
        modern::DISCOVER => Ok(discover::answer(gateway, &asked).await),
        modern::LISTEN => listen::answer(gateway, &asked).await,
        task::GET | task::UPDATE | task::CANCEL => task::answer(gateway, &asked).await,
        _ => call(gateway, &asked, has_tasks).await,
    }
}

async fn call(gateway: &Rc<Gateway>, asked: &Asked<'_>, has_tasks: bool) -> Result<Outcome, NotServed> {
    // Nothing else has effects of its own.
    let is_tool = asked.method == mcp::CALL_TOOL;
    let key = asked.key.filter(|_| is_tool);
    let after = gateway.env.settings.inner.task_after;
    let may_be = has_tasks && is_tool && !after.is_zero() && asked.said.declares(&["extensions", TASKS]);
    let task_after = may_be.then_some(after);
    match begin::begin(gateway, asked, key, task_after.is_some()).await? {
        Begun::Over(outcome) => Ok(outcome),
        Begun::Running(call, names) => {
            let id = asked.id.as_json().to_owned();
            let source = match (names.is_empty(), task_after) {
                (true, None) => Source::Call(call),
                _ => Source::Run(run::run(gateway, call, Plan { names, task_after }), id),
            };
            Ok(outcome(gateway, source, asked.takes_events).await)
        }
    }
}

/// From where the messages of a call come.
#[expect(clippy::large_enum_variant, reason = "one a request, in a box of its own")]
enum Source {
    /// It ends with its client.
    Call(Call),
    /// It goes on without. And the request's id (JSON text).
    Run(mpsc::Receiver<Step>, String),
}

impl Source {
    async fn advance(self) -> (Self, Step) {
        match self {
            Self::Call(call) => {
                let (call, step) = call.advance().await;
                (Self::Call(call), step)
            }
            Self::Run(mut steps, id) => {
                let step = steps.recv().await.unwrap_or_else(|| {
                    // This thread goes down.
                    let details = serde_json::json!({ "reason": "draining", "outcome": "unknown", "retry": true });
                    let why = "this instance goes down; the call goes on";
                    let body = jsonrpc::error_response(&id, jsonrpc::INTERNAL_ERROR, why, Some(&details));
                    Step::Last(Response { status: 200, body })
                });
                (Self::Run(steps, id), step)
            }
        }
    }
}

type Advancing = Pin<Box<dyn Future<Output = (Source, Step)>>>;

/// One message if it comes soon, or its client takes no other; else a stream.
async fn outcome(gateway: &Rc<Gateway>, source: Source, takes_events: bool) -> Outcome {
    let mut next: Advancing = Box::pin(source.advance());
    let json_wait = gateway.env.settings.stream.json_wait;
    loop {
        let advanced = match takes_events {
            true => tokio::time::timeout(json_wait, &mut next).await.ok(),
            false => Some((&mut next).await),
        };
        match advanced {
            Some((_, Step::Last(response))) => {
                return Outcome::Whole { status: response.status, body: response.body };
            }
            Some((source, Step::Message(message))) if takes_events => {
                let first = stream::once(async move { Ok(message) });
                return Outcome::Stream(first.chain(rest(source.advance().boxed_local())).boxed_local());
            }
            Some((source, Step::Message(_))) => next = Box::pin(source.advance()),
            None => return Outcome::Stream(rest(next)),
        }
    }
}

fn rest(next: Advancing) -> Messages {
    let messages = stream::unfold(Some(next), |next| async move {
        let (source, step) = next?.await;
        match step {
            Step::Message(message) => Some((message, Some(source.advance().boxed_local()))),
            Step::Last(response) => Some((response.body, None)),
        }
    });
    messages.map(Ok).boxed_local()
}
