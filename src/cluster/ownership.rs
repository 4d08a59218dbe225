//! The one judge of owners, and what is done about one that is suspected to be gone. OWN-4, OWN-9
//!
//! That nobody listened to a wake-up is a *suspicion*: an owner whose subscription was cut, or that has not subscribed
//! again since Redis was restarted, lives. It is *gone* when it has let the session go, when its lease is over (read by
//! one whose own lease has held), or when its process is proven dead by something that no fault between it and Redis can
//! imitate: the kernel's table of processes, or a refused connection to its own address. With a proof the judge takes the
//! dead one's lease out of the store first, so that there is one way to adopt: `adopt` lets nobody replace an owner
//! whose lease lives. A suspected owner that lives is woken again until it hears.
//!
//! Everything that adopts asks here, and so does who finds that nobody hears who shows a client's stream (`session/shown`): it
//! is a process like any other, and its client may be there. Nothing in here is on the way of a message whose owner listens.
//! Why it is done in this way: `docs/decisions/0008-who-is-gone.md`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Cluster,
    probe::{probed_address, refuses},
    process::{ProcessId, Word},
};
use crate::{
    fault,
    protocol::session_id::SessionId,
    session::messages::IsGone,
    store::{InstanceInfo, Owner, StoreResult},
};

/// An address is not tried again before this: many sessions of one owner are suspected at once.
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// What the lease of an owner's instance says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseSeen {
    /// It lives, and is this owner's.
    Its,
    /// Another process has the instance id by now.
    Anothers,
    /// There is none.
    Missing,
}

/// How a process was proven dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The kernel that both run on says that it has ended.
    Ended,
    /// Its address refuses connections.
    Refused,
    /// It has given its lease up, or another instance has proven it dead and has done so for it.
    GivenUp,
}

/// What is known of an owner that is suspected to be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The session was let go: it has no owner.
    Released,
    /// This very process is the owner on record, and has no actor: the answer to an adoption or a creation was lost, or
    /// the actor broke.
    Mine,
    /// Another process.
    Other {
        /// Of its instance.
        lease: LeaseSeen,
        /// That it is dead.
        proof: Option<Proof>,
        /// A missing lease means something to this process: its own has held, and the store has lost nothing.
        may_judge: bool,
    },
}

/// What the judge says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The session may be adopted.
    Gone,
    /// It may not.
    Lives,
    /// It may not yet: leases are missing, but that may be the store's fault.
    Unsure,
}

/// The decision. OWN-4
pub fn verdict(evidence: Evidence) -> Verdict {
    match evidence {
        Evidence::Released | Evidence::Mine => Verdict::Gone,
        Evidence::Other { proof: Some(_), .. } => Verdict::Gone,
        // The lease is the right to an instance id: who has lost it to another process stops by itself (OWN-11).
        Evidence::Other { lease: LeaseSeen::Anothers, .. } => Verdict::Gone,
        Evidence::Other { lease: LeaseSeen::Its, .. } => Verdict::Lives,
        // After the store was away or had lost its data all leases are missing, and all instances alive.
        Evidence::Other { lease: LeaseSeen::Missing, may_judge: true, .. } => Verdict::Gone,
        Evidence::Other { lease: LeaseSeen::Missing, may_judge: false, .. } => Verdict::Unsure,
    }
}

/// Whether an owner gives a reason to ask the judge. Asks nobody: this is on the way of a message that another instance
/// has journaled. `listeners`: of its wake-up.
pub fn is_suspect(cluster: &Cluster, session: &SessionId, owner: &Owner, listeners: u64) -> bool {
    if owner.incarnation == cluster.env.me.incarnation {
        return cluster.env.directory.session(session).is_none();
    }
    // A hung one listens all the same; its lease tells.
    listeners == 0 || !cluster.env.neighbours.saw_alive(owner)
}

/// Whether the session may be adopted from this owner. May take a lease out of the store, never a session.
pub async fn is_gone(cluster: &Cluster, owner: &Owner) -> StoreResult<bool> {
    Ok(judge(cluster, owner).await? == Verdict::Gone)
}

/// Whether the process is gone that has a client's stream on record. Of it only the incarnation is known: who it is tell
/// the session's owner, if it is the same, and the leases that live. `false` also when that cannot be told yet.
pub async fn is_holder_gone(cluster: &Cluster, asked: &IsGone) -> StoreResult<bool> {
    let IsGone { holder, owner } = asked;
    if fault::unprotected(fault::HOLDER) || cluster.suspects.knows_dead(holder) {
        return Ok(true);
    }
    let owner = owner.clone().filter(|owner| owner.incarnation == *holder);
    let owner = match owner.or_else(|| cluster.env.neighbours.with_incarnation(holder)) {
        Some(owner) => Some(owner),
        // One that has just come is unknown to the last sweep.
        None => {
            let alive = cluster.env.store.instances().await?.into_iter().map(|info| info.owner);
            alive.into_iter().find(|owner| owner.incarnation == *holder)
        }
    };
    let Some(owner) = owner else {
        let may_judge = may_judge(cluster).await;
        let evidence = Evidence::Other { lease: LeaseSeen::Missing, proof: None, may_judge };
        return Ok(verdict(evidence) == Verdict::Gone);
    };
    is_gone(cluster, &owner).await
}

/// A missing lease means something: see [`Evidence::Other`]. Asked after the lease was looked for, and not before: what is
/// lost in between is lost to both.
async fn may_judge(cluster: &Cluster) -> bool {
    cluster.may_judge_leases() && !cluster.env.data_lost().await
}

pub(super) async fn judge(cluster: &Cluster, owner: &Owner) -> StoreResult<Verdict> {
    if fault::unprotected(fault::JUDGE) {
        return Ok(Verdict::Gone);
    }
    let evidence = if owner.incarnation.is_empty() {
        Evidence::Released
    } else if owner.incarnation == cluster.env.me.incarnation {
        Evidence::Mine
    } else {
        inquire(cluster, owner).await?
    };
    Ok(verdict(evidence))
}

async fn inquire(cluster: &Cluster, owner: &Owner) -> StoreResult<Evidence> {
    let mut proof = cluster.suspects.knows_dead(&owner.incarnation).then_some(Proof::Ended);
    let lease = match cluster.env.store.lease_holder(&owner.instance_id).await? {
        None => LeaseSeen::Missing,
        Some(held) if held.owner.incarnation != owner.incarnation => LeaseSeen::Anothers,
        Some(held) => {
            if proof.is_none() {
                proof = prove(cluster, &held).await;
            }
            if let Some(proof) = proof {
                // Whoever adopts meets no living lease then. It takes nothing from a successor of the dead process.
                cluster.env.store.lease_release(owner).await?;
                cluster.suspects.remember_dead(&owner.incarnation);
                // The sweep may never have seen it among the living.
                cluster.tell_gone(owner);
                tracing::info!(instance = %owner.instance_id, ?proof, "an instance is dead; its lease is taken away");
            }
            LeaseSeen::Its
        }
    };
    let may_judge = lease == LeaseSeen::Missing && may_judge(cluster).await;
    // A process that has just started need not wait until it may judge.
    if lease == LeaseSeen::Missing && !may_judge && proof.is_none() && cluster.env.store.has_given_up(owner).await? {
        cluster.suspects.remember_dead(&owner.incarnation);
        proof = Some(Proof::GivenUp);
    }
    Ok(Evidence::Other { lease, proof, may_judge })
}

/// What the kernel of this process says of the one with this lease.
pub fn word_on(cluster: &Cluster, held: &InstanceInfo) -> Word {
    let theirs = held.process.parse().ok().filter(|_| !fault::unprotected(fault::PROCESS_TABLE));
    cluster.process.as_ref().zip(theirs.as_ref()).map_or(Word::Unknown, |(mine, theirs)| mine.word_on(theirs))
}

/// Whether the process with this lease is dead, by what does not depend on its way to Redis.
async fn prove(cluster: &Cluster, held: &InstanceInfo) -> Option<Proof> {
    match word_on(cluster, held) {
        Word::Dead => return Some(Proof::Ended),
        Word::Alive => return None,
        Word::Unknown => {}
    }
    let theirs: Option<ProcessId> = held.process.parse().ok();
    let both = cluster.process.as_ref().zip(theirs.as_ref());
    let limit = cluster.env.settings.session.death_probe;
    let shares_network = both.is_some_and(|(mine, theirs)| mine.shares_network(theirs));
    let address = held.address.parse().ok().and_then(|address| probed_address(address, shares_network));
    let address = address.filter(|_| !limit.is_zero())?;
    let mut probes = cluster.suspects.probes.lock().await;
    probes.retain(|_, (at, _)| at.elapsed() < PROBE_PAUSE);
    let refused = match probes.get(&held.owner.incarnation) {
        Some((_, refused)) => *refused,
        None => {
            let refused = refuses(address, limit).await;
            probes.insert(Arc::clone(&held.owner.incarnation), (Instant::now(), refused));
            refused
        }
    };
    refused.then_some(Proof::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OWN-4
    #[test]
    fn only_who_has_let_go_or_lost_its_lease_or_is_proven_dead_is_gone() {
        use LeaseSeen::{Anothers, Its, Missing};
        let other = |lease, proof, may_judge| Evidence::Other { lease, proof, may_judge };
        for (evidence, expected) in [
            (Evidence::Released, Verdict::Gone),
            (Evidence::Mine, Verdict::Gone),
            // It does not listen, and that is all.
            (other(Its, None, true), Verdict::Lives),
            (other(Its, None, false), Verdict::Lives),
            (other(Its, Some(Proof::Ended), false), Verdict::Gone),
            (other(Its, Some(Proof::Refused), false), Verdict::Gone),
            (other(Anothers, None, false), Verdict::Gone),
            (other(Missing, None, true), Verdict::Gone),
            // Redis was away, or lost its data, or this process has just started.
            (other(Missing, None, false), Verdict::Unsure),
            (other(Missing, Some(Proof::Ended), false), Verdict::Gone),
        ] {
            assert_eq!(verdict(evidence), expected, "{evidence:?}");
        }
    }
}
