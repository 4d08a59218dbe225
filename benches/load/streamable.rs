//! Tool calls over Streamable HTTP sessions (2025-11-25). A client holds a connection for its POSTs, each of which brings
//! its own answer, and, if it is told to, the session's event stream.

use std::{io, rc::Rc};

use bytes::Bytes;
use testkit::{
    connection::{header, invalid},
    events::{Answer, Events},
    poster::Poster,
    sse::{Parser, Piece},
};

use crate::{
    call::Request,
    closed_loop::{self, Caller},
    figures::Figures,
    options::Streamable,
    session::{Client, INITIALIZE, INITIALIZED, check_initialized, open_many},
};

/// See the module's text.
#[derive(Debug)]
pub struct Session {
    client: Rc<Client>,
    number: u32,
    /// Header lines of every request of the session.
    headers: String,
    poster: Poster,
    request: Request,
    /// Nobody reads it: it is there to be held.
    _listening: Option<Events>,
}

impl Session {
    /// Opens a session up to `initialized`, as a client does before its first call.
    pub async fn open(client: Rc<Client>, number: u32) -> io::Result<Self> {
        let poster = Poster::new(client.target.clone(), client.source(number));
        let headers = initialize(&client, &poster).await?;
        poster.deliver(&client.target.post_json(&headers, INITIALIZED)).await?;
        let request = Request::new(&client.target, &headers, number, &client.tool, client.payload);
        Ok(Self { client, number, headers, poster, request, _listening: None })
    }

    /// As [`Self::open`], and the session's event stream, as most clients have it.
    pub async fn open_listening(client: Rc<Client>, number: u32) -> io::Result<Self> {
        let mut session = Self::open(client, number).await?;
        let Self { client, headers, .. } = &session;
        session._listening = Some(Events::open(&client.target, client.source(session.number), headers).await?);
        Ok(session)
    }

    /// As [`Self::open_listening`], of a client that is idle: it has no connection for POSTs.
    pub async fn open_idle(client: Rc<Client>, number: u32) -> io::Result<Self> {
        let session = Self::open_listening(client, number).await?;
        session.poster.hang_up();
        Ok(session)
    }
}

/// Begins a session; the header lines of its requests.
async fn initialize(client: &Client, poster: &Poster) -> io::Result<String> {
    let asked = poster.ask(&client.target.post_json(&client.headers, INITIALIZE)).await?;
    let (headers, answer) = match asked {
        Answer::Stream(mut events, headers) => (headers, next_message(&mut events).await?),
        Answer::Other(200, headers, body) => (headers, body),
        Answer::Other(status, ..) => return Err(invalid(format!("initialize is answered with status {status}"))),
    };
    check_initialized(&answer)?;
    let session = header(&headers, "mcp-session-id").ok_or_else(|| invalid("initialize began no session"))?;
    Ok(format!("{}Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n", client.headers))
}

/// The next event that says something: the first of a stream has no data.
async fn next_message(events: &mut Events) -> io::Result<Bytes> {
    loop {
        let event = events.next_event().await?;
        if !event.data.is_empty() {
            return Ok(event.data);
        }
    }
}

/// The body of the response to a call is its answer, or the event stream that ends with it.
fn check(request: &Request, body: Bytes) -> io::Result<()> {
    if body.first() == Some(&b'{') {
        return if request.is_answered_by(&body)? { Ok(()) } else { Err(unanswered(&body)) };
    }
    let mut parser = Parser::default();
    parser.text.extend_from_slice(&body);
    let mut is_answered = false;
    while let Some(piece) = parser.next_piece() {
        if let Piece::Event(event) = piece {
            if is_answered {
                return Err(invalid(format!("after the answer: {}", String::from_utf8_lossy(&event.data))));
            }
            is_answered = request.is_answered_by(&event.data)?;
        }
    }
    if is_answered { Ok(()) } else { Err(unanswered(&body)) }
}

fn unanswered(body: &[u8]) -> io::Error {
    invalid(format!("no answer: {}", String::from_utf8_lossy(body)))
}

impl Caller for Session {
    async fn call(&mut self) -> io::Result<()> {
        let body = self.poster.deliver(self.request.next()).await?;
        check(&self.request, body)
    }

    /// Sessions have no end of their own: those of the next window are not to be counted beside them.
    async fn close(self) -> io::Result<()> {
        self.poster.deliver(&self.client.target.delete(&self.headers)).await.map(drop)
    }
}

pub async fn run(options: &Streamable) -> io::Result<Figures> {
    let Streamable { load, listen } = options;
    let client = Client::new(&load.common, load.payload)?;
    let count = load.common.sessions;
    let sessions = if *listen {
        open_many(&client, 0, count, Session::open_listening).await?
    } else {
        open_many(&client, 0, count, Session::open).await?
    };
    closed_loop::run("streamable", load, sessions).await
}
