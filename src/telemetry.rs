//! Logs: one subscriber for the process, to standard error or a file. What becomes of a log that cannot be written: [`writer`].
//!
//! Session ids are secrets. They are masked by type, not by filter: `Debug` and `Display` of
//! [`SessionId`](crate::protocol::session_id::SessionId) show a short prefix only, so no log line can hold a whole one
//! (SEC-2). Tokens and the password of Redis are kept out in the same way ([`crate::settings::Secret`],
//! [`crate::settings::RedisUrl`]).

use std::{backtrace::Backtrace, env, io, io::IsTerminal, panic, sync::LazyLock};

use prometheus::IntCounter;
use tracing_subscriber::{EnvFilter, util::SubscriberInitExt};

use crate::settings::{LogFormat, LogSettings, defaults};

pub mod writer;

pub use writer::{flush, reopen};

/// Panics of threads and tasks. Each is a bug.
pub static PANICS: LazyLock<IntCounter> = LazyLock::new(|| {
    IntCounter::new("mcp_router_panics_total", "Panics; each is a bug").expect("names are constant and valid")
});

/// Starts to log as `log` says: text (coloured only on a terminal, and not if `NO_COLOR` is set) or one JSON object a
/// line. To be called once, by `main`; a subscriber that is set already stays, so that tests may call it, too.
///
/// # Errors
/// `MCP_LOG_FILE` cannot be opened.
pub fn init(log: &LogSettings) -> io::Result<()> {
    // Checked when the settings were read; settings changed by a program since then fall back rather than fail.
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new(defaults::LOG_LEVEL));
    let filter = [
        // It calls every stream that is aborted on purpose an error of the response body.
        ("actix_http", "actix_http::h1::dispatcher=off"),
        // It tells of its threads and sockets, after the line that says that the router is ready.
        ("actix_server", "actix_server=warn"),
    ]
    .into_iter()
    .filter(|(program, _)| !log.level.contains(program))
    .filter_map(|(_, directive)| directive.parse().ok())
    .fold(filter, EnvFilter::add_directive);
    let queue = writer::start(log.queue, log.file.as_deref())?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(queue).log_internal_errors(false);
    let outcome = match log.format {
        LogFormat::Text => {
            let coloured = log.file.is_none()
                && io::stderr().is_terminal()
                && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            subscriber.with_ansi(coloured).finish().try_init()
        }
        LogFormat::Json => subscriber.json().flatten_event(true).with_ansi(false).finish().try_init(),
    };
    if outcome.is_err() {
        tracing::debug!("a subscriber is set already; it stays");
    }
    // The default one writes to standard error itself, and would wait there for a reader that is stuck.
    panic::set_hook(Box::new(|info| {
        PANICS.inc();
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        // Only what stands in the program: a formatted text may quote a payload (SEC-2).
        let text = info.payload().downcast_ref::<&'static str>().copied().unwrap_or("(its text may quote a payload)");
        match Backtrace::capture() {
            trace if trace.status() == std::backtrace::BacktraceStatus::Captured => {
                tracing::error!(at, "a thread or task panicked: {text}\n{trace}");
            }
            _ => tracing::error!(at, "a thread or task panicked: {text}"),
        }
    }));
    Ok(())
}
