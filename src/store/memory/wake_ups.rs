//! [`WakeUps`] over [`super::wakes`].

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::MemoryStore;
use crate::{
    protocol::session_id::SessionId,
    store::{StoreResult, Wake, WakeUps},
};

#[async_trait]
impl WakeUps for MemoryStore {
    async fn wake(&self, incarnation: &str, session: SessionId) -> StoreResult<u64> {
        Ok(self.wakes.wake(incarnation, session))
    }

    async fn subscribe(&self, incarnation: &str, capacity: usize) -> StoreResult<mpsc::Receiver<Wake>> {
        Ok(self.wakes.subscribe(incarnation, capacity))
    }
}
