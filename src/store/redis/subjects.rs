//! What clients have shown last: a field of their sessions.

use async_trait::async_trait;
use redis::Value;

use super::{
    RedisStore, reply,
    scripts::{Call, Script},
};
use crate::{
    protocol::session_id::SessionId,
    store::{Binding, StoreResult, Subjects},
};

#[async_trait]
impl Subjects for RedisStore {
    async fn keep_subject(&self, session: SessionId, by: &Binding, sealed: &str) -> StoreResult<bool> {
        let call = Call::script(Script::Subject, 1).arg(self.keys.session(&session).plain());
        let call = call.asked_by(Some(by)).arg(sealed);
        Ok(reply::number::<u64>(self.lanes.call(call).await?, "subject")? == 1)
    }

    async fn subject(&self, session: SessionId) -> StoreResult<Option<String>> {
        let call = Call::command("HGET").arg(self.keys.session(&session).plain()).arg("subject");
        match self.lanes.call(call).await? {
            Value::Nil => Ok(None),
            told => reply::text(told, "subject").map(Some),
        }
    }
}
