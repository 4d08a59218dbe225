//! Objects with other members: what is not changed stays as it was written, byte for byte.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// An object as it is written, each member of it in its order.
pub(super) struct Members<'a>(pub(super) Vec<(Cow<'a, str>, &'a str)>);

#[derive(Deserialize, PartialEq, Eq, Hash)]
struct Key<'k>(#[serde(borrow)] Cow<'k, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Key(name), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    members.push((name, value.get()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

impl<'a> Members<'a> {
    /// `None`: it is no object.
    pub(super) fn of(object: &'a str) -> Option<Self> {
        serde_json::from_str(object).ok()
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(member, _)| member == name).map(|(_, value)| *value)
    }
}

/// The object without the members that `drops` names, and with these (their values are JSON text), which come first; what
/// is put stands in no other place. `None`: it is no object.
pub fn edited(object: &str, drops: impl Fn(&str) -> bool, puts: &[(&str, &str)]) -> Option<String> {
    let Members(members) = Members::of(object)?;
    let mut text = String::with_capacity(
        object.len() + puts.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>(),
    );
    text.push('{');
    let mut put = |name: &str, value: &str| {
        if text.len() > 1 {
            text.push(',');
        }
        // A text is always written.
        text.push_str(&serde_json::to_string(name).unwrap_or_default());
        text.push(':');
        text.push_str(value);
    };
    for (name, value) in puts {
        put(name, value);
    }
    for (name, value) in &members {
        if !drops(name) && !puts.iter().any(|(put, _)| name == put) {
            put(name, value);
        }
    }
    text.push('}');
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_changed_stays_as_it_was_written() {
        let object = r#" { "a" : 1e400 , "b\n": [ 1,2 ], "c":{"a": 0} } "#;
        assert_eq!(edited(object, |name| name == "c", &[]).unwrap(), r#"{"a":1e400,"b\n":[ 1,2 ]}"#);
        assert_eq!(edited(object, |_| true, &[("x", "1"), ("y", "[]")]).unwrap(), r#"{"x":1,"y":[]}"#);
        assert_eq!(edited(r#"{"x":1,"y":2}"#, |_| false, &[("x", "3")]).unwrap(), r#"{"x":3,"y":2}"#);
        assert_eq!(edited("{}", |_| false, &[]).unwrap(), "{}");
        assert!(edited("[1]", |_| false, &[]).is_none());
    }
}
