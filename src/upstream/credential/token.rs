//! A token of an authorization server, or why there is none.

use std::time::Instant;

use actix_http::header::HeaderValue;

/// Why there is no credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::upstream) enum NoCredential {
    /// Perhaps there is one later.
    #[error("no token for the server: {0}")]
    NotNow(String),
    /// Not for who asks.
    #[error("no token for the server: {0}")]
    Never(String),
}

/// An access token.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) value: HeaderValue,
    pub(super) ends: Instant,
}
