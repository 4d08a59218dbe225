//! What the threads of one process share ([`App`]), and what each worker thread has of its own ([`Worker`]).

use std::{
    collections::HashMap,
    rc::Rc,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use actix::Addr;
use tokio::sync::oneshot;

use crate::{
    cluster::{ownership::Judge, process::ProcessId},
    http::calls::Calls,
    lifecycle::Lifecycle,
    metrics::Metrics,
    protocol::session_id::SessionId,
    registry::{
        actor::Registry,
        adopt::Turns,
        host::Host,
        limiter::RateLimiter,
        room::{Guests, Lonely},
        sweep::Sightings,
    },
    session::{
        directory::Directory,
        recovery::{self, Lease},
    },
    settings::Settings,
    store::{LogLimits, Owner, SessionStore, StoreError},
    upstream::{Endpoint, Pool, actor::UpstreamActor, line::Line},
};

/// Shared by all threads.
pub struct App {
    /// As read at start.
    pub settings: Settings,
    /// The truth about sessions.
    pub store: Arc<dyn SessionStore>,
    /// This process.
    pub me: Owner,
    /// The same, as other processes on this machine can find it.
    pub process: Option<ProcessId>,
    /// `host:port` that it listens on.
    pub address: String,
    /// Milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// Who is where in this process.
    pub directory: Directory,
    /// Counters.
    pub metrics: Metrics,
    /// Services and endpoints.
    pub pool: Pool,
    /// Phase of the process.
    pub lifecycle: Lifecycle,
    /// Client streams that wait for the answer to a ping-rebind, by nonce.
    pub rebinds: Rebinds,
    /// Sessions whose clients are gone.
    pub lonely: Lonely,
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
    /// Id of the data that the store holds, and since when.
    pub data: Mutex<(Arc<str>, Instant)>,
    /// Which instances the last sweep saw alive.
    pub sightings: Sightings,
    /// Until when this process may believe that it owns what it owned; see [`App::lease_holds`].
    pub lease: LeaseClock,
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
        f.debug_struct("App").field("me", &self.me).field("address", &self.address).finish_non_exhaustive()
    }
}

impl App {
    /// Counts a failed store operation.
    pub fn count_store_error(&self, error: &StoreError) {
        let kind = match error {
            StoreError::Unavailable(_) => "unavailable",
            StoreError::Full(_) => "full",
            StoreError::Unusable(_) => "unusable",
            StoreError::Overloaded => "overloaded",
            StoreError::Corrupt(_) => "corrupt",
        };
        self.metrics.store_errors.with_label_values(&[kind]).inc();
        tracing::debug!(kind, %error, "store operation failed");
    }

    /// This process has renewed its lease recently enough that no other believes it dead.
    pub fn lease_holds(&self) -> bool {
        self.lease.holds()
    }

    /// OWN-2: no other process can have adopted a session for which the store has granted something to this one, as its
    /// owner, that it asked for at `confirmed`. A process that was paused, or cut off from the store, must ask again
    /// before it forwards anything, also when its lease holds again.
    pub fn may_forward(&self, confirmed: Option<Instant>) -> bool {
        confirmed.is_some_and(|confirmed| self.lease.covers(confirmed))
    }

    /// A missing lease of another instance means its death only to somebody who has renewed its own without a gap for a
    /// whole period: after the store was away or lost its data, leases are missing and all instances alive.
    pub fn may_judge_leases(&self) -> bool {
        self.lease.steady_for(self.settings.session.lease)
    }

    /// Id of the data that the store holds.
    pub fn dataset(&self) -> Arc<str> {
        Arc::clone(&self.data.lock().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// The store holds other data now: it came back without its own.
    pub fn remember_dataset(&self, id: &str) {
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        if *data.0 != *id {
            tracing::error!("the session store has lost its data; this instance writes the sessions it owns again");
            *data = (id.into(), Instant::now());
        }
    }

    /// The store has lost its data, so recently that owners may still be writing their sessions again. Asked when a
    /// session is not found: it need not be over.
    pub async fn data_lost(&self) -> bool {
        match self.store.dataset(&fresh_dataset_id()).await {
            Ok(dataset) => self.remember_dataset(&dataset),
            Err(error) => self.count_store_error(&error),
        }
        let data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        data.1.elapsed() < self.settings.session.lease
    }

    /// The next worker thread's host, in turn.
    pub fn next_host(&self) -> Option<Addr<Host>> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        (!hosts.is_empty()).then(|| hosts[fastrand::usize(..hosts.len())].clone())
    }

    /// How much of each stream's log is kept.
    pub fn log_limits(&self) -> LogLimits {
        let stream = &self.settings.stream;
        LogLimits { max_age: stream.resume_window, max_events: stream.resume_events, max_bytes: stream.resume_bytes }
    }
}

/// A candidate for the id of a store's data. Never the same twice: an old id on new data would hide the loss.
pub fn fresh_dataset_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
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

/// The time until which the lease is known to hold, on this process's own clock.
#[derive(Debug)]
pub struct LeaseClock {
    origin: Instant,
    /// Milliseconds after `origin`.
    until: AtomicU64,
    /// Since when it has held without a break, milliseconds after `origin`.
    since: AtomicU64,
    /// When it was asked for last, and since when without a gap in which another's may have run out.
    asked: AtomicU64,
    steady: AtomicU64,
}

impl Default for LeaseClock {
    fn default() -> Self {
        let never = || AtomicU64::new(0);
        Self { origin: Instant::now(), until: never(), since: never(), asked: never(), steady: never() }
    }
}

impl LeaseClock {
    /// The store granted `lease` to a request that was sent at `asked`: counted from the asking, so that the store never
    /// ends it before we do. `pace`: how often all instances ask. `unbroken`: the store still had it; else it may have been
    /// missing until this moment.
    pub fn renewed(&self, asked: Instant, lease: Duration, pace: Duration, unbroken: bool) {
        let asked = self.millis_at(asked);
        let lapsed = asked > self.until.load(Ordering::Acquire);
        let before = self.asked.swap(asked, Ordering::AcqRel);
        if !unbroken || lapsed || is_gap(Duration::from_millis(asked.saturating_sub(before)), lease, pace) {
            self.steady.store(self.millis_at(Instant::now()), Ordering::Release);
        }
        if !unbroken {
            self.since.store(self.millis_at(Instant::now()), Ordering::Release);
        } else if lapsed {
            self.since.store(asked, Ordering::Release);
        }
        let lease = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        self.until.store(asked.saturating_add(lease), Ordering::Release);
    }

    fn millis_at(&self, at: Instant) -> u64 {
        // At least 1: 0 is "never".
        u64::try_from(at.duration_since(self.origin).as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn holds(&self) -> bool {
        self.millis_at(Instant::now()) < self.until.load(Ordering::Acquire)
    }

    fn covers(&self, confirmed: Instant) -> bool {
        // `until` before `since`: they are written in the other order.
        let until = self.until.load(Ordering::Acquire);
        let lease = Lease { since: self.since.load(Ordering::Acquire), until };
        recovery::may_forward(self.millis_at(Instant::now()), lease, self.millis_at(confirmed))
    }

    /// The lease was renewed without a gap for at least `period`.
    fn steady_for(&self, period: Duration) -> bool {
        let steady = self.steady.load(Ordering::Acquire);
        let held = self.millis_at(Instant::now()).saturating_sub(steady);
        self.holds() && steady > 0 && u128::from(held) >= period.as_millis()
    }
}

/// So long has passed between two renewals that, if it was the store's fault, the lease of an instance which renews at
/// the same pace may have run out meanwhile. Its owner is given time to renew it.
fn is_gap(between: Duration, lease: Duration, pace: Duration) -> bool {
    between >= lease.saturating_sub(pace).max(pace.mul_f64(1.5))
}

/// One worker thread's own.
#[derive(Debug)]
pub struct Worker {
    /// Shared by all threads.
    pub app: Arc<App>,
    /// By the endpoint's number.
    upstreams: Vec<(Line, Addr<UpstreamActor>)>,
}

impl Worker {
    /// Starts the thread's UpstreamActors. To be called on the worker thread.
    pub fn start(app: Arc<App>) -> Rc<Self> {
        let is_first = app.workers_started.fetch_add(1, Ordering::Relaxed) == 0;
        let limits = &app.settings.upstream;
        let config = Line::config();
        let mut upstreams = Vec::new();
        for service in app.pool.services() {
            for endpoint in &service.endpoints {
                let line = Line::new(Arc::clone(endpoint), limits, config.clone());
                let vital = app.lifecycle.vital("the connections to a server");
                let metrics = app.metrics.clone();
                let service = Arc::clone(service);
                let actor = UpstreamActor::launch(service, line.clone(), limits.clone(), metrics, is_first, vital);
                debug_assert_eq!(endpoint.number, upstreams.len(), "the pool numbers its endpoints in this order");
                upstreams.push((line, actor));
            }
        }
        let worker = Rc::new(Self { app, upstreams });
        let host = Host::launch(Rc::clone(&worker));
        worker.app.hosts.lock().unwrap_or_else(PoisonError::into_inner).push(host);
        worker
    }

    /// The actor of an endpoint on this thread.
    pub fn upstream(&self, endpoint: &Endpoint) -> &Addr<UpstreamActor> {
        &self.upstreams[endpoint.number].1
    }

    /// The way from this thread to an endpoint.
    pub fn line(&self, endpoint: &Endpoint) -> &Line {
        &self.upstreams[endpoint.number].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(60);

    /// OWN-2
    #[test]
    fn an_ownership_from_before_a_break_of_the_lease_does_not_count() {
        let clock = LeaseClock::default();
        let tick = || {
            std::thread::sleep(Duration::from_millis(2));
            Instant::now()
        };
        let too_early = tick();
        assert!(!clock.covers(too_early), "there is no lease");
        let renewed = |asked, unbroken| clock.renewed(asked, LEASE, LEASE / 3, unbroken);
        renewed(tick(), true);
        assert!(!clock.covers(too_early));
        let first = tick();
        assert!(clock.covers(first));
        // In time, and the store still had it.
        renewed(tick(), true);
        assert!(clock.covers(first));
        // In time, but the store had it no more.
        let asked = tick();
        renewed(asked, false);
        assert!(!clock.covers(first));
        assert!(!clock.covers(asked), "nor what was asked for while it was missing");
        assert!(clock.covers(tick()));
    }

    /// OWN-4: a store that was away for so long that others may have lost their leases.
    #[test]
    fn a_gap_between_two_renewals_is_one_in_which_anothers_lease_may_have_run_out() {
        let millis = Duration::from_millis;
        for (between, lease, pace, expected) in [
            (1000, 3000, 1000, false),
            (1900, 3000, 1000, false),
            (2000, 3000, 1000, true),
            (2999, 3000, 1000, true),
            // As seldom as is allowed: the usual pace is no gap.
            (1500, 3000, 1500, false),
            (2250, 3000, 1500, true),
        ] {
            assert_eq!(is_gap(millis(between), millis(lease), millis(pace)), expected, "{between} {lease} {pace}");
        }
    }
}
