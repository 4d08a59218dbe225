//! Who holds a client stream, in the store: a stream that is being opened, one that takes its place back, one that ends. OWN-7,
//! OWN-8

use std::sync::Arc;

use super::{Attachment, End, pump::Pump};
use crate::{
    protocol::stream_key::{MAIN_STREAM, StreamKey},
    session::{
        env::Env,
        messages::{AttachLocal, Detached},
    },
    store::{Attach, Attachment as StoredAttachment, Hint},
};

/// A stream that is being attached. A client that leaves meanwhile, or whose stream is not shown after all, leaves no holder
/// behind: the stream that it has superseded can go on.
#[derive(Debug)]
pub struct Joining {
    env: Arc<Env>,
    attachment: Option<Arc<Attachment>>,
}

impl Joining {
    /// From before the store is told.
    pub fn begin(env: &Arc<Env>, attachment: &Arc<Attachment>) -> Self {
        Self { env: Arc::clone(env), attachment: Some(Arc::clone(attachment)) }
    }

    /// From here on the stream's [`Pump`] does it.
    pub fn done(mut self) {
        self.attachment = None;
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        let Some(attachment) = self.attachment.take() else { return };
        let env = Arc::clone(&self.env);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let detached = env.store.detach(attachment.session, &attachment.stream, attachment.id).await;
            if let Err(error) = detached {
                env.count_store_error(&error);
            }
        });
    }
}

impl Attachment {
    /// What the store is to know of the stream's holder, which is this process.
    pub fn attach(&self, env: &Env) -> Attach {
        let attachment = StoredAttachment {
            stream: (*self.stream).to_owned(),
            incarnation: Arc::clone(&env.me.incarnation),
            id: self.id,
        };
        Attach { session: self.session, attachment, by: None }
    }
}

impl Pump {
    /// The stream of a request, whose session has no owner in this process (any more): the store is told who is to be woken.
    pub(super) async fn register_elsewhere(&mut self) {
        if self.is_registered || self.env.directory.session(&self.attachment.session).is_some() {
            return;
        }
        match self.env.store.attach(self.attachment.attach(&self.env)).await {
            Ok(_) => (self.is_registered, self.is_late) = (true, true),
            // The next look does it.
            Err(error) => self.env.count_store_error(&error),
        }
    }

    /// A superseded stream whose successor has gone takes its place back. That successor may have been a GET that its
    /// client had given up, served late by a process that had been paused: the client still listens here, and would for
    /// ever. If it does not, its next stream supersedes this one again.
    pub(super) async fn reclaim(&mut self) {
        let session = self.attachment.session;
        if self.attachment.key != StreamKey::Main {
            // Another connection has asked for the answer: it is that one's.
            return;
        }
        match self.env.store.read_page(session, MAIN_STREAM, self.attachment.key, self.cursor, 0, 0).await {
            Ok(Some(page)) if page.epoch == self.epoch && page.holder.is_some_and(|id| id != self.attachment.id) => {
                return;
            }
            Ok(Some(page)) if page.epoch == self.epoch => {
                match self.env.store.attach(self.attachment.attach(&self.env)).await {
                    Ok(_) => {}
                    Err(error) => return self.env.count_store_error(&error),
                }
            }
            // The session is over, or lives anew: reading on tells.
            Ok(_) => {}
            Err(error) => return self.env.count_store_error(&error),
        }
        {
            let mut queue = self.attachment.queue();
            if queue.end == Some(End::Superseded) {
                queue.end = None;
            }
            queue.look = true;
        }
        self.parked = false;
        if let Some(owner) = self.env.directory.session(&session) {
            // An owner that has ended meanwhile needs to know nothing.
            let _ = owner.send(AttachLocal { attachment: Arc::clone(&self.attachment) }).await;
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        let attachment = Arc::clone(&self.attachment);
        let env = Arc::clone(&self.env);
        let (parked, is_over, ttl) = (self.parked, self.is_over, self.env.settings.session.ttl);
        env.metrics.streams.dec();
        env.directory.remove_attachment(&attachment);
        if self.is_over && !(self.is_registered && self.is_late) {
            // Its owner knows, and nobody holds it in the store.
            return;
        }
        if let Some(owner) = env.directory.session(&attachment.session) {
            // A full mailbox only delays the owner's clean-up: its sweep looks again.
            let _ = owner.try_send(Detached { attachment: attachment.id });
        }
        if !self.is_registered {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // For a client that comes back without a cursor. Not for a superseded stream: its successor knows better.
                let sent = attachment.sent();
                let superseded = parked || attachment.queue().end == Some(End::Superseded);
                if sent > 0 && !superseded && attachment.key == StreamKey::Main {
                    let hint = Hint::Sent { stream: attachment.stream.clone(), sent };
                    if let Err(error) = env.store.hint(attachment.session, &hint).await {
                        env.count_store_error(&error);
                    }
                }
                if is_over {
                    // The answer was there before this stream was on record: until its owner has looked, which it does well
                    // within this time, it takes it for one that nobody has heard. EVT-8
                    tokio::time::sleep(env.settings.stream.answer_grace).await;
                }
                let detached = env.store.detach(attachment.session, &attachment.stream, attachment.id).await;
                let listed = match (detached, attachment.listed()) {
                    (Ok(true), Some(client)) => {
                        env.store.client_left(&client, attachment.session, Some(&env.me.incarnation), ttl).await
                    }
                    (detached, _) => detached.map(drop),
                };
                if let Err(error) = listed {
                    // The holder field stays until the next attach replaces it; nothing depends on its absence.
                    env.count_store_error(&error);
                }
            });
        }
    }
}
