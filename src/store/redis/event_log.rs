//! Event logs in Redis: builds the calls.
//!
//! The meaning of each operation stands at the trait; how it is done, in its script. `answers.rs` reads what comes back.

use std::borrow::Cow;

use async_trait::async_trait;

use super::{
    RedisStore,
    answers::{read_appended, read_attached, read_page},
    millis, reply,
    scripts::{Call, Script},
};
use crate::{
    protocol::{session_id::SessionId, stream_key::StreamKey},
    store::{
        Append, Appended, Attach, Attached, EventLog, Page, StoreResult,
        head::{FieldChanges, sent_pair},
    },
};

/// The main stream has no name here: most events are of it.
pub(super) fn other_view(view: StreamKey) -> Cow<'static, str> {
    if view == StreamKey::Main { Cow::Borrowed("") } else { view.name() }
}

#[async_trait]
impl EventLog for RedisStore {
    async fn append(&self, append: Append) -> StoreResult<Appended> {
        let session = append.fence.session;
        let mut keys = self.keys.session(&session);
        if let Some(seq) = self.append_hot(&append, &mut keys).await? {
            return Ok(Appended::Done { seqs: vec![Some(seq)], shown: Vec::new() });
        }
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
            .number(u64::from(self.hot.is_worth_it(&session)))
            .number(append.events.len() as u64);
        // Goes with the first event.
        let mut sent = append.sent.map(|sent| sent_pair(&append.stream, sent));
        for (event, changes) in events {
            let sent = sent.take();
            call = call
                .arg(event.answers.as_deref().unwrap_or_default())
                .arg(&other_view(event.view))
                .body(&event.body)
                .number((changes.set.len() + usize::from(sent.is_some())) as u64)
                .number(changes.delete.len() as u64)
                .pairs(&changes.set)
                .pairs(sent.as_slice())
                .args(&changes.delete);
        }
        let answer = self.lanes.call(call).await.and_then(read_appended);
        match &answer {
            Ok((Appended::Done { .. }, hot)) => self.hot.left(&session, hot.clone()),
            _ => self.hot.forget(&session),
        }
        answer.map(|(appended, _)| appended)
    }

    async fn read_page(
        &self,
        session: SessionId,
        stream: &str,
        view: StreamKey,
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
            .number(max_bytes as u64)
            .arg(&other_view(view));
        read_page(self.lanes.call(call).await?)
    }

    async fn attach(&self, attach: Attach) -> StoreResult<Attached> {
        let keys = self.keys.session(&attach.session);
        let call = Call::script(Script::Attach, 1)
            .arg(keys.plain())
            .arg(&self.wake_prefix)
            .arg(keys.id())
            .arg(&attach.attachment.stream)
            .arg(&attach.attachment.incarnation)
            .number(attach.attachment.id)
            .asked_by(attach.by.as_ref());
        read_attached(self.lanes.call(call).await?)
    }

    async fn detach(&self, session: SessionId, stream: &str, id: u64) -> StoreResult<bool> {
        let keys = self.keys.session(&session);
        let call = Call::script(Script::Detach, 1).arg(keys.plain()).arg(stream).number(id);
        let call = call.arg(&self.wake_prefix).arg(keys.id());
        Ok(reply::number::<u64>(self.lanes.call(call).await?, "detach")? == 1)
    }
}
