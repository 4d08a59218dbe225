//! Starts the router: settings → tracing → run → exit code.

use std::process::ExitCode;

use mcp_router::{server, settings, telemetry};

fn main() -> ExitCode {
    let settings = match settings::load() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(&error);
        }
    };
    telemetry::init(&settings.log);
    match actix_rt::System::new().block_on(server::run(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            error.exit_code()
        }
    }
}
