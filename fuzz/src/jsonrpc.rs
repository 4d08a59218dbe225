//! The head of a message says what the whole message says.

use bytes::Bytes;
use mcp_router::protocol::{
    jsonrpc::{
        Head, INVALID_REQUEST, Kind, Said, broken_answer_to, error_without_id, failed_response, result_response,
        split_batch, with_part,
    },
    scan::meant_to_answer,
};
use serde_json::Value;
use testkit::judge;

use super::json::value;

/// Bytes: the body of a message.
pub fn jsonrpc(body: &[u8]) {
    let message = value(body);
    match (Head::parse(body), &message) {
        (Ok(head), message) => {
            check_head(&head, body, message.as_ref());
        }
        (Err(error), Some(message)) => {
            assert_eq!(error.code(), INVALID_REQUEST, "it is JSON, and {error}");
            assert!(!judge::is_sound(body, message), "refused, and nothing is wrong with it: {error}");
        }
        (Err(_), None) => {}
    }
    check_nameless_error(body, message.as_ref());
    check_batch(body, message.as_ref());
    let is_answer =
        |message: &Value| message.is_object() || message.as_array().is_some_and(|all| all.iter().any(Value::is_object));
    if message.as_ref().is_some_and(|message| !is_answer(message)) {
        assert_eq!(meant_to_answer(body), [], "of something that is no object");
        assert_eq!(broken_answer_to(body), None, "of something that is no object");
    }
}

fn check_head(head: &Head<'_>, body: &[u8], message: Option<&Value>) {
    let (kind, id, success) = match &head.kind {
        Kind::Request { id, .. } => ("request", Some(id), false),
        Kind::Notification { .. } => ("notification", None, false),
        Kind::Response { id, success } => ("response", id.as_ref(), *success),
    };
    match message {
        Some(message) => {
            let id = id.and_then(|id| value(id.as_json().as_bytes()));
            let said = judge::Said { kind, method: head.method(), id: id.as_ref(), success };
            assert_eq!(Some(said), judge::said(message));
            for (part, name) in [(head.params, "params"), (head.result, "result")] {
                assert_eq!(part.and_then(|part| value(part.get().as_bytes())).as_ref(), message.get(name), "{name}");
            }
        }
        None => {
            let error = serde_json::from_slice::<Value>(body).expect_err("it has no value");
            assert!(judge::is_passed_over(&error), "accepted, and {error}");
        }
    }
    match (&head.kind, head.said()) {
        (Kind::Request { id, method }, Said::Request { id: said_id, method: said }) => {
            assert_eq!((id, &**method), (&said_id, &*said));
        }
        (Kind::Notification { method }, Said::Notification { method: said }) => assert_eq!(&**method, &*said),
        (Kind::Response { id, .. }, Said::Response { id: said_id }) => assert_eq!(id, &said_id),
        (kind, said) => panic!("{kind:?} is {said:?}"),
    }
    let answered = match &head.kind {
        Kind::Response { id: Some(id), .. } => vec![id.clone()],
        _ => Vec::new(),
    };
    assert_eq!(meant_to_answer(body), answered);

    let renamed = head.with_id(body, r#""another""#);
    match head.id_text() {
        Some(id) => {
            assert_eq!(renamed.len(), body.len() - id.len() + r#""another""#.len());
            let again = Head::parse(&renamed).expect("another id does not spoil it");
            assert_eq!(again.id_text(), Some(r#""another""#));
            assert_eq!(again.with_id(&renamed, id), body, "and back again");
        }
        None => assert_eq!(renamed, body),
    }
    if let Some(result) = head.result {
        let answer = result_response("7", result.get());
        let again = Head::parse(&answer).expect("a result stays one");
        assert_eq!(again.result.map(|result| result.get()), Some(result.get()));
    }
    assert_eq!(with_part(body, "elsewhere", "x"), body, "what is no part of it changes nothing");
}

fn check_nameless_error(body: &[u8], message: Option<&Value>) {
    let Some(error) = error_without_id(body) else { return };
    assert!(error.starts_with(b"{"));
    let answer = failed_response("7", &error);
    assert!(matches!(Head::parse(&answer).map(|head| head.kind), Ok(Kind::Response { id: Some(_), success: false })));
    let Some(message) = message else { return };
    assert_eq!(value(&error).as_ref(), message.get("error"));
    for absent in ["id", "method", "result"] {
        assert!(message.get(absent).is_none_or(Value::is_null), "{absent}");
    }
}

fn check_batch(body: &[u8], message: Option<&Value>) {
    let Some(messages) = split_batch(&Bytes::copy_from_slice(body)) else {
        assert!(!message.is_some_and(Value::is_array), "an array is split");
        return;
    };
    let Some(message) = message else { return };
    let all: Vec<Value> = messages.iter().filter_map(|message| value(message)).collect();
    assert_eq!(message, &Value::Array(all));
}
