//! Event logs in memory, and who shows them.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;

use super::{MemoryStore, Owned, session::Session, stream::Stream};
use crate::{
    protocol::{session_id::SessionId, stream_key::StreamKey},
    store::{
        Append, Appended, Attach, Attached, AttachedTo, Attachment, EventLog, HeadChange, Holder, NewEvent, Page,
        StoreError, StoreResult,
    },
};

/// Why nothing was appended.
pub(super) enum NotAppended {
    /// The append's number is below the last one's: neither a retry nor a new one.
    OldOp,
    /// See [`crate::store::Accepted::Older`]. This store never goes back in time.
    Older,
}

impl Session {
    /// The sequences, as in `Appended::Done`. The fence has been checked.
    pub(super) fn append(&mut self, append: Append, now: Instant) -> Result<Vec<Option<u64>>, NotAppended> {
        match &self.last_append {
            Some((op, results)) if *op == append.op => return Ok(results.clone()),
            Some((op, _)) if *op > append.op => return Err(NotAppended::OldOp),
            _ => {}
        }
        if append.known > self.last_event(&append.stream) {
            return Err(NotAppended::Older);
        }
        let results: Vec<_> = append.events.iter().map(|event| self.append_one(&append.stream, event, now)).collect();
        // Goes with the first event.
        if let (Some(sent), Some(Some(_))) = (append.sent, results.first()) {
            self.stream_or_new(&append.stream).sent = Some(sent);
        }
        if let Some(stream) = self.stream_mut(&append.stream) {
            stream.trim(&append.limits, now);
        }
        self.acknowledge(append.acked);
        self.last_append = Some((append.op, results.clone()));
        Ok(results)
    }

    pub(super) fn append_one(&mut self, stream: &str, event: &NewEvent, now: Instant) -> Option<u64> {
        if let Some(id_key) = &event.answers {
            let request = self.requests.remove(id_key)?;
            // Answered without having been forwarded: nobody must forward it any more.
            self.inbox.remove(request.seq);
        }
        let has_gone =
            |change: &HeadChange| matches!(change, HeadChange::Moved { seq } if self.continuation.moved.contains(seq));
        if event.changes.iter().any(has_gone) {
            return None;
        }
        self.continuation.apply(&event.changes);
        let seq = self.stream_or_new(stream).push(event.view, event.body.clone(), now);
        Some(seq)
    }

    pub(super) fn last_event(&self, stream: &str) -> u64 {
        self.stream(stream).map_or(0, |stream| stream.last_seq)
    }

    pub(super) fn stream(&self, name: &str) -> Option<&Stream> {
        self.streams.iter().find(|(other, _)| other == name).map(|(_, stream)| stream)
    }

    pub(super) fn stream_mut(&mut self, name: &str) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|(other, _)| other == name).map(|(_, stream)| stream)
    }

    pub(super) fn stream_or_new(&mut self, name: &str) -> &mut Stream {
        let at = self.streams.iter().position(|(other, _)| other == name).unwrap_or_else(|| {
            self.streams.push((name.to_owned(), Stream::default()));
            self.streams.len() - 1
        });
        &mut self.streams[at].1
    }

    pub(super) fn detach(&mut self, stream: &str, attachment_id: u64) -> bool {
        let in_seq = self.in_seq;
        if let Some(view @ StreamKey::Request(_)) = StreamKey::of_name(stream) {
            let holder = self.stream(stream).and_then(|stream| stream.holder.as_ref());
            let was_held = holder.is_some_and(|holder| holder.id == attachment_id);
            if was_held {
                self.is_over(view);
            }
            return was_held;
        }
        let Some(stream) = self.stream_mut(stream) else { return false };
        let was_held = stream.holder.take_if(|holder| holder.id == attachment_id).is_some();
        if was_held {
            // What the client sends from now on it sends without a stream.
            stream.left_at = Some(in_seq);
        }
        was_held
    }

    /// Who shows one of the streams of these events: to be told. Not the owner itself of the main stream; that its own process
    /// shows the stream of a request it may not know, if it was not the owner at first.
    fn holders_of(&self, append: &Append) -> Vec<Arc<str>> {
        let mut holders = Vec::new();
        for event in append.events.iter() {
            let shown = match event.view {
                StreamKey::Main => self.stream(&append.stream),
                // Nearly no session has one.
                _ if self.streams.len() < 2 => None,
                view => self.stream(&view.name()),
            };
            if let Some(Holder { incarnation, .. }) = shown.and_then(|stream| stream.holder.as_ref())
                && !(event.view == StreamKey::Main && *incarnation == append.fence.incarnation)
                && !holders.contains(incarnation)
            {
                holders.push(Arc::clone(incarnation));
            }
        }
        holders
    }

    /// Which of these events are answers on a stream that somebody shows.
    fn shown_answers(&self, append: &Append) -> Vec<usize> {
        // Nearly no session has another stream.
        if self.streams.len() < 2 {
            return Vec::new();
        }
        let is_shown = |view: StreamKey| self.stream(&view.name()).is_some_and(|stream| stream.holder.is_some());
        let answers = append.events.iter().enumerate().filter(|(_, event)| event.answers.is_some());
        let of_requests = answers.filter(|(_, event)| event.view != StreamKey::Main && is_shown(event.view));
        of_requests.map(|(at, _)| at).collect()
    }

    /// The stream of a request: nothing is kept of who has shown it.
    pub(super) fn is_over(&mut self, view: StreamKey) {
        if self.streams.len() > 1 {
            let name = view.name();
            self.streams.retain(|(other, _)| *other != name);
        }
    }

    pub(super) fn show(&mut self, view: StreamKey, holder: Holder) {
        self.stream_or_new(&view.name()).holder = Some(holder);
    }

    pub(super) fn attachments(&self) -> Vec<Attachment> {
        let held = self.streams.iter().filter_map(|(name, stream)| {
            let Holder { incarnation, id } = stream.holder.clone()?;
            Some(Attachment { stream: name.clone(), incarnation, id })
        });
        held.collect()
    }

    /// Processes that hold a stream, each once.
    pub(super) fn holders(&self) -> Vec<Arc<str>> {
        let mut holders: Vec<_> = self.attachments().into_iter().map(|attachment| attachment.incarnation).collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }
}

/// Streams of requests that have their answer with this.
fn answered(append: &Append) -> impl Iterator<Item = StreamKey> {
    let answers = append.events.iter().filter(|event| event.answers.is_some());
    answers.map(|event| event.view).filter(|view| *view != StreamKey::Main)
}

#[async_trait]
impl EventLog for MemoryStore {
    async fn append(&self, append: Append) -> StoreResult<Appended> {
        let fence = append.fence.clone();
        let appended = self.as_owner(&fence, |session| {
            let holders = session.holders_of(&append);
            let answered: Vec<StreamKey> = answered(&append).collect();
            let shown = session.shown_answers(&append);
            let appended = session.append(append, Instant::now());
            if appended.is_ok() {
                answered.into_iter().for_each(|view| session.is_over(view));
            }
            (appended.map(|seqs| (shown.iter().filter_map(|at| *seqs.get(*at)?).collect(), seqs)), holders)
        });
        Ok(match appended {
            Owned::Done((Ok((shown, seqs)), holders)) => {
                if seqs.iter().any(Option::is_some) {
                    for holder in &holders {
                        self.wakes.wake(holder, fence.session);
                    }
                }
                Appended::Done { seqs, shown }
            }
            Owned::Done((Err(NotAppended::OldOp), _)) => {
                return Err(StoreError::Corrupt("an append with a number below the last one's".to_owned()));
            }
            Owned::Done((Err(NotAppended::Older), _)) => Appended::Older,
            Owned::NotFound => Appended::NotFound,
            Owned::Fenced => Appended::Fenced,
        })
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
        Ok(self.with(&session, |session| match session.stream(stream) {
            Some(log) => {
                let shown = if view == StreamKey::Main { Some(log) } else { session.stream(&view.name()) };
                let holder = shown.and_then(|shown| shown.holder.as_ref()).map(|holder| holder.id);
                log.page(session.epoch, (view, holder), after, max_events, max_bytes)
            }
            None => Page { events: Vec::new(), last_seq: 0, first_seq: 1, gone: 0, epoch: session.epoch, holder: None },
        }))
    }

    async fn attach(&self, attach: Attach) -> StoreResult<Attached> {
        let Attach { session: id, attachment, by } = attach;
        let caller = attachment.incarnation.clone();
        let attached = self.with(&id, |session| {
            if by.is_some_and(|by| !session.binding.admits(&by)) {
                return None;
            }
            let stream = session.stream_or_new(&attachment.stream);
            let holder = Holder { incarnation: attachment.incarnation, id: attachment.id };
            // The same attachment again is a repeated call.
            let mut former = None;
            if stream.holder.as_ref() != Some(&holder) {
                former = stream.holder.replace(holder);
                stream.attach_count += 1;
            }
            let attach_count = stream.attach_count;
            let joined = AttachedTo {
                owner: session.owner.clone(),
                generation: session.generation,
                epoch: session.epoch,
                service: session.service.clone(),
                listeners: u64::from(session.owner.incarnation == caller),
                attach_count,
            };
            Some((joined, former))
        });
        let Some((mut joined, former)) = attached.flatten() else { return Ok(Attached::NotFound) };
        let owner = joined.owner.incarnation.clone();
        if owner != caller {
            joined.listeners = self.wakes.wake(&owner, id);
        }
        // The owner of another process has just been woken.
        if let Some(Holder { incarnation: former, .. }) = former
            && (former != owner || owner == caller)
        {
            self.wakes.wake(&former, id);
        }
        Ok(Attached::Attached(joined))
    }

    async fn detach(&self, session: SessionId, stream: &str, attachment_id: u64) -> StoreResult<bool> {
        // OWN-8: only the attachment that holds the stream can end it.
        let ended = self.with(&session, |session| (session.detach(stream, attachment_id), session.owner.clone()));
        let Some((was_held, owner)) = ended else { return Ok(false) };
        if was_held && matches!(StreamKey::of_name(stream), Some(StreamKey::Request(_))) {
            // Its owner keeps the answer for whoever comes back.
            self.wakes.wake(&owner.incarnation, session);
        }
        Ok(was_held)
    }
}
