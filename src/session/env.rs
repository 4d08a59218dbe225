//! What a session may use of its process ([`Env`]): shared by all threads, made once at the start, and all that this room
//! knows of the process. The rooms above hold the rest.

use std::{sync::Arc, time::Instant};

use actix::Recipient;
use tokio::sync::{mpsc, watch};

use super::{calls::Calls, directory::Directory, farewell::Farewells, messages::IsGone, room::Lonely};
use crate::{
    audit::Audit,
    cluster::{dataset::Dataset, lease::LeaseClock},
    incidents::Incidents,
    metrics::Metrics,
    policy::Policy,
    protocol::session_id::SessionId,
    settings::Settings,
    store::{LogLimits, Owner, SessionStore, StoreError},
    traces::Tracer,
};

/// See the module's text.
pub struct Env {
    /// As read at start.
    pub settings: Arc<Settings>,
    /// Who may call what, if there are rules.
    pub policy: Option<Policy>,
    /// Who has called what, if that is to be kept.
    pub audit: Option<Audit>,
    /// Takes spans, if anything is traced.
    pub traces: Option<Tracer>,
    /// The truth about sessions.
    pub store: Arc<dyn SessionStore>,
    /// This process.
    pub me: Owner,
    /// Who is where in this process.
    pub directory: Directory,
    /// Calls of each principal.
    pub calls: Arc<Calls>,
    /// Counters.
    pub metrics: Metrics,
    /// What has happened, for operators.
    pub incidents: Incidents,
    /// Sessions whose clients are gone.
    pub lonely: Lonely,
    /// Servers that are being told of the end of a session.
    pub farewells: Farewells,
    /// Until when this process may believe that it owns what it owned; see [`Env::may_forward`].
    pub lease: LeaseClock,
    /// Which data the store holds.
    pub dataset: Dataset,
    /// The other instances.
    pub neighbours: Neighbours,
    /// The registry, which asks the judge of owners.
    pub judge: Recipient<IsGone>,
    /// Sessions that the registry is to look after: whose actor here has ended.
    pub attention: mpsc::Sender<SessionId>,
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Env {
    /// Counts a failed store operation.
    pub fn count_store_error(&self, error: &StoreError) {
        let kind = match error {
            StoreError::Unavailable(_) => "unavailable",
            StoreError::NotDone(_) => "not_done",
            StoreError::Full(_) => "full",
            StoreError::Unusable(_) => "unusable",
            StoreError::Overloaded => "overloaded",
            StoreError::Corrupt(_) => "corrupt",
        };
        self.metrics.store_errors.with_label_values(&[kind]).inc();
        tracing::debug!(kind, %error, "store operation failed");
    }

    /// OWN-2: no other process can have adopted a session for which the store has granted something to this one, as its
    /// owner, that it asked for at `confirmed`. A process that was paused, or cut off from the store, must ask again
    /// before it forwards anything, also when its lease holds again.
    pub fn may_forward(&self, confirmed: Option<Instant>) -> bool {
        confirmed.is_some_and(|confirmed| self.lease.covers(confirmed))
    }

    /// The store has lost its data, so recently that owners may still be writing their sessions again. Asked when a
    /// session is not found: it need not be over.
    pub async fn data_lost(&self) -> bool {
        if let Err(error) = self.dataset.ask(&*self.store).await {
            self.count_store_error(&error);
        }
        self.dataset.changed_within(self.settings.session.lease)
    }

    /// How much of each stream's log is kept.
    pub fn log_limits(&self) -> LogLimits {
        let stream = &self.settings.stream;
        LogLimits { max_age: stream.resume_window, max_events: stream.resume_events, max_bytes: stream.resume_bytes }
    }

    /// The registry looks after this session soon.
    pub fn look_after(&self, session: SessionId) {
        if self.attention.try_send(session).is_err() {
            // The sweep finds it, or who waits for it does.
            self.metrics.dropped.with_label_values(&["look_after"]).inc();
        }
    }
}

/// The instances that were alive when they were last looked for; the registry's sweep says it.
#[derive(Debug, Clone)]
pub struct Neighbours(watch::Receiver<Arc<[Owner]>>);

impl Neighbours {
    /// Those that `seen` tells of.
    pub fn new(seen: watch::Receiver<Arc<[Owner]>>) -> Self {
        Self(seen)
    }

    /// This owner was alive. A fresh process may be unknown yet: `false` says nothing.
    pub fn saw_alive(&self, owner: &Owner) -> bool {
        self.0.borrow().contains(owner)
    }

    /// Whose incarnation this is, if it was alive.
    pub fn with_incarnation(&self, incarnation: &str) -> Option<Owner> {
        self.0.borrow().iter().find(|owner| *owner.incarnation == *incarnation).cloned()
    }

    /// How many there were, with this one.
    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// Another instance that was alive, at random.
    pub fn another(&self, me: &Owner) -> Option<Arc<str>> {
        let seen = self.0.borrow();
        let others: Vec<&Owner> = seen.iter().filter(|owner| owner.incarnation != me.incarnation).collect();
        (!others.is_empty()).then(|| Arc::clone(&others[fastrand::usize(..others.len())].incarnation))
    }
}
