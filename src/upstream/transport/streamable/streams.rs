//! The event streams of an upstream session of Streamable HTTP that are asked for with GET: its own, and those of answers
//! that ended before the response (MCP, "Resumability and Redelivery").

use std::{rc::Rc, sync::Arc, time::Instant};

use actix_http::{
    Method,
    header::{HeaderName, HeaderValue},
};

use super::{Streamable, says_no_session};
use crate::upstream::{
    notice::{LinkError, LinkEvent, LinkLimits, Marks, Outlet},
    resumption::{Again, Resumption},
    transport::http::{
        answer::BodyKind,
        line::{Line, NotOpened, OF_GET, Opened},
        reply::{Piece, Reply, Said},
    },
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Why a stream is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoStream {
    /// The server has none (405).
    #[error("it has no stream")]
    None,
    /// It does not know the session (404).
    #[error("the upstream session is gone")]
    SessionGone,
    /// It refuses this with this status.
    #[error("status {0}")]
    Refused(u16),
    /// No connection.
    #[error("{0}")]
    NotConnected(String),
    /// No answer, or none that is a stream.
    #[error("{0}")]
    Broken(String),
}

impl Streamable {
    /// Asks for the session's own stream, or for what follows the event of `marks`, of whichever stream that is. Without a time
    /// limit but that for the connection: a server may keep the head back until there is something to say.
    pub(in crate::upstream) async fn get(&self, line: &Line, marks: Marks) -> Result<Reply, NoStream> {
        let head = line.head(Method::GET, [OF_GET]);
        self.name_session(&head);
        if let Some(id) = marks.cursor.as_ref().and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok()) {
            head.insert(LAST_EVENT_ID, id);
        }
        let Opened { head, body, .. } = line.open(&head).await.map_err(|error| match error {
            NotOpened::Broken(error) if error.is_not_connected() => {
                line.endpoint.failed(&error);
                NoStream::NotConnected(error.to_string())
            }
            error => NoStream::Broken(error.to_string()),
        })?;
        match head.status.as_u16() {
            200..=299 if BodyKind::of(&head) == Some(BodyKind::Events) => {
                Reply::resumed(&head, body, marks).ok_or_else(|| NoStream::Broken("no event stream".to_owned()))
            }
            200..=299 => Err(NoStream::Broken("the content type is not text/event-stream".to_owned())),
            405 => Err(NoStream::None),
            404 if self.has_id() => Err(NoStream::SessionGone),
            400 if self.has_id() => match Reply::resumed(&head, body, Marks::default()) {
                Some(reply) => match reply.said_of(&[], line.max_message()).await {
                    Said::Other(text) if says_no_session(&text) => Err(NoStream::SessionGone),
                    Said::Answer(_) | Said::Other(_) | Said::Nothing => Err(NoStream::Refused(400)),
                },
                None => Err(NoStream::Refused(400)),
            },
            status => Err(NoStream::Refused(status)),
        }
    }

    /// Shows the session's own stream to `outlet` for as long as this is waited for: it is asked for again whenever it ends.
    /// `cursor`: behind which it begins, if it has been shown before.
    pub(in crate::upstream) async fn listen(
        self: Rc<Self>,
        line: Line,
        limits: LinkLimits,
        outlet: Outlet,
        mut attempts: Resumption,
        cursor: Option<Arc<str>>,
    ) {
        // Servers that know no GET say 404 to it.
        let mut has_been_shown = cursor.is_some();
        let mut marks = Marks { cursor, retry: None };
        loop {
            let pause = match self.get(&line, marks.clone()).await {
                Ok(mut reply) => {
                    has_been_shown = true;
                    let begun = Instant::now();
                    loop {
                        let Piece { events, end } = reply.next(limits).await;
                        if !events.is_empty() {
                            attempts.worked();
                        }
                        if outlet.put_all(events).await.is_err() {
                            return;
                        }
                        if end.is_some() {
                            break;
                        }
                    }
                    marks = reply.marks().clone();
                    attempts.ended(begun.elapsed());
                    attempts.pause(marks.retry)
                }
                Err(NoStream::None) => return,
                Err(NoStream::SessionGone) if has_been_shown => {
                    return outlet.close(LinkError::Lost(NoStream::SessionGone.to_string())).await;
                }
                Err(NoStream::SessionGone) => return,
                // It shows it to somebody already, who may be gone without its knowledge.
                Err(NoStream::Refused(409)) => attempts.pause(marks.retry),
                // It does not know the event any more: from now on, then.
                Err(NoStream::Refused(_)) if marks.cursor.take().is_some() => attempts.pause(marks.retry),
                Err(NoStream::Refused(_) | NoStream::Broken(_)) => attempts.pause(marks.retry),
                Err(NoStream::NotConnected(why)) => match attempts.next(marks.retry) {
                    Again::After(pause) => pause,
                    Again::Never => return outlet.close(LinkError::Lost(why)).await,
                },
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Tells the server that the session is over. It may not care (405).
    pub(in crate::upstream) async fn end(&self, line: &Line) {
        if !self.has_id() {
            return;
        }
        let head = line.head(Method::DELETE, []);
        self.name_session(&head);
        let Ok(url) = line.uri() else { return };
        if let Err(error) = line.exchange(&head, url, &bytes::Bytes::new()).await {
            tracing::debug!(service = line.endpoint.service, endpoint = %line.endpoint.url, %error,
                "the server was not told that a session is over");
        }
    }
}

impl Outlet {
    async fn close(self, error: LinkError) {
        // A receiver that is gone has no use for it.
        let _ = self.put_all(vec![LinkEvent::Closed(error)]).await;
    }
}
