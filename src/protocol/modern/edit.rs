//! Objects with other members: what is not changed stays as it was written, byte for byte.

use crate::protocol::members::Members;

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
