//! Instances in Redis: leases, and their index of sessions.
//!
//! The meaning of each operation stands at the trait; how it is done, in its script. `answers.rs` reads what comes back.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use redis::Value;
use tokio::time::timeout;

use super::{
    INDEX_TTL, RedisStore, millis,
    reply::{self, Fields, corrupt},
    scripts::{Call, Script},
};
use crate::{
    protocol::session_id::SessionId,
    store::{InstanceInfo, Instances, LeaseAcquired, LeaseRenewed, Owner, StoreResult},
};

/// So long a renewal of the lease waits for what goes with it.
const BESIDE: Duration = Duration::from_millis(200);

impl RedisStore {
    /// The lease script, and with it what keeps the instance known and its index alive. Harmless when the lease is
    /// another's: the id is known then anyway.
    async fn lease(&self, script: Script, info: &InstanceInfo, ttl: Duration) -> StoreResult<Value> {
        let instance_id = &*info.owner.instance_id;
        let call = Call::script(script, 1)
            .arg(&self.keys.lease(instance_id))
            .number(millis(ttl))
            .arg(&info.owner.incarnation)
            .arg(&info.address)
            .arg(&info.version)
            .number(info.started_ms)
            .number(info.sessions)
            .arg(&info.process);
        let instances = self.keys.instances();
        let index_ttl = millis(INDEX_TTL);
        let index = self.keys.index(instance_id);
        let missing = self.missing.take();
        let mut beside = vec![
            Call::command("SADD").arg(&instances).arg(instance_id),
            Call::command("PEXPIRE").arg(&instances).number(index_ttl),
            Call::command("PEXPIRE").arg(&index).number(index_ttl),
        ];
        if !missing.is_empty() {
            beside.push(Call::command("SADD").arg(&index).args(&missing));
        }
        let (link, owed) = (self.link.clone(), self.missing.clone());
        // These may be on other nodes, and a lease waits for none of them.
        let beside = tokio::spawn(async move {
            let mut is_done = true;
            for answer in link.bulk(beside).await {
                if let Err(error) = answer {
                    is_done = false;
                    tracing::debug!(%error, "the list of instances was not written");
                }
            }
            if !is_done {
                owed.put_back(missing);
            }
            is_done
        });
        let lease = self.link.single(call).await;
        // A lease is renewed also when Redis is full. SADD is refused then, like the messages of clients: whether writes are
        // done is known once in a renewal, without any traffic.
        if matches!(timeout(BESIDE, beside).await, Ok(Ok(true))) && lease.is_ok() {
            let keys = [self.keys.lease(instance_id), instances, index];
            self.link.writes_done(&keys.map(|key| self.link.topology.place_of(&key)));
        }
        lease
    }
}

#[async_trait]
impl Instances for RedisStore {
    async fn owned_by(&self, instance_id: &str) -> StoreResult<Vec<SessionId>> {
        let call = Call::command("SMEMBERS").arg(&self.keys.index(instance_id));
        let members = Fields::of(self.link.single(call).await?, "owned_by")?.texts()?;
        members.iter().map(|id| id.parse().map_err(|_| corrupt("owned_by"))).collect()
    }

    async fn lease_acquire(&self, info: &InstanceInfo, ttl: Duration) -> StoreResult<LeaseAcquired> {
        self.instance_id.get_or_init(|| info.owner.instance_id.clone());
        match self.lease(Script::LeaseAcquire, info, ttl).await? {
            Value::Int(1) => Ok(LeaseAcquired::Acquired),
            lease => {
                let lease = Fields::of(lease, "lease_acquire")?.map()?;
                Ok(LeaseAcquired::HeldBy(read_lease(&info.owner.instance_id, &lease, "lease_acquire")?))
            }
        }
    }

    async fn lease_renew(&self, info: &InstanceInfo, ttl: Duration) -> StoreResult<LeaseRenewed> {
        match self.lease(Script::LeaseRenew, info, ttl).await? {
            Value::Int(1) => Ok(LeaseRenewed::Renewed),
            Value::Int(2) => Ok(LeaseRenewed::Reacquired),
            Value::Int(0) => Ok(LeaseRenewed::Lost),
            _ => Err(corrupt("lease_renew")),
        }
    }

    async fn lease_release(&self, owner: &Owner) -> StoreResult<()> {
        let instance_id = &owner.instance_id;
        let call = Call::script(Script::LeaseRelease, 2);
        let call = call.arg(&self.keys.lease(instance_id)).arg(&self.keys.given_up(instance_id));
        self.link.single(call.arg(&owner.incarnation).number(millis(INDEX_TTL))).await?;
        Ok(())
    }

    async fn has_given_up(&self, owner: &Owner) -> StoreResult<bool> {
        let call = Call::command("GET").arg(&self.keys.given_up(&owner.instance_id));
        match self.link.single(call).await? {
            Value::Nil => Ok(false),
            last => Ok(reply::text(last, "has_given_up")? == *owner.incarnation),
        }
    }

    async fn lease_holder(&self, instance_id: &str) -> StoreResult<Option<InstanceInfo>> {
        const WHAT: &str = "lease_holder";
        let call = Call::command("HGETALL").arg(&self.keys.lease(instance_id));
        let lease = Fields::of(self.link.single(call).await?, WHAT)?.map()?;
        if lease.is_empty() {
            return Ok(None);
        }
        read_lease(instance_id, &lease, WHAT).map(Some)
    }

    async fn leases_left(&self) -> StoreResult<Vec<Duration>> {
        let ids = self.known_instances().await?;
        let asked = ids.iter().map(|id| Call::command("PTTL").arg(&self.keys.lease(id))).collect();
        let mut left = Vec::with_capacity(ids.len());
        for answer in self.link.bulk(asked).await {
            match answer? {
                // There is none.
                Value::Int(..=-1) => {}
                millis => left.push(Duration::from_millis(reply::number(millis, "leases_left")?)),
            }
        }
        Ok(left)
    }

    async fn instances(&self) -> StoreResult<Vec<InstanceInfo>> {
        let ids = self.known_instances().await?;
        let leases =
            self.link.bulk(ids.iter().map(|id| Call::command("HGETALL").arg(&self.keys.lease(id))).collect()).await;
        let mut instances = Vec::with_capacity(ids.len());
        for (id, lease) in ids.iter().zip(leases) {
            let lease = Fields::of(lease?, "instances")?.map()?;
            if !lease.is_empty() {
                instances.push(read_lease(id, &lease, "instances")?);
            }
        }
        Ok(instances)
    }

    async fn known_instances(&self) -> StoreResult<Vec<String>> {
        let mut ids =
            Fields::of(self.link.single(Call::command("SMEMBERS").arg(&self.keys.instances())).await?, "instances")?
                .texts()?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// The lease and the list of instances may be on different nodes, so this is no single step: an instance that comes
    /// back in between is put on the list again, here or by its next renewal.
    async fn forget_instance(&self, instance_id: &str) -> StoreResult<()> {
        let call = Call::script(Script::ForgetInstance, 3);
        let call = call.arg(&self.keys.lease(instance_id)).arg(&self.keys.index(instance_id));
        let call = call.arg(&self.keys.given_up(instance_id));
        if self.link.single(call).await? == Value::Int(1) {
            self.link.single(Call::command("SREM").arg(&self.keys.instances()).arg(instance_id)).await?;
            if self.lease_holder(instance_id).await?.is_some() {
                self.link.single(Call::command("SADD").arg(&self.keys.instances()).arg(instance_id)).await?;
            }
        }
        Ok(())
    }
}

fn read_lease(instance_id: &str, lease: &BTreeMap<String, String>, what: &'static str) -> StoreResult<InstanceInfo> {
    let text = |field: &str| lease.get(field).map(String::as_str).ok_or_else(|| corrupt(what));
    let number = |field: &str| text(field)?.parse().map_err(|_| corrupt(what));
    Ok(InstanceInfo {
        owner: Owner { instance_id: instance_id.into(), incarnation: text("incarnation")?.into() },
        address: text("address")?.to_owned(),
        version: text("version")?.to_owned(),
        started_ms: number("started_ms")?,
        sessions: number("sessions")?,
        // Not that of an older version.
        process: lease.get("process").cloned().unwrap_or_default(),
    })
}
