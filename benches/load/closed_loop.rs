//! The measured window: all sessions work in a closed loop, first to get warm, then to be counted.
//!
//! CPU is read at both ends of the window and divided by the calls that were completed in it.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{
    figures::{Figures, Latencies},
    options::{Common, Load},
    process::Sample,
    progress,
};

/// A transport: one session or caller that sends one call at a time.
pub trait Caller: 'static {
    /// Sends the next call and returns when its answer has been checked.
    async fn call(&mut self) -> io::Result<()>;

    /// Ends the session, after the window.
    async fn close(self) -> io::Result<()>
    where
        Self: Sized,
    {
        Ok(())
    }
}

/// How long the last calls may take after the window.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Warming,
    Measured,
    Over,
}

/// What the callers of one run share.
pub struct Window {
    phase: Cell<Phase>,
    latencies: RefCell<Latencies>,
    errors: RefCell<Vec<String>>,
}

impl Window {
    pub fn new() -> Rc<Self> {
        Rc::new(Self { phase: Cell::new(Phase::Warming), latencies: RefCell::default(), errors: RefCell::default() })
    }

    /// From now on calls are counted.
    pub fn begin(&self) {
        self.phase.set(Phase::Measured);
    }

    /// From now on they are not, and callers stop.
    pub fn end(&self) {
        self.phase.set(Phase::Over);
    }

    /// What was counted in a window of this length.
    pub fn report(&self, figures: &mut Figures, elapsed: Duration) {
        figures.set_calls(&mut self.latencies.borrow_mut(), elapsed);
        for error in self.errors.borrow_mut().drain(..) {
            figures.add_error(error);
        }
    }

    /// The run goes on.
    pub fn is_open(&self) -> bool {
        self.phase.get() != Phase::Over
    }

    /// Counts what began at `start` and is done now, if it is to be counted.
    pub fn done(&self, start: Instant) {
        if self.phase.get() == Phase::Measured {
            self.latencies.borrow_mut().add(start.elapsed());
        }
    }

    /// Something went wrong, whenever it was.
    pub fn failed(&self, error: &dyn std::fmt::Display) {
        self.errors.borrow_mut().push(error.to_string());
    }
}

/// Lets every caller work until the window is over; one that fails stops.
pub async fn run<C: Caller>(mode: &'static str, load: &Load, callers: Vec<C>) -> io::Result<Figures> {
    let window = Window::new();
    let mut tasks = JoinSet::new();
    for caller in callers {
        tasks.spawn_local(work(caller, Rc::clone(&window), load.think));
    }
    measure(mode, load, &window, tasks).await
}

async fn work<C: Caller>(mut caller: C, window: Rc<Window>, think: Duration) {
    // Callers that pause do not do so in step.
    tokio::time::sleep(think.mul_f64(fastrand::f64())).await;
    while window.is_open() {
        let start = Instant::now();
        match caller.call().await {
            Ok(()) => window.done(start),
            Err(error) => return window.failed(&error),
        }
        if !think.is_zero() {
            tokio::time::sleep(think).await;
        }
    }
    if let Err(error) = caller.close().await {
        window.failed(&error);
    }
}

/// Waits for the window to pass while `tasks` work.
pub async fn measure(
    mode: &'static str,
    load: &Load,
    window: &Rc<Window>,
    mut tasks: JoinSet<()>,
) -> io::Result<Figures> {
    let Common { groups, .. } = &load.common;
    // On a terminal alone; it costs a few writes a second, while the router costs a core.
    let progress = progress::over(mode, load.warmup + load.seconds);
    tokio::time::sleep(load.warmup).await;
    let before = Sample::take(groups)?;
    let start = Instant::now();
    window.begin();
    tokio::time::sleep(load.seconds).await;
    window.end();
    let elapsed = start.elapsed();
    drop(progress);
    let after = Sample::take(groups)?;
    let last = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, last).await.is_err() {
        window.failed(&format!("{} sessions got no answer within {GRACE:?}", tasks.len()));
    }
    let mut figures = Figures::new(mode, &load.common);
    figures.payload = Some(load.payload);
    window.report(&mut figures, elapsed);
    let sessions = if mode == "open" { figures.calls } else { u64::from(load.common.sessions) };
    figures.set_processes(&before, &after, figures.calls, sessions);
    Ok(figures)
}
