//! Session openings: each of N openers opens a session up to `initialized`, closes it, and opens the next one.

use std::{cell::Cell, io, rc::Rc, time::Instant};

use tokio::task::JoinSet;

use crate::{
    closed_loop::{self, Window},
    figures::Figures,
    options::Load,
    session::{Client, Session},
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
