//! An event stream is read by the book, however it is cut, and no more of it is kept than is allowed.

use mcp_router::protocol::sse_reader::{Read, Reader};
use testkit::sse::{Parser, Piece};

use super::choices::{Choices, pieces};

/// Longer names are cut: none of that length means anything.
const MAX_NAME: usize = 64;

/// Name, data, and whether something of it had to be replaced.
type Event = (String, String, bool);

/// Bytes: limit, limit of what is passed over, four sizes of pieces, and the stream.
pub fn sse_reader(data: &[u8]) {
    let mut choices = Choices::of(data);
    let limit = usize::from(choices.byte());
    let skip_limit = 4 * usize::from(choices.byte());
    let sizes: [u8; 4] = choices.bytes();
    let text = choices.rest();
    let pieces = pieces(text, &sizes);

    let book = by_the_book(text);
    for pieces in [&[text][..], &pieces] {
        // Each byte that is no text may become three.
        let read = read(pieces, 3 * text.len(), 3 * text.len());
        assert_eq!(read.events, book);
        assert!(!read.is_given_up && read.too_large <= 1024 * read.events.len());
    }

    let whole = read(&[text], limit, skip_limit);
    let cut = read(&pieces, limit, skip_limit);
    assert_eq!((&whole.events, whole.is_given_up), (&cut.events, cut.is_given_up), "in pieces of {sizes:?}");
    assert_eq!(whole.marks, cut.marks, "in pieces of {sizes:?}");
    let mut small = book.into_iter().filter(|(_, data, _)| data.len() <= limit);
    for event in whole.events {
        assert_eq!(Some(event), small.next());
    }
    assert!(whole.is_given_up || small.next().is_none(), "an event within the limit is lost");
}

struct WasRead {
    events: Vec<Event>,
    /// Ids and pauses, and how many events there were before.
    marks: Vec<(usize, String)>,
    too_large: usize,
    is_given_up: bool,
}

fn read(pieces: &[&[u8]], limit: usize, skip_limit: usize) -> WasRead {
    let mut reader = Reader::new(limit, skip_limit);
    let mut read = WasRead { events: Vec::new(), marks: Vec::new(), too_large: 0, is_given_up: false };
    for piece in pieces {
        let fed = reader.feed(piece, |what| match what {
            Read::Event { name, data, is_altered } => {
                assert!(data.len() <= limit, "an event of {} bytes", data.len());
                let data = String::from_utf8(data.to_vec()).expect("an event is text");
                read.events.push((name.to_owned(), data, is_altered));
            }
            Read::Id(id) => read.marks.push((read.events.len(), id.to_owned())),
            Read::Retry(pause) => read.marks.push((read.events.len(), format!("in {pause} ms"))),
            Read::TooLarge(_) => read.too_large += 1,
        });
        if let Err(endless) = fed {
            assert!(endless.skipped > skip_limit);
            read.is_given_up = true;
            break;
        }
    }
    read
}

/// As the test kit reads it, which has no limits and leaves bytes as they are.
fn by_the_book(text: &[u8]) -> Vec<Event> {
    let mut parser = Parser::default();
    parser.text.extend_from_slice(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text));
    let pieces = std::iter::from_fn(|| parser.next_piece());
    let event = |piece| {
        let Piece::Event(event) = piece else { return None };
        let name = match &event.name[..event.name.len().min(MAX_NAME)] {
            b"" => "message",
            name => std::str::from_utf8(name).unwrap_or_default(),
        };
        let data = String::from_utf8_lossy(&event.data);
        Some((name.to_owned(), data.to_string(), data.as_bytes() != &event.data[..]))
    };
    pieces.filter_map(event).collect()
}
