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
use tokio::{sync::watch, time::Instant};

use super::{WorkerData, calls::Cancelled, error::ApiError, read_body};
use crate::{
    app::Worker,
    protocol::{
        jsonrpc::{Head, IdKey, Kind},
        mcp::{self, Repeatable},
    },
    session::{recovery::MAX_ATTEMPTS, refused::pause_before_retry},
    upstream::{
        Endpoint, Service,
        actor::{Call, CallError, Initialized, Notify, UpstreamActor},
        call::flatten,
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
    let trusted = &app.settings.security.trusted_proxies;
    match &head.kind {
        Kind::Request { id, .. } => {
            // Dropped with this future when the caller is gone.
            let known = app.rest_calls.register(&request, trusted, &service.name, id.key());
            match answer(&worker, &service, &head, &body, known.given_up()).await {
                Ok(answer) => Ok(HttpResponse::Ok().content_type("application/json").body(answer)),
                Err(error) => Ok(error.response(Some(id.as_json()))),
            }
        }
        // The caller's ids mean nothing on the shared session, or somebody else's call.
        Kind::Notification { method } if method == mcp::CANCELLED => {
            let id = mcp::cancelled_request_id(head.params).map(IdKey::from_stored);
            let found = id.map(|id| app.rest_calls.cancel(&request, trusted, &service.name, id.key()));
            if found != Some(Cancelled::One) {
                app.metrics.dropped.with_label_values(&["cancel_of_nothing"]).inc();
            }
            Ok(HttpResponse::Accepted().finish())
        }
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
async fn answer(
    worker: &Rc<Worker>,
    service: &Arc<Service>,
    head: &Head<'_>,
    body: &Bytes,
    given_up: watch::Receiver<bool>,
) -> Result<Bytes, ApiError> {
    let tools_version = service.tools.version();
    let response = if head.method() == Some(mcp::INITIALIZE) {
        // The shared session is initialised already; a second time would change it for everybody.
        on_some_endpoint(worker, service, |upstream| async move { flatten(upstream.send(Initialized).await) }).await?
    } else {
        run(worker, service, head, body, given_up).await?
    };
    let Kind::Request { id, .. } = &head.kind else { return Ok(response) };
    let answer = Head::parse(&response).map_err(|_| ApiError::Upstream(CallError::Nonsense))?;
    if let (Some(mcp::LIST_TOOLS), Some(result)) = (head.method(), answer.result) {
        service.tools.remember_page(result.get(), mcp::is_first_page(head.params), tools_version);
    }
    Ok(answer.with_id(&response, id.as_json()))
}

/// Sends a request until it is answered, within its time limit: again at once if its outcome is unknown and that does no
/// harm, and after a pause if no server takes it for the time being. REQ-3
async fn run(
    worker: &Rc<Worker>,
    service: &Arc<Service>,
    head: &Head<'_>,
    body: &Bytes,
    mut given_up: watch::Receiver<bool>,
) -> Result<Bytes, ApiError> {
    let settings = &worker.app.settings.upstream;
    let deadline = Instant::now() + settings.request_timeout;
    let (mut sent, mut refusals) = (0, 0);
    loop {
        let call = |upstream: actix::Addr<UpstreamActor>| {
            let timeout = deadline.saturating_duration_since(Instant::now());
            let call = Call { body: body.clone(), timeout, given_up: Some(given_up.clone()) };
            async move { flatten(upstream.send(call).await) }
        };
        match on_some_endpoint(worker, service, call).await {
            Err(ApiError::Upstream(CallError::Lost(_))) if sent + 1 < MAX_ATTEMPTS && is_repeatable(service, head) => {
                sent += 1;
            }
            Err(ApiError::Upstream(CallError::NotNow { status, retry_after })) => {
                let pause = pause_before_retry(settings, retry_after, refusals);
                if Instant::now() + pause >= deadline {
                    return Err(ApiError::Upstream(CallError::NotNow { status, retry_after }));
                }
                refusals += 1;
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = given_up.changed() => return Err(ApiError::Upstream(CallError::Cancelled)),
                }
            }
            // The whole limit, not what was left of it.
            Err(ApiError::Upstream(CallError::TimedOut(_))) => {
                return Err(ApiError::Upstream(CallError::TimedOut(settings.request_timeout)));
            }
            outcome => return outcome,
        }
    }
}

fn is_repeatable(service: &Service, head: &Head<'_>) -> bool {
    match mcp::repeatable(head.method().unwrap_or_default(), head.params) {
        Repeatable::Yes => true,
        Repeatable::No => false,
        Repeatable::IfToolSays(tool) => service.tools.repeatable(&tool) == Some(true),
    }
}

/// Tries healthy endpoints, least busy first, and then the others, until one takes the request. Another is tried only when the one before
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
    // Where no healthy one takes it, be it that the last one has just died, one that counts as dead and has not been tried
    // for a moment: it may be back.
    for may_try in [Endpoint::try_acquire, Endpoint::try_last_resort] {
        let mut others = Vec::new();
        for endpoint in order {
            if !may_try(endpoint) {
                others.push(endpoint);
                continue;
            }
            match operation(worker.upstream(endpoint).clone()).await {
                Ok(done) => return Ok(done),
                // One that only has no time now is worth another try.
                Err(error @ CallError::NotNow { .. }) => last = Some(error),
                Err(error @ CallError::Unreachable(_)) => last = last.or(Some(error)),
                Err(error) => return Err(error.into()),
            }
        }
        order = others;
    }
    Err(last.map_or_else(|| ApiError::NoEndpoint { service: service.name.clone() }, ApiError::Upstream))
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
