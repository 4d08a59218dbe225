//! Starts `mcp-server-v6`: reads the command line, binds, says where, serves.

#![forbid(unsafe_code)]

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use mcp_server_v6::{Answers, DEFAULT_PORT, DEFAULT_STORED_EVENTS, ServerOptions, bind};
use tracing_subscriber::filter::LevelFilter;

/// The reference MCP server: HTTP+SSE (2024-11-05) at /sse, Streamable HTTP (2025-03-26 to 2025-11-25) at /mcp.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// TCP port to listen on; 0 lets the system choose one
    #[arg(long, default_value_t = DEFAULT_PORT)]
    port: u16,

    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,

    /// Also offer the drill tools: wait, increment, counts, ask_client, payload, echo
    #[arg(long)]
    drill_tools: bool,

    /// Append the key of every increment to this file, one a line
    #[arg(long, value_name = "PATH")]
    counts_file: Option<PathBuf>,

    /// Interval of the comments that keep an idle stream alive
    #[arg(long, default_value = "15s", value_parser = interval)]
    heartbeat: Duration,

    /// Threads that serve connections
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    workers: usize,

    /// Streamable HTTP: how requests are answered
    #[arg(long, value_enum, default_value_t)]
    answers: Answers,

    /// Streamable HTTP: no event ids and no resumption; an answer whose connection broke is lost, as with Python servers
    #[arg(long)]
    no_event_store: bool,

    /// Streamable HTTP: begin streams with a priming event for clients of every revision, not from 2025-11-25 on only
    #[arg(long)]
    prime_always: bool,

    /// Streamable HTTP: 409 for the GET of a stream that another connection shows, as stock servers; else the newest wins
    #[arg(long)]
    refuse_second_stream: bool,

    /// Streamable HTTP: no stream of the session's own; its GET is 405
    #[arg(long)]
    no_get_stream: bool,

    /// Streamable HTTP: reconnection time that priming events tell
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    retry: Duration,

    /// Streamable HTTP: a session ends when it was left alone for so long
    #[arg(long, default_value = "10m", value_parser = interval)]
    session_idle: Duration,

    /// Streamable HTTP: events kept of one stream
    #[arg(long, default_value_t = DEFAULT_STORED_EVENTS, value_parser = at_least_one)]
    stored_events: usize,

    /// Least severity of the log on stderr: off, error, warn, info, debug or trace
    #[arg(long, default_value = "info")]
    log_level: LevelFilter,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|reason| reason.to_string())?;
    if interval.is_zero() { Err("must be above zero".to_owned()) } else { Ok(interval) }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(reason) => Err(format!("{reason}")),
    }
}

#[actix_web::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Standard output is for the one line that says where the server listens.
    tracing_subscriber::fmt()
        .with_max_level(arguments.log_level)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        // A log that cannot be written is no reason not to serve.
        .log_internal_errors(false)
        .init();
    let (address, port) = (arguments.address, arguments.port);
    let options = ServerOptions {
        address,
        port,
        drill_tools: arguments.drill_tools,
        counts_file: arguments.counts_file,
        heartbeat: arguments.heartbeat,
        workers: arguments.workers,
        handle_signals: true,
        answers: arguments.answers,
        event_store: !arguments.no_event_store,
        prime_always: arguments.prime_always,
        refuse_second_stream: arguments.refuse_second_stream,
        get_stream: !arguments.no_get_stream,
        retry: arguments.retry,
        session_idle: arguments.session_idle,
        stored_events: arguments.stored_events,
        ..ServerOptions::default()
    };
    match serve(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            let _ = writeln!(io::stderr(), "mcp-server-v6: {}", complaint(&reason, address, port));
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: ServerOptions) -> io::Result<()> {
    let server = bind(options)?;
    let addr = server.addr();
    let serving = actix_web::rt::spawn(server.into_server());
    // A closed standard output is no reason not to serve.
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "mcp-server-v6 listening on http://{addr}").and_then(|()| stdout.flush());
    drop(stdout);
    tracing::info!("HTTP+SSE at http://{addr}/sse, Streamable HTTP at http://{addr}/mcp");
    serving.await.map_err(io::Error::other)?
}

fn complaint(reason: &io::Error, address: IpAddr, port: u16) -> String {
    match reason.kind() {
        io::ErrorKind::AddrInUse => format!(
            "port {port} on {address} is taken. `ss -ltnp 'sport = :{port}'` (or `lsof -iTCP:{port} -sTCP:LISTEN`) \
             shows by whom; --port chooses another one."
        ),
        io::ErrorKind::PermissionDenied if port != 0 && port < 1024 => {
            format!("port {port} on {address} needs privileges (ports below 1024 do); --port chooses another one.")
        }
        io::ErrorKind::AddrNotAvailable => format!("{address} is not an address of this machine ({reason})"),
        _ => reason.to_string(),
    }
}
