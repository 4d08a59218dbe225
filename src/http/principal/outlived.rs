//! Tokens that do not count any more before their end is come, for responses that go on for long: the authorization server takes
//! one back (RFC 7009), or withdraws the key that has signed it.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    introspection::Introspection,
    tokens::{Tokens, Trouble, is_opaque, unix_now},
};
use crate::gateway::principal::Principal;

/// Between two questions while the authorization server says nothing.
const PAUSE: Duration = Duration::from_secs(1);

impl Tokens {
    /// Returns when this token does not show this principal any more: at `ends`, or before.
    pub(super) async fn outlived(&self, token: &str, principal: &Principal, ends: Instant) {
        match self.introspection.as_ref().filter(|_| is_opaque(token)) {
            Some(introspection) => self.taken_back(introspection, token, principal).await,
            None => {
                tokio::select! {
                    () = sleep_until(ends) => {}
                    () = self.withdrawn(token, principal) => {}
                }
            }
        }
    }

    /// Returns when the key that has signed it is gone.
    async fn withdrawn(&self, token: &str, principal: &Principal) {
        let mut changes = self.jwks.changes();
        // Keys may have changed since the request was judged.
        while self.shows(token, principal) != Some(false) {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns when its authorization server says that it does not count, says nothing for too long, or when it has ended: what
    /// is said of an end may change with each answer.
    async fn taken_back(&self, introspection: &Introspection, token: &str, principal: &Principal) {
        let mut silent_since: Option<Instant> = None;
        loop {
            match self.checked(token, unix_now()) {
                Ok(checked) if checked.principal == *principal => {
                    let ends = Instant::now() + checked.left();
                    let word_ends = introspection.word_ends(token).map_or_else(Instant::now, Instant::from_std);
                    sleep_until(ends.min(word_ends)).await;
                    if Instant::now() >= ends {
                        return;
                    }
                    silent_since = None;
                }
                Err(Trouble::Unsaid) => match silent_since {
                    None => silent_since = Some(Instant::now()),
                    Some(since) if since.elapsed() >= introspection.patience => return,
                    Some(_) => sleep(PAUSE.min(introspection.patience)).await,
                },
                _ => return,
            }
            introspection.learn(token).await;
        }
    }

    /// `None`: nobody can say.
    fn shows(&self, token: &str, principal: &Principal) -> Option<bool> {
        match self.checked(token, unix_now()) {
            Ok(checked) => Some(checked.principal == *principal),
            Err(Trouble::NoKeys | Trouble::Unsaid) => None,
            Err(_) => Some(false),
        }
    }
}
