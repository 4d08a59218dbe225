//! [`UpstreamActor`]: one per endpoint and worker thread.
//!
//! Owns the router's own *shared session* with its endpoint on this thread, over which REST callers and health checks go
//! with rewritten ids. Session actors ask it for links; their POSTs go over the thread's [`Line`] without a message to it.
//! It never knows client streams and never waits inside a handler: every answer is a future of its own.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Instant};

use actix::prelude::*;
use bytes::Bytes;

pub use super::call::{Call, CallError};
use super::{
    Endpoint, Gate, LinkEvent, LinkHandle, LinkNotice,
    caller::{Answer, Caller, Shared},
    choice::Spoken,
    credential::Who,
    era,
    notice::{LinkLimits, Outlet, Via},
    transport::{
        http::{connections::KEEP_ALIVE, line::Line},
        sse,
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
    endpoint: Arc<Endpoint>,
    line: Line,
    limits: Rc<UpstreamSettings>,
    shared: Rc<RefCell<Shared>>,
    metrics: Metrics,
    probes: bool,
    /// Without it no call from this thread reaches the endpoint, and the first one's checks are missing.
    vital: Option<Vital>,
}

impl std::fmt::Debug for UpstreamActor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamActor").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
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
    /// In whose name.
    pub who: Who,
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

/// The endpoint is gone: what waits for it learns that, and the actor ends.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Leave;

impl UpstreamActor {
    /// Starts the actor of `endpoint` on the current thread. `probes`: this one also does the health checks (one
    /// worker of the process does).
    pub fn launch(line: Line, limits: UpstreamSettings, metrics: Metrics, probes: bool, vital: Vital) -> Addr<Self> {
        let endpoint = Arc::clone(&line.endpoint);
        // It speaks for the router: checks, and calls without a session.
        let line = line.in_name_of(Who::Itself);
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let limits = Rc::new(limits);
            Self { endpoint, line, limits, shared: Rc::default(), metrics, probes, vital: Some(vital) }
        })
    }

    /// Everything a call needs beyond the actor's borrow.
    fn caller(&self, ctx: &Context<Self>) -> Caller {
        Caller {
            line: self.line.clone(),
            shared: Rc::clone(&self.shared),
            settings: Rc::clone(&self.limits),
            link_limits: LinkLimits::from(&*self.limits),
            is_check: false,
            to: ctx.address().recipient(),
        }
    }

    fn probe(&self, ctx: &Context<Self>) {
        if !self.endpoint.try_acquire() {
            return;
        }
        let caller = Caller { is_check: true, ..self.caller(ctx) };
        let timeout = self.limits.health_timeout;
        let endpoint = Arc::clone(&self.endpoint);
        actix_rt::spawn(async move {
            let heard = Rc::clone(&caller.shared.borrow().heard);
            let (before, begun) = (heard.get(), Instant::now());
            let ping = Bytes::from_static(br#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#);
            let call = caller.call(Call { body: ping, timeout, given_up: None, place: None });
            let checked = tokio::time::timeout(timeout, call).await.unwrap_or(Err(CallError::TimedOut(timeout)));
            match judge(&checked, heard.get() != before) {
                Health::Up => endpoint.checked(begun.elapsed()),
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
        let outlet = Outlet { link: open.link, via: Via::Stream, to: open.to, gate: open.gate };
        let task = match self.endpoint.transport.next() {
            Spoken::Sse => {
                let line = self.line.in_name_of(open.who);
                actix_rt::spawn(sse::run(line, LinkLimits::from(&*self.limits), outlet, None))
            }
            Spoken::Streamable | Spoken::Modern => {
                actix_rt::spawn(era::open(self.line.clone(), Rc::clone(&self.limits), outlet))
            }
        };
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
            Ok(caller.post(session.uplink, message.body).await?)
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

impl Handler<Leave> for UpstreamActor {
    type Result = ();

    fn handle(&mut self, _: Leave, ctx: &mut Self::Context) {
        let caller = self.caller(ctx);
        caller.end_session(self.limits.post_timeout);
        caller.close(&CallError::Lost("its server is not in the list of upstreams any more".to_owned()));
        self.vital.take().into_iter().for_each(Vital::done);
        ctx.stop();
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
            LinkEvent::Opened(address) => {
                actix_rt::spawn(async move { caller.initialize(notice.link, address).await });
            }
            LinkEvent::Message(body) => self.take_message(&caller, Answer { body, is_altered: false }),
            LinkEvent::Altered(body) => self.take_message(&caller, Answer { body, is_altered: true }),
            LinkEvent::TooLarge(told) => self.take_too_large(&caller, told),
            LinkEvent::Cursor(_) | LinkEvent::Waits { .. } | LinkEvent::GoesOn => {}
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
                tracing::warn!(service = self.endpoint.service, %error, "the upstream sent no JSON-RPC message");
                for id in meant_to_answer(&message.body) {
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
                self.endpoint.tools.forget();
            }
            Kind::Notification { .. } | Kind::Response { .. } => {}
        }
    }

    fn take_too_large(&self, caller: &Caller, told: Told) {
        let limit = self.limits.max_message;
        self.metrics.dropped.with_label_values(&["upstream_too_large"]).inc();
        tracing::warn!(service = self.endpoint.service, limit, "the upstream sent a message that is too large");
        match told {
            Told::Answer(id) => {
                let answered = IdKey::of_json(&id).map(|id| caller.answered(&id, Err(CallError::TooLarge { limit })));
                tracing::debug!(service = self.endpoint.service, ?answered, "told whose answer it was");
            }
            Told::Request(id) => {
                let why = format!("the request is larger than {limit} bytes");
                caller.reply(jsonrpc::error_response(&id, jsonrpc::INVALID_REQUEST, &why, None));
            }
            Told::Nothing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
