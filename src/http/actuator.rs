//! Health in the shape of Spring Boot's actuator, which the deployment's scripts and monitors already read.
//!
//! Strangers are told how it is, by component; where things are, what is wrong with them and how much there is only
//! operators (`admin::is_admin`).

use actix_web::{HttpRequest, HttpResponse, http::header};
use serde_json::{Map, Value, json};

use super::{admin, extract::NodeData};
use crate::{lifecycle::Phase, metrics::OPEN_METRICS, upstream::breaker::BreakerState};

/// `GET /actuator/health`: DOWN (503) when this instance cannot serve at all, DEGRADED when some of it cannot.
pub async fn health(node: NodeData, request: HttpRequest) -> HttpResponse {
    let store = match store_answers(&node).await {
        Ok(()) => json!({ "status": "UP", "details": { "store": node.env.store.kind() } }),
        Err(error) => json!({ "status": "DOWN", "details": { "store": node.env.store.kind(), "error": error } }),
    };
    let mut all_up = true;
    let mut services = Map::new();
    for service in node.cluster.pool.services().values().filter(|service| service.is_listed()) {
        let endpoints = service.endpoints();
        let up = endpoints.iter().filter(|endpoint| endpoint.state() == BreakerState::Closed).count();
        all_up &= up == endpoints.len();
        let status = if up == endpoints.len() {
            "UP"
        } else if up > 0 {
            "DEGRADED"
        } else {
            "DOWN"
        };
        let instances: Vec<Value> = endpoints.iter().map(|endpoint| admin::describe(endpoint, true)).collect();
        services.insert(service.name.clone(), json!({ "status": status, "instances": instances }));
    }
    let sessions = node.env.directory.session_count();
    let limit = node.env.settings.limits.max_sessions;
    let full = sessions >= limit && node.env.lonely.is_empty();
    let store_up = store["status"] == "UP";
    let ready = node.cluster.lifecycle.phase() == Phase::Ready;
    let status = if !store_up || !ready {
        "DOWN"
    } else if !all_up || full {
        "DEGRADED"
    } else {
        "UP"
    };
    let mut body = json!({
        "status": status,
        "components": {
            "redis": store,
            "upstreams": { "status": if all_up { "UP" } else { "DEGRADED" }, "details": services },
            "sessions": {
                "status": if full { "DEGRADED" } else { "UP" },
                "details": { "owned": sessions, "limit": limit, "streams": node.env.metrics.streams.get() },
            },
        },
        "instance": *node.env.me.instance_id,
        "phase": format!("{:?}", node.cluster.lifecycle.phase()),
    });
    if !admin::is_admin(&node, &request) {
        body = only_statuses(&body);
    }
    answer(status != "DOWN", &body)
}

/// What a stranger is told of health.
fn only_statuses(body: &Value) -> Value {
    let components = body["components"].as_object().into_iter().flatten();
    let components: Map<String, Value> =
        components.map(|(name, component)| (name.clone(), json!({ "status": component["status"] }))).collect();
    json!({ "status": body["status"], "components": components })
}

/// `GET /actuator/health/liveness`: the process answers.
pub async fn liveness() -> HttpResponse {
    answer(true, &json!({ "status": "UP" }))
}

/// `GET /actuator/health/readiness`: new sessions are welcome.
pub async fn readiness(node: NodeData, request: HttpRequest) -> HttpResponse {
    let phase = node.cluster.lifecycle.phase();

    let body = if phase != Phase::Ready {
        json!({ "status": "OUT_OF_SERVICE", "phase": format!("{phase:?}") })
    } else if node.env.directory.session_count() >= node.env.settings.limits.max_sessions && node.env.lonely.is_empty()
    {
        // Only while nobody can make room: streams that are open are not touched by it.
        json!({ "status": "OUT_OF_SERVICE", "reason": "MCP_MAX_SESSIONS sessions, all of them with clients" })
    } else {
        match store_answers(&node).await {
            Ok(()) => json!({ "status": "UP" }),
            Err(error) => json!({ "status": "DOWN", "error": error }),
        }
    };
    let told = if admin::is_admin(&node, &request) { body.clone() } else { json!({ "status": body["status"] }) };
    answer(body["status"] == "UP", &told)
}

/// `GET /actuator/info`
pub async fn info(node: NodeData, request: HttpRequest) -> HttpResponse {
    let mut info = json!({ "app": { "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") } });
    if admin::is_admin(&node, &request) {
        info["instance"] = json!({
            "id": *node.env.me.instance_id, "incarnation": *node.env.me.incarnation,
            "address": node.cluster.address, "startedMs": node.cluster.started_ms,
        });
        info["store"] = json!(node.env.store.kind());
    }
    answer(true, &info)
}

/// `GET /actuator/prometheus`. Whoever takes OpenMetrics gets it where calls are traced: it names traces.
pub async fn prometheus(node: NodeData, request: HttpRequest) -> HttpResponse {
    let accepts = || request.headers().get_all(header::ACCEPT).filter_map(|value| value.to_str().ok());
    if node.env.traces.is_some() && accepts().any(|accepted| accepted.contains("application/openmetrics-text")) {
        return HttpResponse::Ok().content_type(OPEN_METRICS).body(node.env.metrics.render_open());
    }
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(node.env.metrics.render())
}

async fn store_answers(node: &NodeData) -> Result<(), String> {
    let limit = node.env.settings.redis.timeout;
    match tokio::time::timeout(limit, node.env.store.ping()).await {
        // It may answer, and take nothing.
        Ok(Ok(())) => node.env.store.refusal().map_or(Ok(()), Err),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

fn answer(up: bool, body: &Value) -> HttpResponse {
    let mut response = if up { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.insert_header((header::CACHE_CONTROL, "no-store")).json(body)
}
