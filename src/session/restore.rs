//! The store says that a session of ours does not exist. Either it is over (expired, deleted), or the store came back
//! without its data: then the living owner writes it again, so that a later failover still works. What was only in the
//! log is lost, and clients are told by the new epoch (EVT-6, DUR-1).
//!
//! Or the store came back with older data (a replica that was behind became the primary, the last second of the append-only
//! file is missing, a snapshot was restored). The owner says with each accept, claim and append what it knows; a store that
//! has less refuses, and the session is written again in the same way. What others have journaled meanwhile stays.

use std::{sync::Arc, time::Duration};

use actix::prelude::*;

use super::{
    actor::{Exit, SSE, STREAMABLE, SessionActor},
    attachment::End,
    returning::key_of,
};
use crate::{
    backoff::jittered,
    cluster::dataset::fresh_dataset_id,
    protocol::jsonrpc::{self, IdKey},
    store::{
        ClientMessage, Continuation, Created, HandedLately, InboxEntry, NewSession, Ownership, Restored, Rewrite,
        Rewritten,
    },
    upstream,
};

/// Pause before a restore that failed is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// What the store has said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    /// There is no such session.
    Missing,
    /// It has less than this owner has seen.
    Older,
    /// The session is another's: of a later owner, or of an earlier one in older data.
    Fenced,
}

enum Outcome {
    /// It is over.
    Over,
    /// Written again with this epoch, into this data. Requests of which nobody knows whether they ran.
    Written(u32, Arc<str>, Vec<Arc<str>>),
    /// Somebody else has written a session of this id: not ours any more.
    Taken,
}

impl SessionActor {
    /// The store does not know what was asked with this epoch. Finds out what has happened, and restores or ends the
    /// session. A question from before a restore is answered late: it says nothing about the session of now.
    pub(super) fn vanished(&mut self, epoch: u32, ctx: &mut Context<Self>) {
        self.write_again(epoch, Said::Missing, ctx);
    }

    /// The store, asked with this epoch, has less than this owner has seen.
    pub(super) fn went_back(&mut self, epoch: u32, ctx: &mut Context<Self>) {
        self.write_again(epoch, Said::Older, ctx);
    }

    fn write_again(&mut self, epoch: u32, mut said: Said, ctx: &mut Context<Self>) {
        if epoch != self.fence.epoch || std::mem::replace(&mut self.restoring, true) {
            return;
        }
        let env = Arc::clone(&self.env);
        let known = Arc::clone(&self.dataset);
        let mut again = self.as_new_session();
        let last = self.last_possible();
        let mut rewrite = Rewrite {
            fence: self.fence.clone(),
            owner: env.me.clone(),
            // The same in each attempt: an attempt whose answer is lost is known by it.
            epoch: loop {
                let new = fastrand::u32(..);
                if new != epoch {
                    break new;
                }
            },
            restored: again.restored.clone().unwrap_or_default(),
            next: self.order.next(),
            handed: if said == Said::Missing { HandedLately::default() } else { self.known_messages() },
        };
        let restored = async move {
            loop {
                let attempt = async {
                    if said == Said::Fenced {
                        match env.store.load(rewrite.fence.session).await?.map(|head| head.ownership) {
                            // This very ownership under another epoch is from before the session was written again: data that
                            // have gone another way since (a primary of before the last failover).
                            Some(Some(Ownership { owner, generation, epoch }))
                                if generation < rewrite.restored.generation
                                    || generation == rewrite.restored.generation
                                        && owner.incarnation == env.me.incarnation
                                        && epoch != rewrite.fence.epoch =>
                            {
                                (rewrite.fence.incarnation, rewrite.fence.generation) = (owner.incarnation, generation);
                                rewrite.fence.epoch = epoch;
                            }
                            Some(_) => return Ok(Outcome::Taken),
                            None => said = Said::Missing,
                        }
                    }
                    if said != Said::Missing {
                        match env.store.rewrite(rewrite.clone()).await? {
                            Rewritten::Done(unclear) => {
                                return Ok(Outcome::Written(rewrite.epoch, Arc::clone(&known), unclear));
                            }
                            Rewritten::Fenced => return Ok(Outcome::Taken),
                            // What is left now is nothing at all.
                            Rewritten::NotFound => said = Said::Missing,
                        }
                    }
                    let now = env.store.dataset(&fresh_dataset_id()).await?;
                    if *now == *known {
                        return Ok(Outcome::Over);
                    }
                    env.dataset.remember(&now);
                    again.epoch = fastrand::u32(..);
                    Ok(match env.store.create(again.clone()).await? {
                        Created::Created => Outcome::Written(again.epoch, now.into(), Vec::new()),
                        Created::AlreadyExists => Outcome::Taken,
                    })
                };
                match attempt.await {
                    Ok(outcome) => return outcome,
                    Err(error) => {
                        env.count_store_error(&error);
                        tokio::time::sleep(jittered(RETRY)).await;
                    }
                }
            }
        };
        ctx.spawn(restored.into_actor(self).map(move |outcome, actor, ctx| {
            actor.restoring = false;
            match outcome {
                Outcome::Over => actor.exit(Exit::Gone, ctx),
                Outcome::Taken => actor.exit(Exit::Fenced, ctx),
                Outcome::Written(epoch, dataset, unclear) => actor.restored(epoch, dataset, last, unclear, ctx),
            }
        }));
    }

    /// The store has refused what was asked with this epoch: another process owns the session, and this actor ends as soon as
    /// it has seen that the other one is the later owner, and not one of older data. Until then it forwards nothing. Or the
    /// session is being written again, or has been since; what was refused is to be asked once more.
    pub(super) fn fenced(&mut self, epoch: u32, ctx: &mut Context<Self>) {
        self.write_again(epoch, Said::Fenced, ctx);
    }

    fn restored(&mut self, epoch: u32, dataset: Arc<str>, last: u64, unclear: Vec<Arc<str>>, ctx: &mut Context<Self>) {
        self.env.metrics.restored.inc();
        tracing::warn!(session = %self.fence.session, "the store had lost this session, or a part of it; it is written again");
        self.fence.epoch = epoch;
        self.dataset = dataset;
        self.handed_lately.clear();
        self.outbox.restart();
        self.streams.restart();
        // Everything accepted before counts as claimed; what had not arrived here is lost with the store.
        for (seq, message) in self.order.restart(last) {
            self.take(seq, message, ctx);
        }
        if let Some(client) = key_of(&self.client).filter(|_| !self.has_many_streams) {
            // The lists of clients are lost, too, and this one's comes back at once.
            let (env, session) = (Arc::clone(&self.env), self.fence.session);
            actix_rt::spawn(async move {
                let ttl = env.settings.session.ttl;
                if let Err(error) = env.store.client_left(&client, session, None, ttl).await {
                    env.count_store_error(&error);
                }
            });
        }
        // The client must come back and be told that its cursor is of another life.
        for attachment in self.all_streams() {
            attachment.end(End::Abort("the session store lost its data"));
        }
        self.pump_posts(ctx);
        self.append_again(ctx);
        for id_key in unclear {
            self.fail_forwarded(&IdKey::from_stored(id_key), ctx);
        }
        // What others have journaled, and stayed.
        self.claim(ctx);
    }

    fn as_new_session(&self) -> NewSession {
        let mut continuation = Continuation {
            endpoint: self.endpoint.as_ref().map(|endpoint| endpoint.url.to_string()),
            upstream_session: self.uplink.way().and_then(upstream::Uplink::stored),
            questions: self.questions.stored(),
            cancelled: self.cancel_marks(),
            traces: self.timing.traced.stored(),
            moved: self.unheard.as_ref().map(|unheard| unheard.moved().clone()).unwrap_or_default(),
            ..Continuation::default()
        };
        self.setup.put(&mut continuation);
        self.streamed.cursors.put(&mut continuation);
        let env = &self.env;
        NewSession {
            session: self.fence.session,
            epoch: 0,
            service: self.service.name.clone(),
            transport: if self.has_many_streams { STREAMABLE } else { SSE }.to_owned(),
            binding: self.binding.clone(),
            client: self.client.clone(),
            owner: env.me.clone(),
            attachment: None,
            ttl: env.settings.session.ttl,
            restored: Some(Restored {
                generation: self.fence.generation,
                in_seq: self.last_possible(),
                continuation,
                pending: self.unanswered().map(|(id, seq)| (id.to_owned(), seq)).collect(),
            }),
        }
    }

    /// The last sequence that may be in this owner's hands, with what is on its way to it: the numbers go on after it, so
    /// that none is given twice.
    fn last_possible(&self) -> u64 {
        self.order.last() + (self.accepting + self.claims.may_bring()) as u64
    }

    /// Requests whose answer is not in the log yet: in flight, or with their answer on its way into it.
    fn unanswered(&self) -> impl Iterator<Item = (&str, u64)> {
        let in_flight = self.posts.requests().iter().map(|(_, request)| (&*request.table_key, request.seq));
        let waiting = self.order.waiting().filter_map(|(seq, message)| match &message.said {
            jsonrpc::Said::Request { id, .. } => Some((id.key(), seq)),
            jsonrpc::Said::Notification { .. } | jsonrpc::Said::Response { .. } => None,
        });
        in_flight.chain(waiting).chain(self.outbox.answers().map(|id| (id, self.order.last())))
    }

    /// Messages that need not be taken from older data again.
    fn known_messages(&self) -> HandedLately {
        let mut known = self.handed_lately.clone();
        for (seq, message) in self.order.waiting() {
            known.note(&InboxEntry { seq, message: ClientMessage::Notification, body: message.body.clone() });
        }
        known
    }
}
