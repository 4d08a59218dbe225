//! [`Operators`] in Redis: a hash an instance, and one list of incidents.

use async_trait::async_trait;
use redis::Value;

use super::{
    INDEX_TTL, RedisStore, millis,
    reply::{self, Fields},
    scripts::Call,
};
use crate::store::{Instances as _, Operators, Owner, Publication, Published, StoreResult};

const FIGURES: &str = "figures";
const INCARNATION: &str = "incarnation";
/// Incarnation that is asked to drain: the one after it is not.
const DRAIN: &str = "drain";

#[async_trait]
impl Operators for RedisStore {
    async fn publish(&self, publication: Publication<'_>) -> StoreResult<bool> {
        const WHAT: &str = "publish";
        let Publication { owner, figures, life, incidents, keep } = publication;
        let key = self.keys.shown(&owner.instance_id);
        let shown = [(INCARNATION, &*owner.incarnation), (FIGURES, &*figures)];
        let mut calls = vec![
            Call::command("HSET").arg(&key).pairs(&shown),
            Call::command("PEXPIRE").arg(&key).number(millis(life)),
            Call::command("HGET").arg(&key).arg(DRAIN),
        ];
        if !incidents.is_empty() {
            let key = self.keys.incidents();
            calls.push(Call::command("RPUSH").arg(&key).args(incidents));
            calls.push(Call::command("LTRIM").arg(&key).arg(&format!("-{}", keep.max(1))).arg("-1"));
            calls.push(Call::command("PEXPIRE").arg(&key).number(millis(INDEX_TTL)));
        }
        let mut asked = false;
        for (place, answer) in self.link.bulk(calls).await?.into_iter().enumerate() {
            let answer = answer?;
            asked |= place == 2 && answer != Value::Nil && reply::text(answer, WHAT)? == *owner.incarnation;
        }
        Ok(asked)
    }

    async fn published(&self) -> StoreResult<Vec<Published>> {
        const WHAT: &str = "published";
        let ids = self.known_instances().await?;
        let ask = |id: &String| Call::command("HGETALL").arg(&self.keys.shown(id));
        let mut published = Vec::with_capacity(ids.len());
        for (id, answer) in ids.iter().zip(self.link.bulk(ids.iter().map(ask).collect()).await?) {
            let mut shown = Fields::of(answer?, WHAT)?.map()?;
            let (Some(incarnation), Some(figures)) = (shown.remove(INCARNATION), shown.remove(FIGURES)) else {
                continue;
            };
            let is_asked_to_drain = shown.get(DRAIN) == Some(&incarnation);
            let owner = Owner { instance_id: id.as_str().into(), incarnation: incarnation.into() };
            published.push(Published { owner, figures, is_asked_to_drain });
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
        self.link.bulk(vec![ask, bound]).await?.into_iter().collect::<StoreResult<Vec<_>>>()?;
        Ok(true)
    }
}
