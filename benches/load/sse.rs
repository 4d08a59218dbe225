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
    closed_loop::run("sse", load, sessions).await
}
