//! One session: its queue towards the client, its running calls, and its open questions to the client.
//!
//! Two rules make cancellation exact. A call that ends must take its entry from the session *before* its answer may
//! enter the queue; a cancellation takes the same entry. Whoever takes it first wins, so after a cancellation was
//! accepted no answer is sent. And an answer enters the queue only by a slot reserved before, so nothing waits between
//! the two steps.

use std::{
    fmt::Display,
    future::{Future, Ready, ready},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use actix_web::rt;
use serde_json::{json, value::RawValue};
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
};

use crate::{
    rpc::{self, Outgoing, RequestId, RpcError, TOO_MANY_CALLS},
    session_id::SessionId,
};

/// Severity of a log message, by its rank in RFC 5424; the least severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

/// What the client answered to a request of the server: its result, or its error, as JSON.
pub(crate) type ClientAnswer = Result<Box<RawValue>, Box<RawValue>>;

/// The stream is gone; there is nobody left to send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session's stream is gone")]
pub(crate) struct ClientGone;

/// One client.
pub(crate) struct Session {
    id: SessionId,
    outgoing: mpsc::Sender<Outgoing>,
    state: Mutex<SessionState>,
}

#[derive(Default)]
struct SessionState {
    /// The stream has dropped; nothing may be started any more.
    gone: bool,
    /// What `initialize` said; `None` before it.
    client: Option<Client>,
    /// Set by `logging/setLevel`. Before that no log message is sent.
    log_level: Option<LogLevel>,
    /// Few at a time, so a list is smaller and faster than a map.
    calls: Vec<RunningCall>,
    questions: Vec<(RequestId, oneshot::Sender<ClientAnswer>)>,
    /// Numbers calls and questions.
    last_ticket: u64,
}

/// What a client said of itself in `initialize`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    /// It offers `sampling`.
    pub samples: bool,
}

struct RunningCall {
    /// Tells two calls apart that a client, wrongly, gave the same id.
    ticket: u64,
    request: RequestId,
    task: AbortHandle,
}

impl Session {
    /// A fresh session, and the receiving end of its queue.
    pub fn new(queue_capacity: usize) -> (Arc<Self>, mpsc::Receiver<Outgoing>) {
        let (outgoing, queue) = mpsc::channel(queue_capacity);
        (Arc::new(Self { id: SessionId::random(), outgoing, state: Mutex::default() }), queue)
    }

    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    fn state(&self) -> MutexGuard<'_, SessionState> {
        // No code that holds the lock can leave the state half-changed, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what `initialize` said. A second `initialize` replaces it.
    pub fn set_client(&self, client: Client) {
        self.state().client = Some(client);
    }

    /// What `initialize` said; `None` before it.
    pub fn client(&self) -> Option<Client> {
        self.state().client
    }

    /// Sets the least severity of log messages the client wants.
    pub fn set_log_level(&self, level: LogLevel) {
        self.state().log_level = Some(level);
    }

    /// Sends a log message, if the client asked for that severity.
    pub fn log(&self, level: LogLevel, logger: &str, text: impl Display) {
        if self.state().log_level.is_some_and(|least| level >= least) {
            let params = json!({ "level": level, "logger": logger, "data": text.to_string() });
            self.send_if_room(rpc::notification("notifications/message", params));
        }
    }

    /// Sends a message, waiting for room in the queue.
    pub async fn send(&self, message: Outgoing) -> Result<(), ClientGone> {
        self.outgoing.send(message).await.map_err(|_| ClientGone)
    }

    /// Sends a message that may be lost: a notification, to a client that does not keep up.
    pub fn send_if_room(&self, message: Outgoing) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.outgoing.try_send(message) {
            tracing::warn!(session = %self.id, "the client does not keep up: notification dropped");
        }
    }

    /// Sends an answer that is ready. If the queue is full it waits there as a running call would.
    ///
    /// # Errors
    /// The answer comes back if `max_running` calls run or wait already; then whoever brought the request has to wait
    /// ([`Self::send`]).
    pub fn answer(self: &Arc<Self>, request: &RequestId, answer: Outgoing, max_running: usize) -> Result<(), Outgoing> {
        match self.outgoing.try_send(answer) {
            Err(mpsc::error::TrySendError::Full(answer)) => {
                self.try_start(request.clone(), ready(answer), max_running).map_err(Ready::into_inner)
            }
            // A closed queue means that the client is gone, and its answers with it.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Runs a call on this thread; its output is the answer. The call ends early when it is cancelled or when the
    /// stream drops.
    ///
    /// # Errors
    /// `max_running` calls are running already.
    pub fn start<F>(self: &Arc<Self>, request: RequestId, call: F, max_running: usize) -> Result<(), RpcError>
    where
        F: Future<Output = Outgoing> + 'static,
    {
        self.try_start(request, call, max_running)
            .map_err(|_| RpcError::new(TOO_MANY_CALLS, format!("{max_running} calls of this session are running")))
    }

    fn try_start<F>(self: &Arc<Self>, request: RequestId, call: F, max_running: usize) -> Result<(), F>
    where
        F: Future<Output = Outgoing> + 'static,
    {
        let mut state = self.state();
        if state.gone {
            return Ok(());
        }
        if state.calls.len() >= max_running {
            return Err(call);
        }
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        let session = Arc::clone(self);
        // The task cannot run before this function returns: it shares the thread. So its entry is there in time.
        let task = rt::spawn(async move {
            let answer = call.await;
            let Ok(slot) = session.outgoing.reserve().await else { return };
            if session.take_call(ticket) {
                slot.send(answer);
            }
        });
        state.calls.push(RunningCall { ticket, request, task: task.abort_handle() });
        Ok(())
    }

    /// Takes the entry of a call that ended; `false` if it was cancelled.
    fn take_call(&self, ticket: u64) -> bool {
        let mut state = self.state();
        let Some(position) = state.calls.iter().position(|call| call.ticket == ticket) else { return false };
        state.calls.swap_remove(position);
        true
    }

    /// Cancels the running calls with this id; how many there were.
    pub fn cancel(&self, request: &RequestId) -> usize {
        let mut cancelled = 0;
        self.state().calls.retain(|call| {
            let is_meant = call.request == *request;
            if is_meant {
                call.task.abort();
                cancelled += 1;
            }
            !is_meant
        });
        cancelled
    }

    /// Opens a question to the client: the id to send it under, and the place where the answer will arrive. Dropping
    /// the question forgets it.
    pub fn ask(self: &Arc<Self>) -> Question {
        let (sender, answer) = oneshot::channel();
        let mut state = self.state();
        state.last_ticket += 1;
        let id = RequestId::of_server(&format!("ask-{}", state.last_ticket));
        if !state.gone {
            state.questions.push((id.clone(), sender));
        }
        Question { session: Arc::clone(self), id, answer }
    }

    /// Hands the client's answer to whoever asked; `false` if nobody did, or nobody waits any more.
    pub fn resolve(&self, id: &RequestId, answer: ClientAnswer) -> bool {
        self.take_question(id).is_some_and(|sender| sender.send(answer).is_ok())
    }

    fn take_question(&self, id: &RequestId) -> Option<oneshot::Sender<ClientAnswer>> {
        let mut state = self.state();
        let position = state.questions.iter().position(|(asked, _)| asked == id)?;
        Some(state.questions.swap_remove(position).1)
    }

    /// Ends the session: its calls are aborted, its questions forgotten, and nothing can be started any more.
    pub fn close(&self) {
        let mut state = self.state();
        state.gone = true;
        for call in state.calls.drain(..) {
            call.task.abort();
        }
        state.questions.clear();
    }
}

/// A request of the server that the client has not answered yet.
pub(crate) struct Question {
    session: Arc<Session>,
    /// The id to send the request under.
    pub id: RequestId,
    /// Where the answer arrives. An error means that the session is gone.
    pub answer: oneshot::Receiver<ClientAnswer>,
}

impl Drop for Question {
    fn drop(&mut self) {
        self.session.take_question(&self.id);
    }
}
