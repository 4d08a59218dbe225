//! What a client is given to show again at any instance ([`Seal`]): text that only this deployment can have made, for one
//! purpose, for one principal, until some time.
//!
//! It is signed and not encrypted: whoever has it can read it, so nothing stands in it that its client must not know.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;

/// Bytes of a tag (SHA-256).
const TAG: usize = 32;
/// Bytes of the time until which it counts, in seconds.
const UNTIL: usize = 8;

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub struct Seal(hmac::Key);

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

impl Seal {
    /// By a secret that all instances have.
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// `purpose`: what it is; another purpose does not open it. `by`: the principal that may show it.
    pub fn close(&self, purpose: &str, by: &str, life: Duration, payload: &[u8]) -> String {
        let until = seconds(SystemTime::now() + life).to_be_bytes();
        let tag = hmac::sign(&self.0, &signed(purpose, by, until, payload));
        URL_SAFE_NO_PAD.encode([tag.as_ref(), &until, payload].concat())
    }

    /// What is in it. `None`: it was not made here, not for this, not for this principal, or is too old.
    pub fn open(&self, purpose: &str, by: &str, text: &str) -> Option<Vec<u8>> {
        let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (tag, rest) = bytes.split_at_checked(TAG)?;
        let (until, payload) = rest.split_at_checked(UNTIL)?;
        let until: [u8; UNTIL] = until.try_into().ok()?;
        hmac::verify(&self.0, &signed(purpose, by, until, payload), tag).ok()?;
        if seconds(SystemTime::now()) > u64::from_be_bytes(until) {
            return None;
        }
        bytes.drain(..TAG + UNTIL);
        Some(bytes)
    }
}

/// Each part behind its length, so that none can be taken for a piece of another.
fn signed(purpose: &str, by: &str, until: [u8; UNTIL], payload: &[u8]) -> Vec<u8> {
    let length = |part: &str| (part.len() as u64).to_be_bytes();
    [&length(purpose)[..], purpose.as_bytes(), &length(by), by.as_bytes(), &until, payload].concat()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(60);

    /// SEC-1
    #[test]
    fn what_is_sealed_opens_for_what_and_whom_it_was_made_and_no_other() {
        let seal = Seal::new(b"secret");
        let text = seal.close("state", "token:alice", LIFE, b"\0payload");
        assert_eq!(seal.open("state", "token:alice", &text).unwrap(), b"\0payload");
        assert_eq!(seal.open("state", "token:bob", &text), None);
        assert_eq!(seal.open("task", "token:alice", &text), None);
        assert_eq!(seal.open("stat", "etoken:alice", &text), None);
        assert_eq!(Seal::new(b"other").open("state", "token:alice", &text), None);
        assert_eq!(seal.open("state", "", &seal.close("state", "", LIFE, b"")).unwrap(), b"");
        for text in ["", "AAAA", "not base64!"] {
            assert_eq!(seal.open("state", "token:alice", text), None);
        }
    }

    #[test]
    fn each_bit_of_it_counts() {
        let seal = Seal::new(b"secret");
        let sound = URL_SAFE_NO_PAD.decode(seal.close("p", "b", LIFE, b"x")).unwrap();
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            assert_eq!(seal.open("p", "b", &URL_SAFE_NO_PAD.encode(bytes)), None, "{at}");
        }
    }

    #[test]
    fn it_counts_for_its_time_only() {
        let seal = Seal::new(b"secret");
        let past = (seconds(SystemTime::now()) - 1).to_be_bytes();
        let tag = hmac::sign(&seal.0, &signed("p", "b", past, b"x"));
        let text = URL_SAFE_NO_PAD.encode([tag.as_ref(), &past, b"x"].concat());
        assert_eq!(seal.open("p", "b", &text), None);
    }
}
