//! Who is where in this process: the owned sessions' actors and the held client streams, by session id.
//!
//! Shared by all threads: dashmap's tables, whose shards workers seldom meet in. Holds no truth that the store does not
//! have.

use std::sync::Arc;

use dashmap::DashMap;

use super::{attachment::Attachment, handle::SessionHandle};
use crate::protocol::session_id::{IdHash, SessionId};

/// See the module's text.
#[derive(Debug, Default)]
pub struct Directory {
    sessions: DashMap<SessionId, SessionHandle, IdHash>,
    attachments: DashMap<SessionId, Vec<Arc<Attachment>>, IdHash>,
}

impl Directory {
    /// The actor of a session that this process owns. Not one that has broken.
    pub fn session(&self, session: &SessionId) -> Option<SessionHandle> {
        let actor = self.sessions.get(session)?.value().clone();
        if actor.connected() {
            return Some(actor);
        }
        // It has panicked, or is about to leave by itself: nobody takes its messages.
        self.remove_session(session, &actor);
        None
    }

    /// This process owns the session now.
    pub fn insert_session(&self, session: SessionId, actor: SessionHandle) {
        self.sessions.insert(session, actor);
    }

    /// `actor` has ended; a newer actor of the same session stays.
    pub fn remove_session(&self, session: &SessionId, actor: &SessionHandle) {
        self.sessions.remove_if(session, |_, known| known == actor);
    }

    /// A client stream is held here.
    pub fn insert_attachment(&self, attachment: Arc<Attachment>) {
        self.attachments.entry(attachment.session).or_default().push(attachment);
    }

    /// A client stream has ended; others of the session stay (OWN-8).
    pub fn remove_attachment(&self, attachment: &Attachment) {
        self.attachments.remove_if_mut(&attachment.session, |_, attachments| {
            attachments.retain(|other| other.id != attachment.id);
            attachments.is_empty()
        });
    }

    /// The client streams of a session that are held here.
    pub fn attachments(&self, session: &SessionId) -> Vec<Arc<Attachment>> {
        self.attachments.get(session).map(|attachments| attachments.value().clone()).unwrap_or_default()
    }

    /// All owned sessions.
    pub fn sessions(&self) -> Vec<(SessionId, SessionHandle)> {
        self.sessions.retain(|_, actor| actor.connected());
        self.sessions.iter().map(|session| (*session.key(), session.value().clone())).collect()
    }

    /// All held client streams.
    pub fn all_attachments(&self) -> Vec<Arc<Attachment>> {
        self.attachments.iter().flat_map(|attachments| attachments.value().clone()).collect()
    }

    /// How many sessions this process owns.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }
}
