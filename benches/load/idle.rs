//! What an idle session costs in memory: sessions are opened, then nothing happens.

use std::{io, rc::Rc, time::Instant};

use crate::{
    figures::Figures,
    options::Idle,
    process::Sample,
    session::{Client, OPENERS, Session},
};

pub async fn run(options: &Idle) -> io::Result<Figures> {
    let common = &options.common;
    let client = Client::new(common, 0)?;
    let mut held = open(&client, options, 0, options.before).await?;
    tokio::time::sleep(options.settle).await;
    let before = Sample::take(&common.groups)?;
    let start = Instant::now();
    held.extend(open(&client, options, options.before, common.sessions).await?);
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

async fn open(client: &Rc<Client>, options: &Idle, first: u32, count: u32) -> io::Result<Vec<Session>> {
    use futures_util::{StreamExt as _, TryStreamExt as _, stream};
    stream::iter(first..first + count)
        .map(|number| async move {
            if options.uninitialized {
                return Session::connect(Rc::clone(client), number).await;
            }
            let session = Session::open(Rc::clone(client), number).await?;
            // A client that is idle has no connection for POSTs.
            session.poster.hang_up();
            Ok(session)
        })
        .buffer_unordered(OPENERS)
        .try_collect()
        .await
}
