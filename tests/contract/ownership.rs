//! Who may write.

use std::sync::{Arc, Barrier};

use mcp_router::store::{Accepted, Appended, Attachment, Claim, Claimed, Fenceable, Ownership, Wake};

use super::{instance::instance, *};

/// OWN-5
pub async fn adoption_raises_the_generation_and_hands_everything_over(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    store.update(&fence, &[set("level", "debug")]).await.unwrap();
    forward(store, &fence, request(fence.session, "1")).await;
    forward(store, &fence, notification(fence.session, "n")).await;
    queue(store, request(fence.session, "2")).await;
    append(store, append_of(&fence, 1, vec![event("e"), event("e")])).await;
    attach(store, fence.session, "c", 8).await;

    let adopted = adopt(store, &fence, "b").await;
    assert_eq!(adopted.fence, Fence { generation: 2, incarnation: incarnation("b"), ..fence.clone() });
    assert_eq!(on_record(&adopted.head, "level"), Some("debug"));
    let ownership = Ownership { owner: owner("b"), generation: 2, epoch: fence.epoch };
    assert_eq!(adopted.head.ownership, Some(ownership));
    assert_eq!(adopted.inbox.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [2, 3]);
    let pending: Vec<_> = adopted.pending.iter().map(|r| (r.seq, &*r.id_key, r.forwarded, r.body.clone())).collect();
    assert_eq!(pending, [(1, "1", true, Bytes::from("request 1")), (3, "2", false, Bytes::from("request 2"))]);
    let last: Vec<_> = adopted.head.streams.iter().map(|(name, stream)| (&**name, stream.last_seq)).collect();
    assert_eq!(last, [(STREAM, 2)]);
    let attachment = Attachment { stream: STREAM.to_owned(), incarnation: incarnation("c"), id: 8 };
    assert_eq!(adopted.head.attachments().collect::<Vec<_>>(), [attachment]);
    assert_eq!(claim(store, &adopted.fence, 0, 10).await, (vec![], false), "the whole inbox is claimed");
}

pub async fn adoption_from_the_wrong_owner_is_lost(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let elsewhere = Owner { instance_id: owner("x").instance_id, ..owner("a") };
    for (from, generation) in [(owner("a"), 2), (owner("x"), 1), (nobody(), 1), (elsewhere, 1)] {
        let lost = store.adopt(fence.session, &from, generation, &owner("b")).await.unwrap();
        assert_eq!(lost, Adopted::Lost { owner: owner("a"), generation: 1 });
    }
    let adopted = adopt(store, &fence, "b").await;
    let lost = store.adopt(fence.session, &owner("a"), 1, &owner("c")).await.unwrap();
    assert_eq!(lost, Adopted::Lost { owner: owner("b"), generation: 2 });
    assert_eq!(append(store, append_of(&adopted.fence, 1, vec![event("e")])).await, [Some(1)]);
}

/// OWN-4: the store itself lets nobody replace an owner whose lease lives, whatever the adopter believes.
pub async fn an_owner_whose_lease_lives_is_not_replaced(backend: Backend) {
    const LONG: Duration = Duration::from_secs(600);
    let store = backend.store();
    let fence = session_of(store, "a").await;
    queue(store, request(fence.session, "1")).await;
    let living = instance("a", "a");
    store.lease_acquire(&living, LONG).await.unwrap();
    let before = store.load(fence.session).await.unwrap();
    for adopter in ["b", "c"] {
        let refused = store.adopt(fence.session, &owner("a"), 1, &owner(adopter)).await.unwrap();
        assert_eq!(refused, Adopted::OwnerLives);
        assert!(store.owned_by(&owner(adopter).instance_id).await.unwrap().is_empty());
    }
    assert_eq!(store.load(fence.session).await.unwrap(), before, "nothing was written");
    append(store, append_of(&fence, 1, vec![event("e")])).await;

    // The lease of another process under the same instance id is none of its.
    store.lease_release(&living.owner).await.unwrap();
    store.lease_acquire(&instance("a", "successor"), LONG).await.unwrap();
    let adopted = adopt(store, &fence, "b").await;
    assert_eq!((adopted.fence.generation, adopted.inbox.len()), (2, 1));
}

/// OWN-4
pub async fn a_lease_that_has_run_out_protects_nobody(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    store.lease_acquire(&instance("a", "a"), Duration::from_millis(100)).await.unwrap();
    eventually("the lease runs out", || async {
        let adopted = store.adopt(fence.session, &owner("a"), 1, &owner("b")).await.unwrap();
        matches!(adopted, Adopted::Adopted(_)).then_some(())
    })
    .await;
}

/// OWN-4: whoever lets a session go need not end.
pub async fn a_released_session_is_adopted_although_its_former_owner_lives(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    store.lease_acquire(&instance("a", "a"), Duration::from_secs(600)).await.unwrap();
    store.release(&fence).await.unwrap();
    let adopted = store.adopt(fence.session, &nobody(), 1, &owner("b")).await.unwrap();
    assert!(matches!(adopted, Adopted::Adopted(_)), "{adopted:?}");
}

/// REQ-2, OWN-9: the answer to an adoption was lost: the owner on record adopts from itself, and gets everything again.
pub async fn an_owner_adopts_from_itself_whatever_its_lease(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    queue(store, request(fence.session, "1")).await;
    queue(store, notification(fence.session, "n")).await;
    store.lease_acquire(&instance("b", "b"), Duration::from_secs(600)).await.unwrap();
    let unknown = adopt(store, &fence, "b").await;
    let adopted = adopt(store, &unknown.fence, "b").await;
    assert_eq!(adopted.fence, Fence { generation: 3, ..unknown.fence.clone() });
    assert_eq!(adopted.inbox, unknown.inbox);
    assert_eq!(adopted.pending, unknown.pending);
    assert_eq!(store.update(&unknown.fence, &[set("x", "1")]).await.unwrap(), Fenceable::Fenced);
    assert_eq!(store.owned_by(&owner("b").instance_id).await.unwrap(), [fence.session]);
}

/// OWN-4
pub async fn of_sixteen_adopters_exactly_one_wins(backend: Backend) {
    const ADOPTERS: usize = 16;
    const ROUNDS: u64 = 200;
    let fence = session_of(backend.store(), "a").await;
    let session = fence.session;
    let start = Arc::new(Barrier::new(ADOPTERS));
    let mut adopters = Vec::new();
    for i in 0..ADOPTERS {
        let (store, start, mut from) = (backend.another().await, start.clone(), owner("a"));
        adopters.push(on_thread(move || async move {
            let mut won = Vec::new();
            for round in 1..=ROUNDS {
                start.wait();
                let new_owner = owner(&format!("{round}-{i}"));
                from = match store.adopt(session, &from, round, &new_owner).await.unwrap() {
                    Adopted::Adopted(rehydration) => {
                        assert_eq!(rehydration.fence.generation, round + 1);
                        won.push(round);
                        new_owner
                    }
                    Adopted::Lost { owner, generation } => {
                        assert_eq!(generation, round + 1, "who lost is told who won");
                        owner
                    }
                    other => panic!("{other:?}"),
                };
            }
            won
        }));
    }
    let mut won: Vec<u64> = adopters.into_iter().flat_map(|adopter| adopter.join().unwrap()).collect();
    won.sort_unstable();
    assert_eq!(won, (1..=ROUNDS).collect::<Vec<_>>());
}

/// OWN-1: each write of an owner, with each part of the fence wrong.
pub async fn every_write_of_a_former_owner_is_refused(backend: Backend) {
    let store = backend.store();
    let former = session_of(store, "a").await;
    queue(store, request(former.session, "1")).await;
    queue(store, notification(former.session, "n")).await;
    let current = adopt(store, &former, "b").await.fence;
    let before = store.load(former.session).await.unwrap();
    let stale = [
        former.clone(),
        Fence { generation: former.generation, ..current.clone() },
        Fence { epoch: current.epoch.wrapping_add(1), ..current.clone() },
        Fence { incarnation: former.incarnation.clone(), ..current.clone() },
        Fence { incarnation: "".into(), ..current.clone() },
    ];
    for fence in stale {
        let accept = Accept { acked: 2, ..direct(&fence, request(fence.session, "2")) };
        assert_eq!(store.accept(accept).await.unwrap(), Accepted::Fenced);
        let claim = Claim::new(fence.clone(), 2, 10);
        assert_eq!(store.claim(claim).await.unwrap(), Claimed::Fenced);
        assert_eq!(store.mark_forwarded(&fence, &["1".to_owned()]).await.unwrap(), Fenceable::Fenced);
        let append = Append { acked: 2, ..append_of(&fence, 1, vec![answer("1"), event("e")]) };
        assert_eq!(store.append(append).await.unwrap(), Appended::Fenced);
        assert_eq!(store.update(&fence, &[set("x", "1")]).await.unwrap(), Fenceable::Fenced);
        assert_eq!(store.release(&fence).await.unwrap(), Fenceable::Fenced);
    }
    assert_eq!(store.load(former.session).await.unwrap(), before, "nothing was written");
    let pending = store.pending(former.session).await.unwrap();
    assert_eq!(pending.iter().map(|r| (&*r.id_key, r.forwarded)).collect::<Vec<_>>(), [("1", false)]);
    assert!(log(store, former.session, STREAM).await.is_empty());
    assert_eq!(adopt(store, &current, "c").await.inbox.len(), 2, "nothing was acked");
}

pub async fn a_released_session_is_adopted_from_nobody(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    queue(store, request(fence.session, "1")).await;
    assert_eq!(store.release(&fence).await.unwrap(), Fenceable::Done);
    let nobody = nobody();
    let queued = store.accept(request(fence.session, "2")).await.unwrap();
    assert_eq!(queued, Accepted::Queued { seq: 2, owner: nobody.clone(), generation: 1, listeners: 0, shown: None });
    let joined = attach(store, fence.session, "b", 9).await;
    assert_eq!((joined.owner, joined.generation, joined.listeners), (nobody.clone(), 1, 0));
    let lost = store.adopt(fence.session, &owner("a"), 1, &owner("b")).await.unwrap();
    assert_eq!(lost, Adopted::Lost { owner: nobody.clone(), generation: 1 });
    let adopted = store.adopt(fence.session, &nobody, 1, &owner("b")).await.unwrap();
    let Adopted::Adopted(adopted) = adopted else { panic!("{adopted:?}") };
    assert_eq!(adopted.fence.generation, 2);
    assert_eq!(adopted.inbox.len(), 2);
}

/// OWN-1
pub async fn nobody_can_show_the_fence_of_a_released_session(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    store.release(&fence).await.unwrap();
    for fence in [fence.clone(), Fence { incarnation: "".into(), ..fence }] {
        assert_eq!(store.update(&fence, &[set("x", "1")]).await.unwrap(), Fenceable::Fenced);
        let accept = direct(&fence, request(fence.session, "1"));
        assert_eq!(store.accept(accept).await.unwrap(), Accepted::Fenced);
    }
}

/// OWN-9
pub async fn release_wakes_other_holders(backend: Backend) {
    let store = backend.store();
    let mut own = store.subscribe(&incarnation("a"), 8).await.unwrap();
    let fence = session_of(store, "a").await;
    attach(store, fence.session, "b", 9).await;
    assert_eq!(next(&mut own).await, Wake::Session(fence.session));
    let mut other = store.subscribe(&incarnation("b"), 8).await.unwrap();
    store.release(&fence).await.unwrap();
    assert_eq!(next(&mut other).await, Wake::Session(fence.session));
    assert_not_woken(store, "a", &mut own).await;
}

pub async fn updates_set_and_delete_fields(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    assert_eq!(store.update(&fence, &[set("x", "1"), set("y", "2")]).await.unwrap(), Fenceable::Done);
    assert_eq!(store.update(&fence, &[unset("x")]).await.unwrap(), Fenceable::Done);
    assert_eq!(store.update(&fence, &[]).await.unwrap(), Fenceable::Done);
    let head = head(store, fence.session).await;
    assert_eq!((on_record(&head, "x"), on_record(&head, "y")), (None, Some("2")));
}

pub async fn a_missing_session_is_not_found_by_any_operation(backend: Backend) {
    let store = backend.store();
    let fence = fence_of(&new_session("a"));
    let session = fence.session;
    assert_eq!(store.accept(request(session, "1")).await.unwrap(), Accepted::NotFound);
    assert_eq!(store.accept(direct(&fence, request(session, "1"))).await.unwrap(), Accepted::NotFound);
    let claim = Claim::new(fence.clone(), 1, 1);
    assert_eq!(store.claim(claim).await.unwrap(), Claimed::NotFound);
    assert_eq!(store.mark_forwarded(&fence, &["1".to_owned()]).await.unwrap(), Fenceable::NotFound);
    assert_eq!(store.append(append_of(&fence, 1, vec![event("e")])).await.unwrap(), Appended::NotFound);
    assert_eq!(store.update(&fence, &[set("x", "1")]).await.unwrap(), Fenceable::NotFound);
    assert_eq!(store.release(&fence).await.unwrap(), Fenceable::NotFound);
    let attachment = Attachment { stream: STREAM.to_owned(), incarnation: incarnation("a"), id: 1 };
    assert_eq!(store.attach(Attach { session, attachment, by: None }).await.unwrap(), Attached::NotFound);
    assert!(!store.detach(session, STREAM, 1).await.unwrap());
    assert_eq!(store.adopt(session, &nobody(), 1, &owner("a")).await.unwrap(), Adopted::NotFound);
    assert_eq!(store.touch(&[session], Duration::from_secs(60)).await.unwrap(), [session]);
    assert!(!store.purge(session, None).await.unwrap());
    assert_eq!(store.load(session).await.unwrap(), None);
    assert!(store.pending(session).await.unwrap().is_empty());
    assert!(store.owned_by("router-a").await.unwrap().is_empty());
    assert!(store.list(10).await.unwrap().is_empty());
    store.ping().await.unwrap();
}
