//! Sessions that nobody shows any more and that may be the returning client's own, whichever instance had their streams
//! last and whether that one still lives.
//!
//! The store lists, by the client's key, the sessions whose streams are shown, by which process, and those whose streams
//! have ended. Streams are listed once their session is initialised, and again by each round of upkeep, so that a lost
//! note costs a minute. What is listed is a hint: the session's head decides, and what it contradicts is taken out.
//!
//! That a process does not hear is a suspicion here, too, and only the judge ([`super::ownership`]) finds it gone: what is
//! written down is written by its word. A session whose process is silent, and not gone, may be the client's all the same
//! (it was killed on another machine a moment ago); the client is asked, and its answer proves more than any lease.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future;

use crate::{
    cluster::{Cluster, ownership::is_holder_gone},
    protocol::session_id::SessionId,
    session::{
        messages::IsGone,
        returning::{Client, Fit, Orphan, fits},
        shown::{self, Stream},
    },
    store::{Initialized, Listed, SessionHead, StoreError, StoreResult},
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
    let mut streams = Streams::default();
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
            let stream = streams.look(cluster, *session, &head).await?;
            if stream == Stream::Shown {
                untrue.push(*session);
                continue;
            }
            let spoke_version = head.continuation.initialized == Some(Initialized::WithVersion);
            found |= fits(client, Orphan { client: &head.client, spoke_version, left: *left }, window);
            if left.is_none() && stream == Stream::Left {
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

/// What was found out about streams: each process that does not hear is judged once.
#[derive(Default)]
struct Streams {
    unheard: BTreeMap<Arc<str>, Stream>,
}

impl Streams {
    async fn look(&mut self, cluster: &Cluster, session: SessionId, head: &SessionHead) -> StoreResult<Stream> {
        let holder = shown::holder(head);
        if let Some(known) = holder.and_then(|holder| self.unheard.get(holder)) {
            return Ok(*known);
        }
        let stream = shown::look(&cluster.env, session, head).await?;
        if let Some(holder) = holder.filter(|holder| **holder != cluster.env.me.incarnation && stream != Stream::Shown)
        {
            self.unheard.insert(Arc::clone(holder), stream);
        }
        Ok(stream)
    }
}

/// What dead processes showed is left from now on, and leaves the list when its time is over.
async fn age_dead(cluster: &Cluster, key: &str, listed: Listed) -> StoreResult<()> {
    let mut dead = Vec::new();
    for holder in unheard(cluster, &listed).await? {
        if is_holder_gone(cluster, &IsGone { holder: Arc::clone(&holder), owner: None }).await? {
            dead.push(holder);
        }
    }
    let ttl = cluster.env.settings.session.ttl;
    let left = listed.shown.iter().filter(|(incarnation, _)| dead.contains(incarnation));
    future::try_join_all(left.map(|(_, session)| cluster.env.store.client_left(key, *session, None, ttl))).await?;
    Ok(())
}

/// Some instance gives no sign of life, although its lease still holds: an answer may be stuck in it.
pub async fn somebody_hangs(cluster: &Cluster) -> StoreResult<bool> {
    let session = &cluster.env.settings.session;
    let overdue = session.lease.saturating_sub(session.lease_renew * 3 / 2);
    Ok(cluster.env.store.leases_left().await?.iter().any(|left| *left < overdue))
}

/// Of what is listed: what somebody has left, and what processes showed that do not hear.
async fn orphans_of(cluster: &Cluster, listed: Listed) -> StoreResult<Vec<(SessionId, Option<Duration>)>> {
    let unheard = unheard(cluster, &listed).await?;
    let orphaned = listed.shown.into_iter().filter(|(incarnation, _)| unheard.contains(incarnation));
    let left = listed.left.into_iter().map(|(session, age)| (session, Some(age)));
    Ok(orphaned.map(|(_, session)| (session, None)).chain(left).collect())
}

/// Other processes that show what is listed, and do not hear.
async fn unheard(cluster: &Cluster, listed: &Listed) -> StoreResult<Vec<Arc<str>>> {
    let mut first = BTreeMap::new();
    for (incarnation, session) in &listed.shown {
        if *incarnation != cluster.env.me.incarnation {
            first.entry(Arc::clone(incarnation)).or_insert(*session);
        }
    }
    let asked = first.into_iter().map(|(incarnation, session)| async move {
        let hears = cluster.env.store.wake(&incarnation, session).await? > 0;
        Ok::<_, StoreError>((!hears).then_some(incarnation))
    });
    Ok(future::try_join_all(asked).await?.into_iter().flatten().collect())
}
