//! The command line.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use testkit::connection::Target;

use crate::process::Group;

/// Load generator of mcp-router.
#[derive(Debug, Parser)]
#[command(name = "load")]
pub struct Options {
    #[command(subcommand)]
    pub mode: Option<Mode>,

    /// What `cargo bench` says to every bench target.
    #[arg(long, hide = true, global = true)]
    pub bench: bool,
}

/// What is measured. Another transport is another mode: it implements `Caller` and takes `Load`.
#[derive(Debug, Subcommand)]
pub enum Mode {
    /// Tool calls over HTTP+SSE sessions (2024-11-05), one after the other in each session
    Sse(Load),
    /// Tool calls over Streamable HTTP sessions (2025-11-25), one after the other in each session
    Streamable(Streamable),
    /// Tool calls of 2026-07-28, which has no sessions; or lists of tools
    Stateless(Stateless),
    /// Tool calls over plain POSTs that are answered with the result
    Rest(Load),
    /// Event streams of the upstream's /sse/events, read as they come
    Events(Load),
    /// Sessions opened (endpoint event, initialize, initialized) and closed again, as fast as possible
    Open(Load),
    /// Memory that stays when sessions were opened and closed, and their time is over
    Churn(Churn),
    /// Memory that idle sessions cost
    Idle(Idle),
    /// A process is killed under load: time until its sessions are answered again
    Failover(Failover),
    /// An MCP server for the other modes
    Upstream(Upstream),
    /// Medians and ratios of many runs, as Markdown
    Report(Report),
}

/// Against what, by how many, and what is looked at meanwhile.
#[derive(Debug, Args)]
pub struct Common {
    /// URL of the event stream (streamable, rest: of the POSTs); http only
    #[arg(long)]
    pub url: Target,

    /// Sessions, or callers
    #[arg(long, default_value_t = 32)]
    pub sessions: u32,

    /// Name of the tool that is called
    #[arg(long, default_value = "echo")]
    pub tool: String,

    /// Another header for every request, as "Name: value"; may be repeated
    #[arg(long = "header", value_name = "HEADER")]
    pub headers: Vec<String>,

    /// Give each session an address of its own in 127.0.0.0/8, so that a balancer which goes by the client's address
    /// spreads them
    #[arg(long)]
    pub spread: bool,

    /// Processes whose CPU and memory are looked at, as name=PID or name=PID,PID; their children belong to them
    #[arg(long = "pids", value_name = "GROUP")]
    pub groups: Vec<Group>,

    /// Name of what is measured, for the result
    #[arg(long, default_value = "")]
    pub label: String,

    /// Name of the measurement in the result, in place of the mode's
    #[arg(long = "as", value_name = "NAME")]
    pub name: Option<String>,

    /// Append the result to this file, as one line of JSON
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// A measured window.
#[derive(Debug, Args)]
pub struct Load {
    #[command(flatten)]
    pub common: Common,

    /// Length of the measured window
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub seconds: Duration,

    /// Load before the window
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub warmup: Duration,

    /// Pause between an answer and the next call; without one, no CPU is left idle
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pub think: Duration,

    /// Bytes of text that a call carries and its answer brings back, beside the marker
    #[arg(long, default_value_t = 64)]
    pub payload: usize,
}

/// Streamable HTTP.
#[derive(Debug, Args)]
pub struct Streamable {
    #[command(flatten)]
    pub load: Load,

    /// Each session holds its own event stream (GET) as well
    #[arg(long)]
    pub listen: bool,
}

/// A load of clients without sessions.
#[derive(Debug, Args)]
pub struct Stateless {
    #[command(flatten)]
    pub load: Load,

    /// They ask for the list of tools
    #[arg(long)]
    pub list: bool,
}

/// How a client speaks.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Transport {
    /// HTTP+SSE (2024-11-05)
    Sse,
    /// Streamable HTTP (2025-11-25)
    Streamable,
}

/// Sessions that come and go.
#[derive(Debug, Args)]
pub struct Churn {
    #[command(flatten)]
    pub load: Load,

    /// Windows, of which the first is not counted: what it leaves are caches and tables of the size that is needed
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..))]
    pub windows: u32,

    /// How long nothing happens after a window before memory is looked at: longer than a session's life
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub settle: Duration,
}

/// Idle sessions.
#[derive(Debug, Args)]
pub struct Idle {
    #[command(flatten)]
    pub common: Common,

    /// Sessions that are opened before memory is looked at for the first time: buffers and code that one session
    /// needs are there then
    #[arg(long, default_value_t = 64)]
    pub before: u32,

    /// How long nothing happens before memory is looked at
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub settle: Duration,

    /// How the clients speak; of Streamable HTTP each session has its own event stream (GET) open
    #[arg(long, value_enum, default_value = "sse")]
    pub transport: Transport,

    /// Only the event stream, without initialize: nothing is opened upstream then (sse only)
    #[arg(long)]
    pub uninitialized: bool,
}

/// A killed owner.
#[derive(Debug, Args)]
pub struct Failover {
    #[command(flatten)]
    pub load: Load,

    /// The process to kill, by SIGKILL
    #[arg(long)]
    pub kill: u32,

    /// How long sessions may take to be answered again
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub patience: Duration,
}

/// The MCP server.
#[derive(Debug, Args)]
pub struct Upstream {
    /// Port on loopback; 0 takes a free one, which is printed
    #[arg(long, default_value_t = 0)]
    pub port: u16,

    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub address: IpAddr,
}

/// The page.
#[derive(Debug, Args)]
pub struct Report {
    /// Results of earlier runs, one line of JSON each
    #[arg(long)]
    pub results: PathBuf,

    /// File to write; `-` is standard output
    #[arg(long)]
    pub to: PathBuf,

    /// Write plots of it into this file (HTML), too
    #[arg(long)]
    pub html: Option<PathBuf>,

    /// A line about the circumstances, as "name=value"; may be repeated
    #[arg(long = "fact", value_name = "FACT")]
    pub facts: Vec<String>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds, such as 5 or 0.5".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
