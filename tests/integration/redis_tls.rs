//! Redis by TLS: commands and wake-ups of all instances, a primary that Sentinels watch, and what is said of certificates that
//! are not believed.

use std::path::PathBuf;

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Cluster, RedisServer, RouterProcess, Sentinels, ports::Port, router_process::Env, tls::Ca};

struct Files {
    issuers: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    dir: TempDir,
}

impl Files {
    fn new() -> Self {
        let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
        let [certificate, key] = ca.certificate_files(dir.path(), &["127.0.0.1"]);
        Self { issuers: ca.file(dir.path()), certificate, key, dir }
    }

    /// A server that wants to know who asks, as one does unless told otherwise.
    fn redis(&self, port: &Port) -> RedisServer {
        let [port, issuers, certificate, key] = [
            port.number().to_string(),
            self.issuers.display().to_string(),
            self.certificate.display().to_string(),
            self.key.display().to_string(),
        ];
        RedisServer::start_with(&[
            "--tls-port",
            &port,
            "--tls-ca-cert-file",
            &issuers,
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
        ])
    }
}

#[tokio::test]
async fn instances_share_a_redis_that_is_reached_by_tls() {
    let (files, port) = (Files::new(), Port::reserve());
    let _redis = files.redis(&port);
    let cluster = Cluster::builder()
        .without_redis()
        .routers(2)
        .env("REDIS_URL", format!("rediss://127.0.0.1:{}", port.number()))
        .env("REDIS_CA_FILE", files.issuers.display())
        .env("REDIS_CERT_FILE", files.certificate.display())
        .env("REDIS_KEY_FILE", files.key.display())
        .start()
        .await;
    // Its POSTs go to both instances in turn: one tells the other by a wake-up.
    let client = cluster.client().initialize().await;
    for number in 0..6 {
        assert_eq!(client.text("echo", json!({ "text": number.to_string() })).await, number.to_string());
    }
    cluster.assert_no_violations().await;
}

#[tokio::test]
async fn a_primary_that_is_reached_by_tls_is_found_by_sentinels_that_are() {
    let files = Files::new();
    let sentinels = Sentinels::start_secure([&files.certificate, &files.key, &files.issuers]).await;
    let cluster = Cluster::builder()
        .without_redis()
        .routers(2)
        .env("REDIS_URL", sentinels.url())
        .env("REDIS_CA_FILE", files.issuers.display())
        .env("REDIS_WAIT", "30s")
        .env("MCP_LEASE", "20s")
        .start()
        .await;
    let client = cluster.client().initialize().await;
    assert_eq!(client.text("echo", json!({ "text": "before" })).await, "before");
    // The scripts find it, too.
    let told = std::process::Command::new("bash")
        .args(["-c", ". scripts/lib.sh; redis_query \"$1\" ROLE", "-", &sentinels.url()])
        .env("REDIS_CA_FILE", &files.issuers)
        .output()
        .unwrap();
    assert!(told.stdout.starts_with(b"master\n"), "{told:?}");
    sentinels.fail_over().await;
    for number in 0..4 {
        assert_eq!(client.text("echo", json!({ "text": number.to_string() })).await, number.to_string());
    }
    cluster.assert_no_violations().await;
}

/// The start ends, and says what is wrong.
#[tokio::test]
async fn who_is_not_believed_is_told_at_the_start() {
    let (files, port) = (Files::new(), Port::reserve());
    let _redis = files.redis(&port);
    let file = |path: &PathBuf| path.display().to_string();
    let (issuers, certificate, key) = (file(&files.issuers), file(&files.certificate), file(&files.key));
    for (settings, told) in [
        // Nobody whom this machine trusts has issued its certificate.
        (vec![("REDIS_CERT_FILE", &certificate), ("REDIS_KEY_FILE", &key)], "UnknownIssuer"),
        // It asks who the router is.
        (vec![("REDIS_CA_FILE", &issuers)], "CertificateRequired"),
    ] {
        let mut env = Env::from([
            ("REDIS_URL".to_owned(), format!("rediss://127.0.0.1:{}", port.number())),
            ("REDIS_START_TIMEOUT".to_owned(), "1s".to_owned()),
        ]);
        env.extend(settings.into_iter().map(|(name, value)| (name.to_owned(), value.clone())));
        let mut router = RouterProcess::launch(files.dir.path(), "router", &env);
        assert_eq!(router.process().exit_code().await, Some(69));
        assert!(router.log_text().contains(told), "{}", router.log_text());
    }
}
