//! A part of the sessions, under one lock.

use std::time::Instant;

use super::session::Session;
use crate::protocol::session_id::SessionMap;

/// See module documentation.
#[derive(Default)]
pub(super) struct Shard {
    pub(super) sessions: SessionMap<Session>,
    /// Sessions created since the expired ones were last looked for.
    created: usize,
}

impl Shard {
    /// To be called at each creation. Expired sessions leave when they are asked for, or here: a search through the
    /// shard once for so many creations that each of them pays for a few sessions (MEM-4).
    pub(super) fn sweep(&mut self, now: Instant) {
        self.created += 1;
        if self.created > 8 + self.sessions.len() / 4 {
            self.created = 0;
            self.sessions.retain(|_, session| !session.expired(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        protocol::session_id::SessionId,
        store::{Binding, NewSession, Owner},
    };

    fn session(ttl: Duration, now: Instant) -> (SessionId, Session) {
        let id = SessionId::random();
        let new = NewSession {
            restored: None,
            session: id,
            epoch: 1,
            service: String::new(),
            transport: String::new(),
            binding: Binding::default(),
            client: String::new(),
            owner: Owner { instance_id: "i".into(), incarnation: "p".into() },
            attachment: None,
            ttl,
        };
        (id, Session::new(new, now, 0))
    }

    #[test]
    fn expired_sessions_leave_memory_while_others_are_created() {
        let (mut shard, start) = (Shard::default(), Instant::now());
        let ttl = Duration::from_secs(10);
        let mut most = 0;
        // One session a second, each living ten.
        for second in 0..10_000 {
            let now = start + Duration::from_secs(second);
            shard.sweep(now);
            let (id, session) = session(ttl, now);
            shard.sessions.insert(id, session);
            most = most.max(shard.sessions.len());
        }
        assert!(most <= 30, "{most}");
    }
}
