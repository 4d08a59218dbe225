//! Tool calls over HTTP+SSE sessions (2024-11-05). A client holds the event stream, and a connection for its POSTs.

use std::{io, rc::Rc};

use bytes::Bytes;
use testkit::{connection::Target, events::Events, poster::Poster};

use crate::{
    call::Request,
    closed_loop::{self, Caller},
    figures::Figures,
    options::Load,
    session::{Client, INITIALIZE, INITIALIZED, check_initialized, open_many},
};

const LIST_TOOLS: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

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
        let request = Request::new(&endpoint, &client.headers, number, &client.tool, client.payload);
        let poster = Poster::new(endpoint.clone(), source);
        Ok(Self { client, number, events, endpoint, poster, request })
    }

    /// Opens a session up to `initialized`, as a client does before its first call.
    pub async fn open(client: Rc<Client>, number: u32) -> io::Result<Self> {
        let mut session = Self::connect(client, number).await?;
        check_initialized(&session.ask(INITIALIZE).await?)?;
        let initialized = session.endpoint.post_json(&session.client.headers, INITIALIZED);
        session.poster.deliver(&initialized).await?;
        Ok(session)
    }

    /// As [`Self::open`], of a client that is idle: it has no connection for POSTs.
    pub async fn open_idle(client: Rc<Client>, number: u32) -> io::Result<Self> {
        let session = Self::open(client, number).await?;
        session.poster.hang_up();
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
            if event.is_message() && request.is_answered_by(&event.data)? {
                return Ok(());
            }
        }
    }
}

pub async fn run(load: &Rc<Load>) -> io::Result<Figures> {
    let client = Client::new(&load.common, load.payload)?;
    let sessions = open_many(&client, 0, load.common.sessions, Session::open).await?;
    // At a load that leaves CPU idle every call wakes everybody up: not to be mixed with the other figures.
    let mode = if load.think.is_zero() { "sse" } else { "paced" };
    closed_loop::run(mode, load, sessions).await
}
