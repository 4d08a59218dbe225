//! A child process whose output goes to a file, and that does not outlive its [`Process`].

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use crate::{PATIENCE, eventually_some};

/// Lines of a log that are shown when a test fails.
const TAIL: usize = 60;

/// See module documentation.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where this process's own lines begin: an earlier one may have written to the same file.
    log_start: usize,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with standard output and error appended to `log`.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(log).expect("a log file in the test's folder");
        let log_start = usize::try_from(file.metadata().expect("the size of a log file").len()).expect("a small log");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle of a log file"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned(), log_start, status: None }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name (`TERM`, `STOP`, `CONT`); a process that has ended gets none.
    pub fn signal(&mut self, signal: &str) {
        if self.has_ended() {
            return;
        }
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status().expect("kill can be run");
        assert!(sent.success(), "kill -s {signal} {pid}");
        if signal == "STOP" {
            self.wait_until_stopped();
        }
    }

    /// Each thread stops when it next meets the kernel: until then the process may still answer.
    fn wait_until_stopped(&self) {
        let tasks = format!("/proc/{}/task", self.pid());
        let stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat"))).unwrap_or_default();
            // The state follows the name, which stands in parentheses.
            stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['T', 't', 'Z', 'X']))
        };
        // By the clock: on a machine that is busy with other tests a thread may wait long for its turn to stop.
        let deadline = Instant::now() + PATIENCE;
        while !std::fs::read_dir(&tasks).is_ok_and(|mut tasks| tasks.all(stopped)) {
            assert!(Instant::now() < deadline, "process {} does not stop", self.pid());
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Kills it, as `kill -9` does, and waits for its end.
    pub fn kill(&mut self) {
        if !self.has_ended() {
            self.child.kill().expect("a child can be killed");
            self.status = Some(self.child.wait().expect("a child can be waited for"));
        }
    }

    /// It is not there any more.
    pub fn has_ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("the state of a child");
        }
        self.status.is_some()
    }

    /// A signal has stopped it.
    pub fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 't']))
    }

    /// It has not ended, as far as the system says; it may be stopped.
    pub fn is_running(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    }

    /// Waits for its end; `None` when a signal ended it.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let what = format!("end of {}", self.name);
        let status = eventually_some(&what, || {
            self.has_ended();
            std::future::ready(self.status)
        })
        .await;
        status.code()
    }

    /// What it has written so far.
    pub fn log_text(&self) -> String {
        let bytes = fs::read(&self.log).expect("a log file can be read");
        String::from_utf8_lossy(&bytes[self.log_start.min(bytes.len())..]).into_owned()
    }

    /// What it and those before it in the same file have written so far.
    pub fn log_of_all_lives(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("a log file can be read")).into_owned()
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the status of a child");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS of a running child");
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number of KiB");
        kib * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let text = self.log_text();
            let lines: Vec<&str> = text.lines().collect();
            println!(
                "--- last lines of {} ({})",
                self.name,
                self.status.map_or("was running".into(), |s| s.to_string())
            );
            for line in &lines[lines.len().saturating_sub(TAIL)..] {
                println!("    {line}");
            }
        }
    }
}
