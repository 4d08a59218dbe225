//! The SSE event id `<session>.<stream>.<epoch>.<seq>`: opaque to clients, made and parsed here alone.
//!
//! It carries the session because `Last-Event-ID` is all that an `EventSource` client sends when it comes back, and the
//! epoch so that a cursor from before a loss of data is recognised and never silently matched (EVT-6).

use std::str::FromStr;

use bytes::BufMut;

use data_encoding::HEXLOWER;

use super::session_id::SessionId;

/// A client's place in one stream. Not `Display`: it holds the session's secret (SEC-2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventId {
    /// The session.
    pub session: SessionId,
    /// The stream within it: 1 to 32 characters of `[A-Za-z0-9_-]`.
    pub stream: String,
    /// The session's epoch.
    pub epoch: u32,
    /// Sequence of the last event seen; 0 before the first.
    pub seq: u64,
}

/// The text is no event id of this router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an event id of this router")]
pub struct InvalidEventId;

/// Behind the id of the last event of a stream that the router has ended on purpose: its client has not lost it.
pub const PAUSED: &str = ".p";

impl EventId {
    /// Most bytes of the wire form besides the stream's name: session, three dots, epoch, sequence.
    pub const MAX_LEN_WITHOUT_STREAM: usize = 32 + 3 + 8 + 20;

    /// Appends the wire form to `out`.
    pub fn write(out: &mut impl BufMut, session: &SessionId, stream: &str, epoch: u32, seq: u64) {
        out.put_slice(&session.reveal_bytes());
        out.put_u8(b'.');
        out.put_slice(stream.as_bytes());
        out.put_u8(b'.');
        let mut epoch_digits = [0; 8];
        HEXLOWER.encode_mut(&epoch.to_be_bytes(), &mut epoch_digits);
        out.put_slice(&epoch_digits);
        out.put_u8(b'.');
        let mut digits = [0; 20];
        let mut first = digits.len();
        let mut rest = seq;
        loop {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        out.put_slice(&digits[first..]);
    }

    /// The wire form.
    pub fn reveal(&self) -> String {
        let mut text = Vec::with_capacity(Self::MAX_LEN_WITHOUT_STREAM + self.stream.len());
        Self::write(&mut text, &self.session, &self.stream, self.epoch, self.seq);
        text.into_iter().map(char::from).collect()
    }
}

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.');
        let (Some(session), Some(stream), Some(epoch), Some(seq), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidEventId);
        };
        let stream_is_sound = (1..=32).contains(&stream.len())
            && stream.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        // As they are written and in no other way: one place has one id.
        let epoch_is_sound = epoch.len() == 8 && epoch.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let seq_is_sound = seq.bytes().all(|byte| byte.is_ascii_digit()) && (seq == "0" || !seq.starts_with('0'));
        if !stream_is_sound || !epoch_is_sound || !seq_is_sound {
            return Err(InvalidEventId);
        }
        Ok(Self {
            session: session.parse().map_err(|_| InvalidEventId)?,
            stream: stream.to_owned(),
            epoch: u32::from_str_radix(epoch, 16).map_err(|_| InvalidEventId)?,
            seq: seq.parse().map_err(|_| InvalidEventId)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_event_id_survives_the_wire() {
        let id = EventId { session: SessionId::random(), stream: "g".into(), epoch: 0xbeef, seq: 42 };
        assert_eq!(id.reveal().parse(), Ok(id));
    }

    #[test]
    fn foreign_ids_are_refused() {
        let sid = SessionId::random().reveal();
        for bad in [
            "",
            "7",
            &sid,
            &format!("{sid}.g.0000beef"),
            &format!("{sid}.g.0000beef.1.2"),
            &format!("{sid}..0000beef.1"),
            &format!("{sid}.g.beef.1"),
            &format!("{sid}.g.0000beef.-1"),
            &format!("{sid}.g.0000beef.+1"),
            &format!("{sid}.g.0000beef."),
            &format!("{sid}.g.0000beef.01"),
            &format!("{sid}.g.0000BEEF.1"),
            &format!("{sid}.g.+000beef.1"),
            &format!("{sid}.g/x.0000beef.1"),
            &format!("{sid}.g.0000beef.99999999999999999999999"),
        ] {
            assert_eq!(bad.parse::<EventId>(), Err(InvalidEventId), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_place_has_one_id(stream in "[A-Za-z0-9_-]{1,32}", epoch: u32, seq: u64, few in 0u64..12) {
            for seq in [seq, few] {
                let id = EventId { session: SessionId::random(), stream: stream.clone(), epoch, seq };
                prop_assert_eq!(id.reveal().parse(), Ok(id));
            }
        }

        /// EVT-6
        #[test]
        fn what_is_read_as_an_event_id_is_written_so(
            session in prop_oneof![9 => "[0-9a-f]{32}", 1 => "[0-9a-fA-F]{31,33}"],
            rest in prop_oneof![
                "[.][a-zA-Z0-9_/-]{0,33}[.][+0-9a-fA-F]{8}[.][+0-9]{0,21}",
                "[.]g[.][0-9a-f]{8}[.][0-9]{1,3}[.]?",
                any::<String>(),
            ],
        ) {
            let text = session + &rest;
            if let Ok(id) = text.parse::<EventId>() {
                prop_assert_eq!(id.reveal(), text);
            }
        }
    }
}
