//! `mcp-router key NAME [FILE]`: makes a key for clients (`MCP_AUTH_KEYS_FILE`). The key itself is shown once and kept nowhere.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    process::ExitCode,
};

use sha2::{Digest as _, Sha256};

use crate::{
    audit::ends_within_a_line,
    settings::{EXIT_USAGE, KEY_PREFIX, is_key_name},
};

const USAGE: &str = "usage: mcp-router key NAME [FILE]
Makes a key for clients. NAME says who has it: 1 to 64 characters of A-Z a-z 0-9 . _ : -
With FILE the line that MCP_AUTH_KEYS_FILE needs is added to it, and the key alone is printed; without, both are.
Several keys of one NAME are the same client: to change a key add a second one, and delete the first line later.";

/// Does it if it is asked for. `args`: without the name of the program.
pub fn asked_for(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter();
    if args.next()? != "key" {
        return None;
    }
    let (name, file, rest) = (args.next(), args.next(), args.next());
    let name = name.and_then(|name| name.into_string().ok()).filter(|name| is_key_name(name) && !name.starts_with('-'));
    let (Some(name), None) = (name, rest) else {
        let _ = writeln!(io::stderr(), "{USAGE}");
        return Some(ExitCode::from(EXIT_USAGE));
    };
    Some(match make(&name, file.map(PathBuf::from)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            let _ = writeln!(io::stderr(), "mcp-router key: {fault}");
            ExitCode::FAILURE
        }
    })
}

fn make(name: &str, file: Option<PathBuf>) -> io::Result<()> {
    // From the system's source of random numbers, 244 bits of them.
    let key = format!("{KEY_PREFIX}{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    let line = format!("{name} sha256:{}", data_encoding::HEXLOWER.encode(&Sha256::digest(&key)));
    match file {
        Some(file) => {
            // Not every editor ends the last line.
            let end = if ends_within_a_line(&file) { "\n" } else { "" };
            let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(file)?;
            // In one piece: the router may read at any moment.
            file.write_all(format!("{end}{line}\n").as_bytes())?;
            writeln!(io::stdout(), "{key}")
        }
        None => writeln!(io::stdout(), "key:  {key}\nline: {line}"),
    }
}
