//! Every secret that passes through the test kit, so that what programs have written can be searched for all of them: keys and
//! tokens that a request shows, ids of sessions, texts that tools are given, and what a test names.
//!
//! Nothing is kept before somebody says that he will look ([`watch`]): the load generator does not.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::Value;

/// What is shorter may stand in a log for another reason.
const SHORTEST: usize = 12;

/// Texts of tools; what is said of the first is said of all.
const TEXTS_MAX: usize = 64;

/// Of anything else.
const MOST: usize = 100_000;

/// Digits of a session's id.
const ID_DIGITS: usize = 32;

static WATCHED: AtomicBool = AtomicBool::new(false);
static NOTED: Mutex<Noted> =
    Mutex::new(Noted { ids: BTreeSet::new(), others: BTreeSet::new(), texts: BTreeSet::new() });

/// Ids apart: there may be thousands of them, and they are found by their form.
struct Noted {
    ids: BTreeSet<String>,
    others: BTreeSet<String>,
    texts: BTreeSet<String>,
}

fn noted() -> MutexGuard<'static, Noted> {
    NOTED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_watched() -> bool {
    WATCHED.load(Ordering::Relaxed)
}

/// From now on secrets are kept.
pub fn watch() {
    WATCHED.store(true, Ordering::Relaxed);
}

/// This is one.
pub fn note(secret: &str) {
    if !is_watched() || secret.len() < SHORTEST {
        return;
    }
    let mut noted = noted();
    let set = if is_id(secret) { &mut noted.ids } else { &mut noted.others };
    if set.len() < MOST {
        set.insert(secret.to_owned());
    }
}

/// What this header shows, if it is of those that show who somebody is.
pub(crate) fn note_header(name: &str, value: &str) {
    if !is_watched() {
        return;
    }
    match name {
        "authorization" => note(value.split_once(' ').map_or(value, |(_, credential)| credential.trim())),
        "x-api-key" | "mcp-session-id" => note(value),
        // An id stands in it, with more around it.
        "last-event-id" => note(value.split('.').next().unwrap_or_default()),
        _ => {}
    }
}

/// A session's id, if the query of this path has one.
pub(crate) fn note_path(path: &str) {
    if is_watched()
        && let Some((_, rest)) = path.split_once("sessionId=")
    {
        note(rest.split('&').next().unwrap_or_default());
    }
}

/// What a tool is given.
pub(crate) fn note_call(method: &str, params: &Value) {
    let Some(arguments) = params["arguments"].as_object().filter(|_| is_watched() && method == "tools/call") else {
        return;
    };
    for text in arguments.values().filter_map(Value::as_str) {
        let mut noted = noted();
        if text.len() >= SHORTEST && noted.texts.len() < TEXTS_MAX {
            noted.texts.insert(text.to_owned());
        }
    }
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The lines in which a secret stands, with it. `also`: more secrets than are known.
pub fn found_in(text: &str, also: &[&str]) -> Vec<String> {
    let noted = noted();
    let is_digit = |byte: u8| byte.is_ascii_hexdigit();
    let plain: Vec<&str> =
        noted.others.iter().chain(&noted.texts).map(String::as_str).chain(also.iter().copied()).collect();
    let ids: HashSet<&str> = noted.ids.iter().map(String::as_str).collect();
    let mut found = Vec::new();
    for line in text.lines() {
        let runs = line.split(|character: char| !u8::try_from(character).is_ok_and(is_digit));
        let ids_there = runs.filter(|run| run.len() >= ID_DIGITS).flat_map(|run| {
            (0..=run.len() - ID_DIGITS).map(|from| &run[from..from + ID_DIGITS]).filter(|id| ids.contains(id))
        });
        let plain_there = plain.iter().copied().filter(|secret| line.contains(secret));
        found.extend(ids_there.chain(plain_there).map(|secret| format!("{secret:.40} in: {line:.300}")));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::Request;

    #[test]
    fn what_passes_by_is_found_wherever_it_stands() {
        let id = "0123456789abcdef0123456789abcdef";
        // Nobody looks yet.
        drop(Request::get("/").header("x-api-key", "shown before anybody looks"));
        watch();
        let sent = Request::post(format!("/message?sessionId={id}&x=1"), "")
            .header("Authorization", "Bearer a-token-of-somebody");
        drop(sent.header("x-api-key", "a key with spaces").header("x-other", "something else"));
        drop(crate::mcp_client::tool_call(1, "echo", json!({ "text": "a text of a tool", "n": 1 })));
        note("short");
        for (line, count) in [
            (format!("session {id}."), 1),
            (format!("ff{id}ff"), 1),
            (id[..31].to_owned(), 0),
            ("token=a-token-of-somebody".to_owned(), 1),
            ("\"a key with spaces\", a text of a tool".to_owned(), 2),
            ("shown before anybody looks, something else, short".to_owned(), 0),
        ] {
            assert_eq!(found_in(&format!("before\n{line}\nafter"), &[]).len(), count, "{line}");
        }
        assert_eq!(found_in("of the caller", &["caller"]).len(), 1);
    }
}
