//! Leases of instances.

use mcp_router::store::{InstanceInfo, LeaseAcquired, LeaseRenewed};

use super::*;

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(150);

pub fn instance(name: &str, process: &str) -> InstanceInfo {
    InstanceInfo {
        owner: Owner { incarnation: incarnation(process), ..owner(name) },
        address: "127.0.0.1:8051".to_owned(),
        version: "0.1.0".to_owned(),
        started_ms: 1_790_000_000_123,
        sessions: 3,
        process: format!("the process {process}"),
    }
}

/// OWN-11
pub async fn an_instance_id_belongs_to_one_living_process(backend: Backend) {
    let store = backend.store();
    let (first, second) = (instance("a", "first"), instance("a", "second"));
    assert_eq!(store.lease_acquire(&first, LONG).await.unwrap(), LeaseAcquired::Acquired);
    assert_eq!(store.lease_acquire(&second, LONG).await.unwrap(), LeaseAcquired::HeldBy(first.clone()));
    assert_eq!(store.lease_renew(&second, LONG).await.unwrap(), LeaseRenewed::Lost);
    assert_eq!(store.lease_acquire(&first, LONG).await.unwrap(), LeaseAcquired::Acquired, "a repeated call");
    let grown = InstanceInfo { sessions: 4, ..first };
    assert_eq!(store.lease_renew(&grown, LONG).await.unwrap(), LeaseRenewed::Renewed);
    assert_eq!(store.instances().await.unwrap(), [grown]);
}

pub async fn a_lease_runs_out_and_can_be_had_again(backend: Backend) {
    let store = backend.store();
    let (first, second) = (instance("a", "first"), instance("a", "second"));
    store.lease_acquire(&first, SHORT).await.unwrap();
    eventually("the lease runs out", || async { store.instances().await.unwrap().is_empty().then_some(()) }).await;
    assert_eq!(store.lease_renew(&first, SHORT).await.unwrap(), LeaseRenewed::Reacquired);
    eventually("the renewed lease runs out", || async { store.instances().await.unwrap().is_empty().then_some(()) })
        .await;
    assert_eq!(store.lease_acquire(&second, LONG).await.unwrap(), LeaseAcquired::Acquired);
    assert_eq!(store.lease_renew(&first, LONG).await.unwrap(), LeaseRenewed::Lost);
}

pub async fn instances_are_those_with_a_living_lease(backend: Backend) {
    let store = backend.store();
    let (dead, living) = (instance("dead", "dead"), instance("living", "living"));
    store.lease_acquire(&living, LONG).await.unwrap();
    store.lease_acquire(&dead, SHORT).await.unwrap();
    eventually("the dead are gone", || async {
        (store.instances().await.unwrap() == [instance("living", "living")]).then_some(())
    })
    .await;
    assert_eq!(store.known_instances().await.unwrap(), ["router-dead", "router-living"]);
}

pub async fn each_living_lease_says_how_long_it_holds(backend: Backend) {
    let store = backend.store();
    assert!(store.leases_left().await.unwrap().is_empty());
    for (name, ttl) in [("a", 60), ("b", 30)] {
        store.lease_acquire(&instance(name, name), Duration::from_secs(ttl)).await.unwrap();
    }
    let mut left = store.leases_left().await.unwrap();
    left.sort();
    assert_eq!(left.len(), 2);
    for (left, ttl) in left.iter().zip([30, 60]) {
        assert!(*left <= Duration::from_secs(ttl) && *left > Duration::from_secs(ttl - 25), "{left:?}");
    }
    store.lease_release(&owner("a")).await.unwrap();
    assert_eq!(store.leases_left().await.unwrap().len(), 1);
}

pub async fn only_dead_instances_are_forgotten(backend: Backend) {
    let store = backend.store();
    let a = instance("a", "a");
    let fence = session_of(store, "a").await;
    store.lease_acquire(&a, LONG).await.unwrap();
    store.forget_instance("router-a").await.unwrap();
    assert_eq!(store.known_instances().await.unwrap(), ["router-a"]);
    assert_eq!(store.owned_by("router-a").await.unwrap(), [fence.session]);
    store.lease_release(&a.owner).await.unwrap();
    assert_eq!(store.known_instances().await.unwrap(), ["router-a"], "dead, but known");
    store.purge(fence.session, None).await.unwrap();
    store.forget_instance("router-a").await.unwrap();
    assert!(store.known_instances().await.unwrap().is_empty());
    assert!(store.owned_by("router-a").await.unwrap().is_empty());
}

/// OWN-9: who asks need not have been there long to know that the last holder of a lease is gone.
pub async fn who_has_given_a_lease_up_is_remembered_until_the_next_does(backend: Backend) {
    let store = backend.store();
    let (first, second) = (instance("a", "first"), instance("a", "second"));
    let gave_up = |process: &InstanceInfo| {
        let owner = process.owner.clone();
        async move { store.has_given_up(&owner).await.unwrap() }
    };
    store.lease_acquire(&first, LONG).await.unwrap();
    assert!(!gave_up(&first).await);
    store.lease_release(&second.owner).await.unwrap();
    assert!(!gave_up(&second).await, "it was not its");
    store.lease_release(&first.owner).await.unwrap();
    assert!(gave_up(&first).await);
    store.lease_acquire(&second, SHORT).await.unwrap();
    assert!(gave_up(&first).await && !gave_up(&second).await);
    eventually("the lease runs out", || async { store.instances().await.unwrap().is_empty().then_some(()) }).await;
    assert!(!gave_up(&second).await, "it may be alive, and the store have been away");
    store.lease_acquire(&second, LONG).await.unwrap();
    store.lease_release(&second.owner).await.unwrap();
    assert!(gave_up(&second).await && !gave_up(&first).await);
    store.forget_instance("router-a").await.unwrap();
    assert!(!gave_up(&second).await);
}

pub async fn a_lease_is_given_up_only_by_its_holder(backend: Backend) {
    let store = backend.store();
    let (first, second) = (instance("a", "first"), instance("a", "second"));
    let holder = || async { store.lease_holder(&first.owner.instance_id).await.unwrap() };
    assert_eq!(holder().await, None);
    store.lease_acquire(&first, LONG).await.unwrap();
    store.lease_release(&second.owner).await.unwrap();
    assert_eq!(store.instances().await.unwrap(), std::slice::from_ref(&first));
    assert_eq!(holder().await.as_ref(), Some(&first));
    store.lease_release(&first.owner).await.unwrap();
    assert!(store.instances().await.unwrap().is_empty());
    assert_eq!(holder().await, None);
    assert_eq!(store.lease_acquire(&second, LONG).await.unwrap(), LeaseAcquired::Acquired);
}
