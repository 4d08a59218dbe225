//! Framing of server-sent events (WHATWG HTML, section 9.2), as the stock MCP clients need it.
//!
//! Writing is ours because the bytes are measured needs (one block for the opening, a heartbeat that is one comment line
//! without a blank line); reading is `russe`'s, behind a guard that keeps large events linear, and a short way for what
//! servers usually send: whole events of one `data` line.

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
    const AROUND: usize = "id: \nevent: message\ndata: \n\n".len() + EventId::MAX_LEN_WITHOUT_STREAM;
    let mut frame = BytesMut::with_capacity(AROUND + stream.len() + body.len());
    frame.extend_from_slice(b"id: ");
    EventId::write(&mut frame, session, stream, epoch, seq);
    frame.extend_from_slice(b"\nevent: message\n");
    put_data(&mut frame, body);
    frame.freeze()
}

/// Frames one event without an id: it moves no cursor.
pub fn unnumbered(event: &str, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(event.len() + body.len() + 24);
    frame.extend_from_slice(b"event: ");
    frame.extend_from_slice(event.as_bytes());
    frame.extend_from_slice(b"\n");
    put_data(&mut frame, body);
    frame.freeze()
}

/// The data of an event and its end. JSON has line breaks only between tokens, so splitting there and joining with LF
/// keeps the value.
fn put_data(frame: &mut BytesMut, mut body: &[u8]) {
    while let Some(at) = memchr::memchr2(b'\n', b'\r', body) {
        frame.extend_from_slice(b"data: ");
        frame.extend_from_slice(&body[..at]);
        frame.extend_from_slice(b"\n");
        body = &body[at + 1..];
    }
    frame.extend_from_slice(b"data: ");
    frame.extend_from_slice(body);
    frame.extend_from_slice(b"\n\n");
}

/// The first block of a stream, in one piece: cursor, reconnection time, endpoint. EVT-7.
pub fn opening(session: &SessionId, stream: &str, epoch: u32, seq: u64, retry: Duration, endpoint: &str) -> Bytes {
    let mut text = BytesMut::with_capacity(192);
    text.extend_from_slice(b"id: ");
    EventId::write(&mut text, session, stream, epoch, seq);
    let rest = format!("\nretry: {}\nevent: endpoint\ndata: {endpoint}\n\n", retry.as_millis());
    text.extend_from_slice(rest.as_bytes());
    text.freeze()
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
        let chunk = if self.buffer.is_empty() { take_plain_events(chunk, &mut sink) } else { chunk };
        if chunk.is_empty() {
            return Ok(());
        }
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

/// Hands out the whole events at the start of `chunk` that have one `data` line and nothing unusual, and returns the
/// rest, which the decoder must judge.
fn take_plain_events<'a>(mut chunk: &'a [u8], sink: &mut impl FnMut(&str, Bytes)) -> &'a [u8] {
    while let Some(end) = memchr::memmem::find(chunk, b"\n\n") {
        let Some((name, data)) = std::str::from_utf8(&chunk[..end]).ok().and_then(plain_event) else { break };
        if let Some(data) = data {
            // In memory of its own: it may stay in the log for long, and would keep the whole read buffer.
            sink(name, Bytes::copy_from_slice(data.as_bytes()));
        }
        chunk = &chunk[end + 2..];
    }
    chunk
}

/// Name and data of one event's lines. `None`: there is something in it that the decoder must judge.
fn plain_event(block: &str) -> Option<(&str, Option<&str>)> {
    let (mut name, mut data) = ("message", None);
    for line in block.split('\n') {
        let (field, value) = line.split_once(':')?;
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" if data.is_none() && !value.contains('\r') => data = Some(value),
            "event" if !value.is_empty() && !value.contains('\r') => name = value,
            "id" | "retry" | "" if !value.contains('\r') => {}
            _ => return None,
        }
    }
    Some((name, data))
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

    /// The short way and the decoder agree, whatever comes.
    #[test]
    fn whole_chunks_are_read_as_single_bytes_are() {
        let lines = [
            "data: a", "data:b", "data", "event: x", "event:", "id: 1", ": hb", "", "", "", "retry: 5", "other: y",
            "data: \r",
        ];
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..2000 {
            let mut text = String::new();
            for _ in 0..random.usize(1..12) {
                text.push_str(lines[random.usize(..lines.len())]);
                text.push_str(if random.u8(..8) == 0 { "\r\n" } else { "\n" });
            }
            text.push_str("\n\n");
            let said = |size| {
                let mut events = read_in_pieces(text.as_bytes(), size);
                // What has no data is no event; whether the decoder still tells of it does not matter.
                events.retain(|(_, data)| !data.is_empty());
                events
            };
            assert_eq!(said(text.len()), said(1), "round {round}: {text:?}");
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
