//! A named group of equal endpoints ([`Service`]), and which of them is used next.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic::Ordering},
};

use super::{breaker::BreakerState, credential::Credentials, endpoint::Endpoint, tools::Tools};
use crate::metrics::ServiceMetrics;

/// See the module's text.
#[derive(Debug)]
pub struct Service {
    /// Its name in URLs.
    pub name: String,
    /// What its tools say of themselves.
    pub tools: Arc<Tools>,
    /// Its calls.
    pub metrics: Arc<ServiceMetrics>,
    /// By what the router shows itself to its servers.
    pub credentials: Arc<Credentials>,
    servers: RwLock<Servers>,
}

#[derive(Debug, Default)]
struct Servers {
    /// The list names the service.
    is_listed: bool,
    /// In the order of the list.
    listed: Arc<[Arc<Endpoint>]>,
    /// Those that the list has lost.
    leaving: Vec<Arc<Endpoint>>,
}

impl Service {
    /// Without endpoints.
    pub(super) fn new(name: &str, metrics: Arc<ServiceMetrics>, credentials: Credentials) -> Self {
        Self {
            name: name.to_owned(),
            tools: Arc::default(),
            metrics,
            credentials: Arc::new(credentials),
            servers: RwLock::default(),
        }
    }

    fn servers(&self) -> RwLockReadGuard<'_, Servers> {
        self.servers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn servers_mut(&self) -> RwLockWriteGuard<'_, Servers> {
        self.servers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its endpoints, in the order of the list.
    pub fn endpoints(&self) -> Arc<[Arc<Endpoint>]> {
        Arc::clone(&self.servers().listed)
    }

    /// The list names it: new sessions may begin.
    pub fn is_listed(&self) -> bool {
        self.servers().is_listed
    }

    /// Endpoints that the list has lost, and at which something may go on.
    pub fn leaving(&self) -> Vec<Arc<Endpoint>> {
        self.servers().leaving.clone()
    }

    /// The endpoint of which that is true, also if it is leaving: for what is to go on where it was.
    pub fn find(&self, is_it: impl Fn(&Endpoint) -> bool) -> Option<Arc<Endpoint>> {
        let servers = self.servers();
        servers.listed.iter().chain(&servers.leaving).find(|endpoint| is_it(endpoint)).map(Arc::clone)
    }

    /// From now on these are listed; `None`: the list has not even the service. Those that are in it no more are leaving.
    pub(super) fn has(&self, endpoints: Option<Vec<Arc<Endpoint>>>, now: std::time::Instant) {
        let is_listed = endpoints.is_some();
        let endpoints = endpoints.unwrap_or_default();
        let mut servers = self.servers_mut();
        for (position, endpoint) in endpoints.iter().enumerate() {
            endpoint.is_at(position);
        }
        let is_there = |one: &Arc<Endpoint>| endpoints.iter().any(|other| Arc::ptr_eq(one, other));
        servers.leaving.retain(|endpoint| !is_there(endpoint));
        let gone: Vec<_> = servers.listed.iter().filter(|endpoint| !is_there(endpoint)).cloned().collect();
        gone.iter().for_each(|endpoint| endpoint.leaves(now));
        servers.leaving.extend(gone);
        (servers.is_listed, servers.listed) = (is_listed, endpoints.into());
    }

    /// Nothing goes on any more at this endpoint, which was leaving. `false`: it is back.
    pub(super) fn has_lost(&self, endpoint: &Arc<Endpoint>) -> bool {
        let mut servers = self.servers_mut();
        let before = servers.leaving.len();
        servers.leaving.retain(|other| !Arc::ptr_eq(other, endpoint));
        let is_lost = servers.leaving.len() < before;
        if is_lost {
            endpoint.ends();
        }
        is_lost
    }

    /// The list has it, or something may go on at one of its endpoints.
    pub(super) fn is_known(&self) -> bool {
        let servers = self.servers();
        servers.is_listed || !servers.leaving.is_empty()
    }

    /// The endpoint to use next: usable, not the one with the number `avoid` if there is another, with the fewest sessions; where
    /// every breaker is open, one that has not been tried for a moment. `None`: all have been.
    pub fn pick(&self, avoid: Option<usize>) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints();
        let mut order: Vec<&Arc<Endpoint>> = endpoints.iter().collect();
        // Random among equals, so that several router instances do not all start with the first one.
        fastrand::shuffle(&mut order);
        order.sort_by_key(|endpoint| {
            (
                Some(endpoint.number) == avoid,
                endpoint.state() != BreakerState::Closed,
                endpoint.sessions.load(Ordering::Relaxed),
            )
        });
        let usable = order.iter().find(|endpoint| endpoint.try_acquire());
        usable.or_else(|| order.iter().find(|endpoint| endpoint.try_last_resort())).map(|endpoint| Arc::clone(endpoint))
    }

    /// The endpoints to try for one call that none of them knows of yet, until one takes it: healthy ones, least busy first;
    /// where no healthy one takes it, be it that the last one has just died, those that count as dead and have not been
    /// tried for a moment: they may be back.
    pub fn candidates(&self) -> Candidates {
        let mut order = self.endpoints().to_vec();
        fastrand::shuffle(&mut order);
        order.sort_by_key(|endpoint| endpoint.in_flight.load(Ordering::Relaxed));
        Candidates { waiting: order.into(), passed_over: VecDeque::new(), is_last_resort: false }
    }

    /// The endpoints that are well, but this one.
    pub fn others_that_are_well(&self, this: Option<&Endpoint>) -> Vec<Arc<Endpoint>> {
        let this = this.map(|endpoint| endpoint.number);
        let is_other =
            move |other: &&Arc<Endpoint>| Some(other.number) != this && other.state() == BreakerState::Closed;
        self.endpoints().iter().filter(is_other).cloned().collect()
    }
}

/// See [`Service::candidates`].
#[derive(Debug)]
pub struct Candidates {
    waiting: VecDeque<Arc<Endpoint>>,
    passed_over: VecDeque<Arc<Endpoint>>,
    is_last_resort: bool,
}

impl Iterator for Candidates {
    type Item = Arc<Endpoint>;

    fn next(&mut self) -> Option<Arc<Endpoint>> {
        loop {
            match self.waiting.pop_front() {
                Some(endpoint) if self.is_last_resort => {
                    if endpoint.try_last_resort() {
                        return Some(endpoint);
                    }
                }
                Some(endpoint) if endpoint.try_acquire() => return Some(endpoint),
                Some(endpoint) => self.passed_over.push_back(endpoint),
                None if self.is_last_resort => return None,
                None => {
                    self.is_last_resort = true;
                    std::mem::swap(&mut self.waiting, &mut self.passed_over);
                }
            }
        }
    }
}
