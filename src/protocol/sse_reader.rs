//! Reading of server-sent events (WHATWG HTML, sections 9.2.5 and 9.2.6), as an upstream sends them.
//!
//! Whatever comes, the stream goes on: a byte order mark is skipped, bytes that are not UTF-8 become U+FFFD, every line
//! ending is one, unknown fields and comments are nothing. An event beyond the limit is passed over without being kept;
//! only the id of the message in it is looked for. A short way leads through what servers usually send: whole events of
//! one `data` line.

use bytes::Bytes;

use super::scan::{Scan, Told};

const BOM: [u8; 3] = [0xef, 0xbb, 0xbf];

/// The longest field name that means anything is `event`.
const MAX_FIELD: usize = 8;

/// The longest event name that means anything is `endpoint`.
const MAX_NAME: usize = 64;

/// What has been read.
#[derive(Debug, PartialEq, Eq)]
pub enum Read<'a> {
    /// An event.
    Event {
        /// Its name; `message` if it has none.
        name: &'a str,
        /// Its data: UTF-8 text.
        data: Bytes,
        /// Some of what came was no text, and has been replaced by U+FFFD.
        is_altered: bool,
    },
    /// A message larger than the limit, told as soon as it is known what it answers, else at its end; of an array each
    /// message that can be told.
    TooLarge(Told),
}

/// An event did not end within the limit of what is passed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an event has not ended after {skipped} bytes")]
pub struct Endless {
    /// Bytes of it that came.
    pub skipped: usize,
}

/// Incremental reader of an event stream. Holds no memory between events.
#[derive(Debug)]
pub struct Reader {
    limit: usize,
    skip_limit: usize,
    /// Bytes of [`BOM`] seen; its length once the stream has begun.
    begun: usize,
    after_cr: bool,
    line: Line,
    field: Vec<u8>,
    name: Vec<u8>,
    data: Option<Vec<u8>>,
    skipping: Option<Box<Skipping>>,
}

/// Where in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Start,
    Field,
    /// One space may follow the colon.
    DataStart,
    Data,
    NameStart,
    Name,
    Ignored,
}

#[derive(Debug, Default)]
struct Skipping {
    scan: Scan,
    skipped: usize,
}

impl Reader {
    /// `limit`: most bytes that the data of one event may have. `skip_limit`: most bytes of a larger one that are passed
    /// over.
    pub fn new(limit: usize, skip_limit: usize) -> Self {
        Self {
            limit,
            skip_limit,
            begun: 0,
            after_cr: false,
            line: Line::Start,
            field: Vec::new(),
            name: Vec::new(),
            data: None,
            skipping: None,
        }
    }

    /// Takes the next bytes and hands out what they complete.
    ///
    /// # Errors
    /// [`Endless`]: nothing that follows can be read.
    pub fn feed(&mut self, chunk: &[u8], mut sink: impl FnMut(Read<'_>)) -> Result<(), Endless> {
        let mut rest = self.begin(chunk);
        let mut may_be_plain = true;
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_cr) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            if may_be_plain && self.is_between_events() {
                // Once a chunk: it searches all of it.
                may_be_plain = false;
                rest = take_plain_events(rest, self.limit, &mut sink);
                continue;
            }
            match memchr::memchr2(b'\n', b'\r', rest) {
                Some(at) => {
                    self.take_part(&rest[..at], &mut sink)?;
                    self.after_cr = rest[at] == b'\r';
                    rest = &rest[at + 1..];
                    self.end_line(&mut sink)?;
                }
                None => {
                    self.take_part(rest, &mut sink)?;
                    rest = &[];
                }
            }
        }
        Ok(())
    }

    /// Skips a byte order mark, however it is cut.
    fn begin<'a>(&mut self, mut chunk: &'a [u8]) -> &'a [u8] {
        while self.begun < BOM.len() && !chunk.is_empty() {
            if chunk[0] == BOM[self.begun] {
                self.begun += 1;
                chunk = &chunk[1..];
            } else {
                // A line that begins so is no field that is known.
                if self.begun > 0 {
                    self.line = Line::Ignored;
                }
                self.begun = BOM.len();
            }
        }
        chunk
    }

    fn is_between_events(&self) -> bool {
        self.line == Line::Start && self.data.is_none() && self.name.is_empty() && self.skipping.is_none()
    }

    /// A part of a line, without a line break.
    fn take_part(&mut self, mut part: &[u8], sink: &mut impl FnMut(Read<'_>)) -> Result<(), Endless> {
        while let Some(first) = part.first() {
            match self.line {
                Line::Start if *first == b':' => self.line = Line::Ignored,
                Line::Start => {
                    self.field.clear();
                    self.line = Line::Field;
                }
                Line::Field => match memchr::memchr(b':', part) {
                    Some(colon) => {
                        self.keep_field(&part[..colon]);
                        part = &part[colon + 1..];
                        self.begin_value(sink)?;
                    }
                    None => {
                        self.keep_field(part);
                        return Ok(());
                    }
                },
                Line::DataStart | Line::NameStart => {
                    self.line = if self.line == Line::DataStart { Line::Data } else { Line::Name };
                    part = if *first == b' ' { &part[1..] } else { part };
                }
                Line::Data => return self.keep_data(part, sink),
                Line::Name => {
                    let room = MAX_NAME.saturating_sub(self.name.len());
                    self.name.extend_from_slice(&part[..part.len().min(room)]);
                    return Ok(());
                }
                Line::Ignored => return Ok(()),
            }
        }
        Ok(())
    }

    fn keep_field(&mut self, part: &[u8]) {
        let room = MAX_FIELD.saturating_sub(self.field.len());
        self.field.extend_from_slice(&part[..part.len().min(room)]);
    }

    /// The name of the field is complete.
    fn begin_value(&mut self, sink: &mut impl FnMut(Read<'_>)) -> Result<(), Endless> {
        match self.field.as_slice() {
            b"data" => {
                self.line = Line::DataStart;
                if self.data.is_some() || self.skipping.is_some() {
                    return self.keep_data(b"\n", sink);
                }
                self.data = Some(Vec::new());
            }
            b"event" => {
                self.line = Line::NameStart;
                self.name.clear();
            }
            _ => self.line = Line::Ignored,
        }
        Ok(())
    }

    fn keep_data(&mut self, part: &[u8], sink: &mut impl FnMut(Read<'_>)) -> Result<(), Endless> {
        if self.skipping.is_none() {
            let data = self.data.get_or_insert_default();
            if data.len() + part.len() <= self.limit {
                data.extend_from_slice(part);
                return Ok(());
            }
        }
        let before = self.data.take().unwrap_or_default();
        let skipping = self.skipping.get_or_insert_default();
        skipping.skipped += before.len() + part.len();
        skipping.scan.feed(&before);
        skipping.scan.feed(part);
        if is_message(&self.name) {
            skipping.scan.take_found().into_iter().for_each(|told| sink(Read::TooLarge(told)));
        }
        if skipping.skipped > self.skip_limit {
            return Err(Endless { skipped: skipping.skipped });
        }
        Ok(())
    }

    fn end_line(&mut self, sink: &mut impl FnMut(Read<'_>)) -> Result<(), Endless> {
        match self.line {
            Line::Start => self.end_event(sink),
            // Without a colon it has an empty value.
            Line::Field => self.begin_value(sink)?,
            _ => {}
        }
        self.line = Line::Start;
        Ok(())
    }

    fn end_event(&mut self, sink: &mut impl FnMut(Read<'_>)) {
        let (name, data) = (std::mem::take(&mut self.name), self.data.take());
        // It may have been a long one.
        self.field = Vec::new();
        if let Some(skipping) = self.skipping.take() {
            if is_message(&name) {
                skipping.scan.finish().into_iter().for_each(|told| sink(Read::TooLarge(told)));
            }
            return;
        }
        let Some(data) = data else { return };
        let (data, is_altered) = to_text(data);
        let name = if name.is_empty() { "message" } else { std::str::from_utf8(&name).unwrap_or_default() };
        if data.len() > self.limit {
            // Each byte that was no text has become three.
            Scan::of(&data).into_iter().for_each(|told| sink(Read::TooLarge(told)));
            return;
        }
        sink(Read::Event { name, data, is_altered });
    }
}

/// UTF-8 text of what may be none, and whether something had to be replaced (WHATWG Encoding, section 4.1).
pub fn to_text(data: Vec<u8>) -> (Bytes, bool) {
    match String::from_utf8(data) {
        // Without what its buffer had to spare: it may stay in the log for long.
        Ok(text) => (Bytes::from(text.into_bytes().into_boxed_slice()), false),
        Err(error) => (Bytes::from(String::from_utf8_lossy(error.as_bytes()).into_owned()), true),
    }
}

fn is_message(name: &[u8]) -> bool {
    name.is_empty() || name == b"message"
}

/// Hands out the whole events at the start of `chunk` that have one `data` line and nothing unusual, and returns the
/// rest, which must be read line by line.
fn take_plain_events<'a>(mut chunk: &'a [u8], limit: usize, sink: &mut impl FnMut(Read<'_>)) -> &'a [u8] {
    while let Some(end) = memchr::memmem::find(chunk, b"\n\n") {
        let Some((name, data)) = std::str::from_utf8(&chunk[..end]).ok().and_then(plain_event) else { break };
        if let Some(data) = data {
            if data.len() > limit {
                break;
            }
            // In memory of its own: it may stay in the log for long, and would keep the whole read buffer.
            sink(Read::Event { name, data: Bytes::copy_from_slice(data.as_bytes()), is_altered: false });
        }
        chunk = &chunk[end + 2..];
    }
    chunk
}

/// Name and data of one event's lines. `None`: there is something in it that needs a closer look.
fn plain_event(block: &str) -> Option<(&str, Option<&str>)> {
    let (mut name, mut data) = ("message", None);
    for line in block.split('\n') {
        let (field, value) = line.split_once(':')?;
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" if data.is_none() && !value.contains('\r') => data = Some(value),
            "event" if !value.is_empty() && value.len() <= MAX_NAME && !value.contains('\r') => name = value,
            "id" | "retry" | "" if !value.contains('\r') => {}
            _ => return None,
        }
    }
    Some((name, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    mod property;

    fn read_with(text: &[u8], size: usize, limit: usize) -> Vec<(String, String)> {
        let mut reader = Reader::new(limit, 1 << 20);
        let mut events = Vec::new();
        for piece in text.chunks(size) {
            let taken = reader.feed(piece, |read| {
                events.push(match read {
                    Read::Event { name, data, .. } => (name.to_owned(), String::from_utf8(data.to_vec()).unwrap()),
                    Read::TooLarge(told) => ("too large".to_owned(), format!("{told:?}")),
                });
            });
            taken.unwrap();
        }
        events
    }

    fn read_in_pieces(text: &[u8], size: usize) -> Vec<(String, String)> {
        read_with(text, size, 1 << 20)
    }

    #[test]
    fn a_stream_reads_the_same_however_it_is_cut() {
        let opening = "id: 1\nretry: 500\nevent: endpoint\ndata: /x?sessionId=1\n\n: hb\n";
        let events =
            "id: 2\nevent: message\ndata: {\"a\":\ndata: 1}\n\nid: 3\nevent: message\ndata: {\"b\":\"\u{2028}é\"}\n\n";
        let text = [opening, events].concat().into_bytes();
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
            for size in 1..text.len() {
                assert_eq!(read_in_pieces(text.as_bytes(), size).len(), 2, "{ending:?} in pieces of {size}");
            }
        }
        let mixed = b"data: a\rdata: b\r\ndata: c\n\r\n: x\r\n\ndata:d\n\revent\ndata\ndata: e\r\r";
        for size in 1..mixed.len() {
            let datas: Vec<String> = read_in_pieces(mixed, size).into_iter().map(|(_, data)| data).collect();
            assert_eq!(datas, ["a\nb\nc", "d", "\ne"], "pieces of {size}");
        }
    }

    #[test]
    fn a_byte_order_mark_at_the_start_is_no_part_of_the_stream() {
        let text = b"\xef\xbb\xbfevent: endpoint\ndata: /m\n\n";
        for size in 1..text.len() {
            assert_eq!(read_in_pieces(text, size), [("endpoint".to_owned(), "/m".to_owned())], "pieces of {size}");
        }
        // Only there; and what only begins like one is a line of its own.
        let later = b"data: a\n\n\xef\xbb\xbfdata: b\n\ndata: c\n\n";
        assert_eq!(read_in_pieces(later, 5).len(), 2);
        assert_eq!(read_in_pieces(b"\xef\xbbdata: a\n\ndata: b\n\n", 1), [("message".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_harm_nothing_else() {
        let text = b"data: caf\xe9 \xf0\x9f\ndata: \xc3\xa9\n\ndata: next\n\n";
        for size in 1..text.len() {
            let datas: Vec<String> = read_in_pieces(text, size).into_iter().map(|(_, data)| data).collect();
            assert_eq!(datas, ["caf\u{fffd} \u{fffd}\n\u{e9}", "next"], "pieces of {size}");
        }
    }

    /// The short way and the long one agree, whatever comes.
    #[test]
    fn whole_chunks_are_read_as_single_bytes_are() {
        let lines = [
            "data: a",
            "data:b",
            "data",
            "event: x",
            "event:",
            "event",
            "id: 1",
            ": hb",
            "",
            "",
            "",
            "retry: 5",
            "other: y",
            "data: \r",
            "data:  two",
            "eventual: z",
            "data0: z",
        ];
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..2000 {
            let mut text = String::new();
            for _ in 0..random.usize(1..12) {
                text.push_str(lines[random.usize(..lines.len())]);
                text.push_str(if random.u8(..8) == 0 { "\r\n" } else { "\n" });
            }
            text.push_str("\n\n");
            let size = random.usize(1..9);
            assert_eq!(
                read_in_pieces(text.as_bytes(), text.len()),
                read_in_pieces(text.as_bytes(), 1),
                "{round}: {text:?}"
            );
            assert_eq!(read_in_pieces(text.as_bytes(), size), read_in_pieces(text.as_bytes(), 1), "{round}: {text:?}");
        }
    }

    #[test]
    fn an_event_beyond_the_limit_is_passed_over_and_its_id_told_once() {
        let filler = "x".repeat(300);
        for (event, told) in [
            (format!(r#"data: {{"id":7,"result":"{filler}"}}"#), Some(r#"Answer("7")"#)),
            (
                format!("event: message\ndata: {{\"result\":\"{filler}\",\ndata: \"id\":\"a\"}}"),
                Some(r#"Answer("\"a\"")"#),
            ),
            (format!(r#"data: {{"id":7,"method":"m","params":"{filler}"}}"#), Some(r#"Request("7")"#)),
            (format!(r#"data: {{"method":"m","params":"{filler}"}}"#), Some("Nothing")),
            (format!(r#"data: [{{"method":"m"}},{{"result":"{filler}","id":7}}]"#), Some(r#"Answer("7")"#)),
            (format!(r#"data: [{{"method":"m"}},"{filler}"]"#), Some("Nothing")),
            (format!("data: {filler}"), Some("Nothing")),
            (format!("data: {}", "a\ndata: ".repeat(200)), Some("Nothing")),
            (format!("event: other\ndata: {filler}"), None),
            // Not data: nothing to keep, nothing to skip.
            (format!(": {filler}"), None),
            (format!("{filler}: {filler}"), None),
            (filler.clone(), None),
        ] {
            let text = format!("data: before\n\n{event}\n\ndata: after\n\n");
            let mut expected = vec![("message".to_owned(), "before".to_owned())];
            expected.extend(told.map(|told| ("too large".to_owned(), told.to_owned())));
            expected.push(("message".to_owned(), "after".to_owned()));
            for size in [1, 7, 100, text.len()] {
                assert_eq!(read_with(text.as_bytes(), size, 100), expected, "{event} in pieces of {size}");
            }
        }
    }

    #[test]
    fn an_event_without_an_end_is_told_at_once_and_given_up_at_a_bound() {
        let mut reader = Reader::new(100, 1000);
        let mut told = Vec::new();
        let mut feed = |reader: &mut Reader, text: &[u8]| reader.feed(text, |read| told.push(format!("{read:?}")));
        assert_eq!(feed(&mut reader, b"data: {\"id\":7,\"result\":\""), Ok(()));
        for _ in 0..9 {
            assert_eq!(feed(&mut reader, &[b'x'; 100]), Ok(()));
        }
        assert!(feed(&mut reader, &[b'x'; 100]).is_err());
        assert_eq!(told, [r#"TooLarge(Answer("7"))"#]);
    }

    #[test]
    fn a_reader_keeps_nothing_between_events() {
        let mut reader = Reader::new(1 << 20, 1 << 20);
        let text = format!("event: e\r\ndata: {}\r\n\r\n", "x".repeat(1 << 19));
        reader.feed(text.as_bytes(), |_| ()).unwrap();
        assert!(reader.data.is_none() && reader.name.capacity() == 0 && reader.field.capacity() == 0);
    }
}
