//! Flags as Spring Boot spells them, for those who come with such a command line: `--server.port=8051` is
//! `--server-port=8051`, `--mcp.session.instance-id=a` is `--mcp-session-instance-id=a`. Every setting has this spelling;
//! a few that Spring calls otherwise have Spring's name, too.

use std::ffi::OsString;

/// Spring's name of what the router calls otherwise.
const OTHER_NAMES: [(&str, &str); 4] = [
    ("spring-data-redis-url", "redis-url"),
    ("spring-redis-url", "redis-url"),
    ("server-servlet-context-path", "server-base-path"),
    ("logging-level-root", "log-level"),
];

/// The command line with dotted flags in the router's own spelling; everything else as it came.
pub(super) fn plain_flags(args: impl IntoIterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut over = false;
    args.into_iter().map(move |arg| {
        over |= arg == "--";
        arg.to_str().filter(|_| !over).and_then(plain_flag).map_or(arg, OsString::from)
    })
}

fn plain_flag(arg: &str) -> Option<String> {
    let (name, value) = match arg.strip_prefix("--")?.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (arg.strip_prefix("--")?, None),
    };
    if !name.contains('.') {
        return None;
    }
    // Spring's relaxed binding: `instanceId` is `instance-id`.
    let mut plain = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        match c {
            '.' | '_' => plain.push('-'),
            c if c.is_ascii_uppercase() => {
                plain.push('-');
                plain.push(c.to_ascii_lowercase());
            }
            c => plain.push(c),
        }
    }
    let own = OTHER_NAMES.iter().find(|(theirs, _)| *theirs == plain).map_or(plain.as_str(), |(_, own)| own);
    Some(match value {
        Some(value) => format!("--{own}={value}"),
        None => format!("--{own}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotted_flags_are_the_routers_own() {
        for (given, plain) in [
            ("--server.port=8051", "--server-port=8051"),
            ("--server.port", "--server-port"),
            ("--mcp.session.instance-id=router-instance-1", "--mcp-session-instance-id=router-instance-1"),
            ("--mcp.session.instanceId=a.b=c", "--mcp-session-instance-id=a.b=c"),
            ("--mcp.session.ttl=30m", "--mcp-session-ttl=30m"),
            ("--spring.data.redis.url=redis://a.b:1/0", "--redis-url=redis://a.b:1/0"),
            ("--server-port=8051", "--server-port=8051"),
            ("--env-file=.env.8051", "--env-file=.env.8051"),
            ("-v", "-v"),
            ("8051", "8051"),
            ("a.b", "a.b"),
        ] {
            let all: Vec<OsString> = plain_flags([OsString::from(given)]).collect();
            assert_eq!(all, [plain], "{given}");
        }
        let after: Vec<OsString> = plain_flags(["--".into(), "--a.b=c".into()]).collect();
        assert_eq!(after, ["--", "--a.b=c"]);
    }
}
