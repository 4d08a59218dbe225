//! Event logs and answers.

use std::collections::HashSet;

use mcp_router::store::{Appended, LogLimits, NewEvent, StoreError, Wake};

use super::*;

fn numbered(range: std::ops::Range<u64>) -> Vec<(u64, String)> {
    range.map(|seq| (seq, format!("e{seq}"))).collect()
}

/// EVT-1
pub async fn sequences_are_contiguous_in_each_stream(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    assert_eq!(append(store, append_of(&fence, 1, vec![event("e1"), event("e2")])).await, [Some(1), Some(2)]);
    let elsewhere = Append { stream: "other".into(), ..append_of(&fence, 2, vec![event("o1")]) };
    assert_eq!(append(store, elsewhere).await, [Some(1)]);
    assert_eq!(append(store, append_of(&fence, 3, vec![event("e3")])).await, [Some(3)]);
    assert_eq!(log(store, fence.session, STREAM).await, numbered(1..4));
    assert_eq!(log(store, fence.session, "other").await, [(1, "o1".to_owned())]);
    let rehydration = adopt(store, &fence, "b").await;
    assert_eq!(append(store, append_of(&rehydration.fence, 1, vec![event("e4")])).await, [Some(4)]);
}

/// REQ-2
pub async fn an_answer_is_appended_only_once(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    forward(store, &fence, request(fence.session, "1")).await;
    forward(store, &fence, request(fence.session, "2")).await;
    let events = vec![answer("1"), event("between"), answer("1"), answer("2")];
    assert_eq!(append(store, append_of(&fence, 1, events)).await, [Some(1), Some(2), None, Some(3)]);
    assert_eq!(append(store, append_of(&fence, 2, vec![answer("2")])).await, [None]);
    assert!(store.pending(fence.session).await.unwrap().is_empty());
    let bodies: Vec<_> = log(store, fence.session, STREAM).await.into_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, ["answer 1", "between", "answer 2"]);
}

pub async fn an_answer_nobody_waits_for_uses_no_sequence_and_sets_nothing(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    store.update(&fence, &[set("keep", "1")]).await.unwrap();
    let stray = NewEvent { changes: vec![set("mark", "1"), unset("keep")], ..answer("never asked") };
    let other = Append { stream: "fresh".into(), ..append_of(&fence, 1, vec![stray]) };
    assert_eq!(append(store, other).await, [None]);
    let head = head(store, fence.session).await;
    assert_eq!((on_record(&head, "mark"), on_record(&head, "keep")), (None, Some("1")));
    let page = store.read_page(fence.session, "fresh", StreamKey::Main, 0, 10, 10).await.unwrap().unwrap();
    assert_eq!((page.last_seq, page.first_seq), (0, 1));
    assert_eq!(append(store, append_of(&fence, 2, vec![event("e1")])).await, [Some(1)]);
}

pub async fn the_same_append_again_writes_nothing_and_says_the_same(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    forward(store, &fence, request(fence.session, "1")).await;
    let append_1 = append_of(&fence, 1, vec![answer("1"), answer("1"), event("e")]);
    let said = append(store, append_1.clone()).await;
    assert_eq!(said, [Some(1), None, Some(2)]);
    let with_change = NewEvent { changes: vec![set("mark", "1")], ..event("other") };
    assert_eq!(append(store, append_1.clone()).await, said);
    assert_eq!(append(store, Append { events: [with_change].into(), ..append_1 }).await, said);
    assert_eq!(log(store, fence.session, STREAM).await.len(), 2);
    assert_eq!(on_record(&head(store, fence.session).await, "mark"), None);
    assert_eq!(append(store, append_of(&fence, 2, vec![event("e")])).await, [Some(3)]);
}

pub async fn an_older_append_than_the_last_is_refused(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    append(store, append_of(&fence, 5, vec![event("e")])).await;
    let refused = store.append(append_of(&fence, 4, vec![event("late")])).await;
    assert!(matches!(refused, Err(StoreError::Corrupt(_))), "{refused:?}");
    assert_eq!(log(store, fence.session, STREAM).await.len(), 1);
}

pub async fn a_new_generation_counts_its_appends_anew(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    append(store, append_of(&fence, 3, vec![event("e1")])).await;
    let adopter = adopt(store, &fence, "b").await.fence;
    assert_eq!(append(store, append_of(&adopter, 3, vec![event("e2")])).await, [Some(2)]);
    let adopter = adopt(store, &adopter, "c").await.fence;
    assert_eq!(append(store, append_of(&adopter, 1, vec![event("e3")])).await, [Some(3)]);
}

pub async fn changes_of_one_append_apply_in_order(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let set = |name: &str, value: &str| event("e").changing(set(name, value));
    let delete = |name: &str| event("e").changing(unset(name));
    let events = vec![set("x", "1"), delete("x"), set("y", "1"), set("y", "2"), delete("z"), set("z", "3")];
    append(store, append_of(&fence, 1, events)).await;
    let head = head(store, fence.session).await;
    let on_record = |name: &str| on_record(&head, name);
    assert_eq!((on_record("x"), on_record("y"), on_record("z")), (None, Some("2"), Some("3")));
}

pub async fn another_process_that_holds_the_stream_is_woken(backend: Backend) {
    let store = backend.store();
    let mut own = store.subscribe(&incarnation("a"), 8).await.unwrap();
    let mut other = store.subscribe(&incarnation("b"), 8).await.unwrap();
    let fence = session_of(store, "a").await;
    append(store, append_of(&fence, 1, vec![event("e")])).await;
    assert_not_woken(store, "a", &mut own).await;
    attach(store, fence.session, "b", 8).await;
    assert_eq!(next(&mut own).await, Wake::Session(fence.session), "of the new attachment");
    append(store, append_of(&fence, 2, vec![event("e")])).await;
    assert_eq!(next(&mut other).await, Wake::Session(fence.session));
    append(store, append_of(&fence, 3, vec![answer("never asked")])).await;
    assert_not_woken(store, "b", &mut other).await;
    assert_not_woken(store, "a", &mut own).await;
}

pub async fn the_log_is_trimmed_by_count(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let limits = LogLimits { max_events: 3, ..ROOMY };
    for seq in 1..=10 {
        append(store, Append { limits, ..append_of(&fence, seq, vec![event(&format!("e{seq}"))]) }).await;
        let page = store.read_page(fence.session, STREAM, StreamKey::Main, 0, 100, 1000).await.unwrap().unwrap();
        assert_eq!(page.events.len() as u64, seq.min(3));
        assert_eq!((page.first_seq, page.last_seq), (seq.saturating_sub(2).max(1), seq));
    }
    assert_eq!(log(store, fence.session, STREAM).await, numbered(8..11));
    let many = (11..=20).map(|seq| event(&format!("e{seq}"))).collect();
    append(store, Append { limits, ..append_of(&fence, 11, many) }).await;
    assert_eq!(log(store, fence.session, STREAM).await, numbered(18..21), "also what this append brought");
}

/// EVT-6: a client of whose stream nothing is missing need not be told of what the log of all streams has lost.
pub async fn what_is_trimmed_is_known_by_the_stream_that_showed_it(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let limits = LogLimits { max_events: 3, ..ROOMY };
    let other = StreamKey::Request(7);
    // 1 to 10; the main stream has the 3rd and the 9th.
    for seq in 1..=10 {
        let event = if [3, 9].contains(&seq) { event("main") } else { event("other").on(other) };
        append(store, Append { limits, ..append_of(&fence, seq, vec![event]) }).await;
        let gone = async |view| {
            let page = store.read_page(fence.session, STREAM, view, 0, 100, 1000).await.unwrap().unwrap();
            (page.first_seq, page.gone)
        };
        let first = seq.saturating_sub(2).max(1);
        assert_eq!(gone(StreamKey::Main).await, (first, if first > 3 { 3 } else { 0 }), "{seq}");
        // Of all others nobody knows: theirs may have been among them.
        assert_eq!(gone(other).await, (first, first - 1), "{seq}");
    }
}

pub async fn the_log_is_trimmed_by_bytes(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let limits = LogLimits { max_bytes: 10, ..ROOMY };
    for (op, body) in ["aaaa", "bbbb", "cc", "d", "eeeeeeee"].into_iter().enumerate() {
        append(store, Append { limits, ..append_of(&fence, op as u64 + 1, vec![event(body)]) }).await;
        let kept: usize = log(store, fence.session, STREAM).await.iter().map(|(_, body)| body.len()).sum();
        assert!(kept <= 10, "{kept}");
    }
    let kept = log(store, fence.session, STREAM).await;
    assert_eq!(kept, [(4, "d".to_owned()), (5, "eeeeeeee".to_owned())]);
}

pub async fn the_log_is_trimmed_by_age(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let limits = LogLimits { max_age: Duration::from_millis(30), ..ROOMY };
    append(store, Append { limits, ..append_of(&fence, 1, vec![event("old"), event("old")]) }).await;
    let mut op = 1;
    loop {
        op += 1;
        append(store, Append { limits, ..append_of(&fence, op, vec![event("new")]) }).await;
        let page = store.read_page(fence.session, STREAM, StreamKey::Main, 0, 1, 1).await.unwrap().unwrap();
        if page.first_seq > 2 {
            assert_eq!(page.events[0].seq, page.first_seq);
            break;
        }
        assert!(op < 3_000, "old events are never dropped");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

pub async fn the_newest_event_is_kept_whatever_its_size(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let limits = LogLimits { max_age: Duration::ZERO, max_events: 0, max_bytes: 0 };
    for seq in 1..=40 {
        append(store, Append { limits, ..append_of(&fence, seq, vec![event(&format!("e{seq}"))]) }).await;
        assert_eq!(log(store, fence.session, STREAM).await, numbered(seq..seq + 1));
    }
    append(store, append_of(&fence, 41, vec![event("e41")])).await;
    assert_eq!(log(store, fence.session, STREAM).await, numbered(40..42));
    assert_eq!(head(store, fence.session).await.streams[STREAM].bytes, 6, "the byte count is right after trimming");
}

pub async fn a_body_of_four_mebibytes_survives(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let large: Bytes = (0..4 << 20).map(|i: u32| (i % 251) as u8).collect::<Vec<_>>().into();
    let sent = Accept { body: large.clone(), ..request(fence.session, "1") };
    queue(store, sent).await;
    assert_eq!(claim(store, &fence, 0, 1).await.0[0].body, large);
    assert_eq!(store.pending(fence.session).await.unwrap()[0].body, large);
    let events = vec![NewEvent { body: large.clone(), ..answer("1") }, event("small")];
    assert_eq!(append(store, append_of(&fence, 1, events)).await, [Some(1), Some(2)]);
    let page = store.read_page(fence.session, STREAM, StreamKey::Main, 0, 100, 1).await.unwrap().unwrap();
    assert_eq!(page.events.len(), 1, "the byte budget is reached by the first");
    assert_eq!(page.events[0].body.as_ref(), Some(&large));
    let rest = store.read_page(fence.session, STREAM, StreamKey::Main, 1, 100, 1).await.unwrap().unwrap();
    assert_eq!(rest.events[0].body.as_deref(), Some(&b"small"[..]));
}

pub async fn bodies_may_hold_any_bytes(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let every: Bytes = (0..=255).collect::<Vec<u8>>().into();
    let odd = ["", "1 1 x", "\0", "a\r\nb"].map(Bytes::from).into_iter().chain([every]);
    for (i, body) in odd.enumerate() {
        let id_key = format!("\"{i} %d \\u0000\"");
        queue(store, Accept { body: body.clone(), ..request(fence.session, &id_key) }).await;
        assert_eq!(store.pending(fence.session).await.unwrap()[0].body, body);
        assert_eq!(claim(store, &fence, 0, 1).await.0[0].body, body);
        assert_eq!(store.pending(fence.session).await.unwrap()[0].body, body);
        let appended = NewEvent { body: body.clone(), ..answer(&id_key) };
        assert_eq!(append(store, append_of(&fence, i as u64 + 1, vec![appended])).await, [Some(i as u64 + 1)]);
        let page = store.read_page(fence.session, STREAM, StreamKey::Main, i as u64, 1, 1).await.unwrap().unwrap();
        assert_eq!(page.events[0].body.as_ref(), Some(&body));
    }
}

/// REQ-2
pub async fn two_owners_racing_for_an_answer_append_it_once(backend: Backend) {
    const ROUNDS: u64 = 1000;
    let (store, elsewhere) = (backend.another().await, backend.another().await);
    let mut fence = session_of(backend.store(), "a").await;
    let session = fence.session;
    let (rounds, to_late) = std::sync::mpsc::sync_channel::<(Fence, u64)>(0);
    let (outcomes, of_late) = std::sync::mpsc::sync_channel::<Appended>(0);
    // The former owner believes that it still is, while another one adopts and answers too.
    let former_owner = on_thread(move || async move {
        while let Ok((former, round)) = to_late.recv() {
            let append = append_of(&former, round, vec![answer(&round.to_string())]);
            outcomes.send(store.append(append).await.unwrap()).unwrap();
        }
    });
    let (mut won_by_former, mut fenced) = (0, 0);
    for round in 1..=ROUNDS {
        let id_key = round.to_string();
        forward(&*elsewhere, &fence, request(session, &id_key)).await;
        rounds.send((fence.clone(), round)).unwrap();
        let adopter = adopt(&*elsewhere, &fence, if round % 2 == 0 { "a" } else { "b" }).await.fence;
        let appended = elsewhere.append(append_of(&adopter, round, vec![answer(&id_key)])).await.unwrap();
        let late = of_late.recv().unwrap();
        match (&late, &appended) {
            (Appended::Done { seqs: late, .. }, Appended::Done { seqs: appended, .. }) => {
                assert_eq!((late.as_slice(), appended.as_slice()), (&[Some(round)][..], &[None][..]));
                won_by_former += 1;
            }
            (Appended::Fenced, Appended::Done { seqs: appended, .. }) => {
                assert_eq!(appended.as_slice(), [Some(round)]);
                fenced += 1;
            }
            other => panic!("round {round}: {other:?}"),
        }
        fence = adopter;
    }
    drop(rounds);
    former_owner.join().unwrap();
    println!("the former owner was first {won_by_former} times and fenced {fenced} times");
    let log = log(backend.store(), session, STREAM).await;
    assert_eq!(log.iter().map(|(_, body)| body).collect::<HashSet<_>>().len() as u64, ROUNDS);
    assert_eq!(log.len() as u64, ROUNDS);
    assert!(backend.store().pending(session).await.unwrap().is_empty());
}
