//! Reading event logs.

use super::*;

async fn filled(store: &dyn SessionStore, bodies: &[&str]) -> Fence {
    let fence = session_of(store, "a").await;
    append(store, append_of(&fence, 1, bodies.iter().map(|body| event(body)).collect())).await;
    fence
}

async fn seqs(store: &dyn SessionStore, fence: &Fence, after: u64, max_events: usize, max_bytes: usize) -> Vec<u64> {
    let page =
        store.read_page(fence.session, STREAM, StreamKey::Main, after, max_events, max_bytes).await.unwrap().unwrap();
    assert_eq!(page.epoch, fence.epoch);
    page.events.iter().map(|event| event.seq).collect()
}

pub async fn a_page_starts_after_the_cursor(backend: Backend) {
    let store = backend.store();
    let fence = filled(store, &["a", "b", "c"]).await;
    assert_eq!(seqs(store, &fence, 0, 10, 100).await, [1, 2, 3]);
    assert_eq!(seqs(store, &fence, 1, 10, 100).await, [2, 3]);
    assert_eq!(seqs(store, &fence, 3, 10, 100).await, [0; 0]);
    assert_eq!(seqs(store, &fence, 99, 10, 100).await, [0; 0], "a cursor of another life");
    let page = store.read_page(fence.session, STREAM, StreamKey::Main, 99, 10, 100).await.unwrap().unwrap();
    assert_eq!((page.last_seq, page.first_seq, page.holder), (3, 1, Some(7)));
}

/// EVT-9
pub async fn a_page_is_bounded_by_count_and_bytes_but_never_empty(backend: Backend) {
    let store = backend.store();
    let fence = filled(store, &["aaaa", "bbbb", "cccc", "dddd"]).await;
    assert_eq!(seqs(store, &fence, 0, 2, 100).await, [1, 2]);
    assert_eq!(seqs(store, &fence, 0, 10, 0).await, [1]);
    assert_eq!(seqs(store, &fence, 0, 10, 4).await, [1]);
    assert_eq!(seqs(store, &fence, 0, 10, 5).await, [1, 2], "as many as first reach the budget");
    assert_eq!(seqs(store, &fence, 2, 1, 100).await, [3]);
}

pub async fn a_stream_without_events_says_where_it_would_start(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let page = store.read_page(fence.session, STREAM, StreamKey::Main, 0, 10, 10).await.unwrap().unwrap();
    assert_eq!((page.events.len(), page.last_seq, page.first_seq, page.holder), (0, 0, 1, Some(7)));
    let page = store.read_page(fence.session, "unknown", StreamKey::Main, 0, 10, 10).await.unwrap().unwrap();
    assert_eq!((page.events.len(), page.last_seq, page.first_seq, page.holder), (0, 0, 1, None));
}

pub async fn a_missing_session_has_no_pages(backend: Backend) {
    assert_eq!(backend.store().read_page(SessionId::random(), STREAM, StreamKey::Main, 0, 10, 10).await.unwrap(), None);
}

pub async fn pages_together_are_the_whole_log(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    for op in 1..=20 {
        let events = (0..50).map(|i| event(&"x".repeat((op * 50 + i) as usize % 97))).collect();
        append(store, append_of(&fence, op, events)).await;
    }
    for (max_events, max_bytes) in [(1000, 1 << 20), (7, 1 << 20), (1000, 300), (300, 5000)] {
        let mut read = Vec::new();
        loop {
            let after = read.last().copied().unwrap_or(0);
            let page = seqs(store, &fence, after, max_events, max_bytes).await;
            if page.is_empty() {
                break;
            }
            read.extend(page);
        }
        assert_eq!(read, (1..=1000).collect::<Vec<_>>(), "{max_events} {max_bytes}");
    }
}
