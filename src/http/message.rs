//! `POST /mcp/{service}/message?sessionId=…`: one message of the client. Any instance takes it for any session: the
//! owner by its actor, others by the store, which wakes the owner (OWN-6).

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CONTENT_TYPE, HeaderValue},
    web,
};

use super::{
    WorkerData, answered, doubt,
    error::ApiError,
    forwarded::{self, Name},
    id_text, read_body,
};
use crate::{
    app::{Rebinds, Worker},
    backoff,
    cluster::ownership,
    fault,
    lifecycle::Phase,
    protocol::{
        jsonrpc::{Head, Kind},
        post_id::PostId,
        session_id::SessionId,
    },
    session::{
        field, inbound_view,
        messages::{Deliver, DeliverError, Delivered, Posted},
    },
    store::{Accept, Accepted, StoreError},
};

/// How often a message looks for its session's owner anew before the client is told to try again: the owner may change
/// between two looks, but not for ever.
const OWNER_ATTEMPTS: usize = 5;

/// How often a message looks whether its session has been written again after a loss of data.
pub(super) const LOST_DATA_PAUSE: Duration = Duration::from_millis(50);

static TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// `POST /mcp/{service}/message` of a known service.
pub async fn post_to_service(
    worker: WorkerData,
    request: HttpRequest,
    payload: web::Payload,
    service: Arc<str>,
) -> Result<HttpResponse, ApiError> {
    take(&worker, &request, Some(service), payload).await
}

/// `POST /mcp/{service}/message` of any other.
pub async fn unknown_service(worker: WorkerData, service: web::Path<String>) -> Result<HttpResponse, ApiError> {
    Err(ApiError::UnknownService { name: service.into_inner(), known: worker.app.pool.names() })
}

/// `POST /mcp/message`
pub async fn post(worker: WorkerData, request: HttpRequest, payload: web::Payload) -> Result<HttpResponse, ApiError> {
    take(&worker, &request, None, payload).await
}

/// The session that the query names.
fn session_of(query: &str) -> Result<SessionId, ApiError> {
    // Session ids are plain digits, so nothing in a right one is percent-encoded.
    let mut named = query.split('&').filter_map(|pair| pair.strip_prefix("sessionId="));
    let session = named.next().ok_or(ApiError::MissingSession)?;
    if named.next().is_some() {
        return Err(ApiError::Query);
    }
    session.parse().map_err(|_| ApiError::UnknownSession)
}

async fn take(
    worker: &Rc<Worker>,
    request: &HttpRequest,
    service: Option<Arc<str>>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let app = &worker.app;
    let body = read_body(request, payload, &app.settings).await?;
    let session = session_of(request.query_string())?;
    let head = Head::parse(&body)?;
    if let Some(answer) = rebind_answer(&head)
        && complete_rebind(worker, session, answer).await?
    {
        return Ok(HttpResponse::Accepted().finish());
    }
    if let Some(count) = doubt::attach_count(request.query_string()) {
        doubt::settle(worker, session, count, &head).await?;
    }
    let said = head.said();
    let versioned = request.headers().contains_key("mcp-protocol-version");
    // nginx gives all its tries of one request the same one. REQ-6
    let name = forwarded::request_name(request, &app.settings.security.trusted_proxies);
    let post_id = name.map_or_else(PostId::random, |name| PostId::of(name.text(), &body));
    let posted = Arc::new(Posted { body, said, service, post_id, versioned });
    let correlated = matches!(name, Some(Name::Correlation(_)));
    let begun = Instant::now();
    let delivered = match correlated {
        true => answered::deliver(worker, session, &posted).await,
        false => deliver(worker, session, &posted).await,
    };
    match delivered {
        // Only here, after the journal has it. REQ-1
        Ok(Delivered::Accepted | Delivered::Duplicate) => {
            if correlated {
                answered::forget(worker, request, session, post_id, begun);
            }
            Ok(HttpResponse::Accepted().insert_header((CONTENT_TYPE, TEXT.clone())).body("Accepted"))
        }
        Err(_) if fault::unprotected(fault::JOURNAL_FIRST) => Ok(HttpResponse::Accepted().finish()),
        Err(Failure::Deliver(error)) => Ok(ApiError::from(error).knowing(&*app.store).response(id_text(&posted.said))),
        Err(Failure::Draining) => Ok(ApiError::Draining.response(id_text(&posted.said))),
    }
}

pub(super) enum Failure {
    Deliver(DeliverError),
    /// This instance goes down and does not own the session: nginx tries the next one.
    Draining,
}

impl From<DeliverError> for Failure {
    fn from(error: DeliverError) -> Self {
        Self::Deliver(error)
    }
}

pub(super) async fn deliver(
    worker: &Rc<Worker>,
    session: SessionId,
    posted: &Arc<Posted>,
) -> Result<Delivered, Failure> {
    let app = &worker.app;
    let deadline = Instant::now() + app.settings.redis.wait;
    let mut attempts = 0;
    while attempts < OWNER_ATTEMPTS {
        attempts += 1;
        let Some(owner) = app.directory.session(&session) else {
            return deliver_by_store(worker, session, posted).await;
        };
        match owner.send(Deliver(Arc::clone(posted))).await {
            Ok(Ok(delivered)) => return Ok(delivered),
            Ok(Err(DeliverError::NotOwner)) => {}
            Ok(Err(DeliverError::Vanished)) => {
                if Instant::now() >= deadline {
                    return Err(DeliverError::StoreUnavailable.into());
                }
                attempts = 0;
                tokio::time::sleep(LOST_DATA_PAUSE).await;
            }
            Ok(Err(error)) => return Err(error.into()),
            // The actor has ended between look-up and message; whatever it did is in the store.
            Err(_) => app.directory.remove_session(&session, &owner),
        }
    }
    Err(DeliverError::StoreUnavailable.into())
}

/// The owner is elsewhere, or nowhere.
async fn deliver_by_store(worker: &Rc<Worker>, session: SessionId, posted: &Posted) -> Result<Delivered, Failure> {
    let app = &worker.app;
    if app.lifecycle.phase() != Phase::Ready {
        return Err(Failure::Draining);
    }
    let (message, set, delete) = inbound_view(&posted.said, &posted.body, posted.versioned);
    let limits = &app.settings.limits;
    let accept = Accept {
        session,
        service: posted.service.as_deref().map(str::to_owned),
        post_id: posted.post_id,
        message,
        body: posted.body.clone(),
        fence: None,
        forward_now: false,
        acked: 0,
        known: 0,
        set,
        delete,
        // Beyond MCP_MAX_INFLIGHT the owner refuses it on the stream: a status other than 2xx ends the session of some
        // clients. MEM-5
        max_pending: limits.max_inflight + limits.max_inbox,
        max_inbox: limits.max_inbox,
        max_bytes: limits.inbox_bytes(),
    };
    let deadline = Instant::now() + app.settings.redis.wait;
    let accepted = loop {
        let accepted = patiently(worker, || app.store.accept(accept.clone())).await?;
        // The store came back empty: the session's owner, if it lives, is about to write it again.
        if accepted != Accepted::NotFound || Instant::now() >= deadline || !app.data_lost().await {
            break accepted;
        }
        tokio::time::sleep(LOST_DATA_PAUSE).await;
    };
    match accepted {
        Accepted::Queued { owner, listeners, .. } => {
            app.metrics.accepted.queued.inc();
            fault::point(fault::QUEUED);
            if ownership::is_suspect(app, &session, &owner, listeners) {
                // Perhaps nobody will look. The message is safe either way, so the client need not wait for it.
                ownership::look_after(worker, session, "post");
            }
            Ok(Delivered::Accepted)
        }
        Accepted::Duplicate { .. } => {
            app.metrics.accepted.duplicate.inc();
            // Also when it is claimed: by a journaling perhaps whose reply the owner has not had. It looks for it then. And
            // it may have died since, or hang.
            ownership::look_after(worker, session, "post");
            Ok(Delivered::Duplicate)
        }
        Accepted::TooManyPending => {
            app.metrics.accepted.refused.inc();
            Err(DeliverError::TooMany.into())
        }
        Accepted::TooManyBytes => {
            app.metrics.accepted.refused.inc();
            Err(DeliverError::TooManyBytes.into())
        }
        Accepted::IdInUse => {
            app.metrics.accepted.refused.inc();
            Err(DeliverError::IdInUse.into())
        }
        Accepted::WrongService => Err(DeliverError::WrongService.into()),
        Accepted::NotFound => Err(DeliverError::Gone.into()),
        // Not for a caller without a fence.
        Accepted::Forward { .. } | Accepted::Fenced | Accepted::Older => Err(DeliverError::NotOwner.into()),
    }
}

/// Repeats a store operation for as long as a POST may wait for the store. DUR-2
pub(super) async fn patiently<T, F, Fut>(worker: &Worker, operation: F) -> Result<T, DeliverError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let deadline = Instant::now() + worker.app.settings.redis.wait;
    let may_repeat = |error: &StoreError| {
        worker.app.count_store_error(error);
        Instant::now() < deadline && !matches!(error, StoreError::Corrupt(_))
    };
    let done = backoff::retry(backoff::STORE_PAUSES, operation, may_repeat).await;
    done.map_err(|_| DeliverError::StoreUnavailable)
}

/// Which waiting stream a client's answer to our `ping` is about: (incarnation, nonce).
fn rebind_answer(head: &Head<'_>) -> Option<(String, u64)> {
    let Kind::Response { id: Some(id), .. } = &head.kind else { return None };
    let text = id.as_json().strip_prefix("\"rebind.")?.strip_suffix('"')?;
    let (incarnation, nonce) = text.split_once('.')?;
    Some((incarnation.to_owned(), nonce.parse().ok()?))
}

/// The id of the `ping` that asks a reconnected client who it is.
pub(super) fn rebind_id(incarnation: &str, nonce: u64) -> String {
    format!("\"rebind.{incarnation}.{nonce}\"")
}

/// Tells the stream that waits, on whichever instance, that its client speaks for `session`. `false`: nobody waits, so
/// that it is an ordinary answer, whatever its id looks like.
async fn complete_rebind(
    worker: &Rc<Worker>,
    session: SessionId,
    (incarnation, nonce): (String, u64),
) -> Result<bool, ApiError> {
    let app = &worker.app;
    if incarnation == *app.me.incarnation {
        return Ok(app.rebinds.complete(nonce, session));
    }
    let store = Arc::clone(&app.store);
    let text = nonce.to_string();
    if !patiently(worker, || store.hint(session, field::REBIND, &text)).await? {
        // The one that asked learns that there is nothing to wait for.
        if let Some(word) = Rebinds::word_of_gone(nonce) {
            patiently(worker, || store.wake(&incarnation, word)).await?;
        }
        return Ok(false);
    }
    // No listener: no instance of this deployment has asked.
    Ok(patiently(worker, || store.wake(&incarnation, session)).await? > 0)
}
