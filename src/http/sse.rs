//! `GET /sse/{service}`: the 2024-11-05 event stream, new or resumed. What the client shows is read here; what it gets
//! is [`gateway::open`](crate::gateway::open)'s to say.

use std::{rc::Rc, str::FromStr, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    cookie::{Cookie, SameSite},
    http::header::{self, HeaderValue},
    web,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryFutureExt as _, future, stream};
use serde::Deserialize;

use super::{
    accept::Takes,
    allowed::Allowed,
    error::ApiError,
    extract::NodeData,
    forwarded::{self, Edge},
    frame, message, principal,
};
use crate::{
    gateway::{
        open::{Mark, NotOpened, Opened, Opening, Shown},
        rebind::{self, Question},
    },
    process::node::Node,
    protocol::session_id::SessionId,
    session::{attachment::Aborted, returning::Client},
    settings::SecuritySettings,
    upstream::Service,
};

/// Name of the cookie for clients that keep cookies and nothing else.
const COOKIE: &str = "mcp_session";

/// Query of the GET.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Query {
    pub(super) service_name: Option<String>,
    session_id: Option<String>,
}

/// `GET /sse` and `GET /sse?serviceName=`
pub async fn open_by_query(
    node: NodeData,
    request: HttpRequest,
    query: web::Query<Query>,
) -> Result<HttpResponse, ApiError> {
    let service = find_service(&node, query.service_name.as_deref())?;
    serve(&node, &request, service, &query).await
}

/// `GET /sse/{service}`
pub async fn open(
    node: NodeData,
    request: HttpRequest,
    service: web::Path<String>,
    query: web::Query<Query>,
) -> Result<HttpResponse, ApiError> {
    let service = find_service(&node, Some(&service))?;
    serve(&node, &request, service, &query).await
}

/// The service of this name; without one, the only one that there is.
pub(super) fn find_service(node: &Node, name: Option<&str>) -> Result<Arc<Service>, ApiError> {
    let pool = &node.cluster.pool;
    let Some(name) = name else {
        return pool.only_service().ok_or_else(|| ApiError::AmbiguousService { known: pool.names() });
    };
    pool.service(name).ok_or_else(|| unknown_service(node, name))
}

/// There is no service of this name, or none for new sessions.
pub(super) fn unknown_service(node: &Node, name: &str) -> ApiError {
    ApiError::UnknownService { name: name.to_owned(), known: node.cluster.pool.names() }
}

/// How the answer is to be written.
struct Response<'r> {
    request: &'r HttpRequest,
    /// The client reached us by https.
    secure: bool,
    edge: Edge,
}

async fn serve(
    node: &Rc<Node>,
    request: &HttpRequest,
    service: Arc<Service>,
    query: &Query,
) -> Result<HttpResponse, ApiError> {
    let security = &node.env.settings.security;
    // At once: such a GET is a probe, and a stream would keep it waiting.
    if !Takes::of(request).events {
        return Err(ApiError::NotAcceptable);
    }
    let prefix = forwarded::prefix(request, &security.trusted_proxies) + &node.env.settings.server.base_path;
    let opening = Opening {
        gateway: Rc::clone(&node.gateway),
        client: client(request, &service, security),
        by: Allowed::at(node, request, &service.name)?.by,
        service: Arc::clone(&service),
    };
    let endpoint = move |session: &SessionId, proof| message::endpoint(&prefix, &service.name, session, proof);
    let edge = Edge::of(request, &security.trusted_proxies);
    let shown = shown(request, query, edge);
    // What has begun goes on there for a while.
    if !opening.service.is_listed() && shown.is_nothing() {
        return Err(unknown_service(node, &opening.service.name));
    }
    let response = Response { request, secure: forwarded::is_https(request, &security.trusted_proxies), edge };
    match opening.open(shown).await {
        Ok(Opened::Ready(ready)) => Ok(response.with(frame::body(ready.pump, endpoint), Some(ready.session))),
        Ok(Opened::Ask(asked)) => {
            let Question { ping, stream } = rebind::ask(opening, asked);
            let asking = stream::once(future::ready(Ok(frame::unnumbered(ping.as_bytes()))));
            let rest = stream.map_ok(|pump| frame::body(pump, endpoint)).try_flatten_stream();
            Ok(response.with(asking.chain(rest), None))
        }
        // A returning client would take any status but 200 as the end, for good. A stream that breaks at once sends it
        // round again.
        Err(NotOpened::Store(_)) if is_returning(request) => {
            let broken = stream::once(future::ready(Err(Aborted("the session store does not answer"))));
            Ok(response.with(broken, None))
        }
        Err(error) => Err(ApiError::from(error).knowing(&*node.env.store)),
    }
}

/// What the request shows of a session that its client had.
fn shown(request: &HttpRequest, query: &Query, edge: Edge) -> Shown {
    let cursor = request.headers().get("last-event-id").filter(|value| !value.is_empty());
    Shown {
        held: edge == Edge::GoesOn,
        cursor: cursor.map_or(Mark::Absent, |value| mark(value.to_str().unwrap_or_default())),
        named: query.session_id.as_deref().map_or(Mark::Absent, mark),
        cookie: request.cookie(COOKIE).and_then(|cookie| cookie.value().parse().ok()),
    }
}

pub(super) fn mark<T: FromStr>(text: &str) -> Mark<T> {
    text.parse().map_or(Mark::Unreadable, Mark::Is)
}

/// Which program asks, as far as it shows. Who is known by name is known by that, and may have a new token each time.
pub(super) fn client(request: &HttpRequest, service: &Service, security: &SecuritySettings) -> Client {
    let headers = request.headers();
    let bytes = |name| headers.get(name).map(HeaderValue::as_bytes);
    let address = forwarded::client_address(request, &security.trusted_proxies);
    let versioned = headers.contains_key("mcp-protocol-version");
    let by = principal::of(request).binding();
    let credential =
        if by.principal().is_empty() { bytes(header::AUTHORIZATION) } else { Some(by.principal().as_bytes()) };
    Client::of(&service.name, credential, bytes(header::USER_AGENT), address, versioned)
}

/// Only a client that had a stream before sends one of these.
fn is_returning(request: &HttpRequest) -> bool {
    let headers = request.headers();
    headers.contains_key("last-event-id")
        || headers.contains_key("mcp-protocol-version")
        || request.cookie(COOKIE).is_some()
}

impl Response<'_> {
    fn with(
        &self,
        body: impl Stream<Item = Result<Bytes, Aborted>> + 'static,
        session: Option<SessionId>,
    ) -> HttpResponse {
        frame::response(self.request, body, |response| {
            self.edge.answer(response);
            if let Some(session) = session {
                let cookie = Cookie::build(COOKIE, session.reveal())
                    .path("/")
                    .http_only(true)
                    // A page elsewhere has no use for a session here, not even by a link.
                    .same_site(SameSite::Strict)
                    .secure(self.secure)
                    .finish();
                response.cookie(cookie);
            }
        })
    }
}
