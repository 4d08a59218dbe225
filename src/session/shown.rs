//! Who shows a session's client stream: this process, another, or nobody. What the store has of it is a hint; a process
//! without a listener counts as dead, and one that only seems so costs a question.

use std::sync::Arc;

use super::{MAIN_STREAM, env::Env};
use crate::{
    protocol::session_id::SessionId,
    store::{SessionHead, StoreResult},
};

/// What the holder of a session's stream is known as: its incarnation.
pub fn holder(head: &SessionHead) -> Option<&str> {
    head.holder(MAIN_STREAM).map(|holder| &*holder.incarnation)
}

/// Somebody shows the session's stream. A process without a listener counts as dead; one that only seems so costs a
/// question that is answered, or a stream that takes its place and is superseded again.
pub async fn is_shown(env: &Env, session: SessionId, head: &SessionHead) -> StoreResult<bool> {
    match holder(head) {
        None => Ok(false),
        Some(holder) if *holder == *env.me.incarnation => Ok(!env.directory.attachments(&session).is_empty()),
        Some(holder) => Ok(env.store.wake(holder, session).await? > 0),
    }
}

/// Lists a stream that this process shows under its client's key, beside whatever goes on.
pub fn show(env: &Arc<Env>, client: Arc<str>, session: SessionId) {
    let env = Arc::clone(env);
    actix_rt::spawn(async move {
        let ttl = env.settings.session.ttl;
        if let Err(error) = env.store.client_shown(&client, session, &env.me.incarnation, ttl).await {
            // The next round of upkeep lists it.
            env.count_store_error(&error);
        }
    });
}
