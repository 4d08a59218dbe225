//! [`SessionActor`]: one per session that this process owns.
//!
//! Owns the upstream link, the order of what goes up, the table of requests in flight, and the queue of events on their
//! way into the log. It never blocks its mailbox: store operations and upstream calls are futures beside it. It lives on
//! one worker thread and dies for good when the store says that another process owns the session (OWN-3); the client's
//! stream stays open then and reads the log.

use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{self, Poll},
    time::Instant,
};

use actix::prelude::*;

use super::{
    attachment::{Attachment, End},
    calls::Counted,
    core::{
        claims::Claims,
        order::Order,
        outbox::Outbox,
        questions::Questions,
        setup::Setup,
        streams::{MAIN_STREAM, StreamKey, Streams},
        unheard::Unheard,
        uplink::Uplink,
    },
    env::Env,
    handle::SessionHandle,
    journal::{self, Posts},
    messages::{AttachLocal, Detached, Drain, Look},
    reading::Streamed,
    room::Guest,
    timing::Timing,
};
use crate::{
    backoff::{Backoff, STORE_BACKOFF},
    fair::fair,
    store::{Binding, Fence, HandedLately, Holder, InboxEntry, Rehydration, StoreError},
    upstream::{self, Endpoint, Gate, LinkHandle, Service, lines::Lines},
};

/// Unwritten bytes of events per session before the upstream is no longer read. One event larger than this passes
/// alone. MEM-1
const OUTBOX_BYTES: usize = 1 << 20;

/// Name of HTTP+SSE in a session's head ([`crate::store::NewSession::transport`]).
pub const SSE: &str = "sse";

/// Name of Streamable HTTP in a session's head ([`crate::store::NewSession::transport`]).
pub const STREAMABLE: &str = "streamable";

/// See the module's text.
#[derive(Debug)]
pub struct SessionActor {
    pub(super) env: Arc<Env>,
    /// The ways from this thread to the servers.
    pub(super) lines: Rc<Lines>,
    pub(super) service: Arc<Service>,
    pub(super) fence: Fence,

    // --- the upstream (link.rs)
    pub(super) uplink: Uplink<upstream::Uplink>,
    pub(super) link_handle: Option<LinkHandle>,
    /// Its streams, where they are asked for (upstream_streams.rs).
    pub(super) streamed: Streamed,
    pub(super) endpoint: Option<Arc<Endpoint>>,
    pub(super) gate: Arc<Gate>,

    // --- client → upstream (inbound.rs)
    /// What was journaled, until every earlier message has been handled.
    pub(super) order: Order<journal::Arrived>,
    /// Messages that are being journaled.
    pub(super) accepting: usize,
    pub(super) posts: Posts,
    pub(super) claims: Claims,
    /// Of the planned claim.
    pub(super) claim_timer: Option<SpawnHandle>,
    /// What was claimed last, for the case that the store comes back with older data (restore.rs).
    pub(super) handed_lately: HandedLately,
    pub(super) rechecking: bool,
    /// When this actor asked for what the store last granted to it as the owner. OWN-2
    pub(super) confirmed: Option<Instant>,
    /// Pauses before the store is told again of requests that were forgotten (cancel.rs).
    pub(super) forget_backoff: Backoff,
    pub(super) questions: Questions,

    // --- upstream → client (outbound.rs)
    pub(super) outbox: Outbox,
    /// Which connections of this process show it.
    pub(super) streams: Streams<Attachment>,
    /// For metrics and traces.
    pub(super) timing: Timing,
    /// Answers that nobody shows. Most sessions never have one.
    pub(super) unheard: Option<Box<Unheard>>,

    // --- what the client has set up, to be set up again on a new link
    pub(super) setup: Setup,

    // --- what it gives back when its client is gone (life.rs)
    /// It is of a transport with a stream for each request (Streamable HTTP).
    pub(super) has_many_streams: bool,
    /// Who opened it, as its record has it.
    pub(super) client: String,
    /// To whom it answers, as far as it is known here: the store may know of a stronger credential. SEC-1
    pub(super) binding: Binding,
    /// Counted for that client until the actor ends.
    pub(super) guest: Option<Guest>,
    /// Its place among those that make room.
    pub(super) place: Option<u64>,
    /// No link, because no client is there.
    pub(super) resting: bool,
    /// Who held the stream then, by the store: long gone.
    pub(super) rested_under: Option<Holder>,
    /// The store is being asked whether another instance shows the stream.
    pub(super) looking_around: bool,
    /// To be told when the next link is up.
    pub(super) lists_may_have_changed: bool,

    /// The inbox as an adopter found it; taken by the first recovery.
    pub(super) inherited: Option<Vec<InboxEntry>>,
    /// Id of the store's data that this session was written into.
    pub(super) dataset: Arc<str>,
    pub(super) restoring: bool,
    pub(super) draining: bool,
    pub(super) last_active: Instant,
}

/// Why an actor ended; logged, and the label of its last metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Another process owns the session.
    Fenced,
    /// The session is gone from the store.
    Gone,
    /// Handed over while draining.
    Released,
    /// What the store has of it makes no sense: it cannot go on anywhere, and silence would be worse.
    Corrupt,
}

impl SessionActor {
    /// Starts the actor of a session that was just created, on the current thread. `attachment`: its one stream, for a
    /// transport that has one.
    pub fn start_new(
        env: Arc<Env>,
        lines: Rc<Lines>,
        service: Arc<Service>,
        fence: Fence,
        attachment: Option<Arc<Attachment>>,
        (client, binding): (String, Binding),
        guest: Guest,
    ) -> SessionHandle {
        let has_many_streams = attachment.is_none();
        let streams = attachment.map_or_else(|| Streams::of_none(Instant::now()), Streams::of_new);
        let mut session = Self::new(env, lines, service, fence, streams);
        session.has_many_streams = has_many_streams;
        (session.client, session.binding) = (client, binding);
        session.guest = Some(guest);
        session.launch()
    }

    /// Starts the actor of an adopted session, on the current thread.
    pub fn start_adopted(env: Arc<Env>, lines: Rc<Lines>, service: Arc<Service>, found: Rehydration) -> SessionHandle {
        let head = found.head;
        let holders = head.attachments().filter_map(|held| Some((StreamKey::of_name(&held.stream)?, held.id)));
        let streams = Streams::inherited(holders, Instant::now());
        let mut session = Self::new(env, lines, service, found.fence, streams);
        session.order = Order::new(head.in_seq + 1);
        let last_event = head.stream(MAIN_STREAM).map_or(0, |log| log.last_seq);
        session.outbox.inherit(last_event);
        session.streams.log_is_at(last_event);
        session.has_many_streams = head.transport == STREAMABLE;
        (session.client, session.binding) = (head.client, head.binding);
        let mut before = head.continuation;
        session.setup = Setup::inherit(&mut before);
        session.streamed = Streamed::inherit(&mut before, session.setup.is_done());
        for (id, upstream_id) in &before.questions {
            session.questions.inherit(id, upstream_id);
        }
        found.inbox.iter().for_each(|entry| session.posts.inherit(entry.seq));
        let held = session.env.metrics.held.clone();
        for request in found.pending {
            let count = |id: &_, method: &str| session.counted(id, method);
            let many = session.has_many_streams;
            let (id, request) = journal::inherited(request, &session.service.tools, &held, many, count);
            session.posts.inherit_request(id, request);
        }
        if !before.moved.is_empty() {
            session.unheard = Some(Box::new(Unheard::inherit(before.moved)));
        }
        session.timing = Timing::adopted(before.traces);
        session.inherit_cancels(before.cancelled);
        session.inherited = Some(found.inbox);
        session.launch()
    }

    fn new(env: Arc<Env>, lines: Rc<Lines>, service: Arc<Service>, fence: Fence, streams: Streams<Attachment>) -> Self {
        let now = Instant::now();
        let dataset = env.dataset.id();
        Self {
            dataset,
            restoring: false,
            env,
            lines,
            service,
            fence,
            uplink: Uplink::new(now),
            link_handle: None,
            streamed: Streamed::default(),
            endpoint: None,
            gate: Gate::new(OUTBOX_BYTES),
            order: Order::new(1),
            accepting: 0,
            posts: Posts::default(),
            claims: Claims::default(),
            claim_timer: None,
            handed_lately: HandedLately::default(),
            rechecking: false,
            confirmed: None,
            forget_backoff: STORE_BACKOFF,
            questions: Questions::fresh(),
            outbox: Outbox::default(),
            streams,
            timing: Timing::default(),
            unheard: None,
            setup: Setup::default(),
            has_many_streams: false,
            client: String::new(),
            binding: Binding::default(),
            guest: None,
            place: None,
            resting: false,
            rested_under: None,
            looking_around: false,
            lists_may_have_changed: false,
            inherited: None,
            draining: false,
            last_active: now,
        }
    }

    fn launch(self) -> SessionHandle {
        let (env, session) = (Arc::clone(&self.env), self.fence.session);
        let capacity = env.settings.session.mailbox;
        let mut context = Context::new();
        // actix's default of 16 would make a burst of POSTs wait for nothing.
        context.set_mailbox_capacity(capacity);
        let actor = context.address();
        // Its client may post by the connections of other workers.
        actix_rt::spawn(fair(context.into_future(self)));
        // At once, and not when it has started: nobody must miss it.
        let handle = SessionHandle::new(&actor);
        env.directory.insert_session(session, handle.clone());
        handle
    }

    /// Runs `work` now as far as it goes, which with the embedded store is to its end, and the rest of it beside the
    /// mailbox; then `then`.
    pub(super) fn run<F: Future + 'static>(
        &mut self,
        work: F,
        ctx: &mut Context<Self>,
        then: impl FnOnce(F::Output, &mut Self, &mut Context<Self>) + 'static,
    ) {
        let mut work = Box::pin(work);
        match poll_now(&mut work) {
            Poll::Ready(outcome) => then(outcome, self, ctx),
            Poll::Pending => {
                ctx.spawn(work.into_actor(self).map(then));
            }
        }
    }

    /// Ends the actor. Its client stream is told only what it must know.
    pub(super) fn exit(&mut self, exit: Exit, ctx: &mut Context<Self>) {
        let env = Arc::clone(&self.env);
        match exit {
            Exit::Fenced => {
                env.metrics.fenced.inc();
                tracing::info!(session = %self.fence.session, generation = self.fence.generation, "session has a new owner");
                // OWN-3: the stream goes on, fed from the log by whoever owns the session now.
                self.streams.iter().for_each(|attachment| attachment.look());
            }
            Exit::Gone => {
                // MEM-4: a session that ran out by itself is still in this instance's index.
                let (store, session) = (Arc::clone(&env.store), self.fence.session);
                actix_rt::spawn(async move { store.purge(session, None).await });
                for attachment in self.all_streams() {
                    attachment.end(End::Finished);
                }
            }
            Exit::Corrupt => {
                env.metrics.corrupt.inc();
                tracing::error!(session = %self.fence.session, "the store's data of this session makes no sense; it is ended");
                // So that nobody inherits it: its client is told that the session is gone, and begins anew.
                let (store, session) = (Arc::clone(&env.store), self.fence.session);
                actix_rt::spawn(async move {
                    if let Err(error) = store.purge(session, None).await {
                        tracing::error!(%session, %error, "what makes no sense could not be deleted; it stays until it expires");
                    }
                });
                for attachment in self.all_streams() {
                    attachment.end(End::Abort("the session's data makes no sense"));
                }
            }
            Exit::Released => {
                tracing::debug!(session = %self.fence.session, "session released");
            }
        }
        if matches!(exit, Exit::Gone | Exit::Corrupt) {
            self.end_upstream();
        } else {
            // Calls go on, and are kept by who takes the session.
            let requests = self.posts.requests_mut();
            requests.kept_mut().filter_map(|kept| kept.counted.take()).for_each(Counted::passed_on);
        }
        env.directory.remove_session(&self.fence.session, &SessionHandle::new(&ctx.address()));
        if matches!(exit, Exit::Fenced | Exit::Released) {
            // Those of requests are known to no other process: they say so to the store now.
            let waiting = self.streams.iter().filter(|attachment| attachment.key != StreamKey::Main);
            waiting.for_each(|attachment| attachment.look());
        }
        if exit == Exit::Fenced {
            // The new owner may have let it go by now, and what told only this actor of itself would wait. Not before it is
            // off the directory, where the registry would find it. OWN-9
            env.look_after(self.fence.session);
        }
        self.uplink.end();
        ctx.stop();
    }

    /// The connections of this process that show one of its streams.
    pub(super) fn all_streams(&self) -> Vec<Arc<Attachment>> {
        let mut all = self.env.directory.attachments(&self.fence.session);
        // Those of requests are listed only when they wait for long.
        all.extend(self.streams.iter().filter(|mine| mine.key != StreamKey::Main).cloned());
        all
    }

    /// What every failed store operation has in common. `true`: worth a retry.
    pub(super) fn note_store_error(&self, error: &StoreError) -> bool {
        self.env.count_store_error(error);
        if let StoreError::Corrupt(why) = error {
            tracing::error!(session = %self.fence.session, why, "the store answered nonsense");
        }
        !matches!(error, StoreError::Corrupt(_))
    }

    /// Nothing of this session is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.posts.requests().is_empty() && self.has_no_work()
    }

    /// Nothing is under way but requests that wait for their answers.
    pub(super) fn has_no_work(&self) -> bool {
        self.posts.are_settled()
            && self.order.is_even()
            && self.accepting == 0
            && self.outbox.is_empty()
            && !self.restoring
            && !self.claims.is_under_way()
    }

    /// Gives back what the last burst has left: most sessions are idle most of the time, and there are many.
    pub(super) fn shrink(&mut self) {
        if !self.is_quiet() {
            return;
        }
        self.posts.shrink();
        self.order.shrink();
        self.questions.shrink();
        self.outbox.shrink();
        self.timing.shrink();
        self.streams.shrink();
        if let Some(unheard) = &mut self.unheard {
            unheard.shrink();
        }
    }
}

/// Polls once, for work that may be done already. Whoever goes on with it must poll it again, and be woken then.
pub(super) fn poll_now<F: Future + Unpin>(work: &mut F) -> Poll<F::Output> {
    Pin::new(work).poll(&mut task::Context::from_waker(task::Waker::noop()))
}

impl Actor for SessionActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.env.metrics.sessions.inc();
        // A stream of the session that is held here gets its events by the short way from now on. Not looked for earlier:
        // one that is being opened at this moment finds this actor, or is found here.
        if self.streams.has_inherited() {
            self.streams.find_inherited(&self.env.directory.attachments(&self.fence.session));
        }
        self.forget_in_store(ctx);
        if self.inherited.is_some() && self.wants_link() {
            self.ensure_link(ctx);
        }
        if self.inherited.is_some() {
            self.enlist(ctx);
            // An adoption is never refused; another one goes instead.
            let env = Arc::clone(&self.env);
            if env.directory.session_count() > env.settings.limits.max_sessions {
                actix_rt::spawn(async move { env.lonely.make_room(None).await });
            }
        }
    }

    fn stopped(&mut self, ctx: &mut Self::Context) {
        self.env.directory.remove_session(&self.fence.session, &SessionHandle::new(&ctx.address()));
    }
}

/// Not in `stopped`, which an actor that panics does not see. Its entry in the directory is found to be dead.
impl Drop for SessionActor {
    fn drop(&mut self) {
        self.delist();
        self.env.metrics.sessions.dec();
    }
}

impl Handler<Look> for SessionActor {
    type Result = ();

    fn handle(&mut self, _look: Look, ctx: &mut Self::Context) {
        self.claim(ctx);
    }
}

impl Handler<AttachLocal> for SessionActor {
    type Result = ();

    fn handle(&mut self, attach: AttachLocal, ctx: &mut Self::Context) {
        self.delist();
        self.wake_from_rest(ctx);
        self.last_active = Instant::now();
        let attachment = attach.attachment;
        self.timing.serves(&self.env, &self.fence);
        self.heard(attachment.key);
        if let Some(before) = self.streams.join(Arc::clone(&attachment), self.outbox.last_seq()) {
            before.end(End::Superseded);
        }
        // Events between its first page and this moment were not pushed to it.
        attachment.look();
    }
}

impl Handler<Detached> for SessionActor {
    type Result = ();

    fn handle(&mut self, detached: Detached, ctx: &mut Self::Context) {
        // OWN-8: only the stream that has ended, not its successor.
        if self.streams.leave(detached.attachment, Instant::now()) {
            self.left_alone(ctx);
        }
    }
}

impl Handler<Drain> for SessionActor {
    type Result = ();

    fn handle(&mut self, drain: Drain, ctx: &mut Self::Context) {
        let begins = !std::mem::replace(&mut self.draining, true);
        self.release_if_quiet(drain.now, ctx);
        if begins && !self.is_quiet() {
            // DRN-2: what the server waits for may be in the inbox already.
            self.claim(ctx);
        }
    }
}
