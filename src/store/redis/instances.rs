//! Leases of instances, their index of sessions, and what concerns many sessions at once.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use redis::Value;

use super::{
    INDEX_TTL, RedisStore,
    answers::read_head,
    millis,
    reply::{self, Fields, corrupt},
    scripts::{Call, Script},
};
use crate::{
    protocol::session_id::SessionId,
    store::{InstanceInfo, LeaseAcquired, LeaseRenewed, Owner, SessionHead, StoreResult},
};

/// Keys that one `SCAN` looks at: a few hundred keep the round trips few and each far below a millisecond.
const SCAN_COUNT: u64 = 500;

impl RedisStore {
    pub(super) async fn do_touch(&self, sessions: &[SessionId], ttl: Duration) -> StoreResult<Vec<SessionId>> {
        let ttl = millis(ttl);
        let touch = |session: &SessionId| {
            let mut keys = self.keys.session(session);
            let call = Call::script(Script::Touch, 4).arg(keys.plain()).arg(keys.inbox()).arg(keys.requests());
            call.arg(keys.seen()).number(ttl)
        };
        let answers = self.link.bulk(sessions.iter().map(touch).collect()).await?;
        let mut gone = Vec::new();
        let mut logs = Vec::new();
        for (session, answer) in sessions.iter().zip(answers) {
            match answer? {
                Value::Int(reply::code::NOT_FOUND) => gone.push(*session),
                streams => {
                    let mut keys = self.keys.session(session);
                    for stream in Fields::of(streams, "touch")?.texts()? {
                        logs.push(Call::command("PEXPIRE").arg(keys.log(&stream)).number(ttl));
                    }
                }
            }
        }
        for answer in self.link.bulk(logs).await? {
            answer?;
        }
        self.index_sweep(&gone).await;
        Ok(gone)
    }

    /// The sessions whose ids begin with `digits`.
    pub(super) async fn do_list(&self, digits: &str, limit: usize) -> StoreResult<Vec<(SessionId, SessionHead)>> {
        let pattern = self.keys.session_pattern(digits);
        let mut seen = HashSet::new();
        let mut listed = Vec::new();
        let mut cursor = 0;
        loop {
            let call = Call::command("SCAN").number(cursor).arg("MATCH").arg(&pattern).arg("COUNT").number(SCAN_COUNT);
            let mut page = Fields::of(self.link.single(call).await?, "list")?;
            cursor = page.number()?;
            // SCAN may name a key twice.
            let mut sessions: Vec<SessionId> =
                page.fields()?.texts()?.iter().filter_map(|k| self.keys.session_of(k)).collect();
            sessions.retain(|session| seen.insert(*session));
            sessions.truncate(limit - listed.len());
            let load = |session| Call::command("HGETALL").arg(self.keys.session(session).plain());
            let records = self.link.bulk(sessions.iter().map(load).collect()).await?;
            for (session, record) in sessions.into_iter().zip(records) {
                if let Some(record) = read_head(record?, "list")? {
                    listed.push((session, record));
                }
            }
            if cursor == 0 || listed.len() >= limit {
                return Ok(listed);
            }
        }
    }

    pub(super) async fn do_owned_by(&self, instance_id: &str) -> StoreResult<Vec<SessionId>> {
        let call = Call::command("SMEMBERS").arg(&self.keys.index(instance_id));
        let members = Fields::of(self.link.single(call).await?, "owned_by")?.texts()?;
        members.iter().map(|id| id.parse().map_err(|_| corrupt("owned_by"))).collect()
    }

    pub(super) async fn do_lease_acquire(&self, info: &InstanceInfo, ttl: Duration) -> StoreResult<LeaseAcquired> {
        self.instance_id.get_or_init(|| info.owner.instance_id.clone());
        match self.lease(Script::LeaseAcquire, info, ttl).await? {
            Value::Int(1) => Ok(LeaseAcquired::Acquired),
            lease => {
                let lease = Fields::of(lease, "lease_acquire")?.map()?;
                Ok(LeaseAcquired::HeldBy(read_lease(&info.owner.instance_id, &lease, "lease_acquire")?))
            }
        }
    }

    pub(super) async fn do_lease_renew(&self, info: &InstanceInfo, ttl: Duration) -> StoreResult<LeaseRenewed> {
        match self.lease(Script::LeaseRenew, info, ttl).await? {
            Value::Int(1) => Ok(LeaseRenewed::Renewed),
            Value::Int(2) => Ok(LeaseRenewed::Reacquired),
            Value::Int(0) => Ok(LeaseRenewed::Lost),
            _ => Err(corrupt("lease_renew")),
        }
    }

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
        let calls = vec![
            call,
            Call::command("SADD").arg(&instances).arg(instance_id),
            Call::command("PEXPIRE").arg(&instances).number(index_ttl),
            Call::command("PEXPIRE").arg(&self.keys.index(instance_id)).number(index_ttl),
        ];
        let mut answers = self.link.bulk(calls).await?;
        // A lease is renewed also when Redis is full. SADD is refused then, like the messages of clients: whether writes are
        // done is known once in a renewal, without any traffic.
        if answers.iter().all(Result::is_ok) {
            self.link.writes_done();
        }
        for side_effect in answers.drain(1..) {
            if let Err(error) = side_effect {
                tracing::debug!(%error, "the list of instances was not written");
            }
        }
        answers.pop().unwrap_or_else(|| Err(corrupt("lease")))
    }

    pub(super) async fn do_lease_release(&self, owner: &Owner) -> StoreResult<()> {
        let instance_id = &owner.instance_id;
        let call = Call::script(Script::LeaseRelease, 2);
        let call = call.arg(&self.keys.lease(instance_id)).arg(&self.keys.given_up(instance_id));
        self.link.single(call.arg(&owner.incarnation).number(millis(INDEX_TTL))).await?;
        Ok(())
    }

    pub(super) async fn do_has_given_up(&self, owner: &Owner) -> StoreResult<bool> {
        let call = Call::command("GET").arg(&self.keys.given_up(&owner.instance_id));
        match self.link.single(call).await? {
            Value::Nil => Ok(false),
            last => Ok(reply::text(last, "has_given_up")? == *owner.incarnation),
        }
    }

    pub(super) async fn do_lease_holder(&self, instance_id: &str) -> StoreResult<Option<InstanceInfo>> {
        const WHAT: &str = "lease_holder";
        let call = Call::command("HGETALL").arg(&self.keys.lease(instance_id));
        let lease = Fields::of(self.link.single(call).await?, WHAT)?.map()?;
        if lease.is_empty() {
            return Ok(None);
        }
        read_lease(instance_id, &lease, WHAT).map(Some)
    }

    pub(super) async fn do_leases_left(&self) -> StoreResult<Vec<Duration>> {
        let ids = self.do_known_instances().await?;
        let asked = ids.iter().map(|id| Call::command("PTTL").arg(&self.keys.lease(id))).collect();
        let mut left = Vec::with_capacity(ids.len());
        for answer in self.link.bulk(asked).await? {
            match answer? {
                // There is none.
                Value::Int(..=-1) => {}
                millis => left.push(Duration::from_millis(reply::number(millis, "leases_left")?)),
            }
        }
        Ok(left)
    }

    pub(super) async fn do_instances(&self) -> StoreResult<Vec<InstanceInfo>> {
        let ids = self.do_known_instances().await?;
        let leases = self.link.bulk(ids.iter().map(|id| Call::command("HGETALL").arg(&self.keys.lease(id))).collect());
        let mut instances = Vec::with_capacity(ids.len());
        for (id, lease) in ids.iter().zip(leases.await?) {
            let lease = Fields::of(lease?, "instances")?.map()?;
            if !lease.is_empty() {
                instances.push(read_lease(id, &lease, "instances")?);
            }
        }
        Ok(instances)
    }

    pub(super) async fn do_known_instances(&self) -> StoreResult<Vec<String>> {
        let mut ids =
            Fields::of(self.link.single(Call::command("SMEMBERS").arg(&self.keys.instances())).await?, "instances")?
                .texts()?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// Plain commands in one pipeline: whoever comes first after a loss names the new data.
    pub(super) async fn do_dataset(&self, candidate: &str) -> StoreResult<String> {
        let key = self.keys.dataset();
        let calls = vec![Call::command("SETNX").arg(&key).arg(candidate), Call::command("GET").arg(&key)];
        let mut answers = self.link.bulk(calls).await?.into_iter();
        match (answers.next(), answers.next()) {
            // There is one already: that it could not be written (Redis is full) does not matter.
            (Some(_), Some(Ok(answer))) if answer != Value::Nil => reply::text(answer, "dataset"),
            (Some(Err(error)), _) | (_, Some(Err(error))) => Err(error),
            _ => Err(corrupt("dataset")),
        }
    }

    /// The lease and the list of instances may be on different nodes, so this is no single step: an instance that comes
    /// back in between is put on the list again, here or by its next renewal.
    pub(super) async fn do_forget_instance(&self, instance_id: &str) -> StoreResult<()> {
        let call = Call::script(Script::ForgetInstance, 3);
        let call = call.arg(&self.keys.lease(instance_id)).arg(&self.keys.index(instance_id));
        let call = call.arg(&self.keys.given_up(instance_id));
        if self.link.single(call).await? == Value::Int(1) {
            self.link.single(Call::command("SREM").arg(&self.keys.instances()).arg(instance_id)).await?;
            if self.do_lease_holder(instance_id).await?.is_some() {
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
