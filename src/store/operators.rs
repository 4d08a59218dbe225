//! What operators are shown of all instances, and what they ask of one: for people, never for truth. Written once in a while,
//! never for a call.

use std::{borrow::Cow, time::Duration};

use async_trait::async_trait;

use super::types::{Owner, StoreResult};

/// See module documentation. All operations are safe to repeat after any error, but for incidents, which come twice then and
/// are known by their ids.
#[async_trait]
pub trait Operators: Send + Sync {
    /// Shows what a process tells of itself, and hears what it is asked.
    async fn publish(&self, publication: Publication<'_>) -> StoreResult<Heard>;

    /// What instances have shown last, for as long as that is kept; by their ids, in order.
    async fn published(&self) -> StoreResult<Vec<Published>>;

    /// Up to `limit` incidents of all instances, the newest first.
    async fn incidents(&self, limit: usize) -> StoreResult<Vec<String>>;

    /// Asks a process to drain; it hears of it when it publishes next. `false`: it shows nothing (any more).
    async fn ask_to_drain(&self, owner: &Owner) -> StoreResult<bool>;

    /// Asks all processes what they know of the session with this handle, for `life` from now; of the last [`ASKED_ABOUT`].
    async fn ask_about(&self, session: &str, life: Duration) -> StoreResult<()>;
}

/// So many sessions are asked about at a time.
pub const ASKED_ABOUT: usize = 4;

/// What a process hears when it has shown what there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// It is asked to drain.
    pub drain: bool,
    /// Handles of sessions that somebody asks about, who asked last first.
    pub about: Vec<String>,
}

/// What a process shows.
#[derive(Debug, Clone)]
pub struct Publication<'a> {
    /// Who.
    pub owner: &'a Owner,
    /// Figures, as JSON.
    pub figures: Cow<'a, str>,
    /// What it knows of sessions that somebody asks about, as JSON; empty: nothing.
    pub known: Cow<'a, str>,
    /// How long they are kept.
    pub life: Duration,
    /// What has happened since the last time, each as JSON, oldest first.
    pub incidents: &'a [String],
    /// So many incidents of all instances are kept, the newest.
    pub keep: usize,
}

/// What an instance has shown last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Who.
    pub owner: Owner,
    /// As in [`Publication::figures`].
    pub figures: String,
    /// As in [`Publication::known`].
    pub known: String,
    /// It is asked to drain.
    pub is_asked_to_drain: bool,
}
