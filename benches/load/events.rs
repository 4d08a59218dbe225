//! Event streams that a server fills by the clock, for what stands between: what one event costs, and that each comes once and in
//! its turn.

use std::{io, rc::Rc};

use testkit::{connection::invalid, events::Events};

use crate::{
    closed_loop::{self, Caller},
    figures::Figures,
    options::Load,
    session::{Client, open_many},
};

/// One stream.
struct Reader {
    events: Events,
    /// The number of the event that is next.
    next: u64,
}

impl Reader {
    async fn open(client: Rc<Client>, number: u32) -> io::Result<Self> {
        let mut events = Events::open(&client.target, client.source(number), &client.headers).await?;
        events.read_endpoint().await?;
        Ok(Self { events, next: 1 })
    }
}

impl Caller for Reader {
    async fn call(&mut self) -> io::Result<()> {
        let event = self.events.next_event().await?;
        let number = event.id.as_deref().and_then(|id| id.rsplit(|byte| *byte == b'.').next());
        if number != Some(self.next.to_string().as_bytes()) {
            return Err(invalid(format!("event {} is not what comes: {:?}", self.next, event.id)));
        }
        self.next += 1;
        Ok(())
    }
}

pub async fn run(load: &Load) -> io::Result<Figures> {
    let client = Client::new(&load.common, load.payload)?;
    let readers = open_many(&client, 0, load.common.sessions, Reader::open).await?;
    closed_loop::run("events", load, readers).await
}
