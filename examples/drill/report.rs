//! The table at the end, and the page.

use std::{fmt, time::Duration};

use testkit::page::{Marks, Page, Plot, shares};

use super::{
    board::Board,
    by_port,
    cluster::{Cluster, Fault, MemorySample},
    ledger::Totals,
};

/// Samples of the first minute of a process are its warming up.
const WARM_UP: Duration = Duration::from_secs(60);
/// A slope over less time than this says nothing.
const LEAST_SPAN: Duration = Duration::from_secs(60);

/// The verdict that is hoped for.
const PASSED: &str = "Nothing was lost, nothing came twice.";

/// One fault and what came of it.
#[derive(Debug)]
pub struct Round {
    /// What was done.
    pub fault: Fault,
    /// To whom.
    pub instance: String,
    /// Sessions that it owned or whose stream it held.
    pub affected: usize,
    /// Times until those were served again whose stream was there.
    pub streams: Vec<Duration>,
    /// And those whose owner alone was there.
    pub only_owned: Vec<Duration>,
    /// Until the instance was back.
    pub took: Duration,
    /// For so long nobody could be served; recovery times are counted from its end.
    pub held: Duration,
}

impl Round {
    fn recovered(&self) -> impl Iterator<Item = &Duration> {
        self.streams.iter().chain(&self.only_owned)
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.fault.name(), self.instance)?;
        if self.fault == Fault::Rolling {
            return write!(f, "{:.1} s", self.took.as_secs_f64());
        }
        let slowest = self.recovered().max().copied().unwrap_or_default();
        write!(
            f,
            "{} sessions had their owner or stream there, {} served again, the last after {} ms",
            self.affected,
            self.recovered().count(),
            slowest.as_millis()
        )?;
        if self.held.is_zero() { Ok(()) } else { write!(f, " beyond the {} ms of the hang", self.held.as_millis()) }
    }
}

/// All that is to be said.
pub struct Report<'a> {
    /// Sessions played.
    pub sessions: usize,
    /// How long faults were made.
    pub ran: Duration,
    /// The faults.
    pub rounds: Vec<Round>,
    /// What was promised and what came.
    pub totals: Totals,
    /// Streams opened; those that broke; those that clients gave up.
    pub streams: (u64, u64, u64),
    /// Figures of the clients.
    pub board: &'a Board,
    /// The instances.
    pub cluster: &'a Cluster,
    /// Changes of owners, by the store.
    pub generations: u64,
}

impl Report<'_> {
    /// Why the drill has failed; empty when it has not.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = self.totals.failures();
        let refused: u64 = self.board.refused_streams.borrow().values().sum();
        if refused > 0 {
            failures.push(format!("{refused} streams were refused with a status, which stock clients take as the end"));
        }
        let unserved: usize = self.rounds.iter().map(|round| round.affected - round.recovered().count()).sum();
        if unserved > 0 {
            failures.push(format!("{unserved} times a session was not served again in time"));
        }
        let (_, violations) = self.cluster.counted();
        if violations > 0.0 {
            failures.push(format!("{violations} broken guarantees by the routers' own count"));
        }
        failures
    }

    /// Prints the table and the verdict.
    pub fn print(&self) {
        println!();
        for (name, value) in self.rows() {
            println!("  {name:<34} {value}");
        }
        println!();
        let failures = self.failures();
        if failures.is_empty() {
            println!("{PASSED}");
        } else {
            for failure in failures {
                println!("FAILED: {failure}");
            }
        }
    }

    /// The same with plots, as a page.
    pub fn page(&self) -> Page {
        let figures = self.rows().into_iter().map(|(name, value)| (name.trim().to_owned(), value)).collect();
        Page {
            title: "Failover drill".to_owned(),
            failures: self.failures(),
            passed: PASSED.to_owned(),
            figures,
            plots: vec![self.recoveries(), self.recovered_shares(), self.faults_of_calls(), self.memory()],
        }
    }

    /// Each session after each fault.
    fn recoveries(&self) -> Plot {
        let numbered = || self.rounds.iter().zip(1_u32..);
        let of = |fault: Fault| {
            let rounds = numbered().filter(move |(round, _)| round.fault == fault);
            let times = rounds.flat_map(|(round, number)| round.recovered().map(move |after| (number, after)));
            times.map(|(number, after)| (f64::from(number), millis(*after))).collect()
        };
        Plot {
            title: "Sessions served again, by fault".to_owned(),
            x: "fault".to_owned(),
            y: "ms after the fault".to_owned(),
            marks: Marks::Dots,
            names: Vec::new(),
            series: self.by_fault(of),
        }
    }

    fn recovered_shares(&self) -> Plot {
        let of = |fault: Fault| {
            let rounds = self.rounds.iter().filter(move |round| round.fault == fault);
            shares(rounds.flat_map(Round::recovered).map(|after| millis(*after)).collect())
        };
        Plot {
            title: "Share of sessions that are served again by then".to_owned(),
            x: "ms after the fault".to_owned(),
            y: "%".to_owned(),
            marks: Marks::Line,
            names: Vec::new(),
            series: self.by_fault(of),
        }
    }

    fn by_fault(&self, points: impl Fn(Fault) -> Vec<(f64, f64)>) -> Vec<(String, Vec<(f64, f64)>)> {
        let faults = [Fault::Kill, Fault::Term, Fault::Stop, Fault::RedisStop, Fault::ServerKill].into_iter();
        let series = faults.map(|fault| (fault.name().to_owned(), points(fault)));
        series.filter(|(_, points)| !points.is_empty()).collect()
    }

    /// What must be 0.
    fn faults_of_calls(&self) -> Plot {
        let totals = &self.totals;
        let counts = [
            ("lost", totals.lost),
            ("events twice", totals.events_twice),
            ("answers twice", totals.answered_twice),
            ("out of order", totals.out_of_order + totals.gaps_told),
            ("ran twice", totals.ran_twice),
            ("sessions lost", totals.sessions_lost),
        ];
        let points = counts.iter().zip(0_u32..).map(|((_, count), at)| (f64::from(at), *count as f64)).collect();
        Plot {
            title: format!("Lost and duplicated, of {} calls and {} events", totals.accepted, totals.events),
            x: String::new(),
            y: "number".to_owned(),
            marks: Marks::Bars,
            names: counts.iter().map(|(name, _)| (*name).to_owned()).collect(),
            series: vec![("number".to_owned(), points)],
        }
    }

    fn memory(&self) -> Plot {
        let series = by_port(&self.cluster.memory()).into_iter().map(|(port, samples)| {
            let points = samples.iter().map(|sample| (sample.at.as_secs_f64(), sample.rss / 1024.0)).collect();
            (format!("router {port}"), points)
        });
        Plot {
            title: "Memory of the routers".to_owned(),
            x: "s".to_owned(),
            y: "MiB".to_owned(),
            marks: Marks::Dots,
            names: Vec::new(),
            series: series.collect(),
        }
    }

    fn rows(&self) -> Vec<(String, String)> {
        let totals = &self.totals;
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        row("sessions", self.sessions.to_string());
        row("faults", format!("{} in {:.0} s", self.faults(), self.ran.as_secs_f64()));
        row("calls accepted", totals.accepted.to_string());
        row("answered", totals.answered.to_string());
        row("outcome unknown", unknown(totals));
        row("other errors", (totals.failed + totals.wrong_result).to_string());
        row("lost", totals.lost.to_string());
        row(
            "duplicated",
            format!("{} of {} events, {} answers", totals.events_twice, totals.events, totals.answered_twice),
        );
        if totals.answered_again > 0 {
            row("answers to POSTs sent twice", totals.answered_again.to_string());
        }
        row("out of order or left out", (totals.out_of_order + totals.gaps_told).to_string());
        row("increments run more than once", format!("{} of {}", totals.ran_twice, totals.increments));
        row("calls never accepted", format!("{} refused, {} in doubt", totals.refused, totals.doubtful));
        row("sessions lost", totals.sessions_lost.to_string());
        row("POSTs sent again", counted(&self.board.repeated_posts.borrow()));
        row("streams refused", counted(&self.board.refused_streams.borrow()));
        let (opened, broken, silent) = self.streams;
        row("streams opened", format!("{opened}; {broken} broke, {silent} were given up"));
        let (adoptions, _) = self.cluster.counted();
        // What an instance counted between the last reading and its death is not in its own number.
        row("adoptions", format!("{} by the store, {adoptions} seen in the metrics", self.generations));
        for fault in [Fault::Kill, Fault::Term, Fault::Stop, Fault::RedisStop, Fault::ServerKill, Fault::RedisChange] {
            let rounds = || self.rounds.iter().filter(move |round| round.fault == fault);
            let mut all: Vec<u128> = rounds().flat_map(|round| round.recovered().map(Duration::as_millis)).collect();
            let only_owned = rounds().flat_map(|round| &round.only_owned);
            let mut only_owned: Vec<u128> = only_owned.map(Duration::as_millis).collect();
            if !all.is_empty() {
                row(&format!("served again after {}", fault.name()), quantiles(&mut all));
                if !matches!(fault, Fault::RedisStop | Fault::ServerKill | Fault::RedisChange) {
                    row("  those with their stream elsewhere", quantiles(&mut only_owned));
                }
            }
        }
        let stops = self.rounds.iter().filter(|round| round.fault == Fault::Stop).count();
        if stops > 0 {
            row("hung instances that were killed", format!("{} of {stops}", self.cluster.ended_paused()));
        }
        if self.board.as_json.get() > 0 {
            row("answers as JSON", self.board.as_json.get().to_string());
        }
        let mut cut: Vec<u128> = self.board.cut.borrow().iter().map(|millis| u128::from(*millis)).collect();
        if !cut.is_empty() {
            row("calls cut, until their answer", quantiles(&mut cut));
        }
        let mut delays: Vec<u128> = self.board.delays.borrow().iter().map(|millis| u128::from(*millis)).collect();
        row("all calls, time beyond their own", quantiles(&mut delays));
        for (delay, call) in &*self.board.slowest.borrow() {
            row("  slow", format!("{} ms: {call}", delay.as_millis()));
        }
        for (port, samples) in by_port(&self.cluster.memory()) {
            row(&format!("memory of router {port}"), memory(&samples));
        }
        rows
    }

    fn faults(&self) -> String {
        let count = |fault| self.rounds.iter().filter(|round| round.fault == fault).count();
        let known = [
            Fault::Kill,
            Fault::Term,
            Fault::Stop,
            Fault::Rolling,
            Fault::RedisStop,
            Fault::ServerKill,
            Fault::RedisChange,
        ];
        let named = known
            .into_iter()
            .map(|fault| (count(fault), fault.name()))
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| format!("{count} {name}"));
        named.collect::<Vec<_>>().join(", ")
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn unknown(totals: &Totals) -> String {
    if totals.unknown_read_only == 0 {
        totals.unknown.to_string()
    } else {
        format!("{}, {} of them calls that may be repeated", totals.unknown, totals.unknown_read_only)
    }
}

fn counted<K: fmt::Display>(counts: &std::collections::BTreeMap<K, u64>) -> String {
    if counts.is_empty() {
        return "0".to_owned();
    }
    counts.iter().map(|(what, count)| format!("{count} ({what})")).collect::<Vec<_>>().join(", ")
}

/// p50, p99 and the largest of some milliseconds.
fn quantiles(times: &mut [u128]) -> String {
    times.sort_unstable();
    let Some(max) = times.last() else { return "-".to_owned() };
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    format!("p50 {} ms, p99 {} ms, max {max} ms ({} times)", at(0.5), at(0.99), times.len())
}

/// Memory of one instance: its range, and how it changes over time within processes.
fn memory(samples: &[MemorySample]) -> String {
    let megabytes = |kilobytes: f64| kilobytes / 1024.0;
    let low = samples.iter().map(|sample| sample.rss).fold(f64::INFINITY, f64::min);
    let high = samples.iter().map(|sample| sample.rss).fold(0.0, f64::max);
    let processes: std::collections::BTreeSet<u32> = samples.iter().map(|sample| sample.pid).collect();
    // One slope for all processes of the instance, each with a level of its own.
    let (mut covariance, mut variance, mut span) = (0.0, 0.0, Duration::ZERO);
    for pid in &processes {
        let own: Vec<&MemorySample> = samples.iter().filter(|sample| sample.pid == *pid).collect();
        let Some(first) = own.first() else { continue };
        let warm: Vec<(f64, f64)> = own
            .iter()
            .filter(|sample| sample.at >= first.at + WARM_UP)
            .map(|sample| (sample.at.as_secs_f64() / 3600.0, megabytes(sample.rss)))
            .collect();
        let (Some(begin), Some(end)) = (warm.first(), warm.last()) else { continue };
        span += Duration::from_secs_f64((end.0 - begin.0) * 3600.0);
        let count = warm.len() as f64;
        let (mean_at, mean_rss) =
            (warm.iter().map(|(at, _)| at).sum::<f64>() / count, warm.iter().map(|(_, rss)| rss).sum::<f64>() / count);
        for (at, rss) in &warm {
            covariance += (at - mean_at) * (rss - mean_rss);
            variance += (at - mean_at) * (at - mean_at);
        }
    }
    let range = format!("{:.1} to {:.1} MiB in {} processes", megabytes(low), megabytes(high), processes.len());
    if span < LEAST_SPAN || variance == 0.0 {
        return range;
    }
    format!("{range}, slope {:+.1} MiB an hour over {:.0} s", covariance / variance, span.as_secs_f64())
}
