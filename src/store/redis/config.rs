//! Settings of the Redis store.

use std::{fmt, time::Duration};

use crate::metrics::RedisMetrics;

/// Where Redis is and how it is used. [`RedisConfig::new`] gives the defaults.
#[derive(Clone)]
pub struct RedisConfig {
    /// `redis://[user[:password]@]host[:port][/db]`, the same with `rediss`, or `redis+unix:///path`.
    pub url: String,
    /// The primary is found by Sentinels; `url` then is that of a node, of which the host is nobody's.
    pub sentinel: Option<SentinelConfig>,
    /// Host and port of some nodes of a Redis Cluster, by which the others are found; `url` then is as with Sentinels. Empty:
    /// it is none.
    pub cluster: Vec<(String, u16)>,
    /// For URLs of TLS.
    pub tls: TlsConfig,
    /// First part of every key. Several routers may share one Redis under different prefixes.
    pub prefix: String,
    /// Connections for bulk work (touch, list, leases) at most. Besides these each thread that uses the store keeps one
    /// for itself, and the subscription has its own.
    pub pool_size: usize,
    /// How long an operation waits for its turn, and then again for its answer (DUR-2).
    pub timeout: Duration,
    /// Operations at most in one pipeline.
    pub batch: usize,
    /// Operations of one thread that may wait for their turn; one more is `Overloaded` (MEM-2).
    pub queue: usize,
    /// Bounds of the pause after a failed connection; it doubles from the first to the second, with jitter (STM-2).
    pub backoff: (Duration, Duration),
    /// Replicas that must have what is acknowledged.
    pub copies: usize,
    /// How often the idle subscription is probed. A link that is dead without a reset is noticed within this and
    /// `timeout` (OWN-10).
    pub probe: Duration,
    /// How often the primaries of a Redis Cluster are asked whether they answer: much less than a lease.
    pub pulse: Duration,
    /// Where it is told what Redis costs.
    pub metrics: RedisMetrics,
}

/// PEM texts.
#[derive(Clone, Default)]
pub struct TlsConfig {
    /// Issuers that are trusted instead of those that the system trusts.
    pub issuers: Option<Vec<u8>>,
    /// The router's own certificate, and its secret key.
    pub own: Option<(Vec<u8>, Vec<u8>)>,
}

/// Who knows where the primary is.
#[derive(Clone)]
pub struct SentinelConfig {
    /// URLs of the Sentinels.
    pub sentinels: Vec<String>,
    /// Name of the primary there.
    pub name: String,
}

impl RedisConfig {
    /// The defaults for a Redis at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            sentinel: None,
            cluster: Vec::new(),
            tls: TlsConfig::default(),
            prefix: "mcp".to_owned(),
            pool_size: 4,
            // Long enough for a fork or a slow script of a neighbour, short enough for a client that waits for a 202.
            timeout: Duration::from_secs(2),
            // Beyond this a pipeline gains little and its first answer waits for its last.
            batch: 64,
            queue: 4096,
            backoff: (Duration::from_millis(50), Duration::from_secs(2)),
            copies: 0,
            probe: Duration::from_secs(3),
            pulse: Duration::from_secs(1),
            metrics: RedisMetrics::default(),
        }
    }
}

/// Without the URL, which may hold a password (SEC-2).
impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("prefix", &self.prefix)
            .field("pool_size", &self.pool_size)
            .field("timeout", &self.timeout)
            .field("batch", &self.batch)
            .field("queue", &self.queue)
            .field("backoff", &self.backoff)
            .field("probe", &self.probe)
            .finish_non_exhaustive()
    }
}
