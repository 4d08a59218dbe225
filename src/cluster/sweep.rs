//! The sweep: finds instances whose lease has run out (killed, hung, cut off) and adopts those of their sessions that
//! somebody waits for: with unanswered requests, or with a client stream on this instance. Idle sessions are left until
//! a client knocks: adopting thousands of them at once would only be a storm at the upstream. STM-1, OWN-9

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use tokio::sync::watch;

use super::{Cluster, look_after::AGAIN, messages::AdoptHere, ownership::is_gone};
use crate::{
    lifecycle::Phase,
    protocol::session_id::SessionId,
    session::returning::ends_with_its_process,
    store::{InstanceInfo, Owner, Ownership, StoreResult},
};

/// Sessions of a dead instance that are looked at side by side.
const CONCURRENCY: usize = 32;

/// A dead instance's sessions are looked through again after this, for what was posted in the moment of its death.
const LOOK_AGAIN_FIRST: Duration = Duration::from_secs(2);
/// And then at this pace until they are adopted or have expired; POSTs find the owner gone by themselves.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// An instance id and, while it lives, its incarnation.
type Life = (Arc<str>, Option<Arc<str>>);

/// What the last sweeps saw. The Registry's own.
#[derive(Debug)]
pub struct Sightings {
    /// Whom the last one saw alive, for the rest of the process.
    neighbours: watch::Sender<Arc<[Owner]>>,
    /// Those that were alive, until it is known whether they are gone or all leases were.
    missing: Vec<Owner>,
    /// Incarnation by instance id, of living leases.
    alive: HashMap<Arc<str>, Arc<str>>,
    /// When an instance's sessions were looked through last, and how long until the next time: of a dead one (`None`),
    /// or for what the incarnations before this one have left behind.
    looked: HashMap<Life, (Instant, Duration)>,
    /// When the own index was looked through last for sessions without an actor.
    looked_for_own: Option<Instant>,
    /// Sessions in the own index that were found to be another's, or nobody's, and when.
    elsewhere: HashMap<SessionId, Instant>,
}

impl Sightings {
    /// Tells the others who is alive through `neighbours`.
    pub fn new(neighbours: watch::Sender<Arc<[Owner]>>) -> Self {
        Self {
            neighbours,
            missing: Vec::new(),
            alive: HashMap::new(),
            looked: HashMap::new(),
            looked_for_own: None,
            elsewhere: HashMap::new(),
        }
    }

    fn is_time_for_my_own(&mut self, pause: Duration) -> bool {
        let due = self.looked_for_own.is_none_or(|at| at.elapsed() >= pause);
        if due {
            self.looked_for_own = Some(Instant::now());
        }
        due
    }

    /// Those of the sessions that were not looked at lately. The others are left alone for a while: an instance that was
    /// started again may find thousands which its predecessor has left behind.
    fn not_seen_elsewhere(&mut self, sessions: impl Iterator<Item = SessionId>) -> Vec<SessionId> {
        self.elsewhere.retain(|_, at| at.elapsed() < LOOK_AGAIN);
        sessions.filter(|session| !self.elsewhere.contains_key(session)).collect()
    }

    fn saw_elsewhere(&mut self, session: SessionId) {
        self.elsewhere.insert(session, Instant::now());
    }

    fn update(&mut self, alive: &[InstanceInfo]) {
        let is_missing = |known: &Owner| !alive.iter().any(|info| info.owner.incarnation == known.incarnation);
        self.missing.retain(is_missing);
        self.missing.extend(self.neighbours.borrow().iter().filter(|known| is_missing(known)).cloned());
        self.neighbours.send_replace(alive.iter().map(|info| info.owner.clone()).collect());
        self.alive = alive
            .iter()
            .map(|info| (Arc::clone(&info.owner.instance_id), Arc::clone(&info.owner.incarnation)))
            .collect();
        let Self { alive, looked, .. } = self;
        looked.retain(|(instance, incarnation), _| match (alive.get(instance), incarnation) {
            // Alive again: its next death is a new one, and nobody must wait for the pace of the last one.
            (Some(_), None) => false,
            (None, None) => true,
            (now, Some(incarnation)) => now == Some(incarnation),
        });
    }

    /// Whether it is time to look through this instance's sessions. Living instances are due when their incarnation is
    /// new: the one before left its sessions behind.
    fn is_due(&mut self, instance: &str, incarnation: Option<&Arc<str>>) -> bool {
        let key = (Arc::from(instance), incarnation.cloned());
        let now = Instant::now();
        let before = self.looked.get(&key).copied();
        let due = match (before, incarnation) {
            (None, _) => true,
            (Some(_), Some(_)) => false,
            (Some((at, pause)), None) => now.duration_since(at) >= pause,
        };
        if due {
            self.looked.insert(key, (now, if before.is_none() { LOOK_AGAIN_FIRST } else { LOOK_AGAIN }));
        }
        due
    }
}

/// One round.
pub async fn sweep(cluster: &Arc<Cluster>, sightings: &mut Sightings) -> StoreResult<()> {
    let alive = cluster.env.store.instances().await?;
    sightings.update(&alive);
    if cluster.lifecycle.phase() != Phase::Ready {
        return Ok(());
    }
    look_for_my_own(cluster, sightings).await?;
    if !cluster.may_judge_leases() {
        return Ok(());
    }
    for owner in std::mem::take(&mut sightings.missing) {
        cluster.tell_gone(&owner);
    }
    for instance in cluster.env.store.known_instances().await? {
        let lives = alive.iter().find(|info| *info.owner.instance_id == *instance);
        if !sightings.is_due(&instance, lives.map(|info| &info.owner.incarnation)) {
            continue;
        }
        let sessions = cluster.env.store.owned_by(&instance).await?;
        if lives.is_none() {
            if sessions.is_empty() {
                cluster.env.store.forget_instance(&instance).await?;
                continue;
            }
            tracing::info!(instance, sessions = sessions.len(), "an instance is gone; looking through its sessions");
        }
        stream::iter(sessions)
            .for_each_concurrent(CONCURRENCY, |session| async move {
                if let Err(error) = adopt_if_needed(cluster, session).await {
                    cluster.env.count_store_error(&error);
                }
            })
            .await;
    }
    Ok(())
}

/// Sessions of which the store says that this process owns them, and that have no actor here: the answer to an adoption
/// or a creation was lost, or the actor broke. Nobody else may adopt them while this process lives. REQ-2, OWN-9
async fn look_for_my_own(cluster: &Arc<Cluster>, sightings: &mut Sightings) -> StoreResult<()> {
    if !sightings.is_time_for_my_own(cluster.env.settings.session.poll_interval) {
        return Ok(());
    }
    let indexed = cluster.env.store.owned_by(&cluster.env.me.instance_id).await?;
    let without_actor = indexed.into_iter().filter(|session| cluster.env.directory.session(session).is_none());
    for session in sightings.not_seen_elsewhere(without_actor) {
        let owner =
            cluster.env.store.load(session).await?.and_then(|head| head.ownership).map(|ownership| ownership.owner);
        if owner.as_ref() == Some(&cluster.env.me) {
            adopt_if_needed(cluster, session).await?;
        } else {
            // Over, or left behind by the process before this one: those who wait for it find it.
            sightings.saw_elsewhere(session);
        }
    }
    Ok(())
}

/// Adopts the session if its owner is gone and somebody waits for it.
pub async fn adopt_if_needed(cluster: &Arc<Cluster>, session: SessionId) -> StoreResult<()> {
    if cluster.env.directory.session(&session).is_some() {
        return Ok(());
    }
    let Some(head) = cluster.env.store.load(session).await? else { return Ok(()) };
    let has_unclaimed = head.has_unclaimed();
    let Some(Ownership { owner, generation, .. }) = head.ownership else { return Ok(()) };
    // Mine and without an actor: what an adoption has claimed whose answer was lost shows nowhere.
    let mine = owner == cluster.env.me;
    if !mine && cluster.env.neighbours.saw_alive(&owner) {
        return Ok(());
    }
    let shown_here = !cluster.env.directory.attachments(&session).is_empty();
    // Nobody comes for it: who adopts it ends it, at its server, too.
    let is_left = ends_with_its_process(&head.client);
    let needed =
        mine || shown_here || has_unclaimed || is_left || !cluster.env.store.pending(session).await?.is_empty();
    // The leases are read after the record, and the very owner they are read for is the one that is replaced: whoever
    // adopts the session meanwhile has its lease already, and makes this adoption lose (OWN-4).
    if !needed || !is_gone(cluster, &owner).await? {
        return Ok(());
    }
    let service = head.service;
    let cause = if mine { AGAIN } else { "sweep" };
    if let Some(host) = cluster.any_host() {
        // A host ends only with its thread, and then the process ends.
        let _ = host.adopt.send(AdoptHere { session, owner, generation, service, cause }).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(incarnation: &str) -> [InstanceInfo; 1] {
        let owner = Owner { instance_id: "one".into(), incarnation: incarnation.into() };
        let (address, version) = (String::new(), String::new());
        [InstanceInfo { owner, address, version, started_ms: 0, sessions: 0, process: String::new() }]
    }

    /// OWN-9
    #[test]
    fn each_death_of_an_instance_is_looked_after_at_once() {
        let (mut sightings, first) = (Sightings::new(watch::Sender::default()), Arc::from("first"));
        for _death in 0..3 {
            sightings.update(&alive("first"));
            assert!(sightings.is_due("one", Some(&first)), "it may have left sessions behind");
            assert!(!sightings.is_due("one", Some(&first)), "once");
            sightings.update(&[]);
            assert!(sightings.is_due("one", None));
            sightings.update(&[]);
            assert!(!sightings.is_due("one", None), "not in each round");
        }
        sightings.update(&alive("second"));
        assert!(sightings.is_due("one", Some(&Arc::from("second"))));
        assert_eq!(sightings.looked.len(), 1, "nothing of former lives is kept");
    }
}
