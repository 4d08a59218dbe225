//! How many calls of each principal are under way (`MCP_PRINCIPAL_CALLS`), at all instances together. The store counts; here
//! stands which of them this instance vouches for.
//!
//! A call is counted where it comes in, under a name that any instance would give it. From then on whoever has it keeps it:
//! the owner of its session while it waits for its answer, or who runs a call without a session. What nobody keeps is over
//! by itself: a process that is killed leaves nothing behind, and what an heir takes over the heir keeps.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use crate::{
    protocol::{jsonrpc::IdKey, mcp, session_id::SessionId},
    settings::Settings,
    store::{Binding, SessionStore, StoreError, StoreResult},
};

/// Calls of one principal in one command.
const TOGETHER: usize = 256;

/// Principals that the store is told of at a time.
const AT_ONCE: usize = 32;

/// Ended calls that the store has not been told of. It is told at once; when it does not hear, they are over by themselves.
const ENDED_MAX: usize = 65_536;

type Held = HashMap<Arc<str>, Holders>;

/// Of one call.
#[derive(Debug, Default)]
struct Holders {
    /// How many vouch for it here.
    count: usize,
    /// One of them has seen its end.
    is_over: bool,
}

/// Names by principal.
type Names = HashMap<Arc<str>, Vec<Arc<str>>>;

/// See the module's text.
#[derive(Debug)]
pub struct Calls {
    limit: usize,
    life: Duration,
    renewal: Duration,
    held: Mutex<HashMap<Arc<str>, Held>>,
    ended: Mutex<Vec<(Arc<str>, Arc<str>)>>,
    told: Notify,
    incarnation: Arc<str>,
    next: AtomicU64,
}

/// A call that this instance vouches for while this lives; then it is over.
#[derive(Debug)]
pub struct Counted {
    calls: Arc<Calls>,
    principal: Arc<str>,
    name: Arc<str>,
    is_over: bool,
}

impl Calls {
    /// Of nobody yet.
    pub fn new(settings: &Settings, incarnation: &Arc<str>) -> Self {
        let lease = settings.session.lease;
        Self {
            limit: settings.limits.principal_calls,
            // A session is taken over when its owner's lease is over, and then the heir keeps them.
            life: lease * 3,
            renewal: lease / 2,
            held: Mutex::default(),
            ended: Mutex::default(),
            told: Notify::new(),
            incarnation: Arc::clone(incarnation),
            next: AtomicU64::new(0),
        }
    }

    /// How many there may be, and how long one lasts that nobody keeps. `None`: of this one none are counted.
    pub fn limit(&self, by: &Binding) -> Option<(usize, Duration)> {
        (self.limit > 0 && !by.principal().is_empty()).then_some((self.limit, self.life))
    }

    /// The name of a request of a session, at whichever instance; without one, of a call that only this process knows.
    pub fn name(&self, of: Option<(&SessionId, &IdKey)>) -> Arc<str> {
        let mut hasher = Sha256::new();
        match of {
            Some((session, id)) => {
                hasher.update(session.reveal_bytes());
                hasher.update(id.key());
            }
            None => {
                hasher.update(&*self.incarnation);
                hasher.update(self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            }
        }
        data_encoding::HEXLOWER.encode(&hasher.finalize()[..16]).into()
    }

    /// This instance vouches for the call.
    pub fn hold(self: &Arc<Self>, by: &Binding, name: Arc<str>) -> Counted {
        let principal: Arc<str> = by.principal().into();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.entry(Arc::clone(&principal)).or_default().entry(Arc::clone(&name)).or_default().count += 1;
        drop(held);
        Counted { calls: Arc::clone(self), principal, name, is_over: true }
    }

    /// The same for a request of a session that waits for its answer at its owner, if it counts.
    pub fn hold_request(
        self: &Arc<Self>,
        by: &Binding,
        session: &SessionId,
        (id, method): (&IdKey, &str),
    ) -> Option<Counted> {
        let counts = self.limit(by).is_some() && is_counted(method);
        counts.then(|| self.hold(by, self.name(Some((session, id)))))
    }

    /// Tells the store, for as long as the process runs. `failed`: what it did not hear.
    pub async fn keep_up(&self, store: &dyn SessionStore, failed: impl Fn(&StoreError)) {
        if self.limit == 0 {
            return;
        }
        loop {
            let is_due = tokio::time::timeout(self.renewal, self.told.notified()).await.is_err();
            if is_due {
                self.renew(store, &failed).await;
            }
            let ended = std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner));
            let mut by = Names::new();
            for (principal, name) in ended {
                by.entry(principal).or_default().push(name);
            }
            // What cannot be said is over by itself.
            each(&by, &failed, async |principal, names| store.leave(principal, names).await).await;
        }
    }

    async fn renew(&self, store: &dyn SessionStore, failed: &impl Fn(&StoreError)) {
        let held = self.names();
        each(&held, failed, async |principal, names| store.keep_calls(principal, names, self.life).await).await;
    }

    fn names(&self) -> Names {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().map(|(principal, names)| (Arc::clone(principal), names.keys().map(Arc::clone).collect())).collect()
    }

    fn end(&self, counted: &Counted) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(names) = held.get_mut(&counted.principal) else { return };
        let Some(holders) = names.get_mut(&counted.name) else { return };
        holders.count -= 1;
        holders.is_over |= counted.is_over;
        let is_over = holders.is_over;
        if holders.count > 0 {
            return;
        }
        names.remove(&counted.name);
        if names.is_empty() {
            held.remove(&counted.principal);
        }
        drop(held);
        if is_over {
            let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            if ended.len() < ENDED_MAX {
                ended.push((Arc::clone(&counted.principal), Arc::clone(&counted.name)));
            }
            drop(ended);
            self.told.notify_one();
        }
    }
}

/// Requests that are answered at once and ask for nothing are none.
pub fn is_counted(method: &str) -> bool {
    method != mcp::PING
}

async fn each(names: &Names, failed: &impl Fn(&StoreError), tell: impl AsyncFn(&str, &[Arc<str>]) -> StoreResult<()>) {
    let parts = names.iter().flat_map(|(principal, names)| names.chunks(TOGETHER).map(move |part| (principal, part)));
    let tell = &tell;
    stream::iter(parts)
        .for_each_concurrent(AT_ONCE, |(principal, part)| async move {
            if let Err(error) = tell(principal, part).await {
                failed(&error);
            }
        })
        .await;
}

impl Counted {
    /// Somebody else keeps it, or will.
    pub fn passed_on(mut self) {
        self.is_over = false;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.calls.end(self);
    }
}
