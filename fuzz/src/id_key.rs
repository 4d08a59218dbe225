//! Two ids are one exactly if they are one JSON value; numbers are compared exactly.

use mcp_router::protocol::jsonrpc::IdKey;
use serde_json::value::RawValue;

/// Bytes: two texts with a line feed between them.
pub fn id_key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (one, other) = text.split_once('\n').unwrap_or((text, text));
    let [one_value, other_value] = [one, other].map(check);
    let (Some(one_value), Some(other_value)) = (one_value, other_value) else { return };
    let [one_key, other_key] = [one, other].map(|text| IdKey::of_json(text).expect("it was one just now"));
    assert_eq!(one_key == other_key, one_value == other_value, "{one} and {other}");
    assert_eq!(one_key.cmp(&other_key).is_eq(), one_key == other_key);
}

/// A value of its own for each id that is compared; `None` for what is no id, or whose value cannot be told here.
fn check(text: &str) -> Option<Value> {
    let id = IdKey::of_json(text);
    // Whatever the store has.
    let stored = IdKey::from_stored(text);
    assert_eq!(stored.as_json(), text);
    let json: &RawValue = serde_json::from_str(text).ok()?;
    if json.get() != text {
        return None;
    }
    let is_id = text.starts_with(['"', '-']) || text.starts_with(|first: char| first.is_ascii_digit());
    assert_eq!(id.is_some(), is_id, "{text}");
    let id = id?;
    assert_eq!(id.as_json(), text, "passed on as it came");
    let key = id.key();
    assert_eq!(stored.key(), key);
    assert_eq!(IdKey::from_stored(key).key(), key, "the key of a key is itself");
    serde_json::from_str::<serde::de::IgnoredAny>(key).expect("a key is JSON");
    assert_eq!(key.starts_with('"'), text.starts_with('"'));
    // An exponent may be written anew, with as many digits as the text is long.
    assert!(key.len() <= text.len().max(40) + 24, "{text} has a key of {} bytes", key.len());
    if text.starts_with('"') { serde_json::from_str(text).ok().map(Value::Text) } else { Value::of_number(text) }
}

#[derive(Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    /// Sign, digits without zeros at either end, and the power of ten of the last one. Zero has none.
    Number {
        is_negative: bool,
        digits: String,
        exponent: i64,
    },
}

impl Value {
    /// Digit by digit. `None`: of an exponent beyond all measure.
    fn of_number(text: &str) -> Option<Self> {
        let (mut digits, mut exponent, mut is_fraction) = (String::new(), 0, false);
        let mut letters = text.chars().peekable();
        let is_negative = letters.next_if_eq(&'-').is_some();
        while let Some(letter) = letters.next() {
            match letter {
                '.' => is_fraction = true,
                'e' | 'E' => {
                    let written: String = letters.by_ref().collect();
                    if written.len() > 17 {
                        return None;
                    }
                    exponent += written.parse::<i64>().ok()?;
                }
                digit => {
                    digits.push(digit);
                    exponent -= i64::from(is_fraction);
                }
            }
        }
        while digits.ends_with('0') {
            digits.pop();
            exponent += 1;
        }
        let digits = digits.trim_start_matches('0').to_owned();
        let is_zero = digits.is_empty();
        Some(Self::Number {
            is_negative: is_negative && !is_zero,
            digits,
            exponent: if is_zero { 0 } else { exponent },
        })
    }
}
