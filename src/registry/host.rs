//! [`Host`]: one a worker thread. Session actors live on worker threads, so an adoption that no HTTP request asks for
//! (the sweep) is done by one of these, in turn.

use std::rc::Rc;

use actix::prelude::*;

use super::adopt::{Adoption, adopt};
use crate::{app::Worker, cluster::ownership, lifecycle::Vital, protocol::session_id::SessionId, store::Owner};

/// Adoptions that may wait for one thread; `send().await` waits beyond it.
const MAILBOX: usize = 64;

/// See the module's text.
#[derive(Debug)]
pub struct Host {
    worker: Rc<Worker>,
    /// Without it nothing is adopted on this thread, and nobody would ask whether the thread runs.
    _vital: Vital,
}

/// Adopts a session from the owner that had it with this generation and is gone. Reply: whether this process owns it
/// now.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct AdoptHere {
    /// The session.
    pub session: SessionId,
    /// Who owns it according to the store.
    pub owner: Owner,
    /// Generation of that ownership.
    pub generation: u64,
    /// The session's service.
    pub service: String,
    /// Label of the metric.
    pub cause: &'static str,
}

/// Asks whether the thread runs. The reply is the whole effect.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AreYouThere;

impl Host {
    /// Starts the host of the current thread.
    pub fn launch(worker: Rc<Worker>) -> Addr<Self> {
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let vital = worker.app.lifecycle.vital("the host of a worker thread");
            Self { worker, _vital: vital }
        })
    }
}

impl Actor for Host {
    type Context = Context<Self>;
}

impl Handler<AreYouThere> for Host {
    type Result = ();

    fn handle(&mut self, _: AreYouThere, _ctx: &mut Self::Context) {}
}

impl Handler<AdoptHere> for Host {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, from: AdoptHere, _ctx: &mut Self::Context) -> Self::Result {
        let worker = Rc::clone(&self.worker);
        Box::pin(async move {
            let adopted =
                adopt(&worker, from.session, &from.owner, from.generation, Some(&from.service), from.cause).await;
            match adopted {
                Ok(adoption) => matches!(adoption, Adoption::Adopted(_)),
                Err(error) => {
                    worker.app.count_store_error(&error);
                    // It may be ours on record by now.
                    ownership::look_after(&worker, from.session, from.cause);
                    false
                }
            }
        })
    }
}
