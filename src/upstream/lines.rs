//! One worker thread's ways to all endpoints ([`Lines`]): the endpoint's actor on this thread, and the line of connections that
//! both share. Made on the thread that uses it.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use actix::Addr;

use super::{
    Endpoint, Pool,
    actor::{Leave, UpstreamActor},
    breaker::BreakerState,
    choice::Era,
    credential::Who,
    era,
    notice::Address,
    transport::http::line::{Line, LineConfig},
    uplink::Uplink,
};
use crate::{lifecycle::Lifecycle, metrics::Metrics, settings::UpstreamSettings};

/// See the module's text.
#[derive(Debug)]
pub struct Lines {
    /// By the endpoint's number.
    ways: RefCell<BTreeMap<usize, Way>>,
    pool: Arc<Pool>,
    config: RefCell<LineConfig>,
    limits: UpstreamSettings,
    metrics: Metrics,
    lifecycle: Lifecycle,
    checks_health: bool,
}

#[derive(Debug, Clone)]
struct Way {
    line: Line,
    actor: Addr<UpstreamActor>,
}

impl Lines {
    /// Starts the thread's UpstreamActors, and from then on as the list has it; `checks_health`: they are the ones of this process
    /// that do.
    pub fn start(
        pool: &Arc<Pool>,
        limits: &UpstreamSettings,
        metrics: &Metrics,
        lifecycle: &Lifecycle,
        checks_health: bool,
    ) -> Rc<Self> {
        let for_tokens = limits.credentials.is_some().then(|| pool.trust(limits.ca_file.as_ref()));
        let config = Line::config(pool.tls(limits.ca_file.as_ref()), (for_tokens, limits.token_timeout));
        let lines = Rc::new(Self {
            ways: RefCell::default(),
            pool: Arc::clone(pool),
            config: RefCell::new(config),
            limits: limits.clone(),
            metrics: metrics.clone(),
            lifecycle: lifecycle.clone(),
            checks_health,
        });
        let mut changes = pool.subscribe();
        lines.follow();
        let (weak, vital) = (Rc::downgrade(&lines), lifecycle.vital("the keeper of the ways to servers"));
        actix_rt::spawn(async move {
            let vital = vital;
            while changes.changed().await.is_ok() {
                let Some(lines) = weak.upgrade() else { break };
                lines.follow();
            }
            vital.done();
        });
        lines
    }

    /// Has a way to each endpoint of the list, and none to those that are gone.
    fn follow(&self) {
        let services = self.pool.services();
        for service in services.values() {
            service.endpoints().iter().for_each(|endpoint| drop(self.way(endpoint)));
        }
        let is_gone = |way: &Way| way.line.endpoint.is_gone();
        let gone: Vec<usize> =
            self.ways.borrow().iter().filter(|(_, way)| is_gone(way)).map(|(number, _)| *number).collect();
        for number in gone {
            let way = self.ways.borrow_mut().remove(&number);
            if let Some(way) = way {
                actix_rt::spawn(async move {
                    let _ = way.actor.send(Leave).await;
                });
            }
        }
    }

    fn way(&self, endpoint: &Arc<Endpoint>) -> Way {
        if let Some(way) = self.ways.borrow().get(&endpoint.number) {
            return way.clone();
        }
        if endpoint.url.is_secure() && !self.config.borrow().has_tls() {
            self.config.borrow_mut().set_tls(self.pool.client_tls(self.limits.ca_file.as_ref()));
        }
        let line = Line::new(Arc::clone(endpoint), &self.limits, &self.config.borrow());
        let vital = self.lifecycle.vital("the connections to a server");
        let (limits, metrics) = (self.limits.clone(), self.metrics.clone());
        let actor = UpstreamActor::launch(line.clone(), limits, metrics, self.checks_health, vital);
        let way = Way { line, actor };
        self.ways.borrow_mut().insert(endpoint.number, way.clone());
        way
    }

    /// The actor of an endpoint on this thread.
    pub fn actor(&self, endpoint: &Arc<Endpoint>) -> Addr<UpstreamActor> {
        self.way(endpoint).actor
    }

    /// Of which era an endpoint is: at once where that is known, else by asking it, unless it is out of use. `None`: it does not
    /// say just now. Whether one that has failed is of another era now is for sessions and health checks to ask.
    pub async fn era(&self, endpoint: &Arc<Endpoint>) -> Option<Era> {
        match endpoint.era() {
            None if endpoint.state() != BreakerState::Open => {
                era::find(&self.line(endpoint).in_name_of(Who::Itself), &self.limits).await
            }
            known => known,
        }
    }

    /// The connections to an endpoint.
    pub(super) fn line(&self, endpoint: &Arc<Endpoint>) -> Line {
        self.way(endpoint).line
    }

    /// Where the messages of a session with this endpoint go. `who`: in whose name.
    pub fn uplink(&self, endpoint: &Arc<Endpoint>, address: Address, who: Who) -> Uplink {
        Uplink::new(self.line(endpoint).in_name_of(who), address)
    }
}
