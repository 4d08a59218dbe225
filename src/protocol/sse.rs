//! Framing of server-sent events (WHATWG HTML, section 9.2), as the stock MCP clients need it. Ours because the bytes are
//! measured needs (one block for the opening, a heartbeat that is one comment line without a blank line). Reading is
//! [`super::sse_reader`]'s.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_opening_is_one_block_with_the_cursor_first() {
        let sid = SessionId::random();
        let text = opening(&sid, "g", 0xff, 3, Duration::from_millis(420), "/m");
        let expected = format!("id: {}.g.000000ff.3\nretry: 420\nevent: endpoint\ndata: /m\n\n", sid.reveal());
        assert_eq!(text, expected.as_bytes());
    }
}
