//! One HTTP+SSE session (2024-11-05) as a client holds it: the event stream, and a connection for its POSTs.

use std::{io, net::IpAddr, rc::Rc};

use bytes::Bytes;
use testkit::{
    connection::{Target, invalid, source_of},
    events::Events,
    poster::Poster,
};

use crate::{
    call::{Answer, Request, header_lines},
    closed_loop::Caller,
    options::Common,
};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"load","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const LIST_TOOLS: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

/// What all sessions of a run have in common.
#[derive(Debug)]
pub struct Client {
    pub target: Target,
    pub headers: String,
    pub payload: usize,
    spread: bool,
}

impl Client {
    pub fn new(common: &Common, payload: usize) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            target: common.url.clone(),
            headers: header_lines(&common.headers)?,
            payload,
            spread: common.spread,
        }))
    }

    /// The address that a session speaks from.
    pub fn source(&self, session: u32) -> Option<IpAddr> {
        self.spread.then(|| source_of(session))
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Session {
    pub client: Rc<Client>,
    pub number: u32,
    pub events: Events,
    /// Where to POST, as the `endpoint` event said.
    pub endpoint: Target,
    pub poster: Poster,
    pub request: Request,
}

impl Session {
    /// Opens the event stream and learns the endpoint.
    pub async fn connect(client: Rc<Client>, number: u32) -> io::Result<Self> {
        let source = client.source(number);
        let mut events = Events::open(&client.target, source, &client.headers).await?;
        let endpoint = client.target.join(&events.read_endpoint().await?)?;
        let request = Request::new(&endpoint, &client.headers, number, client.payload);
        let poster = Poster::new(endpoint.clone(), source);
        Ok(Self { client, number, events, endpoint, poster, request })
    }

    /// Opens a session up to `initialized`, as a client does before its first call.
    pub async fn open(client: Rc<Client>, number: u32) -> io::Result<Self> {
        let mut session = Self::connect(client, number).await?;
        let answer = session.ask(INITIALIZE).await?;
        if memchr::memmem::find(&answer, b"\"result\"").is_none() {
            return Err(invalid(format!("initialize failed: {}", String::from_utf8_lossy(&answer))));
        }
        let initialized = session.endpoint.post_json(&session.client.headers, INITIALIZED);
        session.poster.deliver(&initialized).await?;
        Ok(session)
    }

    /// Asks for the tools, as a client does that wants to use one.
    pub async fn list_tools(&mut self) -> io::Result<()> {
        self.ask(LIST_TOOLS).await.map(drop)
    }

    async fn ask(&mut self, body: &str) -> io::Result<Bytes> {
        let request = self.endpoint.post_json(&self.client.headers, body);
        self.poster.deliver(&request).await?;
        loop {
            let event = self.events.next_event().await?;
            if event.is_message() && memchr::memmem::find(&event.data, b"\"id\":").is_some() {
                return Ok(event.data);
            }
        }
    }
}

impl Caller for Session {
    async fn call(&mut self) -> io::Result<()> {
        // The answer waits in the socket if it is faster than the 202: a call is done when both are there.
        let Self { request, poster, events, .. } = self;
        poster.deliver(request.next()).await?;
        loop {
            let event = events.next_event().await?;
            if !event.is_message() {
                continue;
            }
            match request.check(&event.data) {
                Answer::Right => return Ok(()),
                Answer::None => {}
                answer => return Err(invalid(format!("{answer:?}: {}", String::from_utf8_lossy(&event.data)))),
            }
        }
    }
}

/// How many sessions are being opened at a time.
pub const OPENERS: usize = 32;

/// Opens sessions `first..first + count`.
pub async fn open_many(client: &Rc<Client>, first: u32, count: u32) -> io::Result<Vec<Session>> {
    use futures_util::{StreamExt as _, TryStreamExt as _, stream};
    stream::iter(first..first + count)
        .map(|number| Session::open(Rc::clone(client), number))
        .buffer_unordered(OPENERS)
        .try_collect()
        .await
}
