//! What a server sends, byte for byte over a real connection: whatever it is, the reading ends, keeps no more than it may,
//! and takes nothing of one answer for another.

use std::{
    cell::{Cell, RefCell},
    mem::{self, Discriminant},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::prelude::*;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use mcp_router::{
    metrics::Metrics,
    protocol::{
        jsonrpc::{Head, Kind},
        modern::result,
        scan::Told,
    },
    settings::{EraSetting, Settings, Transport, UpstreamSettings},
    upstream::{
        Address, Endpoint, Gate, LinkEvent, LinkNotice, Piece, Pool, PostError, ReplyEnd, Uplink,
        notice::{LinkLimits, Outlet, Via},
        transport::{
            http::line::{Line, LineConfig},
            sse,
        },
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::timeout,
};

use super::choices::{Choices, pieces};

/// Far above what anything here takes; the fuzzer's own limit is still above that.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a connection stays open behind an answer that is not complete.
const OPEN: Duration = Duration::from_millis(3);

/// What the server answers to every request but the first.
const NEXT: &str = r#"{"jsonrpc":"2.0","id":2,"result":"n"}"#;

/// Bytes: largest message, four sizes of pieces, and what comes on the stream's connection from its first byte on.
pub fn link(data: &[u8]) {
    let mut choices = Choices::of(data);
    let limits = limits(choices.byte());
    let sizes: [u8; 4] = choices.bytes();
    let text = choices.rest();
    with_setting(async |setting| {
        let [whole, cut] = [vec![text], pieces(text, &sizes)].map(|pieces| setting.link(pieces, limits));
        let (whole, cut) = (whole.await, cut.await);
        for heard in [&whole, &cut] {
            heard.check(limits);
            assert_eq!(heard.closed, 1, "a link ends once");
            let origin = setting.endpoint.url.request_url().origin();
            for address in &heard.opened {
                let Address::Sse(uri) = address else { panic!("{address:?} of another transport") };
                let url: url::Url = uri.to_string().parse().expect("the address of POSTs is a URL");
                assert_eq!(url.origin(), origin);
            }
            assert!(heard.opened.len() <= 1);
        }
        // Of a stream that is no good the end may be seen sooner.
        if !whole.is_no_stream && !cut.is_no_stream {
            assert_eq!((&whole.messages, &whole.opened), (&cut.messages, &cut.opened), "in pieces of {sizes:?}");
        }
    });
}

/// Bytes: largest message, whether the connection stays open, four sizes of pieces, and the answer to a POST.
pub fn reply(data: &[u8]) {
    let mut choices = Choices::of(data);
    let limits = limits(choices.byte());
    let stays_open = choices.byte() % 2 == 1;
    let sizes: [u8; 4] = choices.bytes();
    let text = choices.rest();
    with_setting(async |setting| {
        let whole = setting.reply(vec![text], stays_open, limits).await;
        let cut = setting.reply(pieces(text, &sizes), stays_open, limits).await;
        for Answers { first, next, is_late } in [&whole, &cut] {
            first.heard.check(limits);
            assert_eq!(first.heard.closed, 0);
            // It may have been sent on a connection that was just being closed.
            if *is_late && next.heard.messages.is_empty() {
                continue;
            }
            assert_eq!(next.heard.messages, [NEXT.as_bytes()], "the next POST has its own answer, and: {:?}", next.end);
            assert_eq!(next.end, Ok(Some(ReplyEnd::Whole)));
        }
        if !whole.is_late && !cut.is_late {
            assert_eq!(whole.first.end, cut.first.end, "in pieces of {sizes:?}");
            assert_eq!(whole.first.heard.messages, cut.first.heard.messages, "in pieces of {sizes:?}");
        }
    });
}

/// Bytes: status, form, and what a server of MCP 2026-07-28 answers to every POST of one call of a client with a session, which can
/// do nothing that the server could ask for.
pub fn bridge(data: &[u8]) {
    let mut choices = Choices::of(data);
    let status = ["200 OK", "400 Bad Request", "404 Not Found", "202 Accepted"][usize::from(choices.byte() % 4)];
    let form = ["application/json", "text/event-stream"][usize::from(choices.byte() % 2)];
    let text = choices.rest();
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {form}\r\ncontent-length: {}\r\n\r\n", text.len());
    with_setting(async |setting| {
        let serve = async |mut socket: TcpStream| {
            while read_request(&mut socket).await {
                write(&mut socket, &[head.as_bytes(), text]).await;
            }
            close(socket).await;
        };
        let call = async {
            let body = br#"{"jsonrpc":"2.0","id":"mine","method":"tools/call","params":{"name":"a"}}"#;
            let sent = Uplink::new(setting.line(), Address::Modern).send(Bytes::from_static(body)).await;
            let Ok(Some(mut reply)) = sent else { return };
            loop {
                let Piece { events, end } = reply.next(limits(255)).await;
                for event in events {
                    let (LinkEvent::Message(body) | LinkEvent::Altered(body)) = event else { continue };
                    is_for_the_client(&body);
                }
                if end.is_some() {
                    return;
                }
            }
        };
        tokio::select! {
            () = setting.serve(&serve) => unreachable!("it serves for ever"),
            () = call => {}
        }
    });
}

/// It answers the client's own call, in words that it knows, or tells it something.
fn is_for_the_client(body: &[u8]) {
    let Ok(head) = Head::parse(body) else { return };
    match head.kind {
        Kind::Request { method, .. } => panic!("{method}: the client has declared nothing"),
        Kind::Notification { .. } => {}
        Kind::Response { id, .. } => {
            assert_eq!(id.expect("it names its request").as_json(), "\"mine\"");
            let said = head.result.and_then(|result| result::Said::of(result.get()));
            assert!(said.is_none_or(|said| said.kind() == result::COMPLETE), "a result of another era");
        }
    }
}

fn limits(choice: u8) -> LinkLimits {
    let max_message = 8 * usize::from(choice);
    LinkLimits { connect: PATIENCE, max_message, max_skipped: 2 * max_message }
}

struct Setting {
    listener: TcpListener,
    endpoint: Arc<Endpoint>,
    settings: UpstreamSettings,
    config: LineConfig,
}

struct Runtime {
    system: SystemRunner,
    setting: Rc<Setting>,
}

thread_local! {
    static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

fn with_setting(run: impl AsyncFnOnce(&Setting)) {
    RUNTIME.with_borrow_mut(|runtime| {
        let Runtime { system, setting } = runtime.get_or_insert_with(|| {
            let system = System::new();
            let setting = Rc::new(system.block_on(Setting::new()));
            Runtime { system, setting }
        });
        let setting = Rc::clone(setting);
        system.block_on(async { timeout(PATIENCE, run(&setting)).await.expect("the reading does not end") });
    });
}

/// What came of one link, or of the answer to one POST.
#[derive(Debug, Default)]
struct Heard {
    messages: Vec<Vec<u8>>,
    opened: Vec<Address>,
    too_large: Vec<Told>,
    closed: usize,
    is_no_stream: bool,
}

impl Heard {
    fn check(&self, limits: LinkLimits) {
        for message in &self.messages {
            assert!(message.len() <= limits.max_message, "a message of {} bytes", message.len());
        }
    }
}

#[derive(Default)]
struct Listener(Heard);

/// Asks for all that came before it.
#[derive(Message)]
#[rtype(result = "Heard")]
struct Take;

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<LinkNotice> for Listener {
    type Result = ();

    fn handle(&mut self, notice: LinkNotice, _: &mut Self::Context) {
        let heard = &mut self.0;
        assert_eq!(heard.closed, 0, "{notice:?} behind the end");
        match notice.event {
            LinkEvent::Opened(address) => heard.opened.push(address),
            LinkEvent::Message(body) | LinkEvent::Altered(body) => heard.messages.push(body.to_vec()),
            LinkEvent::TooLarge(told) => heard.too_large.push(told),
            event @ (LinkEvent::Cursor(_) | LinkEvent::Waits { .. } | LinkEvent::GoesOn) => {
                panic!("{event:?} of another transport")
            }
            LinkEvent::Closed(error) => {
                heard.closed += 1;
                heard.is_no_stream = error.is_failure();
            }
        }
    }
}

impl Handler<Take> for Listener {
    type Result = MessageResult<Take>;

    fn handle(&mut self, _: Take, _: &mut Self::Context) -> Self::Result {
        MessageResult(mem::take(&mut self.0))
    }
}

struct Answered {
    end: Result<Option<ReplyEnd>, Discriminant<PostError>>,
    heard: Heard,
}

/// To two POSTs, one after the other.
struct Answers {
    first: Answered,
    next: Answered,
    /// The server has closed the connection without being asked again.
    is_late: bool,
}

impl Setting {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let url = format!("http://127.0.0.1:{port}/sse").parse().expect("a URL");
        let settings = Settings::from_pairs::<_, &str, &str>([]).expect("the defaults").upstream;
        let second = Duration::from_secs(1);
        let pool = Pool::new(
            [("s".to_owned(), vec![url])],
            &Metrics::new(),
            (Transport::Sse, EraSetting::Legacy),
            u32::MAX,
            second,
            second,
        );
        let endpoint = Arc::clone(&pool.only_service().expect("there is one").endpoints()[0]);
        Self { listener, endpoint, settings, config: Line::config(None, (None, std::time::Duration::from_secs(1))) }
    }

    fn outlet(via: Via) -> (Outlet, Addr<Listener>) {
        let listener = Listener::default().start();
        (Outlet { link: 1, via, to: listener.clone().recipient(), gate: Gate::new(1 << 20) }, listener)
    }

    fn line(&self) -> Line {
        Line::new(Arc::clone(&self.endpoint), &self.settings, &self.config)
    }

    async fn link(&self, pieces: Vec<&[u8]>, limits: LinkLimits) -> Heard {
        let (outlet, listener) = Self::outlet(Via::Stream);
        // Once more for each redirect.
        let serve = async |mut socket: TcpStream| {
            if read_request(&mut socket).await {
                write(&mut socket, &pieces).await;
            }
            close(socket).await;
        };
        tokio::select! {
            () = self.serve(serve) => unreachable!("it serves for ever"),
            () = sse::run(self.line(), limits, outlet, None) => {}
        }
        listener.send(Take).await.expect("it listens")
    }

    async fn reply(&self, pieces: Vec<&[u8]>, stays_open: bool, limits: LinkLimits) -> Answers {
        let (written, done) = (Notify::new(), Notify::new());
        let (count, is_late) = (Cell::new(0), Cell::new(false));
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ";
        let head = format!("{head}{}\r\n\r\n", NEXT.len());
        let serve = async |mut socket: TcpStream| {
            while read_request(&mut socket).await {
                if count.replace(count.get() + 1) > 0 {
                    write(&mut socket, &[head.as_bytes(), NEXT.as_bytes()]).await;
                    continue;
                }
                write(&mut socket, &pieces).await;
                written.notify_one();
                if !stays_open {
                    break;
                }
                if timeout(OPEN, done.notified()).await.is_err() {
                    is_late.set(true);
                    break;
                }
            }
            close(socket).await;
        };
        let client = async {
            let line = self.line();
            let first = self.post(&line, 1, limits).await;
            written.notified().await;
            done.notify_one();
            // That something has come, or the end, is seen when the runtime has looked at its sockets.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            let room = LinkLimits { max_message: 1 << 10, max_skipped: 1 << 10, ..limits };
            let next = self.post(&line, 2, room).await;
            Answers { first, next, is_late: is_late.get() }
        };
        tokio::select! {
            () = self.serve(&serve) => unreachable!("it serves for ever"),
            answered = client => answered,
        }
    }

    async fn post(&self, line: &Line, id: u64, limits: LinkLimits) -> Answered {
        let (outlet, listener) = Self::outlet(Via::Post(id));
        let url = self.endpoint.url.request_url().as_str().parse().expect("it can be requested");
        let body = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"x"}}"#));
        let end = match line.clone().post(url, body).await {
            Ok(None) => Ok(None),
            Ok(Some(mut reply)) => {
                let until = tokio::time::Instant::now() + PATIENCE;
                Ok(Some(reply.read(limits, &outlet, until, || true).await))
            }
            Err(error) => Err(mem::discriminant(&error)),
        };
        Answered { end, heard: listener.send(Take).await.expect("it listens") }
    }

    /// As many connections as are made.
    async fn serve<F: Future<Output = ()>>(&self, serve: impl Fn(TcpStream) -> F) {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                socket = self.accept() => open.push(serve(socket)),
                Some(()) = open.next(), if !open.is_empty() => {}
            }
        }
    }

    async fn accept(&self) -> TcpStream {
        let (socket, _) = self.listener.accept().await.expect("somebody connects");
        // A fuzzer opens more of them than there are ports in a minute: none stays behind.
        socket.set_zero_linger().expect("a socket option");
        socket.set_nodelay(true).expect("a socket option");
        socket
    }
}

/// Ends what is sent, and waits for the other side: closing at once would take from it what it has not read.
async fn close(mut socket: TcpStream) {
    let _ = socket.shutdown().await;
    while socket.read(&mut [0; 256]).await.is_ok_and(|read| read > 0) {}
}

async fn write(socket: &mut TcpStream, pieces: &[&[u8]]) {
    for piece in pieces {
        // The other side may have enough.
        if socket.write_all(piece).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// `false`: there is none.
async fn read_request(socket: &mut TcpStream) -> bool {
    let mut text = Vec::new();
    loop {
        if socket.read_buf(&mut text).await.unwrap_or(0) == 0 {
            return false;
        }
        let Some(head) = text.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let length = String::from_utf8_lossy(&text[..head]).to_ascii_lowercase();
        let length = length.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        if text.len() >= head + 4 + length.unwrap_or(0) {
            return true;
        }
    }
}
