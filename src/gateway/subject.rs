//! What a client shows, for servers to which the router speaks in its name: kept with its session, sealed, so that the
//! session's owner has it, whichever instance that is and will be.

use std::{rc::Rc, sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};

use super::{
    patience::{StoreUnavailable, patiently},
    shared::Gateway,
    subjects::Hash,
};
use crate::{protocol::session_id::SessionId, store::Binding, upstream::credential::Shown};

/// The session is asked with this token, which counts for so long. Does nothing for a service that is not asked in its users'
/// names. `service`: if the client names it.
///
/// # Errors
/// The store does not answer.
pub async fn remember(
    gateway: &Rc<Gateway>,
    session: SessionId,
    service: Option<&str>,
    by: &Binding,
    (token, lasts): (&str, Duration),
) -> Result<(), StoreUnavailable> {
    let (pool, store) = (&gateway.cluster.pool, &gateway.env.store);
    if !pool.services().values().any(|service| service.credentials.are_of_users()) {
        return Ok(());
    }
    let service = match service {
        Some(name) => Some(name.to_owned()),
        None => patiently(gateway, || store.load(session)).await?.map(|head| head.service),
    };
    let Some(service) = service.and_then(|name| pool.service(&name)) else { return Ok(()) };
    let mut hasher = Sha256::new();
    for part in [by.principal(), by.scopes(), token] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let hash: Hash = hasher.finalize().into();
    let known = &gateway.shared.subjects;
    if known.has(&session, &hash) {
        return Ok(());
    }
    // Two tokens of which one allows more have no token of the server in common.
    let key: Arc<str> = format!("{} {}", by.principal(), by.scopes()).into();
    let shown = Shown { key, token: token.to_owned() };
    let Some(sealed) = service.credentials.seal(&session.reveal(), &shown, lasts) else { return Ok(()) };
    if patiently(gateway, || store.keep_subject(session, by, &sealed)).await? {
        known.note(session, hash);
    }
    Ok(())
}
