//! Starts the router: settings → tracing → run → exit code. Or, when the router itself asks for it, its guard.

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use mcp_router::{
    process::{audit_file, boot, check, fatal::EXIT_OS, key},
    settings, telemetry, watchdog,
};

/// Every call allocates some dozens of small pieces and frees them on the same thread; the system's allocator took a
/// sixth of the router's time for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = watchdog::guard_asked_for(std::env::args_os().skip(1)) {
        return code;
    }
    let args = || std::env::args_os().skip(1);
    let command = key::asked_for(args()).or_else(|| audit_file::asked_for(args())).or_else(|| check::asked_for(args()));
    if let Some(code) = command {
        return code;
    }
    let settings = match settings::load() {
        Ok(settings) => settings,
        Err(error) => {
            // Not `eprintln!`, which panics when nobody reads it.
            let _ = writeln!(io::stderr(), "{error}");
            return ExitCode::from(&error);
        }
    };
    if let Err(error) = telemetry::init(&settings.log) {
        let file = settings.log.file.as_deref().unwrap_or(Path::new("")).display();
        let _ = writeln!(io::stderr(), "MCP_LOG_FILE={file} cannot be opened: {error}");
        return ExitCode::from(EXIT_OS);
    }
    let _last_lines = LastLines;
    match actix_rt::System::new().block_on(boot::run(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            error.exit_code()
        }
    }
}

/// Has the last lines written, also when `main` ends by a panic.
struct LastLines;

impl Drop for LastLines {
    fn drop(&mut self) {
        telemetry::flush();
    }
}
