//! One HTTP/1.1 connection to an upstream: a request at a time, a POST that is acknowledged (or answered) or a GET whose
//! body goes on.
//!
//! Reading and writing HTTP is actix-http's; this file owns the order of the two and the state of the connection. It is
//! awc's job, but awc makes a codec, two buffers and a task with a timer anew for each request
//! (docs/decisions/0007). Never: decides what an error means for the message that was sent.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use actix_codec::{Decoder as _, Encoder as _};
use actix_http::{
    Method, RequestHead, RequestHeadType, ResponseHead, ServiceConfig, StatusCode, Uri,
    body::BodySize,
    h1::{ClientCodec, ClientPayloadCodec, Message, MessageType},
    header::{HeaderMap, HeaderName, HeaderValue},
};
use bytes::{Bytes, BytesMut};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{
    Broken, DRAIN_PATIENCE, MAX_ACKNOWLEDGEMENT,
    answer::{BodyKind, has_no_body, is_until_close},
};

/// A body is written in pieces of this size, so that a large one does not leave a large buffer with the thread.
const PIECE: usize = 16 << 10;

/// Bytes that one read takes at most.
const READ: usize = 32 << 10;

/// See the module's text.
pub(super) struct Connection {
    wire: Wire,
    codec: ClientCodec,
    /// One of the connections that there may be.
    permit: OwnedSemaphorePermit,
}

/// The buffers through which the connections of one thread read and write, one after the other: one that is idle, as most are
/// most of the time, has none of its own.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    read: RefCell<BytesMut>,
    written: RefCell<BytesMut>,
}

/// The socket, and what has been read of it and not been taken yet.
struct Wire {
    socket: TcpStream,
    rest: BytesMut,
    scratch: Rc<Scratch>,
}

impl Wire {
    /// What has been read to its end needs no buffer any more.
    fn give_back(&mut self) {
        if self.rest.is_empty() && self.rest.capacity() > 0 {
            let rest = std::mem::take(&mut self.rest);
            let mut kept = self.scratch.read.borrow_mut();
            if rest.capacity() > kept.capacity() {
                *kept = rest;
            }
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.rest.is_empty() {
            self.rest = self.scratch.read.take();
            self.rest.clear();
        }
        self.rest.reserve(READ);
        let read = tokio_util::io::poll_read_buf(Pin::new(&mut self.socket), context, &mut self.rest);
        self.give_back();
        read
    }
}

/// The head of all requests of one kind; only the URL is another each time. It is written while it is borrowed, so one
/// serves all connections of a thread.
#[derive(Debug, Clone)]
pub(in crate::upstream) struct Head {
    head: RefCell<Rc<RequestHead>>,
    /// What comes with the status 404 is read, too: it may be the answer (MCP 2026-07-28).
    reads_not_found: bool,
}

impl Head {
    pub(super) fn new(method: Method, headers: HeaderMap) -> Self {
        let mut head = RequestHead::default();
        (head.method, head.headers) = (method, headers);
        Self { head: RefCell::new(Rc::new(head)), reads_not_found: false }
    }

    /// What comes with the status 404 is read, too.
    pub(in crate::upstream) fn reading_not_found(self) -> Self {
        Self { reads_not_found: true, ..self }
    }

    /// The body of an answer with this head may hold messages.
    pub(super) fn may_be_told_by(&self, answer: &ResponseHead) -> bool {
        BodyKind::of(answer).is_some_and(|kind| kind.is_said_with(answer.status, self.reads_not_found))
    }

    /// Method and headers, for another client.
    pub(super) fn parts(&self) -> (Method, HeaderMap) {
        let head = self.head.borrow();
        (head.method.clone(), head.headers.clone())
    }

    /// What requests of this kind say there.
    pub(in crate::upstream) fn get(&self, name: &HeaderName) -> Option<HeaderValue> {
        self.head.borrow().headers.get(name).cloned()
    }

    /// Every request of this kind has this header from now on.
    pub(in crate::upstream) fn insert(&self, name: HeaderName, value: HeaderValue) {
        Rc::make_mut(&mut self.head.borrow_mut()).headers.insert(name, value);
    }

    /// And this one no more.
    pub(in crate::upstream) fn remove(&self, name: HeaderName) {
        Rc::make_mut(&mut self.head.borrow_mut()).headers.remove(name);
    }

    fn with_url(&self, url: &Uri) -> RequestHeadType {
        let mut head = self.head.borrow_mut();
        Rc::make_mut(&mut head).uri = url.clone();
        RequestHeadType::Rc(Rc::clone(&head), None)
    }
}

impl Connection {
    /// Connects to `url`, as soon as there may be one more connection. Without a time limit.
    pub(super) async fn open(
        url: &url::Url,
        config: &ServiceConfig,
        limit: &Arc<Semaphore>,
        scratch: &Rc<Scratch>,
    ) -> Result<Self, Broken> {
        let permit = Arc::clone(limit)
            .acquire_owned()
            .await
            .map_err(|_| Broken::NotConnected(io::Error::other("the router is stopping")))?;
        let port = url.port_or_known_default().unwrap_or(80);
        let socket = match url.host() {
            Some(url::Host::Domain(name)) => TcpStream::connect((name, port)).await,
            Some(url::Host::Ipv4(address)) => TcpStream::connect((address, port)).await,
            Some(url::Host::Ipv6(address)) => TcpStream::connect((address, port)).await,
            None => Err(io::Error::other("the URL names no host")),
        };
        let socket = socket.map_err(Broken::NotConnected)?;
        // A small POST must not wait for the acknowledgement of the one before.
        socket.set_nodelay(true).map_err(Broken::NotConnected)?;
        let wire = Wire { socket, rest: BytesMut::new(), scratch: Rc::clone(scratch) };
        Ok(Self { wire, codec: ClientCodec::new(config.clone()), permit })
    }

    /// Nobody has closed it while it was idle, nor said anything.
    pub(super) fn is_idle(&self) -> bool {
        let read = self.wire.socket.try_read(&mut [0]);
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends one request and waits for the head of its answer.
    async fn request(&mut self, head: RequestHeadType, body: &Bytes) -> Result<ResponseHead, Broken> {
        let sent = self.send(head, body).await;
        // A server that refuses a request answers before it has read all of it.
        let head = loop {
            match poll_fn(|context| self.poll_head(context)).await {
                // Unasked, but allowed (RFC 9110, section 15.2): the answer follows.
                Some(Ok(head)) if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS => {
                    self.forget_body_of_interim();
                }
                head => break head,
            }
        };
        match (head, sent) {
            (Some(Ok(head)), _) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                Err(Broken::NoAnswer("the upstream speaks another protocol now".to_owned()))
            }
            (Some(Ok(head)), _) => Ok(head),
            (_, Err(error)) => Err(Broken::NoAnswer(error.to_string())),
            (Some(Err(error)), Ok(())) => Err(Broken::NoAnswer(error.to_string())),
            (None, Ok(())) => Err(Broken::NoAnswer("the connection ended before the response".to_owned())),
        }
    }

    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<ResponseHead>>> {
        loop {
            if !self.wire.rest.is_empty() {
                let head = self.codec.decode(&mut self.wire.rest).map_err(io::Error::other);
                if let Some(head) = head.transpose() {
                    self.wire.give_back();
                    return Poll::Ready(Some(head));
                }
            }
            match ready!(self.wire.poll_read(context)) {
                Ok(0) if self.wire.rest.is_empty() => return Poll::Ready(None),
                Ok(0) => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// An interim answer has no body, whatever its head says (RFC 9112, section 6.3, no. 1). The codec believes the head, and
    /// would panic at the answer that follows.
    fn forget_body_of_interim(&mut self) {
        if !matches!(self.codec.message_type(), MessageType::None) {
            self.codec = ClientCodec::default();
        }
    }

    async fn send(&mut self, head: RequestHeadType, body: &Bytes) -> io::Result<()> {
        let size = if body.is_empty() { BodySize::None } else { BodySize::Sized(body.len() as u64) };
        let mut written = self.wire.scratch.written.take();
        written.clear();
        self.codec.encode(Message::Item((head, size)), &mut written)?;
        for from in (0..body.len()).step_by(PIECE) {
            let piece = body.slice(from..body.len().min(from + PIECE));
            self.codec.encode(Message::Chunk(Some(piece)), &mut written)?;
            self.wire.socket.write_all(&written).await?;
            written.clear();
        }
        self.codec.encode(Message::Chunk(None), &mut written)?;
        if !written.is_empty() {
            self.wire.socket.write_all(&written).await?;
        }
        // Another one may have made a buffer meanwhile: one is enough.
        self.wire.scratch.written.replace(written);
        Ok(())
    }

    /// Sends `body`. What the answer says beyond its head is read to its end, unless it may hold messages.
    pub(super) async fn exchange(
        mut self,
        head: &Head,
        url: &Uri,
        body: &Bytes,
    ) -> Result<(ResponseHead, Rest), Broken> {
        let kind = head;
        let head = self.request(kind.with_url(url), body).await?;
        if kind.may_be_told_by(&head) {
            let body = self.into_body(&head);
            return Ok((head, Rest::Body(body)));
        }
        let is_kept = self.is_kept(&head);
        let reusable = match self.codec.message_type() {
            // What is left over would be taken for the answer to the next request.
            MessageType::None => {
                let is_over = is_kept && !is_until_close(&head) && self.wire.rest.is_empty();
                is_over.then_some(self)
            }
            MessageType::Payload | MessageType::Stream => drain_soon(self.into_body(&head)).await,
        };
        Ok((head, Rest::Read(reusable)))
    }

    /// GETs `url`: the head of the answer, and its body as it comes.
    pub(super) async fn get(mut self, head: &Head, url: &Uri) -> Result<(ResponseHead, Body), Broken> {
        let head = self.request(head.with_url(url), &Bytes::new()).await?;
        let body = self.into_body(&head);
        Ok((head, body))
    }

    /// Neither side wants it closed behind this answer.
    fn is_kept(&self, head: &ResponseHead) -> bool {
        head.keep_alive() && self.codec.keep_alive()
    }

    fn into_body(self, head: &ResponseHead) -> Body {
        let is_kept = self.is_kept(head);
        let Self { wire, codec, permit } = self;
        let (codec, has_ended) = match codec.message_type() {
            _ if has_no_body(head.status) => (None, true),
            _ if is_until_close(head) => (None, false),
            MessageType::Payload | MessageType::Stream => (Some(codec.into_payload_codec()), false),
            MessageType::None => (None, true),
        };
        Body { wire, codec, has_ended, is_kept, permit }
    }
}

/// What is left of an answer behind its head.
pub(super) enum Rest {
    /// Nothing; the connection, if it can be used again.
    Read(Option<Connection>),
    /// A body that may hold messages.
    Body(Body),
}

/// The status has been read, so that only the connection may be lost from here on. A timer only if the rest is not here
/// already, as it usually is.
async fn drain_soon(body: Body) -> Option<Connection> {
    let mut drained = pin!(drain(body));
    match poll_fn(|context| Poll::Ready(drained.as_mut().poll(context))).await {
        Poll::Ready(drained) => drained,
        Poll::Pending => tokio::time::timeout(DRAIN_PATIENCE, drained).await.ok().flatten(),
    }
}

/// Reads an answer to its end; `None` if that is too far away or did not come.
async fn drain(mut body: Body) -> Option<Connection> {
    let mut read = 0;
    while let Some(chunk) = body.next().await {
        read += chunk.ok()?.len();
        if read > MAX_ACKNOWLEDGEMENT {
            return None;
        }
    }
    body.into_connection()
}

/// The body of an answer. Dropping it closes the connection.
pub(in crate::upstream) struct Body {
    wire: Wire,
    /// `None` for a body that ends with the connection.
    codec: Option<ClientPayloadCodec>,
    has_ended: bool,
    /// Neither side wants the connection closed behind it.
    is_kept: bool,
    permit: OwnedSemaphorePermit,
}

impl Body {
    /// The connection, if the body has been read to its end and it can be used again.
    pub(super) fn into_connection(self) -> Option<Connection> {
        let codec = self.codec.filter(|_| self.has_ended && self.is_kept && self.wire.rest.is_empty())?;
        Some(Connection { wire: self.wire, codec: codec.into_message_codec(), permit: self.permit })
    }

    /// The next bytes; `None` at the end. They should not be kept: they hold the thread's buffer.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, String>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, String>>> {
        loop {
            if self.has_ended {
                return Poll::Ready(None);
            }
            match self.take_piece() {
                Ok(None) => {}
                Ok(Some(piece)) => return Poll::Ready(Some(Ok(piece))),
                Err(error) => {
                    self.has_ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
            if self.has_ended {
                return Poll::Ready(None);
            }
            match ready!(self.wire.poll_read(context)) {
                Ok(0) => {
                    self.has_ended = true;
                    let cut = self.codec.is_some();
                    return Poll::Ready(cut.then(|| Err("the connection ended within the body".to_owned())));
                }
                Ok(_) => {}
                Err(error) => {
                    self.has_ended = true;
                    return Poll::Ready(Some(Err(error.to_string())));
                }
            }
        }
    }

    fn take_piece(&mut self) -> Result<Option<Bytes>, String> {
        let rest = &mut self.wire.rest;
        let piece = match &mut self.codec {
            None if rest.is_empty() => Ok(None),
            None => Ok(Some(rest.split().freeze())),
            // Asked without bytes, too: the end of a body with a length is none.
            Some(codec) => match codec.decode(rest) {
                Ok(Some(Some(piece))) => Ok(Some(piece)),
                Ok(Some(None)) => {
                    self.has_ended = true;
                    Ok(None)
                }
                Ok(None) => Ok(None),
                Err(error) => Err(error.to_string()),
            },
        };
        self.wire.give_back();
        piece
    }
}

#[cfg(test)]
mod tests {
    use actix_http::KeepAlive;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// What a GET makes of these bytes: status, and the body up to its end.
    async fn answer(bytes: &[u8]) -> (u16, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: url::Url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let server = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
            socket.write_all(bytes).await.unwrap();
            socket.shutdown().await.unwrap();
            socket
        };
        let client = async {
            let config = ServiceConfig::new(KeepAlive::Os, Default::default(), Default::default(), false, None);
            let limit = Arc::new(Semaphore::new(1));
            let connection = Connection::open(&url, &config, &limit, &Rc::default()).await.unwrap();
            let head = Head::new(Method::GET, HeaderMap::new());
            let uri = url.as_str().parse().unwrap();
            let (head, mut body) = connection.get(&head, &uri).await.unwrap();
            let mut read = Vec::new();
            while let Some(piece) = body.next().await {
                read.extend_from_slice(&piece.unwrap());
            }
            (head.status.as_u16(), read)
        };
        tokio::join!(server, client).1
    }

    #[actix_rt::test]
    async fn an_interim_answer_has_no_body_whatever_it_says() {
        for interim in [
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 100 Continue\r\ncontent-length: 7\r\n\r\n",
            "HTTP/1.1 100 Continue\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.0 100 Continue\r\n\r\n",
        ] {
            for (rest, body) in [
                ("content-length: 2\r\n\r\nok", "ok"),
                ("content-length: 0\r\n\r\n", ""),
                ("transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok"),
                ("\r\nok", "ok"),
            ] {
                let bytes = format!("{interim}HTTP/1.1 200 OK\r\n{rest}");
                assert_eq!(answer(bytes.as_bytes()).await, (200, body.as_bytes().to_vec()), "{bytes:?}");
            }
        }
    }
}
