//! The page of the documentation: medians over all runs of one measurement, and the ratios that are promised.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use testkit::page;

use crate::{
    Fault,
    figures::{Figures, Quantiles, Used},
    options::Report,
};

/// What is compared, in the order of the tables: label, and what a reader calls it.
const SETUPS: &[(&str, &str)] = &[
    ("direct", "no proxy"),
    ("nginx", "nginx, plain proxy"),
    ("router", "router, embedded store"),
    ("router-redis", "router, Redis"),
    ("router-keys", "router, embedded store, API keys"),
    ("router-tokens", "router, embedded store, JWTs"),
    ("mcp-proxy", "mcp-proxy 0.6.0 (crates.io)"),
    ("cluster", "three routers, Redis, nginx"),
    ("cluster-any", "the same, any router for any POST"),
    ("front", "nginx.conf"),
    ("front-edge", "nginx-edge.conf"),
];
/// Groups of processes whose CPU is shown, in this order.
const GROUPS: &[&str] = &["router", "nginx", "redis", "upstream", "load"];

/// A mode whose runs are a table of calls.
struct Calls {
    mode: &'static str,
    title: &'static str,
    /// What sessions are called, and what is to be said of them.
    sessions: &'static str,
    /// The mode whose nginx it is held against.
    beside: &'static str,
}

const CALLS: &[Calls] = &[
    Calls { mode: "sse", title: "SSE", sessions: "sessions", beside: "sse" },
    Calls { mode: "paced", title: "SSE", sessions: "sessions that pause after each call", beside: "paced" },
    Calls { mode: "streamable", title: "Streamable HTTP", sessions: "sessions", beside: "streamable" },
    Calls {
        mode: "streamed",
        title: "Streamable HTTP, answers as event streams on both sides",
        sessions: "sessions",
        beside: "streamed",
    },
    Calls {
        mode: "streamable-sse",
        title: "Streamable HTTP, to an HTTP+SSE server (nginx: to a Streamable one)",
        sessions: "sessions",
        beside: "streamable",
    },
    Calls { mode: "stateless", title: "2026-07-28", sessions: "callers", beside: "stateless" },
    Calls {
        mode: "stateless-list",
        title: "2026-07-28, lists of tools that may be kept, instead of calls",
        sessions: "callers",
        beside: "stateless-list",
    },
    Calls { mode: "rest", title: "REST", sessions: "callers", beside: "rest" },
];

const INTRODUCTION: &str = "\
# Performance

What a call costs, next to nginx as a plain proxy and to no proxy at all. This page is written by `scripts/bench.sh`;
run it to get one for your machine.

A client sends one tool call after the other and waits for each answer, which must carry the marker of that session and
that call. An answer that is wrong, missing or another session's is an error, and a run with an error does not count.
Load generator, upstream, proxies and Redis share the machine over loopback, and the setups take turns within one run of
the script. Every figure is the median of the rounds.

CPU is the most telling one: seconds of user and system time per 1,000 calls, all threads and child processes of a
program together. It falls as the load rises, because a busy process finds more to do each time it wakes up. Calls per
second are what is left of a machine that also runs the load.

nginx copies bytes. The router journals each call before it acknowledges it and each answer before it delivers it, and
keeps both for a client that comes back; with Redis they survive the router's death.
";

pub fn write(options: &Report) -> Result<(), Fault> {
    let text = fs::read_to_string(&options.results)?;
    let runs = text.lines().map(serde_json::from_str).collect::<Result<Vec<Figures>, _>>()?;
    let page = Page { runs: runs.into_iter().filter(|run| run.errors == 0).collect() };
    if let Some(file) = &options.html {
        page.plots(&options.facts).write(file)?;
    }
    let page = page.render(&options.facts)?;
    if options.to == Path::new("-") {
        print!("{page}");
    } else {
        // What others have measured and written below stays.
        let before = fs::read_to_string(&options.to).unwrap_or_default();
        let kept = before.find(BUILD_TIME).map(|at| &before[at..]).unwrap_or_default();
        fs::write(&options.to, page + kept)?;
    }
    Ok(())
}

/// The part of the page that this program does not write; the last one.
const BUILD_TIME: &str = "\n## Build time\n";

struct Page {
    runs: Vec<Figures>,
}

/// The middle one; of an even number the lower of the two.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

fn over(value: Option<f64>, by: Option<f64>) -> Option<f64> {
    Some(value? / by.filter(|by| *by > 0.0)?)
}

impl Page {
    /// The median of `what` over the runs of one measurement.
    fn median(&self, mode: &str, label: &str, sessions: u32, what: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
        let runs = self.runs.iter().filter(|run| run.mode == mode && run.label == label && run.sessions == sessions);
        median(runs.filter_map(what).collect())
    }

    /// The same as plots, with the figures of each run.
    fn plots(&self, facts: &[String]) -> page::Page {
        let mut plots = Vec::new();
        for Calls { mode, title, sessions, .. } in CALLS {
            type What = fn(&Page, &str, &str, u32) -> Option<f64>;
            let what: [(&str, &str, What); 3] = [
                ("calls per second", "calls/s", |page, mode, label, sessions| page.rate(mode, label, sessions)),
                ("latency, p99", "ms", |page, mode, label, sessions| {
                    page.latency(mode, label, sessions, |latency| latency.p99)
                }),
                ("CPU of the router", "s per 1,000 calls", |page, mode, label, sessions| {
                    page.cpu(mode, label, sessions, "router")
                }),
            ];
            let sizes = self.sizes(mode);
            for (name, unit, value) in what {
                let series = SETUPS.iter().map(|(label, shown)| {
                    let values = sizes
                        .iter()
                        .zip(0_u32..)
                        .filter_map(|(size, at)| Some((f64::from(at), value(self, mode, label, *size)?)));
                    ((*shown).to_owned(), values.collect::<Vec<_>>())
                });
                plots.push(page::Plot {
                    title: format!("{title}: {name}"),
                    x: (*sessions).to_owned(),
                    y: unit.to_owned(),
                    marks: page::Marks::Bars,
                    names: sizes.iter().map(ToString::to_string).collect(),
                    series: series.filter(|(_, points)| !points.is_empty()).collect(),
                });
            }
        }
        let killed = self.runs.iter().filter_map(|run| run.failover.as_ref()?.recovery_ms.as_ref());
        let killed: Vec<&Quantiles> = killed.collect();
        let part = |which: fn(&Quantiles) -> f64| {
            killed.iter().zip(1_u32..).map(|(times, run)| (f64::from(run), which(times))).collect()
        };
        plots.push(page::Plot {
            title: "An owner is killed: recovery of broken streams".to_owned(),
            x: "run".to_owned(),
            y: "ms".to_owned(),
            marks: page::Marks::Dots,
            names: Vec::new(),
            series: vec![
                ("p50".to_owned(), part(|times| times.p50)),
                ("p99".to_owned(), part(|times| times.p99)),
                ("the last one".to_owned(), part(|times| times.max)),
            ],
        });
        let mut figures: Vec<(String, String)> = facts
            .iter()
            .map(|fact| fact.split_once('=').unwrap_or((fact, "")))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        figures.extend(self.runs.iter().map(|run| {
            let name = format!("{} {}, {} sessions", run.mode, run.label, run.sessions);
            let latency =
                run.latency_ms.as_ref().map(|times| format!(", p50 {:.2} ms, p99 {:.2} ms", times.p50, times.p99));
            let lost = run.failover.as_ref().map(|found| {
                format!(
                    "; {} streams broken, {} lost, {} repeated answers",
                    found.broken, found.lost, found.repeated_answers
                )
            });
            let calls = format!("{:.0} calls/s", run.calls_per_second);
            (name, calls + &latency.unwrap_or_default() + &lost.unwrap_or_default())
        }));
        let passed = "Every answer was the right one; runs with an error do not count.".to_owned();
        page::Page { title: "Performance".to_owned(), failures: Vec::new(), passed, figures, plots }
    }

    fn rate(&self, mode: &str, label: &str, sessions: u32) -> Option<f64> {
        self.median(mode, label, sessions, |run| Some(run.calls_per_second))
    }

    fn latency(&self, mode: &str, label: &str, sessions: u32, which: fn(&Quantiles) -> f64) -> Option<f64> {
        self.median(mode, label, sessions, |run| run.latency_ms.as_ref().map(which))
    }

    fn cpu(&self, mode: &str, label: &str, sessions: u32, group: &str) -> Option<f64> {
        self.median(mode, label, sessions, |run| run.processes.get(group).map(|used| used.cpu_per_1000))
    }

    fn kib_per_session(&self, mode: &str, label: &str, sessions: u32, group: &str) -> Option<f64> {
        self.median(mode, label, sessions, |run| run.processes.get(group).map(|used| used.kib_per_session))
    }

    /// Numbers of sessions that a mode was run with.
    fn sizes(&self, mode: &str) -> Vec<u32> {
        let mut sizes: Vec<u32> = self.runs.iter().filter(|run| run.mode == mode).map(|run| run.sessions).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    fn has(&self, mode: &str, label: &str, sessions: u32) -> bool {
        self.runs.iter().any(|run| run.mode == mode && run.label == label && run.sessions == sessions)
    }

    fn render(&self, facts: &[String]) -> Result<String, Fault> {
        let mut page = INTRODUCTION.to_owned();
        writeln!(page, "\n| | |\n|---|---|")?;
        for fact in facts {
            let (name, value) = fact.split_once('=').ok_or("a fact is name=value")?;
            writeln!(page, "| {name} | {value} |")?;
        }
        self.promises(&mut page)?;
        for calls in CALLS {
            for sessions in self.sizes(calls.mode) {
                let who =
                    if sessions == 1 { "one session".to_owned() } else { format!("{sessions} {}", calls.sessions) };
                let title = format!("Tool calls over {}, {who}", calls.title);
                self.calls(&mut page, &title, calls.mode, calls.beside, sessions)?;
            }
        }
        self.edge(&mut page)?;
        self.memory_table(&mut page, "idle", "idle sessions with their upstream streams open")?;
        self.memory_table(&mut page, "streamable-idle", "idle Streamable HTTP sessions with their GET streams open")?;
        for sessions in self.sizes("open") {
            let title = format!("Sessions opened and closed, {sessions} at a time");
            self.calls(&mut page, &title, "open", "open", sessions)?;
            let left = |label: &str| self.kib_per_session("open", label, sessions, "router");
            writeln!(
                page,
                "\nA session is kept for its client for MCP_SESSION_TTL after it was closed. Resident memory that the router\n\
                 has grown by for each one: {} KiB (embedded store), {} KiB (Redis).",
                number(left("router"), 1),
                number(left("router-redis"), 1)
            )?;
        }
        self.churn(&mut page)?;
        self.failovers(&mut page)?;
        Ok(page)
    }

    fn promises(&self, page: &mut String) -> Result<(), Fault> {
        let times_nginx = |mode: &str, label: &str, sessions: u32| {
            over(self.cpu(mode, label, sessions, "router"), self.cpu(mode, "nginx", sessions, "nginx"))
        };
        let p99 = |label: &str| self.latency("sse", label, 32, |latency| latency.p99);
        let added = p99("router-redis").zip(p99("direct")).map(|(with, without)| with - without);
        let recovery = self.failover_median("cluster", 256, |recovery| recovery.recovery_ms.as_ref().map(|it| it.p99));
        let mut rows: Vec<(String, String, Option<f64>, bool)> = Vec::new();
        let mut at_most = |what: &str, limit: f64, unit: &str, value: Option<f64>| {
            let reached = value.is_some_and(|value| value <= limit);
            rows.push((what.to_owned(), format!("≤ {limit} {unit}"), value, reached));
        };
        let per_call = [
            ("sse", "SSE", "router", "embedded store", 1.6),
            ("sse", "SSE", "router-redis", "Redis (the router's own)", 3.0),
            ("streamable", "Streamable HTTP", "router", "embedded store", 1.6),
            ("streamable", "Streamable HTTP", "router-redis", "Redis (the router's own)", 2.5),
        ];
        for (mode, calls, label, store, limit) in per_call {
            for sessions in [32, 256] {
                let what = format!("CPU per 1,000 {calls} calls, {sessions} sessions, {store}");
                at_most(&what, limit, "× nginx", times_nginx(mode, label, sessions));
            }
        }
        for sessions in self.sizes("streamable") {
            let cpu = |label: &str| self.cpu("streamable", label, sessions, "router");
            let what = format!("CPU per 1,000 Streamable HTTP calls, {sessions} sessions, embedded store");
            at_most(&what, 0.25, "× mcp-proxy", over(cpu("router"), cpu("mcp-proxy")));
        }
        for mode in ["sse", "streamable", "rest"] {
            for sessions in self.sizes(mode) {
                for (label, shown) in [("router-keys", "API keys"), ("router-tokens", "JWTs")] {
                    let cpu = |label: &str| self.cpu(mode, label, sessions, "router");
                    let what = format!("CPU per 1,000 calls ({mode}), {sessions} at a time, with {shown}");
                    at_most(&what, 1.05, "× without", over(cpu(label), cpu("router")));
                }
            }
        }
        for (mode, what, limit) in [
            ("stateless", "calls of 2026-07-28", 1.3),
            ("stateless-list", "lists of tools of 2026-07-28, kept by the router", 1.0),
        ] {
            let what = format!("CPU per 1,000 {what}, 32 callers, embedded store");
            at_most(&what, limit, "× nginx", times_nginx(mode, "router", 32));
        }
        at_most(
            "CPU per 1,000 REST calls, 32 callers, embedded store",
            3.0,
            "× nginx",
            times_nginx("rest", "router", 32),
        );
        at_most("p99 that the router with Redis adds, 32 sessions", 3.0, "× nginx's p99", over(added, p99("nginx")));
        let per_session = [
            ("idle", "SSE session with its upstream stream open", 30.0),
            ("streamable-idle", "Streamable HTTP session with its GET stream open", 24.0),
        ];
        for (mode, session, limit) in per_session {
            for sessions in self.sizes(mode) {
                let what = format!("memory per idle {session}, {sessions} sessions");
                at_most(&what, limit, "KiB", self.kib_per_session(mode, "router", sessions, "router"));
            }
        }
        for sessions in self.sizes("events") {
            let cpu = |label: &str| self.cpu("events", label, sessions, "nginx");
            let what = format!("CPU per 1,000 events behind nginx-edge.conf, {sessions} streams");
            at_most(&what, 1.5, "× nginx.conf", over(cpu("front-edge"), cpu("front")));
        }
        for sessions in self.sizes("events-idle") {
            let what = format!("memory per idle stream behind nginx-edge.conf, {sessions} streams");
            at_most(&what, 30.0, "KiB", self.kib_per_session("events-idle", "front-edge", sessions, "nginx"));
        }
        at_most("recovery of 256 busy sessions after kill -9 of their owner, p99", 1000.0, "ms", recovery);
        let rate = over(self.rate("sse", "router", 32), self.rate("sse", "nginx", 32));
        let reached = rate.is_some_and(|rate| rate >= 0.8);
        rows.push((
            "calls per second, 32 SSE sessions, embedded store".to_owned(),
            "≥ 0.8 × nginx".to_owned(),
            rate,
            reached,
        ));
        writeln!(page, "\n## What is promised\n\n| figure | promised | measured | |\n|---|---|---|---|")?;
        for (what, limit, value, reached) in rows.into_iter().filter(|(_, _, value, _)| value.is_some()) {
            let mark = if reached { "reached" } else { "**missed**" };
            writeln!(page, "| {what} | {limit} | {} | {mark} |", number(value, 2))?;
        }
        Ok(())
    }

    fn calls(&self, page: &mut String, title: &str, mode: &str, beside: &str, sessions: u32) -> Result<(), Fault> {
        writeln!(page, "\n## {title}\n")?;
        let what = if mode == "open" { "sessions" } else { "calls" };
        writeln!(
            page,
            "| | {what}/s | p50 ms | p99 ms | max ms | CPU s per 1,000: router | nginx | Redis | upstream | load | router ÷ nginx |"
        )?;
        writeln!(page, "|---|---|---|---|---|---|---|---|---|---|---|")?;
        let nginx = self.cpu(beside, "nginx", sessions, "nginx");
        for (label, name) in SETUPS.iter().filter(|(label, _)| self.has(mode, label, sessions)) {
            write!(page, "| {name} | {}", number(self.rate(mode, label, sessions), 0))?;
            for which in [|it: &Quantiles| it.p50, |it: &Quantiles| it.p99, |it: &Quantiles| it.max] {
                write!(page, " | {}", number(self.latency(mode, label, sessions, which), 2))?;
            }
            for group in GROUPS {
                write!(page, " | {}", number(self.cpu(mode, label, sessions, group), 3))?;
            }
            let ratio = over(self.cpu(mode, label, sessions, "router"), nginx);
            writeln!(page, " | {} |", ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")))?;
        }
        Ok(())
    }

    /// What it costs that nginx keeps the streams, beside nginx that does not.
    fn edge(&self, page: &mut String) -> Result<(), Fault> {
        let (busy, idle) = (self.sizes("events"), self.sizes("events-idle"));
        if busy.is_empty() && idle.is_empty() {
            return Ok(());
        }
        writeln!(
            page,
            "\n## The edge\n\n\
             A server that fills event streams by the clock (64 bytes of text, every 20 ms), with nginx alone before it, as\n\
             nginx.conf and as nginx-edge.conf configure it (`scripts/bench.sh --only events,events-idle,front,front-edge`).\n"
        )?;
        let columns = busy.iter().map(|count| format!("CPU s per 1,000 events, {count} streams"));
        let columns: Vec<String> =
            columns.chain(idle.iter().map(|count| format!("KiB per idle stream, {count}"))).collect();
        writeln!(page, "| | {} |\n|---{}|", columns.join(" | "), "|---".repeat(columns.len()))?;
        for (label, name) in SETUPS.iter().filter(|(label, _)| label.starts_with("front")) {
            write!(page, "| {name} |")?;
            for count in &busy {
                write!(page, " {} |", number(self.cpu("events", label, *count, "nginx"), 4))?;
            }
            for count in &idle {
                write!(page, " {} |", number(self.kib_per_session("events-idle", label, *count, "nginx"), 1))?;
            }
            writeln!(page)?;
        }
        Ok(())
    }

    fn memory_table(&self, page: &mut String, mode: &str, what: &str) -> Result<(), Fault> {
        for sessions in self.sizes(mode) {
            writeln!(
                page,
                "\n## Memory, {sessions} {what}\n\n\
                 A client that is idle has closed its connection for POSTs, as HTTP clients do after some seconds.\n"
            )?;
            writeln!(page, "| KiB per session | router | nginx | Redis |\n|---|---|---|---|")?;
            for (label, name) in SETUPS.iter().filter(|(label, _)| self.has(mode, label, sessions)) {
                write!(page, "| {name} |")?;
                for group in &GROUPS[..3] {
                    write!(page, " {} |", number(self.kib_per_session(mode, label, sessions, group), 1))?;
                }
                writeln!(page)?;
            }
        }
        Ok(())
    }

    /// What is left of sessions whose time is over.
    fn churn(&self, page: &mut String) -> Result<(), Fault> {
        for openers in self.sizes("churn") {
            writeln!(
                page,
                "\n## Sessions that have come and gone\n\n\
                 {openers} clients open and close sessions, which are over soon after (MCP_SESSION_TTL=1s). Resident memory in MiB,\n\
                 after a first such window and after all; between the two looks that many sessions were opened and closed.\n"
            )?;
            writeln!(page, "| | sessions | router | afterwards | Redis | afterwards |\n|---|---|---|---|---|---|")?;
            for (label, name) in SETUPS.iter().filter(|(label, _)| self.has("churn", label, openers)) {
                let opened = self.median("churn", label, openers, |run| Some(run.calls as f64));
                write!(page, "| {name} | {} |", number(opened, 0))?;
                for group in ["router", "redis"] {
                    let rss = |which: fn(&Used) -> u64| {
                        let mib = |run: &Figures| run.processes.get(group).map(|used| which(used) as f64 / 1024.0);
                        number(self.median("churn", label, openers, mib), 1)
                    };
                    write!(page, " {} | {} |", rss(|used| used.rss_before_kib), rss(|used| used.rss_after_kib))?;
                }
                writeln!(page)?;
            }
        }
        Ok(())
    }

    fn failover_median(
        &self,
        label: &str,
        sessions: u32,
        what: impl Fn(&crate::figures::Recovery) -> Option<f64>,
    ) -> Option<f64> {
        self.median("failover", label, sessions, |run| what(run.failover.as_ref()?))
    }

    fn failovers(&self, page: &mut String) -> Result<(), Fault> {
        let mut kinds: BTreeMap<(u32, &str), ()> = BTreeMap::new();
        kinds
            .extend(self.runs.iter().filter(|run| run.mode == "failover").map(|run| ((run.sessions, &*run.label), ())));
        if kinds.is_empty() {
            return Ok(());
        }
        writeln!(page, "\n## The death of an owner under load\n")?;
        writeln!(
            page,
            "Three routers with Redis behind nginx; the one that owns all sessions is killed with SIGKILL while every\n\
             session works in a closed loop. Clients reconnect at once with `Last-Event-ID`. Time from the kill to the first\n\
             answer on a new stream, over the sessions:\n"
        )?;
        writeln!(
            page,
            "| sessions | p50 ms | p90 ms | p99 ms | max ms | lost | calls answered with an error |\n|---|---|---|---|---|---|---|"
        )?;
        for (sessions, label) in kinds.into_keys() {
            write!(page, "| {sessions}")?;
            let whiches: [fn(&Quantiles) -> f64; 4] = [|it| it.p50, |it| it.p90, |it| it.p99, |it| it.max];
            for which in whiches {
                let value = self.failover_median(label, sessions, |it| it.recovery_ms.as_ref().map(which));
                write!(page, " | {}", number(value, 0))?;
            }
            let lost = self.failover_median(label, sessions, |it| Some(it.lost as f64));
            let refused = self.failover_median(label, sessions, |it| Some(it.refused_calls as f64));
            writeln!(page, " | {} | {} |", number(lost, 0), number(refused, 0))?;
        }
        Ok(())
    }
}
