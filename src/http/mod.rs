//! The HTTP surfaces, one file each. Handlers parse, check and send messages; they hold no state.

pub mod actuator;
pub mod admin;
pub mod error;
pub mod forwarded;
mod guard;
pub mod message;
pub mod route;
pub mod sse;

use std::{rc::Rc, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header,
    web,
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use self::{error::ApiError, guard::Guard};
use crate::{app::Worker, protocol::jsonrpc::Said};

/// The worker thread's own state, as handlers get it.
pub type WorkerData = web::Data<Rc<Worker>>;

/// So much of a declared length is believed before anything of the body has come.
const TRUSTED_LENGTH: usize = 64 << 10;

/// Mounts every surface below `base`.
pub fn configure<'a>(config: &mut web::ServiceConfig, base: &str, services: impl Iterator<Item = &'a str>) {
    // Tried in the order of their mounting: first what comes most, and by plain text instead of by pattern.
    let messages = services.fold(web::scope("").wrap(Guard), |scope, name| {
        let service: Arc<str> = name.into();
        let post =
            move |worker, request, payload| message::post_to_service(worker, request, payload, Arc::clone(&service));
        scope.route(&format!("/mcp/{name}/message"), web::post().to(post))
    });
    let guarded = messages
        .route("/mcp/{service}/message", web::post().to(message::unknown_service))
        .route("/mcp/router/route/{service}", web::post().to(route::post))
        .route("/mcp/message", web::post().to(message::post))
        .route("/sse", web::get().to(sse::open_by_query))
        .route("/sse/{service}", web::get().to(sse::open))
        .route("/mcp/router/services", web::get().to(admin::services))
        .route("/mcp/router/services/{service}/instances", web::get().to(admin::instances))
        .route("/mcp/router/tools/{service}", web::get().to(admin::tools))
        .route("/mcp/router/sessions", web::get().to(admin::sessions))
        .route("/mcp/router/sessions/{id}", web::get().to(admin::session))
        .route("/mcp/router/sessions/{id}", web::delete().to(admin::delete_session))
        .route("/actuator/info", web::get().to(actuator::info))
        .route("/actuator/prometheus", web::get().to(actuator::prometheus))
        .default_service(web::to(not_found));
    // Probes come with whatever Host the platform likes.
    let probes = web::scope(&format!("{base}/actuator/health"))
        .route("", web::get().to(actuator::health))
        .route("/liveness", web::get().to(actuator::liveness))
        .route("/readiness", web::get().to(actuator::readiness));
    config.service(probes);
    if base.is_empty() {
        config.service(guarded);
    } else {
        config.service(web::scope(base).service(guarded));
    }
}

async fn not_found() -> HttpResponse {
    HttpResponse::NotFound().json(serde_json::json!({ "status": 404, "error": "Not Found" }))
}

/// Reads a JSON-RPC body: content type, size.
pub(crate) async fn read_body(request: &HttpRequest, payload: web::Payload, limit: usize) -> Result<Bytes, ApiError> {
    let is_json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| value.split(';').next().unwrap_or("").trim())
        .is_some_and(|value| value.eq_ignore_ascii_case("application/json"));
    if !is_json {
        return Err(ApiError::ContentType);
    }
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if declared.is_some_and(|declared: usize| declared > limit) {
        return Err(ApiError::TooLarge { limit });
    }
    collect(payload, declared, limit).await
}

/// The body in memory of its own and no more than it needs: it may stay in the journal for long, and a piece of the
/// connection's buffer would keep all of that.
async fn collect(mut payload: web::Payload, declared: Option<usize>, limit: usize) -> Result<Bytes, ApiError> {
    let declared = declared.unwrap_or(0);
    let mut body = BytesMut::with_capacity(declared.min(TRUSTED_LENGTH));
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| ApiError::BrokenBody)?;
        if body.len() + chunk.len() > limit {
            return Err(ApiError::TooLarge { limit });
        }
        if body.len() + chunk.len() > body.capacity() {
            body.reserve(declared.saturating_sub(body.len()).max(chunk.len()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The id of a request as JSON text, for the error that answers it.
pub(crate) fn id_text(said: &Said) -> Option<&str> {
    match said {
        Said::Request { id, .. } => Some(id.as_json()),
        Said::Notification { .. } | Said::Response { .. } => None,
    }
}

/// Request spans without the query, which may hold a session id, and without bodies or tokens. SEC-2
#[derive(Debug)]
pub struct MaskedSpans;

impl tracing_actix_web::RootSpanBuilder for MaskedSpans {
    fn on_request_start(request: &ServiceRequest) -> tracing::Span {
        tracing::debug_span!(
            "request",
            method = %request.method(),
            route = request.match_pattern().unwrap_or_default(),
            status = tracing::field::Empty,
        )
    }

    fn on_request_end<B: MessageBody>(span: tracing::Span, outcome: &Result<ServiceResponse<B>, actix_web::Error>) {
        let status = match outcome {
            Ok(response) => response.response().status(),
            Err(error) => error.as_response_error().status_code(),
        };
        span.record("status", status.as_u16());
    }
}
