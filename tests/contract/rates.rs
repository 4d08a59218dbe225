//! How often principals may ask.

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
