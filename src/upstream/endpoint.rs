//! One server of a service ([`Endpoint`]): what the process knows of it, and whether it is in the list.
//!
//! One that the list loses leaves: nothing new begins there, what has begun goes on until it ends or its time is over. Then it
//! is gone, and whoever is still there takes it for a server that has died. One that comes back meanwhile is the same.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    breaker::{Breaker, BreakerState},
    choice::{Choice, Era},
    credential::Credentials,
    mirrors::Mirrors,
    tools::Tools,
};
use crate::settings::UpstreamUrl;

/// One server of a service.
#[derive(Debug)]
pub struct Endpoint {
    /// Service it belongs to.
    pub service: String,
    /// Its own in this process, for ever.
    pub number: usize,
    /// URL of its event stream, e.g. `http://127.0.0.1:8071/sse`, or, with Streamable HTTP, of everything. Shows no secret.
    pub url: UpstreamUrl,
    /// How it is talked to.
    pub transport: Choice,
    /// Which arguments of its tools stand in headers, too.
    pub mirrors: Mirrors,
    /// By what the router shows itself to it: its service's.
    pub credentials: Arc<Credentials>,
    /// What the tools say of themselves: its service's.
    pub tools: Arc<Tools>,
    /// Sessions (of all worker threads of this process) that are pinned to it.
    pub sessions: AtomicUsize,
    /// POSTs under way.
    pub in_flight: AtomicUsize,
    position: AtomicUsize,
    stage: watch::Sender<Stage>,
    breaker: Mutex<Breaker>,
    last_error: Mutex<Option<String>>,
    /// How long its last health check took, in microseconds; 0: none has worked yet.
    check_took: AtomicU64,
}

/// Whether it is in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is.
    Listed,
    /// Not since then: nothing new begins there, and what has begun goes on.
    Leaving(Instant),
    /// Nothing goes on there: it counts as dead.
    Gone,
}

impl Endpoint {
    /// One that nothing is known of yet. `tools` and `credentials`: its service's.
    pub(super) fn new(
        (service, number): (&str, usize),
        url: UpstreamUrl,
        transport: Choice,
        breaker: Breaker,
        (tools, credentials): (&Arc<Tools>, &Arc<Credentials>),
    ) -> Self {
        Self {
            service: service.to_owned(),
            number,
            mirrors: Mirrors::default(),
            transport,
            url,
            credentials: Arc::clone(credentials),
            tools: Arc::clone(tools),
            sessions: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            position: AtomicUsize::new(0),
            stage: watch::Sender::new(Stage::Listed),
            breaker: Mutex::new(breaker),
            last_error: Mutex::new(None),
            check_took: AtomicU64::new(0),
        }
    }

    /// Position in its service, as it is listed now or was last.
    pub fn position(&self) -> usize {
        self.position.load(Ordering::Relaxed)
    }

    /// It is listed, at this place.
    pub(super) fn is_at(&self, position: usize) {
        self.position.store(position, Ordering::Relaxed);
        self.stage.send_if_modified(|stage| std::mem::replace(stage, Stage::Listed) != Stage::Listed);
    }

    /// It is not listed any more.
    pub(super) fn leaves(&self, now: Instant) {
        self.stage.send_if_modified(|stage| {
            let was_listed = *stage == Stage::Listed;
            if was_listed {
                *stage = Stage::Leaving(now);
            }
            was_listed
        });
    }

    /// From now on it counts as dead.
    pub(super) fn ends(&self) {
        self.stage.send_replace(Stage::Gone);
    }

    /// Whether it is in the list.
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// It counts as dead, since the list has not had it for too long.
    pub fn is_gone(&self) -> bool {
        self.stage() == Stage::Gone
    }

    /// Returns when [`Self::is_gone`].
    pub async fn gone(&self) {
        // The sender is here.
        let _ = self.stage.subscribe().wait_for(|stage| *stage == Stage::Gone).await;
    }

    /// Sessions and requests that are there now.
    pub fn uses(&self) -> (usize, usize) {
        (self.sessions.load(Ordering::Relaxed), self.in_flight.load(Ordering::Relaxed))
    }

    /// There are some.
    pub fn is_used(&self) -> bool {
        self.uses() != (0, 0)
    }

    /// A health check has worked, and took so long.
    pub fn checked(&self, took: Duration) {
        self.check_took.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
        self.succeeded();
    }

    /// How long the last health check took that has worked.
    pub fn check_took(&self) -> Option<Duration> {
        Some(self.check_took.load(Ordering::Relaxed)).filter(|took| *took > 0).map(Duration::from_micros)
    }

    /// Where it stands, for people.
    pub fn state(&self) -> BreakerState {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner).state(Instant::now())
    }

    /// Last failure seen, for people.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// May a connection be tried now? Takes the one probe of a half-open breaker.
    pub fn try_acquire(&self) -> bool {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner).try_acquire(Instant::now())
    }

    /// May a connection be tried now although the breaker is open? Only where every other one is open, too.
    pub fn try_last_resort(&self) -> bool {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner).try_last_resort(Instant::now())
    }

    /// A connection or health check worked.
    pub fn succeeded(&self) {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        if breaker.state(Instant::now()) != BreakerState::Closed {
            tracing::info!(service = self.service, endpoint = %self.url, "upstream endpoint is healthy again");
        }
        breaker.succeeded();
        drop(breaker);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Of which era its server is; `None` when that is not known yet ([`super::lines::Lines::era`] finds it out).
    pub fn era(&self) -> Option<Era> {
        self.transport.era()
    }

    /// A connection or health check failed.
    pub fn failed(&self, error: &dyn std::fmt::Display) {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let was = breaker.state(Instant::now());
        breaker.failed(Instant::now());
        self.transport.doubt_era();
        if was == BreakerState::Closed && breaker.state(Instant::now()) != BreakerState::Closed {
            tracing::warn!(service = self.service, endpoint = %self.url, %error, "upstream endpoint is taken out of use");
        }
        drop(breaker);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }
}
