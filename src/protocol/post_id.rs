//! The identity of a POST, by which a second try of it is known (REQ-6).

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

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
    /// loses nothing. The same on all instances, whatever built them: XXH3 (64 bits, no seed) of the name and of the body
    /// (<https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>). Instances that calculate it in another way do
    /// not know each other's tries while they run side by side: change it only with a reason, and say so in the changelog.
    pub fn of(name: &str, body: &[u8]) -> Self {
        Self { bits: u128::from(xxh3_64(name.as_bytes())) << 64 | u128::from(xxh3_64(body)), given: true }
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
    use proptest::prelude::*;

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

    /// REQ-6: instances of different builds know each other's tries. The values are those of the reference implementation
    /// of XXH3, one for each of its ways with short and long inputs.
    #[test]
    fn an_identity_is_the_same_in_every_build() {
        let kibibyte = vec![b'x'; 1024];
        for (name, body, expected) in [
            ("", &b""[..], "2d06800538d394c22d06800538d394c2"),
            ("a", b"abc", "e6c632b61e964e1f78af5f94892f3950"),
            ("81bdf2", br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#, "9ca19a74f4203c0e7184e18b875cd3c5"),
            ("a name of more than sixteen bytes", &kibibyte[..100], "7ccff9ad82e42e22c90984ffdf50ce42"),
            ("a name of more than sixteen bytes", &kibibyte[..200], "7ccff9ad82e42e2250ef124fb1e4de53"),
            ("a name of more than sixteen bytes", &kibibyte[..1024], "7ccff9ad82e42e22fc56a7ce85b3164a"),
        ] {
            assert_eq!(PostId::of(name, body).to_string(), expected, "{name:?} and {} bytes", body.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The store compares the text.
        #[test]
        fn the_text_of_a_post_is_all_of_it(bits in prop_oneof![any::<u128>(), 0u128..300], given: bool) {
            let text = PostId { bits, given }.to_string();
            prop_assert_eq!((text.len(), u128::from_str_radix(&text, 16)), (32, Ok(bits)));
        }

        /// REQ-6
        #[test]
        fn posts_are_one_only_if_name_and_body_are(
            [one, other] in proptest::array::uniform2(("[a-b]{0,2}", "[a-b]{0,2}")),
        ) {
            let id = |post: &(String, String)| PostId::of(&post.0, post.1.as_bytes()).to_string();
            prop_assert_eq!(id(&one) == id(&other), one == other);
        }
    }
}
