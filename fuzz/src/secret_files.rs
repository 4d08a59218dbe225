//! Files with secrets, or their hashes, are read whole or not at all, and what is wrong with them is told without what stands
//! in them.

use std::{cell::OnceCell, fmt::Write as _, fs};

use mcp_router::settings::{ServiceCredential, Settings};
use tempfile::TempDir;

const SECRET: &str = "open-sesame-and-barley";

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// The settings with this file under this name, or what is wrong.
fn settings(name: &str, data: &[u8]) -> Result<Settings, String> {
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| {
            let folder = tempfile::tempdir().expect("a folder");
            fs::write(folder.path().join("secret"), SECRET).expect("it is written");
            folder
        });
        let path = folder.path().join("file");
        fs::write(&path, data).expect("it is written");
        Settings::from_pairs([
            ("MCP_AUTH", "keys"),
            ("MCP_AUTH_KEYS_FILE", "/dev/null"),
            (name, path.to_str().expect("a path")),
        ])
        .map_err(|error| error.to_string())
    })
}

/// Bytes: a file of keys.
pub fn key_file(data: &[u8]) {
    match settings("MCP_AUTH_KEYS_FILE", data) {
        Ok(settings) => {
            let keys = settings.auth.keys_file.as_ref().expect("it is set").keys();
            let text = std::str::from_utf8(data).expect("it was read");
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            assert_eq!(keys.len(), lines.clone().count());
            // As they are printed: the same keys.
            let mut again = String::new();
            for ((name, hash), line) in keys.iter().zip(lines) {
                let digits = hash.iter().fold(String::new(), |mut digits, byte| {
                    let _ = write!(digits, "{byte:02x}");
                    digits
                });
                assert!(line.starts_with(name.as_str()) && line.to_ascii_lowercase().ends_with(&digits), "{line}");
                let _ = writeln!(again, "{name} sha256:{digits}");
            }
            let read = self::settings("MCP_AUTH_KEYS_FILE", again.as_bytes()).expect("as it was printed");
            assert_eq!(read.auth.keys_file.as_ref().expect("it is set").keys(), keys);
        }
        Err(told) => {
            let text = String::from_utf8_lossy(data);
            let words = text.split_ascii_whitespace().filter(|word| word.starts_with("sha256:") && word.len() > 16);
            assert!(words.clone().all(|word| !told.contains(word)), "{told}");
        }
    }
}

/// Bytes: a file of credentials towards servers, beside which there is one secret in the file `secret`.
pub fn credentials_file(data: &[u8]) {
    match settings("MCP_UPSTREAM_CREDENTIALS_FILE", data) {
        Ok(settings) => {
            let file = settings.upstream.credentials.as_ref().expect("it is set");
            let mut names: Vec<&String> = file.services().iter().map(|(name, _)| name).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "a service has one credential");
            for (_, credential) in file.services() {
                match credential {
                    ServiceCredential::Header { name, value } => {
                        assert!(value.is_sensitive() && !name.as_str().starts_with("mcp-") && name != "host");
                    }
                    ServiceCredential::Grant(grant) => {
                        let url = &grant.token_endpoint;
                        assert!(url.scheme() == "https" || url.scheme() == "http" && url.has_host(), "{url}");
                    }
                }
            }
            assert!(!format!("{:?}", file.services()).contains(SECRET));
        }
        Err(told) => {
            let text = String::from_utf8_lossy(data);
            assert!(!told.contains(SECRET) || text.contains(SECRET), "{told}");
        }
    }
}
