//! Types of settings that the standard library has no word for. Those that hold a secret never print it.

use std::fmt;

use super::upstream_url::UpstreamUrl;

/// A secret. `Debug` does not show it; [`Secret::expose`] is the only way to the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The secret itself: to compare (in constant time) or to send, never to log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// The address of Redis. It may hold a password: `Debug` and `Display` mask it.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The whole URL, password included: for the client that connects, never to log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_url(&self.0))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A named group of equal endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamService {
    /// Name in the router's paths: 1 to 64 of `A-Z a-z 0-9 . _ -`, unique.
    pub name: String,
    /// At least one, all different, all `http` or `https` with a host.
    pub endpoints: Vec<UpstreamUrl>,
}

/// An allow-list that may be open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// `*`: whatever it is.
    Any,
    /// These alone, in the canonical form of their kind (lower case).
    Listed(Vec<String>),
}

impl Allowed {
    /// Whether the list covers `candidate`, which is compared without regard to case.
    pub fn covers(&self, candidate: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(listed) => listed.iter().any(|entry| entry.eq_ignore_ascii_case(candidate)),
        }
    }
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text an event, for people.
    Text,
    /// One JSON object an event, for collectors.
    Json,
}

/// What stands in place of a secret.
pub(super) const MASK: &str = "***";

/// The value of a setting as it may be shown.
pub(super) fn masked(env: &str, value: &str) -> String {
    match env {
        "MCP_ADMIN_TOKEN" => MASK.to_owned(),
        "REDIS_URL" => mask_url(value),
        "MCP_UPSTREAMS" => mask_urls(value),
        _ => value.to_owned(),
    }
}

/// Masks what may be a password in one URL, well-formed or not: all from `://` (or the start) to the last `@`, and the
/// query, where `redis+unix` keeps it.
fn mask_url(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('@') => (format!("{scheme}://"), rest),
        _ => (String::new(), text),
    };
    let without_user = mask_user(rest);
    let shown = match without_user.split_once('?') {
        Some((path, _)) => format!("{path}?{MASK}"),
        None => without_user,
    };
    scheme + &shown
}

/// Masks the credentials and the query of every URL in a list: in each part from `://` (or the start) to the last `@`
/// before the next `://`, and from the first `?` on, so that no separator inside a secret lets its end slip through.
fn mask_urls(text: &str) -> String {
    text.split("://").map(mask_part).collect::<Vec<_>>().join("://")
}

/// What begins the next entry of the list stays.
fn mask_part(part: &str) -> String {
    let Some((path, query)) = part.split_once('?') else { return mask_user(part) };
    let next = query.rfind([',', ';']).map(|at| &query[at..]).filter(|next| begins_entry(&next[1..]));
    // A question mark in a password, or an `@` in the query: nobody can say.
    let shown = if query.contains('@') { String::new() } else { format!("{}?", mask_user(path)) };
    format!("{shown}{MASK}{}", next.unwrap_or_default())
}

/// `http` of the next URL, with the name of its service or without.
fn begins_entry(text: &str) -> bool {
    let scheme = text.rsplit('=').next().unwrap_or_default().trim();
    matches!(scheme, "http" | "https")
}

fn mask_user(text: &str) -> String {
    match text.rfind('@') {
        Some(at) => format!("{MASK}{}", &text[at..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_redis_password_is_shown() {
        for (value, shown) in [
            ("redis://localhost:6379/1", "redis://localhost:6379/1"),
            ("redis://:pw@localhost", "redis://***@localhost"),
            ("redis://user:p@ss/w@localhost", "redis://***@localhost"),
            ("redis://user:a://b@localhost", "redis://***@localhost"),
            ("redis://user:a?b@localhost", "redis://***@localhost"),
            ("rediss://user:pw@localhost", "rediss://***@localhost"),
            ("redis:/user:pw@localhost", "***@localhost"),
            ("redis+unix:///run/r.sock?db=1&pass=a,b?c", "redis+unix:///run/r.sock?***"),
        ] {
            assert_eq!(masked("REDIS_URL", value), shown, "{value}");
        }
    }

    #[test]
    fn no_credentials_of_an_upstream_are_shown() {
        for (value, shown) in [
            ("a=http://u:pw@h,http://k@g;b=http://i", "a=http://***@h,http://***@g;b=http://i"),
            ("a=http://u:p,w;@h/sse,http://g", "a=http://***@h/sse,http://g"),
            ("a=u:pw@h", "***@h"),
            ("a=http://h/sse?api_key=s;b=http://g?k=s,http://i", "a=http://h/sse?***;b=http://g?***,http://i"),
            ("a=http://h?k=s,t;u", "a=http://h?***"),
            ("a=http://u:p?w@h,http://g?k=s@t", "a=http://***,http://***"),
        ] {
            assert_eq!(masked("MCP_UPSTREAMS", value), shown, "{value}");
        }
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let shown = format!("{:?} {:?}", Secret::new("tok"), RedisUrl::new("redis://u:pw@h"));
        assert_eq!(shown, "*** redis://***@h");
    }

    #[test]
    fn an_allow_list_ignores_case() {
        let hosts = Allowed::Listed(vec!["localhost".into()]);
        assert!(hosts.covers("LocalHost"));
        assert!(!hosts.covers("localhost.evil"));
        assert!(Allowed::Any.covers("anything"));
    }
}
