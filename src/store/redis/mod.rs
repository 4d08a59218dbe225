//! The shared store: Redis 7 or later, standalone.
//!
//! Role: [`SessionStore`] over Lua scripts, one a job. Owns the connections. Key names: `keys.rs`. Scripts and what
//! they promise: `src/store/lua/`. How operations of many sessions share a round trip: `pipeline.rs`.
//!
//! Never: keeps a copy of anything; what it says was in Redis when it was asked.

mod answers;
mod config;
mod instances;
mod keys;
mod link;
mod pipeline;
mod pubsub;
mod refusal;
mod reply;
mod rights;
mod scripts;
mod sessions;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::mpsc;

pub use self::config::RedisConfig;
use self::{keys::Keys, link::Link, pipeline::Lanes, pubsub::Subscription, scripts::Call};
use crate::{
    protocol::{post_id::PostId, session_id::SessionId},
    store::{
        Accept, Accepted, Adopted, Append, Appended, Attach, Attached, Claim, Claimed, Created, Fence, Fenceable,
        HeadChange, Hint, InstanceInfo, LeaseAcquired, LeaseRenewed, Listed, NewSession, Owner, Page, PendingRequest,
        Rewrite, Rewritten, SessionHead, SessionStore, StoreResult, Wake,
    },
};

/// An index of sessions that nobody has written for so long names nothing that is still wanted; an instance that lives
/// renews it with its lease.
const INDEX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Longer lives are cut to this: ten years in milliseconds, which every command takes.
const MAX_MILLIS: u128 = 10 * 365 * 24 * 60 * 60 * 1000;

/// See module documentation.
pub struct RedisStore {
    config: RedisConfig,
    keys: Keys,
    wake_prefix: String,
    link: Arc<Link>,
    lanes: Lanes,
    /// The instance that uses this store, as its first write names it: its index is swept of sessions that are gone.
    instance_id: OnceLock<Arc<str>>,
}

impl RedisStore {
    /// Connects, and teaches Redis the scripts.
    ///
    /// # Errors
    /// `Unavailable` when the URL cannot be read or Redis does not answer within the time-out; `Unusable` when trying again
    /// does not help: it is older than 7.0, of another kind, no Redis, or does not let the user in.
    pub async fn connect(config: RedisConfig) -> StoreResult<Self> {
        let link = Arc::new(Link::new(&config)?);
        link.prepare().await?;
        let keys = Keys::new(&config.prefix);
        rights::check(&link, &keys).await?;
        let wake_prefix = keys.wake_prefix();
        let lanes = Lanes::new(link.clone(), config.queue);
        Ok(Self { config, keys, wake_prefix, link, lanes, instance_id: OnceLock::new() })
    }

    fn wake_channel(&self, incarnation: &str) -> String {
        format!("{}{incarnation}", self.wake_prefix)
    }
}

/// At least one, since Redis takes 0 as "delete now".
fn millis(duration: Duration) -> u64 {
    duration.as_millis().clamp(1, MAX_MILLIS) as u64
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn create(&self, new: NewSession) -> StoreResult<Created> {
        self.do_create(new).await
    }

    async fn accept(&self, accept: Accept) -> StoreResult<Accepted> {
        self.do_accept(accept).await
    }

    async fn claim(&self, claim: Claim) -> StoreResult<Claimed> {
        self.do_claim(claim).await
    }

    async fn mark_forwarded(&self, fence: &Fence, id_keys: &[String]) -> StoreResult<Fenceable> {
        self.do_mark_forwarded(fence, id_keys).await
    }

    async fn append(&self, append: Append) -> StoreResult<Appended> {
        self.do_append(append).await
    }

    async fn pending(&self, session: SessionId) -> StoreResult<Vec<PendingRequest>> {
        self.do_pending(session).await
    }

    async fn pending_ids(&self, session: SessionId) -> StoreResult<Vec<Arc<str>>> {
        self.do_pending_ids(session).await
    }

    async fn forget_requests(&self, fence: &Fence, requests: &[(String, u64)]) -> StoreResult<Fenceable> {
        self.do_forget_requests(fence, requests).await
    }

    async fn forget_post(&self, session: SessionId, post_id: PostId) -> StoreResult<bool> {
        self.do_forget_post(session, post_id).await
    }

    async fn hint(&self, session: SessionId, hint: &Hint) -> StoreResult<bool> {
        self.do_hint(session, hint).await
    }

    async fn update(&self, fence: &Fence, changes: &[HeadChange]) -> StoreResult<Fenceable> {
        self.do_update(fence, changes).await
    }

    async fn read_page(
        &self,
        session: SessionId,
        stream: &str,
        after: u64,
        max_events: usize,
        max_bytes: usize,
    ) -> StoreResult<Option<Page>> {
        self.do_read_page(session, stream, after, max_events, max_bytes).await
    }

    async fn attach(&self, attach: Attach) -> StoreResult<Attached> {
        self.do_attach(attach).await
    }

    async fn detach(&self, session: SessionId, stream: &str, attachment_id: u64) -> StoreResult<bool> {
        self.do_detach(session, stream, attachment_id).await
    }

    async fn client_shown(
        &self,
        client: &str,
        session: SessionId,
        incarnation: &str,
        ttl: Duration,
    ) -> StoreResult<()> {
        self.do_client_note(client, session, "shown", incarnation, ttl).await
    }

    async fn client_left(
        &self,
        client: &str,
        session: SessionId,
        incarnation: Option<&str>,
        ttl: Duration,
    ) -> StoreResult<()> {
        self.do_client_note(client, session, "left", incarnation.unwrap_or_default(), ttl).await
    }

    async fn client_forgotten(&self, client: &str, session: SessionId) -> StoreResult<()> {
        self.do_client_note(client, session, "gone", "", Duration::ZERO).await
    }

    async fn client_sessions(&self, client: &str, age: Duration) -> StoreResult<Listed> {
        self.do_client_sessions(client, age).await
    }

    async fn renew(&self, session: SessionId, epoch: u32) -> StoreResult<bool> {
        self.do_renew(session, epoch).await
    }

    async fn rewrite(&self, rewrite: Rewrite) -> StoreResult<Rewritten> {
        self.do_rewrite(rewrite).await
    }

    async fn adopt(
        &self,
        session: SessionId,
        from: &Owner,
        from_generation: u64,
        new_owner: &Owner,
    ) -> StoreResult<Adopted> {
        self.do_adopt(session, from, from_generation, new_owner).await
    }

    async fn release(&self, fence: &Fence) -> StoreResult<Fenceable> {
        self.do_release(fence).await
    }

    async fn touch(&self, sessions: &[SessionId], ttl: Duration) -> StoreResult<Vec<SessionId>> {
        self.do_touch(sessions, ttl).await
    }

    async fn purge(&self, session: SessionId) -> StoreResult<bool> {
        self.do_purge(session).await
    }

    async fn load(&self, session: SessionId) -> StoreResult<Option<SessionHead>> {
        self.do_load(session).await
    }

    async fn list(&self, limit: usize) -> StoreResult<Vec<(SessionId, SessionHead)>> {
        self.do_list("", limit).await
    }

    async fn find(&self, digits: &str, limit: usize) -> StoreResult<Vec<(SessionId, SessionHead)>> {
        // They go into a pattern of keys.
        if !digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Vec::new());
        }
        self.do_list(digits, limit).await
    }

    async fn owned_by(&self, instance_id: &str) -> StoreResult<Vec<SessionId>> {
        self.do_owned_by(instance_id).await
    }

    async fn lease_acquire(&self, info: &InstanceInfo, ttl: Duration) -> StoreResult<LeaseAcquired> {
        self.do_lease_acquire(info, ttl).await
    }

    async fn lease_renew(&self, info: &InstanceInfo, ttl: Duration) -> StoreResult<LeaseRenewed> {
        self.do_lease_renew(info, ttl).await
    }

    async fn lease_release(&self, owner: &Owner) -> StoreResult<()> {
        self.do_lease_release(owner).await
    }

    async fn leases_left(&self) -> StoreResult<Vec<Duration>> {
        self.do_leases_left().await
    }

    async fn has_given_up(&self, owner: &Owner) -> StoreResult<bool> {
        self.do_has_given_up(owner).await
    }

    async fn instances(&self) -> StoreResult<Vec<InstanceInfo>> {
        self.do_instances().await
    }

    async fn lease_holder(&self, instance_id: &str) -> StoreResult<Option<InstanceInfo>> {
        self.do_lease_holder(instance_id).await
    }

    async fn known_instances(&self) -> StoreResult<Vec<String>> {
        self.do_known_instances().await
    }

    async fn forget_instance(&self, instance_id: &str) -> StoreResult<()> {
        self.do_forget_instance(instance_id).await
    }

    async fn dataset(&self, candidate: &str) -> StoreResult<String> {
        self.do_dataset(candidate).await
    }

    async fn wake(&self, incarnation: &str, session: SessionId) -> StoreResult<u64> {
        let channel = self.wake_channel(incarnation);
        let call = Call::command("PUBLISH").arg(&channel).arg(self.keys.session(&session).id());
        reply::number(self.lanes.call(call).await?, "wake")
    }

    async fn subscribe(&self, incarnation: &str, capacity: usize) -> StoreResult<mpsc::Receiver<Wake>> {
        let subscription = Subscription {
            link: self.link.clone(),
            channel: self.wake_channel(incarnation),
            backoff: self.config.backoff,
            probe: self.config.probe,
        };
        subscription.start(capacity).await
    }

    async fn ping(&self) -> StoreResult<()> {
        self.lanes.call(Call::command("PING")).await.map(drop)
    }

    fn refusal(&self) -> Option<String> {
        self.link.refusal()
    }

    fn kind(&self) -> &'static str {
        "redis"
    }
}
