//! Clients that try Streamable HTTP first POST to the URL that they were given, here `/sse/{service}`, and fall back to
//! HTTP+SSE on 404. They get that status, and people get a text that says which transport lives where.

use actix_web::{HttpRequest, HttpResponse, web};

use super::{
    error::ApiError,
    extract::{NodeData, id_text, read_body},
};
use crate::protocol::jsonrpc::Head;

/// The error answers the request that the body holds, if it holds one.
pub async fn post(node: NodeData, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let error = error(&node, &request);
    let body = read_body(&request, payload, &node.env.settings).await;
    let said = body.ok().and_then(|body| Head::parse(&body).ok().map(|head| head.said()));
    error.response(said.as_ref().and_then(id_text))
}

fn error(node: &NodeData, request: &HttpRequest) -> ApiError {
    let named = request.match_info().get("service");
    let pool = &node.cluster.pool;
    let service = named.and_then(|name| pool.service(name)).or_else(|| pool.only_service());
    ApiError::OtherTransport {
        base: node.env.settings.server.base_path.clone(),
        service: service.map_or_else(|| "{service}".to_owned(), |service| service.name.clone()),
    }
}
