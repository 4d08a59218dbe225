//! Who shows a session's client stream: this process, another, or nobody. The store has it on record, and the judge of
//! owners says whether the one on record still exists.

use std::sync::Arc;

use super::{MAIN_STREAM, env::Env, messages::IsGone};
use crate::{
    protocol::session_id::SessionId,
    store::{SessionHead, StoreResult},
};

/// What is known of a session's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Somebody shows it, and hears of what happens to it.
    Shown,
    /// A process has it on record that does not hear, and that is not proven to be gone: it may show it.
    Silent,
    /// Nobody shows it.
    Left,
}

impl Stream {
    /// Nobody may act as if the client had gone.
    pub fn may_be_shown(self) -> bool {
        self != Self::Left
    }
}

/// What the holder of a session's stream is known as: its incarnation.
pub fn holder(head: &SessionHead) -> Option<&Arc<str>> {
    head.holder(MAIN_STREAM).map(|holder| &holder.incarnation)
}

/// Whether somebody shows the session's stream. A holder that does not hear is gone if the judge says so, as an owner is:
/// its subscription may be broken and its client there all the same.
pub async fn look(env: &Env, session: SessionId, head: &SessionHead) -> StoreResult<Stream> {
    let Some(holder) = holder(head) else { return Ok(Stream::Left) };
    if *holder == env.me.incarnation {
        let is_shown = !env.directory.attachments(&session).is_empty();
        return Ok(if is_shown { Stream::Shown } else { Stream::Left });
    }
    if env.store.wake(holder, session).await? > 0 {
        return Ok(Stream::Shown);
    }
    let owner = head.ownership.as_ref().map(|ownership| ownership.owner.clone());
    let is_gone = is_gone(env, IsGone { holder: Arc::clone(holder), owner }).await?;
    Ok(if is_gone { Stream::Left } else { Stream::Silent })
}

/// The word of the judge.
pub async fn is_gone(env: &Env, asked: IsGone) -> StoreResult<bool> {
    // Without an answer the process ends, and judges nobody any more.
    env.judge.send(asked).await.unwrap_or(Ok(false))
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
