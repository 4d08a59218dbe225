//! The head of a message says what a parser of the whole message says, and bytes that are none do no harm.

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::Value;
use testkit::judge;

use super::{
    super::super::{
        scan::{Scan, Told, meant_to_answer},
        tests::{decimal, respelled},
    },
    *,
};

const KNOWN: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];

/// A member as it stands in the text: key and value.
type Member = (String, String);

fn ways() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![2 => Just(Vec::new()), 1 => vec(any::<u8>(), 1..5)]
}

fn string() -> impl Strategy<Value = String> {
    (prop_oneof!["[a-z/]{0,12}", "\\PC{0,6}", "[\"\\\\\n\u{0}{}\\[\\],:é😀]{0,4}"], ways())
        .prop_map(|(value, ways)| respelled(&value, &ways))
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        (-1000i128..1000, -20i32..20, any::<u8>()).prop_map(|(number, e, way)| decimal(number, e, way)),
        "[1-9][0-9]{18,60}",
    ]
}

fn any_value() -> impl Strategy<Value = String> {
    let leaf =
        prop_oneof![string(), number(), select(&["null", "true", "false", "{}", "[]"][..]).prop_map(str::to_owned)];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(|values| format!("[{}]", values.join(" , "))),
            vec((prop_oneof![select(&KNOWN[..]).prop_map(|key| format!("\"{key}\"")), string()], inner), 0..3)
                .prop_map(|members| {
                    let members: Vec<String> =
                        members.into_iter().map(|(key, value)| format!("{key}: {value}")).collect();
                    format!("{{{}}}", members.join(","))
                }),
        ]
    })
}

fn member(name: &'static str, value: impl Strategy<Value = String>) -> impl Strategy<Value = Option<Member>> {
    option::weighted(0.6, (ways(), value).prop_map(move |(ways, value)| (respelled(name, &ways), value)))
}

/// Members of a message, be it a good one or not.
fn members() -> impl Strategy<Value = Vec<Member>> {
    let version = prop_oneof![
        12 => ways().prop_map(|ways| respelled("2.0", &ways)),
        1 => select(&["\"1.0\"", "2.0", "null", "[]"][..]).prop_map(str::to_owned),
    ];
    let version = (ways(), version).prop_map(|(ways, value)| (respelled("jsonrpc", &ways), value));
    let id = prop_oneof![4 => number(), 4 => string(), 1 => Just("null".to_owned()), 1 => any_value()];
    let method = prop_oneof![6 => string(), 2 => Just("null".to_owned()), 1 => any_value()];
    let payload = || prop_oneof![2 => any_value(), 1 => Just("null".to_owned())];
    let other =
        (prop_oneof![6 => string(), 1 => select(&KNOWN[..]).prop_map(|key| respelled(key, &[2, 0]))], any_value());
    let optional = (
        member("id", id),
        member("method", method),
        member("params", payload()),
        member("result", payload()),
        member("error", payload()),
    );
    (version, optional, vec(other, 0..3))
        .prop_map(|(version, (id, method, params, result, error), others)| {
            let optional = [id, method, params, result, error].into_iter().flatten();
            std::iter::once(version).chain(optional).chain(others).collect::<Vec<_>>()
        })
        .prop_shuffle()
}

fn body() -> impl Strategy<Value = String> {
    (members(), vec("[ \t\r\n]{0,2}", 1..5)).prop_map(|(members, gaps)| {
        let mut gaps = gaps.iter().cycle();
        let mut gap = || gaps.next().unwrap();
        let members: Vec<String> =
            members.iter().map(|(key, value)| format!("{}{key}{}:{}{value}{}", gap(), gap(), gap(), gap())).collect();
        format!("{}{{{}}}{}", gap(), members.join(","), gap())
    })
}

/// Both say the same of a message in which no known member is doubled.
fn assert_agreed(head: &Head<'_>, message: &Value) -> Result<(), TestCaseError> {
    let (kind, id, success) = match &head.kind {
        Kind::Request { id, .. } => ("request", Some(id), false),
        Kind::Notification { .. } => ("notification", None, false),
        Kind::Response { id, success } => ("response", id.as_ref(), *success),
    };
    let id_value = id.map(|id| serde_json::from_str::<Value>(id.as_json()).unwrap());
    let said = judge::Said { kind, method: head.method(), id: id_value.as_ref(), success };
    prop_assert_eq!(Some(said), judge::said(message));
    for (part, name) in [(head.params, "params"), (head.result, "result")] {
        let part = part.map(|part| serde_json::from_str::<Value>(part.get()).unwrap());
        prop_assert_eq!(part.as_ref(), message.get(name));
    }
    Ok(())
}

fn assert_harmless(body: &[u8]) -> Result<(), TestCaseError> {
    let _ = (Scan::of(body), meant_to_answer(body), broken_answer_to(body), error_without_id(body));
    let _ = split_batch(&Bytes::copy_from_slice(body));
    match (Head::parse(body), serde_json::from_slice::<Value>(body)) {
        (Ok(head), Ok(message)) => assert_agreed(&head, &message)?,
        (Ok(_), Err(error)) => prop_assert!(judge::is_passed_over(&error), "accepted, and {}", error),
        (Err(error), Ok(_)) => prop_assert_eq!(error.code(), INVALID_REQUEST),
        (Err(_), Err(_)) => {}
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_head_says_what_the_whole_message_says(body in body()) {
        let message: Value = serde_json::from_str(&body).unwrap();
        let is_good = judge::is_sound(body.as_bytes(), &message);
        match Head::parse(body.as_bytes()) {
            Ok(head) => {
                prop_assert!(is_good);
                assert_agreed(&head, &message)?;
            }
            Err(error) => prop_assert!(!is_good && error.code() == INVALID_REQUEST, "{}", error),
        }
    }

    /// What is too large to be kept is told as if it were not.
    #[test]
    fn a_scan_in_pieces_tells_what_the_head_says(body in body(), size in 1usize..20) {
        let Ok(head) = Head::parse(body.as_bytes()) else { return Ok(()) };
        let id = || head.id_text().unwrap().to_owned();
        let told = match &head.kind {
            Kind::Request { .. } => Told::Request(id()),
            Kind::Response { id: Some(_), .. } => Told::Answer(id()),
            Kind::Response { id: None, .. } | Kind::Notification { .. } => Told::Nothing,
        };
        let mut scan = Scan::default();
        body.as_bytes().chunks(size).for_each(|piece| scan.feed(piece));
        prop_assert_eq!(scan.finish(), [told]);
    }

    #[test]
    fn a_message_with_another_id_is_the_same_but_for_it(body in body(), id in string()) {
        let Ok(head) = Head::parse(body.as_bytes()) else { return Ok(()) };
        let mut message: Value = serde_json::from_str(&body).unwrap();
        if head.id_text().is_some() {
            message["id"] = serde_json::from_str(&id).unwrap();
        }
        prop_assert_eq!(serde_json::from_slice::<Value>(&head.with_id(body.as_bytes(), &id)).unwrap(), message);
    }

    #[test]
    fn bytes_that_are_no_message_do_no_harm(
        bytes in prop_oneof![vec(any::<u8>(), 0..60), "[{}\\[\\]\",:\\\\ nul0-9eid.-]{0,40}".prop_map(String::into_bytes)],
    ) {
        assert_harmless(&bytes)?;
    }

    #[test]
    fn a_message_that_is_damaged_does_no_harm(
        body in body(),
        faults in vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..4),
    ) {
        let mut bytes = body.into_bytes();
        for (place, byte, fault) in faults {
            let at = place.index(bytes.len() + 1);
            match fault {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, byte),
                2 => bytes.get_mut(at).into_iter().for_each(|old| *old = byte),
                _ => bytes.extend_from_within(at..),
            }
        }
        assert_harmless(&bytes)?;
    }
}

/// Payloads are not the router's to judge: exactly this is let through that serde_json refuses in a value.
#[test]
fn a_payload_may_hold_what_serde_json_has_no_value_for() {
    for (payload, reason) in [
        ("1e400".to_owned(), "number out of range"),
        (r#""\ud83d""#.to_owned(), "unexpected end of hex escape"),
        (r#""\ud83d\u0061""#.to_owned(), "lone leading surrogate"),
        (r#""\ude00""#.to_owned(), "lone leading surrogate"),
        ("[".repeat(200) + &"]".repeat(200), "recursion limit exceeded"),
    ] {
        for body in [
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{payload}}}"#),
            format!(r#"{{"jsonrpc":"2.0","id":1,"result":{payload}}}"#),
            format!(r#"{{"other":{payload},"jsonrpc":"2.0","method":"x"}}"#),
        ] {
            assert!(Head::parse(body.as_bytes()).is_ok(), "{body}");
            let error = serde_json::from_str::<Value>(&body).unwrap_err();
            assert!(error.to_string().starts_with(reason) && judge::is_passed_over(&error), "{error}");
        }
        let body = format!(r#"{{"jsonrpc":"2.0","method":{payload}}}"#);
        assert!(Head::parse(body.as_bytes()).is_err(), "{body}");
    }
}
