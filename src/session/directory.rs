//! Who is where in this process: the owned sessions' actors and the held client streams, by session id.
//!
//! Shared by all threads; sharded so that workers seldom meet. Holds no truth that the store does not have.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::Addr;

use super::{actor::SessionActor, attachment::Attachment};
use crate::protocol::session_id::{SessionId, SessionMap};

/// Shards of each map: far more than worker threads.
const SHARDS: usize = 64;

/// See the module's text.
#[derive(Debug)]
pub struct Directory {
    shards: Vec<Mutex<Shard>>,
}

#[derive(Debug, Default)]
struct Shard {
    sessions: SessionMap<Addr<SessionActor>>,
    attachments: SessionMap<Vec<Arc<Attachment>>>,
}

impl Default for Directory {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Directory {
    fn shard(&self, session: &SessionId) -> MutexGuard<'_, Shard> {
        let index = usize::from(session.shard_byte()) % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The actor of a session that this process owns. Not one that has broken.
    pub fn session(&self, session: &SessionId) -> Option<Addr<SessionActor>> {
        let mut shard = self.shard(session);
        let actor = shard.sessions.get(session)?;
        if actor.connected() {
            return Some(actor.clone());
        }
        // It has panicked, or is about to leave by itself: nobody takes its messages.
        shard.sessions.remove(session);
        None
    }

    /// This process owns the session now.
    pub fn insert_session(&self, session: SessionId, actor: Addr<SessionActor>) {
        self.shard(&session).sessions.insert(session, actor);
    }

    /// `actor` has ended; a newer actor of the same session stays.
    pub fn remove_session(&self, session: &SessionId, actor: &Addr<SessionActor>) {
        let mut shard = self.shard(session);
        if shard.sessions.get(session) == Some(actor) {
            shard.sessions.remove(session);
        }
    }

    /// A client stream is held here.
    pub fn insert_attachment(&self, attachment: Arc<Attachment>) {
        self.shard(&attachment.session).attachments.entry(attachment.session).or_default().push(attachment);
    }

    /// A client stream has ended; others of the session stay (OWN-8).
    pub fn remove_attachment(&self, attachment: &Attachment) {
        let mut shard = self.shard(&attachment.session);
        if let Some(attachments) = shard.attachments.get_mut(&attachment.session) {
            attachments.retain(|other| other.id != attachment.id);
            if attachments.is_empty() {
                shard.attachments.remove(&attachment.session);
            }
        }
    }

    /// The client streams of a session that are held here.
    pub fn attachments(&self, session: &SessionId) -> Vec<Arc<Attachment>> {
        self.shard(session).attachments.get(session).cloned().unwrap_or_default()
    }

    /// All owned sessions.
    pub fn sessions(&self) -> Vec<(SessionId, Addr<SessionActor>)> {
        self.shards
            .iter()
            .flat_map(|shard| {
                let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                shard.sessions.retain(|_, actor| actor.connected());
                shard.sessions.iter().map(|(id, actor)| (*id, actor.clone())).collect::<Vec<_>>()
            })
            .collect()
    }

    /// All held client streams.
    pub fn all_attachments(&self) -> Vec<Arc<Attachment>> {
        self.shards
            .iter()
            .flat_map(|shard| {
                let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                shard.attachments.values().flatten().cloned().collect::<Vec<_>>()
            })
            .collect()
    }

    /// How many sessions this process owns.
    pub fn session_count(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).sessions.len()).sum()
    }
}
