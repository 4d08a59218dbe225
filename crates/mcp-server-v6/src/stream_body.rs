//! The body of an event stream of Streamable HTTP: what a stream of the session has to say, written as events, and
//! comments so that it is never silent for long.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::{event_id::EventId, rpc::Outgoing, streams::Attachment};

/// See the module's text. It ends when its stream is over, or when another connection has taken the stream over.
pub(crate) struct StreamBody {
    attachment: Attachment,
    /// The priming event, until it is sent.
    opening: Option<Bytes>,
    has_ids: bool,
    heartbeat: Interval,
}

impl StreamBody {
    /// Shows a stream. With `retry` it begins with a priming event, if there are ids at all.
    pub fn new(attachment: Attachment, has_ids: bool, retry: Option<Duration>, heartbeat: Duration) -> Self {
        let opening = retry.filter(|_| has_ids).map(|retry| {
            let id = attachment.prime();
            Bytes::from(format!("id: {id}\nretry: {}\ndata: \n\n", retry.as_millis()))
        });
        let mut heartbeat = interval_at(Instant::now() + heartbeat, heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { attachment, opening, has_ids, heartbeat }
    }
}

fn written(id: Option<EventId>, message: &Outgoing) -> Bytes {
    // Room for the fields, and for an id of the longest kind.
    let mut event = String::with_capacity(message.len() + 80);
    if let Some(id) = id {
        event.push_str("id: ");
        event.push_str(&id.to_string());
        event.push('\n');
    }
    event.push_str("event: message\ndata: ");
    event.push_str(message);
    event.push_str("\n\n");
    event.into()
}

impl MessageBody for StreamBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        if let Some(opening) = self.opening.take() {
            return Poll::Ready(Some(Ok(opening)));
        }
        if let Poll::Ready(next) = self.attachment.poll_event(cx) {
            let has_ids = self.has_ids;
            return Poll::Ready(next.map(|(id, message)| Ok(written(Some(id).filter(|_| has_ids), &message))));
        }
        if self.heartbeat.poll_tick(cx).is_ready() {
            return Poll::Ready(Some(Ok(Bytes::from_static(b": heartbeat\n\n"))));
        }
        Poll::Pending
    }
}
