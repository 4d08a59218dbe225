//! What tokens are for: the router as a protected resource (RFC 9728), each service of it, and what clients are told of
//! that. The canonical URI of a service is the URL at which clients reach it (RFC 8707, MCP 2025-11-25, Canonical Server URI).
//!
//! Every request with a token is judged here: URIs are brought into their canonical form when a token is checked, once, and
//! requests compare text.

use std::{borrow::Cow, cell::RefCell};

use actix_web::{HttpRequest, HttpResponse, http::header};
use ipnet::IpNet;
use serde_json::json;
use url::Url;

use crate::{
    http::forwarded,
    settings::{AuthSettings, Settings},
};

/// RFC 9728, section 3.
pub(in crate::http) const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// See the module's text.
#[derive(Debug)]
pub(super) struct Resource {
    /// Where clients reach the router, if it is said: origin and path.
    at: Option<(String, String)>,
    /// Path before all paths of the router itself.
    base_path: String,
    trusted: Vec<IpNet>,
    issuer: String,
    scopes: Vec<String>,
}

/// The router as the client of one request sees it, and what of it is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Audience<'a> {
    /// Without a slash at its end.
    origin: Cow<'a, str>,
    /// Path before all paths.
    path: Cow<'a, str>,
    /// Of the resource's path the first part: `mcp`, `sse`, or nothing for the whole router.
    transport: &'a str,
    service: Option<&'a str>,
}

impl Audience<'_> {
    /// A token for this [`canonical`] URI is for what is asked for: for the service by either of its URLs, or for the whole router.
    pub(super) fn is(&self, uri: &str) -> bool {
        let rest = uri.strip_prefix(&*self.origin).and_then(|rest| rest.strip_prefix(&*self.path));
        match (rest, self.service) {
            (Some("" | "/mcp" | "/sse"), None) | (Some(""), Some(_)) => true,
            (Some(rest), Some(service)) => {
                let of = rest.strip_prefix("/mcp/").or_else(|| rest.strip_prefix("/sse/"));
                of == Some(service)
            }
            _ => false,
        }
    }

    /// The URL of its metadata: the well-known path stands between host and path (RFC 9728, section 3.1).
    fn metadata(&self) -> String {
        format!("{}{WELL_KNOWN}{}{}", self.origin, self.path, rest_of(self.transport, self.service))
    }
}

/// Scheme and host in lower case, no default port, no slash at the end; `None`: no URI of a resource.
pub(super) fn canonical(uri: &str) -> Option<String> {
    let url = Url::parse(uri).ok()?;
    let is_plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    let origin = url.origin();
    (is_plain && origin.is_tuple())
        .then(|| format!("{}{}", origin.ascii_serialization(), url.path().trim_end_matches('/')))
}

/// `/mcp/{service}`, or nothing for the whole router.
fn rest_of(transport: &str, service: Option<&str>) -> String {
    match (transport, service) {
        ("", _) => String::new(),
        (transport, None) => format!("/{transport}"),
        (transport, Some(service)) => format!("/{transport}/{service}"),
    }
}

/// Which service a path of the router is about, and by which of its URLs.
fn asked_for(path: &str) -> (Option<&str>, &str) {
    let mut parts = path.split('/').skip(1);
    let parts = [(); 5].map(|()| parts.next().unwrap_or_default());
    match parts {
        ["mcp", "router", "route" | "tools", service, ..] => (Some(service), "mcp"),
        ["mcp", "router", "services", service, "instances"] => (Some(service), "mcp"),
        ["mcp", "router", ..] => (None, ""),
        ["mcp", "message", "", ..] => (None, "sse"),
        // The endpoint that the event stream names.
        ["mcp", service, "message", ..] => (Some(service), "sse"),
        [transport @ ("mcp" | "sse"), "", ..] => (None, transport),
        [transport @ ("mcp" | "sse"), service, ..] => (Some(service), transport),
        _ => (None, ""),
    }
}

/// What a request was sent to, and the canonical form of that.
#[derive(Default)]
struct LastOrigin {
    scheme: &'static str,
    host: String,
    origin: String,
}

thread_local! {
    static LAST_ORIGIN: RefCell<LastOrigin> = RefCell::default();
}

impl Resource {
    pub(super) fn new(issuer: &str, settings: &Settings) -> Self {
        let AuthSettings { resource, scopes, .. } = &settings.auth;
        let at = resource.as_deref().and_then(canonical).and_then(|uri| {
            let origin = Url::parse(&uri).ok()?.origin().ascii_serialization();
            let path = uri.strip_prefix(&origin)?.to_owned();
            Some((origin, path))
        });
        Self {
            at,
            base_path: settings.server.base_path.clone(),
            trusted: settings.security.trusted_proxies.clone(),
            issuer: issuer.to_owned(),
            scopes: scopes.clone(),
        }
    }

    /// What a token must be for with which this is asked.
    pub(super) fn audience<'a>(&'a self, request: &'a HttpRequest) -> Audience<'a> {
        let path = request.path().strip_prefix(&self.base_path).unwrap_or_default();
        let (service, transport) = asked_for(path);
        let (origin, path) = match &self.at {
            Some((origin, path)) => (Cow::from(origin), Cow::from(path)),
            None => {
                let path = forwarded::prefix(request, &self.trusted) + &self.base_path;
                (Cow::from(self.origin(request)), Cow::from(path))
            }
        };
        Audience { origin, path, transport, service }
    }

    /// As the client has written it; that the host is one of ours the guard has seen.
    fn origin(&self, request: &HttpRequest) -> String {
        let scheme = if forwarded::is_https(request, &self.trusted) { "https" } else { "http" };
        let host = forwarded::host(request, &self.trusted).unwrap_or_default();
        // Nearly always the one of before.
        LAST_ORIGIN.with_borrow_mut(|last| {
            if (last.scheme, last.host.as_str()) != (scheme, host) {
                let origin = canonical(&format!("{scheme}://{host}")).unwrap_or_default();
                *last = LastOrigin { scheme, host: host.to_owned(), origin };
            }
            last.origin.clone()
        })
    }

    /// `WWW-Authenticate` (RFC 6750, section 3; RFC 9728, section 5.1). `error`: what is wrong, in words of our own.
    pub(super) fn challenge(&self, audience: &Audience, error: Option<(&str, &str)>) -> String {
        self.challenge_for(audience, error, &[])
    }

    /// The same, with all scopes that are needed: those that are asked of all, and these.
    pub(super) fn challenge_for(&self, audience: &Audience, error: Option<(&str, &str)>, more: &[String]) -> String {
        let needed = self.scopes.iter().chain(more.iter().filter(|scope| !self.scopes.contains(scope)));
        let needed: Vec<&str> = needed.map(String::as_str).collect();
        let mut challenge = format!(r#"Bearer realm="mcp-router", resource_metadata="{}""#, audience.metadata());
        if !needed.is_empty() {
            challenge += &format!(r#", scope="{}""#, needed.join(" "));
        }
        if let Some((error, description)) = error {
            challenge += &format!(r#", error="{error}", error_description="{description}""#);
        }
        challenge
    }

    /// The metadata that were asked for; `None`: of nothing that is here. `is_service`: there is one of this name.
    pub(super) fn metadata(&self, request: &HttpRequest, is_service: impl Fn(&str) -> bool) -> Option<HttpResponse> {
        let tail = request.path().strip_prefix(WELL_KNOWN)?.trim_end_matches('/');
        let is_ours = |rest: &str| match asked_for(rest) {
            (Some(service), transport) => is_service(service) && rest_of(transport, Some(service)) == rest,
            (None, _) => ["/mcp", "/sse"].contains(&rest),
        };
        let (origin, (path, rest)) = match &self.at {
            Some((origin, path)) => {
                let rest = tail.strip_prefix(path.as_str()).filter(|rest| rest.is_empty() || is_ours(rest))?;
                (origin.clone(), (path.as_str(), rest))
            }
            None if tail == self.base_path => (self.origin(request), (tail, "")),
            // The prefix comes as the client sees it.
            None => {
                let mut split = tail.match_indices('/').map(|(at, _)| tail.split_at(at));
                (self.origin(request), split.find(|(_, rest)| is_ours(rest))?)
            }
        };
        if origin.is_empty() {
            return None;
        }
        let mut metadata = json!({
            "resource": format!("{origin}{path}{rest}"),
            "authorization_servers": [self.issuer],
            "bearer_methods_supported": ["header"],
        });
        if !self.scopes.is_empty() {
            metadata["scopes_supported"] = json!(self.scopes);
        }
        Some(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "max-age=300")).json(metadata))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn resource(pairs: &[(&str, &str)]) -> Resource {
        Resource::new("https://as.example", &Settings::from_pairs(pairs.iter().copied()).unwrap())
    }

    fn get(path: &str) -> TestRequest {
        TestRequest::with_uri(path).insert_header(("host", "Mcp.Example:80")).peer_addr("127.0.0.1:1".parse().unwrap())
    }

    #[test]
    fn a_token_is_for_a_service_by_either_of_its_urls_or_for_the_whole_router() {
        let router = resource(&[("MCP_AUTH_RESOURCE", "https://MCP.example:443/bridge/")]);
        for (path, uri, expected) in [
            ("/mcp/a", "https://mcp.example/bridge/mcp/a", true),
            ("/mcp/a", "https://MCP.Example:443/bridge/mcp/a/", true),
            ("/mcp/a", "https://mcp.example/bridge/sse/a", true),
            ("/mcp/a", "https://mcp.example/bridge", true),
            ("/mcp/a/message", "https://mcp.example/bridge/sse/a", true),
            ("/mcp/router/route/a", "https://mcp.example/bridge/mcp/a", true),
            ("/mcp/router/services", "https://mcp.example/bridge/", true),
            ("/mcp", "https://mcp.example/bridge/mcp", true),
            ("/mcp/a", "https://mcp.example/bridge/mcp/b", false),
            ("/mcp/a", "https://mcp.example/bridge/mcp", false),
            ("/mcp/a", "https://mcp.example", false),
            ("/mcp/a", "https://mcp.example/mcp/a", false),
            ("/mcp/a", "http://mcp.example/bridge/mcp/a", false),
            ("/mcp/a", "https://mcp.example.evil/bridge/mcp/a", false),
            ("/mcp/a", "https://mcp.example/bridge/mcp/a?x", false),
            ("/mcp/a", "https://x@mcp.example/bridge/mcp/a", false),
            ("/mcp/a", "mcp", false),
            ("/mcp", "https://mcp.example/bridge/mcp/a", false),
            ("/sse?serviceName=a", "https://mcp.example/bridge/mcp/b", false),
        ] {
            let request = get(path).to_http_request();
            let is_for_it = canonical(uri).is_some_and(|uri| router.audience(&request).is(&uri));
            assert_eq!(is_for_it, expected, "{path} {uri}");
        }
    }

    #[test]
    fn without_a_word_it_is_where_the_client_has_found_it() {
        let router = resource(&[("MCP_AUTH_SCOPES", "use"), ("MCP_ALLOWED_HOSTS", "mcp.example")]);
        let forwarded = get("/mcp/a")
            .insert_header(("x-forwarded-proto", "https"))
            .insert_header(("x-forwarded-host", "mcp.example"))
            .insert_header(("x-forwarded-prefix", "/bridge"))
            .to_http_request();
        let audience = router.audience(&forwarded);
        assert!(audience.is("https://mcp.example/bridge/mcp/a") && !audience.is("http://mcp.example/mcp/a"));
        let at = "https://mcp.example/.well-known/oauth-protected-resource/bridge/mcp/a";
        assert_eq!(
            router.challenge(&audience, None),
            format!(r#"Bearer realm="mcp-router", resource_metadata="{at}", scope="use""#)
        );
        assert!(router.audience(&get("/mcp/a").to_http_request()).is("http://mcp.example/mcp/a"));
        let other = get("/mcp/a").insert_header(("host", "other.example")).to_http_request();
        assert!(!router.audience(&other).is("http://mcp.example/mcp/a"), "it is not that of the request before");
        let metadata =
            |path: &str| router.metadata(&get(path).to_http_request(), |name| ["a", "mcp-b"].contains(&name)).is_some();
        for (path, expected) in [
            ("/.well-known/oauth-protected-resource", true),
            ("/.well-known/oauth-protected-resource/mcp/a", true),
            ("/.well-known/oauth-protected-resource/bridge/sse/a", true),
            ("/.well-known/oauth-protected-resource/mcp", true),
            ("/.well-known/oauth-protected-resource/mcp/mcp-b", true),
            ("/.well-known/oauth-protected-resource/mcp/b", false),
            ("/.well-known/oauth-protected-resource/mcp/a/message", false),
            ("/.well-known/oauth-protected-resource/elsewhere", false),
        ] {
            assert_eq!(metadata(path), expected, "{path}");
        }
    }
}
