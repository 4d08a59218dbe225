//! How often principals may ask, and how many of their calls may be under way.

use super::*;

pub async fn a_burst_passes_and_then_one_at_a_time(backend: Backend) {
    let store = backend.store();
    let rate = Rate { between: Duration::from_millis(200), burst: 3 };
    // Of another name each time: Redis is not empty for long.
    let who = SessionId::random().reveal().to_string();
    let pace = || async { store.pace(&who, rate).await.unwrap() };
    for number in 0..3 {
        assert_eq!(pace().await, Paced::Now, "{number}");
    }
    let mut passed = 0;
    let wait = loop {
        match pace().await {
            // The test itself was held up.
            Paced::Now => passed += 1,
            Paced::After(wait) => break wait,
        }
        assert!(passed < 100, "there is no end");
    };
    assert!(wait <= rate.between, "{wait:?}");
    assert_eq!(store.pace("somebody else", rate).await.unwrap(), Paced::Now);
    eventually("its turn", || async { (pace().await == Paced::Now).then_some(()) }).await;
}

pub async fn so_many_calls_are_under_way_and_no_more(backend: Backend) {
    let (store, other) = (backend.store(), backend.another().await);
    let who = SessionId::random().reveal().to_string();
    let enter = async |call: &str| other.enter(&who, call, 2, PATIENCE).await.unwrap();
    assert_eq!(store.enter(&who, "a", 2, PATIENCE).await.unwrap(), Entered::New);
    assert_eq!(enter("b").await, Entered::New);
    assert_eq!(enter("c").await, Entered::Full);
    assert_eq!(enter("a").await, Entered::Already, "the same call again");
    assert_eq!(store.enter("somebody else", "c", 2, PATIENCE).await.unwrap(), Entered::New);
    store.leave(&who, &["a".into(), "unknown".into()]).await.unwrap();
    assert_eq!(enter("c").await, Entered::New);
    assert_eq!(enter("a").await, Entered::Full);
    // Who takes a session over says what is under way there, also beyond the limit.
    store.keep_calls(&who, &["d".into()], PATIENCE).await.unwrap();
    store.leave(&who, &["b".into(), "c".into()]).await.unwrap();
    assert_eq!(enter("a").await, Entered::New);
    assert_eq!(enter("b").await, Entered::Full);
}

pub async fn calls_that_nobody_keeps_are_over(backend: Backend) {
    let store = backend.store();
    let who = SessionId::random().reveal().to_string();
    let short = Duration::from_millis(50);
    assert_eq!(store.enter(&who, "kept", 1, short).await.unwrap(), Entered::New);
    store.keep_calls(&who, &["kept".into()], PATIENCE).await.unwrap();
    tokio::time::sleep(2 * short).await;
    assert_eq!(store.enter(&who, "left", 1, short).await.unwrap(), Entered::Full);
    assert_eq!(store.enter(&who, "left", 2, short).await.unwrap(), Entered::New);
    let is_over = || async { (store.enter(&who, "next", 2, short).await.unwrap() == Entered::New).then_some(()) };
    eventually("its end", is_over).await;
}
