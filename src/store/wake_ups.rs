//! Wake-ups between processes: "look at this session". They carry no truth. OWN-10

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::types::StoreResult;
use crate::protocol::session_id::SessionId;

/// See module documentation. All operations are safe to repeat after any error.
#[async_trait]
pub trait WakeUps: Send + Sync {
    /// Wakes a process about a session; returns the number of listeners.
    async fn wake(&self, incarnation: &str, session: SessionId) -> StoreResult<u64>;

    /// Subscribes to the wake-ups of one process. The store reconnects by itself and then says [`Wake::All`].
    /// Called once per process; when the (bounded) channel is full a wake-up is replaced by a later [`Wake::All`].
    async fn subscribe(&self, incarnation: &str, capacity: usize) -> StoreResult<mpsc::Receiver<Wake>>;
}

/// "Look at this session." Carries no truth of its own: a lost wake-up costs delay, never data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something about this session changed: its inbox, its attachments, or a log we show.
    Session(SessionId),
    /// Wake-ups may have been lost (the subscription was made again): look at everything.
    All,
}
