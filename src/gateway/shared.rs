//! What the gateways of all threads hold together ([`Shared`]), and the one of each ([`Gateway`]).

use std::{
    collections::HashSet,
    rc::Rc,
    sync::{Arc, atomic::AtomicUsize},
};

use super::{inner::kept::Pool, proofs::Proofs, stateless::kept::Kept, subjects::Subjects, under_way::Calls};
use crate::{
    cluster::{Cluster, Member, limiter::RateLimiter},
    lifecycle::Phase,
    protocol::session_id::SessionId,
    session::{env::Env, room::Guests},
    settings::{LimitSettings, StatelessSettings},
};

/// What the gateways of all threads share.
#[derive(Debug)]
pub struct Shared {
    /// Sessions of each client.
    pub(super) guests: Arc<Guests>,
    /// Streams found by a cookie whose clients have shown who they are.
    pub(super) proofs: Proofs,
    /// Bounds new sessions per second.
    pub(super) openings: RateLimiter,
    /// Calls without a session under way, and whose.
    pub(super) calls: Calls,
    /// Sessions of the gateway's own.
    pub(super) inner: Pool,
    /// How many requests without a session are under way.
    pub in_flight: AtomicUsize,
    /// What clients have shown, as far as it is kept.
    pub(super) subjects: Subjects,
    /// How many requests are being disowned.
    pub(super) disowning: AtomicUsize,
    /// Of requests of 2026-07-28.
    pub(super) stateless: Kept,
}

impl Shared {
    /// With nobody there.
    pub fn new(limits: &LimitSettings, stateless: &StatelessSettings) -> Self {
        Self {
            guests: Arc::default(),
            proofs: Proofs::default(),
            openings: RateLimiter::new(limits.new_session_rate),
            calls: Calls::default(),
            inner: Pool::default(),
            in_flight: AtomicUsize::new(0),
            subjects: Subjects::default(),
            disowning: AtomicUsize::new(0),
            stateless: Kept::new(stateless),
        }
    }
}

impl Shared {
    /// Takes those sessions of the gateway's own that nobody uses, which end with this process; and names those at work.
    pub fn part(&self) -> (Vec<SessionId>, HashSet<SessionId>) {
        self.inner.part()
    }
}

/// What this instance does for clients, on one worker thread.
#[derive(Debug)]
pub struct Gateway {
    pub(super) env: Arc<Env>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) member: Rc<Member>,
    /// With the other threads.
    pub shared: Arc<Shared>,
}

impl Gateway {
    /// On the thread of this member.
    pub fn new(member: Rc<Member>, shared: Arc<Shared>) -> Self {
        let cluster = Arc::clone(&member.cluster);
        Self { env: Arc::clone(&cluster.env), cluster, member, shared }
    }

    /// Does this beside whoever asks, unless the process is over.
    pub(super) fn beside(&self, work: impl Future<Output = ()> + 'static) {
        if self.cluster.lifecycle.phase() < Phase::Stopped {
            actix_rt::spawn(work);
        }
    }
}
