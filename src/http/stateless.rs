//! `POST /mcp/{service}` of 2026-07-28: of which era a request is, whether it is in order, and how what comes of it looks on the
//! wire. What is done for it is [`gateway::stateless`](crate::gateway::stateless)'s. GET and DELETE have no meaning in this era.

use std::{rc::Rc, sync::Arc, time::Instant};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::{StatusCode, header::HeaderName},
    web,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use super::{
    accept::{JSON, Takes},
    allowed::Allowed,
    error::ApiError,
    extract::read_body_or_beginning,
    frame, principal,
    trace::{self, Arrival},
};
use crate::{
    gateway::{
        pace::Admitted,
        stateless::{self, Asked, Messages, NotServed, Outcome},
    },
    process::node::Node,
    protocol::{
        jsonrpc::{Head, IdKey, Kind},
        modern::{
            self,
            era::{self, Era, Shown},
            meta::Said,
            refusal::Refusal,
            schema,
        },
        scan::{Scan, Told},
    },
    session::attachment::Aborted,
    store::Binding,
    upstream::{Service, credential::Shown as Token},
};

static VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
static METHOD: HeaderName = HeaderName::from_static("mcp-method");
static NAME: HeaderName = HeaderName::from_static("mcp-name");
static KEY: HeaderName = HeaderName::from_static("idempotency-key");
static SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// The longest idempotency key, bytes: more than any that clients make.
const MAX_KEY: usize = 255;
const BAD_KEY: Refusal = Refusal::Params("an idempotency key is one text of 1 to 255 bytes");

/// Without it no `_meta` names a version: the slash behind it may be escaped.
const MARK: &[u8] = b"io.modelcontextprotocol";

/// What the methods of this era are told that it does not have.
pub(super) const ALLOW: &str = "POST";

/// Everything that a header of this name says.
fn shown<'r>(request: &'r HttpRequest, name: &HeaderName) -> Shown<'r> {
    Shown::of(request.headers().get_all(name).map(|value| value.as_bytes()))
}

/// By its header alone, for what has no body.
///
/// # Errors
/// It is of this era, whose only method is POST.
pub(super) fn refuse_method(request: &HttpRequest) -> Result<(), ApiError> {
    if shown(request, &VERSION).is_stateless() {
        return Err(ApiError::Method { allow: ALLOW });
    }
    Ok(())
}

/// Of which era a message is.
///
/// # Errors
/// Header and `_meta` disagree, or name a version that is not served.
pub(super) fn era_of(request: &HttpRequest, head: &Head<'_>, body: &[u8]) -> Result<Era, Refusal> {
    let named = shown(request, &VERSION);
    // Most messages of sessions are not read for it.
    if !named.is_stateless() && memchr::memmem::find(body, MARK).is_none() {
        return Ok(Era::Sessions);
    }
    let said = Said::of(head.params);
    let has_session = request.headers().contains_key(&SESSION);
    era::era(named, head.method().unwrap_or_default(), said.as_ref(), has_session)
}

/// Refuses a message before it is read: there is nothing at this address for who asks, or it takes no answer that there could be.
/// Some clients of this era wait for ever for an answer that does not name their request.
///
/// # Errors
/// What is wrong, to a client of sessions.
pub(super) async fn not_read(
    node: &Node,
    request: &HttpRequest,
    payload: web::Payload,
    error: ApiError,
) -> Result<HttpResponse, ApiError> {
    if !shown(request, &VERSION).is_stateless() {
        return Err(error);
    }
    let body = read_body_or_beginning(request, payload, &node.env.settings).await;
    named(body.as_deref().unwrap_or_else(|(_, beginning)| beginning), error)
}

/// Refuses a message of which this has come, and no more.
///
/// # Errors
/// What is wrong, to a client of sessions, or if it cannot be told which request it was.
pub(super) fn not_whole(request: &HttpRequest, beginning: &[u8], error: ApiError) -> Result<HttpResponse, ApiError> {
    if shown(request, &VERSION).is_stateless() { named(beginning, error) } else { Err(error) }
}

/// Under the id of the request that seems to be meant.
fn named(text: &[u8], error: ApiError) -> Result<HttpResponse, ApiError> {
    match Scan::of(text).as_slice() {
        [Told::Request(id)] => Ok(error.stateless(id)),
        _ => Err(error),
    }
}

/// A message of this era. `allowed`: what its client may at this service.
pub(super) async fn post(
    node: &Rc<Node>,
    request: &HttpRequest,
    (service, allowed, takes): (&Arc<Service>, &Allowed<'_>, Takes),
    (head, body): (&Head<'_>, &Bytes),
) -> Result<HttpResponse, ApiError> {
    let (id, method) = match &head.kind {
        Kind::Request { id, method } => (id, &**method),
        // This version has none over HTTP; cancelled is who closes its stream.
        Kind::Notification { .. } => {
            node.env.metrics.dropped.with_label_values(&["notification_of_nothing"]).inc();
            return Ok(HttpResponse::Accepted().finish());
        }
        Kind::Response { .. } => {
            return Err(ApiError::Unexpected("a server of this version asks nothing: there is nothing to respond to"));
        }
    };
    let said = match in_order(request, head, method) {
        Ok(said) => said,
        Err(refusal) => return Ok(refused(node, &refusal.into(), id.as_json())),
    };
    // Counted until it is answered, or its client is gone.
    let admitted = match allowed.judge(node, None, (head, body, &head.said())).await {
        Ok(admitted) => admitted,
        Err(error) => return Ok(error.stateless(id.as_json())),
    };
    let key = match key(request, &said) {
        Ok(key) => key,
        Err(refusal) => return Ok(refused(node, &refusal.into(), id.as_json())),
    };
    let params = params(request);
    let (place, begun) = (trace::place(&node.env, request, body, true), Instant::now());
    let asked = Asked {
        service,
        by: &allowed.by,
        grant: allowed.grant.as_ref(),
        body,
        id,
        method,
        said: &said,
        shown: shown_token(request, &allowed.by),
        params: &params,
        takes_events: takes.events,
        key,
        place: place.as_ref(),
    };
    let answered = stateless::answer(&node.gateway, asked).await;
    if let Some(place) = &place {
        let arrival = Arrival { place, method, service: Some(&service.name), session: None, begun };
        arrival.ends(node.env.traces.as_ref(), answered.is_err().then_some("not_answered"));
    }
    match answered {
        Ok(Outcome::Whole { status, body }) => Ok(whole(request, takes, status, body)),
        Ok(Outcome::Stream(messages)) => Ok(streamed(node, request, messages, (id, admitted))),
        Err(error) => Ok(refused(node, &ApiError::from(error), id.as_json())),
    }
}

/// By which the request is known when its client asks again: in its header, in its `_meta`, or the same in both.
fn key<'r>(request: &'r HttpRequest, said: &'r Said<'_>) -> Result<Option<&'r str>, Refusal> {
    let shown = match shown(request, &KEY) {
        Shown::Nothing => None,
        Shown::One(value) => {
            let text = std::str::from_utf8(value).map_err(|_| BAD_KEY)?.trim();
            // As a structured field it stands in quotes (RFC 8941).
            let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
            Some(bare.unwrap_or(text))
        }
        Shown::Several => return Err(BAD_KEY),
    };
    let key = match (shown, said.key()) {
        (Some(shown), Some(said)) if shown != said => {
            return Err(Refusal::Headers("Idempotency-Key is not the key that params._meta has".to_owned()));
        }
        (shown, said) => shown.or(said),
    };
    let is_sound = |key: &&str| (1..=MAX_KEY).contains(&key.len()) && !key.contains(char::is_control);
    if key.is_some_and(|key| !is_sound(&key)) { Err(BAD_KEY) } else { Ok(key) }
}

/// What a request of this era must say of itself, in its headers and in its body.
fn in_order<'a>(request: &HttpRequest, head: &Head<'a>, method: &str) -> Result<Said<'a>, Refusal> {
    let said = Said::of(head.params).ok_or(Refusal::Params("params is no object that says each thing once"))?;
    said.complete()?;
    era::agree(shown(request, &METHOD), shown(request, &NAME), method, &said)?;
    if modern::is_removed(method) {
        return Err(Refusal::Method { method: method.to_owned() });
    }
    Ok(said)
}

fn refused(node: &Node, error: &ApiError, id: &str) -> HttpResponse {
    node.env.metrics.router_errors.with_label_values(&[error.reason()]).inc();
    error.stateless(id)
}

/// The token that the request has shown, and what tells its owner and what it allows from all others.
fn shown_token(request: &HttpRequest, by: &Binding) -> Option<Token> {
    let token = principal::token(request)?;
    let (token, _) = token.shown()?;
    Some(Token { key: format!("{} {}", by.principal(), by.scopes()).into(), token: token.to_owned() })
}

/// What is mirrored of a tool's arguments is for the server to understand.
fn params(request: &HttpRequest) -> Vec<(String, String)> {
    let is_one = |name: &HeaderName| {
        let name = name.as_str();
        name.get(..schema::PARAM.len()).is_some_and(|start| start.eq_ignore_ascii_case(schema::PARAM))
    };
    let text = |(name, value): (&HeaderName, &actix_web::http::header::HeaderValue)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    };
    request.headers().iter().filter(|(name, _)| is_one(name)).filter_map(text).collect()
}

/// One message. A client that takes events alone gets a stream of one.
fn whole(request: &HttpRequest, takes: Takes, status: u16, body: Bytes) -> HttpResponse {
    if !takes.json && status == 200 {
        return frame::response(request, stream::iter([Ok(frame::unnumbered(&body))]), |_| {});
    }
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponseBuilder::new(status).content_type(JSON).body(body)
}

/// Messages as they come, and comments while none comes, by which a client that has gone is noticed.
fn streamed(
    node: &Node,
    request: &HttpRequest,
    messages: Messages,
    (id, admitted): (&IdKey, Admitted),
) -> HttpResponse {
    let every = node.env.settings.stream.heartbeat;
    let mut beats = interval_at(tokio::time::Instant::now() + every, every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (id, errors) = (id.clone(), node.env.metrics.router_errors.clone());
    let told = move |message: Result<Bytes, NotServed>| {
        // It goes with the stream.
        let _kept = &admitted;
        message.unwrap_or_else(|error| {
            let error = ApiError::from(error);
            errors.with_label_values(&[error.reason()]).inc();
            error.stateless_body(id.as_json())
        })
    };
    frame::response(request, with_beats(messages.map(told), beats), |_| {})
}

fn with_beats(
    messages: impl Stream<Item = Bytes> + Unpin,
    beats: Interval,
) -> impl Stream<Item = Result<Bytes, Aborted>> {
    stream::unfold((messages, beats), |(mut messages, mut beats)| async move {
        let bytes = tokio::select! {
            biased;
            message = messages.next() => frame::unnumbered(&message?),
            _ = beats.tick() => Bytes::from_static(frame::HEARTBEAT),
        };
        beats.reset();
        Some((Ok(bytes), (messages, beats)))
    })
}
