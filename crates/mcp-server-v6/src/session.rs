//! One session: its ways to the client, its running calls, and its open questions to the client.
//!
//! Two rules make cancellation exact. A call that ends must take its entry from the session *before* its answer may
//! be sent; a cancellation takes the same entry. Whoever takes it first wins, so after a cancellation was accepted no
//! answer is sent. And an answer is sent only by a slot reserved before, so nothing waits between the two steps.

use std::{
    fmt::Display,
    future::{Future, Ready, ready},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actix_web::rt;
use serde_json::{json, value::RawValue};
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
};

use crate::{
    outlet::Outlet,
    rpc::{self, Outgoing, RequestId, RpcError, TOO_MANY_CALLS},
    session_id::SessionId,
    streams::{Limits, MAIN, Streams},
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

/// One client.
pub(crate) struct Session {
    id: SessionId,
    /// The way of what belongs to no request; over HTTP+SSE of everything.
    outlet: Outlet,
    /// Of Streamable HTTP.
    streams: Option<Arc<Streams>>,
    state: Mutex<SessionState>,
}

#[derive(Default)]
struct SessionState {
    /// The session has ended; nothing may be started any more.
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
    /// The negotiated revision of the protocol.
    pub version: &'static str,
    /// It offers `sampling`.
    pub samples: bool,
    /// It offers `elicitation`.
    pub elicits: bool,
    /// It offers `roots`.
    pub has_roots: bool,
}

struct RunningCall {
    /// Tells two calls apart that a client, wrongly, gave the same id.
    ticket: u64,
    request: RequestId,
    task: AbortHandle,
    /// The way of its answer.
    outlet: Outlet,
}

impl Session {
    /// A fresh session over HTTP+SSE, and the receiving end of its queue.
    pub fn of_sse(queue_capacity: usize) -> (Arc<Self>, mpsc::Receiver<Outgoing>) {
        let (sender, queue) = mpsc::channel(queue_capacity);
        (Self::new(Outlet::Queue(sender), None), queue)
    }

    /// A fresh session over Streamable HTTP.
    pub fn streamable(limits: Limits) -> Arc<Self> {
        let streams = Streams::new(limits);
        let outlet = Outlet::Streams { streams: Arc::clone(&streams), answers: MAIN, others: MAIN };
        Self::new(outlet, Some(streams))
    }

    fn new(outlet: Outlet, streams: Option<Arc<Streams>>) -> Arc<Self> {
        Arc::new(Self { id: SessionId::random(), outlet, streams, state: Mutex::default() })
    }

    /// The way of what belongs to no request; over HTTP+SSE of everything.
    pub fn outlet(&self) -> &Outlet {
        &self.outlet
    }

    /// Its streams, if it speaks Streamable HTTP.
    pub fn streams(&self) -> Option<&Arc<Streams>> {
        self.streams.as_ref()
    }

    /// Nothing runs, no connection is open, and the client was not heard of for so long. An HTTP+SSE session never is: it
    /// is its connection.
    pub fn is_idle(&self, long: Duration) -> bool {
        self.streams.as_ref().is_some_and(|streams| streams.is_idle(long)) && self.state().calls.is_empty()
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

    /// Sends a log message on the way of the request that it is about, if the client asked for that severity.
    pub fn log(&self, outlet: &Outlet, level: LogLevel, logger: &str, text: impl Display) {
        if self.state().log_level.is_some_and(|least| level >= least) {
            let params = json!({ "level": level, "logger": logger, "data": text.to_string() });
            self.notify(outlet, rpc::notification("notifications/message", params));
        }
    }

    /// Tells the client something that belongs to no request. It may be lost if the client does not keep up.
    pub fn tell(&self, notification: Outgoing) {
        self.notify(&self.outlet, notification);
    }

    fn notify(&self, outlet: &Outlet, notification: Outgoing) {
        if !outlet.send_if_room(notification) {
            tracing::warn!(session = %self.id, "the client does not keep up: notification dropped");
        }
    }

    /// Sends an answer that is ready. If there is no room it waits there as a running call would.
    ///
    /// # Errors
    /// The answer comes back if `max_running` calls run or wait already; then whoever brought the request has to wait
    /// ([`Outlet::reserve`]). Never over Streamable HTTP, where there is room for each answer.
    pub fn answer(
        self: &Arc<Self>,
        outlet: &Outlet,
        request: &RequestId,
        answer: Outgoing,
        max_running: usize,
    ) -> Result<(), Outgoing> {
        outlet.answer_if_room(answer).or_else(|answer| {
            self.try_start(outlet, request.clone(), ready(answer), max_running).map_err(Ready::into_inner)
        })
    }

    /// Runs a call on this thread; its output is the answer. The call ends early when it is cancelled or when the
    /// session ends.
    ///
    /// # Errors
    /// `max_running` calls are running already.
    pub fn start<F>(
        self: &Arc<Self>,
        outlet: &Outlet,
        request: RequestId,
        call: F,
        max_running: usize,
    ) -> Result<(), RpcError>
    where
        F: Future<Output = Outgoing> + 'static,
    {
        self.try_start(outlet, request, call, max_running)
            .map_err(|_| RpcError::new(TOO_MANY_CALLS, format!("{max_running} calls of this session are running")))
    }

    fn try_start<F>(self: &Arc<Self>, outlet: &Outlet, request: RequestId, call: F, max_running: usize) -> Result<(), F>
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
        let (session, answers) = (Arc::clone(self), outlet.clone());
        // The task cannot run before this function returns: it shares the thread. So its entry is there in time.
        let task = rt::spawn(async move {
            let answer = call.await;
            let Ok(slot) = answers.reserve().await else { return };
            if session.take_call(ticket) {
                slot.send(answer);
            }
        });
        state.calls.push(RunningCall { ticket, request, task: task.abort_handle(), outlet: outlet.clone() });
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
                call.outlet.withdraw_answer();
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
        drop(state);
        if let Some(streams) = &self.streams {
            streams.close();
        }
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
