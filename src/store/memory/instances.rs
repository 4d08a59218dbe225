//! [`Instances`]: leases and their holders are [`super::leases`]' to keep; what an instance owns stands in the sessions.

use std::time::Duration;

use async_trait::async_trait;

use super::{MAX_TTL, MemoryStore};
use crate::{
    protocol::session_id::SessionId,
    store::{InstanceInfo, Instances, LeaseAcquired, LeaseRenewed, Owner, StoreResult},
};

#[async_trait]
impl Instances for MemoryStore {
    async fn owned_by(&self, instance_id: &str) -> StoreResult<Vec<SessionId>> {
        let mut owned = Vec::new();
        self.each_session(|id, session| {
            if *session.owner.instance_id == *instance_id {
                owned.push(*id);
            }
        });
        Ok(owned)
    }

    async fn lease_acquire(&self, info: &InstanceInfo, ttl: Duration) -> StoreResult<LeaseAcquired> {
        Ok(self.leases.acquire(info, ttl.min(MAX_TTL)))
    }

    async fn lease_renew(&self, info: &InstanceInfo, ttl: Duration) -> StoreResult<LeaseRenewed> {
        Ok(self.leases.renew(info, ttl.min(MAX_TTL)))
    }

    async fn lease_release(&self, owner: &Owner) -> StoreResult<()> {
        self.leases.release(owner);
        Ok(())
    }

    async fn has_given_up(&self, owner: &Owner) -> StoreResult<bool> {
        Ok(self.leases.was_given_up_by(owner))
    }

    async fn lease_holder(&self, instance_id: &str) -> StoreResult<Option<InstanceInfo>> {
        Ok(self.leases.holder(instance_id))
    }

    async fn leases_left(&self) -> StoreResult<Vec<Duration>> {
        Ok(self.leases.left())
    }

    async fn instances(&self) -> StoreResult<Vec<InstanceInfo>> {
        Ok(self.leases.instances())
    }

    async fn known_instances(&self) -> StoreResult<Vec<String>> {
        Ok(self.leases.known())
    }

    async fn forget_instance(&self, instance_id: &str) -> StoreResult<()> {
        self.leases.forget(instance_id);
        Ok(())
    }
}
