//! What operators are shown of all instances, and what they ask of one.

use mcp_router::store::{ASKED_ABOUT, Heard, InstanceInfo, Publication, Published};

use super::{instance::instance, *};

const LONG: Duration = Duration::from_secs(600);

fn publication<'a>(owner: &'a Owner, figures: &'a str, incidents: &'a [String]) -> Publication<'a> {
    Publication { owner, figures: figures.into(), known: "".into(), life: LONG, incidents, keep: 3 }
}

fn drains(heard: Heard) -> bool {
    heard.drain
}

pub async fn each_instance_sees_what_all_tell(backend: Backend) {
    let (store, other) = (backend.store(), backend.another().await);
    let (a, b) = (instance("a", "a"), instance("b", "b"));
    for info in [&a, &b] {
        store.lease_acquire(info, LONG).await.unwrap();
    }
    assert_eq!(store.published().await.unwrap(), []);
    let incidents = ["1", "2"].map(str::to_owned);
    assert!(!drains(store.publish(publication(&a.owner, "{}", &incidents)).await.unwrap()));
    let incidents = ["3", "4"].map(str::to_owned);
    assert!(!drains(other.publish(publication(&b.owner, "{\"b\":1}", &incidents)).await.unwrap()));
    assert!(!drains(store.publish(publication(&a.owner, "{\"a\":2}", &[])).await.unwrap()));
    let told = |info: &InstanceInfo, figures: &str| Published {
        owner: info.owner.clone(),
        figures: figures.to_owned(),
        known: String::new(),
        is_asked_to_drain: false,
    };
    assert_eq!(store.published().await.unwrap(), [told(&a, "{\"a\":2}"), told(&b, "{\"b\":1}")]);
    assert_eq!(other.incidents(10).await.unwrap(), ["4", "3", "2"], "the newest first, and no more than are kept");
    assert_eq!(store.incidents(1).await.unwrap(), ["4"]);
}

pub async fn a_process_hears_that_it_shall_drain_and_its_successor_does_not(backend: Backend) {
    let (store, other) = (backend.store(), backend.another().await);
    let (first, second) = (instance("a", "first"), instance("a", "second"));
    assert!(!store.ask_to_drain(&first.owner).await.unwrap(), "it tells nothing");
    store.lease_acquire(&first, LONG).await.unwrap();
    store.publish(publication(&first.owner, "{}", &[])).await.unwrap();
    assert!(!other.ask_to_drain(&second.owner).await.unwrap(), "another process");
    assert!(other.ask_to_drain(&first.owner).await.unwrap());
    assert!(other.published().await.unwrap()[0].is_asked_to_drain);
    assert!(drains(store.publish(publication(&first.owner, "{}", &[])).await.unwrap()));
    assert!(drains(store.publish(publication(&first.owner, "{}", &[])).await.unwrap()), "it may not have heard");
    store.lease_release(&first.owner).await.unwrap();
    store.lease_acquire(&second, LONG).await.unwrap();
    assert!(!drains(store.publish(publication(&second.owner, "{}", &[])).await.unwrap()));
    assert!(!other.published().await.unwrap()[0].is_asked_to_drain);
}

pub async fn what_was_told_is_forgotten_in_time(backend: Backend) {
    let store = backend.store();
    let a = instance("a", "a");
    store.lease_acquire(&a, LONG).await.unwrap();
    let short = Publication { life: Duration::from_millis(50), ..publication(&a.owner, "{}", &[]) };
    store.publish(short).await.unwrap();
    eventually("it is forgotten", || async { store.published().await.unwrap().is_empty().then_some(()) }).await;
}

pub async fn all_processes_hear_which_sessions_somebody_asks_about(backend: Backend) {
    let (store, other) = (backend.store(), backend.another().await);
    let (a, b) = (instance("a", "a"), instance("b", "b"));
    store.lease_acquire(&a, LONG).await.unwrap();
    let heard = async |owner: &Owner| store.publish(publication(owner, "{}", &[])).await.unwrap().about;
    assert_eq!(heard(&a.owner).await, [""; 0]);
    other.ask_about("a short while", Duration::from_millis(100)).await.unwrap();
    eventually("nobody asks any more", || async { heard(&a.owner).await.is_empty().then_some(()) }).await;
    for number in 0..=ASKED_ABOUT {
        other.ask_about(&format!("session {number}"), LONG).await.unwrap();
        // Whoever asked last is known by the clock.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for info in [&a, &b] {
        let about = heard(&info.owner).await;
        assert_eq!(about.len(), ASKED_ABOUT);
        assert_eq!(about[0], format!("session {ASKED_ABOUT}"), "{about:?}");
    }
    let known = Publication { known: "{\"x\":[]}".into(), ..publication(&a.owner, "{}", &[]) };
    store.publish(known).await.unwrap();
    assert_eq!(other.published().await.unwrap()[0].known, "{\"x\":[]}");
}
