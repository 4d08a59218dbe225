//! Rates in memory: when the next request of each principal is due (GCRA).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use async_trait::async_trait;

use super::MemoryStore;
use crate::store::{Paced, Rate, Rates, StoreResult};

/// Principals beyond which those are looked for that have been quiet: their entries say nothing any more.
const SWEPT_AT: usize = 1024;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Due(Mutex<HashMap<String, Instant>>);

#[async_trait]
impl Rates for MemoryStore {
    async fn pace(&self, principal: &str, rate: Rate) -> StoreResult<Paced> {
        let now = Instant::now();
        let mut due = self.due.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = due.get(principal).copied().unwrap_or(now).max(now) + rate.between;
        let wait = (next - now).saturating_sub(rate.between * rate.burst);
        if !wait.is_zero() {
            return Ok(Paced::After(wait));
        }
        if due.len() >= SWEPT_AT {
            due.retain(|_, next| *next > now);
        }
        due.insert(principal.to_owned(), next);
        Ok(Paced::Now)
    }
}
