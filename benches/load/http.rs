//! HTTP/1.1 as a client, no more than the modes need: one request at a time on a connection, heads that are only
//! looked at for status, length and whether the connection stays.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _},
    str::FromStr,
};

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memmem;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

/// Free space that is offered to a read.
const READ_SIZE: usize = 4096;
/// A longer head is none.
const MAX_HEAD: usize = 64 << 10;

/// Where a URL leads.
#[derive(Debug, Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub url: url::Url,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url: url::Url = text.parse().map_err(|error: url::ParseError| error.to_string())?;
        let (Some(host), Some(port), "http") = (url.host_str(), url.port_or_known_default(), url.scheme()) else {
            return Err("an http URL with a host".to_owned());
        };
        let address = (host.trim_matches(['[', ']']), port)
            .to_socket_addrs()
            .map_err(|error| error.to_string())?
            .next()
            .ok_or("the host has no address")?;
        Ok(Self { address, url })
    }
}

impl Target {
    /// The same server, another path: `reference` as an `endpoint` event gives it.
    pub fn join(&self, reference: &str) -> io::Result<Self> {
        let url = self.url.join(reference).map_err(invalid)?;
        Ok(Self { address: self.address, url })
    }

    /// Path and query, as they stand in a request line.
    pub fn path(&self) -> &str {
        &self.url[url::Position::BeforePath..url::Position::AfterQuery]
    }

    /// `Host`.
    pub fn host(&self) -> &str {
        &self.url[url::Position::BeforeHost..url::Position::AfterPort]
    }
}

/// The loopback address of a session: balancers that hash by client look at the first three octets.
pub fn source_of(session: u32) -> IpAddr {
    let [.., high, low] = session.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, high.wrapping_add(1), low, 1))
}

/// What is known of a response before its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub body: BodyLength,
    /// The server closes the connection after this response.
    pub closes: bool,
}

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    Bytes(usize),
    Chunked,
    UntilClose,
}

/// A connection, with what was read of it and not used yet.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    unread: BytesMut,
}

impl Connection {
    pub async fn open(address: SocketAddr, source: Option<IpAddr>) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_nodelay(true)?;
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        Ok(Self { stream: socket.connect(address).await?, unread: BytesMut::new() })
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads what there is, at least one byte.
    async fn fill(&mut self) -> io::Result<()> {
        self.unread.reserve(READ_SIZE);
        if self.stream.read_buf(&mut self.unread).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    pub async fn read_head(&mut self) -> io::Result<Head> {
        let mut searched = 0_usize;
        loop {
            let from = searched.saturating_sub(3);
            if let Some(end) = memmem::find(&self.unread[from..], b"\r\n\r\n") {
                let head = parse_head(&self.unread[..from + end + 2])?;
                self.unread.advance(from + end + 4);
                return Ok(head);
            }
            searched = self.unread.len();
            if searched > MAX_HEAD {
                return Err(invalid("an endless response head"));
            }
            self.fill().await?;
        }
    }

    /// A whole response. Only for bodies of known length: nobody waits here for a stream.
    pub async fn read_response(&mut self) -> io::Result<(Head, Bytes)> {
        let head = self.read_head().await?;
        let body = match head.body {
            BodyLength::Bytes(length) => {
                while self.unread.len() < length {
                    self.fill().await?;
                }
                self.unread.split_to(length).freeze()
            }
            BodyLength::Chunked => {
                let (mut chunks, mut body) = (Chunks::default(), BytesMut::new());
                while !self.read_chunks(&mut chunks, &mut body).await? {}
                body.freeze()
            }
            BodyLength::UntilClose => loop {
                match self.fill().await {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break self.unread.split().freeze(),
                    Err(error) => return Err(error),
                }
            },
        };
        Ok((head, body))
    }

    /// More of a chunked body, at least one byte unless it has ended, which the answer tells.
    pub async fn read_chunks(&mut self, chunks: &mut Chunks, body: &mut BytesMut) -> io::Result<bool> {
        let before = body.len();
        loop {
            chunks.take(&mut self.unread, body)?;
            if chunks.ended || body.len() > before {
                return Ok(chunks.ended);
            }
            self.fill().await?;
        }
    }

    /// More of a body without an announced length.
    pub async fn read_rest(&mut self, body: &mut BytesMut) -> io::Result<()> {
        if self.unread.is_empty() {
            self.fill().await?;
        }
        body.extend_from_slice(&self.unread);
        self.unread.clear();
        Ok(())
    }
}

fn parse_head(head: &[u8]) -> io::Result<Head> {
    let status = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let status: u16 = status.filter(|_| head.starts_with(b"HTTP/1.")).ok_or_else(|| invalid("no HTTP response"))?;
    let mut body = if matches!(status, 204 | 304) { BodyLength::Bytes(0) } else { BodyLength::UntilClose };
    let mut closes = head.starts_with(b"HTTP/1.0");
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
            body = BodyLength::Bytes(length.ok_or_else(|| invalid("a content length that is no number"))?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") && value.eq_ignore_ascii_case(b"chunked") {
            body = BodyLength::Chunked;
        } else if name.eq_ignore_ascii_case(b"connection") && value.eq_ignore_ascii_case(b"close") {
            closes = true;
        }
    }
    Ok(Head { status, closes: closes || body == BodyLength::UntilClose, body })
}

/// Where a chunked body stands.
#[derive(Debug, Default)]
pub struct Chunks {
    /// Bytes of the current chunk that are still to come.
    left: usize,
    /// The line break behind a chunk's bytes is still to come.
    break_due: bool,
    last: bool,
    ended: bool,
}

impl Chunks {
    fn take(&mut self, from: &mut BytesMut, to: &mut BytesMut) -> io::Result<()> {
        while !self.ended && !from.is_empty() {
            if self.left > 0 {
                let length = self.left.min(from.len());
                to.extend_from_slice(&from[..length]);
                from.advance(length);
                self.left -= length;
                self.break_due = self.left == 0;
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', from) else { return Ok(()) };
            let line = from.split_to(end + 1);
            let line = line.trim_ascii();
            if std::mem::take(&mut self.break_due) {
                continue;
            }
            if self.last {
                // Trailers, and the empty line behind them.
                self.ended = line.is_empty();
                continue;
            }
            let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            let size = std::str::from_utf8(digits).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
            self.left = size.ok_or_else(|| invalid("a chunk without a size"))?;
            self.last = self.left == 0;
        }
        Ok(())
    }
}

/// Something that is not as it should be.
pub fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
