//! Load generator of mcp-router.
//!
//! A closed loop: every session sends one tool call after the other and waits for its answer, which must carry the
//! marker of that session and that call. One mode a file; what is measured is the same for all of them.
//!
//! | file | what stands there |
//! |---|---|
//! | `options` | the command line |
//! | `call` | the request of a call and the check of its answer |
//! | `session` | what the sessions of a run have in common |
//! | `closed_loop` | the measured window, for any transport that implements `Caller` |
//! | `sse`, `streamable`, `stateless`, `rest`, `events`, `idle`, `open` (and `churn`), `failover` | the modes |
//! | `upstream` | an MCP server that is never the bottleneck |
//! | `process` | CPU and memory of other processes, from `/proc` |
//! | `progress` | how far a run is, on a terminal |
//! | `figures` | what a run has measured: JSON and table |
//! | `report` | medians and ratios of many runs, as a page of the documentation, and as plots |
//!
//! HTTP/1.1 and event streams are those of `crates/testkit`, made for as little CPU as possible.
//!
//! One thread and one event loop: on a small machine the generator must not take what it measures.

mod call;
mod closed_loop;
mod events;
mod failover;
mod figures;
mod idle;
mod open;
mod options;
mod process;
mod progress;
mod report;
mod rest;
mod session;
mod sse;
mod stateless;
mod streamable;
mod upstream;

use std::{process::ExitCode, rc::Rc};

use clap::Parser as _;

use options::{Mode, Options};

/// What ends a run early.
type Fault = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let Options { mode, bench: _ } = Options::parse();
    let Some(mode) = mode else {
        // `cargo bench` runs every bench target, also those that nobody asked for.
        println!("load: no mode given; see scripts/bench.sh, or: cargo bench --bench load -- --help");
        return ExitCode::SUCCESS;
    };
    match run(mode) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("load: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn run(mode: Mode) -> Result<(), Fault> {
    if let Mode::Report(options) = mode {
        return report::write(&options);
    }
    // A session takes two descriptors here and two more in the upstream.
    rlimit::increase_nofile_limit(u64::MAX)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let figures = match mode {
            Mode::Sse(load) => sse::run(&Rc::new(load)).await?,
            Mode::Streamable(options) => streamable::run(&options).await?,
            Mode::Stateless(options) => stateless::run(&options).await?,
            Mode::Rest(load) => rest::run(&Rc::new(load)).await?,
            Mode::Events(load) => events::run(&load).await?,
            Mode::Open(load) => open::run(&Rc::new(load)).await?,
            Mode::Churn(options) => open::churn(options).await?,
            Mode::Idle(options) => idle::run(&options).await?,
            Mode::Failover(options) => failover::run(&Rc::new(options)).await?,
            Mode::Upstream(options) => return upstream::run(&options).await,
            Mode::Report(_) => return Ok(()),
        };
        figures.publish()
    })
}
