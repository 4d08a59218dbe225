//! Where Redis is: who gives connections, and who says that one is of no use any more.
//!
//! Role: [`Topology`] is all that lanes, bulk work and the subscriptions know of nodes. [`Standalone`] is one address behind
//! which there is one primary, whoever moves it; [`super::sentinel`] a primary that Sentinels watch; [`super::slot_map`] the
//! primaries of a Redis Cluster, of which each has some of the keys.
//!
//! Never: sends a command, or repeats one.

use std::time::Duration;

use async_trait::async_trait;
use deadpool_redis::{Connection, Hook, Manager, Pool, PoolConfig, PoolError, Runtime, Timeouts};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisResult,
    ServerError, TlsCertificates,
    aio::{MultiplexedConnection, PubSub},
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use tokio::sync::watch;

use super::{
    config::{RedisConfig, TlsConfig},
    place::{ONLY, Place},
    refusal,
    reply::told,
    scripts::Call,
};
use crate::store::types::{StoreError, StoreResult};

/// The kernel asks an idle peer whether it is still there. Only the second line: the first is the time-out of every
/// pipeline and the probe of the subscription.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A connection that was not used for a while is asked whether it lives; one that does not answer soon is replaced.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_millis(500);

/// What an error of the server means for the connection that it came by, and for the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The connection is good, and this is the answer.
    Kept,
    /// It leads to a node that cannot serve: it is made again. (After an I/O error or a missing answer every connection is;
    /// that is no topology's to decide.)
    Dropped,
    /// It is good, and the command was not executed: its turn is elsewhere, or later.
    Again(Turn),
}

/// When and where a command is sent again that surely was not executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// There, and so will be all others with these keys.
    At(Place),
    /// There, this once: its keys are on their way (`ASK`).
    Asking(Place),
    /// In a moment, wherever its keys are by then.
    Later,
}

/// See module documentation.
#[async_trait]
pub(super) trait Topology: Send + Sync + 'static {
    /// Finds the nodes, if that is to be done before any connection is made.
    async fn find(&self) -> RedisResult<()> {
        Ok(())
    }

    /// Where the keys of this command are.
    fn place(&self, call: &Call) -> Place {
        let _ = call;
        ONLY
    }

    /// Where this key is.
    fn place_of(&self, key: &str) -> Place {
        let _ = key;
        ONLY
    }

    /// All places, each once.
    fn places(&self) -> Vec<Place> {
        vec![ONLY]
    }

    /// A new connection, for a lane.
    async fn dial(&self, place: Place) -> RedisResult<MultiplexedConnection>;

    /// A connection of the pool, for bulk work.
    async fn borrow(&self, place: Place) -> Result<Connection, PoolError>;

    /// A new connection on which wake-ups are heard that scripts publish there.
    async fn subscribe(&self, place: Place) -> RedisResult<PubSub>;

    /// What an error of the server at this place says.
    fn fate(&self, error: &ServerError, place: Place) -> Fate;

    /// All connections that there are may lead to the wrong node: they are given up, each by whoever holds it.
    fn moved(&self);

    /// Number of the node that the address leads to, as far as is known: it rises with [`Self::moved`].
    fn node(&self) -> watch::Receiver<u64>;

    /// No connection to this place could be made, or one broke.
    fn lost(&self, place: Place) {
        let _ = place;
    }

    /// Rises when there are other places than before.
    fn map(&self) -> watch::Receiver<u64> {
        self.node()
    }

    /// Whether a server that says this of itself (`INFO`) is one of this topology.
    ///
    /// # Errors
    /// `Unusable`, with what a person can do.
    fn fits(&self, server: &str) -> StoreResult<()>;

    /// How long all primaries have answered this process without a gap, as far as that is another question than whether its own
    /// lease has held.
    fn settled_for(&self) -> Duration {
        Duration::MAX
    }

    /// Keys are spread over nodes, and each has rights of its own.
    fn is_cluster(&self) -> bool {
        false
    }
}

/// How every node is connected to.
pub(super) struct Ways {
    pub(super) connection: AsyncConnectionConfig,
    timeout: Duration,
    pool_size: usize,
}

impl Ways {
    pub(super) fn new(config: &RedisConfig) -> Self {
        // Each pipeline has its own time-out; a second one inside would only cost a timer.
        let connection =
            AsyncConnectionConfig::new().set_connection_timeout(Some(config.timeout)).set_response_timeout(None);
        Self { connection, timeout: config.timeout, pool_size: config.pool_size.max(1) }
    }

    /// What a URL says of a node.
    pub(super) fn to(url: &str, TlsConfig { issuers, own }: &TlsConfig) -> StoreResult<ConnectionInfo> {
        let mut info: ConnectionInfo = url.into_connection_info().map_err(wrong_url)?;
        if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            let client_tls = own.clone().map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
            let certificates = TlsCertificates { client_tls, root_cert: issuers.clone() };
            info = Client::build_with_tls(info, certificates).map_err(wrong_tls)?.get_connection_info().clone();
        }
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        Ok(info.set_tcp_settings(TcpSettings::default().set_nodelay(true).set_keepalive(keepalive)))
    }

    pub(super) fn client(info: ConnectionInfo) -> StoreResult<Client> {
        Client::open(info).map_err(wrong_url)
    }

    /// Connections to one node for bulk work. `suits`: asked of each new one.
    pub(super) fn pool(&self, info: ConnectionInfo, suits: Option<Hook>) -> StoreResult<Pool> {
        let manager = Manager::new_with_config(info, self.connection.clone()).map_err(wrong_url)?;
        let mut pool = PoolConfig::new(self.pool_size);
        pool.timeouts =
            Timeouts { wait: None, create: Some(self.timeout), recycle: Some(self.timeout.min(CHECK_TIMEOUT)) };
        let mut builder = Pool::builder(manager).config(pool).runtime(Runtime::Tokio1);
        if let Some(suits) = suits {
            builder = builder.post_create(suits);
        }
        builder.build().map_err(|error| StoreError::NotDone(error.to_string()))
    }
}

fn wrong_tls(error: redis::RedisError) -> StoreError {
    StoreError::Unusable(format!("its certificates cannot be used: {error}"))
}

fn wrong_url(_: redis::RedisError) -> StoreError {
    StoreError::NotDone("the Redis URL cannot be read".to_owned())
}

/// One address, and behind it one primary.
pub(super) struct Standalone {
    pool: Pool,
    client: Client,
    connection: AsyncConnectionConfig,
    node: watch::Sender<u64>,
}

impl Standalone {
    /// # Errors
    /// `NotDone` when the URL cannot be read; `Unusable` when the certificates cannot be used.
    pub(super) fn new(config: &RedisConfig) -> StoreResult<Self> {
        let (ways, info) = (Ways::new(config), Ways::to(&config.url, &config.tls)?);
        Ok(Self {
            pool: ways.pool(info.clone(), None)?,
            client: Ways::client(info)?,
            connection: ways.connection,
            node: watch::Sender::new(0),
        })
    }
}

#[async_trait]
impl Topology for Standalone {
    /// Not one that lies in the pool: that one is driven by the thread that made it, and a lane's round trip must stay on
    /// one thread.
    async fn dial(&self, _: Place) -> RedisResult<MultiplexedConnection> {
        self.client.get_multiplexed_async_connection_with_config(&self.connection).await
    }

    async fn borrow(&self, _: Place) -> Result<Connection, PoolError> {
        self.pool.get().await
    }

    async fn subscribe(&self, _: Place) -> RedisResult<PubSub> {
        self.client.get_async_pubsub().await
    }

    fn fate(&self, error: &ServerError, _: Place) -> Fate {
        if refusal::leads_elsewhere(error) { Fate::Dropped } else { Fate::Kept }
    }

    fn moved(&self) {
        self.node.send_modify(|node| *node += 1);
        self.pool.retain(|_, _| false);
    }

    fn node(&self) -> watch::Receiver<u64> {
        self.node.subscribe()
    }

    fn fits(&self, server: &str) -> StoreResult<()> {
        match told(server, "redis_mode") {
            Some("cluster") => Err(StoreError::Unusable(
                "this is a node of a Redis Cluster; write redis-cluster://host:port into REDIS_URL".to_owned(),
            )),
            Some("sentinel") => Err(StoreError::Unusable(
                "this is a Sentinel, which holds no data; for the primary that it watches write \
                 redis+sentinel://host:port/name into REDIS_URL"
                    .to_owned(),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standalone() -> Standalone {
        Standalone::new(&RedisConfig::new("redis://127.0.0.1:1")).unwrap()
    }

    #[test]
    fn a_node_of_another_topology_is_refused() {
        for wrong in ["redis_version:7.2.0\r\nredis_mode:cluster\r\n", "redis_mode:sentinel"] {
            assert!(matches!(standalone().fits(wrong), Err(StoreError::Unusable(_))), "{wrong}");
        }
        for right in ["redis_version:7.0.15\r\nredis_mode:standalone\r\n", ""] {
            assert!(standalone().fits(right).is_ok(), "{right}");
        }
    }

    #[test]
    fn whoever_looks_sees_that_the_address_has_moved() {
        let standalone = standalone();
        let mut node = standalone.node();
        assert!(!node.has_changed().unwrap());
        standalone.moved();
        assert!(node.has_changed().unwrap());
        assert_eq!(*node.borrow_and_update(), 1);
    }
}
