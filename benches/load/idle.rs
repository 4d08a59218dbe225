//! What an idle session costs in memory: sessions are opened, then nothing happens.

use std::{future::Future, io, rc::Rc, time::Instant};

use crate::{
    figures::Figures,
    options::{Idle, Transport},
    process::Sample,
    session::{Client, open_many},
    sse, streamable,
};

pub async fn run(options: &Idle) -> io::Result<Figures> {
    match options.transport {
        Transport::Sse if options.uninitialized => hold(options, sse::Session::connect).await,
        Transport::Sse => hold(options, sse::Session::open_idle).await,
        Transport::Streamable => hold(options, streamable::Session::open_idle).await,
    }
}

async fn hold<S, F>(options: &Idle, open: impl Fn(Rc<Client>, u32) -> F) -> io::Result<Figures>
where
    F: Future<Output = io::Result<S>>,
{
    let common = &options.common;
    let client = Client::new(common, 0)?;
    let mut held = open_many(&client, 0, options.before, &open).await?;
    tokio::time::sleep(options.settle).await;
    let before = Sample::take(&common.groups)?;
    let start = Instant::now();
    held.extend(open_many(&client, options.before, common.sessions, &open).await?);
    let elapsed = start.elapsed();
    tokio::time::sleep(options.settle).await;
    let after = Sample::take(&common.groups)?;
    let mut figures = Figures::new("idle", common);
    figures.seconds = elapsed.as_secs_f64();
    let sessions = u64::from(common.sessions);
    figures.set_processes(&before, &after, sessions, sessions);
    drop(held);
    Ok(figures)
}
