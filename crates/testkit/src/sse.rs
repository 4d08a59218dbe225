//! Reads event streams as the standard says (WHATWG HTML, section 9.2), with what that standard hides from its users:
//! comments, and which events had an `id:` of their own. Written anew instead of borrowed from the router: a judge does
//! not use the code that it judges.
//!
//! Lines are looked for once, and an event's data is handed out without a copy: the load generator uses it, too. What
//! has come of an event when the connection breaks is dropped with it, as the standard says.

use bytes::{Bytes, BytesMut};

/// An event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// The `id:` of this very block, if it had one.
    pub id: Option<Bytes>,
    /// Its name; empty when the server gave none.
    pub name: Bytes,
    /// Its data.
    pub data: Bytes,
}

impl Block {
    /// Its name is `message`, by which it goes without one.
    pub fn is_message(&self) -> bool {
        self.name.is_empty() || &self.name[..] == b"message"
    }

    /// It names the endpoint.
    pub fn is_endpoint(&self) -> bool {
        &self.name[..] == b"endpoint"
    }
}

/// What a stream brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// An event that has data.
    Event(Block),
    /// A comment line.
    Comment(Bytes),
}

/// Incremental parser: bytes are put into [`Self::text`], pieces taken out.
#[derive(Debug, Default)]
pub struct Parser {
    /// What has come and is not read yet.
    pub text: BytesMut,
    /// So much of `text` holds no line break.
    searched: usize,
    /// The last line ended with CR: an LF right after it belongs to it.
    after_cr: bool,
    id: Option<Bytes>,
    name: Bytes,
    data: Option<Bytes>,
    retry: Option<u64>,
}

impl Parser {
    /// The next piece that is complete.
    pub fn next_piece(&mut self) -> Option<Piece> {
        while let Some(at) = memchr::memchr2(b'\n', b'\r', &self.text[self.searched..]) {
            let mut line = self.text.split_to(self.searched + at + 1).freeze();
            self.searched = 0;
            let ends_in_cr = line.ends_with(b"\r");
            let after_cr = std::mem::replace(&mut self.after_cr, ends_in_cr);
            if after_cr && line.len() == 1 && !ends_in_cr {
                continue;
            }
            line.truncate(line.len() - 1);
            if let Some(piece) = self.take_line(&line) {
                return Some(piece);
            }
        }
        self.searched = self.text.len();
        None
    }

    /// The reconnection time (milliseconds) that the stream has told since the last call.
    pub fn take_retry(&mut self) -> Option<u64> {
        self.retry.take()
    }

    fn take_line(&mut self, line: &Bytes) -> Option<Piece> {
        if line.is_empty() {
            let (id, name) = (self.id.take(), std::mem::take(&mut self.name));
            return self.data.take().map(|data| Piece::Event(Block { id, name, data }));
        }
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let start = (colon + 1 + usize::from(line.get(colon + 1) == Some(&b' '))).min(line.len());
        let value = line.slice(start..);
        match &line[..colon] {
            b"data" => {
                self.data = Some(match self.data.take() {
                    None => value,
                    Some(before) => [&before[..], b"\n", &value[..]].concat().into(),
                });
            }
            b"event" => self.name = value,
            b"id" if !value.contains(&0) => self.id = Some(value),
            b"retry" => self.retry = number(&value).or(self.retry),
            b"" => return Some(Piece::Comment(value)),
            // Fields of later standards.
            _ => {}
        }
        None
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(cuts: &[&[u8]]) -> (Vec<Piece>, Option<u64>) {
        let (mut parser, mut pieces) = (Parser::default(), Vec::new());
        for cut in cuts {
            parser.text.extend_from_slice(cut);
            pieces.extend(std::iter::from_fn(|| parser.next_piece()));
        }
        (pieces, parser.take_retry())
    }

    fn event(name: &'static str, id: Option<&'static str>, data: &'static str) -> Piece {
        Piece::Event(Block { id: id.map(Bytes::from), name: name.into(), data: data.into() })
    }

    #[test]
    fn events_are_read_however_the_bytes_are_cut() {
        let text = ": hb\nid: s.0\nretry: 500\nevent: endpoint\ndata: /x\n\nid: s.1\r\ndata: a\r\ndata:b\r\n\r\ndata\r\rdata: c\n\n\
                    event: nothing\n\nid: a\0b\nodd: field\ndata: d\n\n: cut";
        let wanted = vec![
            Piece::Comment("hb".into()),
            event("endpoint", Some("s.0"), "/x"),
            event("", Some("s.1"), "a\nb"),
            event("", None, ""),
            event("", None, "c"),
            event("", None, "d"),
        ];
        assert_eq!(pieces(&[text.as_bytes()]), (wanted.clone(), Some(500)));
        for size in 1..text.len() {
            let cuts: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            assert_eq!(pieces(&cuts), (wanted.clone(), Some(500)), "in pieces of {size}");
        }
    }

    #[test]
    fn an_event_that_was_cut_off_is_none() {
        assert_eq!(pieces(&[b"id: s.1\ndata: half"]).0, []);
    }
}
