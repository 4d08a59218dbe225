//! Adoption: this process becomes the owner of a session whose owner is gone. One compare-and-set decides (OWN-4); the
//! rest is starting a [`SessionActor`] from what the store returned.

use std::{
    collections::HashSet,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use actix::Addr;

use crate::{
    app::Worker,
    cluster::ownership,
    fault,
    lifecycle::Phase,
    protocol::session_id::SessionId,
    session::{
        actor::SessionActor,
        messages::{Look, TakeSnapshot},
    },
    store::{Adopted, Owner, StoreResult},
};

/// How long an adoption waits for its turn (`MCP_ADOPT_RATE`). Nobody waits for it: it is done beside the request that
/// asked for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks whether another adoption of the same session is over. It takes a round trip to the store.
const TURN_PAUSE: Duration = Duration::from_millis(2);

/// The sessions that are being adopted or created by this process. One adoption of a session at a time: a stream and a POST that
/// meet the same dead owner would otherwise adopt it one after the other, the second from this very process, and leave
/// it with two actors.
#[derive(Debug, Default)]
pub struct Turns {
    taken: Mutex<HashSet<SessionId>>,
}

impl Turns {
    /// `None`: somebody has it.
    pub fn take(&self, session: SessionId) -> Option<Turn<'_>> {
        let is_free = self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(session);
        // Not `then_some`: a turn that is made and thrown away would end the other one's.
        is_free.then(|| Turn { turns: self, session })
    }
}

/// Held while a session is being adopted, or created.
#[derive(Debug)]
pub struct Turn<'a> {
    turns: &'a Turns,
    session: SessionId,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.session);
    }
}

/// What came of it.
#[derive(Debug)]
pub enum Adoption {
    /// This process owns the session now.
    Adopted(Addr<SessionActor>),
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

/// Takes the session over from the owner that had it with this generation, and that [`ownership`](crate::cluster::ownership)
/// has found gone. To be called on a worker thread, which will host the actor. After an error this process may be the
/// owner on record, without an actor: to be looked after.
pub async fn adopt(
    worker: &Rc<Worker>,
    session: SessionId,
    from: &Owner,
    from_generation: u64,
    service: Option<&str>,
    cause: &'static str,
) -> StoreResult<Adoption> {
    let app = &worker.app;
    let judged = Instant::now();
    let deadline = judged + PATIENCE;
    let _turn = loop {
        match app.adopting.take(session) {
            Some(turn) => break turn,
            None if Instant::now() >= deadline => return Ok(Adoption::Refused),
            None => tokio::time::sleep(TURN_PAUSE).await,
        }
    };
    // The caller has seen this process as owner, and no actor yet: there is one now.
    if from.incarnation == app.me.incarnation
        && let Some(actor) = app.directory.session(&session)
    {
        look(&actor);
        return Ok(Adoption::Adopted(actor));
    }
    // Or as the owner that came after `from`: the store has come back with older data, and this actor is about to find out.
    if let Some(actor) = app.directory.session(&session)
        && actor.send(TakeSnapshot).await.is_ok_and(|actor| actor.generation > from_generation)
    {
        look(&actor);
        return Ok(Adoption::Adopted(actor));
    }
    while app.lifecycle.phase() == Phase::Ready && !app.adoptions.try_acquire() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(5..50))).await;
    }
    if app.lifecycle.phase() != Phase::Ready || Instant::now() >= deadline {
        return Ok(Adoption::Refused);
    }
    // Looked at before the store is changed: an owner that cannot serve would hold the session hostage.
    let name = match service {
        Some(name) => Some(name.to_owned()),
        None => app.store.load(session).await?.map(|head| head.service),
    };
    let Some(name) = name else { return Ok(Adoption::NotFound) };
    let Some(service) = app.pool.service(&name) else {
        tracing::warn!(%session, service = name, "a session of an unknown service cannot be adopted");
        return Ok(Adoption::UnknownService);
    };
    // It may have been waited for long: meanwhile the store may have been away, and with it all leases.
    if judged.elapsed() >= app.settings.session.lease_renew && !ownership::is_gone(app, from).await? {
        return Ok(Adoption::OwnerLives);
    }
    fault::point(fault::OWNER_GONE);
    match app.store.adopt(session, from, from_generation, &app.me).await? {
        Adopted::Adopted(found) => {
            app.metrics.adoptions.with_label_values(&[cause]).inc();
            tracing::info!(%session, generation = found.fence.generation, cause, pending = found.pending.len(), "session adopted");
            let actor = SessionActor::start_adopted(
                Arc::clone(&app.env),
                Rc::clone(&worker.lines),
                Arc::clone(service),
                *found,
            );
            app.directory.insert_session(session, actor.clone());
            Ok(Adoption::Adopted(actor))
        }
        Adopted::Lost { owner, .. } => Ok(match app.directory.session(&session) {
            Some(actor) if owner.incarnation == app.me.incarnation => {
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
fn look(actor: &Addr<SessionActor>) {
    // Already awake if its mailbox is full.
    let _ = actor.try_send(Look);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OWN-4
    #[test]
    fn who_does_not_get_the_turn_does_not_end_it() {
        let (turns, session) = (Turns::default(), SessionId::random());
        let turn = turns.take(session);
        assert!(turn.is_some());
        assert!(turns.take(session).is_none());
        assert!(turns.take(session).is_none(), "also when it was asked for before");
        assert!(turns.take(SessionId::random()).is_some(), "another session's is another one");
        drop(turn);
        assert!(turns.take(session).is_some());
    }
}
