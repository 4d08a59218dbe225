//! Faults of Redis itself: away, frozen, restarted.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use mcp_router::store::{StoreError, StoreResult, Wake};
use redis::cmd;

use super::{redis_only::Raw, *};

/// Impatient, so that a fault is seen soon.
fn impatient(url: String) -> RedisConfig {
    RedisConfig {
        timeout: Duration::from_millis(800),
        backoff: (Duration::from_millis(10), Duration::from_millis(50)),
        probe: Duration::from_millis(100),
        ..RedisConfig::new(url)
    }
}

/// The outcome, which must come although Redis says nothing.
async fn in_time<T>(operation: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
    tokio::time::timeout(PATIENCE, operation).await.expect("an operation hangs")
}

/// It may have been done.
fn unanswered<T: std::fmt::Debug>(outcome: StoreResult<T>) {
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
}

/// It was not, and never will be.
fn not_done<T: std::fmt::Debug>(outcome: StoreResult<T>) {
    assert!(matches!(outcome, Err(StoreError::NotDone(_))), "{outcome:?}");
}

/// DUR-2
#[tokio::test]
async fn a_store_that_cannot_be_reached_says_so() {
    let mut server = RedisServer::start();
    server.kill();
    not_done(in_time(RedisStore::connect(impatient(server.url()))).await.map(drop));
    not_done(in_time(RedisStore::connect(impatient("no url".to_owned()))).await.map(drop));
}

/// DUR-2
#[tokio::test]
async fn operations_fail_while_redis_is_away_and_work_when_it_is_back() {
    let mut server = RedisServer::start();
    let store = RedisStore::connect(impatient(server.url())).await.unwrap();
    let fence = session_of(&store, "a").await;
    server.kill();
    // The connections that were open are trusted once more.
    unanswered(in_time(store.accept(request(fence.session, "1"))).await);
    for _ in 0..3 {
        not_done(in_time(store.accept(request(fence.session, "1"))).await);
        not_done(in_time(store.touch(&[fence.session], Duration::from_secs(1))).await);
        not_done(in_time(store.ping()).await);
    }
    server.restart();
    eventually("redis is used again", || async { store.ping().await.ok() }).await;
    assert_eq!(store.load(fence.session).await.unwrap(), None, "it came back empty");
    let fence = session_of(&store, "a").await;
    assert_eq!(forward(&store, &fence, request(fence.session, "1")).await, 1);
    assert!(store.touch(&[fence.session], Duration::from_secs(1)).await.unwrap().is_empty());
}

/// DUR-2
#[tokio::test]
async fn a_restart_that_nobody_saw_costs_no_operation() {
    let mut server = RedisServer::start();
    let store = RedisStore::connect(RedisConfig::new(server.url())).await.unwrap();
    store.ping().await.unwrap();
    store.touch(&[SessionId::random()], Duration::from_secs(1)).await.unwrap();
    server.restart();
    // Longer than a lane trusts a connection that it does not use.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    store.ping().await.unwrap();
    store.touch(&[SessionId::random()], Duration::from_secs(1)).await.unwrap();
}

/// DUR-2, OWN-10
#[tokio::test]
async fn a_frozen_redis_is_noticed_and_a_thawed_one_used_again() {
    let server = RedisServer::start();
    let store = RedisStore::connect(impatient(server.url())).await.unwrap();
    let fence = session_of(&store, "a").await;
    server.freeze();
    let post = request(fence.session, "1");
    // What waits behind it for its turn is not handed to Redis, and never will be; nor what comes later.
    let mut first = std::pin::pin!(in_time(store.accept(direct(&fence, post.clone()))));
    for _ in 0..20 {
        assert!(futures_util::poll!(&mut first).is_pending());
        tokio::task::yield_now().await;
    }
    let behind = in_time(store.accept(request(fence.session, "2")));
    let (first, behind) = futures_util::future::join(first, behind).await;
    unanswered(first);
    not_done(behind);
    not_done(in_time(store.ping()).await);
    server.thaw();
    eventually("redis is used again", || async { store.ping().await.ok() }).await;
    // Whether the first try was written is unknown; asked again it is either done now or known.
    let again = store.accept(direct(&fence, post)).await.unwrap();
    assert!(
        matches!(again, Accepted::Forward { seq: 1 } | Accepted::Duplicate { seq: 1, claimed: true, shown: None }),
        "{again:?}"
    );
    let pending: Vec<_> = store.pending(fence.session).await.unwrap().into_iter().map(|pending| pending.seq).collect();
    assert_eq!(pending, [1], "what was not done stays so");
}

/// MEM-2
#[tokio::test]
async fn more_operations_than_the_queue_holds_are_refused_at_once() {
    let server = RedisServer::start();
    let config = RedisConfig { queue: 8, batch: 4, ..impatient(server.url()) };
    let store = RedisStore::connect(config).await.unwrap();
    store.ping().await.unwrap();
    server.freeze();
    let outcomes = in_time(async { Ok(join_all((0..100).map(|_| store.ping())).await) }).await.unwrap();
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, Err(StoreError::Overloaded))).count();
    assert!((100 - 8 - 4..100).contains(&refused), "{refused} of 100");
    assert!(
        outcomes
            .iter()
            .all(|o| matches!(o, Err(StoreError::Overloaded | StoreError::NotDone(_) | StoreError::Unavailable(_))))
    );
    server.thaw();
    eventually("redis is used again", || async { store.ping().await.ok() }).await;
}

#[tokio::test]
async fn a_subscription_comes_back_and_says_that_wake_ups_may_be_lost() {
    let mut server = RedisServer::start();
    let store = RedisStore::connect(impatient(server.url())).await.unwrap();
    let mut wakes = store.subscribe(&incarnation("a"), 8).await.unwrap();
    for _ in 0..2 {
        server.restart();
        assert_eq!(next(&mut wakes).await, Wake::All);
        let session = SessionId::random();
        eventually("a listener", || async { (store.wake(&incarnation("a"), session).await.ok()? == 1).then_some(()) })
            .await;
        assert_eq!(next(&mut wakes).await, Wake::Session(session));
    }
}

#[tokio::test]
async fn a_store_that_is_dropped_closes_its_connections() {
    let backend = Backend::redis().await;
    let mut raw = Raw::of(&backend).await;
    let before: BTreeSet<String> = connections(&mut raw).await;
    let other = backend.another().await;
    let wakes = other.subscribe(&incarnation("a"), 8).await.unwrap();
    other.ping().await.unwrap();
    other.touch(&[SessionId::random()], Duration::from_secs(1)).await.unwrap();
    let during = connections(&mut raw).await;
    assert!(during.len() >= before.len() + 3, "a lane, the pool, the subscription");
    drop((other, wakes));
    eventually("they are closed", || async {
        let mut raw = Raw::of(&backend).await;
        let now = connections(&mut raw).await;
        during.difference(&before).all(|connection| !now.contains(connection)).then_some(())
    })
    .await;
}

async fn connections(raw: &mut Raw) -> BTreeSet<String> {
    let list: String = raw.ask(cmd("CLIENT").arg("LIST")).await;
    list.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// SEC-2
#[test]
fn settings_do_not_show_the_password() {
    let config = RedisConfig::new("redis://user:geheim@localhost");
    assert!(!format!("{config:?}").contains("geheim"));
}

/// EVT-6, DUR-1: what only the primary has is not acknowledged, and is when a replica has it, too.
#[tokio::test]
async fn nothing_is_acknowledged_that_no_replica_has() {
    let primary = RedisServer::start();
    let replicaof = format!("127.0.0.1 {}", primary.port());
    let args = ["--replicaof", &replicaof, "--repl-diskless-sync-delay", "0"];
    let mut replica = RedisServer::start_with(&args);
    let store = RedisStore::connect(RedisConfig { copies: 1, ..impatient(primary.url()) }).await.unwrap();
    eventually("the replica follows", || async { store.create(new_session("a")).await.ok() }).await;
    let fence = session_of(&store, "a").await;
    let mut raw = Raw::at(&replica.url()).await;
    let key = format!("mcp:sessions:{}", fence.session.reveal());
    assert!(raw.ask::<bool>(cmd("EXISTS").arg(&key)).await, "the replica has it when it is answered");
    replica.kill();
    let post = request(fence.session, "1");
    let alone = store.accept(direct(&fence, post.clone())).await;
    assert!(matches!(alone, Err(StoreError::Unavailable(_))), "{alone:?}");
    // What nobody is told of does not wait.
    assert!(store.load(fence.session).await.unwrap().is_some());
    replica.restart();
    // The same again writes nothing, and is still not acknowledged before the replica has the first.
    let answer = eventually("it is acknowledged", || async { store.accept(direct(&fence, post.clone())).await.ok() });
    assert!(matches!(answer.await, Accepted::Duplicate { .. }));
    let mut raw = Raw::at(&replica.url()).await;
    assert!(raw.ask::<bool>(cmd("EXISTS").arg(format!("{{{key}}}:req"))).await);
}
