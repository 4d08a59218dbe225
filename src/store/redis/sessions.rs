//! Operations on one session: builds the calls. `answers.rs` reads what comes back.
//!
//! The meaning of each operation stands at the trait; how it is done, in its script.

use std::{sync::Arc, time::Duration};

use redis::{Cmd, Value};

use super::{
    INDEX_TTL, RedisStore,
    answers::{
        read_accepted, read_adopted, read_appended, read_attached, read_claimed, read_entries, read_fenceable,
        read_head, read_page,
    },
    keys::SessionKeys,
    millis,
    reply::{self, Fields, code, corrupt},
    scripts::{Call, Script},
};
use crate::{
    protocol::{post_id::PostId, session_id::SessionId},
    store::{
        Accept, Accepted, Adopted, Append, Appended, Attach, Attached, Claim, Claimed, ClientMessage, Created, Fence,
        Fenceable, HeadChange, Hint, LISTED_EACH, LISTED_PROCESSES, Listed, NewSession, Owner, Page, PendingRequest,
        Restored, Rewrite, Rewritten, SessionHead, StoreError, StoreResult,
        head::{FieldChanges, client_pair, sent_pair},
    },
};

/// Entries at most that one claim hands out; Lua cannot pass many more to one command.
const MAX_CLAIM: usize = 1000;

/// How often a purge may find that the session has got new streams meanwhile.
const PURGE_ATTEMPTS: usize = 8;

impl RedisStore {
    pub(super) async fn do_create(&self, new: NewSession) -> StoreResult<Created> {
        let mut keys = self.keys.session(&new.session);
        let restored = new.restored.unwrap_or_else(|| Restored { generation: 1, ..Restored::default() });
        let mut fields = restored.continuation.pairs();
        fields.push(client_pair(new.client));
        let (stream, attachment) = match &new.attachment {
            Some((stream, id)) => (stream.as_str(), *id),
            None => ("", 0),
        };
        let mut call = Call::script_with_body(Script::Create, 2, pairs_len(&fields))
            .arg(keys.plain())
            .arg(keys.requests())
            .number(u64::from(new.epoch))
            .args(&[new.service.as_str(), &new.transport, &new.principal])
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
        let index = self.index_add(&new.owner.instance_id, keys.id());
        match self.lanes.call_with(call, index).await? {
            Value::Int(1) => Ok(Created::Created),
            Value::Int(2) => Ok(Created::AlreadyExists),
            _ => Err(corrupt("create")),
        }
    }

    pub(super) async fn do_accept(&self, accept: Accept) -> StoreResult<Accepted> {
        let mut keys = self.keys.session(&accept.session);
        let (kind, id_key) = match &accept.message {
            ClientMessage::Request { id_key } => ("q", &**id_key),
            ClientMessage::Notification => ("n", ""),
            ClientMessage::Cancel { id_key } => ("n", &**id_key),
            ClientMessage::Response => ("r", ""),
        };
        let changes = FieldChanges::of(&accept.changes);
        let call = Call::script_with_body(Script::Accept, 4, accept.body.len() + changes.len());
        let call = call.arg(keys.plain()).arg(keys.inbox()).arg(keys.requests()).arg(keys.seen());
        let call = match &accept.fence {
            Some(fence) => call.fence(fence),
            None => call.arg("").arg("").arg(""),
        };
        let call = call
            .arg(&self.wake_prefix)
            .arg(keys.id())
            .arg(accept.service.as_deref().unwrap_or_default())
            .arg(&accept.post_id.to_string())
            .arg(kind)
            .arg(id_key)
            .body(&accept.body)
            .number(u64::from(accept.forward_now))
            .number(accept.acked)
            .number(accept.max_pending as u64)
            .number(accept.max_inbox as u64)
            .number(accept.max_bytes as u64)
            .number(accept.known)
            .number(changes.set.len() as u64)
            .pairs(&changes.set)
            .args(&changes.delete);
        read_accepted(self.lanes.call(call).await?)
    }

    pub(super) async fn do_claim(&self, claim: Claim) -> StoreResult<Claimed> {
        let session = claim.fence.session;
        let mut keys = self.keys.session(&session);
        let call = Call::script(Script::Claim, 3).arg(keys.plain()).arg(keys.inbox()).arg(keys.requests());
        let call = call
            .fence(&claim.fence)
            .number(claim.acked)
            .number(claim.max_entries.min(MAX_CLAIM) as u64)
            .number(claim.missing_from.unwrap_or_default());
        let call = match claim.urgent_after {
            Some(after) => call.number(after),
            None => call.arg(""),
        };
        let (stream, known) = &claim.known_event;
        let call = call.number(claim.known).arg(stream).number(*known);
        read_claimed(self.lanes.call(call).await?)
    }

    pub(super) async fn do_mark_forwarded(&self, fence: &Fence, id_keys: &[String]) -> StoreResult<Fenceable> {
        let mut keys = self.keys.session(&fence.session);
        let call = Call::script(Script::MarkForwarded, 3).arg(keys.plain()).arg(keys.inbox()).arg(keys.requests());
        read_fenceable(self.lanes.call(call.fence(fence).args(id_keys)).await?, "mark_forwarded")
    }

    pub(super) async fn do_forget_requests(&self, fence: &Fence, requests: &[(String, u64)]) -> StoreResult<Fenceable> {
        let mut keys = self.keys.session(&fence.session);
        let call = Call::script(Script::ForgetRequests, 3).arg(keys.plain()).arg(keys.inbox()).arg(keys.requests());
        let mut call = call.fence(fence);
        for (id_key, seq) in requests {
            call = call.arg(id_key).number(*seq);
        }
        read_fenceable(self.lanes.call(call).await?, "forget_requests")
    }

    pub(super) async fn do_forget_post(&self, session: SessionId, post_id: PostId) -> StoreResult<bool> {
        let mut keys = self.keys.session(&session);
        let call = Call::script(Script::ForgetPost, 1).arg(keys.seen()).arg(&post_id.to_string());
        Ok(reply::number::<u64>(self.lanes.call(call).await?, "forget_post")? == 1)
    }

    pub(super) async fn do_hint(&self, session: SessionId, hint: &Hint) -> StoreResult<bool> {
        let (field, value) = hint.pair();
        let call = Call::script(Script::Hint, 1).arg(self.keys.session(&session).plain()).arg(&field).arg(&value);
        Ok(reply::number::<u64>(self.lanes.call(call).await?, "hint")? == 1)
    }

    pub(super) async fn do_append(&self, append: Append) -> StoreResult<Appended> {
        let mut keys = self.keys.session(&append.fence.session);
        let events = append.events.iter().map(|event| (event, FieldChanges::of(&event.changes)));
        let length = events.clone().map(|(event, changes)| event.body.len() + changes.len()).sum();
        let call = Call::script_with_body(Script::Append, 4, length);
        let call = call.arg(keys.plain()).arg(keys.inbox()).arg(keys.requests()).arg(keys.log(&append.stream));
        let mut call = call
            .fence(&append.fence)
            .arg(&self.wake_prefix)
            .arg(keys.id())
            .arg(&append.stream)
            .number(append.op)
            .number(append.acked)
            .number(millis(append.limits.max_age))
            .number(append.limits.max_events as u64)
            .number(append.limits.max_bytes as u64)
            .number(append.known)
            .number(append.events.len() as u64);
        // Goes with the first event.
        let mut sent = append.sent.map(|sent| sent_pair(&append.stream, sent));
        for (event, changes) in events {
            let sent = sent.take();
            call = call
                .arg(event.answers.as_deref().unwrap_or_default())
                .body(&event.body)
                .number((changes.set.len() + usize::from(sent.is_some())) as u64)
                .number(changes.delete.len() as u64)
                .pairs(&changes.set)
                .pairs(sent.as_slice())
                .args(&changes.delete);
        }
        read_appended(self.lanes.call(call).await?)
    }

    pub(super) async fn do_pending(&self, session: SessionId) -> StoreResult<Vec<PendingRequest>> {
        let mut keys = self.keys.session(&session);
        let call = Call::script(Script::Pending, 2).arg(keys.requests()).arg(keys.inbox());
        reply::pending(Fields::of(self.lanes.call(call).await?, "pending")?)
    }

    pub(super) async fn do_pending_ids(&self, session: SessionId) -> StoreResult<Vec<Arc<str>>> {
        let call = Call::command("HKEYS").arg(self.keys.session(&session).requests());
        let ids = Fields::of(self.lanes.call(call).await?, "pending_ids")?.texts()?;
        // The empty one is no request (see accept).
        Ok(ids.into_iter().filter(|id| !id.is_empty()).map(Into::into).collect())
    }

    pub(super) async fn do_update(&self, fence: &Fence, changes: &[HeadChange]) -> StoreResult<Fenceable> {
        let changes = FieldChanges::of(changes);
        let call = Call::script_with_body(Script::Update, 1, changes.len())
            .arg(self.keys.session(&fence.session).plain())
            .fence(fence)
            .number(changes.set.len() as u64)
            .pairs(&changes.set)
            .args(&changes.delete);
        read_fenceable(self.lanes.call(call).await?, "update")
    }

    pub(super) async fn do_read_page(
        &self,
        session: SessionId,
        stream: &str,
        after: u64,
        max_events: usize,
        max_bytes: usize,
    ) -> StoreResult<Option<Page>> {
        let mut keys = self.keys.session(&session);
        let call = Call::script(Script::ReadPage, 2)
            .arg(keys.plain())
            .arg(keys.log(stream))
            .arg(stream)
            .number(after)
            .number(max_events as u64)
            .number(max_bytes as u64);
        read_page(self.lanes.call(call).await?)
    }

    pub(super) async fn do_attach(&self, attach: Attach) -> StoreResult<Attached> {
        let keys = self.keys.session(&attach.session);
        let call = Call::script(Script::Attach, 1)
            .arg(keys.plain())
            .arg(&self.wake_prefix)
            .arg(keys.id())
            .arg(&attach.attachment.stream)
            .arg(&attach.attachment.incarnation)
            .number(attach.attachment.id);
        read_attached(self.lanes.call(call).await?)
    }

    pub(super) async fn do_detach(&self, session: SessionId, stream: &str, id: u64) -> StoreResult<bool> {
        let call = Call::script(Script::Detach, 1).arg(self.keys.session(&session).plain()).arg(stream).number(id);
        Ok(reply::number::<u64>(self.lanes.call(call).await?, "detach")? == 1)
    }

    pub(super) async fn do_adopt(
        &self,
        session: SessionId,
        from: &Owner,
        from_generation: u64,
        new_owner: &Owner,
    ) -> StoreResult<Adopted> {
        let mut keys = self.keys.session(&session);
        let call = Call::script(Script::Adopt, 4).arg(keys.plain()).arg(keys.inbox()).arg(keys.requests());
        let call = call.arg(&self.keys.lease(&from.instance_id));
        let call = call.arg(&from.instance_id).arg(&from.incarnation).number(from_generation);
        let call = call.arg(&new_owner.instance_id).arg(&new_owner.incarnation);
        self.instance_id.get_or_init(|| new_owner.instance_id.clone());
        // Into the new owner's index before it is known whether it will be the owner: an id too many there is harmless
        // and taken out again, an id too few would hide the session from those who look for its owner's remains.
        let index = self.index_add(&new_owner.instance_id, keys.id());
        let answer = self.lanes.call_with(call, index).await?;
        let (adopted, not_in) = read_adopted(answer, session, new_owner)?;
        if let Some(instance_id) = not_in.filter(|id| !id.is_empty()) {
            self.index_remove(&instance_id, &keys).await;
        }
        Ok(adopted)
    }

    pub(super) async fn do_release(&self, fence: &Fence) -> StoreResult<Fenceable> {
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

    pub(super) async fn do_purge(&self, session: SessionId) -> StoreResult<bool> {
        let mut keys = self.keys.session(&session);
        let mut streams: Vec<String> = Vec::new();
        for _ in 0..PURGE_ATTEMPTS {
            let call = Call::script(Script::Purge, 4 + streams.len());
            let mut call = call.arg(keys.plain()).arg(keys.inbox()).arg(keys.requests()).arg(keys.seen());
            for stream in &streams {
                call = call.arg(keys.log(stream));
            }
            let call = call.arg(&self.wake_prefix).arg(keys.id()).args(&streams);
            let mut fields = match self.lanes.call(call).await? {
                Value::Int(code::NOT_FOUND) => {
                    self.index_sweep(&[session]).await;
                    return Ok(false);
                }
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

    pub(super) async fn do_renew(&self, session: SessionId, epoch: u32) -> StoreResult<bool> {
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

    pub(super) async fn do_rewrite(&self, rewrite: Rewrite) -> StoreResult<Rewritten> {
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
            let index = self.index_add(&rewrite.owner.instance_id, keys.id());
            let mut fields = match self.lanes.call_with(call, index).await? {
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

    pub(super) async fn do_client_note(
        &self,
        client: &str,
        session: SessionId,
        note: &str,
        incarnation: &str,
        ttl: Duration,
    ) -> StoreResult<()> {
        let call = Call::script(Script::ClientNote, 3)
            .arg(&self.keys.client(client, "shown"))
            .arg(&self.keys.client(client, "of"))
            .arg(&self.keys.client(client, "left"))
            .arg(self.keys.session(&session).id())
            .arg(note)
            .arg(incarnation)
            .number(millis(ttl));
        self.lanes.call(call).await.map(drop)
    }

    pub(super) async fn do_client_sessions(&self, client: &str, age: Duration) -> StoreResult<Listed> {
        const WHAT: &str = "client_sessions";
        let call = Call::script(Script::ClientSessions, 2)
            .arg(&self.keys.client(client, "shown"))
            .arg(&self.keys.client(client, "left"))
            .number(LISTED_EACH as u64)
            .number(LISTED_PROCESSES as u64)
            .number(millis(age));
        let mut fields = Fields::of(self.lanes.call(call).await?, WHAT)?;
        let mut listed = Listed::default();
        let id = |text: String| text.parse::<SessionId>().map_err(|_| corrupt(WHAT));
        for _ in 0..fields.number::<u64>()? {
            let incarnation = fields.text()?;
            listed.shown.push((incarnation.into(), id(fields.text()?)?));
        }
        while !fields.is_empty() {
            let session = id(fields.text()?)?;
            listed.left.push((session, Duration::from_millis(fields.number()?)));
        }
        Ok(listed)
    }

    pub(super) async fn do_load(&self, session: SessionId) -> StoreResult<Option<SessionHead>> {
        let call = Call::command("HGETALL").arg(self.keys.session(&session).plain());
        read_head(self.lanes.call(call).await?, "load")
    }

    fn index_add(&self, instance_id: &str, id: &str) -> Vec<Cmd> {
        let index = self.keys.index(instance_id);
        vec![
            Call::command("SADD").arg(&index).arg(id).cmd,
            Call::command("PEXPIRE").arg(&index).number(millis(INDEX_TTL)).cmd,
        ]
    }

    /// Best effort: an index may name sessions that are gone or belong to others, its readers know that.
    async fn index_remove(&self, instance_id: &str, keys: &SessionKeys) {
        let call = Call::command("SREM").arg(&self.keys.index(instance_id)).arg(keys.id());
        if let Err(error) = self.lanes.call(call).await {
            tracing::debug!(%error, "a session stays in the index of its former owner");
        }
    }
    /// Takes sessions that are gone out of this instance's index (MEM-4): what expires cannot do it itself.
    pub(super) async fn index_sweep(&self, gone: &[SessionId]) {
        let Some(instance_id) = self.instance_id.get().filter(|_| !gone.is_empty()) else { return };
        let mut call = Call::command("SREM").arg(&self.keys.index(instance_id));
        for session in gone {
            call = call.arg(self.keys.session(session).id());
        }
        if let Err(error) = self.lanes.call(call).await {
            tracing::debug!(%error, "sessions that are gone stay in the index of this instance");
        }
    }
}

fn pairs_len(pairs: &[(String, String)]) -> usize {
    pairs.iter().map(|(field, value)| field.len() + value.len()).sum()
}
