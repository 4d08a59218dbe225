//! One worker thread's ways to all endpoints ([`Lines`]): the endpoint's actor on this thread, and the line of connections that
//! both share. Made on the thread that uses it.

use std::sync::Arc;

use actix::Addr;

use super::{
    Endpoint, Pool, actor::UpstreamActor, breaker::BreakerState, choice::Era, credential::Who, era, notice::Address,
    transport::http::line::Line, uplink::Uplink,
};
use crate::{lifecycle::Lifecycle, metrics::Metrics, settings::UpstreamSettings};

/// See the module's text.
#[derive(Debug)]
pub struct Lines {
    /// By the endpoint's number.
    ways: Vec<(Line, Addr<UpstreamActor>)>,
    limits: UpstreamSettings,
}

impl Lines {
    /// Starts the thread's UpstreamActors; `checks_health`: they are the ones of this process that do.
    pub fn start(
        pool: &Pool,
        limits: &UpstreamSettings,
        metrics: &Metrics,
        lifecycle: &Lifecycle,
        checks_health: bool,
    ) -> Self {
        let for_tokens = limits.credentials.is_some().then(|| pool.trust(limits.ca_file.as_ref()));
        let config = Line::config(pool.tls(limits.ca_file.as_ref()), (for_tokens, limits.token_timeout));
        let mut ways = Vec::new();
        for service in pool.services() {
            for endpoint in &service.endpoints {
                let line = Line::new(Arc::clone(endpoint), limits, &config);
                let vital = lifecycle.vital("the connections to a server");
                let (service, limits, metrics) = (Arc::clone(service), limits.clone(), metrics.clone());
                let actor = UpstreamActor::launch(service, line.clone(), limits, metrics, checks_health, vital);
                debug_assert_eq!(endpoint.number, ways.len(), "the pool numbers its endpoints in this order");
                ways.push((line, actor));
            }
        }
        Self { ways, limits: limits.clone() }
    }

    /// The actor of an endpoint on this thread.
    pub fn actor(&self, endpoint: &Endpoint) -> &Addr<UpstreamActor> {
        &self.ways[endpoint.number].1
    }

    /// Of which era an endpoint is: at once where that is known, else by asking it, unless it is out of use. `None`: it does not
    /// say just now. Whether one that has failed is of another era now is for sessions and health checks to ask.
    pub async fn era(&self, endpoint: &Endpoint) -> Option<Era> {
        match endpoint.era() {
            None if endpoint.state() != BreakerState::Open => {
                era::find(&self.ways[endpoint.number].0.in_name_of(Who::Itself), &self.limits).await
            }
            known => known,
        }
    }

    /// The connections to an endpoint.
    pub(super) fn line(&self, endpoint: &Endpoint) -> &Line {
        &self.ways[endpoint.number].0
    }

    /// Where the messages of a session with this endpoint go. `who`: in whose name.
    pub fn uplink(&self, endpoint: &Endpoint, address: Address, who: Who) -> Uplink {
        Uplink::new(self.ways[endpoint.number].0.in_name_of(who), address)
    }
}
