//! What every message changes of a session, as its owner knows it: the quick way of `accept` and `append`.
//!
//! The two scripts that each call costs look at many fields and write many, and most of that is always the same: nobody but
//! the owner has written since. So those fields can stand in one, `hot` (`lua/hot.lua`), as text that the owner knows: it sends what
//! must stand there and what is to stand there next, and a script of a few lines compares and writes. Whatever is not as usual
//! goes by the scripts that look at everything; so does one message in [`GROUP`], which trims and extends. Any other writer
//! takes `hot` away, and with it the quick way, until the owner's next append.
//!
//! Never: decides. What this knows is a guess; an operation whose guess is wrong has done nothing, and is done the long way.

use std::{borrow::Cow, sync::Arc};

use dashmap::DashMap;

use super::{
    RedisStore,
    event_log::other_view,
    keys::SessionKeys,
    scripts::{Call, Script},
};
use crate::{
    protocol::{
        session_id::{IdHash, SessionId},
        stream_key::{MAIN_STREAM, StreamKey},
    },
    store::{
        Accept, Append, Binding, ClientMessage, Fence, StoreError, StoreResult,
        head::{FieldChanges, Hot, is_moved, sent_pair},
    },
};

/// Each first of so many messages or events goes the long way (`accept.lua` and `append.lua` trim in these groups).
const GROUP: u64 = 16;

/// Sessions that are known at most; beyond that all are forgotten, which costs each of them one message the long way.
const MOST: usize = 1 << 17;

/// See the module's text.
#[derive(Default)]
pub(super) struct Known(DashMap<SessionId, Entry, IdHash>);

struct Entry {
    hot: Option<Hot>,
    owner: Arc<str>,
    /// Under whom the owner's last message was taken: nobody has raised what the session asks for since. SEC-1
    by: Binding,
}

/// A guess, and what it is for.
pub(super) struct Guess {
    now: Hot,
    next: Hot,
}

impl Known {
    /// The owner's message was taken at once. `hot`: as it stands there now.
    pub(super) fn took(&self, fence: &Fence, by: &Binding, hot: Option<Hot>) {
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(fence.session, Entry { hot, owner: Arc::clone(&fence.incarnation), by: by.clone() });
    }

    /// Something else than the usual has happened.
    pub(super) fn forget(&self, session: &SessionId) {
        self.0.remove(session);
    }

    /// The owner's messages are taken at once, as far as is known: it is worth to write `hot`.
    pub(super) fn is_worth_it(&self, session: &SessionId) -> bool {
        self.0.contains_key(session)
    }

    /// An append has left this.
    pub(super) fn left(&self, session: &SessionId, hot: Option<Hot>) {
        if let Some(mut entry) = self.0.get_mut(session) {
            entry.hot = hot;
        }
    }

    /// What `accept` would find, and leave: the next message is sent with that in mind.
    fn accepting(&self, accept: &Accept) -> Option<Guess> {
        let fence = accept.fence.as_ref()?;
        let is_usual = accept.forward_now
            && accept.service.is_none()
            && accept.version.is_none()
            && accept.shown_by.is_none()
            && accept.changes.is_empty();
        if !is_usual {
            return None;
        }
        let mut entry = self.0.get_mut(&accept.session)?;
        let now = entry.of(fence).filter(|_| entry.by == accept.by)?.clone();
        let (in_seq, held) = (now.in_seq + 1, now.held + accept.body.len() as u64);
        let fits = in_seq % GROUP != 1
            && accept.known <= now.in_seq
            && now.pending < accept.max_pending as u64
            && held <= accept.max_bytes as u64;
        if !fits {
            return None;
        }
        let next = Hot { in_seq, held, pending: now.pending + 1, ..now.clone() };
        entry.hot = Some(next.clone());
        Some(Guess { now, next })
    }

    /// As [`Self::accepting`], of `append`.
    fn appending(&self, append: &Append) -> Option<Guess> {
        let [event] = &*append.events else { return None };
        if append.stream != MAIN_STREAM {
            return None;
        }
        let mut entry = self.0.get_mut(&append.fence.session)?;
        let now = entry.of(&append.fence)?.clone();
        let (seq, bytes) = (now.seq + 1, now.bytes + event.body.len() as u64);
        let answers = u64::from(event.answers.is_some());
        let fits = seq % GROUP != 1
            && append.op > now.op
            && append.known <= now.seq
            && seq + 1 - now.first <= append.limits.max_events as u64
            && bytes <= append.limits.max_bytes as u64
            && now.pending >= answers
            && !event.changes.iter().any(is_moved);
        if !fits {
            return None;
        }
        let next = Hot { seq, bytes, op: append.op, from: seq, pending: now.pending - answers, ..now.clone() };
        entry.hot = Some(next.clone());
        Some(Guess { now, next })
    }
}

impl Entry {
    fn of(&self, fence: &Fence) -> Option<&Hot> {
        let is_of = |hot: &&Hot| hot.generation == fence.generation && hot.epoch == fence.epoch;
        self.hot.as_ref().filter(is_of).filter(|_| self.owner == fence.incarnation)
    }
}

impl RedisStore {
    /// The sequence, if `accept` was done the quick way.
    pub(super) async fn accept_hot(&self, accept: &Accept, keys: &mut SessionKeys) -> StoreResult<Option<u64>> {
        let ClientMessage::Request { id_key } = &accept.message else { return Ok(None) };
        let Some(Guess { now, next }) = self.hot.accepting(accept) else { return Ok(None) };
        let call = Call::script_with_body(Script::AcceptHot, 3, accept.body.len());
        let call = call.arg(keys.plain()).arg(keys.requests()).arg(keys.seen());
        let call = call.show(&now).show(&next).number(next.in_seq).arg(&accept.post_id.to_string()).arg(id_key);
        let call = call.joined(&format!("{} 1 ", next.in_seq), &accept.body);
        Ok(self.was_hot(&accept.session, call).await?.then_some(next.in_seq))
    }

    /// The event's sequence, if `append` was done the quick way.
    pub(super) async fn append_hot(&self, append: &Append, keys: &mut SessionKeys) -> StoreResult<Option<u64>> {
        let Some(Guess { now, next }) = self.hot.appending(append) else { return Ok(None) };
        let event = &append.events[0];
        let changes = FieldChanges::of(&event.changes);
        let sent = append.sent.map(|sent| sent_pair(&append.stream, sent));
        let (holder, may_hold) = match event.view {
            // The owner's own process hears of it from the owner.
            StreamKey::Main => (Cow::Borrowed("a:g"), &*append.fence.incarnation),
            view => (format!("a:{}", view.name()).into(), ""),
        };
        let call = Call::script_with_body(Script::AppendHot, 3, event.body.len() + changes.len());
        let call = call
            .arg(keys.plain())
            .arg(keys.requests())
            .arg(keys.log(&append.stream))
            .show(&now)
            .show(&next)
            .arg(&holder)
            .arg(may_hold)
            .arg(event.answers.as_deref().unwrap_or_default())
            .joined(&format!("{} {}  ", next.seq, other_view(event.view)), &event.body)
            .number(next.seq + 1 - next.first)
            .number((changes.set.len() + usize::from(sent.is_some())) as u64)
            .pairs(&changes.set)
            .pairs(sent.as_slice())
            .args(&changes.delete);
        Ok(self.was_hot(&append.fence.session, call).await?.then_some(next.seq))
    }

    async fn was_hot(&self, session: &SessionId, call: Call) -> StoreResult<bool> {
        let answer = self.lanes.call(call).await;
        if matches!(answer, Ok(redis::Value::Int(1))) {
            return Ok(true);
        }
        self.hot.forget(session);
        match answer {
            // The long way may do what this one may not: it frees something first.
            Ok(_) | Err(StoreError::Full(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
