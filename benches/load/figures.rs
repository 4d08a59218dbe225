//! What a run has measured: a table for people, a line of JSON for the report.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write as _,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{Fault, options::Common, process::Sample};

/// Errors that are shown in full.
const SHOWN_ERRORS: usize = 3;

/// Durations, to be sorted once.
#[derive(Debug, Default)]
pub struct Latencies {
    micros: Vec<u32>,
}

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        self.micros.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    /// Since `start`, for what is not part of a window.
    pub fn add_since(&mut self, start: Instant) {
        self.add(start.elapsed());
    }

    pub fn count(&self) -> usize {
        self.micros.len()
    }

    pub fn quantiles(&mut self) -> Option<Quantiles> {
        self.micros.sort_unstable();
        let at = |quantile: f64| {
            let rank = (quantile * self.micros.len() as f64).ceil() as usize;
            self.micros.get(rank.max(1) - 1).map(|micros| f64::from(*micros) / 1000.0)
        };
        Some(Quantiles { p50: at(0.5)?, p90: at(0.9)?, p99: at(0.99)?, max: at(1.0)? })
    }
}

/// In milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

/// What a group of processes used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Used {
    pub cpu_seconds: f64,
    /// CPU seconds per 1,000 calls (or openings).
    pub cpu_per_1000: f64,
    pub rss_before_kib: u64,
    pub rss_after_kib: u64,
    /// Growth of resident memory per session (modes open and churn: per session that was opened and closed).
    pub kib_per_session: f64,
}

/// See the module's text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    pub label: String,
    pub mode: String,
    pub sessions: u32,
    pub payload: Option<usize>,
    pub seconds: f64,
    pub calls: u64,
    pub errors: u64,
    pub calls_per_second: f64,
    pub latency_ms: Option<Quantiles>,
    pub processes: BTreeMap<String, Used>,
    #[serde(default)]
    pub failover: Option<Recovery>,
    #[serde(skip)]
    shown_errors: Vec<String>,
    #[serde(skip)]
    out: Option<std::path::PathBuf>,
}

/// What the death of an owner meant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recovery {
    /// Sessions whose event stream broke.
    pub broken: u64,
    /// Of those, from the kill to the first answer on a new stream.
    pub recovery_ms: Option<Quantiles>,
    /// Of all sessions, from the kill to the first answer to a call that was open at the kill or sent after it.
    pub first_answer_ms: Option<Quantiles>,
    /// Sessions that got no answer any more.
    pub lost: u64,
    /// Sessions that came back as another session.
    pub replaced: u64,
    /// Calls that were answered with an error.
    pub refused_calls: u64,
    /// Answers that came a second time.
    pub repeated_answers: u64,
    /// POSTs that had to be sent again.
    pub repeated_posts: u64,
    /// Reconnections that failed at first.
    pub failed_reconnects: u64,
}

impl Figures {
    pub fn new(mode: &str, common: &Common) -> Self {
        Self {
            label: common.label.clone(),
            mode: common.name.as_deref().unwrap_or(mode).to_owned(),
            sessions: common.sessions,
            payload: None,
            seconds: 0.0,
            calls: 0,
            errors: 0,
            calls_per_second: 0.0,
            latency_ms: None,
            processes: BTreeMap::new(),
            failover: None,
            shown_errors: Vec::new(),
            out: common.out.clone(),
        }
    }

    pub fn set_calls(&mut self, latencies: &mut Latencies, elapsed: Duration) {
        self.seconds = elapsed.as_secs_f64();
        self.calls = latencies.count() as u64;
        self.calls_per_second = self.calls as f64 / self.seconds;
        self.latency_ms = latencies.quantiles();
    }

    /// `units`: what the CPU is divided by; `sessions`: what the memory is.
    pub fn set_processes(&mut self, before: &Sample, after: &Sample, units: u64, sessions: u64) {
        for (before, after) in before.groups.iter().zip(&after.groups) {
            let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
            let grown = after.rss_kib as f64 - before.rss_kib as f64;
            let used = Used {
                cpu_seconds,
                cpu_per_1000: cpu_seconds * 1000.0 / (units as f64).max(1.0),
                rss_before_kib: before.rss_kib,
                rss_after_kib: after.rss_kib,
                kib_per_session: grown / (sessions as f64).max(1.0),
            };
            self.processes.insert(after.name.clone(), used);
        }
    }

    pub fn add_error(&mut self, error: String) {
        self.errors += 1;
        if self.shown_errors.len() < SHOWN_ERRORS {
            self.shown_errors.push(error);
        }
    }

    /// Makes the errors of this part those of the whole.
    pub fn copy_errors(&self, whole: &mut Self) {
        whole.errors += self.errors;
        whole.shown_errors.extend(self.shown_errors.iter().cloned());
        whole.shown_errors.truncate(SHOWN_ERRORS);
    }

    /// Prints it, and appends it to the file if there is one. Errors make the run fail.
    pub fn publish(&self) -> Result<(), Fault> {
        let json = serde_json::to_string(self)?;
        println!("{}\n{json}", self.table());
        if let Some(path) = &self.out {
            writeln!(OpenOptions::new().create(true).append(true).open(path)?, "{json}")?;
        }
        if self.errors > 0 {
            let shown = self.shown_errors.join("\n  ");
            return Err(format!("{} errors, such as\n  {shown}", self.errors).into());
        }
        Ok(())
    }

    fn table(&self) -> String {
        let Self { label, mode, sessions, .. } = self;
        let mut rows = vec![format!("{label} {mode}, {sessions} sessions").trim_start().to_owned()];
        if self.mode.ends_with("idle") {
            rows.push(format!("opened in {:.2} s", self.seconds));
        } else {
            let (calls, errors, rate) = (self.calls, self.errors, self.calls_per_second);
            rows.push(format!("calls {calls}   errors {errors}   per second {rate:.0}"));
        }
        let quantiles = |name: &str, quantiles: &Option<Quantiles>| {
            let Quantiles { p50, p90, p99, max } = quantiles.as_ref()?;
            Some(format!("{name} ms   p50 {p50:.3}   p90 {p90:.3}   p99 {p99:.3}   max {max:.3}"))
        };
        rows.extend(quantiles("latency", &self.latency_ms));
        if let Some(recovery) = &self.failover {
            rows.extend(quantiles("recovery of broken streams", &recovery.recovery_ms));
            rows.extend(quantiles("first answer after the kill", &recovery.first_answer_ms));
            rows.push(format!(
                "streams broken {}   lost {}   replaced {}   refused calls {}   repeated answers {}   repeated POSTs {}   failed reconnects {}",
                recovery.broken,
                recovery.lost,
                recovery.replaced,
                recovery.refused_calls,
                recovery.repeated_answers,
                recovery.repeated_posts,
                recovery.failed_reconnects,
            ));
        }
        for (name, used) in &self.processes {
            let memory = match &*self.mode {
                "idle" | "streamable-idle" | "events-idle" | "open" | "churn" => {
                    format!("   {:.1} KiB per session", used.kib_per_session)
                }
                _ => String::new(),
            };
            rows.push(format!(
                "{name:<10} CPU {:.2} s   {:.4} per 1000{memory}   RSS {:.1} -> {:.1} MiB",
                used.cpu_seconds,
                used.cpu_per_1000,
                used.rss_before_kib as f64 / 1024.0,
                used.rss_after_kib as f64 / 1024.0
            ));
        }
        rows.join("\n  ")
    }
}
