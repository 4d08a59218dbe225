//! W3C Trace Context: which trace a message belongs to, by headers (`traceparent`, `tracestate`) or by `params._meta` of the
//! message itself (SEP-414). Level 1 of the recommendation, with the flag `random` of level 2.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, LazyLock},
};

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{by_name::by_name, jsonrpc::Head};

/// Longest `tracestate` that is kept: as much as everybody must pass on (section 3.3.1.5).
const MAX_STATE: usize = 512;

/// Length of a `traceparent` of version 00.
const LENGTH: usize = 55;

const SAMPLED: u8 = 1;

/// Flags that are known: `sampled` and `random`.
const KNOWN_FLAGS: u8 = 3;

/// A place in a trace: a span, and of which trace it is.
#[derive(Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// Never all zeros.
    pub trace_id: [u8; 16],
    /// Of the span; never all zeros.
    pub span_id: [u8; 8],
    flags: u8,
    /// `tracestate`, as it came.
    pub state: Option<Arc<str>>,
}

impl TraceContext {
    /// Another span of the same trace.
    pub fn with_span(&self, span_id: [u8; 8]) -> Self {
        Self { span_id, ..self.clone() }
    }

    /// The first span of a trace.
    pub fn begin(trace_id: [u8; 16], span_id: [u8; 8]) -> Self {
        // Its id is random.
        Self { trace_id, span_id, flags: KNOWN_FLAGS, state: None }
    }

    /// Its spans are recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The same, with another word on that.
    pub fn sampled(mut self, is_sampled: bool) -> Self {
        self.flags = if is_sampled { self.flags | SAMPLED } else { self.flags & !SAMPLED };
        self
    }

    /// The low byte of the span's `flags` in OTLP.
    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// `None`: this is no `traceparent`, or one of a version that nobody can read (section 3.2.2). What is no `tracestate` is
    /// taken for none.
    pub fn read(parent: &str, state: Option<&str>) -> Option<Self> {
        let bytes = parent.trim_ascii().as_bytes();
        let fields = bytes.get(..LENGTH)?;
        let version = hex::<1>(&fields[..2])?[0];
        let goes_on = bytes.get(LENGTH);
        let is_whole = match version {
            0 => goes_on.is_none(),
            0xff => false,
            _ => goes_on.is_none_or(|next| *next == b'-'),
        };
        if !is_whole || [2, 35, 52].into_iter().any(|at| fields[at] != b'-') {
            return None;
        }
        let (trace_id, span_id) = (hex(&fields[3..35])?, hex(&fields[36..52])?);
        let [flags] = hex::<1>(&fields[53..])?;
        if trace_id == [0; 16] || span_id == [0; 8] {
            return None;
        }
        let is_state = |state: &&str| {
            (1..=MAX_STATE).contains(&state.len()) && state.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
        };
        let state = state.map(str::trim_ascii).filter(is_state).map(Arc::from);
        Some(Self { trace_id, span_id, flags: flags & KNOWN_FLAGS, state })
    }

    /// What a request or a notification says of itself. Most say nothing, and are searched, not parsed.
    pub fn of_message(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow, rename = "_meta")]
            meta: &'a RawValue,
        }
        #[derive(Deserialize)]
        struct Meta<'a> {
            #[serde(borrow)]
            traceparent: Cow<'a, str>,
            #[serde(borrow, default)]
            tracestate: Option<Cow<'a, str>>,
        }
        static NAME: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new("\"traceparent\""));
        NAME.find(body)?;
        let params = Head::parse(body).ok()?.params?;
        let meta = by_name::<Params<'_>>(params.get())?.meta;
        let meta = by_name::<Meta<'_>>(meta.get())?;
        Self::read(&meta.traceparent, meta.tracestate.as_deref())
    }

    /// The value of `traceparent`.
    pub fn parent(&self) -> String {
        self.to_string()
    }

    /// As it is kept with a request: `traceparent`, and behind a space `tracestate`, if there is one.
    pub fn stored(&self) -> String {
        match &self.state {
            Some(state) => format!("{self} {state}"),
            None => self.to_string(),
        }
    }

    /// From what [`Self::stored`] was.
    pub fn from_stored(text: &str) -> Option<Self> {
        let (parent, state) = text.split_once(' ').map_or((text, None), |(parent, state)| (parent, Some(state)));
        Self::read(parent, state)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", Hex(&self.trace_id), Hex(&self.span_id), self.flags)
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes as lower-case hexadecimal digits.
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // No id is longer than its 16 bytes.
        for piece in self.0.chunks(16) {
            let mut digits = [0; 32];
            for (pair, byte) in digits.chunks_exact_mut(2).zip(piece) {
                (pair[0], pair[1]) = (DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]);
            }
            f.write_str(std::str::from_utf8(&digits[..2 * piece.len()]).map_err(|_| fmt::Error)?)?;
        }
        Ok(())
    }
}

/// Lower case only (section 3.2.2.2).
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_as_the_recommendation_says() {
        let of = |text: &str| TraceContext::read(text, None);
        assert_eq!(of(PARENT).unwrap().parent(), PARENT);
        assert!(of(PARENT).unwrap().is_sampled());
        assert!(!of(&PARENT.replace("-01", "-00")).unwrap().is_sampled());
        // A later version is read as far as it is known, and flags that are not known are not passed on.
        let later = format!("{}-more", PARENT.replacen("00", "7f", 1).replace("-01", "-ff"));
        assert_eq!(of(&later).unwrap().parent(), PARENT.replace("-01", "-03"));
        for none in [
            "",
            "00",
            &PARENT[..54],
            &format!("{PARENT}0"),
            &format!("{PARENT}-00"),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.to_uppercase(),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            &PARENT.replace("00f067aa0ba902b7", "0000000000000000"),
            &PARENT.replace('-', "_"),
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_kept_is_read_again() {
        for (state, kept) in
            [(None, None), (Some("a=1,b=2 x"), Some("a=1,b=2 x")), (Some(""), None), (Some("a=\u{e9}"), None)]
        {
            let context = TraceContext::read(PARENT, state).unwrap();
            assert_eq!(context.state.as_deref(), kept);
            assert_eq!(TraceContext::from_stored(&context.stored()), Some(context));
        }
        let long = "x".repeat(MAX_STATE + 1);
        assert_eq!(TraceContext::read(PARENT, Some(&long)).unwrap().state, None);
    }

    #[test]
    fn a_message_says_it_in_its_meta_and_nowhere_else() {
        let of = |body: String| TraceContext::of_message(body.as_bytes()).map(|context| context.stored());
        let call = |params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let meta = format!(r#"{{"traceparent":"{PARENT}","tracestate":"a=1"}}"#);
        assert_eq!(of(call(&format!(r#"{{"_meta":{meta},"name":"x"}}"#))), Some(format!("{PARENT} a=1")));
        assert_eq!(of(call(&format!(r#"{{"_meta":{{"traceparent":"{PARENT}"}}}}"#))), Some(PARENT.to_owned()));
        for nothing in [
            format!(r#"{{"arguments":{meta}}}"#),
            format!(r#"{{"arguments":{{"_meta":{meta}}}}}"#),
            meta.clone(),
            format!("[{meta}]"),
            r#"{"_meta":{"traceparent":5}}"#.to_owned(),
            r#"{"_meta":{"traceparent":"x"}}"#.to_owned(),
        ] {
            assert_eq!(of(call(&nothing)), None, "{nothing}");
        }
        assert_eq!(of(format!(r#"{{"traceparent":"{PARENT}"}}"#)), None);
    }
}
