//! What clients have shown last: a field of their sessions.

use async_trait::async_trait;

use super::MemoryStore;
use crate::{
    protocol::session_id::SessionId,
    store::{Binding, StoreResult, Subjects},
};

#[async_trait]
impl Subjects for MemoryStore {
    async fn keep_subject(&self, session: SessionId, by: &Binding, sealed: &str) -> StoreResult<bool> {
        let kept = self.with(&session, |entry| {
            let is_his = entry.binding.admits(by);
            if is_his {
                entry.subject = Some(sealed.into());
            }
            is_his
        });
        Ok(kept == Some(true))
    }

    async fn subject(&self, session: SessionId) -> StoreResult<Option<String>> {
        Ok(self.with(&session, |entry| entry.subject.as_deref().map(str::to_owned)).flatten())
    }
}
