//! Streamable HTTP, revisions 2025-03-26 to 2025-11-25: POST, GET and DELETE of one path.
//!
//! The order of refusals is that of the stock servers: first what the request's form tells (406, 415, 400), then its
//! session (400, 404), then its version (400). What a method means is [`crate::dispatch`]'s business.

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse,
    body::MessageBody as _,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    web,
};

use crate::{
    dispatch,
    event_id::EventId,
    http::refused,
    initialize::PROTOCOL_VERSIONS,
    options::Answers,
    outlet::Outlet,
    pieces::Pieces,
    rpc::{self, INVALID_REQUEST, Incoming, NO_SESSION, Outgoing, Posted, RpcError},
    session::Session,
    session_id::SessionId,
    state::ServerState,
    stream_body::StreamBody,
    streams::{Attachment, MAIN, Refused, Streams},
};

/// The path of the transport.
pub(crate) const PATH: &str = "/mcp";

/// The first revision whose clients know priming events.
const PRIMED_FROM: &str = "2025-11-25";

/// The one revision that has batches.
const HAS_BATCHES: &str = "2025-03-26";

static SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
static PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What was found, or the refusal.
type Answer<T> = Result<T, Box<HttpResponse>>;

fn text<'a>(request: &'a HttpRequest, name: &HeaderName) -> Option<&'a str> {
    // What is no text is no known value either.
    request.headers().get(name).map(|value| value.to_str().unwrap_or_default())
}

fn refusal(status: StatusCode, code: i32, why: &'static str) -> Box<HttpResponse> {
    Box::new(refused(status, &RpcError::new(code, why)))
}

/// `Accept` names this media type itself.
fn accepts(request: &HttpRequest, media_type: &str) -> bool {
    let values = request.headers().get_all(header::ACCEPT).filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| names(item, media_type))
}

/// A media type, whatever its parameters.
fn names(value: &str, media_type: &str) -> bool {
    value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(media_type))
}

fn check_form(request: &HttpRequest, answers: Answers) -> Answer<()> {
    let takes_streams = answers == Answers::Json || accepts(request, "text/event-stream");
    if !takes_streams || !accepts(request, "application/json") {
        let why = "Accept must name application/json and text/event-stream";
        return Err(refusal(StatusCode::NOT_ACCEPTABLE, INVALID_REQUEST, why));
    }
    if !text(request, &header::CONTENT_TYPE).is_some_and(|value| names(value, "application/json")) {
        let why = "Content-Type must be application/json";
        return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID_REQUEST, why));
    }
    Ok(())
}

/// The session that the request names, and its version if it names one.
fn session_of(request: &HttpRequest, state: &ServerState) -> Answer<Arc<Session>> {
    let Some(id) = text(request, &SESSION_ID) else {
        return Err(refusal(StatusCode::BAD_REQUEST, INVALID_REQUEST, "Mcp-Session-Id is missing"));
    };
    let session = id.parse::<SessionId>().ok();
    let session = session.and_then(|id| state.sessions.find_streamable(&id, state.options.session_idle));
    let session = session.ok_or_else(|| refusal(StatusCode::NOT_FOUND, NO_SESSION, "no such session"))?;
    if text(request, &PROTOCOL_VERSION).is_some_and(|version| !PROTOCOL_VERSIONS.contains(&version)) {
        return Err(refusal(StatusCode::BAD_REQUEST, INVALID_REQUEST, "MCP-Protocol-Version is not spoken here"));
    }
    Ok(session)
}

fn streams_of(session: &Session) -> Answer<&Arc<Streams>> {
    session.streams().ok_or_else(|| refusal(StatusCode::NOT_FOUND, NO_SESSION, "no such session"))
}

fn is_request(message: &Incoming<'_>) -> bool {
    matches!(message, Incoming::Request { .. })
}

fn is_initialize(message: &Incoming<'_>) -> bool {
    matches!(message, Incoming::Request { method, .. } if method == "initialize")
}

/// A POST whose requests are on their way.
struct Taken {
    session: Arc<Session>,
    /// The POST began it.
    is_new: bool,
    is_batch: bool,
    attachment: Attachment,
}

/// `POST`: one message, or a batch.
pub(crate) async fn post(request: HttpRequest, state: web::Data<ServerState>, body: web::Bytes) -> HttpResponse {
    let state = state.into_inner();
    let Taken { session, is_new, is_batch, attachment } = match take(&request, &state, &body) {
        Ok(Some(taken)) => taken,
        Ok(None) => return HttpResponse::Accepted().finish(),
        Err(refusal) => return *refusal,
    };
    let answers = state.options.answers;
    if answers == Answers::Json {
        attachment.over().await;
    }
    let mut response = if answers == Answers::Json || (answers == Answers::Auto && attachment.has_only_answers()) {
        as_json(attachment.into_messages(), is_batch)
    } else {
        as_stream(&state, &session, attachment, true)
    };
    if is_new && let Ok(id) = HeaderValue::try_from(session.id().reveal()) {
        response.headers_mut().insert(SESSION_ID.clone(), id);
    }
    response
}

/// Dispatches what was posted; `None` if nothing of it wants an answer.
fn take(request: &HttpRequest, state: &Arc<ServerState>, body: &[u8]) -> Answer<Option<Taken>> {
    let options = &state.options;
    check_form(request, options.answers)?;
    let posted = Posted::parse(body, options.max_running_calls);
    let posted = posted.map_err(|error| Box::new(refused(StatusCode::BAD_REQUEST, &error)))?;
    let is_batch = matches!(posted, Posted::Batch(_));
    let begins = posted.messages().iter().any(is_initialize);
    if begins && is_batch {
        return Err(refusal(StatusCode::BAD_REQUEST, INVALID_REQUEST, "initialize must not be part of a batch"));
    }
    let is_fresh = begins && text(request, &SESSION_ID).is_none();
    let session = if is_fresh { Session::streamable(options.limits()) } else { session_of(request, state)? };
    if is_batch && session.client().is_none_or(|client| client.version != HAS_BATCHES) {
        return Err(refusal(StatusCode::BAD_REQUEST, INVALID_REQUEST, "only revision 2025-03-26 has batches"));
    }
    let streams = streams_of(&session)?;
    streams.touch();

    let due = posted.messages().iter().filter(|message| is_request(message)).count();
    let attachment = (due > 0).then(|| streams.begin(due));
    let answers = attachment.as_ref().map_or(MAIN, Attachment::number);
    let others = if options.answers == Answers::Json { MAIN } else { answers };
    let outlet = Outlet::Streams { streams: Arc::clone(streams), answers, others };
    for message in posted.into_messages() {
        // There is room for each answer.
        let _ = dispatch::receive(state, &session, &outlet, message);
    }
    // Only what was initialized is a session.
    let is_new = is_fresh && session.client().is_some();
    if is_new && !state.sessions.admit(&session, options.max_sessions, options.session_idle) {
        session.close();
        return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, rpc::TOO_MANY_CALLS, "too many sessions"));
    }
    Ok(attachment.map(|attachment| Taken { session, is_new, is_batch, attachment }))
}

/// Answers as JSON. There is none to a request that was cancelled.
fn as_json(mut answers: Vec<Outgoing>, is_batch: bool) -> HttpResponse {
    let body =
        if is_batch { Some(format!("[{}]", answers.join(","))).filter(|_| !answers.is_empty()) } else { answers.pop() };
    match body {
        Some(body) => HttpResponse::Ok().content_type(header::ContentType::json()).body(body),
        None => HttpResponse::Accepted().finish(),
    }
}

fn as_stream(state: &ServerState, session: &Session, attachment: Attachment, is_beginning: bool) -> HttpResponse {
    let options = &state.options;
    let knows_priming = session.client().is_some_and(|client| client.version >= PRIMED_FROM);
    let retry = Some(options.retry).filter(|_| is_beginning && (knows_priming || options.prime_always));
    let body = StreamBody::new(attachment, options.event_store, retry, options.heartbeat);
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        // Tells nginx not to collect the stream in its buffers.
        .insert_header((HeaderName::from_static("x-accel-buffering"), "no"))
        .body(Pieces::of(body.boxed()))
}

/// `GET`: the session's own stream, or with `Last-Event-ID` the rest of any.
pub(crate) async fn get(request: HttpRequest, state: web::Data<ServerState>) -> HttpResponse {
    listen(&request, &state).unwrap_or_else(|refusal| *refusal)
}

fn listen(request: &HttpRequest, state: &ServerState) -> Answer<HttpResponse> {
    let options = &state.options;
    if !accepts(request, "text/event-stream") {
        let why = "Accept must name text/event-stream";
        return Err(refusal(StatusCode::NOT_ACCEPTABLE, INVALID_REQUEST, why));
    }
    let session = session_of(request, state)?;
    let streams = streams_of(&session)?;
    let takes_over = !options.refuse_second_stream;
    // Without an event store no id was ever given.
    let last_id = text(request, &LAST_EVENT_ID).filter(|_| options.event_store);
    let shown = match last_id {
        Some(id) => id.parse::<EventId>().map_err(|_| Refused::UnknownId).and_then(|id| streams.resume(id, takes_over)),
        None if options.get_stream => streams.listen(takes_over),
        None => return Err(Box::new(not_allowed("POST, DELETE"))),
    };
    let attachment = shown.map_err(|why| match why {
        Refused::Busy => refusal(StatusCode::CONFLICT, INVALID_REQUEST, "another connection shows this stream"),
        Refused::UnknownId => {
            refusal(StatusCode::BAD_REQUEST, INVALID_REQUEST, "Last-Event-ID names no event whose successors are kept")
        }
    })?;
    Ok(as_stream(state, &session, attachment, last_id.is_none()))
}

/// `DELETE`: the client needs its session no more.
pub(crate) async fn delete(request: HttpRequest, state: web::Data<ServerState>) -> HttpResponse {
    match session_of(&request, &state) {
        Ok(session) => {
            state.sessions.close(&session);
            HttpResponse::Ok().finish()
        }
        Err(refusal) => *refusal,
    }
}

/// Any other method.
pub(crate) async fn wrong_method() -> HttpResponse {
    not_allowed("GET, POST, DELETE")
}

fn not_allowed(others: &'static str) -> HttpResponse {
    HttpResponse::MethodNotAllowed().insert_header((header::ALLOW, others)).finish()
}
