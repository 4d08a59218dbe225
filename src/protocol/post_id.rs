//! The identity of a POST, by which a second try of it is known (REQ-6).

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PostId {
    bits: u128,
    given: bool,
}

impl PostId {
    /// Of a POST that nobody but this process can try again.
    pub fn random() -> Self {
        Self { bits: fastrand::u128(..), given: false }
    }

    /// Of a POST whose sender has named it. The body is part of it, so that a client which names all its POSTs alike
    /// loses nothing. The same on all instances.
    pub fn of(name: &str, body: &[u8]) -> Self {
        let half = |bytes: &[u8]| {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            hasher.finish()
        };
        Self { bits: u128::from(half(name.as_bytes())) << 64 | u128::from(half(body)), given: true }
    }

    /// The sender may try it again.
    pub fn is_given(self) -> bool {
        self.given
    }
}

impl fmt::Display for PostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// REQ-6
    #[test]
    fn a_post_is_known_by_its_name_and_its_body() {
        let id = PostId::of("one", b"body");
        assert_eq!(id, PostId::of("one", b"body"));
        assert_ne!(id, PostId::of("one", b"another body"));
        assert_ne!(id, PostId::of("two", b"body"));
        assert_ne!(PostId::random(), PostId::random());
        assert_eq!(id.to_string().len(), 32);
    }
}
