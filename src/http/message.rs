//! `POST /mcp/{service}/message?sessionId=…`: one message of the client, which [`gateway::deliver`](crate::gateway::deliver) journals.

use std::{rc::Rc, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CONTENT_TYPE, HeaderValue},
    web,
};
use bytes::Bytes;

use super::{
    allowed::{Allowed, taken},
    error::ApiError,
    extract::{Named, NodeData, id_text, read_body},
    principal,
    sent::Sent,
};
use crate::{
    fault,
    gateway::{
        deliver::NotDelivered,
        doubt,
        pace::Admitted,
        rebind::{self, Answer, Told},
    },
    process::node::Node,
    protocol::{
        jsonrpc::{Head, Said},
        mcp,
        session_id::SessionId,
    },
    session::messages::Delivered,
};

static TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// `POST /mcp/{service}/message` of a known service.
pub async fn post_to_service(
    node: NodeData,
    request: HttpRequest,
    payload: web::Payload,
    Named(service): Named,
) -> Result<HttpResponse, ApiError> {
    take(&node, &request, service, payload).await
}

/// `POST /mcp/{service}/message` of a service that was not known when the paths were mounted.
pub async fn post_by_name(
    node: NodeData,
    request: HttpRequest,
    service: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let pool = &node.cluster.pool;
    let unknown = || ApiError::UnknownService { name: service.to_string(), known: pool.names() };
    let service = pool.service(&service).ok_or_else(unknown)?;
    take(&node, &request, Some(service.name.as_str().into()), payload).await
}

/// `POST /mcp/message`
pub async fn post(node: NodeData, request: HttpRequest, payload: web::Payload) -> Result<HttpResponse, ApiError> {
    take(&node, &request, None, payload).await
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
    node: &Rc<Node>,
    request: &HttpRequest,
    service: Option<Arc<str>>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let body = read_body(request, payload, &node.env.settings).await?;
    let session = session_of(request.query_string())?;
    let head = Head::parse(&body)?;
    if let Some(answer) = Answer::of(&head)
        && rebind::answered(&node.gateway, session, answer, &principal::of(request)).await? == Told::Waiting
    {
        return Ok(HttpResponse::Accepted().finish());
    }
    if let Some(count) = attach_count(request.query_string()) {
        doubt::settle(&node.gateway, session, (count, &principal::of(request)), &head).await?;
    }
    let said = head.said();
    let allowed = allowed(node, request, service.as_deref(), session).await?;
    let (admitted, refused) = match allowed.judge(node, Some(&session), (&head, &body, &said)).await {
        Ok(admitted) => (admitted, None),
        Err(refused) => (Admitted::default(), Some(refused)),
    };
    let by = allowed.by;
    let (body, said) = match (refused, id_text(&said)) {
        (None, _) => (body, said),
        // On the stream, like any answer: a status other than 2xx ends the session of some clients.
        (Some(error @ (ApiError::Policy { .. } | ApiError::TooOften { .. } | ApiError::TooManyCalls)), Some(id)) => {
            substitute(&error, id)?
        }
        (Some(ApiError::Policy { .. }), None) => {
            node.env.metrics.dropped.with_label_values(&["policy"]).inc();
            return Ok(HttpResponse::Accepted().finish());
        }
        (Some(error), id) => return Ok(error.response(id)),
    };
    let begins = matches!(&said, Said::Request { method, .. } if **method == *mcp::INITIALIZE);
    let offered = if begins { mcp::with_sessions(&body) } else { None };
    let body = offered.unwrap_or(body);
    let sent = Sent::new(request, &node.env, (service, by), (body, said), 0, false, None);
    let delivered = sent.deliver(&node.gateway, session).await;
    taken(admitted, delivered.as_ref());
    match delivered {
        Ok(Delivered::Accepted(_) | Delivered::Duplicate(_)) => {
            sent.is_answered(&node.gateway, session, request);
            Ok(HttpResponse::Accepted().insert_header((CONTENT_TYPE, TEXT.clone())).body("Accepted"))
        }
        Err(_) if fault::unprotected(fault::JOURNAL_FIRST) => Ok(HttpResponse::Accepted().finish()),
        Err(error @ NotDelivered::Refused(_)) => {
            Ok(ApiError::from(error).knowing(&*node.env.store).response(id_text(&sent.posted.said)))
        }
        Err(error @ NotDelivered::Draining) => Ok(ApiError::from(error).response(id_text(&sent.posted.said))),
    }
}

/// What who asks may do at the session's service.
async fn allowed<'r>(
    node: &Rc<Node>,
    request: &'r HttpRequest,
    service: Option<&str>,
    session: SessionId,
) -> Result<Allowed<'r>, ApiError> {
    let known = match service {
        None if node.env.policy.is_some() => {
            let by = principal::of(request).binding();
            // A refusal would name the service of another's session. SEC-1
            let head = node.env.store.load(session).await?.filter(|head| head.binding.admits(&by));
            head.map(|head| head.service)
        }
        _ => None,
    };
    // Of a session that is not there any answer will do.
    Allowed::at(node, request, service.or(known.as_deref()).unwrap_or_default())
}

/// A message in the place of a request that is refused: whoever owns the session answers it with the error.
fn substitute(error: &ApiError, id: &str) -> Result<(Bytes, Said), ApiError> {
    let answer = error.body(Some(id));
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
    let body = mcp::refusal(id, &answer["error"]);
    let said = Head::parse(&body)?.said();
    Ok((body, said))
}

/// The URL of this surface for a client of `service`, as its stream tells it. `prefix`: path before `/mcp/…`. `proof`: see
/// [`attach_count`].
pub(super) fn endpoint(prefix: &str, service: &str, session: &SessionId, proof: Option<u64>) -> String {
    let session = session.reveal();
    match proof {
        Some(count) => format!("{prefix}/mcp/{service}/message?sessionId={session}&attach={count}"),
        None => format!("{prefix}/mcp/{service}/message?sessionId={session}"),
    }
}

/// The number that the endpoint of a client carries which was found by a cookie.
fn attach_count(query: &str) -> Option<u64> {
    query.split('&').find_map(|pair| pair.strip_prefix("attach="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_one_session() {
        let id = "00112233445566778899aabbccddeeff";
        for (query, expected) in [
            (format!("sessionId={id}"), Ok(id.parse().unwrap())),
            (format!("a=b&sessionId={id}&attach=3"), Ok(id.parse().unwrap())),
            (String::new(), Err(ApiError::MissingSession)),
            (format!("sessionid={id}"), Err(ApiError::MissingSession)),
            (format!("sessionId={id}&sessionId={id}"), Err(ApiError::Query)),
            ("sessionId=".to_owned(), Err(ApiError::UnknownSession)),
            (format!("sessionId={id}0"), Err(ApiError::UnknownSession)),
        ] {
            assert_eq!(session_of(&query), expected, "{query}");
        }
    }

    #[test]
    fn an_endpoint_names_what_is_read_from_it() {
        let session = SessionId::random();
        for proof in [None, Some(3)] {
            let endpoint = endpoint("/bridge", "s", &session, proof);
            let (path, query) = endpoint.split_once('?').unwrap();
            assert_eq!(path, "/bridge/mcp/s/message");
            assert_eq!((session_of(query), attach_count(query)), (Ok(session), proof));
        }
    }

    #[test]
    fn the_number_of_the_attachment_is_read_from_the_query() {
        assert_eq!(attach_count("sessionId=00112233445566778899aabbccddeeff&attach=3"), Some(3));
        for none in ["", "sessionId=00112233445566778899aabbccddeeff", "attach=x", "reattach=3"] {
            assert_eq!(attach_count(none), None, "{none}");
        }
    }
}
