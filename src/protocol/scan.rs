//! Finds the id of a JSON-RPC message that cannot be kept or parsed: too large, cut off, or not quite JSON-RPC.
//!
//! Goes over the text once, in pieces as they come, and keeps nothing of it but the id: some servers write it first,
//! others last. It judges nothing: whoever asks must have sent a request of that id.

use super::jsonrpc::{self, IdKey};

/// Longest id that is kept. Those that the router itself sends are shorter; a client's longer one is not told.
const MAX_ID: usize = 256;

/// Longest key that matters here is `method`.
const MAX_KEY: usize = 8;

/// What has been seen of one message.
#[derive(Debug, Default)]
pub struct Scan {
    depth: u32,
    place: Place,
    in_string: bool,
    escaped: bool,
    key: Vec<u8>,
    id: Vec<u8>,
    id_seen: Option<bool>,
    is_call: bool,
    is_answer: bool,
}

/// Where in the outermost object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Before,
    Key,
    Value,
    Id,
    Over,
}

/// What a message seems to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// An answer to the request of this id (JSON text).
    Answer(String),
    /// A request of this id (JSON text).
    Request(String),
    /// It expects no answer and gives none to anything that can be told.
    Nothing,
}

/// The request that a text means to answer which is no valid answer, be it cut off.
pub fn meant_to_answer(text: &[u8]) -> Option<IdKey> {
    jsonrpc::broken_answer_to(text).or_else(|| match Scan::of(text) {
        Told::Answer(id) => IdKey::of_json(&id),
        Told::Request(_) | Told::Nothing => None,
    })
}

impl Scan {
    /// What a whole text seems to be.
    pub fn of(text: &[u8]) -> Told {
        let mut scan = Self::default();
        scan.feed(text);
        scan.told()
    }

    /// Takes the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        for &byte in piece {
            if self.place == Place::Over {
                return;
            }
            self.take(byte);
        }
    }

    /// It is known which request it answers: no need to wait for the end.
    pub fn is_told(&self) -> bool {
        self.id_seen == Some(true) && self.is_answer && !self.is_call
    }

    /// What it seems to be, by what has been fed.
    pub fn told(&self) -> Told {
        let id = (self.id_seen == Some(true)).then(|| String::from_utf8_lossy(&self.id).into_owned());
        match id {
            Some(id) if self.is_call => Told::Request(id),
            Some(id) if self.is_answer => Told::Answer(id),
            _ => Told::Nothing,
        }
    }

    fn take(&mut self, byte: u8) {
        if self.in_string {
            self.take_in_string(byte);
            return;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.depth == 1 && self.place == Place::Key {
                    self.key.clear();
                }
                self.keep_id(byte);
            }
            b'{' | b'[' => {
                // An array of messages, or no object at all, has no id of its own.
                if self.depth == 0 && byte == b'[' {
                    self.place = Place::Over;
                    return;
                }
                self.depth += 1;
                if self.depth == 1 {
                    self.place = Place::Key;
                } else if self.place == Place::Id {
                    self.id_seen = Some(false);
                    self.place = Place::Value;
                }
            }
            b'}' | b']' => {
                if self.depth <= 1 {
                    self.end_value();
                    self.place = Place::Over;
                }
                self.depth = self.depth.saturating_sub(1);
            }
            b':' if self.depth == 1 && self.place == Place::Key => self.place = self.value_of_key(),
            b',' if self.depth == 1 => {
                self.end_value();
                self.place = Place::Key;
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ if self.depth == 0 => self.place = Place::Over,
            _ => self.keep_id(byte),
        }
    }

    fn take_in_string(&mut self, byte: u8) {
        match (self.escaped, byte) {
            (true, _) => self.escaped = false,
            (false, b'\\') => self.escaped = true,
            (false, b'"') => self.in_string = false,
            (false, _) => {}
        }
        if self.depth != 1 {
            return;
        }
        match self.place {
            Place::Key if self.in_string && self.key.len() <= MAX_KEY => self.key.push(byte),
            Place::Id => self.keep_id(byte),
            _ => {}
        }
    }

    fn value_of_key(&mut self) -> Place {
        match self.key.as_slice() {
            // Twice is once too often: nobody can say which is meant.
            b"id" if self.id_seen.is_some() => {
                self.id_seen = Some(false);
                Place::Value
            }
            b"id" => Place::Id,
            b"method" => {
                self.is_call = true;
                Place::Value
            }
            b"result" | b"error" => {
                self.is_answer = true;
                Place::Value
            }
            _ => Place::Value,
        }
    }

    fn keep_id(&mut self, byte: u8) {
        if self.depth != 1 || self.place != Place::Id {
            return;
        }
        if self.id.len() >= MAX_ID {
            self.id_seen = Some(false);
            self.place = Place::Value;
            return;
        }
        self.id.push(byte);
    }

    fn end_value(&mut self) {
        if self.place == Place::Id {
            let is_id =
                serde_json::from_slice::<serde_json::Value>(&self.id).is_ok_and(|id| id.is_string() || id.is_number());
            self.id_seen = Some(is_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_found_wherever_it_stands() {
        for (text, told) in [
            (r#"{"jsonrpc":"2.0","id":7,"result":{"id":9,"a":["}"]}}"#, Told::Answer("7".into())),
            (r#"{"result":{"id":9,"x":"\"id\":3,{"},"jsonrpc":"2.0","id":"a\"b"}"#, Told::Answer(r#""a\"b""#.into())),
            (r#" { "id" : -1.5 , "error" : {} } "#, Told::Answer("-1.5".into())),
            (r#"{"method":"m","id":1,"params":{}}"#, Told::Request("1".into())),
            (r#"{"method":"m","params":{"id":1}}"#, Told::Nothing),
            // Cut off behind the id.
            (r#"{"id":7,"result":{"content":["#, Told::Answer("7".into())),
            (r#"{"result":{"content":["#, Told::Nothing),
            (r#"{"id":7,"id":8,"result":1}"#, Told::Nothing),
            (r#"{"id":{"a":1},"result":1}"#, Told::Nothing),
            (r#"{"id":null,"result":1}"#, Told::Nothing),
            (r#"[{"id":7,"result":1}]"#, Told::Nothing),
            (r#""id":7,"result":1"#, Told::Nothing),
            ("nonsense", Told::Nothing),
            ("", Told::Nothing),
        ] {
            assert_eq!(Scan::of(text.as_bytes()), told, "{text}");
            let mut scan = Scan::default();
            text.as_bytes().iter().for_each(|byte| scan.feed(std::slice::from_ref(byte)));
            assert_eq!(scan.told(), told, "byte by byte: {text}");
        }
    }

    #[test]
    fn an_endless_id_is_not_kept() {
        let mut scan = Scan::default();
        scan.feed(br#"{"id":""#);
        for _ in 0..1000 {
            scan.feed(&[b'x'; 1000]);
        }
        assert!(scan.id.len() <= MAX_ID);
        scan.feed(br#"","result":1}"#);
        assert_eq!(scan.told(), Told::Nothing);
    }
}
