//! A TCP link with faults on demand. What holds at the moment of a switch holds for open connections too.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::AbortHandle,
};

use crate::listen;

/// What the link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on.
    Pass,
    /// Resets open connections, and new ones as soon as they are made.
    Cut,
    /// Keeps connections open, takes new ones, and passes nothing on: a dead network. What was sent meanwhile arrives
    /// when the link passes again.
    BlackHole,
    /// Requests arrive, answers are thrown away: what was written is written, and nobody knows.
    LoseAnswers,
    /// As a black hole, but for connections that have subscribed to something, or try to.
    BlackHoleSubscriptions,
    /// Passes everything on, late.
    Delay(Duration),
}

/// See module documentation.
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    mode: watch::Sender<Mode>,
    /// How often it was cut: a cut that is soon over must not be missed by a connection.
    cuts: watch::Sender<u64>,
    target: watch::Sender<SocketAddr>,
    accepting: AbortHandle,
}

impl FaultProxy {
    /// Starts a link to `target`.
    pub async fn start(target: SocketAddr) -> Self {
        let (mode, follow) = watch::channel(Mode::Pass);
        let (target, leads_to) = watch::channel(target);
        let (cuts, cut) = watch::channel(0);
        let (addr, accepting) = listen(move |socket| {
            let target = *leads_to.borrow();
            // Cuts from before it are none of its own.
            let mut cut = cut.clone();
            cut.mark_unchanged();
            connect(socket, target, follow.clone(), cut)
        })
        .await;
        Self { addr, mode, cuts, target, accepting }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Leads new connections to another place; those that are open stay where they are.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// Switches.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
        if mode == Mode::Cut {
            self.cuts.send_modify(|cuts| *cuts += 1);
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        // Ends the connections.
        self.set(Mode::Cut);
    }
}

async fn connect(
    client: TcpStream,
    target: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    mut cuts: watch::Receiver<u64>,
) {
    let reset_at_close = |socket: &TcpStream| {
        let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
    };
    // A dead network answers no SYN either; being connected to nobody comes closest.
    if mode.wait_for(|mode| *mode != Mode::BlackHole).await.is_err() || *mode.borrow() == Mode::Cut {
        return reset_at_close(&client);
    }
    let Ok(server) = TcpStream::connect(target).await else { return reset_at_close(&client) };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    reset_at_close(&client);
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let subscribes = Arc::new(AtomicBool::new(false));
    let up = pass(from_client, to_server, mode.clone(), Arc::clone(&subscribes), false);
    let down = pass(from_server, to_client, mode.clone(), subscribes, true);
    let cut = async move {
        let _ = cuts.changed().await;
    };
    // Either side's end is the end of both.
    tokio::select! {
        () = up => {}
        () = down => {}
        () = cut => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    subscribes: Arc<AtomicBool>,
    is_answer: bool,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        if count == 0 {
            return;
        }
        if !is_answer && buffer[..count].windows(9).any(|word| word.eq_ignore_ascii_case(b"SUBSCRIBE")) {
            subscribes.store(true, Ordering::Relaxed);
        }
        let passes = |mode: &Mode| match mode {
            Mode::BlackHole => false,
            Mode::BlackHoleSubscriptions => !subscribes.load(Ordering::Relaxed),
            _ => true,
        };
        let Ok(now) = mode.wait_for(passes).await.map(|mode| *mode) else { return };
        match now {
            Mode::LoseAnswers if is_answer => continue,
            Mode::Cut => return,
            Mode::Delay(delay) => tokio::time::sleep(delay).await,
            _ => {}
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
