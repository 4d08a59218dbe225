//! Which MCP transport an endpoint is talked to by, and of which era: what the settings say, else what the form of its URL says,
//! else what it answers (MCP, "Backwards compatibility" of the transports): an `initialize` that is refused with 400, 404 or
//! 405 means that HTTP+SSE is left to try; which era it is of says `server/discover` ([`super::era`]). What was found out
//! counts for the process, until it proves wrong.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use crate::settings::{EraSetting, Transport, UpstreamUrl};

/// An MCP transport over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP+SSE (2024-11-05).
    Sse,
    /// Streamable HTTP (2025-03-26 to 2025-11-25).
    Streamable,
    /// Streamable HTTP of the era without sessions (2026-07-28).
    Modern,
}

/// A generation of the protocol (MCP 2026-07-28, "Versioning and Compatibility").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// With a handshake: up to 2025-11-25.
    Legacy,
    /// With metadata in each request: 2026-07-28.
    Modern,
}

const UNKNOWN: u8 = 0;
const SSE: u8 = 1;
const STREAMABLE: u8 = 2;
const LEGACY: u8 = 1;
const MODERN: u8 = 2;

/// See the module's text.
#[derive(Debug)]
pub struct Choice {
    fixed: Option<Spoken>,
    found: AtomicU8,
    eras: EraSetting,
    era: AtomicU8,
    /// The endpoint has failed since its era was found out: another server may be there by now.
    is_doubtful: AtomicBool,
    /// It did not say of which era it is: it is not asked again before this.
    not_before: Mutex<Option<Instant>>,
    /// Held by whoever asks it.
    pub(super) asking: tokio::sync::Mutex<()>,
}

impl Choice {
    /// Of an endpoint with this URL.
    pub fn new(url: &UpstreamUrl, setting: Transport, eras: EraSetting) -> Self {
        let fixed = match setting {
            Transport::Sse => Some(Spoken::Sse),
            Transport::Streamable => Some(Spoken::Streamable),
            Transport::Auto => by_form(url.request_url().path()),
        };
        Self {
            fixed,
            found: AtomicU8::new(UNKNOWN),
            eras,
            era: AtomicU8::new(UNKNOWN),
            is_doubtful: AtomicBool::new(false),
            not_before: Mutex::new(None),
            asking: tokio::sync::Mutex::new(()),
        }
    }

    /// Of which era it is: what is set, what follows from its transport, or what it has said last. `None`: it is to be asked.
    pub fn era(&self) -> Option<Era> {
        // HTTP+SSE is older than the other era.
        if self.is_sse() {
            return Some(Era::Legacy);
        }
        match (self.eras, self.era.load(Ordering::Relaxed)) {
            (EraSetting::Legacy, _) | (EraSetting::Auto, LEGACY) => Some(Era::Legacy),
            (EraSetting::Modern, _) | (EraSetting::Auto, MODERN) => Some(Era::Modern),
            (EraSetting::Auto, _) => None,
        }
    }

    /// It is to be asked of which era it is before a session with it begins.
    pub fn is_era_open(&self, now: Instant) -> bool {
        let is_open = self.era.load(Ordering::Relaxed) == UNKNOWN || self.is_doubtful.load(Ordering::Relaxed);
        let not_before = || *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        self.finds_era() && is_open && not_before().is_none_or(|not_before| not_before <= now)
    }

    /// Its own answers decide of which era it is.
    pub fn finds_era(&self) -> bool {
        self.eras == EraSetting::Auto && !self.is_sse()
    }

    /// It is of this era. `true`: that is news.
    pub fn is_of(&self, era: Era) -> bool {
        *self.not_before.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.is_doubtful.store(false, Ordering::Relaxed);
        let found = if era == Era::Modern { MODERN } else { LEGACY };
        self.era.swap(found, Ordering::Relaxed) != found
    }

    /// It was asked, and did not say of which: what it said last counts on.
    pub fn era_is_not_said(&self, now: Instant, pause: Duration) {
        *self.not_before.lock().unwrap_or_else(PoisonError::into_inner) = Some(now + pause);
    }

    /// It has failed, or does not behave as its era would have it.
    pub fn doubt_era(&self) {
        self.is_doubtful.store(true, Ordering::Relaxed);
    }

    fn is_sse(&self) -> bool {
        self.fixed == Some(Spoken::Sse) || self.found.load(Ordering::Relaxed) == SSE
    }

    /// What is tried next. Streamable HTTP where nothing is known, as the specification says.
    pub fn next(&self) -> Spoken {
        if self.era() == Some(Era::Modern) {
            return Spoken::Modern;
        }
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
        Choice::new(&url.parse().unwrap(), setting, EraSetting::Auto)
    }

    #[test]
    fn the_era_is_what_is_set_what_the_transport_says_or_what_was_said_last() {
        let now = Instant::now();
        for (url, eras, era) in [
            ("http://h/sse", EraSetting::Auto, Some(Era::Legacy)),
            ("http://h/sse", EraSetting::Modern, Some(Era::Legacy)),
            ("http://h/mcp", EraSetting::Auto, None),
            ("http://h/mcp", EraSetting::Legacy, Some(Era::Legacy)),
            ("http://h/mcp", EraSetting::Modern, Some(Era::Modern)),
        ] {
            let choice = Choice::new(&url.parse().unwrap(), Transport::Auto, eras);
            assert_eq!((choice.era(), choice.is_era_open(now)), (era, era.is_none()), "{url} {eras:?}");
        }
        let open = choice("http://h/x", Transport::Auto);
        open.is_not(Spoken::Streamable);
        assert_eq!(open.era(), Some(Era::Legacy), "it was found to speak HTTP+SSE");
    }

    #[test]
    fn an_endpoint_that_does_not_say_its_era_is_asked_again_and_what_it_said_last_counts() {
        let (now, pause) = (Instant::now(), Duration::from_secs(5));
        let choice = choice("http://h/mcp", Transport::Auto);
        choice.era_is_not_said(now, pause);
        assert!(choice.era().is_none() && !choice.is_era_open(now) && choice.is_era_open(now + pause));
        assert!(choice.is_of(Era::Modern) && !choice.is_of(Era::Modern));
        assert_eq!((choice.era(), choice.is_era_open(now)), (Some(Era::Modern), false));
        choice.doubt_era();
        assert_eq!((choice.era(), choice.is_era_open(now)), (Some(Era::Modern), true));
        choice.era_is_not_said(now, pause);
        assert_eq!((choice.era(), choice.is_era_open(now)), (Some(Era::Modern), false));
        assert!(choice.is_era_open(now + pause));
        assert!(choice.is_of(Era::Legacy));
        assert_eq!((choice.era(), choice.is_era_open(now + pause)), (Some(Era::Legacy), false));
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
