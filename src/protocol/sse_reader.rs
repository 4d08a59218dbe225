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

/// The longest event id that is told. It goes back in a header; those of real servers have some sixty bytes.
const MAX_ID: usize = 1024;

/// The longest value of `retry` that is read: milliseconds.
const MAX_RETRY: usize = 18;

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
    /// The id of the event that ends here, whatever else it has; told before its data. Later events without one leave it as
    /// the last event id of the stream; empty, it takes that away.
    Id(&'a str),
    /// How long to wait before the stream is opened again, in milliseconds.
    Retry(u64),
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
    /// Of the event that is being read; longer by one than [`MAX_ID`] at most, by which it is told to be none.
    id: Option<Vec<u8>>,
    /// The one before it in the same event, until the line has ended.
    id_before: Option<Vec<u8>>,
    retry: Vec<u8>,
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
    IdStart,
    Id,
    RetryStart,
    Retry,
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
            id: None,
            id_before: None,
            retry: Vec::new(),
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
        let has_begun = self.data.is_some() || !self.name.is_empty() || self.id.is_some() || self.skipping.is_some();
        self.line == Line::Start && !has_begun
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
                Line::DataStart | Line::NameStart | Line::IdStart | Line::RetryStart => {
                    self.line = match self.line {
                        Line::DataStart => Line::Data,
                        Line::NameStart => Line::Name,
                        Line::IdStart => Line::Id,
                        _ => Line::Retry,
                    };
                    part = if *first == b' ' { &part[1..] } else { part };
                }
                Line::Data => return self.keep_data(part, sink),
                Line::Name => {
                    keep(&mut self.name, part, MAX_NAME);
                    return Ok(());
                }
                Line::Id => {
                    keep(self.id.get_or_insert_default(), part, MAX_ID + 1);
                    return Ok(());
                }
                Line::Retry => {
                    keep(&mut self.retry, part, MAX_RETRY + 1);
                    return Ok(());
                }
                Line::Ignored => return Ok(()),
            }
        }
        Ok(())
    }

    fn keep_field(&mut self, part: &[u8]) {
        keep(&mut self.field, part, MAX_FIELD);
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
            b"id" => {
                self.line = Line::IdStart;
                self.id_before = self.id.replace(Vec::new());
            }
            b"retry" => self.line = Line::RetryStart,
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
        match self.line {
            // An id with a zero byte in it is none.
            Line::IdStart | Line::Id => {
                let before = self.id_before.take();
                if self.id.as_ref().is_some_and(|id| id.len() <= MAX_ID && id.contains(&0)) {
                    self.id = before;
                }
            }
            Line::RetryStart | Line::Retry => {
                if let Some(pause) = retry_of(&std::mem::take(&mut self.retry)) {
                    sink(Read::Retry(pause));
                }
            }
            _ => {}
        }
        self.line = Line::Start;
        Ok(())
    }

    fn end_event(&mut self, sink: &mut impl FnMut(Read<'_>)) {
        let (name, data) = (std::mem::take(&mut self.name), self.data.take());
        // It may have been a long one.
        self.field = Vec::new();
        if let Some(id) = self.id.take().filter(|id| id.len() <= MAX_ID) {
            sink(Read::Id(&String::from_utf8_lossy(&id)));
        }
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

/// Adds to what is kept of a value, up to a length.
fn keep(kept: &mut Vec<u8>, part: &[u8], most: usize) {
    let room = most.saturating_sub(kept.len());
    kept.extend_from_slice(&part[..part.len().min(room)]);
}

/// Digits alone are a time.
fn retry_of(value: &[u8]) -> Option<u64> {
    let is_time = (1..=MAX_RETRY).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    is_time.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten()
}

fn is_message(name: &[u8]) -> bool {
    name.is_empty() || name == b"message"
}

/// Hands out the whole events at the start of `chunk` that have one `data` line and nothing unusual, and returns the
/// rest, which must be read line by line.
fn take_plain_events<'a>(mut chunk: &'a [u8], limit: usize, sink: &mut impl FnMut(Read<'_>)) -> &'a [u8] {
    while let Some(end) = memchr::memmem::find(chunk, b"\n\n") {
        let Some(Plain { name, data, id, retry }) = std::str::from_utf8(&chunk[..end]).ok().and_then(plain_event)
        else {
            break;
        };
        if data.is_some_and(|data| data.len() > limit) {
            break;
        }
        if let Some(pause) = retry.and_then(|value| retry_of(value.as_bytes())) {
            sink(Read::Retry(pause));
        }
        if let Some(id) = id {
            sink(Read::Id(id));
        }
        if let Some(data) = data {
            // In memory of its own: it may stay in the log for long, and would keep the whole read buffer.
            sink(Read::Event { name, data: Bytes::copy_from_slice(data.as_bytes()), is_altered: false });
        }
        chunk = &chunk[end + 2..];
    }
    chunk
}

/// What one event's lines say.
struct Plain<'a> {
    name: &'a str,
    data: Option<&'a str>,
    id: Option<&'a str>,
    retry: Option<&'a str>,
}

/// `None`: there is something in the lines that needs a closer look.
fn plain_event(block: &str) -> Option<Plain<'_>> {
    let mut plain = Plain { name: "message", data: None, id: None, retry: None };
    for line in block.split('\n') {
        let (field, value) = line.split_once(':')?;
        if value.contains('\r') {
            return None;
        }
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" if plain.data.is_none() => plain.data = Some(value),
            "event" if !value.is_empty() && value.len() <= MAX_NAME => plain.name = value,
            "id" if value.len() <= MAX_ID && !value.contains('\0') => plain.id = Some(value),
            "retry" if plain.retry.is_none() => plain.retry = Some(value),
            "" => {}
            _ => return None,
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests;
