//! Lists of clients in Redis: builds the calls.
//!
//! The meaning of each operation stands at the trait; how it is done, in its script. `answers.rs` reads what comes back.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    RedisStore, millis,
    reply::{Fields, corrupt},
    scripts::{Call, Script},
};
use crate::{
    protocol::session_id::SessionId,
    store::{ClientLists, LISTED_EACH, LISTED_PROCESSES, Listed, StoreResult},
};

impl RedisStore {
    async fn client_note(
        &self,
        client: &str,
        session: SessionId,
        note: &str,
        incarnation: &str,
        ttl: Duration,
    ) -> StoreResult<()> {
        let call = Call::script(Script::ClientNote, 3)
            .arg(&self.keys.client(client, "shown"))
            .arg(&self.keys.client(client, "of"))
            .arg(&self.keys.client(client, "left"))
            .arg(self.keys.session(&session).id())
            .arg(note)
            .arg(incarnation)
            .number(millis(ttl));
        self.lanes.call(call).await.map(drop)
    }
}

#[async_trait]
impl ClientLists for RedisStore {
    async fn client_shown(
        &self,
        client: &str,
        session: SessionId,
        incarnation: &str,
        ttl: Duration,
    ) -> StoreResult<()> {
        self.client_note(client, session, "shown", incarnation, ttl).await
    }

    async fn client_left(
        &self,
        client: &str,
        session: SessionId,
        incarnation: Option<&str>,
        ttl: Duration,
    ) -> StoreResult<()> {
        self.client_note(client, session, "left", incarnation.unwrap_or_default(), ttl).await
    }

    async fn client_forgotten(&self, client: &str, session: SessionId) -> StoreResult<()> {
        self.client_note(client, session, "gone", "", Duration::ZERO).await
    }

    async fn client_sessions(&self, client: &str, age: Duration) -> StoreResult<Listed> {
        const WHAT: &str = "client_sessions";
        let call = Call::script(Script::ClientSessions, 2)
            .arg(&self.keys.client(client, "shown"))
            .arg(&self.keys.client(client, "left"))
            .number(LISTED_EACH as u64)
            .number(LISTED_PROCESSES as u64)
            .number(millis(age));
        let mut fields = Fields::of(self.lanes.call(call).await?, WHAT)?;
        let mut listed = Listed::default();
        let id = |text: String| text.parse::<SessionId>().map_err(|_| corrupt(WHAT));
        for _ in 0..fields.number::<u64>()? {
            let incarnation = fields.text()?;
            listed.shown.push((incarnation.into(), id(fields.text()?)?));
        }
        while !fields.is_empty() {
            let session = id(fields.text()?)?;
            listed.left.push((session, Duration::from_millis(fields.number()?)));
        }
        Ok(listed)
    }
}
