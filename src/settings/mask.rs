//! How a value with a secret in it is shown.
//!
//! Used by whatever prints a setting: the types that hold secrets, and the reports of what is wrong. Never takes a value
//! apart to use it.

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
pub(super) fn mask_url(text: &str) -> String {
    let is_scheme = |scheme: &str| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    match text.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => format!("{scheme}://{}", mask_part(rest)),
        _ => mask_part(text),
    }
}

/// Masks the credentials and the query of every URL in a list: in each part from `://` (or the start) to the last `@`
/// before the next URL, and from the first `?` on, so that no separator inside a secret lets its end slip through.
fn mask_urls(text: &str) -> String {
    let mut masked = String::new();
    let (mut part, mut rest) = (0, 0);
    while let Some(at) = text[rest..].find("://").map(|at| rest + at) {
        let next = text[part..at].rfind([',', ';']).map_or(part, |separator| part + separator);
        rest = at + 3;
        // Any other stands within a secret.
        if begins_entry(text[next..at].trim_start_matches([',', ';'])) {
            masked += &mask_part(&text[part..next]);
            masked += &text[next..rest];
            part = rest;
        }
    }
    masked + &mask_part(&text[part..])
}

/// What is behind the scheme of one URL.
fn mask_part(part: &str) -> String {
    match part.split_once('?') {
        // A question mark in a password, or an `@` in the query: nobody can say.
        Some((_, query)) if query.contains('@') => MASK.to_owned(),
        Some((path, _)) => format!("{}?{MASK}", mask_user(path)),
        None => mask_user(part),
    }
}

/// `http` of a URL, with the name of its service or without.
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
            ("redis://user:a?b@localhost", "redis://***"),
            ("user:a://b@localhost", "***@localhost"),
            ("rediss://user:pw@localhost", "rediss://***@localhost"),
            ("redis:/user:pw@localhost", "***@localhost"),
            ("redis+unix:///run/r.sock?db=1&pass=a,b?c", "redis+unix:///run/r.sock?***"),
            ("redis+unix:///run/r.sock?pass=a@b", "redis+unix://***"),
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
            ("a=http://u:p://w@h/sse, http://g", "a=http://***@h/sse, http://g"),
            ("a=ftp://u:pw@h;b=http://g", "***@h;b=http://g"),
            ("a=http://u:p?w@h,http://g?k=s@t", "a=http://***,http://***"),
        ] {
            assert_eq!(masked("MCP_UPSTREAMS", value), shown, "{value}");
        }
    }
}
