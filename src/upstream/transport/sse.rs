//! HTTP+SSE (MCP 2024-11-05), the client's side: `GET` the stream, learn the POST URL, read messages.
//!
//! A link is a task on the thread of its actor; it ends when its [`LinkHandle`](super::LinkHandle) is dropped.

use std::{sync::Arc, time::Duration};

use actix::{Recipient, prelude::SendError};
use actix_http::Uri;

use super::{Charge, Gate, LinkError, LinkEvent, LinkNotice};
use crate::{protocol::sse::Reader, upstream::line::Line};

/// Time limits and bounds of a link.
#[derive(Debug, Clone, Copy)]
pub struct LinkLimits {
    /// For the connection, the response head and the `endpoint` event together.
    pub connect: Duration,
    /// Largest event.
    pub max_message: usize,
}

/// Opens the stream at the line's endpoint and reports everything to `to` until it ends.
pub async fn run(line: Line, limits: LinkLimits, link: u64, to: Recipient<LinkNotice>, gate: Arc<Gate>) {
    let error = match read(&line, limits, link, &to, &gate).await {
        Ok(never) => match never {},
        Err(error) => error,
    };
    // A receiver that is gone has no use for it.
    let _ = to.send(LinkNotice { link, event: LinkEvent::Closed(error), charge: None }).await;
}

async fn read(
    line: &Line,
    limits: LinkLimits,
    link: u64,
    to: &Recipient<LinkNotice>,
    gate: &Arc<Gate>,
) -> Result<std::convert::Infallible, LinkError> {
    let url = &line.endpoint.url;
    let deadline = tokio::time::Instant::now() + limits.connect;
    // Boxed: it is large, and done with for the rest of the link's life.
    let (response, mut body) = Box::pin(tokio::time::timeout_at(deadline, line.open_stream()))
        .await
        .map_err(|_| LinkError::Connect(format!("no answer within {:?}", limits.connect)))?
        .map_err(|error| LinkError::Connect(error.to_string()))?;
    if !response.status.is_success() {
        return Err(LinkError::Protocol(format!("status {}", response.status.as_u16())));
    }
    let is_stream = response
        .headers
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.trim_start().to_ascii_lowercase().starts_with("text/event-stream"));
    if !is_stream {
        return Err(LinkError::Protocol("the content type is not text/event-stream".to_owned()));
    }
    // It holds the buffer into which it was read.
    drop(response);
    let mut reader = Reader::new(limits.max_message);
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
        // Made anew each time: a quiet link keeps nothing.
        let mut events: Vec<LinkEvent> = Vec::new();
        // Copied on the way: the chunk is a part of the thread's read buffer.
        let mut bad_endpoint = None;
        reader
            .feed(&chunk, |name, body| match name {
                "endpoint" => match post_url(url, &body) {
                    Ok(post) => events.push(LinkEvent::Opened(post)),
                    Err(error) => bad_endpoint = Some(error),
                },
                "message" if !body.is_empty() => events.push(LinkEvent::Message(body)),
                // Heartbeats and the like of other servers.
                _ => {}
            })
            .map_err(|error| LinkError::Protocol(error.to_string()))?;
        drop(chunk);
        for event in events {
            let charge = match &event {
                LinkEvent::Message(body) => {
                    gate.wait().await;
                    Some(Charge::new(gate, body.len()))
                }
                LinkEvent::Opened(_) | LinkEvent::Closed(_) => None,
            };
            opened |= matches!(event, LinkEvent::Opened(_));
            report(to, LinkNotice { link, event, charge }).await?;
        }
        if let Some(error) = bad_endpoint {
            return Err(error);
        }
    }
}

/// Without waiting for the receiver, unless its mailbox is full.
async fn report(to: &Recipient<LinkNotice>, notice: LinkNotice) -> Result<(), LinkError> {
    let gone = || LinkError::Lost("nobody listens any more".to_owned());
    match to.try_send(notice) {
        Ok(()) => Ok(()),
        Err(SendError::Full(notice)) => to.send(notice).await.map_err(|_| gone()),
        Err(SendError::Closed(_)) => Err(gone()),
    }
}

/// Resolves the `endpoint` event against the stream's URL; another origin is refused, as the specification demands.
fn post_url(base: &url::Url, reference: &[u8]) -> Result<Uri, LinkError> {
    let reference = std::str::from_utf8(reference).map_err(|_| LinkError::Protocol("endpoint is not UTF-8".into()))?;
    let url = base.join(reference.trim()).map_err(|error| LinkError::Protocol(format!("endpoint: {error}")))?;
    if url.origin() != base.origin() {
        return Err(LinkError::Protocol("the endpoint event names another origin".to_owned()));
    }
    url.as_str().parse().map_err(|_| LinkError::Protocol("the endpoint event is no URL".to_owned()))
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
        ] {
            assert_eq!(post_url(&base, reference.as_bytes()).unwrap().to_string(), expected);
        }
        for foreign in ["http://127.0.0.1:9/m", "//evil.example/m", "https://127.0.0.1:8071/m"] {
            assert!(matches!(post_url(&base, foreign.as_bytes()), Err(LinkError::Protocol(_))), "{foreign}");
        }
    }
}
