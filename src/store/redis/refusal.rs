//! What an error word of Redis means: whether the connection leads to the wrong node, whether writes are refused, and what
//! a person can do. And what this process knows of it now ([`Refusal`]), for health, for answers and for the log.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use redis::ServerError;

use super::place::Place;
use crate::store::StoreError;

/// Longest text of Redis that is passed on: its messages are one sentence.
const MAX_TEXT: usize = 200;

/// One error word.
struct Word {
    word: &'static str,
    /// The address may lead to another node by now: the connection is given up and made again.
    redial: bool,
    /// No write of a message is possible meanwhile.
    refuses: bool,
    /// Trying again does not help before a person has done something: a start ends.
    permanent: bool,
    /// What it means, and what to do.
    advice: &'static str,
}

#[rustfmt::skip]
const WORDS: &[Word] = &[
    Word { word: "READONLY", redial: true, refuses: true, permanent: false,
        advice: "this node is a replica; REDIS_URL must lead to the primary" },
    Word { word: "OOM", redial: false, refuses: true, permanent: false,
        advice: "its memory is full (maxmemory); give it more, or let sessions end" },
    Word { word: "NOREPLICAS", redial: true, refuses: true, permanent: false,
        advice: "too few replicas are connected (min-replicas-to-write)" },
    Word { word: "MISCONF", redial: false, refuses: true, permanent: false,
        advice: "it cannot save its data; look at its disk and its log" },
    Word { word: "NOPERM", redial: false, refuses: true, permanent: true,
        advice: "the user of REDIS_URL lacks a right; docs/operations.md has the least ACL" },
    Word { word: "NOAUTH", redial: true, refuses: true, permanent: true,
        advice: "it wants a password; put it into REDIS_URL" },
    Word { word: "WRONGPASS", redial: true, refuses: true, permanent: true,
        advice: "user or password in REDIS_URL are wrong" },
    Word { word: "LOADING", redial: true, refuses: true, permanent: false,
        advice: "it is reading its data after a start" },
    Word { word: "MASTERDOWN", redial: true, refuses: true, permanent: false,
        advice: "this node is a replica whose primary is away" },
    Word { word: "CLUSTERDOWN", redial: true, refuses: true, permanent: false,
        advice: "the Redis Cluster is down, or no node of it has these keys" },
    Word { word: "MOVED", redial: true, refuses: true, permanent: true,
        advice: "this is a node of a Redis Cluster; REDIS_URL must be redis-cluster://host:port" },
    Word { word: "ASK", redial: true, refuses: true, permanent: true,
        advice: "this is a node of a Redis Cluster; REDIS_URL must be redis-cluster://host:port" },
    Word { word: "CROSSSLOT", redial: false, refuses: true, permanent: true,
        advice: "this is a node of a Redis Cluster; REDIS_URL must be redis-cluster://host:port" },
    Word { word: "DENIED", redial: true, refuses: true, permanent: true,
        advice: "it takes no strangers (protected mode); give it a password, and put that into REDIS_URL" },
    // The server is there but cannot serve now.
    Word { word: "BUSY", redial: false, refuses: false, permanent: false,
        advice: "somebody's script holds it up" },
    Word { word: "TRYAGAIN", redial: false, refuses: false, permanent: false,
        advice: "it is moving data" },
    Word { word: "NOSCRIPT", redial: false, refuses: false, permanent: false,
        advice: "it has forgotten the scripts" },
];

fn find(word: &str) -> Option<&'static Word> {
    WORDS.iter().find(|known| known.word == word)
}

/// The word of an error. What a script was refused has no word of its own in Redis 7.
fn word_of(error: &ServerError) -> &str {
    match error.details() {
        Some(text) if text.starts_with("The user executing the script can't") => "NOPERM",
        _ => error.code(),
    }
}

/// The address may lead to another node by now: a connection by which this came is of no use.
pub(super) fn leads_elsewhere(error: &ServerError) -> bool {
    find(word_of(error)).is_some_and(|known| known.redial)
}

/// The user lacks a right.
pub(super) fn is_denied(error: &ServerError) -> bool {
    word_of(error) == "NOPERM"
}

/// The command that the user may not run, in an error's text.
pub(super) fn denied_command(text: &str) -> Option<&str> {
    text.split("permissions to run the '").nth(1)?.split('\'').next()
}

/// What an error of the server means to the caller. A script is refused before its first write or not at all.
pub(super) fn server_error(error: &ServerError) -> StoreError {
    let word = word_of(error);
    let text = described(word, error.details().unwrap_or_default());
    match find(word) {
        Some(Word { word: "OOM", .. }) => StoreError::Full(text),
        Some(_) => StoreError::NotDone(text),
        None => StoreError::Corrupt(text),
    }
}

/// Error and advice in words. Redis quotes the arguments of commands that it does not know: those may be a session's.
fn described(word: &str, details: &str) -> String {
    let text = details.split(", with args beginning with").next().unwrap_or_default();
    let text = text.split(['\r', '\n']).next().unwrap_or_default();
    let text: String = text.chars().take(MAX_TEXT).collect();
    match find(word) {
        Some(known) => format!("{word}: {}", known.advice),
        None if text.is_empty() => word.to_owned(),
        None => format!("{word}: {text}"),
    }
}

/// What went wrong when a connection was made, and whether trying again is useless.
pub(super) fn connecting(error: &redis::RedisError) -> StoreError {
    let word = error.code().filter(|word| find(word).is_some());
    // Logging in and choosing a database have errors of the client's own, which quote the server's.
    let quoted = error.detail().unwrap_or_default();
    let word = word.or_else(|| WORDS.iter().map(|known| known.word).find(|word| quoted.contains(word)));
    if let Some(command) = denied_command(quoted) {
        return StoreError::Unusable(format!("{}; missing: +{command}", described("NOPERM", "")));
    }
    if let Some(known) = word.and_then(find) {
        let text = described(known.word, "");
        return if known.permanent { StoreError::Unusable(text) } else { StoreError::NotDone(text) };
    }
    match error.kind() {
        redis::ErrorKind::Parse => StoreError::Unusable("what answers there is no Redis".to_owned()),
        redis::ErrorKind::AuthenticationFailed => StoreError::Unusable(described("WRONGPASS", "")),
        redis::ErrorKind::Server(_) | redis::ErrorKind::Extension if quoted.contains("max number of clients") => {
            StoreError::NotDone(described("ERR", quoted))
        }
        redis::ErrorKind::Server(_) | redis::ErrorKind::Extension => StoreError::Unusable(described("ERR", quoted)),
        _ => StoreError::NotDone(error.to_string()),
    }
}

/// Whether Redis refuses writes, as far as this process knows: set by any answer that says so, taken back when a renewal of
/// the lease and the writes that go with it have been done. A change is logged, and only that.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    word: Mutex<Option<Refused>>,
    /// Connections that were given up since writes were possible.
    redials: AtomicU32,
}

/// By what, where, and when last.
#[derive(Debug, Clone, Copy)]
struct Refused {
    word: &'static str,
    place: Place,
    last: Instant,
}

/// A node to which no write of the renewals goes takes writes again when it has refused none for so long.
const QUIET: Duration = Duration::from_secs(10);

impl Refusal {
    /// An answer of the server. `true`: by it is known for the first time that writes are refused.
    pub(super) fn note(&self, error: &ServerError, place: Place) -> bool {
        find(word_of(error)).is_some_and(|known| known.refuses && self.set(known, place))
    }

    /// A connection was given up that led to a node which refuses.
    pub(super) fn redialled(&self) {
        self.redials.fetch_add(1, Ordering::Relaxed);
    }

    /// A failed attempt to connect, if it was refused by the server.
    pub(super) fn note_text(&self, text: &str, place: Place) {
        if let Some(known) = WORDS.iter().find(|known| known.refuses && text.starts_with(known.word)) {
            self.set(known, place);
        }
    }

    /// It was not known yet.
    fn set(&self, known: &'static Word, place: Place) -> bool {
        let refused = Refused { word: known.word, place, last: Instant::now() };
        let former = self.word.lock().unwrap_or_else(PoisonError::into_inner).replace(refused);
        if former.map(|former| former.word) != Some(known.word) {
            tracing::error!("Redis refuses writes: {}", described(known.word, ""));
        }
        former.is_none()
    }

    /// Writes are done at these places. `true`: they were refused before, and by a node that may have been the wrong one.
    pub(super) fn over(&self, places: &[Place]) -> bool {
        let is_over = |refused: &mut Refused| places.contains(&refused.place) || refused.last.elapsed() >= QUIET;
        let former = self.word.lock().unwrap_or_else(PoisonError::into_inner).take_if(is_over);
        self.redials.store(0, Ordering::Relaxed);
        if former.is_some() {
            tracing::warn!("Redis takes writes again");
        }
        former.and_then(|former| find(former.word)).is_some_and(|known| known.redial)
    }

    pub(super) fn redials(&self) -> u32 {
        self.redials.load(Ordering::Relaxed)
    }

    pub(super) fn cause(&self) -> Option<String> {
        let Refused { word, .. } = (*self.word.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(format!("Redis refuses writes: {}", described(word, "")))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::place::ONLY, *};

    #[test]
    fn what_redis_quotes_is_not_passed_on() {
        let quoting = "unknown command 'SCRIPT', with args beginning with: 'LOAD' 'local secret = 1' ";
        assert_eq!(described("ERR", quoting), "ERR: unknown command 'SCRIPT'");
        assert_eq!(described("ERR", "a line\r\nlocal secret"), "ERR: a line");
        assert!(described("ERR", &"x".repeat(1000)).len() < 300);
        assert!(described("READONLY", "You can't write").contains("replica"));
    }

    #[test]
    fn a_refusal_is_new_once_and_over_once() {
        let refusal = Refusal::default();
        assert_eq!(refusal.cause(), None);
        refusal.note_text("READONLY: whatever", ONLY);
        assert!(refusal.cause().unwrap().contains("READONLY"));
        refusal.note_text("an unknown failure", ONLY);
        assert!(refusal.cause().is_some());
        assert!(!refusal.over(&[1, 2]), "of another node of a cluster nothing is known");
        assert!(refusal.cause().is_some());
        assert!(refusal.over(&[ONLY]));
        assert!(!refusal.over(&[ONLY]));
        assert_eq!(refusal.cause(), None);
    }
}
