//! From a message to the method that handles it, and from its outcome to where the answer goes.
//!
//! Methods that are done at once run inside the POST, so that their effects keep the order in which the client sent
//! them; only calls that wait for something become tasks.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    initialize::initialize,
    outlet::Outlet,
    prompts, resources,
    rpc::{self, INVALID_REQUEST, Incoming, METHOD_NOT_FOUND, Outgoing, Params, RequestId, RpcError},
    session::{LogLevel, Session},
    state::ServerState,
    tools::{self, Outcome},
};

/// Takes one message of a live session. Whatever there is to say about it goes to the outlet.
///
/// # Errors
/// An answer for which there is no room left: it must be sent before another message is taken.
pub(crate) fn receive(
    state: &Arc<ServerState>,
    session: &Arc<Session>,
    outlet: &Outlet,
    message: Incoming<'_>,
) -> Result<(), Outgoing> {
    match message {
        Incoming::Request { id, method, params } => return request(state, session, outlet, id, &method, params),
        Incoming::Notification { method, params } => notification(session, &method, params),
        Incoming::Answer { id, outcome } => {
            if !session.resolve(&id, outcome) {
                tracing::debug!(session = %session.id(), %id, "an answer that nobody waits for");
            }
        }
    }
    Ok(())
}

fn request(
    state: &Arc<ServerState>,
    session: &Arc<Session>,
    outlet: &Outlet,
    id: RequestId,
    method: &str,
    params: Params<'_>,
) -> Result<(), Outgoing> {
    tracing::debug!(session = %session.id(), %id, method, "request");
    let max_running = state.options.max_running_calls;
    let answer = match outcome(state, session, outlet, &id, method, params) {
        Ok(Reply::Value(result)) => rpc::answer(&id, Ok(result)),
        Ok(Reply::Tools) => rpc::answer(&id, Ok(&state.tools)),
        Ok(Reply::Call(Outcome::Done(result))) => rpc::answer(&id, Ok(result)),
        Ok(Reply::Call(Outcome::Running(call))) => {
            let answer_id = id.clone();
            let call = async move { rpc::answer(&answer_id, call.await) };
            match session.start(outlet, id.clone(), call, max_running) {
                Ok(()) => return Ok(()),
                Err(error) => rpc::failure(Some(&id), &error),
            }
        }
        Err(error) => rpc::failure(Some(&id), &error),
    };
    session.answer(outlet, &id, answer, max_running)
}

/// What a request came to.
enum Reply {
    Value(Value),
    /// The list of tools, which is written already.
    Tools,
    Call(Outcome),
}

fn outcome(
    state: &Arc<ServerState>,
    session: &Arc<Session>,
    outlet: &Outlet,
    id: &RequestId,
    method: &str,
    params: Params<'_>,
) -> Result<Reply, RpcError> {
    // Lifecycle: before initialization only pings. A router that forgets to initialize again should hear of it.
    if session.client().is_none() && !matches!(method, "initialize" | "ping") {
        return Err(RpcError::new(INVALID_REQUEST, "the session is not initialized"));
    }
    let result = match method {
        "initialize" => initialize(session, params)?,
        "ping" => json!({}),
        "logging/setLevel" => {
            let wanted: SetLevelParams = params.read()?;
            session.set_log_level(wanted.level);
            json!({})
        }
        "tools/list" => {
            no_cursor(params)?;
            return Ok(Reply::Tools);
        }
        "tools/call" => return tools::call(state, session, outlet, id, params).map(Reply::Call),
        "resources/list" => {
            no_cursor(params)?;
            resources::list()
        }
        "resources/templates/list" => {
            no_cursor(params)?;
            resources::templates()
        }
        "resources/read" => resources::read(state, params)?,
        "resources/subscribe" => resources::subscribe(state, session, params)?,
        "resources/unsubscribe" => resources::unsubscribe(state, session, params)?,
        "prompts/list" => {
            no_cursor(params)?;
            prompts::list()
        }
        "prompts/get" => prompts::get(params)?,
        _ => return Err(RpcError::new(METHOD_NOT_FOUND, format!("method not found: {method}"))),
    };
    Ok(Reply::Value(result))
}

#[derive(Deserialize)]
struct SetLevelParams {
    level: LogLevel,
}

/// Every list is one page, so no cursor was ever given out.
fn no_cursor(params: Params<'_>) -> Result<(), RpcError> {
    #[derive(Deserialize)]
    struct ListParams {
        cursor: Option<String>,
    }
    let ListParams { cursor } = params.read()?;
    cursor.map_or(Ok(()), |_| Err(RpcError::invalid_params("unknown cursor")))
}

fn notification(session: &Session, method: &str, params: Params<'_>) {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct CancelledParams {
        request_id: RequestId,
    }
    match method {
        "notifications/cancelled" => match params.read::<CancelledParams>() {
            Ok(CancelledParams { request_id }) => {
                let calls = session.cancel(&request_id);
                tracing::debug!(session = %session.id(), id = %request_id, calls, "cancelled by the client");
            }
            Err(error) => tracing::debug!(session = %session.id(), %error, "a cancellation that cannot be read"),
        },
        // `notifications/initialized` tells nothing that `initialize` did not; unknown notifications are ignored, as
        // JSON-RPC asks.
        _ => tracing::debug!(session = %session.id(), method, "notification"),
    }
}
