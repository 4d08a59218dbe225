//! POSTs whose name (`X-Request-ID`) may be that of others, too. REQ-6
//!
//! A proxy tries a request again only if it has seen no answer to the try before; so a POST whose 202 has arrived is never
//! tried again, and the next one of the same name and body is another POST: the same notification once more, or the same
//! call after its answer. Therefore such a name is forgotten with the 202. Who meets it before that, on whatever
//! instance, takes a moment to see which of the two it is: an instance that lives forgets at once, one that was killed or
//! cut off before its 202 never does. docs/decisions/0009 has the reasons.
//!
//! The shipped nginx names each request by itself ([`Name::OfOneRequest`](super::forwarded::Name)): none of this is done
//! then.

use std::{
    rc::Rc,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use actix_web::HttpRequest;

use super::{
    connections::Open,
    message::{self, Failure, patiently},
};
use crate::{
    app::Worker,
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
pub(super) async fn deliver(
    worker: &Rc<Worker>,
    session: SessionId,
    posted: &Arc<Posted>,
) -> Result<Delivered, Failure> {
    for pause in LOOKS {
        match message::deliver(worker, session, posted).await? {
            Delivered::Duplicate => {
                let jittered = fastrand::u64(pause / 2..=pause + pause / 2);
                tokio::time::sleep(Duration::from_millis(jittered)).await;
            }
            delivered => return Ok(delivered),
        }
    }
    message::deliver(worker, session, posted).await
}

/// Forgets the POST, whose 202 is about to be written, if it arrives. `begun`: when the whole request was there.
pub(super) fn forget(worker: &Rc<Worker>, request: &HttpRequest, session: SessionId, post_id: PostId, begun: Instant) {
    let in_time = begun.elapsed() < NOBODY_GIVES_UP_BEFORE;
    let connection: Weak<()> = request.conn_data::<Open>().map(Open::watch).unwrap_or_default();
    let worker = Rc::clone(worker);
    actix_rt::spawn(async move {
        if !in_time {
            tokio::time::sleep(CONNECTION_SHOWS).await;
            if connection.strong_count() == 0 {
                return;
            }
        }
        let store = &worker.app.store;
        // What cannot be forgotten now may hide one repetition; `patiently` counts it.
        let _ = patiently(&worker, || store.forget_post(session, post_id)).await;
    });
}
