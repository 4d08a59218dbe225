//! The id of a JSON-RPC request: compared as the JSON value that it is, passed on as it came.
//!
//! Two spellings of one value are one id: `"\u00e9"` is `"é"` (RFC 8259, section 8.3), 7 is 7.0 and 7e0, -0 is 0; the
//! string `"7"` is not the number 7. Numbers are compared exactly, not as binary64: a peer that rounds an id changes it.
//! The usual id (a plain integer, a string without an escape) is its own canonical text and costs nothing more.

use std::{
    cmp::Ordering,
    fmt::Write as _,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// An integer with fewer digits is written plainly; a longer one with an exponent, so that a short text (`1e999999`) has
/// no long key.
const PLAIN_DIGITS: usize = 40;

/// See the module's text. Cheap to clone.
#[derive(Debug, Clone)]
pub struct IdKey {
    text: Arc<str>,
    /// The canonical text, where it is another one.
    canonical: Option<Arc<str>>,
}

impl IdKey {
    /// Of JSON text; `None` when that is neither a string nor a number.
    pub fn of_json(text: &str) -> Option<Self> {
        let canonical = canonical(text)?;
        Some(Self { text: text.into(), canonical: canonical.map(Into::into) })
    }

    /// Of the text that the store has: canonical, unless an older build wrote it.
    pub fn from_stored(text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        let canonical = canonical(&text).flatten().map(Into::into);
        Self { text, canonical }
    }

    /// As it came, to be spliced into a message.
    pub fn as_json(&self) -> &str {
        &self.text
    }

    /// What it is compared by, here and in the store.
    pub fn key(&self) -> &str {
        self.canonical.as_deref().unwrap_or(&self.text)
    }

    /// [`Self::key`], not copied.
    pub fn shared_key(&self) -> Arc<str> {
        Arc::clone(self.canonical.as_ref().unwrap_or(&self.text))
    }
}

impl PartialEq for IdKey {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for IdKey {}

impl Hash for IdKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialOrd for IdKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for IdKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key())
    }
}

/// `None`: no id. `Some(None)`: `text` is canonical.
fn canonical(text: &str) -> Option<Option<String>> {
    match text.as_bytes() {
        [b'"', .., b'"'] if !text.contains('\\') => Some(None),
        [b'"', inner @ .., b'"'] => std::str::from_utf8(inner).ok().map(|inner| Some(canonical_string(inner))),
        [b'-' | b'0'..=b'9', ..] => {
            let is_plain = text.len() < PLAIN_DIGITS
                && text != "-0"
                && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
            Some(if is_plain { None } else { canonical_number(text) })
        }
        _ => None,
    }
}

/// Of the inside of a JSON string: escaped as serde_json does, which escapes only what must be.
fn canonical_string(inner: &str) -> String {
    let mut value = String::with_capacity(inner.len());
    // Halves of surrogate pairs are no characters; JSON allows them all the same (RFC 8259, section 8.2).
    let mut lone = Vec::new();
    let mut rest = inner;
    while let Some((before, escape)) = rest.split_once('\\') {
        value.push_str(before);
        let (first, after) = escape.split_at(escape.chars().next().map_or(0, char::len_utf8));
        rest = after;
        match first {
            "b" => value.push('\u{8}'),
            "f" => value.push('\u{c}'),
            "n" => value.push('\n'),
            "r" => value.push('\r'),
            "t" => value.push('\t'),
            "u" => {
                let (unit, after) = code_unit(rest);
                rest = after;
                let low = rest.strip_prefix("\\u").map(code_unit);
                match (char::decode_utf16([unit]).next(), low) {
                    (Some(Ok(character)), _) => value.push(character),
                    (_, Some((low, after))) => match char::decode_utf16([unit, low]).next() {
                        Some(Ok(character)) => {
                            value.push(character);
                            rest = after;
                        }
                        _ => lone.push((value.len(), unit)),
                    },
                    _ => lone.push((value.len(), unit)),
                }
            }
            other => value.push_str(other),
        }
    }
    value.push_str(rest);
    let mut text = String::from("\"");
    let mut from = 0;
    for (at, unit) in lone {
        text.push_str(&escaped(&value[from..at]));
        // A String takes everything.
        let _ = write!(text, "\\u{unit:04x}");
        from = at;
    }
    text.push_str(&escaped(&value[from..]));
    text.push('"');
    text
}

/// Without the quotes.
fn escaped(value: &str) -> String {
    let quoted = serde_json::Value::String(value.to_owned()).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The four hexadecimal digits at the start, which the JSON parser has seen already, and what follows them.
fn code_unit(text: &str) -> (u16, &str) {
    match text.split_at_checked(4) {
        Some((digits, rest)) => (u16::from_str_radix(digits, 16).unwrap_or(0xfffd), rest),
        None => (0xfffd, ""),
    }
}

/// `-1250`, `0`, or `<digits>e<exponent>` without zeros at either end of the digits. `None`: `text` is as good as any.
fn canonical_number(text: &str) -> Option<String> {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        // An exponent of that size is nobody's id.
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (digits, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let significant = all.trim_start_matches('0');
    let short = significant.trim_end_matches('0');
    if short.is_empty() {
        return Some("0".to_owned());
    }
    let zeros = (significant.len() - short.len()) as i64;
    let exponent = exponent.checked_sub(fraction.len() as i64)?.checked_add(zeros)?;
    Some(match usize::try_from(exponent) {
        Ok(zeros) if short.len().saturating_add(zeros) < PLAIN_DIGITS => format!("{sign}{short}{}", "0".repeat(zeros)),
        _ => format!("{sign}{short}e{exponent}"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{
        super::tests::{decimal, respelled},
        *,
    };

    fn key(text: &str) -> String {
        IdKey::of_json(text).unwrap_or_else(|| panic!("{text} is an id")).key().to_owned()
    }

    #[test]
    fn spellings_of_one_value_are_one_id() {
        let long = "1".repeat(60);
        for spellings in [
            &[r#""é""#, r#""\u00e9""#, r#""\u00E9""#][..],
            &[r#""a/b""#, r#""a\/b""#, r#""\u0061\u002fb""#],
            &[r#""\"\\""#, r#""\u0022\u005c""#],
            &[r#""\n""#, r#""\u000a""#],
            &[r#""\b\f\r\t""#, r#""\u0008\u000c\u000d\u0009""#],
            &[r#""😀""#, r#""\ud83d\ude00""#, r#""\uD83D\uDE00""#],
            &[r#""\ud83d""#, r#""\uD83D""#],
            &[r#""\ud83d\ud83d\ude00""#, r#""\uD83D😀""#],
            &["7", "7.0", "7e0", "7E+0", "70e-1", "0.7e1", "7.00"],
            &["0", "-0", "0.0", "-0.0", "0e5", "-0e-5"],
            &["-7", "-7.0", "-0.7e1"],
            &["700", "7e2", "7E2", "70e1"],
            &["0.5", "5e-1", "0.50"],
            &["1e400", "10e399", "0.1e401"],
            &[&long, &format!("{long}.0"), &format!("{long}e0")],
            &[&"10".repeat(30), &format!("{}1e1", "10".repeat(29))],
        ] {
            for spelling in spellings {
                assert_eq!(key(spelling), key(spellings[0]), "{spelling}");
                assert_eq!(IdKey::from_stored(*spelling).key(), key(spellings[0]), "from the store: {spelling}");
                assert_eq!(IdKey::of_json(spelling).unwrap().as_json(), *spelling, "passed on as it came");
                assert_eq!(key(&key(spelling)), key(spelling), "the key of a key is itself");
            }
        }
    }

    #[test]
    fn other_values_are_other_ids() {
        let ids = [
            "7",
            r#""7""#,
            r#""7.0""#,
            "70",
            "0.7",
            "-7",
            "7e-1000",
            "7e1000",
            "7e99999999999999999999",
            "0",
            r#""""#,
            r#"" ""#,
            r#""a""#,
            r#""A""#,
            r#""\\u0061""#,
            r#""\ud83d""#,
            r#""\\ud83d""#,
            r#""\ude00""#,
            r#""\u0000""#,
            "9007199254740992",
            "9007199254740993",
            "12345678901234567890123456789012345678901234567890",
            "12345678901234567890123456789012345678901234567891",
            "1e40",
            "1e39",
            "é",
            "e\u{301}",
        ];
        let ids = ids.map(|id| if id.starts_with(['é', 'e']) { format!("\"{id}\"") } else { id.to_owned() });
        for (at, one) in ids.iter().enumerate() {
            for other in &ids[at + 1..] {
                assert_ne!(IdKey::of_json(one), IdKey::of_json(other), "{one} {other}");
            }
        }
    }

    #[test]
    fn the_usual_id_is_its_own_key() {
        for text in ["0", "7", "-7", "9007199254740993", r#""a""#, r#""""#, r#""é😀""#] {
            assert!(IdKey::of_json(text).unwrap().canonical.is_none(), "{text}");
        }
    }

    #[test]
    fn what_is_no_id_is_none() {
        for text in ["null", "true", "{}", "[]", ""] {
            assert_eq!(IdKey::of_json(text), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn strings_are_one_id_only_if_they_are_one_text(
            [one, other] in proptest::array::uniform2(
                prop_oneof![any::<String>(), "[a\"\\\\/\n\r\t\u{8}\u{c}\u{1}u0é😀]{0,3}"],
            ),
            [way, another] in proptest::array::uniform2(vec(any::<u8>(), 0..6)),
        ) {
            let [one_text, again, other_text] =
                [respelled(&one, &way), respelled(&one, &another), respelled(&other, &another)];
            prop_assert_eq!(key(&one_text), key(&again), "{} {}", one_text, again);
            prop_assert_eq!(key(&one_text) == key(&other_text), one == other, "{} {}", one_text, other_text);
            prop_assert_eq!(serde_json::from_str::<String>(&key(&one_text)).ok(), Some(one));
        }

        #[test]
        fn numbers_are_one_id_only_if_they_are_one_value(
            [(one, e), (other, f)] in proptest::array::uniform2(
                (prop_oneof![-120i64..120, any::<i64>()], -4i32..5).prop_map(|(number, e)| (i128::from(number), e)),
            ),
            [way, another]: [u8; 2],
        ) {
            let value = |number: i128, e: i32| number * 10i128.pow((e + 4).unsigned_abs());
            let [one_text, again, other_text] = [decimal(one, e, way), decimal(one, e, another), decimal(other, f, another)];
            prop_assert_eq!(key(&one_text), key(&again), "{} {}", one_text, again);
            prop_assert_eq!(
                key(&one_text) == key(&other_text), value(one, e) == value(other, f), "{} {}", one_text, other_text,
            );
        }

        #[test]
        fn whatever_comes_has_a_key_that_is_its_own_or_none(
            text in prop_oneof![
                any::<String>(),
                "\"([a\"\\\\/u0-9dDé]|\\\\u[dD][89cC]3d){0,6}\"",
                "-?[0-9.eE+-]{0,8}",
                "-?[0-9]{36,42}([.]0)?(e[0-9]{1,20})?",
            ],
        ) {
            let is_id = serde_json::from_str::<Box<serde_json::value::RawValue>>(&text)
                .is_ok_and(|json| json.get().starts_with(['"', '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']));
            let id = IdKey::of_json(&text);
            if is_id && text.trim() == text {
                prop_assert_eq!(id.as_ref().map(IdKey::as_json), Some(&*text));
                prop_assert_eq!(id.map(|id| key(id.key())), Some(key(&text)), "the key of a key is itself");
            }
        }
    }
}
