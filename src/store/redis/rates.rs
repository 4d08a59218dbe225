//! Rates in Redis: by its clock, so that those of the instances need not agree.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    RedisStore, reply,
    scripts::{Call, Script},
};
use crate::store::{Paced, Rate, Rates, StoreResult};

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
}
