//! Requests whose clients are told an error because nobody knows whether they were journaled: what the store does about them, as
//! soon as it answers, so that no answer comes after the error. REQ-2
//!
//! Only over Streamable HTTP: there the error is the answer. A client of HTTP+SSE reads its answers from its stream; a status
//! other than 202 is none, and the one that comes there is the only one.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use super::{deliver::NotDelivered, patience::for_as_long_as, resume::GONE_CLIENT_PAUSE, shared::Gateway};
use crate::{
    fault,
    protocol::{jsonrpc::Said, session_id::SessionId},
    session::messages::{DeliverError, Posted},
};

/// So many at a time. Each is a small operation a second while the store is away; an instance whose store has been silent for
/// `REDIS_DOUBT_WAIT` takes few requests that could come to this.
const MOST: usize = 4096;

/// The client of this POST is about to be told the error. Returns when it may be.
pub async fn before_telling(gateway: &Rc<Gateway>, session: SessionId, posted: &Arc<Posted>, error: &NotDelivered) {
    let Said::Request { id, .. } = &posted.said else { return };
    if fault::unprotected(fault::DISOWN) || !posted.own_stream || *error != NotDelivered::Refused(DeliverError::InDoubt)
    {
        return;
    }
    // Who is not there is told nothing: perhaps a proxy has gone on with this POST at another instance, which shows the answer.
    tokio::time::sleep(GONE_CLIENT_PAUSE).await;
    let (disowning, dropped) = (&gateway.shared.disowning, &gateway.env.metrics.dropped);
    if disowning.fetch_add(1, Ordering::Relaxed) >= MOST {
        disowning.fetch_sub(1, Ordering::Relaxed);
        dropped.with_label_values(&["not_disowned"]).inc();
        return;
    }
    let (gateway, posted, id_key) = (Rc::clone(gateway), Arc::clone(posted), id.shared_key());
    actix_rt::spawn(async move {
        let store = &gateway.env.store;
        // Later than that there is no session any more.
        let limit = gateway.env.settings.session.ttl;
        let disown = || store.disown(session, posted.post_id, &id_key);
        match for_as_long_as(&gateway, |_| limit, disown).await {
            Ok(_) => gateway.env.metrics.disowned.inc(),
            Err(_) => gateway.env.metrics.dropped.with_label_values(&["not_disowned"]).inc(),
        }
        gateway.shared.disowning.fetch_sub(1, Ordering::Relaxed);
    });
}
