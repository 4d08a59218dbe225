//! What other instances have journaled for this owner, and what it lost sight of itself: claimed from the store in
//! order, and with it the word on who shows the client's stream.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;

use super::{MAIN_STREAM, actor::SessionActor, attachment::End, inbound::Arrived};
use crate::{
    backoff::jittered,
    store::{Claim, Claimed, PendingRequest, StoreError},
};

/// Inbox entries claimed at a time.
pub(super) const CLAIM_BATCH: usize = 64;

/// When a claim is made again that has met a session in the middle of being restored.
const SOON: Duration = Duration::from_millis(20);
/// When one is made that the store could not answer, or might have more to say than it did.
pub(super) const LATER: Duration = Duration::from_secs(1);

impl SessionActor {
    pub(super) fn schedule_claim(&self, after: Duration, ctx: &mut Context<Self>) {
        ctx.run_later(after, |actor, ctx| actor.claim(ctx));
    }

    /// Messages can go up now. What is claimed counts as forwarded and waits in this process, so no more is claimed than
    /// will soon be sent; the rest waits in the inbox, which has a bound (MEM-2).
    pub(super) fn may_take_more(&self) -> bool {
        self.link.is_open() && !self.draining && self.to_send.len() < CLAIM_BATCH
    }

    /// Asks the store for unclaimed inbox entries and for who holds the client stream.
    pub(super) fn claim(&mut self, ctx: &mut Context<Self>) {
        if self.claiming {
            self.claim_again = true;
            return;
        }
        self.claiming = true;
        self.claim_again = false;
        let may_take = self.may_take_more();
        let claim = Claim {
            fence: self.fence.clone(),
            acked: self.acked(),
            // Without a link nothing is claimed: what is claimed counts as forwarded.
            max_entries: if may_take { CLAIM_BATCH } else { 0 },
        };
        let store = Arc::clone(&self.app().store);
        let (resync, session) = (self.resync && may_take, self.fence.session);
        let (asked, epoch, attached_count) = (Instant::now(), self.fence.epoch, self.attached_count);
        let claimed = async move {
            let claimed = store.claim(claim).await?;
            let pending = if resync { Some(store.pending(session).await?) } else { None };
            Ok((claimed, pending))
        };
        ctx.spawn(claimed.into_actor(self).map(move |outcome, actor, ctx| {
            actor.claiming = false;
            if let Ok((Claimed::Entries { .. }, _)) = &outcome {
                actor.confirmed_owner(asked);
            }
            actor.claimed(outcome, epoch, attached_count, ctx);
        }));
    }

    fn claimed(
        &mut self,
        outcome: Result<(Claimed, Option<Vec<PendingRequest>>), StoreError>,
        epoch: u32,
        attached_count: u64,
        ctx: &mut Context<Self>,
    ) {
        match outcome {
            Ok((Claimed::Entries { entries, more, attachments }, pending)) => {
                if let Some(pending) = pending {
                    self.resync = false;
                    self.fill_holes(pending, entries.first().map(|entry| entry.seq), ctx);
                }
                let holder = attachments.iter().find(|attachment| attachment.stream == MAIN_STREAM);
                let joined_since = attached_count != self.attached_count;
                let holder = holder.map(|holder| holder.id);
                let superseded = self.attachment.take_if(|mine| is_superseded(mine.id, holder, joined_since));
                if let Some(superseded) = superseded {
                    superseded.end(End::Superseded);
                }
                let took = !entries.is_empty();
                if took {
                    self.last_active = Instant::now();
                }
                for entry in entries {
                    if let Some(message) = Arrived::parse(entry.body) {
                        self.arrive(entry.seq, message, ctx);
                    }
                }
                self.more_waits = more;
                if more && !self.link.is_open() {
                    self.ensure_link(ctx);
                } else if (more && self.may_take_more()) || self.claim_again {
                    self.claim(ctx);
                }
                self.release_if_quiet(false, ctx);
            }
            Ok((Claimed::NotFound, _)) if epoch == self.fence.epoch => self.vanished(epoch, ctx),
            Ok((Claimed::Fenced, _)) if self.fenced(epoch, ctx) => {}
            Ok((Claimed::NotFound | Claimed::Fenced, _)) => self.schedule_claim(SOON, ctx),
            Err(error) => {
                if self.note_store_error(&error) {
                    self.schedule_claim(jittered(LATER), ctx);
                }
            }
        }
    }

    /// After an `accept` of unknown outcome: what the store marked forwarded and this actor never saw is forwarded now
    /// (for the first time: only this actor forwards).
    fn fill_holes(&mut self, pending: Vec<PendingRequest>, first_claimed: Option<u64>, ctx: &mut Context<Self>) {
        for request in pending {
            let unseen = request.forwarded && request.seq >= self.next_seq;
            if unseen
                && !self.arrived.contains_key(&request.seq)
                && let Some(message) = Arrived::parse(request.body)
            {
                self.arrived.insert(request.seq, message);
            }
        }
        // What is still missing was a notification whose POST was answered 503: the client knows.
        while let Some(first) = self.arrived.keys().next().copied().or(first_claimed) {
            if first < self.next_seq {
                break;
            }
            self.next_seq = first;
            let Some(message) = self.arrived.remove(&first) else { break };
            self.next_seq = first + 1;
            self.take(first, message, ctx);
        }
        self.pump_posts(ctx);
    }
}

/// Whether the stream of this process, `mine`, has a successor elsewhere, by the store's word of who holds it. `joined_since`:
/// mine has joined after the store was asked. OWN-7
fn is_superseded(mine: u64, holder: Option<u64>, joined_since: bool) -> bool {
    // What was said of its predecessors is not about it: it would be silenced for good, with nobody in its place.
    !joined_since && holder.is_some_and(|holder| holder != mine)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OWN-7
    #[test]
    fn a_stream_is_superseded_only_by_one_that_came_after_it() {
        for (holder, joined_since, expected) in [
            (Some(2), false, true),
            // The former one, in an answer from before this one joined.
            (Some(2), true, false),
            (Some(1), false, false),
            // Whoever came after it has gone again.
            (None, false, false),
        ] {
            assert_eq!(is_superseded(1, holder, joined_since), expected, "{holder:?} {joined_since}");
        }
    }
}
