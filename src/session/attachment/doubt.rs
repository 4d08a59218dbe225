//! A stream whose session was found by a cookie alone, which another client of the same program or browser may have sent:
//! until somebody proves whose it is, it tells nothing that is meant for one client.

use std::sync::atomic::Ordering;

use super::pump::{Doubt, Pump};

impl Pump {
    /// The session was found by a cookie alone, which another client of the same program or browser may have sent. Until
    /// the first message of the client shows that it is the session's own, it gets notifications and nothing else: never
    /// somebody else's answers. A new client's session is renewed, and this stream goes on with the new one.
    pub fn in_doubt(mut self, doubt: Doubt) -> Self {
        self.doubt = Some(doubt);
        self.attachment.doubted.store(true, Ordering::Release);
        self
    }

    /// The proof may have come to any instance; the session's head tells.
    pub(super) async fn ask_for_proof(&mut self) {
        let Some(doubt) = self.doubt else { return };
        let proved = !self.attachment.is_doubted()
            || match self.env.store.load(self.attachment.session).await {
                Ok(Some(head)) => {
                    let same_life = head.ownership.is_some_and(|ownership| ownership.epoch == self.epoch);
                    let is_settled = head.doubted != Some(doubt.attach_count);
                    // It has been spoken for under its own URL, too: by a client that keeps to that.
                    same_life && (is_settled || head.in_seq > doubt.in_seq)
                }
                // What follows finds out.
                Ok(None) => false,
                Err(error) => {
                    self.env.count_store_error(&error);
                    false
                }
            };
        if proved {
            self.doubt = None;
            // Now what may have been lost on the way; the notifications up to here are not sent again.
            self.only_needed_until = self.cursor;
            self.cursor = self.cursor.min(doubt.replay_from);
            self.unproven_until = u64::MAX;
        }
    }
}
