//! Lists of the sessions of one client, by which one that comes back without a word finds its own. Hints, never truth.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::types::StoreResult;
use crate::protocol::session_id::SessionId;

/// Sessions listed for each process that shows some of a client's: enough to find one that is true.
pub const LISTED_EACH: usize = 16;

/// Processes looked at in the list of one client.
pub const LISTED_PROCESSES: usize = 64;

/// See module documentation. All operations are safe to repeat after any error.
#[async_trait]
pub trait ClientLists: Send + Sync {
    /// Lists the stream of a session as shown by a process, under the client's key; every list of the key lives `ttl` from
    /// now.
    async fn client_shown(&self, client: &str, session: SessionId, incarnation: &str, ttl: Duration)
    -> StoreResult<()>;

    /// Lists it as left, if `incarnation` is the one that showed it (`None`: whoever did). Those that were left longer than
    /// `ttl` ago leave the list.
    async fn client_left(
        &self,
        client: &str,
        session: SessionId,
        incarnation: Option<&str>,
        ttl: Duration,
    ) -> StoreResult<()>;

    /// Takes a session off the lists of its client.
    async fn client_forgotten(&self, client: &str, session: SessionId) -> StoreResult<()>;

    /// What is listed under the client's key: up to [`LISTED_EACH`] sessions for each process that shows some, and as many
    /// of those left at most `age` ago.
    async fn client_sessions(&self, client: &str, age: Duration) -> StoreResult<Listed>;
}

/// The sessions of one client, as [`super::ClientLists::client_sessions`] lists them. Hints: a session may be gone, or be
/// shown by somebody else by now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Whose streams are shown: by which process (a few of each one's), and the session.
    pub shown: Vec<(Arc<str>, SessionId)>,
    /// Whose streams have ended: the session, and how long ago; newest first, the first few.
    pub left: Vec<(SessionId, Duration)>,
}
