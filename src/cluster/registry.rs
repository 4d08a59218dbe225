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
use futures_util::{StreamExt as _, future, stream};
use tokio::sync::mpsc;

use super::{
    Cluster,
    figures::{Figures, publish},
    ownership::is_holder_gone,
    sweep::{Sightings, adopt_if_needed, sweep},
    turns::{EndTurn, TakeTurn, Turn, Turns},
};
use crate::{
    fault,
    lifecycle::Phase,
    protocol::session_id::SessionId,
    session::messages::{Drain, IsGone, Look, Tick, Upkeep},
    store::{InstanceInfo, LeaseRenewed, StoreError, StoreResult, Wake},
};

/// Wake-ups that may wait; more become one "look at everything".
pub const WAKE_CAPACITY: usize = 4096;

/// Messages that may wait: who sends more waits himself.
const MAILBOX: usize = 1024;

/// Sessions asked at a time by a round over all of them.
const ROUND_CONCURRENCY: usize = 64;

/// Sessions touched in one store operation.
const TOUCH_BATCH: usize = 256;

/// See the module's text.
#[derive(Debug)]
pub struct Registry {
    cluster: Arc<Cluster>,
    turns: Turns,
    upkeep_running: bool,
    /// Away while a sweep runs.
    sightings: Option<Sightings>,
    lease_running: bool,
    /// The last renewal was not answered.
    store_failed: bool,
    /// Away while they are told.
    figures: Option<Figures>,
}

/// Tells operators what there is to tell, now. Without an answer it is being done.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Publish;

/// Lets owned sessions go. Reply: how many are still owned.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
pub struct DrainAll {
    /// These are not to go yet.
    pub but: HashSet<SessionId>,
    /// Hand over whatever is in flight.
    pub now: bool,
}

impl Registry {
    /// Starts the actor on the current thread, in the context whose address the rest of the process has by then,
    /// with the wake-ups of this process.
    ///
    /// `attention`: sessions that this process itself wants looked after.
    pub fn launch(
        mut ctx: Context<Self>,
        cluster: Arc<Cluster>,
        sightings: Sightings,
        wakes: mpsc::Receiver<Wake>,
        attention: mpsc::Receiver<SessionId>,
    ) -> Addr<Self> {
        ctx.set_mailbox_capacity(MAILBOX);
        let waiting = Arc::clone(&cluster);
        // Ends with the dispatch, and with this actor: the lease and the sweep are its own.
        let vital = cluster.lifecycle.vital("the registry (lease, wake-ups, sweep)");
        let registry = Self {
            cluster,
            turns: Turns::default(),
            upkeep_running: false,
            sightings: Some(sightings),
            lease_running: false,
            store_failed: false,
            figures: Some(Figures::default()),
        };
        let dispatching = async move {
            let _vital = vital;
            dispatch(waiting, wakes, attention).await;
        };
        ctx.spawn(dispatching.into_actor(&registry));
        ctx.run(registry)
    }

    fn renew_lease(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.lease_running, true) {
            return;
        }
        let cluster = Arc::clone(&self.cluster);
        let renewed = async move {
            let (ttl, pace) = (cluster.env.settings.session.lease, cluster.env.settings.session.lease_renew);
            fault::point(fault::LEASE);
            let asked = Instant::now();
            let renewed = cluster.env.store.lease_renew(&instance_info(&cluster), ttl).await;
            match renewed {
                Ok(LeaseRenewed::Renewed) => cluster.env.lease.renewed(asked, ttl, pace, true),
                Ok(LeaseRenewed::Reacquired) => cluster.env.lease.renewed(asked, ttl, pace, false),
                Ok(LeaseRenewed::Lost) | Err(_) => {}
            }
            renewed
        };
        ctx.spawn(renewed.into_actor(self).map(|renewed, actor, _ctx| {
            actor.lease_running = false;
            let back = std::mem::replace(&mut actor.store_failed, renewed.is_err());
            match renewed {
                // Sessions have tried in vain, and would try again after pauses that have grown.
                Ok(LeaseRenewed::Renewed) if back => look_at_everything(&actor.cluster),
                Ok(LeaseRenewed::Renewed) => {}
                Ok(LeaseRenewed::Reacquired) => {
                    tracing::warn!("the lease had run out; sessions may have new owners");
                    look_at_everything(&actor.cluster);
                }
                Ok(LeaseRenewed::Lost) => {
                    tracing::error!(
                        instance = %actor.cluster.env.me.instance_id,
                        "another process runs with this instance id; draining. Give each instance its own MCP_SESSION_INSTANCE_ID"
                    );
                    actor.cluster.lifecycle.advance(Phase::Draining);
                }
                Err(error) => actor.cluster.env.count_store_error(&error),
            }
        }));
    }

    fn sweep(&mut self, ctx: &mut Context<Self>) {
        let Some(mut sightings) = self.sightings.take() else { return };
        let cluster = Arc::clone(&self.cluster);
        let swept = async move {
            if let Err(error) = sweep(&cluster, &mut sightings).await {
                cluster.env.count_store_error(&error);
            }
            sightings
        };
        ctx.spawn(swept.into_actor(self).map(|sightings, actor, _ctx| actor.sightings = Some(sightings)));
    }

    /// One round over all sessions and streams of this process.
    fn upkeep(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.upkeep_running, true) {
            return;
        }
        let cluster = Arc::clone(&self.cluster);
        let round = async move {
            if let Err(error) = upkeep(&cluster).await {
                cluster.env.count_store_error(&error);
            }
        };
        ctx.spawn(round.into_actor(self).map(|(), actor, _ctx| actor.upkeep_running = false));
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let session = &self.cluster.env.settings.session;
        ctx.run_interval(session.lease_renew, |actor, ctx| actor.renew_lease(ctx));
        // Twice as often as leases are renewed: the death of an instance is seen soon after its lease has run out.
        ctx.run_interval(session.lease_renew / 2, |actor, ctx| actor.sweep(ctx));
        // Often enough that neither lifetime is overshot by much.
        let period = (session.ttl / 8).min(session.uninitialized_ttl / 2).min(session.rest / 2);
        let period = period.min(Duration::from_secs(60));
        ctx.run_interval(period.max(Duration::from_millis(100)), |actor, ctx| actor.upkeep(ctx));
        let ui = &self.cluster.env.settings.ui;
        if ui.is_on {
            ctx.notify(Publish);
            ctx.run_interval(ui.publish, |_, ctx| ctx.notify(Publish));
        }
    }
}

impl Handler<TakeTurn> for Registry {
    type Result = ResponseFuture<Turn>;

    fn handle(&mut self, take: TakeTurn, ctx: &mut Self::Context) -> Self::Result {
        let turn = match self.turns.take(take.session) {
            None => return Box::pin(future::ready(Turn::new(take.session, ctx.address().recipient()))),
            Some(turn) => turn,
        };
        Box::pin(async move {
            match turn.await {
                Ok(turn) => turn,
                // The registry has ended, and the process ends.
                Err(_) => future::pending().await,
            }
        })
    }
}

impl Handler<EndTurn> for Registry {
    type Result = ();

    fn handle(&mut self, end: EndTurn, ctx: &mut Self::Context) {
        if let Some(next) = self.turns.end(end.session) {
            // One that nobody takes any more ends at once, and so comes to the one after.
            let _ = next.send(Turn::new(end.session, ctx.address().recipient()));
        }
    }
}

impl Handler<Publish> for Registry {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _publish: Publish, _ctx: &mut Self::Context) -> Self::Result {
        let Some(mut figures) = self.figures.take().filter(|_| self.cluster.env.settings.ui.is_on) else {
            return Box::pin(actix::fut::ready(()));
        };
        let cluster = Arc::clone(&self.cluster);
        let told = async move {
            if let Err(error) = publish(&cluster, &mut figures).await {
                cluster.env.count_store_error(&error);
            }
            figures
        };
        Box::pin(told.into_actor(self).map(|figures, actor, _ctx| actor.figures = Some(figures)))
    }
}

impl Handler<IsGone> for Registry {
    type Result = ResponseFuture<StoreResult<bool>>;

    fn handle(&mut self, asked: IsGone, _ctx: &mut Self::Context) -> Self::Result {
        let cluster = Arc::clone(&self.cluster);
        Box::pin(async move { is_holder_gone(&cluster, &asked).await })
    }
}

impl Handler<DrainAll> for Registry {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, drain: DrainAll, _ctx: &mut Self::Context) -> Self::Result {
        let cluster = Arc::clone(&self.cluster);
        Box::pin(async move {
            let to_go =
                cluster.env.directory.sessions().into_iter().filter(|(session, _)| !drain.but.contains(session));
            stream::iter(to_go)
                .for_each_concurrent(ROUND_CONCURRENCY, |(_, actor)| async move {
                    // An actor that is gone has nothing to hand over.
                    let _ = actor.send(Drain { now: drain.now }).await;
                })
                .await;
            cluster.env.directory.session_count()
        })
    }
}

/// What the lease says of this process.
pub fn instance_info(cluster: &Cluster) -> InstanceInfo {
    InstanceInfo {
        owner: cluster.env.me.clone(),
        address: cluster.address.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_ms: cluster.started_ms,
        sessions: u64::try_from(cluster.env.directory.session_count()).unwrap_or(u64::MAX),
        process: cluster.process.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// Hands wake-ups on until the store's subscription ends (with the process).
async fn dispatch(cluster: Arc<Cluster>, mut wakes: mpsc::Receiver<Wake>, mut attention: mpsc::Receiver<SessionId>) {
    loop {
        tokio::select! {
            wake = wakes.recv() => match wake {
                Some(Wake::Session(session)) => wake_session(&cluster, session),
                Some(Wake::All) => look_at_everything(&cluster),
                None => return,
            },
            // What has ended here was looked at a moment ago: not at the pace of those who are shown a stream.
            Some(session) = attention.recv() => adopt_beside(&cluster, session, Duration::ZERO),
        }
    }
}

fn wake_session(cluster: &Arc<Cluster>, session: SessionId) {
    let actor = cluster.env.directory.session(&session);
    let attachments = cluster.env.directory.attachments(&session);
    for attachment in &attachments {
        attachment.look();
    }
    if !cluster.rebinds.is_empty() && !cluster.rebinds.gone(session) {
        let cluster = Arc::clone(cluster);
        actix_rt::spawn(async move { find_rebind(&cluster, session).await });
    }
    let check = || match attachments.as_slice() {
        [] => Some(Duration::ZERO),
        shown => shown.iter().filter_map(|attachment| attachment.next_owner_check()).min(),
    };
    if actor.is_none()
        && let Some(pause) = check()
    {
        // A draining instance announces what it has let go in this way (OWN-9).
        adopt_beside(cluster, session, pause);
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

fn adopt_beside(cluster: &Arc<Cluster>, session: SessionId, pause: Duration) {
    let cluster = Arc::clone(cluster);
    actix_rt::spawn(async move {
        tokio::time::sleep(pause).await;
        if let Err(error) = adopt_if_needed(&cluster, session).await {
            cluster.env.count_store_error(&error);
        }
    });
}

fn look_at_everything(cluster: &Arc<Cluster>) {
    for (session, _) in cluster.env.directory.sessions() {
        wake_session(cluster, session);
    }
    for attachment in cluster.env.directory.all_attachments() {
        attachment.look();
    }
}

/// A client may have answered another instance's question "who are you": the session's hint tells.
async fn find_rebind(cluster: &Cluster, session: SessionId) {
    let Ok(Some(head)) = cluster.env.store.load(session).await else { return };
    if let Some(nonce) = head.rebind {
        cluster.rebinds.complete(nonce, session);
    }
}

async fn upkeep(cluster: &Arc<Cluster>) -> Result<(), StoreError> {
    let asked: Vec<(SessionId, Upkeep)> = stream::iter(cluster.env.directory.sessions())
        .map(|(session, actor)| async move { Some((session, actor.send(Tick).await.ok()?)) })
        .buffer_unordered(ROUND_CONCURRENCY)
        .filter_map(|asked| async move { asked })
        .collect()
        .await;
    for (session, _) in asked.iter().filter(|(_, upkeep)| *upkeep == Upkeep::Purge) {
        tracing::debug!(%session, "nobody has a use for the session");
        cluster.env.store.purge(*session, None).await?;
    }
    // An open stream keeps its session alive, wherever the owner is.
    let mut alive: HashSet<SessionId> =
        cluster.env.directory.all_attachments().iter().map(|attachment| attachment.session).collect();
    alive.extend(asked.iter().filter(|(_, upkeep)| *upkeep == Upkeep::Touch).map(|(session, _)| *session));
    let alive: Vec<SessionId> = alive.into_iter().collect();
    for batch in alive.chunks(TOUCH_BATCH) {
        for gone in cluster.env.store.touch(batch, cluster.env.settings.session.ttl).await? {
            // Its actor and its streams find out by looking.
            wake_session(cluster, gone);
        }
    }
    // Where each of them is, again: a note may have been lost, or the store's data.
    stream::iter(cluster.env.directory.all_attachments())
        .for_each_concurrent(ROUND_CONCURRENCY, |attachment| async move {
            let Some(client) = attachment.listed() else { return };
            let (session, ttl) = (attachment.session, cluster.env.settings.session.ttl);
            if let Err(error) = cluster.env.store.client_shown(&client, session, &cluster.env.me.incarnation, ttl).await
            {
                cluster.env.count_store_error(&error);
            }
        })
        .await;
    // Sessions that ran out in the store while nobody touched them must not stay in memory.
    for (session, _) in asked.iter().filter(|(_, upkeep)| *upkeep == Upkeep::Leave) {
        wake_session(cluster, *session);
    }
    Ok(())
}
