//! [`Host`]: one a worker thread. Session actors live on worker threads, so an adoption that no HTTP request asks for
//! (the sweep) is done by one of these, in turn.

use std::{
    rc::Rc,
    sync::{Arc, PoisonError},
};

use actix::prelude::*;

use super::{
    Member,
    adopt::{Adoption, adopt},
    look_after::look_after,
    messages::{AdoptHere, AreYouThere, HostAddr},
};
use crate::lifecycle::Vital;

/// Adoptions that may wait for one thread; `send().await` waits beyond it.
const MAILBOX: usize = 64;

/// See the module's text.
#[derive(Debug)]
pub struct Host {
    member: Rc<Member>,
    /// Without it nothing is adopted on this thread, and nobody would ask whether the thread runs.
    _vital: Vital,
}

impl Host {
    /// Starts the host of the current thread, and lists it.
    pub fn launch(member: Rc<Member>) {
        let cluster = Arc::clone(&member.cluster);
        let host = Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let vital = member.cluster.lifecycle.vital("the host of a worker thread");
            Self { member, _vital: vital }
        });
        let addr = HostAddr { adopt: host.clone().recipient(), there: host.recipient() };
        cluster.hosts.lock().unwrap_or_else(PoisonError::into_inner).push(addr);
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
        let member = Rc::clone(&self.member);
        Box::pin(async move {
            let adopted = adopt(&member, from.session, &from.owner, from.generation, &from.service, from.cause).await;
            match adopted {
                Ok(adoption) => matches!(adoption, Adoption::Adopted(_)),
                Err(error) => {
                    member.cluster.env.count_store_error(&error);
                    // It may be ours on record by now.
                    look_after(&member, from.session, from.cause);
                    false
                }
            }
        })
    }
}
