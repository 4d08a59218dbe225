//! What is known of the client's requests for metrics and traces: of each until its answer is in the log, and of an adopted
//! session until somebody is served.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{env::Env, traced::Traced};
use crate::{
    incidents::Incident,
    metrics::{Method, Outcome, ServiceMetrics, Took},
    store::Fence,
};

/// A request as it began.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    pub(super) method: Method,
    /// When this owner began to journal it, or found it in the journal.
    since: Instant,
    /// How long it waited for the journal.
    journaling: Duration,
}

impl Begun {
    /// Of this method, which was to be journaled at `asked`, and is there now.
    pub(super) fn journaled(method: Method, asked: Instant) -> Self {
        Self { method, since: asked, journaling: asked.elapsed() }
    }

    /// Of this method, found in the journal.
    pub(super) fn found(method: Method) -> Self {
        Self { method, since: Instant::now(), journaling: Duration::ZERO }
    }

    /// It ends so, with an answer that is not in the log yet. `sent`: when it was first sent to its server, where that has
    /// answered.
    pub(super) fn ends(self, outcome: Outcome, sent: Option<Instant>) -> Ended {
        Ended { begun: self, outcome, upstream: sent.map(|sent| sent.elapsed()) }
    }
}

/// A request whose answer is on its way into the log.
#[derive(Debug)]
pub struct Ended {
    begun: Begun,
    outcome: Outcome,
    upstream: Option<Duration>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Timing {
    /// In the order of their answers.
    ended: VecDeque<Ended>,
    /// When the session was adopted, until somebody is served.
    adopted: Option<Instant>,
    /// Calls that belong to traces.
    pub(super) traced: Traced,
}

impl Timing {
    /// Of a session that was adopted just now, with the places of its calls in traces.
    pub(super) fn adopted(traces: BTreeMap<String, String>) -> Self {
        Self { adopted: Some(Instant::now()), traced: Traced::inherit(traces), ..Self::default() }
    }

    /// The next answer that goes into the log is to this one.
    pub(super) fn ended(&mut self, ended: Ended) {
        self.ended.push_back(ended);
    }

    /// The next answer is in the log, which took so long. `id_key`: which request it answers.
    pub(super) fn logged(&mut self, service: &ServiceMetrics, appending: Duration, id_key: Option<&str>) {
        let Some(Ended { begun, outcome, upstream }) = self.ended.pop_front() else { return };
        let took = Took { whole: begun.since.elapsed(), upstream, store: begun.journaling + appending };
        service.ended(begun.method, outcome, took);
        if let Some(context) = id_key.and_then(|id_key| self.traced.recorded(id_key)) {
            service.is_of_trace(took.whole, context);
        }
    }

    /// The next answer was a second one: the first one counts.
    pub(super) fn was_answered(&mut self) {
        self.ended.pop_front();
    }

    /// Somebody is served by this owner.
    pub(super) fn serves(&mut self, env: &Env, fence: &Fence) {
        if let Some(adopted) = self.adopted.take() {
            let took = adopted.elapsed();
            env.metrics.recovery.observe(took.as_secs_f64());
            let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
            let (session, generation) = (fence.session.handle(), fence.generation);
            env.incidents.note(Incident { session, generation, took_us, ..Incident::new("served") });
        }
    }

    /// Gives back what a burst has left.
    pub(super) fn shrink(&mut self) {
        self.ended.shrink_to_fit();
    }
}
