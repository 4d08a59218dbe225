//! Reads an event stream as the standard says (WHATWG HTML, section 9.2). Written anew instead of borrowed from the
//! router: a judge does not use the code that it judges.

/// One dispatched event.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    /// Its name; `message` when the server gave none.
    pub name: String,
    /// The stream's last event id once this event was dispatched; `None` when this event had no `id:` line.
    pub id: Option<String>,
    /// Its data.
    pub data: String,
}

/// Incremental parser. What has come of an event when the connection breaks is dropped with it, as the standard says.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    name: String,
    id: Option<String>,
    data: String,
    retry: Option<u64>,
}

impl Parser {
    /// Takes the next bytes and hands every event that they complete to `sink`.
    pub fn feed(&mut self, bytes: &[u8], mut sink: impl FnMut(Event)) {
        for &byte in bytes {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    let line = std::mem::take(&mut self.line);
                    if line.is_empty() {
                        self.dispatch(&mut sink);
                    } else {
                        self.take_line(&String::from_utf8_lossy(&line));
                    }
                }
                _ => self.line.push(byte),
            }
        }
    }

    /// The reconnection time (milliseconds) that the server has told since the last call.
    pub fn take_retry(&mut self) -> Option<u64> {
        self.retry.take()
    }

    fn take_line(&mut self, line: &str) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "retry" => self.retry = value.parse().ok().or(self.retry),
            // Comments and fields of later standards.
            _ => {}
        }
    }

    fn dispatch(&mut self, sink: &mut impl FnMut(Event)) {
        let (name, id) = (std::mem::take(&mut self.name), self.id.take());
        let mut data = std::mem::take(&mut self.data);
        if data.pop().is_none() {
            return;
        }
        let name = if name.is_empty() { "message".to_owned() } else { name };
        sink(Event { name, id, data });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(pieces: &[&str]) -> (Vec<Event>, Option<u64>) {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        for piece in pieces {
            parser.feed(piece.as_bytes(), |event| events.push(event));
        }
        (events, parser.take_retry())
    }

    fn event(name: &str, id: Option<&str>, data: &str) -> Event {
        Event { name: name.to_owned(), id: id.map(str::to_owned), data: data.to_owned() }
    }

    #[test]
    fn events_are_read_however_the_bytes_are_cut() {
        let text = ": hb\nid: s.0\nretry: 500\nevent: endpoint\ndata: /x\n\nid: s.1\r\ndata: a\r\ndata:b\r\n\r\ndata: c\n\n: cut";
        let wanted = vec![
            event("endpoint", Some("s.0"), "/x"),
            event("message", Some("s.1"), "a\nb"),
            event("message", None, "c"),
        ];
        assert_eq!(events(&[text]), (wanted, Some(500)));
        let pieces: Vec<String> = text.chars().map(String::from).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        assert_eq!(events(&pieces), events(&[text]));
    }

    #[test]
    fn an_event_that_was_cut_off_is_none() {
        assert_eq!(events(&["id: s.1\ndata: half"]).0, []);
    }
}
