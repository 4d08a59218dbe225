//! The shared store: Redis 7 or later, at one address, found by Sentinels, or a Redis Cluster.
//!
//! Role: [`SessionStore`] over Lua scripts, one a job. Owns the connections. Key names: `keys.rs`. Scripts and what
//! they promise: `src/store/lua/`. How operations of many sessions share a round trip: `pipeline.rs`.
//!
//! Never: answers from a copy of anything; what it says was in Redis when it was asked. (`hot.rs` keeps a guess, of which the
//! scripts say whether it holds.)

mod answers;
mod bulk;
mod calls;
mod client_lists;
mod config;
mod event_log;
mod greeting;
mod hot;
mod index;
mod instances;
mod journal;
mod keys;
mod link;
mod missing;
mod operators;
mod pipeline;
mod place;
mod pubsub;
mod rates;
mod refusal;
pub mod reply;
mod rights;
mod scripts;
mod sentinel;
mod sessions;
mod slot_map;
mod slot_words;
mod state;
mod subjects;
mod topology;
mod wake_ups;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;

pub use self::{
    config::{RedisConfig, SentinelConfig, TlsConfig},
    state::ClusterState,
};
use self::{keys::Keys, link::Link, missing::Missing, pipeline::Lanes, scripts::Call};
use crate::store::{SessionStore, StoreResult};

/// An index of sessions that nobody has written for so long names nothing that is still wanted; an instance that lives
/// renews it with its lease.
const INDEX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Longer lives are cut to this: ten years in milliseconds, which every command takes.
const MAX_MILLIS: u128 = 10 * 365 * 24 * 60 * 60 * 1000;

/// See module documentation.
pub struct RedisStore {
    config: RedisConfig,
    keys: Keys,
    wake_prefix: String,
    link: Arc<Link>,
    lanes: Lanes,
    /// The instance that uses this store, as its first write names it: its index is swept of sessions that are gone.
    instance_id: OnceLock<Arc<str>>,
    /// In that index.
    missing: Arc<Missing>,
    /// Of sessions that this process owns.
    hot: hot::Known,
}

impl RedisStore {
    /// Connects, and teaches Redis the scripts.
    ///
    /// # Errors
    /// `Unavailable` when the URL cannot be read or Redis does not answer within the time-out; `Unusable` when trying again
    /// does not help: it is older than 7.0, of another kind, no Redis, or does not let the user in.
    pub async fn connect(config: RedisConfig) -> StoreResult<Self> {
        let link = Arc::new(Link::new(&config)?);
        link.prepare().await?;
        let keys = Keys::new(&config.prefix);
        rights::check(&link, &keys).await?;
        let wake_prefix = keys.wake_prefix();
        let lanes = Lanes::new(link.clone(), config.queue);
        let (instance_id, missing) = (OnceLock::new(), Arc::default());
        Ok(Self { config, keys, wake_prefix, link, lanes, instance_id, missing, hot: hot::Known::default() })
    }

    /// What time it is there, since the Unix epoch.
    ///
    /// # Errors
    /// As any operation.
    pub async fn clock(&self) -> StoreResult<Duration> {
        reply::time(self.link.single(Call::command("TIME")).await?)
    }

    fn wake_channel(&self, incarnation: &str) -> String {
        format!("{}{incarnation}", self.wake_prefix)
    }
}

/// At least one, since Redis takes 0 as "delete now".
fn millis(duration: Duration) -> u64 {
    duration.as_millis().clamp(1, MAX_MILLIS) as u64
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn ping(&self) -> StoreResult<()> {
        self.lanes.call(Call::command("PING")).await.map(drop)
    }

    fn refusal(&self) -> Option<String> {
        self.link.refusal()
    }

    fn settled_for(&self) -> Duration {
        self.link.topology.settled_for()
    }

    fn kind(&self) -> &'static str {
        "redis"
    }
}
