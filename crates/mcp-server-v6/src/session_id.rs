//! The session id: a random UUID, and a secret.
//!
//! Whoever knows it can speak for the session. So `Display` and `Debug` print its beginning alone, which tells sessions
//! apart in a log; [`SessionId::reveal`] is for the wire.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// A session id. 32 lower-case hex digits on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SessionId(Uuid);

/// The text is not 32 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InvalidSessionId;

impl SessionId {
    /// A fresh id from the operating system's random source.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The whole id, for the wire. Never for logs or errors.
    pub fn reveal(&self) -> String {
        self.0.simple().to_string()
    }
}

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `Uuid` reads more spellings; a session has one.
        let is_wire = text.len() == 32 && !text.bytes().any(|digit| digit.is_ascii_uppercase());
        if is_wire { Uuid::try_parse(text).map(Self).map_err(|_| InvalidSessionId) } else { Err(InvalidSessionId) }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, ..] = self.0.into_bytes();
        write!(f, "{a:02x}{b:02x}{c:02x}…")
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_survives_the_wire_in_one_spelling_and_hides_in_logs() {
        let id = SessionId::random();
        let wire = id.reveal();
        assert_eq!(wire.parse(), Ok(id));
        assert!(!format!("{id} {id:?}").contains(&wire[..10]));
        assert_ne!(SessionId::random(), id);
        for bad in ["", "abc", &"g".repeat(32), &"A".repeat(32), &id.0.hyphenated().to_string()] {
            assert_eq!(bad.parse::<SessionId>(), Err(InvalidSessionId), "{bad}");
        }
    }
}
