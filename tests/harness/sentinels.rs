//! A primary, its replicas, and the real Sentinels that watch them, for one test.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::Instant;

use super::{PATIENCE, RedisServer, eventually, ports::Port};

/// The name of the primary.
pub const NAME: &str = "sessions";

/// See module documentation.
pub struct Sentinels {
    /// The first is the primary at the beginning.
    pub nodes: Vec<RedisServer>,
    sentinels: Vec<(Child, Port)>,
    _dir: TempDir,
}

impl Sentinels {
    /// Two nodes and three Sentinels, all of whom know each other. `args`: of both nodes.
    pub async fn start(args: &[&str]) -> Self {
        let primary = RedisServer::start_with(args);
        let port = primary.port().to_string();
        let replicaof = format!("127.0.0.1 {port}");
        let of_replica = [args, &["--replicaof", &replicaof]].concat();
        let replica = RedisServer::start_with(&of_replica);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut sentinels = Vec::new();
        for number in 0..3 {
            let port_of_its_own = Port::reserve();
            let at = port_of_its_own.number();
            let conf = dir.path().join(format!("sentinel-{number}.conf"));
            let text = format!(
                "port {at}\nbind 127.0.0.1\nsentinel monitor {NAME} 127.0.0.1 {port} 2\n\
                 sentinel down-after-milliseconds {NAME} 1000\nsentinel failover-timeout {NAME} 5000\n"
            );
            std::fs::write(&conf, text).expect("a configuration of a Sentinel");
            let child = Command::new("redis-server")
                .arg(&conf)
                .arg("--sentinel")
                .current_dir(dir.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("redis-server can be started as a Sentinel");
            sentinels.push((child, port_of_its_own));
        }
        let all = Self { nodes: vec![primary, replica], sentinels, _dir: dir };
        eventually("the Sentinels know each other and the replica", || async {
            for (_, at) in &all.sentinels {
                let Some(fields) = ask(at.number(), &["SENTINEL", "MASTER", NAME]).await else { return false };
                let of = |name: &str| fields.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone());
                if (of("num-slaves").as_deref(), of("num-other-sentinels").as_deref()) != (Some("1"), Some("2")) {
                    return false;
                }
            }
            true
        })
        .await;
        all
    }

    /// As in `REDIS_URL`.
    pub fn url(&self) -> String {
        let addresses: Vec<String> =
            self.sentinels.iter().map(|(_, at)| format!("127.0.0.1:{}", at.number())).collect();
        format!("redis+sentinel://{}/{NAME}", addresses.join(","))
    }

    /// The port of the primary, as the first Sentinel that answers has it.
    pub async fn primary(&self) -> Option<u16> {
        for (_, at) in &self.sentinels {
            if let Some(address) = ask(at.number(), &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).await {
                return address[1].parse().ok();
            }
        }
        None
    }

    /// A planned failover; over when all Sentinels name another primary.
    pub async fn fail_over(&self) {
        let former = self.primary().await;
        let begun = Instant::now();
        // Refused while another one is under way, and for a while before the replica's state is known.
        while ask(self.sentinels[0].1.number(), &["SENTINEL", "FAILOVER", NAME]).await.is_none() {
            assert!(begun.elapsed() < PATIENCE, "the Sentinels refuse a failover");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.replaced(former).await;
    }

    /// Waits until a Sentinel names another primary than this one.
    pub async fn replaced(&self, former: Option<u16>) {
        eventually("another primary", || async { self.primary().await.is_some_and(|port| Some(port) != former) }).await;
    }

    /// Kills this Sentinel.
    pub fn kill(&mut self, index: usize) {
        let (child, _) = &mut self.sentinels[index];
        child.kill().and_then(|()| child.wait()).expect("a Sentinel that can be killed");
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        for (child, _) in &mut self.sentinels {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `None`: it does not answer, or with an error.
async fn ask(port: u16, words: &[&str]) -> Option<Vec<String>> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).ok()?;
    let mut connection = client.get_multiplexed_async_connection().await.ok()?;
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    match command.query_async::<redis::Value>(&mut connection).await.ok()? {
        redis::Value::Okay => Some(Vec::new()),
        value => redis::from_redis_value(value).ok(),
    }
}
