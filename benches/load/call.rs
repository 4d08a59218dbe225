//! The request of a tool call, made once and then only numbered, and the check of its answer.
//!
//! The number of a call (session and count, always of the same length) stands in the request twice: as the JSON-RPC id
//! and as the marker in the text that the tool must bring back. So an answer that belongs to another call or another
//! session, or whose text was changed, is noticed.

use std::{fmt::Write as _, io};

use memchr::memmem;
use testkit::connection::{Target, invalid};

/// Digits of a call's number: `1`, session, count. Below 2^53, so that it is a number in every language.
const DIGITS: usize = 15;
const COUNT_DIGITS: u32 = 9;

/// What an answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The result of the call, with its marker and the whole text.
    Right,
    /// A JSON-RPC error for the call.
    Error,
    /// The answer to an earlier call of this session.
    Earlier,
    /// The answer to another session's call, or one to this call with another text.
    Wrong,
    /// No answer: a notification or a request.
    None,
}

/// POSTs of one session.
#[derive(Debug)]
pub struct Request {
    session: u32,
    count: u64,
    bytes: Vec<u8>,
    /// Where the number stands.
    places: [usize; 2],
    /// `"id":` and the number.
    id: Vec<u8>,
    /// `"` and the marker and the text and `"`.
    text: Vec<u8>,
}

impl Request {
    /// Calls of `session` to `tool` of `target`; `headers` are whole lines.
    pub fn new(target: &Target, headers: &str, session: u32, tool: &str, payload: usize) -> Self {
        Self::made(target, headers, session, (tool, ""), payload)
    }

    /// The same with one more member of its parameters.
    pub fn with_meta(target: &Target, headers: &str, session: u32, (tool, meta): (&str, &str), payload: usize) -> Self {
        Self::made(target, headers, session, (tool, &format!(",{meta}")), payload)
    }

    fn made(target: &Target, headers: &str, session: u32, (tool, more): (&str, &str), payload: usize) -> Self {
        let number = "0".repeat(DIGITS);
        let filling = "x".repeat(payload);
        let text = format!("\"{number} {filling}\"");
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{number},"method":"tools/call","params":{{"name":"{tool}","arguments":{{"text":{text}}}{more}}}}}"#
        );
        let bytes = target.post_json(headers, &body);
        let body_at = bytes.len() - body.len();
        let mut places = memmem::find_iter(&bytes[body_at..], number.as_bytes()).map(|place| body_at + place);
        let places = [places.next().unwrap_or_default(), places.next().unwrap_or_default()];
        Self { session, count: 0, bytes, places, id: format!("\"id\":{number}").into_bytes(), text: text.into_bytes() }
    }

    /// The next call, as bytes to be written.
    pub fn next(&mut self) -> &[u8] {
        self.count += 1;
        let number = number(self.session, self.count);
        for place in self.places {
            self.bytes[place..place + DIGITS].copy_from_slice(&number);
        }
        self.id[5..].copy_from_slice(&number);
        self.text[1..=DIGITS].copy_from_slice(&number);
        &self.bytes
    }

    /// The current call again.
    pub fn again(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether a message is the answer to the current call; `false`: it is none at all.
    ///
    /// # Errors
    /// It is another answer.
    pub fn is_answered_by(&self, message: &[u8]) -> io::Result<bool> {
        match self.check(message) {
            Answer::Right => Ok(true),
            Answer::None => Ok(false),
            answer => Err(invalid(format!("{answer:?}: {}", String::from_utf8_lossy(message)))),
        }
    }

    /// Compares a message with the current call.
    pub fn check(&self, message: &[u8]) -> Answer {
        let Some(at) = memmem::find(message, b"\"id\":") else { return Answer::None };
        let Some(id) = message.get(at + 5..at + 5 + DIGITS) else { return Answer::None };
        if id == &self.id[5..] {
            return if memmem::find(message, &self.text).is_some() {
                Answer::Right
            } else if memmem::find(message, b"\"error\":").is_some() {
                Answer::Error
            } else {
                Answer::Wrong
            };
        }
        let ours = &self.id[5..5 + DIGITS - COUNT_DIGITS as usize];
        if !id.iter().all(u8::is_ascii_digit) {
            Answer::None
        } else if id.starts_with(ours) {
            Answer::Earlier
        } else {
            Answer::Wrong
        }
    }
}

/// Digits of a call's number.
pub fn number(session: u32, count: u64) -> [u8; DIGITS] {
    let limit = 10_u64.pow(COUNT_DIGITS);
    let sessions = 10_u64.pow(DIGITS as u32 - 1 - COUNT_DIGITS);
    let mut rest = (sessions + u64::from(session) % sessions) * limit + count % limit;
    let mut digits = [0; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    digits
}

/// Headers of the command line as lines.
pub fn header_lines(headers: &[String]) -> io::Result<String> {
    let mut lines = String::new();
    for header in headers {
        let (name, value) = header.split_once(':').ok_or_else(|| invalid(format!("no header: {header}")))?;
        // Writing to a String cannot fail.
        let _ = write!(lines, "{}: {}\r\n", name.trim(), value.trim());
    }
    Ok(lines)
}
