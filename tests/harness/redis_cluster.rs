//! A Redis Cluster of real nodes on this machine, for one test.
//!
//! Its nodes know each other from the start, by the file in which each of them would keep that: they need not meet. They take
//! writes two seconds after their start (`CLUSTER_WRITABLE_DELAY` in Redis).

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use redis::{FromRedisValue, Value};
use tempfile::TempDir;
use testkit::ports::Port;

use super::redis_server::RedisServer;

/// For all that is waited for here.
const PATIENCE: Duration = Duration::from_secs(30);

const SLOTS: usize = 16384;

/// See module documentation.
pub struct RedisCluster {
    /// First the primaries, in the order of their slots, then a replica of each, if there are any.
    pub nodes: Vec<RedisServer>,
    ids: Vec<String>,
    primaries: usize,
    _ports: Vec<(Port, Port)>,
    _dir: TempDir,
}

impl RedisCluster {
    /// So many primaries, and as many replicas of each.
    pub async fn start(primaries: usize, replicas: usize) -> Self {
        Self::start_with(primaries, replicas, &[]).await
    }

    /// As [`Self::start`]; `args`: of all nodes.
    ///
    /// # Panics
    /// If there is no `redis-server`, or its nodes do not come together.
    pub async fn start_with(primaries: usize, replicas: usize, args: &[&str]) -> Self {
        for _ in 0..3 {
            if let Some(cluster) = Self::try_start(primaries, replicas, args) {
                cluster.is_whole().await;
                return cluster;
            }
        }
        panic!("a node of a Redis Cluster did not answer on its port");
    }

    fn try_start(primaries: usize, replicas: usize, args: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let count = primaries * (1 + replicas);
        let reserved: Vec<(Port, Port)> = (0..count).map(|_| (Port::reserve(), Port::reserve())).collect();
        let ports: Vec<(u16, u16)> = reserved.iter().map(|(port, bus)| (port.number(), bus.number())).collect();
        let ids: Vec<String> = (1..=count).map(|number| format!("{number:040x}")).collect();
        let first = |primary: usize| primary * SLOTS / primaries;
        let mut nodes = Vec::new();
        for me in 0..count {
            let mut file = String::new();
            for (number, (port, bus)) in ports.iter().enumerate() {
                let myself = if number == me { "myself," } else { "" };
                let (role, of, slots) = if number < primaries {
                    ("master", "-", format!(" {}-{}", first(number), first(number + 1) - 1))
                } else {
                    ("slave", &*ids[number % primaries], String::new())
                };
                let epoch = number % primaries + 1;
                writeln!(
                    file,
                    "{} 127.0.0.1:{port}@{bus} {myself}{role} {of} 0 0 {epoch} connected{slots}",
                    ids[number]
                )
                .expect("a line");
            }
            writeln!(file, "vars currentEpoch {primaries} lastVoteEpoch 0").expect("a line");
            let path = dir.path().join(format!("nodes-{me}.conf"));
            std::fs::write(&path, file).expect("the file of a node");
            let (path, bus) = (path.display().to_string(), ports[me].1.to_string());
            let mut words = vec!["--cluster-enabled", "yes", "--cluster-config-file", &path, "--cluster-port", &bus];
            words.extend(["--cluster-node-timeout", "2000", "--cluster-replica-validity-factor", "0"]);
            words.extend(["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]);
            words.extend(args);
            nodes.push(RedisServer::start_at(ports[me].0, &words)?);
        }
        Some(Self { nodes, ids, primaries, _ports: reserved, _dir: dir })
    }

    /// Waits until every node takes the cluster for whole, and every replica follows.
    pub async fn is_whole(&self) {
        let begun = Instant::now();
        for node in 0..self.nodes.len() {
            loop {
                let is_up = self.try_ask::<String>(node, &["CLUSTER", "INFO"]).await;
                let follows = self.try_ask::<String>(node, &["INFO", "replication"]).await;
                if is_up.is_some_and(|info| info.contains("cluster_state:ok"))
                    && follows
                        .is_some_and(|info| info.contains("role:master") || info.contains("master_link_status:up"))
                {
                    break;
                }
                assert!(begun.elapsed() < PATIENCE, "node {node} of a Redis Cluster is not up");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// As in `REDIS_URL`: by all nodes.
    pub fn url(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis-cluster://{}", nodes.join(","))
    }

    /// Host and port of all nodes.
    pub fn seeds(&self) -> Vec<(String, u16)> {
        self.nodes.iter().map(|node| ("127.0.0.1".to_owned(), node.port())).collect()
    }

    /// What a node says; `None`: nothing, or an error.
    pub async fn try_ask<T: FromRedisValue>(&self, node: usize, words: &[&str]) -> Option<T> {
        let client = redis::Client::open(self.nodes[node].url()).ok()?;
        let mut connection = client.get_multiplexed_async_connection().await.ok()?;
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command.query_async(&mut connection).await.ok()
    }

    /// As [`Self::try_ask`], of a node that must answer.
    pub async fn ask<T: FromRedisValue>(&self, node: usize, words: &[&str]) -> T {
        self.try_ask(node, words).await.unwrap_or_else(|| panic!("node {node} does not do {words:?}"))
    }

    /// The node that has a key, by what `at` says.
    pub async fn owner_of(&self, key: &str) -> usize {
        let begun = Instant::now();
        loop {
            for (node, id) in self.ids.iter().enumerate() {
                let Some(nodes) = self.try_ask::<String>(node, &["CLUSTER", "NODES"]).await else { continue };
                let Some(slot) = self.try_ask::<u16>(node, &["CLUSTER", "KEYSLOT", key]).await else { continue };
                let mine = nodes.lines().find(|line| line.contains("myself,master") && line.starts_with(id.as_str()));
                if mine.is_some_and(|line| has_slot(line, slot)) {
                    return node;
                }
            }
            assert!(begun.elapsed() < PATIENCE, "nobody has the key");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Moves the slot of a key to another primary, as `redis-cli --cluster reshard` does: first its keys, then the slot.
    /// `between`: what is done while it is on its way.
    pub async fn move_slot(&self, key: &str, to: usize, between: impl AsyncFnOnce()) {
        let from = self.owner_of(key).await;
        let slot = self.ask::<u16>(from, &["CLUSTER", "KEYSLOT", key]).await.to_string();
        let () = self.ask(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.ids[from]]).await;
        let () = self.ask(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.ids[to]]).await;
        between().await;
        let port = self.nodes[to].port().to_string();
        loop {
            let keys: Vec<String> = self.ask(from, &["CLUSTER", "GETKEYSINSLOT", &slot, "10"]).await;
            if keys.is_empty() {
                break;
            }
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            let _: Value = self.ask(from, &words).await;
        }
        for node in [to, from] {
            let () = self.ask(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &self.ids[to]]).await;
        }
    }

    /// Makes the replica of this primary the primary; over when it says so.
    pub async fn fail_over(&self, primary: usize) {
        let replica = if primary < self.primaries { primary + self.primaries } else { primary - self.primaries };
        let begun = Instant::now();
        loop {
            let _ = self.try_ask::<()>(replica, &["CLUSTER", "FAILOVER"]).await;
            for _ in 0..20 {
                if self.is_primary(replica).await {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert!(begun.elapsed() < PATIENCE, "the replica of node {primary} stays one");
        }
    }

    /// Whether a node takes itself for a primary.
    pub async fn is_primary(&self, node: usize) -> bool {
        let role = self.try_ask::<Vec<Value>>(node, &["ROLE"]).await;
        role.is_some_and(|role| matches!(role.first(), Some(Value::BulkString(role)) if role == b"master"))
    }
}

/// Whether a line of `CLUSTER NODES` names this slot.
fn has_slot(line: &str, slot: u16) -> bool {
    line.split(' ').skip(8).any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u16>(), last.parse::<u16>());
        matches!((first, last), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
    })
}
