//! What is told of a message that is too large to be kept is what the message says, however it comes in pieces.

use bytes::Bytes;
use mcp_router::protocol::{
    jsonrpc::{Head, IdKey, Kind, split_batch},
    scan::{Scan, Told},
};

use super::choices::{Choices, pieces};

/// Messages of one text of which is told (`MAX_TOLD`), and the longest id (`MAX_ID`).
const MOST: (usize, usize) = (1024, 256);

/// Bytes: four sizes of pieces, and the text.
pub fn scan(data: &[u8]) {
    let mut choices = Choices::of(data);
    let sizes: [u8; 4] = choices.bytes();
    let text = choices.rest();

    let whole = Scan::of(text);
    assert!((1..=MOST.0).contains(&whole.len()), "{} things are told", whole.len());
    for told in &whole {
        let (Told::Answer(id) | Told::Request(id)) = told else { continue };
        assert!(id.len() <= MOST.1 && IdKey::of_json(id).is_some(), "{id} is no id");
        serde_json::from_str::<serde::de::IgnoredAny>(id).expect("an id is JSON");
    }
    assert_eq!(whole.len() > 1, whole.len() > 1 && !whole.contains(&Told::Nothing), "nothing is told only alone");

    let mut scan = Scan::default();
    pieces(text, &sizes).into_iter().for_each(|piece| scan.feed(piece));
    assert_eq!(scan.finish(), whole, "in pieces of {sizes:?}");

    let mut scan = Scan::default();
    let mut early = Vec::new();
    for piece in pieces(text, &sizes) {
        scan.feed(piece);
        early.extend(scan.take_found());
    }
    early.extend(scan.finish());
    early.retain(|told| *told != Told::Nothing);
    assert!(early.len() <= MOST.0, "{} things are told early", early.len());

    if let Ok(head) = Head::parse(text) {
        assert_eq!(whole, [told_by(&head)]);
    }
    if let Some(messages) = split_batch(&Bytes::copy_from_slice(text)) {
        let objects = messages.iter().filter(|message| message.starts_with(b"{"));
        let mut each: Vec<Told> = objects.flat_map(|message| Scan::of(message)).collect();
        each.retain(|told| *told != Told::Nothing);
        each.truncate(MOST.0);
        if each.is_empty() {
            each.push(Told::Nothing);
        }
        assert_eq!(whole, each, "an array tells what its messages tell");
    }
}

fn told_by(head: &Head<'_>) -> Told {
    let id = head.id_text().filter(|id| id.len() <= MOST.1).map(str::to_owned);
    match (&head.kind, id) {
        (Kind::Request { .. }, Some(id)) => Told::Request(id),
        (Kind::Response { id: Some(_), .. }, Some(id)) => Told::Answer(id),
        _ => Told::Nothing,
    }
}
