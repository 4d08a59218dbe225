//! Who the client is and what prefix it sees, behind trusted proxies; and whether its Host and Origin may speak to us
//! (SEC-3).

use std::net::IpAddr;

use actix_web::{
    HttpRequest,
    http::header::{self, HeaderName},
};
use ipnet::IpNet;

use super::error::ApiError;
use crate::settings::SecuritySettings;

// Names that are looked for in every request are parsed once.
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The peer of the TCP connection is a trusted proxy.
pub fn from_trusted_proxy(request: &HttpRequest, trusted: &[IpNet]) -> bool {
    request.peer_addr().is_some_and(|peer| is_within(peer.ip(), trusted))
}

fn is_within(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// What a trusted proxy calls this request, `X-Request-ID`.
pub fn request_id<'r>(request: &'r HttpRequest, trusted: &[IpNet]) -> Option<&'r str> {
    let given = request.headers().get(&X_REQUEST_ID).filter(|_| from_trusted_proxy(request, trusted))?;
    given.to_str().ok().filter(|given| (1..=128).contains(&given.len()))
}

/// The client's address: the peer, or behind trusted proxies the last hop that is not one of them.
pub fn client_address(request: &HttpRequest, trusted: &[IpNet]) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip();
    if !is_within(peer, trusted) {
        return Some(peer);
    }
    let hops = request.headers().get_all("x-forwarded-for").filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = hops.flat_map(|value| value.split(',')).map(str::trim).collect();
    for hop in hops.iter().rev() {
        match hop.parse::<IpAddr>() {
            Ok(address) if is_within(address, trusted) => {}
            Ok(address) => return Some(address),
            // A hop that cannot be read is nobody we trust.
            Err(_) => return None,
        }
    }
    // Every hop is ours: the first one asked.
    hops.first().and_then(|hop| hop.parse().ok()).or(Some(peer))
}

/// `X-Forwarded-Prefix` of a trusted proxy, without a final slash; empty when there is none.
pub fn prefix(request: &HttpRequest, trusted: &[IpNet]) -> String {
    if !from_trusted_proxy(request, trusted) {
        return String::new();
    }
    let prefix = request.headers().get("x-forwarded-prefix").and_then(|value| value.to_str().ok()).unwrap_or("");
    let prefix = prefix.trim_end_matches('/');
    // It goes into the endpoint event: nothing that could end the line or name another origin.
    let sound = prefix.starts_with('/')
        && !prefix.starts_with("//")
        && prefix.len() <= 256
        && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._~-".contains(&byte));
    if sound { prefix.to_owned() } else { String::new() }
}

/// The client reached us by https, as a trusted proxy says.
pub fn is_https(request: &HttpRequest, trusted: &[IpNet]) -> bool {
    from_trusted_proxy(request, trusted)
        && request.headers().get("x-forwarded-proto").is_some_and(|value| value.as_bytes() == b"https")
}

/// Checks Host (as the client sent it) and Origin.
pub fn check_host_and_origin(request: &HttpRequest, security: &SecuritySettings) -> Result<(), ApiError> {
    let forwarded = request
        .headers()
        .get(&X_FORWARDED_HOST)
        .filter(|_| from_trusted_proxy(request, &security.trusted_proxies))
        .and_then(|value| value.to_str().ok());
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    for host in forwarded.iter().chain(host.iter()) {
        if !security.allowed_hosts.covers(without_port(host)) {
            return Err(ApiError::Host);
        }
    }
    if host.is_none() {
        return Err(ApiError::Host);
    }
    let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().map_err(|_| ApiError::Origin)?;
    let loopback = origin
        .split_once("://")
        .is_some_and(|(_, host)| matches!(without_port(host), "localhost" | "127.0.0.1" | "[::1]"));
    if loopback || security.allowed_origins.covers(origin) { Ok(()) } else { Err(ApiError::Origin) }
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
            let checked = check_host_and_origin(&request.to_http_request(), &security);
            assert_eq!(checked.is_ok(), allowed, "{host} {origin:?}");
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
}
