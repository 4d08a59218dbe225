//! Rates and calls in Redis: by its clock, so that those of the instances need not agree.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    RedisStore, millis, reply,
    scripts::{Call, Script},
};
use crate::store::{Entered, Paced, Rate, Rates, StoreResult};

#[async_trait]
impl Rates for RedisStore {
    async fn pace(&self, principal: &str, rate: Rate) -> StoreResult<Paced> {
        let call = Call::script(Script::Rate, 1)
            .arg(&self.keys.rate(principal))
            .number(u64::try_from(rate.between.as_micros()).unwrap_or(u64::MAX))
            .number(u64::from(rate.burst));
        Ok(match reply::number::<u64>(self.lanes.call(call).await?, "rate")? {
            0 => Paced::Now,
            wait => Paced::After(Duration::from_micros(wait)),
        })
    }

    async fn enter(&self, principal: &str, call: &str, limit: usize, life: Duration) -> StoreResult<Entered> {
        let call = Call::script(Script::Enter, 1)
            .arg(&self.keys.calls(principal))
            .arg(call)
            .number(limit as u64)
            .number(millis(life));
        Ok(match reply::number::<u64>(self.lanes.call(call).await?, "enter")? {
            0 => Entered::New,
            1 => Entered::Already,
            _ => Entered::Full,
        })
    }

    async fn keep_calls(&self, principal: &str, calls: &[Arc<str>], life: Duration) -> StoreResult<()> {
        let call = Call::script(Script::KeepCalls, 1).arg(&self.keys.calls(principal)).number(millis(life)).args(calls);
        self.lanes.call(call).await.map(drop)
    }

    async fn leave(&self, principal: &str, calls: &[Arc<str>]) -> StoreResult<()> {
        self.lanes.call(Call::command("ZREM").arg(&self.keys.calls(principal)).args(calls)).await.map(drop)
    }
}
