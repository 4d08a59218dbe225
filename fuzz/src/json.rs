//! What the targets of JSON share.

use serde_json::Value;

/// The value of a text, if serde_json has one for it.
pub fn value(text: &[u8]) -> Option<Value> {
    serde_json::from_slice(text).ok()
}

/// A name that stands in the text exactly once and without escapes: no member can be doubled, or spelled otherwise.
pub fn is_plain_once(text: &str, name: &str) -> bool {
    !text.contains('\\') && text.matches(&format!("\"{name}\"")).count() == 1
}
