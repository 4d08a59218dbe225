//! `POST /mcp/router/route/{service}`: one JSON-RPC request in, its response out, for callers without a session. What is
//! done about it is [`gateway::call`](call)'s.

use std::time::Instant;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, HeaderName},
    web,
};
use ipnet::IpNet;

use super::{
    allowed::Allowed,
    error::ApiError,
    extract::{Named, NodeData, id_text, read_body},
    forwarded, principal,
    sse::find_service,
    trace::{self, Arrival},
};
use crate::{
    gateway::{
        call::{self, Slot},
        under_way::CallKey,
    },
    protocol::{
        jsonrpc::{Head, IdKey, Kind},
        mcp,
    },
};

/// Headers by which two callers behind one address can be told apart.
static TELLING: [HeaderName; 5] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::USER_AGENT,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("mcp-session-id"),
];

/// The handler.
pub async fn post(
    node: NodeData,
    request: HttpRequest,
    Named(service): Named,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let service = find_service(&node, service.as_deref())?;
    let body = read_body(&request, payload, &node.env.settings).await?;
    let head = Head::parse(&body)?;
    let allowed = Allowed::at(&node, &request, &service.name)?;
    if service.credentials.are_of_users() {
        return Err(ApiError::Unexpected(
            "this service is asked in its users' names, for which a call needs a session",
        ));
    }
    let said = head.said();
    // Counted until it is answered, or the caller is gone.
    let _admitted = match allowed.judge(&node, None, (&head, &body, &said)).await {
        Ok(admitted) => admitted,
        Err(refused) => return Ok(refused.response(id_text(&said))),
    };
    let _slot = Slot::take(&node.gateway.shared.in_flight, node.env.settings.limits.rest_max_inflight)?;
    let trusted = &node.env.settings.security.trusted_proxies;
    match &head.kind {
        Kind::Request { id, .. } => {
            let (place, begun) = (trace::place(&node.env, &request, &body, true), Instant::now());
            let known = (key(&request, trusted, &service.name, id), place.as_ref());
            // Dropped with this future when the caller is gone.
            let answered = call::request(&node.gateway, &service, &head, &body, known).await;
            if let Some(place) = &place {
                let method = head.method().unwrap_or_default();
                let arrival = Arrival { place, method, service: Some(&service.name), session: None, begun };
                arrival.ends(node.env.traces.as_ref(), answered.is_err().then_some("not_answered"));
            }
            match answered {
                Ok(answer) => {
                    let shown = allowed.shown(head.method(), answer)?;
                    Ok(HttpResponse::Ok().content_type("application/json").body(shown))
                }
                Err(error) => Ok(ApiError::from(error).response(Some(id.as_json()))),
            }
        }
        Kind::Notification { method } if method == mcp::CANCELLED => {
            let id = mcp::cancelled_request_id(head.params).map(IdKey::from_stored);
            call::cancel(&node.gateway, id.map(|id| key(&request, trusted, &service.name, &id)).as_ref());
            Ok(HttpResponse::Accepted().finish())
        }
        Kind::Notification { .. } => {
            call::notify(&node.gateway, &service, &body).await?;
            Ok(HttpResponse::Accepted().finish())
        }
        Kind::Response { .. } => Err(ApiError::Unexpected("a response answers nothing here: send a request")),
    }
}

/// Of these, what shows who it is. Who is known by name may have another token for the next request.
static CREDENTIALS: [HeaderName; 2] = [header::AUTHORIZATION, HeaderName::from_static("x-api-key")];

/// By which a call of this caller is known.
fn key(request: &HttpRequest, trusted: &[IpNet], service: &str, id: &IdKey) -> CallKey {
    let (headers, by) = (request.headers(), principal::of(request).binding());
    let is_telling = |name: &&HeaderName| by.principal().is_empty() || !CREDENTIALS.contains(name);
    let marks = TELLING
        .iter()
        .filter(is_telling)
        .flat_map(|name| headers.get_all(name).map(|value| (name.as_str(), value.as_bytes())));
    let marks = marks.chain([("principal", by.principal().as_bytes())]);
    CallKey::new(service, id.key(), forwarded::client_address(request, trusted), marks)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn callers_are_told_apart_by_address_and_by_what_they_show() {
        let key = |id: &str, peer: &str, header: (&'static str, &'static str)| {
            let request = TestRequest::default().peer_addr(peer.parse().unwrap()).insert_header(header);
            key(&request.to_http_request(), &[], "s", &IdKey::from_stored(id))
        };
        let plain = ("accept", "*/*");
        let one = key("1", "192.0.2.1:4711", plain);
        assert!(one == key("1", "192.0.2.1:4712", ("accept", "text/html")), "another connection of the same caller");
        for (id, peer, header) in [
            ("2", "192.0.2.1:4711", plain),
            ("\"1\"", "192.0.2.1:4711", plain),
            ("1", "192.0.2.2:4711", plain),
            ("1", "192.0.2.1:4711", ("authorization", "Bearer x")),
            ("1", "192.0.2.1:4711", ("cookie", "a=b")),
            ("1", "192.0.2.1:4711", ("user-agent", "x")),
            ("1", "192.0.2.1:4711", ("x-api-key", "k")),
        ] {
            assert!(one != key(id, peer, header), "{id} {peer} {header:?}");
        }
    }
}
