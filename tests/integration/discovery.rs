//! Servers that are found by names, in DNS and in a registry: who comes is used, who goes is let go, and a name that cannot be
//! found changes nothing. STM-3

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::harness::{
    Cluster, DnsServer, NacosRegistry, UpstreamProcess, cluster, dns_server::Records, eventually, http,
};

const SERVICE: &str = cluster::SERVICE;
const LOOKS: &str = "mcp_router_discovery_looks_total";
const FAILING: &str = "mcp_router_discovery_failing";

/// A router whose list is this, and two servers that it is to find.
async fn looking(url: &str, dns: Option<&DnsServer>) -> Cluster {
    let mut builder = Cluster::builder()
        .upstreams(2)
        .env("MCP_UPSTREAMS", format!("{SERVICE}={url}"))
        .env("MCP_DISCOVERY_INTERVAL", "50ms")
        .env("MCP_DISCOVERY_TIMEOUT", "2s")
        .env("MCP_UPSTREAM_LEAVE", "1s");
    if let Some(dns) = dns {
        builder = builder.env("MCP_DISCOVERY_DNS", dns.addr());
    }
    builder.start().await
}

async fn servers(cluster: &Cluster) -> Vec<String> {
    let instances = http::get(cluster.addr(0), &format!("/mcp/router/services/{SERVICE}/instances")).await.json();
    let url = |one: &Value| one["url"].as_str().unwrap().to_owned();
    instances["instances"].as_array().unwrap().iter().map(url).collect()
}

async fn has(cluster: &Cluster, wanted: &[String]) {
    eventually("these servers", || async { servers(cluster).await == wanted }).await;
}

async fn fails(cluster: &Cluster) {
    let before = cluster.metric(LOOKS, Some("failed")).await;
    eventually("a look that fails", || async { cluster.metric(LOOKS, Some("failed")).await > before }).await;
    assert_eq!(cluster.metric(FAILING, None).await, 1.0);
}

#[tokio::test]
async fn servers_are_found_by_the_addresses_of_a_name() {
    let dns = DnsServer::start().await;
    // As in Kubernetes: one name for all, one port for each.
    dns.set("mcp.test", Records::Addresses(1, vec![Ipv4Addr::LOCALHOST]));
    let port = crate::harness::ports::Port::reserve();
    let cluster = looking(&format!("dns+http://mcp.test:{}/sse", port.number()), Some(&dns)).await;
    let at = |last: u8| format!("http://127.0.0.{last}:{}/sse", port.number());
    assert_eq!(servers(&cluster).await, [at(1)], "a start waits for the first answer");
    dns.set("mcp.test", Records::Addresses(1, vec![Ipv4Addr::new(127, 0, 0, 3), Ipv4Addr::new(127, 0, 0, 2)]));
    has(&cluster, &[at(2), at(3)]).await;
    for wrong in [Some(Records::Failure), None, Some(Records::Addresses(1, Vec::new()))] {
        match wrong {
            Some(records) => dns.set("mcp.test", records),
            None => dns.remove("mcp.test"),
        }
        fails(&cluster).await;
        assert_eq!(servers(&cluster).await, [at(2), at(3)], "what was found last counts");
    }
    dns.set("mcp.test", Records::Addresses(1, vec![Ipv4Addr::new(127, 0, 0, 2)]));
    has(&cluster, &[at(2)]).await;
    eventually("found again", || async { cluster.metric(FAILING, None).await == 0.0 }).await;
    // A server that says nothing is none that says there is nobody.
    dns.set("mcp.test", Records::Addresses(1, (1..=25).map(|last| Ipv4Addr::new(127, 1, 0, last)).collect()));
    eventually("all of them", || async { servers(&cluster).await.len() == 25 }).await;
    dns.silence(true);
    fails(&cluster).await;
    assert_eq!(servers(&cluster).await.len(), 25);
}

#[tokio::test]
async fn servers_are_found_by_srv_records_and_their_sessions_follow_them() {
    let dns = DnsServer::start().await;
    let cluster = looking("dns+srv+http://_mcp._tcp.test/sse", Some(&dns)).await;
    assert!(servers(&cluster).await.is_empty(), "there are none yet, and the start is none the worse for it");
    let port = |server: &UpstreamProcess| server.addr().port();
    let [first, second] = [&cluster.upstreams[0], &cluster.upstreams[1]];
    let record = |priority: u16, server: &UpstreamProcess| (priority, port(server), "localhost".to_owned());
    let at = |server: &UpstreamProcess| format!("http://localhost:{}/sse", port(server));
    // Only those with the best priority count.
    dns.set("_mcp._tcp.test", Records::Services(1, vec![record(1, first), record(9, second)]));
    has(&cluster, &[at(first)]).await;
    let client = cluster.client().initialize().await;
    assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
    let asked = dns.asked("_mcp._tcp.test");
    dns.set("_mcp._tcp.test", Records::Services(1, vec![record(9, second)]));
    has(&cluster, &[at(second)]).await;
    assert!(dns.asked("_mcp._tcp.test") > asked);
    eventually("the session elsewhere", || async {
        let path = format!("/mcp/router/sessions/{}", client.session());
        http::get(cluster.addr(0), &path).await.json()["endpoint"] == at(second)
    })
    .await;
    assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
    cluster.assert_no_violations().await;
}

#[tokio::test]
async fn servers_are_found_in_a_nacos_registry_by_either_version_of_its_api() {
    for api in ["v1", "v2"] {
        let nacos = NacosRegistry::start().await;
        nacos.asks("username=router&password=se%26cret", "TOKEN");
        let url = format!(
            "nacos+http://router:se%26cret@{}/?service=s&group=g&namespace=n&cluster=c&api={api}",
            nacos.addr()
        );
        let cluster = looking(&url, None).await;
        let port = |server: &UpstreamProcess| server.addr().port();
        let host = |server: &UpstreamProcess, healthy: bool| {
            json!({ "ip": "127.0.0.1", "port": port(server), "healthy": healthy, "enabled": true, "weight": 1.0,
                "clusterName": "c", "serviceName": "g@@s", "metadata": {} })
        };
        let [first, second] = [&cluster.upstreams[0], &cluster.upstreams[1]];
        nacos.set([host(first, true), host(second, false)]);
        has(&cluster, &[first.url()]).await;
        let client = cluster.client().initialize().await;
        assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
        nacos.breaks(true);
        fails(&cluster).await;
        assert_eq!(servers(&cluster).await, [first.url()]);
        nacos.breaks(false);
        // Its token counts no more: it logs in again.
        nacos.asks("username=router&password=se%26cret", "ANOTHER");
        nacos.set([host(second, true)]);
        has(&cluster, &[second.url()]).await;
        assert_eq!(client.text("echo", json!({ "text": "on" })).await, "on");
        let listed = format!("/nacos/{api}/ns/instance/list?serviceName=s&groupName=g&namespaceId=n&");
        let is_it = |asked: &String| asked.starts_with(&listed) && asked.contains("=c&healthyOnly=true&accessToken=");
        assert!(nacos.asked().iter().any(is_it), "{:?}", nacos.asked());
        let log = cluster.routers[0].log_text();
        assert!(!["se%26cret", "se&cret", "TOKEN", "ANOTHER"].iter().any(|secret| log.contains(secret)), "{log}");
    }
}
