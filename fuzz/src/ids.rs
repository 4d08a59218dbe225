//! Session ids and event ids are read as they are written and in no other way.

use mcp_router::protocol::{event_id::EventId, session_id::SessionId};

use super::choices::Choices;

/// Bytes: the text of an id; or, taken as choices, an event id to be written.
pub fn ids(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        read_session(text);
        if let Ok(id) = text.parse::<EventId>() {
            assert_eq!(id.reveal(), text, "one place has one id");
            assert!(text.len() <= EventId::MAX_LEN_WITHOUT_STREAM + id.stream.len());
        }
        if let Some((session, _)) = text.split_once('.') {
            read_session(session);
        }
    }

    let mut choices = Choices::of(data);
    let session = u128::from_be_bytes(choices.bytes());
    let epoch = u32::from_be_bytes(choices.bytes());
    // Short ones, too.
    let seq = u64::from_be_bytes(choices.bytes()) >> (choices.byte() % 64);
    let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    let length = 1 + usize::from(choices.byte() % 32);
    let stream = (0..length).map(|_| char::from(letters[usize::from(choices.byte()) % letters.len()])).collect();
    let session: SessionId = format!("{session:032x}").parse().expect("32 hexadecimal digits");
    let id = EventId { session, stream, epoch, seq };
    assert_eq!(id.reveal().parse(), Ok(id));
}

fn read_session(text: &str) {
    let is_one = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let read = text.parse::<SessionId>();
    assert_eq!(read.map(|id| id.reveal()).ok().as_deref(), is_one.then_some(text));
    if let Ok(id) = read {
        assert_eq!(id.handle(), text[..12]);
        let shown = format!("{id} {id:?}");
        assert!(!shown.contains(&text[..7]), "a log would show more than a short prefix");
    }
}
