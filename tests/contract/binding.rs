//! A session answers to nobody but its principal. SEC-1

use super::*;

fn asked(session: SessionId, id: &str, by: &Binding) -> Accept {
    Accept { by: by.clone(), ..request(session, id) }
}

async fn may_attach(store: &dyn SessionStore, session: SessionId, by: &Binding) -> bool {
    let attachment = Attachment { stream: STREAM.to_owned(), incarnation: incarnation("b"), id: fastrand::u64(..) };
    let attached = store.attach(Attach { session, attachment, by: Some(by.clone()) }).await.unwrap();
    attached != Attached::NotFound
}

/// Everything that a client can ask for, by whoever owns the session, or by another instance.
async fn is_nobody(store: &dyn SessionStore, session: SessionId, fence: Option<&Fence>, by: &Binding) {
    let before = store.load(session).await.unwrap().unwrap();
    let post = asked(session, "\"stranger\"", by);
    assert_eq!(store.accept(post.clone()).await.unwrap(), Accepted::Stranger, "{by:?}");
    let of_another = Accept { service: Some("another".to_owned()), ..post.clone() };
    assert_eq!(store.accept(of_another).await.unwrap(), Accepted::Stranger, "nor is there a service to be learnt");
    if let Some(fence) = fence {
        assert_eq!(store.accept(direct(fence, post)).await.unwrap(), Accepted::Stranger, "{by:?}");
    }
    assert!(!may_attach(store, session, by).await, "{by:?}");
    assert!(!store.purge(session, Some(by)).await.unwrap(), "{by:?}");
    assert_eq!(store.load(session).await.unwrap().unwrap(), before, "nothing has changed");
}

fn strangers() -> [Binding; 4] {
    [
        Binding::new("somebody else", ["read", "call"]),
        Binding::new("principal", ["read"]),
        Binding::new("principal", ["readcall", "call "]),
        Binding::default(),
    ]
}

pub async fn to_others_a_session_does_not_exist(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let session = fence.session;
    for by in strangers() {
        is_nobody(store, session, Some(&fence), &by).await;
    }
    assert_eq!(queue(store, asked(session, "1", &principal())).await, 1);
    assert!(may_attach(store, session, &principal()).await);

    let adopted = adopt(store, &fence, "b").await.fence;
    for by in strangers() {
        is_nobody(store, session, Some(&adopted), &by).await;
    }
    assert!(store.renew(session, 9).await.unwrap());
    for by in strangers() {
        is_nobody(store, session, None, &by).await;
    }
    assert!(store.purge(session, Some(&principal())).await.unwrap());
    assert!(!store.purge(session, Some(&principal())).await.unwrap());
}

/// What a stronger credential has asked for is not for a weaker one of the same principal.
pub async fn a_session_asks_for_no_less_than_it_was_used_with(backend: Backend) {
    let store = backend.store();
    let fence = session_of(store, "a").await;
    let session = fence.session;
    let stronger = Binding::new("principal", ["write", "read", "call"]);
    // To look is not to use.
    assert!(may_attach(store, session, &stronger).await && may_attach(store, session, &principal()).await);
    assert_eq!(queue(store, asked(session, "1", &stronger)).await, 1);
    is_nobody(store, session, Some(&fence), &principal()).await;
    assert_eq!(head(store, session).await.binding, stronger);
    assert_eq!(queue(store, asked(session, "2", &stronger)).await, 2);
    let adopted = adopt(store, &fence, "b").await;
    assert_eq!(adopted.head.binding, stronger);
}

/// Of a time when nobody was asked.
pub async fn a_session_of_nobody_is_no_principals(backend: Backend) {
    let store = backend.store();
    let new = NewSession { binding: Binding::default(), ..new_session("a") };
    let fence = fence_of(&new);
    store.create(new).await.unwrap();
    is_nobody(store, fence.session, Some(&fence), &principal()).await;
    assert_eq!(queue(store, asked(fence.session, "1", &Binding::default())).await, 1);
}
