//! Upstreams: the services, their endpoints, and the connections to them.
//!
//! Role: [`Pool`] is the process-wide picture (which endpoints there are, how many sessions each has, whether its
//! breaker lets anything through). Each worker thread has a [`line::Line`] to each endpoint, its connections, and an
//! [`actor::UpstreamActor`] that holds the router's own shared session there. Knows nothing of client streams.

pub mod actor;
pub mod breaker;
pub mod call;
mod caller;
mod connection;
pub mod line;
pub mod lines;
pub mod redirect;
pub mod reply;
pub mod tools;
pub mod transport;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use breaker::{Breaker, BreakerState};
use tools::Tools;

use crate::settings::UpstreamUrl;

/// One server of a service.
#[derive(Debug)]
pub struct Endpoint {
    /// Service it belongs to.
    pub service: String,
    /// Position in its service.
    pub index: usize,
    /// Position among all endpoints of the pool.
    pub number: usize,
    /// URL of its event stream, e.g. `http://127.0.0.1:8071/sse`. Shows no secret.
    pub url: UpstreamUrl,
    /// Sessions (of all worker threads of this process) that are pinned to it.
    pub sessions: AtomicUsize,
    /// POSTs under way.
    pub in_flight: AtomicUsize,
    breaker: Mutex<Breaker>,
    last_error: Mutex<Option<String>>,
}

impl Endpoint {
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

    /// A connection or health check failed.
    pub fn failed(&self, error: &dyn std::fmt::Display) {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let was = breaker.state(Instant::now());
        breaker.failed(Instant::now());
        if was == BreakerState::Closed && breaker.state(Instant::now()) != BreakerState::Closed {
            tracing::warn!(service = self.service, endpoint = %self.url, %error, "upstream endpoint is taken out of use");
        }
        drop(breaker);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }
}

/// A named group of equal endpoints.
#[derive(Debug)]
pub struct Service {
    /// Its name in URLs.
    pub name: String,
    /// Its endpoints, in configured order; never empty.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// What its tools say of themselves.
    pub tools: Tools,
}

impl Service {
    /// The endpoint to use next: usable, not `avoid` if there is another, with the fewest sessions; where every breaker
    /// is open, one that has not been tried for a moment. `None`: all have been.
    pub fn pick(&self, avoid: Option<usize>) -> Option<Arc<Endpoint>> {
        let mut order: Vec<&Arc<Endpoint>> = self.endpoints.iter().collect();
        // Random among equals, so that several router instances do not all start with the first one.
        fastrand::shuffle(&mut order);
        order.sort_by_key(|endpoint| {
            (
                Some(endpoint.index) == avoid,
                endpoint.state() != BreakerState::Closed,
                endpoint.sessions.load(Ordering::Relaxed),
            )
        });
        let usable = order.iter().find(|endpoint| endpoint.try_acquire());
        usable.or_else(|| order.iter().find(|endpoint| endpoint.try_last_resort())).map(|endpoint| Arc::clone(endpoint))
    }
}

/// All services.
#[derive(Debug)]
pub struct Pool {
    services: BTreeMap<String, Arc<Service>>,
}

impl Pool {
    /// Builds the pool from (service, endpoint URLs).
    pub fn new(
        services: impl IntoIterator<Item = (String, Vec<UpstreamUrl>)>,
        breaker_failures: u32,
        backoff_min: Duration,
        backoff_max: Duration,
    ) -> Self {
        let mut number = 0..;
        // Collected first, so that the numbers have no gaps.
        let services: BTreeMap<String, Vec<UpstreamUrl>> = services.into_iter().collect();
        let services = services
            .into_iter()
            .map(|(name, urls)| {
                let endpoints = urls
                    .into_iter()
                    .enumerate()
                    .map(|(index, url)| {
                        Arc::new(Endpoint {
                            service: name.clone(),
                            index,
                            number: number.next().unwrap_or_default(),
                            url,
                            sessions: AtomicUsize::new(0),
                            in_flight: AtomicUsize::new(0),
                            breaker: Mutex::new(Breaker::new(breaker_failures, backoff_min, backoff_max)),
                            last_error: Mutex::new(None),
                        })
                    })
                    .collect();
                (name.clone(), Arc::new(Service { name, endpoints, tools: Tools::default() }))
            })
            .collect();
        Self { services }
    }

    /// The service of this name.
    pub fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// The only service, when there is one.
    pub fn only_service(&self) -> Option<&Arc<Service>> {
        self.services.values().next().filter(|_| self.services.len() == 1)
    }

    /// All services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Names, for error texts.
    pub fn names(&self) -> String {
        self.services.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}
