//! A message of the client as it is journaled, and what is kept of it until it is done: plain types, shared by the files of the
//! actor.

use std::{sync::Arc, time::Instant};

use actix::SpawnHandle;
use bytes::Bytes;
use memchr::memmem;
use prometheus::IntGauge;

use super::{
    calls::Counted,
    core::{posts, requests, setup::Effect},
    held::Held,
    messages::Posted,
    timing::Begun,
    traced,
};
use crate::{
    metrics::Method,
    policy::List,
    protocol::{
        jsonrpc::{Head, IdKey, Said},
        mcp,
    },
    store::{ClientMessage, HeadChange, Initialized, PendingRequest},
    upstream::tools::Tools,
};

/// A journaled message of the client, parsed once.
#[derive(Debug)]
pub struct Arrived {
    pub(super) body: Bytes,
    pub(super) said: Said,
    /// When its owner began to journal it; `None`: found in the journal.
    pub(super) asked: Option<Instant>,
}

impl Arrived {
    /// From the store; `None` for what was never a message (not journaled by any router).
    pub(super) fn parse(body: Bytes) -> Option<Self> {
        let said = Head::parse(&body).ok()?.said();
        Some(Self { body, said, asked: None })
    }

    /// As it begins for the metrics. To be called when it has just been found, or journaled.
    pub(super) fn begun(&self) -> Begun {
        let method = match &self.said {
            Said::Request { method, .. } => Method::of(method),
            Said::Notification { .. } | Said::Response { .. } => Method::unknown(),
        };
        self.asked.map_or_else(|| Begun::found(method), |asked| Begun::journaled(method, asked))
    }
}

/// What is kept with a request until it has its answer.
#[derive(Debug)]
pub struct Kept {
    pub(super) effect: Effect,
    pub(super) begun: Begun,
    /// It asks for this list, of which its client may not see all.
    pub(super) list: Option<List>,
    /// Of a session with many streams: by which the server names this request in its progress (JSON text).
    pub(super) token: Option<Box<str>>,
    /// Its part of what this process holds.
    #[expect(dead_code, reason = "counts until it is dropped")]
    pub(super) held: Held,
    /// It is counted for its principal.
    pub(super) counted: Option<Counted>,
}

impl Kept {
    /// Of a request that is answered at once.
    pub(super) fn nothing(begun: Begun, held: &IntGauge) -> Self {
        Self { effect: Effect::None, begun, list: None, token: None, held: Held::new(held, 0), counted: None }
    }
}

/// A request without an answer.
pub type InFlight = requests::InFlight<Kept>;

/// What goes up, with the futures of its POSTs.
pub type Posts = posts::Posts<SpawnHandle, Kept>;

/// A request as the store has it; with the id as the client wrote it.
pub(super) fn inherited(
    pending: PendingRequest,
    tools: &Tools,
    held: &IntGauge,
    has_many_streams: bool,
    count: impl FnOnce(&IdKey, &str) -> Option<Counted>,
) -> (IdKey, InFlight) {
    let PendingRequest { seq, id_key: table_key, forwarded, body } = pending;
    let (id, method, effect, list, counted) = match Head::parse(&body).map(|head| head.said()) {
        Ok(Said::Request { id, method }) => {
            let counted = count(&id, &method);
            (id, Method::of(&method), Effect::of(&method, &body, || tools.version()), List::of(&method), counted)
        }
        // Lost with the store's data, and restored without it.
        _ => (IdKey::from_stored(Arc::clone(&table_key)), Method::unknown(), Effect::None, None, None),
    };
    let token = if has_many_streams { progress_token(&body) } else { None };
    let kept = Kept { effect, begun: Begun::found(method), list, token, held: Held::new(held, body.len()), counted };
    (id, InFlight::inherited(seq, table_key, forwarded, Instant::now(), kept))
}

/// By which the server is to name this request in its progress. Most name nothing, and are not read for it.
pub(super) fn progress_token(body: &[u8]) -> Option<Box<str>> {
    memmem::find(body, b"\"progressToken\"")?;
    Some(mcp::progress_token_asked(Head::parse(body).ok()?.params)?.into())
}

/// The store's view of a message: kind, and what its journaling changes in the same step.
///
/// That the POST carried its protocol version tells its client from others when it comes back.
pub fn journal_view(posted: &Posted) -> (ClientMessage, Vec<HeadChange>) {
    let Posted { said, body, versioned, place, .. } = posted;
    match said {
        Said::Request { id, .. } => {
            let place = place.as_ref().map(|place| traced::on_record(id.shared_key(), &place.context));
            (ClientMessage::Request { id_key: id.shared_key() }, place.into_iter().collect())
        }
        Said::Notification { method } if **method == *mcp::INITIALIZED => {
            let how = if *versioned { Initialized::WithVersion } else { Initialized::Plain };
            (ClientMessage::Notification, vec![HeadChange::Initialized(how)])
        }
        Said::Notification { method } if **method == *mcp::CANCELLED => {
            let cancel = target(body).map(|id| ClientMessage::Cancel { id_key: id.shared_key() });
            (cancel.unwrap_or(ClientMessage::Notification), Vec::new())
        }
        Said::Notification { .. } => (ClientMessage::Notification, Vec::new()),
        Said::Response { id } => (ClientMessage::Response, id.iter().map(answered).collect()),
    }
}

/// The request that this `notifications/cancelled` gives up.
pub(super) fn target(body: &[u8]) -> Option<IdKey> {
    Head::parse(body).ok().and_then(|head| mcp::cancelled_request_id(head.params)).and_then(IdKey::of_json)
}

/// The question with this id towards the client has its answer, which may write the id in another way.
pub(super) fn answered(id: &IdKey) -> HeadChange {
    HeadChange::Settled { id: id.key().to_owned() }
}
