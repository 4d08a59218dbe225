//! What is configured and what is going on: services, endpoints, tools, sessions. Sessions are read from the store, so
//! they are the same on every instance; they are for operators only, and name sessions by handles, since a session's id is
//! its secret.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use serde::Deserialize;
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{accept::JSON, allowed::Allowed, error::ApiError, extract::NodeData, forwarded};
use crate::{
    gateway::call,
    incidents::Incident,
    process::node::Node,
    protocol::session_id::SessionId,
    session::messages::TakeSnapshot,
    store::{Ownership, SessionHead, StoreResult},
    upstream::{Endpoint, Service, breaker::BreakerState},
};

/// Sessions listed unless `?limit=` says otherwise.
const LIST_LIMIT: usize = 100;
/// Most sessions listed at a time: the store is scanned for them.
const LIST_LIMIT_MAX: usize = 10_000;
/// Sessions among which one is looked for by anything but its handle.
const SEARCHED: usize = 2_000;
/// So many look through the sessions at a time.
const LOOKING: usize = 4;
/// Fewest digits by which a session can be named: as many as the log shows.
const HANDLE_LEAST: usize = 6;

/// `GET /mcp/router/services`
pub async fn services(node: NodeData) -> HttpResponse {
    let services = node.cluster.pool.services();
    let services: Vec<Value> = services
        .values()
        .filter(|service| service.is_listed())
        .map(|service| {
            let endpoints = service.endpoints();
            let up = endpoints.iter().filter(|endpoint| endpoint.state() == BreakerState::Closed).count();
            json!({ "name": service.name, "instances": endpoints.len(), "healthy": up, "sse": format!("/sse/{}", service.name) })
        })
        .collect();
    HttpResponse::Ok().json(json!({ "services": services }))
}

/// `GET /mcp/router/services/{service}/instances`
pub async fn instances(
    node: NodeData,
    request: HttpRequest,
    service: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let service = find(&node, &service)?;
    let whole = is_admin(&node, &request);
    let instances: Vec<Value> = service.endpoints().iter().map(|endpoint| describe(endpoint, whole)).collect();
    Ok(HttpResponse::Ok().json(json!({ "service": service.name, "instances": instances })))
}

/// An endpoint for people; where it is and what is wrong with it only for operators.
pub(super) fn describe(endpoint: &Endpoint, whole: bool) -> Value {
    let mut instance = json!({
        "status": status(endpoint.state()),
        "sessions": endpoint.sessions.load(Ordering::Relaxed),
        "inFlight": endpoint.in_flight.load(Ordering::Relaxed),
    });
    if whole {
        instance["url"] = json!(endpoint.url.to_string());
        instance["lastError"] = json!(endpoint.last_error());
    }
    instance
}

/// Spring's words.
pub(super) fn status(state: BreakerState) -> &'static str {
    match state {
        BreakerState::Closed => "UP",
        BreakerState::HalfOpen => "UNKNOWN",
        BreakerState::Open => "DOWN",
    }
}

fn find(node: &Node, name: &str) -> Result<std::sync::Arc<Service>, ApiError> {
    let known = || ApiError::UnknownService { name: name.to_owned(), known: node.cluster.pool.names() };
    node.cluster.pool.service(name).ok_or_else(known)
}

/// `GET /mcp/router/tools/{service}`: all pages of the service's own `tools/list`.
pub async fn tools(node: NodeData, request: HttpRequest, service: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let service = find(&node, &service)?.clone();
    let allowed = if is_admin(&node, &request) { None } else { Some(Allowed::at(&node, &request, &service.name)?) };
    let mut tools = call::list_tools(&node.gateway, &service).await?;
    if let Some(allowed) = allowed {
        tools.retain(|tool| allowed.shows_tool(tool));
    }
    // As their servers have written them: not all of JSON is a `Value`.
    let tools: Vec<&str> = tools.iter().map(|tool| tool.get()).collect();
    let body = format!(r#"{{"service":{},"tools":[{}]}}"#, Value::from(service.name.as_str()), tools.join(","));
    Ok(HttpResponse::Ok().content_type(JSON).body(body))
}

/// `?limit=`, and of which sessions.
#[derive(Debug, Deserialize)]
pub struct ListQuery {
    limit: Option<usize>,
    /// First digits of a handle, or a part of a service's or an instance's name.
    #[serde(default)]
    q: String,
    /// Id of the instance that owns them.
    owner: Option<String>,
}

/// `GET /mcp/router/sessions`
pub async fn sessions(
    node: NodeData,
    request: HttpRequest,
    query: web::Query<ListQuery>,
) -> Result<HttpResponse, ApiError> {
    check_admin(&node, &request)?;
    let limit = query.limit.unwrap_or(LIST_LIMIT).min(LIST_LIMIT_MAX);
    let _looking = Looking::begin()?;
    // One more tells whether there are more.
    let mut found = find_sessions(&node, &query, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let sessions: Vec<Value> = found.iter().map(|(id, head)| describe_session(id, head, false)).collect();
    Ok(HttpResponse::Ok().json(json!({ "sessions": sessions, "count": sessions.len(), "more": more })))
}

async fn find_sessions(node: &Node, query: &ListQuery, limit: usize) -> StoreResult<Vec<(SessionId, SessionHead)>> {
    let store = &node.env.store;
    let wanted = query.q.trim().trim_end_matches('…').to_lowercase();
    if let Some(owner) = &query.owner {
        let owned = store.owned_by(owner).await?;
        let is_meant = |id: &SessionId| id.handle().starts_with(&wanted);
        let heads =
            owned.into_iter().filter(is_meant).take(limit).map(|id| async move { Ok((id, store.load(id).await?)) });
        let heads: StoreResult<Vec<_>> = futures_util::future::join_all(heads).await.into_iter().collect();
        // The index may name some that are another's by now.
        let is_owned =
            |head: &SessionHead| head.ownership.as_ref().is_some_and(|held| *held.owner.instance_id == **owner);
        return Ok(heads?.into_iter().filter_map(|(id, head)| Some((id, head.filter(is_owned)?))).collect());
    }
    let is_handle = wanted.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let mut found = if wanted.is_empty() { Vec::new() } else { Vec::with_capacity(limit.min(LIST_LIMIT)) };
    if wanted.is_empty() {
        return store.list(limit).await;
    }
    if is_handle {
        found = store.find(&wanted, limit).await?;
    }
    if found.is_empty() {
        let told = |head: &SessionHead| {
            let owner = head.ownership.as_ref().map_or("", |held| &*held.owner.instance_id);
            [owner, &head.service, &head.transport].iter().any(|text| text.to_lowercase().contains(&wanted))
        };
        found = store.list(SEARCHED).await?;
        found.retain(|(_, head)| told(head));
        found.truncate(limit);
    }
    Ok(found)
}

/// Somebody looks through the store's sessions: few do so at a time, since it is the one that calls wait for, too.
#[derive(Debug)]
pub(super) struct Looking(#[expect(dead_code, reason = "held")] SemaphorePermit<'static>);

impl Looking {
    pub(super) fn begin() -> Result<Self, ApiError> {
        static PERMITS: Semaphore = Semaphore::const_new(LOOKING);
        PERMITS.try_acquire().map(Self).map_err(|_| ApiError::TooMany { what: "look-ups of sessions" })
    }
}

/// `GET /mcp/router/sessions/{id}`: by its handle, or the whole id.
pub async fn session(node: NodeData, request: HttpRequest, name: web::Path<String>) -> Result<HttpResponse, ApiError> {
    check_admin(&node, &request)?;
    let id = named(&node, &name).await?;
    let head = node.env.store.load(id).await?.ok_or(ApiError::UnknownSession)?;
    let mut session = describe_session(&id, &head, true);
    if let Some(owner) = node.env.directory.session(&id)
        && let Ok(snapshot) = owner.send(TakeSnapshot).await
    {
        session["here"] = serde_json::to_value(snapshot).unwrap_or_default();
    }
    Ok(HttpResponse::Ok().json(session))
}

/// `DELETE /mcp/router/sessions/{id}`: by its handle, or the whole id.
pub async fn delete_session(
    node: NodeData,
    request: HttpRequest,
    name: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    check_admin(&node, &request)?;
    check_own_page(&node, &request)?;
    let id = named(&node, &name).await?;
    if node.env.store.purge(id, None).await? {
        tracing::info!(session = %id, "session deleted by an operator");
        node.env.incidents.note(Incident { session: id.handle(), ..Incident::new("session_deleted") });
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(ApiError::UnknownSession)
    }
}

/// The session that an operator means: by the whole id, or by the first digits, as the list and the log show them.
pub(super) async fn named(node: &Node, name: &str) -> Result<SessionId, ApiError> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let digits = name.trim_end_matches('…');
    let is_handle = (HANDLE_LEAST..32).contains(&digits.len())
        && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if !is_handle {
        return Err(ApiError::UnknownSession);
    }
    match node.env.store.find(digits, 2).await?.as_slice() {
        [] => Err(ApiError::UnknownSession),
        [(id, _)] => Ok(*id),
        _ => Err(ApiError::AmbiguousSession),
    }
}

/// What clients said (payloads) stays out of it, and so does what would let its reader speak for the session. SEC-2
pub(super) fn describe_session(id: &SessionId, head: &SessionHead, whole: bool) -> Value {
    let streams: BTreeMap<String, String> =
        head.attachments().map(|held| (held.stream, held.incarnation.to_string())).collect();
    let (owner, generation) = match &head.ownership {
        Some(Ownership { owner, generation, .. }) => (Some(owner), *generation),
        None => (None, 0),
    };
    let mut session = json!({
        "sessionId": id.to_string(),
        "handle": id.handle(),
        "service": head.service,
        "transport": head.transport,
        "owner": owner.map_or("", |owner| &*owner.instance_id),
        "generation": generation,
        "createdMs": head.created_ms,
        "lastActiveMs": head.last_active_ms,
        "initialized": head.continuation.initialized.is_some(),
        "endpoint": head.continuation.endpoint.as_deref().unwrap_or_default(),
        "streams": streams,
    });
    if whole {
        session["incarnation"] = json!(owner.map_or("", |owner| &*owner.incarnation));
        session["accepted"] = json!(head.in_seq);
        session["claimed"] = json!(head.in_claimed);
    }
    session
}

/// What an operator's browser asks is asked by him, not by a page that he has open besides.
pub(super) fn check_own_page(node: &Node, request: &HttpRequest) -> Result<(), ApiError> {
    let is_own = forwarded::is_from_own_page(request, &node.env.settings.security.trusted_proxies);
    if is_own { Ok(()) } else { Err(ApiError::Origin) }
}

pub(super) fn check_admin(node: &Node, request: &HttpRequest) -> Result<(), ApiError> {
    if is_admin(node, request) { Ok(()) } else { Err(ApiError::NotAdmin) }
}

/// With the admin token, or from this machine itself. What a proxy has handed on comes from anywhere, however near the
/// proxy is and whoever it says the client was: behind a second proxy on this host all clients are loopback ones.
pub(super) fn is_admin(node: &Node, request: &HttpRequest) -> bool {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(token) = &node.env.settings.security.admin_token
        && let Some((scheme, given)) = given.and_then(|given| given.split_once(' '))
        // RFC 9110, section 11.1: case-insensitive, and some spaces behind it (section 11.4).
        && scheme.eq_ignore_ascii_case("Bearer")
        && bool::from(given.trim_start_matches(' ').as_bytes().ct_eq(token.expose().as_bytes()))
    {
        return true;
    }
    let is_local = request.peer_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    is_local && !forwarded::was_forwarded(request)
}
