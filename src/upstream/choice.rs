//! Which MCP transport an endpoint is talked to by: what the settings say, else what the form of its URL says, else what it
//! answers (MCP, "Backwards compatibility" of the transports): an `initialize` that is refused with 400, 404 or 405 means
//! that HTTP+SSE is left to try. What was found out counts for the process, until it proves wrong.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::settings::{Transport, UpstreamUrl};

/// An MCP transport over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP+SSE (2024-11-05).
    Sse,
    /// Streamable HTTP (2025-03-26 and later).
    Streamable,
}

const UNKNOWN: u8 = 0;
const SSE: u8 = 1;
const STREAMABLE: u8 = 2;

/// See the module's text.
#[derive(Debug)]
pub struct Choice {
    fixed: Option<Spoken>,
    found: AtomicU8,
}

impl Choice {
    /// Of an endpoint with this URL.
    pub fn new(url: &UpstreamUrl, setting: Transport) -> Self {
        let fixed = match setting {
            Transport::Sse => Some(Spoken::Sse),
            Transport::Streamable => Some(Spoken::Streamable),
            Transport::Auto => by_form(url.request_url().path()),
        };
        Self { fixed, found: AtomicU8::new(UNKNOWN) }
    }

    /// What is tried next. Streamable HTTP where nothing is known, as the specification says.
    pub fn next(&self) -> Spoken {
        match self.found.load(Ordering::Relaxed) {
            SSE => Spoken::Sse,
            STREAMABLE => Spoken::Streamable,
            _ => self.fixed.unwrap_or(Spoken::Streamable),
        }
    }

    /// The endpoint's own answers decide.
    pub fn is_open(&self) -> bool {
        self.fixed.is_none()
    }

    /// It speaks this one.
    pub fn is(&self, kind: Spoken) {
        if self.is_open() {
            self.found.store(if kind == Spoken::Sse { SSE } else { STREAMABLE }, Ordering::Relaxed);
        }
    }

    /// It does not speak this one: the other one is next.
    pub fn is_not(&self, kind: Spoken) {
        self.is(if kind == Spoken::Sse { Spoken::Streamable } else { Spoken::Sse });
    }
}

/// By the last part of its path, as servers and clients have it.
fn by_form(path: &str) -> Option<Spoken> {
    match path.trim_end_matches('/').rsplit('/').next() {
        Some("sse") => Some(Spoken::Sse),
        Some("mcp") => Some(Spoken::Streamable),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(url: &str, setting: Transport) -> Choice {
        Choice::new(&url.parse().unwrap(), setting)
    }

    #[test]
    fn the_setting_comes_before_the_form_of_the_url_and_that_before_what_is_found_out() {
        for (url, setting, is_open, first) in [
            ("http://h/sse", Transport::Auto, false, Spoken::Sse),
            ("http://h/a/sse/?key=mcp", Transport::Auto, false, Spoken::Sse),
            ("http://h/mcp", Transport::Auto, false, Spoken::Streamable),
            ("http://h/a/mcp/", Transport::Auto, false, Spoken::Streamable),
            ("http://h/mcp/sse", Transport::Auto, false, Spoken::Sse),
            ("http://h/sse/files", Transport::Auto, true, Spoken::Streamable),
            ("http://h", Transport::Auto, true, Spoken::Streamable),
            ("http://mcp/", Transport::Auto, true, Spoken::Streamable),
            ("http://h/mcp", Transport::Sse, false, Spoken::Sse),
            ("http://h/sse", Transport::Streamable, false, Spoken::Streamable),
        ] {
            let choice = choice(url, setting);
            assert_eq!((choice.is_open(), choice.next()), (is_open, first), "{url} {setting:?}");
        }
    }

    #[test]
    fn what_is_found_out_counts_until_it_proves_wrong_and_never_against_what_is_fixed() {
        let open = choice("http://h/x", Transport::Auto);
        open.is_not(Spoken::Streamable);
        assert_eq!(open.next(), Spoken::Sse);
        open.is_not(Spoken::Sse);
        assert_eq!(open.next(), Spoken::Streamable);
        open.is(Spoken::Sse);
        assert_eq!(open.next(), Spoken::Sse);
        let fixed = choice("http://h/mcp", Transport::Auto);
        fixed.is_not(Spoken::Streamable);
        assert_eq!(fixed.next(), Spoken::Streamable);
    }
}
