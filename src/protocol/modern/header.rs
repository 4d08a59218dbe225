//! How a value stands in a header (2026-07-28, Streamable HTTP, Value Encoding): as it is where that is plain ASCII, else as
//! base64 of its UTF-8 between two marks.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};

const BEFORE: &str = "=?base64?";
const BEHIND: &str = "?=";

/// A value as it stands in a header.
pub fn encoded(value: &str) -> Cow<'_, str> {
    let is_edge = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let bytes = value.as_bytes();
    let is_plain = bytes.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
        && !is_edge(bytes.first())
        && !is_edge(bytes.last());
    let is_marked = value.starts_with(BEFORE) && value.ends_with(BEHIND);
    // An empty one is hardly told from none.
    if is_plain && !is_marked && !value.is_empty() {
        Cow::Borrowed(value)
    } else {
        Cow::Owned(format!("{BEFORE}{}{BEHIND}", STANDARD.encode(value)))
    }
}

/// The value that stands in a header. `None`: none that could be meant.
pub fn decoded(header: &[u8]) -> Option<Cow<'_, str>> {
    let header = header.trim_ascii();
    if !header.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
        return None;
    }
    let text = std::str::from_utf8(header).ok()?;
    let Some(coded) = text.strip_prefix(BEFORE).and_then(|rest| rest.strip_suffix(BEHIND)) else {
        return Some(Cow::Borrowed(text));
    };
    String::from_utf8(STANDARD.decode(coded).ok()?).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the specification.
    #[test]
    fn values_stand_in_headers_as_the_specification_has_them() {
        for (value, header) in [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
            ("", "=?base64??="),
        ] {
            assert_eq!(encoded(value), header);
            assert_eq!(decoded(header.as_bytes()).unwrap(), value);
        }
    }

    #[test]
    fn what_nobody_can_have_meant_is_no_value() {
        for header in [&b"=?base64?*?="[..], b"=?base64?SGVsbG8?=", b"=?base64?/w==?=", b"a\x01", b"\xc3\xa9"] {
            assert_eq!(decoded(header), None, "{header:?}");
        }
        // The marks are case-sensitive: this is the value itself.
        assert_eq!(decoded(b"=?BASE64?eA==?=").unwrap(), "=?BASE64?eA==?=");
    }
}
