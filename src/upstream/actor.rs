//! [`UpstreamActor`]: one per endpoint and worker thread.
//!
//! Owns the router's own *shared session* with its endpoint on this thread, over which REST callers and health checks go
//! with rewritten ids. Session actors ask it for links; their POSTs go over the thread's [`Line`] without a message to it.
//! It never knows client streams and never waits inside a handler: every answer is a future of its own.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::prelude::*;
use actix_http::Uri;
use bytes::Bytes;
use tokio::{sync::oneshot, time::Instant};

pub use super::call::{Call, CallError};
use super::{
    Endpoint, Service,
    call::{GivenUp, gives_up, rewritten},
    line::{KEEP_ALIVE, Line, PostError},
    reply::{Reply, ReplyEnd},
    transport::{
        Gate, LinkEvent, LinkHandle, LinkNotice, Outlet,
        sse::{self, LinkLimits},
    },
};
use crate::{
    lifecycle::Vital,
    metrics::Metrics,
    protocol::{
        jsonrpc::{self, Head, IdKey, Kind},
        mcp,
        scan::{Told, meant_to_answer},
    },
    settings::UpstreamSettings,
};

/// Messages an UpstreamActor's mailbox holds. Its handlers answer at once (the work is in futures), so this bounds a
/// burst within one turn of the event loop; `send().await` waits beyond it.
const MAILBOX: usize = 1024;

/// See the module's text.
pub struct UpstreamActor {
    service: Arc<Service>,
    endpoint: Arc<Endpoint>,
    line: Line,
    limits: UpstreamSettings,
    shared: Rc<RefCell<Shared>>,
    metrics: Metrics,
    probes: bool,
    /// Without it no call from this thread reaches the endpoint, and the first one's checks are missing.
    _vital: Vital,
}

impl std::fmt::Debug for UpstreamActor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamActor").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// The router's own session with the endpoint.
#[derive(Debug, Default)]
struct Shared {
    phase: Phase,
    /// Number of the current link; notices of older ones are ignored.
    link: u64,
    handle: Option<LinkHandle>,
    /// Counts what comes on the stream: it grows while the server lives, however slow it is.
    heard: Rc<Cell<u64>>,
    next_id: u64,
    pending: HashMap<u64, oneshot::Sender<Result<Answer, CallError>>>,
}

/// A server's answer.
#[derive(Debug)]
struct Answer {
    body: Bytes,
    /// Some of it was no text, and has been replaced by U+FFFD.
    is_altered: bool,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Closed,
    Opening(Vec<oneshot::Sender<Result<(), CallError>>>),
    Ready {
        post: Uri,
        /// The server's answer to our `initialize`.
        initialized: Bytes,
    },
}

/// Opens a link of its own for a session. Effect: notices go to `to`. Reply: the handle that keeps it open.
#[derive(Debug, Message)]
#[rtype(result = "LinkHandle")]
pub struct OpenLink {
    /// Number for the notices.
    pub link: u64,
    /// Who gets them.
    pub to: Recipient<LinkNotice>,
    /// Stops the reading while the receiver is behind.
    pub gate: Arc<Gate>,
}

/// Sends a notification over the shared session.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), CallError>")]
pub struct Notify {
    /// The notification.
    pub body: Bytes,
}

/// How long a cancelled request may still be answered.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// Asks for the answer of the endpoint to `initialize`.
#[derive(Debug, Message)]
#[rtype(result = "Result<Bytes, CallError>")]
pub struct Initialized;

impl UpstreamActor {
    /// Starts the actor of `endpoint` on the current thread. `probes`: this one also does the health checks (one
    /// worker of the process does).
    pub fn launch(
        service: Arc<Service>,
        line: Line,
        limits: UpstreamSettings,
        metrics: Metrics,
        probes: bool,
        vital: Vital,
    ) -> Addr<Self> {
        let endpoint = Arc::clone(&line.endpoint);
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            Self { service, endpoint, line, limits, shared: Rc::default(), metrics, probes, _vital: vital }
        })
    }

    /// Everything a call needs beyond the actor's borrow.
    fn caller(&self, ctx: &Context<Self>) -> Caller {
        Caller {
            line: self.line.clone(),
            shared: Rc::clone(&self.shared),
            post_timeout: self.limits.post_timeout,
            request_timeout: self.limits.request_timeout,
            link_limits: LinkLimits::from(&self.limits),
            to: ctx.address().recipient(),
        }
    }

    fn probe(&self, ctx: &Context<Self>) {
        if !self.endpoint.try_acquire() {
            return;
        }
        let caller = self.caller(ctx);
        let timeout = self.limits.health_timeout;
        let endpoint = Arc::clone(&self.endpoint);
        actix_rt::spawn(async move {
            let heard = Rc::clone(&caller.shared.borrow().heard);
            let before = heard.get();
            let ping = Bytes::from_static(br#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#);
            let call = caller.call(Call { body: ping, timeout, given_up: None });
            let checked = tokio::time::timeout(timeout, call).await.unwrap_or(Err(CallError::TimedOut(timeout)));
            match judge(&checked, heard.get() != before) {
                Health::Up => endpoint.succeeded(),
                Health::Unclear => {}
                Health::Down => {
                    if let Err(error) = &checked {
                        endpoint.failed(error);
                    }
                    // The next check starts from a fresh session, unless callers still wait for answers on this one.
                    if caller.shared.borrow().pending.is_empty() {
                        caller.close(&CallError::Lost("the health check failed".to_owned()));
                    }
                }
            }
        });
    }
}

/// What a health check says of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Up,
    /// It lives, but its answer is not there: it stands behind a large message, or the server takes no more just now.
    Unclear,
    Down,
}

fn judge(checked: &Result<Bytes, CallError>, was_heard: bool) -> Health {
    match checked {
        Ok(_) => Health::Up,
        Err(CallError::TimedOut(_)) if was_heard => Health::Unclear,
        // 503 is what stands for "not in service"; the others are about this request.
        Err(CallError::NotNow { status, .. }) if *status != 503 => Health::Unclear,
        Err(_) => Health::Down,
    }
}

impl Actor for UpstreamActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(KEEP_ALIVE, |actor, _ctx| actor.line.sweep());
        if self.probes {
            self.probe(ctx);
            ctx.run_interval(self.limits.health_interval, |actor, ctx| actor.probe(ctx));
        }
    }
}

impl Handler<OpenLink> for UpstreamActor {
    type Result = MessageResult<OpenLink>;

    fn handle(&mut self, open: OpenLink, _ctx: &mut Self::Context) -> Self::Result {
        let outlet = Outlet { link: open.link, to: open.to, gate: open.gate };
        let link = sse::run(self.line.clone(), LinkLimits::from(&self.limits), outlet, None);
        let task = actix_rt::spawn(link);
        MessageResult(LinkHandle::new(task.abort_handle(), Some(Arc::clone(&self.endpoint))))
    }
}

impl Handler<Call> for UpstreamActor {
    type Result = ResponseFuture<Result<Bytes, CallError>>;

    fn handle(&mut self, message: Call, ctx: &mut Self::Context) -> Self::Result {
        let caller = self.caller(ctx);
        Box::pin(async move { caller.call(message).await })
    }
}

impl Handler<Notify> for UpstreamActor {
    type Result = ResponseFuture<Result<(), CallError>>;

    fn handle(&mut self, message: Notify, ctx: &mut Self::Context) -> Self::Result {
        let caller = self.caller(ctx);
        Box::pin(async move {
            let session = caller.ready().await?;
            Ok(caller.post(session.post, message.body).await?)
        })
    }
}

impl Handler<Initialized> for UpstreamActor {
    type Result = ResponseFuture<Result<Bytes, CallError>>;

    fn handle(&mut self, _message: Initialized, ctx: &mut Self::Context) -> Self::Result {
        let caller = self.caller(ctx);
        Box::pin(async move { caller.ready().await.map(|session| session.initialized) })
    }
}

impl Handler<LinkNotice> for UpstreamActor {
    type Result = ();

    fn handle(&mut self, notice: LinkNotice, ctx: &mut Self::Context) {
        if notice.link != self.shared.borrow().link {
            return;
        }
        let caller = self.caller(ctx);
        match notice.event {
            LinkEvent::Opened(post) => {
                actix_rt::spawn(async move { caller.initialize(notice.link, post).await });
            }
            LinkEvent::Message(body) => self.take_message(&caller, Answer { body, is_altered: false }),
            LinkEvent::Altered(body) => self.take_message(&caller, Answer { body, is_altered: true }),
            LinkEvent::TooLarge(told) => self.take_too_large(&caller, told),
            LinkEvent::Closed(error) => {
                if error.is_failure() {
                    self.endpoint.failed(&error);
                }
                // What was sent may have been executed, whatever has become of the link. REQ-3
                caller.close(&CallError::Lost(error.to_string()));
            }
        }
    }
}

impl UpstreamActor {
    /// A message on the shared session: an answer goes to its caller, a request of the server gets a refusal (there is
    /// no client behind this session that could sample or elicit).
    fn take_message(&self, caller: &Caller, message: Answer) {
        let head = match Head::parse(&message.body) {
            Ok(head) => head,
            Err(error) => {
                self.metrics.dropped.with_label_values(&["upstream_nonsense"]).inc();
                tracing::warn!(service = self.service.name, %error, "the upstream sent no JSON-RPC message");
                if let Some(id) = meant_to_answer(&message.body) {
                    caller.answered(&id, Err(CallError::Nonsense));
                }
                return;
            }
        };
        match &head.kind {
            Kind::Response { id: Some(id), .. } => {
                let answer = Answer { body: message.body.clone(), is_altered: message.is_altered };
                if !caller.answered(id, Ok(answer)) {
                    self.metrics.dropped.with_label_values(&["upstream_unknown_answer"]).inc();
                }
            }
            Kind::Request { id, method } => {
                let answer = if method == mcp::PING {
                    jsonrpc::result_response(id.as_json(), "{}")
                } else {
                    let why = "this session serves REST callers, there is no client to ask";
                    jsonrpc::error_response(id.as_json(), jsonrpc::METHOD_NOT_FOUND, why, None)
                };
                caller.reply(answer);
            }
            Kind::Notification { method } if method == "notifications/tools/list_changed" => {
                self.service.tools.forget();
            }
            Kind::Notification { .. } | Kind::Response { .. } => {}
        }
    }

    fn take_too_large(&self, caller: &Caller, told: Told) {
        let limit = self.limits.max_message;
        self.metrics.dropped.with_label_values(&["upstream_too_large"]).inc();
        tracing::warn!(service = self.service.name, limit, "the upstream sent a message that is too large");
        match told {
            Told::Answer(id) => {
                let answered = IdKey::of_json(&id).map(|id| caller.answered(&id, Err(CallError::TooLarge { limit })));
                tracing::debug!(service = self.service.name, ?answered, "told whose answer it was");
            }
            Told::Request(id) => {
                let why = format!("the request is larger than {limit} bytes");
                caller.reply(jsonrpc::error_response(&id, jsonrpc::INVALID_REQUEST, &why, None));
            }
            Told::Nothing => {}
        }
    }
}

/// The shared session, initialised.
struct Session {
    post: Uri,
    initialized: Bytes,
    /// Number of its link.
    link: u64,
}

/// The shared session as seen by the future of one call.
#[derive(Clone)]
struct Caller {
    line: Line,
    shared: Rc<RefCell<Shared>>,
    post_timeout: Duration,
    request_timeout: Duration,
    link_limits: LinkLimits,
    to: Recipient<LinkNotice>,
}

impl Caller {
    async fn call(&self, call: Call) -> Result<Bytes, CallError> {
        let deadline = Instant::now() + call.timeout;
        let mut given_up = call.given_up;
        // Once more when the upstream says that it does not know our session: it has not executed anything then.
        for _attempt in 0..2 {
            let session = self.ready().await?;
            let link = session.link;
            if given_up.as_ref().is_some_and(|caller| caller.has_changed().is_err() || *caller.borrow()) {
                return Err(CallError::Cancelled);
            }
            let (id, answer) = self.register();
            let _forget = ForgetOnDrop { shared: &self.shared, id };
            let request = rewritten(&call.body, id).map_err(|error| CallError::Unreachable(error.to_string()))?;
            let exchanged = self.exchange(&session.post, id, request, answer, deadline, &mut given_up).await;
            match exchanged {
                Err(Failed::SessionGone) => {
                    self.close_link(link, &CallError::Lost("the upstream forgot the shared session".to_owned()));
                }
                Err(Failed::TimedOut) => return Err(CallError::TimedOut(call.timeout)),
                Err(Failed::Call(error)) => return Err(error),
                // A caller would take it for the server's own words. The streams of sessions have their rule for it
                // (WHATWG), a JSON body has none.
                Ok(Answer { body, is_altered: true }) if given_up.is_some() => return Err(CallError::Altered(body)),
                Ok(answer) => return Ok(answer.body),
            }
        }
        Err(CallError::Unreachable("it keeps forgetting the shared session".to_owned()))
    }

    /// Sends a request and waits for its answer, whichever way that comes: on the stream, before or after the POST is
    /// acknowledged, or in the answer to the POST. The server is told when nobody waits any more.
    async fn exchange(
        &self,
        url: &Uri,
        id: u64,
        request: Bytes,
        mut answer: oneshot::Receiver<Result<Answer, CallError>>,
        deadline: Instant,
        given_up: &mut GivenUp,
    ) -> Result<Answer, Failed> {
        let tells = given_up.is_some();
        let (mut deadline, mut is_cancelled, mut is_posted) = (deadline, false, false);
        let mut post = Box::pin(self.line.clone().post(url.clone(), request));
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => {
                    if !is_posted {
                        // The acknowledgement is only late; cut off, its connection would be lost.
                        let limit = self.request_timeout;
                        actix_rt::spawn(async move { tokio::time::timeout(limit, post).await });
                    }
                    let closed = || Err(CallError::Lost("the shared session ended".to_owned()));
                    return answer.unwrap_or_else(|_| closed()).map_err(Failed::Call);
                }
                posted = &mut post, if !is_posted => match posted {
                    Ok(reply) => {
                        is_posted = true;
                        self.read_reply(reply, Some(id));
                    }
                    Err(PostError::SessionGone) => return Err(Failed::SessionGone),
                    Err(error) => return Err(Failed::Call(error.into())),
                },
                left = gives_up(given_up), if !is_cancelled => {
                    self.cancel(url, id, "the caller gave it up");
                    if left {
                        return Err(Failed::Call(CallError::Cancelled));
                    }
                    // The server may answer all the same.
                    is_cancelled = true;
                    deadline = deadline.min(Instant::now() + CANCEL_GRACE);
                }
                () = tokio::time::sleep_until(deadline) => {
                    if is_cancelled {
                        return Err(Failed::Call(CallError::Cancelled));
                    }
                    if tells {
                        self.cancel(url, id, "the router's time limit");
                    }
                    return Err(Failed::TimedOut);
                }
            }
        }
    }

    /// Tells the server that nobody waits for the answer to this request of ours.
    fn cancel(&self, url: &Uri, id: u64, reason: &str) {
        let cancel = serde_json::json!({
            "jsonrpc": "2.0", "method": mcp::CANCELLED, "params": { "requestId": id, "reason": reason },
        });
        let (caller, url) = (self.clone(), url.clone());
        actix_rt::spawn(async move { caller.post(url, Bytes::from(cancel.to_string())).await });
    }

    /// Answers the server.
    fn reply(&self, answer: Bytes) {
        let Phase::Ready { post, .. } = &self.shared.borrow().phase else { return };
        let (caller, url) = (self.clone(), post.clone());
        actix_rt::spawn(async move { caller.post(url, answer).await });
    }

    /// Hands an answer to whoever waits for it. `false`: nobody does.
    fn answered(&self, id: &IdKey, answer: Result<Answer, CallError>) -> bool {
        id.key().parse().is_ok_and(|id: u64| self.answered_own(id, answer))
    }

    fn answered_own(&self, id: u64, answer: Result<Answer, CallError>) -> bool {
        let waiting = self.shared.borrow_mut().pending.remove(&id);
        // The caller may have given up.
        waiting.is_some_and(|waiting| waiting.send(answer).is_ok())
    }

    /// What the answer to a POST holds goes the way of what comes on the stream. `id`: of the request that was posted.
    fn read_reply(&self, reply: Option<Reply>, id: Option<u64>) {
        let Some(reply) = reply else { return };
        let outlet = Outlet { link: self.shared.borrow().link, to: self.to.clone(), gate: Gate::new(usize::MAX) };
        let caller = self.clone();
        actix_rt::spawn(async move {
            let end = reply.read(caller.link_limits, outlet, caller.request_timeout).await;
            if let (ReplyEnd::Broken, Some(id)) = (end, id) {
                caller.answered_own(id, Err(CallError::Lost("the answer broke off".to_owned())));
            }
        });
    }

    fn register(&self) -> (u64, oneshot::Receiver<Result<Answer, CallError>>) {
        let (sender, receiver) = oneshot::channel();
        let mut shared = self.shared.borrow_mut();
        shared.next_id += 1;
        let id = shared.next_id;
        shared.pending.insert(id, sender);
        (id, receiver)
    }

    /// Waits until the shared session is initialised; opens it when needed. Bounded by the connection's time limits.
    async fn ready(&self) -> Result<Session, CallError> {
        loop {
            let waiting = {
                let mut shared = self.shared.borrow_mut();
                let link = shared.link;
                match &mut shared.phase {
                    Phase::Ready { post, initialized } => {
                        return Ok(Session { post: post.clone(), initialized: initialized.clone(), link });
                    }
                    Phase::Opening(waiters) => {
                        let (sender, receiver) = oneshot::channel();
                        waiters.push(sender);
                        receiver
                    }
                    Phase::Closed => {
                        let (sender, receiver) = oneshot::channel();
                        shared.phase = Phase::Opening(vec![sender]);
                        shared.link += 1;
                        let outlet = Outlet { link: shared.link, to: self.to.clone(), gate: Gate::new(usize::MAX) };
                        let heard = Rc::clone(&shared.heard);
                        let link = sse::run(self.line.clone(), self.link_limits, outlet, Some(heard));
                        shared.handle = Some(LinkHandle::new(actix_rt::spawn(link).abort_handle(), None));
                        receiver
                    }
                }
            };
            waiting.await.map_err(|_| CallError::Unreachable("the shared session ended".to_owned()))??;
        }
    }

    async fn initialize(&self, link: u64, post: Uri) {
        match self.handshake(&post).await {
            Ok(initialized) => {
                let mut shared = self.shared.borrow_mut();
                if shared.link != link {
                    return;
                }
                let before = std::mem::replace(&mut shared.phase, Phase::Ready { post, initialized });
                drop(shared);
                self.line.endpoint.succeeded();
                if let Phase::Opening(waiters) = before {
                    for waiter in waiters {
                        let _ = waiter.send(Ok(()));
                    }
                }
            }
            Err(error) => {
                if self.close_link(link, &error) {
                    self.line.endpoint.failed(&error);
                }
            }
        }
    }

    async fn handshake(&self, url: &Uri) -> Result<Bytes, CallError> {
        let (id, answer) = self.register();
        let _forget = ForgetOnDrop { shared: &self.shared, id };
        let request = serde_json::json!({
            "jsonrpc": "2.0", "id": id, "method": mcp::INITIALIZE,
            "params": {
                "protocolVersion": mcp::NEWEST_VERSION, "capabilities": {},
                "clientInfo": { "name": "mcp-router", "version": env!("CARGO_PKG_VERSION") },
            },
        });
        let deadline = Instant::now() + self.post_timeout;
        let exchanged = self.exchange(url, id, Bytes::from(request.to_string()), answer, deadline, &mut None).await;
        let answer = exchanged.map_err(|failed| match failed {
            Failed::SessionGone => CallError::Unreachable("it does not know the session that it has opened".to_owned()),
            Failed::TimedOut => CallError::TimedOut(self.post_timeout),
            Failed::Call(error) => error,
        })?;
        let answer = answer.body;
        let accepted = matches!(Head::parse(&answer).map(|head| head.kind), Ok(Kind::Response { success: true, .. }));
        if !accepted {
            return Err(CallError::Unreachable("it refused to initialize".to_owned()));
        }
        let initialized = Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        self.post(url.clone(), initialized).await?;
        Ok(answer)
    }

    /// POSTs what expects no answer.
    async fn post(&self, url: Uri, body: Bytes) -> Result<(), PostError> {
        let reply = self.line.post_within(url, body, self.post_timeout).await?;
        self.read_reply(reply, None);
        Ok(())
    }

    /// Ends the shared session if it is still that of this link. `false`: it is another one by now.
    fn close_link(&self, link: u64, error: &CallError) -> bool {
        let is_current = self.shared.borrow().link == link;
        if is_current {
            self.close(error);
        }
        is_current
    }

    /// Ends the shared session; everybody who waits learns why. The next call opens a new one.
    fn close(&self, error: &CallError) {
        let (phase, pending) = {
            let mut shared = self.shared.borrow_mut();
            shared.handle = None;
            shared.link += 1;
            (std::mem::take(&mut shared.phase), std::mem::take(&mut shared.pending))
        };
        if let Phase::Opening(waiters) = phase {
            for waiter in waiters {
                let _ = waiter.send(Err(error.clone().before_sent()));
            }
        }
        for (_, waiting) in pending {
            let _ = waiting.send(Err(error.clone()));
        }
    }
}

/// Why an exchange failed.
enum Failed {
    SessionGone,
    TimedOut,
    Call(CallError),
}

/// A caller that gives up leaves nothing behind.
struct ForgetOnDrop<'a> {
    shared: &'a RefCell<Shared>,
    id: u64,
}

impl Drop for ForgetOnDrop<'_> {
    fn drop(&mut self) {
        self.shared.borrow_mut().pending.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_only_busy_is_not_taken_out_of_use() {
        let late = || Err(CallError::TimedOut(Duration::from_secs(2)));
        let not_now = |status| Err(CallError::NotNow { status, retry_after: None });
        for (checked, was_heard, health) in [
            (Ok(Bytes::new()), false, Health::Up),
            (late(), false, Health::Down),
            // Its answer stands behind a large message.
            (late(), true, Health::Unclear),
            (not_now(429), false, Health::Unclear),
            (not_now(503), true, Health::Down),
            (Err(CallError::Lost(String::new())), true, Health::Down),
            (Err(CallError::Unreachable(String::new())), false, Health::Down),
        ] {
            assert_eq!(judge(&checked, was_heard), health, "{checked:?} {was_heard}");
        }
    }
}
