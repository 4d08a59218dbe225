//! Handing the inbox to the owner.

use mcp_router::store::{Accept, Attachment, Claim, Claimed, ClientMessage, Fenceable};

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
    let request = |id_key: &str| ClientMessage::Request { id_key: id_key.to_owned() };
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
    store.attach(Attach { session: fence.session, attachment: attachment.clone() }).await.unwrap();
    let claimed = store.claim(Claim { fence: fence.clone(), acked: 0, max_entries: 1 }).await.unwrap();
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
