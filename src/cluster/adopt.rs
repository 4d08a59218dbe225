//! Adoption: this process becomes the owner of a session whose owner is gone. One compare-and-set decides (OWN-4); the
//! rest is starting a [`SessionActor`] from what the store returned.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Member, ownership, turns::TakeTurn};
use crate::{
    fault,
    incidents::Incident,
    lifecycle::Phase,
    protocol::session_id::SessionId,
    session::{
        actor::SessionActor,
        handle::SessionHandle,
        messages::{Look, TakeSnapshot},
    },
    store::{Adopted, Owner, StoreResult},
};

/// How long an adoption waits for its turn (`MCP_ADOPT_RATE`). Nobody waits for it: it is done beside the request that
/// asked for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of it.
#[derive(Debug)]
pub enum Adoption {
    /// This process owns the session now.
    Adopted(SessionHandle),
    /// Another process does.
    OwnedBy(Owner),
    /// No such session.
    NotFound,
    /// The owner has a living lease, whatever the caller has seen: the store does not let it be replaced (OWN-4).
    OwnerLives,
    /// Not now: too many adoptions per second, or this process is draining.
    Refused,
    /// The session is for a service that this process does not know. It is left to those that do.
    UnknownService,
}

/// Takes the session over from the owner that had it with this generation, and that [`ownership`]
/// has found gone. To be called on a worker thread, which will host the actor. After an error this process may be the
/// owner on record, without an actor: to be looked after.
pub async fn adopt(
    member: &Rc<Member>,
    session: SessionId,
    from: &Owner,
    from_generation: u64,
    service: &str,
    cause: &'static str,
) -> StoreResult<Adoption> {
    let cluster = &member.cluster;
    let judged = Instant::now();
    let deadline = judged + PATIENCE;
    let turn = tokio::time::timeout_at(deadline.into(), cluster.turns.send(TakeTurn { session })).await;
    // The registry lives as long as the process.
    let Ok(Ok(_turn)) = turn else { return Ok(Adoption::Refused) };
    // The caller has seen this process as owner, and no actor yet: there is one now.
    if from.incarnation == cluster.env.me.incarnation
        && let Some(actor) = cluster.env.directory.session(&session)
    {
        look(&actor);
        return Ok(Adoption::Adopted(actor));
    }
    // Or as the owner that came after `from`: the store has come back with older data, and this actor is about to find out.
    if let Some(actor) = cluster.env.directory.session(&session)
        && actor.send(TakeSnapshot).await.is_ok_and(|actor| actor.generation > from_generation)
    {
        look(&actor);
        return Ok(Adoption::Adopted(actor));
    }
    let mut phase = cluster.lifecycle.subscribe();
    tokio::select! {
        biased;
        _ = phase.wait_for(|phase| *phase != Phase::Ready) => return Ok(Adoption::Refused),
        in_time = tokio::time::timeout_at(deadline.into(), cluster.pace.acquire()) => {
            let Ok(()) = in_time else { return Ok(Adoption::Refused) };
        }
    }
    // Looked at before the store is changed: an owner that cannot serve would hold the session hostage.
    let Some(service) = cluster.pool.service(service) else {
        tracing::warn!(%session, service, "a session of an unknown service cannot be adopted");
        return Ok(Adoption::UnknownService);
    };
    // It may have been waited for long: meanwhile the store may have been away, and with it all leases.
    if judged.elapsed() >= cluster.env.settings.session.lease_renew && !ownership::is_gone(cluster, from).await? {
        return Ok(Adoption::OwnerLives);
    }
    fault::point(fault::OWNER_GONE);
    match cluster.env.store.adopt(session, from, from_generation, &cluster.env.me).await? {
        Adopted::Adopted(found) => {
            cluster.env.metrics.adoptions.with_label_values(&[cause]).inc();
            tracing::info!(%session, generation = found.fence.generation, cause, pending = found.pending.len(), "session adopted");
            cluster.env.incidents.note(Incident {
                session: session.handle(),
                service: service.name.clone(),
                about: from.instance_id.to_string(),
                cause,
                generation: found.fence.generation,
                pending: u64::try_from(found.pending.len()).unwrap_or_default(),
                ..Incident::new("adopted")
            });
            let actor =
                SessionActor::start_adopted(Arc::clone(&cluster.env), Rc::clone(&member.lines), service, *found);
            Ok(Adoption::Adopted(actor))
        }
        Adopted::Lost { owner, .. } => Ok(match cluster.env.directory.session(&session) {
            Some(actor) if owner.incarnation == cluster.env.me.incarnation => {
                look(&actor);
                Adoption::Adopted(actor)
            }
            _ => {
                tracing::debug!(%session, cause, owner = %owner.instance_id, "another instance was faster to adopt it");
                Adoption::OwnedBy(owner)
            }
        }),
        Adopted::OwnerLives => {
            tracing::debug!(%session, cause, owner = %from.instance_id, "its owner lives");
            Ok(Adoption::OwnerLives)
        }
        Adopted::NotFound => Ok(Adoption::NotFound),
    }
}

/// An earlier adoption may have read the inbox before this caller's message came into it.
fn look(actor: &SessionHandle) {
    // Already awake if its mailbox is full.
    let _ = actor.try_send(Look);
}
