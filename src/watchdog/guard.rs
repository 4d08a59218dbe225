//! The watchdog, the guard's side: a process of its own that reads the router's beats from standard input, and kills the
//! router when there have been none for a whole period.
//!
//! It owns nothing but that pipe and a hold on the router's process. It starts no thread, reads no settings, opens no
//! socket, and touches no process but its own parent. It ends when the router does, however that ends: then the pipe
//! is closed.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Signal, getppid, kill_process},
};

use super::BEATS;
use crate::{
    settings::{LogFormat, LogSettings},
    telemetry,
};

/// First argument of a guard. Hidden: it is no setting, and people have no use for it.
pub const FLAG: &str = "--watchdog-guard";

/// What a guard is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// Process id of the router.
    pub router: u32,
    /// Silence after which it is killed.
    pub period: Duration,
    /// Form of the one line that is logged then.
    pub log_format: LogFormat,
}

impl Charge {
    /// The command line of a guard, without the program's name.
    pub fn to_arguments(self) -> [String; 4] {
        let log_format = match self.log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        [FLAG.to_owned(), self.router.to_string(), self.period.as_millis().to_string(), log_format.to_owned()]
    }

    /// Reads what follows [`FLAG`].
    pub fn from_arguments(arguments: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut arguments = arguments.into_iter().map_while(|argument| argument.into_string().ok());
        let router = arguments.next()?.parse().ok()?;
        let period = Duration::from_millis(arguments.next()?.parse().ok().filter(|millis| *millis > 0)?);
        let log_format = match arguments.next()?.as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => return None,
        };
        Some(Self { router, period, log_format })
    }
}

/// What was heard from the router within one tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// At least one beat.
    Beat,
    /// Nothing.
    Silence,
    /// The end of the pipe: the router has ended.
    End,
}

/// Why the guard has nothing more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The router has ended by itself, or another has killed it.
    Gone,
    /// It is there and gives no sign of life.
    Hangs,
}

/// Guards the router until it ends, or ends it.
pub fn run(charge: &Charge) -> ExitCode {
    // `None`: it has ended already.
    let Some(router) = Router::parent(charge.router) else { return ExitCode::SUCCESS };
    let beats = io::stdin();
    let tick = charge.period / BEATS;
    match watch(|| listen(beats.as_fd(), tick)) {
        Ok(Verdict::Gone) => return ExitCode::SUCCESS,
        Ok(Verdict::Hangs) => {}
        // Without ears it must not judge; the router starts another guard.
        Err(_) => return ExitCode::FAILURE,
    }
    // First the deed: what keeps the router from going on may be the log itself.
    let killed = router.kill();
    // To standard error: no file is to be opened.
    let _ = telemetry::init(&LogSettings {
        format: charge.log_format,
        level: "info".to_owned(),
        queue: 16,
        file: None,
        audit: None,
        audit_queue: 1,
    });
    let (pid, period) = (charge.router, charge.period);
    match killed {
        Ok(()) => tracing::error!(
            "the router (pid {pid}) has been silent for {period:?}: killed so that its clients move; MCP_WATCHDOG=0s turns \
             this off"
        ),
        // It has ended this very moment.
        Err(Errno::SRCH) => {}
        Err(error) => {
            tracing::error!(%error, "the router (pid {pid}) has been silent for {period:?}, and cannot be killed");
        }
    }
    telemetry::flush();
    ExitCode::SUCCESS
}

/// Listens until the router has ended, or has been silent for as many ticks in a row as a period has.
///
/// The guard counts ticks that it has lived through, and looks at no clock. A machine that was suspended, or paused as a
/// whole (`docker pause`, the migration of a virtual machine), was so for the guard, too: when both go on, that is one
/// tick, however long it took, and the router has all the others to speak.
fn watch(mut listen: impl FnMut() -> io::Result<Heard>) -> io::Result<Verdict> {
    let mut silent = 0;
    while silent < BEATS {
        match listen()? {
            Heard::Beat => silent = 0,
            Heard::Silence => silent += 1,
            Heard::End => return Ok(Verdict::Gone),
        }
    }
    Ok(Verdict::Hangs)
}

/// Waits for a beat, for one tick at most.
fn listen(beats: impl AsFd, tick: Duration) -> io::Result<Heard> {
    let timeout = Timespec::try_from(tick).map_err(io::Error::other)?;
    loop {
        let mut wanted = [PollFd::new(&beats, PollFlags::IN)];
        match poll(&mut wanted, Some(&timeout)) {
            Ok(0) => return Ok(Heard::Silence),
            Ok(_) => {}
            // The tick begins anew, which only makes it longer.
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        // All that has piled up; does not block, since there is something.
        match rustix::io::read(&beats, &mut [0_u8; 64]) {
            Ok(0) => return Ok(Heard::End),
            Ok(_) => return Ok(Heard::Beat),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A hold on the router: its process id alone may belong to another process one day.
#[derive(Debug)]
struct Router {
    pid: Pid,
    /// Names the process itself; where the system has that (Linux 5.3).
    handle: Option<OwnedFd>,
}

impl Router {
    /// `None` when `pid` is not, or no longer, the parent of this process.
    fn parent(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        let handle = handle_of(pid);
        // Asked after the handle was taken: while it is our parent, the id is its own, and so the handle is.
        (getppid() == Some(pid)).then_some(Self { pid, handle })
    }

    fn kill(&self) -> rustix::io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(handle) = &self.handle {
            return rustix::process::pidfd_send_signal(handle, Signal::KILL);
        }
        if getppid() != Some(self.pid) {
            return Err(Errno::SRCH);
        }
        kill_process(self.pid, Signal::KILL)
    }
}

#[cfg(target_os = "linux")]
fn handle_of(pid: Pid) -> Option<OwnedFd> {
    // Old kernels and some sandboxes refuse; the parent's id must do then.
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

#[cfg(not(target_os = "linux"))]
fn handle_of(_pid: Pid) -> Option<OwnedFd> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: Heard = Heard::Beat;
    const S: Heard = Heard::Silence;
    const E: Heard = Heard::End;

    /// The verdict after this was heard, and whether all of it was listened to.
    fn verdict(heard: &[Heard]) -> (Option<Verdict>, bool) {
        let mut rest = heard.iter();
        let verdict = watch(|| rest.next().copied().ok_or_else(|| io::Error::other("no more")));
        (verdict.ok(), rest.next().is_none())
    }

    #[test]
    fn only_a_whole_period_of_silence_in_a_row_is_a_hang() {
        assert_eq!(BEATS, 6);
        for (heard, expected) in [
            (&[S, S, S, S, S, S][..], Some(Verdict::Hangs)),
            (&[B, B, S, S, S, S, S, S], Some(Verdict::Hangs)),
            (&[S, S, S, S, S, B, S, S, S, S, S, B], None),
            (&[B, S, B, S, S, B, S, S, S, B, S, S, S, S, B, S, S, S, S, S, B], None),
            (&[E], Some(Verdict::Gone)),
            (&[S, S, S, S, S, E], Some(Verdict::Gone)),
            (&[B, E], Some(Verdict::Gone)),
        ] {
            assert_eq!(verdict(heard), (expected, true), "{heard:?}");
        }
    }

    #[test]
    fn beats_silence_and_the_end_are_heard_on_a_pipe() {
        use std::io::Write as _;
        let tick = Duration::from_millis(1);
        let (reader, mut writer) = io::pipe().unwrap();
        assert_eq!(listen(&reader, tick).unwrap(), Heard::Silence);
        writer.write_all(&[0; 3]).unwrap();
        assert_eq!(listen(&reader, tick).unwrap(), Heard::Beat, "beats that have piled up are one sign of life");
        assert_eq!(listen(&reader, tick).unwrap(), Heard::Silence);
        drop(writer);
        assert_eq!(listen(&reader, tick).unwrap(), Heard::End);
    }

    #[test]
    fn a_charge_survives_the_command_line() {
        for log_format in [LogFormat::Text, LogFormat::Json] {
            let charge = Charge { router: 4711, period: Duration::from_millis(2500), log_format };
            let arguments = charge.to_arguments();
            assert_eq!(arguments[0], FLAG);
            assert_eq!(Charge::from_arguments(arguments[1..].iter().map(OsString::from)), Some(charge));
        }
        for wrong in [&[][..], &["1"], &["x", "1", "text"], &["1", "0", "text"], &["1", "1"], &["1", "1", "xml"]] {
            assert_eq!(Charge::from_arguments(wrong.iter().map(OsString::from)), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_process_that_is_not_the_parent_is_never_held() {
        let parent = getppid().unwrap();
        assert!(Router::parent(u32::try_from(parent.as_raw_nonzero().get()).unwrap()).is_some());
        assert!(Router::parent(std::process::id()).is_none());
        assert!(Router::parent(0).is_none());
    }
}
