//! [`ClientLists`] over [`super::clients`], with the longest life that this store takes.

use std::time::Duration;

use async_trait::async_trait;

use super::{MAX_TTL, MemoryStore};
use crate::{
    protocol::session_id::SessionId,
    store::{ClientLists, Listed, StoreResult},
};

#[async_trait]
impl ClientLists for MemoryStore {
    async fn client_shown(
        &self,
        client: &str,
        session: SessionId,
        incarnation: &str,
        ttl: Duration,
    ) -> StoreResult<()> {
        self.clients.shown(client, session, incarnation, ttl.min(MAX_TTL));
        Ok(())
    }

    async fn client_left(
        &self,
        client: &str,
        session: SessionId,
        incarnation: Option<&str>,
        ttl: Duration,
    ) -> StoreResult<()> {
        self.clients.left(client, session, incarnation, ttl.min(MAX_TTL));
        Ok(())
    }

    async fn client_forgotten(&self, client: &str, session: SessionId) -> StoreResult<()> {
        self.clients.forgotten(client, session);
        Ok(())
    }

    async fn client_sessions(&self, client: &str, age: Duration) -> StoreResult<Listed> {
        Ok(self.clients.listed(client, age))
    }
}
