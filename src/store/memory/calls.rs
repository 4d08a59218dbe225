//! Calls in memory.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{MAX_TTL, MemoryStore};
use crate::store::{CallNote, CallRecord, Calls, StoreResult};

/// Records beyond which those are looked for whose time is over.
const SWEPT_AT: usize = 1024;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Records(Mutex<HashMap<String, (CallRecord, Instant)>>);

impl Records {
    /// Those that live.
    fn living(&self, name: &str) -> MutexGuard<'_, HashMap<String, (CallRecord, Instant)>> {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if records.len() >= SWEPT_AT {
            records.retain(|_, (_, until)| *until > now);
        }
        if records.get(name).is_some_and(|(_, until)| *until <= now) {
            records.remove(name);
        }
        records
    }
}

fn until(ttl: Duration) -> Instant {
    Instant::now() + ttl.min(MAX_TTL)
}

#[async_trait]
impl Calls for MemoryStore {
    async fn begin_call(&self, name: &str, asked: &str, ttl: Duration) -> StoreResult<CallRecord> {
        let mut records = self.calls.living(name);
        let record = records.entry(name.to_owned()).or_insert_with(|| {
            let record = CallRecord { asked: asked.to_owned(), ..CallRecord::default() };
            (record, until(ttl))
        });
        Ok(record.0.clone())
    }

    async fn note_call(
        &self,
        name: &str,
        note: CallNote,
        text: &Bytes,
        ttl: Duration,
    ) -> StoreResult<Option<CallRecord>> {
        let mut records = self.calls.living(name);
        let Some((record, lives)) = records.get_mut(name) else { return Ok(None) };
        let is_new = match note {
            CallNote::Place => record.place.is_none(),
            CallNote::Done => record.done.is_none(),
        };
        if is_new {
            match note {
                CallNote::Place => record.place = Some(String::from_utf8_lossy(text).into_owned()),
                CallNote::Done => record.done = Some(text.clone()),
            }
            *lives = until(ttl);
        }
        Ok(Some(record.clone()))
    }

    async fn call(&self, name: &str) -> StoreResult<Option<CallRecord>> {
        Ok(self.calls.living(name).get(name).map(|(record, _)| record.clone()))
    }
}
