//! What the clients of sessions have shown last, for servers to which the router speaks in their names. Sealed by the caller:
//! whoever reads the store has no use for it.

use async_trait::async_trait;

use super::{Binding, types::StoreResult};
use crate::protocol::session_id::SessionId;

/// See module documentation.
#[async_trait]
pub trait Subjects: Send + Sync {
    /// Keeps it with the session, in the place of what was there. `false`: there is none, or not for who asks. SEC-1
    async fn keep_subject(&self, session: SessionId, by: &Binding, sealed: &str) -> StoreResult<bool>;

    /// What is kept with the session, if anything.
    async fn subject(&self, session: SessionId) -> StoreResult<Option<String>>;
}
