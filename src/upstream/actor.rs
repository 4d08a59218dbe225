//! [`UpstreamActor`]: one per endpoint and worker thread.
//!
//! Owns the router's own *shared session* with its endpoint on this thread, over which REST callers and health checks go
//! with rewritten ids. Session actors ask it for links; their POSTs go over the thread's [`Line`] without a message to it.
//! It never knows client streams and never waits inside a handler: every answer is a future of its own.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use actix::prelude::*;
use actix_http::Uri;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    Endpoint, Service,
    line::{KEEP_ALIVE, Line, PostError},
    transport::{
        Gate, LinkError, LinkEvent, LinkHandle, LinkNotice,
        sse::{self, LinkLimits},
    },
};
use crate::{
    lifecycle::Vital,
    protocol::{
        jsonrpc::{self, Head, Kind},
        mcp,
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
    next_id: u64,
    pending: HashMap<u64, oneshot::Sender<Result<Bytes, CallError>>>,
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

/// Runs one request over the shared session. Reply: the response, with the id that it was given there.
#[derive(Debug, Message)]
#[rtype(result = "Result<Bytes, CallError>")]
pub struct Call {
    /// The request as the caller sent it.
    pub body: Bytes,
    /// Longest wait for the answer.
    pub timeout: Duration,
}

/// Sends a notification over the shared session.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), CallError>")]
pub struct Notify {
    /// The notification.
    pub body: Bytes,
}

/// Asks for the answer of the endpoint to `initialize`.
#[derive(Debug, Message)]
#[rtype(result = "Result<Bytes, CallError>")]
pub struct Initialized;

/// Why a call over the shared session failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The endpoint cannot be reached; the request was not sent.
    #[error("the upstream cannot be reached: {0}")]
    Unreachable(String),
    /// Sent, but the connection broke before the answer.
    #[error("the upstream connection broke before the answer: {0}")]
    Lost(String),
    /// Sent, and no answer in time.
    #[error("the upstream did not answer within {0:?}")]
    TimedOut(Duration),
    /// The upstream refused the POST with this status.
    #[error("the upstream refused the request with status {0}")]
    Refused(u16),
}

impl UpstreamActor {
    /// Starts the actor of `endpoint` on the current thread. `probes`: this one also does the health checks (one
    /// worker of the process does).
    pub fn launch(
        service: Arc<Service>,
        line: Line,
        limits: UpstreamSettings,
        probes: bool,
        vital: Vital,
    ) -> Addr<Self> {
        let endpoint = Arc::clone(&line.endpoint);
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            Self { service, endpoint, line, limits, shared: Rc::default(), probes, _vital: vital }
        })
    }

    fn link_limits(&self) -> LinkLimits {
        LinkLimits { connect: self.limits.connect_timeout, max_message: self.limits.max_message }
    }

    /// Everything a call needs beyond the actor's borrow.
    fn caller(&self, ctx: &Context<Self>) -> Caller {
        Caller {
            line: self.line.clone(),
            shared: Rc::clone(&self.shared),
            post_timeout: self.limits.post_timeout,
            link_limits: self.link_limits(),
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
            let ping = Bytes::from_static(br#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#);
            let checked = tokio::time::timeout(timeout, caller.call(ping, timeout)).await;
            match checked {
                Ok(Ok(_)) => endpoint.succeeded(),
                Ok(Err(ref error)) => endpoint.failed(error),
                Err(_) => endpoint.failed(&"the health check timed out"),
            }
            // The next check starts from a fresh session, unless callers still wait for answers on this one.
            if !matches!(checked, Ok(Ok(_))) && caller.shared.borrow().pending.is_empty() {
                caller.close(&CallError::Lost("the health check failed".to_owned()));
            }
        });
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
        let link = sse::run(self.line.clone(), self.link_limits(), open.link, open.to, open.gate);
        let task = actix_rt::spawn(link);
        MessageResult(LinkHandle::new(task.abort_handle(), Some(Arc::clone(&self.endpoint))))
    }
}

impl Handler<Call> for UpstreamActor {
    type Result = ResponseFuture<Result<Bytes, CallError>>;

    fn handle(&mut self, message: Call, ctx: &mut Self::Context) -> Self::Result {
        let caller = self.caller(ctx);
        Box::pin(async move { caller.call(message.body, message.timeout).await })
    }
}

impl Handler<Notify> for UpstreamActor {
    type Result = ResponseFuture<Result<(), CallError>>;

    fn handle(&mut self, message: Notify, ctx: &mut Self::Context) -> Self::Result {
        let caller = self.caller(ctx);
        Box::pin(async move {
            let (url, _) = caller.ready().await?;
            caller.post(url, message.body).await
        })
    }
}

impl Handler<Initialized> for UpstreamActor {
    type Result = ResponseFuture<Result<Bytes, CallError>>;

    fn handle(&mut self, _message: Initialized, ctx: &mut Self::Context) -> Self::Result {
        let caller = self.caller(ctx);
        Box::pin(async move { caller.ready().await.map(|(_, initialized)| initialized) })
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
                actix_rt::spawn(async move { caller.initialize(post).await });
            }
            LinkEvent::Message(body) => self.take_message(&caller, &body),
            LinkEvent::Closed(error) => {
                let error = match error {
                    LinkError::Lost(why) => CallError::Lost(why),
                    LinkError::Connect(why) | LinkError::Protocol(why) => {
                        self.endpoint.failed(&why);
                        CallError::Unreachable(why)
                    }
                };
                caller.close(&error);
            }
        }
    }
}

impl UpstreamActor {
    /// A message on the shared session: an answer goes to its caller, a request of the server gets a refusal (there is
    /// no client behind this session that could sample or elicit).
    fn take_message(&self, caller: &Caller, body: &Bytes) {
        let Ok(head) = Head::parse(body) else { return };
        match &head.kind {
            Kind::Response { id: Some(id), .. } => {
                let waiting = id.key().parse().ok().and_then(|id: u64| self.shared.borrow_mut().pending.remove(&id));
                if let Some(waiting) = waiting {
                    // The caller may have given up.
                    let _ = waiting.send(Ok(body.clone()));
                }
            }
            Kind::Request { id, method } => {
                let answer = if method == mcp::PING {
                    jsonrpc::result_response(id.as_json(), "{}")
                } else {
                    let why = "this session serves REST callers, there is no client to ask";
                    jsonrpc::error_response(id.as_json(), jsonrpc::METHOD_NOT_FOUND, why, None)
                };
                let Phase::Ready { post, .. } = &self.shared.borrow().phase else { return };
                let (caller, url) = (caller.clone(), post.clone());
                actix_rt::spawn(async move { caller.post(url, answer).await });
            }
            Kind::Notification { method } if method == "notifications/tools/list_changed" => {
                self.service.forget_tools();
            }
            Kind::Notification { .. } | Kind::Response { .. } => {}
        }
    }
}

/// The shared session as seen by the future of one call.
#[derive(Clone)]
struct Caller {
    line: Line,
    shared: Rc<RefCell<Shared>>,
    post_timeout: Duration,
    link_limits: LinkLimits,
    to: Recipient<LinkNotice>,
}

impl Caller {
    async fn call(&self, body: Bytes, timeout: Duration) -> Result<Bytes, CallError> {
        let deadline = tokio::time::Instant::now() + timeout;
        // Once more when the upstream says that it does not know our session: it has not executed anything then.
        for attempt in 0..2 {
            let (url, _) = self.ready().await?;
            let (id, answer) = self.register();
            let _forget = ForgetOnDrop { shared: &self.shared, id };
            let head = Head::parse(&body).map_err(|error| CallError::Unreachable(error.to_string()))?;
            let request = head.with_id(&body, &id.to_string());
            match self.line.post_within(url, request, self.post_timeout).await {
                Ok(()) => {}
                Err(PostError::SessionGone) if attempt == 0 => {
                    self.close(&CallError::Lost("the upstream forgot the shared session".to_owned()));
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            return match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(CallError::Lost("the shared session ended".to_owned())),
                Err(_) => Err(CallError::TimedOut(timeout)),
            };
        }
        Err(CallError::Lost("the upstream keeps forgetting the shared session".to_owned()))
    }

    fn register(&self) -> (u64, oneshot::Receiver<Result<Bytes, CallError>>) {
        let (sender, receiver) = oneshot::channel();
        let mut shared = self.shared.borrow_mut();
        shared.next_id += 1;
        let id = shared.next_id;
        shared.pending.insert(id, sender);
        (id, receiver)
    }

    /// Waits until the shared session is initialised; opens it when needed. Bounded by the connection's time limits.
    async fn ready(&self) -> Result<(Uri, Bytes), CallError> {
        loop {
            let waiting = {
                let mut shared = self.shared.borrow_mut();
                match &mut shared.phase {
                    Phase::Ready { post, initialized } => return Ok((post.clone(), initialized.clone())),
                    Phase::Opening(waiters) => {
                        let (sender, receiver) = oneshot::channel();
                        waiters.push(sender);
                        receiver
                    }
                    Phase::Closed => {
                        let (sender, receiver) = oneshot::channel();
                        shared.phase = Phase::Opening(vec![sender]);
                        shared.link += 1;
                        let link = sse::run(
                            self.line.clone(),
                            self.link_limits,
                            shared.link,
                            self.to.clone(),
                            Gate::new(usize::MAX),
                        );
                        shared.handle = Some(LinkHandle::new(actix_rt::spawn(link).abort_handle(), None));
                        receiver
                    }
                }
            };
            waiting.await.map_err(|_| CallError::Lost("the shared session ended".to_owned()))??;
        }
    }

    async fn initialize(&self, post_to: Uri) {
        let outcome = self.handshake(&post_to).await;
        match outcome {
            Ok(initialized) => {
                let ready = Phase::Ready { post: post_to, initialized };
                let before = std::mem::replace(&mut self.shared.borrow_mut().phase, ready);
                self.line.endpoint.succeeded();
                if let Phase::Opening(waiters) = before {
                    for waiter in waiters {
                        let _ = waiter.send(Ok(()));
                    }
                }
            }
            Err(error) => {
                self.line.endpoint.failed(&error);
                self.close(&error);
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
        self.post(url.clone(), Bytes::from(request.to_string())).await?;
        let answer = tokio::time::timeout(self.post_timeout, answer)
            .await
            .map_err(|_| CallError::TimedOut(self.post_timeout))?
            .map_err(|_| CallError::Lost("the shared session ended".to_owned()))??;
        let accepted = matches!(Head::parse(&answer).map(|head| head.kind), Ok(Kind::Response { success: true, .. }));
        if !accepted {
            return Err(CallError::Unreachable("the upstream refused to initialize".to_owned()));
        }
        let initialized = Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        self.post(url.clone(), initialized).await?;
        Ok(answer)
    }

    async fn post(&self, url: Uri, body: Bytes) -> Result<(), CallError> {
        Ok(self.line.post_within(url, body, self.post_timeout).await?)
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
                let _ = waiter.send(Err(error.clone()));
            }
        }
        for (_, waiting) in pending {
            let _ = waiting.send(Err(error.clone()));
        }
    }
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

impl From<PostError> for CallError {
    fn from(error: PostError) -> Self {
        match error {
            PostError::NotSent(why) => Self::Unreachable(why),
            PostError::SessionGone => Self::Lost("the upstream session is gone".to_owned()),
            PostError::Refused(status) => Self::Refused(status),
            PostError::Unknown(why) => Self::Lost(why),
        }
    }
}
