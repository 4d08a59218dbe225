//! What places to ask have in common ([`Source`]).

use std::time::Duration;

use async_trait::async_trait;

use crate::settings::UpstreamUrl;

/// A place to ask.
#[async_trait(?Send)]
pub(super) trait Source {
    /// The servers that it has now, and for how long that counts, if it says so.
    ///
    /// # Errors
    /// In words, without a secret.
    async fn find(&mut self) -> Result<(Vec<UpstreamUrl>, Option<Duration>), String>;
}
