//! Names of the client's streams of a session: in event ids, in the log, and in the store's words about who shows what.

use std::borrow::Cow;

/// Name of the one stream of a 2024-11-05 session, and of the GET stream of Streamable HTTP.
pub const MAIN_STREAM: &str = "g";

/// A stream of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum StreamKey {
    /// The one stream of a 2024-11-05 session, and the GET stream of Streamable HTTP.
    #[default]
    Main,
    /// That of the POST of one request, which has this sequence in the inbox.
    Request(u64),
}

impl StreamKey {
    /// As the log and event ids name it.
    pub fn name(self) -> Cow<'static, str> {
        match self {
            Self::Main => Cow::Borrowed(MAIN_STREAM),
            Self::Request(seq) => Cow::Owned(format!("r{seq}")),
        }
    }

    /// The one with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        if name == MAIN_STREAM {
            return Some(Self::Main);
        }
        let key = Self::Request(name.strip_prefix('r')?.parse().ok()?);
        (key.name() == name).then_some(key)
    }
}
