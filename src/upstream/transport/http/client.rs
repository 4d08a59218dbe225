//! awc, for what is not the hot path: `https://` endpoints, and health checks.
//!
//! What it cannot do, and what follows from it for an `https://` endpoint, is in docs/decisions: a body whose end only the
//! end of its connection marks counts as none in HTTP/1.1, and behind an informational response nothing is read. It
//! never follows a redirect by itself, never repeats a request, and has no time limit but those for a new connection.

use std::{io, sync::Arc, time::Duration};

use actix_http::{ResponseHead, StatusCode, Uri, header};
use awc::{
    ClientRequest, ClientResponse,
    error::{ConnectError, SendRequestError},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use rustls::{CertificateError, ClientConfig};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Bounds, Broken, DRAIN_PATIENCE, MAX_ACKNOWLEDGEMENT, connection::Head, connections::KEEP_ALIVE, not_connected,
};

/// How long a connection may take to be closed in TLS; nobody waits for it.
const GOODBYE: Duration = Duration::from_secs(1);

/// See the module's text. One for each line, so that its connections are counted as those of other lines are.
pub(super) struct Client {
    awc: awc::Client,
    connect_timeout: Duration,
    /// Requests that may have a connection at a time. awc has the same limit, and waits for it without an end.
    limit: Arc<Semaphore>,
}

impl Client {
    /// `tls`: for an `https` endpoint. To be used on the current thread.
    pub(super) fn new(bounds: Bounds, tls: Option<Arc<ClientConfig>>) -> Self {
        let connector = awc::Connector::new()
            .timeout(bounds.connect_timeout)
            .handshake_timeout(bounds.connect_timeout)
            // Of its own it stops at 100, and each session's stream holds one.
            .limit(bounds.max_connections)
            .conn_keep_alive(KEEP_ALIVE)
            .disconnect_timeout(GOODBYE);
        let connector = match tls {
            Some(tls) => connector.rustls_0_23(tls),
            None => connector,
        };
        let builder = awc::Client::builder().connector(connector);
        let awc = builder.no_default_headers().disable_redirects().disable_timeout().finish();
        let limit = Arc::new(Semaphore::new(bounds.max_connections));
        Self { awc, connect_timeout: bounds.connect_timeout, limit }
    }

    /// Room for one connection more, within the time limit for it.
    async fn room(&self) -> Result<OwnedSemaphorePermit, Broken> {
        let room = tokio::time::timeout(self.connect_timeout, Arc::clone(&self.limit).acquire_owned()).await;
        room.ok()
            .and_then(Result::ok)
            .ok_or_else(|| not_connected(format!("no connection within {:?}", self.connect_timeout)))
    }

    /// Sends `body`. What the answer says beyond its head is read to its end, unless it may hold messages.
    pub(super) async fn exchange(
        &self,
        kind: &Head,
        url: &Uri,
        body: &Bytes,
    ) -> Result<(ResponseHead, Option<Body>), Broken> {
        let room = self.room().await?;
        let sent = self.request(kind, url).send_body(body.clone()).await;
        let response = sent.map_err(|error| self.broken(error))?;
        let mut head = head_of(&response);
        if head.status.is_informational() {
            // The server has the message, and what it says of it behind this is not to be had.
            head.status = StatusCode::ACCEPTED;
        }
        let mut body = Body::new(response, room);
        if kind.may_be_told_by(&head) {
            return Ok((head, Some(body)));
        }
        // The status has been read, so that only the connection may be lost from here on.
        let _ = tokio::time::timeout(DRAIN_PATIENCE, body.pass_over(MAX_ACKNOWLEDGEMENT)).await;
        Ok((head, None))
    }

    /// GETs `url`: the head of the answer, and its body as it comes.
    pub(super) async fn get(&self, head: &Head, url: &Uri) -> Result<(ResponseHead, Body), Broken> {
        let room = self.room().await?;
        let sent = self.request(head, url).send().await;
        let response = sent.map_err(|error| self.broken(error))?;
        Ok((head_of(&response), Body::new(response, room)))
    }

    fn request(&self, head: &Head, url: &Uri) -> ClientRequest {
        let (method, headers) = head.parts();
        let mut request = self.awc.request(method, url.clone()).no_decompress();
        *request.headers_mut() = headers;
        request
    }

    fn broken(&self, error: SendRequestError) -> Broken {
        match error {
            // awc says so of a connection that ended before the response: the message may have been seen.
            SendRequestError::Connect(ConnectError::Disconnected) => {
                Broken::NoAnswer("the connection ended before the response".to_owned())
            }
            SendRequestError::Connect(ConnectError::Timeout) => {
                not_connected(format!("no connection within {:?}", self.connect_timeout))
            }
            SendRequestError::Connect(ConnectError::Io(error)) => Broken::NotConnected(told(error)),
            error @ (SendRequestError::Connect(_) | SendRequestError::Url(_)) => not_connected(error.to_string()),
            error => Broken::NoAnswer(error.to_string()),
        }
    }
}

/// A certificate that is not trusted says what to do about it.
fn told(error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => io::Error::other(
            "its certificate was issued by nobody who is trusted here; MCP_UPSTREAM_CA_FILE names more issuers",
        ),
        Some(rustls::Error::InvalidCertificate(why)) => io::Error::other(format!("its certificate is refused: {why}")),
        _ => error,
    }
}

fn head_of(response: &ClientResponse) -> ResponseHead {
    let mut head = ResponseHead::new(response.status());
    head.headers = response.headers().clone();
    head
}

/// The body of an answer.
pub(in crate::upstream) struct Body {
    response: ClientResponse,
    /// What the head has promised and has not come: awc takes a body that was cut for a whole one.
    left: Option<u64>,
    /// Given back behind the connection.
    _room: OwnedSemaphorePermit,
}

impl Body {
    fn new(response: ClientResponse, room: OwnedSemaphorePermit) -> Self {
        let length = response.headers().get(header::CONTENT_LENGTH);
        let left = length.and_then(|length| length.to_str().ok()?.trim().parse().ok());
        Self { response, left, _room: room }
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, String>> {
        match self.response.next().await {
            Some(Ok(piece)) => {
                self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
                Some(Ok(piece))
            }
            Some(Err(error)) => Some(Err(error.to_string())),
            None if self.left.take().is_some_and(|left| left > 0) => {
                Some(Err("the connection ended within the body".to_owned()))
            }
            None => None,
        }
    }

    /// Reads to the end, but no more than so many bytes.
    async fn pass_over(&mut self, limit: usize) {
        let mut read = 0;
        while let Some(Ok(piece)) = self.next().await {
            read += piece.len();
            if read > limit {
                return;
            }
        }
    }
}
