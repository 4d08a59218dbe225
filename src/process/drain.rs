//! The end: what asks for it, and the drain that hands everything over. DRN-1 to DRN-3

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use actix::Addr;
use actix_web::dev::ServerHandle;
use futures_util::{StreamExt as _, stream};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cluster::{
        Cluster,
        registry::{DrainAll, Publish, Registry},
    },
    gateway::Shared,
    incidents::Incident,
    lifecycle::{Lifecycle, Phase},
    protocol::session_id::SessionId,
    session::{attachment::End, env::Env},
};

/// How often the drain looks whether sessions have finished.
const DRAIN_STEP: Duration = Duration::from_millis(50);

/// Sessions that are deleted side by side.
const ENDED_AT_ONCE: usize = 64;
/// How often the end tries to tell operators what it is.
const LAST_WORDS: usize = 4;

/// Returns when the process is to end.
pub(super) async fn wait_for_end(lifecycle: &Lifecycle) {
    let mut phase = lifecycle.subscribe();
    tokio::select! {
        () = any_signal() => {}
        // The registry ends the process when its instance id was taken.
        _ = phase.wait_for(|phase| *phase >= Phase::Draining) => {}
    }
}

/// Returns at a signal that asks for the end.
pub(super) async fn any_signal() {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM"),
                _ = interrupt.recv() => tracing::info!("SIGINT"),
            }
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signals cannot be received");
            std::future::pending::<()>().await;
        }
    }
}

/// DRN-3: ends within `SHUTDOWN_TIMEOUT`, whatever is open.
pub(super) async fn shut_down(cluster: &Cluster, registry: &Addr<Registry>, shared: &Shared, handle: &ServerHandle) {
    let limit = cluster.env.settings.lifecycle.shutdown_timeout;
    if tokio::time::timeout(limit.mul_f64(0.9), drain(cluster, registry, shared, handle)).await.is_err() {
        tracing::warn!(?limit, "draining took too long; the journal hands over what is open");
    }
    cluster.lifecycle.advance(Phase::Stopped);
}

async fn end_all(env: &Env, sessions: Vec<SessionId>) {
    stream::iter(sessions)
        .for_each_concurrent(ENDED_AT_ONCE, |session| async move {
            if let Err(error) = env.store.purge(session, None).await {
                env.count_store_error(&error);
            }
        })
        .await;
}

async fn drain(cluster: &Cluster, registry: &Addr<Registry>, shared: &Shared, handle: &ServerHandle) {
    let env = &cluster.env;
    cluster.lifecycle.advance(Phase::Draining);
    env.incidents.note(Incident::new("draining"));
    let settings = &env.settings.lifecycle;
    let deadline = Instant::now() + settings.drain_deadline;
    let per_step = (f64::from(settings.drain_streams_per_second) * DRAIN_STEP.as_secs_f64()).ceil() as usize;
    loop {
        let now = Instant::now() >= deadline;
        // Nobody would take those over that wait for a next call: they end, at their servers, too. Those at work do so later.
        let (idle, at_work) = shared.part();
        let patience = deadline.saturating_duration_since(Instant::now()).max(DRAIN_STEP);
        if tokio::time::timeout(patience, end_all(env, idle)).await.is_err() {
            tracing::warn!(
                "the store does not delete sessions in time; their servers keep them until they forget them"
            );
        }
        let but = if now { HashSet::new() } else { at_work };
        // The registry lives as long as the process.
        let owned = registry.send(DrainAll { but, now }).await.unwrap_or(0);
        // A stream goes when its session is in other hands (or nobody's): its client will find it there.
        let attachments = env.directory.all_attachments();
        let free = attachments.iter().filter(|held| env.directory.session(&held.session).is_none());
        for attachment in free.take(per_step) {
            attachment.end(End::Abort("draining"));
        }
        // Those of 2026-07-28 have no session that could be handed over: who began one gets its answer.
        let is_answered = now || (env.metrics.stateless.get() == 0 && env.farewells.are_over());
        if owned == 0 && attachments.is_empty() && is_answered {
            break;
        }
        tokio::time::sleep(DRAIN_STEP).await;
    }
    env.incidents.note(Incident::new("drained"));
    // Told by the registry, which may be telling something else just now.
    for _ in 0..LAST_WORDS {
        if registry.send(Publish).await.is_err() || env.incidents.is_empty() {
            break;
        }
        tokio::time::sleep(DRAIN_STEP).await;
    }
    if let Err(error) = env.store.lease_release(&env.me).await {
        env.count_store_error(&error);
    }
    // Nothing is under way any more; idle connections need no patience.
    let _ = tokio::time::timeout(Duration::from_secs(1), handle.stop(false)).await;
    if let Some(traces) = &env.traces {
        traces.flush().await;
    }
    tracing::info!("drained");
}
