//! Journaling what the client sends.

use std::{collections::BTreeMap, sync::Arc};

use mcp_router::store::{Accept, Accepted, ClientMessage, Disowned, SessionStore, Wake};

use super::*;

pub async fn the_owner_with_an_open_link_forwards_in_the_same_step(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    assert_eq!(store.accept(direct(&fence, request(fence.session, "1"))).await.unwrap(), Accepted::Forward { seq: 1 });
    assert_eq!(forward(store, &fence, notification(fence.session, "n")).await, 2);
    assert_eq!(
        forward(store, &fence, message(fence.session, ClientMessage::Response, "r")).await,
        3,
        "a response of the client keeps the order too"
    );
    let pending = store.pending(fence.session).await.unwrap();
    assert_eq!(pending.len(), 1);
    assert_eq!(store.pending_ids(fence.session).await.unwrap(), [Arc::from("1")]);
    assert_eq!((pending[0].seq, pending[0].forwarded, &*pending[0].id_key), (1, true, "1"));
    assert_eq!(pending[0].body, "request 1");
    assert_eq!(claim(store, &fence, 0, 10).await, (vec![], false), "nothing is left to claim");
}

pub async fn another_instance_journals_and_wakes_the_owner(backend: Backend) {
    let (store, elsewhere) = (backend.store(), backend.another().await);
    let mut wakes = store.subscribe(&incarnation("a"), 8).await.unwrap();
    let fence = session_of(store, "a").await;
    let accepted = elsewhere.accept(request(fence.session, "1")).await.unwrap();
    assert_eq!(accepted, Accepted::Queued { seq: 1, owner: owner("a"), generation: 1, listeners: 1, shown: None });
    assert_eq!(next(&mut wakes).await, Wake::Session(fence.session));
}

pub async fn a_message_for_a_dead_owner_finds_no_listener(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let accepted = store.accept(notification(fence.session, "n")).await.unwrap();
    assert_eq!(accepted, Accepted::Queued { seq: 1, owner: owner("a"), generation: 1, listeners: 0, shown: None });
}

pub async fn the_owner_without_an_open_link_journals_for_itself(backend: Backend) {
    let store = backend.store();
    let mut wakes = store.subscribe(&incarnation("a"), 8).await.unwrap();
    let fence = session_of(store, "a").await;
    let accept = Accept { fence: Some(fence.clone()), ..request(fence.session, "1") };
    let accepted = store.accept(accept).await.unwrap();
    assert_eq!(accepted, Accepted::Queued { seq: 1, owner: owner("a"), generation: 1, listeners: 1, shown: None });
    assert_not_woken(store, "a", &mut wakes).await;
}

/// REQ-5
pub async fn a_message_behind_unclaimed_ones_is_never_forwarded_directly(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    queue(store, request(fence.session, "1")).await;
    assert_eq!(queue(store, direct(&fence, request(fence.session, "2"))).await, 2);
    let (entries, more) = claim(store, &fence, 0, 10).await;
    assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 2]);
    assert!(!more);
    assert_eq!(forward(store, &fence, request(fence.session, "3")).await, 3);
}

pub async fn a_refused_message_leaves_nothing_behind(backend: Backend) {
    let store = backend.store();
    let mut wakes = store.subscribe(&incarnation("a"), 8).await.unwrap();
    let fence = session_of(store, "a").await;
    let refused = |accept: Accept| Accept { changes: vec![set("mark", "1")], ..accept };

    let wrong_service = Accept { service: Some("other".to_owned()), ..direct(&fence, request(fence.session, "1")) };
    assert_eq!(store.accept(refused(wrong_service)).await.unwrap(), Accepted::WrongService);
    for wrong in [
        Fence { epoch: fence.epoch ^ 1, ..fence.clone() },
        Fence { generation: 2, ..fence.clone() },
        Fence { incarnation: incarnation("b"), ..fence.clone() },
    ] {
        let fenced = direct(&wrong, request(fence.session, "1"));
        assert_eq!(store.accept(refused(fenced)).await.unwrap(), Accepted::Fenced);
        let both = Accept { service: Some("other".to_owned()), ..direct(&wrong, request(fence.session, "1")) };
        assert_eq!(store.accept(both).await.unwrap(), Accepted::WrongService, "the service is looked at first");
    }
    let full = Accept { max_pending: 0, ..request(fence.session, "1") };
    assert_eq!(store.accept(refused(full)).await.unwrap(), Accepted::TooManyPending);

    // Until there is an agreement any version will do.
    let named = |version| Accept { version: Some(version), ..request(fence.session, "1") };
    let agreed = Accept {
        changes: vec![HeadChange::Version(Some("2025-06-18".to_owned()))],
        ..notification(fence.session, "n")
    };
    let journaled = store.accept(direct(&fence, Accept { version: Some("2025-11-25"), ..agreed })).await.unwrap();
    assert_eq!(journaled, Accepted::Forward { seq: 1 });
    for accept in [named("2025-11-25"), direct(&fence, named("2025-11-25"))] {
        assert_eq!(store.accept(refused(accept)).await.unwrap(), Accepted::OtherVersion);
    }

    assert!(store.pending(fence.session).await.unwrap().is_empty());
    assert_eq!(claim(store, &fence, 1, 10).await, (vec![], false));
    assert_eq!(on_record(&head(store, fence.session).await, "mark"), None);
    assert_not_woken(store, "a", &mut wakes).await;

    let right = Accept { service: Some("mcp-server-v6".to_owned()), ..direct(&fence, named("2025-06-18")) };
    assert_eq!(store.accept(right).await.unwrap(), Accepted::Forward { seq: 2 }, "no sequence was used");
}

/// REQ-6
pub async fn a_post_tried_again_is_journaled_once_before_and_after_its_answer(backend: Backend) {
    let (store, elsewhere) = (backend.store(), backend.another().await);
    let fence = session_of(store, "a").await;
    let post = request(fence.session, "1");
    assert_eq!(queue(store, post.clone()).await, 1);
    let duplicate = |claimed| Accepted::Duplicate { seq: 1, claimed, shown: None };
    assert_eq!(elsewhere.accept(post.clone()).await.unwrap(), duplicate(false));
    assert_eq!(store.accept(direct(&fence, post.clone())).await.unwrap(), duplicate(false));
    assert_eq!(claim(store, &fence, 0, 10).await.0.len(), 1);
    assert_eq!(elsewhere.accept(post.clone()).await.unwrap(), duplicate(true));
    assert_eq!(append(store, append_of(&fence, 1, vec![answer("1")])).await, [Some(1)]);
    assert_eq!(elsewhere.accept(post.clone()).await.unwrap(), duplicate(true), "also after the answer");

    let notify = notification(fence.session, "n");
    assert_eq!(forward(store, &fence, notify.clone()).await, 2);
    assert_eq!(elsewhere.accept(notify).await.unwrap(), Accepted::Duplicate { seq: 2, claimed: true, shown: None });
    assert!(store.pending(fence.session).await.unwrap().is_empty());
}

/// REQ-2, REQ-6: whoever was told an error, because nobody knew whether his request was journaled, gets no answer after it.
pub async fn a_request_whose_client_was_told_an_error_has_no_answer(backend: Backend) {
    let (store, elsewhere) = (backend.store(), backend.another().await);
    let fence = session_of(store, "a").await;
    let disown = async |post: &Accept| {
        let ClientMessage::Request { id_key } = &post.message else { panic!("no request") };
        elsewhere.disown(fence.session, post.post_id, id_key).await.unwrap()
    };
    let moved = |seq| event("the answer, on the main stream").changing(HeadChange::Moved { seq });

    // It comes to the store afterwards.
    let late = request(fence.session, "late");
    assert_eq!([disown(&late).await, disown(&late).await], [Disowned::Never; 2]);
    for accept in [direct(&fence, late.clone()), late.clone(), Accept { max_pending: 0, ..late }] {
        assert_eq!(store.accept(accept).await.unwrap(), Accepted::Disowned);
    }
    // It waits for its owner.
    let waiting = request(fence.session, "waiting");
    assert_eq!(queue(store, waiting.clone()).await, 1);
    assert_eq!(disown(&waiting).await, Disowned::Never);
    assert!(store.pending(fence.session).await.unwrap().is_empty());
    assert_eq!(claim(store, &fence, 0, 10).await, (vec![], false));

    // It runs: its answer is logged for the stream of the request, which nobody shows, and does not move.
    let runs = request(fence.session, "runs");
    assert_eq!(forward(store, &fence, runs.clone()).await, 2);
    assert_eq!(disown(&runs).await, Disowned::Silenced);
    assert_eq!(
        append(store, append_of(&fence, 1, vec![answer("runs").on(StreamKey::Request(2)), moved(2)])).await,
        [Some(1), None]
    );
    // It has run.
    let ran = request(fence.session, "ran");
    assert_eq!(forward(store, &fence, ran.clone()).await, 3);
    assert_eq!(append(store, append_of(&fence, 2, vec![answer("ran").on(StreamKey::Request(3))])).await, [Some(2)]);
    assert_eq!(disown(&ran).await, Disowned::Silenced);
    assert_eq!(append(store, append_of(&fence, 3, vec![moved(3)])).await, [None]);

    // Posted again while it runs, it is answered; also if the word on the first POST comes after that.
    for order in [[true, false], [false, true]] {
        let id = format!("again {order:?}");
        let first = request(fence.session, &id);
        let seq = forward(store, &fence, first.clone()).await;
        for disowns in order {
            if disowns {
                disown(&first).await;
            } else {
                let again = store.accept(request(fence.session, &id)).await.unwrap();
                assert_eq!(again, Accepted::Duplicate { seq, claimed: true, shown: None });
            }
        }
        let op = seq + 10;
        assert_eq!(
            append(store, append_of(&fence, op, vec![answer(&id), moved(seq)]))
                .await
                .iter()
                .filter(|seq| seq.is_some())
                .count(),
            2
        );
    }
    // Of those that other tries ask for nothing is taken away.
    let shared = request(fence.session, "shared");
    let seq = queue(store, shared.clone()).await;
    store.accept(request(fence.session, "shared")).await.unwrap();
    assert_eq!(disown(&shared).await, Disowned::Shared);
    assert_eq!(store.pending(fence.session).await.unwrap().first().map(|pending| pending.seq), Some(seq));
    let nowhere = store.disown(SessionId::random(), shared.post_id, "1").await.unwrap();
    assert_eq!(nowhere, Disowned::NotFound);
}

/// REQ-6: a request that is posted again while it is pending is that one under its new name, too, after its answer.
pub async fn a_post_that_repeats_a_pending_request_is_known_after_the_answer(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    assert_eq!(forward(store, &fence, request(fence.session, "1")).await, 1);
    let (again, full) = (request(fence.session, "1"), Accept { max_pending: 0, ..request(fence.session, "1") });
    let duplicate = Accepted::Duplicate { seq: 1, claimed: true, shown: None };
    for post in [&again, &full] {
        assert_eq!(store.accept(post.clone()).await.unwrap(), duplicate);
    }
    append(store, append_of(&fence, 1, vec![answer("1")])).await;
    for post in [again, full] {
        assert_eq!(store.accept(post).await.unwrap(), duplicate);
    }
}

/// REQ-6
pub async fn a_post_that_is_forgotten_makes_way_for_another_of_its_name(backend: Backend) {
    let (store, elsewhere) = (backend.store(), backend.another().await);
    let fence = session_of(store, "a").await;
    let notify = notification(fence.session, "n");
    assert!(!store.forget_post(fence.session, notify.post_id).await.unwrap(), "it was not there");
    for seq in 1..=3 {
        assert_eq!(queue(store, notify.clone()).await, seq);
        assert_eq!(
            elsewhere.accept(notify.clone()).await.unwrap(),
            Accepted::Duplicate { seq, claimed: false, shown: None }
        );
        assert!(elsewhere.forget_post(fence.session, notify.post_id).await.unwrap());
    }
    let other = notification(fence.session, "n");
    assert_eq!(queue(store, other.clone()).await, 4);
    store.forget_post(fence.session, notify.post_id).await.unwrap();
    assert_eq!(
        store.accept(other).await.unwrap(),
        Accepted::Duplicate { seq: 4, claimed: false, shown: None },
        "no other is forgotten"
    );
}

/// REQ-6
pub async fn a_pending_id_is_a_duplicate_and_an_answered_id_is_free_again(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    queue(store, request(fence.session, "\"x\"")).await;
    assert_eq!(
        store.accept(request(fence.session, "\"x\"")).await.unwrap(),
        Accepted::Duplicate { seq: 1, claimed: false, shown: None }
    );
    claim(store, &fence, 0, 10).await;
    assert_eq!(
        store.accept(direct(&fence, request(fence.session, "\"x\""))).await.unwrap(),
        Accepted::Duplicate { seq: 1, claimed: true, shown: None }
    );
    append(store, append_of(&fence, 1, vec![answer("\"x\"")])).await;
    assert_eq!(forward(store, &fence, request(fence.session, "\"x\"")).await, 2, "a new request");
    assert_eq!(append(store, append_of(&fence, 2, vec![answer("\"x\"")])).await, [Some(2)]);
}

/// REQ-2, REQ-6: with the first one in the inbox and in the request table, for the owner and for others, also at the caps.
pub async fn another_request_with_a_pending_id_is_told_apart_from_the_same_one(backend: Backend) {
    let (store, elsewhere) = (backend.store(), backend.another().await);
    let fence = session_of(store, "a").await;
    let first = || request(fence.session, "1");
    let other = || Accept { body: "another request 1".into(), ..first() };
    let full = |accept| Accept { max_pending: 1, max_inbox: 1, ..accept };
    queue(store, first()).await;
    for claimed in [false, true] {
        for accept in [first(), full(first()), direct(&fence, first())] {
            let accepted = elsewhere.accept(accept).await.unwrap();
            assert_eq!(accepted, Accepted::Duplicate { seq: 1, claimed, shown: None });
        }
        for accept in [other(), full(other()), direct(&fence, other())] {
            let refused = Accept { changes: vec![set("mark", "1")], ..accept };
            assert_eq!(elsewhere.accept(refused.clone()).await.unwrap(), Accepted::IdInUse);
            assert_eq!(elsewhere.accept(refused).await.unwrap(), Accepted::IdInUse, "the refusal is not remembered");
        }
        if !claimed {
            claim(store, &fence, 0, 10).await;
        }
    }
    assert_eq!(on_record(&head(store, fence.session).await, "mark"), None);
    append(store, append_of(&fence, 1, vec![answer("1")])).await;
    assert_eq!(forward(store, &fence, other()).await, 2);
}

/// REQ-6
pub async fn the_last_256_posts_are_remembered(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let posts: Vec<Accept> = (0..600).map(|i| notification(fence.session, &format!("{i}"))).collect();
    for post in &posts {
        forward(store, &fence, post.clone()).await;
    }
    for (i, post) in posts.iter().enumerate().skip(600 - 256) {
        let expected = Accepted::Duplicate { seq: i as u64 + 1, claimed: true, shown: None };
        assert_eq!(store.accept(post.clone()).await.unwrap(), expected);
    }
    assert!(matches!(store.accept(posts[0].clone()).await.unwrap(), Accepted::Queued { .. }), "it is bounded");
}

/// MEM-5
pub async fn the_caps_count_requests_without_an_answer_and_unclaimed_entries(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let capped = |accept: Accept| Accept { max_pending: 2, max_inbox: 3, ..accept };
    forward(store, &fence, capped(request(fence.session, "1"))).await;
    queue(store, capped(request(fence.session, "2"))).await;
    assert_eq!(store.accept(capped(request(fence.session, "3"))).await.unwrap(), Accepted::TooManyPending);
    queue(store, capped(notification(fence.session, "n"))).await;
    queue(store, capped(message(fence.session, ClientMessage::Response, "r"))).await;
    assert_eq!(store.accept(capped(notification(fence.session, "n"))).await.unwrap(), Accepted::TooManyPending);
    claim(store, &fence, 0, 1).await;
    queue(store, capped(notification(fence.session, "n"))).await;
    append(store, append_of(&fence, 1, vec![answer("1")])).await;
    assert_eq!(
        store.accept(capped(request(fence.session, "3"))).await.unwrap(),
        Accepted::TooManyPending,
        "the inbox is still full"
    );
    claim(store, &fence, 0, 10).await;
    assert_eq!(forward(store, &fence, capped(request(fence.session, "3"))).await, 6);
}

/// MEM-5
pub async fn the_cap_in_bytes_counts_bodies_until_they_are_answered(backend: Backend) {
    const KIB: usize = 1024;
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let session = fence.session;
    let sized = |accept: Accept, kib: usize| Accept {
        body: Bytes::from(vec![b'x'; kib * KIB]),
        // Room for the few bytes that stand before a body.
        max_bytes: 10 * KIB + 512,
        ..accept
    };
    let refused = |kib: usize| async move {
        let accept = sized(direct(&fence_on_record(store, session).await, request(session, "refused")), kib);
        store.accept(accept).await.unwrap() == Accepted::TooManyBytes
    };
    let big = sized(request(session, "1"), 4);
    forward(store, &fence, big.clone()).await;
    queue(store, sized(request(session, "2"), 3)).await;
    queue(store, sized(notification(session, "n"), 2)).await;
    assert!(refused(2).await, "nine are there");
    assert!(refused(2).await, "and still are");
    let again = store.accept(direct(&fence, big)).await.unwrap();
    assert_eq!(again, Accepted::Duplicate { seq: 1, claimed: true, shown: None }, "what is there already is told so");
    // A claim moves bodies; an answer, a cancel and an ack free theirs.
    claim(store, &fence, 0, 10).await;
    assert!(refused(2).await);
    append(store, append_of(&fence, 1, vec![answer("1")])).await;
    forward(store, &fence, sized(request(session, "3"), 5)).await;
    assert!(refused(1).await, "ten");
    store.forget_requests(&fence, &[("2".to_owned(), 2)]).await.unwrap();
    forward(store, &fence, sized(message(session, ClientMessage::Response, "r"), 3)).await;
    assert!(refused(1).await, "ten again: the notification was never acked");
    claim(store, &fence, 3, 10).await;
    forward(store, &fence, sized(notification(session, "n"), 2)).await;
    assert!(refused(1).await);
    // An adopter counts the same.
    let adopted = adopt(store, &fence, "b").await.fence;
    assert!(refused(1).await);
    append(store, append_of(&adopted, 1, vec![answer("3")])).await;
    forward(store, &adopted, sized(request(session, "4"), 5)).await;
    assert!(refused(1).await);
    let small = Accept { max_bytes: 10 * KIB + 512, ..direct(&adopted, request(session, "small")) };
    assert_eq!(
        store.accept(small).await.unwrap(),
        Accepted::Forward { seq: 8 },
        "what fits is taken, no sequence was used"
    );
    let ids: Vec<_> = store.pending(session).await.unwrap().into_iter().map(|request| request.id_key).collect();
    assert_eq!(ids.iter().map(|id| &**id).collect::<Vec<_>>(), ["4", "small"], "nothing is left of what was refused");
}

pub async fn fields_change_in_the_step_that_journals(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let accept = Accept { changes: vec![set("initialize", "{}"), set("level", "info")], ..request(fence.session, "1") };
    queue(store, accept).await;
    let accept = Accept {
        changes: vec![set("level", "debug"), unset("initialize"), unset("absent")],
        ..direct(&fence, notification(fence.session, "n"))
    };
    queue(store, accept).await;
    let head = head(store, fence.session).await;
    assert_eq!((on_record(&head, "level"), on_record(&head, "initialize")), (Some("debug"), None));
}

pub async fn a_forwarded_notification_stays_until_it_is_acked(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    for body in ["one", "two", "three"] {
        forward(store, &fence, notification(fence.session, body)).await;
    }
    let acking = Accept { acked: 2, ..request(fence.session, "1") };
    forward(store, &fence, acking).await;
    let rehydration = adopt(store, &fence, "b").await;
    let inbox: Vec<_> = rehydration.inbox.iter().map(|entry| (entry.seq, entry.body.clone())).collect();
    assert_eq!(inbox, [(3, Bytes::from("three"))]);
}

/// REQ-5
pub async fn parallel_messages_are_claimed_in_the_order_they_were_accepted(backend: Backend) {
    const SENDERS: usize = 4;
    const EACH: usize = 100;
    let fence = session_of(backend.store(), "a").await;
    let session = fence.session;
    let mut senders = Vec::new();
    for sender in 0..SENDERS {
        let store: Arc<dyn SessionStore> = backend.another().await;
        senders.push(on_thread(move || async move {
            let mut accepted = Vec::new();
            for i in 0..EACH {
                let body = format!("{sender}/{i}");
                accepted.push((queue(&*store, notification(session, &body)).await, body));
            }
            accepted
        }));
    }
    let accepted: BTreeMap<u64, String> = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect();
    let mut claimed = Vec::new();
    loop {
        let (entries, more) = claim(backend.store(), &fence, 0, 7).await;
        claimed.extend(entries.into_iter().map(|entry| (entry.seq, String::from_utf8(entry.body.to_vec()).unwrap())));
        if !more {
            break;
        }
    }
    assert_eq!(claimed.len(), SENDERS * EACH);
    assert_eq!(claimed, accepted.into_iter().collect::<Vec<_>>());
}
