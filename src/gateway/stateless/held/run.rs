//! A call that goes on without its client: what it tells is handed to the client as long as there is one, and what comes of it
//! is noted. CALL-1, CALL-2

use std::{future::pending, rc::Rc, time::Duration};

use tokio::{sync::mpsc, time::Instant};

use super::{
    call::{Call, Step},
    record::{self, Done},
    task,
    translate::Response,
};
use crate::{fault, gateway::shared::Gateway};

/// Messages of a call that wait for its client. A client that does not read misses notifications; its answer waits for it.
const WAITING: usize = 64;

/// What becomes of a call besides its answer.
#[derive(Debug)]
pub struct Plan {
    /// Its records, in which its end is noted. Without one, a client that leaves cancels it.
    pub names: Vec<String>,
    /// After so long it becomes a task.
    pub task_after: Option<Duration>,
}

/// Runs it. What is returned has what its client is told; the last is the response, if the client waits for it.
pub fn run(gateway: &Rc<Gateway>, call: Call, plan: Plan) -> mpsc::Receiver<Step> {
    let (told, client) = mpsc::channel(WAITING);
    actix_rt::spawn(to_the_end(Rc::clone(gateway), call, plan, told));
    client
}

async fn to_the_end(gateway: Rc<Gateway>, call: Call, mut plan: Plan, told: mpsc::Sender<Step>) {
    let mut becomes = plan.task_after.map(|after| Instant::now() + after);
    let handle = call.handle();
    let mut next = Box::pin(call.advance());
    loop {
        let time_is_up = async {
            match becomes {
                Some(at) => tokio::time::sleep_until(at).await,
                None => pending().await,
            }
        };
        let is_bound = plan.names.is_empty();
        tokio::select! {
            biased;
            (call, step) = &mut next => match step {
                Step::Message(message) => {
                    if told.try_send(Step::Message(message)).is_err() && !told.is_closed() {
                        gateway.env.metrics.dropped.with_label_values(&["slow_client"]).inc();
                    }
                    next = Box::pin(call.advance());
                }
                Step::Last(response) => {
                    end(&gateway, call, &plan.names, &response).await;
                    // A client that has left asks again.
                    let _ = told.send(Step::Last(response)).await;
                    return;
                }
            },
            // Dropped, the call is cancelled.
            () = told.closed(), if is_bound => return,
            () = time_is_up => {
                becomes = None;
                let Some(handle) = &handle else { continue };
                if let Some((name, response)) = task::begin(&gateway, handle).await {
                    plan.names.push(name);
                    let _ = told.send(Step::Last(response)).await;
                }
            }
        }
    }
}

/// Notes what came of it, and lets its session go.
async fn end(gateway: &Rc<Gateway>, mut call: Call, names: &[String], response: &Response) {
    if names.is_empty() {
        if call.is_answered() {
            call.lets_go();
        }
        return;
    }
    if !call.is_answered() {
        // It asks something, or was lost sight of here: another instance may yet see its answer.
        call.leave();
        return;
    }
    fault::point(fault::CALL_ANSWERED);
    let done = Done::of(response);
    let mut is_noted = true;
    for name in names {
        is_noted &= record::note_done(gateway, name, &done).await.is_ok();
    }
    fault::point(fault::CALL_NOTED);
    if is_noted {
        call.lets_go();
    }
}
