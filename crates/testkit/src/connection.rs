//! One HTTP/1.1 connection as a client holds it: one request at a time, at as little CPU as possible, since the load
//! generator shares its machine with what it measures.
//!
//! It reads a response head for status, length and whether the connection stays; whoever wants the header lines asks for
//! them. Every wait may be dropped: what was read stays for the next call. It judges nothing and never tries again.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _},
    str::FromStr,
    time::Duration,
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

/// Header lines, names in lower case.
pub type Headers = Vec<(String, String)>;

/// The value of a header.
pub fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Where a URL leads.
#[derive(Debug, Clone)]
pub struct Target {
    /// Of its host.
    pub address: SocketAddr,
    /// As it was given.
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
    ///
    /// # Errors
    /// It is no reference.
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

    /// Bytes of a GET for an event stream; `headers` are whole lines.
    pub fn get_stream(&self, headers: &str) -> Vec<u8> {
        let (path, host) = (self.path(), self.host());
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n{headers}\r\n").into_bytes()
    }

    /// Bytes of a DELETE; `headers` are whole lines.
    pub fn delete(&self, headers: &str) -> Vec<u8> {
        format!("DELETE {} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.path(), self.host()).into_bytes()
    }

    /// Bytes of a POST of a JSON body; `headers` are whole lines.
    pub fn post_json(&self, headers: &str, body: &str) -> Vec<u8> {
        format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n{headers}\r\n{body}",
            self.path(),
            self.host(),
            body.len()
        )
        .into_bytes()
    }
}

/// A loopback address of this number's own: balancers that hash by client look at the first three octets.
pub fn source_of(number: u32) -> IpAddr {
    let [.., high, low] = number.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, high.wrapping_add(1), low, 1))
}

/// What is known of a response before its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its status.
    pub status: u16,
    /// Where its body ends.
    pub body: BodyLength,
    /// The server closes the connection after this response.
    pub closes: bool,
}

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// After so many bytes.
    Bytes(usize),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// A connection, with what was read of it and not used yet.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    unread: BytesMut,
}

impl Connection {
    /// Connects, from an address of this machine if one is given.
    ///
    /// # Errors
    /// Nobody takes the connection.
    pub async fn open(address: SocketAddr, source: Option<IpAddr>) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_nodelay(true)?;
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        Ok(Self { stream: socket.connect(address).await?, unread: BytesMut::new() })
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Nothing has come that nobody asked for; the end of the connection neither.
    pub fn is_quiet(&self) -> bool {
        self.unread.is_empty()
            && matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Reads what there is, at least one byte.
    async fn fill(&mut self) -> io::Result<()> {
        self.unread.reserve(READ_SIZE);
        if self.stream.read_buf(&mut self.unread).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Reads a response head.
    ///
    /// # Errors
    /// It is none, or the connection broke before its end.
    pub async fn read_head(&mut self) -> io::Result<Head> {
        let lines = self.read_head_lines().await?;
        parse_head(&lines, |_, _| {})
    }

    /// As [`Self::read_head`], with the header lines.
    ///
    /// # Errors
    /// As there.
    pub async fn read_head_and_headers(&mut self) -> io::Result<(Head, Headers)> {
        let lines = self.read_head_lines().await?;
        let mut headers = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let head = parse_head(&lines, |name, value| headers.push((text(name).to_ascii_lowercase(), text(value))))?;
        Ok((head, headers))
    }

    /// Everything before the empty line, with a line break behind each line.
    async fn read_head_lines(&mut self) -> io::Result<BytesMut> {
        let mut searched = 0_usize;
        loop {
            let from = searched.saturating_sub(3);
            if let Some(end) = memmem::find(&self.unread[from..], b"\r\n\r\n") {
                let lines = self.unread.split_to(from + end + 2);
                self.unread.advance(2);
                return Ok(lines);
            }
            searched = self.unread.len();
            if searched > MAX_HEAD {
                return Err(invalid("an endless response head"));
            }
            self.fill().await?;
        }
    }

    /// A whole response. Only for bodies that end: nobody waits here for a stream.
    ///
    /// # Errors
    /// It is none, or the connection broke before its end.
    pub async fn read_response(&mut self) -> io::Result<(Head, Bytes)> {
        let head = self.read_head().await?;
        Ok((head, self.read_body(head.body).await?))
    }

    /// The body behind a head.
    ///
    /// # Errors
    /// The connection broke before its end.
    pub async fn read_body(&mut self, body: BodyLength) -> io::Result<Bytes> {
        match body {
            BodyLength::Bytes(length) => {
                while self.unread.len() < length {
                    self.fill().await?;
                }
                Ok(self.unread.split_to(length).freeze())
            }
            BodyLength::Chunked => {
                let (mut chunks, mut body) = (Chunks::default(), BytesMut::new());
                while !self.read_chunks(&mut chunks, &mut body).await? {}
                Ok(body.freeze())
            }
            BodyLength::UntilClose => loop {
                match self.fill().await {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        return Ok(self.unread.split().freeze());
                    }
                    Err(error) => return Err(error),
                }
            },
        }
    }

    /// More of a chunked body, at least one byte unless it has ended, which the answer tells.
    ///
    /// # Errors
    /// The connection broke, or this is no chunked body.
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
    ///
    /// # Errors
    /// The connection has ended; without a length that is all there is to tell.
    pub async fn read_rest(&mut self, body: &mut BytesMut) -> io::Result<()> {
        if self.unread.is_empty() {
            self.fill().await?;
        }
        body.extend_from_slice(&self.unread);
        self.unread.clear();
        Ok(())
    }

    /// Ends the connection with RST.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("a socket option");
    }

    /// Ends this side (FIN) and goes on reading.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }
}

fn parse_head(head: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> io::Result<Head> {
    let status = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let status: u16 = status.filter(|_| head.starts_with(b"HTTP/1.")).ok_or_else(|| invalid("no HTTP response"))?;
    let mut body = if matches!(status, 204 | 304) { BodyLength::Bytes(0) } else { BodyLength::UntilClose };
    let mut closes = head.starts_with(b"HTTP/1.0");
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        each(name, value);
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
    /// The first chunk has been handed over, by itself: tests look at what a server sends at once.
    past_first: bool,
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
                if self.break_due && !std::mem::replace(&mut self.past_first, true) {
                    return Ok(());
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_is_the_same_however_its_bytes_are_cut() {
        let wire = b"3\r\nabc\r\n5;x=y\r\ndef\r\n\r\n0\r\nTrailer: t\r\n\r\n";
        for size in 1..wire.len() {
            let (mut chunks, mut unread, mut body) = (Chunks::default(), BytesMut::new(), BytesMut::new());
            for piece in wire.chunks(size) {
                unread.extend_from_slice(piece);
                // Twice: the first chunk is handed over by itself.
                chunks.take(&mut unread, &mut body).unwrap();
                chunks.take(&mut unread, &mut body).unwrap();
            }
            assert_eq!((&body[..], chunks.ended), (&b"abcdef\r\n"[..], true), "in pieces of {size}");
        }
    }

    #[test]
    fn a_head_tells_where_its_body_ends_and_whether_the_connection_stays() {
        let table = [
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n", 200, BodyLength::Bytes(3), false),
            ("HTTP/1.1 202 Accepted\r\nContent-Length:8\r\nConnection: Close\r\n", 202, BodyLength::Bytes(8), true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", 200, BodyLength::Chunked, false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n", 200, BodyLength::Bytes(0), true),
            ("HTTP/1.1 204 No Content\r\n", 204, BodyLength::Bytes(0), false),
            ("HTTP/1.1 503 x\r\n", 503, BodyLength::UntilClose, true),
        ];
        for (text, status, body, closes) in table {
            assert_eq!(parse_head(text.as_bytes(), |_, _| {}).unwrap(), Head { status, body, closes }, "{text}");
        }
        for text in ["", "SSH-2.0-x\r\n", "HTTP/1.1 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: x\r\n"] {
            assert!(parse_head(text.as_bytes(), |_, _| {}).is_err(), "{text}");
        }
    }
}
