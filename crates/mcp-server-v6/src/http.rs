//! The HTTP side: every route, the HTTP+SSE transport (the stream and the messages posted to it), and the health page.
//!
//! It knows sessions and JSON-RPC envelopes; what a method means is [`crate::dispatch`]'s business. The other transport
//! is in [`crate::streamable`].

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse, Responder,
    body::MessageBody as _,
    http::{StatusCode, header},
    web,
};
use actix_web_lab::sse::Sse;
use serde::Deserialize;
use serde_json::json;

use crate::{
    dispatch,
    pieces::Pieces,
    rpc::{self, Incoming, NO_SESSION, RpcError},
    session_id::SessionId,
    sessions::EventStream,
    state::ServerState,
    streamable,
};

/// Where messages are posted to; the session's id follows.
const ENDPOINT: &str = "/mcp/message?sessionId=";

/// Every route of the server. Anything else is 404, so that clients that probe `/.well-known/…` learn at once that
/// there is nothing.
pub(crate) fn routes(app: &mut web::ServiceConfig) {
    app.route("/sse", web::get().to(open_stream))
        .route("/mcp/message", web::post().to(post_message))
        .service(
            web::resource(streamable::PATH)
                .route(web::post().to(streamable::post))
                .route(web::get().to(streamable::get))
                .route(web::delete().to(streamable::delete))
                .default_service(web::to(streamable::wrong_method)),
        )
        .route("/actuator/health", web::get().to(health));
}

async fn open_stream(request: HttpRequest, state: web::Data<ServerState>) -> HttpResponse {
    let options = &state.options;
    let stream = EventStream::open(Arc::clone(&state.sessions), ENDPOINT, options.queue_capacity, options.heartbeat);
    let mut response = Sse::from_stream(stream).respond_to(&request).map_body(|_, body| Pieces::of(body).boxed());
    // Tells nginx not to collect the stream in its buffers.
    response
        .headers_mut()
        .insert(header::HeaderName::from_static("x-accel-buffering"), header::HeaderValue::from_static("no"));
    response
}

#[derive(Deserialize)]
struct MessageQuery {
    #[serde(rename = "sessionId")]
    session_id: String,
}

async fn post_message(
    query: Option<web::Query<MessageQuery>>,
    state: web::Data<ServerState>,
    body: web::Bytes,
) -> HttpResponse {
    let Some(query) = query else {
        return refused(StatusCode::BAD_REQUEST, &RpcError::new(rpc::INVALID_REQUEST, "sessionId is missing"));
    };
    let session = query.session_id.parse::<SessionId>().ok().and_then(|id| state.sessions.find(&id));
    let Some(session) = session else {
        return refused(StatusCode::NOT_FOUND, &RpcError::new(NO_SESSION, "no such session"));
    };
    let message = match Incoming::parse(&body) {
        Ok(message) => message,
        Err(error) => return refused(StatusCode::BAD_REQUEST, &error),
    };
    if let Err(answer) = dispatch::receive(&state.into_inner(), &session, session.outlet(), message) {
        // A client that does not read its stream may not go on posting. If it is gone, so is the wish for an answer.
        let _ = session.outlet().reserve().await.map(|slot| slot.send(answer));
    }
    HttpResponse::Accepted().body("Accepted")
}

/// An error of HTTP, explained by one of JSON-RPC that answers no request.
pub(crate) fn refused(status: StatusCode, error: &RpcError) -> HttpResponse {
    HttpResponse::build(status).content_type(header::ContentType::json()).body(rpc::failure(None, error))
}

async fn health(state: web::Data<ServerState>) -> HttpResponse {
    let sessions = state.sessions.len();
    let streamable = state.sessions.streamable();
    HttpResponse::Ok().json(json!({
        "status": "UP",
        "components": {
            "persons": { "status": "UP", "details": { "count": state.persons.count() } },
            "sse": { "status": "UP", "details": { "sessions": sessions.saturating_sub(streamable) } },
            "streamableHttp": { "status": "UP", "details": { "sessions": streamable } },
        },
        "sessions": sessions,
    }))
}
