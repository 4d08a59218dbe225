//! The index of sessions by instance. Best effort: it may name sessions that are gone or belong to others, and its readers
//! know that. What could not be written, since the index's node was away, is written with a renewal of the lease.

use super::{INDEX_TTL, RedisStore, keys::SessionKeys, millis, scripts::Call};
use crate::protocol::session_id::SessionId;

impl RedisStore {
    /// Sent before what makes the session this instance's, and not waited for: an id too many there is harmless, an id too few
    /// would hide the session from those who look for its owner's remains. The index may be on another node.
    pub(super) fn index_add(&self, instance_id: &str, id: &str) {
        let index = self.keys.index(instance_id);
        let added = self.lanes.post(Call::command("SADD").arg(&index).arg(id));
        let kept = self.lanes.post(Call::command("PEXPIRE").arg(&index).number(millis(INDEX_TTL)));
        let (missing, session) = (self.missing.clone(), id.to_owned());
        tokio::spawn(async move {
            if let Err(error) = added.answer().await {
                tracing::debug!(%error, "the index of sessions by instance was not written");
                missing.note(session);
            }
            let _ = kept.answer().await;
        });
    }

    /// Best effort: an index may name sessions that are gone or belong to others, its readers know that.
    pub(super) async fn index_remove(&self, instance_id: &str, keys: &SessionKeys) {
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
