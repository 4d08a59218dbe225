//! The HTTP surfaces, one file each. Handlers parse, check and send messages; they hold no state.

pub mod actuator;
pub mod admin;
pub mod connections;
mod cors;
mod elsewhere;
pub mod error;
pub mod forwarded;
pub mod frame;
mod guard;
mod head;
pub mod message;
pub mod route;
pub mod sse;
mod unread;

use std::{
    future::ready,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    FromRequest, Handler, HttpMessage as _, HttpRequest, HttpResponse, Resource, Responder,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{self, HeaderValue},
    },
    web,
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use self::{connections::Open, error::ApiError, guard::Guard, unread::BodyRead};
use crate::{process::node::Node, protocol::jsonrpc::Said, settings::Settings};

/// The node thread's own state, as handlers get it.
pub type NodeData = web::Data<Rc<Node>>;

/// How long a body may take while connections are many.
const HURRIED: Duration = Duration::from_secs(5);

/// So much of a declared length is believed before anything of the body has come.
const TRUSTED_LENGTH: usize = 64 << 10;

const GET: &str = "GET, HEAD, OPTIONS";
const POST: &str = "POST, OPTIONS";
const GET_AND_DELETE: &str = "GET, HEAD, DELETE, OPTIONS";

/// Mounts every surface below `base`.
pub fn configure<'a>(config: &mut web::ServiceConfig, base: &str, services: impl Iterator<Item = &'a str>) {
    // Tried in the order of their mounting: first what comes most, and by plain text instead of by pattern.
    let messages = services.fold(web::scope("").wrap(Guard), |scope, name| {
        let service: Arc<str> = name.into();
        let post = move |node, request, payload| message::post_to_service(node, request, payload, Arc::clone(&service));
        scope.service(at(&format!("/mcp/{name}/message"), POST).route(web::post().to(post)))
    });
    let guarded = messages
        .service(at("/mcp/router/route/{service}", POST).route(web::post().to(route::post)))
        .service(at("/mcp/{service}/message", POST).route(web::post().to(message::unknown_service)))
        .service(at("/mcp/message", POST).route(web::post().to(message::post)))
        // A HEAD must not open a session.
        .service(
            at("/sse", GET)
                .route(web::get().to(sse::open_by_query))
                .route(web::head().to(head::stream_by_query))
                .route(web::post().to(elsewhere::post)),
        )
        .service(
            at("/sse/{service}", GET)
                .route(web::get().to(sse::open))
                .route(web::head().to(head::stream))
                .route(web::post().to(elsewhere::post)),
        )
        .service(read("/mcp/router/services", admin::services))
        .service(read("/mcp/router/services/{service}/instances", admin::instances))
        .service(read("/mcp/router/tools/{service}", admin::tools))
        .service(read("/mcp/router/sessions", admin::sessions))
        .service(
            at("/mcp/router/sessions/{id}", GET_AND_DELETE)
                .route(web::get().to(admin::session))
                .route(web::head().to(admin::session))
                .route(web::delete().to(admin::delete_session)),
        )
        .service(read("/actuator/info", actuator::info))
        .service(read("/actuator/prometheus", actuator::prometheus))
        .service(read("/actuator/health", actuator::health))
        .service(read("/actuator/health/liveness", actuator::liveness))
        .service(read("/actuator/health/readiness", actuator::readiness))
        .route("/mcp", web::route().to(elsewhere::any))
        .route("/mcp/{service}", web::route().to(elsewhere::any))
        .route("/mcp/", web::route().to(elsewhere::any))
        .route("/mcp/{service}/", web::route().to(elsewhere::any))
        .service(posted_elsewhere("/sse/"))
        .service(posted_elsewhere("/sse/{service}/"))
        .default_service(web::to(nothing));
    config
        .app_data(web::PathConfig::default().error_handler(|_, _| ApiError::NoSuchPath.into()))
        .app_data(web::QueryConfig::default().error_handler(|_, _| ApiError::Query.into()));
    if base.is_empty() {
        config.service(guarded);
    } else {
        config.service(web::scope(base).service(guarded)).default_service(web::to(nothing));
    }
}

/// A path and what it says to all methods but those of its routes. OPTIONS is answered for every path (RFC 9110, section
/// 9.3.7); preflights of browsers do not come this far.
fn at(path: &str, allow: &'static str) -> Resource {
    let others = move |method: Method| {
        ready(match method {
            Method::OPTIONS => Ok(HttpResponse::NoContent().insert_header((header::ALLOW, allow)).finish()),
            _ => Err(ApiError::Method { allow }),
        })
    };
    web::resource(path).default_service(web::to(others))
}

/// A path that is only read.
fn read<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    at(path, GET).route(web::get().to(handler.clone())).route(web::head().to(handler))
}

/// A path that is none, and to which a client may POST all the same that tries another transport first.
fn posted_elsewhere(path: &str) -> Resource {
    web::resource(path).route(web::post().to(elsewhere::post)).default_service(web::to(nothing))
}

async fn nothing() -> Result<HttpResponse, ApiError> {
    Err(ApiError::NoSuchPath)
}

/// Reads a JSON-RPC body: content type and coding, size, time.
pub(crate) async fn read_body(
    request: &HttpRequest,
    payload: web::Payload,
    settings: &Settings,
) -> Result<Bytes, ApiError> {
    let (headers, limit) = (request.headers(), settings.limits.max_body);
    // Empty elements of a list are none (RFC 9110, section 5.6.1.2).
    let is_plain = |codings: &HeaderValue| {
        let mut codings = codings.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        codings.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity"))
    };
    if !headers.get_all(header::CONTENT_ENCODING).all(is_plain) {
        return Err(ApiError::ContentCoding);
    }
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| value.split(';').next().unwrap_or("").trim())
        .is_some_and(|value| value.eq_ignore_ascii_case("application/json"));
    if !is_json {
        return Err(ApiError::ContentType);
    }
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if declared.is_some_and(|declared: usize| declared > limit) {
        return Err(ApiError::TooLarge { limit });
    }
    let body = in_time(request, settings.server.body_timeout, collect(payload, declared, limit)).await?;
    if declared.is_none() {
        request.extensions_mut().insert(BodyRead);
    }
    Ok(body)
}

/// Waits for a body for as long as it may take, or, while there are so many connections that files may run out, for
/// [`HURRIED`]: a flood of slow ones is then over in seconds, and no honest one needs longer.
async fn in_time(
    request: &HttpRequest,
    limit: Duration,
    body: impl Future<Output = Result<Bytes, ApiError>>,
) -> Result<Bytes, ApiError> {
    let mut body = pin!(body);
    let begun = Instant::now();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        // Its timer is armed only when the body is not there yet.
        if let Ok(body) = tokio::time::timeout(left.min(HURRIED), &mut body).await {
            return body;
        }
        let waited = begun.elapsed();
        if waited >= limit {
            return Err(ApiError::SlowBody { limit });
        }
        if request.conn_data::<Open>().is_some_and(Open::is_crowded) {
            return Err(ApiError::SlowBody { limit: HURRIED });
        }
    }
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
