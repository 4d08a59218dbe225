//! What is written to a client's stream is read back by the book: nothing in a message can end its event or begin another.

use std::time::Duration;

use bytes::Bytes;
use mcp_router::{
    http::frame::{Named, block, unnumbered},
    protocol::{event_id::EventId, session_id::SessionId, sse_reader},
    session::attachment::{Block, Told},
};
use testkit::sse::{Parser, Piece};

/// Bytes: bodies, with a 0xFF between two of them.
pub fn frame(data: &[u8]) {
    let session: SessionId = "00112233445566778899aabbccddeeff".parse().expect("32 hexadecimal digits");
    let named = Named { session, stream: "g", endpoint: |_: &SessionId, _: Option<u64>| "/m".to_owned() };
    let bodies: Vec<Bytes> = data.split(|byte| *byte == 0xff).take(32).map(Bytes::copy_from_slice).collect();
    let mut told = Block::default();
    told.push(Told::Opening { epoch: 7, seq: 0, retry: Duration::from_millis(500), proof: None });
    for (at, body) in bodies.iter().enumerate() {
        told.push(match at % 3 {
            2 => Told::Unnumbered(body.clone()),
            _ => Told::Event { epoch: 7, seq: at as u64, body: body.clone() },
        });
        told.push(Told::Heartbeat);
    }
    let written = block(&named, &told);

    let mut parser = Parser::default();
    parser.text.extend_from_slice(&written);
    let pieces: Vec<Piece> = std::iter::from_fn(|| parser.next_piece()).collect();
    assert!(parser.text.is_empty(), "nothing is left over");
    let mut events = pieces.iter().filter_map(|piece| match piece {
        Piece::Event(event) => Some(event),
        Piece::Comment(comment) => {
            assert_eq!(&comment[..], b"hb");
            None
        }
    });
    let opening = events.next().expect("the opening");
    assert!(opening.is_endpoint() && &opening.data[..] == b"/m");
    for (at, body) in bodies.iter().enumerate() {
        let event = events.next().expect("each message is an event");
        assert!(event.is_message());
        assert_eq!(event.data, in_lines(body));
        let id = event.id.as_ref().map(|id| std::str::from_utf8(id).expect("an id is text").parse());
        let expected = EventId { session, stream: "g".to_owned(), epoch: 7, seq: at as u64 };
        assert_eq!(id, (at % 3 != 2).then_some(Ok(expected)));
    }
    assert_eq!(events.next(), None);

    // The router's own reader, alone and in the one form that has no id.
    let mut read = Vec::new();
    let mut reader = sse_reader::Reader::new(usize::MAX, usize::MAX);
    let fed = reader.feed(&unnumbered(data), |what| match what {
        sse_reader::Read::Event { name, data, .. } => read.push((name.to_owned(), data)),
        other => panic!("{other:?}"),
    });
    assert_eq!(fed, Ok(()));
    let expected = String::from_utf8_lossy(&in_lines(data)).into_owned();
    assert_eq!(read, [("message".to_owned(), Bytes::from(expected))]);
}

/// Line breaks of each kind become line feeds.
fn in_lines(body: &[u8]) -> Vec<u8> {
    body.iter().map(|byte| if *byte == b'\r' { b'\n' } else { *byte }).collect()
}
