//! Results that their servers say may be kept (2026-07-28, Caching): `ttlMs` for how long, `cacheScope` by whom. Plain state.
//!
//! A public one serves everybody, a private one the principal that it was made for. What the rules show of it is cut out when it
//! is served, and not before.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::protocol::modern::result::Said;

/// Bytes that an entry is counted with besides its texts.
const AROUND: usize = 200;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Cache {
    limit: usize,
    /// Raised whenever something has become stale.
    version: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<Key, Entry>,
    bytes: usize,
}

/// What a result answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) service: String,
    pub(crate) method: String,
    /// All of them but `_meta`: JSON text.
    pub(crate) params: String,
    /// Whom it may be shown; `None`: everybody.
    pub(crate) principal: Option<String>,
}

#[derive(Debug)]
struct Entry {
    /// The result before the value of its `ttlMs`, and behind it.
    before: Bytes,
    behind: Bytes,
    until: Instant,
}

impl Entry {
    fn cost(&self, key: &Key) -> usize {
        let names = key.service.len() + key.method.len() + key.params.len();
        self.before.len() + self.behind.len() + names + key.principal.as_ref().map_or(0, String::len) + AROUND
    }
}

impl Cache {
    /// Of so many bytes; 0: it keeps nothing.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, version: AtomicU64::new(0), kept: Mutex::default() }
    }

    /// It keeps something.
    pub(crate) fn is_on(&self) -> bool {
        self.limit > 0
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The response with what is kept for this: under this id (JSON text), with what is left of its time.
    pub(crate) fn get(&self, key: &Key, id: &str, now: Instant) -> Option<Bytes> {
        let kept = self.kept();
        let public = Key { principal: None, ..key.clone() };
        let entry =
            [key, &public].into_iter().find_map(|key| kept.entries.get(key).filter(|entry| entry.until > now))?;
        let left = entry.until.saturating_duration_since(now).as_millis().to_string();
        let parts: [&[u8]; 7] = [
            br#"{"jsonrpc":"2.0","id":"#,
            id.as_bytes(),
            br#","result":"#,
            &entry.before,
            left.as_bytes(),
            &entry.behind,
            b"}",
        ];
        Some(Bytes::from(parts.concat()))
    }

    /// Keeps a complete result (JSON text), if its server says that it may be. `key`: of whom it was made for. `false`: it is not
    /// kept.
    pub(crate) fn put(&self, key: Key, result: &str, now: Instant) -> bool {
        let Some(said) = Said::of(result).filter(|said| said.kind() == crate::protocol::modern::result::COMPLETE)
        else {
            return false;
        };
        let Some(ttl) = said.ttl_text().filter(|_| said.ttl() > Duration::ZERO) else { return false };
        // It borrows from the result, so the distance of the two starts is its place in it.
        let start = (ttl.as_ptr() as usize).wrapping_sub(result.as_ptr() as usize);
        let (Some(before), Some(behind)) = (result.get(..start), result.get(start + ttl.len()..)) else { return false };
        let Some(until) = now.checked_add(said.ttl()) else { return false };
        let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let entry = Entry { before: copy(before), behind: copy(behind), until };
        let key = if said.is_public() { Key { principal: None, ..key } } else { key };
        let cost = entry.cost(&key);
        // One alone must not take the place of all others.
        if cost > self.limit / 4 {
            return false;
        }
        let mut kept = self.kept();
        kept.remove(&key);
        if kept.bytes + cost > self.limit {
            kept.make_room(self.limit - cost, now);
        }
        kept.bytes += cost;
        kept.entries.insert(key, entry);
        true
    }

    /// A result that was asked for under another one may be stale.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Something of this service is kept.
    pub(crate) fn has_any_of(&self, service: &str, now: Instant) -> bool {
        self.kept().entries.iter().any(|(key, entry)| key.service == service && entry.until > now)
    }

    /// What `is_of` names is stale: service and method. How many that were.
    pub(crate) fn forget(&self, is_of: impl Fn(&Key) -> bool) -> u64 {
        self.version.fetch_add(1, Ordering::AcqRel);
        let mut kept = self.kept();
        let gone: Vec<Key> = kept.entries.keys().filter(|key| is_of(key)).cloned().collect();
        gone.iter().for_each(|key| kept.remove(key));
        gone.len() as u64
    }
}

impl Kept {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.cost(key);
        }
    }

    /// Lets go of those that are over, and then of those that are soonest.
    fn make_room(&mut self, limit: usize, now: Instant) {
        let mut all: Vec<(Instant, Key)> = self.entries.iter().map(|(key, entry)| (entry.until, key.clone())).collect();
        all.sort_by_key(|(until, _)| *until);
        for (until, key) in all {
            if until > now && self.bytes <= limit {
                return;
            }
            self.remove(&key);
        }
    }
}

/// What a notification of this method, about this resource, makes stale: the method, and if it is one resource its URI.
pub(crate) fn staled(method: &str) -> &'static [&'static str] {
    match method {
        "notifications/tools/list_changed" => &["tools/list"],
        "notifications/prompts/list_changed" => &["prompts/list"],
        "notifications/resources/list_changed" => &["resources/list", "resources/templates/list"],
        // Which of them is said in its parameters; reading one more is no harm.
        "notifications/resources/updated" => &["resources/read"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(params: &str, principal: Option<&str>) -> Key {
        let principal = principal.map(str::to_owned);
        Key { service: "s".into(), method: "tools/list".into(), params: params.into(), principal }
    }

    fn result(ttl: u64, scope: &str) -> String {
        format!(r#"{{"tools":[],"ttlMs":{ttl},"cacheScope":"{scope}"}}"#)
    }

    #[test]
    fn a_public_result_serves_everybody_and_a_private_one_whom_it_was_made_for() {
        let (cache, now) = (Cache::new(100_000), Instant::now());
        cache.put(key("{}", Some("alice")), &result(1000, "public"), now);
        cache.put(key("{\"cursor\":\"2\"}", Some("alice")), &result(1000, "private"), now);
        let half = now + Duration::from_millis(400);
        let told = cache.get(&key("{}", Some("bob")), "\"x\"", half).unwrap();
        assert_eq!(told, r#"{"jsonrpc":"2.0","id":"x","result":{"tools":[],"ttlMs":600,"cacheScope":"public"}}"#);
        assert!(cache.get(&key("{\"cursor\":\"2\"}", Some("alice")), "1", half).is_some());
        assert_eq!(cache.get(&key("{\"cursor\":\"2\"}", Some("bob")), "1", half), None);
        assert_eq!(cache.get(&key("{\"cursor\":\"3\"}", Some("alice")), "1", half), None);
        assert_eq!(cache.get(&key("{}", Some("alice")), "1", now + Duration::from_secs(1)), None, "its time is over");
        assert!(cache.has_any_of("s", half) && !cache.has_any_of("t", half));
        assert!(!cache.has_any_of("s", now + Duration::from_secs(1)));
        assert_eq!(cache.forget(|key| key.method == "tools/list"), 2);
        assert_eq!(cache.get(&key("{}", Some("alice")), "1", half), None);
        assert_eq!(cache.kept().bytes, 0);
    }

    #[test]
    fn what_may_not_be_kept_is_not() {
        let (cache, now) = (Cache::new(100_000), Instant::now());
        for result in [
            result(0, "public"),
            r#"{"tools":[]}"#.to_owned(),
            r#"{"resultType":"input_required","ttlMs":1000,"cacheScope":"public"}"#.to_owned(),
            r#"{"tools":[],"ttlMs":-5,"cacheScope":"public"}"#.to_owned(),
            format!(r#"{{"tools":["{}"],"ttlMs":1000,"cacheScope":"public"}}"#, "x".repeat(50_000)),
        ] {
            assert!(!cache.put(key("{}", Some("a")), &result, now));
            assert_eq!(cache.get(&key("{}", Some("a")), "1", now), None, "{}", &result[..20]);
        }
    }

    #[test]
    fn it_holds_no_more_than_it_may_and_lets_go_of_what_ends_soonest() {
        let (cache, now) = (Cache::new(4_000), Instant::now());
        for at in 0..100_u64 {
            cache.put(key(&at.to_string(), None), &result(1000 + at, "public"), now);
            assert!(cache.kept().bytes <= 4_000);
        }
        assert_eq!(cache.get(&key("0", None), "1", now), None);
        assert!(cache.get(&key("99", None), "1", now).is_some());
    }
}
