//! What the tests of the contract share: the two backends, and short ways to say what a test is about.

pub mod accept;
pub mod append;
pub mod attachment;
pub mod binding;
pub mod calls;
pub mod claim;
pub mod client;
pub mod instance;
pub mod life;
pub mod link_fault;
pub mod model;
pub mod older;
pub mod operators;
pub mod ownership;
pub mod page;
pub mod rates;
pub mod redis_link;
pub mod redis_only;
pub mod rights;
pub mod streams;
pub mod wake;

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use mcp_router::{
    protocol::{post_id::PostId, session_id::SessionId, stream_key::StreamKey},
    store::{
        Accept, Accepted, Adopted, Append, Appended, Attach, Attached, AttachedTo, Attachment, Binding, CallNote,
        CallRecord, Claim, Claimed, ClientMessage, Created, Entered, EventLog, Fence, Handed, HeadChange, InboxEntry,
        Instances, Journal, LogLimits, NewEvent, NewSession, Owner, Paced, Rate, Rehydration, SessionHead,
        SessionStore, Sessions, Wake, WakeUps,
        memory::MemoryStore,
        redis::{RedisConfig, RedisStore},
    },
};
use tokio::sync::mpsc;

use crate::{redis_cluster::RedisCluster, redis_server::RedisServer};

/// Long enough for a loaded machine; only a broken promise waits so long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The stream most tests use.
pub const STREAM: &str = "g";

/// A store, and what it stands on.
pub struct Backend {
    store: Arc<dyn SessionStore>,
    pub server: Option<RedisServer>,
    pub cluster: Option<RedisCluster>,
}

impl Backend {
    pub fn memory() -> Self {
        Self { store: Arc::new(MemoryStore::new()), server: None, cluster: None }
    }

    /// One Redis, whatever the environment says.
    pub async fn redis() -> Self {
        let server = RedisServer::start();
        let store = RedisStore::connect(config(server.url())).await.expect("a store on a fresh Redis");
        Self { store: Arc::new(store), server: Some(server), cluster: None }
    }

    /// Three primaries without replicas.
    pub async fn cluster() -> Self {
        let cluster = RedisCluster::start(3, 0).await;
        let store = RedisStore::connect(config_of(&cluster)).await.expect("a store on a fresh Redis Cluster");
        Self { store: Arc::new(store), server: None, cluster: Some(cluster) }
    }

    /// As `MCP_TEST_REDIS` has it.
    pub async fn shared() -> Self {
        match std::env::var("MCP_TEST_REDIS").as_deref() {
            Ok("cluster") => Self::cluster().await,
            Ok(other) if other != "standalone" => panic!("MCP_TEST_REDIS is standalone or cluster, not {other}"),
            _ => Self::redis().await,
        }
    }

    pub fn store(&self) -> &dyn SessionStore {
        &*self.store
    }

    /// The store as another process would see it.
    pub async fn another(&self) -> Arc<dyn SessionStore> {
        let config = match (&self.server, &self.cluster) {
            (Some(server), _) => config(server.url()),
            (None, Some(cluster)) => config_of(cluster),
            (None, None) => return self.store.clone(),
        };
        Arc::new(RedisStore::connect(config).await.unwrap())
    }
}

/// Settings for tests: patient, since the machine may be busy.
pub fn config(url: String) -> RedisConfig {
    RedisConfig { timeout: PATIENCE, ..RedisConfig::new(url) }
}

/// The same for a cluster.
pub fn config_of(cluster: &RedisCluster) -> RedisConfig {
    RedisConfig { cluster: cluster.seeds(), ..config("redis://localhost".to_owned()) }
}

/// The process `name`, of the instance `router-<name>`.
pub fn owner(name: &str) -> Owner {
    Owner { instance_id: format!("router-{name}").into(), incarnation: format!("process-{name}").into() }
}

/// Nobody: the owner of a session that was let go.
pub fn nobody() -> Owner {
    Owner { instance_id: "".into(), incarnation: "".into() }
}

/// The owner that has this incarnation.
pub fn owner_with(incarnation: &str) -> Owner {
    incarnation.strip_prefix("process-").map_or_else(nobody, owner)
}

pub fn incarnation(name: &str) -> Arc<str> {
    owner(name).incarnation
}

pub fn new_session(name: &str) -> NewSession {
    NewSession {
        restored: None,
        session: SessionId::random(),
        epoch: fastrand::u32(..),
        service: "mcp-server-v6".to_owned(),
        transport: "sse".to_owned(),
        binding: principal(),
        client: "client".to_owned(),
        owner: owner(name),
        attachment: Some((STREAM.to_owned(), 7)),
        ttl: Duration::from_secs(600),
    }
}

/// To whom the sessions of these tests answer.
pub fn principal() -> Binding {
    Binding::new("principal", ["read", "call"])
}

pub fn fence_of(new: &NewSession) -> Fence {
    Fence { session: new.session, epoch: new.epoch, generation: 1, incarnation: new.owner.incarnation.clone() }
}

/// A session of the process `name`.
pub async fn session_of(store: &dyn SessionStore, name: &str) -> Fence {
    let new = new_session(name);
    let fence = fence_of(&new);
    assert_eq!(store.create(new).await.unwrap(), Created::Created);
    fence
}

pub fn message(session: SessionId, message: ClientMessage, body: &str) -> Accept {
    Accept {
        session,
        by: principal(),
        service: None,
        version: None,
        post_id: PostId::of(&SessionId::random().reveal(), b""),
        message,
        body: Bytes::copy_from_slice(body.as_bytes()),
        fence: None,
        forward_now: false,
        acked: 0,
        known: 0,
        changes: Vec::new(),
        shown_by: None,
        max_pending: 1000,
        max_inbox: 1000,
        max_bytes: 1 << 30,
    }
}

pub fn request(session: SessionId, id_key: &str) -> Accept {
    message(session, ClientMessage::Request { id_key: id_key.into() }, &format!("request {id_key}"))
}

pub fn notification(session: SessionId, body: &str) -> Accept {
    message(session, ClientMessage::Notification, body)
}

/// As the owner with an open link sends it.
pub fn direct(fence: &Fence, accept: Accept) -> Accept {
    Accept { fence: Some(fence.clone()), forward_now: true, ..accept }
}

/// Journals a message that is expected to wait.
pub async fn queue(store: &dyn SessionStore, accept: Accept) -> u64 {
    match store.accept(accept).await.unwrap() {
        Accepted::Queued { seq, .. } => seq,
        other => panic!("not queued: {other:?}"),
    }
}

/// Journals a message that is expected to be forwarded.
pub async fn forward(store: &dyn SessionStore, fence: &Fence, accept: Accept) -> u64 {
    match store.accept(direct(fence, accept)).await.unwrap() {
        Accepted::Forward { seq } => seq,
        other => panic!("not forwarded: {other:?}"),
    }
}

pub async fn claim(store: &dyn SessionStore, fence: &Fence, acked: u64, max_entries: usize) -> (Vec<InboxEntry>, bool) {
    let handed = handed(store, Claim::new(fence.clone(), acked, max_entries)).await;
    (handed.entries, handed.more)
}

pub async fn handed(store: &dyn SessionStore, claim: Claim) -> Handed {
    match store.claim(claim).await.unwrap() {
        Claimed::Entries { handed, .. } => handed,
        other => panic!("not claimed: {other:?}"),
    }
}

pub fn event(body: &str) -> NewEvent {
    NewEvent::message(Bytes::copy_from_slice(body.as_bytes()))
}

pub fn answer(id_key: &str) -> NewEvent {
    NewEvent { answers: Some(id_key.into()), ..event(&format!("answer {id_key}")) }
}

/// Limits that no test reaches by accident.
pub const ROOMY: LogLimits =
    LogLimits { max_age: Duration::from_secs(3600), max_events: 1_000_000, max_bytes: 1 << 30 };

pub fn append_of(fence: &Fence, op: u64, events: Vec<NewEvent>) -> Append {
    Append {
        fence: fence.clone(),
        stream: STREAM.into(),
        op,
        events: events.into(),
        sent: None,
        acked: 0,
        known: 0,
        limits: ROOMY,
    }
}

pub async fn append(store: &dyn SessionStore, append: Append) -> Vec<Option<u64>> {
    match store.append(append).await.unwrap() {
        Appended::Done { seqs, .. } => seqs,
        other => panic!("not appended: {other:?}"),
    }
}

/// The bodies of the whole log.
pub async fn log(store: &dyn SessionStore, session: SessionId, stream: &str) -> Vec<(u64, String)> {
    let page =
        store.read_page(session, stream, StreamKey::Main, 0, usize::MAX >> 1, usize::MAX >> 1).await.unwrap().unwrap();
    page.events.into_iter().map(|event| (event.seq, String::from_utf8(event.body.unwrap().to_vec()).unwrap())).collect()
}

pub async fn adopt(store: &dyn SessionStore, from: &Fence, name: &str) -> Rehydration {
    match store.adopt(from.session, &owner_with(&from.incarnation), from.generation, &owner(name)).await.unwrap() {
        Adopted::Adopted(rehydration) => *rehydration,
        other => panic!("not adopted: {other:?}"),
    }
}

pub async fn attach(store: &dyn SessionStore, session: SessionId, name: &str, id: u64) -> AttachedTo {
    let attachment = Attachment { stream: STREAM.to_owned(), incarnation: incarnation(name), id };
    match store.attach(Attach { session, attachment, by: None }).await.unwrap() {
        Attached::Attached(joined) => joined,
        Attached::NotFound => panic!("not attached"),
    }
}

pub async fn holder(store: &dyn SessionStore, session: SessionId) -> Option<u64> {
    store.read_page(session, STREAM, StreamKey::Main, 0, 1, 1).await.unwrap().unwrap().holder
}

pub async fn next(wakes: &mut mpsc::Receiver<Wake>) -> Wake {
    tokio::time::timeout(PATIENCE, wakes.recv()).await.expect("a wake-up in time").expect("a living subscription")
}

/// Nothing is on its way: what the process `name` is told now is the first thing it hears.
pub async fn assert_not_woken(store: &dyn SessionStore, name: &str, wakes: &mut mpsc::Receiver<Wake>) {
    let marker = SessionId::random();
    store.wake(&incarnation(name), marker).await.unwrap();
    assert_eq!(next(wakes).await, Wake::Session(marker));
}

/// Waits until `probe` gives something, and fails loudly if it never does.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let waiting = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// Runs something on a thread of its own, as the router does: one runtime for each thread.
pub fn on_thread<T, F>(work: impl FnOnce() -> F + Send + 'static) -> std::thread::JoinHandle<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work())
    })
}

/// Some change of the head: `name` has this value on record.
pub fn set(name: &str, value: &str) -> HeadChange {
    HeadChange::Subscribed { uri: name.to_owned(), request: value.to_owned() }
}

/// It is off the record.
pub fn unset(name: &str) -> HeadChange {
    HeadChange::Unsubscribed { uri: name.to_owned() }
}

/// What [`set`] has put there.
pub fn on_record<'a>(head: &'a SessionHead, name: &str) -> Option<&'a str> {
    head.continuation.subscriptions.get(name).map(String::as_str)
}

pub async fn head(store: &dyn SessionStore, session: SessionId) -> SessionHead {
    store.load(session).await.unwrap().expect("the session lives")
}

/// Who owns it now, as an owner shows it.
pub async fn fence_on_record(store: &dyn SessionStore, session: SessionId) -> Fence {
    let ownership = head(store, session).await.ownership.expect("a sound session");
    let (epoch, generation) = (ownership.epoch, ownership.generation);
    Fence { session, epoch, generation, incarnation: ownership.owner.incarnation }
}
