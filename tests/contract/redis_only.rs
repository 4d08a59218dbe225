//! What only Redis promises: names, lives and number of keys, and how many commands an operation is.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use mcp_router::store::{
    Accepted, Appended, Attachment, Fenceable, Hint, Initialized, InstanceInfo, LeaseAcquired, StoreError,
};
use redis::{Cmd, FromRedisValue, aio::MultiplexedConnection, cmd};

use super::*;

/// A connection of the test's own, to look behind the store.
pub struct Raw(MultiplexedConnection);

impl Raw {
    pub async fn of(backend: &Backend) -> Self {
        Self::at(&backend.server.as_ref().unwrap().url()).await
    }

    pub async fn at(url: &str) -> Self {
        Self(redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap())
    }

    pub async fn ask<T: FromRedisValue>(&mut self, cmd: &Cmd) -> T {
        cmd.query_async(&mut self.0).await.unwrap()
    }

    pub async fn keys(&mut self) -> BTreeSet<String> {
        self.ask(cmd("KEYS").arg("*")).await
    }

    async fn config(&mut self, name: &str, value: &str) {
        let () = self.ask(cmd("CONFIG").arg("SET").arg(name).arg(value)).await;
    }

    /// A figure of `INFO`.
    async fn figure(&mut self, section: &str, name: &str) -> u64 {
        let info: String = self.ask(cmd("INFO").arg(section)).await;
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let digits = line.unwrap_or("0").trim_start_matches("calls=");
        digits.split(',').next().unwrap().parse().unwrap()
    }
}

fn instance(name: &str) -> InstanceInfo {
    InstanceInfo {
        owner: owner(name),
        address: "127.0.0.1:8051".to_owned(),
        version: "0.1.0".to_owned(),
        started_ms: 1,
        sessions: 1,
        process: String::new(),
    }
}

/// Makes every key that a session and an instance can have.
async fn use_everything(store: &dyn SessionStore) -> Fence {
    store.lease_acquire(&instance("a"), Duration::from_secs(600)).await.unwrap();
    let fence = session_of(store, "a").await;
    forward(store, &fence, notification(fence.session, "n")).await;
    forward(store, &fence, request(fence.session, "1")).await;
    append(store, append_of(&fence, 1, vec![event("e")])).await;
    append(store, Append { stream: "r1".into(), ..append_of(&fence, 2, vec![event("e")]) }).await;
    fence
}

/// Instances of other builds read the same hash: its names and forms stay.
#[tokio::test]
async fn a_head_is_what_stands_in_the_hash() {
    let backend = Backend::redis().await;
    let (store, mut raw) = (backend.store(), Raw::of(&backend).await);
    let fence = use_everything(store).await;
    let session = fence.session;
    for change in [
        HeadChange::InitializeRequest("{1}".to_owned()),
        HeadChange::InitializeResult("{2}".to_owned()),
        HeadChange::Initialized(Initialized::WithVersion),
        HeadChange::Assumed(true),
        HeadChange::LogLevel("{3}".to_owned()),
        HeadChange::Endpoint("http://host/sse".to_owned()),
        set("file:///a", "{4}"),
        HeadChange::Asked { id: "\"ask-1\"".to_owned(), upstream_id: "4".to_owned() },
    ] {
        store.update(&fence, &[change]).await.unwrap();
    }
    for hint in [Hint::Doubted(Some(2)), Hint::Rebind(7), Hint::Sent { stream: "r1".into(), sent: 1 }] {
        assert!(store.hint(session, &hint).await.unwrap());
    }
    forward(store, &fence, request(session, "given up")).await;
    let cancel = ClientMessage::Cancel { id_key: "given up".into() };
    forward(store, &fence, message(session, cancel, "cancel")).await;
    attach(store, session, "b", 9).await;
    assert!(store.detach(session, STREAM, 9).await.unwrap());

    let key = format!("mcp:sessions:{}", session.reveal());
    let mut stored: BTreeMap<String, String> = raw.ask(cmd("HGETALL").arg(&key)).await;
    for of_the_scripts in ["held", "in_adopted", "op", "op_result"] {
        assert!(stored.remove(of_the_scripts).is_some(), "{of_the_scripts}");
    }
    assert_eq!(head(store, session).await.fields(), stored);
    for (name, value) in [("initialized", "v"), ("sr:\"ask-1\"", "4"), ("sent:r1", "1"), ("ac:g", "2")] {
        assert_eq!(stored.get(name).map(String::as_str), Some(value), "{name}");
    }
}

#[tokio::test]
async fn the_keys_are_exactly_the_documented_ones() {
    let backend = Backend::redis().await;
    let fence = use_everything(backend.store()).await;
    let id = fence.session.reveal();
    let expected = [
        format!("mcp:sessions:{id}"),
        format!("{{mcp:sessions:{id}}}:inbox"),
        format!("{{mcp:sessions:{id}}}:req"),
        format!("{{mcp:sessions:{id}}}:rid"),
        format!("{{mcp:sessions:{id}}}:log:g"),
        format!("{{mcp:sessions:{id}}}:log:r1"),
        "mcp:instance:router-a".to_owned(),
        "{mcp:instance:router-a}:sessions".to_owned(),
        "mcp:instances".to_owned(),
    ];
    let mut raw = Raw::of(&backend).await;
    assert_eq!(raw.keys().await, BTreeSet::from(expected.clone()));
    for (key, kind) in expected.iter().zip(["hash", "hash", "hash", "zset", "list", "list", "hash", "set", "set"]) {
        assert_eq!(raw.ask::<String>(cmd("TYPE").arg(key)).await, kind, "{key}");
    }
}

/// MEM-4
#[tokio::test]
async fn every_key_has_a_time_to_live_also_when_it_was_emptied_and_made_again() {
    let backend = Backend::redis().await;
    let store = backend.store();
    let fence = use_everything(store).await;
    let mut raw = Raw::of(&backend).await;
    for round in 0..3 {
        for key in raw.keys().await {
            let ttl: i64 = raw.ask(cmd("PTTL").arg(&key)).await;
            assert!(ttl > 0, "{key} lives for ever in round {round}");
        }
        // The request table is emptied and filled again.
        append(store, append_of(&fence, 10 + round, vec![answer("1")])).await;
        assert!(store.pending(fence.session).await.unwrap().is_empty());
        forward(store, &fence, request(fence.session, "1")).await;
        store.touch(&[fence.session], Duration::from_secs(300 + round)).await.unwrap();
    }
    let id = fence.session.reveal();
    for key in raw.keys().await.into_iter().filter(|key| key.contains(&id)) {
        let ttl: i64 = raw.ask(cmd("PTTL").arg(&key)).await;
        assert!(ttl <= 302_000, "{key} was not touched");
    }
}

/// MEM-4, REQ-6: a record of posts that are all forgotten is not made anew without an end.
#[tokio::test]
async fn forgotten_posts_leave_their_record_its_time_to_live() {
    let backend = Backend::redis().await;
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let mut raw = Raw::of(&backend).await;
    let key = format!("{{mcp:sessions:{}}}:rid", fence.session.reveal());
    for round in 0..20 {
        let post = notification(fence.session, "n");
        forward(store, &fence, post.clone()).await;
        assert!(store.forget_post(fence.session, post.post_id).await.unwrap());
        let ttl: i64 = raw.ask(cmd("PTTL").arg(&key)).await;
        assert!(ttl > 0, "round {round}: {ttl}");
    }
    assert_eq!(raw.ask::<u64>(cmd("ZCARD").arg(&key)).await, 1);
}

/// MEM-4
#[tokio::test]
async fn a_purge_and_a_forgotten_instance_leave_no_key_at_all() {
    let backend = Backend::redis().await;
    let store = backend.store();
    let fence = use_everything(store).await;
    attach(store, fence.session, "b", 8).await;
    store.lease_release(&owner("a")).await.unwrap();
    let adopted = adopt(store, &fence, "b").await.fence;
    append(store, Append { stream: "late".into(), ..append_of(&adopted, 1, vec![event("e")]) }).await;
    assert!(store.purge(fence.session, None).await.unwrap());
    store.forget_instance("router-a").await.unwrap();
    assert_eq!(Raw::of(&backend).await.keys().await, BTreeSet::new());
}

/// MEM-4
#[tokio::test]
async fn the_record_of_posts_is_bounded() {
    let backend = Backend::redis().await;
    let store = backend.store();
    let fence = session_of(store, "a").await;
    join_all((0..1000).map(|i| forward(store, &fence, Accept { acked: i, ..notification(fence.session, "n") }))).await;
    let mut raw = Raw::of(&backend).await;
    let id = fence.session.reveal();
    let remembered: u64 = raw.ask(cmd("ZCARD").arg(format!("{{mcp:sessions:{id}}}:rid"))).await;
    assert!((256..=272).contains(&remembered), "{remembered}");
    let waiting: u64 = raw.ask(cmd("HLEN").arg(format!("{{mcp:sessions:{id}}}:inbox"))).await;
    assert_eq!(waiting, 1, "acked entries are gone");
}

#[tokio::test]
async fn accepting_and_appending_are_one_script_call_each() {
    let backend = Backend::redis().await;
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let mut raw = Raw::of(&backend).await;
    let () = raw.ask(cmd("CONFIG").arg("RESETSTAT")).await;
    forward(store, &fence, request(fence.session, "1")).await;
    append(store, append_of(&fence, 1, vec![answer("1")])).await;
    assert_eq!(raw.figure("commandstats", "cmdstat_evalsha").await, 2);
}

/// Only the first of each sixteen looks at everything, which begins with how many requests are open.
#[tokio::test]
async fn most_calls_of_an_owner_go_the_quick_way() {
    let backend = Backend::redis().await;
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let mut raw = Raw::of(&backend).await;
    let () = raw.ask(cmd("CONFIG").arg("RESETSTAT")).await;
    for call in 1..=160_u64 {
        let id = call.to_string();
        forward(store, &fence, request(fence.session, &id)).await;
        append(store, append_of(&fence, call, vec![answer(&id)])).await;
    }
    assert_eq!(raw.figure("commandstats", "cmdstat_evalsha").await, 320, "no call was made twice");
    let looked = raw.figure("commandstats", "cmdstat_hlen").await;
    assert!((10..30).contains(&looked), "{looked}");
    // And so it is again after somebody else has written.
    let other = notification(fence.session, "n");
    assert!(matches!(store.accept(other).await.unwrap(), Accepted::Queued { .. }));
    let handed = store.claim(Claim::new(fence.clone(), 0, 10)).await.unwrap();
    assert!(matches!(handed, Claimed::Entries { .. }));
    let key = format!("mcp:sessions:{}", fence.session.reveal());
    assert!(!raw.ask::<bool>(cmd("HEXISTS").arg(&key).arg("hot")).await);
    for call in 161..=170_u64 {
        let id = call.to_string();
        forward(store, &fence, Accept { acked: call, ..request(fence.session, &id) }).await;
        append(store, Append { acked: call, ..append_of(&fence, call, vec![answer(&id)]) }).await;
    }
    assert!(raw.ask::<bool>(cmd("HEXISTS").arg(&key).arg("hot")).await);
    assert_eq!(head(store, fence.session).await.in_seq, 171);
}

/// MEM-1: at the limit some events go at once, so that the next appends need not look.
#[tokio::test]
async fn a_full_log_is_cut_in_steps() {
    let backend = Backend::redis().await;
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let limits = LogLimits { max_events: 300, ..ROOMY };
    let mut raw = Raw::of(&backend).await;
    let () = raw.ask(cmd("CONFIG").arg("RESETSTAT")).await;
    for call in 1..=1000_u64 {
        let id = call.to_string();
        forward(store, &fence, request(fence.session, &id)).await;
        append(store, Append { limits, ..append_of(&fence, call, vec![answer(&id)]) }).await;
        if call % 97 == 0 {
            let page = store.read_page(fence.session, STREAM, StreamKey::Main, 0, 1000, usize::MAX).await;
            let page = page.unwrap().unwrap();
            let kept = page.last_seq + 1 - page.first_seq;
            assert_eq!((page.last_seq, page.events.len() as u64), (call, kept));
            assert!(kept <= 300 && (call < 300 || kept >= 284), "{kept} of {call}");
            assert!(page.events.iter().map(|event| event.seq).eq(page.first_seq..=call));
            assert_eq!(page.gone, page.first_seq - 1);
        }
    }
    let looked = raw.figure("commandstats", "cmdstat_hlen").await;
    assert!(looked < 400, "{looked}");
}

/// OWN-3: whatever the former owner knows, it is not what stands there now.
#[tokio::test]
async fn a_former_owner_has_no_quick_way() {
    let backend = Backend::redis().await;
    let store = backend.store();
    let fence = session_of(store, "a").await;
    for call in 1..=4_u64 {
        let id = call.to_string();
        forward(store, &fence, request(fence.session, &id)).await;
        append(store, append_of(&fence, call, vec![answer(&id)])).await;
    }
    // By another process: this one's store hears nothing of it.
    let other = backend.another().await;
    let adopted = adopt(&*other, &fence, "b").await.fence;
    let late = Accept { fence: Some(fence.clone()), forward_now: true, ..request(fence.session, "late") };
    assert_eq!(store.accept(late).await.unwrap(), Accepted::Fenced);
    let late = store.append(append_of(&fence, 5, vec![event("late")])).await.unwrap();
    assert_eq!(late, Appended::Fenced);
    forward(&*other, &adopted, request(fence.session, "5")).await;
    assert_eq!(append(&*other, append_of(&adopted, 1, vec![answer("5")])).await, [Some(5)]);
}

#[tokio::test]
async fn what_many_sessions_write_at_once_shares_round_trips() {
    const SESSIONS: usize = 200;
    let backend = Backend::redis().await;
    let store = backend.store();
    let fences = join_all((0..SESSIONS).map(|_| session_of(store, "a"))).await;
    let mut raw = Raw::of(&backend).await;
    let () = raw.ask(cmd("CONFIG").arg("RESETSTAT")).await;
    join_all(fences.iter().map(|fence| forward(store, fence, request(fence.session, "1")))).await;
    let reads = raw.figure("stats", "total_reads_processed").await;
    assert!(reads < SESSIONS as u64 / 4, "{reads} reads for {SESSIONS} operations");
    assert_eq!(raw.figure("commandstats", "cmdstat_evalsha").await, SESSIONS as u64);
}

#[tokio::test]
async fn an_error_of_one_operation_is_not_its_neighbours() {
    let backend = Backend::redis().await;
    let store = backend.store();
    let fences = join_all((0..20).map(|_| session_of(store, "a"))).await;
    let broken = SessionId::random();
    let mut raw = Raw::of(&backend).await;
    let () = raw.ask(cmd("SET").arg(format!("mcp:sessions:{}", broken.reveal())).arg("no hash")).await;
    let mut operations: Vec<Accept> = fences.iter().map(|fence| request(fence.session, "1")).collect();
    operations.insert(10, request(broken, "1"));
    let outcomes = join_all(operations.into_iter().map(|accept| store.accept(accept))).await;
    for (i, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Err(StoreError::Corrupt(text)) if i == 10 => assert!(!text.contains(&broken.reveal()), "SEC-2: {text}"),
            Ok(Accepted::Queued { seq: 1, .. }) if i != 10 => {}
            other => panic!("operation {i}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_taught_again() {
    let backend = Backend::redis().await;
    let store = backend.store();
    let mut raw = Raw::of(&backend).await;
    for _ in 0..3 {
        let () = raw.ask(cmd("SCRIPT").arg("FLUSH")).await;
        let fence = session_of(store, "a").await;
        let () = raw.ask(cmd("SCRIPT").arg("FLUSH")).await;
        let sent = (0..50).map(|i| notification(fence.session, &format!("{i}")));
        let seqs = join_all(sent.map(|accept| forward(store, &fence, accept))).await;
        assert_eq!(seqs, (1..=50).collect::<Vec<_>>(), "in the order of the calls");
        let () = raw.ask(cmd("SCRIPT").arg("FLUSH")).await;
        assert!(store.touch(&[fence.session], Duration::from_secs(60)).await.unwrap().is_empty());
        let () = raw.ask(cmd("SCRIPT").arg("FLUSH")).await;
        let lease = store.lease_acquire(&instance("a"), Duration::from_secs(60)).await.unwrap();
        assert_eq!(lease, LeaseAcquired::Acquired);
    }
}

/// MEM-4
#[tokio::test]
async fn a_full_redis_refuses_new_things_whole_and_lets_owners_finish() {
    let backend = Backend::redis().await;
    let store = backend.store();
    let fence = session_of(store, "a").await;
    forward(store, &fence, request(fence.session, "1")).await;
    queue(store, Accept { fence: Some(fence.clone()), ..request(fence.session, "2") }).await;
    let mut raw = Raw::of(&backend).await;
    let all = |raw: Raw| async move {
        let mut raw = raw;
        let mut dump = Vec::new();
        for key in raw.keys().await {
            dump.push(raw.ask::<Vec<u8>>(cmd("DUMP").arg(&key)).await);
        }
        (raw, dump)
    };
    raw.config("maxmemory-policy", "noeviction").await;
    let (mut raw, before) = all(raw).await;
    raw.config("maxmemory", "1").await;

    let full =
        |outcome: Result<String, StoreError>| assert!(matches!(outcome, Err(StoreError::Full(_))), "{outcome:?}");
    full(store.create(new_session("b")).await.map(|o| format!("{o:?}")));
    full(store.accept(request(fence.session, "3")).await.map(|o| format!("{o:?}")));
    full(store.accept(notification(fence.session, "n")).await.map(|o| format!("{o:?}")));
    full(store.append(append_of(&fence, 1, vec![event("e")])).await.map(|o| format!("{o:?}")));
    full(store.update(&fence, &[set("x", "1"), unset("y")]).await.map(|o| format!("{o:?}")));
    let (raw, after) = all(raw).await;
    assert!(before == after, "a refused operation has written something");

    assert_eq!(append(store, append_of(&fence, 1, vec![answer("1")])).await, [Some(1)], "an answer frees its request");
    let adopted = adopt(store, &fence, "b").await;
    assert_eq!(adopted.inbox.len(), 1);
    let id_keys = ["2".to_owned()];
    assert_eq!(store.mark_forwarded(&adopted.fence, &id_keys).await.unwrap(), Fenceable::Done);
    assert_eq!(claim(store, &adopted.fence, 0, 1).await, (vec![], false));
    attach(store, fence.session, "b", 9).await;
    assert!(store.detach(fence.session, STREAM, 9).await.unwrap());
    assert!(store.touch(&[fence.session], Duration::from_secs(60)).await.unwrap().is_empty());
    let lease = store.lease_acquire(&instance("b"), Duration::from_secs(60)).await.unwrap();
    assert_eq!(lease, LeaseAcquired::Acquired);
    store.lease_renew(&instance("b"), Duration::from_secs(60)).await.unwrap();
    assert_eq!(store.release(&adopted.fence).await.unwrap(), Fenceable::Done);
    let mut raw = raw;
    raw.config("maxmemory", "0").await;
    assert_eq!(queue(store, notification(fence.session, "n")).await, 3, "no sequence was lost");
}

/// EVT-5, EVT-6
#[tokio::test]
async fn a_damaged_log_is_said_aloud() {
    let backend = Backend::redis().await;
    let store = backend.store();
    let fence = session_of(store, "a").await;
    append(store, append_of(&fence, 1, (0..5).map(|_| event("e")).collect())).await;
    let mut raw = Raw::of(&backend).await;
    let key = format!("{{mcp:sessions:{}}}:log:g", fence.session.reveal());
    let third: String = raw.ask(cmd("LINDEX").arg(&key).arg(2)).await;
    let _: u64 = raw.ask(cmd("LREM").arg(&key).arg(1).arg(third)).await;
    let page = store.read_page(fence.session, STREAM, StreamKey::Main, 1, 10, 100).await.unwrap().unwrap();
    assert_eq!(page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [2, 4, 5], "the reader sees the gap");
    assert_eq!(page.first_seq, 1);
    let () = raw.ask(cmd("LTRIM").arg(&key).arg(2).arg(-1)).await;
    let page = store.read_page(fence.session, STREAM, StreamKey::Main, 1, 10, 100).await.unwrap().unwrap();
    assert_eq!(page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [4, 5]);
    assert_eq!((page.first_seq, page.gone), (4, 3), "what is kept begins there");
    let _: u64 = raw.ask(cmd("DEL").arg(&key)).await;
    let page = store.read_page(fence.session, STREAM, StreamKey::Main, 1, 10, 100).await.unwrap().unwrap();
    assert_eq!((page.events.len(), page.last_seq, page.first_seq), (0, 5, 6));
    assert_eq!(append(store, append_of(&fence, 2, vec![event("e6")])).await, [Some(6)], "and goes on");
    let page = store.read_page(fence.session, STREAM, StreamKey::Main, 5, 10, 100).await.unwrap().unwrap();
    assert_eq!(page.events[0].body.as_deref(), Some(&b"e6"[..]));
}

#[tokio::test]
async fn stores_under_different_prefixes_do_not_see_each_other() {
    let backend = Backend::redis().await;
    let url = backend.server.as_ref().unwrap().url();
    let odd = RedisStore::connect(RedisConfig { prefix: "m[c]p*".to_owned(), ..config(url.clone()) }).await.unwrap();
    let fence = session_of(&odd, "a").await;
    let plain = session_of(backend.store(), "a").await;
    assert_eq!(odd.list(10).await.unwrap().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [fence.session]);
    assert_eq!(backend.store().list(10).await.unwrap().len(), 1);
    assert_eq!(odd.load(plain.session).await.unwrap(), None);
    assert_eq!(odd.owned_by("router-a").await.unwrap(), [fence.session]);
}

/// No operation reaches beyond a slot: nodes of a Redis Cluster check that.
#[tokio::test]
async fn every_script_stays_within_one_slot() {
    let backend = Backend::cluster().await;
    let store = backend.store();
    let fence = use_everything(store).await;
    queue(store, request(fence.session, "9")).await;
    claim(store, &fence, 1, 10).await;
    let attachment = Attachment { stream: STREAM.to_owned(), incarnation: incarnation("b"), id: 8 };
    store.attach(Attach { session: fence.session, attachment, by: None }).await.unwrap();
    store.detach(fence.session, STREAM, 8).await.unwrap();
    store.pending(fence.session).await.unwrap();
    log(store, fence.session, STREAM).await;
    let adopted = store.adopt(fence.session, &owner("a"), 1, &owner("b")).await.unwrap();
    assert!(matches!(adopted, Adopted::OwnerLives), "{adopted:?}");
    store.mark_forwarded(&fence, &["9".to_owned()]).await.unwrap();
    store.update(&fence, &[set("x", "1")]).await.unwrap();
    let appended = store.append(append_of(&fence, 3, vec![answer("9")])).await.unwrap();
    assert_eq!(appended, Appended::Done { seqs: vec![Some(2)], shown: Vec::new() });
    store.touch(&[fence.session], Duration::from_secs(60)).await.unwrap();
    store.lease_renew(&instance("a"), Duration::from_secs(60)).await.unwrap();
    store.instances().await.unwrap();
    store.lease_release(&owner("a")).await.unwrap();
    let fence = adopt(store, &fence, "b").await.fence;
    store.release(&fence).await.unwrap();
    assert_eq!(store.list(10).await.unwrap().len(), 1);
    assert!(store.purge(fence.session, None).await.unwrap());
    store.forget_instance("router-a").await.unwrap();
    store.forget_instance("router-b").await.unwrap();
    for node in &backend.cluster.as_ref().unwrap().nodes {
        eventually("no key is left", || async { Raw::at(&node.url()).await.keys().await.is_empty().then_some(()) })
            .await;
    }
}

/// OWN-4: the list of instances and a lease are no single step. Who is missing on the list is alive all the same, and is
/// put on it again.
#[tokio::test]
async fn an_instance_that_is_missing_on_the_list_is_alive() {
    let backend = Backend::redis().await;
    let store = backend.store();
    let mut raw = Raw::of(&backend).await;
    store.lease_acquire(&instance("a"), Duration::from_secs(600)).await.unwrap();
    let _: u64 = raw.ask(cmd("DEL").arg("mcp:instances")).await;
    assert!(store.instances().await.unwrap().is_empty());
    assert_eq!(store.lease_holder("router-a").await.unwrap(), Some(instance("a")));
    store.lease_renew(&instance("a"), Duration::from_secs(600)).await.unwrap();
    assert_eq!(store.instances().await.unwrap(), [instance("a")]);
}
