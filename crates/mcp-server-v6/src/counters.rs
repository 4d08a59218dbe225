//! What the drill tool `increment` did: how often each key was counted, and by which calls.
//!
//! A router that repeats a call must not let its side effect happen twice unnoticed. So every effect is counted in
//! memory, with the JSON-RPC call that caused it, and, if asked for, appended to a file that survives a kill and can be
//! summed over several servers.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};

use crate::{rpc::RequestId, session_id::SessionId};

/// Calls remembered one by one, about 100 MB of them. Later ones are still counted by key.
const REMEMBERED_CALLS: usize = 1 << 20;

/// The counters of one server.
pub(crate) struct Counters(Mutex<Tally>);

struct Tally {
    by_key: BTreeMap<String, u64>,
    by_call: HashMap<(SessionId, RequestId, String), u64>,
    file: Option<File>,
}

impl Counters {
    /// Counters that die with the process.
    pub fn in_memory() -> Self {
        Self::with_file(None)
    }

    /// Counters that also append the key of every increment to a file, which is created if need be.
    pub fn appending_to(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .map_err(|reason| io::Error::new(reason.kind(), format!("counts file {}: {reason}", path.display())))?;
        Ok(Self::with_file(Some(file)))
    }

    fn with_file(file: Option<File>) -> Self {
        Self(Mutex::new(Tally { by_key: BTreeMap::new(), by_call: HashMap::new(), file }))
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one run of a call; the new value of the key. The key has no line break.
    ///
    /// # Errors
    /// The file cannot be written; then nothing is counted.
    pub fn increment(&self, session: SessionId, request: &RequestId, key: &str) -> io::Result<u64> {
        let mut tally = self.tally();
        if let Some(file) = &mut tally.file {
            // One write of the whole line: appends of several processes do not mix within a line.
            file.write_all(format!("{key}\n").as_bytes())?;
        }
        let call = (session, request.clone(), key.to_owned());
        if tally.by_call.len() < REMEMBERED_CALLS || tally.by_call.contains_key(&call) {
            *tally.by_call.entry(call).or_default() += 1;
        }
        let count = tally.by_key.entry(key.to_owned()).or_default();
        *count += 1;
        Ok(*count)
    }

    /// All counters: `counters` by key; `distinctCalls` by key, the number of distinct calls (session and request id)
    /// among them; and `repeatedCalls`, each call that ran more than once.
    pub fn snapshot(&self) -> Value {
        let tally = self.tally();
        let mut distinct: BTreeMap<&str, u64> = BTreeMap::new();
        let mut repeated = Vec::new();
        for ((session, request, key), runs) in &tally.by_call {
            *distinct.entry(key).or_default() += 1;
            if *runs > 1 {
                // The session's id is a secret; its printed prefix is enough to tell sessions apart.
                repeated
                    .push(json!({ "key": key, "session": session.to_string(), "requestId": request, "runs": runs }));
            }
        }
        json!({ "counters": tally.by_key, "distinctCalls": distinct, "repeatedCalls": repeated })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(json: &str) -> RequestId {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_repeated_call_is_told_from_a_new_one() {
        let counters = Counters::in_memory();
        let (session, other) = (SessionId::random(), SessionId::random());
        assert_eq!(counters.increment(session, &id("1"), "a").unwrap(), 1);
        assert_eq!(counters.increment(session, &id("1"), "a").unwrap(), 2);
        assert_eq!(counters.increment(session, &id("\"1\""), "a").unwrap(), 3);
        assert_eq!(counters.increment(other, &id("1"), "a").unwrap(), 4);
        assert_eq!(counters.increment(other, &id("2"), "b").unwrap(), 1);

        let snapshot = counters.snapshot();
        assert_eq!(snapshot["counters"], json!({ "a": 4, "b": 1 }));
        assert_eq!(snapshot["distinctCalls"], json!({ "a": 3, "b": 1 }));
        assert_eq!(
            snapshot["repeatedCalls"],
            json!([{ "key": "a", "session": session.to_string(), "requestId": 1, "runs": 2 }])
        );
    }

    #[test]
    fn servers_that_share_a_counts_file_lose_no_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("counts");
        let servers = [Counters::appending_to(&path).unwrap(), Counters::appending_to(&path).unwrap()];
        for round in 0..50 {
            for server in &servers {
                server.increment(SessionId::random(), &id(&round.to_string()), "key").unwrap();
            }
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().filter(|line| *line == "key").count(), 100);
        assert_eq!(text.lines().count(), 100);
    }
}
