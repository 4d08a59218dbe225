//! An event stream over a connection of its own, at as little CPU as possible. [`crate::EventStream`] is the one for
//! tests, which tells everything in text.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use bytes::{Bytes, BytesMut};

use crate::{
    connection::{BodyLength, Chunks, Connection, Headers, Target, invalid},
    sse::{Block, Parser, Piece},
};

/// A GET whose body does not end.
#[derive(Debug)]
pub struct Events {
    connection: Connection,
    chunks: Option<Chunks>,
    parser: Parser,
    ended: bool,
    /// The first chunk of the body, as it came.
    pub first_chunk: Bytes,
    /// The last `id:` seen.
    pub last_id: Bytes,
}

/// Answer to a request.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one of them at a time")]
pub enum Answer {
    /// A stream, and the headers of the answer.
    Stream(Events, Headers),
    /// Something else: status, headers, body.
    Other(u16, Headers, Bytes),
}

impl Answer {
    /// Reads the answer to a request that was written; and the connection, if another request may follow on it.
    ///
    /// # Errors
    /// The connection broke before the answer was complete.
    pub(crate) async fn read(mut connection: Connection) -> io::Result<(Self, Option<Connection>)> {
        let (head, headers) = connection.read_head_and_headers().await?;
        let kind = crate::header(&headers, "content-type").unwrap_or_default();
        if head.status == 200 && kind.starts_with("text/event-stream") {
            return Ok((Self::Stream(Events::new(connection, head.body), headers), None));
        }
        let body = connection.read_body(head.body).await?;
        Ok((Self::Other(head.status, headers, body), Some(connection).filter(|_| !head.closes)))
    }
}

impl Events {
    /// Opens `target`; `headers` are whole lines.
    ///
    /// # Errors
    /// No connection, or any answer but 200.
    pub async fn open(target: &Target, source: Option<IpAddr>, headers: &str) -> io::Result<Self> {
        let mut connection = Connection::open(target.address, source).await?;
        connection.write(&target.get_stream(headers)).await?;
        let head = connection.read_head().await?;
        if head.status != 200 {
            return Err(invalid(format!("the event stream is answered with status {}", head.status)));
        }
        Ok(Self::new(connection, head.body))
    }

    /// Sends these bytes and looks at the answer.
    ///
    /// # Errors
    /// No connection, or it broke before the answer was complete.
    pub async fn ask(address: SocketAddr, source: Option<IpAddr>, request: &[u8]) -> io::Result<Answer> {
        let mut connection = Connection::open(address, source).await?;
        connection.write(request).await?;
        Ok(Answer::read(connection).await?.0)
    }

    fn new(connection: Connection, body: BodyLength) -> Self {
        let chunks = (body == BodyLength::Chunked).then(Chunks::default);
        let (parser, first_chunk, last_id) = (Parser::default(), Bytes::new(), Bytes::new());
        Self { connection, chunks, parser, ended: false, first_chunk, last_id }
    }

    /// What comes next; `None` after the last chunk. May be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// The connection ended without a last chunk.
    pub async fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.parser.next_piece() {
                if let Piece::Event(Block { id: Some(id), .. }) = &piece {
                    self.last_id.clone_from(id);
                }
                return Ok(Some(piece));
            }
            if self.ended {
                return Ok(None);
            }
            let text: &mut BytesMut = &mut self.parser.text;
            match &mut self.chunks {
                Some(chunks) => self.ended = self.connection.read_chunks(chunks, text).await?,
                None => self.connection.read_rest(text).await?,
            }
            if self.first_chunk.is_empty() {
                self.first_chunk = Bytes::copy_from_slice(text);
            }
        }
    }

    /// The next event; comments are left out.
    ///
    /// # Errors
    /// The stream has ended, in whatever way.
    pub async fn next_event(&mut self) -> io::Result<Block> {
        loop {
            match self.next_piece().await? {
                Some(Piece::Event(event)) => return Ok(event),
                Some(Piece::Comment(_)) => {}
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// The first event, which names the endpoint.
    ///
    /// # Errors
    /// It does not, or none comes.
    pub async fn read_endpoint(&mut self) -> io::Result<String> {
        let first = self.next_event().await?;
        if !first.is_endpoint() {
            return Err(invalid("the first event is not the endpoint"));
        }
        String::from_utf8(first.data.to_vec()).map_err(|_| invalid("an endpoint that is no text"))
    }

    /// The reconnection time (milliseconds) that the stream has told since the last call.
    pub fn take_retry(&mut self) -> Option<u64> {
        self.parser.take_retry()
    }

    /// Its connection, with what was read of it.
    pub fn into_connection(self) -> Connection {
        self.connection
    }
}
