//! What the client of a call that has asked something shows when it goes on with it ([`State`]): in which session the call
//! waits, and where. Sealed for its principal; any instance goes on.

use serde::{Deserialize, Serialize};

use crate::{
    gateway::inner::At,
    protocol::{jsonrpc::IdKey, session_id::SessionId},
};

/// What such texts are made for; see [`Seal`](crate::gateway::stateless::seal::Seal).
pub const PURPOSE: &str = "held call";

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The session that works on the call.
    pub session: SessionId,
    /// The place of the call among its messages, by which its stream is named.
    pub request: u64,
    /// The call's id in the session.
    pub id: IdKey,
    /// In the stream: right before what the server has asked.
    pub at: At,
    /// What it has asked: the ids of the questions in the session (JSON text).
    pub asked: Vec<String>,
    /// Of the request: [`fingerprint`](super::translate::fingerprint).
    pub fingerprint: String,
}

#[derive(Serialize, Deserialize)]
struct Written {
    s: String,
    r: u64,
    i: String,
    e: u32,
    q: u64,
    a: Vec<String>,
    f: String,
}

impl State {
    /// To be sealed.
    pub fn write(&self) -> Vec<u8> {
        let written = Written {
            s: self.session.reveal(),
            r: self.request,
            i: self.id.as_json().to_owned(),
            e: self.at.epoch,
            q: self.at.seq,
            a: self.asked.clone(),
            f: self.fingerprint.clone(),
        };
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// From what was sealed.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let Written { s, r, i, e, q, a, f } = serde_json::from_slice(bytes).ok()?;
        Some(Self {
            session: s.parse().ok()?,
            request: r,
            id: IdKey::of_json(&i)?,
            at: At { epoch: e, seq: q },
            asked: a,
            fingerprint: f,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let state = State {
            session: SessionId::random(),
            request: 7,
            id: IdKey::of_json("\"call-1\"").unwrap(),
            at: At { epoch: 3, seq: 9 },
            asked: vec!["\"ask-1\"".to_owned()],
            fingerprint: "f".to_owned(),
        };
        assert_eq!(State::read(&state.write()), Some(state));
        assert_eq!(State::read(b"{}"), None);
    }
}
