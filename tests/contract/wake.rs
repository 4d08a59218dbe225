//! Wake-ups.

use mcp_router::store::Wake;

use super::*;

pub async fn a_wake_up_reaches_its_process_only(backend: Backend) {
    let (store, elsewhere) = (backend.store(), backend.another().await);
    let mut a = store.subscribe(&incarnation("a"), 8).await.unwrap();
    let mut b = elsewhere.subscribe(&incarnation("b"), 8).await.unwrap();
    let session = SessionId::random();
    assert_eq!(elsewhere.wake(&incarnation("a"), session).await.unwrap(), 1);
    assert_eq!(next(&mut a).await, Wake::Session(session));
    assert_eq!(store.wake("nobody", session).await.unwrap(), 0);
    assert_not_woken(store, "b", &mut b).await;
}

/// MEM-2
pub async fn wake_ups_that_do_not_fit_become_one_for_all(backend: Backend) {
    let store = backend.store();
    let mut wakes = store.subscribe(&incarnation("a"), 2).await.unwrap();
    let last = SessionId::random();
    for _ in 0..50 {
        store.wake(&incarnation("a"), SessionId::random()).await.unwrap();
    }
    let mut heard = Vec::new();
    while heard.last() != Some(&Wake::All) {
        heard.push(next(&mut wakes).await);
    }
    assert!(heard.len() <= 50, "{}", heard.len());
    // All that was not heard was sent before: they are heard one by one again, at each node of a cluster when its own is over.
    loop {
        store.wake(&incarnation("a"), last).await.unwrap();
        if next(&mut wakes).await == Wake::Session(last) {
            break;
        }
    }
}

pub async fn a_receiver_that_is_gone_is_no_listener(backend: Backend) {
    let store = backend.store();
    let wakes = store.subscribe(&incarnation("a"), 2).await.unwrap();
    drop(wakes);
    eventually("the subscription ends", || async {
        (store.wake(&incarnation("a"), SessionId::random()).await.unwrap() == 0).then_some(())
    })
    .await;
}
