//! Which process an instance is, as its lease tells the others; and whether it still exists, as the kernel says that both
//! run on. It is asked when an owner is suspected to be gone, never on the way of a message.
//!
//! Nothing that lies between an instance and Redis can make this word a false one. It is silent about processes of other
//! machines, containers or users that it cannot see: then the lease decides. See `docs/decisions/0008-who-is-gone.md`.

use std::{fmt, str::FromStr};

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};

/// Names one process so that another one can find it, and tell it from every later one with the same process id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessId {
    place: Place,
    /// Number of the network namespace: where its loopback addresses mean something.
    network: String,
    pid: i32,
    /// When it started, in clock ticks since the boot of the machine (proc(5), `starttime`).
    started: u64,
}

/// Where process ids and start times mean the same.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Boot id of the kernel and host name. Copies of a virtual machine that run at the same time share a boot id.
    machine: String,
    /// Number of the namespace of process ids.
    pids: String,
    /// Number of the namespace of clocks, which shifts start times; empty where the kernel has none.
    clocks: String,
}

/// What the kernel says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It has ended.
    Dead,
    /// It is there.
    Alive,
    /// It runs elsewhere, or may not be looked at.
    Unknown,
}

/// What the table of processes has under a process id: state letter and start time (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    state: char,
    started: u64,
}

impl ProcessId {
    /// Of the process that asks. `None` where the system does not tell (it is told by Linux with a `/proc` of its own).
    pub fn of_this_process() -> Option<Self> {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let stat = read("/proc/self/stat")?;
        let pid = i32::try_from(std::process::id()).ok()?;
        // A `/proc` of another namespace numbers processes in its own way.
        if stat.split(' ').next()?.parse() != Ok(pid) {
            return None;
        }
        let host = read("/proc/sys/kernel/hostname")?;
        let machine = format!("{}@{}", read("/proc/sys/kernel/random/boot_id")?.trim(), host.trim());
        let place = Place {
            machine: machine.replace(['/', ' '], "_"),
            pids: namespace("pid")?,
            clocks: namespace("time").unwrap_or_default(),
        };
        Some(Self { place, network: namespace("net")?, pid, started: parse_row(&stat)?.started })
    }

    /// What the kernel of this process says of `other`.
    pub fn word_on(&self, other: &Self) -> Word {
        if self.place != other.place {
            return Word::Unknown;
        }
        let Some(pid) = Pid::from_raw(other.pid) else { return Word::Unknown };
        // Not the absence of a file in /proc, which may hide the processes of other users (hidepid).
        match test_kill_process(pid) {
            Err(Errno::SRCH) => return Word::Dead,
            Ok(()) | Err(Errno::PERM) => {}
            Err(_) => return Word::Unknown,
        }
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", other.pid)).ok();
        judge(other.started, stat.as_deref().and_then(parse_row))
    }

    /// Both see the same network: loopback addresses of the one are those of the other.
    pub fn shares_network(&self, other: &Self) -> bool {
        self.place.machine == other.place.machine && self.network == other.network
    }
}

/// `row`: what stands under its process id, if that can be read.
fn judge(started: u64, row: Option<Row>) -> Word {
    match row {
        None => Word::Unknown,
        // Another process has its number by now.
        Some(row) if row.started != started => Word::Dead,
        // Ended, and its parent has not asked for its exit status: it runs no more. (x, X: in the moment of ending.)
        Some(Row { state: 'Z' | 'X' | 'x', .. }) => Word::Dead,
        Some(_) => Word::Alive,
    }
}

/// A line of `/proc/PID/stat`. The name of the program stands in parentheses and may hold anything.
fn parse_row(stat: &str) -> Option<Row> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 22 of the line; the state is field 3.
    let started = fields.nth(18)?.parse().ok()?;
    Some(Row { state, started })
}

/// `pid:[4026531836]` → `4026531836`
fn namespace(kind: &str) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
    let number = link.to_str()?.split_once('[')?.1.trim_end_matches(']');
    Some(number.to_owned())
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place: Place { machine, pids, clocks }, network, pid, started } = self;
        write!(f, "{machine}/{pids}/{clocks}/{network}/{pid}/{started}")
    }
}

/// The text is none that an instance writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoProcessId;

impl FromStr for ProcessId {
    type Err = NoProcessId;

    fn from_str(text: &str) -> Result<Self, NoProcessId> {
        let fields: Vec<&str> = text.split('/').collect();
        let [machine, pids, clocks, network, pid, started] = fields[..] else { return Err(NoProcessId) };
        Ok(Self {
            place: Place { machine: machine.to_owned(), pids: pids.to_owned(), clocks: clocks.to_owned() },
            network: network.to_owned(),
            // 0 and below name groups of processes.
            pid: pid.parse().ok().filter(|pid| *pid > 0).ok_or(NoProcessId)?,
            started: started.parse().map_err(|_| NoProcessId)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// OWN-4, OWN-9
    #[test]
    fn a_process_is_dead_when_its_number_is_anothers_or_it_has_ended() {
        for (row, expected) in [
            (None, Word::Unknown),
            (Some(('S', 7)), Word::Alive),
            (Some(('R', 7)), Word::Alive),
            // Stopped, or in a call that cannot be interrupted: it may go on.
            (Some(('T', 7)), Word::Alive),
            (Some(('t', 7)), Word::Alive),
            (Some(('D', 7)), Word::Alive),
            (Some(('Z', 7)), Word::Dead),
            (Some(('X', 7)), Word::Dead),
            (Some(('S', 8)), Word::Dead),
        ] {
            let row = row.map(|(state, started)| Row { state, started });
            assert_eq!(judge(7, row), expected, "{row:?}");
        }
    }

    #[test]
    fn a_row_is_read_whatever_the_program_is_called() {
        let rest = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 20 21";
        for name in ["router", "a b", "a) Z 1 2", "()"] {
            let row = parse_row(&format!("4711 ({name}) S {rest}"));
            assert_eq!(row, Some(Row { state: 'S', started: 424_242 }), "{name}");
        }
        for wrong in ["", "4711 (router)", "4711 (router) S 1 2 3", "4711 router S"] {
            assert_eq!(parse_row(wrong), None, "{wrong}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_alive_and_an_ended_one_dead_also_before_it_was_waited_for() {
        let me = ProcessId::of_this_process().unwrap();
        assert_eq!(me.to_string().parse(), Ok(me.clone()));
        assert_eq!(me.word_on(&me), Word::Alive);
        assert!(me.shares_network(&me));

        let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let started = parse_row(&stat).unwrap().started;
        let other = ProcessId { pid: i32::try_from(child.id()).unwrap(), started, ..me.clone() };
        assert_eq!(me.word_on(&other), Word::Alive);
        assert_eq!(me.word_on(&ProcessId { started: started + 1, ..other.clone() }), Word::Dead);
        child.kill().unwrap();
        while me.word_on(&other) != Word::Dead {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(me.word_on(&other), Word::Dead);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn nothing_is_said_of_processes_elsewhere() {
        let me = ProcessId::of_this_process().unwrap();
        let place = |change: fn(&mut Place)| {
            let mut other = ProcessId { pid: i32::MAX, ..me.clone() };
            change(&mut other.place);
            other
        };
        assert_eq!(me.word_on(&place(|_| {})), Word::Dead);
        for change in [
            (|place| place.machine.push('x')) as fn(&mut Place),
            |place| place.pids.push('1'),
            |place| place.clocks.push('1'),
        ] {
            assert_eq!(me.word_on(&place(change)), Word::Unknown);
        }
        assert!(!me.shares_network(&ProcessId { network: "1".to_owned(), ..me.clone() }));
    }

    #[test]
    fn other_texts_name_no_process() {
        for text in
            ["", "machine/1/2/3/4", "machine/1/2/3/0/5", "machine/1/2/3/-4/5", "machine/1/2/3/4/x", "a/b/c/d/e/f/g"]
        {
            assert_eq!(text.parse::<ProcessId>(), Err(NoProcessId), "{text}");
        }
    }
}
