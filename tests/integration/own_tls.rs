//! TLS on the router's own port, towards servers that ask for a certificate, and certificates of clients by way of nginx. SEC-10

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::json;
use tempfile::TempDir;

use super::sdk::{Sdk, Transport, run_at};
use crate::harness::{
    Cluster, RouterProcess, UpstreamProcess, eventually, http,
    mcp_client::tool_call,
    router_process::Env,
    tls::{Ca, TlsFront},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const ROUTE: &str = "/mcp/router/route/mcp-server-v6";
const JSON: &str = "content-type: application/json";

/// A router that speaks TLS, with the certificates of `scripts/test-certificates.sh`.
pub(super) struct Secure {
    pub(super) router: RouterProcess,
    certificates: PathBuf,
    dir: TempDir,
}

pub(super) fn certificates(folder: &Path) {
    let made = Command::new(Path::new(ROOT).join("scripts/test-certificates.sh")).arg(folder).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

impl Secure {
    pub(super) async fn start(more: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certificates_dir = dir.path().join("certificates");
        certificates(&certificates_dir);
        let path = |name: &str| certificates_dir.join(name).display().to_string();
        let mut env: Env = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        env.insert("SERVER_CERT_FILE".to_owned(), path("server.pem"));
        env.insert("SERVER_KEY_FILE".to_owned(), path("server.key"));
        env.insert("MCP_AUTH_RELOAD".to_owned(), "40ms".to_owned());
        let mut router = RouterProcess::launch(dir.path(), "secure", &env);
        eventually("the start", || {
            assert!(!router.process().has_ended(), "{}", router.log_text());
            let is_ready = router.log_text().contains("mcp-router is ready: https://");
            std::future::ready(is_ready)
        })
        .await;
        Self { router, certificates: certificates_dir, dir }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.router.port())
    }

    pub(super) fn ca(&self) -> PathBuf {
        self.certificates.join("ca.pem")
    }

    /// curl, which believes whom it is told to.
    pub(super) fn curl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["-q", "-sS", "--noproxy", "*", "--max-time", "20", "--cacert"]).arg(self.ca()).args(arguments);
        command
    }

    pub(super) async fn asked(&self, arguments: &[&str]) -> Output {
        let mut command = self.curl(arguments);
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
    }
}

pub(super) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn curl_and_stock_clients_are_served_by_tls() {
    let secure = Secure::start(&[]).await;
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string();
    let (route, health) = (secure.url(ROUTE), secure.url("/actuator/health"));
    for (version, spoken) in [("--http1.1", "HTTP/1.1 200"), ("--http2", "HTTP/2 200")] {
        for tls in [&["--tlsv1.2", "--tls-max", "1.2"][..], &["--tlsv1.3"]] {
            let asked = secure.asked(&[tls, &[version, "-i", "-H", JSON, "-d", &list, &route]].concat()).await;
            assert!(text(&asked).starts_with(spoken) && text(&asked).contains("getAllPersons"), "{asked:?}");
        }
        let output = secure.dir.path().join(version);
        let file = || fs::read_to_string(&output).unwrap_or_default();
        let mut stream = secure.curl(&[version, "-N", "-i", "-o"]);
        let mut stream = stream.arg(&output).arg(secure.url("/sse/mcp-server-v6")).spawn().unwrap();
        eventually("the endpoint", || async { file().contains("\ndata: /mcp/") }).await;
        assert!(file().to_ascii_lowercase().contains("secure"), "its cookie is for https alone: {}", file());
        stream.kill().unwrap();
        stream.wait().unwrap();
    }
    // Nothing older, nothing unencrypted, nobody else's word for it.
    assert!(!secure.asked(&["--tls-max", "1.1", "--ciphers", "ALL:@SECLEVEL=0", &health]).await.status.success());
    assert!(
        !secure
            .asked(&["--cacert", &secure.dir.path().join("none").display().to_string(), &health])
            .await
            .status
            .success()
    );
    let plain = secure.asked(&[&health.replace("https://", "http://")]).await;
    assert!(!plain.status.success(), "{plain:?}");
    let base = format!("https://localhost:{}", secure.router.port());
    for transport in [Transport::Sse, Transport::Streamable] {
        run_at(Sdk::TypeScript, transport, &base, &[("NODE_EXTRA_CA_CERTS", &secure.ca())], &["basics"]).await;
    }
    assert!(!secure.router.log_text().contains("PRIVATE KEY"));
}

#[tokio::test]
async fn a_certificate_that_changes_is_shown_to_the_next_connection() {
    let mut secure = Secure::start(&[]).await;
    let health = secure.url("/actuator/health/liveness");
    let output = secure.dir.path().join("stream");
    let stream = secure.curl(&["-N", "-o"]).arg(&output).arg(secure.url("/sse/mcp-server-v6")).spawn();
    let mut stream = stream.unwrap();
    let file = || fs::read_to_string(&output).unwrap_or_default();
    eventually("the endpoint", || async { file().contains("\ndata: /mcp/") }).await;
    // Half of a change changes nothing.
    let other = secure.dir.path().join("other");
    certificates(&other);
    let copy = |name: &str| fs::copy(other.join(name), secure.certificates.join(name)).unwrap();
    let before = secure.dir.path().join("before.pem");
    fs::copy(secure.ca(), &before).unwrap();
    copy("server.pem");
    eventually("the complaint", || async { secure.router.log_text().contains("it is not the key of the certificate") })
        .await;
    assert!(secure.asked(&[&health]).await.status.success());
    copy("server.key");
    fs::copy(other.join("ca.pem"), secure.ca()).unwrap();
    eventually("the new certificate", || async { secure.asked(&[&health]).await.status.success() }).await;
    let by_old = secure.asked(&["--cacert", &before.display().to_string(), &health]).await;
    assert!(!by_old.status.success(), "{by_old:?}");
    assert!(stream.try_wait().unwrap().is_none(), "what is open goes on");
    stream.kill().unwrap();
    stream.wait().unwrap();
    // At SIGHUP at once; and what cannot be used is no start.
    secure.router.process().signal("HUP");
    eventually("a word", || async { secure.router.log_text().contains("read again") }).await;
    let key = |name: &str| other.join(name).display().to_string();
    let env = [("SERVER_CERT_FILE", key("server.pem")), ("SERVER_KEY_FILE", key("client.key"))];
    let env: Env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut wrong = RouterProcess::launch(secure.dir.path(), "wrong", &env);
    eventually("its end", || std::future::ready(wrong.process().has_ended())).await;
    assert!(wrong.log_text().contains("it is not the key of the certificate"), "{}", wrong.log_text());
}

#[tokio::test]
async fn one_connection_of_http2_is_not_as_good_as_a_thousand() {
    let secure = Secure::start(&[("SERVER_MAX_STREAMS", "2")]).await;
    let body = tool_call(1, "wait", json!({ "ms": 1500, "text": "x" })).to_string();
    let route = secure.url(ROUTE);
    let health = secure.url("/actuator/health/liveness");
    let (ca, told) = (secure.ca().display().to_string(), ["-w", "%{http_code} %{num_connects}\n", "-o", "/dev/null"]);
    // The first one makes the connection that the others share.
    let mut arguments = [&["--http2", "-Z", "--parallel-max", "20"], &told[..], &[&health]].concat();
    for _ in 0..6 {
        arguments.extend([
            "--next",
            "-sS",
            "--noproxy",
            "*",
            "--http2",
            "--cacert",
            &ca,
            "-H",
            JSON,
            "-d",
            &body,
            &route,
        ]);
        arguments.extend(told);
    }
    let output = secure.asked(&arguments).await;
    let told = text(&output);
    let count = |code: &str| told.lines().filter(|line| line.starts_with(code)).count();
    // Two at a time: how many more come after one of them has ended is a matter of turns.
    assert!(count("503") >= 1 && count("200") >= 2, "{told} {output:?}");
}

#[tokio::test]
async fn what_clients_are_told_of_the_router_is_https() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("jwks.json");
    let key = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "a" });
    fs::write(&keys, json!({ "keys": [key] }).to_string()).unwrap();
    let auth = [
        ("MCP_AUTH", "tokens"),
        ("MCP_AUTH_ISSUER", "https://auth.example.com"),
        ("MCP_AUTH_JWKS", keys.to_str().unwrap()),
    ];
    let secure = Secure::start(&auth).await;
    let url = secure.url("/mcp/mcp-server-v6");
    for version in ["--http1.1", "--http2"] {
        let told = text(&secure.asked(&[version, "-i", "-d", "{}", &url]).await);
        let at = secure.url("/.well-known/oauth-protected-resource/mcp/mcp-server-v6");
        assert!(told.contains(&format!("resource_metadata=\"{at}\"")), "{told}");
        let metadata = text(&secure.asked(&[version, &at]).await);
        assert!(metadata.contains(&url), "{metadata}");
    }
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_is_shown_the_routers() {
    let dir = tempfile::tempdir().unwrap();
    let server = UpstreamProcess::start(dir.path(), "secure-server", &dir.path().join("counts")).await;
    let (ca, other) = (Ca::new(), Ca::new());
    let front = TlsFront::asking(server.addr(), &ca, &["127.0.0.1"]).await;
    let folder = |name: &str| {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        folder
    };
    let own = ca.certificate_files(&folder("own"), &["mcp-router"]);
    let others = other.certificate_files(&folder("others"), &["mcp-router"]);
    let trusted = ca.file(dir.path());
    for (shown, is_served) in [(Some(own), true), (Some(others), false), (None, false)] {
        let mut builder = Cluster::builder().without_redis().upstream_urls([front.url()]);
        builder = builder.env("MCP_UPSTREAM_CA_FILE", trusted.display()).env("MCP_UPSTREAM_RELINK_TIMEOUT", "300ms");
        if let Some([certificate, key]) = &shown {
            builder = builder.env("MCP_UPSTREAM_CERT_FILE", certificate.display());
            builder = builder.env("MCP_UPSTREAM_KEY_FILE", key.display());
        }
        let cluster = builder.start().await;
        let call = tool_call(1, "echo", json!({ "text": "x" })).to_string();
        let answer = http::post(cluster.addr(0), ROUTE, call).await;
        assert_eq!(answer.json()["result"]["content"][0]["text"] == "x", is_served, "{}", answer.text());
        if is_served {
            let client = cluster.client().initialize().await;
            assert_eq!(client.text("echo", json!({ "text": "é" })).await, "é");
        }
    }
}
