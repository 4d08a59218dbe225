//! `mcp-router audit FILE`: checks the chain of an audit log (`MCP_AUDIT_LOG`).

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use crate::{audit, settings::EXIT_USAGE};

/// Does it if it is asked for. `args`: without the name of the program.
pub fn asked_for(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter();
    if args.next()? != "audit" {
        return None;
    }
    let (Some(file), None) = (args.next(), args.next()) else {
        let _ = writeln!(
            io::stderr(),
            "usage: mcp-router audit FILE\nChecks that no line of an audit log was changed, taken out or put in, and none is missing at its end (FILE.head)."
        );
        return Some(ExitCode::from(EXIT_USAGE));
    };
    Some(match audit::verify(Path::new(&file)) {
        Ok(lines) => {
            let _ = writeln!(io::stdout(), "{lines} lines, all as they were written");
            ExitCode::SUCCESS
        }
        Err(fault) => {
            let _ = writeln!(io::stderr(), "{}: {fault}", Path::new(&file).display());
            ExitCode::FAILURE
        }
    })
}
