//! A Redis Cluster: some primaries, each of which has the keys of some slots, and replicas that take their place.
//!
//! Which primary has which slots is read at the start, whenever a node says that it is otherwise (`MOVED`) or is lost, and from
//! time to time; by one task, which makes a pause after each time. Of a few nodes that are asked the one counts whose cluster is
//! up and whose configuration is the latest. A node that knows better is believed at once, for the slot that it names.
//!
//! Never: repeats a command. What an answer means for it is said by [`Topology::fate`]; a `MOVED`, `ASK` or `TRYAGAIN` says
//! for certain that it was not executed.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use async_trait::async_trait;
use deadpool_redis::{Connection, Pool, PoolError};
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult, ServerError,
    aio::{ConnectionLike as _, MultiplexedConnection, PubSub},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use super::{
    config::RedisConfig,
    keys::{SLOTS, slot_of},
    place::{ONLY, Place},
    refusal,
    reply::told,
    scripts::Call,
    slot_words::{Address, Told, questions, redirection, told_by},
    topology::{Fate, Topology, Turn, Ways},
};
use crate::store::types::{StoreError, StoreResult};

/// A node that has not said by then what it knows is done without.
const ANSWER: Duration = Duration::from_millis(500);

/// So long those are waited for that were asked together with the first who answers.
const OTHERS: Duration = Duration::from_millis(50);

/// So many are asked at once: one may be cut off from the rest and not know.
const ASKED: usize = 3;

/// Least time between two readings: a node that is lost is told of by every thread.
const PAUSE: Duration = Duration::from_millis(100);

/// Nodes that may be known in the life of a process; a node that comes back under another address is another one.
const MOST_NODES: usize = 10_000;

/// See module documentation.
pub(super) struct SlotMap {
    shared: Arc<Shared>,
    /// Ends with it.
    _reader: JoinSet<()>,
}

struct Shared {
    /// By whom the others are found.
    seeds: Vec<Address>,
    /// Of a node: all but its address.
    node_info: ConnectionInfo,
    ways: Ways,
    map: RwLock<Map>,
    /// Somebody wants it read again.
    wanted: Notify,
    /// See [`Topology::map`].
    changed: watch::Sender<u64>,
    /// Nothing is given up at once here.
    node: watch::Sender<u64>,
    /// When a primary did not answer last, or there was another one.
    trouble: Mutex<Instant>,
}

#[derive(Default)]
struct Map {
    /// All that were ever seen; a place is the number of one.
    nodes: Vec<Node>,
    /// Which of them has a slot. Empty before the first reading.
    slots: Vec<Place>,
    primaries: Vec<Place>,
}

struct Node {
    address: Address,
    pool: Option<Pool>,
}

impl SlotMap {
    /// To be called within a runtime, in which it reads.
    ///
    /// # Errors
    /// `NotDone` when a URL cannot be read; `Unusable` when the certificates cannot be used.
    pub(super) fn new(config: &RedisConfig) -> StoreResult<Self> {
        let shared = Arc::new(Shared {
            seeds: config.cluster.clone(),
            node_info: Ways::to(&config.url, &config.tls)?,
            ways: Ways::new(config),
            map: RwLock::default(),
            wanted: Notify::new(),
            changed: watch::Sender::new(0),
            node: watch::Sender::new(0),
            trouble: Mutex::new(Instant::now()),
        });
        let mut reader = JoinSet::new();
        reader.spawn(keep_reading(shared.clone(), config.probe, config.pulse));
        Ok(Self { shared, _reader: reader })
    }
}

/// Reads when somebody wants it, and from time to time; and asks more often whether all answer.
async fn keep_reading(shared: Arc<Shared>, pause: Duration, pulse: Duration) {
    let (mut read, mut asked) = (Instant::now(), Instant::now());
    loop {
        let is_wanted = timeout(pulse, shared.wanted.notified()).await.is_ok();
        // Nobody has used it yet.
        if shared.map().slots.is_empty() {
            continue;
        }
        if asked.elapsed() >= pulse {
            shared.feel().await;
            asked = Instant::now();
        }
        if is_wanted || read.elapsed() >= pause {
            if let Err(error) = shared.read().await {
                tracing::debug!(%error, "no node of the Redis Cluster says who has which slots");
            }
            read = Instant::now();
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Map {
    /// Number of the node with this address; a new one if there is none yet.
    fn number(&mut self, address: &Address) -> Option<Place> {
        if let Some(at) = self.nodes.iter().position(|node| node.address == *address) {
            return Place::try_from(at).ok();
        }
        if self.nodes.len() == MOST_NODES {
            tracing::error!("more than {MOST_NODES} nodes of a Redis Cluster were seen; start anew to see others");
            return None;
        }
        self.nodes.push(Node { address: address.clone(), pool: None });
        Place::try_from(self.nodes.len() - 1).ok()
    }

    /// `true`: there are other primaries than before, or they have other slots.
    fn take(&mut self, told: &Told) -> bool {
        // A slot that nobody has is asked of anybody, who says so.
        let mut slots = match told.ranges.first().and_then(|(_, _, address)| self.number(address)) {
            Some(any) => vec![any; usize::from(SLOTS)],
            None => return false,
        };
        let mut primaries = Vec::new();
        for (first, last, address) in &told.ranges {
            let Some(place) = self.number(address) else { continue };
            slots[usize::from(*first)..=usize::from(*last)].fill(place);
            if !primaries.contains(&place) {
                primaries.push(place);
            }
        }
        primaries.sort_unstable();
        let is_new = slots != self.slots || primaries != self.primaries;
        for (at, node) in self.nodes.iter_mut().enumerate() {
            if !primaries.iter().any(|place| usize::from(*place) == at) {
                node.pool = None;
            }
        }
        (self.slots, self.primaries) = (slots, primaries);
        is_new
    }
}

impl Shared {
    fn map(&self) -> RwLockReadGuard<'_, Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_mut(&self) -> RwLockWriteGuard<'_, Map> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn address(&self, place: Place) -> RedisResult<Address> {
        let address = self.map().nodes.get(usize::from(place)).map(|node| node.address.clone());
        address.ok_or_else(|| (ErrorKind::Io, "no node of the Redis Cluster is known").into())
    }

    fn info(&self, (host, port): &Address) -> ConnectionInfo {
        let (host, port) = (host.clone(), *port);
        let address = match self.node_info.addr().clone() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure, tls_params }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        self.node_info.clone().set_addr(address)
    }

    async fn dial(&self, address: &Address) -> RedisResult<MultiplexedConnection> {
        let client = Client::open(self.info(address))?;
        client.get_multiplexed_async_connection_with_config(&self.ways.connection).await
    }

    async fn borrow(&self, place: Place) -> Result<Connection, PoolError> {
        let known = self.map().nodes.get(usize::from(place)).and_then(|node| node.pool.clone());
        let pool = match known {
            Some(pool) => pool,
            None => {
                let unusable =
                    |error: StoreError| PoolError::Backend((ErrorKind::Io, "no pool", error.to_string()).into());
                let pool = self.ways.pool(self.info(&self.address(place)?), None).map_err(unusable)?;
                if let Some(node) = self.map_mut().nodes.get_mut(usize::from(place)) {
                    node.pool = Some(pool.clone());
                }
                pool
            }
        };
        pool.get().await
    }

    /// Who has which slots, by a few of the primaries; by anybody if none of them answers.
    async fn read(&self) -> RedisResult<()> {
        let mut primaries = self.map().primaries.clone();
        fastrand::shuffle(&mut primaries);
        primaries.truncate(ASKED);
        let of_primaries = best(primaries.into_iter().map(|place| self.ask_primary(place)).collect()).await;
        let told = match of_primaries {
            Ok(told) if told.is_up => told,
            others => {
                let mut all = self.seeds.clone();
                all.extend(self.map().nodes.iter().rev().take(2 * ASKED).map(|node| node.address.clone()));
                match (best(all.into_iter().map(|address| self.ask_anybody(address)).collect()).await, others) {
                    (Err(_), Ok(told)) => told,
                    (told, _) => told?,
                }
            }
        };
        let is_first = self.map().slots.is_empty();
        let former = self.map().primaries.clone();
        if self.map_mut().take(&told) {
            if self.map().primaries != former {
                self.is_troubled();
            }
            if !is_first {
                tracing::warn!(epoch = told.epoch, "slots of the Redis Cluster have other primaries");
            }
            self.changed.send_modify(|number| *number += 1);
        }
        Ok(())
    }

    /// Whether all primaries answer.
    async fn feel(&self) {
        let primaries = self.map().primaries.clone();
        let ping = async |place| {
            let asking = async {
                let mut connection = self.borrow(place).await.ok()?;
                connection.req_packed_command(&redis::cmd("PING")).await.ok()
            };
            matches!(timeout(ANSWER, asking).await, Ok(Some(_)))
        };
        if !join_all(primaries.into_iter().map(ping)).await.into_iter().all(|answers| answers) {
            self.is_troubled();
            self.want();
        }
    }

    fn is_troubled(&self) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn ask_primary(&self, place: Place) -> RedisResult<Told> {
        let address = self.address(place)?;
        let asking = async {
            let mut connection = self.borrow(place).await.map_err(|error| match error {
                PoolError::Backend(error) => error,
                other => (ErrorKind::Io, "no connection", other.to_string()).into(),
            })?;
            connection.req_packed_commands(&questions(), 0, 2).await
        };
        told_by(timeout(ANSWER, asking).await.map_err(late)??, &address.0)
    }

    async fn ask_anybody(&self, address: Address) -> RedisResult<Told> {
        let asking = async { self.dial(&address).await?.req_packed_commands(&questions(), 0, 2).await };
        told_by(timeout(ANSWER, asking).await.map_err(late)??, &address.0)
    }

    /// A node says that this slot is at that address.
    fn learn(&self, slot: Option<u16>, address: &Address) -> Option<Place> {
        let mut map = self.map_mut();
        let place = map.number(address)?;
        let known = slot.and_then(|slot| map.slots.get_mut(usize::from(slot)));
        let is_new = known.is_some_and(|known| std::mem::replace(known, place) != place);
        if is_new && !map.primaries.contains(&place) {
            map.primaries.push(place);
        }
        drop(map);
        if is_new {
            self.changed.send_modify(|number| *number += 1);
        }
        Some(place)
    }

    fn want(&self) {
        self.wanted.notify_one();
    }
}

fn late(_: tokio::time::error::Elapsed) -> RedisError {
    (ErrorKind::Io, "no answer in time").into()
}

/// The best of what they say, soon after the first has said something.
async fn best<F>(mut asked: FuturesUnordered<F>) -> RedisResult<Told>
where
    F: Future<Output = RedisResult<Told>>,
{
    let (mut best, mut failure): (Option<Told>, Option<RedisError>) = (None, None);
    let mut until = Instant::now() + 2 * ANSWER;
    while let Ok(Some(answer)) = timeout_at(until, asked.next()).await {
        match answer {
            Ok(told) => {
                until = until.min(Instant::now() + OTHERS);
                if best.as_ref().is_none_or(|best| (told.is_up, told.epoch) > (best.is_up, best.epoch)) {
                    best = Some(told);
                }
            }
            Err(error) if failure.is_none() || !error.is_io_error() => failure = Some(error),
            Err(_) => {}
        }
    }
    best.ok_or_else(|| failure.unwrap_or_else(|| (ErrorKind::Io, "no node answers").into()))
}

#[async_trait]
impl Topology for SlotMap {
    async fn find(&self) -> RedisResult<()> {
        self.shared.read().await
    }

    fn place(&self, call: &Call) -> Place {
        let map = self.shared.map();
        match call.slot() {
            Some(slot) => map.slots.get(usize::from(slot)).copied().unwrap_or(ONLY),
            None => map.primaries.first().copied().unwrap_or(ONLY),
        }
    }

    fn place_of(&self, key: &str) -> Place {
        self.shared.map().slots.get(usize::from(slot_of(key.as_bytes()))).copied().unwrap_or(ONLY)
    }

    fn places(&self) -> Vec<Place> {
        self.shared.map().primaries.clone()
    }

    async fn dial(&self, place: Place) -> RedisResult<MultiplexedConnection> {
        self.shared.dial(&self.shared.address(place)?).await
    }

    async fn borrow(&self, place: Place) -> Result<Connection, PoolError> {
        self.shared.borrow(place).await
    }

    async fn subscribe(&self, place: Place) -> RedisResult<PubSub> {
        Client::open(self.shared.info(&self.shared.address(place)?))?.get_async_pubsub().await
    }

    fn fate(&self, error: &ServerError, place: Place) -> Fate {
        let word = error.code();
        match word {
            "MOVED" | "ASK" => {
                let from = self.shared.address(place).unwrap_or_default().0;
                let there = error.details().and_then(|details| redirection(details, &from));
                let Some((slot, address)) = there else { return Fate::Kept };
                let moved = word == "MOVED";
                if moved {
                    self.shared.want();
                }
                match self.shared.learn(moved.then_some(slot), &address) {
                    Some(place) if moved => Fate::Again(Turn::At(place)),
                    Some(place) => Fate::Again(Turn::Asking(place)),
                    None => Fate::Kept,
                }
            }
            // Its keys are at two nodes just now.
            "TRYAGAIN" => Fate::Again(Turn::Later),
            // Nobody has the slot, or the node was replaced while it did this.
            "CLUSTERDOWN" | "READONLY" => {
                self.shared.want();
                Fate::Again(Turn::Later)
            }
            _ if refusal::leads_elsewhere(error) => {
                self.shared.want();
                Fate::Dropped
            }
            _ => Fate::Kept,
        }
    }

    fn moved(&self) {
        self.shared.want();
    }

    fn node(&self) -> watch::Receiver<u64> {
        self.shared.node.subscribe()
    }

    fn lost(&self, place: Place) {
        self.shared.want();
        // One that has no keys any more is missed by nobody.
        if self.shared.map().primaries.contains(&place) {
            self.shared.is_troubled();
        }
    }

    fn settled_for(&self) -> Duration {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn map(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    fn fits(&self, server: &str) -> StoreResult<()> {
        match told(server, "redis_mode") {
            None | Some("cluster") => Ok(()),
            Some(mode) => Err(StoreError::Unusable(format!(
                "this Redis is in mode {mode} and no node of a Redis Cluster; write redis://host:port into REDIS_URL"
            ))),
        }
    }

    fn is_cluster(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(ranges: &[(u16, u16, &str)]) -> Told {
        let ranges = ranges.iter().map(|(first, last, host)| (*first, *last, ((*host).to_owned(), 6379))).collect();
        Told { is_up: true, epoch: 1, ranges }
    }

    #[test]
    fn places_keep_their_numbers_when_slots_move() {
        let mut map = Map::default();
        assert!(map.take(&told(&[(0, 9999, "a"), (10_000, 16383, "b")])));
        assert_eq!((map.slots[0], map.slots[10_000], map.primaries.len()), (0, 1, 2));
        assert!(!map.take(&told(&[(0, 9999, "a"), (10_000, 16383, "b")])), "nothing new");
        assert!(map.take(&told(&[(0, 9999, "c"), (10_000, 16383, "b")])));
        assert_eq!((map.slots[0], map.slots[10_000], map.primaries.clone()), (2, 1, vec![1, 2]));
        assert!(map.take(&told(&[(0, 100, "a")])));
        assert_eq!((map.slots[0], map.slots[16383]), (0, 0), "what nobody has is asked of anybody");
    }
}
