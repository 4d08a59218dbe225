//! Sessions that nobody shows any more and that may be the returning client's own, whichever instance had their streams
//! last and whether that one still lives.
//!
//! The store lists, by the client's key, the sessions whose streams are shown, by which process, and those whose streams
//! have ended. Streams are listed once their session is initialised, and again by each round of upkeep, so that a lost
//! note costs a minute. What is listed is a hint: the session's head decides, and what it contradicts is taken out.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future;

use crate::{
    cluster::Cluster,
    protocol::session_id::SessionId,
    session::{
        returning::{Client, Fit, Orphan, fits},
        shown::is_shown,
    },
    store::{Initialized, Listed, StoreResult},
};

/// Rounds of looking at what is listed, each of which takes out what is not true any more. Who meets more of that is
/// asked in case.
const ROUNDS: usize = 4;

/// Whether there is a session that may be this client's. One or two round trips to the store when there is none.
pub async fn find(cluster: &Arc<Cluster>, client: &Client) -> StoreResult<Fit> {
    if !client.may_be_asked() {
        return Ok(Fit::No);
    }
    if client.versioned {
        let key = client.key_without_version();
        let listed = cluster.env.store.client_sessions(&key, cluster.env.settings.session.ttl).await?;
        if !listed.shown.is_empty() || !listed.left.is_empty() {
            // Also those that are shown: the client may know earlier than we that its stream is broken.
            age_dead(cluster, &key, listed).await?;
            return Ok(Fit::Likely);
        }
        // The lists are lost with the data; the session may be one that its owner is about to write again.
        if cluster.env.data_lost().await {
            return Ok(Fit::Likely);
        }
    }
    let window = cluster.env.settings.stream.rebind_window;
    for _ in 0..ROUNDS {
        let listed = cluster.env.store.client_sessions(client.key(), window).await?;
        let candidates = orphans_of(cluster, listed).await?;
        let heads =
            future::try_join_all(candidates.iter().map(|(session, _)| cluster.env.store.load(*session))).await?;
        let (mut found, mut untrue) = (false, Vec::new());
        for ((session, left), head) in candidates.iter().zip(heads) {
            let Some(head) = head else {
                untrue.push(*session);
                continue;
            };
            if is_shown(&cluster.env, *session, &head).await? {
                untrue.push(*session);
                continue;
            }
            let spoke_version = head.continuation.initialized == Some(Initialized::WithVersion);
            found |= fits(client, Orphan { client: &head.client, spoke_version, left: *left }, window);
            if left.is_none() {
                // From now on it is one that somebody has left, and ages.
                cluster.env.store.client_left(client.key(), *session, None, cluster.env.settings.session.ttl).await?;
            }
        }
        for session in &untrue {
            cluster.env.store.client_forgotten(client.key(), *session).await?;
        }
        if found || untrue.is_empty() {
            return Ok(if found { Fit::Maybe } else { Fit::No });
        }
    }
    Ok(Fit::Maybe)
}

/// What dead processes showed is left from now on, and leaves the list when its time is over.
async fn age_dead(cluster: &Cluster, key: &str, listed: Listed) -> StoreResult<()> {
    let shown = Listed { left: Vec::new(), ..listed };
    let dead = orphans_of(cluster, shown).await?;
    let ttl = cluster.env.settings.session.ttl;
    future::try_join_all(dead.iter().map(|(session, _)| cluster.env.store.client_left(key, *session, None, ttl)))
        .await?;
    Ok(())
}

/// Some instance gives no sign of life, although its lease still holds: an answer may be stuck in it.
pub async fn somebody_hangs(cluster: &Cluster) -> StoreResult<bool> {
    let session = &cluster.env.settings.session;
    let overdue = session.lease.saturating_sub(session.lease_renew * 3 / 2);
    Ok(cluster.env.store.leases_left().await?.iter().any(|left| *left < overdue))
}

/// Of what is listed: what somebody has left, and what dead processes showed.
async fn orphans_of(cluster: &Cluster, listed: Listed) -> StoreResult<Vec<(SessionId, Option<Duration>)>> {
    let mut first = BTreeMap::new();
    for (incarnation, session) in &listed.shown {
        if *incarnation != cluster.env.me.incarnation {
            first.entry(Arc::clone(incarnation)).or_insert(*session);
        }
    }
    let asked = first.iter().map(|(incarnation, session)| async move {
        Ok::<_, crate::store::StoreError>((
            Arc::clone(incarnation),
            cluster.env.store.wake(incarnation, *session).await? == 0,
        ))
    });
    let dead: Vec<Arc<str>> = future::try_join_all(asked)
        .await?
        .into_iter()
        .filter_map(|(incarnation, is_dead)| is_dead.then_some(incarnation))
        .collect();
    let orphaned = listed.shown.into_iter().filter(|(incarnation, _)| dead.contains(incarnation));
    let left = listed.left.into_iter().map(|(session, age)| (session, Some(age)));
    Ok(orphaned.map(|(_, session)| (session, None)).chain(left).collect())
}
