use std::sync::atomic::Ordering;

use super::*;
use crate::upstream::breaker::BreakerState;

fn urls(ports: &[u16]) -> Vec<UpstreamUrl> {
    ports.iter().map(|port| format!("http://h:{port}/sse").parse().unwrap()).collect()
}

fn list(services: &[(&str, &[u16])]) -> BTreeMap<String, Vec<UpstreamUrl>> {
    services.iter().map(|(name, ports)| ((*name).to_owned(), urls(ports))).collect()
}

fn pool(services: &[(&str, &[u16])]) -> Pool {
    let hour = Duration::from_secs(3600);
    Pool::new(list(services), &Metrics::new(), (Transport::Auto, EraSetting::Auto), 1, hour, hour)
}

fn ports(service: &Service) -> Vec<u16> {
    service.endpoints().iter().map(|endpoint| endpoint.url.request_url().port().unwrap()).collect()
}

#[test]
fn a_new_session_goes_to_the_endpoint_with_the_fewest() {
    let service = pool(&[("s", &[1, 2, 3])]).only_service().unwrap();
    let endpoints = service.endpoints();
    endpoints[0].sessions.store(2, Ordering::Relaxed);
    endpoints[1].sessions.store(1, Ordering::Relaxed);
    endpoints[2].sessions.store(3, Ordering::Relaxed);
    assert_eq!(service.pick(None).unwrap().position(), 1);
    assert_eq!(service.pick(Some(1)).unwrap().position(), 0);
    endpoints[0].failed(&"dead");
    assert_eq!(service.pick(Some(1)).unwrap().position(), 2);
}

#[test]
fn a_call_tries_the_least_busy_first_and_those_that_may_be_back_last() {
    let service = pool(&[("s", &[1, 2, 3])]).only_service().unwrap();
    let endpoints = service.endpoints();
    endpoints[0].in_flight.store(2, Ordering::Relaxed);
    endpoints[1].in_flight.store(1, Ordering::Relaxed);
    let tried = || service.candidates().map(|endpoint| endpoint.position()).collect::<Vec<_>>();
    assert_eq!(tried(), [2, 1, 0]);
    endpoints[2].failed(&"dead");
    assert_eq!(tried(), [1, 0], "it has just failed");
    std::thread::sleep(crate::upstream::breaker::LAST_RESORT_PAUSE);
    assert_eq!(tried(), [1, 0, 2]);
    assert_eq!(service.others_that_are_well(Some(&endpoints[1])).len(), 1);
}

#[test]
fn what_stays_in_the_list_is_the_same_and_what_leaves_gets_nothing_new() {
    let pool = pool(&[("s", &[1, 2])]);
    let (service, before) = (pool.only_service().unwrap(), pool.only_service().unwrap().endpoints());
    before[1].failed(&"dead");
    let changed = pool.replace(&list(&[("s", &[3, 2])]));
    assert_eq!(changed, Changed { added: 1, leaving: 1, kept: 1, is_other: true });
    let now = service.endpoints();
    assert!(Arc::ptr_eq(&now[1], &before[1]), "what is known of it stays known");
    assert_eq!((now[1].state(), now[1].position()), (BreakerState::Open, 1));
    assert_eq!(ports(&service), [3, 2]);
    assert_eq!(service.candidates().chain(service.pick(None)).filter(|one| one.number == before[0].number).count(), 0);
    assert!(service.find(|one| one.url == before[0].url).is_some(), "what has begun there finds it");
    assert_ne!(now[0].number, before[0].number);
    // The same list again is none, and one that is back is the same.
    assert!(!pool.replace(&list(&[("s", &[3, 2])])).is_other);
    pool.replace(&list(&[("s", &[1, 2])]));
    assert!(Arc::ptr_eq(&service.endpoints()[0], &before[0]) && before[0].stage() == Stage::Listed);
}

#[test]
fn an_endpoint_that_left_is_let_go_when_nobody_uses_it_or_its_time_is_over() {
    let (hour, pool) = (Duration::from_secs(3600), pool(&[("s", &[1, 2, 3])]));
    let service = pool.only_service().unwrap();
    let before = service.endpoints();
    before[0].sessions.store(1, Ordering::Relaxed);
    pool.replace(&list(&[("s", &[3])]));
    assert_eq!(pool.end_leaving(hour, hour), 0);
    assert_eq!(pool.end_leaving(hour, Duration::ZERO), 1, "the other one is used");
    assert_eq!([&before[0], &before[1], &before[2]].map(|one| one.is_gone()), [false, true, false]);
    assert_eq!(pool.end_leaving(Duration::ZERO, hour), 1);
    assert!(before[0].is_gone() && service.leaving().is_empty());
    pool.replace(&list(&[("s", &[1, 3])]));
    assert!(!Arc::ptr_eq(&service.endpoints()[0], &before[0]), "who is gone does not come back");
}

#[test]
fn a_service_that_left_is_known_for_as_long_as_something_goes_on_there_and_back_it_is_the_same() {
    let pool = pool(&[("s", &[1]), ("t", &[2])]);
    let service = pool.service("s").unwrap();
    service.endpoints()[0].sessions.store(1, Ordering::Relaxed);
    let first = pool.generation();
    pool.replace(&list(&[("t", &[2])]));
    assert!(!service.is_listed() && pool.service("s").is_some() && service.pick(None).is_none());
    assert_eq!((pool.names(), pool.only_service().unwrap().name.as_str()), ("t".to_owned(), "t"));
    pool.end_leaving(Duration::ZERO, Duration::ZERO);
    assert!(pool.service("s").is_none());
    assert_ne!(pool.generation(), first);
    pool.replace(&list(&[("s", &[1]), ("t", &[2])]));
    assert!(Arc::ptr_eq(&pool.service("s").unwrap(), &service), "sessions may still hold it");
    assert_eq!(pool.generation(), first, "the same list, the same digits");
}
