//! What handlers take from a request and its server: the thread's own state, and the body.

use std::{
    future::{Ready, ready},
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    FromRequest, HttpMessage as _, HttpRequest,
    dev::Payload,
    http::header::{self, HeaderValue},
    web,
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use super::{connections::Open, error::ApiError, unread::BodyRead};
use crate::{process::node::Node, protocol::jsonrpc::Said, settings::Settings};

/// The worker thread's own state, as handlers get it.
pub type NodeData = web::Data<Rc<Node>>;

/// What is kept with a path that is mounted for one service, and so needs no pattern.
#[derive(Debug, Clone)]
pub(super) struct Mounted(pub(super) Arc<str>);

/// The service that the path names, if it names one.
#[derive(Debug)]
pub struct Named(pub(super) Option<Arc<str>>);

impl FromRequest for Named {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        if let Some(Mounted(service)) = request.app_data::<Mounted>() {
            return ready(Ok(Self(Some(Arc::clone(service)))));
        }
        let named = web::Path::<String>::from_request(request, payload).into_inner();
        ready(Ok(Self(named.ok().map(|named| named.into_inner().into()))))
    }
}

/// How long a body may take while connections are many.
const HURRIED: Duration = Duration::from_secs(5);

/// So much of a declared length is believed before anything of the body has come.
const TRUSTED_LENGTH: usize = 64 << 10;

/// Reads a JSON-RPC body: content type and coding, size, time.
pub(super) async fn read_body(
    request: &HttpRequest,
    payload: web::Payload,
    settings: &Settings,
) -> Result<Bytes, ApiError> {
    read(request, payload, settings, Beginning::IsOfNoUse).await.map_err(|(error, _)| error)
}

/// As [`read_body`]. Of a body that is not read to its end also what has come of it.
///
/// # Errors
/// And the beginning: of one that is declared to be too large not more than a little.
pub(super) async fn read_body_or_beginning(
    request: &HttpRequest,
    payload: web::Payload,
    settings: &Settings,
) -> Result<Bytes, (ApiError, BytesMut)> {
    read(request, payload, settings, Beginning::IsWanted).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Beginning {
    IsWanted,
    IsOfNoUse,
}

async fn read(
    request: &HttpRequest,
    payload: web::Payload,
    settings: &Settings,
    beginning: Beginning,
) -> Result<Bytes, (ApiError, BytesMut)> {
    let mut body = BytesMut::new();
    let declared = match declared(request) {
        Ok(declared) => declared,
        Err(error) => return Err((error, body)),
    };
    let limit = settings.limits.max_body;
    let most = match declared {
        Some(declared) if declared > limit && beginning == Beginning::IsOfNoUse => {
            return Err((ApiError::TooLarge { limit }, body));
        }
        Some(declared) if declared > limit => limit.min(TRUSTED_LENGTH),
        _ => limit,
    };
    let read = in_time(request, settings.server.body_timeout, collect(&mut body, payload, declared, most)).await;
    match read {
        Ok(()) if declared.is_none() => drop(request.extensions_mut().insert(BodyRead)),
        Ok(()) => {}
        Err(ApiError::TooLarge { .. }) => return Err((ApiError::TooLarge { limit }, body)),
        Err(error) => return Err((error, body)),
    }
    Ok(body.freeze())
}

/// Content type and coding are fit. The length that is declared, if it is.
fn declared(request: &HttpRequest) -> Result<Option<usize>, ApiError> {
    let headers = request.headers();
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
    Ok(headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()))
}

/// Waits for a body for as long as it may take, or, while there are so many connections that files may run out, for
/// [`HURRIED`]: a flood of slow ones is then over in seconds, and no honest one needs longer.
async fn in_time(
    request: &HttpRequest,
    limit: Duration,
    body: impl Future<Output = Result<(), ApiError>>,
) -> Result<(), ApiError> {
    let mut body = pin!(body);
    let begun = Instant::now();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        // Its timer is armed only when the body is not there yet.
        if let Ok(read) = tokio::time::timeout(left.min(HURRIED), &mut body).await {
            return read;
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
async fn collect(
    body: &mut BytesMut,
    mut payload: web::Payload,
    declared: Option<usize>,
    limit: usize,
) -> Result<(), ApiError> {
    let declared = declared.unwrap_or(0);
    body.reserve(declared.min(TRUSTED_LENGTH));
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| ApiError::BrokenBody)?;
        if body.len() + chunk.len() > limit {
            body.extend_from_slice(&chunk[..limit - body.len()]);
            return Err(ApiError::TooLarge { limit });
        }
        if body.len() + chunk.len() > body.capacity() {
            body.reserve(declared.saturating_sub(body.len()).max(chunk.len()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(())
}

/// The id of a request as JSON text, for the error that answers it.
pub(super) fn id_text(said: &Said) -> Option<&str> {
    match said {
        Said::Request { id, .. } => Some(id.as_json()),
        Said::Notification { .. } | Said::Response { .. } => None,
    }
}
