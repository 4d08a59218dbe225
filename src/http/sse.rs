//! `GET /sse/{service}`: the 2024-11-05 event stream, new or resumed.
//!
//! A returning client is recognised, in this order, by `Last-Event-ID`, by `?sessionId=`, by its cookie (only if nobody
//! else shows the session), and by *ping-rebind*: the TypeScript SDK sends nothing of the kind when it reconnects, but
//! keeps its old endpoint URL, so it is asked with a JSON-RPC `ping` and its answer arrives at a URL that names the
//! session. Otherwise it is a new client. Nothing is opened upstream here: many GETs are probes.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest, HttpResponse,
    cookie::{Cookie, SameSite},
    http::header,
    web,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, future, stream};
use serde::Deserialize;

use super::{
    WorkerData,
    error::ApiError,
    forwarded,
    message::{LOST_DATA_PAUSE, patiently, rebind_id},
};
use crate::{
    app::{App, Worker},
    cluster::ownership,
    lifecycle::Phase,
    protocol::{event_id::EventId, mcp, session_id::SessionId, sse},
    session::{
        MAIN_STREAM,
        actor::SessionActor,
        attachment::{Aborted, Attachment, Pump, resume_failed},
        field,
        messages::AttachLocal,
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
struct Opening {
    worker: Rc<Worker>,
    service: Arc<Service>,
    /// Path before `/mcp/…` in the endpoint event.
    prefix: String,
}

/// A stream that is ready to be sent.
struct Ready {
    session: SessionId,
    pump: Pump,
}

/// How a returning client was recognised; the label of a metric.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
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
    if worker.app.lifecycle.phase() != Phase::Ready {
        return Err(ApiError::Draining);
    }
    let forwarded_prefix = forwarded::prefix(request, &security.trusted_proxies);
    let opening = Opening {
        worker: Rc::clone(worker),
        service,
        prefix: format!("{forwarded_prefix}{}", worker.app.settings.server.base_path),
    };
    let secure = forwarded::is_https(request, &security.trusted_proxies);
    match opening.find(request, query, secure).await {
        // A returning client would take any status but 200 as the end, for good. A stream that breaks at once sends it
        // round again.
        Err(ApiError::StoreUnavailable) if is_returning(request) => {
            let broken = stream::once(future::ready(Err(Aborted("the session store does not answer"))));
            Ok(response(broken, None, secure))
        }
        outcome => outcome.map_err(|error| error.knowing(&*worker.app.store)),
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
    async fn find(&self, request: &HttpRequest, query: &Query, secure: bool) -> Result<HttpResponse, ApiError> {
        let opening = self;
        let worker = &self.worker;
        if let Some(cursor) = request.headers().get("last-event-id").filter(|value| !value.is_empty()) {
            let cursor = cursor.to_str().ok().and_then(|text| text.parse::<EventId>().ok());
            let reason = match cursor {
                Some(cursor) => {
                    let session = cursor.session;
                    match opening.resume(session, Some(cursor), By::LastEventId).await? {
                        Some(ready) => return Ok(opening.respond(ready, secure)),
                        None => "session_gone",
                    }
                }
                None => "cursor_foreign",
            };
            // A status other than 200 would stop stock clients for good: a new session, and the loss said aloud. EVT-6
            worker.app.metrics.resume_failed.with_label_values(&[reason]).inc();
            let ready = opening.create(Some(reason)).await?;
            return Ok(opening.respond(ready, secure));
        }
        if let Some(named) = &query.session_id {
            let session = named.parse().map_err(|_| ApiError::UnknownSession)?;
            let ready = opening.resume(session, None, By::SessionId).await?.ok_or(ApiError::UnknownSession)?;
            return Ok(opening.respond(ready, secure));
        }
        if let Some(ready) = opening.resume_by_cookie(request).await? {
            return Ok(opening.respond(ready, secure));
        }
        // Only a client that has been initialised sends its version: this GET is a reconnect. Python clients never
        // reconnect, and would hang on a message before the endpoint.
        let is_python = request
            .headers()
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|agent| agent.starts_with("python"));
        if request.headers().contains_key("mcp-protocol-version") && !is_python {
            return Ok(response(opening.clone().rebind(), None, secure));
        }
        let ready = opening.create(None).await?;
        Ok(opening.respond(ready, secure))
    }

    fn respond(&self, ready: Ready, secure: bool) -> HttpResponse {
        response(ready.pump.into_stream(), Some(ready.session), secure)
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

    async fn create(&self, lost: Option<&'static str>) -> Result<Ready, ApiError> {
        let app = &self.worker.app;
        if app.directory.session_count() >= app.settings.limits.max_sessions {
            return Err(ApiError::TooMany { what: "sessions" });
        }
        if !app.openings.try_acquire() {
            return Err(ApiError::TooMany { what: "new sessions per second" });
        }
        let session = SessionId::random();
        let epoch = fastrand::u32(..);
        let attachment = Attachment::new(session, MAIN_STREAM, app.settings.stream.client_queue_bytes);
        let new = NewSession {
            restored: None,
            session,
            epoch,
            service: self.service.name.clone(),
            transport: "sse".to_owned(),
            principal: String::new(),
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
        let pump = Pump::new(Arc::clone(app), Arc::clone(&attachment), epoch, 0, Bytes::from(first));
        let actor = SessionActor::start_new(Rc::clone(&self.worker), Arc::clone(&self.service), fence, attachment);
        app.directory.insert_session(session, actor);
        Ok(Ready { session, pump })
    }

    /// Attaches to a session after `cursor` (none: as far as its connection had come). `None`: it is gone.
    async fn resume(&self, session: SessionId, cursor: Option<EventId>, by: By) -> Result<Option<Ready>, ApiError> {
        let app = &self.worker.app;
        let sent = if cursor.is_some() { 0 } else { self.sent_before(session).await? };
        let attachment = Attachment::new(session, MAIN_STREAM, app.settings.stream.client_queue_bytes);
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
        app.metrics.resumed.with_label_values(&[by.label()]).inc();
        let cursor_epoch_fits = cursor.as_ref().is_none_or(|cursor| cursor.epoch == joined.epoch);
        let from = match &cursor {
            Some(cursor) if cursor_epoch_fits => cursor.seq,
            // Another life of the session: all of this one is new to the client, and it is told. EVT-6
            Some(_) => 0,
            None => sent.saturating_sub(app.settings.stream.rebind_replay),
        };
        let mut first = Vec::new();
        // After a ping-rebind the client keeps its endpoint; others expect one on every connection.
        if by != By::Rebind {
            let mut endpoint = self.endpoint(&session);
            if by == By::Cookie {
                // mcp-remote 0.15 holds its POSTs back until the URL changes.
                endpoint.push_str(&format!("&attach={}", joined.attach_count));
            }
            let id = cursor.as_ref().filter(|_| cursor_epoch_fits).map_or(from.max(sent), |cursor| cursor.seq);
            first.extend_from_slice(&sse::opening(&session, MAIN_STREAM, joined.epoch, id, self.retry(), &endpoint));
        }
        if !cursor_epoch_fits {
            app.metrics.resume_failed.with_label_values(&["epoch"]).inc();
            first.extend_from_slice(&resume_failed("epoch", cursor.as_ref().map_or(0, |cursor| cursor.seq), 1));
        }
        let mut pump =
            Pump::new(Arc::clone(app), Arc::clone(&attachment), joined.epoch, from, Bytes::from(first)).resumed();
        // From here on the pump does it.
        undo.attachment = None;
        if cursor.is_none() {
            pump = pump.resume_without_cursor(from, sent);
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

    /// How far the session's last connection had come.
    async fn sent_before(&self, session: SessionId) -> Result<u64, ApiError> {
        let app = &self.worker.app;
        let here = app.directory.attachments(&session).iter().map(|attachment| attachment.sent()).max().unwrap_or(0);
        let record = patiently(&self.worker, || app.store.load(session)).await?;
        let stored = record
            .and_then(|record| record.fields.get(&format!("{}{MAIN_STREAM}", field::SENT))?.parse().ok())
            .unwrap_or(0);
        Ok(here.max(stored))
    }

    async fn resume_by_cookie(&self, request: &HttpRequest) -> Result<Option<Ready>, ApiError> {
        let Some(session) = request.cookie(COOKIE).and_then(|cookie| cookie.value().parse::<SessionId>().ok()) else {
            return Ok(None);
        };
        let app = &self.worker.app;
        let Some(record) = patiently(&self.worker, || app.store.load(session)).await? else { return Ok(None) };
        // Clients share a cookie jar: a session that somebody shows belongs to that one. A dead holder is no holder.
        let holder = record.fields.get(&format!("a:{MAIN_STREAM}")).and_then(|text| text.split(' ').next());
        if let Some(holder) = holder {
            let lives = *holder == *app.me.incarnation || {
                patiently(&self.worker, || app.store.wake(holder, session)).await? > 0
            };
            if lives {
                return Ok(None);
            }
        }
        self.resume(session, None, By::Cookie).await
    }

    /// Asks the client who it is, then goes on with its session or with a new one.
    fn rebind(self) -> impl Stream<Item = Result<Bytes, Aborted>> + use<> {
        let app = Arc::clone(&self.worker.app);
        let (nonce, answered) = app.rebinds.register();
        let id = rebind_id(&app.me.incarnation, nonce);
        let ping = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{}"}}"#, mcp::PING);
        let forget = ForgetRebind { worker: Rc::clone(&self.worker), nonce };
        let rest = async move {
            let _forget = forget;
            let answered = tokio::time::timeout(app.settings.stream.rebind_timeout, answered).await;
            let resumed = match answered {
                Ok(Ok(session)) => self.resume(session, None, By::Rebind).await,
                _ => Ok(None),
            };
            let ready = match resumed {
                Ok(Some(ready)) => Ok(ready),
                Ok(None) => self.create(None).await,
                Err(error) => Err(error),
            };
            match ready {
                Ok(ready) => ready.pump.into_stream().left_stream(),
                // The client tries again; a status is not possible any more.
                Err(_) => stream::once(future::ready(Err(Aborted("the session could not be opened")))).right_stream(),
            }
        };
        let first = sse::unnumbered("message", ping.as_bytes());
        stream::once(future::ready(Ok(first))).chain(stream::once(rest).flatten())
    }
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

/// A client that leaves while it is being asked leaves nothing behind.
struct ForgetRebind {
    worker: Rc<Worker>,
    nonce: u64,
}

impl Drop for ForgetRebind {
    fn drop(&mut self) {
        self.worker.app.rebinds.forget(self.nonce);
    }
}

fn response(
    body: impl Stream<Item = Result<Bytes, Aborted>> + 'static,
    session: Option<SessionId>,
    secure: bool,
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
            .secure(secure)
            .finish();
        response.cookie(cookie);
    }
    response.streaming(body)
}
