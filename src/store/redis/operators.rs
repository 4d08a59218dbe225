//! [`Operators`] in Redis: a hash an instance, and one list of incidents.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use redis::Value;

use super::{
    INDEX_TTL, RedisStore, millis,
    reply::{self, Fields},
    scripts::Call,
};
use crate::store::{ASKED_ABOUT, Heard, Instances as _, Operators, Owner, Publication, Published, StoreResult};

const FIGURES: &str = "figures";
const KNOWN: &str = "known";
const INCARNATION: &str = "incarnation";
/// Incarnation that is asked to drain: the one after it is not.
const DRAIN: &str = "drain";

#[async_trait]
impl Operators for RedisStore {
    async fn publish(&self, publication: Publication<'_>) -> StoreResult<Heard> {
        const WHAT: &str = "publish";
        let Publication { owner, figures, known, life, incidents, keep } = publication;
        let key = self.keys.shown(&owner.instance_id);
        let shown = [(INCARNATION, &*owner.incarnation), (FIGURES, &*figures), (KNOWN, &*known)];
        let about = Call::command("ZREVRANGEBYSCORE").arg(&self.keys.asked_about()).arg("+inf");
        let about = about.number(now_ms()).args(&["LIMIT", "0"]).number(ASKED_ABOUT as u64);
        let mut calls = vec![
            Call::command("HSET").arg(&key).pairs(&shown),
            Call::command("PEXPIRE").arg(&key).number(millis(life)),
            Call::command("HGET").arg(&key).arg(DRAIN),
            about,
        ];
        if !incidents.is_empty() {
            let key = self.keys.incidents();
            calls.push(Call::command("RPUSH").arg(&key).args(incidents));
            calls.push(Call::command("LTRIM").arg(&key).arg(&format!("-{}", keep.max(1))).arg("-1"));
            calls.push(Call::command("PEXPIRE").arg(&key).number(millis(INDEX_TTL)));
        }
        let mut heard = Heard::default();
        for (place, answer) in self.link.bulk(calls).await.into_iter().enumerate() {
            match (place, answer?) {
                (2, Value::Nil) => {}
                (2, asked) => heard.drain = reply::text(asked, WHAT)? == *owner.incarnation,
                (3, about) => heard.about = Fields::of(about, WHAT)?.texts()?,
                _ => {}
            }
        }
        Ok(heard)
    }

    async fn published(&self) -> StoreResult<Vec<Published>> {
        const WHAT: &str = "published";
        let ids = self.known_instances().await?;
        let ask = |id: &String| Call::command("HGETALL").arg(&self.keys.shown(id));
        let mut published = Vec::with_capacity(ids.len());
        for (id, answer) in ids.iter().zip(self.link.bulk(ids.iter().map(ask).collect()).await) {
            let mut shown = Fields::of(answer?, WHAT)?.map()?;
            let (Some(incarnation), Some(figures)) = (shown.remove(INCARNATION), shown.remove(FIGURES)) else {
                continue;
            };
            let known = shown.remove(KNOWN).unwrap_or_default();
            let is_asked_to_drain = shown.get(DRAIN) == Some(&incarnation);
            let owner = Owner { instance_id: id.as_str().into(), incarnation: incarnation.into() };
            published.push(Published { owner, figures, known, is_asked_to_drain });
        }
        Ok(published)
    }

    async fn incidents(&self, limit: usize) -> StoreResult<Vec<String>> {
        let call = Call::command("LRANGE").arg(&self.keys.incidents()).arg(&format!("-{}", limit.max(1))).arg("-1");
        let mut incidents = Fields::of(self.link.single(call).await?, "incidents")?.texts()?;
        incidents.reverse();
        Ok(incidents)
    }

    async fn ask_to_drain(&self, owner: &Owner) -> StoreResult<bool> {
        const WHAT: &str = "ask_to_drain";
        let key = self.keys.shown(&owner.instance_id);
        let known = self.link.single(Call::command("HGET").arg(&key).arg(INCARNATION)).await?;
        if known == Value::Nil || reply::text(known, WHAT)? != *owner.incarnation {
            return Ok(false);
        }
        // If it ended in between, this is for an incarnation that there is no more, and gone with its figures.
        let ask = Call::command("HSET").arg(&key).arg(DRAIN).arg(&owner.incarnation);
        let bound = Call::command("PEXPIRE").arg(&key).number(millis(INDEX_TTL)).arg("NX");
        self.link.bulk(vec![ask, bound]).await.into_iter().collect::<StoreResult<Vec<_>>>()?;
        Ok(true)
    }

    /// By the clocks of who asks and who hears: they need not agree to the second.
    async fn ask_about(&self, session: &str, life: Duration) -> StoreResult<()> {
        let (key, now) = (self.keys.asked_about(), now_ms());
        let expire = |how: &str| Call::command("PEXPIRE").arg(&key).number(millis(life)).arg(how);
        let calls = vec![
            Call::command("ZADD").arg(&key).number(now + millis(life)).arg(session),
            Call::command("ZREMRANGEBYSCORE").arg(&key).arg("-inf").number(now),
            expire("NX"),
            expire("GT"),
        ];
        self.link.bulk(calls).await.into_iter().collect::<StoreResult<Vec<_>>>()?;
        Ok(())
    }
}

/// Milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or_default()
}
