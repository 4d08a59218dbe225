//! The process-wide picture of the upstreams ([`Pool`]): which services and endpoints there are. The list may change while the
//! process runs: what stays keeps all that is known of it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak},
    time::{Duration, Instant},
};

use rustls::ClientConfig;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::{
    breaker::Breaker,
    choice::Choice,
    credential::Credentials,
    endpoint::{Endpoint, Stage},
    service::Service,
    transport::http::tls,
};
use crate::{
    certificate::Own,
    metrics::Metrics,
    settings::{CaFile, CredentialsFile, EraSetting, Transport, UpstreamUrl},
};

/// Services by name.
pub type Services = BTreeMap<String, Arc<Service>>;

/// All services.
#[derive(Debug)]
pub struct Pool {
    known: RwLock<Arc<Services>>,
    /// Whoever changes the list holds it.
    list: Mutex<List>,
    /// Raised by every change.
    changes: watch::Sender<u64>,
    metrics: Metrics,
    spoken: (Transport, EraSetting),
    breaker: (u32, Duration, Duration),
    tls: OnceLock<Arc<ClientConfig>>,
    /// What servers are shown that ask for a certificate.
    own: Option<Arc<Own>>,
}

#[derive(Debug, Default)]
struct List {
    /// Endpoints made so far.
    made: usize,
    generation: String,
    credentials: Option<CredentialsFile>,
    /// Services that no list has any more and sessions may still be with: should one come back, it is the same.
    former: Vec<Weak<Service>>,
}

/// What a new list has changed, in endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    /// New, or back.
    pub added: usize,
    /// Leaving from now on.
    pub leaving: usize,
    /// Of the same URL as before.
    pub kept: usize,
    /// Anything is other than before, be it their order.
    pub is_other: bool,
}

impl Pool {
    /// Builds the pool from (service, endpoint URLs).
    pub fn new(
        services: impl IntoIterator<Item = (String, Vec<UpstreamUrl>)>,
        metrics: &Metrics,
        spoken: (Transport, EraSetting),
        breaker_failures: u32,
        backoff_min: Duration,
        backoff_max: Duration,
    ) -> Self {
        let pool = Self {
            known: RwLock::default(),
            list: Mutex::default(),
            changes: watch::Sender::default(),
            metrics: metrics.clone(),
            spoken,
            breaker: (breaker_failures, backoff_min, backoff_max),
            tls: OnceLock::new(),
            own: None,
        };
        pool.replace(&services.into_iter().collect());
        pool
    }

    /// From now on this is the list. An endpoint whose URL stays is the same; one that is in it no more is leaving.
    pub fn replace(&self, services: &BTreeMap<String, Vec<UpstreamUrl>>) -> Changed {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, mut changed) = (Instant::now(), Changed::default());
        let mut known = Services::clone(&self.services());
        let generation = generation(services);
        if generation == list.generation {
            changed.kept = services.values().map(Vec::len).sum();
            return changed;
        }
        changed.is_other = true;
        for (name, service) in &known {
            if !services.contains_key(name) {
                changed.leaving += service.endpoints().len();
                service.has(None, now);
            }
        }
        for (name, urls) in services {
            let service = known.entry(name.clone()).or_insert_with(|| self.service_of(name, &mut list));
            let before = service.endpoints();
            let endpoint = |url: &UpstreamUrl| {
                service.find(|endpoint| endpoint.url == *url).unwrap_or_else(|| {
                    list.made += 1;
                    let (transport, eras) = self.spoken;
                    let (failures, min, max) = self.breaker;
                    let (choice, breaker) = (Choice::new(url, transport, eras), Breaker::new(failures, min, max));
                    let of_service = (&service.tools, &service.credentials);
                    Arc::new(Endpoint::new((name, list.made - 1), url.clone(), choice, breaker, of_service))
                })
            };
            let endpoints: Vec<Arc<Endpoint>> = urls.iter().map(endpoint).collect();
            let is_in = |all: &[Arc<Endpoint>], one: &Arc<Endpoint>| all.iter().any(|other| Arc::ptr_eq(other, one));
            let kept = endpoints.iter().filter(|endpoint| is_in(&before, endpoint)).count();
            changed.kept += kept;
            changed.added += endpoints.len() - kept;
            changed.leaving += before.len() - kept;
            service.has(Some(endpoints), now);
        }
        list.generation = generation;
        self.now_knows(known, &mut list);
        changed
    }

    /// A service of this name that is in no list yet.
    fn service_of(&self, name: &str, list: &mut List) -> Arc<Service> {
        if let Some(former) = list.former.iter().filter_map(Weak::upgrade).find(|former| former.name == name) {
            return former;
        }
        let credentials = Credentials::new(self.metrics.upstream_tokens.clone());
        if let Some(file) = &list.credentials {
            show(&credentials, name, file);
        }
        Arc::new(Service::new(name, self.metrics.service(name), credentials))
    }

    /// Publishes the services that are listed, or at which something may go on.
    fn now_knows(&self, services: Services, list: &mut List) {
        let (known, gone): (Services, Services) = services.into_iter().partition(|(_, service)| service.is_known());
        list.former.retain(|former| former.upgrade().is_some_and(|former| !known.contains_key(&former.name)));
        list.former.extend(gone.values().map(Arc::downgrade));
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Ends what the list lost at least `grace` ago, and of what nobody uses all that it lost at least `unused` ago. How many.
    pub fn end_leaving(&self, grace: Duration, unused: Duration) -> usize {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let services = self.services();
        let is_over = |endpoint: &Arc<Endpoint>| match endpoint.stage() {
            Stage::Leaving(since) => since.elapsed() >= if endpoint.is_used() { grace } else { unused.min(grace) },
            Stage::Listed | Stage::Gone => false,
        };
        let mut ended = 0;
        for service in services.values() {
            for endpoint in service.leaving().iter().filter(|endpoint| is_over(endpoint)) {
                if service.has_lost(endpoint) {
                    ended += 1;
                    let (sessions, calls) = endpoint.uses();
                    tracing::info!(service = service.name, endpoint = %endpoint.url, sessions, calls,
                        "an upstream endpoint that the list no longer has is given up");
                }
            }
        }
        if ended > 0 {
            self.now_knows(Services::clone(&services), &mut list);
        }
        ended
    }

    /// To be told when endpoints come, leave or are gone.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// By which two instances know whether they have the same list: 8 digits of a hash, by which nothing of it can be known.
    pub fn generation(&self) -> String {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).generation.clone()
    }

    /// With this certificate towards servers that ask for one.
    pub fn shown_as(self, own: Option<Arc<Own>>) -> Self {
        Self { own, ..self }
    }

    /// For the `https` endpoints, if there are any; the system's certificates are read once.
    pub fn tls(&self, ca_file: Option<&CaFile>) -> Option<Arc<ClientConfig>> {
        let is_secure = |service: &Arc<Service>| service.endpoints().iter().any(|endpoint| endpoint.url.is_secure());
        self.services().values().any(is_secure).then(|| self.client_tls(ca_file))
    }

    /// For an `https` endpoint.
    pub fn client_tls(&self, ca_file: Option<&CaFile>) -> Arc<ClientConfig> {
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
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.credentials = Some(file.clone());
        let services = self.services();
        let shown: Vec<bool> =
            services.values().map(|service| show(&service.credentials, &service.name, file)).collect();
        shown.contains(&true)
    }

    /// The service of this name, also if only what has begun goes on there ([`Service::is_listed`]).
    pub fn service(&self, name: &str) -> Option<Arc<Service>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The only service, when the list has one.
    pub fn only_service(&self) -> Option<Arc<Service>> {
        let services = self.services();
        let mut listed = services.values().filter(|service| service.is_listed());
        listed.next().filter(|_| listed.next().is_none()).cloned()
    }

    /// All services, by name.
    pub fn services(&self) -> Arc<Services> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Names of the list, for error texts.
    pub fn names(&self) -> String {
        let services = self.services();
        let listed = services.values().filter(|service| service.is_listed());
        listed.map(|service| service.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

fn show(credentials: &Credentials, name: &str, file: &CredentialsFile) -> bool {
    let named = file.services().iter().find(|(service, _)| service == name);
    credentials.replace(named.map(|(_, credential)| credential.clone()))
}

fn generation(services: &BTreeMap<String, Vec<UpstreamUrl>>) -> String {
    let mut hasher = Sha256::new();
    for (name, urls) in services {
        let secrets = urls.iter().flat_map(|url| [url.request_url().as_str(), url.authorization().unwrap_or_default()]);
        for part in std::iter::once(name.as_str()).chain(secrets).chain([""]) {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
    }
    // Few enough to say nothing of a secret in a URL: there are too many texts of the same digits.
    hasher.finalize().iter().take(4).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
