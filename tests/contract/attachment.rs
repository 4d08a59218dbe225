//! Who shows a stream.

use mcp_router::store::Wake;

use super::*;

/// OWN-7
pub async fn the_last_attachment_holds_the_stream(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    assert_eq!(holder(store, fence.session).await, Some(7));
    let joined = attach(store, fence.session, "b", 8).await;
    let expected = AttachedTo {
        owner: owner("a"),
        generation: 1,
        epoch: fence.epoch,
        service: "mcp-server-v6".to_owned(),
        listeners: 0,
        attach_count: 2,
    };
    assert_eq!(joined, expected);
    assert_eq!(holder(store, fence.session).await, Some(8));
    let joined = attach(store, fence.session, "a", u64::MAX).await;
    assert_eq!((joined.listeners, joined.attach_count), (1, 3), "the caller is the owner");
    assert_eq!(holder(store, fence.session).await, Some(u64::MAX));
}

/// OWN-8
pub async fn a_late_detach_cannot_remove_a_newer_attachment(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let session = fence.session;
    attach(store, session, "b", 8).await;
    assert!(!store.detach(session, STREAM, 7).await.unwrap(), "the former holder");
    assert!(!store.detach(session, "other", 8).await.unwrap());
    assert_eq!(holder(store, session).await, Some(8));
    assert!(store.detach(session, STREAM, 8).await.unwrap());
    assert_eq!(holder(store, session).await, None);
    assert!(!store.detach(session, STREAM, 8).await.unwrap(), "only once");
    assert_eq!(attach(store, session, "b", 9).await.attach_count, 3, "the count goes on");
}

pub async fn attaching_elsewhere_wakes_the_owner_and_the_former_holder(backend: Backend) {
    let store = backend.store();
    let mut a = store.subscribe(&incarnation("a"), 8).await.unwrap();
    let mut b = store.subscribe(&incarnation("b"), 8).await.unwrap();
    let fence = session_of(store, "a").await;
    let session = Wake::Session(fence.session);
    assert_eq!(attach(store, fence.session, "b", 8).await.listeners, 1);
    assert_eq!(next(&mut a).await, session);
    assert_not_woken(store, "a", &mut a).await;
    assert_not_woken(store, "b", &mut b).await;
    assert_eq!(attach(store, fence.session, "c", 9).await.listeners, 1);
    assert_eq!(next(&mut a).await, session);
    assert_eq!(next(&mut b).await, session);
    attach(store, fence.session, "a", 10).await;
    attach(store, fence.session, "a", 11).await;
    assert_eq!(next(&mut a).await, session, "it held the stream itself, under another attachment");
    assert_not_woken(store, "a", &mut a).await;
    assert_not_woken(store, "b", &mut b).await;
}

pub async fn attaching_again_counts_once(backend: Backend) {
    let store = backend.store();
    let mut b = store.subscribe(&incarnation("b"), 8).await.unwrap();
    let fence = session_of(store, "a").await;
    assert_eq!(attach(store, fence.session, "b", 8).await.attach_count, 2);
    assert_eq!(attach(store, fence.session, "b", 8).await.attach_count, 2, "a repeated call");
    assert_not_woken(store, "b", &mut b).await;
}
