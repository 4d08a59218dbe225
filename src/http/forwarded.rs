//! Who the client is and what prefix it sees, behind trusted proxies; and whether its Host and Origin may speak to us
//! (SEC-3).

use std::net::IpAddr;

use actix_web::{
    HttpRequest, HttpResponseBuilder,
    http::Version,
    http::header::{self, HeaderName, HeaderValue},
};
use ipnet::IpNet;

use super::error::ApiError;
use crate::settings::SecuritySettings;

// Names that are looked for in every request are parsed once.
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_MCP_EDGE: HeaderName = HeaderName::from_static("x-mcp-edge");
static X_MCP_REQUEST_TRY: HeaderName = HeaderName::from_static("x-mcp-request-try");
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The peer of the TCP connection is a trusted proxy.
pub fn from_trusted_proxy(request: &HttpRequest, trusted: &[IpNet]) -> bool {
    request.peer_addr().is_some_and(|peer| is_within(peer.ip(), trusted))
}

/// The address is in one of the networks.
pub(super) fn is_within(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// Whether a proxy keeps its client's connection while the instance behind it changes (`nginx/edge.lua`), as it says in
/// `X-MCP-Edge`. A stream to it ends cleanly only when it is over; where a client should come back it is broken off, and the
/// proxy comes back for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// None does, or none that is trusted.
    Absent,
    /// `open`: its client opens a stream.
    Opens,
    /// `again`: it goes on with one that its client has. The client knows where to speak and where its stream stands.
    GoesOn,
}

impl Edge {
    /// As this request says.
    pub fn of(request: &HttpRequest, trusted: &[IpNet]) -> Self {
        let said = request.headers().get(&X_MCP_EDGE).filter(|_| from_trusted_proxy(request, trusted));
        match said.map(HeaderValue::as_bytes) {
            Some(b"open") => Self::Opens,
            Some(b"again") => Self::GoesOn,
            _ => Self::Absent,
        }
    }

    /// Said back with a stream: the proxy keeps none of an instance that does not know of this, or does not trust it.
    pub fn answer(self, response: &mut HttpResponseBuilder) {
        if self != Self::Absent {
            response.insert_header((X_MCP_EDGE.clone(), "held"));
        }
    }
}

/// What a trusted proxy calls a request. REQ-6
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name<'r> {
    /// `X-MCP-Request-Try`: of this request alone, the same over all its tries. The shipped nginx.conf sets it to
    /// `$request_id`.
    OfOneRequest(&'r str),
    /// `X-Request-ID`: the same over all tries of one request, too, but some gateways send the same for everything that
    /// belongs together (a trace, a conversation).
    Correlation(&'r str),
}

impl<'r> Name<'r> {
    /// Its text.
    pub fn text(self) -> &'r str {
        match self {
            Self::OfOneRequest(text) | Self::Correlation(text) => text,
        }
    }
}

/// What a trusted proxy calls this request.
pub fn request_name<'r>(request: &'r HttpRequest, trusted: &[IpNet]) -> Option<Name<'r>> {
    let headers = request.headers();
    let text = |value: &'r HeaderValue| value.to_str().ok().filter(|text| (1..=128).contains(&text.len()));
    let own = headers.get(&X_MCP_REQUEST_TRY).and_then(text).map(Name::OfOneRequest);
    let name = own.or_else(|| headers.get(&X_REQUEST_ID).and_then(text).map(Name::Correlation))?;
    from_trusted_proxy(request, trusted).then_some(name)
}

/// The client's address: the peer, or behind trusted proxies the last hop that is not one of them.
pub fn client_address(request: &HttpRequest, trusted: &[IpNet]) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip();
    if !is_within(peer, trusted) {
        return Some(peer);
    }
    // As bytes: a client may have sent what is no text, and proxies append to that in the same line.
    let lines = request.headers().get_all("x-forwarded-for").map(HeaderValue::as_bytes);
    let hops: Vec<&[u8]> = lines.flat_map(|line| line.split(|byte| *byte == b',')).collect();
    for hop in hops.iter().rev() {
        match address_of(hop) {
            Some(address) if is_within(address, trusted) => {}
            Some(address) => return Some(address),
            // A hop that cannot be read is nobody we trust.
            None => return None,
        }
    }
    // Every hop is ours: the first one asked.
    hops.first().and_then(|hop| address_of(hop)).or(Some(peer))
}

fn address_of(hop: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(hop).ok()?.trim().parse().ok()
}

/// What the hop next to the client said: each further proxy in a row appends its own value, with a comma or a line of its
/// own.
fn first_value<'r>(request: &'r HttpRequest, name: &HeaderName) -> Option<&'r str> {
    let values = request.headers().get(name)?.to_str().ok()?;
    values.split(',').next().map(str::trim)
}

/// `X-Forwarded-Prefix` of a trusted proxy, without a final slash; empty when there is none.
pub fn prefix(request: &HttpRequest, trusted: &[IpNet]) -> String {
    if !from_trusted_proxy(request, trusted) {
        return String::new();
    }
    let prefix = first_value(request, &X_FORWARDED_PREFIX).unwrap_or("");
    let prefix = prefix.trim_end_matches('/');
    // It goes into the endpoint event: nothing that could end the line or name another origin.
    let sound = prefix.starts_with('/')
        && !prefix.starts_with("//")
        && prefix.len() <= 256
        && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._~-".contains(&byte));
    if sound { prefix.to_owned() } else { String::new() }
}

/// The host that the client has asked, as a trusted proxy or it itself says it. Whether it is ours:
/// [`check_host_and_origin`].
pub fn host<'r>(request: &'r HttpRequest, trusted: &[IpNet]) -> Option<&'r str> {
    let forwarded = first_value(request, &X_FORWARDED_HOST).filter(|_| from_trusted_proxy(request, trusted));
    forwarded.or_else(|| own_host(request))
}

/// As the client itself says it. In HTTP/2 it is a part of the target (RFC 9113, section 8.3.1).
fn own_host(request: &HttpRequest) -> Option<&str> {
    match request.headers().get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None if request.version() == Version::HTTP_2 => request.uri().authority().map(|authority| authority.as_str()),
        None => None,
    }
}

/// The client reached us by https: here, or where a trusted proxy says so.
pub fn is_https(request: &HttpRequest, trusted: &[IpNet]) -> bool {
    if request.app_config().secure() {
        return true;
    }
    from_trusted_proxy(request, trusted)
        && first_value(request, &X_FORWARDED_PROTO).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
}

/// A proxy has handed the request on, as proxies say it: in `Forwarded` (RFC 7239), `Via` (RFC 9110, section 7.6.3), one
/// of `X-Forwarded-*` or what single products send in their place. Whoever is trusted or not: it shows that the peer is not
/// where the request comes from.
pub fn was_forwarded(request: &HttpRequest) -> bool {
    const OTHERS: [&str; 9] = [
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-original-forwarded-for",
        "x-envoy-external-address",
        "cf-connecting-ip",
        "true-client-ip",
    ];
    request.headers().keys().any(|name| name.as_str().starts_with("x-forwarded-") || OTHERS.contains(&name.as_str()))
}

/// Checks Host (as the client sent it) and Origin; the origin when it is an allowed one.
pub fn check_host_and_origin<'r>(
    request: &'r HttpRequest,
    security: &SecuritySettings,
) -> Result<Option<&'r HeaderValue>, ApiError> {
    let headers = request.headers();
    let mut hosts = headers.get_all(header::HOST);
    hosts.next();
    let host = own_host(request).ok_or(ApiError::Host)?;
    // RFC 9112, section 3.2. Which one a proxy before us went by nobody can know.
    if hosts.next().is_some() {
        return Err(ApiError::Repeated { header: "Host" });
    }
    let forwarded = match headers.contains_key(&X_FORWARDED_HOST) {
        true if from_trusted_proxy(request, &security.trusted_proxies) => {
            Some(first_value(request, &X_FORWARDED_HOST).ok_or(ApiError::Host)?)
        }
        _ => None,
    };
    // Of a request target in absolute form the host counts (RFC 9112, section 3.2.2).
    let target = request.uri().host();
    for host in [Some(host), forwarded, target].into_iter().flatten() {
        if !security.allowed_hosts.covers(without_port(host)) {
            return Err(ApiError::Host);
        }
    }
    let mut origins = headers.get_all(header::ORIGIN);
    let Some(origin) = origins.next() else { return Ok(None) };
    if origins.next().is_some() {
        return Err(ApiError::Origin);
    }
    let text = origin.to_str().map_err(|_| ApiError::Origin)?;
    let loopback = text
        .split_once("://")
        .is_some_and(|(_, host)| matches!(without_port(host), "localhost" | "127.0.0.1" | "[::1]"));
    if loopback || security.allowed_origins.covers(text) || is_own_page(request, text, forwarded.unwrap_or(host)) {
        Ok(Some(origin))
    } else {
        Err(ApiError::Origin)
    }
}

/// A page of this router asks for what only operators are told (the dashboard); its host is an allowed one. Other pages of
/// the same host have nothing to look for elsewhere.
fn is_own_page(request: &HttpRequest, origin: &str, host: &str) -> bool {
    let path = request.path();
    let is_for_operators = ["/mcp/router/sessions/", "/mcp/router/instances/"].iter().any(|part| path.contains(part));
    let same = origin.split_once("://").is_some_and(|(_, named)| named.eq_ignore_ascii_case(host));
    is_for_operators && same
}

/// A browser's request comes from a page of this very host and port, not from another one that knows it (CSRF): browsers
/// name the origin of each POST and DELETE (Fetch standard, "HTTP extensions"). Programs name none.
pub fn is_from_own_page(request: &HttpRequest, trusted: &[IpNet]) -> bool {
    let headers = request.headers();
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    let Some(host) = host(request, trusted) else { return false };
    let is_own = |origin: &HeaderValue| {
        let named = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        named.is_some_and(|(_, named)| named.eq_ignore_ascii_case(host))
    };
    matches!(site, None | Some(b"same-origin" | b"none")) && headers.get_all(header::ORIGIN).all(is_own)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    mod property;

    fn security(pairs: &[(&str, &str)]) -> SecuritySettings {
        crate::settings::Settings::from_pairs(pairs.iter().copied()).expect("test settings are valid").security
    }

    #[test]
    fn foreign_hosts_and_origins_are_refused() {
        let security = security(&[("MCP_ALLOWED_ORIGINS", "https://ok.example")]);
        for (host, origin, allowed) in [
            ("localhost:8051", None, true),
            ("127.0.0.1", None, true),
            ("[::1]:80", None, true),
            ("mcp-bridge.local", None, true),
            ("evil.example", None, false),
            ("localhost.evil.example", None, false),
            ("localhost", Some("http://localhost:6274"), true),
            ("localhost", Some("https://ok.example"), true),
            ("localhost", Some("https://evil.example"), false),
            ("localhost", Some("http://localhost.evil.example"), false),
            ("localhost", Some("null"), false),
        ] {
            let mut request = TestRequest::default().insert_header(("host", host));
            if let Some(origin) = origin {
                request = request.insert_header(("origin", origin));
            }
            let request = request.to_http_request();
            let checked = check_host_and_origin(&request, &security);
            assert_eq!(checked.is_ok(), allowed, "{host} {origin:?}");
            if let Ok(named) = checked {
                assert_eq!(named.and_then(|named| named.to_str().ok()), origin, "what CORS answers");
            }
        }
    }

    #[test]
    fn a_header_that_decides_who_speaks_stands_once() {
        let security = security(&[]);
        let twice = |name: &'static str, first: &'static str, second: &'static str| {
            let request = TestRequest::default().insert_header(("host", "localhost"));
            request.append_header((name, first)).append_header((name, second)).to_http_request()
        };
        assert!(check_host_and_origin(&twice("x-other", "a", "b"), &security).is_ok());
        for request in [
            twice("origin", "http://localhost:1", "http://localhost:1"),
            twice("origin", "http://localhost:1", "https://evil.example"),
            TestRequest::default()
                .append_header(("host", "localhost"))
                .append_header(("host", "localhost"))
                .to_http_request(),
            TestRequest::default().to_http_request(),
            TestRequest::with_uri("http://evil.example/sse").insert_header(("host", "localhost")).to_http_request(),
        ] {
            assert!(check_host_and_origin(&request, &security).is_err(), "{request:?}");
        }
    }

    /// Several proxies in a row make lists: the first value is the client's own.
    #[test]
    fn of_a_list_the_first_value_counts() {
        let security = security(&[]);
        let trusted = &security.trusted_proxies;
        let request = |name: &'static str, value: &'static str| {
            let request = TestRequest::default().peer_addr("127.0.0.1:1".parse().unwrap());
            request.insert_header(("host", "localhost")).insert_header((name, value)).to_http_request()
        };
        for (value, allowed) in [
            ("mcp-bridge.local, 10.0.0.7:8080", true),
            ("mcp-bridge.local:80,evil.example", true),
            ("evil.example, mcp-bridge.local", false),
            (", mcp-bridge.local", false),
            ("", false),
        ] {
            let request = request("x-forwarded-host", value);
            assert_eq!(check_host_and_origin(&request, &security).is_ok(), allowed, "{value:?}");
        }
        assert_eq!(prefix(&request("x-forwarded-prefix", "/mcp-bridge/, /inner"), trusted), "/mcp-bridge");
        for (value, https) in [("https", true), ("HTTPS, http", true), ("http, https", false), ("", false)] {
            assert_eq!(is_https(&request("x-forwarded-proto", value), trusted), https, "{value:?}");
        }
    }

    #[test]
    fn a_forwarded_request_is_known_by_any_of_the_usual_headers() {
        let with = |name: &'static str| TestRequest::default().insert_header((name, "x")).to_http_request();
        for name in ["forwarded", "via", "x-real-ip", "x-forwarded-for", "x-forwarded-port", "cf-connecting-ip"] {
            assert!(was_forwarded(&with(name)), "{name}");
        }
        for name in ["host", "user-agent", "authorization", "x-request-id"] {
            assert!(!was_forwarded(&with(name)), "{name}");
        }
    }

    #[test]
    fn forwarded_headers_count_from_trusted_proxies_only() {
        let trusted = security(&[]).trusted_proxies;
        let request = |peer: &str, name: &'static str, value: &str| {
            TestRequest::default()
                .peer_addr(peer.parse().unwrap())
                .insert_header((name, value.to_owned()))
                .to_http_request()
        };
        assert_eq!(prefix(&request("127.0.0.1:1", "x-forwarded-prefix", "/mcp-bridge/"), &trusted), "/mcp-bridge");
        assert_eq!(prefix(&request("10.0.0.1:1", "x-forwarded-prefix", "/mcp-bridge"), &trusted), "");
        for bad in ["//evil.example", "https://evil.example", "/a b", "/a?b"] {
            assert_eq!(prefix(&request("127.0.0.1:1", "x-forwarded-prefix", bad), &trusted), "", "{bad}");
        }
        let client = |peer: &str, hops: &str| {
            client_address(&request(peer, "x-forwarded-for", hops), &trusted).map(|address| address.to_string())
        };
        assert_eq!(client("10.0.0.1:1", "127.0.0.1").as_deref(), Some("10.0.0.1"));
        assert_eq!(client("127.0.0.1:1", "127.0.0.1, 10.0.0.9").as_deref(), Some("10.0.0.9"));
        assert_eq!(client("127.0.0.1:1", "127.0.0.1").as_deref(), Some("127.0.0.1"));
        assert_eq!(client("127.0.0.1:1", "nonsense"), None);
    }

    /// nginx appends to what the client has sent, in the same line.
    #[test]
    fn what_a_client_has_sent_as_its_address_hides_nothing_that_a_proxy_says() {
        let trusted = security(&[]).trusted_proxies;
        for (line, expected) in [
            (&b"\xff, 192.0.2.8"[..], Some("192.0.2.8")),
            (b"192.0.2.7, \xe9,192.0.2.8 , 127.0.0.1", Some("192.0.2.8")),
            (b"192.0.2.8, \xff", None),
            (b"\xff, 127.0.0.1", None),
        ] {
            let request = TestRequest::default()
                .peer_addr("127.0.0.1:1".parse().unwrap())
                .insert_header(("x-forwarded-for", HeaderValue::from_bytes(line).unwrap()))
                .to_http_request();
            assert_eq!(
                client_address(&request, &trusted),
                expected.map(|address| address.parse().unwrap()),
                "{line:?}"
            );
        }
    }
}
