//! From the text of one setting to its value. Pure; an error says what would have been right, and never repeats the
//! value, which may be a secret.

use std::{fmt::Display, net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use ipnet::IpNet;
use redis::IntoConnectionInfo;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};
use url::{Host, Url};

use super::value::{Allowed, EraSetting, LogFormat, RedisUrl, Secret, Spread, Transport, Watched};

/// The value, or what was expected instead.
pub(super) type Parsed<T> = Result<T, String>;

pub(super) const MILLI: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) const KIB: usize = 1024;
pub(super) const MIB: usize = 1024 * KIB;
pub(super) const GIB: usize = 1024 * MIB;

/// A parser whose setting may be unset.
pub(super) fn optional<T>(parse: impl Fn(&str) -> Parsed<T>) -> impl Fn(&str) -> Parsed<Option<T>> {
    move |text| if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

/// A whole number within `range`.
pub(super) fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Parsed<T>
where
    T: std::str::FromStr + PartialOrd + Display,
{
    move |text| {
        let in_range = text.parse::<T>().ok().filter(|number| range.contains(number));
        in_range.ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
    }
}

/// A switch.
pub(super) fn on_or_off(text: &str) -> Parsed<bool> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".to_owned()),
    }
}

/// A duration within `range`, with its unit.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Parsed<Duration> {
    move |text| {
        let in_range = humantime::parse_duration(text).ok().filter(|duration| range.contains(duration));
        in_range.ok_or_else(|| {
            let [least, most] = [*range.start(), *range.end()].map(humantime::format_duration);
            format!("a duration with its unit, such as 500ms, 30s or 1h30m, from {least} to {most}")
        })
    }
}

/// A duration that may also be none at all, which turns off what it is the measure of.
pub(super) fn off_or(parse: impl Fn(&str) -> Parsed<Duration>) -> impl Fn(&str) -> Parsed<Duration> {
    move |text| match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Ok(duration),
        _ => parse(text).map_err(|expected| format!("{expected}, or 0s for off")),
    }
}

/// A number of bytes within `range`: `4MiB`, `512KiB`, `1GiB`, `1000`, `1000B`. Units are binary and any case; `MB`,
/// of which nobody knows whether it is meant to be decimal, is refused.
pub(super) fn size(range: RangeInclusive<usize>) -> impl Fn(&str) -> Parsed<usize> {
    move |text| {
        bytes(text).filter(|bytes| range.contains(bytes)).ok_or_else(|| {
            format!(
                "a size such as 4MiB, 512KiB or 1000 (bytes), from {} to {}",
                shown(*range.start()),
                shown(*range.end())
            )
        })
    }
}

fn bytes(text: &str) -> Option<usize> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => KIB,
        "mib" => MIB,
        "gib" => GIB,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor)
}

fn shown(bytes: usize) -> String {
    match bytes {
        _ if bytes.is_multiple_of(GIB) => format!("{}GiB", bytes / GIB),
        _ if bytes.is_multiple_of(MIB) => format!("{}MiB", bytes / MIB),
        _ if bytes.is_multiple_of(KIB) => format!("{}KiB", bytes / KIB),
        _ => bytes.to_string(),
    }
}

/// An IP address, an IPv6 one with or without brackets.
pub(super) fn address(text: &str) -> Parsed<IpAddr> {
    let unbracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    unbracketed.unwrap_or(text).parse().map_err(|_| "an IP address such as 127.0.0.1, 0.0.0.0 or [::]".to_owned())
}

/// A path prefix, in the form `/a/b`; a slash at the end is dropped, `/` alone is no prefix.
pub(super) fn base_path(text: &str) -> Parsed<String> {
    let path = text.strip_suffix('/').unwrap_or(text);
    let plain_segment = |segment: &str| {
        !segment.is_empty() && segment != "." && segment != ".." && segment.chars().all(|c| is_plain(c) || c == '~')
    };
    let well_formed = path.is_empty() || path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain_segment));
    if well_formed {
        Ok(path.to_owned())
    } else {
        Err("a path that begins with / and has segments of A-Z a-z 0-9 . _ ~ : -, such as /mcp-bridge".to_owned())
    }
}

/// The characters of names that stand in keys, headers and paths without any escape.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-')
}

/// Whether `text` is 1 to `most` plain characters.
pub(super) fn is_name(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.chars().all(is_plain)
}

/// An instance id that may still hold `{address}` and `{port}`.
pub(super) fn instance_id(text: &str) -> Parsed<String> {
    // The longest address and port, so that the filled-in id keeps within its bounds, too.
    let longest = expand_instance_id(text, &"f".repeat(39), u16::MAX);
    if is_name(&longest, 128) {
        Ok(text.to_owned())
    } else {
        Err("1 to 128 characters of A-Z a-z 0-9 . _ : -, where {address} and {port} may stand for those listened on"
            .to_owned())
    }
}

/// Fills in the places of an instance id.
pub(super) fn expand_instance_id(template: &str, address: &str, port: u16) -> String {
    template.replace("{address}", address).replace("{port}", &port.to_string())
}

pub(super) fn redis_prefix(text: &str) -> Parsed<String> {
    if is_name(text, 64) {
        Ok(text.to_owned())
    } else {
        Err("1 to 64 characters of A-Z a-z 0-9 . _ : - (no spaces or braces)".to_owned())
    }
}

pub(super) fn redis_url(text: &str) -> Parsed<RedisUrl> {
    const FORM: &str = "redis://[user:password@]host[:port][/db], redis+unix:///path/of/the/socket, or \
                        redis+sentinel://[user:password@]host[:port],host[:port]…/name[/db][?sentinel_user=…&sentinel_password=…], or \
                        redis-cluster://[user:password@]host[:port],host[:port]…; by TLS rediss://, rediss+sentinel:// and rediss-cluster://";
    match text.split_once("://") {
        // The client takes `#insecure` for a wish to believe any certificate.
        Some(("rediss" | "rediss+sentinel" | "rediss-cluster", rest)) if rest.contains('#') => {
            return Err(FORM.to_owned());
        }
        Some(("redis" | "rediss" | "redis+unix", _)) => {}
        Some((scheme @ ("redis+sentinel" | "rediss+sentinel"), rest)) => {
            let of_each = scheme.trim_end_matches("+sentinel");
            let watched = watched(of_each, rest).ok_or_else(|| FORM.to_owned())?;
            return Ok(RedisUrl::of_watched(text, watched));
        }
        Some((scheme @ ("redis-cluster" | "rediss-cluster"), rest)) => {
            let spread = spread(scheme.trim_end_matches("-cluster"), rest).ok_or_else(|| FORM.to_owned())?;
            return Ok(RedisUrl::of_spread(text, spread));
        }
        _ => return Err(FORM.to_owned()),
    }
    // The client's own parser has the last word, so that what passes here is sure to open. Its error is not shown: it
    // may quote the URL.
    text.into_connection_info().map(|_| RedisUrl::new(text)).map_err(|_| FORM.to_owned())
}

/// What stands behind `redis-cluster://`. It has one database, which has the number 0.
fn spread(scheme: &str, rest: &str) -> Option<Spread> {
    const PORT: u16 = 6379;
    let authority = rest.strip_suffix("/0").or_else(|| rest.strip_suffix('/')).unwrap_or(rest);
    let (login, hosts) = authority.rsplit_once('@').map_or(("", authority), |(login, hosts)| (login, hosts));
    let node = |host: &str| {
        let url = Url::parse(&format!("redis://{host}")).ok()?;
        let is_host = url.has_host() && url.path().is_empty() && url.query().is_none() && url.fragment().is_none();
        let name = url.host_str().filter(|_| is_host && url.username().is_empty())?;
        // As the client takes it, which has no brackets around an address.
        Some((name.trim_start_matches('[').trim_end_matches(']').to_owned(), url.port().unwrap_or(PORT)))
    };
    let nodes = hosts.split(',').map(node).collect::<Option<Vec<_>>>()?;
    let login = if login.is_empty() { String::new() } else { format!("{login}@") };
    let spread = Spread { nodes, node: format!("{scheme}://{login}localhost") };
    // As above.
    spread.node.as_str().into_connection_info().is_ok().then_some(spread)
}

/// What stands behind `redis+sentinel://`. `scheme`: of each node.
fn watched(scheme: &str, rest: &str) -> Option<Watched> {
    const SENTINEL_PORT: u16 = 26379;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/')?;
    let (login, hosts) = authority.rsplit_once('@').map_or(("", authority), |(login, hosts)| (login, hosts));
    let (name, db) = path.split_once('/').unwrap_or((path, "0"));
    db.parse::<u32>().ok()?;
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let (mut user, mut password) = (String::new(), None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=')? {
            ("sentinel_user", value) => user = value.to_owned(),
            ("sentinel_password", value) => password = Some(value.to_owned()),
            _ => return None,
        }
    }
    let sentinel_login = password.map(|password| format!("{user}:{password}@")).unwrap_or_default();
    let with_port = |host: &str| {
        let url = Url::parse(&format!("redis://{host}")).ok()?;
        let is_host = url.has_host() && url.path().is_empty() && url.username().is_empty();
        let port = url.port().unwrap_or(SENTINEL_PORT);
        is_host.then(|| format!("{scheme}://{sentinel_login}{}:{port}", url.host_str().unwrap_or_default()))
    };
    let sentinels = hosts.split(',').map(with_port).collect::<Option<Vec<_>>>()?;
    let login = if login.is_empty() { String::new() } else { format!("{login}@") };
    let watched = Watched { sentinels, name: name.to_owned(), node: format!("{scheme}://{login}localhost/{db}") };
    // As above.
    let opens = |url: &String| url.as_str().into_connection_info().is_ok();
    let is_right = is_name(name) && opens(&watched.node) && watched.sentinels.iter().all(opens);
    is_right.then_some(watched)
}

/// Host names without ports, or `*`.
pub(super) fn allowed_hosts(text: &str) -> Parsed<Allowed> {
    allowed(text, "host names or addresses without port, such as localhost,[::1], or * alone", |entry| {
        // A port or a bare IPv6 address fails in `Host::parse`; `*.example.com` would pass as a name that never matches.
        Host::parse(entry).ok().map(|host| host.to_string()).filter(|host| !host.contains('*'))
    })
}

/// Origins as browsers send them, or `*`.
pub(super) fn allowed_origins(text: &str) -> Parsed<Allowed> {
    allowed(text, "origins such as https://app.example.com or http://localhost:3000, or * alone", |entry| {
        let url = Url::parse(entry).ok()?;
        let origin_alone = url.path().trim_matches('/').is_empty()
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        let host = url.host_str().filter(|host| origin_alone && !host.is_empty() && !host.contains('*'))?;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        Some(format!("{}://{host}{port}", url.scheme()).to_ascii_lowercase())
    })
}

fn allowed(text: &str, expected: &str, canonical: impl Fn(&str) -> Option<String>) -> Parsed<Allowed> {
    match text {
        "" => Ok(Allowed::Listed(Vec::new())),
        "*" => Ok(Allowed::Any),
        _ => list(text, canonical).map(Allowed::Listed).ok_or_else(|| expected.to_owned()),
    }
}

fn list<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    text.split(',').map(|entry| parse(entry.trim())).collect()
}

/// Networks; an address alone is a network of one; `none` is no network.
pub(super) fn networks(text: &str) -> Parsed<Vec<IpNet>> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let network = |entry: &str| entry.parse().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from)).ok();
    list(text, network).ok_or_else(|| "networks such as 127.0.0.0/8,10.1.2.3,::1/128, or none".to_owned())
}

pub(super) fn path(text: &str) -> Parsed<PathBuf> {
    if text.chars().any(char::is_control) { Err("a path".to_owned()) } else { Ok(PathBuf::from(text)) }
}

pub(super) fn visible(text: &str) -> Parsed<String> {
    if text.chars().all(|c| c.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("visible ASCII characters".to_owned())
    }
}

pub(super) fn token(text: &str) -> Parsed<Secret> {
    if text.chars().all(|c| c.is_ascii_graphic()) {
        Ok(Secret::new(text))
    } else {
        Err("visible ASCII characters without spaces, since it travels in a header".to_owned())
    }
}

pub(super) fn transport(text: &str) -> Parsed<Transport> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(Transport::Auto),
        "sse" => Ok(Transport::Sse),
        "streamable" => Ok(Transport::Streamable),
        _ => Err("auto, sse or streamable".to_owned()),
    }
}

pub(super) fn era(text: &str) -> Parsed<EraSetting> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(EraSetting::Auto),
        "legacy" => Ok(EraSetting::Legacy),
        "modern" => Ok(EraSetting::Modern),
        _ => Err("auto, legacy or modern".to_owned()),
    }
}

pub(super) fn log_format(text: &str) -> Parsed<LogFormat> {
    match text.to_ascii_lowercase().as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("text or json".to_owned()),
    }
}

/// A level or directives of `EnvFilter`. A lone word must be a level: `EnvFilter` would take a misspelt one for the name
/// of a module, and log nothing else.
pub(super) fn log_level(text: &str) -> Parsed<String> {
    let has_span_filter = text.contains('[');
    let is_directive = |entry: &str| entry.contains('=') || entry.trim().parse::<LevelFilter>().is_ok();
    if (has_span_filter || text.split(',').all(is_directive)) && EnvFilter::try_new(text).is_ok() {
        Ok(text.to_owned())
    } else {
        Err("off, error, warn, info, debug or trace, or directives such as info,mcp_router=debug".to_owned())
    }
}
