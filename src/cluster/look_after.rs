//! What is done about a session whose owner is suspected to be gone: its owner is woken until it hears, or the session is
//! adopted, as the [judge](super::ownership) says. Nothing in here is on the way of a message whose owner listens. OWN-9

use std::{rc::Rc, time::Duration};

use super::{
    Member,
    adopt::{Adoption, adopt},
    ownership::{Verdict, judge},
    suspects::Begun,
};
use crate::{
    backoff::Backoff,
    fault,
    lifecycle::Phase,
    protocol::session_id::SessionId,
    session::{handle::SessionHandle, messages::Look},
    store::{Ownership, StoreError, StoreResult},
};

/// First pause before a suspect is looked at again: about as long as a killed process needs to end. The longest is
/// `MCP_LEASE_RENEW`, the pace at which a lease can change.
pub const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Cause of an adoption: a stream was opened on this instance. The owner is to know of it, whatever it has claimed.
pub const ATTACH: &str = "attach";

/// Cause of an adoption: this process was the owner on record already, without an actor.
pub const AGAIN: &str = "again";

/// Held while a session is looked after.
struct LookedAfter {
    member: Rc<Member>,
    session: SessionId,
    over: bool,
}

impl LookedAfter {
    fn begin(member: &Rc<Member>, session: SessionId) -> Option<Self> {
        let limit = member.cluster.env.settings.limits.max_sessions;
        match member.cluster.suspects.begin(session, limit) {
            Begun::ByCaller => Some(Self { member: Rc::clone(member), session, over: false }),
            Begun::ByAnother => None,
            // The sweep and the owner's own look find it.
            Begun::TooMany => {
                member.cluster.env.metrics.dropped.with_label_values(&["look_after"]).inc();
                None
            }
        }
    }

    fn is_over(&mut self) -> bool {
        self.over = self.member.cluster.suspects.is_over(self.session);
        self.over
    }
}

impl Drop for LookedAfter {
    fn drop(&mut self) {
        if !self.over {
            self.member.cluster.suspects.leave(self.session);
        }
    }
}

/// Looks after a session beside whoever asks: until its owner is awake, or this process is it. One at a time for a
/// session; who asks meanwhile makes it look once more. `cause`: label of the metric, should it come to an adoption.
pub fn look_after(member: &Rc<Member>, session: SessionId, cause: &'static str) {
    let Some(mut held) = LookedAfter::begin(member, session) else { return };
    let member = Rc::clone(member);
    actix_rt::spawn(async move {
        loop {
            settle(&member, session, cause).await;
            if held.is_over() {
                break;
            }
        }
    });
}

/// What one look came to.
enum Settled {
    /// The owner is in this process.
    Here(SessionHandle),
    /// It is elsewhere, and knows; or there is nothing for it to know; or the session is over.
    Done,
    /// To be looked at again.
    NotYet,
}

/// Sees to it that the session has an owner, and that it looks at what waits for it: wakes it, or adopts the session.
/// Ends when that is so, or when this process drains. The actor, if the owner is in this process.
///
/// A suspected owner that lives is woken again until it hears: bounded by its own subscription coming back, by its
/// lease, and by the end of what waits for it.
pub async fn settle(member: &Rc<Member>, session: SessionId, cause: &'static str) -> Option<SessionHandle> {
    let cluster = &member.cluster;
    let mut backoff = Backoff::new(FIRST_PAUSE, cluster.env.settings.session.lease_renew);
    while cluster.lifecycle.phase() == Phase::Ready {
        match look(member, session, cause).await {
            Ok(Settled::Here(actor)) => {
                // Already awake if its mailbox is full.
                let _ = actor.try_send(Look);
                return Some(actor);
            }
            Ok(Settled::Done) => return None,
            Ok(Settled::NotYet) => {}
            Err(error) => {
                cluster.env.count_store_error(&error);
                if let StoreError::Corrupt(why) = error {
                    tracing::error!(%session, why, "a session that makes no sense is left alone");
                    return None;
                }
            }
        }
        tokio::time::sleep(backoff.pause()).await;
    }
    None
}

async fn look(member: &Rc<Member>, session: SessionId, cause: &'static str) -> StoreResult<Settled> {
    let cluster = &member.cluster;
    if let Some(actor) = cluster.env.directory.session(&session) {
        return Ok(Settled::Here(actor));
    }
    let Some(head) = cluster.env.store.load(session).await? else { return Ok(Settled::Done) };
    let nothing_waits = cause != ATTACH && !head.has_unclaimed();
    let Some(Ownership { owner, generation, .. }) = head.ownership else { return Ok(Settled::Done) };
    let is_other = !owner.incarnation.is_empty() && owner.incarnation != cluster.env.me.incarnation;
    let mut hears = false;
    if is_other && !fault::unprotected(fault::JUDGE) {
        // It may have been deaf for a moment only.
        hears = cluster.env.store.wake(&owner.incarnation, session).await? > 0;
        if hears && cluster.env.neighbours.saw_alive(&owner) {
            return Ok(Settled::Done);
        }
    }
    if judge(cluster, &owner).await? != Verdict::Gone {
        return Ok(if hears || nothing_waits { Settled::Done } else { Settled::NotYet });
    }
    let cause = if owner.incarnation == cluster.env.me.incarnation { AGAIN } else { cause };
    Ok(match adopt(member, session, &owner, generation, &head.service, cause).await? {
        Adoption::Adopted(actor) => Settled::Here(actor),
        // Somebody was faster, but may have read the inbox before our message.
        Adoption::OwnedBy(owner) if cluster.env.store.wake(&owner.incarnation, session).await? > 0 => Settled::Done,
        Adoption::NotFound | Adoption::UnknownService => Settled::Done,
        Adoption::OwnedBy(_) | Adoption::OwnerLives | Adoption::Refused => Settled::NotYet,
    })
}
