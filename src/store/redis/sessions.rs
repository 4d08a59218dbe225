//! Sessions as a whole in Redis: builds the calls.
//!
//! The meaning of each operation stands at the trait; how it is done, in its script. `answers.rs` reads what comes back.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::Value;

use super::{
    RedisStore,
    answers::{read_adopted, read_entries, read_fenceable, read_head},
    millis,
    place::Place,
    reply::{self, Fields, code, corrupt},
    scripts::{Call, Script},
};
use crate::{
    fault,
    protocol::session_id::SessionId,
    store::{
        Adopted, Binding, Created, Fence, Fenceable, HeadChange, Hint, NewSession, Owner, Restored, Rewrite, Rewritten,
        SessionHead, Sessions, StoreError, StoreResult,
        head::{FieldChanges, binding_pairs, client_pair},
    },
};

/// How often a purge may find that the session has got new streams meanwhile.
const PURGE_ATTEMPTS: usize = 8;

/// Keys that one `SCAN` looks at: a few hundred keep the round trips few and each far below a millisecond.
const SCAN_COUNT: u64 = 500;

impl RedisStore {
    /// The sessions whose ids begin with `digits`.
    async fn scan(&self, digits: &str, limit: usize) -> StoreResult<Vec<(SessionId, SessionHead)>> {
        let pattern = self.keys.session_pattern(digits);
        let mut seen = HashSet::new();
        let mut listed = Vec::new();
        for place in self.link.topology.places() {
            self.scan_at(place, &pattern, limit, &mut seen, &mut listed).await?;
        }
        Ok(listed)
    }

    /// Those of one node.
    async fn scan_at(
        &self,
        place: Place,
        pattern: &str,
        limit: usize,
        seen: &mut HashSet<SessionId>,
        listed: &mut Vec<(SessionId, SessionHead)>,
    ) -> StoreResult<()> {
        let mut cursor = 0;
        while listed.len() < limit {
            let call = Call::command("SCAN").number(cursor).arg("MATCH").arg(pattern).arg("COUNT").number(SCAN_COUNT);
            let mut page = Fields::of(self.link.single_at(place, call).await?, "list")?;
            cursor = page.number()?;
            // SCAN may name a key twice.
            let mut sessions: Vec<SessionId> =
                page.fields()?.texts()?.iter().filter_map(|k| self.keys.session_of(k)).collect();
            sessions.retain(|session| seen.insert(*session));
            sessions.truncate(limit - listed.len());
            let load = |session| Call::command("HGETALL").arg(self.keys.session(session).plain());
            let records = self.link.bulk(sessions.iter().map(load).collect()).await;
            for (session, record) in sessions.into_iter().zip(records) {
                if let Some(record) = read_head(record?, "list")? {
                    listed.push((session, record));
                }
            }
            if cursor == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Whether the owner that is to be replaced, by another, has a lease.
    async fn lives(&self, owner: &Owner, successor: &Owner) -> StoreResult<bool> {
        let is_nobody = owner.incarnation.is_empty() || owner.incarnation == successor.incarnation;
        if is_nobody || fault::unprotected(fault::JUDGE) {
            return Ok(false);
        }
        let call = Call::command("HGET").arg(&self.keys.lease(&owner.instance_id)).arg("incarnation");
        Ok(match self.lanes.call(call).await? {
            Value::Nil => false,
            holder => reply::text(holder, "adopt")? == *owner.incarnation,
        })
    }
}

#[async_trait]
impl Sessions for RedisStore {
    async fn create(&self, new: NewSession) -> StoreResult<Created> {
        let mut keys = self.keys.session(&new.session);
        let restored = new.restored.unwrap_or_else(|| Restored { generation: 1, ..Restored::default() });
        let mut fields = restored.continuation.pairs();
        fields.push(client_pair(new.client));
        fields.extend(binding_pairs(&new.binding));
        let (stream, attachment) = match &new.attachment {
            Some((stream, id)) => (stream.as_str(), *id),
            None => ("", 0),
        };
        let mut call = Call::script_with_body(Script::Create, 2, pairs_len(&fields))
            .arg(keys.plain())
            .arg(keys.requests())
            .number(u64::from(new.epoch))
            .args(&[new.service.as_str(), &new.transport, new.binding.principal()])
            .args(&[&new.owner.instance_id, &new.owner.incarnation])
            .number(millis(new.ttl))
            .arg(stream)
            .number(attachment)
            .number(restored.generation)
            .number(restored.in_seq)
            .number(fields.len() as u64)
            .pairs(&fields);
        for (id_key, seq) in &restored.pending {
            call = call.arg(id_key).number(*seq);
        }
        self.instance_id.get_or_init(|| new.owner.instance_id.clone());
        self.index_add(&new.owner.instance_id, keys.id());
        match self.lanes.call(call).await? {
            Value::Int(1) => Ok(Created::Created),
            Value::Int(2) => Ok(Created::AlreadyExists),
            _ => Err(corrupt("create")),
        }
    }

    async fn load(&self, session: SessionId) -> StoreResult<Option<SessionHead>> {
        let call = Call::command("HGETALL").arg(self.keys.session(&session).plain());
        read_head(self.lanes.call(call).await?, "load")
    }

    async fn list(&self, limit: usize) -> StoreResult<Vec<(SessionId, SessionHead)>> {
        self.scan("", limit).await
    }

    async fn find(&self, digits: &str, limit: usize) -> StoreResult<Vec<(SessionId, SessionHead)>> {
        // They go into a pattern of keys.
        if !digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Vec::new());
        }
        self.scan(digits, limit).await
    }

    async fn update(&self, fence: &Fence, changes: &[HeadChange]) -> StoreResult<Fenceable> {
        let changes = FieldChanges::of(changes);
        let call = Call::script_with_body(Script::Update, 1, changes.len())
            .arg(self.keys.session(&fence.session).plain())
            .fence(fence)
            .number(changes.set.len() as u64)
            .pairs(&changes.set)
            .args(&changes.delete);
        read_fenceable(self.lanes.call(call).await?, "update")
    }

    async fn hint(&self, session: SessionId, hint: &Hint) -> StoreResult<bool> {
        let (field, value) = hint.pair();
        let call = Call::script(Script::Hint, 1).arg(self.keys.session(&session).plain()).arg(&field).arg(&value);
        Ok(reply::number::<u64>(self.lanes.call(call).await?, "hint")? == 1)
    }

    async fn adopt(
        &self,
        session: SessionId,
        from: &Owner,
        from_generation: u64,
        new_owner: &Owner,
    ) -> StoreResult<Adopted> {
        let mut keys = self.keys.session(&session);
        // Its lease is in another slot: an owner that renews it between this look and the next step had lost it, and is fenced
        // as after a pause (docs/decisions/0008-who-is-gone.md).
        let lives = self.lives(from, new_owner).await?;
        fault::point(fault::LEASE_SEEN);
        let call = Call::script(Script::Adopt, 3).arg(keys.plain()).arg(keys.inbox()).arg(keys.requests());
        let call = call.arg(&from.instance_id).arg(&from.incarnation).number(from_generation);
        let call = call.arg(&new_owner.instance_id).arg(&new_owner.incarnation).number(u64::from(lives));
        let call = call.arg(&self.wake_prefix).arg(keys.id());
        self.instance_id.get_or_init(|| new_owner.instance_id.clone());
        // Before it is known whether it will be the owner; taken out again if not.
        self.index_add(&new_owner.instance_id, keys.id());
        let answer = self.lanes.call(call).await?;
        let (adopted, not_in) = read_adopted(answer, session, new_owner)?;
        if let Some(instance_id) = not_in.filter(|id| !id.is_empty()) {
            self.index_remove(&instance_id, &keys).await;
        }
        Ok(adopted)
    }

    async fn release(&self, fence: &Fence) -> StoreResult<Fenceable> {
        let keys = self.keys.session(&fence.session);
        let call = Call::script(Script::Release, 1).arg(keys.plain());
        let call = call.fence(fence).arg(&self.wake_prefix).arg(keys.id());
        match self.lanes.call(call).await? {
            Value::Array(values) => {
                let mut fields = Fields::new(values, "release");
                fields.value()?;
                self.index_remove(&fields.text()?, &keys).await;
                Ok(Fenceable::Done)
            }
            code => read_fenceable(code, "release"),
        }
    }

    async fn renew(&self, session: SessionId, epoch: u32) -> StoreResult<bool> {
        let mut keys = self.keys.session(&session);
        let mut streams: Vec<String> = Vec::new();
        for _ in 0..PURGE_ATTEMPTS {
            let call = Call::script(Script::Renew, 4 + streams.len());
            let mut call = call.arg(keys.plain()).arg(keys.inbox()).arg(keys.requests()).arg(keys.seen());
            for stream in &streams {
                call = call.arg(keys.log(stream));
            }
            let call = call.number(u64::from(epoch)).arg(&self.wake_prefix).arg(keys.id()).args(&streams);
            let mut fields = match self.lanes.call(call).await? {
                Value::Int(code::NOT_FOUND) => return Ok(false),
                answer => Fields::of(answer, "renew")?,
            };
            if fields.number::<u64>()? == 1 {
                self.index_remove(&fields.text()?, &keys).await;
                return Ok(true);
            }
            streams = fields.texts()?;
        }
        Err(corrupt("renew"))
    }

    async fn rewrite(&self, rewrite: Rewrite) -> StoreResult<Rewritten> {
        const WHAT: &str = "rewrite";
        let mut keys = self.keys.session(&rewrite.fence.session);
        let restored = &rewrite.restored;
        let pairs = restored.continuation.pairs();
        let (mut looked_at, mut streams) = (None::<u64>, Vec::<String>::new());
        let (mut stay, mut unclear) = (Vec::<u64>::new(), Vec::<Arc<str>>::new());
        for _ in 0..PURGE_ATTEMPTS {
            let call = Call::script_with_body(Script::Rewrite, 4 + streams.len(), pairs_len(&pairs));
            let mut call = call.arg(keys.plain()).arg(keys.inbox()).arg(keys.requests()).arg(keys.seen());
            for stream in &streams {
                call = call.arg(keys.log(stream));
            }
            call = call.fence(&rewrite.fence).number(u64::from(rewrite.epoch)).arg(&self.wake_prefix).arg(keys.id());
            call = match looked_at {
                Some(seq) => call.number(seq),
                None => call.arg(""),
            };
            call = call
                .number(restored.in_seq)
                .number(rewrite.next)
                .number(stay.len() as u64)
                .number(unclear.len() as u64);
            call = call.number(streams.len() as u64).number(pairs.len() as u64);
            let Owner { instance_id, incarnation } = &rewrite.owner;
            call = call.arg(instance_id).arg(incarnation).number(restored.generation);
            for seq in &stay {
                call = call.number(*seq);
            }
            call = call.args(&unclear).args(&streams).pairs(&pairs);
            for (id_key, seq) in &restored.pending {
                call = call.arg(id_key).number(*seq);
            }
            self.index_add(&rewrite.owner.instance_id, keys.id());
            let mut fields = match self.lanes.call(call).await? {
                Value::Int(1) => return Ok(Rewritten::Done(unclear)),
                Value::Int(code::NOT_FOUND) => return Ok(Rewritten::NotFound),
                Value::Int(code::FENCED) => return Ok(Rewritten::Fenced),
                answer => Fields::of(answer, WHAT)?,
            };
            fields.value()?;
            looked_at = Some(fields.number()?);
            streams = fields.fields()?.texts()?;
            (stay, unclear) = rewrite.decide(&read_entries(fields, WHAT)?);
        }
        // Others journal all the time.
        Err(StoreError::Overloaded)
    }

    async fn touch(&self, sessions: &[SessionId], ttl: Duration) -> StoreResult<Vec<SessionId>> {
        let ttl = millis(ttl);
        let touch = |session: &SessionId| {
            let mut keys = self.keys.session(session);
            let call = Call::script(Script::Touch, 4).arg(keys.plain()).arg(keys.inbox()).arg(keys.requests());
            call.arg(keys.seen()).number(ttl)
        };
        let answers = self.link.bulk(sessions.iter().map(touch).collect()).await;
        let mut gone = Vec::new();
        let mut logs = Vec::new();
        // A node that is away is no reason to let the sessions of others die.
        let mut failed = Ok(());
        for (session, answer) in sessions.iter().zip(answers) {
            match answer {
                Ok(Value::Int(reply::code::NOT_FOUND)) => gone.push(*session),
                Ok(streams) => {
                    let mut keys = self.keys.session(session);
                    for stream in Fields::of(streams, "touch")?.texts()? {
                        logs.push(Call::command("PEXPIRE").arg(keys.log(&stream)).number(ttl));
                    }
                }
                Err(error) => failed = Err(error),
            }
        }
        for answer in self.link.bulk(logs).await {
            failed = failed.and(answer.map(drop));
        }
        self.index_sweep(&gone).await;
        failed.map(|()| gone)
    }

    async fn purge(&self, session: SessionId, by: Option<&Binding>) -> StoreResult<bool> {
        let mut keys = self.keys.session(&session);
        let mut streams: Vec<String> = Vec::new();
        for _ in 0..PURGE_ATTEMPTS {
            let call = Call::script(Script::Purge, 4 + streams.len());
            let mut call = call.arg(keys.plain()).arg(keys.inbox()).arg(keys.requests()).arg(keys.seen());
            for stream in &streams {
                call = call.arg(keys.log(stream));
            }
            let call = call.arg(&self.wake_prefix).arg(keys.id()).asked_by(by).args(&streams);
            let mut fields = match self.lanes.call(call).await? {
                Value::Int(code::NOT_FOUND) => {
                    self.index_sweep(&[session]).await;
                    return Ok(false);
                }
                Value::Int(code::FENCED) => return Ok(false),
                answer => Fields::of(answer, "purge")?,
            };
            if fields.number::<u64>()? == 1 {
                self.index_remove(&fields.text()?, &keys).await;
                return Ok(true);
            }
            streams = fields.texts()?;
        }
        Err(corrupt("purge"))
    }

    async fn dataset(&self, candidate: &str) -> StoreResult<String> {
        self.first(self.keys.dataset(), candidate, "dataset").await
    }

    async fn secret(&self, candidate: &str) -> StoreResult<String> {
        self.first(self.keys.seal(), candidate, "seal").await
    }
}

impl RedisStore {
    /// Plain commands in one pipeline: whoever comes first after a loss says what stands there.
    async fn first(&self, key: String, candidate: &str, what: &'static str) -> StoreResult<String> {
        let calls = vec![Call::command("SETNX").arg(&key).arg(candidate), Call::command("GET").arg(&key)];
        let mut answers = self.link.bulk(calls).await.into_iter();
        match (answers.next(), answers.next()) {
            // There is one already: that it could not be written (Redis is full) does not matter.
            (Some(_), Some(Ok(answer))) if answer != Value::Nil => reply::text(answer, what),
            (Some(Err(error)), _) | (_, Some(Err(error))) => Err(error),
            _ => Err(corrupt(what)),
        }
    }
}

fn pairs_len(pairs: &[(String, String)]) -> usize {
    pairs.iter().map(|(field, value)| field.len() + value.len()).sum()
}
