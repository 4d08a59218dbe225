//! The session id: 128 random bits, and a secret.
//!
//! Whoever knows it can speak for the session, so neither `Debug` nor `Display` shows it (SEC-2): both print a short
//! prefix. [`SessionId::reveal`] is the only way to the full text and is for the wire and the store alone.

use std::{
    collections::HashMap,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

use data_encoding::HEXLOWER;

/// A session id. 32 lower-case hex digits on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId([u8; 16]);

/// Digits of a handle.
const HANDLE: usize = 12;

/// The text is not 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session id is 32 hexadecimal digits")]
pub struct InvalidSessionId;

impl SessionId {
    /// A fresh id from the operating system's random source.
    pub fn random() -> Self {
        Self(random_bytes())
    }

    /// The whole id, for the wire and the store. Never for logs, metrics or errors.
    pub fn reveal(&self) -> String {
        self.reveal_bytes().iter().map(|b| char::from(*b)).collect()
    }

    /// Its first 12 digits: a name for operators, which tells sessions apart and is far from enough to speak for one. What
    /// stands in logs ([`fmt::Display`]) is its beginning.
    pub fn handle(&self) -> String {
        self.reveal_bytes().iter().take(HANDLE).map(|digit| char::from(*digit)).collect()
    }

    /// One of its random bytes, to spread sessions over shards.
    pub fn shard_byte(&self) -> u8 {
        self.0[15]
    }

    /// As [`Self::reveal`], without an allocation.
    pub fn reveal_bytes(&self) -> [u8; 32] {
        let mut text = [0; 32];
        HEXLOWER.encode_mut(&self.0, &mut text);
        text
    }
}

/// How maps by session hash their keys.
pub type IdHash = foldhash::fast::RandomState;

/// A map by session.
pub type SessionMap<V> = HashMap<SessionId, V, IdHash>;

impl Hash for SessionId {
    /// Half of it is random enough.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// 16 bytes from the operating system, by way of `uuid`'s own source.
fn random_bytes() -> [u8; 16] {
    // A version-4 UUID fixes 6 of its bits; two of them folded together give 128 free bits.
    let (a, b) = (uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes());
    let mut bytes = [0u8; 16];
    bytes[..6].copy_from_slice(&a[..6]);
    bytes[6..12].copy_from_slice(&a[10..]);
    bytes[12..].copy_from_slice(&b[..4]);
    bytes
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}{:02x}…", self.0[0], self.0[1], self.0[2])
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0u8; 16];
        match HEXLOWER.decode_len(text.len()) {
            Ok(16) => HEXLOWER.decode_mut(text.as_bytes(), &mut bytes).map_err(|_| InvalidSessionId)?,
            _ => return Err(InvalidSessionId),
        };
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_session_id_survives_the_wire_and_hides_in_logs() {
        let id = SessionId::random();
        let wire = id.reveal();
        assert_eq!(wire.parse::<SessionId>(), Ok(id));
        assert!(!format!("{id} {id:?}").contains(&wire[..10]));
        assert_ne!(SessionId::random(), id);
        for bad in ["", "abc", &"g".repeat(32), &"A".repeat(32)] {
            assert_eq!(bad.parse::<SessionId>(), Err(InvalidSessionId));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_session_id_is_read_as_it_is_written(bytes: [u8; 16]) {
            let wire = SessionId(bytes).reveal();
            prop_assert_eq!(wire.parse(), Ok(SessionId(bytes)));
            prop_assert_eq!(wire.get(..HANDLE), Some(&*SessionId(bytes).handle()));
        }

        #[test]
        fn what_is_read_as_a_session_id_is_written_so(
            text in prop_oneof!["[0-9a-f]{32}", "[0-9a-fA-F]{31,33}", "[0-9a-f]{30}é", any::<String>()],
        ) {
            let is_one = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            prop_assert_eq!(text.parse::<SessionId>().ok().map(|id| id.reveal()), is_one.then_some(text));
        }
    }
}
