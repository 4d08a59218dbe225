//! Whatever Redis answers, it is read as what the scripts promise, or is an error, which shows nothing of it.

use std::collections::BTreeMap;

use mcp_router::store::{
    PendingRequest, StoreError, StoreResult,
    redis::reply::{Fields, attachment, client_message, number, pending, text, time, told},
};
use redis::Value;

/// Bytes: an answer in RESP.
pub fn redis_reply(data: &[u8]) {
    let Ok(value) = redis::parse_redis_value(data) else { return };
    let fields = || Fields::of(value.clone(), "the operation");
    sound(number::<u64>(value.clone(), "the operation"));
    sound(number::<i64>(value.clone(), "the operation"));
    sound(text(value.clone(), "the operation"));
    sound(time(value.clone()));
    sound(fields().and_then(Fields::texts).map(drop));
    let pairs = sound(fields().and_then(Fields::pairs));
    let map = sound(fields().and_then(Fields::map));
    if let (Some(pairs), Some(map)) = (&pairs, map) {
        assert_eq!(pairs.iter().cloned().collect::<BTreeMap<_, _>>(), map);
    }
    for (field, holder) in pairs.into_iter().flatten() {
        if let Some(found) = sound(attachment(&field, &holder, "the operation")) {
            assert_eq!(found.stream, field);
            // Whatever zeros stand before its digits.
            let (incarnation, id) = holder.rsplit_once(' ').expect("two parts");
            assert_eq!((&*found.incarnation, Ok(found.id)), (incarnation, id.parse()), "{holder}");
        }
        sound(client_message(&field, holder.clone(), "the operation"));
        if let Some(said) = told(&holder, &field) {
            assert!(holder.contains(said) && said.trim() == said);
        }
    }
    let Ok(table) = fields() else { return };
    if let Some(requests) = sound(pending(table)) {
        assert!(requests.is_sorted_by_key(|request| request.seq));
        assert!(requests.iter().all(|request| !request.id_key.is_empty()));
        again(&requests);
    }
}

/// As the scripts write it.
fn again(requests: &[PendingRequest]) {
    let table = requests.iter().flat_map(|request| {
        let mut state = format!("{} {} ", request.seq, u8::from(request.forwarded)).into_bytes();
        state.extend_from_slice(&request.body);
        [Value::BulkString(request.id_key.as_bytes().to_vec()), Value::BulkString(state)]
    });
    let written = Fields::new(table.collect(), "the operation");
    assert_eq!(pending(written).as_deref().ok(), Some(requests));
}

/// What is wrong is `Corrupt`, and is told by the name of the operation alone.
fn sound<T>(read: StoreResult<T>) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(StoreError::Corrupt(what)) => {
            assert!(what == "unexpected answer to the operation" || what == "unexpected answer to time", "{what}");
            None
        }
        Err(other) => panic!("{other}"),
    }
}
