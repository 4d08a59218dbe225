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
    connection::{Body, Broken, Connection, Head, Scratch},
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

/// Why a POST failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// No connection: the upstream has not seen the message.
    #[error("cannot connect: {0}")]
    NotSent(String),
    /// The upstream does not know the session (404).
    #[error("the upstream session is gone")]
    SessionGone,
    /// The upstream refused the message with this status.
    #[error("the upstream answered with status {0}")]
    Refused(u16),
    /// The connection broke or timed out: the upstream may have seen it.
    #[error("no answer to the POST: {0}")]
    Unknown(String),
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
            let authority = &endpoint.url[url::Position::BeforeHost..url::Position::AfterPort];
            let host = HeaderValue::from_str(authority).expect("the authority of a parsed URL is visible ASCII");
            let mut head = RequestHead::default();
            head.method = method;
            head.headers.insert(header::HOST, host);
            head.headers.insert(name, HeaderValue::from_static(value));
            Head::new(head)
        };
        let shared = Shared {
            post: head(Method::POST, header::CONTENT_TYPE, "application/json"),
            get: head(Method::GET, header::ACCEPT, "text/event-stream"),
            config,
            connect_timeout: limits.connect_timeout,
            limit: Arc::new(Semaphore::new(limits.max_connections)),
            idle: RefCell::default(),
            scratch: Rc::default(),
        };
        Self { endpoint, shared: Rc::new(shared) }
    }

    /// POSTs one message, byte for byte. Without a time limit but that for a new connection: whoever waits for it has
    /// one.
    ///
    /// # Errors
    /// [`PostError`], which says whether the upstream may have seen it.
    pub async fn post(self, url: Uri, body: Bytes) -> Result<(), PostError> {
        let _counted = InFlight::count(&self.endpoint);
        let connection = match self.idle_connection() {
            Some(connection) => connection,
            None => self.connect().await.map_err(|error| {
                self.endpoint.failed(&error);
                PostError::NotSent(error.to_string())
            })?,
        };
        let (status, reusable) = connection
            .post(&self.shared.post, &url, &body)
            .await
            .map_err(|error| PostError::Unknown(error.to_string()))?;
        if let Some(connection) = reusable {
            self.keep(connection);
        }
        match status {
            200..=299 => Ok(()),
            404 => Err(PostError::SessionGone),
            status => Err(PostError::Refused(status)),
        }
    }

    /// As [`Self::post`], with a time limit.
    ///
    /// # Errors
    /// As [`Self::post`]; [`PostError::Unknown`] when the time is over.
    pub async fn post_within(&self, url: Uri, body: Bytes, limit: Duration) -> Result<(), PostError> {
        match tokio::time::timeout(limit, self.clone().post(url, body)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(PostError::late(limit)),
        }
    }

    /// GETs the endpoint's own URL, on a connection of its own.
    pub(super) async fn open_stream(&self) -> Result<(ResponseHead, Body), Broken> {
        let url = self.endpoint.url.as_str().parse().map_err(|_| not_connected("the URL cannot be requested"))?;
        self.connect().await?.get(&self.shared.get, &url, Rc::clone(&self.shared.scratch)).await
    }

    async fn connect(&self) -> Result<Connection, Broken> {
        // Idle ones count, too.
        if self.shared.limit.available_permits() == 0 {
            self.let_go_of_oldest();
        }
        let limit = self.shared.connect_timeout;
        let opened = Connection::open(&self.endpoint.url, &self.shared.config, &self.shared.limit);
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

    fn keep(&self, connection: Connection) {
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

fn not_connected(why: impl Into<String>) -> Broken {
    Broken::NotConnected(std::io::Error::other(why.into()))
}

impl PostError {
    /// The time limit is over: the upstream may have seen the message.
    pub fn late(limit: Duration) -> Self {
        Self::Unknown(format!("no answer within {limit:?}"))
    }
}
