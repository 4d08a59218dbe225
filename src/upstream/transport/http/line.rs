//! [`Line`]: the way from one worker thread to one endpoint: the connections that everybody on the thread shares. A POST
//! is a future of whoever makes it; it passes no mailbox on its way.

use std::{
    borrow::Cow,
    cell::OnceCell,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix_http::{
    Method, ResponseHead, ServiceConfig, Uri,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use bytes::Bytes;
use rustls::ClientConfig;

use super::{
    Bounds, Broken,
    answer::{PostError, outcome},
    body::Body,
    client::Client as Awc,
    connection::{Head, Rest},
    connections::Connections,
    not_connected,
    redirect::{self, NotFollowed},
    reply::{Reply, Said},
};
use crate::{
    protocol::trace_context::TraceContext,
    settings::UpstreamSettings,
    upstream::{
        Endpoint,
        credential::{Client, Credential, NoCredential, Who},
    },
};

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub struct Line {
    /// Where it leads.
    pub endpoint: Arc<Endpoint>,
    way: Rc<Way>,
    by_awc: bool,
    who: Who,
    /// Where what is sent stands in its trace.
    place: Option<Rc<TraceContext>>,
}

struct Way {
    post: Head,
    get: Head,
    connections: Rc<Connections>,
    /// Made when it is needed, which it seldom is.
    client: OnceCell<Awc>,
    bounds: Bounds,
    tls: Option<Arc<ClientConfig>>,
    tokens: Client,
    settings: UpstreamSettings,
}

/// What all lines of a thread share.
#[derive(Clone)]
pub struct LineConfig {
    http: ServiceConfig,
    tls: Option<Arc<ClientConfig>>,
    tokens: Client,
}

impl LineConfig {
    /// An `https` endpoint can be reached.
    pub(in crate::upstream) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// By this, from now on.
    pub(in crate::upstream) fn set_tls(&mut self, tls: Arc<ClientConfig>) {
        self.tls = Some(tls);
    }
}

impl std::fmt::Debug for LineConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineConfig").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// An open event stream.
pub(in crate::upstream) struct Opened {
    pub(in crate::upstream) head: ResponseHead,
    pub(in crate::upstream) body: Body,
    /// Where it was found in the end: relative references are resolved against it (RFC 3986, section 5.1.3).
    pub(in crate::upstream) url: url::Url,
}

/// Why an event stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub(in crate::upstream) enum NotOpened {
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error(transparent)]
    NotFollowed(#[from] NotFollowed),
    #[error(transparent)]
    NoCredential(#[from] NoCredential),
}

/// The answer to what was sent.
pub(in crate::upstream) struct Answered {
    pub(in crate::upstream) head: ResponseHead,
    /// A body that may hold messages.
    pub(in crate::upstream) reply: Option<Reply>,
    /// Where it was taken in the end.
    pub(in crate::upstream) url: Uri,
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
    /// To be made on the thread, which must have a `LocalSet` (actix's has). `tls`: where there is an `https` endpoint.
    /// `for_tokens`: where an authorization server may be asked, with how long that may take.
    pub fn config(
        tls: Option<Arc<ClientConfig>>,
        (for_tokens, timeout): (Option<Arc<ClientConfig>>, Duration),
    ) -> LineConfig {
        LineConfig { http: Connections::config(), tls, tokens: Client::new(for_tokens, timeout) }
    }

    /// To be used on the current thread.
    pub fn new(endpoint: Arc<Endpoint>, limits: &UpstreamSettings, config: &LineConfig) -> Self {
        let UpstreamSettings { connect_timeout, max_connections, .. } = *limits;
        let bounds = Bounds { connect_timeout, max_connections };
        let is_secure = endpoint.url.is_secure();
        let way = Way {
            post: head(&endpoint, Method::POST, [OF_POST]),
            get: head(&endpoint, Method::GET, [OF_GET]),
            connections: Rc::new(Connections::new(bounds, config.http.clone())),
            client: OnceCell::new(),
            bounds,
            tls: config.tls.clone().filter(|_| is_secure),
            tokens: config.tokens.clone(),
            settings: limits.clone(),
        };
        Self { endpoint, way: Rc::new(way), by_awc: is_secure, who: Who::Nobody, place: None }
    }

    /// The same way, for what is sent in this name.
    pub fn in_name_of(&self, who: Who) -> Self {
        Self { who, ..self.clone() }
    }

    /// The same way, for what stands there in its trace.
    pub fn at(&self, place: TraceContext) -> Self {
        Self { place: Some(Rc::new(place)), ..self.clone() }
    }

    /// The same way, whose POSTs go by awc.
    pub fn by_awc(&self) -> Self {
        Self { by_awc: true, ..self.clone() }
    }

    fn client(&self) -> Option<&Awc> {
        self.by_awc.then(|| self.way.client.get_or_init(|| Awc::new(self.way.bounds, self.way.tls.clone())))
    }

    /// The head of requests of one kind to this endpoint.
    pub(in crate::upstream) fn head<const N: usize>(
        &self,
        method: Method,
        more: [(HeaderName, &'static str); N],
    ) -> Head {
        head(&self.endpoint, method, more)
    }

    /// Largest body that is read to find out what an error is about.
    pub(in crate::upstream) fn max_message(&self) -> usize {
        self.way.settings.max_message
    }

    /// What is set for all of them.
    pub(in crate::upstream) fn settings(&self) -> &UpstreamSettings {
        &self.way.settings
    }

    /// POSTs one message, byte for byte. Without a time limit but that for a new connection: whoever waits for it has
    /// one. `Some`: the answer has a body that may hold messages, to be read on; that of a status that is no success holds
    /// the answer to the request in `body`.
    ///
    /// # Errors
    /// [`PostError`], which says whether the upstream may have seen it.
    pub async fn post(self, url: Uri, body: Bytes) -> Result<Option<Reply>, PostError> {
        let Answered { head, reply, .. } = self.exchange(&self.way.post, url, &body).await?;
        let Err(error) = outcome(&head) else { return Ok(reply) };
        // What the server itself says of the call is more than a status can say.
        match reply {
            Some(reply) => match reply.said_of(&body, self.way.settings.max_message).await {
                Said::Answer(reply) => Ok(Some(reply)),
                Said::Other(_) | Said::Nothing => Err(error),
            },
            None => Err(error),
        }
    }

    /// Sends `body`, and again wherever the endpoint redirects it to. An answer of any status is one.
    pub(in crate::upstream) async fn exchange(
        &self,
        kind: &Head,
        mut url: Uri,
        body: &Bytes,
    ) -> Result<Answered, PostError> {
        let _counted = InFlight::count(&self.endpoint);
        let mut shown = self.credential(None).await?;
        let mut is_another = false;
        for _hop in 0..=redirect::MAX_REDIRECTS {
            let (head, reply) =
                self.exchange_once(&with(kind, shown.as_ref(), self.place.as_deref()), &url, body).await?;
            let status = head.status.as_u16();
            // It was not executed (RFC 9110, section 15.5.2).
            if status == 401 && !std::mem::replace(&mut is_another, true) {
                let other = self.other_than(shown.as_ref()).await?;
                if other.is_some() {
                    shown = other;
                    continue;
                }
            }
            if !redirect::is_redirect(status, false) {
                return Ok(Answered { head, reply, url });
            }
            let from = url.to_string().parse().map_err(|_| NotFollowed::Nowhere(status))?;
            url = self.redirected(&from, &head)?.1;
        }
        Err(NotFollowed::TooOften.into())
    }

    async fn credential(&self, refused: Option<&HeaderValue>) -> Result<Option<Credential>, NoCredential> {
        self.endpoint.credentials.header(&self.who, &self.way.tokens, refused).await
    }

    /// Another one than the server has refused, if there is one.
    async fn other_than(&self, shown: Option<&Credential>) -> Result<Option<Credential>, NoCredential> {
        let Some((_, refused)) = shown else { return Ok(None) };
        Ok(self.credential(Some(refused)).await?.filter(|(_, other)| other != refused))
    }

    async fn exchange_once(
        &self,
        kind: &Head,
        url: &Uri,
        body: &Bytes,
    ) -> Result<(ResponseHead, Option<Reply>), PostError> {
        let broken = |error: Broken| match error {
            error @ Broken::NotConnected(_) => {
                self.endpoint.failed(&error);
                PostError::NotSent(error.to_string())
            }
            Broken::NoAnswer(why) => PostError::Unknown(why),
        };
        if let Some(client) = self.client() {
            let (head, body) = client.exchange(kind, url, body).await.map_err(broken)?;
            let reply = body.and_then(|body| Reply::of(&head, Body::Awc(Box::new(body))));
            return Ok((head, reply));
        }
        let connections = &self.way.connections;
        let connection = match connections.take() {
            Some(connection) => connection,
            None => connections.connect(self.endpoint.url.request_url()).await.map_err(broken)?,
        };
        let (head, rest) = connection.exchange(kind, url, body).await.map_err(broken)?;
        let reply = match rest {
            Rest::Read(reusable) => {
                reusable.into_iter().for_each(|connection| connections.keep(connection));
                None
            }
            Rest::Body(body) => Reply::of(&head, Body::Own(body, Rc::clone(connections))),
        };
        Ok((head, reply))
    }

    /// GETs the endpoint's own URL, on a connection of its own.
    pub(in crate::upstream) async fn open_stream(&self) -> Result<Opened, NotOpened> {
        self.open(&self.way.get).await
    }

    /// The same, with this head.
    pub(in crate::upstream) async fn open(&self, kind: &Head) -> Result<Opened, NotOpened> {
        let mut url = redirect::bare(self.endpoint.url.request_url().clone());
        let mut uri = self.uri()?;
        let mut shown = self.credential(None).await?;
        let mut is_another = false;
        for _hop in 0..=redirect::MAX_REDIRECTS {
            let (head, body) = self.get(&with(kind, shown.as_ref(), None), &uri).await?;
            if head.status.as_u16() == 401 && !std::mem::replace(&mut is_another, true) {
                let other = self.other_than(shown.as_ref()).await?;
                if other.is_some() {
                    shown = other;
                    continue;
                }
            }
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

    /// The endpoint's own URL as the request line has it.
    pub(in crate::upstream) fn uri(&self) -> Result<Uri, Broken> {
        let url = redirect::bare(self.endpoint.url.request_url().clone());
        redirect::to_uri(&url).ok_or_else(|| not_connected("the URL cannot be requested"))
    }

    async fn get(&self, kind: &Head, url: &Uri) -> Result<(ResponseHead, Body), Broken> {
        if let Some(client) = self.client() {
            let (head, body) = client.get(kind, url).await?;
            return Ok((head, Body::Awc(Box::new(body))));
        }
        let connections = &self.way.connections;
        let connection = connections.connect(self.endpoint.url.request_url()).await?;
        let (head, body) = connection.get(kind, url).await?;
        Ok((head, Body::Own(body, Rc::clone(connections))))
    }

    /// Closes what has been idle for too long. To be called from time to time.
    pub(in crate::upstream) fn sweep(&self) {
        self.way.connections.sweep();
    }
}

static TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");

pub(in crate::upstream) const OF_POST: (HeaderName, &str) = (header::CONTENT_TYPE, "application/json");
/// For requests, whose answer is one message or a stream.
pub(in crate::upstream) const EITHER_ANSWER: (HeaderName, &str) =
    (header::ACCEPT, "application/json, text/event-stream");
pub(in crate::upstream) const OF_GET: (HeaderName, &str) = (header::ACCEPT, "text/event-stream");

/// Requests of this kind, with what shows who asks, and where that stands in a trace.
fn with<'k>(kind: &'k Head, shown: Option<&Credential>, place: Option<&TraceContext>) -> Cow<'k, Head> {
    if shown.is_none() && place.is_none() {
        return Cow::Borrowed(kind);
    }
    let kind = kind.clone();
    if let Some((name, value)) = shown {
        kind.insert(name.clone(), value.clone());
    }
    if let Some(place) = place {
        let put = |name: &HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                kind.insert(name.clone(), value);
            }
        };
        put(&TRACE_PARENT, &place.parent());
        if let Some(state) = &place.state {
            put(&TRACE_STATE, state);
        }
    }
    Cow::Owned(kind)
}

/// The upstream gets its own name, never the client's.
fn head<const N: usize>(endpoint: &Endpoint, method: Method, more: [(HeaderName, &'static str); N]) -> Head {
    let authority = &endpoint.url.request_url()[url::Position::BeforeHost..url::Position::AfterPort];
    let host = HeaderValue::from_str(authority).expect("the authority of a parsed URL is visible ASCII");
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, host);
    if let Some(authorization) = endpoint.url.authorization() {
        let value = HeaderValue::from_str(authorization).expect("base64 is visible ASCII");
        headers.insert(header::AUTHORIZATION, value);
    }
    for (name, value) in more {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Head::new(method, headers)
}
