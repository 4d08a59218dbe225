//! What is sent slowly, too long or too often, where the router itself speaks TLS: the same ends as without, also of what
//! comes before HTTP. SEC-10, MEM-7

use std::process::Command;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    connections::{LIVENESS, REST, head_of_post, send, to_the_end},
    own_tls::{Secure, text},
};
use crate::harness::{eventually, http::Request, mcp_client::request, soon, tls::TlsTo};

/// Requests of HTTP/2 with long heads (curl sends none), and one whose body does not come: their statuses.
const LONG_HEAD: &str = "
    const [url, ca, rest] = process.argv.slice(1);
    const { origin, pathname } = new URL(url);
    const options = { ca: require('fs').readFileSync(ca), maxSendHeaderBlockLength: 1 << 20 };
    const session = require('http2').connect(origin, options);
    const ask = (length) => new Promise((resolve, reject) => {
        const stream = session.request({ ':path': pathname, 'x-long': 'x'.repeat(length) });
        stream.on('response', resolve).on('error', reject).resume();
    });
    const stall = () => new Promise((resolve, reject) => {
        const head = { ':method': 'POST', ':path': rest, 'content-type': 'application/json' };
        const stream = session.request(head, { endStream: false });
        stream.on('response', resolve).on('error', reject).resume().write('{');
    });
    (async () => {
        const [short, long] = [await ask(60000), await ask(200000)];
        const stalled = await stall();
        console.log(short[':status'], long[':status'], long['x-content-type-options'], stalled[':status']);
        session.destroy();
    })();
";

fn ping() -> String {
    request(1, "ping", json!({})).to_string()
}

/// Of a connection on which no handshake comes, or one that stops, or what is none.
#[tokio::test]
async fn a_handshake_that_does_not_come_ends_its_connection() {
    let secure = Secure::start(&[("SERVER_HEADER_TIMEOUT", "2s")]).await;
    let addr = secure.router.addr();
    // The beginning of a record with a ClientHello of 512 bytes.
    let hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    for bytes in [&b""[..], &hello[..3], &hello, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let answer = to_the_end(socket).await;
        assert!(!answer.contains("HTTP/1"), "{answer}");
    }
    assert!(secure.asked(&[&secure.url(LIVENESS)]).await.status.success(), "others are served");
}

#[tokio::test]
async fn slow_and_long_requests_end_in_time_behind_tls() {
    let more = [("SERVER_HEADER_TIMEOUT", "2s"), ("SERVER_BODY_TIMEOUT", "500ms"), ("MCP_MAX_BODY", "1KiB")];
    let secure = Secure::start(&more).await;
    let to = TlsTo::start(secure.router.addr(), &secure.ca()).await;
    let addr = to.addr();
    // Its head.
    for head in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: local"] {
        let answer = to_the_end(send(addr, head).await).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    let long = format!("GET {LIVENESS} HTTP/1.1\r\nhost: localhost\r\nx-long: {}\r\n\r\n", "x".repeat(200_000));
    let answer = to_the_end(send(addr, &long).await).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // Its body.
    for (length, piece) in [("content-length: 1000", " "), ("transfer-encoding: chunked", "1\r\n \r\n")] {
        let answer = to_the_end(send(addr, &format!("{}{piece}", head_of_post(REST, length))).await).await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("slow_body"), "{answer}");
        assert!(answer.contains("x-content-type-options: nosniff"), "{answer}");
    }
    let large = Request::post(REST, "x".repeat(2048)).send(addr).await;
    assert_eq!((large.status, large.header("x-content-type-options")), (413, Some("nosniff")));
    assert_eq!(Request::post(REST, ping()).send(addr).await.status, 200);

    // HTTP/2: a head that is too long, a body that does not come, and one that is too large.
    let route = secure.url(REST);
    let mut node = Command::new("node");
    node.args(["-e", LONG_HEAD, &secure.url(LIVENESS)]).arg(secure.ca()).arg(REST);
    let told = tokio::task::spawn_blocking(move || node.output()).await.unwrap().unwrap();
    assert_eq!(text(&told).trim(), "200 431 nosniff 408", "60,000 and 200,000 bytes, and a body that stalls: {told:?}");
    let json = ["--http2", "-i", "-H", "content-type: application/json"];
    let asked = secure.asked(&[&json[..], &["-d", &"x".repeat(2048), &route]].concat()).await;
    assert!(text(&asked).starts_with("HTTP/2 413") && text(&asked).contains("nosniff"), "{asked:?}");
    let asked = secure.asked(&[&json[..], &["-d", &ping(), &route]].concat()).await;
    assert!(text(&asked).starts_with("HTTP/2 200"), "{asked:?}");
}

/// As without TLS, but that nothing can be said to who is refused.
#[tokio::test]
async fn one_address_has_a_share_of_the_connections_behind_tls() {
    let secure = Secure::start(&[
        ("SERVER_MAX_CONNECTIONS_PER_ADDRESS", "4"),
        ("SERVER_BODY_TIMEOUT", "1m"),
        ("MCP_TRUSTED_PROXIES", "none"),
    ])
    .await;
    let to = TlsTo::start(secure.router.addr(), &secure.ca()).await;
    let addr = to.addr();
    let head = head_of_post(REST, "content-length: 1000");
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(send(addr, &head).await);
    }
    let is_refused = || async { Request::get(LIVENESS).try_send(addr).await.is_err() };
    eventually("a full share", is_refused).await;
    // Those within it are as they were.
    for socket in &mut held {
        let mut byte = [0];
        let read = tokio::time::timeout(std::time::Duration::from_millis(20), socket.read(&mut byte)).await;
        assert!(read.is_err(), "{read:?}");
    }
    held.clear();
    eventually("room again", || async {
        matches!(Request::get(LIVENESS).try_send(addr).await, Ok(answer) if answer.status == 200)
    })
    .await;
    let metrics = soon("figures", Request::get("/actuator/prometheus").send(addr)).await.text();
    let refused = metrics.lines().filter(|line| line.starts_with("mcp_router_connections_refused_total{"));
    assert!(refused.clone().any(|row| !row.ends_with(" 0")), "{:?}", refused.collect::<Vec<_>>());
}
