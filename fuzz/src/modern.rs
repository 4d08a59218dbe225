//! Values of 2026-07-28 stand in headers and are read again; what headers and body say together is decided by their values; and
//! who changes an object changes nothing else of it.

use std::borrow::Cow;

use mcp_router::protocol::{
    jsonrpc::Head,
    modern::{
        VERSION, edit,
        era::{Era, Shown, agree, era, named},
        header::{decoded, encoded},
        meta::{Said, with_meta, with_params},
    },
};
use serde_json::{Map, Value};

use super::{choices::Choices, json::value};

/// Bytes: how many of them are a header, that header, and a body.
pub fn modern(data: &[u8]) {
    let mut choices = Choices::of(data);
    let length = usize::from(choices.byte());
    let rest = choices.rest();
    let (header, body) = rest.split_at(length.min(rest.len()));
    coding(header);
    coding(body);
    headers(header, body);
    edits(body);
}

/// What is written is read, it is a header that may be sent, and one value has one form.
fn coding(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let header = encoded(text);
        assert!(
            header.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) && header.trim() == header,
            "{header:?}"
        );
        assert!(!header.is_empty());
        assert_eq!(decoded(header.as_bytes()), Some(Cow::Borrowed(text)), "{header:?}");
    }
    if let Some(value) = decoded(bytes) {
        assert_eq!(decoded(encoded(&value).as_bytes()).as_ref(), Some(&value));
    }
}

fn headers(shown: &[u8], body: &[u8]) {
    let Ok(head) = Head::parse(body) else { return };
    let Some(method) = head.method() else { return };
    let Some(said) = Said::of(head.params) else { return };
    let by_header = era(Shown::One(shown), method, Some(&said), false);
    if let Ok(Era::Stateless) = by_header {
        // Without a version in the body also a later one, so that what is missing is told in the words of that era.
        let shown = std::str::from_utf8(shown).expect("a text").trim();
        assert!(
            shown >= VERSION && said.version().is_none_or(|version| (shown, version) == (VERSION, VERSION)),
            "{shown}"
        );
    }
    let Some(Some(name)) = named(method, &said) else { return };
    // As an honest client writes it.
    let right = encoded(name);
    let by = |shown_name: &[u8]| agree(Shown::One(method.as_bytes()), Shown::One(shown_name), method, &said).is_ok();
    if !method.contains(char::is_control) && method.trim() == method {
        assert!(by(right.as_bytes()), "{method:?} {name:?} {right:?}");
    }
    // And no other one agrees with it.
    if by(shown) {
        let meant = decoded(std::str::from_utf8(shown).expect("a text").trim().as_bytes());
        assert_eq!(meant.as_deref(), Some(name));
    }
}

/// Judged by serde_json, for objects that it holds without a loss: no name twice, as [`Said`] takes none.
fn edits(body: &[u8]) {
    let (Ok(text), Some(Value::Object(before))) = (std::str::from_utf8(body), value(body)) else { return };
    let puts = [("put", "[1]"), ("name", "\"x\"")];
    let drops = |name: &str| name.len() == 1;
    let is_plain = !text.contains('\\') && before.keys().all(|name| text.matches(&format!("\"{name}\"")).count() == 1);
    if is_plain && let Some(edited) = edit::edited(text, drops, &puts) {
        let mut expected: Map<String, Value> = before.clone();
        expected.retain(|name, _| !drops(name));
        for (name, put) in puts {
            expected.insert(name.to_owned(), serde_json::from_str(put).expect("JSON"));
        }
        assert_eq!(value(edited.as_bytes()), Some(Value::Object(expected)), "{edited}");
    }
    let Ok(head) = Head::parse(body) else { return };
    let Some(said) = Said::of(head.params) else { return };
    let changed = with_meta(body, |_| false, &[("t", "2")]);
    if let Some(changed) = &changed {
        let after = value(changed).unwrap_or_else(|| panic!("no JSON: {changed:?}"));
        let Value::Object(mut after) = after else { panic!("no object: {after}") };
        assert_eq!(after["params"]["_meta"]["t"], 2);
        // Nothing else: compared without parameters, and those without `_meta`.
        let (mut was, params) = (before.clone(), after.remove("params"));
        let mut former = was.remove("params").unwrap_or_else(|| Value::Object(Map::new()));
        if is_plain {
            assert_eq!(after, was);
        }
        let mut params = params.expect("there are some");
        for side in [&mut params, &mut former] {
            if let Some(side) = side.as_object_mut() {
                side.remove("_meta");
            }
        }
        assert_eq!(params, former);
    }
    // Dropped is dropped, and what names a request stays.
    if let Some(changed) = with_params(body, &["requestState", "inputResponses"], &[]) {
        let again = Head::parse(&changed).unwrap_or_else(|_| panic!("{changed:?}"));
        assert_eq!(again.method(), head.method());
        let after = Said::of(again.params).unwrap_or_else(|| panic!("{changed:?}"));
        assert!(!after.goes_on());
        assert_eq!((&after.name, after.version()), (&said.name, said.version()));
    }
}
