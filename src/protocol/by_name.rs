//! Objects, and nothing but objects: serde reads an array as a struct, too, field by field, and nothing that MCP knows has
//! its members by position.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, value::MapAccessDeserializer},
};

/// A struct that is read from a JSON object alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ByName<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ByName<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Visitor(PhantomData)).map(Self)
    }
}

/// Reads JSON text; `None` when it is no object, or not that of a `T`.
pub fn by_name<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    serde_json::from_str::<ByName<T>>(text).ok().map(|ByName(read)| read)
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Inner {
        flag: bool,
    }

    #[derive(Debug, Deserialize)]
    struct Outer<'a> {
        #[serde(borrow)]
        raw: &'a RawValue,
        #[serde(default)]
        inner: Option<ByName<Inner>>,
    }

    #[test]
    fn members_are_read_by_their_names_alone() {
        let text = r#" {"inner":{"flag":true},"other":1,"raw":{"a": 1e400}} "#;
        let Outer { raw, inner } = by_name(text).unwrap();
        assert_eq!(raw.get(), r#"{"a": 1e400}"#);
        assert!(text.as_bytes().as_ptr_range().contains(&raw.get().as_ptr()), "it borrows from the text");
        assert!(inner.is_some_and(|ByName(inner)| inner.flag));
        for (text, is_read) in [
            (r#"{"raw":1}"#, true),
            (r#"{"raw":1,"inner":null}"#, true),
            (r#"{"raw":1,"inner":[true]}"#, false),
            (r#"{"inner":{"flag":true}}"#, false),
            (r#"{"raw":1,"raw":1}"#, false),
            ("[1]", false),
            ("[]", false),
            ("1", false),
            (r#"{"raw":1"#, false),
        ] {
            assert_eq!(by_name::<Outer<'_>>(text).is_some(), is_read, "{text}");
        }
    }
}
