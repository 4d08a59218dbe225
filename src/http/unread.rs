//! Answers to requests whose chunked body nobody has read: their connections end, soon after the answer.
//!
//! actix-http reads such a body to its end and throws it away, which takes for ever when the end does not come: a sender
//! that drips chunks at any path would hold a connection. A body with a length needs none of this, its connection is
//! closed with the answer.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_web::{
    HttpMessage as _,
    body::{BodySize, BoxBody, MessageBody},
    dev::ServiceResponse,
    http::ConnectionType,
};
use bytes::Bytes;
use tokio::time::{Sleep, sleep};

/// How long what is still coming is read after the answer, so that a sender in full swing gets to see it.
const LINGER: Duration = Duration::from_secs(1);

/// Mark of a request whose body was read to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyRead;

/// Makes the answer the last one on its connection, unless the body was read.
pub(super) fn close(mut response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    if response.request().extensions().get::<BodyRead>().is_some() {
        return response;
    }
    response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    response.map_body(|_, body| Last { body, linger: None }.boxed())
}

/// A body, and then the end of the connection.
struct Last {
    body: BoxBody,
    linger: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the body of the request was not read")]
struct NotRead;

impl MessageBody for Last {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if self.linger.is_none()
            && let Some(piece) = ready!(Pin::new(&mut self.body).poll_next(context))
        {
            return Poll::Ready(Some(piece));
        }
        let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        ready!(linger.as_mut().poll(context));
        // An error is the only end of a body that ends its connection, too.
        Poll::Ready(Some(Err(Box::new(NotRead))))
    }
}
