//! A response body in pieces of bounded size.
//!
//! Actix copies each piece a body yields into the connection's write buffer, and the buffer keeps the size it grew to.
//! One message of 4 MiB as one piece would cost its session 4 MiB for the rest of its life; in small pieces it costs
//! nothing that lasts.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;

/// The largest piece, bytes: large enough that the framing of a chunk does not matter.
const PIECE: usize = 16 << 10;

/// A body that yields what `inner` yields, in pieces of at most [`PIECE`].
pub(crate) struct Pieces {
    inner: BoxBody,
    rest: Bytes,
}

impl Pieces {
    /// Cuts a body into pieces.
    pub fn of(inner: BoxBody) -> Self {
        Self { inner, rest: Bytes::new() }
    }
}

impl MessageBody for Pieces {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.inner.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if self.rest.is_empty() {
            match Pin::new(&mut self.inner).poll_next(cx) {
                Poll::Ready(Some(Ok(bytes))) => self.rest = bytes,
                other => return other,
            }
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(self.rest.split_to(length))))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[actix_web::test]
    async fn a_body_stays_the_same_in_pieces() {
        for length in [0, 1, PIECE, PIECE + 1, 5 * PIECE - 1] {
            let whole: Bytes = (0u8..=250).cycle().take(length).collect();
            let mut pieces = Pieces::of(BoxBody::new(whole.clone()));
            let mut joined = Vec::new();
            while let Some(piece) = poll_fn(|cx| Pin::new(&mut pieces).poll_next(cx)).await {
                let piece = piece.unwrap();
                assert!(piece.len() <= PIECE);
                joined.extend_from_slice(&piece);
            }
            assert_eq!(joined, whole);
        }
    }
}
