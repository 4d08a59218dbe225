//! Rates and calls in memory: when the next request of each principal is due (GCRA), and when each call is over.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;

use super::MemoryStore;
use crate::store::{Entered, Paced, Rate, Rates, StoreResult};

/// Principals beyond which those are looked for that have been quiet: their entries say nothing any more.
const SWEPT_AT: usize = 1024;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Due {
    next: Mutex<HashMap<String, Instant>>,
    calls: Mutex<HashMap<String, HashMap<Arc<str>, Instant>>>,
}

#[async_trait]
impl Rates for MemoryStore {
    async fn pace(&self, principal: &str, rate: Rate) -> StoreResult<Paced> {
        let now = Instant::now();
        let mut due = self.due.next.lock().unwrap_or_else(PoisonError::into_inner);
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

    async fn enter(&self, principal: &str, call: &str, limit: usize, life: Duration) -> StoreResult<Entered> {
        let now = Instant::now();
        let mut all = self.due.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = all.entry(principal.to_owned()).or_default();
        calls.retain(|_, over| *over > now);
        let is_known = calls.contains_key(call);
        if !is_known && calls.len() >= limit {
            return Ok(Entered::Full);
        }
        calls.insert(call.into(), now + life);
        Ok(if is_known { Entered::Already } else { Entered::New })
    }

    async fn keep_calls(&self, principal: &str, calls: &[Arc<str>], life: Duration) -> StoreResult<()> {
        let over = Instant::now() + life;
        let mut all = self.due.calls.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(principal.to_owned()).or_default().extend(calls.iter().map(|call| (Arc::clone(call), over)));
        Ok(())
    }

    async fn leave(&self, principal: &str, calls: &[Arc<str>]) -> StoreResult<()> {
        let mut all = self.due.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get_mut(principal) {
            known.retain(|call, _| !calls.contains(call));
            if known.is_empty() {
                all.remove(principal);
            }
        }
        Ok(())
    }
}
