//! All instances, as the dashboard shows them: what each has told of itself, and what has happened. The same on each
//! instance. For operators only.
//!
//! However many look, the store is asked as often as instances tell something new, by each worker thread.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header,
    web::{self, Bytes},
};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use super::{
    accept::JSON,
    admin::{check_admin, check_own_page},
    error::ApiError,
    extract::NodeData,
    forwarded,
};
use crate::{
    incidents::Incident,
    process::node::Node,
    store::{InstanceInfo, Owner, Published},
};

/// Instances that are shown.
const INSTANCES: usize = 256;
/// Incidents that are shown.
const INCIDENTS: usize = 200;

/// What was seen last, and when.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Option<(Instant, Arc<str>)>>);

/// `GET /mcp/router/deployment`
///
/// # Errors
/// It is no operator who asks.
pub async fn deployment(node: NodeData, request: HttpRequest, seen: web::Data<Seen>) -> Result<HttpResponse, ApiError> {
    check_admin(&node, &request)?;
    check_own_page(&node, &request)?;
    let rest = {
        // Whoever comes meanwhile gets the same.
        let mut seen = seen.0.lock().await;
        match &*seen {
            Some((at, known)) if at.elapsed() < node.env.settings.ui.publish / 2 => Arc::clone(known),
            _ => {
                let looked: Arc<str> = look(&node).await.to_string().into();
                *seen = Some((Instant::now(), Arc::clone(&looked)));
                looked
            }
        }
    };
    let body = format!(r#"{{"isProxied":{},{}"#, forwarded::was_forwarded(&request), &rest[1..]);
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).content_type(JSON).body(Bytes::from(body)))
}

/// Also when the store is away: then that is what there is to see.
async fn look(node: &Node) -> Value {
    let env = &node.env;
    let asked = async {
        let (alive, told) = tokio::try_join!(env.store.instances(), env.store.published())?;
        Ok::<_, crate::store::StoreError>((alive, told, env.store.incidents(INCIDENTS).await?))
    };
    let (alive, told, incidents, error) = match asked.await {
        Ok((alive, told, incidents)) => (alive, told, incidents, env.store.refusal()),
        Err(error) => {
            env.count_store_error(&error);
            (Vec::new(), Vec::new(), Vec::new(), Some(error.to_string()))
        }
    };
    let incidents: Vec<Value> = incidents.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
    json!({
        "instance": *env.me.instance_id,
        "version": env!("CARGO_PKG_VERSION"),
        "publishMs": u64::try_from(env.settings.ui.publish.as_millis()).unwrap_or(u64::MAX),
        "store": { "kind": env.store.kind(), "isUp": error.is_none(), "error": error },
        "instances": instances(&alive, told),
        "incidents": incidents,
    })
}

/// Those with a living lease, and those that have told something lately and are gone.
fn instances(alive: &[InstanceInfo], told: Vec<Published>) -> Vec<Value> {
    let mut instances: BTreeMap<&str, Value> = BTreeMap::new();
    for info in alive.iter().take(INSTANCES) {
        let shown = json!({
            "id": *info.owner.instance_id, "incarnation": *info.owner.incarnation, "isAlive": true,
            "address": info.address, "version": info.version, "startedMs": info.started_ms, "sessions": info.sessions,
        });
        instances.insert(&info.owner.instance_id, shown);
    }
    let mut gone: Vec<Value> = Vec::new();
    for Published { owner, figures, is_asked_to_drain, .. } in told {
        let figures: Value = serde_json::from_str(&figures).unwrap_or_default();
        match instances.get_mut(&*owner.instance_id) {
            Some(shown) if shown["incarnation"] == *owner.incarnation => {
                shown["figures"] = figures;
                shown["isAskedToDrain"] = json!(is_asked_to_drain);
            }
            // Its successor has told nothing yet.
            Some(_) => {}
            None => gone.push(json!({
                "id": *owner.instance_id, "incarnation": *owner.incarnation, "isAlive": false,
                "sessions": figures["sessions"], "figures": figures,
            })),
        }
    }
    let room = INSTANCES - instances.len();
    instances.into_values().chain(gone.into_iter().take(room)).collect()
}

/// `POST /mcp/router/instances/{id}/drain`: as SIGTERM does, at whichever instance this is asked. The process ends when it
/// has let everything go; its supervisor starts it again, or leaves it.
///
/// # Errors
/// It is no operator who asks, or another page's browser; there is no such instance, or no other one that would take what it
/// has.
pub async fn drain(node: NodeData, request: HttpRequest, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    check_admin(&node, &request)?;
    check_own_page(&node, &request)?;
    let store = &node.env.store;
    let (alive, told) = tokio::try_join!(store.instances(), store.published())?;
    let is_this = |owner: &Owner| *owner.instance_id == **id;
    let Some(asked) = alive.iter().find(|info| is_this(&info.owner)) else { return Err(ApiError::UnknownInstance) };
    let takes_over = |published: &Published| {
        let lives = alive.iter().any(|info| info.owner == published.owner);
        let phase = serde_json::from_str::<Map<String, Value>>(&published.figures).unwrap_or_default();
        lives && !published.is_asked_to_drain && phase.get("phase").is_some_and(|phase| phase == "ready")
    };
    if !told.iter().any(|published| !is_this(&published.owner) && takes_over(published)) {
        return Err(ApiError::LastInstance);
    }
    if !store.ask_to_drain(&asked.owner).await? {
        return Err(ApiError::UnknownInstance);
    }
    tracing::info!(instance = %asked.owner.instance_id, "an operator asks an instance to drain");
    node.env.incidents.note(Incident { about: id.into_inner(), ..Incident::new("drain_asked") });
    Ok(HttpResponse::Accepted().json(json!({ "instance": *asked.owner.instance_id, "drain": "asked" })))
}
