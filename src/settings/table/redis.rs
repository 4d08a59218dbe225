//! The shared store.

use std::{ffi::OsString, time::Duration};

use crate::settings::{
    ca_file::{PemFile, certificates, secret_key},
    help_text::help_text,
    parse::{self, DAY, HOUR, MILLI, duration, optional, whole},
    row::Row,
    source::Reader,
    value::RedisUrl,
};

group! {
    /// The shared store.
    "Redis", RedisFlags => RedisSettings {
        /// Redis that the instances share: redis://user:password@host:port/db, of which only the host is needed,
        /// redis+unix:///path/of/the/socket, or, where Sentinels watch it,
        /// redis+sentinel://user:password@host:port,host:port/name/db (user and password of the nodes; those of the
        /// Sentinels as ?sentinel_user=…&sentinel_password=…). A Redis Cluster:
        /// redis-cluster://user:password@host:port,host:port, by any of its nodes. Unset keeps sessions in memory: one
        /// instance, and a restart loses them. By TLS as rediss://, rediss+sentinel:// and rediss-cluster://, of all nodes
        /// and Sentinels alike.
        REDIS_URL = "", "URL" => url: Option<RedisUrl>, optional(parse::redis_url);

        /// PEM file of certificates whose issuers are trusted for rediss, instead of those that the system trusts. Read at
        /// the start. Unset: the system's.
        REDIS_CA_FILE = "", "file" => ca_file: Option<PemFile>, optional(certificates);

        /// PEM file of the certificate by which the router shows who it is to a Redis that asks (tls-auth-clients, which is
        /// on unless it is turned off). Needs REDIS_KEY_FILE. Read at the start.
        REDIS_CERT_FILE = "", "file" => cert_file: Option<PemFile>, optional(certificates);

        /// PEM file of the secret key of REDIS_CERT_FILE. Read at the start.
        REDIS_KEY_FILE = "", "file" => key_file: Option<PemFile>, optional(secret_key);

        /// Connections to Redis. Commands are pipelined, so few are enough; more only help when scripts queue behind
        /// large replays.
        REDIS_POOL_SIZE = "8", "connections" => pool_size: usize, whole(1..=10_000);

        /// Longest wait for one answer of Redis. Scripts take well under a millisecond: after two seconds the link is
        /// half-dead rather than slow.
        REDIS_TIMEOUT = "2s", "duration" => timeout: Duration, duration(10 * MILLI..=HOUR);

        /// How long a start waits for Redis before it gives up: containers started together come up in any order.
        REDIS_START_TIMEOUT = "30s", "duration" => start_timeout: Duration, duration(MILLI..=DAY);

        /// Commands put into one pipeline. Enough to share a round trip among many sessions, few enough for one
        /// pipeline not to hold up the next.
        REDIS_BATCH = "128", "commands" => batch: usize, whole(1..=100_000);

        /// Replicas that must have what is acknowledged, stored or done once (WAIT), besides the primary: what a primary takes with
        /// it when it is replaced is lost only if no replica had it. It costs a round trip to the replicas in each pipeline. With too
        /// few of them such an operation counts as one that was not answered, and is tried again. 0: the primary's word is
        /// enough.
        REDIS_COPIES = "0", "replicas" => copies: usize, whole(0..=100);

        /// Commands that may wait for a pipeline. Beyond it callers are refused at once, which is kinder than a queue
        /// that outlives their patience.
        REDIS_QUEUE = "8192", "commands" => queue: usize, whole(1..=10_000_000);

        /// How long a POST waits for an unavailable Redis before it is answered 503. It spans a restart or failover of
        /// Redis, and stays below nginx's and the clients' own limits.
        REDIS_WAIT = "3s", "duration" => wait: Duration, duration(Duration::ZERO..=HOUR);

        /// How long a request over Streamable HTTP waits for Redis that may have taken it already: answered then, or never, it
        /// is neither lost nor done twice, and after that nobody can tell. REDIS_WAIT if that is longer. It spans what
        /// Redis hangs for while it saves or forks, and stays below nginx's and the clients' own limits.
        REDIS_DOUBT_WAIT = "30s", "duration" => doubt_wait: Duration, duration(Duration::ZERO..=HOUR);
    }
}
