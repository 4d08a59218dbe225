//! What the threads of one process share ([`App`]), and what each worker thread has of its own ([`Worker`]).

use std::{
    rc::Rc,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix::Addr;

use crate::{
    cluster::{ownership::Judge, process::ProcessId},
    gateway::{doubt::Proofs, rebind::Rebinds, under_way::Calls},
    lifecycle::Lifecycle,
    registry::{actor::Registry, adopt::Turns, host::Host, limiter::RateLimiter, sweep::Sightings},
    session::{env::Env, room::Guests},
    upstream::{Endpoint, Pool, actor::UpstreamActor, lines::Lines},
};

/// Shared by all threads.
pub struct App {
    /// What sessions may use of it.
    pub env: Arc<Env>,
    /// The same process, as other processes on this machine can find it.
    pub process: Option<ProcessId>,
    /// `host:port` that it listens on.
    pub address: String,
    /// Milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// Services and endpoints.
    pub pool: Pool,
    /// Phase of the process.
    pub lifecycle: Lifecycle,
    /// Client streams that wait for the answer to a ping-rebind, by nonce.
    pub rebinds: Rebinds,
    /// Sessions of each client.
    pub guests: Arc<Guests>,
    /// Streams found by a cookie whose clients have shown who they are.
    pub proofs: Proofs,
    /// Bounds adoptions per second. STM-1
    pub adoptions: RateLimiter,
    /// Bounds new sessions per second.
    pub openings: RateLimiter,
    /// REST calls under way: how many, and whose.
    pub rest_in_flight: AtomicUsize,
    /// See there.
    pub rest_calls: Calls,
    /// Worker threads that have started; the first does the health checks.
    pub workers_started: AtomicUsize,
    /// What the last sweep saw.
    pub sightings: Sightings,
    /// Sessions that are being adopted or created right now.
    pub adopting: Turns,
    /// What is known of owners that were suspected to be gone.
    pub judge: Judge,
    /// One a worker thread, for adoptions that no request asks for.
    pub hosts: Mutex<Vec<Addr<Host>>>,
    /// The registry, once it runs.
    pub registry: OnceLock<Addr<Registry>>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("env", &self.env).field("address", &self.address).finish_non_exhaustive()
    }
}

impl std::ops::Deref for App {
    type Target = Env;

    fn deref(&self) -> &Env {
        &self.env
    }
}

impl App {
    /// A missing lease of another instance means its death only to somebody who has renewed its own without a gap for a
    /// whole period: after the store was away or lost its data, leases are missing and all instances alive.
    pub fn may_judge_leases(&self) -> bool {
        self.lease.steady_for(self.settings.session.lease)
    }

    /// The next worker thread's host, in turn.
    pub fn next_host(&self) -> Option<Addr<Host>> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        (!hosts.is_empty()).then(|| hosts[fastrand::usize(..hosts.len())].clone())
    }
}

/// One worker thread's own.
#[derive(Debug)]
pub struct Worker {
    /// Shared by all threads.
    pub app: Arc<App>,
    /// The ways from this thread to the servers.
    pub lines: Rc<Lines>,
}

impl Worker {
    /// Starts the thread's UpstreamActors. To be called on the worker thread.
    pub fn start(app: Arc<App>) -> Rc<Self> {
        let is_first = app.workers_started.fetch_add(1, Ordering::Relaxed) == 0;
        let lines = Lines::start(&app.pool, &app.settings.upstream, &app.metrics, &app.lifecycle, is_first);
        let worker = Rc::new(Self { app, lines: Rc::new(lines) });
        let host = Host::launch(Rc::clone(&worker));
        worker.app.hosts.lock().unwrap_or_else(PoisonError::into_inner).push(host);
        worker
    }

    /// The actor of an endpoint on this thread.
    pub fn upstream(&self, endpoint: &Endpoint) -> &Addr<UpstreamActor> {
        self.lines.actor(endpoint)
    }
}
