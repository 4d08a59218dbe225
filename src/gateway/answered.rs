//! POSTs whose name (`X-Request-ID`) may be that of others, too. REQ-6
//!
//! A proxy tries a request again only if it has seen no answer to the try before; so a POST whose 202 has arrived is never
//! tried again, and the next one of the same name and body is another POST: the same notification once more, or the same
//! call after its answer. Therefore such a name is forgotten with the 202. Who meets it before that, on whatever
//! instance, takes a moment to see which of the two it is: an instance that lives forgets at once, one that was killed or
//! cut off before its 202 never does. docs/decisions/0009 has the reasons.
//!
//! The shipped nginx names each request by itself (`X-MCP-Request-Try`): none of this is done then.

use std::{
    rc::Rc,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use super::{
    deliver::{self, NotDelivered},
    patience::patiently,
    shared::Gateway,
};
use crate::{
    protocol::{post_id::PostId, session_id::SessionId},
    session::messages::{Delivered, Posted},
};

/// How long a known name is looked at before it counts as another try, in milliseconds between two looks: 600 ms in all,
/// which is many times what an instance needs to forget it, and little for a try that comes after a failure. Jittered, so
/// that of equal POSTs sent at the same time each finds its turn.
const LOOKS: [u64; 6] = [5, 15, 40, 80, 160, 300];

/// No proxy gives a request up as soon as this: a 202 within it has found somebody who waits.
const NOBODY_GIVES_UP_BEFORE: Duration = Duration::from_secs(1);

/// After a later 202 the connection shows, in so long, whether its other side is still there.
const CONNECTION_SHOWS: Duration = Duration::from_millis(50);

/// Delivers, and takes for a duplicate only what stays one.
///
/// # Errors
/// See [`NotDelivered`].
pub async fn deliver(
    gateway: &Rc<Gateway>,
    session: SessionId,
    posted: &Arc<Posted>,
) -> Result<Delivered, NotDelivered> {
    for pause in LOOKS {
        match deliver::deliver(gateway, session, posted).await? {
            Delivered::Duplicate(_) => {
                let jittered = fastrand::u64(pause / 2..=pause + pause / 2);
                tokio::time::sleep(Duration::from_millis(jittered)).await;
            }
            delivered => return Ok(delivered),
        }
    }
    deliver::deliver(gateway, session, posted).await
}

/// Forgets the POST, whose answer is about to be written, if that arrives. `begun`: when the whole message was there.
/// `connection`: lives for as long as the one that the answer goes to.
pub fn forget(gateway: &Rc<Gateway>, connection: Weak<()>, session: SessionId, post_id: PostId, begun: Instant) {
    let gateway = Rc::clone(gateway);
    let waited = begun.elapsed();
    actix_rt::spawn(async move {
        if !somebody_waits(waited, &connection).await {
            return;
        }
        let store = &gateway.env.store;
        // What cannot be forgotten now may hide one repetition; `patiently` counts it.
        let _ = patiently(&gateway, || store.forget_post(session, post_id)).await;
    });
}

/// The answer finds somebody who has `waited` for so long.
async fn somebody_waits(waited: Duration, connection: &Weak<()>) -> bool {
    if waited < NOBODY_GIVES_UP_BEFORE {
        return true;
    }
    tokio::time::sleep(CONNECTION_SHOWS).await;
    connection.strong_count() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// REQ-6
    #[tokio::test]
    async fn an_answer_that_finds_nobody_lets_the_name_stand() {
        let (open, late) = (Arc::new(()), NOBODY_GIVES_UP_BEFORE);
        assert!(somebody_waits(late, &Arc::downgrade(&open)).await);
        let closed = Arc::downgrade(&open);
        drop(open);
        assert!(!somebody_waits(late, &closed).await);
        assert!(somebody_waits(Duration::ZERO, &closed).await, "nobody gives up as soon as this");
        let unknown = Weak::new();
        assert!(!somebody_waits(late, &unknown).await, "of which nothing is known");
    }

    #[test]
    fn a_known_name_is_looked_at_for_longer_than_an_instance_needs_to_forget_it() {
        let shortest: u64 = LOOKS.iter().map(|pause| pause / 2).sum();
        assert!(Duration::from_millis(shortest) > CONNECTION_SHOWS * 4);
        assert!(LOOKS.is_sorted(), "the first looks are the soonest");
    }
}
