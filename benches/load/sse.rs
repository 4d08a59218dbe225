//! Tool calls over HTTP+SSE sessions.

use std::{io, rc::Rc};

use crate::{
    closed_loop,
    figures::Figures,
    options::Load,
    session::{Client, open_many},
};

pub async fn run(load: &Rc<Load>) -> io::Result<Figures> {
    let client = Client::new(&load.common, load.payload)?;
    let sessions = open_many(&client, 0, load.common.sessions).await?;
    // At a load that leaves CPU idle every call wakes everybody up: not to be mixed with the other figures.
    let mode = if load.think.is_zero() { "sse" } else { "paced" };
    closed_loop::run(mode, load, sessions).await
}
