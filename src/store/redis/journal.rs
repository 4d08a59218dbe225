//! The journal in Redis: builds the calls.
//!
//! The meaning of each operation stands at the trait; how it is done, in its script. `answers.rs` reads what comes back.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    RedisStore,
    answers::{read_accepted, read_claimed, read_fenceable},
    reply::{self, Fields},
    scripts::{Call, Script},
};
use crate::{
    protocol::{post_id::PostId, session_id::SessionId, stream_key::MAIN_STREAM},
    store::{
        Accept, Accepted, Claim, Claimed, ClientMessage, Disowned, Fence, Fenceable, Journal, PendingRequest,
        StoreResult, head::FieldChanges,
    },
};

/// Entries at most that one claim hands out; Lua cannot pass many more to one command.
const MAX_CLAIM: usize = 1000;

#[async_trait]
impl Journal for RedisStore {
    async fn accept(&self, accept: Accept) -> StoreResult<Accepted> {
        let mut keys = self.keys.session(&accept.session);
        if let Some(seq) = self.accept_hot(&accept, &mut keys).await? {
            return Ok(Accepted::Forward { seq });
        }
        let (kind, id_key) = match &accept.message {
            ClientMessage::Request { id_key } => ("q", &**id_key),
            ClientMessage::Notification => ("n", ""),
            ClientMessage::Cancel { id_key } => ("n", &**id_key),
            ClientMessage::Response => ("r", ""),
        };
        let changes = FieldChanges::of(&accept.changes);
        let shown_by = accept.shown_by.as_ref().map(|(incarnation, id)| format!("{incarnation} {id}"));
        let call = Call::script_with_body(Script::Accept, 4, accept.body.len() + changes.len());
        let call = call.arg(keys.plain()).arg(keys.inbox()).arg(keys.requests()).arg(keys.seen());
        let call = match &accept.fence {
            Some(fence) => call.fence(fence),
            None => call.arg("").arg("").arg(""),
        };
        let call = call
            .arg(&self.wake_prefix)
            .arg(keys.id())
            .arg(accept.service.as_deref().unwrap_or_default())
            .arg(&accept.post_id.to_string())
            .arg(kind)
            .arg(id_key)
            .body(&accept.body)
            .number(u64::from(accept.forward_now))
            .number(accept.acked)
            .number(accept.max_pending as u64)
            .number(accept.max_inbox as u64)
            .number(accept.max_bytes as u64)
            .number(accept.known)
            .arg(shown_by.as_deref().unwrap_or_default())
            .arg(MAIN_STREAM)
            .asked_by(Some(&accept.by))
            .arg(accept.version.unwrap_or_default())
            .arg(accept.by.rules())
            .number(changes.set.len() as u64)
            .pairs(&changes.set)
            .args(&changes.delete);
        let answer = self.lanes.call(call).await.and_then(|answer| read_accepted(answer, accept.shown_by.is_some()));
        match (&answer, &accept.fence) {
            (Ok((Accepted::Forward { .. }, hot)), Some(fence)) => self.hot.took(fence, &accept.by, hot.clone()),
            (_, Some(_)) => self.hot.forget(&accept.session),
            // Of others than the owner.
            (_, None) => {}
        }
        answer.map(|(accepted, _)| accepted)
    }

    async fn claim(&self, claim: Claim) -> StoreResult<Claimed> {
        let session = claim.fence.session;
        let mut keys = self.keys.session(&session);
        let call = Call::script(Script::Claim, 3).arg(keys.plain()).arg(keys.inbox()).arg(keys.requests());
        let call = call
            .fence(&claim.fence)
            .number(claim.acked)
            .number(claim.max_entries.min(MAX_CLAIM) as u64)
            .number(claim.missing_from.unwrap_or_default());
        let call = match claim.urgent_after {
            Some(after) => call.number(after),
            None => call.arg(""),
        };
        let (stream, known) = &claim.known_event;
        let call = call.number(claim.known).arg(stream).number(*known);
        read_claimed(self.lanes.call(call).await?)
    }

    async fn mark_forwarded(&self, fence: &Fence, id_keys: &[String]) -> StoreResult<Fenceable> {
        let mut keys = self.keys.session(&fence.session);
        let call = Call::script(Script::MarkForwarded, 3).arg(keys.plain()).arg(keys.inbox()).arg(keys.requests());
        read_fenceable(self.lanes.call(call.fence(fence).args(id_keys)).await?, "mark_forwarded")
    }

    async fn pending(&self, session: SessionId) -> StoreResult<Vec<PendingRequest>> {
        let mut keys = self.keys.session(&session);
        let call = Call::script(Script::Pending, 2).arg(keys.requests()).arg(keys.inbox());
        reply::pending(Fields::of(self.lanes.call(call).await?, "pending")?)
    }

    async fn pending_ids(&self, session: SessionId) -> StoreResult<Vec<Arc<str>>> {
        let call = Call::command("HKEYS").arg(self.keys.session(&session).requests());
        let ids = Fields::of(self.lanes.call(call).await?, "pending_ids")?.texts()?;
        // The empty one is no request (see accept).
        Ok(ids.into_iter().filter(|id| !id.is_empty()).map(Into::into).collect())
    }

    async fn forget_requests(&self, fence: &Fence, requests: &[(String, u64)]) -> StoreResult<Fenceable> {
        let mut keys = self.keys.session(&fence.session);
        let call = Call::script(Script::ForgetRequests, 3).arg(keys.plain()).arg(keys.inbox()).arg(keys.requests());
        let mut call = call.fence(fence);
        for (id_key, seq) in requests {
            call = call.arg(id_key).number(*seq);
        }
        read_fenceable(self.lanes.call(call).await?, "forget_requests")
    }

    async fn forget_post(&self, session: SessionId, post_id: PostId) -> StoreResult<bool> {
        let mut keys = self.keys.session(&session);
        let call = Call::script(Script::ForgetPost, 1).arg(keys.seen()).arg(&post_id.to_string());
        Ok(reply::number::<u64>(self.lanes.call(call).await?, "forget_post")? == 1)
    }

    async fn disown(&self, session: SessionId, post_id: PostId, id_key: &str) -> StoreResult<Disowned> {
        let mut keys = self.keys.session(&session);
        let call = Call::script(Script::Disown, 4).arg(keys.plain()).arg(keys.inbox()).arg(keys.requests());
        let call = call.arg(keys.seen()).arg(&post_id.to_string()).arg(id_key);
        match reply::number::<u64>(self.lanes.call(call).await?, "disown")? {
            0 => Ok(Disowned::NotFound),
            1 => Ok(Disowned::Never),
            2 => Ok(Disowned::Silenced),
            3 => Ok(Disowned::Shared),
            _ => Err(reply::corrupt("disown")),
        }
    }
}
