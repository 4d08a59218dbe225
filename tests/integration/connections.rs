//! Connections that send little or nothing: they end in time, and shut nobody else out.

use std::{net::SocketAddr, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{
    Cluster, eventually,
    http::{self, Request},
    mcp_client::request,
    router_process::FILES,
    soon,
};

pub(super) const REST: &str = "/mcp/router/route/mcp-server-v6";
pub(super) const LIVENESS: &str = "/actuator/health/liveness";

pub(super) fn head_of_post(path: &str, length: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{length}\r\n\r\n")
}

pub(super) async fn send(addr: SocketAddr, text: &str) -> TcpStream {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(text.as_bytes()).await.unwrap();
    socket
}

/// All that comes until the connection ends, however that is.
pub(super) async fn to_the_end(mut socket: TcpStream) -> String {
    let mut text = Vec::new();
    let read = soon("the end of the connection", socket.read_to_end(&mut text)).await;
    drop(read);
    String::from_utf8_lossy(&text).into_owned()
}

/// A body that drips or stalls, with a length or in chunks, on every path that takes one: 408 in time, in JSON-RPC, and the
/// connection ends.
#[tokio::test]
async fn a_body_that_does_not_come_is_answered_408() {
    let cluster = Cluster::builder().env("SERVER_BODY_TIMEOUT", "300ms").start().await;
    let addr = cluster.addr(0);
    let client = cluster.client().initialize().await;
    for path in [client.endpoint().as_str(), REST] {
        for (length, piece) in [("content-length: 1000", " "), ("transfer-encoding: chunked", "1\r\n \r\n")] {
            for drips in [false, true] {
                let socket = send(addr, &head_of_post(path, length)).await;
                let (mut reading, mut writing) = socket.into_split();
                let dripping = tokio::spawn(async move {
                    while drips && writing.write_all(piece.as_bytes()).await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    std::future::pending::<()>().await;
                });
                let mut answer = Vec::new();
                let end = soon("the end of the connection", reading.read_to_end(&mut answer)).await;
                dripping.abort();
                drop(end);
                let answer = String::from_utf8_lossy(&answer).into_owned();
                assert!(answer.starts_with("HTTP/1.1 408 "), "{length}, drips {drips}: {answer}");
                assert!(answer.contains("\"reason\":\"slow_body\""), "{answer}");
            }
        }
    }
    assert_eq!(client.text("echo", json!({ "text": "still here" })).await, "still here");
}

/// A chunked body that no handler reads holds no connection either: its answer is the last one there.
#[tokio::test]
async fn a_chunked_body_that_nobody_reads_ends_its_connection() {
    let cluster = Cluster::builder().env("MCP_MAX_BODY", "1KiB").start().await;
    let large = format!("800\r\n{}\r\n", "x".repeat(2048));
    for (path, first, status) in [("/nothing", "1\r\nx\r\n", 404), (LIVENESS, "1\r\nx\r\n", 405), (REST, &large, 413)] {
        let head = head_of_post(path, "transfer-encoding: chunked");
        let answer = to_the_end(send(cluster.addr(0), &format!("{head}{first}")).await).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
    }
    // One that is read leaves the connection as it was.
    let ping = request(1, "ping", json!({})).to_string();
    let message =
        format!("{}{:x}\r\n{ping}\r\n0\r\n\r\n", head_of_post(REST, "transfer-encoding: chunked"), ping.len());
    let mut socket = send(cluster.addr(0), &message).await;
    for _ in 0..2 {
        let mut text = String::new();
        soon("an answer", async {
            while !text.contains("\"result\"") {
                let mut bytes = [0; 4096];
                let count = socket.read(&mut bytes).await.unwrap();
                assert!(count > 0, "{text}");
                text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
            }
        })
        .await;
        socket.write_all(message.as_bytes()).await.unwrap();
    }
}

/// A head that does not come ends its connection.
#[tokio::test]
async fn a_head_that_does_not_come_ends_its_connection() {
    let cluster = Cluster::builder().env("SERVER_HEADER_TIMEOUT", "200ms").start().await;
    for text in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: local"] {
        let answer = to_the_end(send(cluster.addr(0), text).await).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
}

/// More slow bodies than there may be open files: the flood ends, and then everybody is served again.
#[tokio::test]
async fn a_flood_of_slow_bodies_at_a_small_file_limit_is_over_soon() {
    let cluster = Cluster::builder().without_redis().env(FILES, "160").start().await;
    let addr = cluster.addr(0);
    let head = head_of_post(REST, "content-length: 1000");
    let mut flood = Vec::new();
    for _ in 0..300 {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        // Those that wait in the backlog take it, too.
        socket.write_all(head.as_bytes()).await.unwrap();
        flood.push(socket);
    }
    eventually("service after the flood", || async move {
        matches!(Request::get(LIVENESS).try_send(addr).await, Ok(answer) if answer.status == 200)
    })
    .await;
    let ping = request(1, "ping", json!({})).to_string();
    assert_eq!(http::post(addr, REST, ping).await.status, 200);
}

/// Connections of one address beyond its share are told so and closed; when one ends, there is room.
#[tokio::test]
async fn one_address_has_a_share_of_the_connections() {
    let cluster = Cluster::builder()
        .env("SERVER_MAX_CONNECTIONS_PER_ADDRESS", "4")
        .env("SERVER_BODY_TIMEOUT", "1m")
        .env("MCP_TRUSTED_PROXIES", "none")
        .start()
        .await;
    let addr = cluster.addr(0);
    let head = head_of_post(REST, "content-length: 1000");
    // Some more than the share: whichever thread takes up what comes next has then had its own four before.
    let mut held = Vec::new();
    for _ in 0..32 {
        held.push(send(addr, &head).await);
    }
    eventually("a full share", || async move {
        matches!(Request::get(LIVENESS).try_send(addr).await, Ok(answer) if answer.status == 503)
    })
    .await;
    let refused = to_the_end(TcpStream::connect(addr).await.unwrap()).await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("too_many_connections"), "{refused}");
    assert!(refused.contains("x-content-type-options: nosniff"), "{refused}");
    held.clear();
    eventually("room again", || async move {
        matches!(Request::get(LIVENESS).try_send(addr).await, Ok(answer) if answer.status == 200)
    })
    .await;
    assert!(cluster.metric("mcp_router_connections_refused_total", None).await >= 1.0);
}
