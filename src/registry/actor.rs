//! [`Registry`]: one actor a process.
//!
//! Owns the lease and the subscription to wake-ups; hands wake-ups to the session or client stream they are for; looks
//! after the lives of sessions in the store (one grouped `touch`, no timer per session); lets sessions of dead instances
//! be adopted. It holds no truth about sessions and never waits in a handler.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;
use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;

use super::sweep::{adopt_if_needed, sweep};
use crate::{
    app::App,
    fault,
    lifecycle::Phase,
    protocol::session_id::SessionId,
    session::messages::{Drain, Look, Tick, Upkeep},
    store::{InstanceInfo, LeaseRenewed, StoreError, Wake},
};

/// Wake-ups that may wait; more become one "look at everything".
pub const WAKE_CAPACITY: usize = 4096;

/// Sessions asked at a time by a round over all of them.
const ROUND_CONCURRENCY: usize = 64;

/// Sessions touched in one store operation.
const TOUCH_BATCH: usize = 256;

/// See the module's text.
#[derive(Debug)]
pub struct Registry {
    app: Arc<App>,
    upkeep_running: bool,
    sweep_running: bool,
    lease_running: bool,
    /// The last renewal was not answered.
    store_failed: bool,
}

/// Lets every owned session go: `now` even when calls are in flight. Reply: how many are still owned.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
pub struct DrainAll {
    /// Hand over whatever is in flight.
    pub now: bool,
}

impl Registry {
    /// Starts the actor on the current thread with the wake-ups of this process.
    ///
    /// `attention`: sessions that this process itself wants looked after.
    pub fn launch(app: Arc<App>, wakes: mpsc::Receiver<Wake>, attention: mpsc::Receiver<SessionId>) -> Addr<Self> {
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(1024);
            let waiting = Arc::clone(&app);
            // Ends with the dispatch, and with this actor: the lease and the sweep are its own.
            let vital = app.lifecycle.vital("the registry (lease, wake-ups, sweep)");
            let dispatching = async move {
                let _vital = vital;
                dispatch(waiting, wakes, attention).await;
            };
            ctx.spawn(dispatching.into_actor(&Self::idle(&app)));
            Self::idle(&app)
        })
    }

    fn idle(app: &Arc<App>) -> Self {
        Self {
            app: Arc::clone(app),
            upkeep_running: false,
            sweep_running: false,
            lease_running: false,
            store_failed: false,
        }
    }

    fn renew_lease(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.lease_running, true) {
            return;
        }
        let app = Arc::clone(&self.app);
        let renewed = async move {
            let (ttl, pace) = (app.settings.session.lease, app.settings.session.lease_renew);
            fault::point(fault::LEASE);
            let asked = Instant::now();
            let renewed = app.store.lease_renew(&instance_info(&app), ttl).await;
            match renewed {
                Ok(LeaseRenewed::Renewed) => app.lease.renewed(asked, ttl, pace, true),
                Ok(LeaseRenewed::Reacquired) => app.lease.renewed(asked, ttl, pace, false),
                Ok(LeaseRenewed::Lost) | Err(_) => {}
            }
            renewed
        };
        ctx.spawn(renewed.into_actor(self).map(|renewed, actor, _ctx| {
            actor.lease_running = false;
            let back = std::mem::replace(&mut actor.store_failed, renewed.is_err());
            match renewed {
                // Sessions have tried in vain, and would try again after pauses that have grown.
                Ok(LeaseRenewed::Renewed) if back => look_at_everything(&actor.app),
                Ok(LeaseRenewed::Renewed) => {}
                Ok(LeaseRenewed::Reacquired) => {
                    tracing::warn!("the lease had run out; sessions may have new owners");
                    look_at_everything(&actor.app);
                }
                Ok(LeaseRenewed::Lost) => {
                    tracing::error!(
                        instance = %actor.app.me.instance_id,
                        "another process runs with this instance id; draining. Give each instance its own MCP_SESSION_INSTANCE_ID"
                    );
                    actor.app.lifecycle.advance(Phase::Draining);
                }
                Err(error) => actor.app.count_store_error(&error),
            }
        }));
    }

    fn sweep(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.sweep_running, true) {
            return;
        }
        let app = Arc::clone(&self.app);
        let swept = async move {
            if let Err(error) = sweep(&app).await {
                app.count_store_error(&error);
            }
        };
        ctx.spawn(swept.into_actor(self).map(|(), actor, _ctx| actor.sweep_running = false));
    }

    /// One round over all sessions and streams of this process.
    fn upkeep(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.upkeep_running, true) {
            return;
        }
        let app = Arc::clone(&self.app);
        let round = async move {
            if let Err(error) = upkeep(&app).await {
                app.count_store_error(&error);
            }
        };
        ctx.spawn(round.into_actor(self).map(|(), actor, _ctx| actor.upkeep_running = false));
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let session = &self.app.settings.session;
        ctx.run_interval(session.lease_renew, |actor, ctx| actor.renew_lease(ctx));
        // Twice as often as leases are renewed: the death of an instance is seen soon after its lease has run out.
        ctx.run_interval(session.lease_renew / 2, |actor, ctx| actor.sweep(ctx));
        // Often enough that neither lifetime is overshot by much.
        let period = (session.ttl / 8).min(session.uninitialized_ttl / 2).min(session.rest / 2);
        let period = period.min(Duration::from_secs(60));
        ctx.run_interval(period.max(Duration::from_millis(100)), |actor, ctx| actor.upkeep(ctx));
    }
}

impl Handler<DrainAll> for Registry {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, drain: DrainAll, _ctx: &mut Self::Context) -> Self::Result {
        let app = Arc::clone(&self.app);
        Box::pin(async move {
            stream::iter(app.directory.sessions())
                .for_each_concurrent(ROUND_CONCURRENCY, |(_, actor)| async move {
                    // An actor that is gone has nothing to hand over.
                    let _ = actor.send(Drain { now: drain.now }).await;
                })
                .await;
            app.directory.session_count()
        })
    }
}

/// What the lease says of this process.
pub fn instance_info(app: &App) -> InstanceInfo {
    InstanceInfo {
        owner: app.me.clone(),
        address: app.address.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_ms: app.started_ms,
        sessions: u64::try_from(app.directory.session_count()).unwrap_or(u64::MAX),
        process: app.process.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// Hands wake-ups on until the store's subscription ends (with the process).
async fn dispatch(app: Arc<App>, mut wakes: mpsc::Receiver<Wake>, mut attention: mpsc::Receiver<SessionId>) {
    loop {
        let wake = tokio::select! {
            wake = wakes.recv() => wake,
            Some(session) = attention.recv() => Some(Wake::Session(session)),
        };
        let Some(wake) = wake else { return };
        match wake {
            Wake::Session(session) => wake_session(&app, session),
            Wake::All => look_at_everything(&app),
        }
    }
}

fn wake_session(app: &Arc<App>, session: SessionId) {
    let actor = app.directory.session(&session);
    let attachments = app.directory.attachments(&session);
    for attachment in &attachments {
        attachment.look();
    }
    if !app.rebinds.is_empty() && !app.rebinds.gone(session) {
        let app = Arc::clone(app);
        actix_rt::spawn(async move { find_rebind(&app, session).await });
    }
    let check = || match attachments.as_slice() {
        [] => Some(Duration::ZERO),
        shown => shown.iter().filter_map(|attachment| attachment.next_owner_check()).min(),
    };
    if actor.is_none()
        && let Some(pause) = check()
    {
        // A draining instance announces what it has let go in this way (OWN-9).
        let app = Arc::clone(app);
        actix_rt::spawn(async move {
            tokio::time::sleep(pause).await;
            if let Err(error) = adopt_if_needed(&app, session).await {
                app.count_store_error(&error);
            }
        });
    }
    if let Some(actor) = actor {
        // Not `try_send` alone: with a full mailbox the look would be lost until the next one.
        if actor.try_send(Look).is_err() {
            actix_rt::spawn(async move {
                let _ = actor.send(Look).await;
            });
        }
    }
}

fn look_at_everything(app: &Arc<App>) {
    for (session, _) in app.directory.sessions() {
        wake_session(app, session);
    }
    for attachment in app.directory.all_attachments() {
        attachment.look();
    }
}

/// A client may have answered another instance's question "who are you": the session's hint tells.
async fn find_rebind(app: &App, session: SessionId) {
    let Ok(Some(head)) = app.store.load(session).await else { return };
    if let Some(nonce) = head.rebind {
        app.rebinds.complete(nonce, session);
    }
}

async fn upkeep(app: &Arc<App>) -> Result<(), StoreError> {
    let asked: Vec<(SessionId, Upkeep)> = stream::iter(app.directory.sessions())
        .map(|(session, actor)| async move { Some((session, actor.send(Tick).await.ok()?)) })
        .buffer_unordered(ROUND_CONCURRENCY)
        .filter_map(|asked| async move { asked })
        .collect()
        .await;
    for (session, _) in asked.iter().filter(|(_, upkeep)| *upkeep == Upkeep::Purge) {
        tracing::debug!(%session, "session was never used");
        app.store.purge(*session).await?;
    }
    // An open stream keeps its session alive, wherever the owner is.
    let mut alive: HashSet<SessionId> =
        app.directory.all_attachments().iter().map(|attachment| attachment.session).collect();
    alive.extend(asked.iter().filter(|(_, upkeep)| *upkeep == Upkeep::Touch).map(|(session, _)| *session));
    let alive: Vec<SessionId> = alive.into_iter().collect();
    for batch in alive.chunks(TOUCH_BATCH) {
        for gone in app.store.touch(batch, app.settings.session.ttl).await? {
            // Its actor and its streams find out by looking.
            wake_session(app, gone);
        }
    }
    // Where each of them is, again: a note may have been lost, or the store's data.
    stream::iter(app.directory.all_attachments())
        .for_each_concurrent(ROUND_CONCURRENCY, |attachment| async move {
            let Some(client) = attachment.listed() else { return };
            let (session, ttl) = (attachment.session, app.settings.session.ttl);
            if let Err(error) = app.store.client_shown(&client, session, &app.me.incarnation, ttl).await {
                app.count_store_error(&error);
            }
        })
        .await;
    // Sessions that ran out in the store while nobody touched them must not stay in memory.
    for (session, _) in asked.iter().filter(|(_, upkeep)| *upkeep == Upkeep::Leave) {
        wake_session(app, *session);
    }
    Ok(())
}
