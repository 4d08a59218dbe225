//! The list of services and servers, which may change while the process runs: its file is read again, and servers that it has no
//! more are let go.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    cluster::Cluster,
    reread,
    session::messages::Tick,
    settings::{UpstreamService, UpstreamUrl, UpstreamsFile},
};

/// How often servers that leave are looked at, and so how long at least one stays that nobody uses: who has just chosen it may not
/// be there yet.
const LOOK: Duration = Duration::from_secs(1);

/// The endpoints of each service.
pub(super) fn listed(services: &[UpstreamService]) -> BTreeMap<String, Vec<UpstreamUrl>> {
    services.iter().map(|service| (service.name.clone(), service.endpoints.clone())).collect()
}

/// Looks after the list for as long as the process runs.
pub(super) fn keep(cluster: &Arc<Cluster>) {
    let settings = &cluster.env.settings;
    let leaving = Arc::clone(cluster);
    actix_rt::spawn(async move { let_go(&leaving).await });
    let metrics = cluster.env.metrics.upstreams.clone();
    metrics.file_is_valid.set(1);
    let Some(file) = settings.upstream.file.clone() else { return };
    let (cluster, within) = (Arc::clone(cluster), settings.auth.reload);
    actix_rt::spawn(async move {
        let path = file.path().to_owned();
        let (pool, ca_file) = (Arc::clone(&cluster.pool), cluster.env.settings.upstream.ca_file.clone());
        let counted = metrics.clone();
        let read = move || {
            let read = file.read_again();
            counted.file_is_valid.set(i64::from(read.is_ok()));
            let read = read.inspect_err(|_| counted.reloads.with_label_values(&["refused"]).inc())?;
            if read.services().iter().flat_map(|service| &service.endpoints).any(UpstreamUrl::is_secure) {
                // Here, where it holds up nobody.
                pool.trust(ca_file.as_ref());
            }
            Ok(read)
        };
        let take = move |file: UpstreamsFile| {
            let changed = cluster.pool.replace(&listed(file.services()));
            if changed.is_other {
                metrics.reloads.with_label_values(&["taken"]).inc();
                tracing::info!(
                    added = changed.added,
                    leaving = changed.leaving,
                    kept = changed.kept,
                    generation = cluster.pool.generation(),
                    services = cluster.pool.names(),
                    "the list of upstreams has changed"
                );
            }
            changed.is_other
        };
        reread::keep(|| vec![path.clone()], within, read, take).await;
    });
}

/// Lets go of servers that the list has no more when their time is over, or nobody uses them.
async fn let_go(cluster: &Cluster) {
    let grace = cluster.env.settings.upstream.leave;
    let mut changes = cluster.pool.subscribe();
    loop {
        let is_leaving = cluster.pool.services().values().any(|service| !service.leaving().is_empty());
        if !is_leaving {
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        }
        tokio::time::sleep(LOOK.min(grace)).await;
        if cluster.pool.end_leaving(grace, LOOK) > 0 {
            // Those that were there look for another at once, and not only when they look around anyway.
            for (_, session) in cluster.env.directory.sessions() {
                // A full mailbox is read soon, and the next look comes.
                let _ = session.try_send(Tick);
            }
        }
    }
}
