//! The body of an answer, whichever client it came by.

use std::rc::Rc;

use bytes::Bytes;

use super::{client, connection, connections::Connections};

/// See the module's text. Dropping it closes its connection.
pub(in crate::upstream) enum Body {
    /// On one of the router's own connections, which goes back to the others.
    Own(connection::Body, Rc<Connections>),
    /// By awc. Boxed: streams of the other kind are many.
    Awc(Box<client::Body>),
}

impl Body {
    /// The next bytes; `None` at the end. They should not be kept: they may hold the thread's buffer.
    pub(in crate::upstream) async fn next(&mut self) -> Option<Result<Bytes, String>> {
        match self {
            Self::Own(body, _) => body.next().await,
            Self::Awc(body) => body.next().await,
        }
    }

    /// Nothing more is wanted of it. If it has been read to its end, its connection is used again.
    pub(super) fn give_back(self) {
        // awc takes its own back at the end of the body.
        let Self::Own(body, connections) = self else { return };
        if let Some(connection) = body.into_connection() {
            connections.keep(connection);
        }
    }
}
