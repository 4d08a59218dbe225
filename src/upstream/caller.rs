//! The shared session of one endpoint and thread, as the future of one call sees it: opened when it is needed, initialised
//! once, and ended for everybody when its link is. An answer is taken whichever way it comes.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use actix::prelude::*;
use bytes::Bytes;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Address, Gate, LinkHandle, LinkNotice, PostError, Reply, ReplyEnd, STREAM_WAIT, Uplink,
    call::{Call, CallError, GivenUp, gives_up, rewritten},
    choice::Spoken,
    era,
    notice::{LinkLimits, Outlet, Via},
    resumed::{Resumed, resume},
    resumption::Resumption,
    transport::{http::line::Line, sse},
};
use crate::{
    protocol::{
        jsonrpc::{self, Head, IdKey, Kind},
        mcp,
    },
    settings::UpstreamSettings,
};

/// How long a cancelled request may still be answered.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// The router's own session with the endpoint.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) phase: Phase,
    /// Number of the current link; notices of older ones are ignored.
    pub(super) link: u64,
    handle: Option<LinkHandle>,
    /// Counts what comes on the stream: it grows while the server lives, however slow it is.
    pub(super) heard: Rc<Cell<u64>>,
    next_id: u64,
    pub(super) pending: HashMap<u64, oneshot::Sender<Result<Answer, CallError>>>,
}

/// A server's answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) body: Bytes,
    /// Some of it was no text, and has been replaced by U+FFFD.
    pub(super) is_altered: bool,
}

#[derive(Debug, Default)]
pub(super) enum Phase {
    #[default]
    Closed,
    Opening(Vec<oneshot::Sender<Result<(), CallError>>>),
    Ready {
        uplink: Uplink,
        /// The server's answer to our `initialize`.
        initialized: Bytes,
    },
}

/// The shared session, initialised.
pub(super) struct Session {
    pub(super) uplink: Uplink,
    pub(super) initialized: Bytes,
    /// Number of its link.
    pub(super) link: u64,
}

/// The shared session as seen by the future of one call.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) line: Line,
    pub(super) shared: Rc<RefCell<Shared>>,
    pub(super) settings: Rc<UpstreamSettings>,
    pub(super) link_limits: LinkLimits,
    /// It is a health check's: nobody's call.
    pub(super) is_check: bool,
    pub(super) to: Recipient<LinkNotice>,
}

impl Caller {
    pub(super) async fn call(&self, call: Call) -> Result<Bytes, CallError> {
        let deadline = Instant::now() + call.timeout;
        let mut given_up = call.given_up;
        // Once more when the upstream says that it does not know our session: it has not executed anything then.
        for _attempt in 0..2 {
            let session = self.ready().await?;
            let link = session.link;
            let uplink = if self.is_check { session.uplink.for_check() } else { session.uplink };
            if given_up.as_ref().is_some_and(|caller| caller.has_changed().is_err() || *caller.borrow()) {
                return Err(CallError::Cancelled);
            }
            let (id, answer) = self.register();
            let _forget = ForgetOnDrop { shared: &self.shared, id };
            let request = rewritten(&call.body, id).map_err(|error| CallError::Unreachable(error.to_string()))?;
            let exchanged =
                self.exchange(&uplink.at(call.place.clone()), id, request, answer, deadline, &mut given_up).await;
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
        uplink: &Uplink,
        id: u64,
        request: Bytes,
        mut answer: oneshot::Receiver<Result<Answer, CallError>>,
        deadline: Instant,
        given_up: &mut GivenUp,
    ) -> Result<Answer, Failed> {
        let tells = given_up.is_some();
        let (mut deadline, mut is_cancelled, mut is_posted) = (deadline, false, false);
        let mut post = Box::pin(uplink.clone().send(request));
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => {
                    if !is_posted {
                        // The acknowledgement is only late; cut off, its connection would be lost.
                        let limit = self.settings.request_timeout;
                        actix_rt::spawn(async move { tokio::time::timeout(limit, post).await });
                    }
                    let closed = || Err(CallError::Lost("the shared session ended".to_owned()));
                    return answer.unwrap_or_else(|_| closed()).map_err(Failed::Call);
                }
                posted = &mut post, if !is_posted => match posted {
                    Ok(reply) => {
                        is_posted = true;
                        self.read_reply(uplink, reply, Some(id));
                    }
                    Err(PostError::SessionGone) => return Err(Failed::SessionGone),
                    Err(error) => return Err(Failed::Call(error.into())),
                },
                left = gives_up(given_up), if !is_cancelled => {
                    self.cancel(uplink, id, "the caller gave it up");
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
                        self.cancel(uplink, id, "the router's time limit");
                    }
                    return Err(Failed::TimedOut);
                }
            }
        }
    }

    /// Tells the server that nobody waits for the answer to this request of ours.
    fn cancel(&self, uplink: &Uplink, id: u64, reason: &str) {
        let cancel = serde_json::json!({
            "jsonrpc": "2.0", "method": mcp::CANCELLED, "params": { "requestId": id, "reason": reason },
        });
        let (caller, uplink) = (self.clone(), uplink.clone());
        actix_rt::spawn(async move { caller.post(uplink, Bytes::from(cancel.to_string())).await });
    }

    /// Answers the server.
    pub(super) fn reply(&self, answer: Bytes) {
        let Phase::Ready { uplink, .. } = &self.shared.borrow().phase else { return };
        let (caller, uplink) = (self.clone(), uplink.clone());
        actix_rt::spawn(async move { caller.post(uplink, answer).await });
    }

    /// Hands an answer to whoever waits for it. `false`: nobody does.
    pub(super) fn answered(&self, id: &IdKey, answer: Result<Answer, CallError>) -> bool {
        id.key().parse().is_ok_and(|id: u64| self.answered_own(id, answer))
    }

    fn answered_own(&self, id: u64, answer: Result<Answer, CallError>) -> bool {
        let waiting = self.shared.borrow_mut().pending.remove(&id);
        // The caller may have given up.
        waiting.is_some_and(|waiting| waiting.send(answer).is_ok())
    }

    /// What the answer to a POST holds goes the way of what comes on the stream. `id`: of the request that was posted.
    fn read_reply(&self, uplink: &Uplink, reply: Option<Reply>, id: Option<u64>) {
        let Some(reply) = reply else { return };
        let uplink = uplink.clone();
        let (link, via) = (self.shared.borrow().link, Via::Post(id.unwrap_or_default()));
        let outlet = Outlet { link, via, to: self.to.clone(), gate: Gate::new(usize::MAX) };
        let caller = self.clone();
        actix_rt::spawn(async move {
            let end = caller.read_to_the_answer(uplink, reply, &outlet, id).await;
            let Some(id) = id else { return };
            let answer = match end {
                ReplyEnd::Whole if !caller.is_open(id).await => return,
                ReplyEnd::Whole => Err(CallError::Lost("the answer ended without a response".to_owned())),
                ReplyEnd::Broken => Err(CallError::Lost("the answer broke off".to_owned())),
                ReplyEnd::Unreadable => Err(CallError::Nonsense),
                ReplyEnd::Nameless(error) => {
                    Ok(Answer { body: jsonrpc::failed_response(&id.to_string(), &error), is_altered: false })
                }
            };
            if !matches!(answer, Err(CallError::Lost(_))) {
                tokio::time::sleep(STREAM_WAIT).await;
            }
            caller.answered_own(id, answer);
        });
    }

    /// Reads the answer to a POST, and asks for what follows where it ends without the response.
    async fn read_to_the_answer(&self, uplink: Uplink, mut reply: Reply, outlet: &Outlet, id: Option<u64>) -> ReplyEnd {
        let until = Instant::now() + self.settings.request_timeout;
        let (mut attempts, mut is_resumed) = (Resumption::new(&self.settings), false);
        loop {
            // What is asked for by itself may go on behind the response.
            let is_wanted = || !is_resumed || id.is_some_and(|id| self.shared.borrow().pending.contains_key(&id));
            let end = reply.read(self.link_limits, outlet, until, is_wanted).await;
            let Some(id) = id.filter(|_| matches!(end, ReplyEnd::Whole | ReplyEnd::Broken)) else { return end };
            loop {
                let marks = reply.marks().clone();
                if marks.cursor.is_none() || !self.is_open(id).await {
                    return end;
                }
                let Ok(asked) = resume(uplink.clone(), None, marks, &mut attempts, false, until) else { return end };
                match asked.await {
                    Resumed::On(next) => {
                        (reply, is_resumed) = (next, true);
                        break;
                    }
                    Resumed::Again | Resumed::NotConnected(_) => {}
                    Resumed::SessionGone(_) | Resumed::Never => return end,
                }
            }
        }
    }

    /// What has been read holds no answer to this request of ours, and nothing else will.
    async fn is_open(&self, id: u64) -> bool {
        let is_in_place = match &self.shared.borrow().phase {
            Phase::Ready { uplink, .. } => uplink.answers_in_place(),
            Phase::Opening(_) => self.line.endpoint.transport.next() != Spoken::Sse,
            Phase::Closed => false,
        };
        let is_open = || is_in_place && self.shared.borrow().pending.contains_key(&id);
        if !is_open() {
            return false;
        }
        // It may be on its way to the actor.
        tokio::task::yield_now().await;
        if is_open() {
            tokio::time::sleep(STREAM_WAIT).await;
        }
        is_open()
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
    pub(super) async fn ready(&self) -> Result<Session, CallError> {
        loop {
            let waiting = {
                let mut shared = self.shared.borrow_mut();
                let link = shared.link;
                match &mut shared.phase {
                    Phase::Ready { uplink, initialized } => {
                        return Ok(Session { uplink: uplink.clone(), initialized: initialized.clone(), link });
                    }
                    Phase::Opening(waiters) => {
                        let (sender, receiver) = oneshot::channel();
                        waiters.push(sender);
                        receiver
                    }
                    Phase::Closed => {
                        let (sender, receiver) = oneshot::channel();
                        shared.phase = Phase::Opening(vec![sender]);
                        self.open(&mut shared);
                        receiver
                    }
                }
            };
            waiting.await.map_err(|_| CallError::Unreachable("the shared session ended".to_owned()))??;
        }
    }

    /// Begins the shared session anew.
    fn open(&self, shared: &mut Shared) {
        shared.link += 1;
        let (link, via) = (shared.link, Via::Stream);
        let outlet = Outlet { link, via, to: self.to.clone(), gate: Gate::new(usize::MAX) };
        let task = match self.line.endpoint.transport.next() {
            Spoken::Sse => {
                let heard = Rc::clone(&shared.heard);
                actix_rt::spawn(sse::run(self.line.clone(), self.link_limits, outlet, Some(heard)))
            }
            Spoken::Streamable | Spoken::Modern => {
                actix_rt::spawn(era::open(self.line.clone(), Rc::clone(&self.settings), outlet))
            }
        };
        shared.handle = Some(LinkHandle::new(task.abort_handle(), None));
    }

    pub(super) async fn initialize(&self, link: u64, address: Address) {
        let tried = address.spoken();
        let uplink = Uplink::new(self.line.clone(), address);
        match self.handshake(&uplink).await {
            Ok(initialized) => {
                let mut shared = self.shared.borrow_mut();
                if shared.link != link {
                    return;
                }
                let (to, gate) = (self.to.clone(), Gate::new(usize::MAX));
                let outlet = Outlet { link, via: Via::Stream, to, gate };
                if let Some(listens) = uplink.listen(&self.settings, outlet, None) {
                    shared.handle = Some(listens);
                }
                let before = std::mem::replace(&mut shared.phase, Phase::Ready { uplink, initialized });
                drop(shared);
                self.line.endpoint.succeeded();
                if let Phase::Opening(waiters) = before {
                    for waiter in waiters {
                        let _ = waiter.send(Ok(()));
                    }
                }
            }
            // It has told which transport it speaks.
            Err(_) if tried != Spoken::Sse && self.line.endpoint.transport.next() != tried => {
                let mut shared = self.shared.borrow_mut();
                if shared.link == link {
                    self.open(&mut shared);
                }
            }
            Err(error) => {
                if self.close_link(link, &error) {
                    self.line.endpoint.failed(&error);
                }
            }
        }
    }

    async fn handshake(&self, uplink: &Uplink) -> Result<Bytes, CallError> {
        let (id, answer) = self.register();
        let _forget = ForgetOnDrop { shared: &self.shared, id };
        let request = serde_json::json!({
            "jsonrpc": "2.0", "id": id, "method": mcp::INITIALIZE,
            "params": {
                "protocolVersion": mcp::NEWEST_VERSION, "capabilities": {},
                "clientInfo": { "name": "mcp-router", "version": env!("CARGO_PKG_VERSION") },
            },
        });
        let deadline = Instant::now() + self.settings.post_timeout;
        let exchanged = self.exchange(uplink, id, Bytes::from(request.to_string()), answer, deadline, &mut None).await;
        let answer = exchanged.map_err(|failed| match failed {
            Failed::SessionGone => CallError::Unreachable("it does not know the session that it has opened".to_owned()),
            Failed::TimedOut => CallError::TimedOut(self.settings.post_timeout),
            Failed::Call(error) => error,
        })?;
        let answer = answer.body;
        let head = Head::parse(&answer).ok();
        let accepted = head.filter(|head| matches!(head.kind, Kind::Response { success: true, .. }));
        let Some(result) = accepted.map(|head| head.result.map_or("{}", |result| result.get())) else {
            return Err(CallError::Unreachable("it refused to initialize".to_owned()));
        };
        uplink.initialized(mcp::protocol_version(result).as_deref());
        let initialized = Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        self.post(uplink.clone(), initialized).await?;
        Ok(answer)
    }

    /// POSTs what expects no answer.
    pub(super) async fn post(&self, uplink: Uplink, body: Bytes) -> Result<(), PostError> {
        let reply = uplink.send_within(body, self.settings.post_timeout).await?;
        self.read_reply(&uplink, reply, None);
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

    /// Tells the server that the shared session is over.
    pub(super) fn end_session(&self, patience: Duration) {
        if let Phase::Ready { uplink, .. } = &self.shared.borrow().phase {
            let uplink = uplink.clone();
            actix_rt::spawn(async move { tokio::time::timeout(patience, uplink.end()).await });
        }
    }

    /// Ends the shared session; everybody who waits learns why. The next call opens a new one.
    pub(super) fn close(&self, error: &CallError) {
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
