//! Types of settings that the standard library has no word for. Those that hold a secret never print it.

use std::fmt;

use super::{
    mask::{MASK, mask_url},
    source_url::SourceUrl,
    upstream_url::UpstreamUrl,
};

/// A secret. `Debug` does not show it; [`Secret::expose`] is the only way to the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The secret itself: to compare (in constant time) or to send, never to log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// The address of Redis. It may hold a password: `Debug` and `Display` mask it.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    text: String,
    /// Of a primary that Sentinels watch.
    watched: Option<Watched>,
    /// Of a Redis Cluster.
    spread: Option<Spread>,
}

/// A Redis Cluster, by some of its nodes.
#[derive(Clone, PartialEq, Eq)]
pub struct Spread {
    /// Host and port of each.
    pub nodes: Vec<(String, u16)>,
    /// As with Sentinels.
    pub node: String,
}

/// A primary, by the Sentinels that know where it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Watched {
    /// URLs of the Sentinels, with the password that they ask for.
    pub sentinels: Vec<String>,
    /// Its name there.
    pub name: String,
    /// A URL of a node, as there is no other way to say user, password and database: its host is nobody's.
    pub node: String,
}

impl RedisUrl {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), watched: None, spread: None }
    }

    pub(super) fn of_watched(text: &str, watched: Watched) -> Self {
        Self { watched: Some(watched), ..Self::new(text) }
    }

    pub(super) fn of_spread(text: &str, spread: Spread) -> Self {
        Self { spread: Some(spread), ..Self::new(text) }
    }

    /// The whole URL, password included: for the client that connects, never to log.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// What it says of Sentinels, passwords included.
    pub fn watched(&self) -> Option<&Watched> {
        self.watched.as_ref()
    }

    /// What it says of a Redis Cluster, password included.
    pub fn spread(&self) -> Option<&Spread> {
        self.spread.as_ref()
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_url(&self.text))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A named group of equal endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamService {
    /// Name in the router's paths: 1 to 64 of `A-Z a-z 0-9 . _ -`, unique.
    pub name: String,
    /// All different, all `http` or `https` with a host. There is one, or a source.
    pub endpoints: Vec<UpstreamUrl>,
    /// Where others are found; all different.
    pub sources: Vec<SourceUrl>,
}

/// An allow-list that may be open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// `*`: whatever it is.
    Any,
    /// These alone, in the canonical form of their kind (lower case).
    Listed(Vec<String>),
}

impl Allowed {
    /// Whether the list covers `candidate`, which is compared without regard to case.
    pub fn covers(&self, candidate: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(listed) => listed.iter().any(|entry| entry.eq_ignore_ascii_case(candidate)),
        }
    }
}

/// The MCP transport of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// By the form of each URL, else as the server answers.
    Auto,
    /// HTTP+SSE (2024-11-05).
    Sse,
    /// Streamable HTTP (2025-03-26 and later).
    Streamable,
}

/// The era of the protocol that the servers are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraSetting {
    /// As each server says.
    Auto,
    /// With a handshake: up to 2025-11-25.
    Legacy,
    /// With metadata in each request: 2026-07-28.
    Modern,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text an event, for people.
    Text,
    /// One JSON object an event, for collectors.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_secret() {
        let shown = format!("{:?} {:?}", Secret::new("tok"), RedisUrl::new("redis://u:pw@h"));
        assert_eq!(shown, "*** redis://***@h");
    }

    #[test]
    fn an_allow_list_ignores_case() {
        let hosts = Allowed::Listed(vec!["localhost".into()]);
        assert!(hosts.covers("LocalHost"));
        assert!(!hosts.covers("localhost.evil"));
        assert!(Allowed::Any.covers("anything"));
    }
}
