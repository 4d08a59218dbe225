//! [`Line`]: the way from one worker thread to one endpoint: the connections that everybody on the thread shares. A POST
//! is a future of whoever makes it; it passes no mailbox on its way.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use actix_http::{
    KeepAlive, Method, RequestHead, ResponseHead, ServiceConfig, Uri,
    header::{self, HeaderValue},
};
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::{
    Endpoint,
    connection::{Body, Broken, Connection, Head, Rest, Scratch},
    redirect::{self, NotFollowed},
    reply::Reply,
};
use crate::settings::UpstreamSettings;

/// Connections that are idle longer are not used again: uvicorn, Node and actix close theirs after 5 s, and a POST on
/// a connection that is just being closed has an unknown outcome.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// Idle connections that one thread keeps to one endpoint: as many as POSTs are usually under way at a time.
const MAX_IDLE: usize = 256;

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub struct Line {
    /// Where it leads.
    pub endpoint: Arc<Endpoint>,
    shared: Rc<Shared>,
}

struct Shared {
    post: Head,
    get: Head,
    config: ServiceConfig,
    connect_timeout: Duration,
    max_message: usize,
    /// Connections that there may be at a time.
    limit: Arc<Semaphore>,
    /// Since when, the one used last at the end.
    idle: RefCell<Vec<(Instant, Connection)>>,
    scratch: Rc<Scratch>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// An open event stream.
pub(super) struct Opened {
    pub(super) head: ResponseHead,
    pub(super) body: Body,
    /// Where it was found in the end: relative references are resolved against it (RFC 3986, section 5.1.3).
    pub(super) url: url::Url,
}

/// Why an event stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotOpened {
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error(transparent)]
    NotFollowed(#[from] NotFollowed),
}

/// Why a POST failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// No connection: the upstream has not seen the message.
    #[error("cannot connect: {0}")]
    NotSent(String),
    /// The upstream does not know the session (404).
    #[error("the upstream session is gone")]
    SessionGone,
    /// The upstream refused the message with this status: it was not executed.
    #[error("the upstream refused it with status {0}")]
    Refused(u16),
    /// The upstream sends it where the router does not follow: it was not executed.
    #[error("the upstream did not take it: {0}")]
    NotFollowed(#[from] NotFollowed),
    /// The upstream did not process the message now (408, 425, 429, 503: RFC 9110, sections 15.5.9 and 15.6.4, RFC 6585,
    /// section 4, RFC 8470, section 5.2): it may be sent again.
    #[error("the upstream does not take it now (status {status})")]
    NotNow {
        /// What it said.
        status: u16,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The upstream, or something before it, failed with this status: it may have executed the message.
    #[error("the upstream failed with status {0}")]
    Failed(u16),
    /// The connection broke: the upstream may have seen it.
    #[error("no answer to the POST: {0}")]
    Unknown(String),
    /// The time is over: the upstream may have seen it.
    #[error("no answer to the POST within {0:?}")]
    Late(Duration),
}

/// Counted as long as it lives, however it ends.
struct InFlight<'a>(&'a Endpoint);

impl<'a> InFlight<'a> {
    fn count(endpoint: &'a Endpoint) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Line {
    /// What all lines of a thread share. To be made on the thread, which must have a `LocalSet` (actix's has).
    pub fn config() -> ServiceConfig {
        ServiceConfig::new(KeepAlive::Os, Duration::ZERO, Duration::ZERO, false, None)
    }

    /// To be used on the current thread.
    pub fn new(endpoint: Arc<Endpoint>, limits: &UpstreamSettings, config: ServiceConfig) -> Self {
        let head = |method, name, value| {
            // The upstream gets its own name, never the client's.
            let authority = &endpoint.url.request_url()[url::Position::BeforeHost..url::Position::AfterPort];
            let host = HeaderValue::from_str(authority).expect("the authority of a parsed URL is visible ASCII");
            let mut head = RequestHead::default();
            head.method = method;
            head.headers.insert(header::HOST, host);
            if let Some(authorization) = endpoint.url.authorization() {
                let value = HeaderValue::from_str(authorization).expect("base64 is visible ASCII");
                head.headers.insert(header::AUTHORIZATION, value);
            }
            head.headers.insert(name, HeaderValue::from_static(value));
            Head::new(head)
        };
        let shared = Shared {
            post: head(Method::POST, header::CONTENT_TYPE, "application/json"),
            get: head(Method::GET, header::ACCEPT, "text/event-stream"),
            config,
            connect_timeout: limits.connect_timeout,
            max_message: limits.max_message,
            limit: Arc::new(Semaphore::new(limits.max_connections)),
            idle: RefCell::default(),
            scratch: Rc::default(),
        };
        Self { endpoint, shared: Rc::new(shared) }
    }

    /// POSTs one message, byte for byte. Without a time limit but that for a new connection: whoever waits for it has
    /// one. `Some`: the answer has a body that may hold messages, to be read on; that of a status that is no success holds
    /// the answer to the request in `body`.
    ///
    /// # Errors
    /// [`PostError`], which says whether the upstream may have seen it.
    pub async fn post(self, mut url: Uri, body: Bytes) -> Result<Option<Reply>, PostError> {
        let _counted = InFlight::count(&self.endpoint);
        for _hop in 0..=redirect::MAX_REDIRECTS {
            let (head, reply) = self.post_once(&url, &body).await?;
            let status = head.status.as_u16();
            if !redirect::is_redirect(status, false) {
                let Err(error) = outcome(&head) else { return Ok(reply) };
                // What the server itself says of the call is more than a status can say.
                let said = match reply {
                    Some(reply) => reply.answer_to(&body, self.shared.max_message).await,
                    None => None,
                };
                return said.map(Some).ok_or(error);
            }
            let from = url.to_string().parse().map_err(|_| NotFollowed::Nowhere(status))?;
            url = self.redirected(&from, &head)?.1;
        }
        Err(NotFollowed::TooOften.into())
    }

    async fn post_once(&self, url: &Uri, body: &Bytes) -> Result<(ResponseHead, Option<Reply>), PostError> {
        let connection = match self.idle_connection() {
            Some(connection) => connection,
            None => self.connect().await.map_err(|error| {
                self.endpoint.failed(&error);
                PostError::NotSent(error.to_string())
            })?,
        };
        let sent = connection.post(&self.shared.post, url, body, &self.shared.scratch).await;
        let (head, rest) = sent.map_err(|error| PostError::Unknown(error.to_string()))?;
        let reply = match rest {
            Rest::Read(reusable) => {
                reusable.into_iter().for_each(|connection| self.keep(connection));
                None
            }
            Rest::Body(body) => Reply::of(&head, body, self.clone()),
        };
        Ok((head, reply))
    }

    /// As [`Self::post`], with a time limit.
    ///
    /// # Errors
    /// As [`Self::post`]; [`PostError::Late`] when the time is over.
    pub async fn post_within(&self, url: Uri, body: Bytes, limit: Duration) -> Result<Option<Reply>, PostError> {
        match tokio::time::timeout(limit, self.clone().post(url, body)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(PostError::Late(limit)),
        }
    }

    /// GETs the endpoint's own URL, on a connection of its own.
    pub(super) async fn open_stream(&self) -> Result<Opened, NotOpened> {
        let mut url = redirect::bare(self.endpoint.url.request_url().clone());
        let mut uri = redirect::to_uri(&url).ok_or_else(|| not_connected("the URL cannot be requested"))?;
        for _hop in 0..=redirect::MAX_REDIRECTS {
            let connection = self.connect().await?;
            let (head, body) = connection.get(&self.shared.get, &uri, Rc::clone(&self.shared.scratch)).await?;
            if !redirect::is_redirect(head.status.as_u16(), true) {
                return Ok(Opened { head, body, url });
            }
            (url, uri) = self.redirected(&url, &head)?;
        }
        Err(NotFollowed::TooOften.into())
    }

    fn redirected(&self, from: &url::Url, head: &ResponseHead) -> Result<(url::Url, Uri), NotFollowed> {
        let status = head.status.as_u16();
        let to = redirect::target(from, status, &head.headers)?;
        let uri = redirect::to_uri(&to).ok_or(NotFollowed::Nowhere(status))?;
        tracing::debug!(service = self.endpoint.service, endpoint = %self.endpoint.url, status, "redirected");
        Ok((to, uri))
    }

    async fn connect(&self) -> Result<Connection, Broken> {
        // Idle ones count, too.
        if self.shared.limit.available_permits() == 0 {
            self.let_go_of_oldest();
        }
        let limit = self.shared.connect_timeout;
        let opened = Connection::open(self.endpoint.url.request_url(), &self.shared.config, &self.shared.limit);
        let late = |_| not_connected(format!("no connection within {limit:?}"));
        tokio::time::timeout(limit, opened).await.map_err(late)?
    }

    fn idle_connection(&self) -> Option<Connection> {
        let mut idle = self.shared.idle.borrow_mut();
        let (since, connection) = idle.pop()?;
        if since.elapsed() < KEEP_ALIVE && connection.is_idle() {
            return Some(connection);
        }
        // Those that have been idle for longer are no better.
        if since.elapsed() >= KEEP_ALIVE {
            idle.clear();
        }
        None
    }

    pub(super) fn keep(&self, connection: Connection) {
        if self.shared.idle.borrow().len() >= MAX_IDLE {
            self.let_go_of_oldest();
        }
        self.shared.idle.borrow_mut().push((Instant::now(), connection));
    }

    fn let_go_of_oldest(&self) {
        let mut idle = self.shared.idle.borrow_mut();
        if !idle.is_empty() {
            idle.remove(0);
        }
    }

    /// Closes what has been idle for too long. To be called from time to time.
    pub(super) fn sweep(&self) {
        self.shared.idle.borrow_mut().retain(|(since, _)| since.elapsed() < KEEP_ALIVE);
    }
}

/// What a status says of the message.
fn outcome(head: &ResponseHead) -> Result<(), PostError> {
    match head.status.as_u16() {
        200..=299 => Ok(()),
        404 => Err(PostError::SessionGone),
        status @ (408 | 425 | 429 | 503) => {
            Err(PostError::NotNow { status, retry_after: redirect::retry_after(&head.headers) })
        }
        // 501 and 505: not understood.
        status @ (500 | 502 | 504 | 506..) => Err(PostError::Failed(status)),
        status => Err(PostError::Refused(status)),
    }
}

fn not_connected(why: impl Into<String>) -> Broken {
    Broken::NotConnected(std::io::Error::other(why.into()))
}

#[cfg(test)]
mod tests {
    use actix_http::StatusCode;

    use super::*;

    #[test]
    fn a_status_says_whether_the_message_may_have_been_executed() {
        for (status, expected) in [
            (200, Ok(())),
            (202, Ok(())),
            (204, Ok(())),
            (400, Err(PostError::Refused(400))),
            (401, Err(PostError::Refused(401))),
            (403, Err(PostError::Refused(403))),
            (404, Err(PostError::SessionGone)),
            (405, Err(PostError::Refused(405))),
            (408, Err(PostError::NotNow { status: 408, retry_after: None })),
            (413, Err(PostError::Refused(413))),
            (425, Err(PostError::NotNow { status: 425, retry_after: None })),
            (429, Err(PostError::NotNow { status: 429, retry_after: None })),
            (500, Err(PostError::Failed(500))),
            (501, Err(PostError::Refused(501))),
            (502, Err(PostError::Failed(502))),
            (503, Err(PostError::NotNow { status: 503, retry_after: None })),
            (504, Err(PostError::Failed(504))),
            (505, Err(PostError::Refused(505))),
            (520, Err(PostError::Failed(520))),
            (302, Err(PostError::Refused(302))),
        ] {
            assert_eq!(outcome(&ResponseHead::new(StatusCode::from_u16(status).unwrap())), expected, "{status}");
        }
    }
}
