//! A call of a client of 2026-07-28, in a session of the gateway's own: what comes of it, message by message.

use std::{cell::Cell, collections::HashSet, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::{
    record::Place,
    seat::Seat,
    state::{self, State},
    translate::{self, Ask, Response},
    wait,
};
use crate::{
    gateway::{
        inner::{At, Ended, Reading, Said as Heard},
        patience::patiently,
        shared::Gateway,
        stateless::secret,
    },
    protocol::{
        jsonrpc::{self, Head, IdKey},
        mcp,
        modern::{may_ask, meta::Said, refusal::Refusal},
        session_id::SessionId,
        stream_key::StreamKey,
    },
    store::Binding,
    traces,
    upstream::Service,
};

/// Questions that come within so long are asked together: each round costs the client a request, and whoever is asked longer.
const AT_ONCE: Duration = Duration::from_millis(50);

/// What the client of a call has said that matters until the call is over.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Of the service.
    pub service: Arc<Service>,
    /// Who calls. SEC-1
    pub by: Binding,
    /// The whole request.
    pub body: Bytes,
    /// The request's id (JSON text).
    pub id: String,
    /// Its method.
    pub method: String,
    /// By which it wants to hear of its progress (JSON text).
    pub token: Option<String>,
    /// It wants logs.
    pub wants_logs: bool,
    /// The server (JSON text), if it has told who it is.
    pub server: Option<String>,
    /// Where it stands in a trace.
    pub trace: Option<traces::Place>,
}

impl Caller {
    /// With what the request says in its parameters.
    fn with_said<R>(&self, use_it: impl FnOnce(&Said<'_>) -> R) -> R {
        let params = Head::parse(&self.body).ok().and_then(|head| head.params);
        use_it(&Said::of(params).unwrap_or_default())
    }

    /// Its parameters as its server gets them (JSON text). `id`: of the call in its session, by which it also names its progress.
    ///
    /// # Errors
    /// They are no object.
    pub fn params(&self, id: &IdKey) -> Result<String, Refusal> {
        let token = self.token.as_ref().map(|_| id.as_json());
        translate::params(&self.body, token).ok_or(Refusal::Params("params is no object"))
    }

    /// The response to it.
    pub fn response(&self, answer: &Bytes) -> Response {
        self.with_said(|said| translate::response(answer, &self.id, &self.method, self.server.as_deref(), said))
    }

    /// What it is asked by this question of the server, if it can be asked that.
    pub fn ask(&self, question: &Bytes) -> Option<String> {
        if !may_ask(&self.method) {
            return None;
        }
        self.with_said(|said| translate::ask(question, said))
    }

    /// See [`translate::fingerprint`].
    pub fn fingerprint(&self) -> String {
        translate::fingerprint(&self.service.name, &self.method, &self.body)
    }

    /// The error that says why there will be no answer.
    pub fn failed(&self, ended: &Ended) -> Response {
        let (reason, retry) = match ended {
            Ended::Gone => ("session_gone", false),
            Ended::Unavailable => ("store_unavailable", true),
            Ended::Draining => ("draining", true),
        };
        let details = serde_json::json!({ "reason": reason, "outcome": "unknown", "retry": retry });
        let why = format!("no answer of the server can be told: {ended}");
        let body = jsonrpc::error_response(&self.id, jsonrpc::INTERNAL_ERROR, &why, Some(&details));
        Response { status: 200, body }
    }
}

/// The key of a question towards the client: its id in the session, which no other question of any session has.
pub fn key_of(id: &IdKey) -> String {
    serde_json::from_str(id.as_json()).unwrap_or_else(|_| id.as_json().to_owned())
}

/// What comes next of a call.
#[derive(Debug)]
pub enum Step {
    /// A message, and more.
    Message(Bytes),
    /// The response.
    Last(Response),
}

/// See the module's text. Dropped before its response, it is cancelled at the server.
#[derive(Debug)]
pub struct Call {
    gateway: Rc<Gateway>,
    caller: Caller,
    /// `None`: it is not this one's any more.
    seat: Option<Seat>,
    /// Its id in the session.
    id: IdKey,
    reading: Reading,
    /// Questions that were answered here: ids in the session, JSON text.
    settled: HashSet<String>,
    /// It was begun before: what was asked then may be answered by now.
    is_resumed: bool,
    is_answered: bool,
    /// Its client asks how it stands, and is asked nothing here.
    is_task: Rc<Cell<bool>>,
}

/// What is to be known of a call to make a task of it.
#[derive(Debug)]
pub struct Handle {
    /// Who calls.
    pub caller: Caller,
    /// In which session.
    pub session: SessionId,
    /// Under which id.
    pub id: IdKey,
    /// Where its answer comes.
    pub place: Place,
    is_task: Rc<Cell<bool>>,
}

impl Handle {
    /// From now on it is one.
    pub fn becomes_a_task(&self) {
        self.is_task.set(true);
    }
}

impl Call {
    /// One that was sent to its server, whose stream is `reading`.
    pub fn new(gateway: &Rc<Gateway>, caller: Caller, seat: Seat, (id, reading): (IdKey, Reading)) -> Self {
        Self {
            gateway: Rc::clone(gateway),
            caller,
            seat: Some(seat),
            id,
            reading,
            settled: HashSet::new(),
            is_resumed: false,
            is_answered: false,
            is_task: Rc::default(),
        }
    }

    /// One that was begun before.
    pub fn resumed(mut self) -> Self {
        self.is_resumed = true;
        self
    }

    /// For what is done with it besides. `None`: it is over.
    pub fn handle(&self) -> Option<Handle> {
        let session = self.seat.as_ref()?.inner().session;
        let StreamKey::Request(request) = self.reading.key() else { return None };
        let place = Place::new(request, self.reading.at());
        let is_task = Rc::clone(&self.is_task);
        Some(Handle { caller: self.caller.clone(), session, id: self.id.clone(), place, is_task })
    }

    /// Its server has answered it.
    pub fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// It goes on without anybody who reads it here.
    pub fn leave(&mut self) {
        if let Some(Seat::Lent(lent)) = self.seat.take() {
            lent.apart();
        }
    }

    /// What came of it is on record: its session is free.
    pub fn lets_go(&mut self) {
        match self.seat.take() {
            Some(Seat::Lent(lent)) => lent.back(),
            seat => self.seat = seat,
        }
    }

    /// What its client is told next.
    pub async fn advance(mut self) -> (Self, Step) {
        loop {
            let heard = match self.reading.next().await {
                Ok(heard) => heard,
                Err(ended) => {
                    let response = self.caller.failed(&ended);
                    return (self, Step::Last(response));
                }
            };
            match heard {
                Heard::Beat => {}
                Heard::Notification { method, body } => {
                    let token = self.caller.token.as_deref();
                    if let Some(told) = translate::notification(&body, &method, token, self.caller.wants_logs) {
                        return (self, Step::Message(told));
                    }
                }
                Heard::Question { .. } if self.is_task.get() => {}
                Heard::Question { id, method, body } => {
                    let before = self.reading.before();
                    let asks = self.gather((id, method, body)).await;
                    if !asks.is_empty() {
                        let response = self.asks(before, asks).await;
                        return (self, Step::Last(response));
                    }
                }
                Heard::Answer { body, .. } => {
                    let response = self.caller.response(&body);
                    self.is_answered = true;
                    return (self, Step::Last(response));
                }
            }
        }
    }

    /// What the server asks now, with all that it asks at once: within [`AT_ONCE`]. What is told besides is told again in the next
    /// round.
    async fn gather(&mut self, first: (IdKey, String, Bytes)) -> Vec<(IdKey, Ask)> {
        let until = Instant::now() + AT_ONCE;
        let mut asks: Vec<(IdKey, Ask)> = Vec::new();
        let mut next = Some(Heard::Question { id: first.0, method: first.1, body: first.2 });
        while let Some(heard) = next {
            match heard {
                Heard::Question { id, .. } if !self.is_open(&id).await => {}
                Heard::Question { id, method, body } => match self.caller.ask(&body) {
                    Some(ask) => asks.push((id.clone(), (key_of(&id), ask))),
                    None => self.refuse(id, method).await,
                },
                Heard::Notification { method, body } if method == mcp::CANCELLED => {
                    let named = Head::parse(&body).ok().and_then(|head| mcp::cancelled_request_id(head.params));
                    let named = named.and_then(IdKey::of_json);
                    asks.retain(|(id, _)| Some(id) != named.as_ref());
                }
                // Nothing to ask any more: there is no round in which it would be told again.
                answer @ Heard::Answer { .. } => {
                    self.reading.back(answer);
                    return Vec::new();
                }
                Heard::Notification { .. } | Heard::Beat => {}
            }
            next = self.reading.next_at_once();
            if next.is_none() && !asks.is_empty() {
                // Who comes back reads on from before the first question: what is broken off here is read anew.
                next = timeout_at(until, self.reading.next()).await.ok().and_then(Result::ok);
            }
        }
        asks
    }

    async fn refuse(&mut self, id: IdKey, method: String) {
        let Some(seat) = &self.seat else { return };
        if let Err(error) = seat.inner().refuse(&id, &method).await {
            // The server waits until it gives up.
            tracing::debug!(session = %seat.inner().session, %error, "a question of a server was not refused");
        }
        self.settled.insert(id.as_json().to_owned());
    }

    /// The call waits in its session until its client comes back with answers, at whichever instance.
    async fn asks(&mut self, at: At, asks: Vec<(IdKey, Ask)>) -> Response {
        // It is cancelled when nobody can be asked.
        let Ok(seal) = secret::seal(&self.gateway).await else { return self.caller.failed(&Ended::Unavailable) };
        let StreamKey::Request(request) = self.reading.key() else { return self.caller.failed(&Ended::Gone) };
        let Some(seat) = self.seat.take() else { return self.caller.failed(&Ended::Gone) };
        let (ids, asks): (Vec<IdKey>, Vec<Ask>) = asks.into_iter().unzip();
        let state = State {
            session: seat.inner().session,
            request,
            id: self.id.clone(),
            at,
            asked: ids.iter().map(|id| id.as_json().to_owned()).collect(),
            fingerprint: self.caller.fingerprint(),
        };
        let life = self.gateway.env.settings.inner.input_wait;
        let sealed = seal.close(state::PURPOSE, self.caller.by.principal(), life, &state.write());
        wait::for_its_client(&self.gateway, seat, state);
        Response::result(&self.caller.id, &translate::input_required(&asks, Some(&sealed)))
    }

    /// Nobody has answered this question.
    async fn is_open(&self, id: &IdKey) -> bool {
        if self.settled.contains(id.as_json()) {
            return false;
        }
        let Some(seat) = self.seat.as_ref().filter(|_| self.is_resumed) else { return true };
        let (store, session) = (&self.gateway.env.store, seat.inner().session);
        match patiently(&self.gateway, || store.load(session)).await {
            Ok(Some(head)) => head.continuation.questions.contains_key(id.as_json()),
            // It is asked once more, and an answer too many is dropped.
            Ok(None) | Err(_) => true,
        }
    }
}

impl Drop for Call {
    /// Its client has left, which is how it cancels (2026-07-28, Cancellation).
    fn drop(&mut self) {
        let Some(seat) = self.seat.take() else { return };
        if self.is_answered {
            if let Seat::Own(inner) = seat {
                // Its client may have lost this answer, and comes for it again.
                wait::for_second_thoughts(&self.gateway, inner);
            }
            return;
        }
        let id = self.id.clone();
        let gateway = Rc::clone(&self.gateway);
        gateway.beside(async move {
            // A session that is gone has nothing to cancel.
            let _ = seat.inner().cancel(&id, "the client has closed its stream").await;
            match seat {
                // What the server still says about this call would be taken for a word on the next one.
                Seat::Lent(lent) if lent.kind().is_alone() => lent.end(),
                Seat::Lent(_) | Seat::Joined(_) => {}
                Seat::Own(inner) => inner.end().await,
            }
        });
    }
}
