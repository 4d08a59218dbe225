//! CPU and memory of processes, from `/proc`: user and system time in clock ticks, resident memory.

use std::{collections::HashMap, fs, io, str::FromStr};

use testkit::connection::invalid;

/// Ticks per second of the times in `/proc`: fixed in Linux's interface, whatever its timer does.
const TICKS: f64 = 100.0;

/// Processes that are looked at together.
#[derive(Debug, Clone)]
pub struct Group {
    pub name: String,
    pids: Vec<u32>,
}

impl FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, pids) = text.split_once('=').ok_or("name=PID or name=PID,PID")?;
        let pids =
            pids.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>().map_err(|error| error.to_string())?;
        Ok(Self { name: name.to_owned(), pids })
    }
}

/// The groups at one moment, and this process as `load`.
#[derive(Debug)]
pub struct Sample {
    pub groups: Vec<Usage>,
}

/// One group.
#[derive(Debug)]
pub struct Usage {
    pub name: String,
    pub cpu_seconds: f64,
    pub rss_kib: u64,
}

struct Process {
    parent: u32,
    ticks: u64,
}

impl Sample {
    /// A process that is gone counts nothing.
    pub fn take(groups: &[Group]) -> io::Result<Self> {
        let all = processes()?;
        let own = Group { name: "load".to_owned(), pids: vec![std::process::id()] };
        let groups = groups
            .iter()
            .chain([&own])
            .map(|group| {
                let members: Vec<u32> = all.keys().copied().filter(|pid| descends(*pid, &group.pids, &all)).collect();
                let ticks: u64 = members.iter().filter_map(|pid| all.get(pid)).map(|process| process.ticks).sum();
                Usage {
                    name: group.name.clone(),
                    cpu_seconds: ticks as f64 / TICKS,
                    rss_kib: members.iter().map(|pid| rss_kib(*pid)).sum(),
                }
            })
            .collect();
        Ok(Self { groups })
    }
}

fn descends(pid: u32, from: &[u32], all: &HashMap<u32, Process>) -> bool {
    let mut pid = pid;
    while pid > 1 {
        if from.contains(&pid) {
            return true;
        }
        pid = all.get(&pid).map_or(0, |process| process.parent);
    }
    false
}

fn processes() -> io::Result<HashMap<u32, Process>> {
    let mut all = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended meanwhile.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        all.insert(pid, parse_stat(&stat).ok_or_else(|| invalid("/proc/PID/stat has another form than proc(5) says"))?);
    }
    Ok(all)
}

/// The name stands in parentheses and may hold anything; after it, parent is field 2, the times are 12 to 15 (own,
/// then of children that have ended).
fn parse_stat(stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Process { parent: fields.get(1)?.parse().ok()?, ticks: number(11)? + number(12)? + number(13)? + number(14)? })
}

fn rss_kib(pid: u32) -> u64 {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return 0 };
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
