//! A primary, its replicas, and the real Sentinels that watch them, for one test.

use std::{
    path::Path,
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
    /// Where the Sentinels take TLS, if they do.
    secure: Vec<Port>,
    /// Where the nodes do.
    _of_nodes: Vec<Port>,
    _dir: TempDir,
}

impl Sentinels {
    /// Two nodes and three Sentinels, all of whom know each other. `args`: of both nodes.
    pub async fn start(args: &[&str]) -> Self {
        Self::start_all(args, None).await
    }

    /// As [`Self::start`], all of them by TLS, with the certificate and key of these files and issuers of the third.
    pub async fn start_secure([certificate, key, issuers]: [&Path; 3]) -> Self {
        let files = [("tls-cert-file", certificate), ("tls-key-file", key), ("tls-ca-cert-file", issuers)];
        let lines: Vec<String> = files.iter().map(|(name, path)| format!("{name} {}", path.display())).collect();
        Self::start_all(
            &[],
            Some(&[lines.join("\n").as_str(), "tls-replication yes", "tls-auth-clients no"].join("\n")),
        )
        .await
    }

    /// `tls`: lines of a configuration.
    async fn start_all(args: &[&str], tls: Option<&str>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut of_nodes = Vec::new();
        let mut start_node = |replicaof: Option<u16>| {
            let mut words: Vec<String> = args.iter().map(ToString::to_string).collect();
            let secure_port = tls.map(|lines| {
                let port = Port::reserve();
                words.extend(lines.lines().flat_map(|line| {
                    let (name, value) = line.split_once(' ').expect("a name and a value");
                    [format!("--{name}"), value.to_owned()]
                }));
                words.extend(["--tls-port".to_owned(), port.number().to_string()]);
                let number = port.number();
                of_nodes.push(port);
                number
            });
            words
                .extend(replicaof.into_iter().flat_map(|port| ["--replicaof".to_owned(), format!("127.0.0.1 {port}")]));
            let node = RedisServer::start_with(&words.iter().map(String::as_str).collect::<Vec<_>>());
            let port = secure_port.unwrap_or_else(|| node.port());
            (node, port)
        };
        let (primary, port) = start_node(None);
        let (replica, _) = start_node(Some(port));
        let mut sentinels = Vec::new();
        let mut secure = Vec::new();
        for number in 0..3 {
            let port_of_its_own = Port::reserve();
            let at = port_of_its_own.number();
            let conf = dir.path().join(format!("sentinel-{number}.conf"));
            let secure_lines = tls.map(|lines| {
                let port = Port::reserve();
                let lines = format!("{lines}\ntls-port {}\n", port.number());
                secure.push(port);
                lines
            });
            let secure_lines = secure_lines.unwrap_or_default();
            let text = format!(
                "{secure_lines}port {at}\nbind 127.0.0.1\nsentinel monitor {NAME} 127.0.0.1 {port} 2\n\
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
        let all = Self { nodes: vec![primary, replica], sentinels, secure, _of_nodes: of_nodes, _dir: dir };
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
        let ports: Vec<u16> = match &*self.secure {
            [] => self.sentinels.iter().map(|(_, at)| at.number()).collect(),
            secure => secure.iter().map(Port::number).collect(),
        };
        let addresses: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let scheme = if self.secure.is_empty() { "redis+sentinel" } else { "rediss+sentinel" };
        format!("{scheme}://{}/{NAME}", addresses.join(","))
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
