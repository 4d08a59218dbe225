//! `HEAD` of a stream: what its `GET` would be, without a session. Load balancers and link checkers ask so.

use actix_web::{HttpResponse, http::header, web};

use super::{error::ApiError, extract::NodeData, sse};

/// `HEAD /sse/{service}`
pub(super) async fn stream(node: NodeData, service: web::Path<String>) -> Result<HttpResponse, ApiError> {
    sse::find_service(&node, Some(&service))?;
    Ok(answer())
}

/// `HEAD /sse` and `HEAD /sse?serviceName=`
pub(super) async fn stream_by_query(node: NodeData, query: web::Query<sse::Query>) -> Result<HttpResponse, ApiError> {
    sse::find_service(&node, query.service_name.as_deref())?;
    Ok(answer())
}

fn answer() -> HttpResponse {
    let mut response = HttpResponse::Ok();
    response.content_type("text/event-stream").insert_header((header::CACHE_CONTROL, "no-cache, no-transform"));
    response.finish()
}
