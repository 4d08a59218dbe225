//! Framing of server-sent events (WHATWG HTML, section 9.2), as the stock MCP clients need it.
//!
//! Writing is ours because the bytes are measured needs (one block for the opening, a heartbeat that is one comment line
//! without a blank line); reading is `russe`'s, behind a guard that keeps large events linear.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use russe::{Decoder, Event};
use tokio_util::codec::Decoder as _;

use super::{event_id::EventId, session_id::SessionId};

/// A comment line. Without a blank line behind it: one would dispatch an (empty) event in old Python clients once an
/// `id:` was seen.
pub const HEARTBEAT: &[u8] = b": hb\n";

/// Frames one `message` event with its id.
pub fn message(session: &SessionId, stream: &str, epoch: u32, seq: u64, body: &[u8]) -> Bytes {
    let mut head = String::with_capacity(96);
    head.push_str("id: ");
    EventId::write(&mut head, session, stream, epoch, seq);
    frame_with_head(head, "message", body)
}

/// Frames one event without an id: it moves no cursor.
pub fn unnumbered(event: &str, body: &[u8]) -> Bytes {
    frame_with_head(String::new(), event, body)
}

fn frame_with_head(mut head: String, event: &str, body: &[u8]) -> Bytes {
    if !head.is_empty() {
        head.push('\n');
    }
    let mut frame = BytesMut::with_capacity(head.len() + event.len() + body.len() + 24);
    frame.extend_from_slice(head.as_bytes());
    frame.extend_from_slice(b"event: ");
    frame.extend_from_slice(event.as_bytes());
    frame.extend_from_slice(b"\n");
    // JSON has line breaks only between tokens, so splitting there and joining with LF keeps the value.
    for line in body.split(|byte| *byte == b'\n' || *byte == b'\r') {
        frame.extend_from_slice(b"data: ");
        frame.extend_from_slice(line);
        frame.extend_from_slice(b"\n");
    }
    frame.extend_from_slice(b"\n");
    frame.freeze()
}

/// The first block of a stream, in one piece: cursor, reconnection time, endpoint. EVT-7.
pub fn opening(session: &SessionId, stream: &str, epoch: u32, seq: u64, retry: Duration, endpoint: &str) -> Bytes {
    let mut text = String::with_capacity(192);
    text.push_str("id: ");
    EventId::write(&mut text, session, stream, epoch, seq);
    text.push_str(&format!("\nretry: {}\nevent: endpoint\ndata: {endpoint}\n\n", retry.as_millis()));
    Bytes::from(text)
}

/// An event is larger than the limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// More bytes without the end of an event than allowed.
    #[error("an event is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// Not UTF-8.
    #[error("the event stream is malformed: {0}")]
    Malformed(String),
}

/// Incremental reader of an event stream.
#[derive(Debug)]
pub struct Reader {
    decoder: Decoder,
    buffer: BytesMut,
    limit: usize,
}

thread_local! {
    // Cloning shares the search automaton; building one per stream would cost kilobytes each.
    static DECODER: Decoder = Decoder::default();
}

impl Reader {
    /// `limit`: most bytes one event may have.
    pub fn new(limit: usize) -> Self {
        Self { decoder: DECODER.with(Clone::clone), buffer: BytesMut::new(), limit }
    }

    /// Takes the next bytes and hands every complete message event to `sink` as (event name, data).
    ///
    /// # Errors
    /// [`ReadError`]; the stream cannot be read on.
    pub fn feed(&mut self, chunk: &[u8], mut sink: impl FnMut(&str, Bytes)) -> Result<(), ReadError> {
        // The decoder searches its whole buffer for a blank line at each call: without a line break at the seam or
        // inside the new bytes that would be quadratic for an event of megabytes.
        let seam = self.buffer.last().is_some_and(|byte| is_break(*byte));
        let may_end = (seam && chunk.first().is_some_and(|byte| is_break(*byte)))
            || chunk.windows(2).any(|pair| is_break(pair[0]) && is_break(pair[1]));
        self.buffer.extend_from_slice(chunk);
        if may_end {
            loop {
                match self.decoder.decode(&mut self.buffer) {
                    Ok(Some(Event::Message(message))) => {
                        let name = message.event.as_deref().unwrap_or("message");
                        sink(name, message.data.clone().into_bytes());
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => return Err(ReadError::Malformed(error.to_string())),
                }
            }
            if self.buffer.is_empty() {
                // Gives a large event's buffer back: idle streams must cost little.
                self.buffer = BytesMut::new();
            }
        }
        if self.buffer.len() > self.limit {
            return Err(ReadError::TooLarge { limit: self.limit });
        }
        Ok(())
    }
}

fn is_break(byte: u8) -> bool {
    byte == b'\n' || byte == b'\r'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_in_pieces(text: &[u8], size: usize) -> Vec<(String, String)> {
        let mut reader = Reader::new(1 << 20);
        let mut events = Vec::new();
        for piece in text.chunks(size) {
            reader
                .feed(piece, |name, body| events.push((name.to_owned(), String::from_utf8(body.to_vec()).unwrap())))
                .unwrap();
        }
        events
    }

    #[test]
    fn what_is_written_is_read_again_however_it_is_cut() {
        let sid = SessionId::random();
        let mut text = opening(&sid, "g", 1, 0, Duration::from_millis(500), "/x?sessionId=1").to_vec();
        text.extend_from_slice(HEARTBEAT);
        text.extend_from_slice(&message(&sid, "g", 1, 1, b"{\"a\":\n1}"));
        text.extend_from_slice(&message(&sid, "g", 1, 2, "{\"b\":\"\u{2028}é\"}".as_bytes()));
        let expected = [
            ("endpoint".to_owned(), "/x?sessionId=1".to_owned()),
            ("message".to_owned(), "{\"a\":\n1}".to_owned()),
            ("message".to_owned(), "{\"b\":\"\u{2028}é\"}".to_owned()),
        ];
        for size in 1..text.len() {
            assert_eq!(read_in_pieces(&text, size), expected, "pieces of {size}");
        }
    }

    #[test]
    fn every_line_ending_of_the_specification_is_read() {
        for ending in ["\n", "\r\n", "\r"] {
            let text = format!("event: endpoint{ending}data: /m{ending}{ending}data: x{ending}{ending}");
            for size in 1..6 {
                assert_eq!(read_in_pieces(text.as_bytes(), size).len(), 2, "{ending:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn the_opening_is_one_block_with_the_cursor_first() {
        let sid = SessionId::random();
        let text = opening(&sid, "g", 0xff, 3, Duration::from_millis(420), "/m");
        let expected = format!("id: {}.g.000000ff.3\nretry: 420\nevent: endpoint\ndata: /m\n\n", sid.reveal());
        assert_eq!(text, expected.as_bytes());
    }

    #[test]
    fn an_event_beyond_the_limit_is_refused() {
        let mut reader = Reader::new(10);
        assert_eq!(reader.feed(b"data: 0123456789", |_, _| ()), Err(ReadError::TooLarge { limit: 10 }));
    }
}
