//! Where the sessions of a client are shown; and a session that begins anew for another client.

use mcp_router::store::{Fenceable, HeadChange, Initialized, LISTED_EACH, Listed, Wake};

use super::*;

const TTL: Duration = Duration::from_secs(60);

async fn shown(store: &dyn SessionStore) -> Vec<(Arc<str>, SessionId)> {
    let mut shown = store.client_sessions("c", TTL).await.unwrap().shown;
    shown.sort();
    shown
}

async fn left(store: &dyn SessionStore) -> Vec<SessionId> {
    store.client_sessions("c", TTL).await.unwrap().left.into_iter().map(|(session, _)| session).collect()
}

pub async fn a_stream_is_listed_where_it_is_shown_and_then_as_left(backend: Backend) {
    let store = backend.store();
    assert_eq!(store.client_sessions("c", TTL).await.unwrap(), Listed::default());
    let (one, two) = (SessionId::random(), SessionId::random());
    store.client_shown("c", one, "a", TTL).await.unwrap();
    store.client_shown("c", one, "a", TTL).await.unwrap();
    store.client_shown("c", two, "b", TTL).await.unwrap();
    store.client_shown("other", SessionId::random(), "a", TTL).await.unwrap();
    assert_eq!(shown(store).await, [("a".into(), one), ("b".into(), two)]);
    store.client_shown("c", one, "b", TTL).await.unwrap();
    let mut at_b = vec![("b".into(), one), ("b".into(), two)];
    at_b.sort();
    assert_eq!(shown(store).await, at_b, "it has moved");

    store.client_left("c", one, Some("b"), TTL).await.unwrap();
    assert_eq!((shown(store).await, left(store).await), (vec![("b".into(), two)], vec![one]));
    tokio::time::sleep(Duration::from_millis(20)).await;
    store.client_left("c", two, None, TTL).await.unwrap();
    assert_eq!((shown(store).await, left(store).await), (vec![], vec![two, one]), "newest first");
    let recent = store.client_sessions("c", Duration::from_millis(10)).await.unwrap().left;
    assert!(recent.iter().all(|(session, ago)| *session == two && *ago <= Duration::from_millis(10)), "{recent:?}");
    store.client_shown("c", one, "a", TTL).await.unwrap();
    assert_eq!((shown(store).await, left(store).await), (vec![("a".into(), one)], vec![two]), "it is back");
    for session in [one, two, SessionId::random()] {
        store.client_forgotten("c", session).await.unwrap();
    }
    assert_eq!(store.client_sessions("c", TTL).await.unwrap(), Listed::default());
}

pub async fn a_late_note_of_an_end_does_not_hide_a_stream_that_is_shown(backend: Backend) {
    let store = backend.store();
    let session = SessionId::random();
    store.client_shown("c", session, "b", TTL).await.unwrap();
    store.client_left("c", session, Some("a"), TTL).await.unwrap();
    assert_eq!((shown(store).await, left(store).await), (vec![("b".into(), session)], vec![]));
}

pub async fn what_is_listed_is_bounded_for_each_process(backend: Backend) {
    let store = backend.store();
    for process in ["a", "b"] {
        for _ in 0..LISTED_EACH + 4 {
            store.client_shown("c", SessionId::random(), process, TTL).await.unwrap();
        }
    }
    store.client_shown("c", SessionId::random(), "last", TTL).await.unwrap();
    for _ in 0..LISTED_EACH + 4 {
        store.client_left("c", SessionId::random(), None, TTL).await.unwrap();
    }
    let shown = shown(store).await;
    for (process, expected) in [("a", LISTED_EACH), ("b", LISTED_EACH), ("last", 1)] {
        assert_eq!(shown.iter().filter(|(by, _)| **by == *process).count(), expected, "{process}");
    }
    assert_eq!(left(store).await.len(), LISTED_EACH);
}

pub async fn a_renewed_session_has_a_new_life_and_nothing_of_the_old_one(backend: Backend) {
    let store = backend.store();
    let mut a = store.subscribe(&incarnation("a"), 8).await.unwrap();
    let fence = session_of(store, "a").await;
    let session = fence.session;
    attach(store, session, "b", 8).await;
    assert_eq!(next(&mut a).await, Wake::Session(session));
    for id in ["1", "2"] {
        let request = message(session, ClientMessage::Request { id_key: id.into() }, "{}");
        store.accept(Accept { changes: vec![HeadChange::Initialized(Initialized::Plain)], ..request }).await.unwrap();
        assert_eq!(next(&mut a).await, Wake::Session(session));
    }
    assert!(store.renew(session, 77).await.unwrap());
    assert_eq!(next(&mut a).await, Wake::Session(session), "its owner learns that it is none any more");
    assert_eq!(store.update(&fence, &[]).await.unwrap(), Fenceable::Fenced);
    assert_eq!(store.pending(session).await.unwrap(), []);
    let page = store.read_page(session, STREAM, StreamKey::Main, 0, 10, 1 << 20).await.unwrap().unwrap();
    assert_eq!((page.epoch, page.last_seq, page.holder, page.events), (77, 0, Some(8), vec![]));
    let head = head(store, session).await;
    let ownership = head.ownership.unwrap();
    assert_eq!((&*head.service, &*head.client, &ownership.owner), ("mcp-server-v6", "client", &nobody()));
    assert_eq!(head.continuation.initialized, None);

    // The same POST, tried again after the session was renewed, is journaled anew.
    let request = message(session, ClientMessage::Request { id_key: "1".into() }, "{}");
    let Accepted::Queued { seq, .. } = store.accept(request).await.unwrap() else { panic!("not journaled") };
    let Adopted::Adopted(found) = store.adopt(session, &nobody(), ownership.generation, &owner("c")).await.unwrap()
    else {
        panic!("not adopted")
    };
    assert_eq!((found.fence.epoch, found.pending.len(), found.inbox.len()), (77, 1, 1));
    assert_eq!(found.inbox[0].seq, seq);
    assert!(!store.renew(SessionId::random(), 1).await.unwrap());
}
