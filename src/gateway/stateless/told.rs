//! What a server says about one request of this era, message by message.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{
    metrics::Rows,
    protocol::{
        jsonrpc::{self, Head, IdKey, Kind},
        scan::Told as Scanned,
    },
    upstream::{Endpoint, LinkEvent, Piece, Reply, ReplyEnd, actor::CallError, notice::LinkLimits},
};

/// One message.
#[derive(Debug)]
pub(super) enum Told {
    /// About the request, and not its response.
    Notification(Bytes),
    /// Its response; nothing follows.
    Response {
        /// As it came.
        body: Bytes,
        /// It has a result.
        success: bool,
    },
    /// An error (JSON text) that names no request, or one that nobody here has made: there is but this one. Nothing follows.
    Nameless(Bytes),
}

/// See the module's text. Dropped, it ends the connection, and so the request.
pub(super) struct Reading {
    reply: Reply,
    limits: LinkLimits,
    id: IdKey,
    read: VecDeque<LinkEvent>,
    end: Option<ReplyEnd>,
    dropped: Rows,
}

impl Reading {
    /// Of the answer to the request of this id. `dropped`: what is not passed on is counted there.
    pub(super) fn new(reply: Reply, limits: LinkLimits, id: IdKey, dropped: Rows) -> Self {
        Self { reply, limits, id, read: VecDeque::new(), end: None, dropped }
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// There is no response, or none that can be passed on.
    pub(super) async fn next(&mut self) -> Result<Told, CallError> {
        loop {
            while let Some(event) = self.read.pop_front() {
                if let Some(told) = self.sort(event)? {
                    return Ok(told);
                }
            }
            match self.end.take() {
                None => {
                    let Piece { events, end } = self.reply.next(self.limits).await;
                    self.read.extend(events);
                    self.end = end;
                }
                Some(ReplyEnd::Nameless(error)) => {
                    return Ok(Told::Nameless(error));
                }
                Some(ReplyEnd::Unreadable) => return Err(CallError::Nonsense),
                Some(ReplyEnd::Whole) => return Err(CallError::Lost("its answer ended without a response".to_owned())),
                Some(ReplyEnd::Broken) => return Err(CallError::Lost("its answer broke off".to_owned())),
            }
        }
    }

    /// The same, of a server that may be given up meanwhile.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub(super) async fn next_of(&mut self, endpoint: &Endpoint) -> Result<Told, CallError> {
        tokio::select! {
            biased;
            told = self.next() => told,
            () = endpoint.gone() => Err(given_up()),
        }
    }

    fn sort(&self, event: LinkEvent) -> Result<Option<Told>, CallError> {
        let (body, is_altered) = match event {
            LinkEvent::Message(body) => (body, false),
            LinkEvent::Altered(body) => (body, true),
            LinkEvent::TooLarge(Scanned::Answer(id)) if IdKey::of_json(&id).as_ref() == Some(&self.id) => {
                return Err(CallError::TooLarge { limit: self.limits.max_message });
            }
            LinkEvent::TooLarge(_) => {
                self.drops("upstream_too_large");
                return Ok(None);
            }
            LinkEvent::Opened(_)
            | LinkEvent::Cursor(_)
            | LinkEvent::Waits { .. }
            | LinkEvent::GoesOn
            | LinkEvent::Closed(_) => return Ok(None),
        };
        match Head::parse(&body).map(|head| head.kind) {
            Ok(Kind::Notification { .. }) => Ok(Some(Told::Notification(body))),
            Ok(Kind::Response { id: Some(id), success }) if id == self.id => {
                if is_altered {
                    Err(CallError::Altered(body))
                } else {
                    Ok(Some(Told::Response { body, success }))
                }
            }
            Ok(Kind::Response { success: false, .. }) => Ok(jsonrpc::error_of(&body).map(Told::Nameless)),
            Ok(Kind::Response { .. }) => {
                self.drops("upstream_unknown_answer");
                Ok(None)
            }
            // A server of this version asks nothing but by its result.
            Ok(Kind::Request { .. }) | Err(_) => {
                self.drops("upstream_nonsense");
                Ok(None)
            }
        }
    }

    fn drops(&self, reason: &str) {
        self.dropped.with_label_values(&[reason]).inc();
    }
}

/// The list of upstreams has lost the server for too long.
pub(super) fn given_up() -> CallError {
    CallError::Lost("its server is not in the list of upstreams any more".to_owned())
}
