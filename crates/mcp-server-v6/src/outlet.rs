//! Where a message of the server goes: the one stream of an HTTP+SSE session, or one of the streams of a Streamable HTTP
//! session. Everything above sends through an [`Outlet`] and knows no transport.

use std::sync::Arc;

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{
    event_id::StreamNumber,
    rpc::Outgoing,
    streams::{ClientGone, Streams},
};

/// See the module's text.
#[derive(Clone)]
pub(crate) enum Outlet {
    /// The queue before the stream of an HTTP+SSE session.
    Queue(mpsc::Sender<Outgoing>),
    /// Of a Streamable HTTP session: a request's answer goes to one stream, what else the server has to say while it
    /// works on the request to another one, or the same.
    Streams {
        /// All streams of the session.
        streams: Arc<Streams>,
        /// Gets the answer.
        answers: StreamNumber,
        /// Gets everything else.
        others: StreamNumber,
    },
}

/// Room for one answer.
pub(crate) enum Slot<'a> {
    /// In a queue.
    Queue(mpsc::Permit<'a, Outgoing>),
    /// In a stream, which always has room for an answer.
    Stream(&'a Streams, StreamNumber),
}

impl Slot<'_> {
    /// Sends the answer. It does not wait.
    pub fn send(self, answer: Outgoing) {
        match self {
            Self::Queue(permit) => permit.send(answer),
            Self::Stream(streams, number) => streams.answer(number, answer),
        }
    }
}

impl Outlet {
    /// Sends a message that is no answer, waiting for room.
    pub async fn send(&self, message: Outgoing) -> Result<(), ClientGone> {
        match self {
            Self::Queue(queue) => queue.send(message).await.map_err(|_| ClientGone),
            Self::Streams { streams, others, .. } => streams.send(*others, message).await,
        }
    }

    /// Sends a message that may be lost; `false` if it was, since the client does not keep up.
    pub fn send_if_room(&self, message: Outgoing) -> bool {
        match self {
            Self::Queue(queue) => !matches!(queue.try_send(message), Err(TrySendError::Full(_))),
            Self::Streams { streams, others, .. } => streams.send_if_room(*others, message),
        }
    }

    /// Waits for room for an answer.
    pub async fn reserve(&self) -> Result<Slot<'_>, ClientGone> {
        match self {
            Self::Queue(queue) => queue.reserve().await.map(Slot::Queue).map_err(|_| ClientGone),
            Self::Streams { streams, answers, .. } => Ok(Slot::Stream(streams, *answers)),
        }
    }

    /// Sends an answer.
    ///
    /// # Errors
    /// There is no room now: the answer comes back. Nobody is left to send to: that is none.
    pub fn answer_if_room(&self, answer: Outgoing) -> Result<(), Outgoing> {
        match self {
            Self::Queue(queue) => match queue.try_send(answer) {
                Err(TrySendError::Full(answer)) => Err(answer),
                Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            },
            Self::Streams { streams, answers, .. } => {
                streams.answer(*answers, answer);
                Ok(())
            }
        }
    }

    /// One answer that was to come never will: its request was cancelled.
    pub fn withdraw_answer(&self) {
        match self {
            Self::Queue(_) => {}
            Self::Streams { streams, answers, .. } => streams.withdraw_answer(*answers),
        }
    }

    /// Ends the connection that carries the answer, not the stream: the client is to come back for the rest. Nothing
    /// happens where it could not.
    pub fn hang_up(&self) {
        match self {
            Self::Queue(_) => {}
            Self::Streams { streams, answers, .. } => streams.hang_up(*answers),
        }
    }
}
