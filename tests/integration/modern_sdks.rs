//! Stock clients with sessions at a server that has none: the TypeScript SDK 1.x and the Python SDK 1.x, as published, through
//! nginx to three instances, and a server of MCP 2026-07-28 on the TypeScript SDK 2.x behind them.

use serde_json::json;

use crate::{
    harness::{Cluster, Front, ModernServer, eventually},
    sdk::{Sdk, Transport, run_at},
};

async fn behind(server: &ModernServer, front: Front) -> Cluster {
    Cluster::builder().routers(3).upstream_urls([server.url()]).front(front).start().await
}

/// The handshake, lists, calls, headers from arguments, progress, log levels, elicitation, sampling, roots, cancellation, prompts,
/// resources, subscriptions, lists that change; each request to the next of three instances.
async fn uses_a_server_without_sessions(sdk: Sdk) {
    let server = ModernServer::start().await;
    let cluster = behind(&server, Front::stock(false)).await;
    let url = format!("http://{}", cluster.nginx.as_ref().unwrap().addr());
    for transport in [Transport::Sse, Transport::Streamable] {
        run_at(sdk, transport, &url, &[], &["bridge"]).await;
    }
    eventually("the server knows of both cancelled calls", || async { server.seen().await["left"]["cancelled"] == 2 })
        .await;
    cluster.assert_no_violations().await;
    assert_eq!(cluster.metric("mcp_router_adoptions_total", None).await, 0.0, "OWN-6");
}

#[tokio::test]
async fn the_typescript_sdk_uses_a_server_without_sessions() {
    uses_a_server_without_sessions(Sdk::TypeScript).await;
}

#[tokio::test]
async fn the_python_sdk_uses_a_server_without_sessions() {
    uses_a_server_without_sessions(Sdk::Python).await;
}

/// REQ-3, OWN-1: the instance that has the session is killed. A running call is of unknown outcome and runs once; one that waits for
/// its client is answered; the session goes on.
async fn outlives_its_instance(sdk: Sdk, transport: Transport) {
    let server = ModernServer::start().await;
    let mut cluster = behind(&server, Front::stock(false)).await;
    let url = format!("http://{}", cluster.nginx.as_ref().unwrap().addr());
    let killing = async {
        server.begun("in-flight", 1).await;
        server.begun("asked", 1).await;
        for index in 0..cluster.routers.len() {
            if cluster.routers[index].metric("mcp_router_sessions", None).await > 0.0 {
                cluster.routers[index].kill();
                return;
            }
        }
        panic!("no instance has the session");
    };
    let arguments = ["survive", "--ms", "3000"];
    let (_, ()) = tokio::join!(run_at(sdk, transport, &url, &[], &arguments), killing);
    let seen = server.seen().await;
    let runs = ["before", "in-flight", "asked", "after"].map(|key| seen[key].clone());
    assert_eq!(runs, [json!(1), json!(1), json!(2), json!(1)], "the call that waited has two rounds");
    cluster.assert_no_violations().await;
}

#[tokio::test]
async fn the_typescript_sdk_outlives_its_instance_at_a_server_without_sessions() {
    for transport in [Transport::Sse, Transport::Streamable] {
        outlives_its_instance(Sdk::TypeScript, transport).await;
    }
}

/// Over HTTP+SSE this SDK never comes back to a stream that broke.
#[tokio::test]
async fn the_python_sdk_outlives_its_instance_at_a_server_without_sessions() {
    outlives_its_instance(Sdk::Python, Transport::Streamable).await;
}
