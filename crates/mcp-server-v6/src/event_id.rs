//! Event ids of Streamable HTTP: `<stream>-<place>`, so that an id names its stream and is unique in its session
//! (2025-11-25, transports, "Resumability and Redelivery").

use std::{fmt, str::FromStr};

/// Number of a stream within its session.
pub(crate) type StreamNumber = u64;

/// A place in one stream of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventId {
    /// Which stream.
    pub stream: StreamNumber,
    /// Counts from 1 in each stream.
    pub place: u64,
}

/// The text is no event id of this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InvalidEventId;

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.stream, self.place)
    }
}

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `parse` would take a sign.
        let number = |digits: &str| match digits.bytes().all(|digit| digit.is_ascii_digit()) {
            true => digits.parse().map_err(|_| InvalidEventId),
            false => Err(InvalidEventId),
        };
        let (stream, place) = text.split_once('-').ok_or(InvalidEventId)?;
        Ok(Self { stream: number(stream)?, place: number(place)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_id_is_read_as_it_was_written_and_in_no_other_spelling() {
        for id in [EventId { stream: 0, place: 1 }, EventId { stream: 12, place: u64::MAX }] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for bad in ["", "1", "-", "1-", "-1", "1-+2", "1--2", "1-2-3", "1-99999999999999999999", "a-1"] {
            assert_eq!(bad.parse::<EventId>(), Err(InvalidEventId), "{bad}");
        }
    }
}
