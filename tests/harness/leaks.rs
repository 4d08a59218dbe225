//! SEC-2, in every test that runs a router: at its end all that routers and nginx have written, and the last page of
//! metrics, is searched for every secret that the test has used ([`testkit::secrets`]).

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use super::{router_process::Env, secrets};

/// Longest wait for the page of a router that is to end; one that hangs has none.
const PAGE: Duration = Duration::from_secs(1);

/// Settings whose value is a secret, or names the file of one.
const SECRET_SETTINGS: [&str; 2] = ["MCP_ADMIN_TOKEN", "MCP_AUTH_CLIENT_SECRET_FILE"];

/// Those of these settings are secrets, too.
pub fn note_settings(env: &Env) {
    secrets::watch();
    for value in SECRET_SETTINGS.iter().filter_map(|&name| env.get(name)) {
        let secret = fs::read_to_string(value).unwrap_or_else(|_| value.clone());
        secrets::note(secret.trim());
    }
    let urls = env.iter().filter(|(name, _)| name.ends_with("_URL")).map(|(_, value)| value);
    for login in urls.filter_map(|url| url.split_once("://")?.1.rsplit_once('@')) {
        secrets::note(login.0.split_once(':').map_or(login.0, |(_, password)| password));
    }
}

/// The page of metrics of a router that still answers.
pub fn metrics_page(addr: SocketAddr) -> Option<String> {
    let mut socket = TcpStream::connect_timeout(&addr, PAGE).ok()?;
    socket.set_read_timeout(Some(PAGE)).ok()?;
    socket.write_all(b"GET /actuator/prometheus HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
    let mut page = String::new();
    socket.read_to_string(&mut page).ok()?;
    Some(page)
}

/// The audit log that these settings name, and those of before beside it.
pub fn audit_logs(env: &Env, dir: &Path) -> Vec<String> {
    let Some(path) = env.get("MCP_AUDIT_LOG").filter(|path| path.as_str() != "-") else { return Vec::new() };
    let path = dir.join(path);
    let (Some(folder), Some(stem)) = (path.parent(), path.file_stem()) else { return Vec::new() };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let its = entries.filter(|entry| Path::new(&entry.file_name()).file_stem() == Some(stem));
    its.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect()
}

/// What is there of secrets in what `who` has written.
pub fn of<'t>(who: &str, texts: impl IntoIterator<Item = &'t String>, also: &[&str]) -> Vec<String> {
    let found = texts.into_iter().flat_map(|text| secrets::found_in(text, also));
    found.map(|found| format!("{who} tells a secret: {found}")).collect()
}

/// Fails the test that has a leak, unless it has failed already.
pub fn assert_none(leaks: &[String]) {
    if !std::thread::panicking() {
        assert!(leaks.is_empty(), "SEC-2: {} leaks\n{}", leaks.len(), leaks[..leaks.len().min(5)].join("\n"));
    }
}
