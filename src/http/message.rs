//! `POST /mcp/{service}/message?sessionId=…`: one message of the client, which [`gateway::deliver`](deliver) journals.

use std::{
    rc::Rc,
    sync::{Arc, Weak},
    time::Instant,
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CONTENT_TYPE, HeaderValue},
    web,
};

use super::{
    connections::Open,
    error::ApiError,
    extract::{NodeData, id_text, read_body},
    forwarded::{self, Name},
};
use crate::{
    fault,
    gateway::{
        answered,
        deliver::{self, NotDelivered},
        doubt,
        rebind::{self, Answer, Told},
    },
    process::node::Node,
    protocol::{jsonrpc::Head, post_id::PostId, session_id::SessionId},
    session::messages::{Delivered, Posted},
};

static TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// `POST /mcp/{service}/message` of a known service.
pub async fn post_to_service(
    node: NodeData,
    request: HttpRequest,
    payload: web::Payload,
    service: Arc<str>,
) -> Result<HttpResponse, ApiError> {
    take(&node, &request, Some(service), payload).await
}

/// `POST /mcp/{service}/message` of any other.
pub async fn unknown_service(node: NodeData, service: web::Path<String>) -> Result<HttpResponse, ApiError> {
    Err(ApiError::UnknownService { name: service.into_inner(), known: node.cluster.pool.names() })
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
        && rebind::answered(&node.gateway, session, answer).await? == Told::Waiting
    {
        return Ok(HttpResponse::Accepted().finish());
    }
    if let Some(count) = attach_count(request.query_string()) {
        doubt::settle(&node.gateway, session, count, &head).await?;
    }
    let said = head.said();
    let versioned = request.headers().contains_key("mcp-protocol-version");
    // nginx gives all its tries of one request the same one. REQ-6
    let name = forwarded::request_name(request, &node.env.settings.security.trusted_proxies);
    let post_id = name.map_or_else(PostId::random, |name| PostId::of(name.text(), &body));
    let posted = Arc::new(Posted { body, said, service, post_id, versioned, own_stream: false });
    let correlated = matches!(name, Some(Name::Correlation(_)));
    let begun = Instant::now();
    let delivered = match correlated {
        true => answered::deliver(&node.gateway, session, &posted).await,
        false => deliver::deliver(&node.gateway, session, &posted).await,
    };
    match delivered {
        // Only here, after the journal has it. REQ-1
        Ok(Delivered::Accepted(_) | Delivered::Duplicate(_)) => {
            if correlated {
                let connection: Weak<()> = request.conn_data::<Open>().map(Open::watch).unwrap_or_default();
                answered::forget(&node.gateway, connection, session, post_id, begun);
            }
            Ok(HttpResponse::Accepted().insert_header((CONTENT_TYPE, TEXT.clone())).body("Accepted"))
        }
        Err(_) if fault::unprotected(fault::JOURNAL_FIRST) => Ok(HttpResponse::Accepted().finish()),
        Err(error @ NotDelivered::Refused(_)) => {
            Ok(ApiError::from(error).knowing(&*node.env.store).response(id_text(&posted.said)))
        }
        Err(error @ NotDelivered::Draining) => Ok(ApiError::from(error).response(id_text(&posted.said))),
    }
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
