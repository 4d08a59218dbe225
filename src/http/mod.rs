//! The HTTP surfaces, one file each. Handlers parse, check and send messages; they hold no state. What is done for a client
//! is [`gateway`](crate::gateway)'s.
//!
//! | file | what stands there |
//! |---|---|
//! | `sse`, `head` | the event stream of 2024-11-05, and what its GET would be |
//! | `message` | messages of its clients |
//! | `mcp` | Streamable HTTP |
//! | `stateless` | the same address for clients of 2026-07-28 |
//! | `sent` | a message of either, on its way into the journal |
//! | `route` | calls without a session |
//! | `elsewhere` | clients that POST to the event stream, which are told where to go |
//! | `actuator`, `admin` | health and figures; services, tools, sessions |
//! | `deployment`, `timeline` | all instances, and one session, as the dashboard shows them |
//! | `ui` | the dashboard itself |
//! | `frame` | the only maker of the bytes of event streams, and of their responses |
//! | `error` | which error is what, and one table of how each looks |
//! | `principal`, `allowed` | who asks, and what he may |
//! | `guard`, `cors`, `forwarded` | who may speak to us, and where it is behind proxies |
//! | `connections`, `unread` | how many there may be, and the end of those whose bodies nobody read |
//! | `extract`, `accept` | what handlers take from a request, and what its client takes |
//!
//! This file mounts them, and none of them imports it.

pub mod accept;
pub mod actuator;
pub mod admin;
mod allowed;
pub mod connections;
mod cors;
pub mod deployment;
mod elsewhere;
pub mod error;
mod extract;
pub mod forwarded;
pub mod frame;
mod guard;
mod head;
pub mod mcp;
pub mod message;
pub mod principal;
pub mod route;
mod sent;
pub mod sse;
mod stateless;
mod timeline;
mod trace;
pub mod ui;
mod unread;

use std::{future::ready, sync::Arc};

use actix_web::{
    FromRequest, Handler, HttpRequest, HttpResponse, Resource, Responder,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{Method, header},
    web,
};

pub use self::extract::NodeData;
use self::{
    error::ApiError,
    extract::Mounted,
    guard::Guard,
    principal::{Authority, WELL_KNOWN},
};

const GET: &str = "GET, HEAD, OPTIONS";
const POST: &str = "POST, OPTIONS";
const GET_POST_AND_DELETE: &str = "GET, POST, DELETE, OPTIONS";
const GET_AND_DELETE: &str = "GET, HEAD, DELETE, OPTIONS";

/// Mounts every surface below `base`. `authority`: finds out who asks; `None`: nobody is asked. `has_dashboard`: with `ui`, and
/// what it asks for.
pub fn configure<'a>(
    config: &mut web::ServiceConfig,
    base: &str,
    authority: Option<&Arc<Authority>>,
    has_dashboard: bool,
    services: impl Iterator<Item = &'a str>,
) {
    // Tried in the order of their mounting: first what comes most, and by plain text instead of by pattern.
    let calls = services.fold(web::scope("").wrap(Guard::new(authority.cloned())), |scope, name| {
        let service = Mounted(name.into());
        let mounted = |path: &str, allow| at(path, allow).app_data(service.clone());
        scope
            .service(mounted(&format!("/mcp/{name}/message"), POST).route(web::post().to(message::post_to_service)))
            .service(streamable(mounted(&format!("/mcp/{name}"), GET_POST_AND_DELETE)))
            .service(mounted(&format!("/mcp/router/route/{name}"), POST).route(web::post().to(route::post)))
    });
    let guarded = calls
        .service(at("/mcp/router/route/{service}", POST).route(web::post().to(route::post)))
        .service(at("/mcp/{service}/message", POST).route(web::post().to(message::post_by_name)))
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
        .service(streamable(at("/mcp", GET_POST_AND_DELETE)))
        .service(streamable(at("/mcp/{service}", GET_POST_AND_DELETE)))
        .service(streamable(at("/mcp/", GET_POST_AND_DELETE)))
        .service(streamable(at("/mcp/{service}/", GET_POST_AND_DELETE)))
        .service(posted_elsewhere("/sse/"))
        .service(posted_elsewhere("/sse/{service}/"))
        .configure(|config| {
            if has_dashboard {
                dashboard(config)
            }
        })
        .default_service(web::to(nothing));
    // Beside the base path: it stands between a host and what is asked of it.
    let authority = authority.cloned();
    let described = web::scope(WELL_KNOWN)
        .wrap(Guard::new(None))
        .default_service(web::to(move |node, request| ready(resource_metadata(authority.as_deref(), &node, &request))));
    config.service(described);
    config
        .app_data(web::PathConfig::default().error_handler(|_, _| ApiError::NoSuchPath.into()))
        .app_data(web::QueryConfig::default().error_handler(|_, _| ApiError::Query.into()));
    if base.is_empty() {
        config.service(guarded);
    } else {
        config.service(web::scope(base).service(guarded)).default_service(web::to(nothing));
    }
}

/// The dashboard, and what only it asks for.
fn dashboard(config: &mut web::ServiceConfig) {
    let seen = web::Data::new(deployment::Seen::default());
    config
        .service(read("/", ui::root))
        .service(read("/ui", ui::slash))
        .service(read("/ui/", ui::file))
        .service(read("/ui/{file}", ui::file))
        .service(read("/mcp/router/deployment", deployment::deployment).app_data(seen))
        .service(read("/mcp/router/sessions/{id}/timeline", timeline::timeline))
        .service(at("/mcp/router/instances/{id}/drain", POST).route(web::post().to(deployment::drain)));
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

/// A path of Streamable HTTP. Clients are not particular about a slash at the end.
fn streamable(resource: Resource) -> Resource {
    resource.route(web::post().to(mcp::post)).route(web::get().to(mcp::get)).route(web::delete().to(mcp::delete))
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

/// What the router is as a resource (RFC 9728).
fn resource_metadata(
    authority: Option<&Authority>,
    node: &NodeData,
    request: &HttpRequest,
) -> Result<HttpResponse, ApiError> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::Method { allow: GET });
    }
    let is_service = |name: &str| node.cluster.pool.service(name).is_some();
    authority.and_then(|authority| authority.metadata(request, is_service)).ok_or(ApiError::NoSuchPath)
}

async fn nothing() -> Result<HttpResponse, ApiError> {
    Err(ApiError::NoSuchPath)
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
