//! Settings of any text are read or refused, show no secret either way, and a line of an env file hides no other.

use std::{ffi::OsString, fs};

use mcp_router::settings::{self, Settings, SettingsError};
use tempfile::TempDir;

use super::choices::Choices;

/// Stands at both ends of each secret.
const SECRET: &str = "S3CRET";

/// Bytes: which setting, and its value.
pub fn settings(data: &[u8]) {
    let mut choices = Choices::of(data);
    let all = settings::all();
    let setting = &all[usize::from(choices.byte()) % all.len()];
    let Ok(text) = std::str::from_utf8(choices.rest()) else { return };
    // It names a file, which would be read.
    if setting.env == "MCP_UPSTREAM_CA_FILE" || text.contains('\0') {
        return;
    }
    let read = one(setting.env, text);
    // A secret is shown neither way, so that this compares nothing of it.
    let padded = one(setting.env, &format!(" {text}\t"));
    assert_eq!(shown(&read), shown(&padded), "blanks around a value are none of it");
    match &read {
        Ok(settings) => check_forms(settings),
        Err(error) => assert!(
            error.problems().iter().any(|problem| problem.name == setting.env)
                || error.to_string().contains(setting.env),
            "{error} does not name {}",
            setting.env
        ),
    }
    let token = format!("{SECRET}{text}");
    assert!(!shown(&one("MCP_ADMIN_TOKEN", &token)).contains(SECRET));
}

fn one(name: &str, value: &str) -> Result<Settings, SettingsError> {
    Settings::from_pairs([(name, value)])
}

fn shown(read: &Result<Settings, SettingsError>) -> String {
    match read {
        Ok(settings) => format!("{settings:?}"),
        Err(error) => format!("{error} {error:?}"),
    }
}

/// What others rely on.
fn check_forms(settings: &Settings) {
    let base = &settings.server.base_path;
    assert!(base.is_empty() || (base.starts_with('/') && !base.ends_with('/') && !base.contains("//")), "{base}");
    let is_name = |text: &str, most: usize| {
        (1..=most).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "._:-".contains(c))
    };
    assert!(is_name(&settings.session.redis_prefix, 64));
    assert!(is_name(&settings.session.instance_id, 128), "{}", settings.session.instance_id);
    for service in &settings.upstream.services {
        assert!(is_name(&service.name, 64) && !(service.endpoints.is_empty() && service.sources.is_empty()));
        for endpoint in &service.endpoints {
            let url = endpoint.request_url();
            assert!(matches!(url.scheme(), "http" | "https") && url.host().is_some() && url.fragment().is_none());
            assert!(url.username().is_empty() && url.password().is_none());
            assert!(endpoint.authorization().is_none_or(|header| header.is_ascii()));
        }
    }
}

/// Bytes: which kind of URL, and its user, password, host and query, with a line feed between two of them.
pub fn upstreams(data: &[u8]) {
    let mut choices = Choices::of(data);
    let kind = choices.byte() % 4;
    let Ok(text) = std::str::from_utf8(choices.rest()) else { return };
    // Of `password,http://next` nobody can say where it ends; and what marks a secret stands in nothing else.
    if text.contains("http") || text.contains(SECRET) {
        return;
    }
    let mut parts = text.split('\n');
    let [user, password, host, query] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    let secret = |text: &str| format!("{SECRET}{text}{SECRET}");
    let (password, query) = (secret(password), secret(query));
    let (name, value) = match kind {
        0 => ("MCP_UPSTREAMS", format!("a=http://{user}:{password}@{host}?k={query}")),
        1 => ("MCP_UPSTREAMS", format!("a=http://g,http://{user}:{password}@{host};b=https://h?k={query},http://i")),
        2 => ("REDIS_URL", format!("redis://{user}:{password}@{host}")),
        _ => ("REDIS_URL", format!("redis+unix:///{host}?pass={query}")),
    };
    let read = one(name, &value);
    let shown = shown(&read);
    let Ok(settings) = read else {
        assert!(!shown.contains(SECRET), "of {value:?} is shown: {shown}");
        return;
    };
    check_forms(&settings);
    // Of a URL that can be read these end the credentials, and what follows is a path, or a part of the host's name.
    if format!("{user}{password}{host}").contains(['/', '\\', '?', '#', '@']) {
        return;
    }
    assert!(!shown.contains(SECRET), "of {value:?} is shown: {shown}");
    for endpoint in settings.upstream.services.iter().flat_map(|service| &service.endpoints) {
        assert!(!format!("{endpoint} {endpoint:?}").contains(SECRET));
    }
    if let Some(url) = &settings.redis.url {
        assert!(!format!("{url} {url:?}").contains(SECRET));
        assert_eq!(url.expose(), value.trim());
    }
}

thread_local! {
    static DIRECTORY: TempDir = tempfile::tempdir().expect("a directory for env files");
}

/// Bytes: an env file.
pub fn env_file(data: &[u8]) {
    let has = |word: &[u8]| data.windows(word.len()).any(|window| window == word);
    // It names a file, which would be read; and what is added below counts only if it stands there once.
    if has(b"CA_FILE") || has(b"MAILBOX") || has(b"$") {
        return;
    }
    let alone = load(data);
    let Err(SettingsError::Invalid(problems)) = &alone else {
        let settings = alone.expect("the command line is understood");
        check_forms(&settings);
        let followed = load(&[data, b"\nMCP_MAILBOX=77\n"].concat()).expect("a good line spoils nothing");
        assert_eq!((followed.session.mailbox, followed.warnings), (77, settings.warnings), "the last line is hidden");
        return;
    };
    let mut is_malformed = false;
    for problem in problems {
        if problem.expected.starts_with("NAME=value") || problem.name == "ENV_FILE" {
            is_malformed = true;
            let is_name = problem.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            assert!(is_name || problem.name == "a line", "{problem}");
            assert!(problem.value == "***" || problem.name == "ENV_FILE", "{problem}");
        }
    }
    let followed = load(&[data, b"\nMCP_MAILBOX=77\n"].concat());
    assert!(followed.is_err(), "a good line heals nothing");
    if !is_malformed {
        assert_eq!(followed.expect_err("just seen").problems(), problems, "a good line is no other problem");
    }
}

fn load(content: &[u8]) -> Result<Settings, SettingsError> {
    DIRECTORY.with(|directory| {
        fs::write(directory.path().join(".env"), content).expect("it can be written");
        settings::load_from([OsString::from("mcp-router")], [], directory.path())
    })
}
