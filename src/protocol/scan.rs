//! Finds the id of a JSON-RPC message that cannot be kept or parsed: too large, cut off, or not quite JSON-RPC; or the ids
//! of all messages of an array.
//!
//! Goes over the text once, in pieces as they come, and keeps nothing of it but the ids: some servers write them first,
//! others last. It judges nothing: whoever asks must have sent a request of that id.

use std::borrow::Cow;

use super::jsonrpc::{self, IdKey};

/// Longest id that is kept. Those that the router itself sends are shorter; a client's longer one is not told.
const MAX_ID: usize = 256;

/// Longest key that matters here is `method`, each letter of which may be an escape of six bytes.
const MAX_KEY: usize = 36;

/// Messages of one array of which is told: more than any session has calls in flight.
const MAX_TOLD: usize = 1024;

/// What has been seen of a text.
#[derive(Debug, Default)]
pub struct Scan {
    /// Brackets that are open; `base` of them are around a message and no part of it: that of an array of messages.
    depth: u32,
    base: u32,
    place: Place,
    in_string: bool,
    escaped: bool,
    message: Message,
    /// Found, and not handed out yet.
    found: Vec<Told>,
    told: usize,
}

/// What has been seen of one message.
#[derive(Debug, Default)]
struct Message {
    key: Vec<u8>,
    id: Vec<u8>,
    id_seen: Option<bool>,
    is_call: bool,
    is_answer: bool,
    is_told: bool,
}

/// Where in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Before,
    Key,
    Value,
    Id,
    Method,
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

/// The requests that a text means to answer which is no valid answer, nor an array of them, be it cut off.
pub fn meant_to_answer(text: &[u8]) -> Vec<IdKey> {
    if let Some(id) = jsonrpc::broken_answer_to(text) {
        return vec![id];
    }
    let answer = |told| match told {
        Told::Answer(id) => IdKey::of_json(&id),
        Told::Request(_) | Told::Nothing => None,
    };
    Scan::of(text).into_iter().filter_map(answer).collect()
}

impl Scan {
    /// What a whole text seems to be: at least one thing.
    pub fn of(text: &[u8]) -> Vec<Told> {
        let mut scan = Self::default();
        scan.feed(text);
        scan.finish()
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

    /// What is known already: the messages that have ended, and an answer as soon as its id is there. Each is handed out
    /// once.
    pub fn take_found(&mut self) -> Vec<Told> {
        let message = &self.message;
        if !message.is_told && message.id_seen == Some(true) && message.is_answer && !message.is_call {
            self.tell();
            if self.base == 0 {
                self.place = Place::Over;
            }
        }
        std::mem::take(&mut self.found)
    }

    /// The rest of it, after the last piece; [`Told::Nothing`] if nothing could be told of the whole text.
    pub fn finish(mut self) -> Vec<Told> {
        self.tell();
        if self.told == 0 {
            self.found.push(Told::Nothing);
        }
        self.found
    }

    fn tell(&mut self) {
        let message = &mut self.message;
        let told = match message.told() {
            told if !message.is_told && told != Told::Nothing => told,
            _ => return,
        };
        message.is_told = true;
        self.found.push(told);
        self.told += 1;
        if self.told >= MAX_TOLD {
            self.place = Place::Over;
        }
    }

    fn is_at_top(&self) -> bool {
        self.depth == self.base + 1
    }

    fn take(&mut self, byte: u8) {
        if self.in_string {
            self.take_in_string(byte);
            return;
        }
        if self.place == Place::Method && !byte.is_ascii_whitespace() {
            // A method that is `null` is none, as for the parser: some servers write it into their answers.
            self.message.is_call |= byte != b'n';
            self.place = Place::Value;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.is_at_top() && self.place == Place::Key {
                    self.message.key.clear();
                }
                self.keep_id(byte);
            }
            b'{' | b'[' => {
                if self.depth == 0 && byte == b'[' {
                    self.base = 1;
                } else if self.depth == self.base && byte == b'{' {
                    self.place = Place::Key;
                } else if self.place == Place::Id {
                    self.message.id_seen = Some(false);
                    self.place = Place::Value;
                }
                self.depth += 1;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth <= self.base {
                    self.end_message();
                }
            }
            b':' if self.is_at_top() && self.place == Place::Key => self.place = self.value_of_key(),
            // Not within an array in the array: that is no message.
            b',' if self.is_at_top() && self.place != Place::Before => {
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
        if !self.is_at_top() {
            return;
        }
        match self.place {
            Place::Key if self.in_string && self.message.key.len() <= MAX_KEY => self.message.key.push(byte),
            Place::Id => self.keep_id(byte),
            _ => {}
        }
    }

    fn value_of_key(&mut self) -> Place {
        let message = &mut self.message;
        match unescaped(&message.key).as_ref() {
            // Twice is once too often: nobody can say which is meant.
            b"id" if message.id_seen.is_some() => message.id_seen = Some(false),
            b"id" => return Place::Id,
            b"method" => return Place::Method,
            b"result" | b"error" => message.is_answer = true,
            _ => {}
        }
        Place::Value
    }

    fn keep_id(&mut self, byte: u8) {
        if !self.is_at_top() || self.place != Place::Id {
            return;
        }
        if self.message.id.len() >= MAX_ID {
            self.message.id_seen = Some(false);
            self.place = Place::Value;
            return;
        }
        self.message.id.push(byte);
    }

    fn end_value(&mut self) {
        if self.place == Place::Id {
            let id = std::str::from_utf8(&self.message.id).ok();
            // No value is made of it: ids may be numbers and strings that serde_json has none for.
            let id = id.filter(|id| serde_json::from_str::<serde::de::IgnoredAny>(id).is_ok()).and_then(IdKey::of_json);
            self.message.id_seen = Some(id.is_some());
        }
    }

    fn end_message(&mut self) {
        self.end_value();
        self.place = if self.depth == 0 { Place::Over } else { Place::Before };
        self.tell();
        self.message = Message::default();
    }
}

impl Message {
    fn told(&self) -> Told {
        let id = (self.id_seen == Some(true)).then(|| String::from_utf8_lossy(&self.id).into_owned());
        match id {
            Some(id) if self.is_call => Told::Request(id),
            Some(id) if self.is_answer => Told::Answer(id),
            _ => Told::Nothing,
        }
    }
}

/// The key as it is meant: any letter of it may be written as an escape (RFC 8259, section 8.3).
fn unescaped(key: &[u8]) -> Cow<'_, [u8]> {
    if !key.contains(&b'\\') {
        return Cow::Borrowed(key);
    }
    let text = [b"\"", key, b"\""].concat();
    serde_json::from_slice::<String>(&text).map_or(Cow::Borrowed(key), |key| Cow::Owned(key.into_bytes()))
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
            (r#"{"id":7,"method": null,"result":1}"#, Told::Answer("7".into())),
            // Cut off behind the id.
            (r#"{"id":7,"result":{"content":["#, Told::Answer("7".into())),
            (r#"{"result":{"content":["#, Told::Nothing),
            (r#"{"id":7,"id":8,"result":1}"#, Told::Nothing),
            (r#"{"id":{"a":1},"result":1}"#, Told::Nothing),
            (r#"{"id":null,"result":1}"#, Told::Nothing),
            (r#"{"result":1,"\u0069\u0064":7}"#, Told::Answer("7".into())),
            (r#"{"id":1e400,"result":1}"#, Told::Answer("1e400".into())),
            (r#"{"id":"\ud83d","method":"m"}"#, Told::Request(r#""\ud83d""#.into())),
            (r#"{"id":01,"result":1}"#, Told::Nothing),
            (r#"{"\u0072\u0065\u0073\u0075\u006c\u0074":1,"id":7}"#, Told::Answer("7".into())),
            (r#"{"\u006D\u0065\u0074\u0068\u006F\u0064":1,"id":7}"#, Told::Request("7".into())),
            (r#""id":7,"result":1"#, Told::Nothing),
            ("nonsense", Told::Nothing),
            ("", Told::Nothing),
        ] {
            assert_eq!(Scan::of(text.as_bytes()), std::slice::from_ref(&told), "{text}");
            let mut scan = Scan::default();
            text.as_bytes().iter().for_each(|byte| scan.feed(std::slice::from_ref(byte)));
            assert_eq!(scan.finish(), [told], "byte by byte: {text}");
        }
    }

    #[test]
    fn each_message_of_an_array_is_told_of_once() {
        let answer = |id: &str| Told::Answer(id.to_owned());
        for (text, told) in [
            (r#"[{"id":7,"result":1}]"#, vec![answer("7")]),
            (
                r#" [ {"method":"m"}, {"result":{"id":9},"id":7} ,{"id":8,"error":{}}] {"id":1,"result":1}"#,
                vec![answer("7"), answer("8")],
            ),
            (
                r#"[{"id":1,"method":"m"},{"id":1,"result":[{"id":2,"result":1}]}]"#,
                vec![Told::Request("1".into()), answer("1")],
            ),
            // Cut off.
            (r#"[{"id":7,"result":1},{"id":8,"result":["#, vec![answer("7"), answer("8")]),
            (r#"[{"id":7,"result":1},{"result":["#, vec![answer("7")]),
            // No messages.
            (r#"[[{"id":7,"result":1}],"id",[1,"id",7],{"id":8,"result":1}]"#, vec![answer("8")]),
            (r#"[1,"id","result"]"#, vec![Told::Nothing]),
            (r#"["id":7,"result":1]"#, vec![Told::Nothing]),
            ("[]", vec![Told::Nothing]),
            ("]]}", vec![Told::Nothing]),
        ] {
            assert_eq!(Scan::of(text.as_bytes()), told, "{text}");
            let (mut scan, mut early) = (Scan::default(), Vec::new());
            for byte in text.as_bytes() {
                scan.feed(std::slice::from_ref(byte));
                early.extend(scan.take_found());
            }
            early.extend(scan.finish());
            assert_eq!(early, told, "byte by byte: {text}");
        }
    }

    #[test]
    fn an_endless_array_is_not_kept() {
        let mut scan = Scan::default();
        scan.feed(b"[");
        for _ in 0..3 * MAX_TOLD {
            scan.feed(br#"{"id":1,"result":1},"#);
        }
        assert_eq!(scan.finish().len(), MAX_TOLD);
    }

    #[test]
    fn an_endless_id_is_not_kept() {
        let mut scan = Scan::default();
        scan.feed(br#"{"id":""#);
        for _ in 0..1000 {
            scan.feed(&[b'x'; 1000]);
        }
        assert!(scan.message.id.len() <= MAX_ID);
        scan.feed(br#"","result":1}"#);
        assert_eq!(scan.finish(), [Told::Nothing]);
    }
}
