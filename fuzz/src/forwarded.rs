//! Who the client is, and whether its Host and Origin may speak to us, nobody but trusted proxies and the lists decide.

use std::{cell::OnceCell, net::IpAddr};

use actix_web::{
    HttpRequest,
    http::header::{HeaderName, HeaderValue},
    test::TestRequest,
};
use mcp_router::{
    http::forwarded::{
        check_host_and_origin, client_address, from_trusted_proxy, is_https, prefix, request_name, was_forwarded,
    },
    settings::{SecuritySettings, Settings},
};

use super::choices::Choices;

const HOSTS: [&str; 3] = ["localhost", "[::1]", "router.example"];
const ORIGINS: [&str; 2] = ["https://ok.example", "http://ok.example:3000"];
/// The first three are trusted.
const PEERS: [&str; 6] =
    ["127.0.0.1:1", "10.1.2.3:4", "[::ffff:127.0.0.1]:1", "192.0.2.1:5", "[2001:db8::1]:6", "[::ffff:192.0.2.1]:7"];
const CLIENT: &str = "203.0.113.9";

type Line = (HeaderName, HeaderValue);

thread_local! {
    static SECURITY: OnceCell<SecuritySettings> = const { OnceCell::new() };
}

/// Bytes: the peer, the form of the request target, and header lines.
pub fn forwarded(data: &[u8]) {
    SECURITY.with(|security| {
        let security = security.get_or_init(|| {
            let (hosts, origins) = (HOSTS.join(","), ORIGINS.join(","));
            let pairs = [
                ("MCP_ALLOWED_HOSTS", hosts.as_str()),
                ("MCP_ALLOWED_ORIGINS", &origins),
                ("MCP_TRUSTED_PROXIES", "127.0.0.0/8,10.1.0.0/16"),
            ];
            Settings::from_pairs(pairs).expect("they are valid").security
        });
        check(data, security);
    });
}

fn check(data: &[u8], security: &SecuritySettings) {
    let mut choices = Choices::of(data);
    let peer = usize::from(choices.byte()) % PEERS.len();
    let target = ["/sse", "http://router.example/sse", "http://evil.example/sse"][usize::from(choices.byte()) % 3];
    let lines: Vec<Line> = choices.rest().split(|byte| *byte == b'\n').take(32).filter_map(line).collect();
    let request = |lines: &[Line]| {
        let request = TestRequest::with_uri(target).peer_addr(PEERS[peer].parse().expect("an address"));
        lines.iter().cloned().fold(request, TestRequest::append_header).to_http_request()
    };
    let trusted = &security.trusted_proxies;
    let asked = request(&lines);

    assert_eq!(from_trusted_proxy(&asked, trusted), peer < 3);
    let address = client_address(&asked, trusted);
    if peer < 3 {
        check_address(&lines, address, |lines| client_address(&request(lines), trusted));
    } else {
        assert_eq!(address, asked.peer_addr().map(|peer| peer.ip()));
        assert!(prefix(&asked, trusted).is_empty() && !is_https(&asked, trusted));
        assert_eq!(request_name(&asked, trusted), None);
    }
    if let Some(name) = request_name(&asked, trusted) {
        assert!((1..=128).contains(&name.text().len()));
    }
    let prefix = prefix(&asked, trusted);
    assert!(prefix.is_empty() || (prefix.starts_with('/') && !prefix.starts_with("//") && !prefix.ends_with('/')));
    assert!(prefix.len() <= 256 && !prefix.contains(|c: char| c.is_ascii_control() || "\"<>:?#\\ ".contains(c)));
    if lines.iter().any(|(name, _)| name.as_str().starts_with("x-forwarded-")) {
        assert!(was_forwarded(&asked));
    }
    check_who_speaks(&asked, target, peer < 3, security);
}

fn line(text: &[u8]) -> Option<Line> {
    let colon = text.iter().position(|byte| *byte == b':')?;
    let value = HeaderValue::from_bytes(text[colon + 1..].trim_ascii()).ok()?;
    Some((HeaderName::from_bytes(&text[..colon]).ok()?, value))
}

/// Behind a trusted proxy.
fn check_address(lines: &[Line], address: Option<IpAddr>, of: impl Fn(&[Line]) -> Option<IpAddr>) {
    let is_ours = |address: IpAddr| match address.to_canonical() {
        IpAddr::V4(address) => matches!(address.octets(), [127, ..] | [10, 1, ..]),
        IpAddr::V6(_) => false,
    };
    let name = HeaderName::from_static("x-forwarded-for");
    let with_first = [&[(name.clone(), HeaderValue::from_static("198.51.100.7"))], lines].concat();
    match address {
        // All hops are ours: the one before them asked.
        Some(address) if is_ours(address) => assert_eq!(of(&with_first), "198.51.100.7".parse().ok()),
        decided => assert_eq!(of(&with_first), decided, "nothing that the client adds in front changes it"),
    }
    // nginx appends to what the client has sent, whatever that is.
    let sent = lines.iter().find(|(line, _)| *line == name).map_or(&b""[..], |(_, value)| value.as_bytes());
    let appended = HeaderValue::from_bytes(&[sent, b", ", CLIENT.as_bytes()].concat()).expect("it was one before");
    let with_last = [lines, &[(name, appended)]].concat();
    assert_eq!(of(&with_last), CLIENT.parse().ok(), "what a trusted proxy says counts, whatever stands before it");
}

fn check_who_speaks(request: &HttpRequest, target: &str, is_trusted: bool, security: &SecuritySettings) {
    let values = |name: &str| -> Vec<Vec<u8>> {
        request.headers().get_all(name).map(|value| value.as_bytes().to_ascii_lowercase()).collect()
    };
    let Ok(origin) = check_host_and_origin(request, security) else { return };
    assert_ne!(target, "http://evil.example/sse");
    let hosts = values("host");
    assert!(hosts.len() == 1 && HOSTS.iter().any(|host| is_with_port(&hosts[0], host)), "{hosts:?}");
    if is_trusted && let Some(forwarded) = values("x-forwarded-host").first() {
        let first = forwarded.split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        assert!(HOSTS.iter().any(|host| is_with_port(first, host)), "{forwarded:?}");
    }
    let origins = values("origin");
    assert_eq!(origin.map(|origin| origin.as_bytes().to_ascii_lowercase()).as_ref(), origins.first());
    assert!(origins.len() <= 1, "{origins:?}");
    for origin in origins {
        let text = std::str::from_utf8(&origin).expect("an allowed origin is text");
        let is_loopback = text.split_once("://").is_some_and(|(_, host)| {
            ["localhost", "127.0.0.1", "[::1]"].iter().any(|loopback| is_with_port(host.as_bytes(), loopback))
        });
        assert!(is_loopback || ORIGINS.contains(&text), "{text}");
    }
}

fn is_with_port(text: &[u8], host: &str) -> bool {
    let Some(port) = text.strip_prefix(host.as_bytes()) else { return false };
    port.is_empty() || port.strip_prefix(b":").is_some_and(|port| port.iter().all(u8::is_ascii_digit))
}
