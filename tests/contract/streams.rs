//! Several streams in one session: each has its own log, holder and counters.

use mcp_router::store::{Appended, Claim, Claimed, HandedLately, Hint, Restored, Rewrite, Rewritten, StreamHead, Wake};

use super::*;

const OTHER: &str = "post:7";

async fn append_to(store: &dyn SessionStore, fence: &Fence, op: u64, stream: &'static str, body: &str) -> u64 {
    let appending = Append { stream: stream.into(), ..append_of(fence, op, vec![event(body)]) };
    append(store, appending).await[0].expect("an event without a condition")
}

async fn attach_to(store: &dyn SessionStore, session: SessionId, stream: &str, name: &str, id: u64) -> u64 {
    let attachment = Attachment { stream: stream.to_owned(), incarnation: incarnation(name), id };
    match store.attach(Attach { session, attachment, by: None }).await.unwrap() {
        Attached::Attached(joined) => joined.attach_count,
        Attached::NotFound => panic!("not attached"),
    }
}

/// A session of `a`: two events on the main stream, one on the other, which `b` shows.
async fn with_two_streams(store: &dyn SessionStore) -> Fence {
    let fence = session_of(store, "a").await;
    for (op, stream, expected) in [(1, STREAM, 1), (2, OTHER, 1), (3, STREAM, 2)] {
        assert_eq!(append_to(store, &fence, op, stream, stream).await, expected, "a sequence of its own");
    }
    assert_eq!(attach_to(store, fence.session, OTHER, "b", 8).await, 1);
    fence
}

pub async fn each_stream_has_its_log_its_holder_and_its_counters(backend: Backend) {
    let store = backend.store();
    let fence = with_two_streams(store).await;
    let session = fence.session;
    assert_eq!(log(store, session, STREAM).await.len(), 2);
    assert_eq!(log(store, session, OTHER).await, [(1, OTHER.to_owned())]);
    assert!(!store.detach(session, STREAM, 8).await.unwrap(), "it holds the other one");
    queue(store, notification(session, "n")).await;
    assert!(store.detach(session, STREAM, 7).await.unwrap());
    assert!(store.hint(session, &Hint::Sent { stream: OTHER.into(), sent: 1 }).await.unwrap());

    let main = StreamHead { last_seq: 2, bytes: 2, attach_count: 1, left_at: Some(1), ..StreamHead::default() };
    let holder = Some(mcp_router::store::Holder { incarnation: incarnation("b"), id: 8 });
    let other = StreamHead { last_seq: 1, bytes: 6, attach_count: 1, holder, sent: Some(1), ..StreamHead::default() };
    let expected = [(STREAM.to_owned(), main), (OTHER.to_owned(), other)].into();
    assert_eq!(head(store, session).await.streams, expected);
    assert_eq!(adopt(store, &fence, "c").await.head.streams, expected, "an adopter finds all of it");
}

pub async fn what_an_owner_knows_of_a_log_is_of_the_stream_it_names(backend: Backend) {
    let store = backend.store();
    let fence = with_two_streams(store).await;
    let knowing =
        |stream: &'static str, seq| Claim { known_event: (stream.into(), seq), ..Claim::new(fence.clone(), 0, 1) };
    for (stream, seq, is_older) in [(STREAM, 2, false), (STREAM, 3, true), (OTHER, 1, false), (OTHER, 2, true)] {
        let claimed = store.claim(knowing(stream, seq)).await.unwrap();
        assert_eq!(claimed == Claimed::Older, is_older, "{stream} {seq}");
    }
    let ahead = Append { stream: OTHER.into(), known: 2, ..append_of(&fence, 4, vec![event("e")]) };
    assert_eq!(store.append(ahead).await.unwrap(), Appended::Older);
}

pub async fn the_number_of_an_append_counts_over_all_streams(backend: Backend) {
    let store = backend.store();
    let fence = with_two_streams(store).await;
    assert_eq!(append_to(store, &fence, 3, OTHER, "again").await, 2, "what the last append said");
    assert_eq!(log(store, fence.session, OTHER).await.len(), 1, "and nothing was written");
}

pub async fn a_session_that_begins_anew_begins_all_its_streams_anew(backend: Backend) {
    let store = backend.store();
    for renewed in [true, false] {
        let mut holder = store.subscribe(&incarnation("b"), 8).await.unwrap();
        let fence = with_two_streams(store).await;
        let epoch = fence.epoch.wrapping_add(1);
        if renewed {
            assert!(store.renew(fence.session, epoch).await.unwrap());
        } else {
            let rewrite = Rewrite {
                fence: fence.clone(),
                owner: owner("a"),
                epoch,
                next: 1,
                restored: Restored { generation: 1, ..Restored::default() },
                handed: HandedLately::default(),
            };
            assert_eq!(store.rewrite(rewrite).await.unwrap(), Rewritten::Done(vec![]));
            assert_eq!(next(&mut holder).await, Wake::Session(fence.session), "who shows the other stream must look");
        }
        for stream in [STREAM, OTHER] {
            let page = store.read_page(fence.session, stream, StreamKey::Main, 0, 10, 1 << 20).await.unwrap().unwrap();
            assert_eq!((page.epoch, page.last_seq, page.events), (epoch, 0, vec![]), "{stream}");
        }
        store.purge(fence.session, None).await.unwrap();
    }
}

/// EVT-5, EVT-8
pub async fn a_stream_shows_its_own_events_of_the_log_and_the_places_of_others(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let of = |seq, body| event(body).on(StreamKey::Request(seq));
    let many: Vec<NewEvent> = (0..20).map(|_| of(9, "nine")).collect();
    assert_eq!(append(store, append_of(&fence, 1, vec![event("main"), of(4, "four"), of(5, "five")])).await.len(), 3);
    append(store, append_of(&fence, 2, many)).await;
    for (view, expected) in [
        (StreamKey::Main, [Some("main"), None, None]),
        (StreamKey::Request(4), [None, Some("four"), None]),
        (StreamKey::Request(5), [None, None, Some("five")]),
        (StreamKey::Request(1), [None, None, None]),
    ] {
        let page = store.read_page(fence.session, STREAM, view, 0, 3, 1 << 20).await.unwrap().unwrap();
        let seen: Vec<_> = page.events.iter().map(|event| event.body.as_deref()).collect();
        assert_eq!(seen, expected.map(|body| body.map(str::as_bytes)), "{view:?}");
        assert!(page.events.iter().map(|event| event.seq).eq(1..=3) && page.last_seq == 23);
    }
    // Also where an event has its time beside it.
    let page = store.read_page(fence.session, STREAM, StreamKey::Request(9), 3, 100, 1 << 20).await.unwrap().unwrap();
    assert!(page.events.iter().all(|event| event.body.as_deref() == Some(b"nine")), "{page:?}");
}

/// OWN-6: as another instance takes a request, and shows its answer.
pub async fn who_shows_a_request_is_woken_by_its_answer_which_ends_that(backend: Backend) {
    let store = backend.store();
    let mut shower = store.subscribe(&incarnation("b"), 8).await.unwrap();
    let fence = session_of(store, "a").await;
    append(store, append_of(&fence, 1, vec![event("before")])).await;
    let shown_by = Some((incarnation("b"), 8));
    let accepted = store.accept(Accept { shown_by, ..request(fence.session, "1") }).await.unwrap();
    let Accepted::Queued { seq: 1, shown: Some(shown), .. } = accepted else { panic!("{accepted:?}") };
    assert_eq!((shown.epoch, shown.last_event), (fence.epoch, 1));
    let view = StreamKey::Request(1);
    let holder = async || store.read_page(fence.session, STREAM, view, 0, 0, 0).await.unwrap().unwrap().holder;
    assert_eq!(holder().await, Some(8));
    append(store, append_of(&fence, 2, vec![event("progress").on(view)])).await;
    assert_eq!(next(&mut shower).await, Wake::Session(fence.session));
    let answered = store.append(append_of(&fence, 3, vec![answer("1").on(view)])).await.unwrap();
    assert_eq!(answered, Appended::Done { seqs: vec![Some(3)], shown: vec![3] });
    assert_eq!(next(&mut shower).await, Wake::Session(fence.session));
    assert_eq!(holder().await, None);
    // As an instance that has become the owner since: its own process shows it.
    let mut owner = store.subscribe(&incarnation("a"), 8).await.unwrap();
    store.accept(Accept { shown_by: Some((incarnation("a"), 9)), ..request(fence.session, "3") }).await.unwrap();
    assert_eq!(next(&mut owner).await, Wake::Session(fence.session), "for the request");
    append(store, append_of(&fence, 4, vec![answer("3").on(StreamKey::Request(2))])).await;
    assert_eq!(next(&mut owner).await, Wake::Session(fence.session), "for its answer");
    store.accept(request(fence.session, "2")).await.unwrap();
    let unshown = store.append(append_of(&fence, 5, vec![answer("2").on(StreamKey::Request(3))])).await.unwrap();
    assert_eq!(unshown, Appended::Done { seqs: vec![Some(5)], shown: Vec::new() });
    let streams = head(store, fence.session).await.streams;
    assert_eq!(streams.keys().collect::<Vec<_>>(), [STREAM], "nothing is left of it");
}

/// REQ-6
pub async fn the_latest_try_of_a_request_shows_its_answer(backend: Backend) {
    let store = backend.store();
    let mut owner = store.subscribe(&incarnation("a"), 8).await.unwrap();
    let fence = session_of(store, "a").await;
    let post = request(fence.session, "1");
    for (name, id) in [("b", 8), ("c", 9)] {
        store.accept(Accept { shown_by: Some((incarnation(name), id)), ..post.clone() }).await.unwrap();
    }
    assert_eq!(next(&mut owner).await, Wake::Session(fence.session), "for the request");
    let stream = StreamKey::Request(1).name();
    assert!(!store.detach(fence.session, &stream, 8).await.unwrap());
    assert!(store.detach(fence.session, &stream, 9).await.unwrap());
    assert_eq!(next(&mut owner).await, Wake::Session(fence.session), "it keeps the answer for whoever comes back");
    assert!(!head(store, fence.session).await.streams.contains_key(&*stream), "nothing is left of it");
    // The last one by way of the owner, which shows it without being on record: it must not take a dead one for its successor.
    store.accept(Accept { shown_by: Some((incarnation("b"), 8)), ..post.clone() }).await.unwrap();
    let again = store.accept(direct(&fence, post)).await.unwrap();
    assert!(matches!(again, Accepted::Duplicate { seq: 1, .. }), "{again:?}");
    assert!(!head(store, fence.session).await.streams.contains_key(&*stream), "the owner shows it");
}
