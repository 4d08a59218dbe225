//! Certificates of clients, for which nginx asks: their subject is the principal, behind nginx.conf and nginx-edge.conf. SEC-10

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use serde_json::json;

use super::own_tls::{certificates, text};
use crate::harness::{Cluster, Front, cluster, edge_is_missing, eventually, http, mcp_client::tool_call};

const ROUTE: &str = "/mcp/router/route/mcp-server-v6";

/// The certificates, and nginx that asks for those of clients.
struct Asking {
    folder: PathBuf,
    other: PathBuf,
    front: Front,
}

impl Asking {
    fn new(dir: &Path, front: Front) -> Self {
        let (folder, other) = (dir.join("certificates"), dir.join("other"));
        certificates(&folder);
        certificates(&other);
        let front = Front {
            tls: Some(["server.pem", "server.key"].map(|name| folder.join(name))),
            clients: Some(folder.join("ca.pem")),
            ..front
        };
        Self { folder, other, front }
    }

    fn behind(&self, dir: &Path) -> cluster::Builder {
        let rules = dir.join("policy.toml");
        fs::write(&rules, "[[rule]]\nname = \"alice\"\nwho = [\"proxy:CN=alice\"]\n").unwrap();
        let builder = Cluster::builder().front(self.front.clone()).env("MCP_AUTH", "proxy");
        builder.env("MCP_POLICY_FILE", rules.display())
    }

    /// curl with the certificate of this folder, as a client that would name itself.
    fn curl(&self, from: Option<&Path>) -> Command {
        let mut command = Command::new("curl");
        command.args(["-q", "-sS", "--noproxy", "*", "-H", "x-mcp-principal: CN=alice", "--cacert"]);
        command.arg(self.folder.join("ca.pem"));
        if let Some(from) = from {
            command.arg("--cert").arg(from.join("client.pem")).arg("--key").arg(from.join("client.key"));
        }
        command
    }

    /// The status of a POST.
    async fn posted(&self, from: Option<&Path>, url: &str, body: &str) -> String {
        let mut command = self.curl(from);
        command.args(["--max-time", "20", "-w", "%{http_code}", "-o", "/dev/null"]);
        command.args(["-H", "content-type: application/json", "-d", body, url]);
        text(&tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap())
    }
}

/// Ended with the test.
struct Streaming(Child);

impl Drop for Streaming {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// nginx asks for a certificate of the client, and its subject is the principal.
async fn its_name_is_its_certificates(front: Front) {
    let dir = tempfile::tempdir().unwrap();
    let asking = Asking::new(dir.path(), front);
    let cluster = asking.behind(dir.path()).without_redis().start().await;
    let nginx = cluster.nginx.as_ref().unwrap();
    let url = format!("https://localhost:{}{ROUTE}", nginx.tls_addr().port());
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string();
    assert_eq!(asking.posted(Some(&asking.folder), &url, &list).await, "200");
    let others = (asking.posted(None, &url, &list).await, asking.posted(Some(&asking.other), &url, &list).await);
    assert_eq!(others, ("400".to_owned(), "400".to_owned()));
    // Where nginx does not ask, nobody has a name.
    let plain = http::Request::post(ROUTE, list).header("x-mcp-principal", "CN=alice").send(nginx.addr()).await;
    assert_eq!(plain.status, 401);
}

#[tokio::test]
async fn a_clients_certificate_is_its_name_behind_nginx() {
    its_name_is_its_certificates(Front::stock(true)).await;
}

#[tokio::test]
async fn a_clients_certificate_is_its_name_behind_the_edge() {
    if !edge_is_missing() {
        its_name_is_its_certificates(Front::edge("")).await;
    }
}

/// The edge goes on with a stream elsewhere as whom it was opened by, and as nobody else.
#[tokio::test]
async fn a_stream_of_a_client_with_a_certificate_outlives_its_instance_behind_the_edge() {
    if edge_is_missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let asking = Asking::new(dir.path(), Front::edge(""));
    let mut cluster = asking.behind(dir.path()).routers(2).short_lease().start().await;
    let base = format!("https://localhost:{}", cluster.nginx.as_ref().unwrap().tls_addr().port());
    let output = dir.path().join("stream");
    let mut stream = asking.curl(Some(&asking.folder));
    stream.args(["-N", "-o"]).arg(&output).arg(format!("{base}/sse/mcp-server-v6"));
    let mut stream = Streaming(stream.spawn().unwrap());
    let shown = || fs::read_to_string(&output).unwrap_or_default();
    let has = |what: &str| shown().contains(what);
    eventually("the endpoint", || std::future::ready(has("\n\n"))).await;
    let all = shown();
    let endpoint = all.lines().find_map(|line| line.strip_prefix("data: ")).unwrap().to_owned();
    let url = format!("{base}{endpoint}");
    let call = |id: &str| tool_call(id, "echo", json!({ "text": format!("answer of {id}") })).to_string();
    let initialize = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": { "name": "curl", "version": "0" } } });
    assert_eq!(asking.posted(Some(&asking.folder), &url, &initialize.to_string()).await, "202");
    assert_eq!(asking.posted(Some(&asking.folder), &url, &call("first")).await, "202");
    eventually("an answer", || std::future::ready(has("answer of first"))).await;
    let mut serving = None;
    for index in 0..2 {
        if cluster.routers[index].metric("mcp_router_streams", None).await > 0.0 {
            serving = Some(index);
        }
    }
    cluster.routers[serving.expect("somebody serves the stream")].kill();
    assert_eq!(asking.posted(Some(&asking.folder), &url, &call("second")).await, "202");
    eventually("an answer elsewhere", || std::future::ready(has("answer of second"))).await;
    assert!(stream.0.try_wait().unwrap().is_none(), "it is the same stream");
    assert_eq!(shown().matches("event: endpoint").count(), 1, "{}", shown());
    // Neither who has no certificate nor who has another one.
    for from in [None, Some(&*asking.other)] {
        assert_eq!(asking.posted(from, &url, &call("third")).await, "400");
    }
    assert!(!has("answer of third"));
}
