//! Calls that outlive their instance.

use super::*;

const LIFE: Duration = Duration::from_secs(60);

/// Of another name each time: Redis is not empty for long.
fn name() -> String {
    SessionId::random().reveal()
}

/// CALL-1
pub async fn of_many_who_begin_one_call_one_does(backend: Backend) {
    let name = name();
    let mut stores = Vec::new();
    for _ in 0..8 {
        stores.push(backend.another().await);
    }
    let begun = stores.iter().enumerate().map(|(at, store)| {
        let (name, asked) = (&name, format!("asked by {at}"));
        async move { store.begin_call(name, &asked, LIFE).await.unwrap() }
    });
    let begun = futures_util::future::join_all(begun).await;
    assert!(begun.iter().all(|record| *record == begun[0]), "{begun:?}");
    assert!(begun[0].asked.starts_with("asked by ") && begun[0].place.is_none() && begun[0].done.is_none());
    // Repeated, because the answer was lost.
    assert_eq!(backend.store().begin_call(&name, &begun[0].asked, LIFE).await.unwrap(), begun[0]);
    assert_eq!(backend.store().call(&name).await.unwrap().as_ref(), Some(&begun[0]));
}

pub async fn the_first_word_on_a_call_stands(backend: Backend) {
    let (store, name) = (backend.store(), name());
    let note = |note, text: &'static str| {
        let name = &name;
        async move { store.note_call(name, note, &Bytes::from_static(text.as_bytes()), LIFE).await }
    };
    assert_eq!(note(CallNote::Done, "early").await.unwrap(), None, "there is no call");
    assert_eq!(store.call(&name).await.unwrap(), None);
    store.begin_call(&name, "asked", LIFE).await.unwrap();
    let placed = CallRecord { asked: "asked".into(), place: Some("here".into()), done: None };
    for place in ["here", "there"] {
        assert_eq!(note(CallNote::Place, place).await.unwrap().as_ref(), Some(&placed));
    }
    let done = CallRecord { done: Some(Bytes::from_static(b"\x00first")), ..placed };
    for text in ["\x00first", "second"] {
        assert_eq!(note(CallNote::Done, text).await.unwrap().as_ref(), Some(&done));
    }
    assert_eq!(store.begin_call(&name, "another", LIFE).await.unwrap(), done);
    assert_eq!(store.call(&name).await.unwrap(), Some(done));
}

pub async fn a_call_is_forgotten_when_its_time_is_over(backend: Backend) {
    let (store, name) = (backend.store(), name());
    store.begin_call(&name, "asked", Duration::from_millis(30)).await.unwrap();
    eventually("it is forgotten", || async { store.call(&name).await.unwrap().is_none().then_some(()) }).await;
    assert_eq!(store.begin_call(&name, "again", LIFE).await.unwrap().asked, "again");
}
