//! The one judge of owners, and what is done about one that is suspected to be gone. OWN-4, OWN-9
//!
//! That nobody listened to a wake-up is a *suspicion*: an owner whose subscription was cut, or that has not subscribed
//! again since Redis was restarted, lives. It is *gone* when it has let the session go, when its lease is over (read by
//! one whose own lease has held), or when its process is proven dead by something that no fault between it and Redis can
//! imitate: the kernel's table of processes, or a refused connection to its own address. With a proof the judge takes the
//! dead one's lease out of the store first, so that there is one way to adopt: `adopt` lets nobody replace an owner
//! whose lease lives. A suspected owner that lives is woken again until it hears.
//!
//! Everything that adopts asks here. Nothing in here is on the way of a message whose owner listens.
//! Why it is done in this way: `docs/decisions/0008-who-is-gone.md`.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use actix::Addr;
use tokio::net::TcpStream;

use super::process::{ProcessId, Word};
use crate::{
    app::{App, Worker},
    backoff::Backoff,
    fault,
    lifecycle::Phase,
    protocol::session_id::SessionId,
    registry::adopt::{Adoption, adopt},
    session::{actor::SessionActor, messages::Look},
    store::{InstanceInfo, Owner, Ownership, StoreError, StoreResult},
};

/// First pause before a suspected owner is looked at again: about as long as a killed process needs to end. The longest is
/// `MCP_LEASE_RENEW`, the pace at which a lease can change.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// An address is not tried again before this: many sessions of one owner are suspected at once.
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// Dead processes that are remembered. Each is one restart of an instance; all are forgotten beyond it, and proven again.
const MAX_DEAD: usize = 1024;

/// What the lease of an owner's instance says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeaseSeen {
    /// It lives, and is this owner's.
    Its,
    /// Another process has the instance id by now.
    Anothers,
    /// There is none.
    Missing,
}

/// How a process was proven dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// The kernel that both run on says that it has ended.
    Ended,
    /// Its address refuses connections.
    Refused,
    /// It has given its lease up, or another instance has proven it dead and has done so for it.
    GivenUp,
}

/// What is known of an owner that is suspected to be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evidence {
    /// The session was let go: it has no owner.
    Released,
    /// This very process is the owner on record, and has no actor: the answer to an adoption or a creation was lost, or
    /// the actor broke.
    Mine,
    /// Another process.
    Other {
        lease: LeaseSeen,
        proof: Option<Proof>,
        /// A missing lease means something to this process: its own has held, and the store has lost nothing.
        may_judge: bool,
    },
}

/// What the judge says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The session may be adopted.
    Gone,
    /// It may not.
    Lives,
    /// It may not yet: leases are missing, but that may be the store's fault.
    Unsure,
}

/// The decision. OWN-4
fn verdict(evidence: Evidence) -> Verdict {
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

/// What this process knows of owners that it has suspected, and which sessions it looks after.
#[derive(Debug, Default)]
pub struct Judge {
    /// Incarnations that are proven dead. None comes back.
    dead: Mutex<HashSet<Arc<str>>>,
    /// When an owner's address was tried last, and whether it refused. Held while one is tried.
    probes: tokio::sync::Mutex<HashMap<Arc<str>, (Instant, bool)>>,
    /// Sessions that are looked after; `true`: asked for again meanwhile.
    looked_after: Mutex<HashMap<SessionId, bool>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Judge {
    fn knows_dead(&self, incarnation: &str) -> bool {
        lock(&self.dead).contains(incarnation)
    }

    fn remember_dead(&self, incarnation: &Arc<str>) {
        let mut dead = lock(&self.dead);
        if dead.len() >= MAX_DEAD {
            dead.clear();
        }
        dead.insert(Arc::clone(incarnation));
    }

    /// `None`: somebody does already, and will look once more; or nobody can, since there are too many.
    fn begin(app: &Arc<App>, session: SessionId) -> Option<LookedAfter> {
        let mut looked_after = lock(&app.judge.looked_after);
        let room = looked_after.len() < app.settings.limits.max_sessions;
        match looked_after.entry(session) {
            Entry::Occupied(mut entry) => {
                entry.insert(true);
                None
            }
            Entry::Vacant(entry) if room => {
                entry.insert(false);
                Some(LookedAfter { app: Arc::clone(app), session, over: false })
            }
            // The sweep and the owner's own look find it.
            Entry::Vacant(_) => {
                app.metrics.dropped.with_label_values(&["look_after"]).inc();
                None
            }
        }
    }
}

/// Held while a session is looked after.
struct LookedAfter {
    app: Arc<App>,
    session: SessionId,
    over: bool,
}

impl LookedAfter {
    /// Nobody has asked since the last look. The caller ends then.
    fn is_over(&mut self) -> bool {
        let mut looked_after = lock(&self.app.judge.looked_after);
        let again = looked_after.get_mut(&self.session).is_some_and(std::mem::take);
        if !again {
            looked_after.remove(&self.session);
            self.over = true;
        }
        !again
    }
}

impl Drop for LookedAfter {
    fn drop(&mut self) {
        if !self.over {
            lock(&self.app.judge.looked_after).remove(&self.session);
        }
    }
}

/// Whether an owner gives a reason to ask the judge. Asks nobody: this is on the way of a message that another instance
/// has journaled. `listeners`: of its wake-up.
pub fn is_suspect(app: &App, session: &SessionId, owner: &Owner, listeners: u64) -> bool {
    if owner.incarnation == app.me.incarnation {
        return app.directory.session(session).is_none();
    }
    // A hung one listens all the same; its lease tells.
    listeners == 0 || !app.neighbours.saw_alive(owner)
}

/// Whether the session may be adopted from this owner. May take a lease out of the store, never a session.
pub async fn is_gone(app: &App, owner: &Owner) -> StoreResult<bool> {
    Ok(judge(app, owner).await? == Verdict::Gone)
}

async fn judge(app: &App, owner: &Owner) -> StoreResult<Verdict> {
    if fault::unprotected(fault::JUDGE) {
        return Ok(Verdict::Gone);
    }
    let evidence = if owner.incarnation.is_empty() {
        Evidence::Released
    } else if owner.incarnation == app.me.incarnation {
        Evidence::Mine
    } else {
        inquire(app, owner).await?
    };
    Ok(verdict(evidence))
}

async fn inquire(app: &App, owner: &Owner) -> StoreResult<Evidence> {
    let mut proof = app.judge.knows_dead(&owner.incarnation).then_some(Proof::Ended);
    let lease = match app.store.lease_holder(&owner.instance_id).await? {
        None => LeaseSeen::Missing,
        Some(held) if held.owner.incarnation != owner.incarnation => LeaseSeen::Anothers,
        Some(held) => {
            if proof.is_none() {
                proof = prove(app, &held).await;
            }
            if let Some(proof) = proof {
                // Whoever adopts meets no living lease then. It takes nothing from a successor of the dead process.
                app.store.lease_release(owner).await?;
                app.judge.remember_dead(&owner.incarnation);
                tracing::info!(instance = %owner.instance_id, ?proof, "an instance is dead; its lease is taken away");
            }
            LeaseSeen::Its
        }
    };
    // After the lease was read, and not before: what is lost in between is lost to both.
    let may_judge = lease == LeaseSeen::Missing && app.may_judge_leases() && !app.data_lost().await;
    // A process that has just started need not wait until it may judge.
    if lease == LeaseSeen::Missing && !may_judge && proof.is_none() && app.store.has_given_up(owner).await? {
        app.judge.remember_dead(&owner.incarnation);
        proof = Some(Proof::GivenUp);
    }
    Ok(Evidence::Other { lease, proof, may_judge })
}

/// What the kernel of this process says of the one with this lease.
pub fn word_on(app: &App, held: &InstanceInfo) -> Word {
    let theirs = held.process.parse().ok().filter(|_| !fault::unprotected(fault::PROCESS_TABLE));
    app.process.as_ref().zip(theirs.as_ref()).map_or(Word::Unknown, |(mine, theirs)| mine.word_on(theirs))
}

/// Whether the process with this lease is dead, by what does not depend on its way to Redis.
async fn prove(app: &App, held: &InstanceInfo) -> Option<Proof> {
    match word_on(app, held) {
        Word::Dead => return Some(Proof::Ended),
        Word::Alive => return None,
        Word::Unknown => {}
    }
    let theirs: Option<ProcessId> = held.process.parse().ok();
    let both = app.process.as_ref().zip(theirs.as_ref());
    let limit = app.settings.session.death_probe;
    let shares_network = both.is_some_and(|(mine, theirs)| mine.shares_network(theirs));
    let address = held.address.parse().ok().and_then(|address| probed_address(address, shares_network));
    let address = address.filter(|_| !limit.is_zero())?;
    let mut probes = app.judge.probes.lock().await;
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

/// Where an instance can be found that listens on `address`; `None` where that means nothing to this process.
fn probed_address(address: SocketAddr, shares_network: bool) -> Option<SocketAddr> {
    match address.ip() {
        ip if ip.is_unspecified() && shares_network => {
            let loopback = if ip.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
            Some(SocketAddr::new(loopback, address.port()))
        }
        ip if ip.is_unspecified() => None,
        // Of each network its own.
        ip if (ip.is_loopback() || is_link_local(ip)) && !shares_network => None,
        _ => Some(address),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Only a refusal counts: a time-out or an unreachable network says nothing of the process.
async fn refuses(address: SocketAddr, limit: Duration) -> bool {
    let connected = tokio::time::timeout(limit, TcpStream::connect(address)).await;
    matches!(connected, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// Looks after a session beside whoever asks: until its owner is awake, or this process is it. One at a time for a
/// session; who asks meanwhile makes it look once more. `cause`: label of the metric, should it come to an adoption.
pub fn look_after(worker: &Rc<Worker>, session: SessionId, cause: &'static str) {
    let Some(mut held) = Judge::begin(&worker.app, session) else { return };
    let worker = Rc::clone(worker);
    actix_rt::spawn(async move {
        loop {
            settle(&worker, session, cause).await;
            if held.is_over() {
                break;
            }
        }
    });
}

/// What one look came to.
enum Settled {
    /// The owner is in this process.
    Here(Addr<SessionActor>),
    /// It is elsewhere, and knows; or there is nothing for it to know; or the session is over.
    Done,
    /// To be looked at again.
    NotYet,
}

/// Sees to it that the session has an owner, and that it looks at what waits for it: wakes it, or adopts the session.
/// Ends when that is so, or when this process drains. The actor, if the owner is in this process.
///
/// A suspected owner that lives is woken again until it hears: bounded by its own subscription coming back, by its
/// lease, and by the end of what waits for it.
pub async fn settle(worker: &Rc<Worker>, session: SessionId, cause: &'static str) -> Option<Addr<SessionActor>> {
    let app = &worker.app;
    let mut backoff = Backoff::new(FIRST_PAUSE, app.settings.session.lease_renew);
    while app.lifecycle.phase() == Phase::Ready {
        match look(worker, session, cause).await {
            Ok(Settled::Here(actor)) => {
                // Already awake if its mailbox is full.
                let _ = actor.try_send(Look);
                return Some(actor);
            }
            Ok(Settled::Done) => return None,
            Ok(Settled::NotYet) => {}
            Err(error) => {
                app.count_store_error(&error);
                if let StoreError::Corrupt(why) = error {
                    tracing::error!(%session, why, "a session that makes no sense is left alone");
                    return None;
                }
            }
        }
        tokio::time::sleep(backoff.pause()).await;
    }
    None
}

async fn look(worker: &Rc<Worker>, session: SessionId, cause: &'static str) -> StoreResult<Settled> {
    let app = &worker.app;
    if let Some(actor) = app.directory.session(&session) {
        return Ok(Settled::Here(actor));
    }
    let Some(head) = app.store.load(session).await? else { return Ok(Settled::Done) };
    let nothing_waits = cause != ATTACH && !head.has_unclaimed();
    let Some(Ownership { owner, generation, .. }) = head.ownership else { return Ok(Settled::Done) };
    let is_other = !owner.incarnation.is_empty() && owner.incarnation != app.me.incarnation;
    let mut hears = false;
    if is_other && !fault::unprotected(fault::JUDGE) {
        // It may have been deaf for a moment only.
        hears = app.store.wake(&owner.incarnation, session).await? > 0;
        if hears && app.neighbours.saw_alive(&owner) {
            return Ok(Settled::Done);
        }
    }
    if judge(app, &owner).await? != Verdict::Gone {
        return Ok(if hears || nothing_waits { Settled::Done } else { Settled::NotYet });
    }
    let cause = if owner.incarnation == app.me.incarnation { AGAIN } else { cause };
    Ok(match adopt(worker, session, &owner, generation, Some(&head.service), cause).await? {
        Adoption::Adopted(actor) => Settled::Here(actor),
        // Somebody was faster, but may have read the inbox before our message.
        Adoption::OwnedBy(owner) if app.store.wake(&owner.incarnation, session).await? > 0 => Settled::Done,
        Adoption::NotFound | Adoption::UnknownService => Settled::Done,
        Adoption::OwnedBy(_) | Adoption::OwnerLives | Adoption::Refused => Settled::NotYet,
    })
}

/// Cause of an adoption: a stream was opened on this instance. The owner is to know of it, whatever it has claimed.
pub const ATTACH: &str = "attach";

/// Cause of an adoption: this process was the owner on record already, without an actor.
pub const AGAIN: &str = "again";

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

    #[test]
    fn an_address_is_tried_only_where_it_means_the_owner() {
        for (address, shares_network, expected) in [
            ("10.0.0.7:8051", false, Some("10.0.0.7:8051")),
            ("[fd00::7]:8051", false, Some("[fd00::7]:8051")),
            ("127.0.0.1:8051", false, None),
            ("[::1]:8051", false, None),
            ("0.0.0.0:8051", false, None),
            ("[::]:8051", false, None),
            ("169.254.1.2:8051", false, None),
            ("[fe80::1]:8051", false, None),
            ("127.0.0.1:8051", true, Some("127.0.0.1:8051")),
            ("0.0.0.0:8051", true, Some("127.0.0.1:8051")),
            ("[::]:8051", true, Some("[::1]:8051")),
            ("10.0.0.7:8051", true, Some("10.0.0.7:8051")),
        ] {
            let probed = probed_address(address.parse().unwrap(), shares_network);
            assert_eq!(probed, expected.map(|address| address.parse().unwrap()), "{address} {shares_network}");
        }
    }

    #[tokio::test]
    async fn only_a_refused_connection_is_a_refusal() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limit = Duration::from_secs(5);
        assert!(!refuses(address, limit).await);
        drop(listener);
        assert!(refuses(address, limit).await);
    }
}
