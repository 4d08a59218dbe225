//! Handing the inbox to the owner.

use mcp_router::store::{
    Accept, Attachment, Claim, Claimed, ClientMessage, Continuation, Created, Disowned, Fence, Fenceable, HeadChange,
    Hint, Initialized, Restored,
};

use super::*;

fn seqs(entries: &[InboxEntry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq).collect()
}

/// REQ-5
pub async fn entries_come_in_order_and_once(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    assert_eq!(claim(store, &fence, 0, 10).await, (vec![], false));
    queue(store, request(fence.session, "1")).await;
    queue(store, notification(fence.session, "n")).await;
    queue(store, message(fence.session, ClientMessage::Response, "r")).await;
    queue(store, request(fence.session, "2")).await;
    let (first, more) = claim(store, &fence, 0, 3).await;
    assert!(more);
    let request = |id_key: &str| ClientMessage::Request { id_key: id_key.into() };
    let entry = |seq, message, body: &'static str| InboxEntry { seq, message, body: Bytes::from(body) };
    assert_eq!(
        first,
        [
            entry(1, request("1"), "request 1"),
            entry(2, ClientMessage::Notification, "n"),
            entry(3, ClientMessage::Response, "r"),
        ]
    );
    assert_eq!(claim(store, &fence, 0, 3).await, (vec![entry(4, request("2"), "request 2")], false));
    assert_eq!(claim(store, &fence, 0, 3).await, (vec![], false));
}

pub async fn a_claimed_request_is_forwarded_and_keeps_its_body(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    queue(store, request(fence.session, "1")).await;
    let waiting = store.pending(fence.session).await.unwrap();
    assert_eq!((waiting[0].forwarded, waiting[0].body.clone()), (false, Bytes::from("request 1")));
    claim(store, &fence, 0, 10).await;
    let forwarded = store.pending(fence.session).await.unwrap();
    assert_eq!((forwarded[0].forwarded, forwarded[0].body.clone()), (true, Bytes::from("request 1")));
    let rehydration = adopt(store, &fence, "b").await;
    assert!(rehydration.inbox.is_empty(), "it has left the inbox");
    assert_eq!(rehydration.pending, forwarded);
}

/// REQ-2
pub async fn what_was_answered_in_the_inbox_is_not_handed_out(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    for id_key in ["1", "2", "3"] {
        queue(store, request(fence.session, id_key)).await;
    }
    assert_eq!(append(store, append_of(&fence, 1, vec![answer("2"), answer("3")])).await, [Some(1), Some(2)]);
    let (entries, more) = claim(store, &fence, 0, 10).await;
    assert_eq!((seqs(&entries), more), (vec![1], false));
    assert_eq!(forward(store, &fence, request(fence.session, "2")).await, 4, "nothing unclaimed is in the way");
}

pub async fn a_claim_tells_who_holds_the_streams(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let attachment = Attachment { stream: "other".to_owned(), incarnation: incarnation("b"), id: u64::MAX };
    store.attach(Attach { session: fence.session, attachment: attachment.clone(), by: None }).await.unwrap();
    let claimed = store.claim(Claim::new(fence.clone(), 0, 1)).await.unwrap();
    let Claimed::Entries { mut attachments, .. } = claimed else { panic!("{claimed:?}") };
    attachments.sort_by(|a, b| a.stream.cmp(&b.stream));
    let own = Attachment { stream: STREAM.to_owned(), incarnation: incarnation("a"), id: 7 };
    assert_eq!(attachments, [own, attachment]);
}

pub async fn acked_entries_are_gone_for_an_adopter(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    for body in ["one", "two", "three", "four"] {
        queue(store, notification(fence.session, body)).await;
    }
    claim(store, &fence, 0, 3).await;
    claim(store, &fence, 1, 0).await;
    append(store, Append { acked: 2, ..append_of(&fence, 1, vec![event("e")]) }).await;
    let rehydration = adopt(store, &fence, "b").await;
    assert_eq!(seqs(&rehydration.inbox), [3, 4]);
    assert_eq!(claim(store, &rehydration.fence, 0, 10).await, (vec![], false), "all of it is claimed");
}

/// REQ-3: what reached the upstream is never "not forwarded" again.
pub async fn a_request_acked_after_adoption_counts_as_forwarded(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    queue(store, request(fence.session, "1")).await;
    queue(store, notification(fence.session, "n")).await;
    queue(store, request(fence.session, "2")).await;
    let adopter = adopt(store, &fence, "b").await.fence;
    forward(store, &adopter, Accept { acked: 2, ..notification(fence.session, "m") }).await;
    let pending = store.pending(fence.session).await.unwrap();
    let states: Vec<_> = pending.iter().map(|request| (&*request.id_key, request.forwarded)).collect();
    assert_eq!(states, [("1", true), ("2", false)]);
    assert_eq!(pending[0].body, "request 1");
    assert_eq!(pending[1].body, "request 2");
    let next = adopt(store, &adopter, "c").await;
    assert_eq!(seqs(&next.inbox), [3, 4]);
}

pub async fn an_ack_beyond_what_was_claimed_drops_nothing_unclaimed(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    queue(store, notification(fence.session, "one")).await;
    queue(store, request(fence.session, "1")).await;
    let (entries, _) = claim(store, &fence, 99, 1).await;
    assert_eq!(seqs(&entries), [1]);
    let (entries, _) = claim(store, &fence, 99, 10).await;
    assert_eq!(seqs(&entries), [2]);
}

pub async fn marking_forwarded_moves_the_body_and_leaves_other_ids_alone(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    for id_key in ["1", "2"] {
        queue(store, request(fence.session, id_key)).await;
    }
    let rehydration = adopt(store, &fence, "b").await;
    assert_eq!(seqs(&rehydration.inbox), [1, 2]);
    assert!(rehydration.pending.iter().all(|request| !request.forwarded));
    let marked = store.mark_forwarded(&rehydration.fence, &["1".to_owned(), "9".to_owned()]).await.unwrap();
    assert_eq!(marked, Fenceable::Done);
    let again = store.mark_forwarded(&rehydration.fence, &["1".to_owned()]).await.unwrap();
    assert_eq!(again, Fenceable::Done);
    let next = adopt(store, &rehydration.fence, "c").await;
    assert_eq!(seqs(&next.inbox), [2]);
    let states: Vec<_> = next.pending.iter().map(|r| (&*r.id_key, r.forwarded, r.body.clone())).collect();
    assert_eq!(states, [("1", true, Bytes::from("request 1")), ("2", false, Bytes::from("request 2"))]);
}

/// REQ-3: what is claimed counts as forwarded, so an owner without a link only looks.
pub async fn a_claim_of_nothing_takes_nothing_and_tells_that_more_waits(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    assert_eq!(claim(store, &fence, 0, 0).await, (vec![], false));
    queue(store, request(fence.session, "1")).await;
    assert_eq!(claim(store, &fence, 0, 0).await, (vec![], true));
    assert!(store.pending(fence.session).await.unwrap().iter().all(|request| !request.forwarded));
    assert_eq!(seqs(&claim(store, &fence, 0, 10).await.0), [1]);
    assert_eq!(claim(store, &fence, 0, 0).await, (vec![], false));
}

/// REQ-4: a cancelled request leaves the table without an answer, whether it was forwarded or not.
pub async fn a_forgotten_request_is_neither_pending_nor_handed_out(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    queue(store, request(fence.session, "1")).await;
    claim(store, &fence, 0, 10).await;
    queue(store, request(fence.session, "2")).await;
    let another = [("1".to_owned(), 2), ("2".to_owned(), 1)];
    assert_eq!(store.forget_requests(&fence, &another).await.unwrap(), Fenceable::Done);
    assert_eq!(store.pending(fence.session).await.unwrap().len(), 2, "of these sequences there is none");
    let ids = [("1".to_owned(), 1), ("2".to_owned(), 2), ("unknown".to_owned(), 3)];
    assert_eq!(store.forget_requests(&fence, &ids).await.unwrap(), Fenceable::Done);
    assert_eq!(store.pending(fence.session).await.unwrap(), []);
    assert_eq!(claim(store, &fence, 0, 10).await, (vec![], false));
    let stale = Fence { generation: 0, ..fence };
    assert_eq!(store.forget_requests(&stale, &ids).await.unwrap(), Fenceable::Fenced);
}

/// DUR-1: the living owner goes on with the session that it writes again.
pub async fn a_session_the_store_lost_is_written_again_with_its_open_requests(backend: Backend) {
    let store = backend.store();
    let mut new = new_session("a");
    new.restored = Some(Restored {
        generation: 7,
        in_seq: 12,
        continuation: Continuation { initialized: Some(Initialized::Plain), ..Continuation::default() },
        pending: vec![("5".to_owned(), 11)],
    });
    assert_eq!(store.create(new.clone()).await.unwrap(), Created::Created);
    assert_eq!(store.create(new.clone()).await.unwrap(), Created::AlreadyExists);
    let fence =
        Fence { session: new.session, epoch: new.epoch, generation: 7, incarnation: new.owner.incarnation.clone() };
    assert_eq!(claim(store, &fence, 0, 10).await, (vec![], false));
    let pending = store.pending(new.session).await.unwrap();
    assert_eq!(pending.iter().map(|request| (request.seq, request.forwarded)).collect::<Vec<_>>(), [(11, true)]);
    assert_eq!(head(store, new.session).await.continuation.initialized, Some(Initialized::Plain));
    queue(store, request(new.session, "6")).await;
    assert_eq!(seqs(&claim(store, &fence, 0, 10).await.0), [13]);
    assert!(store.purge(new.session, None).await.unwrap());
}

pub async fn a_hint_reaches_living_sessions_only(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let hint = |sent| Hint::Sent { stream: STREAM.into(), sent };
    assert!(store.hint(fence.session, &hint(4)).await.unwrap());
    assert_eq!(head(store, fence.session).await.streams[STREAM].sent, Some(4));
    store.purge(fence.session, None).await.unwrap();
    assert!(!store.hint(fence.session, &hint(5)).await.unwrap());
    assert_eq!(store.load(fence.session).await.unwrap(), None);
    let data = store.dataset("first").await.unwrap();
    assert_eq!(store.dataset("second").await.unwrap(), data, "the data has one name for its life");
    let secret = store.secret("first").await.unwrap();
    assert_eq!(store.secret("second").await.unwrap(), secret, "and one secret");
}

/// REQ-1: what counts as claimed stays to be had until it is acked or answered, whichever way it was claimed.
pub async fn what_an_owner_has_missed_is_handed_out_again_until_it_is_acked_or_answered(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    forward(store, &fence, request(fence.session, "1")).await;
    forward(store, &fence, notification(fence.session, "n")).await;
    forward(store, &fence, message(fence.session, ClientMessage::Response, "r")).await;
    forward(store, &fence, request(fence.session, "2")).await;
    queue(store, request(fence.session, "3")).await;
    let look = |from, max| Claim { missing_from: Some(from), ..Claim::new(fence.clone(), 0, max) };

    let missed = handed(store, look(1, 0)).await;
    assert_eq!((seqs(&missed.entries), missed.after, missed.upto, missed.more), (vec![1, 2, 3, 4], 0, 4, true));
    let bodies: Vec<_> = missed.entries.iter().map(|entry| entry.body.clone()).collect();
    assert_eq!(bodies, ["request 1", "n", "r", "request 2"]);
    let missed = handed(store, look(3, 10)).await;
    assert_eq!((seqs(&missed.entries), missed.after, missed.upto, missed.last), (vec![3, 4, 5], 2, 5, 5));
    let nothing = handed(store, look(6, 10)).await;
    assert_eq!((seqs(&nothing.entries), nothing.after, nothing.upto), (vec![], 5, 5));

    append(store, append_of(&fence, 1, vec![answer("1")])).await;
    claim(store, &fence, 2, 0).await;
    let missed = handed(store, look(1, 0)).await;
    assert_eq!((seqs(&missed.entries), missed.after, missed.upto), (vec![3, 4, 5], 0, 5), "nothing comes at 1 and 2");
}

pub async fn what_is_not_claimed_was_not_missed(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    forward(store, &fence, request(fence.session, "1")).await;
    queue(store, request(fence.session, "2")).await;
    assert_eq!(store.mark_forwarded(&fence, &["2".to_owned()]).await.unwrap(), Fenceable::Done);
    let missed = handed(store, Claim { missing_from: Some(1), ..Claim::new(fence, 0, 0) }).await;
    assert_eq!((seqs(&missed.entries), missed.upto, missed.last), (vec![1], 1, 2));
}

/// DRN-2, REQ-5: answers and cancels pass what waits, and wait themselves for the next owner all the same.
pub async fn what_is_urgent_is_handed_out_unclaimed(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let cancel = |id: &str| message(fence.session, ClientMessage::Cancel { id_key: id.into() }, "cancel");
    queue(store, request(fence.session, "1")).await;
    queue(store, message(fence.session, ClientMessage::Response, "r")).await;
    queue(store, notification(fence.session, "n")).await;
    queue(store, cancel("9")).await;
    let look = |after| Claim { urgent_after: Some(after), ..Claim::new(fence.clone(), 0, 0) };
    let handed_out = handed(store, look(0)).await;
    assert_eq!((seqs(&handed_out.entries), seqs(&handed_out.urgent)), (vec![], vec![2, 4]));
    assert_eq!((handed_out.upto, handed_out.last, handed_out.more), (0, 4, true));
    assert_eq!(handed_out.urgent[1].message, ClientMessage::Cancel { id_key: "9".into() });
    assert_eq!(seqs(&handed(store, look(2)).await.urgent), [4]);
    assert!(handed(store, look(4)).await.urgent.is_empty());
    assert_eq!(seqs(&adopt(store, &fence, "b").await.inbox), [1, 2, 3, 4]);
}

/// REQ-4: whoever journals the cancel marks the request; the mark goes with it.
pub async fn a_cancel_marks_its_request_until_that_is_gone(backend: Backend) {
    let (store, elsewhere) = (backend.store(), backend.another().await);
    let fence = session_of(store, "a").await;
    let cancel = |id: &str| message(fence.session, ClientMessage::Cancel { id_key: id.into() }, "cancel");
    let mark = |id: &str, seq: u64| (id.to_owned(), seq);
    let marks = || async { Vec::from_iter(head(store, fence.session).await.continuation.cancelled) };
    forward(store, &fence, request(fence.session, "1")).await;
    forward(store, &fence, request(fence.session, "2")).await;
    forward(store, &fence, cancel("1")).await;
    queue(&*elsewhere, cancel("2")).await;
    queue(&*elsewhere, cancel("3")).await;
    assert_eq!(marks().await, [mark("1", 1), mark("2", 2)], "there is no request 3");
    assert_eq!(store.forget_requests(&fence, &[("2".to_owned(), 7)]).await.unwrap(), Fenceable::Done);
    assert_eq!(marks().await.len(), 2, "of another request with this id");
    assert_eq!(store.forget_requests(&fence, &[("2".to_owned(), 2)]).await.unwrap(), Fenceable::Done);
    assert_eq!(marks().await, [mark("1", 1)]);
    let answered = answer("1").changing(HeadChange::CancelMoot { id_key: "1".into() });
    append(store, append_of(&fence, 1, vec![answered])).await;
    assert_eq!(marks().await, []);
    assert_eq!(adopt(store, &fence, "b").await.pending, []);
}

/// Its place in a trace is kept with a request, whoever journals it, for whoever works on it, and goes with it.
pub async fn a_place_in_a_trace_stays_with_its_request_until_that_is_gone(backend: Backend) {
    let (store, elsewhere) = (backend.store(), backend.another().await);
    let fence = session_of(store, "a").await;
    let traced = |id: &str| {
        let change = HeadChange::Traced { id_key: id.into(), context: Some(format!("place {id}")) };
        Accept { changes: vec![change], ..request(fence.session, id) }
    };
    let place = |id: &str| (id.to_owned(), format!("place {id}"));
    let places = || async { Vec::from_iter(head(store, fence.session).await.continuation.traces) };
    forward(store, &fence, traced("1")).await;
    forward(store, &fence, traced("2")).await;
    let late = traced("3");
    let post = late.post_id;
    queue(&*elsewhere, late).await;
    queue(&*elsewhere, traced("4")).await;
    assert_eq!(places().await, [place("1"), place("2"), place("3"), place("4")]);
    // Before anybody has claimed it.
    assert_eq!(store.disown(fence.session, post, "3").await.unwrap(), Disowned::Never);
    let claimed = handed(store, Claim::new(fence.clone(), 0, 10)).await;
    assert_eq!(Vec::from_iter(claimed.traces), [place("1"), place("2"), place("4")]);
    assert_eq!(store.forget_requests(&fence, &[("2".to_owned(), 7)]).await.unwrap(), Fenceable::Done);
    assert_eq!(places().await.len(), 3, "of another request with this id");
    assert_eq!(store.forget_requests(&fence, &[("2".to_owned(), 2)]).await.unwrap(), Fenceable::Done);
    let answered = answer("1").changing(HeadChange::Traced { id_key: "1".into(), context: None });
    append(store, append_of(&fence, 1, vec![answered])).await;
    assert_eq!(Vec::from_iter(adopt(store, &fence, "b").await.head.continuation.traces), [place("4")]);
}
