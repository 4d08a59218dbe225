//! Birth, life and death of sessions.

use std::collections::BTreeSet;

use mcp_router::store::{Accepted, Attachment, Wake};

use super::*;

pub async fn a_new_session_has_its_fields_and_is_never_overwritten(backend: Backend) {
    let store = backend.store();
    let new = new_session("a");
    assert_eq!(store.create(new.clone()).await.unwrap(), Created::Created);
    let record = head(store, new.session).await;
    let fields = record.fields();
    let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
    for (name, value) in [
        ("service", "mcp-server-v6"),
        ("transport", "sse"),
        ("principal", "principal"),
        ("scopes", "call read"),
        ("owner", "router-a"),
        ("incarnation", "process-a"),
        ("generation", "1"),
        ("ttl_ms", "600000"),
        ("in_seq", "0"),
        ("in_claimed", "0"),
        ("s:g:seq", "0"),
        ("s:g:first", "1"),
        ("s:g:bytes", "0"),
        ("a:g", "process-a 7"),
        ("ac:g", "1"),
        ("client", "client"),
    ] {
        assert_eq!(field(name), value, "{name}");
    }
    assert_eq!(field("epoch"), new.epoch.to_string());
    let created: u128 = field("created_ms").parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert!(created <= now && created + PATIENCE.as_millis() > now, "{created} {now}");
    assert_eq!(field("last_active_ms"), field("created_ms"));
    assert_eq!(fields.len(), 19, "{record:?}");

    let other = NewSession { session: new.session, ..new_session("b") };
    assert_eq!(store.create(other).await.unwrap(), Created::AlreadyExists);
    assert_eq!(store.load(new.session).await.unwrap().unwrap(), record);

    let bare = NewSession { attachment: None, binding: Binding::default(), ..new_session("a") };
    store.create(bare.clone()).await.unwrap();
    let adopted = adopt(store, &fence_of(&bare), "b").await;
    assert!(adopted.head.streams.is_empty());
}

pub async fn a_session_dies_when_its_time_is_over(backend: Backend) {
    let store = backend.store();
    let new = NewSession { ttl: Duration::from_secs(1), ..new_session("a") };
    let fence = fence_of(&new);
    store.create(new.clone()).await.unwrap();
    queue(store, request(fence.session, "1")).await;
    eventually("the session expires", || async { store.load(fence.session).await.unwrap().is_none().then_some(()) })
        .await;
    assert_eq!(store.accept(request(fence.session, "2")).await.unwrap(), Accepted::NotFound);
    assert!(!store.purge(fence.session, None).await.unwrap());
    assert!(store.list(10).await.unwrap().is_empty());
    assert_eq!(store.create(new).await.unwrap(), Created::Created, "the id is free");
}

pub async fn a_touch_extends_the_life_of_everything(backend: Backend) {
    let store = backend.store();
    let short = || NewSession { ttl: Duration::from_secs(3), ..new_session("a") };
    let (touched, left) = (short(), short());
    let fence = fence_of(&touched);
    store.create(touched.clone()).await.unwrap();
    store.create(left.clone()).await.unwrap();
    forward(store, &fence, request(fence.session, "1")).await;
    forward(store, &fence, notification(fence.session, "n")).await;
    append(store, append_of(&fence, 1, vec![event("e")])).await;
    append(store, Append { stream: "other".into(), ..append_of(&fence, 2, vec![event("o")]) }).await;
    let missing = SessionId::random();
    let gone = store.touch(&[missing, touched.session], Duration::from_secs(600)).await.unwrap();
    assert_eq!(gone, [missing]);
    eventually("the other session expires", || async {
        store.load(left.session).await.unwrap().is_none().then_some(())
    })
    .await;
    assert_eq!(log(store, fence.session, STREAM).await.len(), 1);
    assert_eq!(log(store, fence.session, "other").await.len(), 1);
    let head = head(store, fence.session).await;
    assert_eq!(head.ttl_ms, 600_000);
    assert!(head.last_active_ms >= head.created_ms);
    let adopted = adopt(store, &fence, "b").await;
    assert_eq!((adopted.pending.len(), adopted.inbox.len()), (1, 1));
}

pub async fn a_purge_removes_a_session_and_wakes_those_concerned(backend: Backend) {
    let store = backend.store();
    let mut wakes = Vec::new();
    let fence = session_of(store, "a").await;
    attach(store, fence.session, "b", 8).await;
    let attachment = Attachment { stream: "other".to_owned(), incarnation: incarnation("c"), id: 9 };
    store.attach(Attach { session: fence.session, attachment, by: None }).await.unwrap();
    for name in ["a", "b", "c"] {
        wakes.push((name, store.subscribe(&incarnation(name), 8).await.unwrap()));
    }
    assert!(store.purge(fence.session, None).await.unwrap());
    for (name, receiver) in &mut wakes {
        assert_eq!(next(receiver).await, Wake::Session(fence.session));
        assert_not_woken(store, name, receiver).await;
    }
    assert_eq!(store.load(fence.session).await.unwrap(), None);
    assert!(!store.purge(fence.session, None).await.unwrap());
    assert!(store.owned_by("router-a").await.unwrap().is_empty());
}

pub async fn sessions_can_be_listed(backend: Backend) {
    let store = backend.store();
    let mut created = BTreeSet::new();
    for _ in 0..30 {
        created.insert(session_of(store, "a").await.session);
    }
    let listed = store.list(1000).await.unwrap();
    assert_eq!(listed.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>(), created);
    assert_eq!(listed.len(), 30);
    assert!(listed.iter().all(|(_, head)| head.ownership.as_ref().is_some_and(|now| now.owner == owner("a"))));
    assert_eq!(store.list(7).await.unwrap().len(), 7);
    assert!(store.list(0).await.unwrap().is_empty());
    for session in created.iter().take(5) {
        let handle = session.handle();
        let found = store.find(&handle, 10).await.unwrap();
        assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [*session], "{handle}");
    }
    assert_eq!(store.find("", 1000).await.unwrap().len(), 30);
    assert_eq!(store.find("", 7).await.unwrap().len(), 7);
    for none in ["*", "?", "[a-f]", "g", "ABCDEF"] {
        assert!(store.find(none, 10).await.unwrap().is_empty(), "{none}");
    }
}

/// MEM-4
pub async fn the_index_follows_the_owner(backend: Backend) {
    let store = backend.store();
    // The index may be on another node than the session, and is written beside it.
    let owns = async |name: &str, sessions: &[SessionId], why: &str| {
        eventually(why, || async {
            let owned: BTreeSet<_> = store.owned_by(&owner(name).instance_id).await.unwrap().into_iter().collect();
            (owned == sessions.iter().copied().collect()).then_some(())
        })
        .await;
    };
    let (first, second) = (session_of(store, "a").await, session_of(store, "a").await);
    owns("a", &[first.session, second.session], "the index has what it owns").await;
    let adopted = adopt(store, &first, "b").await;
    owns("a", &[second.session], "the index has what it owns").await;
    owns("b", &[first.session], "the index has what it owns").await;
    store.adopt(second.session, &owner("x"), 1, &owner("c")).await.unwrap();
    store.adopt(SessionId::random(), &nobody(), 1, &owner("c")).await.unwrap();
    owns("c", &[], "who lost owns nothing").await;
    store.release(&adopted.fence).await.unwrap();
    owns("b", &[], "the index has nothing").await;
    store.purge(second.session, None).await.unwrap();
    owns("a", &[], "the index has nothing").await;
}

/// MEM-4
pub async fn the_index_forgets_sessions_that_expired(backend: Backend) {
    let store = backend.store();
    let mut expired = Vec::new();
    for _ in 0..3 {
        let new = NewSession { ttl: Duration::from_millis(100), ..new_session("a") };
        expired.push(new.session);
        store.create(new).await.unwrap();
    }
    let living = session_of(store, "a").await.session;
    for session in &expired {
        eventually("it expires", || async { store.load(*session).await.unwrap().is_none().then_some(()) }).await;
    }
    assert_eq!(store.touch(&[expired[0], living, expired[1]], Duration::from_secs(60)).await.unwrap(), expired[..2]);
    assert!(!store.purge(expired[2], None).await.unwrap());
    assert_eq!(store.owned_by("router-a").await.unwrap(), [living]);
}
