//! What the server tells of its own process and of the system it runs on: the answer of one tool and one resource.

use std::fs;

use serde_json::{Value, json};

use crate::{options::SERVER_NAME, state::ServerState};

/// The report; what the system does not tell is left out.
pub(crate) fn report(state: &ServerState) -> Value {
    let mut report = json!({
        "name": SERVER_NAME,
        "version": env!("CARGO_PKG_VERSION"),
        "operatingSystem": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "processId": std::process::id(),
        "uptimeSeconds": state.started.elapsed().as_secs(),
        "sessions": state.sessions.len(),
        "persons": state.persons.count(),
    });
    if let Ok(name) = fs::read_to_string("/proc/sys/kernel/hostname") {
        report["hostName"] = name.trim().into();
    }
    if let Some(bytes) = resident_bytes() {
        report["residentBytes"] = bytes.into();
    }
    report
}

/// Memory of this process that is in use, as Linux counts it.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}
