//! Calls that outlive the instance at which they came: what was asked in which session, where its answer is, and what came of
//! it. Texts of the gateway's; the store keeps them and lets nobody write one of them twice. CALL-1

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::types::StoreResult;

/// See module documentation. All operations are safe to repeat after any error.
#[async_trait]
pub trait Calls: Send + Sync {
    /// Puts a call on record under this name, for so long, unless there is one. The record that stands: whose it is tells
    /// [`CallRecord::asked`].
    async fn begin_call(&self, name: &str, asked: &str, ttl: Duration) -> StoreResult<CallRecord>;

    /// Notes this of a call, which lives so long from now on, unless it was noted before: the first word stands. `None`: there
    /// is no such call.
    async fn note_call(
        &self,
        name: &str,
        note: CallNote,
        text: &Bytes,
        ttl: Duration,
    ) -> StoreResult<Option<CallRecord>>;

    /// What is on record.
    async fn call(&self, name: &str) -> StoreResult<Option<CallRecord>>;
}

/// What is noted of a call, once each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallNote {
    /// [`CallRecord::place`]
    Place,
    /// [`CallRecord::done`]
    Done,
}

/// What is on record of a call. Texts are never empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallRecord {
    /// What was asked, and in which session.
    pub asked: String,
    /// Where its answer comes.
    pub place: Option<String>,
    /// What came of it.
    pub done: Option<Bytes>,
}
