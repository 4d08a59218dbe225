//! Calls in Redis: builds the calls of the script, and reads what comes back.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::Value;

use super::{
    RedisStore, millis,
    reply::{Fields, corrupt},
    scripts::{Call, Script},
};
use crate::store::{CallNote, CallRecord, Calls, StoreResult};

const WHAT: &str = "call";

impl RedisStore {
    async fn call_record(
        &self,
        name: &str,
        note: &str,
        text: &Bytes,
        ttl: Duration,
        may_be_new: bool,
    ) -> StoreResult<Option<CallRecord>> {
        let call = Call::script_with_body(Script::Call, 1, text.len())
            .arg(&self.keys.record(name))
            .arg(note)
            .body(text)
            .number(millis(ttl))
            .arg(if may_be_new { "1" } else { "0" });
        let mut fields = Fields::of(self.lanes.call(call).await?, WHAT)?;
        if fields.is_empty() {
            return Ok(None);
        }
        let _: u64 = fields.number()?;
        let asked = fields.text()?;
        let place = Some(fields.text()?).filter(|place| !place.is_empty());
        let Value::BulkString(done) = fields.value()? else { return Err(corrupt(WHAT)) };
        let done = Some(Bytes::from(done)).filter(|done| !done.is_empty());
        Ok(Some(CallRecord { asked, place, done }))
    }
}

#[async_trait]
impl Calls for RedisStore {
    async fn begin_call(&self, name: &str, asked: &str, ttl: Duration) -> StoreResult<CallRecord> {
        let asked = Bytes::copy_from_slice(asked.as_bytes());
        let record = self.call_record(name, "asked", &asked, ttl, true).await?;
        record.filter(|record| !record.asked.is_empty()).ok_or_else(|| corrupt(WHAT))
    }

    async fn note_call(
        &self,
        name: &str,
        note: CallNote,
        text: &Bytes,
        ttl: Duration,
    ) -> StoreResult<Option<CallRecord>> {
        let field = match note {
            CallNote::Place => "place",
            CallNote::Done => "done",
        };
        self.call_record(name, field, text, ttl, false).await
    }

    async fn call(&self, name: &str) -> StoreResult<Option<CallRecord>> {
        self.call_record(name, "", &Bytes::new(), Duration::ZERO, false).await
    }
}
