//! The process-wide picture of the upstreams: which endpoints there are, how many sessions each has, and whether its breaker
//! lets anything through. Which endpoint is used next is chosen here and nowhere else.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustls::ClientConfig;

use super::{
    breaker::{Breaker, BreakerState},
    choice::{Choice, Era},
    credential::Credentials,
    mirrors::Mirrors,
    tools::Tools,
    transport::http::tls,
};
use crate::{
    certificate::Own,
    metrics::{Metrics, ServiceMetrics},
    settings::{CaFile, CredentialsFile, EraSetting, Transport, UpstreamUrl},
};

/// One server of a service.
#[derive(Debug)]
pub struct Endpoint {
    /// Service it belongs to.
    pub service: String,
    /// Position in its service.
    pub index: usize,
    /// Position among all endpoints of the pool.
    pub number: usize,
    /// URL of its event stream, e.g. `http://127.0.0.1:8071/sse`, or, with Streamable HTTP, of everything. Shows no secret.
    pub url: UpstreamUrl,
    /// How it is talked to.
    pub transport: Choice,
    /// Which arguments of its tools stand in headers, too.
    pub mirrors: Mirrors,
    /// By what the router shows itself to it: its service's.
    pub credentials: Arc<Credentials>,
    /// Sessions (of all worker threads of this process) that are pinned to it.
    pub sessions: AtomicUsize,
    /// POSTs under way.
    pub in_flight: AtomicUsize,
    breaker: Mutex<Breaker>,
    last_error: Mutex<Option<String>>,
    /// How long its last health check took, in microseconds; 0: none has worked yet.
    check_took: AtomicU64,
}

impl Endpoint {
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

/// A named group of equal endpoints.
#[derive(Debug)]
pub struct Service {
    /// Its name in URLs.
    pub name: String,
    /// Its endpoints, in configured order; never empty.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// What its tools say of themselves.
    pub tools: Tools,
    /// Its calls.
    pub metrics: Arc<ServiceMetrics>,
    /// By what the router shows itself to its servers.
    pub credentials: Arc<Credentials>,
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

    /// The endpoints to try for one call that none of them knows of yet, until one takes it: healthy ones, least busy first;
    /// where no healthy one takes it, be it that the last one has just died, those that count as dead and have not been
    /// tried for a moment: they may be back.
    pub fn candidates(&self) -> Candidates {
        let mut order = self.endpoints.clone();
        fastrand::shuffle(&mut order);
        order.sort_by_key(|endpoint| endpoint.in_flight.load(Ordering::Relaxed));
        Candidates { waiting: order.into(), passed_over: VecDeque::new(), is_last_resort: false }
    }

    /// The endpoints that are well, but this one.
    pub fn others_that_are_well(&self, this: Option<&Endpoint>) -> impl Iterator<Item = &Arc<Endpoint>> {
        let this = this.map(|endpoint| endpoint.index);
        let is_other = move |other: &&Arc<Endpoint>| Some(other.index) != this && other.state() == BreakerState::Closed;
        self.endpoints.iter().filter(is_other)
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

/// All services.
#[derive(Debug)]
pub struct Pool {
    services: BTreeMap<String, Arc<Service>>,
    tls: OnceLock<Arc<ClientConfig>>,
    /// What servers are shown that ask for a certificate.
    own: Option<Arc<Own>>,
}

impl Pool {
    /// Builds the pool from (service, endpoint URLs).
    pub fn new(
        services: impl IntoIterator<Item = (String, Vec<UpstreamUrl>)>,
        metrics: &Metrics,
        (transport, eras): (Transport, EraSetting),
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
                let credentials = Arc::new(Credentials::new(metrics.upstream_tokens.clone()));
                let endpoints = urls
                    .into_iter()
                    .enumerate()
                    .map(|(index, url)| {
                        Arc::new(Endpoint {
                            service: name.clone(),
                            index,
                            number: number.next().unwrap_or_default(),
                            mirrors: Mirrors::default(),
                            transport: Choice::new(&url, transport, eras),
                            url,
                            credentials: Arc::clone(&credentials),
                            sessions: AtomicUsize::new(0),
                            in_flight: AtomicUsize::new(0),
                            breaker: Mutex::new(Breaker::new(breaker_failures, backoff_min, backoff_max)),
                            last_error: Mutex::new(None),
                            check_took: AtomicU64::new(0),
                        })
                    })
                    .collect();
                let metrics = metrics.service(&name);
                (name.clone(), Arc::new(Service { name, endpoints, tools: Tools::default(), metrics, credentials }))
            })
            .collect();
        Self { services, tls: OnceLock::new(), own: None }
    }

    /// With this certificate towards servers that ask for one.
    pub fn shown_as(self, own: Option<Arc<Own>>) -> Self {
        Self { own, ..self }
    }

    /// For the `https` endpoints, if there are any; the system's certificates are read once.
    pub fn tls(&self, ca_file: Option<&CaFile>) -> Option<Arc<ClientConfig>> {
        let mut endpoints = self.services().flat_map(|service| &service.endpoints);
        let is_needed = endpoints.any(|endpoint| endpoint.url.is_secure());
        is_needed.then(|| {
            let trusted = self.trust(ca_file);
            match &self.own {
                // Nobody but a server of ours is shown it.
                Some(own) => {
                    let mut config = ClientConfig::clone(&trusted);
                    config.client_auth_cert_resolver = Arc::clone(own) as Arc<_>;
                    Arc::new(config)
                }
                None => trusted,
            }
        })
    }

    /// The same, for others that this machine must know by their certificates.
    pub fn trust(&self, ca_file: Option<&CaFile>) -> Arc<ClientConfig> {
        Arc::clone(self.tls.get_or_init(|| tls::client_config(ca_file)))
    }

    /// The same, of nobody but those that the system trusts and these issuers.
    pub fn trust_more(&self, issuers: Option<&CaFile>) -> Arc<ClientConfig> {
        tls::client_config(issuers)
    }

    /// From now on servers are shown what this file says. Whether that is anything else than before.
    pub fn show(&self, file: &CredentialsFile) -> bool {
        let mut is_other = false;
        for service in self.services.values() {
            let named = file.services().iter().find(|(name, _)| *name == service.name);
            is_other |= service.credentials.replace(named.map(|(_, credential)| credential.clone()));
        }
        is_other
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

#[cfg(test)]
mod tests {
    use super::*;

    fn service(endpoints: usize) -> Arc<Service> {
        let urls = (0..endpoints).map(|port| format!("http://h:{}/sse", port + 1).parse().unwrap()).collect();
        let hour = Duration::from_secs(3600);
        let pool =
            Pool::new([("s".to_owned(), urls)], &Metrics::new(), (Transport::Auto, EraSetting::Auto), 1, hour, hour);
        Arc::clone(pool.only_service().unwrap())
    }

    #[test]
    fn a_new_session_goes_to_the_endpoint_with_the_fewest() {
        let service = service(3);
        service.endpoints[0].sessions.store(2, Ordering::Relaxed);
        service.endpoints[1].sessions.store(1, Ordering::Relaxed);
        service.endpoints[2].sessions.store(3, Ordering::Relaxed);
        assert_eq!(service.pick(None).unwrap().index, 1);
        assert_eq!(service.pick(Some(1)).unwrap().index, 0);
        service.endpoints[0].failed(&"dead");
        assert_eq!(service.pick(Some(1)).unwrap().index, 2);
    }

    #[test]
    fn a_call_tries_the_least_busy_first_and_those_that_may_be_back_last() {
        let service = service(3);
        service.endpoints[0].in_flight.store(2, Ordering::Relaxed);
        service.endpoints[1].in_flight.store(1, Ordering::Relaxed);
        let tried = || service.candidates().map(|endpoint| endpoint.index).collect::<Vec<_>>();
        assert_eq!(tried(), [2, 1, 0]);
        service.endpoints[2].failed(&"dead");
        assert_eq!(tried(), [1, 0], "it has just failed");
        std::thread::sleep(super::super::breaker::LAST_RESORT_PAUSE);
        assert_eq!(tried(), [1, 0, 2]);
        assert_eq!(service.others_that_are_well(Some(&service.endpoints[1])).count(), 1);
    }
}
