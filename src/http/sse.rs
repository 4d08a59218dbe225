//! `GET /sse/{service}`: the 2024-11-05 event stream, new or resumed.
//!
//! A returning client is recognised, in this order, by `Last-Event-ID`, by `?sessionId=`, by its cookie (only if nobody
//! else shows the session, and in doubt until its first message: `doubt`), and by *ping-rebind* (`rebind`), if a session
//! that nobody shows can be its own. Otherwise it is a new client. Nothing is opened upstream here: many GETs are probes.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest, HttpResponse,
    cookie::{Cookie, SameSite},
    http::{
        Version,
        header::{self, HeaderValue},
    },
    web,
};
use bytes::Bytes;
use futures_util::{Stream, future, stream};
use serde::Deserialize;

use super::{
    WorkerData,
    error::ApiError,
    forwarded,
    message::{LOST_DATA_PAUSE, patiently},
    rebind::{self, Asked},
};
use crate::{
    app::{App, Worker},
    cluster::ownership,
    lifecycle::Phase,
    protocol::{event_id::EventId, session_id::SessionId, sse},
    registry::orphans,
    session::{
        MAIN_STREAM,
        actor::SessionActor,
        attachment::{Aborted, Attachment, Doubt, Pump, resume_failed},
        core::streams::StreamKey,
        field,
        messages::AttachLocal,
        returning::{Client, Fit, key_of, same_client},
        shown,
    },
    store::{Attach, Attached, AttachedTo, Attachment as StoredAttachment, Created, Fence, NewSession},
    upstream::Service,
};

/// Name of the cookie for clients that keep cookies and nothing else.
const COOKIE: &str = "mcp_session";

/// What the server needs to notice that the client of a request has closed its connection long ago.
const GONE_CLIENT_PAUSE: Duration = Duration::from_millis(2);

/// Query of the GET.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Query {
    pub(super) service_name: Option<String>,
    session_id: Option<String>,
}

/// `GET /sse` and `GET /sse?serviceName=`
pub async fn open_by_query(
    worker: WorkerData,
    request: HttpRequest,
    query: web::Query<Query>,
) -> Result<HttpResponse, ApiError> {
    let pool = &worker.app.pool;
    let service = match &query.service_name {
        Some(name) => find_service(&worker, name)?,
        None => pool.only_service().cloned().ok_or_else(|| ApiError::AmbiguousService { known: pool.names() })?,
    };
    serve(&worker, &request, service, &query).await
}

/// `GET /sse/{service}`
pub async fn open(
    worker: WorkerData,
    request: HttpRequest,
    service: web::Path<String>,
    query: web::Query<Query>,
) -> Result<HttpResponse, ApiError> {
    let service = find_service(&worker, &service)?;
    serve(&worker, &request, service, &query).await
}

pub(super) fn find_service(worker: &Worker, name: &str) -> Result<Arc<Service>, ApiError> {
    let known = || ApiError::UnknownService { name: name.to_owned(), known: worker.app.pool.names() };
    worker.app.pool.service(name).cloned().ok_or_else(known)
}

/// What a stream needs to know of its request beyond the request's life.
#[derive(Clone)]
pub(super) struct Opening {
    pub(super) worker: Rc<Worker>,
    service: Arc<Service>,
    /// Path before `/mcp/…` in the endpoint event.
    prefix: String,
}

/// A stream that is ready to be sent.
pub(super) struct Ready {
    session: SessionId,
    pub(super) pump: Pump,
}

/// How the answer is to be written.
#[derive(Clone, Copy)]
struct Wire {
    /// The client reached us by https.
    secure: bool,
    /// HTTP/1.0 knows no chunks: the body ends with the connection (RFC 9112 section 6.1).
    old: bool,
}

/// How a returning client was recognised; the label of a metric.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    LastEventId,
    SessionId,
    Cookie,
    Rebind,
}

impl By {
    fn label(self) -> &'static str {
        match self {
            Self::LastEventId => "last_event_id",
            Self::SessionId => "session_id",
            Self::Cookie => "cookie",
            Self::Rebind => "ping_rebind",
        }
    }
}

async fn serve(
    worker: &Rc<Worker>,
    request: &HttpRequest,
    service: Arc<Service>,
    query: &Query,
) -> Result<HttpResponse, ApiError> {
    let security = &worker.app.settings.security;
    // At once: such a GET is a probe, and a stream would keep it waiting.
    if !accepts_events(request) {
        return Err(ApiError::NotAcceptable);
    }
    if worker.app.lifecycle.phase() != Phase::Ready {
        return Err(ApiError::Draining);
    }
    let forwarded_prefix = forwarded::prefix(request, &security.trusted_proxies);
    let opening = Opening {
        worker: Rc::clone(worker),
        service,
        prefix: format!("{forwarded_prefix}{}", worker.app.settings.server.base_path),
    };
    let wire = Wire {
        secure: forwarded::is_https(request, &security.trusted_proxies),
        old: request.version() < Version::HTTP_11,
    };
    match opening.find(request, query, wire).await {
        // A returning client would take any status but 200 as the end, for good. A stream that breaks at once sends it
        // round again.
        Err(ApiError::StoreUnavailable) if is_returning(request) => {
            let broken = stream::once(future::ready(Err(Aborted("the session store does not answer"))));
            Ok(response(broken, None, wire))
        }
        outcome => outcome.map_err(|error| error.knowing(&*worker.app.store)),
    }
}

/// No `Accept`, or one that covers `text/event-stream`. An empty one names nothing (RFC 9110, section 5.6.1.2).
fn accepts_events(request: &HttpRequest) -> bool {
    let named = |accept: &&str| accept.split(',').any(|range| !range.trim().is_empty());
    let accepts = request.headers().get_all(header::ACCEPT).filter_map(|value| value.to_str().ok());
    let mut accepts = accepts.filter(named).peekable();
    accepts.peek().is_none() || covers_events(accepts)
}

/// RFC 9110 section 12.5.1, as far as one media type needs it.
fn covers_events<'a>(accepts: impl Iterator<Item = &'a str>) -> bool {
    // The most specific range that names the type decides.
    let mut best: Option<(u8, bool)> = None;
    for range in accepts.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let rank = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "text/event-stream" => 3,
            "text/*" => 2,
            "*/*" | "*" => 1,
            _ => continue,
        };
        let refused = parts.any(|part| {
            let quality = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
            quality.and_then(|quality| quality.trim().parse::<f32>().ok()).is_some_and(|quality| quality <= 0.0)
        });
        if best.is_none_or(|(best, _)| rank > best) {
            best = Some((rank, !refused));
        }
    }
    best.is_some_and(|(_, accepted)| accepted)
}

/// Why a cursor into this session is no place in its stream.
fn misfit(cursor: &EventId, epoch: u32) -> Option<&'static str> {
    match cursor {
        cursor if cursor.stream != MAIN_STREAM => Some("cursor_foreign"),
        cursor if cursor.epoch != epoch => Some("epoch"),
        _ => None,
    }
}

/// Only a client that had a stream before sends one of these.
fn is_returning(request: &HttpRequest) -> bool {
    let headers = request.headers();
    headers.contains_key("last-event-id")
        || headers.contains_key("mcp-protocol-version")
        || request.cookie(COOKIE).is_some()
}

impl Opening {
    async fn find(&self, request: &HttpRequest, query: &Query, wire: Wire) -> Result<HttpResponse, ApiError> {
        let opening = self;
        let worker = &self.worker;
        let client = self.client(request);
        if let Some(cursor) = request.headers().get("last-event-id").filter(|value| !value.is_empty()) {
            let cursor = cursor.to_str().ok().and_then(|text| text.parse::<EventId>().ok());
            let reason = match cursor {
                Some(cursor) => {
                    let session = cursor.session;
                    match opening.resume(session, Some(cursor), By::LastEventId).await? {
                        Some(ready) => return Ok(opening.respond(ready, wire)),
                        None => "session_gone",
                    }
                }
                None => "cursor_foreign",
            };
            // A status other than 200 would stop stock clients for good: a new session, and the loss said aloud. EVT-6
            worker.app.metrics.resume_failed.with_label_values(&[reason]).inc();
            let ready = opening.create(Some(reason), &client).await?;
            return Ok(opening.respond(ready, wire));
        }
        if let Some(named) = &query.session_id {
            let session = named.parse().map_err(|_| ApiError::UnknownSession)?;
            let ready = opening.resume(session, None, By::SessionId).await?.ok_or(ApiError::UnknownSession)?;
            return Ok(opening.respond(ready, wire));
        }
        let cookie = opening.cookie(request, &client).await?;
        let fit = patiently(worker, || orphans::find(&worker.app, &client)).await?;
        // One that very likely comes back is asked first: its cookie may be of another tab of its browser.
        if let Some(session) = cookie.filter(|_| fit < Fit::Likely)
            && let Some(ready) = opening.resume(session, None, By::Cookie).await?
        {
            return Ok(opening.respond(ready, wire));
        }
        if fit > Fit::No {
            let asked = Asked { client, fit, cookie };
            return Ok(response(rebind::ask(opening.clone(), asked), None, wire));
        }
        let ready = opening.create(None, &client).await?;
        Ok(opening.respond(ready, wire))
    }

    /// Who asks, as far as it shows.
    fn client(&self, request: &HttpRequest) -> Client {
        let headers = request.headers();
        let bytes = |name| headers.get(name).map(HeaderValue::as_bytes);
        let address = forwarded::client_address(request, &self.worker.app.settings.security.trusted_proxies);
        let versioned = headers.contains_key("mcp-protocol-version");
        let (authorization, agent) = (bytes(header::AUTHORIZATION), bytes(header::USER_AGENT));
        Client::of(&self.service.name, authorization, agent, address, versioned)
    }

    fn respond(&self, ready: Ready, wire: Wire) -> HttpResponse {
        response(ready.pump.into_stream(), Some(ready.session), wire)
    }

    fn retry(&self) -> Duration {
        let stream = &self.worker.app.settings.stream;
        let (min, max) = (stream.retry_min.as_millis() as u64, stream.retry_max.as_millis() as u64);
        // STM-1: those who lost one instance do not come back in step.
        Duration::from_millis(fastrand::u64(min..=max.max(min)))
    }

    fn endpoint(&self, session: &SessionId) -> String {
        format!("{}/mcp/{}/message?sessionId={}", self.prefix, self.service.name, session.reveal())
    }

    pub(super) async fn create(&self, lost: Option<&'static str>, client: &Client) -> Result<Ready, ApiError> {
        let app = &self.worker.app;
        let limits = &app.settings.limits;
        if !app.openings.try_acquire() {
            return Err(ApiError::TooMany { what: "new sessions per second" });
        }
        if app.directory.session_count() >= limits.max_sessions && !app.lonely.make_room(None).await {
            return Err(ApiError::Full);
        }
        let guest = match app.guests.admit(client.guest_keys(), limits.max_sessions_per_client) {
            Ok(guest) => guest,
            Err(full) => {
                app.lonely.make_room(Some(&full)).await;
                let again = app.guests.admit(client.guest_keys(), limits.max_sessions_per_client);
                again.map_err(|_| ApiError::TooManyOfClient { limit: limits.max_sessions_per_client })?
            }
        };
        let session = SessionId::random();
        let epoch = fastrand::u32(..);
        let attachment = Attachment::new(session, StreamKey::Main, app.settings.stream.client_queue_bytes);
        if client.may_come_back() {
            attachment.of_client(Arc::clone(client.key()));
        }
        let new = NewSession {
            restored: None,
            session,
            epoch,
            service: self.service.name.clone(),
            transport: "sse".to_owned(),
            principal: String::new(),
            client: client.to_field(),
            owner: app.me.clone(),
            attachment: Some((MAIN_STREAM.to_owned(), attachment.id)),
            ttl: app.settings.session.ttl,
        };
        // Until the actor is known: the store says that the session is ours, and nobody must miss its actor.
        let _turn = app.adopting.take(session);
        match patiently(&self.worker, || app.store.create(new.clone())).await {
            // Ours, too, when the answer to an earlier try was lost: ids do not repeat.
            Ok(Created::Created | Created::AlreadyExists) => {}
            Err(error) => {
                // It may have been made, for nobody.
                ownership::look_after(&self.worker, session, "create");
                return Err(error.into());
            }
        }
        let fence = Fence { session, epoch, generation: 1, incarnation: Arc::clone(&app.me.incarnation) };
        let mut first = sse::opening(&session, MAIN_STREAM, epoch, 0, self.retry(), &self.endpoint(&session)).to_vec();
        if let Some(reason) = lost {
            first.extend_from_slice(&resume_failed(reason, 0, 1));
        }
        let pump = Pump::new(Arc::clone(&app.env), Arc::clone(&attachment), epoch, 0, Bytes::from(first));
        let (env, lines, service) = (Arc::clone(&app.env), Rc::clone(&self.worker.lines), Arc::clone(&self.service));
        let actor = SessionActor::start_new(env, lines, service, fence, attachment, client.to_field(), guest);
        app.directory.insert_session(session, actor);
        Ok(Ready { session, pump })
    }

    /// Attaches to a session after `cursor` (none: as far as its connection had come). `None`: it is gone.
    pub(super) async fn resume(
        &self,
        session: SessionId,
        cursor: Option<EventId>,
        by: By,
    ) -> Result<Option<Ready>, ApiError> {
        let app = &self.worker.app;
        let before = if cursor.is_some() { Before::default() } else { self.before(session).await? };
        let sent = before.sent;
        let attachment = Attachment::new(session, StreamKey::Main, app.settings.stream.client_queue_bytes);
        let attach = Attach {
            session,
            attachment: StoredAttachment {
                stream: MAIN_STREAM.to_owned(),
                incarnation: Arc::clone(&app.me.incarnation),
                id: attachment.id,
            },
        };
        // A client may have given this GET up while the process was paused and be served elsewhere by now. Its connection is
        // then closed; the server finds that out in the meantime, and drops us before we take the stream away.
        tokio::time::sleep(GONE_CLIENT_PAUSE).await;
        let mut undo = DetachOnDrop { app: Arc::clone(app), attachment: Some(Arc::clone(&attachment)) };
        let deadline = Instant::now() + app.settings.redis.wait;
        let joined = loop {
            match patiently(&self.worker, || app.store.attach(attach.clone())).await? {
                Attached::Attached(joined) => break joined,
                // The store came back empty: the session's owner, if it lives, is about to write it again.
                Attached::NotFound if Instant::now() < deadline && app.data_lost().await => {
                    tokio::time::sleep(LOST_DATA_PAUSE).await;
                }
                Attached::NotFound => return Ok(None),
            }
        };
        if joined.service != self.service.name {
            return Ok(None);
        }
        if by == By::Cookie {
            // Before the client has the endpoint to which it could say who it is.
            let count = joined.attach_count.to_string();
            patiently(&self.worker, || app.store.hint(session, field::DOUBTED, &count)).await?;
        }
        app.metrics.resumed.with_label_values(&[by.label()]).inc();
        let replay_from = sent.saturating_sub(app.settings.stream.rebind_replay);
        let misfit = cursor.as_ref().and_then(|cursor| misfit(cursor, joined.epoch));
        let from = match &cursor {
            Some(cursor) if misfit.is_none() => cursor.seq,
            // Of another stream or life of the session: all of this one is new to the client, and it is told. EVT-6
            Some(_) => 0,
            // It may be somebody else: what was sent before is not for him.
            None if by == By::Cookie => sent,
            None => replay_from,
        };
        let mut first = Vec::new();
        // After a ping-rebind the client keeps its endpoint; others expect one on every connection.
        if by != By::Rebind {
            let mut endpoint = self.endpoint(&session);
            if by == By::Cookie {
                // mcp-remote 0.15 holds its POSTs back until the URL changes.
                endpoint.push_str(&format!("&attach={}", joined.attach_count));
            }
            let id = cursor.as_ref().filter(|_| misfit.is_none()).map_or(from.max(sent), |cursor| cursor.seq);
            first.extend_from_slice(&sse::opening(&session, MAIN_STREAM, joined.epoch, id, self.retry(), &endpoint));
        }
        if let Some(reason) = misfit {
            app.metrics.resume_failed.with_label_values(&[reason]).inc();
            first.extend_from_slice(&resume_failed(reason, cursor.as_ref().map_or(0, |cursor| cursor.seq), 1));
        }
        let mut pump =
            Pump::new(Arc::clone(&app.env), Arc::clone(&attachment), joined.epoch, from, Bytes::from(first)).resumed();
        // From here on the pump does it.
        undo.attachment = None;
        if cursor.is_none() {
            pump = pump.resume_without_cursor(from, sent);
        }
        if by == By::Cookie {
            let (attach_count, in_seq) = (joined.attach_count, before.left_at.unwrap_or(before.in_seq));
            pump = pump.in_doubt(Doubt { attach_count, in_seq, replay_from });
        }
        if let Some(client) = before.client {
            attachment.of_client(Arc::clone(&client));
            if before.is_used {
                attachment.list();
                shown::show(&app.env, client, session);
            }
        }
        self.join_owner(session, &joined, attachment).await;
        Ok(Some(Ready { session, pump }))
    }

    /// Lets the owner know of a stream on this process, or becomes the owner if there is none.
    async fn join_owner(&self, session: SessionId, joined: &AttachedTo, attachment: Arc<Attachment>) {
        let app = &self.worker.app;
        // A predecessor on this very process learns at once; others by their wake-up.
        for other in app.directory.attachments(&session) {
            if other.id != attachment.id {
                other.look();
            }
        }
        if let Some(owner) = app.directory.session(&session)
            && owner.send(AttachLocal { attachment: Arc::clone(&attachment) }).await.is_ok()
        {
            return;
        }
        if ownership::is_suspect(app, &session, &joined.owner, joined.listeners) {
            // Beside the stream, which reads the log whoever owns the session.
            let worker = Rc::clone(&self.worker);
            actix_rt::spawn(async move {
                // It may have been adopted before the stream was known here.
                if let Some(owner) = ownership::settle(&worker, session, ownership::ATTACH).await {
                    // An owner that has ended meanwhile needs to know nothing.
                    let _ = owner.send(AttachLocal { attachment }).await;
                }
            });
        }
    }

    /// What the store knows of the session's last connection.
    async fn before(&self, session: SessionId) -> Result<Before, ApiError> {
        let app = &self.worker.app;
        let here = app.directory.attachments(&session).iter().map(|attachment| attachment.sent()).max().unwrap_or(0);
        let Some(record) = patiently(&self.worker, || app.store.load(session)).await? else {
            return Ok(Before { sent: here, ..Before::default() });
        };
        let field = |name: &str| record.fields.get(name).map(String::as_str).unwrap_or_default();
        Ok(Before {
            sent: here.max(field(&format!("{}{MAIN_STREAM}", field::SENT)).parse().unwrap_or(0)),
            client: key_of(field(field::CLIENT)),
            is_used: field("in_seq") != "0",
            left_at: field(&format!("{}{MAIN_STREAM}", field::LEFT_AT)).parse().ok(),
            in_seq: field("in_seq").parse().unwrap_or(0),
        })
    }

    /// The session that the client's cookie names, if nobody shows it and its client was of this kind. Clients share a
    /// cookie jar: a session that somebody shows belongs to that one. A dead holder is no holder.
    async fn cookie(&self, request: &HttpRequest, client: &Client) -> Result<Option<SessionId>, ApiError> {
        let Some(session) = request.cookie(COOKIE).and_then(|cookie| cookie.value().parse::<SessionId>().ok()) else {
            return Ok(None);
        };
        let app = &self.worker.app;
        let Some(record) = patiently(&self.worker, || app.store.load(session)).await? else { return Ok(None) };
        let is_same = record.fields.get(field::CLIENT).is_some_and(|opened_by| same_client(client, opened_by));
        let is_shown = is_same && patiently(&self.worker, || shown::is_shown(&app.env, session, &record)).await?;
        Ok((is_same && !is_shown).then_some(session))
    }
}

/// See [`Opening::before`].
#[derive(Default)]
struct Before {
    /// How far it had come.
    sent: u64,
    /// Key of the client that opened the session.
    client: Option<Arc<str>>,
    /// The client has sent something.
    is_used: bool,
    /// Messages that it had sent when its stream ended, if that was noted.
    left_at: Option<u64>,
    /// Messages that it has sent.
    in_seq: u64,
}

/// A client that leaves while its stream is being attached, or whose stream is not shown after all, leaves no holder
/// behind: the stream that it has superseded can go on.
struct DetachOnDrop {
    app: Arc<App>,
    attachment: Option<Arc<Attachment>>,
}

impl Drop for DetachOnDrop {
    fn drop(&mut self) {
        let Some(attachment) = self.attachment.take() else { return };
        let app = Arc::clone(&self.app);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let detached = app.store.detach(attachment.session, &attachment.stream, attachment.id).await;
            if let Err(error) = detached {
                app.count_store_error(&error);
            }
        });
    }
}

fn response(
    body: impl Stream<Item = Result<Bytes, Aborted>> + 'static,
    session: Option<SessionId>,
    wire: Wire,
) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    response
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-cache, no-transform"))
        // For nginx in front whose configuration is not ours.
        .insert_header(("X-Accel-Buffering", "no"));
    if let Some(session) = session {
        let cookie = Cookie::build(COOKIE, session.reveal())
            .path("/")
            .http_only(true)
            // A page elsewhere has no use for a session here, not even by a link.
            .same_site(SameSite::Strict)
            .secure(wire.secure)
            .finish();
        response.cookie(cookie);
    }
    if wire.old {
        response.force_close();
    }
    let mut response = response.streaming(body);
    response.head_mut().no_chunking(wire.old);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_get_that_does_not_take_events_is_told_from_one_that_does() {
        for (accept, expected) in [
            ("text/event-stream", true),
            ("application/json, text/event-stream", true),
            ("TEXT/Event-Stream; charset=utf-8", true),
            ("*/*", true),
            ("text/*;q=0.5", true),
            ("application/json, */*;q=0.1", true),
            ("application/json", false),
            ("text/html, application/xhtml+xml", false),
            ("text/event-stream;q=0", false),
            ("*/*, text/event-stream; q=0.0", false),
            ("*/*;q=0, text/event-stream", true),
            ("", false),
        ] {
            assert_eq!(covers_events(std::iter::once(accept)), expected, "{accept:?}");
        }
    }
}
