//! A primary that Sentinels watch, which they replace by one of its replicas when it fails or when they are told to.
//!
//! They are asked before each new connection, and a node is believed to be the primary only when it says so itself. Both
//! are needed: a former primary takes writes for seconds after a planned failover, and all of those are lost
//! (findings/sentinel-planned-failover-loses-writes.sh); and who was asked a moment ago may know less than the others. One task
//! a Sentinel listens to its word of a change, so that no connection to the former primary is used any longer than that takes;
//! and from time to time it asks, in case the word was lost.
//!
//! Never: takes the word of fewer than half of the Sentinels against what was known before.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use deadpool_redis::{Connection, Hook, HookError, Pool, PoolError};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult, ServerError,
    Value,
    aio::{ConnectionLike as _, MultiplexedConnection, PubSub},
};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::{
    config::{RedisConfig, SentinelConfig},
    place::Place,
    refusal,
    reply::told,
    topology::{Fate, Topology, Ways},
};
use crate::{
    backoff::Backoff,
    store::types::{StoreError, StoreResult},
};

/// A Sentinel that has not answered by then is done without: they hold no data, and are small.
const ANSWER: Duration = Duration::from_millis(500);

/// Where they tell of a change.
const CHANGES: &str = "+switch-master";

type Address = (String, u16);

/// See module documentation.
pub(super) struct Sentinel {
    watch: Arc<Watch>,
    /// End with it.
    _listeners: JoinSet<()>,
}

/// What is known of the primary.
struct Watch {
    sentinels: Vec<Client>,
    name: String,
    /// Of a node: all but its address.
    node_info: ConnectionInfo,
    ways: Ways,
    /// For asking a Sentinel.
    asking: AsyncConnectionConfig,
    known: Mutex<Known>,
    node: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    primary: Option<Address>,
    /// Of that one.
    pool: Option<Pool>,
    /// Highest number of a configuration that any Sentinel has told: it rises with each failover.
    epoch: u64,
}

/// What one Sentinel says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    address: Address,
    epoch: u64,
}

impl Sentinel {
    /// To be called within a runtime, in which it listens to the Sentinels.
    ///
    /// # Errors
    /// `NotDone` when a URL cannot be read; `Unusable` when the certificates cannot be used.
    pub(super) fn new(config: &RedisConfig, SentinelConfig { sentinels, name }: &SentinelConfig) -> StoreResult<Self> {
        let asking =
            AsyncConnectionConfig::new().set_connection_timeout(Some(ANSWER)).set_response_timeout(Some(ANSWER));
        let tls = &config.tls;
        let client = |url: &String| Ways::client(Ways::to(url, tls)?);
        let watch = Arc::new(Watch {
            sentinels: sentinels.iter().map(client).collect::<StoreResult<_>>()?,
            name: name.clone(),
            node_info: Ways::to(&config.url, tls)?,
            ways: Ways::new(config),
            asking,
            known: Mutex::default(),
            node: watch::Sender::new(0),
        });
        let mut listeners = JoinSet::new();
        for at in 0..watch.sentinels.len() {
            listeners.spawn(listen(Arc::downgrade(&watch), at, config.backoff, config.probe));
        }
        Ok(Self { watch, _listeners: listeners })
    }
}

impl Watch {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the primary is, by what most of the Sentinels say, and of those by the latest configuration.
    async fn ask(&self) -> RedisResult<Address> {
        let mut asked: FuturesUnordered<_> = self.sentinels.iter().map(|client| self.ask_one(client)).collect();
        let (mut answers, mut failure): (Vec<Told>, Option<RedisError>) = (Vec::new(), None);
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(told) => answers.push(told),
                Err(error) => failure = Some(error),
            }
            if self.is_majority(answers.len()) && agree(&answers) {
                break;
            }
        }
        let mut known = self.known();
        match best(&answers, known.primary.as_ref()).cloned() {
            Some(told) if told.epoch >= known.epoch || self.is_majority(answers.len()) => {
                known.epoch = told.epoch;
                drop(known);
                self.is_at(&told.address);
                Ok(told.address)
            }
            Some(_) => Err((ErrorKind::Io, "the Sentinels that answer know less than was known before").into()),
            None => Err(failure.unwrap_or_else(|| (ErrorKind::Io, "no Sentinel answers").into())),
        }
    }

    fn is_majority(&self, answers: usize) -> bool {
        2 * answers > self.sentinels.len()
    }

    async fn ask_one(&self, client: &Client) -> RedisResult<Told> {
        let asking = async {
            let mut connection = client.get_multiplexed_async_connection_with_config(&self.asking).await?;
            let mut pipeline = redis::pipe();
            // During a failover the first names the new primary before the second does, which has the number.
            pipeline.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
            pipeline.cmd("SENTINEL").arg("MASTER").arg(&self.name);
            connection.req_packed_commands(&pipeline, 0, 2).await
        };
        let late = |_| RedisError::from((ErrorKind::Io, "no answer of a Sentinel in time"));
        let answers = timeout(ANSWER, asking).await.map_err(late)??;
        told_by(answers).ok_or_else(|| (ErrorKind::Io, "a Sentinel does not know this name").into())
    }

    /// The primary is there. What leads elsewhere is given up.
    fn is_at(&self, address: &Address) {
        let mut known = self.known();
        if known.primary.as_ref() == Some(address) {
            return;
        }
        let former = known.primary.replace(address.clone());
        known.pool = None;
        if former.is_some() {
            tracing::warn!(host = address.0, port = address.1, "the Sentinels name another primary");
            self.node.send_modify(|node| *node += 1);
        }
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

    /// For one connection to the primary.
    async fn client(&self) -> RedisResult<Client> {
        Client::open(self.info(&self.ask().await?))
    }

    fn moved(&self) {
        self.forget();
        self.node.send_modify(|node| *node += 1);
    }

    /// Where it is has to be asked again.
    fn forget(&self) {
        let mut known = self.known();
        (known.primary, known.pool) = (None, None);
    }

    /// The pool of the primary.
    async fn pool(&self) -> Result<Pool, PoolError> {
        if let Some(pool) = &self.known().pool {
            return Ok(pool.clone());
        }
        let address = self.ask().await?;
        let suits = Hook::async_fn(|connection: &mut MultiplexedConnection, _| {
            Box::pin(async move { is_primary(connection).await.map_err(HookError::Backend) })
        });
        let unusable = |error: StoreError| PoolError::Backend((ErrorKind::Io, "no pool", error.to_string()).into());
        let pool = self.ways.pool(self.info(&address), Some(suits)).map_err(unusable)?;
        let mut known = self.known();
        if known.primary.as_ref() == Some(&address) {
            known.pool = Some(pool.clone());
        }
        Ok(pool)
    }
}

/// A node is one if it says so: who was told to be one may not know it yet.
async fn is_primary(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    match redis::cmd("ROLE").query_async::<Vec<Value>>(connection).await {
        Ok(role) if matches!(role.first(), Some(Value::BulkString(role)) if role == b"master") => Ok(()),
        Ok(_) => Err((ErrorKind::Io, "the node that the Sentinels name is no primary").into()),
        // Then a write will tell.
        Err(error) if error.code() == Some("NOPERM") => Ok(()),
        Err(error) => Err(error),
    }
}

/// The answers to the two questions.
fn told_by(answers: Vec<Value>) -> Option<Told> {
    let [address, master]: [Value; 2] = answers.try_into().ok()?;
    let (host, port): (String, String) = redis::from_redis_value(address).ok()?;
    let fields: Vec<String> = redis::from_redis_value(master).ok()?;
    let epoch = fields.chunks_exact(2).find(|pair| pair[0] == "config-epoch")?[1].parse().ok()?;
    Some(Told { address: (host, port.parse().ok()?), epoch })
}

/// Those of the latest configuration.
fn latest(answers: &[Told]) -> impl Iterator<Item = &Told> {
    let epoch = answers.iter().map(|told| told.epoch).max();
    answers.iter().filter(move |told| Some(told.epoch) == epoch)
}

/// Those who know the latest configuration name one address. One of them that was set up for another primary does not.
fn agree(answers: &[Told]) -> bool {
    latest(answers).all(|told| latest(answers).next() == Some(told))
}

/// What most of those say who know the latest configuration; of as many, what is `known`.
fn best<'t>(answers: &'t [Told], known: Option<&Address>) -> Option<&'t Told> {
    let votes = |one: &Told| latest(answers).filter(|told| *told == one).count();
    latest(answers).max_by_key(|told| (votes(told), Some(&told.address) == known))
}

/// Listens to one Sentinel for as long as somebody wants to know.
async fn listen(watch: Weak<Watch>, at: usize, pauses: (Duration, Duration), pause: Duration) {
    let mut backoff = Backoff::new(pauses.0, pauses.1);
    let mut answers = true;
    loop {
        let Some(client) = watch.upgrade().map(|watch| watch.sentinels[at].clone()) else { return };
        let subscribing = async {
            let mut subscription = client.get_async_pubsub().await?;
            subscription.subscribe(CHANGES).await?;
            RedisResult::Ok(subscription.split())
        };
        let subscribed = timeout(2 * ANSWER, subscribing).await;
        // Calls go on by the connections that there are: nothing else would tell.
        let sentinel = client.get_connection_info().addr();
        match (std::mem::replace(&mut answers, matches!(subscribed, Ok(Ok(_)))), answers) {
            (true, false) => {
                tracing::warn!(%sentinel, "a Sentinel does not answer; without any no connection can be made")
            }
            (false, true) => tracing::info!(%sentinel, "a Sentinel answers again"),
            _ => {}
        }
        if let Ok(Ok((mut sink, mut changes))) = subscribed {
            backoff = Backoff::new(pauses.0, pauses.1);
            loop {
                // Also after the subscription was away: a change may have been missed.
                if let Some(watch) = watch.upgrade() {
                    // Who wants a connection asks anew, and says why if that fails.
                    let _ = watch.ask().await;
                }
                match timeout(pause, changes.next()).await {
                    Ok(Some(change)) => {
                        let Some(watch) = watch.upgrade() else { return };
                        if let Some(address) = new_address(change.get_payload_bytes(), &watch.name) {
                            watch.is_at(&address);
                        }
                    }
                    Ok(None) => break,
                    Err(_) if !matches!(timeout(ANSWER, sink.ping::<Value>()).await, Ok(Ok(_))) => break,
                    Err(_) => {}
                }
            }
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// `name old-host old-port new-host new-port`
fn new_address(change: &[u8], name: &str) -> Option<Address> {
    let mut words = std::str::from_utf8(change).ok()?.split(' ');
    if words.next()? != name {
        return None;
    }
    let (host, port) = (words.nth(2)?, words.next()?);
    Some((host.to_owned(), port.parse().ok()?))
}

#[async_trait]
impl Topology for Sentinel {
    async fn dial(&self, _: Place) -> RedisResult<MultiplexedConnection> {
        let client = self.watch.client().await?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&self.watch.ways.connection).await?;
        is_primary(&mut connection).await?;
        Ok(connection)
    }

    async fn borrow(&self, _: Place) -> Result<Connection, PoolError> {
        let borrowed = self.watch.pool().await?.get().await;
        if borrowed.is_err() {
            // It may be another one by now, of which no Sentinel has said anything yet.
            self.watch.forget();
        }
        borrowed
    }

    async fn subscribe(&self, _: Place) -> RedisResult<PubSub> {
        self.watch.client().await?.get_async_pubsub().await
    }

    fn fate(&self, error: &ServerError, _: Place) -> Fate {
        if refusal::leads_elsewhere(error) { Fate::Dropped } else { Fate::Kept }
    }

    fn moved(&self) {
        self.watch.moved();
    }

    fn node(&self) -> watch::Receiver<u64> {
        self.watch.node.subscribe()
    }

    fn fits(&self, server: &str) -> StoreResult<()> {
        if let Some(mode @ ("cluster" | "sentinel")) = told(server, "redis_mode") {
            return Err(StoreError::Unusable(format!(
                "what the Sentinels name is a node in mode {mode}, and no primary"
            )));
        }
        // It is told only where such a number is set.
        if told(server, "role") == Some("master") && told(server, "min_slaves_good_slaves").is_none() {
            tracing::warn!(
                "the primary takes writes although no replica has them (min-replicas-to-write is 0): those of a primary that was \
                 cut off are lost when the Sentinels replace it. Set min-replicas-to-write 1 and min-replicas-max-lag 10"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_address_is_taken_from_the_word_about_this_name_alone() {
        let address = |port| Some(("10.0.0.2".to_owned(), port));
        assert_eq!(new_address(b"mymaster 10.0.0.1 6379 10.0.0.2 6380", "mymaster"), address(6380));
        assert_eq!(new_address(b"other 10.0.0.1 6379 10.0.0.2 6380", "mymaster"), None);
        assert_eq!(new_address(b"mymaster 10.0.0.1 6379 10.0.0.2", "mymaster"), None);
        assert_eq!(new_address(b"mymaster 10.0.0.1 6379 10.0.0.2 x", "mymaster"), None);
        assert_eq!(new_address(b"\xff", "mymaster"), None);
    }

    /// One that was set up for another primary has one voice, whenever it answers.
    #[test]
    fn of_the_latest_configuration_counts_what_most_say() {
        let told = |host: &str, epoch| Told { address: (host.to_owned(), 6379), epoch };
        let (right, wrong) = (told("a", 3), told("x", 3));
        for (answers, known, expected, do_agree) in [
            (vec![], None, None, true),
            (vec![right.clone(), right.clone()], None, Some(&right), true),
            (vec![wrong.clone(), right.clone(), right.clone()], Some(&wrong), Some(&right), false),
            (vec![right.clone(), wrong.clone(), right.clone()], None, Some(&right), false),
            (vec![right.clone(), wrong.clone()], Some(&right), Some(&right), false),
            (vec![wrong.clone(), right.clone()], Some(&right), Some(&right), false),
            (vec![told("b", 2), told("b", 2), right.clone()], None, Some(&right), true),
        ] {
            assert_eq!(best(&answers, known.map(|told| &told.address)), expected, "{answers:?}");
            assert_eq!(agree(&answers), do_agree, "{answers:?}");
        }
    }

    #[test]
    fn what_a_sentinel_says_needs_an_address_and_a_number() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let address = Value::Array(vec![text("10.0.0.2"), text("6380")]);
        let master = Value::Array(vec![text("name"), text("mymaster"), text("config-epoch"), text("7")]);
        let told = Told { address: ("10.0.0.2".to_owned(), 6380), epoch: 7 };
        assert_eq!(told_by(vec![address.clone(), master.clone()]), Some(told));
        assert_eq!(told_by(vec![Value::Nil, master]), None);
        assert_eq!(told_by(vec![address, Value::Array(vec![])]), None);
    }
}
