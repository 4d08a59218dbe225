//! One message of a client, into its session's journal. Any instance takes it for any session: the owner by its actor,
//! others by the store, which wakes the owner (OWN-6).

use std::{rc::Rc, sync::Arc, time::Instant};

use super::{
    patience::{LOST_DATA_PAUSE, StoreUnavailable, for_as_long_as},
    shared::Gateway,
};
use crate::{
    cluster::{look_after::look_after, ownership},
    fault,
    lifecycle::Phase,
    protocol::session_id::SessionId,
    session::{
        StreamKey,
        attachment::Attachment,
        inbound_view,
        messages::{AnswerStream, Deliver, DeliverError, Delivered, Posted},
    },
    settings::LimitSettings,
    store::{Accept, Accepted, ShownFrom, StoreError},
    traces::{Kind, Span},
};

/// How often a message looks for its session's owner anew before the client is told to try again: the owner may change
/// between two looks, but not for ever.
const OWNER_ATTEMPTS: usize = 5;

/// Why a message was not taken, or is not known to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotDelivered {
    /// The owner or the store says so.
    Refused(DeliverError),
    /// This instance goes down and does not own the session: another one takes the message.
    Draining,
}

impl From<DeliverError> for NotDelivered {
    fn from(error: DeliverError) -> Self {
        Self::Refused(error)
    }
}

impl From<StoreUnavailable> for NotDelivered {
    fn from(StoreUnavailable: StoreUnavailable) -> Self {
        Self::Refused(DeliverError::StoreUnavailable)
    }
}

/// Journals the message, wherever its session's owner is. REQ-1
///
/// # Errors
/// See [`NotDelivered`].
pub async fn deliver(
    gateway: &Rc<Gateway>,
    session: SessionId,
    posted: &Arc<Posted>,
) -> Result<Delivered, NotDelivered> {
    let delivered = deliver_to_owner(gateway, session, posted).await;
    delivered.map_err(|error| if posted.is_in_doubt() { in_doubt(error) } else { error })
}

/// The word on the last try does not tell what became of those before it, and what one of them may yet do.
fn in_doubt(error: NotDelivered) -> NotDelivered {
    match error {
        NotDelivered::Refused(
            DeliverError::StoreUnavailable
            | DeliverError::InDoubt
            | DeliverError::NotOwner
            | DeliverError::Vanished
            | DeliverError::TooMany
            | DeliverError::TooManyBytes
            | DeliverError::InstanceFull,
        ) => DeliverError::InDoubt.into(),
        // They hold for every try; of the last one another instance finds out.
        NotDelivered::Refused(
            DeliverError::Gone | DeliverError::WrongService | DeliverError::OtherVersion | DeliverError::IdInUse,
        )
        | NotDelivered::Draining => error,
    }
}

async fn deliver_to_owner(
    gateway: &Rc<Gateway>,
    session: SessionId,
    posted: &Arc<Posted>,
) -> Result<Delivered, NotDelivered> {
    let (begun, redis) = (Instant::now(), &gateway.env.settings.redis);
    let mut attempts = 0;
    while attempts < OWNER_ATTEMPTS {
        attempts += 1;
        let Some(owner) = gateway.env.directory.session(&session) else {
            return deliver_by_store(gateway, session, posted).await;
        };
        match owner.send(Deliver(Arc::clone(posted))).await {
            Ok(Ok(delivered)) => return Ok(delivered),
            Ok(Err(DeliverError::NotOwner)) => {}
            Ok(Err(DeliverError::Vanished)) => {
                if begun.elapsed() >= posted.patience(redis) {
                    return Err(DeliverError::StoreUnavailable.into());
                }
                attempts = 0;
                tokio::time::sleep(LOST_DATA_PAUSE).await;
            }
            Ok(Err(error)) => return Err(error.into()),
            // The actor has ended between look-up and message; whatever it did is in the store, or on its way there.
            Err(_) => {
                posted.is_lost();
                gateway.env.directory.remove_session(&session, &owner);
            }
        }
    }
    Err(DeliverError::StoreUnavailable.into())
}

/// The owner is elsewhere, or nowhere.
async fn deliver_by_store(
    gateway: &Rc<Gateway>,
    session: SessionId,
    posted: &Posted,
) -> Result<Delivered, NotDelivered> {
    if gateway.cluster.lifecycle.phase() != Phase::Ready {
        return Err(NotDelivered::Draining);
    }
    let mut accept = for_another_owner(session, posted, &gateway.env.settings.limits);
    let shown_by = posted.own_stream.then(|| (Arc::clone(&gateway.env.me.incarnation), Attachment::random_id()));
    accept.shown_by.clone_from(&shown_by);
    let (begun, redis) = (Instant::now(), &gateway.env.settings.redis);
    let patience = |error: &StoreError| {
        posted.failed(error);
        posted.patience(redis)
    };
    let accepted = loop {
        let accepted = for_as_long_as(gateway, patience, || gateway.env.store.accept(accept.clone())).await?;
        // The store came back empty: the session's owner, if it lives, is about to write it again.
        let is_late = begun.elapsed() >= posted.patience(redis);
        if accepted != Accepted::NotFound || is_late || !gateway.env.data_lost().await {
            break accepted;
        }
        tokio::time::sleep(LOST_DATA_PAUSE).await;
    };
    if let (Some(place), Some(tracer)) = (&posted.place, &gateway.env.traces) {
        tracer.record(Span::child(&place.context, "store accept", Kind::Client, begun));
    }
    let counters = &gateway.env.metrics.accepted;
    match &accepted {
        Accepted::Queued { owner, listeners, .. } => {
            counters.queued.inc();
            fault::point(fault::QUEUED);
            if ownership::is_suspect(&gateway.cluster, &session, owner, *listeners) {
                // Perhaps nobody will look. The message is safe either way, so the client need not wait for it.
                look_after(&gateway.member, session, "post");
            }
        }
        Accepted::Duplicate { .. } => {
            counters.duplicate.inc();
            // Also when it is claimed: by a journaling perhaps whose reply the owner has not had. It looks for it then. And
            // it may have died since, or hang.
            look_after(&gateway.member, session, "post");
        }
        Accepted::TooManyPending | Accepted::TooManyBytes | Accepted::IdInUse => counters.refused.inc(),
        Accepted::Stranger
        | Accepted::WrongService
        | Accepted::OtherVersion
        | Accepted::Disowned
        | Accepted::NotFound
        | Accepted::Forward { .. }
        | Accepted::Fenced
        | Accepted::Older => {}
    }
    let stream = shown_by.and_then(|(_, id)| {
        let (Accepted::Queued { seq, shown, .. } | Accepted::Duplicate { seq, shown, .. }) = accepted else {
            return None;
        };
        let ShownFrom { epoch, last_event: from } = shown?;
        let limit = gateway.env.settings.stream.client_queue_bytes;
        let attachment = Attachment::with_id(id, session, StreamKey::Request(seq), limit);
        Some(AnswerStream { attachment, epoch, from, is_registered: true })
    });
    outcome(&accepted, stream).map_err(NotDelivered::from)
}

/// The message as an instance journals it that does not own the session.
fn for_another_owner(session: SessionId, posted: &Posted, limits: &LimitSettings) -> Accept {
    let (message, changes) = inbound_view(posted);
    Accept {
        session,
        by: posted.by.clone(),
        service: posted.service.as_deref().map(str::to_owned),
        version: posted.version,
        post_id: posted.post_id,
        message,
        body: posted.body.clone(),
        fence: None,
        forward_now: false,
        acked: 0,
        known: 0,
        changes,
        shown_by: None,
        // Beyond MCP_MAX_INFLIGHT the owner refuses it on the stream: a status other than 2xx ends the session of some
        // clients. MEM-5
        max_pending: limits.max_inflight + limits.max_inbox,
        max_inbox: limits.max_inbox,
        max_bytes: limits.inbox_bytes(),
    }
}

/// What the store's word means for the one who posted.
fn outcome(accepted: &Accepted, stream: Option<AnswerStream>) -> Result<Delivered, DeliverError> {
    match accepted {
        Accepted::Queued { .. } => Ok(Delivered::Accepted(stream)),
        Accepted::Duplicate { .. } => Ok(Delivered::Duplicate(stream)),
        Accepted::TooManyPending => Err(DeliverError::TooMany),
        Accepted::TooManyBytes => Err(DeliverError::TooManyBytes),
        Accepted::IdInUse => Err(DeliverError::IdInUse),
        Accepted::WrongService => Err(DeliverError::WrongService),
        Accepted::OtherVersion => Err(DeliverError::OtherVersion),
        Accepted::Disowned => Err(DeliverError::InDoubt),
        Accepted::NotFound | Accepted::Stranger => Err(DeliverError::Gone),
        // Not for a caller without a fence.
        Accepted::Forward { .. } | Accepted::Fenced | Accepted::Older => Err(DeliverError::NotOwner),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        protocol::{jsonrpc::Head, post_id::PostId},
        session::messages::Tries,
        settings::Settings,
        store::{Binding, ClientMessage, Owner},
    };

    /// REQ-1: nothing but what the journal has is accepted.
    #[test]
    fn only_what_the_journal_has_counts_as_accepted() {
        let owner = Owner { instance_id: "a".into(), incarnation: "b".into() };
        for (accepted, expected) in [
            (
                Accepted::Queued { seq: 1, owner, generation: 1, listeners: 0, shown: None },
                Ok(Delivered::Accepted(None)),
            ),
            (Accepted::Duplicate { seq: 1, claimed: true, shown: None }, Ok(Delivered::Duplicate(None))),
            (Accepted::TooManyPending, Err(DeliverError::TooMany)),
            (Accepted::TooManyBytes, Err(DeliverError::TooManyBytes)),
            (Accepted::IdInUse, Err(DeliverError::IdInUse)),
            (Accepted::WrongService, Err(DeliverError::WrongService)),
            (Accepted::OtherVersion, Err(DeliverError::OtherVersion)),
            (Accepted::Disowned, Err(DeliverError::InDoubt)),
            (Accepted::NotFound, Err(DeliverError::Gone)),
            (Accepted::Stranger, Err(DeliverError::Gone)),
            (Accepted::Forward { seq: 1 }, Err(DeliverError::NotOwner)),
            (Accepted::Fenced, Err(DeliverError::NotOwner)),
            (Accepted::Older, Err(DeliverError::NotOwner)),
        ] {
            assert_eq!(outcome(&accepted, None), expected, "{accepted:?}");
        }
    }

    /// OWN-6: who does not own the session claims nothing in its owner's name.
    #[test]
    fn a_message_for_another_owner_is_journaled_and_not_claimed() {
        let limits = Settings::from_pairs([("MCP_MAX_INFLIGHT", "10"), ("MCP_MAX_INBOX", "5")]).unwrap().limits;
        let body = Bytes::from_static(br#"{"jsonrpc":"2.0","id":7,"method":"tools/call"}"#);
        let said = Head::parse(&body).unwrap().said();
        let post_id = PostId::of("x", &body);
        let posted = Posted {
            body: body.clone(),
            said,
            by: Binding::new("p", ["a"]),
            service: Some("s".into()),
            post_id,
            versioned: false,
            version: Some("2025-06-18"),
            place: None,
            tries: Tries::default(),
            own_stream: false,
        };
        let accept = for_another_owner(SessionId::random(), &posted, &limits);
        assert!(accept.fence.is_none() && !accept.forward_now);
        assert_eq!((accept.acked, accept.known, accept.version), (0, 0, Some("2025-06-18")));
        assert!(matches!(accept.message, ClientMessage::Request { .. }));
        assert_eq!((accept.body, accept.post_id, accept.service.as_deref()), (body, post_id, Some("s")));
        assert_eq!(accept.by, posted.by, "SEC-1");
        // The owner refuses on the stream what goes beyond MCP_MAX_INFLIGHT. MEM-5
        assert_eq!((accept.max_pending, accept.max_inbox), (15, 5));
    }
}
