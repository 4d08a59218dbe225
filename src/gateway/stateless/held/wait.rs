//! Calls that wait for their clients: they have asked something, or may be asked for their answer once more. Bounded by
//! `MCP_INPUT_WAIT`; the timers are this instance's, and when it dies the session's own time is the bound.

use std::rc::Rc;

use super::{seat::Seat, state::State};
use crate::gateway::{inner::Inner, shared::Gateway};

/// The call's server waits for answers. Ends the session when none has come in time.
pub(super) fn for_its_client(gateway: &Rc<Gateway>, seat: Seat, state: State) {
    if let Seat::Lent(lent) = &seat {
        lent.apart();
    }
    let goes_on = gateway.shared.inner.waits(state.session);
    let gateway = Rc::clone(gateway);
    let beside = Rc::clone(&gateway);
    beside.beside(async move {
        let limit = gateway.env.settings.inner.input_wait;
        if tokio::time::timeout(limit, goes_on).await.is_ok() {
            // Its client has come back, here.
            return;
        }
        gateway.shared.inner.goes_on(&state.session);
        match gateway.env.store.load(state.session).await {
            // It has come back somewhere else, or is about to.
            Ok(Some(head)) if !state.asked.iter().any(|id| head.continuation.questions.contains_key(id)) => return,
            Ok(None) => return,
            Ok(Some(_)) => {}
            Err(error) => gateway.env.count_store_error(&error),
        }
        gateway.env.metrics.dropped.with_label_values(&["input_never_came"]).inc();
        // A session that is gone has nothing to cancel.
        let _ = seat.inner().cancel(&state.id, "nobody has answered what was asked").await;
        seat.inner().end().await;
    });
}

/// The client has been told the answer, and may have lost it.
pub(super) fn for_second_thoughts(gateway: &Rc<Gateway>, inner: Inner) {
    let limit = gateway.env.settings.inner.input_wait;
    gateway.beside(async move {
        actix_rt::time::sleep(limit).await;
        inner.end().await;
    });
}
