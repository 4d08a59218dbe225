//! `POST /mcp/router/route/{service}`: one JSON-RPC request in, its response out. The caller has no session; the router's
//! own initialised sessions are shared by all callers, with rewritten ids, so that nobody gets another's answer.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;

use super::{WorkerData, error::ApiError, read_body};
use crate::{
    app::Worker,
    protocol::{
        jsonrpc::{Head, Kind},
        mcp::{self, Repeatable},
    },
    upstream::{
        Endpoint, Service,
        actor::{Call, CallError, Initialized, Notify, UpstreamActor},
    },
};

/// The handler.
pub async fn post(
    worker: WorkerData,
    request: HttpRequest,
    service: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let app = &worker.app;
    let service = app
        .pool
        .service(&service)
        .cloned()
        .ok_or_else(|| ApiError::UnknownService { name: service.into_inner(), known: app.pool.names() })?;
    let body = read_body(&request, payload, &app.settings).await?;
    let head = Head::parse(&body)?;
    let _slot = Slot::take(&app.rest_in_flight, app.settings.limits.rest_max_inflight)?;
    match &head.kind {
        Kind::Request { id, .. } => match answer(&worker, &service, &head, &body).await {
            Ok(answer) => Ok(HttpResponse::Ok().content_type("application/json").body(answer)),
            Err(error) => Ok(error.response(Some(id.as_json()))),
        },
        Kind::Notification { .. } => {
            on_some_endpoint(&worker, &service, |upstream| {
                let body = body.clone();
                async move { flatten(upstream.send(Notify { body }).await) }
            })
            .await?;
            Ok(HttpResponse::Accepted().finish())
        }
        Kind::Response { .. } => Err(ApiError::Unexpected("a response answers nothing here: send a request")),
    }
}

/// Runs one request, and gives its response the caller's id.
async fn answer(worker: &Rc<Worker>, service: &Arc<Service>, head: &Head<'_>, body: &Bytes) -> Result<Bytes, ApiError> {
    let timeout = worker.app.settings.upstream.request_timeout;
    let response = if head.method() == Some(mcp::INITIALIZE) {
        // The shared session is initialised already; a second time would change it for everybody.
        on_some_endpoint(worker, service, |upstream| async move { flatten(upstream.send(Initialized).await) }).await?
    } else {
        let call = || {
            on_some_endpoint(worker, service, |upstream| {
                let body = body.clone();
                async move { flatten(upstream.send(Call { body, timeout }).await) }
            })
        };
        match call().await {
            Err(ApiError::Upstream(CallError::Lost(_))) if is_repeatable(service, head) => call().await?,
            outcome => outcome?,
        }
    };
    let Kind::Request { id, .. } = &head.kind else { return Ok(response) };
    let answer =
        Head::parse(&response).map_err(|_| ApiError::Upstream(CallError::Lost("it answered nonsense".into())))?;
    if let (Some(mcp::LIST_TOOLS), Some(result)) = (head.method(), answer.result)
        && head.params.is_none()
        && !service.knows_tools()
    {
        service.remember_tool_list(result.get());
    }
    Ok(answer.with_id(&response, id.as_json()))
}

fn is_repeatable(service: &Service, head: &Head<'_>) -> bool {
    match mcp::repeatable(head.method().unwrap_or_default(), head.params) {
        Repeatable::Yes => true,
        Repeatable::No => false,
        Repeatable::IfToolSays(tool) => service.tool_repeatable(&tool) == Some(true),
    }
}

/// Tries healthy endpoints, least busy first, until one takes the request. Another is tried only when the one before
/// has not seen the request.
pub(super) async fn on_some_endpoint<T, F, Fut>(
    worker: &Rc<Worker>,
    service: &Arc<Service>,
    operation: F,
) -> Result<T, ApiError>
where
    F: Fn(actix::Addr<UpstreamActor>) -> Fut,
    Fut: Future<Output = Result<T, CallError>>,
{
    let mut order: Vec<&Arc<Endpoint>> = service.endpoints.iter().collect();
    fastrand::shuffle(&mut order);
    order.sort_by_key(|endpoint| endpoint.in_flight.load(Ordering::Relaxed));
    let mut last = None;
    for endpoint in order {
        if !endpoint.try_acquire() {
            continue;
        }
        match operation(worker.upstream(endpoint).clone()).await {
            Ok(done) => return Ok(done),
            Err(error @ CallError::Unreachable(_)) => last = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.map_or_else(|| ApiError::NoEndpoint { service: service.name.clone() }, ApiError::Upstream))
}

fn flatten<T>(outcome: Result<Result<T, CallError>, actix::MailboxError>) -> Result<T, CallError> {
    outcome.unwrap_or_else(|_| Err(CallError::Lost("the router is stopping".to_owned())))
}

/// One of the calls that may be under way.
struct Slot<'a>(&'a AtomicUsize);

impl<'a> Slot<'a> {
    fn take(counter: &'a AtomicUsize, limit: usize) -> Result<Self, ApiError> {
        let slot = Self(counter);
        if counter.fetch_add(1, Ordering::AcqRel) >= limit {
            return Err(ApiError::TooMany { what: "REST requests under way" });
        }
        Ok(slot)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
