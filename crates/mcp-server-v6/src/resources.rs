//! Resources: a few views of the directory and of the server, read-only; the statistics tell when they change.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    rpc::{self, Params, RESOURCE_NOT_FOUND, RpcError},
    session::Session,
    state::ServerState,
    system,
};

const STATISTICS: &str = "persons://stats";
const EVERYBODY: &str = "persons://all";
const SERVER: &str = "server://info";
/// One person: the id follows.
const PERSON: &str = "persons://person/";

const JSON_TYPE: &str = "application/json";

/// The answer to `resources/list`.
pub(crate) fn list() -> Value {
    let resource = |uri: &str, name: &str, title: &str, description: &str| json!({ "uri": uri, "name": name, "title": title, "description": description, "mimeType": JSON_TYPE });
    json!({ "resources": [
        resource(STATISTICS, "stats", "Statistics", "How many persons there are, by gender and nationality."),
        resource(EVERYBODY, "all", "All persons", "Every person of the directory."),
        resource(SERVER, "info", "Server", "The system the server runs on."),
    ] })
}

/// The answer to `resources/templates/list`.
pub(crate) fn templates() -> Value {
    json!({ "resourceTemplates": [{
        "uriTemplate": format!("{PERSON}{{id}}"),
        "name": "person",
        "title": "Person",
        "description": "One person, by id.",
        "mimeType": JSON_TYPE,
    }] })
}

#[derive(Deserialize)]
struct ResourceParams {
    uri: String,
}

/// The answer to `resources/read`.
pub(crate) fn read(state: &ServerState, params: Params<'_>) -> Result<Value, RpcError> {
    let ResourceParams { uri } = params.read()?;
    let text = match uri.as_str() {
        STATISTICS => state.persons.statistics().to_string(),
        EVERYBODY => json!({ "persons": state.persons.all() }).to_string(),
        SERVER => system::report(state).to_string(),
        other => person(state, other).ok_or_else(|| not_found(other))?.to_string(),
    };
    Ok(json!({ "contents": [{ "uri": uri, "mimeType": JSON_TYPE, "text": text }] }))
}

fn person(state: &ServerState, uri: &str) -> Option<Value> {
    let id = uri.strip_prefix(PERSON)?.parse().ok()?;
    Some(json!(state.persons.by_id(id)?))
}

/// The answer to `resources/subscribe`. Any resource may be subscribed to, though only those that `addPerson` changes
/// will ever be reported.
pub(crate) fn subscribe(state: &ServerState, session: &Session, params: Params<'_>) -> Result<Value, RpcError> {
    let ResourceParams { uri } = params.read()?;
    match changing(&uri) {
        Some(watched) => state.sessions.watch(session, watched),
        None if uri == SERVER || person(state, &uri).is_some() => {}
        None => return Err(not_found(&uri)),
    }
    Ok(json!({}))
}

/// The answer to `resources/unsubscribe`; without a subscription it has nothing to do.
pub(crate) fn unsubscribe(state: &ServerState, session: &Session, params: Params<'_>) -> Result<Value, RpcError> {
    let ResourceParams { uri } = params.read()?;
    state.sessions.unwatch(session, &uri);
    Ok(json!({}))
}

/// Tells the subscribers that the directory has changed.
pub(crate) fn directory_changed(state: &ServerState) {
    for uri in [STATISTICS, EVERYBODY] {
        for watcher in state.sessions.watchers(uri) {
            watcher.tell(rpc::notification("notifications/resources/updated", json!({ "uri": uri })));
        }
    }
}

fn changing(uri: &str) -> Option<&'static str> {
    [STATISTICS, EVERYBODY].into_iter().find(|known| *known == uri)
}

fn not_found(uri: &str) -> RpcError {
    RpcError { data: Some(json!({ "uri": uri })), ..RpcError::new(RESOURCE_NOT_FOUND, "resource not found") }
}
