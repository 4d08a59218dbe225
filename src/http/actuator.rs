//! Health in the shape of Spring Boot's actuator, which the deployment's scripts and monitors already read.

use actix_web::{HttpResponse, http::header};
use serde_json::{Map, Value, json};

use super::{WorkerData, admin};
use crate::{lifecycle::Phase, upstream::breaker::BreakerState};

/// `GET /actuator/health`: DOWN (503) when this instance cannot serve at all, DEGRADED when some of it cannot.
pub async fn health(worker: WorkerData) -> HttpResponse {
    let app = &worker.app;
    let store = match store_answers(&worker).await {
        Ok(()) => json!({ "status": "UP", "details": { "store": app.store.kind() } }),
        Err(error) => json!({ "status": "DOWN", "details": { "store": app.store.kind(), "error": error } }),
    };
    let mut all_up = true;
    let mut services = Map::new();
    for service in app.pool.services() {
        let up = service.endpoints.iter().filter(|endpoint| endpoint.state() == BreakerState::Closed).count();
        all_up &= up == service.endpoints.len();
        let status = if up == service.endpoints.len() {
            "UP"
        } else if up > 0 {
            "DEGRADED"
        } else {
            "DOWN"
        };
        let instances: Vec<Value> = service.endpoints.iter().map(|endpoint| admin::describe(endpoint)).collect();
        services.insert(service.name.clone(), json!({ "status": status, "instances": instances }));
    }
    let sessions = app.directory.session_count();
    let limit = app.settings.limits.max_sessions;
    let store_up = store["status"] == "UP";
    let ready = app.lifecycle.phase() == Phase::Ready;
    let status = if !store_up || !ready {
        "DOWN"
    } else if !all_up || sessions >= limit {
        "DEGRADED"
    } else {
        "UP"
    };
    let body = json!({
        "status": status,
        "components": {
            "redis": store,
            "upstreams": { "status": if all_up { "UP" } else { "DEGRADED" }, "details": services },
            "sessions": {
                "status": if sessions < limit { "UP" } else { "DEGRADED" },
                "details": { "owned": sessions, "limit": limit, "streams": app.metrics.streams.get() },
            },
        },
        "instance": *app.me.instance_id,
        "phase": format!("{:?}", app.lifecycle.phase()),
    });
    answer(status != "DOWN", &body)
}

/// `GET /actuator/health/liveness`: the process answers.
pub async fn liveness() -> HttpResponse {
    answer(true, &json!({ "status": "UP" }))
}

/// `GET /actuator/health/readiness`: new sessions are welcome.
pub async fn readiness(worker: WorkerData) -> HttpResponse {
    let phase = worker.app.lifecycle.phase();
    if phase != Phase::Ready {
        return answer(false, &json!({ "status": "OUT_OF_SERVICE", "phase": format!("{phase:?}") }));
    }
    match store_answers(&worker).await {
        Ok(()) => answer(true, &json!({ "status": "UP" })),
        Err(error) => answer(false, &json!({ "status": "DOWN", "error": error })),
    }
}

/// `GET /actuator/info`
pub async fn info(worker: WorkerData) -> HttpResponse {
    let app = &worker.app;
    answer(
        true,
        &json!({
            "app": { "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") },
            "instance": {
                "id": *app.me.instance_id, "incarnation": *app.me.incarnation,
                "address": app.address, "startedMs": app.started_ms,
            },
            "store": app.store.kind(),
        }),
    )
}

/// `GET /actuator/prometheus`
pub async fn prometheus(worker: WorkerData) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(worker.app.metrics.render())
}

async fn store_answers(worker: &WorkerData) -> Result<(), String> {
    let limit = worker.app.settings.redis.timeout;
    match tokio::time::timeout(limit, worker.app.store.ping()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

fn answer(up: bool, body: &Value) -> HttpResponse {
    let mut response = if up { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.insert_header((header::CACHE_CONTROL, "no-store")).json(body)
}
