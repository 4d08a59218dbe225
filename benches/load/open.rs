//! Session openings: each of N openers opens a session up to `initialized`, closes it, and opens the next one. And what
//! is left of such sessions when their time is over, which should be nothing.

use std::{cell::Cell, io, rc::Rc, time::Instant};

use tokio::task::JoinSet;

use crate::{
    closed_loop::{self, Window},
    figures::Figures,
    options::{Churn, Load},
    process::Sample,
    session::Client,
    sse::Session,
};

pub async fn run(load: &Rc<Load>) -> io::Result<Figures> {
    let client = Client::new(&load.common, load.payload)?;
    let window = Window::new();
    let next = Rc::new(Cell::new(0));
    let mut openers = JoinSet::new();
    for _ in 0..load.common.sessions {
        openers.spawn_local(open(Rc::clone(&client), Rc::clone(&window), Rc::clone(&next)));
    }
    closed_loop::measure("open", load, &window, openers).await
}

async fn open(client: Rc<Client>, window: Rc<Window>, next: Rc<Cell<u32>>) {
    while window.is_open() {
        let start = Instant::now();
        match Session::open(Rc::clone(&client), next.replace(next.get() + 1)).await {
            Ok(_session) => window.done(start),
            Err(error) => return window.failed(&error),
        }
    }
}

pub async fn churn(options: Churn) -> io::Result<Figures> {
    let Churn { load, windows, settle } = options;
    let load = Rc::new(load);
    let mut figures = Figures::new("churn", &load.common);
    let mut before = None;
    for _window in 0..windows {
        let opened = run(&load).await?;
        opened.copy_errors(&mut figures);
        tokio::time::sleep(settle).await;
        if before.is_none() {
            before = Some(Sample::take(&load.common.groups)?);
        } else {
            figures.calls += opened.calls;
            figures.seconds += opened.seconds;
        }
    }
    let after = Sample::take(&load.common.groups)?;
    figures.calls_per_second = figures.calls as f64 / figures.seconds;
    let opened = figures.calls;
    figures.set_processes(before.as_ref().unwrap_or(&after), &after, opened, opened);
    Ok(figures)
}
