//! The list of services and servers, which may change while the process runs: its file is read again, servers that are found by
//! names are looked for, and those that it has no more are let go.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    cluster::Cluster,
    discovery::Finder,
    reread,
    session::messages::Tick,
    settings::{SourceUrl, UpstreamService, UpstreamUrl, UpstreamsFile},
};

/// How often servers that leave are looked at, and so how long at least one stays that nobody uses: who has just chosen it may not
/// be there yet.
const LOOK: Duration = Duration::from_secs(1);

/// The list as it is written, and what was found by its names.
struct List {
    cluster: Arc<Cluster>,
    services: RefCell<Vec<UpstreamService>>,
    /// By how it is written.
    found: RefCell<HashMap<String, Looked>>,
}

/// A name that is looked for.
#[derive(Default)]
struct Looked {
    servers: Vec<UpstreamUrl>,
    has_failed: bool,
    task: Option<JoinHandle<()>>,
}

impl Drop for Looked {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Looks after the list for as long as the process runs. Returns when what is found by names was looked for once.
pub(super) async fn keep(cluster: &Arc<Cluster>) {
    let settings = &cluster.env.settings;
    let leaving = Arc::clone(cluster);
    actix_rt::spawn(async move { let_go(&leaving).await });
    let list = Rc::new(List {
        cluster: Arc::clone(cluster),
        services: RefCell::new(settings.upstream.services.clone()),
        found: RefCell::default(),
    });
    list.look().await;
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
            let is_secure = |service: &UpstreamService| {
                service.endpoints.iter().any(UpstreamUrl::is_secure) || !service.sources.is_empty()
            };
            if read.services().iter().any(is_secure) {
                // Here, where it holds up nobody.
                pool.trust(ca_file.as_ref());
            }
            Ok(read)
        };
        let take = move |file: UpstreamsFile| {
            let is_other = *list.services.borrow() != file.services();
            if is_other {
                metrics.reloads.with_label_values(&["taken"]).inc();
                *list.services.borrow_mut() = file.services().to_vec();
                let list = Rc::clone(&list);
                actix_rt::spawn(async move { list.look().await });
            }
            is_other
        };
        reread::keep(|| vec![path.clone()], within, read, take).await;
    });
}

impl List {
    /// Looks for names that are new in the list, once; then and from now on the pool has what there is.
    async fn look(self: &Rc<Self>) {
        let sources: HashMap<String, SourceUrl> = {
            let services = self.services.borrow();
            let all = services.iter().flat_map(|service| &service.sources);
            all.map(|source| (source.key(), source.clone())).collect()
        };
        self.found.borrow_mut().retain(|key, _| sources.contains_key(key));
        let new: Vec<(String, SourceUrl)> =
            sources.into_iter().filter(|(key, _)| !self.found.borrow().contains_key(key)).collect();
        if !new.is_empty() {
            // What is written down need not wait.
            self.apply();
        }
        let first = new.into_iter().map(|(key, source)| {
            self.found.borrow_mut().insert(key.clone(), Looked::default());
            let list = Rc::clone(self);
            async move {
                let settings = &list.cluster.env.settings;
                let tls = || list.cluster.pool.client_tls(settings.upstream.ca_file.as_ref());
                let mut finder = match Finder::new(&source, &settings.discovery, tls) {
                    Ok(finder) => finder,
                    Err(fault) => return list.take(&key, &source, Err(fault)),
                };
                let (found, again) = finder.find().await;
                list.take(&key, &source, found);
                let task = actix_rt::spawn(Rc::clone(&list).follow(key.clone(), source, finder, again));
                match list.found.borrow_mut().get_mut(&key) {
                    Some(looked) => looked.task = Some(task),
                    None => task.abort(),
                }
            }
        });
        join_all(first).await;
        self.apply();
    }

    async fn follow(self: Rc<Self>, key: String, source: SourceUrl, mut finder: Finder, mut again: Instant) {
        loop {
            tokio::time::sleep_until(again).await;
            let (found, next) = finder.find().await;
            again = next;
            self.take(&key, &source, found);
            self.apply();
        }
    }

    /// What was found counts from now on; what was not leaves all as it was.
    fn take(&self, key: &str, source: &SourceUrl, found: Result<Vec<UpstreamUrl>, String>) {
        let metrics = &self.cluster.env.metrics.upstreams;
        let mut all = self.found.borrow_mut();
        let Some(looked) = all.get_mut(key) else { return };
        match found {
            Ok(servers) => {
                metrics.looks.with_label_values(&["found"]).inc();
                if std::mem::take(&mut looked.has_failed) {
                    tracing::info!(%source, servers = servers.len(), "its servers are found again");
                }
                looked.servers = servers;
            }
            Err(fault) => {
                metrics.looks.with_label_values(&["failed"]).inc();
                if !std::mem::replace(&mut looked.has_failed, true) {
                    tracing::warn!(%source, fault, kept = looked.servers.len(), "its servers cannot be found; those that were found last count");
                }
            }
        }
        metrics.failing.set(i64::try_from(all.values().filter(|looked| looked.has_failed).count()).unwrap_or(i64::MAX));
    }

    /// The pool has what is written, and what was found.
    fn apply(&self) {
        let found = self.found.borrow();
        let mut servers = BTreeMap::new();
        for service in &*self.services.borrow() {
            let of_names = service.sources.iter().filter_map(|source| found.get(&source.key()));
            let of_names = of_names.flat_map(|looked| &looked.servers);
            let mut all: Vec<UpstreamUrl> = Vec::new();
            for url in service.endpoints.iter().chain(of_names) {
                if !all.contains(url) {
                    all.push(url.clone());
                }
            }
            servers.insert(service.name.clone(), all);
        }
        let pool = &self.cluster.pool;
        let changed = pool.replace(&servers);
        if changed.is_other {
            tracing::info!(
                added = changed.added,
                leaving = changed.leaving,
                kept = changed.kept,
                generation = pool.generation(),
                services = pool.names(),
                "the list of upstreams has changed"
            );
        }
    }
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
