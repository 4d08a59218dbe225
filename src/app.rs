//! What the threads of one process share ([`App`]), and what each worker thread has of its own ([`Worker`]).

use std::{
    collections::HashMap,
    rc::Rc,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix::Addr;
use tokio::sync::oneshot;

use crate::{
    cluster::{ownership::Judge, process::ProcessId},
    http::calls::Calls,
    lifecycle::Lifecycle,
    protocol::session_id::SessionId,
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

/// Client streams whose session is being asked for: nonce → where the answer goes. Bounded by the streams that may be
/// open and by [`MCP_REBIND_TIMEOUT`](crate::settings::defaults::MCP_REBIND_TIMEOUT).
#[derive(Debug, Default)]
pub struct Rebinds {
    waiting: Mutex<HashMap<u64, oneshot::Sender<SessionId>>>,
    /// How often in a row clients of a kind were asked in vain.
    in_vain: Mutex<HashMap<Arc<str>, u32>>,
}

/// Kinds of clients of which it is remembered that they were asked in vain.
const MAX_IN_VAIN: usize = 1024;

/// Second half of the id by which an instance tells another that a client has answered for a session that is gone; the
/// first is the nonce. Session ids are random.
const GONE: u64 = 0x676f_6e65_676f_6e65;

impl Rebinds {
    /// A stream asks.
    pub fn register(&self) -> (u64, oneshot::Receiver<SessionId>) {
        let (sender, receiver) = oneshot::channel();
        let nonce = fastrand::u64(..);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(nonce, sender);
        (nonce, receiver)
    }

    /// The client has answered at the endpoint of `session`. `false`: nobody waits (here).
    pub fn complete(&self, nonce: u64, session: SessionId) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&nonce);
        waiting.is_some_and(|waiting| waiting.send(session).is_ok())
    }

    /// A client of this kind was asked in vain: how often in a row by now.
    pub fn in_vain(&self, client: &Arc<str>) -> u32 {
        let mut in_vain = self.in_vain.lock().unwrap_or_else(PoisonError::into_inner);
        if in_vain.len() >= MAX_IN_VAIN && !in_vain.contains_key(client) {
            in_vain.clear();
        }
        let count = in_vain.entry(Arc::clone(client)).or_default();
        *count += 1;
        *count
    }

    /// Clients of this kind answer.
    pub fn answers(&self, client: &Arc<str>) {
        self.in_vain.lock().unwrap_or_else(PoisonError::into_inner).remove(client);
    }

    /// By which an instance tells the one that asked that the session which the client named is gone.
    pub fn word_of_gone(nonce: u64) -> Option<SessionId> {
        format!("{nonce:016x}{GONE:016x}").parse().ok()
    }

    /// `word` is such a word: the stream that waits is told. `false`: it is a session's id.
    pub fn gone(&self, word: SessionId) -> bool {
        let text = word.reveal();
        let (nonce, gone) = text.split_at(16);
        if u64::from_str_radix(gone, 16) != Ok(GONE) {
            return false;
        }
        if let Ok(nonce) = u64::from_str_radix(nonce, 16) {
            self.forget(nonce);
        }
        true
    }

    /// The stream gives up.
    pub fn forget(&self, nonce: u64) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&nonce);
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// Attachments (session and count) found by a cookie, whose clients have shown by a message who they are: nothing more is to
/// be asked of their messages. A hint: one that is forgotten costs a question to the store.
#[derive(Debug, Default)]
pub struct Proofs {
    known: Mutex<std::collections::HashSet<(SessionId, u64)>>,
}

/// Attachments remembered in [`Proofs`].
const MAX_PROOFS: usize = 4096;

impl Proofs {
    /// Nothing is to be asked.
    pub fn has(&self, session: SessionId, attach_count: u64) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&(session, attach_count))
    }

    /// From now on.
    pub fn add(&self, session: SessionId, attach_count: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_PROOFS {
            known.clear();
        }
        known.insert((session, attach_count));
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
