//! This process among the others: the lease, who is alive, wake-ups, whose owner is gone, adoption. It forwards and parses no
//! MCP, and knows nothing of HTTP.
//!
//! | file | what stands there |
//! |---|---|
//! | `registry` | the Registry actor: lease, wake-ups, upkeep of the sessions of this process |
//! | `sweep` | finds the sessions of dead instances that somebody waits for |
//! | `look_after` | wakes the owner of a session, or adopts it |
//! | `figures` | what operators are told of this process |
//! | `adopt` | this process becomes the owner |
//! | `host` | the actor of a worker thread on which adopted sessions start |
//! | `ownership` | whether the owner of a session is gone: the one judge (OWN-4) |
//! | `suspects`, `turns`, `limiter`, `rebinds` | what these remember: plain state |
//! | `orphans` | whether there is a session that a client without a cursor may come back to |
//! | `lease`, `dataset` | this process's lease, and the store's data, as it knows them: `session` asks them, too |
//! | `process`, `probe` | which process an instance is, and whether it still exists |
//! | `messages` | what hosts are told and asked |
//!
//! They import each other in one direction: `registry` → `sweep`, `host` → `look_after` → `adopt` → `ownership` → the rest.

pub mod adopt;
pub mod dataset;
pub mod figures;
pub mod host;
pub mod lease;
pub mod limiter;
pub mod look_after;
pub mod messages;
pub mod orphans;
pub mod ownership;
mod probe;
pub mod process;
pub mod rebinds;
pub mod registry;
pub mod suspects;
pub mod sweep;
pub mod turns;

use std::{
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use actix::Recipient;

use self::{
    limiter::RateLimiter, messages::HostAddr, process::ProcessId, rebinds::Rebinds, suspects::Suspects, turns::TakeTurn,
};
use crate::{
    incidents::Incident,
    lifecycle::Lifecycle,
    session::env::Env,
    store::Owner,
    upstream::{Pool, lines::Lines},
};

/// What all threads of this process share of its place among the others.
#[derive(Debug)]
pub struct Cluster {
    /// What sessions may use of it.
    pub env: Arc<Env>,
    /// This process as others on this machine can find it.
    pub process: Option<ProcessId>,
    /// `host:port` that it listens on.
    pub address: String,
    /// When it started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// Services and endpoints.
    pub pool: Arc<Pool>,
    /// Phase of the process.
    pub lifecycle: Lifecycle,
    /// The registry, which gives out the turn to adopt or create a session.
    pub turns: Recipient<TakeTurn>,
    /// Bounds adoptions per second. Those who wait do so here and not at the registry: what has given up must not take a
    /// part of the pace. STM-1
    pub pace: RateLimiter,
    /// What is known of owners that were suspected to be gone.
    pub suspects: Suspects,
    /// Client streams that wait for the answer to a ping-rebind, by nonce.
    pub rebinds: Rebinds,
    /// One a worker thread, for adoptions that no request asks for.
    pub hosts: Mutex<Vec<HostAddr>>,
}

impl Cluster {
    /// A missing lease of another instance means its death only to somebody who has renewed its own without a gap for a
    /// whole period: after the store was away or lost its data, leases are missing and all instances alive. A part of the store
    /// may be away without the one that has its own.
    pub fn may_judge_leases(&self) -> bool {
        let period = self.env.settings.session.lease;
        self.env.lease.steady_for(period) && self.env.store.settled_for() >= period
    }

    /// Operators are told, once, that this process is gone.
    fn tell_gone(&self, owner: &Owner) {
        if self.suspects.is_news(&owner.incarnation) {
            let (about, process) = (owner.instance_id.to_string(), owner.incarnation.chars().take(8).collect());
            self.env.incidents.note(Incident { about, process, ..Incident::new("gone") });
        }
    }

    /// The hosts of all worker threads that have started.
    pub fn hosts(&self) -> Vec<HostAddr> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A worker thread's host, at random.
    pub fn any_host(&self) -> Option<HostAddr> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        (!hosts.is_empty()).then(|| hosts[fastrand::usize(..hosts.len())].clone())
    }
}

/// A worker thread of this process: sessions that it adopts live on this thread.
#[derive(Debug)]
pub struct Member {
    /// Shared by all threads.
    pub cluster: Arc<Cluster>,
    /// The ways from this thread to the servers.
    pub lines: Rc<Lines>,
}

impl Member {
    /// Starts the actors of the current thread; `checks_health`: those of its servers look after the health of all.
    pub fn start(cluster: &Arc<Cluster>, checks_health: bool) -> Rc<Self> {
        let env = &cluster.env;
        let lines =
            Lines::start(&cluster.pool, &env.settings.upstream, &env.metrics, &cluster.lifecycle, checks_health);
        Rc::new(Self { cluster: Arc::clone(cluster), lines })
    }
}
