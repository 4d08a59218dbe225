//! An event stream over a connection: lines are looked for once, and an event's data is handed out without a copy.

use std::{io, net::IpAddr};

use bytes::{Bytes, BytesMut};

use crate::http::{BodyLength, Chunks, Connection, Target, invalid};

/// One event.
#[derive(Debug)]
pub struct Event {
    pub kind: Kind,
    pub data: Bytes,
}

/// Its name, as far as it matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    Message,
    Endpoint,
    Other,
}

/// A GET whose body does not end.
#[derive(Debug)]
pub struct EventStream {
    connection: Connection,
    chunks: Option<Chunks>,
    text: BytesMut,
    /// So much of `text` holds no line break.
    searched: usize,
    kind: Kind,
    data: Option<Bytes>,
    /// The last `id:` seen.
    pub last_id: Bytes,
}

impl EventStream {
    /// Opens `target`; anything but 200 is an error. `headers` are whole lines.
    pub async fn open(target: &Target, source: Option<IpAddr>, headers: &str) -> io::Result<Self> {
        let mut connection = Connection::open(target.address, source).await?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n{headers}\r\n",
            target.path(),
            target.host()
        );
        connection.write(request.as_bytes()).await?;
        let head = connection.read_head().await?;
        if head.status != 200 {
            return Err(invalid(format!("the event stream is answered with status {}", head.status)));
        }
        let chunks = (head.body == BodyLength::Chunked).then(Chunks::default);
        Ok(Self {
            connection,
            chunks,
            text: BytesMut::new(),
            searched: 0,
            kind: Kind::default(),
            data: None,
            last_id: Bytes::new(),
        })
    }

    /// The next event that has data. May be dropped while it waits: nothing is lost.
    pub async fn next(&mut self) -> io::Result<Event> {
        loop {
            while let Some(at) = memchr::memchr(b'\n', &self.text[self.searched..]) {
                let line = self.text.split_to(self.searched + at + 1).freeze();
                self.searched = 0;
                if let Some(event) = self.take_line(&line) {
                    return Ok(event);
                }
            }
            self.searched = self.text.len();
            let ended = match &mut self.chunks {
                Some(chunks) => self.connection.read_chunks(chunks, &mut self.text).await?,
                None => {
                    self.connection.read_rest(&mut self.text).await?;
                    false
                }
            };
            if ended && self.text.len() == self.searched {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take_line(&mut self, line: &Bytes) -> Option<Event> {
        let end = line.len() - if line.ends_with(b"\r\n") { 2 } else { 1 };
        if end == 0 {
            let kind = std::mem::take(&mut self.kind);
            return self.data.take().map(|data| Event { kind, data });
        }
        let colon = memchr::memchr(b':', &line[..end])?;
        let start = colon + 1 + usize::from(line[..end].get(colon + 1) == Some(&b' '));
        match &line[..colon] {
            b"data" => {
                let more = line.slice(start..end);
                self.data = Some(match self.data.take() {
                    None => more,
                    Some(before) => [&before[..], b"\n", &more[..]].concat().into(),
                });
            }
            b"event" => {
                self.kind = match &line[start..end] {
                    b"message" => Kind::Message,
                    b"endpoint" => Kind::Endpoint,
                    _ => Kind::Other,
                };
            }
            b"id" => self.last_id = line.slice(start..end),
            _ => {}
        }
        None
    }
}
