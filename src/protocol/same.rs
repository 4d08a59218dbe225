//! JSON texts that say the same thing ([`canonical`]), whoever has written them.

use std::fmt;

use serde::{
    Deserializer as _,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::jsonrpc::IdKey;

/// What stands deeper counts as it is written: each level is read once more.
const DEPTH: usize = 32;

/// The same text for the same value, and another one for any other: no matter how members are ordered, letters escaped and numbers
/// written. Nothing is rounded, no text is too odd (RFC 8259, sections 6 and 8.2), and a name that stands there twice does.
pub fn canonical(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    write(json.trim(), DEPTH, &mut text);
    text
}

fn write(json: &str, depth: usize, text: &mut String) {
    let first = json.bytes().next().filter(|_| depth > 0);
    match first {
        Some(b'{') => match members(json) {
            Some(members) => {
                let canonical = |json: &RawValue, depth| {
                    let mut text = String::new();
                    write(json.get(), depth, &mut text);
                    text
                };
                let mut members: Vec<(String, String)> = members
                    .into_iter()
                    .map(|(name, value)| (canonical(name, depth), canonical(value, depth - 1)))
                    .collect();
                // Those of one name stay in their order: which of them counts is for who reads them.
                members.sort_by(|(one, _), (other, _)| one.cmp(other));
                let members: Vec<String> = members.iter().map(|(name, value)| format!("{name}:{value}")).collect();
                text.push('{');
                text.push_str(&members.join(","));
                text.push('}');
            }
            None => text.push_str(json),
        },
        Some(b'[') => match serde_json::from_str::<Vec<&RawValue>>(json) {
            Ok(values) => {
                text.push('[');
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        text.push(',');
                    }
                    write(value.get(), depth - 1, text);
                }
                text.push(']');
            }
            Err(_) => text.push_str(json),
        },
        _ => match IdKey::of_json(json) {
            Some(scalar) => text.push_str(scalar.key()),
            None => text.push_str(json),
        },
    }
}

/// Of an object, in their order; names are JSON text, too, since not every name is one that Rust can have.
fn members(json: &str) -> Option<Vec<(&RawValue, &RawValue)>> {
    struct Each;

    impl<'de> Visitor<'de> for Each {
        type Value = Vec<(&'de RawValue, &'de RawValue)>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }

    serde_json::Deserializer::from_str(json).deserialize_map(Each).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_say_the_same_are_the_same() {
        for (one, other) in [
            (r#"{"a":1,"b":[2, {"c":"x"}]}"#, r#" { "b" : [2,{"c":"\u0078"}], "\u0061": 1.0 } "#),
            (r#"{"n":1e400}"#, r#"{"n":10e399}"#),
            (r#"{"\ud800":"\udfff"}"#, r#"{"\uD800":"\uDFFF"}"#),
            ("true", " true "),
            ("{}", "{ }"),
        ] {
            assert_eq!(canonical(one), canonical(other), "{one}");
        }
    }

    #[test]
    fn texts_that_say_something_else_are_others_however_odd_they_are() {
        let deep = |text: &str| format!("{}{text}{}", "[".repeat(3000), "]".repeat(3000));
        for (one, other) in [
            (r#"{"n":12345678901234567890123}"#, r#"{"n":12345678901234567890124}"#),
            (r#"{"n":1e400}"#, r#"{"n":2e400}"#),
            (r#"{"n":0.1}"#, r#"{"n":0.10000000000000000001}"#),
            (r#"{"s":"\ud800"}"#, r#"{"s":"\ud801"}"#),
            (r#"{"\ud800":1}"#, r#"{"\ud801":1}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#),
            (r#"{"a":"1"}"#, r#"{"a":1}"#),
            (r#"[1,2]"#, r#"[2,1]"#),
            (r#"["a,b"]"#, r#"["a","b"]"#),
            (r#"{"a":null}"#, "{}"),
            (&deep("1"), &deep("2")),
        ] {
            assert_ne!(canonical(one), canonical(other), "{one}");
        }
    }
}
