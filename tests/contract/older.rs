//! A store that has come back with older data than its owner has seen. DUR-1

use mcp_router::store::{
    Accepted, Appended, Continuation, Fenceable, HandedLately, Initialized, Restored, Rewrite, Rewritten, Wake,
};

use super::*;

fn rewrite_of(fence: &Fence, in_seq: u64) -> Rewrite {
    let continuation = Continuation { initialized: Some(Initialized::Plain), ..Continuation::default() };
    let restored =
        Restored { generation: fence.generation, in_seq, continuation, pending: vec![("\"mine\"".to_owned(), 9)] };
    Rewrite {
        fence: fence.clone(),
        epoch: fence.epoch.wrapping_add(1),
        owner: owner("a"),
        next: 1000,
        restored,
        handed: HandedLately::default(),
    }
}

/// To an owner that knows more, a store with older data says so, and does nothing.
pub async fn an_owner_that_knows_more_is_told_that_the_data_are_older(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let session = fence.session;
    assert_eq!(forward(store, &fence, request(session, "1")).await, 1);
    assert_eq!(append(store, append_of(&fence, 1, vec![event("e")])).await, [Some(1)]);
    queue(store, request(session, "2")).await;
    let before = store.load(session).await.unwrap();

    let knowing = |known| Accept { known, ..direct(&fence, request(session, "3")) };
    assert_eq!(store.accept(knowing(2)).await.unwrap(), Accepted::Older, "what is not claimed no owner knows");
    let claim = |known, event| Claim { known, known_event: (STREAM.into(), event), ..Claim::new(fence.clone(), 0, 10) };
    for (known, event) in [(2, 0), (0, 2), (2, 2)] {
        assert_eq!(store.claim(claim(known, event)).await.unwrap(), Claimed::Older);
    }
    let append_2 = |known| Append { known, ..append_of(&fence, 2, vec![answer("1")]) };
    assert_eq!(store.append(append_2(2)).await.unwrap(), Appended::Older);
    assert_eq!(store.load(session).await.unwrap(), before, "nothing was done");
    assert_eq!(store.pending(session).await.unwrap().len(), 2);

    // What it knows is there: nothing is older.
    assert_eq!(append(store, append_2(1)).await, [Some(2)]);
    assert_eq!(append(store, append_2(1)).await, [Some(2)], "the same append again");
    assert_eq!(handed(store, claim(1, 2)).await.entries.len(), 1);
    assert!(matches!(store.accept(knowing(2)).await.unwrap(), Accepted::Forward { seq: 3 }));
}

/// The session goes on under another epoch with what its owner knows; messages that the owner has never seen stay.
pub async fn a_session_whose_data_are_older_is_written_again(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let session = fence.session;
    forward(store, &fence, request(session, "old")).await;
    append(store, append_of(&fence, 1, vec![event("e")])).await;
    let mut first = None;
    let named = |id: &str| request(session, id);
    for accept in [named("handled"), named("new"), named("\"mine\""), notification(session, "n")] {
        first.get_or_insert(accept.post_id);
        queue(store, accept).await;
    }
    let mut holder = store.subscribe(&incarnation("b"), 8).await.unwrap();
    attach(store, session, "b", 8).await;
    let mut rewrite = rewrite_of(&fence, 20);
    let message = ClientMessage::Request { id_key: "handled".into() };
    rewrite.handed.note(&InboxEntry { seq: 2, message, body: "request handled".into() });

    let wrong = Fence { generation: 2, ..fence.clone() };
    let refused = store.rewrite(Rewrite { fence: wrong, ..rewrite.clone() }).await.unwrap();
    assert_eq!(refused, Rewritten::Fenced);
    for _ in 0..2 {
        assert_eq!(store.rewrite(rewrite.clone()).await.unwrap(), Rewritten::Done(vec![]));
    }
    assert_eq!(next(&mut holder).await, Wake::Session(session), "who shows it must look");

    assert_eq!(store.claim(Claim::new(fence.clone(), 0, 10)).await.unwrap(), Claimed::Fenced);
    let again = Fence { epoch: rewrite.epoch, ..fence };
    let page = store.read_page(session, STREAM, StreamKey::Main, 0, 10, 1 << 20).await.unwrap().unwrap();
    assert_eq!((page.epoch, page.last_seq, page.holder, page.events), (again.epoch, 0, None, vec![]));
    let head = head(store, session).await;
    assert_eq!((&*head.service, head.binding), ("mcp-server-v6", principal()));
    assert_eq!(head.continuation, rewrite.restored.continuation);
    let pending: Vec<_> = store.pending(session).await.unwrap();
    let pending: Vec<_> = pending.iter().map(|request| (&*request.id_key, request.seq, request.forwarded)).collect();
    assert_eq!(pending, [("\"mine\"", 9, true), ("new", 21, false)]);
    let entries = handed(store, Claim { known: 20, ..Claim::new(again.clone(), 0, 10) }).await.entries;
    let entries: Vec<_> = entries.iter().map(|entry| (entry.seq, &*entry.body)).collect();
    assert_eq!(entries, [(21, &b"request new"[..]), (22, b"n")]);
    // Its numbers, and the names of POSTs, go on.
    let again_posted = Accept { post_id: first.unwrap(), ..named("handled") };
    assert!(matches!(store.accept(again_posted).await.unwrap(), Accepted::Duplicate { claimed: true, .. }));
    assert_eq!(forward(store, &again, named("next")).await, 23);
    assert_eq!(append(store, append_of(&again, 2, vec![answer("new"), answer("\"mine\"")])).await, [Some(1), Some(2)]);
    assert_eq!(
        store.rewrite(rewrite_of(&Fence { session: SessionId::random(), ..again }, 1)).await.unwrap(),
        Rewritten::NotFound
    );
}

/// Older data may be from before the time of the session's owner, when another one had it or nobody.
pub async fn older_data_of_another_owner_are_written_again_by_the_later_one(backend: Backend) {
    for is_released in [false, true] {
        let store = backend.store();
        let fence = session_of(store, "a").await;
        let mut on_record = fence.clone();
        if is_released {
            assert_eq!(store.release(&fence).await.unwrap(), Fenceable::Done);
            assert_eq!(store.rewrite(rewrite_of(&fence, 5)).await.unwrap(), Rewritten::Fenced);
            on_record.incarnation = "".into();
        }
        let mut rewrite = Rewrite { owner: owner("b"), ..rewrite_of(&on_record, 5) };
        rewrite.restored.generation = 4;
        for _ in 0..2 {
            assert_eq!(store.rewrite(rewrite.clone()).await.unwrap(), Rewritten::Done(vec![]));
        }
        let again = Fence { epoch: rewrite.epoch, generation: 4, incarnation: incarnation("b"), ..fence };
        assert_eq!(forward(store, &again, request(again.session, "1")).await, 6);
        eventually("it is in the index", || async {
            store.owned_by("router-b").await.unwrap().contains(&again.session).then_some(())
        })
        .await;
    }
}

/// What counts as claimed, and has never reached the owner since the answer to its journaling was lost, stays as well.
pub async fn what_an_owner_of_older_data_has_missed_stays(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let session = fence.session;
    for id in ["handled", "missed", "waiting"] {
        forward(store, &fence, request(session, id)).await;
    }
    forward(store, &fence, notification(session, "missed")).await;
    queue(store, request(session, "unclaimed")).await;
    let mut rewrite = Rewrite { next: 2, ..rewrite_of(&fence, 30) };
    rewrite.restored.pending.push(("waiting".to_owned(), 3));
    assert_eq!(store.rewrite(rewrite.clone()).await.unwrap(), Rewritten::Done(vec![]));
    let again = Fence { epoch: rewrite.epoch, ..fence };
    let entries = handed(store, Claim { known: 30, ..Claim::new(again, 0, 10) }).await.entries;
    let entries: Vec<_> = entries.iter().map(|entry| (entry.seq, &*entry.body)).collect();
    let expected = [(31, &b"request missed"[..]), (32, b"missed"), (33, b"request unclaimed")];
    assert_eq!(entries, expected);
}

/// Beyond what an owner remembers nobody knows whether a request ran: it stays without its body, and its owner is told.
pub async fn requests_of_which_nobody_knows_whether_they_ran_are_named(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let session = fence.session;
    queue(store, request(session, "1")).await;
    queue(store, notification(session, "n")).await;
    let mut rewrite = rewrite_of(&fence, 400);
    for seq in 1..=300 {
        let body = format!("other {seq}").into();
        rewrite.handed.note(&InboxEntry { seq, message: ClientMessage::Notification, body });
    }
    assert_eq!(store.rewrite(rewrite.clone()).await.unwrap(), Rewritten::Done(vec!["1".into()]));
    let again = Fence { epoch: rewrite.epoch, ..fence };
    assert!(handed(store, Claim::new(again.clone(), 0, 10)).await.entries.is_empty());
    assert_eq!(append(store, append_of(&again, 1, vec![answer("1")])).await, [Some(1)]);
}
