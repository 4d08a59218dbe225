//! The processes that share a store: their leases, and what they own. OWN-11

use std::time::Duration;

use async_trait::async_trait;

use super::types::{Owner, StoreResult};
use crate::protocol::session_id::SessionId;

/// See module documentation. All operations are safe to repeat after any error.
#[async_trait]
pub trait Instances: Send + Sync {
    /// Ids of the sessions that an instance's index names (some may be gone).
    async fn owned_by(&self, instance_id: &str) -> StoreResult<Vec<SessionId>>;

    /// Takes the instance id for this process for `ttl` (the server's clock).
    async fn lease_acquire(&self, info: &InstanceInfo, ttl: Duration) -> StoreResult<LeaseAcquired>;

    /// Renews the lease and the figures in it.
    async fn lease_renew(&self, info: &InstanceInfo, ttl: Duration) -> StoreResult<LeaseRenewed>;

    /// Gives the lease up if it is this process's. Also by another, which has a proof that this process is dead.
    async fn lease_release(&self, owner: &Owner) -> StoreResult<()>;

    /// This process has given its lease up, or another has for it; nobody else with its instance id has since. `false`
    /// says nothing: a lease may have run out.
    async fn has_given_up(&self, owner: &Owner) -> StoreResult<bool>;

    /// The living lease of this instance id.
    async fn lease_holder(&self, instance_id: &str) -> StoreResult<Option<InstanceInfo>>;

    /// How long each living lease still holds.
    async fn leases_left(&self) -> StoreResult<Vec<Duration>>;

    /// All instances: those with a living lease. One that has just come may be missing: [`Self::lease_holder`] decides
    /// who is gone.
    async fn instances(&self) -> StoreResult<Vec<InstanceInfo>>;

    /// Known instance ids, dead ones included.
    async fn known_instances(&self) -> StoreResult<Vec<String>>;

    /// Forgets a dead instance's id and index (only if it has no living lease).
    async fn forget_instance(&self, instance_id: &str) -> StoreResult<()>;
}

/// One running instance, as its lease tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceInfo {
    /// Who.
    pub owner: Owner,
    /// `host:port` it listens on.
    pub address: String,
    /// Version of the program.
    pub version: String,
    /// Start, milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// Sessions it owns.
    pub sessions: u64,
    /// Which process it is, for those on its machine ([`ProcessId`](crate::cluster::process::ProcessId)); empty when it
    /// cannot tell, or is older than the field.
    pub process: String,
}

/// Answer of [`super::Instances::lease_acquire`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAcquired {
    /// The instance id is ours.
    Acquired,
    /// Another live process has this instance id (OWN-11).
    HeldBy(InstanceInfo),
}

/// Answer of [`super::Instances::lease_renew`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseRenewed {
    /// Still ours.
    Renewed,
    /// It had run out and nobody else has it; it is ours again.
    Reacquired,
    /// Another process has it now.
    Lost,
}
