//! The process as the kernel sees it: `process_*`, under the names that Prometheus' client libraries share. Read when they
//! are asked for; on other systems than Linux there are none.

use std::fs;

use prometheus::{
    Counter, Gauge, IntGauge,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// Ticks of `/proc` in a second: part of the kernel's interface to programs, whatever its own clock (`proc_pid_stat(5)`,
/// `USER_HZ`).
const TICKS: f64 = 100.0;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Process {
    cpu: Counter,
    start: Gauge,
    resident: IntGauge,
    virtual_size: IntGauge,
    threads: IntGauge,
    open: IntGauge,
    most: IntGauge,
}

impl Process {
    pub(super) fn new() -> Self {
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect("names are constant and valid");
        let cpu = Counter::new("process_cpu_seconds_total", "User and system time of the process");
        let start = Gauge::new("process_start_time_seconds", "Start of the process since the Unix epoch");
        Self {
            cpu: cpu.expect("names are constant and valid"),
            start: start.expect("names are constant and valid"),
            resident: gauge("process_resident_memory_bytes", "Resident memory of the process"),
            virtual_size: gauge("process_virtual_memory_bytes", "Virtual memory of the process"),
            threads: gauge("process_threads", "Threads of the process"),
            open: gauge("process_open_fds", "Open files of the process"),
            most: gauge("process_max_fds", "Files that the process may open"),
        }
    }

    fn all(&self) -> [&dyn Collector; 7] {
        [&self.cpu, &self.start, &self.resident, &self.virtual_size, &self.threads, &self.open, &self.most]
    }

    /// `None`: there is no `/proc`.
    fn read(&self) -> Option<()> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // Behind the name of the program, which may hold anything; it is field 2.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
        self.cpu.reset();
        self.cpu.inc_by((field(14)? + field(15)?) as f64 / TICKS);
        self.threads.set(field(20)?);
        self.virtual_size.set(field(23)?);
        let booted = fs::read_to_string("/proc/stat").ok()?;
        let booted = booted.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse::<f64>().ok()?;
        self.start.set(booted + field(22)? as f64 / TICKS);
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        self.resident.set(resident.trim().strip_suffix(" kB")?.trim().parse::<i64>().ok()? * 1024);
        self.open.set(i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()?);
        let most = fs::read_to_string("/proc/self/limits").ok()?;
        let most = most.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?;
        self.most.set(most.parse().unwrap_or(i64::MAX));
        Some(())
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(|metric| metric.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        match self.read() {
            Some(()) => self.all().into_iter().flat_map(|metric| metric.collect()).collect(),
            None => Vec::new(),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_the_process() {
        let process = Process::new();
        assert_eq!(process.collect().len(), 7);
        assert!(process.resident.get() > 1 << 20 && process.virtual_size.get() > process.resident.get());
        assert!(process.threads.get() >= 1 && process.open.get() >= 3 && process.most.get() >= process.open.get());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now - 24.0 * 3600.0..now + 2.0).contains(&process.start.get()), "{} {now}", process.start.get());
    }
}
