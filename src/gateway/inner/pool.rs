//! Which inner sessions are kept for the next call: one kind for each service, principal, set of capabilities and level of
//! logs, since a server learns these once a session.
//!
//! A session whose server may ask the client something, or logs, works on one call at a time: over HTTP+SSE, and from servers
//! that speak on their own stream, nothing else tells about which call that is. All others are shared.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use super::{
    kept::{Entry, Kind},
    session::{Failed, Inner},
};
use crate::{
    gateway::shared::Gateway, lifecycle::Phase, protocol::session_id::SessionId, session::returning::Client,
    store::Binding, upstream::Service,
};

/// How often a call looks for another session when the one that it was given is gone.
const ATTEMPTS: usize = 3;

/// A session for one call. Dropped, it goes back to where it was.
#[derive(Debug)]
pub struct Lent {
    /// The session.
    pub inner: Inner,
    /// The server's result of `initialize` (JSON text).
    pub told: Arc<str>,
    gateway: Rc<Gateway>,
    kind: Kind,
    entry: Arc<Entry>,
}

impl Lent {
    /// Nobody else is given it from now on, until it is dropped: for a call whose session belongs to what comes of it. It counts
    /// as one of this instance's until then.
    pub fn apart(&self) {
        self.gateway.shared.inner.remove(&self.kind, &self.entry);
    }

    /// After [`Self::apart`]: it waits for the next call again.
    pub fn back(self) {
        self.gateway.shared.inner.put_back(&self.kind, &self.entry);
    }

    /// As [`Self::apart`], and its server is told that it is over, too.
    pub fn end(&self) {
        self.apart();
        let inner = self.inner.clone();
        self.gateway.beside(async move { inner.end().await });
    }

    /// What it is one of.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.entry.is_over();
    }
}

/// A new one, with its handshake: its name, and what its server told.
async fn open(
    gateway: &Rc<Gateway>,
    service: &Arc<Service>,
    by: &Binding,
    kind: &Kind,
) -> Result<(SessionId, Arc<str>), Failed> {
    let client = if kind.is_led_to() { Client::gateway() } else { Client::gateway_in_passing() };
    let inner = Inner::open(gateway, service, by, client).await?;
    let mut opening = Opening { gateway, inner, is_open: false };
    let told = opening.inner.initialize(&kind.capabilities, kind.level.as_deref()).await?;
    opening.is_open = true;
    Ok((opening.inner.session, told))
}

/// One whose handshake is not over. Dropped before that, as when its client leaves, it ends: nobody would know of it.
struct Opening<'g> {
    gateway: &'g Rc<Gateway>,
    inner: Inner,
    is_open: bool,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if !self.is_open {
            let inner = self.inner.clone();
            self.gateway.beside(async move { inner.end().await });
        }
    }
}

/// What is done with a session that works on one call at a time. Dropped before that is done, nobody knows whether the call runs,
/// and what is said about it would be taken for a word on the next one: the session ends.
struct Working<'l> {
    lent: &'l Lent,
    is_done: bool,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if !self.is_done && self.lent.kind.is_alone() {
            self.lent.end();
        }
    }
}

/// A place for a session of this kind. One of another kind that waits makes room, the one that has waited longest.
fn choose(gateway: &Rc<Gateway>, service: &Arc<Service>, by: &Binding, kind: &Kind) -> Option<Arc<Entry>> {
    let (pool, settings) = (&gateway.shared.inner, &gateway.env.settings);
    let calls = settings.inner.calls.min(settings.limits.max_inflight);
    let choose = || pool.choose(kind, calls, settings.inner.sessions).map(|(entry, _)| entry);
    choose().or_else(|| {
        let waits = pool.remove_longest_idle()?;
        if let Some((session, _)) = waits.opened.get() {
            let inner = Inner::at(gateway, service, by, *session);
            gateway.beside(async move { inner.end().await });
        }
        // Its place is free.
        drop(waits);
        choose()
    })
}

/// A session of this kind: one that waits, or a new one.
///
/// # Errors
/// See [`Failed`].
pub async fn lend(gateway: &Rc<Gateway>, service: &Arc<Service>, by: &Binding, kind: &Kind) -> Result<Lent, Failed> {
    let entry = choose(gateway, service, by, kind).ok_or(Failed::TooMany)?;
    // From here on the call counts until this is dropped.
    let nobody = Inner::at(gateway, service, by, SessionId::random());
    let mut lent = Lent { inner: nobody, told: Arc::from(""), gateway: Rc::clone(gateway), kind: kind.clone(), entry };
    // Many may wait for the same one: one opens it, and what has failed for one is tried by none of them again.
    let is_mine = Cell::new(false);
    let opened = lent
        .entry
        .opened
        .get_or_try_init(|| async {
            if lent.entry.has_failed.load(Ordering::Acquire) {
                return Err(Failed::NoServer(service.name.clone()));
            }
            let opened = open(gateway, service, by, kind).await;
            is_mine.set(opened.is_ok());
            lent.entry.has_failed.store(opened.is_err(), Ordering::Release);
            opened
        })
        .await;
    match opened {
        Ok((session, told)) => {
            let (session, told) = (*session, Arc::clone(told));
            (lent.inner, lent.told) = (Inner::at(gateway, service, by, session), told);
            if is_mine.get() {
                watch(gateway, service, by, kind.clone(), Arc::clone(&lent.entry));
            }
            Ok(lent)
        }
        Err(error) => {
            lent.apart();
            Err(error)
        }
    }
}

/// Lends a session and does this with it; with another one if it turns out to be gone, which has seen nothing then.
///
/// # Errors
/// See [`Failed`].
pub async fn with_session<T>(
    gateway: &Rc<Gateway>,
    service: &Arc<Service>,
    by: &Binding,
    kind: &Kind,
    work: impl AsyncFn(&Inner) -> Result<T, Failed>,
) -> Result<(Lent, T), Failed> {
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        let lent = lend(gateway, service, by, kind).await?;
        let mut working = Working { lent: &lent, is_done: false };
        let done = work(&lent.inner).await;
        working.is_done = !done.as_ref().is_err_and(Failed::is_in_doubt);
        drop(working);
        match done {
            Ok(done) => return Ok((lent, done)),
            Err(error) if error.is_gone() && attempts > 0 => lent.apart(),
            Err(error) => return Err(error),
        }
    }
}

/// Ends the session when nobody has used it for `MCP_INNER_IDLE`. When this instance goes down, the drain sees to it.
fn watch(gateway: &Rc<Gateway>, service: &Arc<Service>, by: &Binding, kind: Kind, entry: Arc<Entry>) {
    let (gateway, service, by) = (Rc::clone(gateway), Arc::clone(service), by.clone());
    let entry = Arc::downgrade(&entry);
    actix_rt::spawn(async move {
        let mut phase = gateway.cluster.lifecycle.subscribe();
        let mut wait = gateway.env.settings.inner.idle;
        loop {
            if tokio::time::timeout(wait, phase.wait_for(|phase| *phase >= Phase::Draining)).await.is_ok() {
                return;
            }
            let Some(entry) = entry.upgrade() else { return };
            let limit = gateway.env.settings.inner.idle;
            match entry.idle_for() {
                Some(idle) if idle >= limit => {
                    // Taken at this very moment, it is its call's.
                    if gateway.shared.inner.remove_idle(&kind, &entry) {
                        if let Some((session, _)) = entry.opened.get() {
                            Inner::at(&gateway, &service, &by, *session).end().await;
                        }
                        return;
                    }
                    wait = limit;
                }
                Some(idle) => wait = limit - idle,
                None => wait = limit,
            }
        }
    });
}
