//! The router's own connections to upstreams beside awc, in one run: POSTs that are acknowledged, and the messages of an
//! event stream. CPU is that of the one thread that sends and reads; the server runs on another. With and without TLS for
//! awc, which the own connections do not have. docs/decisions/0011 says why there are both.
//!
//! `cargo bench --bench clients` (Linux; prints a table)

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;
use bytes::Bytes;
use futures_util::future::join_all;
use mcp_router::{
    metrics::Metrics,
    settings::{Settings, UpstreamSettings},
    upstream::{
        Gate, LinkEvent, LinkNotice, Pool,
        notice::{LinkLimits, Outlet, Via},
        transport::{http::line::Line, sse},
    },
};
use testkit::tls::{Ca, TlsAcceptor};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

/// POSTs that are under way at a time.
const CALLERS: usize = 32;
const POSTS: usize = 1000;
const EVENTS: usize = 50_000;
/// Rounds of each, in turn.
const ROUNDS: usize = 5;
const SERVICE: &str = "bench";

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let ca = Ca::new();
    let ca_file = ca.file(dir.path());
    let plain = serve(None);
    let secure = serve(Some(ca.acceptor(&["127.0.0.1"])));
    let settings = Settings::from_pairs([
        ("MCP_UPSTREAMS", format!("{SERVICE}=http://{plain}/sse,https://{secure}/sse")),
        ("MCP_UPSTREAM_CA_FILE", ca_file.display().to_string()),
    ]);
    let settings = settings.expect("they are right").upstream;
    System::new().block_on(compare(settings));
}

async fn compare(settings: UpstreamSettings) {
    let services = settings.services.iter().map(|service| (service.name.clone(), service.endpoints.clone()));
    let pool = Pool::new(
        services,
        &Metrics::new(),
        (settings.transport, settings.era),
        settings.breaker_failures,
        settings.backoff_min,
        settings.backoff_max,
    );
    let config = Line::config(pool.tls(settings.ca_file.as_ref()), (None, settings.token_timeout));
    let line = |index: usize| {
        let endpoint = Arc::clone(&pool.only_service().expect("there is one").endpoints()[index]);
        Line::new(endpoint, &settings, &config)
    };
    let lines = [("own", line(0)), ("awc", line(0).by_awc()), ("awc, TLS", line(1))];
    let mut posts: Vec<Vec<Figures>> = vec![Vec::new(); lines.len()];
    let mut events = posts.clone();
    for _ in 0..ROUNDS {
        for (index, (_, line)) in lines.iter().enumerate() {
            posts[index].push(post(line).await);
            events[index].push(read(line, LinkLimits::from(&settings)).await);
        }
    }
    println!("| | CPU µs a POST | p50 µs | p99 µs | CPU µs an event of a stream |");
    println!("|---|---|---|---|---|");
    for (index, (name, _)) in lines.iter().enumerate() {
        let median = |all: &[Figures], of: fn(&Figures) -> f64| {
            let mut all: Vec<f64> = all.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        println!(
            "| {name} | {:.1} | {:.0} | {:.0} | {:.2} |",
            median(&posts[index], |figures| figures.cpu),
            median(&posts[index], |figures| figures.p50),
            median(&posts[index], |figures| figures.p99),
            median(&events[index], |figures| figures.cpu),
        );
    }
}

/// Microseconds.
#[derive(Debug, Clone, Copy)]
struct Figures {
    cpu: f64,
    p50: f64,
    p99: f64,
}

async fn post(line: &Line) -> Figures {
    let uri = line.endpoint.url.request_url().join("/post").expect("a path").as_str().parse().expect("a URI");
    let body = Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo","arguments":{{"text":"{}"}}}}}}"#,
        "x".repeat(64)
    ));
    let before = cpu();
    let callers = (0..CALLERS).map(|_| async {
        let mut took = Vec::with_capacity(POSTS);
        for _ in 0..POSTS {
            let begun = Instant::now();
            line.clone().post(actix_http::Uri::clone(&uri), body.clone()).await.expect("it is acknowledged");
            took.push(begun.elapsed());
        }
        took
    });
    let mut took: Vec<Duration> = join_all(callers).await.into_iter().flatten().collect();
    let cpu = (cpu() - before) / (CALLERS * POSTS) as f64;
    took.sort_unstable();
    let at = |share: f64| took[(took.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    Figures { cpu, p50: at(0.5), p99: at(0.99) }
}

/// Counts messages, and tells when all have come.
struct Counter {
    left: usize,
    all: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Actor for Counter {
    type Context = Context<Self>;
}

impl Handler<LinkNotice> for Counter {
    type Result = ();

    fn handle(&mut self, notice: LinkNotice, _: &mut Self::Context) {
        if matches!(notice.event, LinkEvent::Message(_)) {
            self.left -= 1;
        }
        if self.left == 0
            && let Some(all) = self.all.take()
        {
            let _ = all.send(());
        }
    }
}

async fn read(line: &Line, limits: LinkLimits) -> Figures {
    let (all, come) = tokio::sync::oneshot::channel();
    let counter = Counter { left: EVENTS, all: Some(all) }.start();
    let outlet = Outlet { link: 1, via: Via::Stream, to: counter.recipient(), gate: Gate::new(1 << 20) };
    let heard = Rc::new(Cell::new(0));
    let before = cpu();
    let link = actix::spawn(sse::run(line.clone(), limits, outlet, Some(heard)));
    come.await.expect("the stream holds them all");
    let cpu = (cpu() - before) / EVENTS as f64;
    link.abort();
    Figures { cpu, p50: 0.0, p99: 0.0 }
}

/// Microseconds that this thread has used.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells it");
    let nanos: f64 = text.split(' ').next().and_then(|text| text.parse().ok()).expect("the first number");
    nanos / 1e3
}

/// A server on a thread of its own.
fn serve(tls: Option<TlsAcceptor>) -> SocketAddr {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            tell.send(listener.local_addr().expect("its address")).expect("somebody waits for it");
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => answer(socket).await,
                        Some(tls) => match tls.accept(socket).await {
                            Ok(socket) => answer(socket).await,
                            Err(error) => eprintln!("{error}"),
                        },
                    }
                });
            }
        });
    });
    told.recv().expect("it listens")
}

async fn answer(socket: impl AsyncRead + AsyncWrite) {
    let (from, mut to) = tokio::io::split(socket);
    let mut from = BufReader::new(from);
    let mut line = String::new();
    let (mut length, mut is_get) = (0, false);
    while from.read_line(&mut line).await.is_ok_and(|count| count > 0) {
        is_get |= line.starts_with("GET");
        if let Some(given) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = given.trim().parse().expect("a length");
        }
        let is_end = line == "\r\n";
        line.clear();
        if !is_end {
            continue;
        }
        if is_get {
            let _ = stream(&mut to).await;
            return;
        }
        let mut body = vec![0; std::mem::take(&mut length)];
        let acknowledged = async {
            from.read_exact(&mut body).await?;
            to.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 8\r\n\r\nAccepted").await?;
            to.flush().await
        };
        if acknowledged.await.is_err() {
            return;
        }
    }
}

async fn stream(to: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    to.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    to.write_all(chunk("event: endpoint\ndata: /post\n\n").as_bytes()).await?;
    let text = "x".repeat(64);
    let message = chunk(&format!(
        "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}]}}}}\n\n"
    ));
    for _ in 0..EVENTS {
        to.write_all(message.as_bytes()).await?;
        to.flush().await?;
    }
    std::future::pending().await
}
