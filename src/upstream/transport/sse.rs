//! HTTP+SSE (MCP 2024-11-05), the client's side: `GET` the stream, learn the POST URL, read messages.
//!
//! A link is a task on the thread of its actor; it ends when its [`LinkHandle`](crate::upstream::LinkHandle) is dropped.

use std::{cell::Cell, convert::Infallible, rc::Rc};

use actix_http::Uri;

use super::http::{
    answer::BodyKind,
    line::{Line, NotOpened},
    redirect,
};
use crate::{
    protocol::sse_reader::Reader,
    upstream::{
        Address,
        choice::Spoken,
        notice::{LinkError, LinkEvent, LinkLimits, LinkNotice, Outlet, sort_event},
    },
};

/// Opens the stream at the line's endpoint and reports everything to `outlet` until it ends. `heard`: counts what has
/// come, as a sign of life.
pub async fn run(line: Line, limits: LinkLimits, outlet: Outlet, heard: Option<Rc<Cell<u64>>>) {
    let error = match read(&line, limits, &outlet, heard.as_deref()).await {
        Ok(never) => match never {},
        Err(error) => error,
    };
    if matches!(error, LinkError::Protocol(_)) {
        line.endpoint.transport.is_not(Spoken::Sse);
    }
    let Outlet { link, via, to, .. } = outlet;
    // A receiver that is gone has no use for it.
    let _ = to.send(LinkNotice { link, via, event: LinkEvent::Closed(error), charge: None }).await;
}

async fn read(
    line: &Line,
    limits: LinkLimits,
    outlet: &Outlet,
    heard: Option<&Cell<u64>>,
) -> Result<Infallible, LinkError> {
    let deadline = tokio::time::Instant::now() + limits.connect;
    // Boxed: it is large, and done with for the rest of the link's life.
    let stream = Box::pin(tokio::time::timeout_at(deadline, line.open_stream()))
        .await
        .map_err(|_| LinkError::Connect(format!("no answer within {:?}", limits.connect)))?
        .map_err(|error| match error {
            NotOpened::Broken(error) => LinkError::Connect(error.to_string()),
            NotOpened::NotFollowed(error) => LinkError::Protocol(error.to_string()),
            // That says nothing of the endpoint.
            NotOpened::NoCredential(error) => LinkError::Lost(error.to_string()),
        })?;
    if !stream.head.status.is_success() {
        return Err(LinkError::Protocol(format!("status {}", stream.head.status.as_u16())));
    }
    if BodyKind::of(&stream.head) != Some(BodyKind::Events) {
        return Err(LinkError::Protocol("the content type is not text/event-stream".to_owned()));
    }
    // The head holds the buffer into which it was read.
    drop(stream.head);
    let (mut body, url) = (stream.body, Box::new(stream.url));
    let mut reader = Reader::new(limits.max_message, limits.max_skipped);
    let mut opened = false;
    loop {
        let chunk = if opened {
            body.next().await
        } else {
            tokio::time::timeout_at(deadline, body.next())
                .await
                .map_err(|_| LinkError::Protocol(format!("no endpoint event within {:?}", limits.connect)))?
        };
        let chunk = match chunk {
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => return Err(LinkError::Lost(error)),
            None => return Err(LinkError::Lost("end of stream".to_owned())),
        };
        if let Some(heard) = heard {
            heard.set(heard.get() + 1);
        }
        // Made anew each time: a quiet link keeps nothing.
        let mut events: Vec<LinkEvent> = Vec::new();
        let (mut bad_endpoint, mut is_open) = (None, opened);
        // Copied on the way: the chunk is a part of the thread's read buffer.
        let readable = reader.feed(&chunk, |read| {
            let mut posts_to = None;
            sort_event(read, &mut events, |reference| posts_to = Some(post_url(&url, reference)));
            match posts_to {
                // Some servers send it twice; the first stands.
                _ if is_open || bad_endpoint.is_some() => {}
                Some(Ok(post)) => {
                    is_open = true;
                    events.push(LinkEvent::Opened(Address::Sse(post)));
                }
                Some(Err(error)) => bad_endpoint = Some(error),
                None => {}
            }
        });
        drop(chunk);
        opened = is_open;
        outlet.put_all(events).await?;
        if let Some(error) = bad_endpoint {
            return Err(error);
        }
        // It was open: nobody says that the endpoint cannot be reached.
        readable.map_err(|error| LinkError::Lost(error.to_string()))?;
    }
}

/// Resolves the `endpoint` event against the stream's URL; another origin is refused, as the specification demands.
fn post_url(base: &url::Url, reference: &[u8]) -> Result<Uri, LinkError> {
    let reference = std::str::from_utf8(reference).map_err(|_| LinkError::Protocol("endpoint is not UTF-8".into()))?;
    let url = base.join(reference.trim()).map_err(|error| LinkError::Protocol(format!("endpoint: {error}")))?;
    if url.origin() != base.origin() {
        let origin = url.origin().ascii_serialization();
        return Err(LinkError::Protocol(format!("the endpoint event names another origin, {origin}")));
    }
    let uri = redirect::to_uri(&redirect::bare(url));
    uri.ok_or_else(|| LinkError::Protocol("the endpoint event is no URL that can be requested".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_post_url_is_relative_to_the_stream_and_never_leaves_its_origin() {
        let base = url::Url::parse("http://127.0.0.1:8071/a/sse?x=1").unwrap();
        for (reference, expected) in [
            ("/m?sessionId=1", "http://127.0.0.1:8071/m?sessionId=1"),
            ("m?s=1", "http://127.0.0.1:8071/a/m?s=1"),
            ("?s=1", "http://127.0.0.1:8071/a/sse?s=1"),
            ("http://127.0.0.1:8071/abs", "http://127.0.0.1:8071/abs"),
            ("//127.0.0.1:8071/abs", "http://127.0.0.1:8071/abs"),
            ("http://u:pw@127.0.0.1:8071/abs#x", "http://127.0.0.1:8071/abs"),
            (" ../m?s=1 ", "http://127.0.0.1:8071/m?s=1"),
        ] {
            assert_eq!(post_url(&base, reference.as_bytes()).unwrap().to_string(), expected);
        }
        for foreign in ["http://127.0.0.1:9/m", "//evil.example/m", "https://127.0.0.1:8071/m"] {
            assert!(matches!(post_url(&base, foreign.as_bytes()), Err(LinkError::Protocol(_))), "{foreign}");
        }
    }
}
