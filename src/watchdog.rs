//! The watchdog, the router's side: a child process of the same executable ([`guard`]) hears a beat from this process and
//! kills it when the beats stop, so that the kernel closes its connections.
//!
//! A process that hangs past its lease has lost its sessions to others, but nothing closes the connections of its clients:
//! they would wait for the proxy in front to give it up. Dead, it costs them one reconnect. No thread in here could do
//! it: SIGSTOP, a debugger or a swapped-out memory stop all threads alike.
//!
//! This file owns the guard's process and the pipe to it, from the moment the router serves until
//! [`Phase::Stopped`]. Only `process::boot` calls it. It never decides that the router hangs, and no failure of it ends
//! the router: without a guard the router works as it does with `MCP_WATCHDOG=0s`.

use std::{
    env,
    ffi::OsString,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{self, Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    backoff::Backoff,
    lifecycle::{Lifecycle, Phase},
    settings::{LogFormat, Settings},
};

pub mod guard;

/// Beats in a period. Enough for a beat that is late, or that the guard misses by a hair, not to matter.
pub const BEATS: u32 = 6;

/// First pause before a guard that could not be started, or has ended, is started again; it doubles. Long enough for the
/// router to learn of a SIGTERM that went to both of them.
const RESTART_MIN: Duration = Duration::from_secs(1);
/// Longest such pause: what keeps ending a guard must not make the router start processes without end.
const RESTART_MAX: Duration = Duration::from_secs(60);
/// How long a guard may take to end when its pipe is closed.
const FAREWELL: Duration = Duration::from_millis(500);

/// How to start a guard of this process.
#[derive(Debug)]
struct Recipe {
    program: PathBuf,
    period: Duration,
    log_format: LogFormat,
}

impl Recipe {
    /// `None`: there is to be no watchdog.
    fn new(settings: &Settings) -> Option<Self> {
        let period = settings.lifecycle.watchdog;
        // With the embedded store nobody else can go on with the sessions, and their end would be the damage itself.
        if period.is_zero() || settings.redis.url.is_none() {
            return None;
        }
        if process::id() == 1 {
            tracing::warn!(
                "no watchdog: this is process 1 of its container, which the kernel lets nobody inside it kill. Run it under \
                 an init (docker run --init), or set MCP_WATCHDOG=0s"
            );
            return None;
        }
        match env::current_exe() {
            // Asked once: later the file may have been replaced, and the name be none any more.
            Ok(program) => Some(Self { program, period, log_format: settings.log.format }),
            Err(error) => {
                tracing::warn!(%error, "no watchdog: the router's own executable is not known");
                None
            }
        }
    }

    fn start(&self) -> io::Result<Guard> {
        let charge = guard::Charge { router: process::id(), period: self.period, log_format: self.log_format };
        let mut child = Command::new(&self.program)
            .args(charge.to_arguments())
            .stdin(Stdio::piped())
            // It shares the log alone; all else that this process has open is closed on exec.
            .stdout(Stdio::null())
            // Ctrl-C is for the router, and the guard ends when the router has ended.
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take().expect("standard input was piped");
        let guard = Guard { child, pipe: Some(pipe) };
        // A guard that is itself stopped reads nothing, and must not stop us when the pipe is full.
        rustix::io::ioctl_fionbio(guard.pipe.as_ref().expect("it was just put there"), true)?;
        Ok(guard)
    }
}

/// The guard's process. Dropped, it is let go, and it ends.
#[derive(Debug)]
struct Guard {
    child: Child,
    /// Taken at the end: its closing is the farewell.
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// # Errors
    /// The guard has ended.
    fn beat(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Err(io::ErrorKind::BrokenPipe.into()) };
        match pipe.write(&[0]) {
            // Full: enough beats lie there for whenever it goes on.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            outcome => outcome.map(|_| ()),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.pipe = None;
        // Waited for, so that neither it nor a zombie outlives the router.
        let deadline = Instant::now() + FAREWELL;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Keeps a guard over this process until [`Phase::Stopped`]; returns when it has ended. Must be spawned on the main arbiter,
/// whose event loop renews the lease and drains: its beats prove that this loop runs. `pulse`: returns when all that must
/// run besides has shown that it does; there is no beat before.
pub async fn keep_guard(settings: &Settings, lifecycle: &Lifecycle, pulse: impl AsyncFn()) {
    let Some(recipe) = Recipe::new(settings) else { return };
    let mut phase = lifecycle.subscribe();
    tokio::select! {
        () = keep(lifecycle, &recipe, &pulse) => {}
        // Drops the guard. Up to here it watches, through the whole drain.
        _ = phase.wait_for(|phase| *phase == Phase::Stopped) => {}
    }
}

async fn keep(lifecycle: &Lifecycle, recipe: &Recipe, pulse: &impl AsyncFn()) {
    let mut backoff = Backoff::new(RESTART_MIN, RESTART_MAX);
    loop {
        let started = Instant::now();
        let failure = match recipe.start() {
            Ok(mut guard) => {
                tracing::debug!(pid = guard.child.id(), period = ?recipe.period, "watchdog");
                beat(pulse, recipe.period, &mut guard).await
            }
            Err(error) => error,
        };
        if started.elapsed() > RESTART_MAX {
            backoff.reset();
        }
        tokio::time::sleep(backoff.pause()).await;
        if lifecycle.phase() >= Phase::Draining {
            // A supervisor's SIGTERM may go to both (systemd), and the end of the guard is meant then.
            return;
        }
        tracing::warn!(error = %failure, "the watchdog could not be started or has ended; it is started again");
    }
}

/// Sends beats until the guard has ended; how.
async fn beat(pulse: &impl AsyncFn(), period: Duration, guard: &mut Guard) -> io::Error {
    let mut ticks = tokio::time::interval(period / BEATS);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        pulse().await;
        if let Err(error) = guard.beat() {
            return error;
        }
    }
}

/// What a process must do that was started as a guard: `None` when these arguments (without the program's name) do not ask for
/// one. To be asked before anything else is done.
pub fn guard_asked_for(arguments: impl IntoIterator<Item = OsString>) -> Option<process::ExitCode> {
    let mut arguments = arguments.into_iter();
    if arguments.next()? != guard::FLAG {
        return None;
    }
    Some(match guard::Charge::from_arguments(arguments) {
        Some(charge) => guard::run(&charge),
        None => process::ExitCode::from(crate::settings::EXIT_USAGE),
    })
}
